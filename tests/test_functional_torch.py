"""fused_mlp in torch: layouts, gradients, explain, and errors before any launch."""

import functools
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from adapter_torch import DEVICE, operands, run, to_numpy
from yardstick import PLANS, draw

from parity.contract import explanation
from parity.contract.errors import UnsupportedError
from parity.contract.plan import LIBRARY, Gemm, Plan
from parity.contract.problem import Device
from parity.contract.schedule import schedule
from parity.contract.tiles import Tiles, stage_bytes
from torchfused import functional, launch, launch_tiled_portable, reference, settled
from torchfused.functional import explain, fused_mlp, stages

pytestmark = pytest.mark.usefixtures("poisoned")


def sound(**fields):
    drawn = draw((12, 21, 34, 13), activation="silu", gated=True, biases="ugd", **fields)
    return drawn, operands(drawn.arrays)


@torch.no_grad()
def call(given, drawn):
    return fused_mlp(**given, **drawn.options)


@pytest.mark.parametrize("lead", [(12,), (3, 4), (2, 1, 6), (1, 1, 12), (2, 3, 2, 1)])
def test_leading_dims(lead):
    drawn, given = sound()
    y = call(given | {"x": given["x"].reshape(*lead, 21)}, drawn)
    assert y.shape == (*lead, 13)
    drawn.check({"y": to_numpy(y.reshape(12, 13))})


def test_one_vector():
    drawn, given = sound()
    y = call(given | {"x": given["x"][3]}, drawn)
    assert np.array_equal(to_numpy(y), run(drawn)["y"][3])


@pytest.mark.parametrize("lead", [(0,), (0, 3), (4, 0)])
def test_empty_batch(lead):
    drawn, given = sound()
    found = stages(**given | {"x": torch.zeros(*lead, 21, device=DEVICE)}, **drawn.options)
    assert {name: value.shape for name, value in found.items()} == {
        "s": (*lead, 34), "u": (*lead, 34), "h": (*lead, 34), "y": (*lead, 13),
    }  # fmt: skip


def spaced(t):
    return torch.full([2 * size for size in t.shape], torch.nan, device=DEVICE)[
        tuple([slice(None, None, 2)] * t.dim())
    ].copy_(t)


def transposed(t):
    return t.t().contiguous().t() if t.dim() == 2 else spaced(t)


def offset(t):
    return torch.cat([torch.full((1,), torch.nan, device=DEVICE), t.flatten()])[1:].view(t.shape)


@pytest.mark.parametrize("lay", [spaced, transposed, offset])
def test_strides_do_not_change_a_bit(lay):
    drawn, given = sound(plan=PLANS["small"])
    laid = {name: lay(tensor) for name, tensor in given.items()}
    assert torch.equal(call(laid, drawn), call(given, drawn))


def test_expanded_operands():
    drawn, given = sound()
    row = given["x"][:1]
    y = call(given | {"x": row.expand(12, 21), "b_up": given["b_up"][:1].expand(34)}, drawn)
    plain = call(given | {"x": row.repeat(12, 1), "b_up": given["b_up"][:1].repeat(34)}, drawn)
    assert torch.equal(y, plain)
    batch = given["x"].view(3, 4, 21).transpose(0, 1)
    assert torch.equal(call(given | {"x": batch}, drawn), call(given | {"x": batch.contiguous()}, drawn))


def test_operands_are_left_as_they_were():
    drawn, given = sound()
    before = {name: tensor.clone() for name, tensor in given.items()}
    call(given, drawn)
    assert all(torch.equal(given[name], before[name]) for name in given)


NAMES = ("x", "w_up", "w_down", "w_gate", "b_up", "b_gate", "b_down")


@pytest.mark.parametrize("name", NAMES)
def test_library_gradients_are_the_references(name):
    _, given = sound()
    given[name].requires_grad_()
    y = fused_mlp(**given, activation="silu", plan=LIBRARY)
    upstream = torch.randn(y.shape, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))
    (found,) = torch.autograd.grad(y, given[name], upstream)
    want = torch.autograd.grad(reference.mlp(**given, activation="silu"), given[name], upstream)[0]
    assert torch.equal(found, want)
    assert found.any()
    listed = functional.gradients(upstream, **given, activation="silu", plan=LIBRARY)
    assert listed.keys() == {f"d_{name}" for name in NAMES}
    assert torch.equal(listed[f"d_{name}"], want)


def test_gradient_of_the_function_itself():
    """Central differences in float64, of the function the reference is."""
    _, given = sound()
    wide = {name: tensor.double().requires_grad_() for name, tensor in given.items()}

    def mlp(*tensors):
        return reference.mlp(**dict(zip(wide, tensors, strict=True)), activation="gelu_tanh")

    assert torch.autograd.gradcheck(mlp, tuple(wide.values()), fast_mode=True)


