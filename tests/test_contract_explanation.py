"""explain(): the counts by hand, and the words."""

import pytest

from parity.contract.errors import UnsupportedError
from parity.contract.explanation import explain
from parity.contract.plan import LIBRARY, Plan
from parity.contract.problem import Device, Problem
from parity.contract.roofs import ROOFS
from parity.contract.tiles import Tiles

H200 = Device(kind="gpu", name="NVIDIA H200", sm_count=132, smem_bytes=232448, capability=(9, 0))
SIZES = {"m": 16, "in_features": 64, "hidden_features": 256, "out_features": 32}
LAYER = Problem(**SIZES, dtype="bfloat16", bias_up=True, bias_down=True)
WEIGHTS = 2 * (64 * 256 + 256 * 32 + 256 + 32)
IO = 2 * 16 * (64 + 32)
HIDDEN = 2 * 16 * 256


def test_fused_counts():
    found = explain(LAYER, H200, Plan())
    assert found.launches == 2
    assert found.floor_bytes == WEIGHTS + IO
    assert found.bytes_moved == WEIGHTS + IO + 2 * HIDDEN
    assert found.floor_us == pytest.approx(1e6 * (WEIGHTS + IO) / ROOFS["NVIDIA H200"].stream)


def test_library_writes_the_preactivation_too():
    assert explain(LAYER, H200, LIBRARY).bytes_moved == WEIGHTS + IO + 4 * HIDDEN
    gated = Problem(**SIZES, dtype="bfloat16", gated=True)
    weights = 2 * (2 * 64 * 256 + 256 * 32)
    assert explain(gated, H200, LIBRARY).bytes_moved == weights + IO + 6 * HIDDEN
    assert explain(gated, H200, LIBRARY).launches is None


def test_many_rows_are_bound_by_arithmetic():
    many = Problem(m=8192, in_features=4096, hidden_features=14336, out_features=4096, dtype="bfloat16")
    assert explain(many, H200).floor_us == pytest.approx(1e6 * many.flops / ROOFS["NVIDIA H200"].matmul)


def test_no_floor_without_a_measurement():
    unmeasured = Device(kind="gpu", name="NVIDIA A100", sm_count=108, smem_bytes=166912, capability=(8, 0))
    assert explain(LAYER, unmeasured).floor_us is None
    assert explain(Problem(**SIZES), H200).floor_us is None


def test_words():
    plan = Plan(up=Tiles(m=16, n=32, k=64), down=Tiles(m=16, n=32, k=128), split_k=(2, 1))
    assert str(explain(LAYER, H200, plan)) == (
        "fused MLP [16, 64] -> 256 -> 32, gelu_tanh, bfloat16, on NVIDIA H200\n"
        "  plan      tiled/portable up 16x32x64 down 16x32x128 split_k (2, 1)\n"
        "  why       forced by the caller\n"
        "  launches  2\n"
        "  moves     69,184 bytes\n"
        "  floor     52,800 bytes, 786,432 operations: 0.0 us at this device's measured rates"
    )
    sizes = {"m": 2, "in_features": 3, "hidden_features": 4, "out_features": 5}
    single = Problem(**sizes, gated=True, activation="silu", precision="tf32")
    text = str(explain(single, Device(kind="cpu"), why="because"))
    assert text.startswith("fused MLP [2, 3] -> 4 -> 5, gated silu, float32 (tf32), on cpu\n  plan      library\n")
    assert "\n  why       because\n  launches  as many as the framework takes\n" in text


def test_raises_what_choose_raises():
    with pytest.raises(UnsupportedError, match="this is a CPU without one"):
        explain(LAYER, Device(kind="cpu"), Plan())
