"""The Mosaic GPU kernel lowered for CUDA under an abstract GPU: its IR, as launch_decode_hopper.py would launch it."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax._src.interpreters import mlir
from jax._src.lib.mlir import ir

from jaxfused import activations, launch
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan
from parity.contract.problem import Device, Problem

pytestmark = pytest.mark.usefixtures("strict_jax")

PLAN = Plan(strategy="decode", backend="hopper")
# No name that a table of measured tiles has: what is lowered hangs on the model alone.
DEVICE = Device(kind="gpu", name="an H200", sm_count=132, smem_bytes=232448, capability=(9, 0))
SHORT = {"float16": "f16", "bfloat16": "bf16"}


def kernels(problem: Problem, *, taps: str | None = None) -> list[dict]:
    """The Mosaic GPU custom calls of one MLP: the IR, the grid, the threads and the shared memory of each."""

    def held(*shape):
        return jax.ShapeDtypeStruct(shape, problem.dtype)

    m, k, h, n = problem.m, problem.in_features, problem.hidden_features, problem.out_features
    given = {
        "x": held(m, k),
        "w_up": held(k, h),
        "w_down": held(h, n),
        "w_gate": held(k, h) if problem.gated else None,
        "b_up": held(h) if problem.bias_up else None,
        "b_gate": held(h) if problem.bias_gate else None,
        "b_down": held(n) if problem.bias_down else None,
    }

    def run(given):
        options = {"activation": problem.activation, "precision": "ieee", "taps": taps}
        out = launch.forward(PLAN, DEVICE, **given, **options)
        shapes = {"h": (m, h), "y": (m, n)} | (
            dict.fromkeys(("s", "u") if problem.gated else ("s",), (m, h)) if taps else {}
        )
        assert {name: value.shape for name, value in out.items()} == shapes
        return out

    return lowered(run, given)


def lowered(run, *given) -> list[dict]:
    """The Mosaic GPU custom calls of ``run(*given)``, in order."""
    gpu = jax.sharding.AbstractDevice(device_kind=DEVICE.name, platform="gpu", num_cores=DEVICE.sm_count)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=gpu)):
        module = jax.jit(run).trace(*given).lower(lowering_platforms=("cuda",)).compiler_ir()
    return [described(call) for call in found(module, "stablehlo.custom_call")]


def described(call: ir.Operation) -> dict:
    context = mlir.make_ir_context()
    context.allow_unregistered_dialects = True
    with context:
        module = ir.Module.parse(
            ir.StringAttr(ir.DictAttr(call.attributes["mhlo.backend_config"])["module"]).value_bytes
        )
    (launched,) = found(module, "stable_mosaic_gpu.gpu.launch")
    # A token, the grid, the block, the shared memory.
    sizes = [ir.IntegerAttr(value.owner.attributes["value"]).value for value in list(launched.operands)[1:]]
    return {"ir": str(module), "grid": sizes[:3], "block": sizes[3:6], "smem": sizes[6]}


def found(module: ir.Module, name: str) -> list[ir.Operation]:
    operations = []

    def visit(op):
        if op.name == name:
            operations.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return operations


def count(pattern: str, kernel: dict) -> int:
    return len(re.findall(pattern, kernel["ir"]))


@pytest.mark.parametrize("m", [1, 16, 17, 64])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", SHORT)
def test_one_kernel_of_one_chain(dtype, gated, m):
    problem = Problem(
        m=m, in_features=512, hidden_features=768, out_features=320, activation="silu", dtype=dtype, gated=gated,
        bias_up=True, bias_gate=gated, bias_down=True,
    )  # fmt: skip
    rows, kind = -(m // -8) * 8, SHORT[dtype]
    for taps in (None, "float32"):
        (kernel,) = kernels(problem, taps=taps)
        assert kernel["smem"] <= DEVICE.smem_bytes
        assert kernel["grid"] == [12, 1, 1]
        assert kernel["block"] == [3 * 128, 1, 1]
        # The steps of a tile of each product, 16 deep, and no other.
        depth = 256 if m < 32 else 128
        assert count(r"wgmma\.mma_async", kernel) == (2 + gated) * depth // 16
        assert count(rf"wgmma\.mma_async\.sync\.aligned\.m64n{rows}k16\.f32\.{kind}\.{kind}", kernel) == (
            (2 + gated) * depth // 16
        )
        assert count(r"fence\.proxy\.async\.global", kernel) == 1


@pytest.mark.parametrize(("hidden", "out", "programs"), [(4096, 4096, 64), (14336, 4096, 112), (512, 64000, 125)])
def test_at_most_a_program_a_processor(hidden, out, programs):
    (kernel,) = kernels(Problem(m=1, in_features=256, hidden_features=hidden, out_features=out, dtype="bfloat16"))
    assert kernel["grid"] == [programs, 1, 1]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_epilogue_is_rounded_step_by_step(name, gated):
    problem = Problem(
        m=8, in_features=256, hidden_features=256, out_features=64, activation=name, dtype="bfloat16", gated=gated
    )  # fmt: skip
    (kernel,) = kernels(problem)
    steps = str(jax.make_jaxpr(activations.ACTIVATIONS[name])(jnp.zeros((64, 8))))
    # Of 64 columns and 8 rows, a thread has 4 elements.
    for step, instruction in (("mul", r"mul\.rn"), ("div", r"rcp\.approx\.ftz"), ("exp2", r"ex2\.approx\.ftz")):
        spelled = len(re.findall(rf"= {step} ", steps)) + (gated and step == "mul")
        assert count(rf"{instruction}\.f32 ", kernel) == 4 * spelled, step
    for step, instruction in (("add", r"add\.rn"), ("sub", r"sub\.rn")):
        assert count(rf"{instruction}\.f32 ", kernel) == 4 * len(re.findall(rf"= {step} ", steps)), step
    assert count(r"fma\b|arith\.(add|sub|mul|div)f|math\.", kernel) == 0


def test_no_rows_launch_nothing():
    assert (
        kernels(Problem(m=0, in_features=256, hidden_features=256, out_features=64, dtype="float16"), taps="float32")
        == []
    )
