"""What only a GPU can show of the Pallas kernels: bits that do not depend on tiles, batch or schedule, and size."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_jax import operands, run
from yardstick import draw

from jaxfused import launch_tiled_portable
from jaxfused.functional import fused_mlp
from parity.contract.plan import Plan
from parity.contract.tiles import Tiles

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("strict_jax")]

SHAPE = (100, 264, 392, 136)
KINDS = [("float32", "ieee"), ("float32", "tf32"), ("float16", "ieee"), ("bfloat16", "ieee")]
TILES = [
    Tiles(m=16, n=16, k=16), Tiles(m=64, n=32, k=32), Tiles(m=128, n=64, k=16), Tiles(m=32, n=128, k=64),
]  # fmt: skip


def drawn_as(dtype, precision, *, plan=None, shape=SHAPE, gated=True):
    biases = "ugd" if gated else "ud"
    kind = {"dtype": dtype, "precision": precision, "gated": gated}
    return draw(shape, activation="silu", biases=biases, plan=plan, **kind)


def same(a, b):
    return all(a[stage].tobytes() == b[stage].tobytes() for stage in a)


@pytest.mark.parametrize(("dtype", "precision"), KINDS)
@pytest.mark.parametrize("gated", [False, True])
def test_tiles_leave_the_bits(dtype, precision, gated):
    drawn = drawn_as(dtype, precision, gated=gated)
    want = run(drawn)
    drawn.check(want)
    for tiles in TILES:
        assert same(run(replace(drawn, plan=Plan(up=tiles, down=tiles))), want), tiles


@pytest.mark.parametrize(("dtype", "precision"), KINDS)
@pytest.mark.parametrize("plan", [Plan(), Plan(split_k=3)])
def test_speed_only_knobs_leave_the_bits(dtype, precision, plan, monkeypatch):
    drawn = drawn_as(dtype, precision, plan=replace(plan, up=TILES[1], down=TILES[1]))
    want = run(drawn)
    for warps, stage_count, group in ((2, 2, 1), (4, 3, 8), (8, 1, 3), (4, 4, 64)):
        monkeypatch.setattr(launch_tiled_portable, "schedule", lambda *_, w=warps, s=stage_count: (w, s))
        monkeypatch.setattr(launch_tiled_portable, "GROUP_M", group)
        # The schedule is no part of what jit caches by.
        jax.clear_caches()
        assert same(run(drawn), want), (warps, stage_count, group)
    monkeypatch.undo()
    jax.clear_caches()


@pytest.mark.parametrize(("dtype", "precision"), KINDS)
def test_a_row_alone_is_the_row_in_a_batch(dtype, precision):
    drawn = drawn_as(dtype, precision)
    whole = run(drawn)
    for row in (0, 37, 99):
        alone = run(replace(drawn, arrays=dict(drawn.arrays) | {"x": drawn.arrays["x"][row : row + 1]}))
        assert all(alone[stage].tobytes() == whole[stage][row].tobytes() for stage in whole)


def test_fifty_runs_give_the_same_bits():
    drawn = drawn_as("bfloat16", "ieee", plan=Plan(split_k=2))
    want = run(drawn)
    assert all(same(run(drawn), want) for _ in range(50))


def test_offsets_past_two_to_the_31():
    """The last rows of x, h and y lie more than 2^31 elements in."""
    rows = 2**25 + 130
    w = jnp.eye(64, dtype=jnp.float16)
    tail = (jnp.arange(130 * 64) % 7).astype(jnp.float16).reshape(130, 64)

    @jax.jit
    def faults(tail):
        x = jnp.zeros((rows, 64), jnp.float16).at[-130:].set(tail).at[0].set(3.0)
        y = fused_mlp(x, w, w, activation="relu", plan=Plan())
        return (y != x).sum(), y[-130:], y[0]

    wrong, last, first = faults(tail)
    assert int(wrong) == 0
    assert np.array_equal(last, tail)
    assert (np.asarray(first) == 3.0).all()


def test_automatic_plan_is_right_on_both_sides_of_its_threshold():
    for m in (1, 2):
        drawn = draw((m, 264, 392, 136), activation="gelu", dtype="bfloat16", biases="ud")
        with jax.numpy_rank_promotion("allow"):
            y = np.asarray(fused_mlp(**operands(drawn.arrays), activation="gelu"))
        drawn.check({"y": y}, fused=m == 1)
        assert np.isfinite(y.astype(np.float32)).all()
