"""The backward's Pallas kernels: every option crossed with every other, judged stage by stage."""

import numpy as np
import pytest
from adapter_jax import gradients
from yardstick import draw, draw_row, rows, upstream

from parity.backward import evaluate_gradients, integers_are_exact
from parity.contract.saved import SAVES

pytestmark = pytest.mark.usefixtures("strict_jax")


@pytest.mark.parametrize("row", rows())
def test_gradients_are_within_bounds(row):
    drawn = draw_row(row)
    save = SAVES[list(rows()).index(row) % len(SAVES)]
    drawn.check_gradients(gradients(drawn, save), save)


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("gated", [False, True])
def test_integers_are_exact(gated, save):
    biases = "ugd" if gated else "ud"
    drawn = draw((19, 33, 21, 18), kind="integer", activation="relu", gated=gated, biases=biases)
    # Integers too, that equality may be demanded.
    dy = np.rint(upstream(drawn)).astype(np.float32)
    whole = evaluate_gradients(drawn.oracle, dy, save)
    assert integers_are_exact(drawn.oracle, dy, whole)
    found = gradients(drawn, save, dy)
    assert all(np.array_equal(found[stage], whole[stage]) for stage in whole)


def test_recomputed_gradients_are_those_of_the_kept_hidden_layer():
    drawn = draw((37, 53, 67, 31), activation="silu", gated=True, biases="ugd", dtype="float16")
    kept, again = gradients(drawn, "hidden"), gradients(drawn, "recompute")
    assert all(np.array_equal(kept[stage], again[stage]) for stage in kept)
    # The hidden layer from rounded pre-activations is another one.
    assert not np.array_equal(gradients(drawn, "preact")["h"], kept["h"])


def test_repeated_run_gives_the_same_bits():
    drawn = draw((37, 53, 67, 31), activation="gelu", gated=True, biases="ugd")
    first, second = gradients(drawn), gradients(drawn)
    assert all(np.array_equal(first[stage], second[stage]) for stage in first)
