"""The Triton kernels: every option crossed with every other, judged stage by stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from adapter_torch import DEVICE, operands, run, to_numpy, to_torch
from yardstick import PLANS, SMALL, draw, draw_row, mutants, rows

from parity.contract.plan import Plan
from parity.oracle import evaluate_integers
from torchfused import functional, launch_tiled_portable
from torchfused.kernels.gemm import round_tf32

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("row", rows())
def test_stages_are_within_bounds(row):
    drawn = draw_row(row)
    found = run(drawn)
    assert set(found) == set(drawn.oracle.rounded)
    drawn.check(found)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize(
    ("activation", "gated", "biases"), [("gelu", False, "ud"), ("gelu_tanh", True, "ugd"), ("relu", True, "d")]
)
def test_wrong_kernels_are_rejected(activation, gated, biases, precision):
    drawn = draw((37, 53, 67, 31), activation=activation, gated=gated, biases=biases, precision=precision)
    drawn.check(run(drawn))
    for name, mutant in mutants(drawn).items():
        assert not drawn.accepts(run(mutant)), name


def test_hidden_layer_that_is_not_rounded_is_rejected():
    drawn = draw((37, 53, 67, 31), dtype="float16", activation="gelu", biases="ud")
    found = run(drawn)
    wide = {name: array.astype(np.float32) for name, array in drawn.arrays.items()}
    y = run(replace(drawn, arrays=wide))["y"].astype(np.float16)
    drawn.check(found)
    assert not drawn.accepts(found | {"y": y})


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["relu", "identity", "relu2"])
def test_integers_are_exact(activation, gated, dtype, plan):
    biases = "ugd" if gated else "ud"
    drawn = draw((19, 33, 21, 18), kind="integer", activation=activation, gated=gated, dtype=dtype, biases=biases,
                 plan=PLANS[plan])  # fmt: skip
    try:
        whole = evaluate_integers(drawn.problem, drawn.arrays)
    except ValueError:
        assert dtype == "bfloat16"
        pytest.skip("sums past bfloat16's exact integers")
    found = run(drawn)
    assert all(np.array_equal(found[stage], whole[stage]) for stage in whole)


# One number every 64 terms, where a chain may begin: its sum depends on which are added first, and every partial sum
# is known.
PARTS = (2.0**24, 1.0, 1.0, 1.0, 1.0, -(2.0**24))


@pytest.mark.parametrize(("split_k", "total"), [(1, 0.0), (2, 2.0), (3, 3.0), (4, 3.0), (6, 0.0), (9, 0.0)])
def test_chains_are_as_long_as_the_plan_says_and_summed_upwards(split_k, total):
    x = torch.zeros(1, 64 * len(PARTS), device=DEVICE)
    x[0, ::64] = torch.tensor(PARTS)
    w_up, w_down = torch.ones(1, x.shape[1], device=DEVICE), torch.ones(1, 1, device=DEVICE)
    plan = Plan(up=SMALL, down=SMALL, split_k=(split_k, 1))
    y = functional.fused_mlp(x, w_up, w_down, activation="identity", plan=plan)
    assert y.item() == total
    # The second GEMM has the same chains.
    y = functional.fused_mlp(
        torch.ones(1, 1, device=DEVICE), x.t().contiguous(), w_up, activation="identity",
        plan=replace(plan, split_k=(1, split_k)),
    )  # fmt: skip
    assert y.item() == total


def test_bias_is_added_after_the_chain():
    x = torch.tensor([[2.0**24, -(2.0**24)]], device=DEVICE)
    one = torch.ones(1, 1, device=DEVICE)
    bias = torch.ones(1, device=DEVICE)
    y = functional.fused_mlp(x, torch.ones(1, 2, device=DEVICE), one, b_up=bias, activation="identity", plan=Plan())
    assert y.item() == 1.0


@pytest.mark.parametrize("gated", [False, True])
def test_two_launches_of_the_kernel_and_no_other(gated, monkeypatch):
    launches = []

    class Counted:
        def __getitem__(self, grid):
            def launched(*args, **kwargs):
                launches.append(grid)
                return kernel[grid](*args, **kwargs)

            return launched

    kernel = launch_tiled_portable.linear_fwd_kernel
    monkeypatch.setattr(launch_tiled_portable, "linear_fwd_kernel", Counted())
    drawn = draw((37, 53, 67, 31), gated=gated, biases="ud", plan=PLANS["small"])
    drawn.check(run(drawn))
    # 3 x 5 tiles of 16 x 16, 2 x 2 of 32 x 16.
    assert launches == [(15, 1, 1), (4, 1, 1)]


def test_poison_shows_what_no_kernel_wrote(monkeypatch):
    class Idle:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: None

    monkeypatch.setattr(launch_tiled_portable, "linear_fwd_kernel", Idle())
    drawn = draw((5, 6, 7, 8))
    assert all(np.isnan(stage).all() for stage in run(drawn).values())


def test_nan_stays_in_its_row_and_is_not_dropped():
    drawn = draw((37, 53, 67, 31), activation="relu", biases="ud")
    clean = run(drawn)
    x = drawn.arrays["x"].copy()
    x[11, 3] = np.nan
    found = run(replace(drawn, arrays=dict(drawn.arrays) | {"x": x}))
    others = np.arange(37) != 11
    for stage, values in found.items():
        assert np.isnan(values[11]).all()
        assert np.array_equal(values[others], clean[stage][others])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("plan", ["auto", "split2"])
def test_nothing_outside_the_operands_is_used(gated, plan):
    """Each operand is a corner of a larger tensor full of NaN: a load past an edge would show."""
    drawn = draw((37, 53, 67, 31), activation="gelu", gated=gated, biases="ugd" if gated else "ud", plan=PLANS[plan])

    def cornered(tensor):
        large = torch.full([size + 130 for size in tensor.shape], float("nan"), device=DEVICE)
        corner = large[tuple(slice(0, size) for size in tensor.shape)]
        return corner.copy_(tensor)

    inside = {name: cornered(tensor) for name, tensor in operands(drawn.arrays).items()}
    found = functional.stages(**inside, **drawn.options)
    plain = run(drawn)
    assert all(np.array_equal(to_numpy(found[stage]), plain[stage]) for stage in plain)


def test_repeated_run_gives_the_same_bits():
    drawn = draw((37, 53, 67, 31), activation="silu", gated=True, plan=PLANS["split4-3"])
    first, second = run(drawn), run(drawn)
    assert all(np.array_equal(first[stage], second[stage]) for stage in first)


# float32 bits and their nearest with 10 fraction bits: below half, ties (away from zero), NaN, infinity, overflow,
# a subnormal.
NEAREST_TF32 = {
    0x3F800FFF: 0x3F800000, 0x3F801000: 0x3F802000, 0x3F803000: 0x3F804000, 0xBF801000: 0xBF802000,
    0x7FC00001: 0x7FC00001, 0x7F800000: 0x7F800000, 0x7F7FFFFF: 0x7F800000, 0x00001000: 0x00002000,
}  # fmt: skip


def test_tf32_rounds_ties_away_and_keeps_nan():
    bits = np.array(list(NEAREST_TF32), "u4")
    want = np.array(list(NEAREST_TF32.values()), "u4")
    x, y = to_torch(bits.view("f4")), torch.zeros(8, device=DEVICE)
    round_tf32_kernel[(1,)](x, y, 8)
    assert np.array_equal(to_numpy(y).view("u4"), want)


@triton.jit
def round_tf32_kernel(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, round_tf32(tl.load(x_ptr + i)))
