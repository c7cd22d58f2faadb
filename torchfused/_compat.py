"""What differs between the versions of Triton that are served: 3.6 to 3.9."""

from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

# Renamed on the way: a barrier of the threads of one partition; a tile from global to shared memory.
partition_barrier = getattr(gl, "barrier", None) or getattr(gl, "thread_barrier")  # noqa: B009 (unknown to the newer)
load_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
