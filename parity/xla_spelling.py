"""jax.nn's activations as XLA computes them on a GPU in 16 bits, emulated: each operation takes and gives numbers of
the data type, its constants among them. exp, tanh and erfc are taken as correctly rounded to float32 before that.

Found by counting: of all 65,536 numbers of either type as many differ from torch's activations, but for 3 at most, as
on an H100 (bench/results/h100/parity/xla_against_torch.json).
"""

from collections.abc import Callable

import numpy as np
from scipy import special

from .adder import F
from .vendor_spelling import VENDOR, Round, once


def _constant(value: float, rounds: Round) -> np.ndarray:
    return rounds(np.asarray(value, F))


def _sigmoid(s: np.ndarray, rounds: Round) -> np.ndarray:
    return F(1) / rounds(F(1) + rounds(once(np.exp, -s)))


def _gelu(s: np.ndarray, rounds: Round) -> np.ndarray:
    tail = once(special.erfc, rounds(-s * _constant(np.sqrt(0.5), rounds)))
    return rounds(F(0.5) * s) * rounds(tail)


def _gelu_tanh(s: np.ndarray, rounds: Round) -> np.ndarray:
    cube = rounds(rounds(s * s) * s)
    inner = rounds(s + rounds(_constant(0.044715, rounds) * cube))
    inner = rounds(_constant(np.sqrt(2 / np.pi), rounds) * inner)
    return s * rounds(F(0.5) * rounds(F(1) + rounds(once(np.tanh, inner))))


# (s, what rounds to the data type) -> f(s), not yet rounded.
XLA: dict[str, Callable[[np.ndarray, Round], np.ndarray]] = {
    # Of one operation, or exact.
    **{name: VENDOR[name] for name in ("relu", "relu2", "tanh", "identity")},
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda s, rounds: s * rounds(_sigmoid(rounds(_constant(1.702, rounds) * s), rounds)),
    "silu": lambda s, rounds: s * rounds(_sigmoid(s, rounds)),
    "sigmoid": _sigmoid,
}