def test_forced_plan_trains():
    _, given = sound()
    given["b_up"].requires_grad_()
    y = fused_mlp(**given, plan=PLANS["small"])
    assert y.requires_grad
    told = explain(**given, plan=PLANS["small"])
    assert (told.plan, told.why) == (PLANS["small"], "forced by the caller")
    with torch.no_grad():
        quiet = fused_mlp(**given, plan=PLANS["small"])
        assert not quiet.requires_grad
    with torch.inference_mode():
        assert torch.equal(fused_mlp(**given, plan=PLANS["small"]), quiet)
    assert torch.equal(y, quiet)
    assert torch.autograd.grad(y.sum(), given["b_up"])[0].any()


def test_explain_asks_for_training_where_a_gradient_will_be_wanted(monkeypatch):
    _, given = sound()
    asked = []
    choose = explanation.choose
    monkeypatch.setattr(explanation, "choose", lambda *a, training: asked.append(training) or choose(*a))
    explain(**given)
    given["w_gate"].requires_grad_()
    explain(**given)
    with torch.no_grad():
        explain(**given)
    assert asked == [False, True, False]


# torch's own forward-mode rules are scripted.
SCRIPTED = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@SCRIPTED
@pytest.mark.parametrize("ask", [fused_mlp, explain])
def test_forced_plan_with_a_tangent_is_refused(ask):
    _, given = sound()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(given["x"], torch.ones_like(given["x"]))
        with pytest.raises(UnsupportedError, match=r"^plan tiled/portable cannot run here: an operand carries a tang"):
            ask(**given | {"x": dual}, plan=Plan())


@pytest.mark.parametrize("ask", [fused_mlp, explain, functools.partial(functional.gradients, torch.zeros(12, 13))])
def test_unknown_save_is_refused(ask):
    _, given = sound()
    with pytest.raises(ValueError, match=r"^save is 'all', must be one of preact, hidden, recompute"):
        ask(**given, save="all")


def test_library_plan_is_the_reference():
    drawn, given = sound()
    with torch.no_grad():
        found = stages(**given, activation="silu", plan=LIBRARY)
        want = reference.stages(**given, activation="silu")
    assert all(torch.equal(found[stage], want[stage]) for stage in want)
    drawn.check({stage: to_numpy(tensor) for stage, tensor in found.items()}, fused=False)


@pytest.fixture
def silent(monkeypatch):
    """Nothing may be launched."""

    class Kernel:
        def __getitem__(self, grid):
            raise AssertionError("launched")

    monkeypatch.setattr(launch_tiled_portable, "linear_fwd_kernel", Kernel())


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("ask", [fused_mlp, stages, explain])
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.zeros(12, 20)}, ValueError,
         "w_up has shape [34, 21]: its in dim (1) is 21, x's last dim is 20; it must be [out, in]"),
        ({"w_down": torch.zeros(34, 13)}, ValueError, "w_down has shape [34, 13]: its in dim (1) is 13, w_up's"),
        ({"w_gate": None}, ValueError, "b_gate is given without w_gate"),
        ({"b_down": torch.zeros(34)}, ValueError, "b_down has shape [34], must be [13]"),
        ({"w_gate": torch.zeros(34, 21, dtype=torch.float16)}, ValueError, "w_gate is float16 and x is float32"),
        ({"b_up": torch.zeros(34, device="meta")}, ValueError, f"b_up is on meta and x is on {DEVICE}"),
        ({"activation": "swish"}, ValueError, "activation is 'swish', must be one of relu, relu2, gelu,"),
        ({"precision": "fp8"}, ValueError, "precision is 'fp8', must be one of ieee, tf32"),
        ({"plan": Plan(up=Tiles(m=4096, n=4096, k=64))}, UnsupportedError, "plan tiled/portable cannot run here: "),
    ],
)  # fmt: skip
def test_errors_before_any_launch(ask, changed, error, message):
    _, given = sound()
    if error is UnsupportedError and DEVICE == "cpu":
        pytest.skip("an interpreter has no shared memory to exceed")
    moved = {
        name: value.to(DEVICE) if torch.is_tensor(value) and not value.is_meta else value
        for name, value in changed.items()
    }
    with torch.no_grad(), pytest.raises(error, match=f"^{re.escape(message)}"):
        ask(**given | moved)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float64, "float64"), (torch.int32, "int32"), (torch.complex64, "complex64")]
)
def test_types_that_are_not_served(dtype, name):
    given = {key: tensor.to(dtype) for key, tensor in sound()[1].items()}
    with pytest.raises(ValueError, match=f"^dtype is {name}, the kernels take float32, float16, bfloat16; cast x and"):
        fused_mlp(**given)


@pytest.mark.usefixtures("silent")
def test_bfloat16_is_refused_in_the_interpreter():
    given = {key: tensor.bfloat16() for key, tensor in sound()[1].items()}
    if DEVICE == "cuda":
        pytest.skip("not an interpreter")
    with torch.no_grad():
        with pytest.raises(UnsupportedError, match=r"^bfloat16 is silently wrong in Triton's interpreter"):
            fused_mlp(**given)
        with pytest.raises(UnsupportedError, match=r"^plan tiled/portable cannot run here: bfloat16 is silently wrong"):
            fused_mlp(**given, plan=Plan())
        y = fused_mlp(**given, activation="silu", plan=LIBRARY)
        assert torch.equal(y, reference.mlp(**given, activation="silu"))


