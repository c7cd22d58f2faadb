"""choose(problem, device): every decision and refusal, without a GPU."""

import re
from dataclasses import replace
from itertools import product

import pytest

from parity.contract.choice import choose, complete, limitation
from parity.contract.dtypes import DTYPES
from parity.contract.errors import UnsupportedError
from parity.contract.measured import FASTER
from parity.contract.plan import LIBRARY, Backend, Plan, Strategy
from parity.contract.problem import Device, Problem
from parity.contract.schedule import decode_stages
from parity.contract.tiles import Tiles, chain_length, stage_bytes

INTERPRETER, CPU = Device(kind="interpreter"), Device(kind="cpu")
H200 = Device(kind="gpu", name="NVIDIA H200", sm_count=132, smem_bytes=232448, capability=(9, 0))
A10 = Device(kind="gpu", name="NVIDIA A10", sm_count=72, smem_bytes=101376, capability=(8, 6))
T4 = Device(kind="gpu", name="Tesla T4", sm_count=40, smem_bytes=65536, capability=(7, 5))


def problem(m=8, **fields):
    return Problem(**{"m": m, "in_features": 256, "hidden_features": 512, "out_features": 256} | fields)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Tiles(m=24, n=32, k=32), "tile m is 24, must be a power of two and at least 16"),
        (lambda: Tiles(m=16, n=8, k=32), "tile n is 8, must be a power of two and at least 16"),
        (lambda: Tiles(m=16, n=32, k=0), "tile k is 0, must be a power of two and at least 16"),
        (lambda: Tiles(m=-16, n=32, k=16), "tile m is -16, must be a power of two and at least 16"),
        (lambda: Plan(split_k=0), "split_k is 0, must be 1 or more for each of the two GEMMs"),
        (lambda: Plan(split_k=(2, -1)), "split_k is (2, -1), must be 1 or more for each of the two GEMMs"),
        (lambda: Plan(split_k=(1, 2, 3)), "split_k is (1, 2, 3), must be 1 or more for each of the two GEMMs"),
        (lambda: Plan(split_k=1.5), "split_k is 1.5, must be 1 or more for each of the two GEMMs"),
        (lambda: Plan(split_k=(1.5, 2)), "split_k is (1.5, 2), must be 1 or more for each of the two GEMMs"),
        (lambda: Plan(up=(16, 16, 16)), "up is (16, 16, 16), must be Tiles(m=..., n=..., k=...) or None"),
        (lambda: Tiles(m=16.0, n=16, k=16), "tile m is 16.0, must be a power of two and at least 16"),
        (lambda: choose(problem(), CPU, "library"), "plan is 'library', must be a Plan, such as Plan(strategy="),
        (lambda: Plan(strategy="library", split_k=2), "a library plan has no tiles, split_k or order"),
        (lambda: Plan(strategy="library", up=Tiles(m=16, n=16, k=16)), "a library plan has no tiles, split_k or order"),
        (lambda: Plan(strategy="decode", backend="hopper", up=Tiles(m=16, n=16, k=16)), "a decode/hopper plan has no"),
        (lambda: Plan(strategy="library", backend="hopper"), "a library plan has no backend of ours, hopper is one"),
        (lambda: Plan(strategy="magic"), "strategy is 'magic', must be one of tiled, decode, library"),
        (lambda: Plan(backend="metal"), "backend is 'metal', must be one of portable, hopper"),
    ],
)
def test_unsound_plan(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build()


def test_plan_says_what_it_is():
    plan = Plan(strategy="tiled", up=Tiles(m=16, n=32, k=64), down=Tiles(m=32, n=16, k=16), split_k=3)
    assert str(plan) == "tiled/portable up 16x32x64 down 32x16x16 split_k (3, 3)"
    assert plan.split_k == (3, 3)
    assert plan.launches == 2
    assert plan == Plan(up=plan.up, down=plan.down, split_k=(3, 3))
    assert str(LIBRARY) == "library"
    assert LIBRARY.launches is None


HERE = "plan tiled/portable cannot run here: "


@pytest.mark.parametrize(
    ("asked", "device", "forced", "message"),
    [
        (problem(), CPU, Plan(), HERE + "the kernels need an NVIDIA GPU or the interpreter, "
         "this is a CPU without one; set TRITON_INTERPRET=1 (torchfused) or JAXFUSED_INTERPRET=1 (jaxfused)"),
        (problem(dtype="bfloat16"), INTERPRETER, Plan(), HERE + "bfloat16 is silently wrong in "
         "Triton's interpreter, so both twins refuse it there; use float32 or float16, or the library plan"),
        (problem(dtype="bfloat16"), INTERPRETER, None, "bfloat16 is silently wrong in Triton's interpreter"),
        (problem(), T4, Plan(), HERE + "the kernels need compute capability 8.0, Tesla T4 has "
         "7.5; use the library plan"),
        (problem(), A10, Plan(up=Tiles(m=256, n=256, k=256)), HERE + "tiles 256x256x256 need "
         "524288 bytes of shared memory a pipeline stage, NVIDIA A10 has 101376; use smaller tiles or leave them out"),
        (problem(), A10, Plan(down=Tiles(m=16, n=128, k=256)), HERE + "tiles 16x128x256 need"),
    ],
)  # fmt: skip
def test_refused(asked, device, forced, message):
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}"):
        choose(asked, device, forced)


