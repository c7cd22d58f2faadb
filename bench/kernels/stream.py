"""A launch that only reads: what no kernel that needs its weights can beat."""

import triton
import triton.language as tl


@triton.jit
def stream_read_kernel(source, partials, words, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Reads ``words`` int32 once; each program xors BLOCK * STEPS of them and writes one word."""
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], dtype=tl.int32)
    for step in tl.static_range(STEPS):
        at = (program * STEPS + step) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
        total ^= tl.load(source + at, mask=at < words, other=0, eviction_policy="evict_first")
    tl.store(partials + program, tl.xor_sum(total, 0))
