"""The activations both twins serve: formula, spelling, constants, and the numbers the error bounds need.

Both twins spell each function with the same float32 steps: every product is rounded before it is added (no FMA
contraction), ``exp2`` and ``rcp`` are the hardware's (``ex2.approx``; ``rcp.approx.ftz``, which is 0 from beyond
``RECIPROCAL_END``). All constants stand here; a twin rounds them to float32 and adds none of its own.

A plan of the vendor's order takes them as torch's eager kernels spell them (``vendor``), compiled for CUDA 13.0: there
``fma`` rounds once and ``div`` is IEEE's. Source: ATen/native/cuda/ (Activation*Kernel.cu, UnarySpecialOpsKernel.cu);
erf, exp and tanh as nvcc 13.0 expands them.

To add one: a row here, a function of the same name and its derivative in ``activations.py``, torch's spelling in
``vendor.py`` and what the framework offers in ``reference.py`` of ``jaxfused`` and ``torchfused``, and the float64
formulas in ``parity/oracle.py`` and ``parity/backward.py``.
"""

import math
from dataclasses import dataclass

LOG2E = math.log2(math.e)

# 1 / RECIPROCAL_END is float32's smallest normal number.
RECIPROCAL_END = 2.0**126

SILU_EXPONENT = -LOG2E
QUICK_GELU_EXPONENT = -1.702 * LOG2E
# gelu_tanh(s) = s * sigmoid(2 u), u = sqrt(2/pi) (s + 0.044715 s^3): no tanh, one exp2, one reciprocal.
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

