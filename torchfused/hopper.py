"""What the launch rooms of the hopper backend share: tensor maps, and Triton's functions as Gluon takes them."""

from functools import cache, lru_cache
from typing import Any

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

# What TMA reads starts at a multiple of so many bytes.
ALIGNMENT = 16


def described(t: torch.Tensor, rows: int, columns: int) -> TensorDescriptor:
    """The tensor map of blocks ``[rows, columns]`` of ``t``, or of a copy where TMA cannot read ``t``: a trace chooses
    a plan without knowing where operands will start."""
    return TensorDescriptor.from_tensor(packed(t), [rows, columns], _layout(8 * t.itemsize, columns))


def packed(t: torch.Tensor) -> torch.Tensor:
    """``t``, or a copy of it that is row-major, without gaps, and starts where TMA can read."""
    return t if t.is_contiguous() and t.data_ptr() % ALIGNMENT == 0 else t.clone(memory_format=torch.contiguous_format)


@cache
def in_gluon(f: Any) -> Any:
    """A function of Triton's, compiled anew for Gluon."""
    return gluon.jit(f.fn)


@lru_cache(maxsize=64)
def _layout(bits: int, columns: int) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout(swizzle_byte_width=min(128, columns * bits // 8), element_bitwidth=bits, rank=2)
