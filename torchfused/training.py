"""The fused plan with its backward, in opaque operators, so that no compiler touches the kernels: one for the forward
pass, and one for each launch of the backward, between which what is no longer needed is freed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parity.contract.errors import UnsupportedError
from parity.contract.plan import Backend, Plan
from parity.contract.problem import Device
from parity.contract.request import NAMES
from parity.contract.saved import saved_names
from parity.contract.vendor import Order

from . import launch
from .device import device_of

# Elements of the hidden layer that are computed again at a time: a GPU is busy with them. So many rows are a tile's.
_PART, _TILE = 2**24, 128
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


@torch.library.custom_op("torchfused::hidden_again", mutates_args=())
def _hidden_again(
    dy: Tensor,
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    w_gate: Tensor | None,
    b_up: Tensor | None,
    b_gate: Tensor | None,
    wanted: str,
    activation: str,
    precision: str,
    plan: str,
) -> list[Tensor]:
    """What is ``wanted`` of d_s, d_u and h, from the operands alone: of some rows after the other, so that s and u of
    many are never there at once."""
    chosen, device, names = Plan.from_json(plan), device_of(x), wanted.split()
    how, slopes = launch.options_of(chosen, activation, precision), "d_s" in names
    rows = max(_PART // max(w_up.shape[0], 1) // _TILE, 1) * _TILE

    def made(x: Tensor, dy: Tensor) -> list[Tensor]:
        found = launch.tiled_hidden(
            chosen, device, x, w_up, w_gate=w_gate, b_up=b_up, b_gate=b_gate,
            activation=activation, precision=precision, taps=x.dtype if slopes else None,
        )  # fmt: skip
        if slopes:
            found |= launch.TILED[chosen.backend].hidden_bwd(device, dy, w_down, found, **how)
        return [found[name] for name in names]

    if x.shape[0] <= rows:
        return made(x, dy)
    out = [x.new_empty(x.shape[0], w_up.shape[0]) for _ in names]

    def fill(part: slice) -> None:
        for whole, t in zip(out, made(x[part], dy[part]), strict=True):
            whole[part] = t

    for first in range(0, x.shape[0], rows):
        fill(slice(first, first + rows))
    return out


@_hidden_again.register_fake
def _(dy, x, w_up, w_down, w_gate, b_up, b_gate, wanted, activation, precision, plan):
    return [x.new_empty(x.shape[0], w_up.shape[0]) for _ in wanted.split()]


@torch.library.custom_op("torchfused::hidden_bwd", mutates_args=())
def _hidden_backward(
    dy: Tensor, w: Tensor, saved: list[Tensor], names: str, activation: str, precision: str, backend: str, order: str
) -> list[Tensor]:
    """``hidden_bwd`` of the backend's room, of what is ``saved`` by these names."""
    # (A hook on what is saved may have laid it out anew.)
    kept = {name: t.contiguous() for name, t in zip(names.split(), saved, strict=True)}
    how = {"order": Order(order)} if order else {}
    room = launch.TILED[Backend(backend)]
    found = room.hidden_bwd(device_of(dy), dy, w, kept, activation=activation, precision=precision, **how)
    return [found[name] for name in _made(kept)]


@_hidden_backward.register_fake
def _(dy, w, saved, names, activation, precision, backend, order):
    return [saved[0].new_empty(saved[0].shape) for _ in _made(names.split())]


@torch.library.custom_op("torchfused::product_bwd", mutates_args=())
def _product_backward(
    a: Tensor, b: Tensor, a2: Tensor | None, b2: Tensor | None, precision: str, backend: str
) -> Tensor:
    """``product`` of the backend's room."""
    return launch.TILED[Backend(backend)].product(device_of(a), precision, a, b, a2, b2)


@_product_backward.register_fake
def _(a, b, a2, b2, precision, backend):
    return b.new_empty(a.shape[0], b.shape[1])


@dataclass(frozen=True, slots=True)
class _Operators:
    """The launches of a backend's room as operators, with the room's parameters."""

    backend: Backend

    def hidden_bwd(
        self, device: Device, dy: Tensor, w: Tensor, saved: Mapping[str, Tensor], **how: Any
    ) -> dict[str, Tensor]:
        # (Plain strings, for a trace writes them down.)
        told = {name: str(value) for name, value in {"order": "", **how, "backend": self.backend}.items()}
        found = torch.ops.torchfused.hidden_bwd(dy, w, list(saved.values()), " ".join(saved), **told)
        return dict(zip(_made(saved), found, strict=True))

    def product(self, device: Device, precision: str, *operands: Tensor) -> Tensor:
        a, b, a2, b2 = (*operands, None, None)[:4]
        return torch.ops.torchfused.product_bwd(a, b, a2, b2, precision, str(self.backend))


@dataclass(frozen=True, slots=True)
class _Again(_Operators):
    """Likewise, where nothing was saved: ``operands`` are those of the first GEMM, ``plan`` says how it runs."""

    plan: str
    operands: dict[str, Tensor | None]
    wanted: tuple[str, ...]

    def hidden_bwd(
        self, device: Device, dy: Tensor, w: Tensor, saved: Mapping[str, Tensor], **how: Any
    ) -> dict[str, Tensor]:
        told = {"activation": how["activation"], "precision": how["precision"], "plan": self.plan}
        found = torch.ops.torchfused.hidden_again(dy, w_down=w, **self.operands, wanted=" ".join(self.wanted), **told)
        return dict(zip(self.wanted, found, strict=True))


_ROOMS = {backend: _Operators(backend) for backend in launch.TILED}


def _made(saved: Collection[str]) -> tuple[str, ...]:
    """What a room's ``hidden_bwd`` gives."""
    return ("d_s", *("d_u",) * ("u" in saved), *("h",) * ("h" not in saved))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *operands, activation, precision, plan, save = inputs
    ctx.options = activation, precision, plan, save
    # What b_down holds is not needed again.
    ctx.save_for_backward(*operands[:-1], *output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    x, w_up, w_down, w_gate, b_up, b_gate, *kept = ctx.saved_tensors
    activation, precision, text, save = ctx.options
    needs = [name for name, needed in zip(NAMES, ctx.needs_input_grad, strict=False) if needed]
    dy, rest = gradients[0], (None,) * len(ctx.options)
    if dy is None or not needs:
        return (*(None for _ in NAMES), *rest)
    rooms = dict(_ROOMS)
    if save == "recompute":
        operands = {"x": x, "w_up": w_up, "w_gate": w_gate, "b_up": b_up, "b_gate": b_gate}
        slopes = _made(("u",) * (w_gate is not None) + ("h",)) if {*needs} - {"w_down", "b_down"} else ()
        backend = Plan.from_json(text).backend
        rooms[backend] = _Again(backend, text, operands, (*slopes, *("h",) * ("w_down" in needs)))
    saved = dict(zip(saved_names(save, w_gate is not None), kept, strict=True))
    # Unless the graph is kept, nobody holds them any longer.
    del kept
    ctx.maybe_clear_saved_tensors()
    found = launch.tiled_backward(
        Plan.from_json(text), device_of(x), dy, x, w_up, w_down, w_gate=w_gate, saved=saved, needs=needs,
        activation=activation, precision=precision, rooms=rooms,
    )  # fmt: skip
    return (*(found.get(f"d_{name}") for name in NAMES), *rest)


def _refuse(ctx: Any, *gradients: Any) -> Any:
    raise UnsupportedError(_TWICE)


_forward.register_autograd(_differentiate, setup_context=_keep)
for _operator in (_hidden_again, _hidden_backward, _product_backward):
    _operator.register_autograd(_refuse)
