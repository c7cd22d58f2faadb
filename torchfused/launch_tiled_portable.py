"""Strategy ``tiled``, backend ``portable``: the three launches, each a grid of one program a tile."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from parity.contract.plan import Gemm
from parity.contract.problem import Device
from parity.contract.schedule import COLUMNS, GROUP_M, is_even, schedule
from parity.contract.tiles import chain_length, tiles_for
from parity.contract.vendor import Order

from .activations import DERIVATIVES
from .kernels.tiled import linear_fwd_kernel
from .kernels.tiled_backward import hidden_bwd_kernel, product_bwd_kernel
from .launcher import Launcher
from .vendor import spelled


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
    order: Order,
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
        ACTIVATION=spelled(activation, order),
        GATED=gate is not None,
        BIAS=b is not None,
        BIAS_GATE=b_gate is not None,
        TAPS=taps is not None,
        TF32=precision == "tf32",
        COLUMNS=COLUMNS,
        VENDOR=order is Order.VENDOR,
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
    order: Order,
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
        ACTIVATION=spelled(activation, order),
        DERIVATIVE=DERIVATIVES[activation],
        GATED=gated,
        HIDDEN=hidden,
        TF32=precision == "tf32",
        COLUMNS=COLUMNS,
        VENDOR=order is Order.VENDOR,
    )
    return out


def product(
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
