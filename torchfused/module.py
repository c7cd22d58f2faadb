"""FusedMLP, the torch module. The only room that knows how weights are held."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parity.contract.activations import check_activation
from parity.contract.dtypes import check_precision
from parity.contract.errors import UnsupportedError
from parity.contract.explanation import Explanation
from parity.contract.plan import Plan, check_plan
from parity.contract.saved import check_save

from . import functional


class FusedMLP(nn.Module):
    """Linear, activation, Linear (``gated``: activation of one Linear times another) as fused kernels.

    Children ``up_proj``, ``down_proj`` and, when gated, ``gate_proj`` are nn.Linear, so checkpoints with these names
    load as they are. Set a child's ``bias`` to None to go without that one. ``out_features`` defaults to
    ``in_features``. ``precision`` is "ieee" or, for float32, "tf32"; ``save`` (what a fused plan keeps for the
    backward) is "preact", "hidden" or "recompute", ``plan`` forces how it runs, see fused_mlp.

    Raises ValueError for an unknown activation, precision, save or plan, UnsupportedError when a child is no longer a
    plain nn.Linear or has hooks: its weights are read, it is never called.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        *,
        activation: str = "gelu_tanh",
        gated: bool = False,
        bias: bool = True,
        precision: str = "ieee",
        save: str = "preact",
        plan: Plan | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_activation(activation)
        check_precision(precision)
        check_save(save)
        self.activation = activation
        self.gated = gated
        self.precision = precision
        self.save = save
        self.plan = check_plan(plan)
        out_features = in_features if out_features is None else out_features
        self.up_proj = nn.Linear(in_features, hidden_features, bias=bias, device=device, dtype=dtype)
        if gated:
            self.gate_proj = nn.Linear(in_features, hidden_features, bias=bias, device=device, dtype=dtype)
        self.down_proj = nn.Linear(hidden_features, out_features, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "*b k"]) -> Float[Tensor, "*b n"]:
        return functional.fused_mlp(x, **self._arguments())

    def explain(self, x: Float[Tensor, "*b k"]) -> Explanation:
        """What ``self(x)`` would run, and why."""
        return functional.explain(x, **self._arguments())

    def extra_repr(self) -> str:
        text = f"activation={self.activation!r}, gated={self.gated}, precision={self.precision!r}, save={self.save!r}"
        return text if self.plan is None else f"{text}, plan={self.plan}"

    def _arguments(self) -> dict:
        up, down = _plain("up_proj", self.up_proj), _plain("down_proj", self.down_proj)
        gate = _plain("gate_proj", self.gate_proj) if self.gated else None
        return {
            "w_up": up.weight,
            "b_up": up.bias,
            "w_gate": gate and gate.weight,
            "b_gate": gate and gate.bias,
            "w_down": down.weight,
            "b_down": down.bias,
            "activation": self.activation,
            "precision": self.precision,
            "save": self.save,
            "plan": self.plan,
        }


def _plain(name: str, child: nn.Module) -> nn.Linear:
    # A wrapped child (LoRA, quantisation) or a hook would be passed over in silence.
    registries = (child._forward_hooks, child._forward_pre_hooks, child._backward_hooks, child._backward_pre_hooks)
    if type(child) is not nn.Linear or any(registries):
        hooks = sum(len(registry) for registry in registries)
        raise UnsupportedError(
            f"{name} is {type(child).__name__} with {hooks} hooks: a fused MLP reads a plain nn.Linear's "
            "weights and never calls it; merge the adapter into the weights or use torchfused.reference.mlp"
        )
    return child
