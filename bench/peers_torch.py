"""Other packages' fused MLPs, where they can be installed; absent ones are listed as absent, never guessed."""

import importlib
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .contenders_torch import Contender, Function, Layer
from .workloads import Case


class Imported(Contender):
    """A contender of another package; ``module`` must be importable and a GPU present."""

    module: str

    def absent(self) -> str | None:
        if not torch.cuda.is_available():
            return "needs a GPU"
        try:
            importlib.import_module(self.module)
        except Exception as error:
            return f"cannot import {self.module}: {' '.join(str(error).split())[:200]}"
        return None


class Liger(Imported):
    """LigerSwiGLUMLP and LigerGEGLUMLP: three GEMMs and one kernel for act(gate) * up."""

    name = "liger"
    module = "liger_kernel.ops"

    def refuses(self, case: Case) -> str | None:
        p = case.problem
        served = p.gated and not p.bias_up and p.activation in ("silu", "gelu_tanh")
        return None if served else "serves gated SiLU and tanh-GELU without biases"

    def build(self, case: Case, plan: Any) -> Function:
        ops = importlib.import_module(self.module)
        mul = (ops.LigerSiLUMulFunction if case.problem.activation == "silu" else ops.LigerGELUMulFunction).apply

        def run(x: Tensor, w: Layer) -> Tensor:
            return F.linear(mul(F.linear(x, w["w_gate"]), F.linear(x, w["w_up"])), w["w_down"])

        return run


class Quack(Imported):
    """quack's mlp_func, autotuned; gate and up interleaved row by row beforehand, as its MLP keeps them."""

    name = "quack"
    module = "quack.mlp"
    fusion = "epilogue"
    heavy = True
    names: ClassVar = {"gelu_tanh": "gelu_tanh_approx", "relu": "relu", "relu2": "relu_sq"}
    gated_names: ClassVar = {"silu": "swiglu", "gelu_tanh": "geglu"}

    def refuses(self, case: Case) -> str | None:
        p = case.problem
        if p.dtype == "float32" or p.activation not in (self.gated_names if p.gated else self.names):
            return "serves 16-bit types and its own list of activations"
        return "falls back to eager for biases in training" if p.bias_up and case.mode != "forward" else None

    def pack(self, layer: Layer) -> Layer:
        if "w_gate" not in layer:
            return layer
        both = torch.stack([layer["w_gate"], layer["w_up"]], dim=1).flatten(0, 1).detach()
        return {"x": layer["x"], "g": layer["g"], "w_both": both, "w_down": layer["w_down"]}

    def unpack(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        out = dict(gradients)
        if "dw_both" in out:
            out["dw_gate"], out["dw_up"] = out.pop("dw_both").unflatten(0, (-1, 2)).unbind(1)
        return out

    def build(self, case: Case, plan: Any) -> Function:
        mlp = importlib.import_module(self.module).mlp_func
        p = case.problem
        act = (self.gated_names if p.gated else self.names)[p.activation]

        def run(x: Tensor, w: Layer) -> Tensor:
            up = w.get("w_both", w.get("w_up"))
            return mlp(x, up, w["w_down"], activation=act, bias1=w.get("b_up"), bias2=w.get("b_down"))

        return run


class Xformers(Imported):
    name = "xformers"
    module = "xformers.ops"

    def refuses(self, case: Case) -> str | None:
        return None if case.problem.gated and case.problem.activation == "silu" else "serves SwiGLU"

    def build(self, case: Case, plan: Any) -> Function:
        swiglu = importlib.import_module(self.module).swiglu

        def run(x: Tensor, w: Layer) -> Tensor:
            bias = w.get("b_gate"), w.get("b_up"), w.get("b_down")
            return swiglu(x, w["w_gate"], bias[0], w["w_up"], bias[1], w["w_down"], bias[2])

        return run


class FlashAttention(Imported):
    name = "flash_attn"
    module = "flash_attn.ops.fused_dense"
    fusion = "epilogue"

    def refuses(self, case: Case) -> str | None:
        p = case.problem
        served = not p.gated and p.bias_up and p.activation in ("gelu_tanh", "relu") and p.dtype != "float32"
        return None if served else "serves 16-bit tanh-GELU and ReLU with biases"

    def build(self, case: Case, plan: Any) -> Function:
        mlp = importlib.import_module(self.module).fused_mlp_func
        act = "gelu_approx" if case.problem.activation == "gelu_tanh" else "relu"

        def run(x: Tensor, w: Layer) -> Tensor:
            return mlp(x, w["w_up"], w["w_down"], w["b_up"], w["b_down"], activation=act)

        return run


class TransformerEngine(Imported):
    """Its operation fuser: Linear, activation, Linear, with the case's own weights put in."""

    name = "transformer_engine"
    module = "transformer_engine.pytorch"

    def refuses(self, case: Case) -> str | None:
        p = case.problem
        if p.gated or p.activation not in ("gelu_tanh", "relu"):
            return "measured for plain GELU and ReLU only: its gated operations want packed weights"
        return "its modules own their weights" if case.mode != "forward" else None

    def pack(self, layer: Layer) -> Layer:
        ops = importlib.import_module("transformer_engine.pytorch.ops")

        def linear(weight: Tensor, bias: Tensor | None) -> Any:
            made = ops.Linear(
                weight.shape[1],
                weight.shape[0],
                bias=bias is not None,
                device=weight.device,
                dtype=weight.dtype,
            )
            with torch.no_grad():
                made.weight.copy_(weight)
                if bias is not None:
                    made.bias.copy_(bias)
            return made

        act = ops.ReLU() if layer["activation"] == "relu" else ops.GELU()
        up, down = linear(layer["w_up"], layer.get("b_up")), linear(layer["w_down"], layer.get("b_down"))
        return {"x": layer["x"], "g": layer["g"], "module": ops.Sequential(up, act, down)}

    def build(self, case: Case, plan: Any) -> Function:
        return lambda x, w: w["module"](x)
