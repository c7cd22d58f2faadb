"""Each add, on whole arrays, against the same one done slowly in exact fractions."""

from fractions import Fraction
from math import frexp

import numpy as np
import pytest

from parity.adder import AMPERE, HOPPER, IEEE, Adder, add_fused, add_product, operand_exponents, toward_zero
from parity.contract.dtypes import DTYPES
from parity.contract.tiles import chain_length
from parity.emulator import ascending, chained, gemm
from parity.rounding import NUMPY_DTYPES, round_tf32, round_to

F = np.float32
FUSED = [HOPPER["float16"], HOPPER["tf32"], AMPERE, Adder(terms=4, fraction=23), Adder(terms=16, rounding="nearest")]


def hard(generator, shape, dtype="float32", reach=12):
    """Values of all signs, far apart, with zeros and subnormals among them."""
    values = generator.standard_normal(shape) * 2.0 ** generator.integers(-reach, reach, shape)
    values = np.where(generator.random(shape) < 0.1, 0.0, values)
    return round_to(values, dtype)


def rounded(exact, toward):
    """A fraction as a float32 number: to nearest even, or toward zero."""
    if exact == 0:
        return 0.0
    exponent = frexp(float(exact))[1] - 1
    # float() rounds and may reach the next power of two.
    if abs(exact) < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, -126) - 23)
    count = exact / quantum
    whole = round(count) if toward == "nearest" else int(count)
    return float(whole * quantum)


def exponent_of(value, lowest):
    return max(frexp(float(value))[1] - 1, lowest)


def slow_fused(adder, totals, x, w, lowest):
    terms = [(Fraction(float(t)), exponent_of(t, -126)) for t in totals]
    terms += [
        (Fraction(float(a)) * Fraction(float(b)), exponent_of(a, lowest) + exponent_of(b, lowest))
        for a, b in zip(x, w, strict=True)
        if a and b
    ]
    quantum = Fraction(2) ** (max(e for _, e in terms) - adder.fraction)
    exact = sum(int(value / quantum) for value, _ in terms) * quantum
    return rounded(exact, adder.rounding)


@pytest.mark.parametrize("adder", FUSED, ids=repr)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "tf32"])
def test_a_fused_add(adder, dtype):
    generator = np.random.default_rng(0)
    m, n = 12, 10
    x, w = (hard(generator, shape, "float32" if dtype == "tf32" else dtype) for shape in ((m, 16), (16, n)))
    x, w = (round_tf32(a) if dtype == "tf32" else a.astype(F) for a in (x, w))
    total = hard(generator, (m, n))
    lowest = DTYPES.get(dtype, DTYPES["float32"]).min_exponent
    exponents = [operand_exponents(a, lowest) for a in (x, w)]
    for totals in ([], [total]):
        found = add_fused(adder, totals, x.astype(float), w.astype(float), *exponents)
        for i in range(m):
            for j in range(n):
                assert found[i, j] == slow_fused(adder, [t[i, j] for t in totals], x[i], w[:, j], lowest)


def test_tiny_and_huge_terms_of_a_fused_add():
    adder = HOPPER["bfloat16"]
    low, high = 2.0**-80, 2.0**100

    def of(x, w, total):
        x, w, total = np.array([x], F), np.array(w, F)[:, None], np.array([[total]], F)
        exponents = [operand_exponents(a, -126) for a in (x, w)]
        with np.errstate(all="ignore"):
            return add_fused(adder, [total], x.astype(float), w.astype(float), *exponents)[0, 0]

    assert of([low, low], [low, low], 0.0) == 0.0
    assert of([low, low], [2.0**-60, -(2.0**-60)], 2.0**-149) == 2.0**-149
    assert of([high, 1.0], [high, 1.0], 1.0) == np.inf
    assert of([high, high], [2.0**26, 2.0**26], 0.0) == 2.0**127
    assert of([high, high], [2.0**27, 2.0**27], 0.0) == np.inf
    assert np.isnan(of([np.inf, -np.inf], [1.0, 1.0], 0.0))
    assert np.signbit(of([-0.0, 0.0], [1.0, -1.0], -0.0)) == np.False_


@pytest.mark.parametrize("reach", [2, 12, 70])
def test_a_contracted_product(reach):
    generator = np.random.default_rng(reach)
    x, w, total = (hard(generator, (3000,), reach=reach) for _ in range(3))
    found = add_product(IEEE, total, x.astype(float), w.astype(float))
    exact = [Fraction(float(c)) + Fraction(float(a)) * Fraction(float(b)) for a, b, c in zip(x, w, total, strict=True)]
    assert all(value == rounded(e, "nearest") for value, e in zip(found, exact, strict=True) if abs(e) < 2**128)