@pytest.mark.parametrize("device", [CPU, T4, INTERPRETER, H200])
@pytest.mark.parametrize("dtype", DTYPES)
def test_library_runs_anywhere(device, dtype):
    assert choose(problem(dtype=dtype), device, LIBRARY).plan == LIBRARY


def test_choices_and_their_reasons():
    assert choose(problem(), CPU).plan == LIBRARY
    assert choose(problem(), T4).plan == LIBRARY
    assert "compute capability 8.0, Tesla T4 has 7.5" in choose(problem(), T4).why
    large = {"dtype": "bfloat16", "in_features": 4096, "hidden_features": 4096, "out_features": 4096}
    xla = replace(H200, library="xla")
    assert str(choose(problem(16, **large), H200).plan) == "decode/hopper"
    assert choose(problem(16, **large), H200).why.startswith(
        "measured to be faster than the library: decode/hopper: at"
    )
    strided = choose(problem(16, **large, packed=False), H200)
    assert strided.plan.backend is Backend.PORTABLE
    assert "; not decode/hopper: the hopper backend reads packed row-major operands" in strided.why
    larger = large | {"hidden_features": 7168}
    assert choose(problem(256, **larger, gated=True), H200).plan.backend is Backend.HOPPER
    assert choose(problem(255, **larger, gated=True), H200).plan == LIBRARY
    assert choose(problem(4096, **larger, gated=True), A10).plan == LIBRARY
    assert choose(problem(4096, **large, gated=True), H200).plan == LIBRARY
    assert choose(problem(65, **large), H200).plan == LIBRARY
    assert choose(problem(65, **large), H200).why.endswith("this one has 65 rows and 67.1 MB of weights")
    assert choose(problem(16, **large), xla).plan == LIBRARY
    assert choose(problem(17, **large), xla).plan.strategy is Strategy.TILED
    # Nothing could refuse a launch of jax' that is not whole: a decode plan is asked for.
    assert all(region.plan.split("/")[0] != Strategy.DECODE for region in FASTER["xla"])
    assert choose(problem(1, dtype="bfloat16"), xla).plan.strategy is Strategy.TILED
    assert choose(problem(2, dtype="bfloat16"), xla).plan == LIBRARY
    assert choose(problem(1, dtype="bfloat16", in_features=1600), H200).plan == LIBRARY
    narrow = problem(1 << 18, dtype="bfloat16", in_features=64, hidden_features=128, out_features=64)
    assert choose(narrow, H200).plan.strategy is Strategy.TILED
    assert choose(problem(1), H200).plan == LIBRARY
    assert choose(problem(1), H200).why.startswith("float32 runs without tensor cores")
    assert choose(problem(1, **large), H200, training=True).why.startswith("gradients are wanted")
    assert choose(problem(4096), INTERPRETER).plan.strategy is Strategy.TILED
    forced = choose(problem(4096), H200, Plan(split_k=2))
    assert (forced.plan.strategy, forced.plan.split_k, forced.why) == (Strategy.TILED, (2, 2), "forced by the caller")


