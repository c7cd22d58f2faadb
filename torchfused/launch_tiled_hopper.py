"""Strategy ``tiled``, backend ``hopper``: the three launches, each of programs that stay and walk over tiles."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from parity.contract.errors import UnsupportedError
from parity.contract.hopper_table import tiling_for
from parity.contract.hopper_tiles import DEPTH, PART, Tiling, Work, shared, slots, unfit
from parity.contract.plan import Gemm
from parity.contract.problem import Device

from .activations import ACTIVATIONS, DERIVATIVES
from .hopper import described, in_gluon
from .kernels.hopper_tiled import linear_fwd_kernel
from .kernels.hopper_tiled_backward import hidden_bwd_kernel, product_bwd_kernel
from .launcher import Launcher


def linear(
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
    tiling: Tiling | None = None,
) -> dict[str, torch.Tensor]:
    """As launch_tiled_portable.linear, for packed 16-bit operands and one chain. ``tiling``: else the one of the gemm's
    tiles that suits."""
    m, k = x.shape
    n = w.shape[0]
    out = {"y": x.new_empty(m, n)}
    if taps:
        for name in ("s",) if gate is None else ("s", "u"):
            out[name] = x.new_empty(m, n, dtype=taps)
    if m == 0:
        return out
    work = Work.linear(m, n, k, activation=activation, gated=gate is not None)
    tiling = tiling or tiling_for(device, work, gemm.tiles)
    tiles = tiling.tiles
    # An absent operand is never touched: w and y stand in.
    _launch(
        linear_fwd_kernel,
        device,
        work,
        tiling,
        # Two parts under way at a time; of taps in another type than y's, one of each.
        2 * x.itemsize if taps in (None, x.dtype) else sum(t.itemsize for t in out.values()),
        (w if b is None else b, w if b_gate is None else b_gate),
        (
            (x, tiles.m, DEPTH),
            (w, tiles.n, DEPTH),
            (w if gate is None else gate, tiles.n, DEPTH),
            *((out.get(name, out["y"]), *PART) for name in ("y", "s", "u")),
        ),
        ACTIVATION=ACTIVATIONS[activation],
        GATED=gate is not None,
        BIAS=b is not None,
        BIAS_GATE=b_gate is not None,
        TAPS=taps is not None,
        SHARED=shared(tiles, work.weights),
    )
    return out


def hidden_bwd(
    device: Device,
    dy: torch.Tensor,
    w: torch.Tensor,
    saved: Mapping[str, torch.Tensor],
    *,
    activation: str,
    precision: str,
    tiling: Tiling | None = None,
) -> dict[str, torch.Tensor]:
    """As launch_tiled_portable.hidden_bwd, for packed 16-bit operands. ``tiling``: else the one that suits."""
    m, k = dy.shape
    s = saved["s"]
    n = s.shape[1]
    gated, hidden = "u" in saved, "h" not in saved
    out = {name: torch.empty_like(s) for name in ("d_s", *("d_u",) * gated, *("h",) * hidden)}
    if m == 0:
        return out
    work = Work(kind="hidden_bwd", rows=m, outer=n, inner=k, gated=gated)
    tiling = tiling or tiling_for(device, work)
    tiles = tiling.tiles
    _launch(
        hidden_bwd_kernel,
        device,
        work,
        tiling,
        # A part of s and of u, or two of s; two of what is under way out.
        4 * s.itemsize,
        (),
        (
            (dy, tiles.m, DEPTH),
            (w, DEPTH, tiles.n),
            *((t, *PART) for t in (s, saved.get("u", s))),
            *((out.get(name, s), *PART) for name in ("h", "d_s", "d_u")),
        ),
        ACTIVATION=ACTIVATIONS[activation],
        DERIVATIVE=DERIVATIVES[activation],
        GATED=gated,
        HIDDEN=hidden,
    )
    return out


def product(
    device: Device,
    precision: str,
    a: torch.Tensor,
    b: torch.Tensor,
    a2: torch.Tensor | None = None,
    b2: torch.Tensor | None = None,
    *,
    tiling: Tiling | None = None,
) -> torch.Tensor:
    """As launch_tiled_portable.product, for packed 16-bit operands or their transposes. ``tiling``: else the one that
    suits."""
    m, k = a.shape
    n = b.shape[1]
    y = b.new_empty(m, n)
    if m == 0 or k == 0:
        return y.zero_()
    a_rows, b_rows = (t.stride(1) == 1 or t.stride(0) != 1 for t in (a, b.t()))
    kind = "input_bwd" if a_rows else "weight_bwd"
    work = Work(kind=kind, rows=m, outer=n, inner=k, gated=a2 is not None)
    tiling = tiling or tiling_for(device, work)
    tiles = tiling.tiles
    lain = _lain(a, a_rows, tiles.m), _lain(b.t(), b_rows, tiles.n)
    more = lain if a2 is None or b2 is None else (_lain(a2, a_rows, tiles.m), _lain(b2.t(), b_rows, tiles.n))
    _launch(
        product_bwd_kernel,
        device,
        work,
        tiling,
        2 * y.itemsize,
        (),
        (*lain, *more, (y, *PART)),
        A_ROWS=a_rows,
        B_ROWS=b_rows,
        PAIR=more is not lain,
        SHARED=shared(tiles, 1),
    )
    return y


def _lain(t: torch.Tensor, rows: bool, size: int) -> tuple[torch.Tensor, int, int]:
    """``t`` ``[rows, K]`` as it lies in memory, rows first or K first, and the block of so many rows of it."""
    return (t, size, DEPTH) if rows else (t.t(), DEPTH, size)


def _launch(
    kernel: Any,
    device: Device,
    work: Work,
    tiling: Tiling,
    staged: int,
    pointers: tuple[torch.Tensor, ...],
    blocks: tuple[tuple[torch.Tensor, int, int], ...],
    **constants: Any,
) -> None:
    launch = _launcher(kernel, device, work, tiling, staged, tuple(constants.items()))
    launch(pointers, tuple(described(*d) for d in blocks))


@lru_cache(maxsize=4096)
def _launcher(
    kernel: Any,
    device: Device,
    work: Work,
    tiling: Tiling,
    staged: int,
    constants: tuple[tuple[str, Any], ...],
) -> Launcher:
    tiles = tiling.tiles
    reason = unfit(tiles, work, device)
    if reason:
        raise UnsupportedError(f"{work} cannot run here: {reason}; use one that is, or leave it out")
    given: dict[str, Any] = {
        "BM": tiles.m,
        "BN": tiles.n,
        "STAGES": slots(tiles, work.weights, staged, device),
    }
    given |= {name: value if isinstance(value, bool) else in_gluon(value) for name, value in constants}
    programs = min(device.sm_count, -(work.rows // -tiles.m) * -(work.outer // -tiles.n))
    integers = work.rows, work.outer, work.inner, tiling.group_m
    return Launcher(kernel, programs, integers, given, {"num_warps": 4, "enable_fp_fusion": False})
