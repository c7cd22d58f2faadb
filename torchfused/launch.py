"""Plan -> grids, outputs and launches; warps, pipeline stages and tile order are contract/schedule.py's."""

from collections.abc import Collection, Mapping
from functools import lru_cache, partial
from typing import Any

import torch

from parity.contract.plan import Backend, Gemm, Plan, Strategy
from parity.contract.problem import Device
from parity.contract.schedule import COLUMNS, GROUP_M, is_even, schedule
from parity.contract.tiles import chain_length, tiles_for

from . import launch_decode, launch_hopper
from .activations import ACTIVATIONS, DERIVATIVES
from .kernels.tiled import linear_fwd_kernel
from .kernels.tiled_backward import hidden_bwd_kernel, product_bwd_kernel
from .launcher import Launcher


def forward(plan: Plan, *operands: Any, **options: Any) -> dict[str, torch.Tensor]:
    """The forward pass by the plan's strategy and backend; arguments and result as ``tiled`` says."""
    launch = {
        (Strategy.TILED, Backend.PORTABLE): tiled,
        (Strategy.DECODE, Backend.PORTABLE): launch_decode.decode,
        (Strategy.DECODE, Backend.HOPPER): launch_hopper.decode,
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
    y = _linear(down, device, hidden["h"], w_down, b_down, activation="identity", precision=precision)["y"]
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
    hidden = _linear(
        up, device, x, w_up, b_up,
        gate=w_gate, b_gate=b_gate, activation=activation, precision=precision, taps=taps,
    )  # fmt: skip
    return {"h": hidden.pop("y")} | hidden


def tiled_backward(
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
) -> dict[str, torch.Tensor]:
    """The gradients of ``tiled`` for the upstream ``dy`` ``[m, n]``: one launch for the hidden layer's, one for each of
    the operands that ``needs`` names, as "d_<name>"; with ``taps`` also "d_s", "d_u" and "h".

    ``saved``: "s", "u" when gated, and, unless it is to be computed from them, "h"; ``[m, h]`` in x's type. It is
    emptied on the way: what nobody else holds is freed as soon as it has been used.
    """
    of = partial(_product, device, precision)
    sums = partial(_product, device, "ieee", dy.new_ones(1, 1).expand(1, x.shape[0]))
    inner = {"x", "w_up", "w_gate", "b_up", "b_gate"}.intersection(needs)
    hidden: dict[str, torch.Tensor] = {}
    if inner or ("w_down" in needs and "h" not in saved):
        hidden = _hidden_bwd(device, dy, w_down, saved, activation=activation, precision=precision)
    if "h" in saved:
        hidden["h"] = saved["h"]
    saved.clear()
    found = dict(hidden) if taps else {}
    # The hidden layer first: it is as large as any gradient, and not needed after.
    gradients = {"w_down": of(dy.t(), hidden.pop("h"))} if "w_down" in needs else {}
    hidden.pop("h", None)
    d_s = hidden.get("d_s", dy)
    d_u = hidden.get("d_u", d_s)
    compute = {
        "x": lambda: of(d_u, w_up, *(() if w_gate is None else (d_s, w_gate))),
        "w_up": lambda: of(d_u.t(), x),
        "w_gate": lambda: of(d_s.t(), x),
        "b_up": lambda: sums(d_u).view(-1),
        "b_gate": lambda: sums(d_s).view(-1),
        "b_down": lambda: sums(dy).view(-1),
    }
    gradients |= {name: gradient() for name, gradient in compute.items() if name in needs}
    return found | {f"d_{name}": gradients[name] for name in needs}


def _linear(
    gemm: Gemm,
    device: Device,
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    *,
    gate: torch.Tensor | None = None,
    b_gate: torch.Tensor | None = None,
    activation: str,
    precision: str,
    taps: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    m, k = x.shape
    n = w.shape[0]
    out = {"y": x.new_empty(m, n)}
    if taps:
        for name in ("s",) if gate is None else ("s", "u"):
            out[name] = x.new_empty(m, n, dtype=taps)
    if m == 0:
        return out
    # An absent operand is never touched: w stands in for its pointer.
    _launch(
        linear_fwd_kernel,
        device,
        gemm,
        1 if gate is None else 2,
        (
            x,
            w,
            w if gate is None else gate,
            w if b is None else b,
            w if b_gate is None else b_gate,
            out["y"],
            out.get("s", w),
            out.get("u", w),
        ),
        (m, n, k),
        (
            chain_length(k, gemm.split_k),
            *x.stride(),
            *w.stride(),
            *(w if gate is None else gate).stride(),
            0 if b is None else b.stride(0),
            0 if b_gate is None else b_gate.stride(0),
        ),
        SPLIT_K=gemm.split_k,
        ACTIVATION=ACTIVATIONS[activation],
        GATED=gate is not None,
        BIAS=b is not None,
        BIAS_GATE=b_gate is not None,
        TAPS=taps is not None,
        TF32=precision == "tf32",
        COLUMNS=COLUMNS,
    )
    return out


def _hidden_bwd(
    device: Device,
    dy: torch.Tensor,
    w: torch.Tensor,
    saved: Mapping[str, torch.Tensor],
    *,
    activation: str,
    precision: str,
) -> dict[str, torch.Tensor]:
    m, k = dy.shape
    s = saved["s"]
    n = s.shape[1]
    gated, hidden = "u" in saved, "h" not in saved
    out = {name: torch.empty_like(s) for name in ("d_s", *("d_u",) * gated, *("h",) * hidden)}
    if m == 0:
        return out
    _launch(
        hidden_bwd_kernel,
        device,
        _one_chain(device, dy, precision, (m, n, k)),
        1,
        (dy, w, s, saved.get("u", s), out.get("h", s), out["d_s"], out.get("d_u", s)),
        (m, n, k),
        (*dy.stride(), *w.stride()),
        ACTIVATION=ACTIVATIONS[activation],
        DERIVATIVE=DERIVATIVES[activation],
        GATED=gated,
        HIDDEN=hidden,
        TF32=precision == "tf32",
        COLUMNS=COLUMNS,
    )
    return out


def _product(
    device: Device,
    precision: str,
    a: torch.Tensor,
    b: torch.Tensor,
    a2: torch.Tensor | None = None,
    b2: torch.Tensor | None = None,
) -> torch.Tensor:
    """``a b``, or ``a b + a2 b2``, in a's type."""
    m, k = a.shape
    n = b.shape[1]
    y = b.new_empty(m, n)
    if m == 0 or k == 0:
        return y.zero_()
    a2, b2, pair = (a, b, False) if a2 is None or b2 is None else (a2, b2, True)
    _launch(
        product_bwd_kernel,
        device,
        _one_chain(device, b, precision, (m, n, k)),
        1,
        (a, b, a2, b2, y),
        (m, n, k),
        (*a.stride(), *b.stride(), *a2.stride(), *b2.stride()),
        PAIR=pair,
        TF32=precision == "tf32",
    )
    return y


def _one_chain(device: Device, like: torch.Tensor, precision: str, sizes: tuple[int, int, int]) -> Gemm:
    m, n, k = sizes
    tiles = tiles_for(device, str(like.dtype).removeprefix("torch."), precision, m, k, n)
    return Gemm(tiles=tiles, split_k=1)


def _launch(
    kernel: Any,
    device: Device,
    gemm: Gemm,
    weights: int,
    operands: tuple[torch.Tensor, ...],
    sizes: tuple[int, int, int],
    rest: tuple[int, ...],
    **constants: Any,
) -> None:
    dtype = str(operands[0].dtype).removeprefix("torch.")
    _launcher(kernel, device, gemm, weights, dtype, sizes, rest, tuple(constants.items()))(operands)


@lru_cache(maxsize=4096)
def _launcher(
    kernel: Any,
    device: Device,
    gemm: Gemm,
    weights: int,
    dtype: str,
    sizes: tuple[int, int, int],
    rest: tuple[int, ...],
    constants: tuple[tuple[str, Any], ...],
) -> Launcher:
    (m, n, k), tiles = sizes, gemm.tiles
    warps, stages = schedule(gemm, device, dtype, weights)
    tiling = {
        "BM": tiles.m,
        "BN": tiles.n,
        "BK": tiles.k,
        "EVEN_M": m % tiles.m == 0,
        "EVEN_N": n % tiles.n == 0,
        "EVEN_K": is_even(gemm, k),
        "GROUP_M": GROUP_M,
    }
    # Contraction would round a product and its sum once instead of twice: the twins agreed on twice.
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": False}
    programs = -(m // -tiles.m) * -(n // -tiles.n)
    return Launcher(kernel, programs, (*sizes, *rest), tiling | dict(constants), options)
