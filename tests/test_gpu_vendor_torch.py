"""On a GPU: plans of the vendor's order against torch's eager, bit for bit."""

import pytest
import torch
import triton
import triton.language as tl

from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan, Strategy
from parity.contract.saved import SAVES
from parity.contract.vendor import Order, records
from torchfused import functional, reference, vendor

pytestmark = pytest.mark.gpu

TYPES = [torch.bfloat16, torch.float16]


def bits(t: torch.Tensor) -> torch.Tensor:
    """As integers, all NaN alike."""
    same = {2: torch.int16, 4: torch.int32}[t.element_size()]
    return torch.where(t.isnan(), torch.full_like(t, float("nan")), t).view(same)


@triton.jit
def activation_kernel(s_ptr, f_ptr, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(s_ptr + i, mask=i < size).to(tl.float32)
    f = ACTIVATION(s, s_ptr.dtype.element_ty)
    tl.store(f_ptr + i, f.to(f_ptr.dtype.element_ty), mask=i < size)


@pytest.mark.parametrize("dtype", [*TYPES, torch.float32], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_torchs_bits(name, dtype):
    """In 16 bits for every number there is, in float32 for a few million."""
    if dtype is torch.float32:
        generator = torch.Generator("cuda").manual_seed(1)
        wide = torch.tensor([0.3, 3.0, 30.0, 300.0], device="cuda")[:, None]
        s = (torch.randn(4, 2**20, device="cuda", generator=generator) * wide).flatten()
    else:
        s = torch.arange(-(2**15), 2**15, device="cuda").to(torch.int16).view(dtype)
    f = torch.full_like(s, float("nan"))
    grid = (triton.cdiv(s.numel(), 1024),)
    activation_kernel[grid](s, f, s.numel(), vendor.ACTIVATIONS[name], 1024, enable_fp_fusion=False)
    want = reference.ACTIVATIONS[name](s)
    wrong = (bits(f) != bits(want)).nonzero().flatten()
    assert wrong.numel() == 0, [(float(s[i]), float(f[i]), float(want[i])) for i in wrong[:5]]


def mlp(m, k, h, n, dtype, *, gated, biased):
    generator = torch.Generator("cuda").manual_seed(2)

    def drawn(*shape, scale=1.0):
        return (torch.randn(*shape, device="cuda", generator=generator) * scale).to(dtype)

    given = {"x": drawn(m, k), "w_up": drawn(h, k, scale=k**-0.5), "w_down": drawn(n, h, scale=h**-0.5)}
    given |= {"w_gate": drawn(h, k, scale=k**-0.5)} if gated else {}
    if biased:
        given |= {"b_up": drawn(h), "b_down": drawn(n)} | ({"b_gate": drawn(h)} if gated else {})
    return given


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_mlp_has_eagers_bits(activation, gated, dtype):
    """At 4096 rows, where every GEMM is summed in one chain."""
    given = mlp(4096, 1024, 4096, 1024, dtype, gated=gated, biased=not gated)
    plan = Plan(order=Order.VENDOR, split_k=1)
    want = reference.stages(**given, activation=activation)
    found = functional.stages(**given, activation=activation, plan=plan)
    for stage, tap in want.items():
        assert torch.equal(bits(found[stage].to(dtype)), bits(tap)), stage
    y = functional.fused_mlp(**given, activation=activation, plan=plan)
    assert torch.equal(bits(y), bits(want["y"]))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_strategies_share_the_vendors_bits(activation, gated):
    given = mlp(13, 392, 264, 136, torch.bfloat16, gated=gated, biased=True)
    tiled = Plan(order=Order.VENDOR, split_k=(2, 4))
    decode = Plan(order=Order.VENDOR, split_k=(2, 4), strategy=Strategy.DECODE)
    one, two = (functional.fused_mlp(**given, activation=activation, plan=plan) for plan in (tiled, decode))
    assert torch.equal(bits(one), bits(two))


def test_a_recorded_order_is_found():
    name = torch.cuda.get_device_name()
    if name not in records() or records()[name].vendor != f"torch {torch.__version__}":
        pytest.skip(f"nothing was recovered of torch {torch.__version__} on {name}")
    given = mlp(64, 4096, 4096, 4096, torch.bfloat16, gated=False, biased=True)
    y = functional.fused_mlp(**given, activation="gelu", plan=Plan(order=Order.VENDOR))
    assert torch.equal(bits(y), bits(reference.mlp(**given, activation="gelu")))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_do_not_hang_on_what_is_kept(activation):
    """What is kept is what the forward used: s and u are rounded there, too."""
    given = mlp(64, 256, 512, 256, torch.bfloat16, gated=True, biased=True)
    leaves = [t.requires_grad_() for t in given.values()]
    found = []
    for save in SAVES:
        plan = Plan(order=Order.VENDOR, split_k=1)
        y = functional.fused_mlp(**given, activation=activation, plan=plan, save=save)
        found.append(torch.autograd.grad(y.float().square().sum(), leaves))
    for one, *others in zip(*found, strict=True):
        assert one.isfinite().all()
        assert all(torch.equal(one, other) for other in others)
