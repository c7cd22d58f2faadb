"""Where the activations are looked at, what is exact there, and how far the contract lets a spelling be off."""

import numpy as np

from parity.backward import DERIVATIVES
from parity.contract.activations import ACTIVATIONS, TANH_CUT
from parity.contract.tolerance import FLOAT32_ROUNDOFF
from parity.oracle import FUNCTIONS

INF, NAN = float("inf"), float("nan")
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)

# Dense where the functions bend, every binade outside, both sides of each case distinction.
_positive = np.concatenate(
    [
        np.linspace(0.0, 20.0, 4001),
        np.exp2(np.arange(-126.0, 63.0, 0.25)),
        np.nextafter(np.float32(TANH_CUT), np.array([0.0, 1.0], np.float32)),
        # gelu leaves exp2's normal range at a = 13.2, silu and sigmoid at 87.3, tanh saturates at 9.01.
        np.linspace(13.0, 13.4, 401),
        np.linspace(86.0, 104.0, 401),
    ]
).astype(np.float32)
POINTS = np.concatenate([_positive, -_positive])

# The value at each point, bit for bit in value (NaN for NaN).
_EVERY = {NAN: NAN, INF: INF, 0.0: 0.0}
EDGES = {
    "relu": _EVERY | {-INF: 0.0, -LARGEST: 0.0, LARGEST: LARGEST},
    "relu2": _EVERY | {-INF: 0.0, LARGEST: INF, -3.0: 0.0, 3.0: 9.0},
    # -inf * 0 is NaN: the limit is not spelled out, nor is it in the frameworks' own.
    "gelu": _EVERY | {-1e4: 0.0, 1e4: 1e4},
    "gelu_tanh": _EVERY | {-1e4: 0.0, 1e4: 1e4, LARGEST: LARGEST},
    "quick_gelu": _EVERY | {-1e4: 0.0, 1e4: 1e4, LARGEST: LARGEST},
    "silu": _EVERY | {-1e4: 0.0, 1e4: 1e4, LARGEST: LARGEST},
    "sigmoid": {NAN: NAN, INF: 1.0, -INF: 0.0, 0.0: 0.5, -1e4: 0.0, 1e4: 1.0},
    "tanh": {NAN: NAN, INF: 1.0, -INF: -1.0, 0.0: 0.0, 1e4: 1.0, -1e4: -1.0, LARGEST: 1.0},
    "identity": _EVERY | {-INF: -INF, -LARGEST: -LARGEST},
}

# Likewise of the derivatives. A comparison with NaN is false: that of relu is 1 there, as identity's is everywhere.
_RAMP = {NAN: NAN, INF: 1.0, -INF: 0.0, 1e4: 1.0, -1e4: 0.0, LARGEST: 1.0, -LARGEST: 0.0}
_HUMP = {NAN: NAN, INF: 0.0, -INF: 0.0, 1e4: 0.0, -1e4: 0.0, LARGEST: 0.0, -LARGEST: 0.0}
SLOPE_EDGES = {
    "relu": _RAMP | {NAN: 1.0, 0.0: 0.0, SMALLEST: 1.0, -SMALLEST: 0.0},
    "relu2": {NAN: NAN, INF: INF, -INF: 0.0, 0.0: 0.0, LARGEST: INF, -LARGEST: 0.0, 3.0: 6.0, -3.0: 0.0},
    "gelu": _RAMP,
    "gelu_tanh": _RAMP | {0.0: 0.5},
    "quick_gelu": _RAMP | {0.0: 0.5},
    "silu": _RAMP | {0.0: 0.5},
    "sigmoid": _HUMP | {0.0: 0.25},
    "tanh": _HUMP | {0.0: 1.0},
    "identity": dict.fromkeys((NAN, INF, -INF, 0.0, LARGEST, -3.0), 1.0),
}


def exact(name: str, s: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return FUNCTIONS[name](s.astype(np.float64))


def allowed(name: str, s: np.ndarray) -> np.ndarray:
    """``rounding`` units of 2^-24 max(|s|, |f|), and float32's smallest number where that vanishes."""
    size = np.maximum(np.abs(s.astype(np.float64)), np.abs(exact(name, s)))
    return ACTIVATIONS[name].rounding * FLOAT32_ROUNDOFF * size + np.finfo(np.float32).tiny


def exact_slope(name: str, s: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return DERIVATIVES[name](s.astype(np.float64))


def allowed_slope(name: str, s: np.ndarray) -> np.ndarray:
    """``slope_rounding`` units of 2^-24 of the largest |f'|, or of |f'(s)| where there is none; and as above."""
    slope = ACTIVATIONS[name].slope
    size = np.abs(exact_slope(name, s)) if slope is None else slope
    return ACTIVATIONS[name].slope_rounding * FLOAT32_ROUNDOFF * size + np.finfo(np.float32).tiny + np.zeros(s.shape)
