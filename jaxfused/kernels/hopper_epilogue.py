"""What the hopper kernels' epilogues share: instructions of the portable kernels' bits, tiles read past the edges and
staged for TMA."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

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

from parity.contract.hopper_tiles import PART
from parity.contract.schedule import COLUMNS

from ..activations import approximate_reciprocal

# The layout of wgmma's sums.
SUMS = plgpu.Layout.WGMMA
# What is read and written at a time; a row of 16-bit columns is what one swizzle spans.
ROWS, WIDTH = PART
# As Triton spells them, each rounded: left to Mosaic, ptxas contracts a product into an addition, even across
# lax.optimization_barrier.
_INSTRUCTIONS = {
    lax.add_p: "add.rn.f32",
    lax.sub_p: "sub.rn.f32",
    lax.mul_p: "mul.rn.f32",
    # (As torch's Triton, flushing denormals: the contract's steps leave nothing of them. Three instructions less.)
    lax.exp2_p: "ex2.approx.ftz.f32",
}
_RECIPROCAL = "rcp.approx.ftz.f32"
_SWIZZLE = (plgpu.SwizzleTransform(128),)
_SCALAR = plgpu.Layout.WG_SPLAT(())


def as_triton(f: Callable[..., Any], *args: Array) -> Any:
    """``f(*args)``, element by element of matrices in SUMS, in the instructions of Triton's compilers: the other
    kernels' bits. A few columns at a time, so that what comes in between fits registers."""
    columns = args[0].shape[1]
    width = COLUMNS if columns % COLUMNS == 0 else columns
    given = [[a[:, i : i + width] for a in args] for i in range(0, columns, width)]
    closed, out = jax.make_jaxpr(f, return_shape=True)(*given[0])
    parts = [_evaluate(closed.jaxpr, some) for some in given]
    return jax.tree.unflatten(jax.tree.structure(out), [_join(list(part)) for part in zip(*parts, strict=True)])


def _join(parts: list[Array]) -> Array:
    """The matrix of such columns side by side."""
    rows, width = parts[0].shape

    @plgpu.inline_mgpu(
        arg_types=([SUMS] * len(parts),),
        return_type=plgpu.ShapeDtypeStruct((rows, width * len(parts)), parts[0].dtype, layout=SUMS),
    )
    def join(_, parts):
        registers = np.concatenate([part.registers for part in parts], axis=1)
        return mgpu.FragmentedArray(_registers=registers, _layout=parts[0].layout, _is_signed=parts[0].is_signed)

    return join(parts)


def _evaluate(jaxpr: Jaxpr, args: Any) -> list[Array]:
    known = dict(zip(jaxpr.invars, args, strict=True))

    def values(atoms):
        return [atom.val if isinstance(atom, Literal) else known[atom] for atom in atoms]

    for eqn in jaxpr.eqns:
        given = values(eqn.invars)
        if eqn.primitive in _INSTRUCTIONS:
            results = [_instruction(_INSTRUCTIONS[eqn.primitive], *given)]
        elif "jaxpr" in eqn.params and eqn.params.get("name") == approximate_reciprocal.__name__:
            results = [_instruction(_RECIPROCAL, *given)]
        elif "jaxpr" in eqn.params:  # jnp.where
            results = _evaluate(eqn.params["jaxpr"].jaxpr, given)
        elif eqn.primitive is lax.div_p:
            raise NotImplementedError("a division has other bits: approximate_reciprocal, and jit not disabled")
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


def load_bias(ref: jax.Ref, n: Array, *, axis: int = 1) -> Array:
    """``[WIDTH]`` of ``ref`` ``[N]`` from n on, for ``spread`` along the same axis. Past the edge, the edge's elements:
    they are in bounds, and nothing keeps what becomes of them. N is a multiple of 2."""
    layout = SUMS.reduce(1 - axis)

    @plgpu.inline_mgpu(
        arg_types=(plgpu.RefType(), _SCALAR),
        return_type=plgpu.ShapeDtypeStruct((WIDTH,), ref.dtype, layout=layout),
    )
    def load(_, ref, first):
        held, i64 = layout.to_mgpu(), ir.IntegerType.get_signless(64)
        (size,), kind = ir.MemRefType(ref.type).shape, ir.MemRefType(ref.type).element_type
        found = ir.VectorType.get((held.vector_length,), kind)
        base, last = utils.memref_ptr(ref), utils.c(size - held.vector_length, i64)
        start = arith.extui(i64, first.registers.item())
        registers = np.empty(held.registers_shape((WIDTH,)), dtype=object)
        for at, (i,) in zip(np.ndindex(registers.shape), held.thread_idxs((WIDTH,)), strict=True):
            offset = arith.minui(arith.addi(start, arith.index_castui(i64, i)), last)
            registers[at] = llvm.load(found, utils.getelementptr(base, [offset], kind))
        return mgpu.FragmentedArray(_registers=registers, _layout=held, _is_signed=None)

    return load(ref, n)


def spread(bias: Array, shape: tuple[int, int] = PART, *, axis: int = 1) -> Array:
    """``shape`` in float32: the bias of each column, or along axis 0 of each row."""
    return plgpu.layout_cast(lax.broadcast_in_dim(bias.astype(jnp.float32), shape, (axis,)), SUMS)


