"""The Pallas kernels lowered for CUDA under an abstract GPU: their Triton IR, as launch.py would launch it."""

import re

import jax
import pytest
from jax._src.interpreters import mlir
from jax._src.lib.mlir import ir
from jaxlib.triton import dialect

from jaxfused import launch
from parity.contract.activations import ACTIVATIONS
from parity.contract.choice import choose
from parity.contract.dtypes import DTYPES
from parity.contract.plan import Gemm, Plan
from parity.contract.problem import Device, Problem
from parity.contract.saved import saved_names
from parity.contract.schedule import COLUMNS, schedule
from parity.contract.tiles import tiles_for

pytestmark = pytest.mark.usefixtures("strict_jax")

DEVICES = {
    "A100": Device(kind="gpu", name="NVIDIA A100", sm_count=108, smem_bytes=166912, capability=(8, 0)),
    "H200": Device(kind="gpu", name="NVIDIA H200", sm_count=132, smem_bytes=232448, capability=(9, 0)),
}
SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def kernels(
    problem: Problem, device: Device, *, split_k: int = 1, order: str = "fused", taps: bool = False
) -> list[dict]:
    """The kernels of one MLP, forward."""
    plan = choose(problem, device, Plan(split_k=split_k, order=order)).plan
    options = {"activation": problem.activation, "precision": problem.precision, "taps": "float32" if taps else None}
    return lowered(lambda given: launch.tiled(plan, device, **given, **options), device, operands(problem))


def backward(problem: Problem, device: Device, needs: tuple[str, ...], save: str = "preact") -> list[dict]:
    """Those of its gradients ``needs``, from what is kept by ``save``."""
    given = {name: a for name, a in operands(problem).items() if name in ("x", "w_up", "w_down", "w_gate")}
    hidden = jax.ShapeDtypeStruct((problem.m, problem.hidden_features), problem.dtype)
    given["saved"] = dict.fromkeys(saved_names(save, problem.gated), hidden)
    dy = jax.ShapeDtypeStruct((problem.m, problem.out_features), problem.dtype)
    options = {"activation": problem.activation, "precision": problem.precision, "needs": needs}

    def run(given):
        return launch.tiled_backward(choose(problem, device, Plan()).plan, device, **given, **options)

    return lowered(run, device, {"dy": dy} | given)


def operands(problem: Problem) -> dict:
    def held(*shape):
        return jax.ShapeDtypeStruct(shape, problem.dtype)

    m, k, h, n = problem.m, problem.in_features, problem.hidden_features, problem.out_features
    return {
        "x": held(m, k),
        "w_up": held(k, h),
        "w_down": held(h, n),
        "w_gate": held(k, h) if problem.gated else None,
        "b_up": held(h) if problem.bias_up else None,
        "b_gate": held(h) if problem.bias_gate else None,
        "b_down": held(n) if problem.bias_down else None,
    }


def lowered(run, device: Device, given: dict) -> list[dict]:
    """The Triton custom calls of ``run(given)`` in order: their IR and their schedule."""
    gpu = jax.sharding.AbstractDevice(device_kind=device.name, platform="gpu", num_cores=device.sm_count)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=gpu)):
        module = jax.jit(run).trace(given).lower(lowering_platforms=("cuda",)).compiler_ir()
    found = []
    context = mlir.make_ir_context()
    dialect.register_dialect(context)

    def visit(op):
        if op.name == "stablehlo.custom_call":
            config = ir.DictAttr(op.attributes["mhlo.backend_config"])
            with context:
                text = str(ir.Module.parse(ir.StringAttr(config["ir"]).value_bytes))
            schedule = ("num_warps", "num_stages", "grid_x")
            found.append({"ir": text} | {name: ir.IntegerAttr(config[name]).value for name in schedule})
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def count(pattern: str, kernel: dict) -> int:
    return len(re.findall(pattern, kernel["ir"]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 257])
