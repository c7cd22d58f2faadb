"""The unfused MLP in plain torch: the ``library`` plan, the baseline of the bench, and a yardstick of parity."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.contract.activations import check_activation

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": lambda s: F.relu(s).square(),
    "gelu": F.gelu,
    "gelu_tanh": lambda s: F.gelu(s, approximate="tanh"),
    "quick_gelu": lambda s: s * torch.sigmoid(1.702 * s),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "identity": lambda s: s,
}

# (activation, s, u) -> act(s) * u.
Gating = Callable[[str, Tensor, Tensor], Tensor]


def eager_gating(activation: str, s: Tensor, u: Tensor) -> Tensor:
    """By torch's operations."""
    return ACTIVATIONS[activation](s) * u


def mlp(
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    *,
    w_gate: Tensor | None = None,
    b_up: Tensor | None = None,
    b_gate: Tensor | None = None,
    b_down: Tensor | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
    gating: Gating = eager_gating,
) -> Tensor:
    """``y`` as ``fused_mlp`` gives it, by ``F.linear`` and the activations of torch. Differentiable."""
    return stages(
        x, w_up, w_down, w_gate=w_gate, b_up=b_up, b_gate=b_gate, b_down=b_down,
        activation=activation, precision=precision, gating=gating,
    )["y"]  # fmt: skip


def gradients(
    dy: Tensor,
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    *,
    w_gate: Tensor | None = None,
    b_up: Tensor | None = None,
    b_gate: Tensor | None = None,
    b_down: Tensor | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
) -> dict[str, Tensor]:
    """The gradients of ``mlp`` by autograd for the upstream ``dy``: "d_<operand>" for each operand given."""
    given = {"x": x, "w_up": w_up, "w_down": w_down, "w_gate": w_gate, "b_up": b_up, "b_gate": b_gate, "b_down": b_down}
    leaves = {name: t.detach().requires_grad_() for name, t in given.items() if t is not None}
    with torch.enable_grad(), _matmul_precision(x, precision):
        y = mlp(**leaves, activation=activation, precision=precision)
        found = torch.autograd.grad(y, list(leaves.values()), dy)
    return {f"d_{name}": gradient for name, gradient in zip(leaves, found, strict=True)}


def stages(
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    *,
    w_gate: Tensor | None = None,
    b_up: Tensor | None = None,
    b_gate: Tensor | None = None,
    b_down: Tensor | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
    gating: Gating = eager_gating,
) -> dict[str, Tensor]:
    """Every intermediate of ``mlp``: "s" (the activation's argument), "u" (the other factor, when gated), "h", "y".
    ``gating`` may put h where u was."""
    check_activation(activation)
    # Autocast would give another type than was asked for; fused_mlp has cast its operands already.
    with torch.autocast(x.device.type, enabled=False), _matmul_precision(x, precision):
        u = F.linear(x, w_up, b_up)
        if w_gate is None:
            taps = {"s": u}
            h = ACTIVATIONS[activation](u)
        else:
            s = F.linear(x, w_gate, b_gate)
            taps = {"s": s, "u": u}
            h = gating(activation, s, u)
        return taps | {"h": h, "y": F.linear(h, w_down, b_down)}


@contextmanager
def _matmul_precision(x: Tensor, precision: str) -> Iterator[None]:
    """float32 GEMMs on CUDA as asked for, whatever the process' own setting is."""
    if not x.is_cuda or x.dtype is not torch.float32:
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
