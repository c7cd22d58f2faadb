"""What a torch user would run: one small class each. To add one, write a class and put it into the roster.

A contender's ``build`` returns a function of (x, layer) that computes one MLP; layer weights are in nn.Linear's layout.
Every contender gets the same tensors; ``pack`` may lay them out anew once, outside the timed region.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchfused.reference import ACTIVATIONS

from .contenders_plans import our_plans
from .workloads import Case, workload

Layer = dict[str, Any]
Function = Callable[[Tensor, Layer], Tensor]


class Contender:
    """``graphed``: its device time is that of a CUDA graph's replay. ``heavy``: takes long to compile, so it runs on
    heavy cases only. ``fusion``: what is counted as device-memory traffic where no counter can be read ("none": every
    intermediate is written and read; "epilogue": only h; "full": nothing but x, the weights and y)."""

    name: str
    graphed = True
    heavy = False
    fusion = "none"

    def absent(self) -> str | None:
        """Why it cannot run here at all; None if it can."""
        return None

    def refuses(self, case: Case) -> str | None:
        """Why it does not serve this case; None if it does."""
        return None

    def variants(self, case: Case) -> list[tuple[str, Any]]:
        """(label, plan) of each way to run it; one, unnamed, for most."""
        return [("", None)]

    def build(self, case: Case, plan: Any) -> Function:
        raise NotImplementedError

    def pack(self, layer: Layer) -> Layer:
        return layer

    def unpack(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by the unpacked tensors' names."""
        return gradients

    def detail(self, case: Case, plan: Any, x: Tensor, layer: Layer) -> str:
        """What the label resolves to, where that is not plain."""
        return ""


def unfused(case: Case, compiler: Callable[[Any], Any] = lambda f: f) -> Function:
    """The MLP as everybody writes it. ``compiler`` sees plain tensors, not the layer's dictionary."""
    act = ACTIVATIONS[case.problem.activation]

    def plain(x: Tensor, w_up: Tensor, w_down: Tensor, b_up: Tensor | None, b_down: Tensor | None) -> Tensor:
        return F.linear(act(F.linear(x, w_up, b_up)), w_down, b_down)

    def gated(
        x: Tensor,
        w_up: Tensor,
        w_gate: Tensor,
        w_down: Tensor,
        b_up: Tensor | None,
        b_gate: Tensor | None,
        b_down: Tensor | None,
    ) -> Tensor:
        return F.linear(act(F.linear(x, w_gate, b_gate)) * F.linear(x, w_up, b_up), w_down, b_down)

    names = ("w_up", "w_gate", "w_down", "b_up", "b_gate", "b_down")
    if not case.problem.gated:
        names = tuple(n for n in names if not n.endswith("_gate"))
    f = compiler(gated if case.problem.gated else plain)
    return lambda x, w: f(x, *(w.get(n) for n in names))


class Eager(Contender):
    name = "torch.eager"
    graphed = False

    def build(self, case: Case, plan: Any) -> Function:
        return unfused(case)


class EagerGraph(Eager):
    name = "torch.eager_graph"
    graphed = True


class Packed(Contender):
    """Gate and up projections as one GEMM, packed beforehand."""

    name = "torch.packed_graph"

    def refuses(self, case: Case) -> str | None:
        return None if case.problem.gated else "packs gate and up: for gated MLPs"

    def pack(self, layer: Layer) -> Layer:
        packed = {k: v for k, v in layer.items() if not k.endswith(("_up", "_gate"))}
        packed["w_both"] = torch.cat([layer["w_gate"], layer["w_up"]]).detach()
        if "b_up" in layer:
            packed["b_both"] = torch.cat([layer["b_gate"], layer["b_up"]]).detach()
        return packed

    def unpack(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        out = dict(gradients)
        for kind in ("dw", "db"):
            if f"{kind}_both" in out:
                out[f"{kind}_gate"], out[f"{kind}_up"] = out.pop(f"{kind}_both").chunk(2)
        return out

    def build(self, case: Case, plan: Any) -> Function:
        act = ACTIVATIONS[case.problem.activation]

        def run(x: Tensor, w: Layer) -> Tensor:
            gate, up = F.linear(x, w["w_both"], w.get("b_both")).chunk(2, dim=-1)
            return F.linear(act(gate) * up, w["w_down"], w.get("b_down"))

        return run


@dataclass
class Compiled(Contender):
    """torch.compile of the unfused MLP, captured in a CUDA graph like the others."""

    name: str
    options: dict[str, Any]
    heavy: bool

    def refuses(self, case: Case) -> str | None:
        if "coordinate_descent_tuning" in self.options and case.m > 1:
            return "measured at one row, where it turns matmuls into reductions; elsewhere see max-autotune"
        return None

    def build(self, case: Case, plan: Any) -> Function:
        return unfused(case, lambda f: torch.compile(f, dynamic=False, fullgraph=True, options=dict(self.options)))


class AddmmActivation(Contender):
    """The vendor library's GELU epilogue, as torch exposes it."""

    name = "torch.addmm_activation"
    fusion = "epilogue"

    def refuses(self, case: Case) -> str | None:
        p = case.problem
        if p.gated or not p.bias_up or p.activation not in ("gelu_tanh", "relu"):
            return "needs a bias and tanh-GELU or ReLU"
        return "no backward pass" if case.mode != "forward" else None

    def build(self, case: Case, plan: Any) -> Function:
        gelu = case.problem.activation == "gelu_tanh"

        def run(x: Tensor, w: Layer) -> Tensor:
            h = torch.ops.aten._addmm_activation(w["b_up"], x, w["w_up"].t(), use_gelu=gelu)
            return F.linear(h, w["w_down"], w.get("b_down"))

        return run


class Ours(Contender):
    """torchfused: the automatic choice, then every strategy and backend forced."""

    name = "torchfused"
    fusion = "epilogue"

    def absent(self) -> str | None:
        try:
            importlib.import_module("torchfused")
        except Exception as error:
            return f"cannot import torchfused: {' '.join(str(error).split())[:200]}"
        return None

    def variants(self, case: Case) -> list[tuple[str, Any]]:
        return our_plans(case.mode, case.m)

    def build(self, case: Case, plan: Any) -> Function:
        fused_mlp = importlib.import_module("torchfused").fused_mlp
        act = workload(case.workload).activation

        def run(x: Tensor, w: Layer) -> Tensor:
            return fused_mlp(
                x,
                w["w_up"],
                w["w_down"],
                w_gate=w.get("w_gate"),
                b_up=w.get("b_up"),
                b_gate=w.get("b_gate"),
                b_down=w.get("b_down"),
                activation=act,
                **plan,
            )

        return run

    def detail(self, case: Case, plan: Any, x: Tensor, layer: Layer) -> str:
        explain = importlib.import_module("torchfused").explain
        names = ("w_gate", "b_up", "b_gate", "b_down")
        rest = {n: layer.get(n) for n in names}
        act = case.problem.activation
        return str(explain(x, layer["w_up"], layer["w_down"], **rest, activation=act, **plan).plan)
