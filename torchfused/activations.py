"""The activations and their derivatives in Triton, name -> f. Spelled step by step as
parity/contract/activations.py says: the same float32 operations in the same order as jaxfused/activations.py.
Kernels compile with ``enable_fp_fusion=False``, so that
every product is rounded before it is added.
"""

import triton
import triton.language as tl
from triton import knobs

from parity.contract import activations as contract

# An interpreter has no such instruction.
_PLAIN = tl.constexpr(bool(knobs.runtime.interpret))
_RECIPROCAL_END = tl.constexpr(contract.RECIPROCAL_END)
_SILU_EXPONENT = tl.constexpr(contract.SILU_EXPONENT)
_QUICK_GELU_EXPONENT = tl.constexpr(contract.QUICK_GELU_EXPONENT)
_GELU_TANH_EXPONENT = tl.constexpr(contract.GELU_TANH_EXPONENT)
_GELU_TANH_EXPONENT_CUBIC = tl.constexpr(contract.GELU_TANH_EXPONENT_CUBIC)
_GELU_T = tl.constexpr(contract.GELU_T)
_GELU_EXPONENT = tl.constexpr(contract.GELU_EXPONENT)
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7 = map(tl.constexpr, contract.GELU_P)
_NORMAL_DENSITY = tl.constexpr(contract.NORMAL_DENSITY)
_GELU_TANH_SLOPE = tl.constexpr(contract.GELU_TANH_SLOPE)
_GELU_TANH_SLOPE_SQUARE = tl.constexpr(contract.GELU_TANH_SLOPE_SQUARE)
_QUICK_GELU_SLOPE = tl.constexpr(contract.QUICK_GELU_SLOPE)
_TANH_CUT = tl.constexpr(contract.TANH_CUT)
_TANH_EXPONENT = tl.constexpr(contract.TANH_EXPONENT)
_Q0, _Q1, _Q2, _Q3, _Q4 = map(tl.constexpr, contract.TANH_Q)


@triton.jit
def approximate_reciprocal(d):
    """The hardware's approximation, to one ulp; of d >= 1."""
    if _PLAIN:
        return tl.where(d > _RECIPROCAL_END, 0.0, 1.0 / d)
    else:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [d], tl.float32, True, 1)


@triton.jit
def identity(s):
    return s


@triton.jit
def relu(s):
    # Not maximum(s, 0): that drops NaN.
    return tl.where(s <= 0.0, 0.0, s)


@triton.jit
def relu2(s):
    r = relu(s)
    return r * r


@triton.jit
def gelu(s):
    a = tl.abs(s)
    t = approximate_reciprocal(1.0 + a * _GELU_T)
    e = (a * a) * _GELU_EXPONENT
    p = ((((((t * _P7 + _P6) * t + _P5) * t + _P4) * t + _P3) * t + _P2) * t + _P1) * t + _P0
    # Below 2^-126 one compiler's exp2 flushes to zero and the other's does not.
    q = (t * p) * tl.where(e < -126.0, 0.0, tl.exp2(e))
    return s * tl.where(s < 0.0, q, 1.0 - q)


@triton.jit
def gelu_tanh(s):
    return s * approximate_reciprocal(1.0 + tl.exp2(s * (_GELU_TANH_EXPONENT + _GELU_TANH_EXPONENT_CUBIC * (s * s))))


@triton.jit
def quick_gelu(s):
    return s * approximate_reciprocal(1.0 + tl.exp2(s * _QUICK_GELU_EXPONENT))


@triton.jit
def silu(s):
    return s * approximate_reciprocal(1.0 + tl.exp2(s * _SILU_EXPONENT))


@triton.jit
def sigmoid(s):
    return approximate_reciprocal(1.0 + tl.exp2(s * _SILU_EXPONENT))


@triton.jit
def tanh(s):
    a = tl.abs(s)
    z = s * s
    q = (((z * _Q4 + _Q3) * z + _Q2) * z + _Q1) * z + _Q0
    small = s * (1.0 + z * q)
    large = 1.0 - 2.0 * approximate_reciprocal(1.0 + tl.exp2(a * _TANH_EXPONENT))
    return tl.where(a < _TANH_CUT, small, tl.where(s < 0.0, -large, large))


@triton.jit
def d_identity(s):
    # (Gluon's tl.full asks for a layout.)
    return tl.where(s < 0.0, 1.0, 1.0)


@triton.jit
def d_relu(s):
    return tl.where(s <= 0.0, 0.0, 1.0)


@triton.jit
def d_relu2(s):
    r = relu(s)
    return r + r


@triton.jit
def d_gelu(s):
    a = tl.abs(s)
    t = approximate_reciprocal(1.0 + a * _GELU_T)
    e = (a * a) * _GELU_EXPONENT
    p = ((((((t * _P7 + _P6) * t + _P5) * t + _P4) * t + _P3) * t + _P2) * t + _P1) * t + _P0
    x = tl.where(e < -126.0, 0.0, tl.exp2(e))
    q = (t * p) * x
    return tl.where(e < -126.0, tl.where(s < 0.0, 0.0, 1.0), tl.where(s < 0.0, q, 1.0 - q) + s * (x * _NORMAL_DENSITY))


@triton.jit
def d_gelu_tanh(s):
    a = tl.abs(s)
    square = a * a
    z = a * (_GELU_TANH_EXPONENT + _GELU_TANH_EXPONENT_CUBIC * square)
    q = tl.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    rest = (s * ((q * g) * g)) * (_GELU_TANH_SLOPE + _GELU_TANH_SLOPE_SQUARE * square)
    return tl.where(z < -126.0, tl.where(s < 0.0, 0.0, 1.0), tl.where(s < 0.0, q * g, g) + rest)


@triton.jit
def d_quick_gelu(s):
    z = tl.abs(s) * _QUICK_GELU_EXPONENT
    q = tl.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    rest = (s * _QUICK_GELU_SLOPE) * ((q * g) * g)
    return tl.where(z < -126.0, tl.where(s < 0.0, 0.0, 1.0), tl.where(s < 0.0, q * g, g) + rest)


@triton.jit
def d_silu(s):
    z = tl.abs(s) * _SILU_EXPONENT
    q = tl.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    rest = s * ((q * g) * g)
    return tl.where(z < -126.0, tl.where(s < 0.0, 0.0, 1.0), tl.where(s < 0.0, q * g, g) + rest)


@triton.jit
def d_sigmoid(s):
    z = tl.abs(s) * _SILU_EXPONENT
    q = tl.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    return tl.where(z < -126.0, 0.0, (q * g) * g)


@triton.jit
def d_tanh(s):
    z = tl.abs(s) * -_TANH_EXPONENT
    q = tl.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    return tl.where(z < -126.0, 0.0, ((4.0 * q) * g) * g)


_FUNCTIONS = (relu, relu2, gelu, gelu_tanh, quick_gelu, silu, sigmoid, tanh, identity)
_SLOPES = (d_relu, d_relu2, d_gelu, d_gelu_tanh, d_quick_gelu, d_silu, d_sigmoid, d_tanh, d_identity)
ACTIVATIONS = {f.fn.__name__: f for f in _FUNCTIONS}
DERIVATIVES = {f.fn.__name__: slope for f, slope in zip(_FUNCTIONS, _SLOPES, strict=True)}
