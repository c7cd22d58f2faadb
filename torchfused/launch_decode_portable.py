"""Strategy ``decode``: a Plan -> one launch of programs that are all on the GPU at once."""

from functools import lru_cache
from typing import Any

import torch

from parity.contract.plan import Plan
from parity.contract.problem import Device
from parity.contract.schedule import COLUMNS, decode_stages, is_even, programs
from parity.contract.tiles import chain_length
from parity.contract.vendor import Order

from .arrivals import arrivals_of
from .kernels.decode import decode_fwd_kernel
from .launcher import Launcher
from .vendor import spelled

# (UP, DOWN) of each launch. An interpreter runs programs one after the other: there none could wait for another.
_TOGETHER = ((True, True),)
_ONE_BY_ONE = ((True, False), (False, True))


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
    """``h = act(x w_up^T + b_up)`` (times the gate's) and ``y = h w_down^T + b_down``; arguments and result are those
    of ``launch.tiled``.

    Never hangs: a cooperative launch starts when all programs fit on the GPU together, also beside other streams'
    work, or is refused with an error; there are at most as many programs as processors. Calls that could run at the
    same time never share a word to count arrivals in (arrivals.py).
    """
    m, hidden, n = x.shape[0], w_up.shape[0], w_down.shape[0]
    out = {"h": x.new_empty(m, hidden), "y": x.new_empty(m, n)}
    if taps:
        for name in ("s",) if w_gate is None else ("s", "u"):
            out[name] = x.new_empty(m, hidden, dtype=taps)
    if m == 0:
        return out
    # An absent operand is never touched: one that is there stands in for its pointer.
    gate = w_up if w_gate is None else w_gate
    biases = b_up, b_gate, b_down
    launchers = _launchers(
        decode_fwd_kernel,
        plan,
        device,
        x.dtype,
        (m, x.shape[1], hidden, n),
        (*x.stride(), *w_up.stride(), *gate.stride(), *w_down.stride()),
        tuple(None if b is None else b.stride(0) for b in biases),
        w_gate is not None,
        activation,
        precision,
        taps is not None,
    )
    tensors = (
        x,
        w_up,
        gate,
        w_down,
        *(w_up if b is None else b for b in biases),
        out["h"],
        out["y"],
        out.get("s", x),
        out.get("u", x),
        arrivals_of(x.device) if device.kind == "gpu" else x,
    )
    for launch in launchers:
        launch(tensors)
    return out


@lru_cache(maxsize=4096)
def _launchers(
    kernel: Any,
    plan: Plan,
    device: Device,
    dtype: torch.dtype,
    sizes: tuple[int, int, int, int],
    strides: tuple[int, ...],
    biases: tuple[int | None, int | None, int | None],
    gated: bool,
    activation: str,
    precision: str,
    taps: bool,
) -> tuple[Launcher, ...]:
    """``sizes``: m, in, hidden, out; ``biases``: the strides of those that are there."""
    up, down = plan.gemms()
    _, k, hidden, n = sizes
    blocks = max(-(hidden // -up.tiles.n), -(n // -down.tiles.n))
    together = device.kind == "gpu"
    constants = {
        "BM": up.tiles.m,
        "BH": up.tiles.n,
        "BK": up.tiles.k,
        "BN": down.tiles.n,
        "BL": down.tiles.k,
        "SPLIT_K": up.split_k,
        "SPLIT_H": down.split_k,
        "ACTIVATION": spelled(activation, plan.order),
        "IDENTITY": spelled("identity", plan.order),
        "GATED": gated,
        "BIAS_UP": biases[0] is not None,
        "BIAS_GATE": biases[1] is not None,
        "BIAS_DOWN": biases[2] is not None,
        "TAPS": taps,
        "TF32": precision == "tf32",
        "EVEN_BH": hidden % up.tiles.n == 0,
        "EVEN_BK": is_even(up, k, abreast=True),
        "EVEN_BN": n % down.tiles.n == 0,
        "EVEN_BL": is_even(down, hidden, abreast=True),
        "COLUMNS": COLUMNS,
        "VENDOR": plan.order is Order.VENDOR,
    }
    options: dict[str, Any] = {
        "num_warps": 4,
        "num_stages": decode_stages((up, down), device, str(dtype).removeprefix("torch."), 1 + gated),
        "enable_fp_fusion": False,
    }
    if together:
        options["launch_cooperative_grid"] = True
    return tuple(
        Launcher(
            kernel,
            programs(blocks, device),
            (
                *sizes,
                chain_length(k, up.split_k),
                chain_length(hidden, down.split_k),
                *strides,
                *(b or 0 for b in biases),
            ),
            constants | {"UP": first, "DOWN": second},
            options,
        )
        for first, second in (_TOGETHER if together else _ONE_BY_ONE)
    )
