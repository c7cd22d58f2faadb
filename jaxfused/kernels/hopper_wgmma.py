"""wgmma in Mosaic's own instructions: sums that stay in registers from the first product of a chain to the last, of
operands that lie in shared memory either way around."""

import jax
from jax import Array
from jax import numpy as jnp
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import llvm
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu

from parity.contract.hopper_tiles import DEPTH

from .hopper_epilogue import SUMS

# How the operands lie: 128 bytes a row.
SWIZZLE = (plgpu.SwizzleTransform(128),)
# The accumulators, a register an element.
_ACC = plgpu.Layout._WGMMA_ACC_32BIT


def zeros(shape: tuple[int, int]) -> Array:
    """What a chain starts from."""

    @plgpu.inline_mgpu(return_type=plgpu.ShapeDtypeStruct(shape, jnp.float32, layout=_ACC))
    def make(_):
        return mgpu.WGMMAAccumulator.zero(*shape)._value

    return make()


def begin(acc: Array, a: jax.Ref, b: jax.Ref, a_k_minor: bool, b_k_minor: bool) -> Array:
    """``acc + a b`` of DEPTH terms, begun: wgmma_wait ends it. a ``[M, DEPTH]`` and b ``[N, DEPTH]`` where K is their
    last axis, else in blocks of columns, ``[M / DEPTH, DEPTH, DEPTH]``, K in the middle."""
    ref = plgpu.RefType(SWIZZLE)

    @plgpu.inline_mgpu(
        arg_types=(_ACC, ref, ref), return_type=plgpu.ShapeDtypeStruct(acc.shape, jnp.float32, layout=_ACC)
    )
    def multiply(_, acc, a, b):
        held = mgpu.WGMMAAccumulator(_value=acc, _original_layout=acc.layout, _sync=False)
        done = mgpu.wgmma(held, _left(a, a_k_minor), _right(b, b_k_minor), swizzle=128)
        llvm.inline_asm(
            ir.Type.parse("!llvm.void"), [], "wgmma.commit_group.sync.aligned;", "", has_side_effects=True
        )  # fmt: skip
        return done._value

    return multiply(acc, a, b)


def read(acc: Array) -> Array:
    """The sums, once they are waited for."""

    @plgpu.inline_mgpu(arg_types=(_ACC,), return_type=plgpu.ShapeDtypeStruct(acc.shape, jnp.float32, layout=SUMS))
    def take(_, acc):
        # Nothing that uses the sums may move ahead of the wait for them.
        return mgpu.optimization_barrier(acc).to_layout(mgpu.WGMMA_LAYOUT)

    return take(acc)


def _left(a: ir.Value, k_minor: bool) -> ir.Value:
    """``[m / tile, k / tile, tile, tile]``, as wgmma's descriptors are made from."""
    shape = ir.MemRefType(a.type).shape
    if k_minor:
        return mgpu.memref_reshape(a, (shape[0] // 8, 1, 8, DEPTH))
    return mgpu.memref_transpose(mgpu.memref_reshape(a, (shape[0], DEPTH // 8, 8, DEPTH)), (0, 1, 3, 2))


def _right(b: ir.Value, k_minor: bool) -> ir.Value:
    """``[k / tile, n / tile, tile, tile]``, as ``_left``."""
    shape = ir.MemRefType(b.type).shape
    if k_minor:
        return mgpu.memref_transpose(mgpu.memref_reshape(b, (shape[0] // 8, 1, 8, DEPTH)), (1, 0, 3, 2))
    return mgpu.memref_transpose(mgpu.memref_reshape(b, (shape[0], DEPTH // 8, 8, DEPTH)), (1, 0, 2, 3))
