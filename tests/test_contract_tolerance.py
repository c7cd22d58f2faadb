"""The chain bound: float32 sums simulated in numpy stay inside, sums with one thing wrong do not."""

import math

import numpy as np
import pytest

from parity.contract.tolerance import FLOAT32_ROUNDOFF, LAMBDA, chain_bound

LENGTHS = (1, 7, 64, 500, 2048)
ROWS = 200


def products(length, seed=0):
    """Exact products of float16 numbers, so that only their summation rounds."""
    rng = np.random.default_rng([seed, length])
    pair = rng.standard_normal((2, ROWS, length)).astype(np.float16).astype(np.float64)
    return pair[0] * pair[1]


def ascending(terms):
    total = np.zeros(len(terms), np.float32)
    for column in terms.T:
        total = (total + column).astype(np.float32)
    return total.astype(np.float64)


def truncated(terms, group=16):
    """A tensor core: ``group`` products and the accumulator aligned to the largest, cut to 25 fraction bits, the sum
    cut to float32's 23."""
    total = np.zeros(len(terms))
    for first in range(0, terms.shape[1], group):
        parts = np.concatenate([total[:, None], terms[:, first : first + group]], axis=1)
        _, exponent = np.frexp(np.abs(parts).max(axis=1))
        grid = np.ldexp(1.0, exponent - 1 - 25)
        total = np.sum(np.trunc(parts / grid[:, None]) * grid[:, None], axis=1)
        _, exponent = np.frexp(total)
        grid = np.ldexp(1.0, exponent - 1 - 23)
        total = np.trunc(total / grid) * grid
    return total


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("arithmetic", "chain"), [("ieee", ascending), ("tensor", truncated)])
def test_a_right_sum_is_inside(arithmetic, chain, length):
    terms = products(length)
    bound = chain_bound(length, arithmetic)
    error = np.abs(chain(terms) - terms.sum(axis=1))
    size = np.sqrt((terms**2).sum(axis=1))
    assert (error <= bound.det * np.abs(terms).sum(axis=1)).all()
    assert (error <= bound.stat * size + bound.bias * np.abs(terms.sum(axis=1))).all()
    assert np.sqrt(np.mean((error / size) ** 2)) <= bound.rms + bound.bias


@pytest.mark.parametrize("length", LENGTHS[1:])
@pytest.mark.parametrize("arithmetic", ["ieee", "tensor"])
def test_a_wrong_sum_is_outside(arithmetic, length):
    terms = products(length)
    bound = chain_bound(length, arithmetic)
    size = np.sqrt((terms**2).sum(axis=1))
    exact = terms.sum(axis=1)

    def rejected(total):
        return (np.abs(total - exact) > bound.stat * size + bound.bias * np.abs(exact)).any()

    assert rejected(ascending(terms[:, :-1])), "last product dropped"
    assert rejected(ascending(np.concatenate([terms, terms[:, :1]], axis=1))), "one product counted twice"
    assert rejected(ascending(terms.astype(np.float16))), "products rounded to float16"
    half = np.zeros(ROWS, np.float16)
    for column in terms.T:
        half = (half + column).astype(np.float16)
    assert rejected(half.astype(np.float64)), "float16 accumulator"


def test_coefficients():
    assert chain_bound(99, "ieee").det == 100 * FLOAT32_ROUNDOFF
    assert chain_bound(99, "ieee").stat == LAMBDA * math.sqrt(100) * FLOAT32_ROUNDOFF
    assert chain_bound(99, "ieee").rms == math.sqrt(100) * FLOAT32_ROUNDOFF
    # 99 products in seven fused adds of 16, or thirteen of 8.
    assert chain_bound(99, "tensor").det == 5.25 * 7 * 2 * FLOAT32_ROUNDOFF
    walk = math.sqrt(13 + (0.104 * 13) ** 2)
    assert chain_bound(99, "tensor", 8).stat == pytest.approx(LAMBDA * walk * 2 * FLOAT32_ROUNDOFF, rel=1e-3)
    assert chain_bound(99, "tensor", 8).bias == pytest.approx(0.18 * 13 * 2 * FLOAT32_ROUNDOFF, rel=1e-2)
