"""A zoo of adders, each property planted: the probes find it from sums alone."""

from dataclasses import replace

import numpy as np
import pytest
from test_golden import emulated

from parity.adder import HOPPER, IEEE, Adder
from parity.contract.plan import Plan
from parity.emulator import ascending, gemm
from parity.order import Probe
from parity.probes import examine, facts_of
from parity.rounding import round_to
from parity.session import Session
from parity.tree import Tree

K = 64
CORE = HOPPER["float16"]


def facts(adder, dtype="float32", order=None, narrow=False):
    order = order or ascending(K, terms=adder.terms)

    def sums(x, w):
        x, w = round_to(x, dtype), round_to(w.T, dtype)
        found = np.diagonal(gemm(x, w, order, adder))
        return round_to(found, dtype) if narrow else found

    return examine(sums, order, dtype)


@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("terms", [4, 8, 16])
@pytest.mark.parametrize("fraction", [23, 24, 25, 26])
def test_a_fused_adders_bits_and_terms(terms, fraction, dtype, narrow):
    found = facts(Adder(terms=terms, fraction=fraction), dtype, narrow=narrow)
    assert found.terms == terms
    # So many parts of an ulp fit among the terms, and no more can be told.
    most = 23 + terms.bit_length() - 1
    assert (found.fraction, found.more) == (min(fraction, most), fraction >= most)
    assert found.product is None
    if found.fraction >= 25:
        assert found.rounding == "toward zero"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_fused_sum_that_is_rounded_to_nearest(dtype):
    assert facts(replace(CORE, rounding="nearest"), dtype).rounding == "to nearest"
    assert facts(CORE, dtype).rounding == "toward zero"


@pytest.mark.parametrize(("terms", "fraction"), [(16, 25), (8, 25), (8, 24), (16, 24), (16, 23), (4, 23)])
def test_whose_exponent_counts(terms, fraction):
    adder = Adder(terms=terms, fraction=fraction)
    assert facts(adder, "bfloat16").exponent == "of its factors"
    assert facts(replace(adder, normalised=True), "bfloat16").exponent == "its own"


@pytest.mark.parametrize("terms", [1, 8])
def test_what_becomes_of_the_last_bits_of_float32(terms):
    adder = Adder(terms=terms)
    for tf32, text in ((None, "kept"), ("away", "to nearest, ties away"), ("zero", "cut off")):
        assert facts(replace(adder, tf32=tf32)).tf32 == text
    assert facts(adder, "bfloat16").tf32 is None


@pytest.mark.parametrize("adder", [CORE, IEEE])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_subnormals(adder, dtype):
    assert facts(adder, dtype).subnormals == "kept"
    if dtype != "float16":
        assert facts(replace(adder, flush=True), dtype).subnormals == "flushed (subnormal input, subnormal result)"


def test_contraction():
    pairs = Tree.of(4, 6, {4: [0, 1], 5: [2, 3], 6: [4, 5]})
    for order in (None, ascending(K, chains=2), pairs):
        assert facts(IEEE, order=order).product == "fma"
        assert facts(replace(IEEE, contracted=False), order=order).product == "rounded first"
        assert facts(IEEE, order=order).rounding == "to nearest"
    assert facts(IEEE, "float16").product is None
    assert facts(IEEE).terms == 1
    assert facts(IEEE).fraction is None


def test_an_order_that_lets_nothing_be_asked():
    assert facts(IEEE, order=ascending(1)).why
    assert facts(IEEE, order=ascending(2)).why


def test_what_is_no_adder_has_no_properties():
    order = ascending(K, terms=16)
    found = examine(lambda x, w: np.full(len(x), np.nan), order, "float32")
    assert (found.fraction, found.rounding, found.exponent, found.tf32) == (23, None, None, None)


@pytest.mark.parametrize(
    ("fault", "dtype", "name", "value"),
    [
        ("hopper", "float16", "fraction", 25),
        ("hopper-fraction", "float16", "fraction", 24),
        ("hopper-nearest", "bfloat16", "rounding", "to nearest"),
        ("hopper-apart", "float32", "product", "rounded first"),
        ("hopper-flushed", "float32", "subnormals", "flushed (subnormal input, subnormal result)"),
        ("raise", "float32", "why", "ValueError: this runner cannot"),
    ],
)
def test_a_runner_is_asked(fault, dtype, name, value):
    probe = Probe(k=K, m=5, dtype=dtype, precision="ieee", plan=Plan())
    order = ascending(K, terms=1 if dtype == "float32" else 16)
    with Session(emulated(fault)) as session:
        found = next(facts_of(session, probe, {"torchfused": order}))
    assert getattr(found, name) == value
    assert found.runner == "torchfused"
