"""The hand-over inside a launch: every program waits for all of them."""

import jax
from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt


def hand_over(arrivals_ref: jax.Ref) -> None:
    """Returns when every program of the grid has called it; what any of them wrote before is visible after.

    ``arrivals``: an int32 ``[1]``, at first zero. The programs' arrivals add up to 2^31, so the last one turns the top
    bit over. All programs must be on the GPU at once.
    """
    # The program's stores, by all of its threads, come before the one thread's release.
    plt.debug_barrier()
    share = jnp.where(pl.program_id(0) == 0, jnp.int32(-(2**31)) - (pl.num_programs(0) - 1), 1)
    before = plt.atomic_add(arrivals_ref, 0, share)
    lax.while_loop(lambda now: (before ^ now) >= 0, lambda now: plt.atomic_add(arrivals_ref, 0, jnp.int32(0)), before)
    plt.debug_barrier()
