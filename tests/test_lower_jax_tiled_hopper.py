"""The Mosaic GPU kernels of strategy tiled lowered for CUDA under an abstract GPU: their IR, as launched."""

import re
from functools import partial
from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from test_lower_jax_hopper import DEVICE, SHORT, count, lowered

from jaxfused import activations, launch, launch_tiled_hopper
from jaxfused.kernels import hopper_gemm
from parity.contract.activations import ACTIVATIONS
from parity.contract.choice import choose
from parity.contract.errors import UnsupportedError
from parity.contract.hopper_table import tiling_for
from parity.contract.hopper_tiles import Tiling, Work, shared
from parity.contract.plan import Gemm, Plan
from parity.contract.problem import Problem
from parity.contract.tiles import Tiles

pytestmark = pytest.mark.usefixtures("strict_jax")

STEPS = {
    "mul": r"mul\.rn\.f32 ", "add": r"add\.rn\.f32 ", "sub": r"sub\.rn\.f32 ", "div": r"rcp\.approx\.ftz\.f32 ",
    "exp2": r"ex2\.approx\.ftz\.f32 ",
}  # fmt: skip
# Ragged along every axis; and not, so that Pallas brings a tile of any operand in one copy.
RAGGED, EVEN = (300, 264, 520), (384, 256, 512)
# (columns of a tile, weights): each warpgroup's own tiles, or those that both share.
TILES = [(64, 1), (128, 1), (256, 1), (64, 2), (128, 2)]
# A thread's elements of a part. Parts of a tile come one after the other, all through one piece of code.
OF = 32


def held(*shape, dtype="bfloat16"):
    return jax.ShapeDtypeStruct(shape, dtype)


def tile(columns: int) -> Tiles:
    return Tiles(m=128, n=columns, k=64)


def copies(size: int, whole: int) -> int:
    """Of a tile of so many rows or columns, that lie along an axis of ``whole``, where K is not the last one."""
    return 1 if whole % 64 == 0 else size // 64


def spelled(f) -> dict[str, int]:
    """The steps of ``f``, an activation or a derivative."""
    jaxpr = str(jax.make_jaxpr(f)(jnp.zeros((64, 64))))
    return {name: len(re.findall(rf"= {name} ", jaxpr)) for name in STEPS}


