"""The torch side of ``parity vendor``, a process of its own: ``python -m parity.vendor_torch gpu|cpu``."""

import math
import sys
from typing import Any

from . import protocol
from .contract.choice import choose
from .contract.plan import Plan
from .contract.problem import Problem
from .protocol import digest
from .vendor_worker import MEAN, MIXES, STRIDE, Layer, Mlp, answered, cuts, digest_of, read, seed
from .worker_torch import Torch

# The most chains that are tried.
MOST = 16
SCALE = 16.0


class VendorTorch(Torch):
    """Knows eager's answers, and torchfused's."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        import torchfused.device
        import torchfused.launch

        self.launch = torchfused.launch
        # With an index, as tensors have it.
        self.found = torchfused.device.device_of(self.torch.empty(0, device=self.device))

    def reply(self, line: str) -> dict[str, Any]:
        asked = read(line)
        with self.torch.no_grad():
            return answered(self.mlp, asked) if isinstance(asked, Mlp) else answered(self.layer, asked)

    def hello(self) -> dict[str, Any]:
        return super().hello() | {"vendor": f"torch {self.torch.__version__}"}

    def layer(self, layer: Layer) -> dict[str, Any]:
        return {"rows": [self._recovered(layer, m) for m in layer.rows]}

    def _recovered(self, layer: Layer, m: int) -> dict[str, Any]:
        """How many chains of the contract's give every bit of F.linear.

        Each product's terms come twice, with both signs, the second time in another order: what is left is the
        roundings of the sum, and no other order leaves the same. A bias is what takes away the last term, which comes
        once: a product that adds it elsewhere than to the whole sum, or rounds that before, leaves something else.
        """
        torch = self.torch
        dtype, half = getattr(torch, layer.dtype), (layer.inner - layer.bias) // 2
        generator = torch.Generator(self.device).manual_seed(m)

        def normal(*shape: int) -> Any:
            return (SCALE * torch.randn(shape, device=self.device, generator=generator)).to(dtype)

        order = torch.randperm(half, device=self.device, generator=generator)
        a, b = normal(m, half), normal(layer.outer, half)
        x, w = (t.new_zeros(len(t), layer.inner) for t in (a, b))
        x[:, : 2 * half], w[:, : 2 * half] = torch.cat([a, a[:, order]], 1), torch.cat([b, -b[:, order]], 1)
        bias = normal(layer.outer) if layer.bias else None
        if bias is not None:
            # (Of powers of two: the product is exact.)
            x[:, -1], w[:, -1] = SCALE, -bias / SCALE
        y = self.reference.stages(x, w, w.new_ones(1, len(w)), b_up=bias, activation="identity")["s"]
        found: dict[str, Any] = {"m": m, "chains": None, "equal": {}}
        tried: list[list[tuple[int, int]]] = []
        for chains in range(1, MOST + 1):
            ranges = cuts(layer.inner, chains)
            if ranges in tried:
                continue
            tried.append(ranges)
            total = self._sum(x, w, ranges, layer.dtype)
            equal = int(((total if bias is None else total + bias).to(dtype) == y).sum()) / y.numel()
            found["equal"][chains] = equal
            if equal == 1.0:
                return found | {"chains": chains}
        return found

    def _sum(self, x: Any, w: Any, ranges: list[tuple[int, int]], dtype: str) -> Any:
        """The product in float32: our kernel's over each of the ranges, added as they come."""
        total = None
        for start, stop in ranges:
            problem = Problem(
                m=len(x), in_features=stop - start, hidden_features=len(w), out_features=16, dtype=dtype,
                activation="identity",
            )  # fmt: skip
            plan = choose(problem, self.found, Plan()).plan
            part = self.launch.tiled_hidden(
                plan, self.found, x[:, start:stop], w[:, start:stop], w_gate=None, b_up=None, b_gate=None,
                activation="identity", precision="ieee", taps=self.torch.float32,
            )["s"]  # fmt: skip
            total = part if total is None else total + part
        return total

    def mlp(self, mlp: Mlp) -> dict[str, Any]:
        """The hashes of y, by both runners; where they differ, in how many elements of each stage, and the first."""
        arrays = {name: self._drawn(mlp, name) for name in mlp.operands}
        y = self.reference.mlp(**arrays, **mlp.options)
        fused = self.fused.fused_mlp(**arrays, **mlp.options, plan=mlp.plan)
        found: dict[str, Any] = {
            name: digest(self.fetch("y", t)[0]) for name, t in (("eager", y), ("torchfused", fused))
        }
        found["operands"] = digest_of({name: self.fetch(name, t)[0] for name, t in arrays.items()})
        found |= {"total": y.numel(), "differ": {"y": self._apart(y, fused)[0]}, "at": {}}
        if found["differ"]["y"]:
            eager = self.reference.stages(**arrays, **mlp.options)
            taps = self.fused.stages(**arrays, **mlp.options, plan=mlp.plan)
            for stage, tap in eager.items():
                found["differ"][stage], found["at"][stage] = self._apart(tap, taps[stage].to(tap.dtype))
        return found

    def _apart(self, one: Any, two: Any) -> tuple[int, list[int]]:
        """How many elements have other bits (NaN is NaN), and where the first of them is."""
        bits = {2: self.torch.int16, 4: self.torch.int32}[one.element_size()]
        apart = (one.view(bits) != two.view(bits)) & ~(one.isnan() & two.isnan())
        count = int(apart.sum())
        return count, [int(i) for i in apart.nonzero()[0]] if count else []

    def _drawn(self, mlp: Mlp, name: str) -> Any:
        torch, shape = self.torch, mlp.operands[name]
        # Only the low 32 bits count: a product that wraps has the same.
        mask = 0xFFFFFFFF
        h = (torch.arange(math.prod(shape), device=self.device) * STRIDE + seed(name)) & mask
        for shift, factor in MIXES:
            h = ((h ^ (h >> shift)) * factor) & mask
        h ^= h >> 16
        total = (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24) - MEAN
        drawn = torch.ldexp(total.to(torch.float32), torch.tensor(mlp.exponent(name), device=self.device))
        drawn = drawn.to(getattr(torch, mlp.problem.dtype)).reshape(shape)
        return drawn.t().contiguous() if name.startswith("w_") else drawn


if __name__ == "__main__":
    protocol.serve(lambda: VendorTorch(sys.argv[1]), lambda worker, line: worker.reply(line))
