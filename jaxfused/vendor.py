"""The activations as torch's eager kernels spell them, name -> f, step by step as parity/contract/activations.py says:
the same float32 operations in the same order as torchfused/vendor.py. ``dtype`` is the operands' type; ``device``
tells an interpreter from a GPU.
"""

from collections.abc import Callable
from functools import partial

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.experimental.pallas import triton as plt
from jax.typing import DTypeLike

from parity.contract import activations as contract
from parity.contract.problem import Device
from parity.contract.vendor import Order

from . import activations as own


def rounded(t: Array, dtype: DTypeLike) -> Array:
    """To ``dtype``, and float32 again."""
    return t.astype(dtype).astype(jnp.float32)


def exp(s: Array, device: Device) -> Array:
    t = fma(s, contract.VENDOR_EXP_SCALE, 0.5, device)
    t = jnp.where(t < 0.0, 0.0, jnp.where(t > 1.0, 1.0, t))
    n = jnp.floor(t * 252.0)
    # The product may have been rounded up to a whole number: what is left of it, exactly, tells.
    n = jnp.where(fma(t, 252.0, -n, device) < 0.0, n - 1.0, n)
    power = lax.bitcast_convert_type((n + 1.0).astype(jnp.int32) << 23, jnp.float32)
    high = fma(s, contract.VENDOR_EXP_HIGH, 126.0 - n, device)
    return jnp.exp2(fma(s, contract.VENDOR_EXP_LOW, high, device)) * power


def erf(s: Array, device: Device) -> Array:
    a = jnp.abs(s)
    far = a >= contract.VENDOR_ERF_CUT
    t = jnp.where(far, a, s * s)
    p, *rest = (jnp.where(far, f, n) for f, n in zip(contract.VENDOR_ERF_FAR, contract.VENDOR_ERF_NEAR, strict=True))
    for c in rest:
        p = fma(p, t, c, device)
    x = jnp.where(far, -a, s)
    r = fma(p, x, x, device)
    large = 1.0 - jnp.exp2(r)
    return jnp.where(far, jnp.where(s < 0.0, -large, large), r)


def identity(s: Array, dtype: DTypeLike, device: Device) -> Array:
    return own.identity(s)


def relu(s: Array, dtype: DTypeLike, device: Device) -> Array:
    return own.relu(s)


def relu2(s: Array, dtype: DTypeLike, device: Device) -> Array:
    return own.relu2(s)


def gelu(s: Array, dtype: DTypeLike, device: Device) -> Array:
    return (s * 0.5) * (1.0 + erf(s * contract.VENDOR_SQRT_HALF, device))


def gelu_tanh(s: Array, dtype: DTypeLike, device: Device) -> Array:
    inner = fma((s * s) * s, contract.VENDOR_GELU_TANH_CUBIC, s, device) * contract.VENDOR_GELU_TANH
    return (0.5 * s) * (1.0 + tanh(inner, dtype, device))


def quick_gelu(s: Array, dtype: DTypeLike, device: Device) -> Array:
    # Three operations of torch, each of which rounds.
    return s * rounded(sigmoid(rounded(s * contract.VENDOR_QUICK_GELU, dtype), dtype, device), dtype)


def silu(s: Array, dtype: DTypeLike, device: Device) -> Array:
    return divide(s, 1.0 + exp(-s, device), device)


def sigmoid(s: Array, dtype: DTypeLike, device: Device) -> Array:
    return divide(jnp.ones_like(s), 1.0 + exp(-s, device), device)


def tanh(s: Array, dtype: DTypeLike, device: Device) -> Array:
    a = jnp.abs(s)
    z = s * s
    p, *rest = contract.VENDOR_TANH_NEAR
    for c in rest:
        p = fma(z, p, c, device)
    large = fma(own.approximate_reciprocal(1.0 + jnp.exp2(a * contract.VENDOR_TANH_EXPONENT)), -2.0, 1.0, device)
    large = jnp.where(a >= contract.VENDOR_TANH_ONE, 1.0, large)
    # (Of -0, the sum of two zeros is +0.)
    near = jnp.where(s == 0.0, s, fma(p * z, s, s, device))
    return jnp.where(a >= contract.VENDOR_TANH_CUT, jnp.where(s < 0.0, -large, large), near)


def fma(a: Array, b: Array | float, c: Array | float, device: Device) -> Array:
    """``a b + c``, rounded once; by an interpreter, twice."""
    if device.kind == "interpreter":
        return a * b + c
    return _instruction("fma.rn.f32 $0, $1, $2, $3;", a, b, c)


def divide(a: Array, b: Array, device: Device) -> Array:
    """``a / b`` as IEEE rounds it; Pallas' own is the hardware's full-range division."""
    if device.kind == "interpreter":
        return a / b
    return _instruction("div.rn.f32 $0, $1, $2;", a, b)


def _instruction(asm: str, first: Array, *others: Array | float) -> Array:
    (result,) = plt.elementwise_inline_asm(
        asm,
        args=[first, *(other if isinstance(other, Array) else jnp.full_like(first, other) for other in others)],
        constraints=",".join(("=f", "f", *("f",) * len(others))),
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(first.shape, jnp.float32)],
    )
    return result


_FUNCTIONS = (relu, relu2, gelu, gelu_tanh, quick_gelu, silu, sigmoid, tanh, identity)
ACTIVATIONS = {f.__name__: f for f in _FUNCTIONS}


def spelled(activation: str, order: Order, dtype: DTypeLike, device: Device) -> Callable[[Array], Array]:
    """The activation as a plan of this ``order`` takes it."""
    if order is Order.VENDOR:
        return partial(ACTIVATIONS[activation], dtype=dtype, device=device)
    return own.ACTIVATIONS[activation]