# torch's own, to the last digit of float32. (CUDA 12's erf has other coefficients above its cut, and so other bits.)
VENDOR_SQRT_HALF = 0.7071067690849304
VENDOR_GELU_TANH = 0.7978845834732056
VENDOR_GELU_TANH_CUBIC = 0.044714998453855515
VENDOR_QUICK_GELU = 1.702
# exp(s) = 2^(n - 126) exp2(s log2(e) - (n - 126)), n = floor(252 clip(s SCALE + 1/2, 0, 1)); log2(e) in two parts.
VENDOR_EXP_SCALE = 0.005724980030208826
VENDOR_EXP_HIGH, VENDOR_EXP_LOW = 1.4426950216293335, 1.925963033500011e-08
# erf(s) = s + s P(s^2) below the cut; 1 - exp2(-a - a P(a)), a = |s|, above it. Highest power first.
VENDOR_ERF_CUT = 1.002959966659546
VENDOR_ERF_NEAR = (
    8.483494457323104e-05,
    -0.0008213091641664505,
    0.005213488824665546,
    -0.026868773624300957,
    0.11284004896879196,
    -0.37612664699554443,
    0.12837915122509003,
)
VENDOR_ERF_FAR = (
    0.00011219871521461755,
    -0.0013275252422317863,
    0.00839653518050909,
    -0.04024658352136612,
    0.15950430929660797,
    0.9129176735877991,
    0.6290600299835205,
)
# tanh(s) = s + s z P(z), z = s^2, below the cut; 1 - 2 rcp(1 + exp2(a EXPONENT)) above it, and 1 from ONE on.
VENDOR_TANH_CUT, VENDOR_TANH_ONE = 0.6000000238418579, 9.010913848876953
VENDOR_TANH_EXPONENT = 2.885390043258667
VENDOR_TANH_NEAR = (0.01573968306183815, -0.05230396240949631, 0.13315297663211823, -0.33332768082618713)


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """One activation ``f`` of the pre-activation ``s``, and its derivative ``f'``.

    ``steps`` and ``slope_steps`` are how the kernels spell them, ``vendor`` how torch spells ``f``; ``round`` there is
    to the operands' type. ``slope`` bounds ``|f'|`` and ``curvature`` ``|f''|``; None means ``|f'| <= 2 |s|`` (relu2),
    or that ``f'`` jumps (relu). ``rounding`` bounds the spelling's absolute error in units of
    ``2^-24 max(|s|, |f(s)|)``: two units an exp2's or a reciprocal's ulp, one an addition or product, weighted by how
    far each reaches the result; ``slope_rounding`` likewise that of ``f'``, in units of ``2^-24 slope`` (of
    ``2^-24 |f'(s)|`` without one).
    """

    name: str
    formula: str
    steps: str
    slope_steps: str
    vendor: str
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
            vendor="s <= 0 ? 0 : s",
            curvature=None,
            rounding=0.0,
            slope_rounding=0.0,
        ),
        Activation(
            name="relu2",
            formula="max(s, 0)^2",
            steps="r = relu(s); r * r",
            slope_steps="r = relu(s); r + r",
            vendor="r = relu(s); r * r",
            slope=None,
            curvature=2.0,
            rounding=1.0,
            slope_rounding=0.0,
        ),
        Activation(
            name="gelu",
            formula="s Phi(s) = s (1 + erf(s / sqrt 2)) / 2",
            steps="a = |s|; t = rcp(1 + T a); e = (a * a) E; q = (t P(t)) * (e < -126 ? 0 : exp2(e)); "
            "s * (s < 0 ? q : 1 - q)",
            slope_steps="x = e < -126 ? 0 : exp2(e); e < -126 ? (s < 0 ? 0 : 1) : "
            "(s < 0 ? (t P(t)) * x : 1 - (t P(t)) * x) + s * (x D)",
            vendor="(s * 0.5) * (1 + erf(s * SQRT_HALF))",
            slope=1.129,
        ),
        Activation(
            name="gelu_tanh",
            formula="s (1 + tanh(sqrt(2/pi) (s + 0.044715 s^3))) / 2",
            steps="s * rcp(1 + exp2(s * (E + C * (s * s))))",
            slope_steps="a = |s|; z = a * (E + C * (a * a)); q = exp2(z); g = rcp(1 + q); "
            + _TAIL
            + "(s < 0 ? q * g : g) + (s * ((q * g) * g)) * (S + S2 * (a * a))",
            vendor="(0.5 * s) * (1 + tanh(fma(CUBIC, (s * s) * s, s) * GELU_TANH))",
            slope=1.13,
            slope_rounding=32.0,
        ),
        Activation(
            name="quick_gelu",
            formula="s sigmoid(1.702 s)",
            steps="s * rcp(1 + exp2(s * E))",
            slope_steps="z = |s| * E; q = exp2(z); g = rcp(1 + q); "
            + _TAIL
            + "(s < 0 ? q * g : g) + (s * 1.702) * ((q * g) * g)",
            vendor="r = round(s * 1.702); s * round(div(1, 1 + exp(-r)))",
            slope=1.1,
        ),
        Activation(
            name="silu",
            formula="s sigmoid(s)",
            steps="s * rcp(1 + exp2(s * E))",
            slope_steps="z = |s| * E; q = exp2(z); g = rcp(1 + q); "
            + _TAIL
            + "(s < 0 ? q * g : g) + s * ((q * g) * g)",
            vendor="div(s, 1 + exp(-s))",
            slope=1.1,
        ),
        Activation(
            name="sigmoid",
            formula="1 / (1 + exp(-s))",
            steps="rcp(1 + exp2(s * E))",
            slope_steps="z = |s| * E; q = exp2(z); g = rcp(1 + q); z < -126 ? 0 : (q * g) * g",
            vendor="div(1, 1 + exp(-s))",
            slope=0.25,
            curvature=0.1,
        ),
        Activation(
            name="tanh",
            formula="tanh(s)",
            steps="a = |s|; a < CUT ? s * (1 + z Q(z)) : sign(s) (1 - 2 * rcp(1 + exp2(a * E))), z = s * s",
            slope_steps="z = |s| * -E; q = exp2(z); g = rcp(1 + q); z < -126 ? 0 : ((4 * q) * g) * g",
            vendor="tanh(s)",
        ),
        Activation(
            name="identity",
            formula="s",
            steps="s",
            slope_steps="1",
            vendor="s",
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