class Source(Protocol):
    """What an epilogue reads besides the sums."""

    def ask(self, m: Array, n: Array, wanted: Any) -> Any:
        """Asks for it, of the part from row m and column n on; where it is not ``wanted``, nothing is left under way.
        Returns what ``take`` wants."""
        ...

    def take(self, asked: Any) -> Any:
        """It, waited for and read, so that the next may be asked for."""
        ...


class Nothing:
    """The Source of an epilogue that reads nothing."""

    def ask(self, m: Array, n: Array, wanted: Any) -> tuple[()]:
        return ()

    def take(self, asked: tuple[()]) -> tuple[()]:
        return asked


class Biases:
    """Of each column: those of ``refs`` ``[N]``, or None where there is none."""

    def __init__(self, refs: Sequence[jax.Ref | None]) -> None:
        self._refs = refs

    def ask(self, m: Array, n: Array, wanted: Any) -> list[Array]:
        return [load_bias(ref, n) for ref in self._refs if ref is not None]

    def take(self, asked: list[Array]) -> list[Array | None]:
        there = iter(asked)
        return [None if ref is None else next(there) for ref in self._refs]


class Inbox:
    """Parts of ``refs`` ``[M, N]``, 16-bit ones, that come in by TMA, one of each at a time for each warpgroup. Past an
    edge they are zeros."""

    def __init__(self, refs: list[jax.Ref], rooms: list[Any], there: Any) -> None:
        self._refs, self._rooms, self._there = refs, rooms, there

    def ask(self, m: Array, n: Array, wanted: Any) -> tuple[()]:
        warpgroup = lax.axis_index("warpgroup")

        @pl.when(wanted)
        def _fetch():
            for ref, room in zip(self._refs, self._rooms, strict=True):
                source = ref.at[pl.ds(m, ROWS), pl.ds(n, WIDTH)]
                plgpu.copy_gmem_to_smem(source, room.at[warpgroup], self._there.at[warpgroup])

        return ()

    def take(self, asked: tuple[()]) -> list[Array]:
        warpgroup = lax.axis_index("warpgroup")
        plgpu.barrier_wait(self._there.at[warpgroup])
        found = [_unstage(room.at[warpgroup]) for room in self._rooms]
        # All threads have read, and what TMA writes next comes after.
        plgpu.commit_smem()
        return found


def inbox_memory(warpgroups: int, refs: list[jax.Ref]) -> tuple[list[Any], Any]:
    """An Inbox' ``rooms`` and ``there``."""
    rooms = [plgpu.SMEM((warpgroups, *PART), ref.dtype, transforms=_SWIZZLE) for ref in refs]
    return rooms, plgpu.Barrier(num_arrivals=len(refs), num_barriers=warpgroups)


class Staging:
    """Buffers ``[blocks, ROWS, 128 bytes]`` of one warpgroup, by type, that results go through on their way out by TMA;
    so many ``copies`` have been before."""

    def __init__(self, buffers: dict[Any, Any], copies: Array) -> None:
        self._buffers = buffers
        self.copies = copies

    def put(self, ref: jax.Ref, m: Array, n: Array, value: Array) -> None:
        """Rounds ``value`` ``[ROWS, WIDTH]`` into ``ref`` from row m and column n on, as far as that is there."""
        value = value.astype(ref.dtype)
        width = 128 // ref.dtype.itemsize
        for i in range(0, WIDTH, width):
            target = ref.at[pl.ds(m, ROWS), pl.ds(n + i, width)]
            self._copy(target, value if width == WIDTH else value[:, i : i + width])

    def _copy(self, target: Any, value: Array) -> None:
        buffers = self._buffers[jnp.dtype(value.dtype)]
        blocks = buffers.shape[0]
        # Of one type, all blocks but this one may still be on their way; of several, who knows which.
        plgpu.wait_smem_to_gmem(blocks - 1 if len(self._buffers) == 1 else 0, wait_read_only=True)
        block = buffers.at[lax.rem(self.copies, jnp.int32(blocks))]
        _stage(block, value)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(block, target)
        self.copies += 1


def staging_memory(warpgroups: int, blocks: int, kinds: Any) -> dict[Any, Any]:
    """What Staging takes, for each of so many warpgroups: by type, ``[warpgroups, blocks, ROWS, 128 bytes]``."""
    return {
        kind: plgpu.SMEM((warpgroups, blocks, ROWS, 128 // kind.itemsize), kind, transforms=_SWIZZLE)
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


def _unstage(buffer: Any) -> Array:
    @plgpu.inline_mgpu(
        arg_types=(plgpu.RefType(_SWIZZLE),),
        return_type=plgpu.ShapeDtypeStruct(PART, buffer.dtype, layout=SUMS),
    )
    def load(_, buffer):
        tiled = mgpu.memref_reshape(buffer, (ROWS // 8, 1, 8, WIDTH))
        return mgpu.FragmentedArray.load_tiled(tiled, swizzle=128)

    return load(buffer)
