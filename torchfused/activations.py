"""The activations in Triton, name -> f. Spelled step by step as parity/contract/activations.py says: the same
float32 operations in the same order as jaxfused/activations.py. Kernels compile with ``enable_fp_fusion=False``,
so that every product is rounded before it is added.
"""

import triton
import triton.language as tl

from parity.contract import activations as contract

_SILU_EXPONENT = tl.constexpr(contract.SILU_EXPONENT)
_QUICK_GELU_EXPONENT = tl.constexpr(contract.QUICK_GELU_EXPONENT)
_GELU_TANH_EXPONENT = tl.constexpr(contract.GELU_TANH_EXPONENT)
_GELU_TANH_EXPONENT_CUBIC = tl.constexpr(contract.GELU_TANH_EXPONENT_CUBIC)
_GELU_T = tl.constexpr(contract.GELU_T)
_GELU_EXPONENT = tl.constexpr(contract.GELU_EXPONENT)
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7 = map(tl.constexpr, contract.GELU_P)
_TANH_CUT = tl.constexpr(contract.TANH_CUT)
_TANH_EXPONENT = tl.constexpr(contract.TANH_EXPONENT)
_Q0, _Q1, _Q2, _Q3, _Q4 = map(tl.constexpr, contract.TANH_Q)


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
    t = 1.0 / (1.0 + _GELU_T * a)
    e = (a * a) * _GELU_EXPONENT
    p = ((((((t * _P7 + _P6) * t + _P5) * t + _P4) * t + _P3) * t + _P2) * t + _P1) * t + _P0
    # Below 2^-126 one compiler's exp2 flushes to zero and the other's does not.
    q = (t * p) * tl.where(e < -126.0, 0.0, tl.exp2(e))
    return s * tl.where(s < 0.0, q, 1.0 - q)


@triton.jit
def gelu_tanh(s):
    return s / (1.0 + tl.exp2(s * (_GELU_TANH_EXPONENT + _GELU_TANH_EXPONENT_CUBIC * (s * s))))


@triton.jit
def quick_gelu(s):
    return s / (1.0 + tl.exp2(s * _QUICK_GELU_EXPONENT))


@triton.jit
def silu(s):
    return s / (1.0 + tl.exp2(s * _SILU_EXPONENT))


@triton.jit
def sigmoid(s):
    return 1.0 / (1.0 + tl.exp2(s * _SILU_EXPONENT))


@triton.jit
def tanh(s):
    a = tl.abs(s)
    z = s * s
    q = (((z * _Q4 + _Q3) * z + _Q2) * z + _Q1) * z + _Q0
    small = s * (1.0 + z * q)
    large = 1.0 - 2.0 / (1.0 + tl.exp2(a * _TANH_EXPONENT))
    return tl.where(a < _TANH_CUT, small, tl.where(s < 0.0, -large, large))


ACTIVATIONS = {f.fn.__name__: f for f in (relu, relu2, gelu, gelu_tanh, quick_gelu, silu, sigmoid, tanh, identity)}
