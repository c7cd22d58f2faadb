"""Plan -> launches: by its strategy and backend, the MLP and its gradients."""

from collections.abc import Collection, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch

from parity.contract.plan import Backend, Plan, Strategy
from parity.contract.problem import Device

from . import launch_decode_hopper, launch_decode_portable, launch_tiled_hopper, launch_tiled_portable

# The three launches that a tiled MLP and its gradients are made of, by backend.
TILED: dict[Backend, ModuleType] = {
    Backend.PORTABLE: launch_tiled_portable,
    Backend.HOPPER: launch_tiled_hopper,
}


def forward(plan: Plan, *operands: Any, **options: Any) -> dict[str, torch.Tensor]:
    """The forward pass by the plan's strategy and backend; arguments and result as ``tiled`` says."""
    launch = {
        (Strategy.TILED, Backend.PORTABLE): tiled,
        (Strategy.TILED, Backend.HOPPER): tiled,
        (Strategy.DECODE, Backend.PORTABLE): launch_decode_portable.decode,
        (Strategy.DECODE, Backend.HOPPER): launch_decode_hopper.decode,
    }
    return launch[plan.strategy, plan.backend](plan, *operands, **options)


def tiled(
    plan: Plan,
    device: Device,
    x: torch.Tensor,
    w_up: torch.Tensor,
    w_down: torch.Tensor,
    *,
    w_gate: torch.Tensor | None,
    b_up: torch.Tensor | None,
    b_gate: torch.Tensor | None,
    b_down: torch.Tensor | None,
    activation: str,
    precision: str,
    taps: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """Two launches: ``h = act(x w_up^T + b_up)`` (times the gate's), ``y = h w_down^T + b_down``.

    x ``[m, k]``. Returns "h" and "y" and, rounded to the type ``taps``, "s" (and "u" when gated).
    """
    hidden = tiled_hidden(
        plan, device, x, w_up, w_gate=w_gate, b_up=b_up, b_gate=b_gate,
        activation=activation, precision=precision, taps=taps,
    )  # fmt: skip
    _, down = plan.gemms()
    linear = TILED[plan.backend].linear
    how = options_of(plan, "identity", precision)
    y = linear(down, device, hidden["h"], w_down, b_down, **how)["y"]
    return hidden | {"y": y}


def tiled_hidden(
    plan: Plan,
    device: Device,
    x: torch.Tensor,
    w_up: torch.Tensor,
    *,
    w_gate: torch.Tensor | None,
    b_up: torch.Tensor | None,
    b_gate: torch.Tensor | None,
    activation: str,
    precision: str,
    taps: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """The first of the two launches alone: "h" and, with ``taps``, "s" (and "u")."""
    up, _ = plan.gemms()
    hidden = TILED[plan.backend].linear(
        up, device, x, w_up, b_up,
        gate=w_gate, b_gate=b_gate, taps=taps, **options_of(plan, activation, precision),
    )  # fmt: skip
    return {"h": hidden.pop("y")} | hidden


def tiled_backward(
    plan: Plan,
    device: Device,
    dy: torch.Tensor,
    x: torch.Tensor,
    w_up: torch.Tensor,
    w_down: torch.Tensor,
    *,
    w_gate: torch.Tensor | None,
    saved: dict[str, torch.Tensor],
    needs: Collection[str],
    activation: str,
    precision: str,
    taps: bool = False,
    rooms: Mapping[Backend, Any] = TILED,
) -> dict[str, torch.Tensor]:
    """The gradients of ``tiled`` for the upstream ``dy`` ``[m, n]``: one launch for the hidden layer's, one for each of
    the operands that ``needs`` names, as "d_<name>"; with ``taps`` also "d_s", "d_u" and "h".

    ``saved``: "s", "u" when gated, and, unless it is to be computed from them, "h"; ``[m, h]`` in x's type. It is
    emptied on the way: what nobody else holds is freed as soon as it has been used. ``rooms``: what launches.
    """
    launches = rooms[plan.backend]
    if plan.backend is Backend.HOPPER:
        # An upstream gradient may be anything; its transpose is read by rows of 16 bytes, as it lies. (Of a single row
        # torch calls any stride contiguous; a view has the row's length.)
        dy = dy.contiguous().view(-1).view(dy.shape)
    of = partial(launches.product, device, precision)
    sums = partial(rooms[Backend.PORTABLE].product, device, "ieee", dy.new_ones(1, 1).expand(1, x.shape[0]))
    inner = {"x", "w_up", "w_gate", "b_up", "b_gate"}.intersection(needs)
    hidden: dict[str, torch.Tensor] = {}
    if inner or ("w_down" in needs and "h" not in saved):
        hidden = launches.hidden_bwd(device, dy, w_down, saved, **options_of(plan, activation, precision))
    if "h" in saved:
        hidden["h"] = saved["h"]
    saved.clear()
    found = dict(hidden) if taps else {}
    # Each as large as a gradient: h goes first, then du.
    gradients = {"w_down": of(dy.t(), hidden.pop("h"))} if "w_down" in needs else {}
    hidden.pop("h", None)
    d_s = hidden.pop("d_s", dy)
    d_u = hidden.pop("d_u", d_s)
    if "x" in needs:
        gradients["x"] = of(d_u, w_up, *(() if w_gate is None else (d_s, w_gate)))
    if "w_up" in needs:
        gradients["w_up"] = of(d_u.t(), x)
    if "b_up" in needs:
        gradients["b_up"] = sums(d_u).view(-1)
    del d_u
    if "w_gate" in needs:
        gradients["w_gate"] = of(d_s.t(), x)
    if "b_gate" in needs:
        gradients["b_gate"] = sums(d_s).view(-1)
    if "b_down" in needs:
        gradients["b_down"] = sums(dy).view(-1)
    return found | {f"d_{name}": gradients[name] for name in needs}


def options_of(plan: Plan, activation: str, precision: str) -> dict[str, Any]:
    """What a launch with an epilogue is told; of the hopper backend's, there is one order."""
    order = {"order": plan.order} if plan.backend is Backend.PORTABLE else {}
    return {"activation": activation, "precision": precision} | order
