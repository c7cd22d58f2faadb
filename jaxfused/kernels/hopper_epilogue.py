"""What the hopper kernels' epilogues share: instructions of the portable kernels' bits, tiles read past the edges and
staged for TMA."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, llvm
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.extend.core import Jaxpr, Literal

# The layout of wgmma's sums.
SUMS = plgpu.Layout.WGMMA
# Rows and columns that an epilogue works on at a time; a row of 16-bit columns is what one swizzle spans.
PART = 64
# As XLA's Triton compiler spells them, each rounded: left to Mosaic, ptxas contracts a product into an addition, even
# across lax.optimization_barrier.
_INSTRUCTIONS = {
    lax.add_p: "add.rn.f32",
    lax.sub_p: "sub.rn.f32",
    lax.mul_p: "mul.rn.f32",
    lax.div_p: "div.full.f32",
    lax.exp2_p: "ex2.approx.f32",
}
_SWIZZLE = (plgpu.SwizzleTransform(128),)
_SCALAR = plgpu.Layout.WG_SPLAT(())


def as_triton(f: Callable[..., Array], *args: Array) -> Array:
    """``f(*args)`` of float32 sums in the instructions of XLA's Triton compiler: the other kernels' bits."""
    return _evaluate(jax.make_jaxpr(f)(*args).jaxpr, args)[0]


def _evaluate(jaxpr: Jaxpr, args: Any) -> list[Array]:
    known = dict(zip(jaxpr.invars, args, strict=True))

    def values(atoms):
        return [atom.val if isinstance(atom, Literal) else known[atom] for atom in atoms]

    for eqn in jaxpr.eqns:
        given = values(eqn.invars)
        if eqn.primitive in _INSTRUCTIONS:
            results = [_instruction(_INSTRUCTIONS[eqn.primitive], *given)]
        elif "jaxpr" in eqn.params:  # jnp.where
            results = _evaluate(eqn.params["jaxpr"].jaxpr, given)
        else:
            results = [eqn.primitive.bind(*given, **eqn.params)]
        known.update(zip(eqn.outvars, results, strict=True))
    return values(jaxpr.outvars)


def _instruction(name: str, *given: Any) -> Array:
    shape = jnp.broadcast_shapes(*map(jnp.shape, given))
    given = tuple(plgpu.layout_cast(jnp.broadcast_to(a, shape), SUMS) for a in given)

    @plgpu.inline_mgpu(
        arg_types=(SUMS,) * len(given),
        return_type=plgpu.ShapeDtypeStruct(shape, jnp.float32, layout=SUMS),
    )
    def apply(_, first, *rest):
        return first._pointwise(mgpu.FragmentedArray._lift_fast_instr(name), *rest)

    return apply(*given)


def load_part(ref: jax.Ref, m: Array, n: Array) -> Array:
    """``[PART, PART]`` of ``ref`` ``[M, N]`` from row m and column n on, in its own type. Past an edge, the edge's
    elements: they are in bounds, and nothing keeps what becomes of them. N is a multiple of 2."""
    return _load(ref, (m, n), SUMS, (PART, PART))


def load_bias(ref: jax.Ref, n: Array) -> Array:
    """``[PART]`` of ``ref`` ``[N]``, as load_part, for ``spread``."""
    return _load(ref, (n,), SUMS.reduce(0), (PART,))


def spread(bias: Array) -> Array:
    """``[PART, PART]`` in float32: the bias of each column."""
    shape = (PART, PART)
    return plgpu.layout_cast(lax.broadcast_in_dim(bias.astype(jnp.float32), shape, (1,)), SUMS)


def _load(ref: jax.Ref, first: tuple[Array, ...], layout: Any, shape: tuple[int, ...]) -> Array:
    @plgpu.inline_mgpu(
        arg_types=(plgpu.RefType(), (_SCALAR,) * len(first)),
        return_type=plgpu.ShapeDtypeStruct(shape, ref.dtype, layout=layout),
    )
    def load(_, ref, first):
        held, i64 = layout.to_mgpu(), ir.IntegerType.get_signless(64)
        sizes, kind = ir.MemRefType(ref.type).shape, ir.MemRefType(ref.type).element_type
        pair = ir.VectorType.get((held.vector_length,), kind)
        base = utils.memref_ptr(ref)
        starts = [arith.extui(i64, start.registers.item()) for start in first]
        registers = np.empty(held.registers_shape(shape), dtype=object)
        for at, index in zip(np.ndindex(registers.shape), held.thread_idxs(shape), strict=True):
            offset = None
            for axis, (start, i) in enumerate(zip(starts, index, strict=True)):
                last = sizes[axis] - (held.vector_length if axis == len(sizes) - 1 else 1)
                i = arith.minui(arith.addi(start, arith.index_castui(i64, i)), utils.c(last, i64))
                offset = i if offset is None else arith.addi(arith.muli(offset, utils.c(sizes[axis], i64)), i)
            registers[at] = llvm.load(pair, utils.getelementptr(base, [offset], kind))
        return mgpu.FragmentedArray(_registers=registers, _layout=held, _is_signed=None)

    return load(ref, first)


class Staging:
    """Buffers ``[blocks, PART, 128 bytes]`` of one warpgroup, by type, that results go through on their way out by TMA.

    To be made anew for each tile: which buffer is free is known when the kernel is traced.
    """

    def __init__(self, buffers: dict[Any, Any]) -> None:
        self._buffers = buffers
        self._put = dict.fromkeys(buffers, 0)
        self._last: dict[tuple[Any, int], int] = {}
        self._copies = 0

    def put(self, ref: jax.Ref, m: Array, n: Array, value: Array) -> None:
        """Rounds ``value`` ``[PART, PART]`` into ``ref`` from row m and column n on, as far as there is any of it."""
        value = value.astype(ref.dtype)
        width = 128 // ref.dtype.itemsize
        for i in range(0, PART, width):
            self._copy(ref.at[pl.ds(m, PART), pl.ds(n + i, width)], value if width == PART else value[:, i : i + width])

    def _copy(self, target: Any, value: Array) -> None:
        kind = jnp.dtype(value.dtype)
        buffers = self._buffers[kind]
        block = self._put[kind] % buffers.shape[0]
        self._put[kind] += 1
        if not self._copies:
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        elif (kind, block) in self._last:
            plgpu.wait_smem_to_gmem(self._copies - 1 - self._last[kind, block], wait_read_only=True)
        _stage(buffers.at[block], value)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(buffers.at[block], target)
        self._last[kind, block] = self._copies
        self._copies += 1


def staging_memory(warpgroups: int, blocks: int, kinds: Any) -> dict[Any, Any]:
    """What Staging takes, for each of so many warpgroups: by type, ``[warpgroups, blocks, PART, 128 bytes]``."""
    return {
        kind: plgpu.SMEM((warpgroups, blocks, PART, 128 // kind.itemsize), kind, transforms=_SWIZZLE)
        for kind in map(jnp.dtype, kinds)
    }


def _stage(buffer: Any, value: Array) -> None:
    @plgpu.inline_mgpu(arg_types=(plgpu.RefType(_SWIZZLE), SUMS))
    def store(_, buffer, value):
        rows, columns = value.shape
        tiled = mgpu.memref_reshape(buffer, (rows // 8, 1, 8, columns))
        # Half as many columns of 32 bits as the layout is made for cannot be stored without bank conflicts.
        value.store_tiled(tiled, swizzle=128, optimized=mgpu.bitwidth(value.mlir_dtype) == 16)

    store(buffer, value)
