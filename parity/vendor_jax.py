"""The JAX side of ``parity vendor``, a process of its own: ``python -m parity.vendor_jax gpu|cpu``."""

import math
import sys
from typing import Any

from . import protocol
from .protocol import digest
from .vendor_worker import MEAN, MIXES, STRIDE, Mlp, answered, digest_of, read, seed
from .worker_jax import Jax


class VendorJax(Jax):
    """Knows jaxfused's answers."""

    def reply(self, line: str) -> dict[str, Any]:
        return answered(self.mlp, read(line))

    def mlp(self, mlp: Mlp) -> dict[str, Any]:
        """The hash of y."""
        arrays = {name: self._drawn(mlp, name) for name in mlp.operands}
        y = self.fused.fused_mlp(**arrays, **mlp.options, plan=mlp.plan)
        operands = digest_of({name: self.fetch(name, array)[0] for name, array in arrays.items()})
        return {"operands": operands, "jaxfused": digest(self.fetch("y", y)[0])}

    def _drawn(self, mlp: Mlp, name: str) -> Any:
        jnp, shape = self.jax.numpy, mlp.operands[name]

        @self.jax.jit
        def draw(first: Any) -> Any:
            h = jnp.arange(math.prod(shape), dtype=jnp.uint32) * jnp.uint32(STRIDE) + first
            for shift, factor in MIXES:
                h = (h ^ (h >> shift)) * jnp.uint32(factor)
            h ^= h >> 16
            total = ((h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24)).astype(jnp.int32) - MEAN
            drawn = total.astype(jnp.float32) * jnp.float32(2.0 ** mlp.exponent(name))
            return drawn.astype(mlp.problem.dtype).reshape(shape)

        # (An argument, so that nothing is there for a compiler to work out beforehand.)
        return draw(jnp.uint32(seed(name)))


if __name__ == "__main__":
    protocol.serve(lambda: VendorJax(sys.argv[1]), lambda worker, line: worker.reply(line))
