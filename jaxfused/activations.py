"""The activations and their derivatives in Pallas, name -> f. Spelled step by step as
parity/contract/activations.py says: the same float32 operations in the same order as torchfused/activations.py.
XLA's Triton compiler does not contract, so every product is rounded
before it is added.
"""

import jax
from jax import Array
from jax import numpy as jnp

from parity.contract import activations as contract


@jax.jit
def approximate_reciprocal(d: Array) -> Array:
    """The hardware's approximation, to one ulp; of d >= 1. Mosaic GPU's kernels put the instruction in its place; what
    Triton's compiler makes of this has its bits."""
    return jnp.where(d > contract.RECIPROCAL_END, 0.0, 1.0 / d)


def identity(s: Array) -> Array:
    return s


def relu(s: Array) -> Array:
    # Not maximum(s, 0): on a GPU that drops NaN.
    return jnp.where(s <= 0.0, 0.0, s)


def relu2(s: Array) -> Array:
    r = relu(s)
    return r * r


def gelu(s: Array) -> Array:
    a = jnp.abs(s)
    t = approximate_reciprocal(1.0 + a * contract.GELU_T)
    e = (a * a) * contract.GELU_EXPONENT
    p = t * contract.GELU_P[-1] + contract.GELU_P[-2]
    for c in contract.GELU_P[-3::-1]:
        p = p * t + c
    # Below 2^-126 one compiler's exp2 flushes to zero and the other's does not.
    q = (t * p) * jnp.where(e < -126.0, 0.0, jnp.exp2(e))
    return s * jnp.where(s < 0.0, q, 1.0 - q)


def gelu_tanh(s: Array) -> Array:
    exponent = contract.GELU_TANH_EXPONENT + contract.GELU_TANH_EXPONENT_CUBIC * (s * s)
    return s * approximate_reciprocal(1.0 + jnp.exp2(s * exponent))


def quick_gelu(s: Array) -> Array:
    return s * approximate_reciprocal(1.0 + jnp.exp2(s * contract.QUICK_GELU_EXPONENT))


def silu(s: Array) -> Array:
    return s * approximate_reciprocal(1.0 + jnp.exp2(s * contract.SILU_EXPONENT))


def sigmoid(s: Array) -> Array:
    return approximate_reciprocal(1.0 + jnp.exp2(s * contract.SILU_EXPONENT))


def tanh(s: Array) -> Array:
    a = jnp.abs(s)
    z = s * s
    q = z * contract.TANH_Q[-1] + contract.TANH_Q[-2]
    for c in contract.TANH_Q[-3::-1]:
        q = q * z + c
    small = s * (1.0 + z * q)
    large = 1.0 - 2.0 * approximate_reciprocal(1.0 + jnp.exp2(a * contract.TANH_EXPONENT))
    return jnp.where(a < contract.TANH_CUT, small, jnp.where(s < 0.0, -large, large))


def d_identity(s: Array) -> Array:
    return jnp.ones_like(s)


def d_relu(s: Array) -> Array:
    return jnp.where(s <= 0.0, 0.0, jnp.ones_like(s))


def d_relu2(s: Array) -> Array:
    r = relu(s)
    return r + r


def d_gelu(s: Array) -> Array:
    a = jnp.abs(s)
    t = approximate_reciprocal(1.0 + a * contract.GELU_T)
    e = (a * a) * contract.GELU_EXPONENT
    p = t * contract.GELU_P[-1] + contract.GELU_P[-2]
    for c in contract.GELU_P[-3::-1]:
        p = p * t + c
    x = jnp.where(e < -126.0, 0.0, jnp.exp2(e))
    q = (t * p) * x
    inside = jnp.where(s < 0.0, q, 1.0 - q) + s * (x * contract.NORMAL_DENSITY)
    return jnp.where(e < -126.0, _step(s), inside)


def d_gelu_tanh(s: Array) -> Array:
    a = jnp.abs(s)
    square = a * a
    z = a * (contract.GELU_TANH_EXPONENT + contract.GELU_TANH_EXPONENT_CUBIC * square)
    q = jnp.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    rest = (s * ((q * g) * g)) * (contract.GELU_TANH_SLOPE + contract.GELU_TANH_SLOPE_SQUARE * square)
    return jnp.where(z < -126.0, _step(s), jnp.where(s < 0.0, q * g, g) + rest)


def d_quick_gelu(s: Array) -> Array:
    z = jnp.abs(s) * contract.QUICK_GELU_EXPONENT
    q = jnp.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    rest = (s * contract.QUICK_GELU_SLOPE) * ((q * g) * g)
    return jnp.where(z < -126.0, _step(s), jnp.where(s < 0.0, q * g, g) + rest)


def d_silu(s: Array) -> Array:
    z = jnp.abs(s) * contract.SILU_EXPONENT
    q = jnp.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    rest = s * ((q * g) * g)
    return jnp.where(z < -126.0, _step(s), jnp.where(s < 0.0, q * g, g) + rest)


def d_sigmoid(s: Array) -> Array:
    z = jnp.abs(s) * contract.SILU_EXPONENT
    q = jnp.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    return jnp.where(z < -126.0, 0.0, (q * g) * g)


def d_tanh(s: Array) -> Array:
    z = jnp.abs(s) * -contract.TANH_EXPONENT
    q = jnp.exp2(z)
    g = approximate_reciprocal(1.0 + q)
    return jnp.where(z < -126.0, 0.0, ((4.0 * q) * g) * g)


def _step(s: Array) -> Array:
    return jnp.where(s < 0.0, 0.0, jnp.ones_like(s))


_FUNCTIONS = (relu, relu2, gelu, gelu_tanh, quick_gelu, silu, sigmoid, tanh, identity)
_SLOPES = (d_relu, d_relu2, d_gelu, d_gelu_tanh, d_quick_gelu, d_silu, d_sigmoid, d_tanh, d_identity)
ACTIVATIONS = {f.__name__: f for f in _FUNCTIONS}
DERIVATIVES = {f.__name__: slope for f, slope in zip(_FUNCTIONS, _SLOPES, strict=True)}
