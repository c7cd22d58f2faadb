"""Plans of the vendor's order through the Triton kernels: roundings, spelling, gradients, traces."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from adapter_torch import DEVICE, gradients, operands, run
from vendor_model import CASES, PLANS, check, drawn_as

from parity.contract import choice
from parity.contract.errors import UnsupportedError
from parity.contract.plan import Plan
from parity.contract.saved import SAVES
from parity.contract.vendor import Record, layer
from torchfused import FusedMLP, device, functional, vendor
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


@pytest.fixture
def gpu(monkeypatch):
    """An H100 as far as anybody asks, of whose every product torch 9's order is on record; and this torch's build."""
    found = SimpleNamespace(
        name="H100", multi_processor_count=132, shared_memory_per_block_optin=232448, major=9, minor=0
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    here = device._gpu.__wrapped__(0)
    chains = {layer("float16", *sizes, False): {5: 1} for sizes in ((70, 96), (96, 24))}
    record = {"H100": Record(vendor="torch 9", chains=chains)}
    monkeypatch.setattr("parity.contract.vendor.records", lambda: record)
    monkeypatch.setattr("parity.contract.choice.records", lambda: record)
    monkeypatch.setattr(functional, "device_of", lambda _: here)
    for cached in (functional._decided, choice._choose):
        cached.cache_clear()
    yield here
    for cached in (functional._decided, choice._choose):
        cached.cache_clear()


def test_an_order_of_another_build_is_refused(gpu):
    assert gpu.vendor == f"torch {torch.__version__}"
    x, w_up, w_down = (torch.ones(shape, dtype=torch.float16) for shape in ((5, 70), (96, 70), (24, 96)))
    said = (
        "plan tiled/portable cannot run here: the vendor's order on H100 was recovered of torch 9, this is "
        f"{gpu.vendor}; give split_k, or let `python -m parity vendor` recover it"
    )
    vendors = Plan(order="vendor")
    for call in (functional.fused_mlp, functional.explain, functional.stages):
        with pytest.raises(UnsupportedError, match=re.escape(said)):
            call(x, w_up, w_down, plan=vendors)
    traced = torch.compile(
        lambda x: functional.fused_mlp(x, w_up, w_down, plan=vendors), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match=re.escape(said)):
        traced(x)
    # What the caller states is no record's.
    assert functional.explain(x, w_up, w_down, plan=replace(vendors, split_k=1)).plan.split_k == (1, 1)


def test_an_order_of_this_build_is_run(gpu, monkeypatch):
    x, w_up, w_down = (torch.ones(shape, dtype=torch.float16) for shape in ((5, 70), (96, 70), (24, 96)))
    monkeypatch.setattr(functional, "device_of", lambda _: replace(gpu, vendor="torch 9"))
    found = functional.explain(x, w_up, w_down, plan=Plan(order="vendor"))
    assert found.plan.split_k == (1, 1)
    assert "split_k is that of torch 9 on H100" in str(found)
