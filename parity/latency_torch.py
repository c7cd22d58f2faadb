"""The torch side of `parity latency`, a process of its own: ``python -m parity.latency_torch gpu|cpu``."""

import sys
from typing import Any

from .latency_worker import Program, serve
from .protocol import Request
from .worker_torch import Torch


class TimedTorch(Torch):
    def program(self, runner: str, request: Request, layers: int) -> Program:
        torch = self.torch
        arrays = {name: self.put(name, blob) for name, blob in request.arrays.items()}
        x = arrays.pop("x")
        # Rolled: other memory, the same numbers in another place.
        chain = [{name: w.roll(i, 0).contiguous() for name, w in arrays.items()} for i in range(layers)]

        def step() -> Any:
            y = x
            for layer in chain:
                if runner == "torchfused":
                    y = self.fused.fused_mlp(y, **layer, **request.options, plan=request.plan)
                else:
                    y = self.reference.mlp(y, **layer, **request.options)
            return y

        if self.device.type != "cuda":
            return Program(run=torch.no_grad()(step), wait=lambda _: None, layers=layers)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(side):
            for _ in range(3):  # libraries settle in before their work is captured
                step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            step()
        return Program(run=graph.replay, wait=lambda _: torch.cuda.synchronize(), layers=layers)


if __name__ == "__main__":
    serve(lambda: TimedTorch(sys.argv[1]))
