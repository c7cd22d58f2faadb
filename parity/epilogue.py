"""What follows a product's chains, emulated in float32 steps: bias, activation, gate, the roundings of h and y.

The contract's spelling is that of contract/activations.py, the frameworks' one is their formula, the vendor's one
torch's step by step, XLA's one jax.nn's with every operation rounded. relu, relu2 and identity, the bias, the gate and
the roundings are exact. exp2 and reciprocals are the GPU's approximations there and correctly rounded here, so the
other activations may differ by some ulps of float32: seldom in a 16-bit h.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from scipy import special

from .adder import HOPPER, IEEE, Adder, F, add_product
from .contract import activations as table
from .contract.plan import Plan
from .contract.problem import Problem
from .contract.vendor import Order
from .emulator import ascending, gemm
from .rounding import round_to
from .tree import Tree
from .vendor_spelling import VENDOR, once
from .xla_spelling import XLA

# Whose every operation is IEEE arithmetic, on a GPU too.
EXACT = ("relu", "relu2", "identity")
Bias = Literal["after", "first", "rounded"]
# By spelling: activations that round to the data type on their way.
STEPWISE = {"vendor": VENDOR, "xla": XLA}
# emulator.gemm, or what answers as it does.
Summed = Callable[..., np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """How a GEMM adds, and where its ``bias`` enters: in float32 after the chain, as what the chain starts from, or
    added to what was rounded to the dtype."""

    order: Tree
    adder: Adder
    bias: Bias = "after"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides a runner's bits. ``spelling`` and ``contracted`` (a product and a sum rounded once) are of the
    activation. ``round_s``: s (and u) is rounded to the dtype before it; ``round_f``: so is what it gives, before the
    gate product; ``round_h``: the second GEMM takes h as it was rounded.
    """

    up: Product
    down: Product
    spelling: Literal["contract", "framework", "vendor", "xla"] = "contract"
    contracted: bool = False
    round_s: bool = False
    round_f: bool = False
    round_h: bool = True


def contract(problem: Problem, plan: Plan) -> Recipe:
    """What a fused plan promises on a GPU of compute capability 9.0."""
    adder = HOPPER["tf32" if problem.precision == "tf32" else problem.dtype]
    up, down = (
        Product(order=ascending(n, chains=chains, terms=adder.terms), adder=adder)
        for n, chains in zip((problem.in_features, problem.hidden_features), plan.splits, strict=True)
    )
    if plan.order is Order.VENDOR:
        return Recipe(up=up, down=down, spelling="vendor", round_s=True, round_f=True)
    return Recipe(up=up, down=down)


def stages(
    problem: Problem, arrays: Mapping[str, np.ndarray], recipe: Recipe, summed: Summed = gemm
) -> dict[str, np.ndarray]:
    """The fused stages as ``recipe`` gives them: s and u float32, h and y in the problem's dtype."""
    found = {"s": linear(problem, arrays, recipe, "gate" if problem.gated else "up", arrays["x"], summed)}
    if problem.gated:
        found["u"] = linear(problem, arrays, recipe, "up", arrays["x"], summed)
    wide = hidden(problem, found["s"], found.get("u"), recipe)
    h = round_to(wide, problem.dtype)
    y = linear(problem, arrays, recipe, "down", h if recipe.round_h else wide, summed)
    return found | {"h": h, "y": round_to(y, problem.dtype)}


def linear(
    problem: Problem,
    arrays: Mapping[str, np.ndarray],
    recipe: Recipe,
    layer: str,
    left: np.ndarray,
    summed: Summed = gemm,
) -> np.ndarray:
    """``left w + b`` of one ``layer`` (up, gate or down), in float32; with ``round_s`` rounded to the dtype.
    ``summed``: the emulator, or what knows some of its answers."""
    how = recipe.down if layer == "down" else recipe.up
    bias = arrays.get(f"b_{layer}")
    b = None if bias is None else bias.astype(F)
    product = summed(left, arrays[f"w_{layer}"], how.order, how.adder, start=b if how.bias == "first" else None)
    if b is not None and how.bias != "first":
        product = (rounded(product, problem) if how.bias == "rounded" else product) + b
    return rounded(product, problem) if recipe.round_s and layer != "down" else product


