"""The torch side of the parity run, a process of its own: ``python -m parity.worker_torch gpu|cpu``."""

import sys
from collections.abc import Callable
from typing import Any

from . import protocol
from .contract.plan import Plan
from .contract.problem import Problem
from .protocol import Blob, Request


class Torch:
    """Runners "torchfused" (the fused kernels, taps on) and "eager" (the plain MLP, operation by operation)."""

    def __init__(self, device: str) -> None:
        import torch

        import torchfused.functional
        import torchfused.reference

        self.torch = torch
        self.fused, self.reference = torchfused.functional, torchfused.reference
        self.explain = torchfused.functional.explain
        self.device = torch.device({"gpu": "cuda", "cpu": "cpu"}[device])

    def hello(self) -> dict[str, Any]:
        from importlib.metadata import version

        torch = self.torch
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU, the run is for one")
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return {"device": name, "versions": {"torch": torch.__version__, "triton": version("triton")}}

    def put(self, name: str, blob: Blob) -> Any:
        dtype = getattr(self.torch, blob.dtype)
        data = bytearray(blob.read())
        host = self.torch.frombuffer(data, dtype=dtype) if data else self.torch.empty(0, dtype=dtype)
        return _transposed(name, host.reshape(blob.shape)).contiguous().to(self.device)

    def fetch(self, name: str, array: Any) -> tuple[bytes, str, tuple[int, ...]]:
        if array.device.type != self.device.type:
            raise RuntimeError(f"{name} is on {array.device}, must be on {self.device}")
        host = _transposed(name, array.detach().cpu()).contiguous()
        data = host.reshape(-1).view(self.torch.uint8).numpy().tobytes()
        return data, str(host.dtype).removeprefix("torch."), tuple(host.shape)

    def plan(self, arrays: dict[str, Any], problem: Problem, plan: Plan | None) -> Plan:
        options = {"activation": problem.activation, "precision": problem.precision, "plan": plan}
        return self.explain(**arrays, **options).plan

    @property
    def runners(self) -> dict[str, Callable[[Request, dict[str, Any]], dict[str, Any]]]:
        return {"torchfused": self._run_fused, "eager": self._run_reference}

    def _run_fused(self, request: Request, arrays: dict[str, Any]) -> dict[str, Any]:
        dy, options = arrays.pop("dy", None), request.options | {"plan": request.plan}
        with self.torch.no_grad():
            stages = self.fused.stages(**arrays, **options)
            if dy is not None:
                stages |= request.gradient_stages(self.fused.gradients(dy, **arrays, **options, save=request.save))
        return stages

    def _run_reference(self, request: Request, arrays: dict[str, Any]) -> dict[str, Any]:
        dy = arrays.pop("dy", None)
        with self.torch.no_grad():
            stages = self.reference.stages(**arrays, **request.options)
            if dy is not None:
                stages |= self.reference.gradients(dy, **arrays, **request.options)
        return stages


def _transposed(name: str, array: Any) -> Any:
    # The stimulus keeps weights as [in, out], torch as [out, in].
    return array.t() if name.startswith(("w_", "d_w_")) else array


if __name__ == "__main__":
    protocol.serve(lambda: Torch(sys.argv[1]))