def check(kernel: dict, size: tuple[int, int], tiles: Tiles, weights: int = 1, kind: str = "bf16") -> None:
    """What all of them have: persistent programs, memory that there is, one chain of wgmma and no other product."""
    m, n = size
    assert kernel["grid"] == [min(-(-m // tiles.m) * -(-n // tiles.n), DEVICE.sm_count), 1, 1]
    assert kernel["block"] == [3 * 128, 1, 1]
    assert kernel["smem"] <= DEVICE.smem_bytes
    # 64 rows and 16 terms at a time, of a step of 64 terms.
    chain = 4 * (tiles.m // 64) // (2 if shared(tiles, weights) else 1)
    assert count(r"wgmma\.mma_async", kernel) == chain
    # Of two weights, both at once.
    assert count(rf"wgmma\.mma_async\.sync\.aligned\.m64n{weights * tiles.n}k16\.f32\.{kind}\.{kind} ", kernel) == chain
    # Registers are handed from those that load to those that multiply.
    assert count(r"setmaxregister|setmaxnreg", kernel) == 2
    assert count(r"\bfma\b|arith\.(sub|mul|div)f|math\.", kernel) == 0


def moved(kernel: dict) -> tuple[int, int]:
    """TMA copies in and out."""
    ways = "shared.cluster.global", "global.shared.cta"
    into, out = (count(re.escape(f"bulk.tensor.{way}"), kernel) for way in ways)
    return into, out


def shares(kernel: dict) -> int:
    """TMA copies in whose bytes go to both programs of a cluster."""
    segments = r'cluster\.global"\(.*operandSegmentSizes = array<i32: ([\d, ]+)>'
    # Into, the descriptor, where from, the barrier, offsets, to whom, ...
    return sum(sizes.split(", ")[5] == "1" for sizes in re.findall(segments, kernel["ir"]))


@pytest.mark.parametrize(("columns", "weights"), TILES)
@pytest.mark.parametrize(("m", "k", "n"), [(512, *EVEN[1:]), (500, *RAGGED[1:]), EVEN, (128, *EVEN[1:])])
def test_two_programs_bring_a_right_operand_together(m, k, n, columns, weights):
    tiles = tile(columns)
    gated = {"gate": held(k, n)} if weights == 2 else {}
    options = {"b": None, "activation": "identity", "precision": "ieee"}
    (kernel,) = lowered(
        lambda x, w, gated: launch_tiled_hopper.linear(Gemm(tiles=tiles, split_k=1), DEVICE, x, w, **gated, **options),
        held(m, k), held(k, n), gated,
    )  # fmt: skip
    check(kernel, (m, n), tiles, weights)
    # Tiles of a warpgroup each, an even number of rows of them.
    together = not shared(tiles, weights) and m > 384
    assert shares(kernel) == together * weights * copies(columns, n)
    # Both have set up their barriers before either brings something, and free each other's slots.
    assert count(r"cluster\.wait", kernel) == together
    assert count(r"mbarrier\.arrive\.shared::cluster", kernel) == together * 2
    # Waits: for a slot that is full, for one that is free, for one's turn; at the end, until the other frees no more.
    assert count(r"mbarrier\.try_wait", kernel) == 2 + shared(tiles, weights) + together


@pytest.mark.parametrize(
    ("columns", "m", "group_m", "rows"), [(64, 512, 8, 4), (64, 512, 1, 1), (64, 384, 8, 8), (256, 512, 8, 8)]
)
def test_a_group_counts_rows_of_tiles_and_the_kernel_rows_of_clusters(columns, m, group_m, rows, monkeypatch):
    told = []
    monkeypatch.setattr(launch_tiled_hopper, "linear_fwd_kernel", lambda *_, **constants: told.append(constants))
    tiling = Tiling(tiles=tile(columns), group_m=group_m)
    options = {"b": None, "activation": "identity", "precision": "ieee", "tiling": tiling}
    gemm = Gemm(tiles=tiling.tiles, split_k=1)
    jax.eval_shape(lambda x, w: launch_tiled_hopper.linear(gemm, DEVICE, x, w, **options), held(m, 256), held(256, 512))
    (constants,) = told
    assert constants["group_m"] == rows
    assert constants["group_m"] * constants["cluster"] == max(group_m, constants["cluster"])


@pytest.mark.parametrize("gated", [False, True])
def test_two_programs_bring_a_right_operand_of_the_backward_together(gated):
    m, k, n = 512, *EVEN[1:]
    saved = {name: held(m, n) for name in ("s", *("u",) * gated)}
    options = {"activation": "silu", "precision": "ieee"}
    (hidden,) = lowered(partial(launch_tiled_hopper.hidden_bwd, DEVICE, **options), held(m, k), held(n, k), saved)
    assert shares(hidden) == 1
    pair = (held(m, n), held(k, n)) * (1 + gated)
    of = {"transposed": (False, True), "tiling": Tiling(tiles=tile(64), group_m=3)}
    (kernel,) = lowered(partial(launch_tiled_hopper.product, DEVICE, "ieee", **of), *pair)
    assert shares(kernel) == 1 + gated


@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize(("m", "n", "group_m", "programs"), [(512, 520, 3, 7), (500, 64, 2, 1), (2304, 1000, 4, 66)])
def test_each_tile_is_computed_once(m, n, group_m, programs, cluster, monkeypatch):
    cut = hopper_gemm.Cut(
        M=m, N=n, K=64, tiles=tile(128), shared=False, stages=3, cluster=cluster, group_m=group_m
    )  # fmt: skip
    at = {}
    plain = {"axis_index": at.get, "axis_size": {"program": programs}.get, "div": int.__floordiv__, "rem": int.__mod__}
    monkeypatch.setattr(hopper_gemm, "lax", SimpleNamespace(**plain))
    monkeypatch.setattr(hopper_gemm, "jnp", SimpleNamespace(int32=int, minimum=min))
    seen = []
    for at["program"] in range(programs):
        for t in range(hopper_gemm._mine(cut)):
            together = []
            for at["cluster"] in range(cluster):
                together.append(hopper_gemm._tile(cut, t))
            # One below the other.
            assert together == [(together[0][0] + i * 128, together[0][1]) for i in range(cluster)]
            seen += together
    assert sorted(seen) == list(product(range(0, m, 128), range(0, n, 128)))


@pytest.mark.parametrize(("size", "taps"), [(RAGGED, None), (RAGGED, "float32"), (EVEN, "bfloat16")])
@pytest.mark.parametrize(("columns", "weights"), TILES)
def test_a_linear_of_one_chain(columns, weights, size, taps):
    (m, k, n), tiles = size, tile(columns)
    gated = {"gate": held(k, n), "b_gate": held(n)} if weights == 2 else {}

    def run(x, w, b, gated):
        options = {"activation": "identity", "precision": "ieee", "taps": taps}
        return launch_tiled_hopper.linear(Gemm(tiles=tiles, split_k=1), DEVICE, x, w, b, **gated, **options)

    (kernel,) = lowered(run, held(m, k), held(k, n), held(n), gated)
    check(kernel, (m, n), tiles, weights)
    # s and u, of 4 bytes, go out in two halves.
    out = 1 + {None: 0, "bfloat16": weights, "float32": 2 * weights}[taps]
    assert moved(kernel) == (1 + weights * copies(columns, n), out)
    # The biases, and each result's one rounding, two elements at a time; the gate's product.
    rounded = 1 + (weights if taps == "bfloat16" else 0)
    assert count(r"arith\.truncf", kernel) == rounded * OF // 2
    assert count(r"arith\.addf", kernel) == weights * OF // 2
    assert count(STEPS["mul"], kernel) == (weights - 1) * OF


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("name", "dtype"), [(name, "bfloat16") for name in ACTIVATIONS] + [("silu", "float16")])
def test_the_epilogue_is_rounded_step_by_step(name, gated, dtype):
    problem = Problem(
        m=300, in_features=264, hidden_features=520, out_features=136, activation=name, dtype=dtype, gated=gated
    )  # fmt: skip
    plan = choose(problem, DEVICE, Plan(strategy="tiled", backend="hopper")).plan
    given = {"x": held(300, 264, dtype=dtype), "w_up": held(264, 520, dtype=dtype)}
    given |= {"w_down": held(520, 136, dtype=dtype), "w_gate": held(264, 520, dtype=dtype) if gated else None}
    options = {"activation": name, "precision": "ieee"} | dict.fromkeys(("b_up", "b_gate", "b_down"))
    up, down = lowered(lambda given: launch.forward(plan, DEVICE, **given, **options), given)
    assert plan.up is not None
    assert plan.down is not None
    weights = 2 if gated else 1
    check(up, (300, 520), plan.up, weights, SHORT[dtype])
    check(down, (300, 136), plan.down, 1, SHORT[dtype])
    steps = spelled(activations.ACTIVATIONS[name])
    steps["mul"] += gated
    for step, instruction in STEPS.items():
        assert count(instruction, up) == steps[step] * OF, step
        assert count(instruction, down) == 0, step


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("name", "size", "save"),
    [(name, RAGGED, "preact") for name in ACTIVATIONS]
    + [("silu", EVEN, "preact"), ("silu", RAGGED, "hidden"), ("silu", (4096, 264, 2048), "hidden")],
)
def test_a_hidden_gradient(name, size, gated, save):
    m, k, n = size
    saved = {name: held(m, n) for name in ("s", *("u",) * gated, *("h",) * (save == "hidden"))}
    options = {"activation": name, "precision": "ieee"}
    (kernel,) = lowered(partial(launch_tiled_hopper.hidden_bwd, DEVICE, **options), held(m, k), held(n, k), saved)
    tiles = tiling_for(DEVICE, Work(kind="hidden_bwd", rows=m, outer=n, inner=k, gated=gated)).tiles
    assert tiles.n == (64 if m < 1024 else 128)
    check(kernel, (m, n), tiles)
    made = 1 + gated + (save == "preact")
    # s and u come in part by part: the first before the sums, others while one is finished.
    assert moved(kernel) == (2 + 2 * (1 + gated), made)
    assert count(r"arith\.extf", kernel) == (1 + gated) * OF // 2
    assert count(r"arith\.truncf", kernel) == made * OF // 2
    f, slope = (spelled(table[name]) for table in (activations.ACTIVATIONS, activations.DERIVATIVES))
    for step, instruction in STEPS.items():
        # dh slope; with a gate dh u slope, dh f and f u.
        products = (4 if gated else 1) if step == "mul" else 0
        assert count(instruction, kernel) == (f[step] + slope[step] + products) * OF, step
    assert count(r"arith\.addf", kernel) == 0


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("size", "columns"),
    [((304, 264, 520), 64), ((2056, 72, 840), 128), ((2056, 72, 1304), 256), ((4096, 256, 4096), 256)],
)
def test_a_product(size, columns, transposed, pair):
    m, k, n = size
    if transposed == (True, False):
        # Of two gradients' rows, which may be any number.
        k += 1
    a, b = held(*(k, m) if transposed[0] else (m, k)), held(*(n, k) if transposed[1] else (k, n))
    more = (a, b) if pair else ()
    tiling = Tiling(tiles=tile(columns), group_m=8)
    run = partial(launch_tiled_hopper.product, DEVICE, "ieee", transposed=transposed, tiling=tiling)
    (kernel,) = lowered(run, a, b, *more)
    check(kernel, (m, n), tiling.tiles)
    left = copies(128, m) if transposed[0] else 1
    right = 1 if transposed[1] else copies(columns, n)
    # The second product is summed up by the same instructions.
    assert moved(kernel) == ((1 + pair) * (left + right), 1)
    assert count(r"arith\.truncf", kernel) == OF // 2
    assert count(r"\.rn\.f32 |div\.full|ex2|arith\.addf", kernel) == 0


@pytest.mark.parametrize("gated", [False, True])
def test_a_launch_for_each_gradient(gated):
    m, k, h, n = 300, 264, 520, 136
    problem = Problem(
        m=m, in_features=k, hidden_features=h, out_features=n, activation="silu", dtype="bfloat16", gated=gated
    )  # fmt: skip
    plan = choose(problem, DEVICE, Plan(strategy="tiled", backend="hopper"), training=True).plan
    gate = {"w_gate": held(k, h)} if gated else {}
    needs = ("x", "w_up", "w_down", *gate)

    def run(dy, x, w_up, w_down, gate, saved):
        options = {"activation": "silu", "precision": "ieee", "needs": needs, "w_gate": gate.get("w_gate")}
        found = launch.tiled_backward(plan, DEVICE, dy, x, w_up, w_down, **options, saved=saved)
        assert {name: value.shape for name, value in found.items()} == {
            "d_x": (m, k), "d_w_up": (k, h), "d_w_down": (h, n),
        } | ({"d_w_gate": (k, h)} if gated else {})  # fmt: skip
        return found

    saved = {name: held(m, h) for name in ("s", *("u",) * gated)}
    found = lowered(run, held(m, n), held(m, k), held(k, h), held(h, n), gate, saved)
    sizes = [("hidden_bwd", m, h, n), ("weight_bwd", h, n, m), ("input_bwd", m, k, h)]
    sizes += [("weight_bwd", k, h, m)] * (1 + gated)
    assert len(found) == len(sizes)
    for kernel, (kind, rows, outer, inner) in zip(found, sizes, strict=True):
        work = Work(kind=kind, rows=rows, outer=outer, inner=inner, gated=gated and kind != "weight_bwd")
        check(kernel, (rows, outer), tiling_for(DEVICE, work).tiles)


@pytest.mark.parametrize("tiling", [Tiling(tiles=tile(64), group_m=8), Tiling(tiles=tile(128), group_m=3)], ids=str)
def test_a_tiling_of_the_callers(tiling):
    m, k, n = RAGGED
    options = {"activation": "silu", "precision": "ieee"}
    hidden = partial(launch_tiled_hopper.hidden_bwd, DEVICE, **options, tiling=tiling)
    (kernel,) = lowered(hidden, held(m, k), held(n, k), {"s": held(m, n)})
    check(kernel, (m, n), tiling.tiles)
    product = partial(launch_tiled_hopper.product, DEVICE, "ieee", tiling=tiling)
    (kernel,) = lowered(product, held(m, k), held(k, n))
    check(kernel, (m, n), tiling.tiles)
    gemm = Gemm(tiles=tiling.tiles, split_k=1)
    linear = partial(launch_tiled_hopper.linear, gemm, DEVICE, b=None, **options, tiling=tiling)
    (kernel,) = lowered(linear, held(m, k), held(k, n))
    check(kernel, (m, n), tiling.tiles)


def test_a_tiling_that_is_unfit_is_refused():
    tiling = Tiling(tiles=tile(256), group_m=3)
    hidden = partial(launch_tiled_hopper.hidden_bwd, DEVICE, activation="silu", precision="ieee", tiling=tiling)
    with pytest.raises(UnsupportedError, match="hidden_bwd 300x520x264 cannot run here: tiles 128x256x64 are none of"):
        lowered(hidden, held(300, 264), held(520, 264), {"s": held(300, 520)})


def test_nothing_launches_nothing():
    product = partial(launch_tiled_hopper.product, DEVICE, "ieee", transposed=(True, False))
    for rows, inner in ((0, 64), (64, 0)):
        assert lowered(product, held(inner, rows), held(inner, 64)) == []
    options = {"activation": "silu", "precision": "ieee"}
    linear = partial(launch_tiled_hopper.linear, Gemm(tiles=tile(64), split_k=1), DEVICE, b=None, **options)
    assert lowered(linear, held(0, 64), held(64, 64)) == []
    hidden = partial(launch_tiled_hopper.hidden_bwd, DEVICE, **options)
    assert lowered(hidden, held(0, 64), held(64, 64), {"s": held(0, 64)}) == []
