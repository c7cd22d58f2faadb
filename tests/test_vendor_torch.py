"""Plans of the vendor's order through the Triton kernels: roundings, spelling, gradients, traces."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from adapter_torch import DEVICE, gradients, operands, run
from vendor_model import CASES, PLANS, check, drawn_as

from parity.contract.saved import SAVES
from torchfused import FusedMLP, functional, vendor
from torchfused.kernels import epilogue


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("activation", "gated", "dtype"), CASES)
def test_stages_are_rounded_and_spelled_as_eagers(activation, gated, dtype, plan):
    check(run, drawn_as(activation, gated, dtype, PLANS[plan]))


@pytest.mark.parametrize("gated", [False, True])
def test_gradients_do_not_hang_on_what_is_kept(gated):
    """What is kept is what the forward used: s and u are rounded there, too."""
    drawn = drawn_as("quick_gelu", gated, "float16", PLANS["tiled"])
    found = [gradients(drawn, save) for save in SAVES]
    for stage, want in found[0].items():
        assert np.isfinite(want).all()
        assert all(np.array_equal(other[stage], want) for other in found[1:] if stage in other), stage


def test_autograd_and_a_trace_run_the_same_plan():
    drawn = drawn_as("silu", True, "float16", PLANS["tiled"])
    given = {name: t.requires_grad_() for name, t in operands(drawn.arrays).items()}

    def mlp(given):
        return functional.fused_mlp(**given, **drawn.options)

    want = run(drawn)["y"]
    for call in (mlp, torch.compile(mlp, fullgraph=True, backend="aot_eager")):
        y = call(given)
        assert np.array_equal(y.detach().cpu().numpy(), want)
        dx, dw = torch.autograd.grad(y.sum(), [given["x"], given["w_gate"]])
        assert dx.isfinite().all()
        assert dw.isfinite().all()


def test_explain_names_the_order():
    drawn = drawn_as("silu", True, "float16", PLANS["tiled"])
    text = str(functional.explain(**operands(drawn.arrays), **drawn.options))
    assert "tiled/portable in the vendor's order" in text
    assert "split_k (2, 1)" in text


def test_a_module_is_forced_by_name():
    plan = PLANS["tiled"]
    options = {"dtype": torch.float16, "device": DEVICE}
    module = FusedMLP(70, 96, 24, activation="silu", gated=True, plan=plan, **options)
    x = torch.randn(5, 70, **options)
    names = {"up": module.up_proj, "gate": module.gate_proj, "down": module.down_proj}
    given = {f"w_{name}": child.weight for name, child in names.items()}
    given |= {f"b_{name}": child.bias for name, child in names.items()}
    with torch.no_grad():
        want = functional.fused_mlp(x, **given, activation="silu", plan=plan)
        for call in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
            assert torch.equal(call(x), want)
    assert "plan=tiled/portable in the vendor's order" in repr(module)
    with pytest.raises(ValueError, match="plan is 'vendor', must be a Plan"):
        FusedMLP(70, 96, plan="vendor")


@triton.jit
def left(t, dtype: tl.constexpr):
    return t


@pytest.mark.skipif(DEVICE == "cuda", reason="a compiled kernel keeps what it was compiled from")
@pytest.mark.parametrize(
    ("room", "activation"), [(epilogue, "relu"), (epilogue, "silu"), (vendor, "quick_gelu")], ids=str
)
def test_a_rounding_that_is_left_out_is_seen(room, activation, monkeypatch):
    drawn = drawn_as(activation, True, "float16", PLANS["tiled"])
    check(run, drawn)
    monkeypatch.setattr(room, "rounded", left)
    with pytest.raises(AssertionError):
        check(run, drawn)
