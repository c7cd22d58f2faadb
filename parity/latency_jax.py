"""The JAX side of `parity latency`, a process of its own: ``python -m parity.latency_jax gpu|cpu``."""

import sys
from typing import Any

from .latency_worker import Program, serve
from .protocol import Request
from .worker_jax import Jax


class TimedJax(Jax):
    def program(self, runner: str, request: Request, layers: int) -> Program:
        jax = self.jax
        arrays = {name: self.put(name, blob) for name, blob in request.arrays.items()}
        x = arrays.pop("x")
        # Rolled along the outer features, as torch's are: other memory, the same numbers in another place.
        chain = [{name: jax.numpy.roll(w, i, -1) for name, w in arrays.items()} for i in range(layers)]

        def step(x: Any, chain: list[dict[str, Any]]) -> Any:
            y = x
            for layer in chain:
                if runner == "jaxfused":
                    y = self.fused.fused_mlp(y, **layer, **request.options, plan=request.plan)
                else:
                    y = self.reference.mlp(y, **layer, **request.options)
            return y

        compiled = jax.jit(step)
        return Program(run=lambda: compiled(x, chain), wait=jax.block_until_ready, layers=layers)


if __name__ == "__main__":
    serve(lambda: TimedJax(sys.argv[1]))
