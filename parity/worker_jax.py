"""The JAX side of the parity run, a process of its own: ``python -m parity.worker_jax gpu|cpu``."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from . import protocol
from .contract.plan import Plan
from .contract.problem import Problem
from .protocol import Blob, Request

# XLA as it comes, whatever process.py asks for on behalf of interpreted kernels.
AS_IT_COMES = {"xla_cpu_use_fusion_emitters": True}


class Jax:
    """Runners "jaxfused" (the fused kernels, taps on) and "xla" (the plain MLP under jit)."""

    def __init__(self, device: str) -> None:
        import jax
        import numpy as np

        import jaxfused.functional
        import jaxfused.reference

        from .rounding import NUMPY_DTYPES

        self.jax, self.np, self.dtypes = jax, np, NUMPY_DTYPES
        self.fused, self.reference = jaxfused.functional, jaxfused.reference
        self.explain = jaxfused.functional.explain
        self.platform = device
        self.device = jax.devices()[0]

    def hello(self) -> dict[str, Any]:
        from importlib.metadata import version

        if self.device.platform != self.platform:
            raise RuntimeError(f"jax runs on {self.device.platform}, the run is for {self.platform}")
        versions = {name: version(name) for name in ("jax", "jaxlib", "flax")}
        return {"device": self.device.device_kind, "versions": versions}

    def put(self, name: str, blob: Blob) -> Any:
        host = self.np.frombuffer(blob.read(), self.dtypes[blob.dtype]).reshape(blob.shape)
        return self.jax.device_put(host, self.device)

    def fetch(self, name: str, array: Any) -> tuple[bytes, str, tuple[int, ...]]:
        if self.device not in array.devices():
            raise RuntimeError(f"{name} is on {array.devices()}, must be on {self.device}")
        host = self.np.asarray(array)
        return host.tobytes(), host.dtype.name, host.shape

    def plan(self, arrays: dict[str, Any], problem: Problem, plan: Plan | None) -> Plan:
        options = {"activation": problem.activation, "precision": problem.precision, "plan": plan}
        return self.explain(**arrays, **options).plan

    @property
    def runners(self) -> dict[str, Callable[[Request, dict[str, Any]], dict[str, Any]]]:
        return {"jaxfused": self._run_fused, "xla": self._run_reference}

    def _run_fused(self, request: Request, arrays: dict[str, Any]) -> dict[str, Any]:
        dy, options = arrays.pop("dy", None), request.options | {"plan": request.plan}
        with self._quickly():
            stages = self.fused.stages(**arrays, **options)
            if dy is not None:
                stages |= request.gradient_stages(self.fused.gradients(dy, **arrays, **options, save=request.save))
        return stages

    def _run_reference(self, request: Request, arrays: dict[str, Any]) -> dict[str, Any]:
        dy, options = arrays.pop("dy", None), request.options
        jit = partial(self.jax.jit, compiler_options=AS_IT_COMES if self.platform == "cpu" else None)
        stages = jit(partial(self.reference.stages, **options))(**arrays)
        if dy is not None:
            stages |= jit(partial(self.reference.gradients, **options))(dy, **arrays)
        return stages

    @contextmanager
    def _quickly(self) -> Iterator[None]:
        """Interpreted kernels are compiled without optimisation: that takes half the time, and they run but once."""
        option = "jax_disable_most_optimizations"
        self.jax.config.update(option, self.platform == "cpu")
        try:
            yield
        finally:
            self.jax.config.update(option, False)


if __name__ == "__main__":
    protocol.serve(lambda: Jax(sys.argv[1]))