def test_two_kernels_with_the_plans_arithmetic(m, dtype, precision, gated, device):
    if precision == "tf32" and dtype != "float32":
        pytest.skip("tf32 is for float32")
    problem = Problem(
        m=m, in_features=70, hidden_features=300, out_features=19, gated=gated, dtype=dtype, precision=precision,
        activation="gelu", bias_up=True, bias_gate=gated, bias_down=True,
    )  # fmt: skip
    plan = choose(problem, DEVICES[device], Plan()).plan
    up, down = kernels(problem, DEVICES[device], taps=True)
    for kernel, tiles, weights, outer in ((up, plan.up, 1 + gated, 300), (down, plan.down, 1, 19)):
        dots = re.findall(r"tt\.dot [^\n]*", kernel["ir"])
        assert len(dots) == weights
        shape = f"tensor<{tiles.m}x{tiles.k}x{SHORT[dtype]}> * tensor<{tiles.k}x{tiles.n}x{SHORT[dtype]}>"
        assert all(dot.endswith(f"{shape} -> tensor<{tiles.m}x{tiles.n}xf32>") for dot in dots)
        assert all(("inputPrecision = tf32" in dot) == (precision == "tf32") for dot in dots)
        # h and y are rounded where they are stored, and nowhere else.
        parts = max(1, tiles.n // COLUMNS)
        stores = re.findall(r"tt\.store [^\n]*", kernel["ir"])
        assert len(stores) == parts * (1 + weights if kernel is up else 1)
        assert sum("f32" not in store for store in stores) == parts * (dtype != "float32")
        # Products are rounded before they are added.
        assert count(r"math\.fma|llvm\.fma", kernel) == 0
        warps, stages = schedule(Gemm(tiles=tiles, split_k=1), DEVICES[device], dtype, weights)
        assert (kernel["num_warps"], kernel["num_stages"]) == (warps, stages)
        assert kernel["grid_x"] == -(-m // tiles.m) * -(-outer // tiles.n)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_spelled_in_hardware_steps(name):
    problem = Problem(m=33, in_features=64, hidden_features=64, out_features=64, activation=name, dtype="bfloat16")
    up, down = kernels(problem, DEVICES["H200"])
    smooth = name in ("gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "tanh")
    parts = choose(problem, DEVICES["H200"], Plan()).plan.gemms()[0].tiles.n // COLUMNS
    assert count("exp2", up) == parts * smooth
    assert count(r"arith\.divf", up) == parts * smooth
    assert count(r"__nv_(?!exp2f|fabsf)", up) == 0
    assert count(r"exp2|arith\.divf", down) == 0


# What torch's spelling has beside products: fma, exp2, IEEE's division, a reciprocal.
VENDOR = {
    "gelu": (7, 1, 0, 0), "gelu_tanh": (6, 1, 0, 1), "quick_gelu": (4, 1, 1, 0), "silu": (4, 1, 1, 0),
    "sigmoid": (4, 1, 1, 0), "tanh": (5, 1, 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_vendors_order_is_spelled_as_torch_does(name, gated):
    problem = Problem(
        m=33, in_features=64, hidden_features=64, out_features=64, activation=name, gated=gated, dtype="bfloat16"
    )
    up, down = kernels(problem, DEVICES["H200"], order="vendor")
    parts = choose(problem, DEVICES["H200"], Plan()).plan.gemms()[0].tiles.n // COLUMNS
    want = [parts * count for count in VENDOR.get(name, (0, 0, 0, 0))]
    assert [count(what, up) for what in (r"fma\.rn\.f32", "exp2", r"div\.rn\.f32", r"arith\.divf")] == want
    assert count(r"__nv_(?!exp2f|fabsf|floorf)", up) == 0
    assert count(r"inline_asm|exp2|arith\.divf", down) == 0
    # s (and u), the activation and, in quick_gelu, what lies between: to bfloat16 and back; y is, too.
    inner = 2 if name == "quick_gelu" else 0
    rounding = rf"arith\.truncf [^\n]*x{COLUMNS}xf32>"
    assert count(rounding, up) == parts * (3 + gated + inner)
    assert count(rounding, down) == parts * 3


@pytest.mark.parametrize("split_k", [1, 2, 3])
def test_one_chain_a_split(split_k):
    problem = Problem(m=16, in_features=1024, hidden_features=1024, out_features=64, dtype="float16")
    for kernel in kernels(problem, DEVICES["H200"], split_k=split_k):
        assert count(r"scf\.for", kernel) == split_k
        assert count(r"tt\.dot", kernel) == split_k


def test_offsets_are_wide_where_they_must_be():
    """A pointer's offset is 64-bit as soon as an array has more than 2^31 elements."""
    layer = {"in_features": 4096, "hidden_features": 64, "out_features": 64, "dtype": "bfloat16"}
    small, _ = kernels(Problem(m=2**10, **layer), DEVICES["H200"])
    large, _ = kernels(Problem(m=2**19 + 1, **layer), DEVICES["H200"])
    wide = r"tt\.addptr [^\n]*xi64>"
    assert count(wide, small) == 0
    assert count(wide, large) > 0


def test_float32_dot_is_not_left_to_a_default():
    problem = Problem(m=33, in_features=64, hidden_features=64, out_features=64)
    with jax.default_matmul_precision("bfloat16"):
        for kernel in kernels(problem, DEVICES["H200"]):
            assert count("tt.dot", kernel) == 1
            assert count("inputPrecision = (tf32|bf16)", kernel) == 0


# "recompute" hands the backward what "hidden" does.
@pytest.mark.parametrize("save", ["preact", "hidden"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("dtype", "precision"), [("float32", "ieee"), ("float32", "tf32"), ("bfloat16", "ieee")])
def test_a_product_for_each_gradient(dtype, precision, gated, save):
    device = DEVICES["H200"]
    m, k, h, n = 257, 70, 300, 19
    problem = Problem(
        m=m, in_features=k, hidden_features=h, out_features=n, gated=gated, dtype=dtype, precision=precision,
        activation="gelu",
    )  # fmt: skip
    gate = ("w_gate", "b_gate") if gated else ()
    found = backward(problem, device, ("x", "w_up", "w_down", "b_up", "b_down", *gate), save)
    # [rows, inner] [inner, outer], the products added up, what is stored, the bits of tf32; in launch.py's order.
    stored = 1 + gated + (save == "preact")
    want = [(m, n, h, 1, stored, precision), (h, m, n, 1, 1, precision), (m, h, k, 1 + gated, 1, precision)]
    want += [(k, m, h, 1, 1, precision)] * (1 + gated)
    want += [(1, m, h, 1, 1, "ieee")] * (1 + gated) + [(1, m, n, 1, 1, "ieee")]
    assert len(found) == len(want)
    for kernel, (rows, inner, outer, products, stores, bits) in zip(found, want, strict=True):
        tiles = tiles_for(device, dtype, bits, rows, inner, outer)
        dots = re.findall(r"tt\.dot [^\n]*", kernel["ir"])
        shape = f"tensor<{tiles.m}x{tiles.k}x{SHORT[dtype]}> * tensor<{tiles.k}x{tiles.n}x{SHORT[dtype]}>"
        assert len(dots) == products
        assert all(dot.endswith(f"{shape} -> tensor<{tiles.m}x{tiles.n}xf32>") for dot in dots)
        assert all(("inputPrecision = tf32" in dot) == (bits == "tf32") for dot in dots)
        # One chain a product, whatever split_k the forward had.
        assert count(r"scf\.for", kernel) == products
        parts = max(1, tiles.n // COLUMNS) if kernel is found[0] else 1
        written = re.findall(r"tt\.store [^\n]*", kernel["ir"])
        assert len(written) == parts * stores
        # Each is rounded where it is stored.
        assert all(("f32" in store) == (dtype == "float32") for store in written)
        assert count(r"math\.fma|llvm\.fma", kernel) == 0
        assert kernel["grid_x"] == -(-rows // tiles.m) * -(-outer // tiles.n)


@pytest.mark.parametrize("needs", ["x", "w_up", "w_down", "b_up", "b_down"])
def test_what_is_not_wanted_is_not_lowered(needs):
    problem = Problem(m=33, in_features=64, hidden_features=64, out_features=64, dtype="bfloat16")
    for save, spared in (("preact", ("b_down",)), ("hidden", ("b_down", "w_down"))):
        assert len(backward(problem, DEVICES["H200"], (needs,), save)) == 1 + (needs not in spared), save


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_spelled_in_hardware_steps(name):
    problem = Problem(m=33, in_features=64, hidden_features=64, out_features=64, activation=name, dtype="bfloat16")
    (hidden, product) = backward(problem, DEVICES["H200"], ("b_up",), "hidden")
    smooth = name in ("gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "tanh")
    parts = tiles_for(DEVICES["H200"], "bfloat16", "ieee", 33, 64, 64).n // COLUMNS
    assert count("exp2", hidden) == parts * smooth
    assert count(r"arith\.divf", hidden) == parts * smooth
    assert count(r"__nv_(?!exp2f|fabsf)", hidden) == 0
    assert count(r"math\.fma|llvm\.fma", hidden) == 0
    assert count(r"exp2|arith\.divf", product) == 0
