"""Tensor maps: of what TMA can read, and kept without what they were made of."""

import gc
import weakref

import torch

from torchfused import launcher
from torchfused.hopper import described


def test_a_tensor_that_starts_between_16_bytes_is_described_by_a_copy():
    shifted = torch.arange(8 * 64 + 1, dtype=torch.float16)[1:].view(8, 64)
    base = described(shifted, 8, 64).base
    assert base.data_ptr() % 16 == 0
    assert torch.equal(base, shifted)
    assert described(base, 8, 64).base is base


def test_a_map_that_is_kept_does_not_hold_its_tensor():
    t = torch.zeros(8, 64, dtype=torch.float16)
    kept, alive = launcher._bare(described(t, 8, 64)), weakref.ref(t)
    del t
    gc.collect()
    assert alive() is None
    assert kept.block_shape == [8, 64]
