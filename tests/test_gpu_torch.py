"""What only a GPU can show of the Triton kernels: bits that do not depend on tiles, batch or schedule, and size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from adapter_torch import DEVICE, operands, run, to_numpy
from yardstick import draw

from parity.contract.plan import Plan
from parity.contract.tiles import Tiles
from torchfused import launch_tiled_portable
from torchfused.functional import fused_mlp, stages

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned")]

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
        # The schedule is no part of what a launcher is found by.
        launch_tiled_portable._launcher.cache_clear()
        assert same(run(drawn), want), (warps, stage_count, group)


@pytest.mark.parametrize(("dtype", "precision"), KINDS)
def test_a_row_alone_is_the_row_in_a_batch(dtype, precision):
    drawn = drawn_as(dtype, precision)
    whole = run(drawn)
    for row in (0, 37, 99):
        alone = run(replace(drawn, arrays=dict(drawn.arrays) | {"x": drawn.arrays["x"][row : row + 1]}))
        assert all(alone[stage].tobytes() == whole[stage][row].tobytes() for stage in whole)


@pytest.mark.parametrize(("dtype", "precision"), KINDS)
def test_strides_leave_the_bits(dtype, precision):
    drawn = drawn_as(dtype, precision)
    given = operands(drawn.arrays)
    turned = {name: t.t().contiguous().t() if t.dim() == 2 else t for name, t in given.items()}
    found = stages(**turned, **drawn.options)
    assert same({stage: to_numpy(t) for stage, t in found.items()}, run(drawn))


def test_fifty_runs_give_the_same_bits():
    drawn = drawn_as("bfloat16", "ieee", plan=Plan(split_k=2))
    want = run(drawn)
    assert all(same(run(drawn), want) for _ in range(50))


@pytest.mark.parametrize("axis", ["rows", "stride"])
def test_offsets_past_two_to_the_31(axis):
    """The last rows of x, h and y lie more than 2^31 elements in."""
    torch.cuda.empty_cache()
    needed = 16 if axis == "rows" else 6
    if torch.cuda.mem_get_info()[0] < needed * 2**30:
        pytest.skip(f"needs {needed} GiB of the GPU's memory, and so much is not free")
    w_up = torch.eye(64, device=DEVICE, dtype=torch.float16)
    if axis == "rows":
        rows, plan = 2**25 + 130, Plan()
        x = torch.zeros(rows, 64, device=DEVICE, dtype=torch.float16)
    else:
        rows, plan = 70, Plan()
        x = torch.empty(rows * 2**25, device=DEVICE, dtype=torch.float16).view(rows, -1)[:, :64]
        x.zero_()
    tail = torch.arange(130 * 64 if axis == "rows" else 64, device=DEVICE).remainder(7).half().view(-1, 64)
    x[-len(tail) :] = tail
    x[0] = 3.0
    y = fused_mlp(x, w_up, w_up, activation="relu", plan=plan)
    assert torch.equal(y[-len(tail) :], tail)
    assert torch.equal(y[0], x[0])
    assert not y[1 : -len(tail)].any()


def test_memory_is_one_h_and_one_y():
    m, k, h, n = 4096, 512, 2048, 512
    given = operands(draw((m, k, h, n), dtype="bfloat16").arrays)
    fused_mlp(**given, plan=Plan())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fused_mlp(**given, plan=Plan())
    assert torch.cuda.max_memory_allocated() - before <= 2 * m * (h + n) + 2**20


def test_automatic_plan_is_right_on_both_sides_of_its_threshold():
    for m in (64, 65):
        drawn = draw((m, 2048, 4096, 2048), activation="gelu", dtype="bfloat16", biases="ud")
        y = to_numpy(fused_mlp(**operands(drawn.arrays), activation="gelu"))
        drawn.check({"y": y}, fused=m == 64)
        assert np.isfinite(y.astype(np.float32)).all()
