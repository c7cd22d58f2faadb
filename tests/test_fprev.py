"""Orders are found whole, said in words, and an answer that fits no order is not taken for one."""

import numpy as np
import orders
import pytest

from parity.fprev import MASKS, Masks, UnsoundOrder, order_of
from parity.tree import Tree

SIZES = (2, 3, 16, 17, 48, 100, 160)


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", orders.IEEE)
def test_ieee_orders_are_recovered(name, masks):
    order = orders.IEEE[name]
    for n in (n for n in SIZES if n > 5):
        assert order_of(orders.sums(order, orders.add_ieee), n, masks) == orders.truth(order, n)


@pytest.mark.parametrize("fraction", [23, 24, 25])
@pytest.mark.parametrize("name", orders.FUSED)
def test_orders_of_tensor_cores_are_recovered(name, fraction):
    order = orders.FUSED[name]
    for n in SIZES:
        if n % 16 == 0 or "x" not in name:
            found = order_of(orders.sums(order, orders.fused_adder(fraction)), n, MASKS["bfloat16"])
            assert found == orders.truth(order, n)


def test_small_sums():
    for n in (1, 2, 3):
        assert order_of(lambda rows: rows.sum(axis=1), n, MASKS["float32"]).leaves == n
    assert Tree(1, ()).digest != Tree(2, ((0, 1),)).digest


@pytest.mark.parametrize("bits", [20, 26, 30])
def test_masks_that_swallow_too_little_are_seen(bits):
    add = orders.fused_adder(25)
    with pytest.raises(UnsoundOrder):
        order_of(orders.sums(orders.FUSED["16+1"], add), 160, Masks(1.0, 2.0**bits))


def test_an_order_that_changes_is_seen():
    generator = np.random.default_rng(0)

    def atomics(rows):
        return orders.sums(orders.IEEE["ascending"], orders.add_ieee)(rows[:, generator.permutation(rows.shape[1])])

    with pytest.raises(UnsoundOrder):
        order_of(atomics, 48, MASKS["float32"])


def test_a_row_that_is_summed_otherwise_is_seen():
    def tail(rows):
        found = orders.sums(orders.IEEE["ascending"], orders.add_ieee)(rows)
        found[-1:] = orders.sums(orders.IEEE["pairwise"], orders.add_ieee)(rows[-1:])
        return found

    with pytest.raises(UnsoundOrder):
        order_of(tail, 48, MASKS["float32"])


@pytest.mark.parametrize("total", [lambda rows: rows.max(axis=1), lambda rows: rows[:, 1:].sum(axis=1)])
def test_what_is_no_sum_is_refused(total):
    with pytest.raises(UnsoundOrder):
        order_of(total, 17, MASKS["float32"])


@pytest.mark.parametrize(
    ("name", "n", "text"),
    [
        ("ascending", 48, "chain[48 x (1+acc)]"),
        ("16+1", 48, "chain[3 x (16+acc)]"),
        ("16+1", 40, "chain[2 x (16+acc), 1 x (8+acc)]"),
        ("2 x 16+1", 64, "2 x chain[2 x (16+acc)]"),
        ("3 x 16+1", 96, "3 x chain[2 x (16+acc)]"),
        ("8 lanes", 64, "2 x 2 x 2 x chain[8 x (1+acc), stride 8]"),
        ("pairwise", 8, "2 x 2 x 2"),
        ("all at once", 16, "16"),
    ],
)
def test_an_order_in_words(name, n, text):
    assert str(orders.truth((orders.IEEE | orders.FUSED)[name], n)) == text


def test_counts_are_those_of_the_tree():
    tree = orders.truth(orders.FUSED["2 x 16+1"], 64)
    counts = tree.counts()
    assert [counts[0, j] for j in (0, 1, 15, 16, 31, 32, 63)] == [1, 16, 16, 32, 32, 64, 64]
    assert [counts[40, j] for j in (0, 32, 47, 48)] == [64, 16, 16, 32]
    assert (counts == counts.T).all()
