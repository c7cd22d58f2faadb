"""The gate's product between the library's GEMMs, elementwise."""

import triton
import triton.language as tl

from .epilogue import activated


@triton.jit
def gate_fwd_kernel(s_ptr, u_ptr, h_ptr, N, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """``h = act(s) * u`` of N elements, rounded where torch's two operations round; h may lie where u does."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(s_ptr + i, mask=i < N, other=0.0)  # [BLOCK]
    u = tl.load(u_ptr + i, mask=i < N, other=0.0)
    f = activated(s.to(tl.float32), s.dtype, ACTIVATION, True)
    tl.store(h_ptr + i, (f * u.to(tl.float32)).to(u.dtype), mask=i < N)
