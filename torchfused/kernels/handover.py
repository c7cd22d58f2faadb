"""The hand-over inside a launch: every program waits for all of them."""

import triton
import triton.language as tl


@triton.jit
def hand_over(arrivals_ptr):
    """Returns when every program of the grid has called it; what any of them wrote before is visible after.

    ``arrivals``: an int32, at first any value whose low 31 bits are zero. The programs' arrivals add up to 2^31, so the
    last one turns the top bit over and leaves the low bits zero for the next launch: nothing has to be set to zero.
    All programs must be on the GPU at once: launch them cooperatively.
    """
    # The program's stores, by all of its threads, come before the one thread's release.
    tl.debug_barrier()
    share = tl.where(tl.program_id(0) == 0, -0x80000000 - (tl.num_programs(0) - 1), 1)
    before = tl.atomic_add(arrivals_ptr, share, sem="release", scope="gpu")
    now = before
    while (before ^ now) >= 0:
        now = tl.atomic_add(arrivals_ptr, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()
