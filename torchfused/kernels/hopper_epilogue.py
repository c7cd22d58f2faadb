"""How the tiled kernels on Hopper write: a few columns at a time through shared memory, by TMA behind their backs."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma


@gluon.jit
def staging(desc, BUFFERS: gl.constexpr):
    """Room for BUFFERS parts of what ``desc`` describes."""
    SHAPE: gl.constexpr = desc.block_type.shape
    return gl.allocate_shared_memory(desc.dtype, [2 * BUFFERS, SHAPE[0], SHAPE[1]], desc.layout)


@gluon.jit
def put(desc, room, value, row, column, PART: gl.constexpr):
    """Rounds ``value`` to the type of ``desc`` and sends it to its place; what is outside is left out."""
    part = room.index(PART)
    part.store(value.to(desc.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(desc, [row, column], part)
