"""Strategy ``decode``, backend ``hopper``: a Plan -> one launch that streams the weights through a ring."""

from functools import lru_cache
from typing import Any

import torch

from parity.contract.plan import HOPPER_DEPTH, Plan
from parity.contract.problem import Device
from parity.contract.schedule import programs

from .activations import ACTIVATIONS
from .arrivals import arrivals_of
from .hopper import described, in_gluon
from .kernels.hopper_decode import BN, WIDE, decode_fwd_kernel
from .launcher import Launcher

# Bytes of weights on their way to a processor at a time: enough for the memory's whole rate.
_AHEAD = 96 * 1024
# Shared memory for the barriers.
_KEPT = 2048


def decode(
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
    """As launch_decode_portable.decode, for packed 16-bit operands; never hangs for the same reasons."""
    m, hidden, n = x.shape[0], w_up.shape[0], w_down.shape[0]
    out = {"h": x.new_empty(m, hidden), "y": x.new_empty(m, n)}
    if taps:
        for name in ("s",) if w_gate is None else ("s", "u"):
            out[name] = x.new_empty(m, hidden, dtype=taps)
    if m == 0:
        return out
    biases = b_up, b_gate, b_down
    rows = max(8, 1 << (m - 1).bit_length())
    launch = _launcher(
        decode_fwd_kernel,
        device,
        (m, x.shape[1], hidden, n),
        rows,
        tuple(b is not None for b in biases),
        w_gate is not None,
        activation,
        taps is not None,
    )
    launch(
        (
            *(w_up if b is None else b for b in biases),
            out["h"],
            out["y"],
            out.get("s", x),
            out.get("u", x),
            arrivals_of(x.device),
        ),
        (
            described(x, rows, WIDE.value),
            described(w_up, BN.value, WIDE.value),
            described(w_up if w_gate is None else w_gate, BN.value, WIDE.value),
            described(w_down, BN.value, WIDE.value),
            described(out["h"], rows, WIDE.value),
        ),
    )
    return out


@lru_cache(maxsize=4096)
def _launcher(
    kernel: Any,
    device: Device,
    sizes: tuple[int, int, int, int],
    rows: int,
    biases: tuple[bool, bool, bool],
    gated: bool,
    activation: str,
    taps: bool,
) -> Launcher:
    """``sizes``: m, in, hidden, out; ``biases``: which are there."""
    _, _, hidden, n = sizes
    tile = BN.value * WIDE.value * 2
    held = HOPPER_DEPTH // WIDE.value // (1 + gated)
    # Many rows take as much of a slot as the weights do.
    tiles = max(1, held // 2) if rows > 16 else held
    weights = tiles * (1 + gated) * tile
    # The sums pass through shared memory on their way to where they are stored.
    sums = BN.value * (rows + 4) * 4
    stages = (device.smem_bytes - _KEPT - sums) // (weights + tiles * rows * WIDE.value * 2)
    constants: dict[str, Any] = {
        "STAGES": stages,
        "TILES": tiles,
        "AHEAD": min(max(1, _AHEAD // weights), stages),
        "ACTIVATION": in_gluon(ACTIVATIONS[activation]),
        "GATED": gated,
        "BIAS_UP": biases[0],
        "BIAS_GATE": biases[1],
        "BIAS_DOWN": biases[2],
        "TAPS": taps,
    }
    options = {"num_warps": 4, "enable_fp_fusion": False, "launch_cooperative_grid": True}
    grid = programs(max(hidden, n) // BN.value, device)
    return Launcher(kernel, grid, sizes, constants, options)
