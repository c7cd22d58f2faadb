"""The activations both twins serve: formula, spelling, constants, and the numbers the error bounds need.

Both twins spell each function with the same float32 steps: every product is rounded before it is added (no FMA
contraction), ``exp2`` is the hardware's (``ex2.approx``), ``/`` is the hardware's full-range division
(``div.full``). All constants stand here; a twin rounds them to float32 and adds none of its own.

To add one: a row here, a function of the same name and its derivative in ``activations.py`` and what the framework
offers in ``reference.py`` of ``jaxfused`` and ``torchfused``, and the float64 formulas in ``parity/oracle.py`` and
``parity/backward.py``.
"""

import math
from dataclasses import dataclass

LOG2E = math.log2(math.e)

SILU_EXPONENT = -LOG2E
QUICK_GELU_EXPONENT = -1.702 * LOG2E
# gelu_tanh(s) = s * sigmoid(2 u), u = sqrt(2/pi) (s + 0.044715 s^3): no tanh, one exp2, one division.
GELU_TANH_EXPONENT = -2.0 * math.sqrt(2.0 / math.pi) * LOG2E
GELU_TANH_EXPONENT_CUBIC = GELU_TANH_EXPONENT * 0.044715
# d(2 u)/ds = 2 sqrt(2/pi) (1 + 3 * 0.044715 s^2).
GELU_TANH_SLOPE = 2.0 * math.sqrt(2.0 / math.pi)
GELU_TANH_SLOPE_SQUARE = GELU_TANH_SLOPE * 3.0 * 0.044715
QUICK_GELU_SLOPE = 1.702

# Phi(-a) = t P(t) exp(-a^2/2), t = 1 / (1 + GELU_T a), a >= 0: minimax in relative error (1.3e-7) on [0, 14],
# lowest power first. It keeps the negative tail's relative accuracy, which 1 + erf(s / sqrt 2) cancels away.
GELU_T = 0.2316419
GELU_EXPONENT = -0.5 * LOG2E
# The density of the normal distribution at 0: phi(s) = NORMAL_DENSITY exp(-s^2/2).
NORMAL_DENSITY = 1.0 / math.sqrt(2.0 * math.pi)
GELU_P = (
    0.09252224954611334,
    0.09042008225474078,
    0.10265041272086607,
    0.013551858534432401,
    0.22525327119386931,
    -0.20166030044325567,
    0.24768662124133642,
    -0.07042413064999212,
)

# tanh(s) = s (1 + z Q(z)), z = s^2, below the cut: minimax in relative error (4.4e-9); 1 - 2 / (1 + e^2s) above it.
TANH_CUT = 0.625
TANH_EXPONENT = 2.0 * LOG2E
TANH_Q = (
    -0.33333281939997794,
    0.13331442140008065,
    -0.053739709678441404,
    0.02063906793609518,
    -0.005704964095913671,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """One activation ``f`` of the pre-activation ``s``, and its derivative ``f'``.

    ``steps`` and ``slope_steps`` are how the kernels spell them. ``slope`` bounds ``|f'|`` and ``curvature`` ``|f''|``;
    None means ``|f'| <= 2 |s|`` (relu2), or that ``f'`` jumps (relu). ``rounding`` bounds the spelling's absolute error
    in units of ``2^-24 max(|s|, |f(s)|)``: two units an exp2 or a division's ulp, one an addition or product, weighted
    by how far each reaches the result; ``slope_rounding`` likewise that of ``f'``, in units of ``2^-24 slope`` (of
    ``2^-24 |f'(s)|`` without one).
    """

    name: str
    formula: str
    steps: str
    slope_steps: str
    slope: float | None = 1.0
    curvature: float | None = 1.0
    rounding: float = 8.0
    slope_rounding: float = 16.0


# The sigmoid's derivatives: q and g are even in s, so that 1 - g, which cancels, is never formed. Below 2^-126 one
# compiler's exp2 flushes to zero and the other's does not: there the limits stand.
_TAIL = "z < -126 ? (s < 0 ? 0 : 1) : "

ACTIVATIONS = {
    a.name: a
    for a in (
        Activation(
            name="relu",
            formula="max(s, 0)",
            steps="s <= 0 ? 0 : s",
            slope_steps="s <= 0 ? 0 : 1",
            curvature=None,
            rounding=0.0,
            slope_rounding=0.0,
        ),
        Activation(
            name="relu2",
            formula="max(s, 0)^2",
            steps="r = relu(s); r * r",
            slope_steps="r = relu(s); r + r",
            slope=None,
            curvature=2.0,
            rounding=1.0,
            slope_rounding=0.0,
        ),
        Activation(
            name="gelu",
            formula="s Phi(s) = s (1 + erf(s / sqrt 2)) / 2",
            steps="a = |s|; t = 1 / (1 + T a); e = (a * a) E; q = (t P(t)) * (e < -126 ? 0 : exp2(e)); "
            "s * (s < 0 ? q : 1 - q)",
            slope_steps="x = e < -126 ? 0 : exp2(e); e < -126 ? (s < 0 ? 0 : 1) : "
            "(s < 0 ? (t P(t)) * x : 1 - (t P(t)) * x) + s * (x D)",
            slope=1.129,
        ),
        Activation(
            name="gelu_tanh",
            formula="s (1 + tanh(sqrt(2/pi) (s + 0.044715 s^3))) / 2",
            steps="s / (1 + exp2(s * (E + C * (s * s))))",
            slope_steps="a = |s|; z = a * (E + C * (a * a)); q = exp2(z); g = 1 / (1 + q); "
            + _TAIL
            + "(s < 0 ? q * g : g) + (s * ((q * g) * g)) * (S + S2 * (a * a))",
            slope=1.13,
            slope_rounding=32.0,
        ),
        Activation(
            name="quick_gelu",
            formula="s sigmoid(1.702 s)",
            steps="s / (1 + exp2(s * E))",
            slope_steps="z = |s| * E; q = exp2(z); g = 1 / (1 + q); "
            + _TAIL
            + "(s < 0 ? q * g : g) + (s * 1.702) * ((q * g) * g)",
            slope=1.1,
        ),
        Activation(
            name="silu",
            formula="s sigmoid(s)",
            steps="s / (1 + exp2(s * E))",
            slope_steps="z = |s| * E; q = exp2(z); g = 1 / (1 + q); "
            + _TAIL
            + "(s < 0 ? q * g : g) + s * ((q * g) * g)",
            slope=1.1,
        ),
        Activation(
            name="sigmoid",
            formula="1 / (1 + exp(-s))",
            steps="1 / (1 + exp2(s * E))",
            slope_steps="z = |s| * E; q = exp2(z); g = 1 / (1 + q); z < -126 ? 0 : (q * g) * g",
            slope=0.25,
            curvature=0.1,
        ),
        Activation(
            name="tanh",
            formula="tanh(s)",
            steps="a = |s|; a < CUT ? s * (1 + z Q(z)) : sign(s) (1 - 2 / (1 + exp2(a * E))), z = s * s",
            slope_steps="z = |s| * -E; q = exp2(z); g = 1 / (1 + q); z < -126 ? 0 : ((4 * q) * g) * g",
        ),
        Activation(
            name="identity",
            formula="s",
            steps="s",
            slope_steps="1",
            curvature=0.0,
            rounding=0.0,
            slope_rounding=0.0,
        ),
    )
}


def check_activation(name: str) -> None:
    """Raises ValueError, listing what there is, if ``name`` is not an activation."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}, must be one of {', '.join(ACTIVATIONS)}")