def test_gate_needs_a_second_weight_tile():
    tiles = Tiles(m=32, n=128, k=128)
    assert stage_bytes(tiles, "float32", 1) == 4 * (32 + 128) * 128
    assert stage_bytes(tiles, "float16", 2) == 2 * (32 + 256) * 128
    assert limitation(problem(), A10, Plan(up=tiles)) is None
    assert "tiles 32x128x128 need 147456 bytes" in limitation(problem(gated=True), A10, Plan(up=tiles))
    assert limitation(problem(gated=True), A10, Plan(down=tiles)) is None


DEVICES = (A10, H200, Device(kind="gpu", name="NVIDIA A100", sm_count=108, smem_bytes=166912, capability=(8, 0)))


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "ieee"), ("float32", "tf32"), ("float16", "ieee")])
def test_tiles_fit_whatever_the_shape(dtype, precision):
    sizes = (1, 15, 16, 17, 33, 64, 100, 129, 1000, 4096, 14336)
    for m, k, h, gated, device in product((0, *sizes), sizes, sizes, (False, True), DEVICES):
        asked = problem(m, in_features=k, hidden_features=h, gated=gated, dtype=dtype, precision=precision)
        assert limitation(asked, device, Plan()) is None
        done = complete(Plan(), asked, device)
        # Two stages at least: less would not be pipelined.
        assert 2 * stage_bytes(done.up, dtype, 1 + gated) <= device.smem_bytes
        assert 2 * stage_bytes(done.down, dtype, 1) <= device.smem_bytes
        # No tile larger than what it covers, but for the matrix unit's smallest step.
        assert done.up.m < 2 * max(m, 8) or done.up.m == 16
        assert done.up.k < 2 * max(k, 8) or done.up.k == 16
        assert done.up.n < 2 * max(h, 8) or done.up.n == 16


def test_complete_keeps_what_is_given():
    up = Tiles(m=64, n=16, k=32)
    done = complete(Plan(up=up, split_k=(2, 1)), problem(), H200)
    assert done.up == up
    assert done.down is not None
    assert done.split_k == (2, 1)
    assert complete(done, problem(), H200) == done
    assert complete(LIBRARY, problem(), H200) == LIBRARY


def test_chains_begin_at_multiples_of_64_and_cover_what_there_is():
    for inner, chains in product((1, 63, 64, 65, 100, 6400, 14336), range(1, 10)):
        length = chain_length(inner, chains)
        assert length % 64 == 0
        assert (chains - 1) * length < inner + 64 * chains
        assert chains * length >= inner


def test_decode_takes_all_rows_in_one_tile():
    short, tall = Tiles(m=16, n=32, k=32), Tiles(m=64, n=32, k=32)
    for device in (H200, INTERPRETER):
        for tiles in ({"up": short}, {"down": short}, {"up": tall, "down": short}):
            with pytest.raises(
                UnsupportedError, match="decode takes all rows in one tile, 64 for these 40, a tile is 16x"
            ):
                choose(problem(40, dtype="float16"), device, Plan(strategy="decode", **tiles))
        done = choose(problem(40, dtype="float16"), device, Plan(strategy="decode", up=tall)).plan
        assert done.up.m == done.down.m == 64


def test_decode_refuses_many_rows_and_odd_chains():
    few, many = problem(64, dtype="float16"), problem(65, dtype="float16")
    assert choose(few, H200, Plan(strategy="decode", split_k=(8, 1))).plan.launches == 1
    with pytest.raises(UnsupportedError, match="decode serves at most 64 rows, these are 65; use tiled or the library"):
        choose(many, H200, Plan(strategy="decode"))
    for split in (3, 16, (1, 6)):
        with pytest.raises(UnsupportedError, match="decode sums 1, 2, 4 or 8 chains at once, split_k is"):
            choose(few, H200, Plan(strategy="decode", split_k=split))


