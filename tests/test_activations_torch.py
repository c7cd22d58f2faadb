"""The activations in Triton and their derivatives, alone: against float64 over the whole range, and at the edges."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from activation_points import EDGES, POINTS, SLOPE_EDGES, allowed, allowed_slope, exact, exact_slope
from adapter_torch import DEVICE, to_numpy, to_torch

from parity.contract.activations import ACTIVATIONS as CONTRACT
from torchfused.activations import ACTIVATIONS, DERIVATIVES
from torchfused.reference import ACTIVATIONS as REFERENCE
from torchfused.vendor import ACTIVATIONS as VENDOR


@triton.jit
def activation_kernel(s_ptr, y_ptr, N, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, ACTIVATION(tl.load(s_ptr + i, mask=i < N)), mask=i < N)


@triton.jit
def vendor_kernel(s_ptr, y_ptr, N, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, ACTIVATION(tl.load(s_ptr + i, mask=i < N), tl.float32), mask=i < N)


def evaluate(name: str, s: np.ndarray, table=ACTIVATIONS, kernel=activation_kernel) -> np.ndarray:
    held, out = to_torch(s), torch.full((s.size,), float("nan"), device=DEVICE)
    block = 1024
    with np.errstate(all="ignore"):
        kernel[(triton.cdiv(s.size, block),)](
            held, out, s.size, ACTIVATION=table[name], BLOCK=block, enable_fp_fusion=False
        )
    return to_numpy(out)


def test_table_is_the_contracts():
    assert list(ACTIVATIONS) == list(DERIVATIVES) == list(REFERENCE) == list(VENDOR) == list(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_within_the_contracts_rounding(name):
    assert (np.abs(evaluate(name, POINTS) - exact(name, POINTS)) <= allowed(name, POINTS)).all()


@pytest.mark.parametrize("name", CONTRACT)
def test_the_vendors_spelling_is_the_same_function(name):
    s = POINTS[np.abs(POINTS) < 2.0**20]
    found = evaluate(name, s, VENDOR, vendor_kernel)
    assert (np.abs(found - exact(name, s)) <= allowed(name, s)).all()


@pytest.mark.parametrize("name", CONTRACT)
def test_others_are_outside_it(name):
    for other in set(CONTRACT) - {name}:
        assert (np.abs(evaluate(other, POINTS) - exact(name, POINTS)) > allowed(name, POINTS)).any(), other


@pytest.mark.parametrize("name", CONTRACT)
def test_edges(name):
    for s, value in EDGES[name].items():
        found = evaluate(name, np.full(3, s, np.float32))
        assert np.array_equal(found, np.full(3, value, np.float32), equal_nan=True), (s, found)


@pytest.mark.parametrize("name", CONTRACT)
def test_reference_is_the_same_function(name):
    s = torch.from_numpy(POINTS[np.abs(POINTS) < 2.0**60].astype(np.float64))
    s = s.requires_grad_()
    value = REFERENCE[name](s)
    assert np.allclose(value.detach().numpy(), exact(name, s.detach().numpy()), rtol=2.0**-45, atol=2.0**-45)


@pytest.mark.parametrize("name", CONTRACT)
def test_slope_is_within_the_contracts_rounding(name):
    found = evaluate(name, POINTS, DERIVATIVES)
    assert (np.abs(found - exact_slope(name, POINTS)) <= allowed_slope(name, POINTS)).all()


@pytest.mark.parametrize("name", CONTRACT)
def test_other_slopes_are_outside_it(name):
    for other in set(CONTRACT) - {name}:
        found = evaluate(other, POINTS, DERIVATIVES)
        assert (np.abs(found - exact_slope(name, POINTS)) > allowed_slope(name, POINTS)).any(), other


@pytest.mark.parametrize("name", CONTRACT)
def test_slope_at_edges(name):
    for s, slope in SLOPE_EDGES[name].items():
        found = evaluate(name, np.full(3, s, np.float32), DERIVATIVES)
        assert np.array_equal(found, np.full(3, slope, np.float32), equal_nan=True), (s, found)


@pytest.mark.parametrize("name", CONTRACT)
def test_slope_is_the_references(name):
    """At 0, where that of relu is a choice, too."""
    s = torch.from_numpy(POINTS[np.abs(POINTS) < 2.0**60].astype(np.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(REFERENCE[name](s).sum(), s)
    assert np.allclose(slope.numpy(), exact_slope(name, s.detach().numpy()), rtol=2.0**-45, atol=2.0**-45)
