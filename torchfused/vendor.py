"""The activations as torch's eager kernels spell them, name -> f, step by step as parity/contract/activations.py says:
the same float32 operations in the same order as jaxfused/vendor.py. ``dtype`` is the operands' type.
"""

import triton
import triton.language as tl

from parity.contract import activations as contract
from parity.contract.vendor import Order

from . import activations as own

_SQRT_HALF = tl.constexpr(contract.VENDOR_SQRT_HALF)
_GELU_TANH = tl.constexpr(contract.VENDOR_GELU_TANH)
_GELU_TANH_CUBIC = tl.constexpr(contract.VENDOR_GELU_TANH_CUBIC)
_QUICK_GELU = tl.constexpr(contract.VENDOR_QUICK_GELU)
_EXP_SCALE = tl.constexpr(contract.VENDOR_EXP_SCALE)
_EXP_HIGH, _EXP_LOW = tl.constexpr(contract.VENDOR_EXP_HIGH), tl.constexpr(contract.VENDOR_EXP_LOW)
_ERF_CUT = tl.constexpr(contract.VENDOR_ERF_CUT)
_N0, _N1, _N2, _N3, _N4, _N5, _N6 = map(tl.constexpr, contract.VENDOR_ERF_NEAR)
_F0, _F1, _F2, _F3, _F4, _F5, _F6 = map(tl.constexpr, contract.VENDOR_ERF_FAR)
_TANH_CUT, _TANH_ONE = tl.constexpr(contract.VENDOR_TANH_CUT), tl.constexpr(contract.VENDOR_TANH_ONE)
_TANH_EXPONENT = tl.constexpr(contract.VENDOR_TANH_EXPONENT)
_T0, _T1, _T2, _T3 = map(tl.constexpr, contract.VENDOR_TANH_NEAR)


@triton.jit
def rounded(t, dtype: tl.constexpr):
    """To ``dtype``, and float32 again."""
    return t.to(dtype).to(tl.float32)


@triton.jit
def exp(s):
    t = tl.fma(s, _EXP_SCALE, 0.5)
    t = tl.where(t < 0.0, 0.0, tl.where(t > 1.0, 1.0, t))
    n = tl.floor(t * 252.0)
    # The product may have been rounded up to a whole number: what is left of it, exactly, tells.
    n = tl.where(tl.fma(t, 252.0, -n) < 0.0, n - 1.0, n)
    power = ((n + 1.0).to(tl.int32) << 23).to(tl.float32, bitcast=True)
    return tl.exp2(tl.fma(s, _EXP_LOW, tl.fma(s, _EXP_HIGH, 126.0 - n))) * power


@triton.jit
def erf(s):
    a = tl.abs(s)
    far = a >= _ERF_CUT
    t = tl.where(far, a, s * s)
    p = tl.fma(tl.where(far, _F0, _N0), t, tl.where(far, _F1, _N1))
    p = tl.fma(p, t, tl.where(far, _F2, _N2))
    p = tl.fma(p, t, tl.where(far, _F3, _N3))
    p = tl.fma(p, t, tl.where(far, _F4, _N4))
    p = tl.fma(p, t, tl.where(far, _F5, _N5))
    p = tl.fma(p, t, tl.where(far, _F6, _N6))
    x = tl.where(far, -a, s)
    r = tl.fma(p, x, x)
    large = 1.0 - tl.exp2(r)
    return tl.where(far, tl.where(s < 0.0, -large, large), r)


@triton.jit
def identity(s, dtype: tl.constexpr):
    return own.identity(s)


@triton.jit
def relu(s, dtype: tl.constexpr):
    return own.relu(s)


@triton.jit
def relu2(s, dtype: tl.constexpr):
    return own.relu2(s)


@triton.jit
def gelu(s, dtype: tl.constexpr):
    return (s * 0.5) * (1.0 + erf(s * _SQRT_HALF))


@triton.jit
def gelu_tanh(s, dtype: tl.constexpr):
    return (0.5 * s) * (1.0 + tanh(tl.fma((s * s) * s, _GELU_TANH_CUBIC, s) * _GELU_TANH, dtype))


@triton.jit
def quick_gelu(s, dtype: tl.constexpr):
    # Three operations of torch, each of which rounds.
    return s * rounded(sigmoid(rounded(s * _QUICK_GELU, dtype), dtype), dtype)


@triton.jit
def silu(s, dtype: tl.constexpr):
    return tl.div_rn(s, 1.0 + exp(-s))


@triton.jit
def sigmoid(s, dtype: tl.constexpr):
    return tl.div_rn(tl.full(s.shape, 1.0, tl.float32), 1.0 + exp(-s))


@triton.jit
def tanh(s, dtype: tl.constexpr):
    a = tl.abs(s)
    z = s * s
    p = tl.fma(tl.fma(tl.fma(_T0, z, _T1), z, _T2), z, _T3) * z
    large = tl.fma(own.approximate_reciprocal(1.0 + tl.exp2(a * _TANH_EXPONENT)), -2.0, 1.0)
    large = tl.where(a >= _TANH_ONE, 1.0, large)
    # (Of -0, the sum of two zeros is +0.)
    near = tl.where(s == 0.0, s, tl.fma(p, s, s))
    return tl.where(a >= _TANH_CUT, tl.where(s < 0.0, -large, large), near)


_FUNCTIONS = (relu, relu2, gelu, gelu_tanh, quick_gelu, silu, sigmoid, tanh, identity)
ACTIVATIONS = {f.fn.__name__: f for f in _FUNCTIONS}


def spelled(activation: str, order: Order):
    """The activation as a plan of this ``order`` takes it."""
    return (ACTIVATIONS if order is Order.VENDOR else own.ACTIVATIONS)[activation]