WITHOUT = """
import torch, torchfused
from parity.contract.plan import Plan
x, w = torch.ones(2, 3), torch.eye(3)
print(torchfused.fused_mlp(x, w, w, activation="relu").tolist(), torchfused.explain(x, w, w).plan)
try:
    torchfused.fused_mlp(x, w, w, plan=Plan())
except NotImplementedError as error:
    print(error)
"""


def test_without_interpreter_or_gpu_the_library_runs_and_a_forced_plan_does_not():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]] library",
        "plan tiled/portable cannot run here: the kernels need an NVIDIA GPU or the interpreter, this is a CPU without "
        "one; set TRITON_INTERPRET=1 (torchfused) or JAXFUSED_INTERPRET=1 (jaxfused) before the import, or use the "
        "library plan",
    ]


def test_explain_tells_what_runs(monkeypatch):
    _, given = sound()
    ran = []
    forward = launch.forward
    monkeypatch.setattr(launch, "forward", lambda plan, *args, **kw: ran.append(plan) or forward(plan, *args, **kw))
    settled.forget()
    with torch.no_grad():
        told = explain(**given, activation="silu", plan=PLANS["split2"])
        fused_mlp(**given, activation="silu", plan=PLANS["split2"])
    assert ran == [told.plan]
    assert told.launches == 2
    assert "fused MLP [12, 21] -> 34 -> 13, gated silu, float32 (ieee)" in str(told)


@SCRIPTED
def test_tangents_and_transforms_are_not_dropped():
    x, w_up, w_down = torch.randn(3, 8), torch.randn(16, 8), torch.randn(4, 16)
    tangent = torch.randn(3, 8)
    _, expected = torch.func.jvp(lambda x: reference.mlp(x, w_up, w_down), (x,), (tangent,))
    with torch.autograd.forward_ad.dual_level():
        y = fused_mlp(torch.autograd.forward_ad.make_dual(x, tangent), w_up, w_down)
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(y).tangent, expected)
    assert torch.equal(torch.func.jvp(lambda x: fused_mlp(x, w_up, w_down), (x,), (tangent,))[1], expected)
    batch = torch.vmap(lambda row: fused_mlp(row, w_up, w_down))(x)
    torch.testing.assert_close(batch, reference.mlp(x, w_up, w_down))


def test_autocast_casts_as_linear_does():
    # Small enough that no exponential overflows: NumPy, behind the interpreter, would warn of it.
    x, w_up, w_down = torch.randn(3, 8) / 8, torch.randn(16, 8), torch.randn(4, 16)
    with torch.autocast("cpu", torch.float16):
        mixed = fused_mlp(x.half(), w_up, w_down)
        library = fused_mlp(x, w_up, w_down, plan=LIBRARY)
    assert torch.equal(mixed, fused_mlp(x.half(), w_up.half(), w_down.half()))
    assert torch.equal(library, fused_mlp(x.half(), w_up.half(), w_down.half(), plan=LIBRARY))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("x", np.ones((3, 8), np.float32), "ndarray"), ("w_up", None, "NoneType"), ("b_up", [1.0], "list")],
)
def test_what_is_no_tensor_is_refused(name, value, kind):
    arguments = {"x": torch.ones(3, 8), "w_up": torch.ones(16, 8), "w_down": torch.ones(4, 16)} | {name: value}
    with pytest.raises(ValueError, match=f"^{name} is a {kind}, must be a strided torch.Tensor"):
        fused_mlp(**arguments)


@pytest.mark.parametrize("smem", [101376, 166912, 232448])
@pytest.mark.parametrize("tiles", [Tiles(m=256, n=256, k=128), Tiles(m=64, n=64, k=128), Tiles(m=128, n=128, k=128)])
def test_what_the_contract_lets_through_fits(smem, tiles):
    device = Device(kind="gpu", smem_bytes=smem, capability=(8, 0))
    for weights in (1, 2):
        need = stage_bytes(tiles, "float16", weights)
        if need <= smem:
            assert schedule(Gemm(tiles=tiles, split_k=1), device, "float16", weights)[1] * need <= smem


def test_strided_operands_are_no_packed_problem():
    x, w_up, w_down = torch.ones(2, 256), torch.ones(512, 256), torch.ones(64, 512)
    packed = explain(x, w_up, w_down, plan=LIBRARY).problem
    turned = explain(x, w_up.t().contiguous().t(), w_down, plan=LIBRARY).problem
    shifted = explain(torch.ones(2 * 256 + 1)[1:].view(2, 256), w_up, w_down, plan=LIBRARY).problem
    assert (packed.packed, turned.packed, shifted.packed) == (True, False, False)


def test_a_plan_that_is_no_plan_is_refused_before_anything_is_cached():
    with pytest.raises(ValueError, match=r"^plan is \{'strategy': 'tiled'\}, must be a Plan"):
        fused_mlp(torch.ones(2, 8), torch.ones(16, 8), torch.ones(4, 16), plan={"strategy": "tiled"})
