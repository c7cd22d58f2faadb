"""The fused plan with its backward: two opaque operators, so that autograd, torch.compile and torch.export see one node
each and no compiler touches the kernels."""

from typing import Any

import torch
from torch import Tensor

from parity.contract.errors import UnsupportedError
from parity.contract.plan import Plan
from parity.contract.request import NAMES
from parity.contract.saved import saved_names

from . import launch
from .device import device_of

_TWICE = (
    "the fused backward has no derivative of its own (create_graph=True, a second derivative); "
    'use plan=Plan(strategy="library"), which is differentiable as often as you like'
)


def mlp(
    plan: str,
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    *,
    w_gate: Tensor | None,
    b_up: Tensor | None,
    b_gate: Tensor | None,
    b_down: Tensor | None,
    activation: str,
    precision: str,
    save: str,
) -> Tensor:
    """``y`` of ``launch.forward`` for x ``[m, k]``, differentiable once. ``plan``: from ``Plan.to_json``; ``save``:
    what is kept for the backward, if there will be one."""
    kept = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, w_up, w_down, w_gate, b_up, b_gate, b_down)
    )
    return torch.ops.torchfused.mlp_fwd(
        x,
        w_up,
        w_down,
        w_gate,
        b_up,
        b_gate,
        b_down,
        activation,
        precision,
        plan,
        save if kept else "recompute",
    )[0]


@torch.library.custom_op("torchfused::mlp_fwd", mutates_args=())
def _forward(
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    w_gate: Tensor | None,
    b_up: Tensor | None,
    b_gate: Tensor | None,
    b_down: Tensor | None,
    activation: str,
    precision: str,
    plan: str,
    save: str,
) -> list[Tensor]:
    """y, and what ``saved_names`` says."""
    names = saved_names(save, w_gate is not None)
    found = launch.forward(
        Plan.from_json(plan), device_of(x), x, w_up, w_down, w_gate=w_gate, b_up=b_up, b_gate=b_gate, b_down=b_down,
        activation=activation, precision=precision, taps=x.dtype if names else None,
    )  # fmt: skip
    return [found[name] for name in ("y", *names)]


@_forward.register_fake
def _(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, save):
    kept = [x.new_empty(x.shape[0], w_up.shape[0]) for _ in saved_names(save, w_gate is not None)]
    return [x.new_empty(x.shape[0], w_down.shape[0]), *kept]


@torch.library.custom_op("torchfused::mlp_bwd", mutates_args=())
def _backward(
    dy: Tensor,
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    w_gate: Tensor | None,
    b_up: Tensor | None,
    b_gate: Tensor | None,
    saved: list[Tensor],
    needs: str,
    activation: str,
    precision: str,
    plan: str,
    save: str,
) -> list[Tensor]:
    """The gradients of the operands that ``needs`` names, in its order."""
    names, device, chosen = needs.split(), device_of(x), Plan.from_json(plan)
    kept = dict(zip(saved_names(save, w_gate is not None), saved, strict=True))
    if not kept:
        kept = launch.tiled_hidden(
            chosen, device, x, w_up, w_gate=w_gate, b_up=b_up, b_gate=b_gate,
            activation=activation, precision=precision, taps=x.dtype,
        )  # fmt: skip
    found = launch.tiled_backward(
        chosen, device, dy, x, w_up, w_down, w_gate=w_gate, saved=kept, needs=names,
        activation=activation, precision=precision,
    )  # fmt: skip
    return [found[f"d_{name}"] for name in names]


@_backward.register_fake
def _(dy, x, w_up, w_down, w_gate, b_up, b_gate, saved, needs, activation, precision, plan, save):
    shapes = {"x": x.shape, "w_up": w_up.shape, "w_down": w_down.shape, "w_gate": w_up.shape}
    shapes |= {"b_up": w_up.shape[:1], "b_gate": w_up.shape[:1], "b_down": w_down.shape[:1]}
    return [x.new_empty(shapes[name]) for name in needs.split()]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *operands, activation, precision, plan, save = inputs
    ctx.options = activation, precision, plan, save
    # What b_down holds is not needed again.
    ctx.save_for_backward(*operands[:-1], *output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    x, w_up, w_down, w_gate, b_up, b_gate, *saved = ctx.saved_tensors
    needs = [name for name, needed in zip(NAMES, ctx.needs_input_grad, strict=False) if needed]
    dy, rest = gradients[0], (None,) * len(ctx.options)
    if dy is None or not needs:
        return (*(None for _ in NAMES), *rest)
    found = torch.ops.torchfused.mlp_bwd(
        dy, x, w_up, w_down, w_gate, b_up, b_gate, saved, " ".join(needs), *ctx.options
    )
    given = dict(zip(needs, found, strict=True))
    return (*(given.get(name) for name in NAMES), *rest)


def _refuse(ctx: Any, *gradients: Any) -> Any:
    raise UnsupportedError(_TWICE)


_forward.register_autograd(_differentiate, setup_context=_keep)
_backward.register_autograd(_refuse)
