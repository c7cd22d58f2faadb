"""torch's activations emulated in float32 steps, as contract/activations.py spells them: exp2 and the hardware's
reciprocal are correctly rounded here, so values may differ by an ulp of float32 from a GPU's: seldom in 16 bits.
"""

from collections.abc import Callable
from functools import reduce

import numpy as np

from .adder import IEEE, F, add_product
from .contract import activations as table

Round = Callable[[np.ndarray], np.ndarray]


def fma(a: np.ndarray, b: np.ndarray | float, c: np.ndarray | float) -> np.ndarray:
    """``a b + c``, rounded once."""
    total = np.broadcast_to(np.asarray(c, F), a.shape)
    return add_product(IEEE, total, a.astype(np.float64), np.asarray(b, F).astype(np.float64))


def exp(s: np.ndarray) -> np.ndarray:
    n = np.floor(252.0 * np.clip(fma(s, table.VENDOR_EXP_SCALE, 0.5), 0, 1).astype(np.float64))
    part = fma(s, table.VENDOR_EXP_LOW, fma(s, table.VENDOR_EXP_HIGH, (126 - n).astype(F)))
    return once(np.exp2, part) * np.exp2(n - 126).astype(F)


def erf(s: np.ndarray) -> np.ndarray:
    a = np.abs(s)
    far = a >= F(table.VENDOR_ERF_CUT)
    t = np.where(far, a, s * s)
    pairs = [np.where(far, F(f), F(n)) for f, n in zip(table.VENDOR_ERF_FAR, table.VENDOR_ERF_NEAR, strict=True)]
    p = reduce(lambda p, c: fma(p, t, c), pairs)
    x = np.where(far, -a, s)
    r = fma(p, x, x)
    return np.where(far, np.copysign(F(1) - once(np.exp2, np.minimum(r, 0)), s), r)


def tanh(s: np.ndarray) -> np.ndarray:
    a, z = np.abs(s), s * s
    first, *rest = table.VENDOR_TANH_NEAR
    p = reduce(lambda p, c: fma(p, z, c), rest, np.full_like(s, first))
    e = F(1) + once(np.exp2, a * F(table.VENDOR_TANH_EXPONENT))
    large = np.where(a >= F(table.VENDOR_TANH_ONE), F(1), fma(F(1) / e, -2.0, 1.0))
    near = np.where(s == 0, s, fma(p * z, s, s))
    return np.where(a >= F(table.VENDOR_TANH_CUT), np.copysign(large, s), near)


def _gelu_tanh(s: np.ndarray) -> np.ndarray:
    inner = fma((s * s) * s, table.VENDOR_GELU_TANH_CUBIC, s) * F(table.VENDOR_GELU_TANH)
    return (F(0.5) * s) * (F(1) + tanh(inner))


def _sigmoid(s: np.ndarray) -> np.ndarray:
    return F(1) / (F(1) + exp(-s))


def _relu(s: np.ndarray) -> np.ndarray:
    return np.where(s <= 0, F(0), s)


def once(function: Callable[[np.ndarray], np.ndarray], s: np.ndarray) -> np.ndarray:
    """A library's function, taken as correctly rounded."""
    return function(s.astype(np.float64)).astype(F)


# (s, what rounds to the operands' type) -> f(s), not yet rounded.
VENDOR: dict[str, Callable[[np.ndarray, Round], np.ndarray]] = {
    "relu": lambda s, rounds: _relu(s),
    "relu2": lambda s, rounds: _relu(s) ** 2,
    "gelu": lambda s, rounds: (s * F(0.5)) * (F(1) + erf(s * F(table.VENDOR_SQRT_HALF))),
    "gelu_tanh": lambda s, rounds: _gelu_tanh(s),
    "quick_gelu": lambda s, rounds: s * rounds(_sigmoid(rounds(s * F(table.VENDOR_QUICK_GELU)))),
    "silu": lambda s, rounds: s / (F(1) + exp(-s)),
    "sigmoid": lambda s, rounds: _sigmoid(s),
    "tanh": lambda s, rounds: tanh(s),
    "identity": lambda s, rounds: s,
}