def test_a_product_that_float64_would_round_twice():
    # 1 + 2^-24 is half way between two float32; what lies beyond float64 decides.
    x, w = np.array([2.0**-24 * (1 + 2.0**-23)] * 2, F), np.array([1 - 2.0**-23, 1.0 + 2.0**-23], F)
    one = np.ones(2, F)
    found = add_product(IEEE, one, x.astype(float), w.astype(float))
    assert found.tolist() == [1.0, 1.0 + 2.0**-23]
    apart = add_product(Adder(contracted=False), one, x.astype(float), w.astype(float))
    assert apart.tolist() == (one + x * w).tolist()


def test_cut_off_to_float32():
    values = np.array([1 + 2.0**-24, -1 - 2.0**-24, 2.0**128, 2.0**128 * (1 - 2.0**-26), 1.9 * 2.0**-149, 0.0])
    expected = [1.0, -1.0, np.inf, float(np.finfo(F).max), 2.0**-149, 0.0]
    assert toward_zero(values).tolist() == expected


def test_what_an_adder_takes():
    x = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-12, np.inf, 2.0**-130], F)
    assert Adder(tf32="away").taken(x).tolist()[:3] == [1 + 2.0**-10, 1 + 2.0**-10, np.inf]
    assert Adder(tf32="zero").taken(x).tolist()[:3] == [1.0, 1.0, np.inf]
    assert Adder(flush=True).taken(x)[3] == 0.0
    assert Adder().taken(x)[3] == x[3]
    with pytest.raises(ValueError, match="fraction is 12, must be 20 to 40"):
        Adder(terms=16, fraction=12)


@pytest.mark.parametrize("kind", HOPPER)
@pytest.mark.parametrize("chains", [1, 2, 3])
def test_a_gemm_is_its_adds(kind, chains):
    adder, k = HOPPER[kind], 77
    generator = np.random.default_rng(1)
    dtype = NUMPY_DTYPES.get(kind, np.dtype(F))
    x, w = (hard(generator, shape, dtype.name, 6) for shape in ((3, k), (k, 4)))
    found = gemm(x, w, ascending(k, chains=chains, terms=adder.terms), adder)
    left, right = adder.taken(x), adder.taken(w)
    length = chain_length(k, chains)
    for i in range(3):
        for j in range(4):
            parts = []
            for start in range(0, k, length):
                part = 0.0
                for first in range(start, min(start + length, k), adder.terms):
                    block = slice(first, min(first + adder.terms, start + length, k))
                    if adder.fused:
                        part = slow_fused(
                            adder, [part], left[i, block], right[block, j], DTYPES[dtype.name].min_exponent
                        )
                    else:
                        exact = Fraction(float(left[i, first])) * Fraction(float(right[first, j])) + Fraction(part)
                        part = rounded(exact, "nearest")
                parts.append(F(part))
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            assert found[i, j] == total


def test_orders_of_chains():
    assert str(ascending(128, chains=2, terms=16)) == "2 x chain[4 x (16+acc)]"
    assert str(ascending(96, terms=8)) == "chain[12 x (8+acc)]"
    assert str(ascending(64)) == "chain[64 x (1+acc)]"
    assert str(chained([(0, 4), (4, 10)])) == "(chain[4 x (1+acc)] + chain[6 x (1+acc)])"
    assert ascending(65, chains=2, terms=16).nodes[-2:] == ((64,), (68, 69))


def test_misfits_are_refused():
    x, w = np.ones((2, 8), F), np.ones((8, 2), F)
    with pytest.raises(ValueError, match="the order has 4 summands"):
        gemm(x, w, ascending(4), IEEE)
    with pytest.raises(ValueError, match="an IEEE adder adds two"):
        gemm(x, w, ascending(8, terms=8), IEEE)


def test_a_chain_may_start_from_something():
    x, w = np.ones((2, 8), F), np.ones((8, 3), F)
    for adder in (IEEE, HOPPER["float16"]):
        start = np.array([1.0, 2.0, 3.0], F)
        found = gemm(x, w, ascending(8, terms=adder.terms), adder, start=start)
        assert found.tolist() == [[9.0, 10.0, 11.0]] * 2
