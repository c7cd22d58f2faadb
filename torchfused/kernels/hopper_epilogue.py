"""How the tiled kernels on Hopper write: a few columns at a time through shared memory, by TMA behind their backs."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma

from .._compat import store_tile


@gluon.jit
def staging(desc, BUFFERS: gl.constexpr):
    """Room for BUFFERS parts of what ``desc`` describes for each of the two warpgroups."""
    SHAPE: gl.constexpr = desc.block_type.shape
    return gl.allocate_shared_memory(desc.dtype, [2 * BUFFERS, SHAPE[0], SHAPE[1]], desc.layout)


@gluon.jit
def put(desc, room, value, row, column, sent, ME: gl.constexpr):
    """Rounds ``value`` to the type of ``desc`` and sends it to its place; what is outside is left out. A warpgroup's
    buffers of ``room`` take turns; so many parts have been sent before, through whichever room: with several, each has
    one buffer, and waits until all has been read."""
    BUFFERS: gl.constexpr = room.shape[0] // 2
    # What was sent from here before has been read: all but the last, where there is a buffer more.
    tma.store_wait(BUFFERS - 1)
    buffer = room.index(ME * BUFFERS + sent % BUFFERS)
    buffer.store(value.to(desc.dtype))
    fence_async_shared()
    store_tile(desc, [row, column], buffer)
    return sent + 1