def hidden(problem: Problem, s: np.ndarray, u: np.ndarray | None, recipe: Recipe) -> np.ndarray:
    """``act(s)``, times ``u`` where there is one, in float32 and not yet rounded."""
    with np.errstate(all="ignore"):
        if recipe.spelling in STEPWISE:
            f = STEPWISE[recipe.spelling][problem.activation](s.astype(F), partial(rounded, problem=problem))
        else:
            functions = FRAMEWORK if recipe.spelling == "framework" else CONTRACT
            f = functions[problem.activation](s.astype(F), recipe.contracted)
        f = rounded(f, problem) if recipe.round_f else f
        return f if u is None else f * u.astype(F)


def rounded(values: np.ndarray, problem: Problem) -> np.ndarray:
    """Rounded to the problem's dtype, and float32 again."""
    return round_to(values, problem.dtype).astype(F)


def _fma(c: float | np.ndarray, a: np.ndarray, b: float | np.ndarray, contracted: bool) -> np.ndarray:
    """``c + a b``: rounded once where ``contracted``, twice otherwise."""
    total = np.broadcast_to(np.asarray(c, F), a.shape)
    if not contracted:
        return total + a * np.asarray(b, F)
    return add_product(IEEE, total, a.astype(np.float64), np.asarray(b, F).astype(np.float64))


def _reciprocal(d: np.ndarray) -> np.ndarray:
    return np.where(d > F(table.RECIPROCAL_END), F(0), F(1) / d)


def _sigmoid(s: np.ndarray, exponent: float) -> np.ndarray:
    return _reciprocal(F(1) + np.exp2(s * F(exponent)))


def _gelu(s: np.ndarray, contracted: bool) -> np.ndarray:
    a = np.abs(s)
    t = _reciprocal(_fma(1.0, a, table.GELU_T, contracted))
    p = np.full_like(s, table.GELU_P[-1])
    for c in reversed(table.GELU_P[:-1]):
        p = _fma(c, p, t, contracted)
    e = (a * a) * F(table.GELU_EXPONENT)
    q = (t * p) * np.where(e < -126, F(0), np.exp2(e))
    return s * np.where(s < 0, q, F(1) - q)


def _gelu_tanh(s: np.ndarray, contracted: bool) -> np.ndarray:
    inner = _fma(table.GELU_TANH_EXPONENT, s * s, table.GELU_TANH_EXPONENT_CUBIC, contracted)
    return s * _reciprocal(F(1) + np.exp2(s * inner))


def _tanh(s: np.ndarray, contracted: bool) -> np.ndarray:
    a, z = np.abs(s), s * s
    q = np.full_like(s, table.TANH_Q[-1])
    for c in reversed(table.TANH_Q[:-1]):
        q = _fma(c, q, z, contracted)
    big = F(1) - F(2) * _reciprocal(F(1) + np.exp2(a * F(table.TANH_EXPONENT)))
    return np.where(a < F(table.TANH_CUT), s * _fma(1.0, z, q, contracted), np.copysign(big, s))


def _relu(s: np.ndarray, contracted: bool) -> np.ndarray:
    return np.where(s <= 0, F(0), s)


Function = Callable[..., np.ndarray]
CONTRACT: dict[str, Function] = {
    "relu": _relu,
    "relu2": lambda s, contracted: _relu(s, contracted) ** 2,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda s, contracted: s * _sigmoid(s, table.QUICK_GELU_EXPONENT),
    "silu": lambda s, contracted: s * _sigmoid(s, table.SILU_EXPONENT),
    "sigmoid": lambda s, contracted: _sigmoid(s, table.SILU_EXPONENT),
    "tanh": _tanh,
    "identity": lambda s, contracted: s,
}


def _framework_gelu_tanh(s: np.ndarray, contracted: bool) -> np.ndarray:
    inner = F(np.sqrt(2 / np.pi)) * _fma(s, s * s * s, 0.044715, contracted)
    return F(0.5) * s * (F(1) + once(np.tanh, inner))


FRAMEWORK: dict[str, Function] = CONTRACT | {
    "gelu": lambda s, contracted: s * F(0.5) * (F(1) + once(special.erf, s * F(np.sqrt(0.5)))),
    "gelu_tanh": _framework_gelu_tanh,
    "quick_gelu": lambda s, contracted: s * (F(1) / (F(1) + once(np.exp, -(F(1.702) * s)))),
    "silu": lambda s, contracted: s / (F(1) + once(np.exp, -s)),
    "sigmoid": lambda s, contracted: F(1) / (F(1) + once(np.exp, -s)),
    "tanh": lambda s, contracted: once(np.tanh, s),
}
