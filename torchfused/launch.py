"""Plan -> grids, outputs and launches. What only changes speed (warps, pipeline stages, tile order) stands here."""

from functools import lru_cache
from typing import Any

import torch

from parity.contract.plan import Gemm, Plan
from parity.contract.problem import Device
from parity.contract.tiles import Tiles, stage_bytes

from .activations import ACTIVATIONS
from .kernels.tiled import linear_fwd_kernel

_GROUP_M = 8


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
    taps: bool = False,
) -> dict[str, torch.Tensor]:
    """Two launches: ``h = act(x w_up^T + b_up)`` (times the gate's), ``y = h w_down^T + b_down``.

    x ``[m, k]``. Returns "h" and "y" and, with ``taps``, float32 "s" (and "u" when gated).
    """
    up, down = plan.gemms()
    # Triton launches on the current device, which need not be the operands'.
    with torch.cuda.device_of(x):
        hidden = _linear(
            up, device, x, w_up, b_up,
            gate=w_gate, b_gate=b_gate, activation=activation, precision=precision, taps=taps,
        )  # fmt: skip
        h = hidden.pop("y")
        y = _linear(down, device, h, w_down, b_down, activation="identity", precision=precision)["y"]
    return hidden | {"h": h, "y": y}


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
    taps: bool = False,
) -> dict[str, torch.Tensor]:
    tiles = gemm.tiles
    m, k = x.shape
    n = w.shape[0]
    out = {"y": x.new_empty(m, n)}
    if taps:
        for name in ("s",) if gate is None else ("s", "u"):
            out[name] = x.new_empty(m, n, dtype=torch.float32)
    if m == 0:
        return out
    warps, stages = _schedule(tiles, device, str(x.dtype).removeprefix("torch."), 1 if gate is None else 2)
    # An absent operand is never touched: w stands in for its pointer.
    kernel: Any = linear_fwd_kernel[(-(m // -tiles.m) * -(n // -tiles.n),)]
    kernel(
        x,
        w,
        w if gate is None else gate,
        w if b is None else b,
        w if b_gate is None else b_gate,
        out["y"],
        out.get("s", w),
        out.get("u", w),
        m,
        n,
        k,
        *x.stride(),
        *w.stride(),
        *(w if gate is None else gate).stride(),
        0 if b is None else b.stride(0),
        0 if b_gate is None else b_gate.stride(0),
        BM=tiles.m,
        BN=tiles.n,
        BK=tiles.k,
        SPLIT_K=gemm.split_k,
        ACTIVATION=ACTIVATIONS[activation],
        GATED=gate is not None,
        BIAS=b is not None,
        BIAS_GATE=b_gate is not None,
        TAPS=taps,
        TF32=precision == "tf32",
        EVEN_K=k % tiles.k == 0,
        GROUP_M=_GROUP_M,
        num_warps=warps,
        num_stages=stages,
        # Contraction would round a product and its sum once instead of twice: the twins agreed on twice.
        enable_fp_fusion=False,
    )
    return out


@lru_cache(maxsize=4096)
def _schedule(tiles: Tiles, device: Device, dtype: str, weights: int) -> tuple[int, int]:
    """Warps for the accumulators' registers, as many pipeline stages as shared memory holds."""
    large = tiles.m * tiles.n >= 128 * 64
    fit = (device.smem_bytes - 8192) // stage_bytes(tiles, dtype, weights)
    # Few rows wait for memory and want it in flight; large tiles ran 5 % slower with a fourth stage.
    return (8, max(1, min(3, fit))) if large else (4, max(1, min(4, fit)))
