"""The gate's product between the library's GEMMs: one launch with the values of torch's two operations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from adapter_torch import DEVICE

from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import LIBRARY
from parity.contract.problem import Device, smem_of
from parity.contract.tolerance import FLOAT32_ROUNDOFF
from torchfused import functional, launch_gate, reference, settled

GPU = Device(kind="gpu", name="one", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0))
TYPES = [torch.float16, torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


def drawn(elements, dtype=torch.float16):
    generator = torch.Generator().manual_seed(elements)
    return [torch.randn(2, elements, generator=generator).mul(4).to(dtype).to(DEVICE) for _ in range(2)]


def bits(t):
    return t.view({2: torch.int16, 4: torch.int32}[t.element_size()]).int()


@pytest.mark.parametrize("elements", [1, 500, 512, 513, 4096])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_it_is_torchs_product(name, dtype, elements):
    s, u = drawn(elements, dtype)
    want = reference.eager_gating(name, s, u)
    with np.errstate(over="ignore"):
        found = launch_gate.launched(name, s, u.clone())
    if DEVICE == "cpu":
        # Two spellings of the activation, each within the contract's rounding; each of f and h rounded to the type.
        f = reference.ACTIVATIONS[name](s.double())
        spelled = 2 * ACTIVATIONS[name].rounding * FLOAT32_ROUNDOFF * torch.maximum(s.double().abs(), f.abs())
        info = torch.finfo(dtype)
        allowed = (spelled + info.eps * torch.clamp(f.abs(), min=info.smallest_normal)) * u.double().abs()
        allowed += info.eps * torch.clamp(want.double().abs(), min=info.smallest_normal)
        assert ((found.double() - want.double()).abs() <= allowed).all()
    else:
        assert torch.equal(bits(found), bits(want))


def test_h_lies_where_u_did():
    s, u = drawn(700)
    kept = s.clone()
    assert launch_gate.launched("silu", s, u) is u
    assert torch.equal(s, kept)


@pytest.fixture
def asked(monkeypatch):
    """The elements of every launch, on a GPU that is made up: torch computes, in the memory of u."""
    found: list[int] = []
    monkeypatch.setattr(launch_gate, "device_of", lambda t: GPU)
    monkeypatch.setattr(launch_gate, "_BUILT", True)

    def launched(name, s, u):
        found.append(s.numel())
        return u.copy_(reference.eager_gating(name, s, u))

    monkeypatch.setattr(launch_gate, "launched", launched)
    return found


def test_many_elements_are_one_launch(asked):
    for rows in (255, 256, 4096):
        s = torch.zeros(rows, 1024)
        launch_gate.gating("silu", s, s.clone())
    assert asked == [256 * 1024, 4096 * 1024]


@pytest.mark.parametrize("change", ["no GPU", "an old one", "gaps", "another CUDA"])
def test_what_is_not_served_is_torchs(asked, monkeypatch, change):
    s, u = (torch.randn(512, 1024) for _ in range(2))
    if change == "gaps":
        s, u = torch.randn(1024, 512).t(), torch.randn(1024, 512).t()
    elif change == "another CUDA":
        monkeypatch.setattr(launch_gate, "_BUILT", False)
    else:
        other = Device(kind="cpu") if change == "no GPU" else replace(GPU, capability=(7, 5))
        monkeypatch.setattr(launch_gate, "device_of", lambda t: other)
    assert torch.equal(launch_gate.gating("silu", s, u), torch.nn.functional.silu(s) * u)
    assert asked == []


def test_the_library_plan_takes_it_where_no_gradient_is_wanted(asked):
    settled.forget()
    x, w = torch.randn(512, 8, device=DEVICE), torch.randn(512, 8, device=DEVICE)
    down = torch.randn(3, 512, device=DEVICE)
    want = reference.mlp(x, w, down, w_gate=w, activation="silu")
    for call in range(2):
        assert torch.equal(functional.fused_mlp(x, w, down, w_gate=w, activation="silu", plan=LIBRARY), want)
        assert asked == [512 * 512] * (call + 1)
    y = functional.fused_mlp(x, w.requires_grad_(), down, w_gate=w, activation="silu", plan=LIBRARY)
    y.sum().backward()
    functional.stages(x, w, down, w_gate=w, activation="silu", plan=LIBRARY)
    assert len(asked) == 2
    settled.forget()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_library_plan_has_eagers_bits(dtype):
    x, gate, up = (torch.randn(n, 1024, device=DEVICE, dtype=dtype) for n in (700, 2048, 2048))
    down = torch.randn(512, 2048, device=DEVICE, dtype=dtype) / 45
    given = {"x": x, "w_up": up / 32, "w_gate": gate / 32, "w_down": down}
    for name in ACTIVATIONS:
        want = reference.mlp(**given, activation=name)
        assert torch.equal(functional.fused_mlp(**given, activation=name, plan=LIBRARY), want), name