HOPPER, TILED = Plan(strategy="decode", backend="hopper"), Plan(strategy="tiled", backend="hopper")


@pytest.mark.parametrize(
    ("asked", "device", "plan", "message"),
    [
        (problem(dtype="float16"), A10, HOPPER, "the hopper backend needs compute capability 9.0, NVIDIA A10 has 8.6"),
        (problem(dtype="float16"), INTERPRETER, HOPPER, "the hopper backend needs compute capability 9.0, cpu has 0.0"),
        (problem(), H200, HOPPER, "the hopper backend serves float16 and bfloat16, these are float32"),
        (problem(dtype="float16", packed=False), H200, HOPPER, "the hopper backend reads packed row-major operands"),
        (problem(dtype="float16", in_features=264), H200, HOPPER, "decode/hopper serves sums of multiples of 256"),
        (problem(dtype="float16", out_features=72), H200, HOPPER, "decode/hopper serves sums of multiples of 256"),
        (problem(dtype="float16"), H200, replace(HOPPER, split_k=2), "the hopper backend sums one chain, split_k is"),
        (problem(65, dtype="float16"), H200, HOPPER, "decode serves at most 64 rows, these are 65"),
        (problem(dtype="float16"), A10, TILED, "the hopper backend needs compute capability 9.0, NVIDIA A10 has 8.6"),
        (problem(), H200, TILED, "the hopper backend serves float16 and bfloat16, these are float32"),
        (problem(dtype="float16", packed=False), H200, TILED, "the hopper backend reads packed row-major operands"),
        (
            problem(dtype="float16", out_features=68),
            H200,
            TILED,
            "tiled/hopper reads and writes rows of multiples of 16",
        ),
        (problem(dtype="float16"), H200, replace(TILED, split_k=2), "the hopper backend sums one chain, split_k is"),
        (
            problem(dtype="float16", gated=True),
            H200,
            replace(TILED, up=Tiles(m=128, n=256, k=64)),
            "tiles 128x256x64 are none of 128x128x64, 128x64x64; use one that is, or leave them out",
        ),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_what_hopper_refuses(asked, device, plan, message, training):
    with pytest.raises(UnsupportedError, match=f"cannot run here: {re.escape(message)}"):
        choose(asked, device, plan, training=training)


def test_a_decode_plan_of_hopper_has_no_tiles_and_trains_by_tiled():
    asked = problem(64, dtype="float16", gated=True)
    done = choose(asked, H200, HOPPER).plan
    assert (done, str(done), done.launches) == (HOPPER, "decode/hopper", 1)
    assert Plan.from_json(done.to_json()) == done
    trained = choose(asked, H200, HOPPER, training=True)
    assert trained.plan == choose(asked, H200, TILED).plan
    assert trained.why.startswith("forced by the caller; decode/hopper has no backward")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("m", [1, 100, 1000, 10_000])
def test_tiles_of_hopper_fit(m, gated):
    for size in (8, 264, 4096, 14336):
        asked = problem(m, dtype="bfloat16", in_features=size, hidden_features=size, out_features=size, gated=gated)
        plan = choose(asked, H200, TILED).plan
        assert choose(asked, H200, plan).plan == plan
        assert str(plan).startswith("tiled/hopper up 128x")


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "ieee"), ("float32", "tf32"), ("float16", "ieee")])
def test_decode_tiles_fit_whatever_the_shape(dtype, precision):
    sizes = (1, 16, 100, 1000, 4096, 14336)
    for m, k, h, gated, split in product((1, 16, 17, 64), sizes, sizes, (False, True), (1, 2, 4, 8)):
        asked = problem(m, in_features=k, hidden_features=h, gated=gated, dtype=dtype, precision=precision)
        for device in DEVICES:
            plan = Plan(strategy="decode", split_k=split)
            assert limitation(asked, device, plan) is None
            done = complete(plan, asked, device)
            need = [stage_bytes(g.tiles, dtype, w) * split for g, w in zip(done.gemms(), (1 + gated, 1), strict=True)]
            assert decode_stages(done.gemms(), device, dtype, 1 + gated) * max(need) <= device.smem_bytes
