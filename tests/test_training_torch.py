"""torchfused under autograd and what is built on it: which gradients, how many launches, every transform of torch."""

from itertools import chain, combinations

import pytest
import torch
from adapter_torch import DEVICE, gradients, operands, to_torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import ProfilerActivity, profile
from yardstick import SMALL, draw, upstream

from parity.contract.choice import choose
from parity.contract.errors import UnsupportedError
from parity.contract.plan import LIBRARY, Plan
from parity.contract.saved import SAVES
from torchfused import FusedMLP, functional, fused_mlp, launch_tiled_portable, training
from torchfused.device import device_of

pytestmark = pytest.mark.usefixtures("poisoned")

NAMES = ("x", "w_up", "w_down", "w_gate", "b_up", "b_gate", "b_down")
PLAN = Plan(up=SMALL, down=SMALL)


def sound(names=NAMES, **fields):
    """Operands of a gated layer, those of ``names`` as leaves that require gradients, and an upstream gradient."""
    drawn = draw((12, 21, 34, 13), activation="silu", gated=True, biases="ugd", **fields)
    given = operands(drawn.arrays)
    for name in names:
        given[name].requires_grad_()
    return given, to_torch(upstream(drawn))


def tapped(given, dy, **options):
    """The gradients by themselves, whose values test_kernels_backward_torch.py judges."""
    held = {name: t.detach() for name, t in given.items()}
    with torch.no_grad():
        return functional.gradients(dy, **held, activation="silu", plan=PLAN, **options)


@pytest.fixture
def launched(monkeypatch):
    """The kernels launched, by name."""
    found, launch_one = [], launch_tiled_portable._launch

    def counted(kernel, *args, **kwargs):
        found.append(getattr(kernel, "fn", kernel).__name__)
        return launch_one(kernel, *args, **kwargs)

    monkeypatch.setattr(launch_tiled_portable, "_launch", counted)
    return found


@pytest.mark.parametrize("save", SAVES)
def test_autograd_gives_what_the_kernels_give(save):
    given, dy = sound()
    y = fused_mlp(**given, activation="silu", plan=PLAN, save=save)
    found = torch.autograd.grad(y, list(given.values()), dy)
    want = tapped(given, dy, save=save)
    assert all(torch.equal(g, want[f"d_{name}"]) for name, g in zip(given, found, strict=True))


def test_whatever_is_frozen_what_is_needed_runs(launched):
    """One operand, any two, all but one, all: what two need hangs on no third."""
    want = None
    counts = 1, 2, len(NAMES) - 1, len(NAMES)
    for names in map(list, chain.from_iterable(combinations(NAMES, count) for count in counts)):
        given, dy = sound(names)
        want = want or tapped(given, dy)
        y = fused_mlp(**given, activation="silu", plan=PLAN)
        launched.clear()
        found = torch.autograd.grad(y, [given[name] for name in names], dy)
        assert all(torch.equal(g, want[f"d_{name}"]) for name, g in zip(names, found, strict=True))
        # The hidden layer's gradient, or h for w_down; one product for each operand.
        hidden = [] if set(names) == {"b_down"} else ["hidden_bwd_kernel"]
        assert launched == hidden + ["product_bwd_kernel"] * len(names)


def test_ways_to_save_cost_the_launches_they_say(launched):
    for save, backward in (("preact", 2), ("hidden", 1), ("recompute", 2)):
        given, dy = sound(["w_down"])
        y = fused_mlp(**given, activation="silu", plan=PLAN, save=save)
        launched.clear()
        torch.autograd.grad(y, given["w_down"], dy)
        assert len(launched) == backward, save


def test_upstream_of_stride_zero_and_second_backward():
    given, _ = sound()
    y = fused_mlp(**given, activation="silu", plan=PLAN)
    first = torch.autograd.grad(y.sum(), list(given.values()), retain_graph=True)
    second = torch.autograd.grad(y.sum(), list(given.values()))
    want = tapped(given, torch.ones_like(y).detach())
    for name, one, two in zip(given, first, second, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, want[f"d_{name}"])


def test_operands_used_elsewhere_too():
    given, dy = sound()
    y = fused_mlp(**given, activation="silu", plan=PLAN)
    tripled = given["x"] * 3.0
    (found,) = torch.autograd.grad([y, tripled], given["x"], [dy, torch.ones_like(tripled)])
    assert torch.equal(found, tapped(given, dy)["d_x"] + 3.0)


def most_held(call):
    """The most bytes of a CPU's that ``call`` holds at once, of what it allocates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


# In hidden layers, of which a weight and x are each a fourth. At the hidden layer's gradient: y, s, (u,) ds, (du,) h;
# what is computed again, a quarter of the rows at a time.
@pytest.mark.skipif(DEVICE != "cpu", reason="counts a CPU's allocations")
@pytest.mark.parametrize(
    ("save", "gated", "most"),
    [
        ("preact", False, 3.25), ("hidden", False, 3.25), ("recompute", False, 2.25 + 3 / 4),
        ("preact", True, 5.25), ("hidden", True, 5.25), ("recompute", True, 3.25 + 5 / 4),
    ],
)  # fmt: skip
def test_what_a_step_holds(save, gated, most, monkeypatch):
    monkeypatch.setattr(launch_tiled_portable, "_launch", lambda *args, **kwargs: None)
    monkeypatch.setattr(training, "_TILE", 64)
    monkeypatch.setattr(training, "_PART", 1)
    rows, features, hidden = 256, 64, 256
    shapes = {"x": (rows, features), "w_up": (hidden, features), "w_down": (features, hidden)}
    shapes |= {"w_gate": (hidden, features)} if gated else {}
    given = {name: torch.randn(shape).requires_grad_() for name, shape in shapes.items()}
    dy = torch.randn(rows, features)

    def step():
        torch.autograd.grad(fused_mlp(**given, activation="silu", plan=PLAN, save=save), list(given.values()), dy)

    step()
    assert most_held(step) / (4 * rows * hidden) == pytest.approx(most, abs=0.03)


# Where all matrices are of one size, later gradients decide: gated, y, ds, dx, dw_down, dw_up and du, then dw_gate in
# its place; plain, y, ds and all three.
@pytest.mark.skipif(DEVICE != "cpu", reason="counts a CPU's allocations")
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize(("gated", "matrices"), [(False, 5), (True, 6)])
def test_what_its_gradients_hold(save, gated, matrices, monkeypatch):
    monkeypatch.setattr(launch_tiled_portable, "_launch", lambda *args, **kwargs: None)
    size = 128
    names = [n for n in NAMES if gated or "gate" not in n]
    given = {n: torch.randn((size, size) if n[0] != "b" else size).requires_grad_() for n in names}
    dy = torch.randn(size, size)

    def step():
        torch.autograd.grad(fused_mlp(**given, activation="silu", plan=PLAN, save=save), list(given.values()), dy)

    step()
    assert most_held(step) / (4 * size * size) == pytest.approx(matrices, abs=0.1)


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_rows_computed_again_in_parts_have_the_same_bits(rows, monkeypatch):
    monkeypatch.setattr(training, "_TILE", rows)
    monkeypatch.setattr(training, "_PART", 1)
    given, dy = sound()
    want = tapped(given, dy, save="hidden")
    for names in (list(given), ["x", "w_up"], ["w_down"]):
        y = fused_mlp(**given, activation="silu", plan=PLAN, save="recompute")
        found = torch.autograd.grad(y, [given[name] for name in names], dy)
        assert all(torch.equal(g, want[f"d_{name}"]) for name, g in zip(names, found, strict=True))


@pytest.mark.parametrize("save", ["preact", "hidden"])
def test_what_a_hook_lays_out_anew_is_read_as_it_lies(save):
    given, dy = sound()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.t().contiguous().t() if t.dim() > 1 else t):
        y = fused_mlp(**given, activation="silu", plan=PLAN, save=save)
        found = torch.autograd.grad(y, list(given.values()), dy)
    want = tapped(given, dy, save=save)
    assert all(torch.equal(g, want[f"d_{name}"]) for name, g in zip(given, found, strict=True))


def test_second_derivative_is_refused():
    given, dy = sound()
    y = fused_mlp(**given, activation="silu", plan=PLAN)
    (first,) = torch.autograd.grad(y, given["x"], dy, create_graph=True)
    with pytest.raises(
        UnsupportedError, match=r'^the fused backward has no derivative of its own .*strategy="library"'
    ):
        torch.autograd.grad(first.sum(), given["x"])


def test_empty_batch_has_zero_gradients():
    given, _ = sound()
    y = fused_mlp(**given | {"x": given["x"][:0]}, activation="silu", plan=PLAN)
    found = torch.autograd.grad(y.sum(), [given["w_up"], given["b_down"], given["x"]])
    assert all(not g.any() for g in found)


def test_operands_with_steps_and_a_batch():
    given, dy = sound()
    want = tapped(given, dy)
    spread = {n: torch.stack([t.detach(), t.detach()], dim=-1)[..., 0].requires_grad_() for n, t in given.items()}
    assert not any(t.is_contiguous() for t in spread.values())
    y = fused_mlp(**spread | {"x": spread["x"].view(3, 4, 21)}, activation="silu", plan=PLAN)
    found = torch.autograd.grad(y, list(spread.values()), dy.view(3, 4, 13))
    assert all(torch.equal(g, want[f"d_{name}"]) for name, g in zip(spread, found, strict=True))


def test_operators_are_sound(monkeypatch):
    given, dy = sound()
    x, w_up, w_down, w_gate, b_up, b_gate, b_down = (given[name] for name in NAMES)
    problem = draw((12, 21, 34, 13), activation="silu", gated=True).problem
    plan = choose(problem, device_of(x), PLAN).plan.to_json()
    options = ("silu", "ieee", plan, "hidden")
    torch.library.opcheck(torch.ops.torchfused.mlp_fwd, (x, w_up, w_down, w_gate, b_up, b_gate, b_down, *options))
    x, w_up, w_down, w_gate, b_up, b_gate = (t.detach() for t in (x, w_up, w_down, w_gate, b_up, b_gate))
    monkeypatch.setattr(training, "_TILE", 8)
    for part in (2**24, 8 * 34):
        # All rows at once; 8 of 12.
        monkeypatch.setattr(training, "_PART", part)
        for wanted in ("h", "d_s d_u h", "d_s d_u"):
            given = dy, x, w_up, w_down, w_gate, b_up, b_gate
            torch.library.opcheck(torch.ops.torchfused.hidden_again, (*given, wanted, "silu", "ieee", plan))
    saved = [torch.randn(12, 34, device=DEVICE) for _ in range(2)]
    how = "silu", "ieee", "portable", "fused"
    torch.library.opcheck(torch.ops.torchfused.hidden_bwd, (dy, w_down, saved, "s u", *how))
    torch.library.opcheck(torch.ops.torchfused.hidden_bwd, (dy, w_down, saved, "s h", *how))
    products = torch.ops.torchfused.product_bwd
    torch.library.opcheck(products, (dy.t(), saved[0], None, None, "ieee", "portable"))
    torch.library.opcheck(products, (saved[0], w_up, saved[1], w_gate, "ieee", "portable"))


@pytest.mark.parametrize("plan", [PLAN, LIBRARY], ids=["fused", "library"])
def test_compiles_as_one_graph_for_every_batch(plan):
    given, _ = sound()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x, held):
        return fused_mlp(x, **held, activation="silu", plan=plan)

    held = {name: t for name, t in given.items() if name != "x"}
    for rows in (12, 7, 5):
        x = given["x"].detach()[:rows]
        found, want = step(x, held), fused_mlp(x, **held, activation="silu", plan=plan)
        assert torch.equal(found, want)
        one, two = (torch.autograd.grad(y.square().sum(), held["w_gate"])[0] for y in (found, want))
        assert torch.equal(one, two)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant):
    given, dy = sound()
    want = tapped(given, dy)

    def layer(*tensors):
        return fused_mlp(**dict(zip(given, tensors, strict=True)), activation="silu", plan=PLAN)

    y = torch.utils.checkpoint.checkpoint(layer, *given.values(), use_reentrant=reentrant)
    y.backward(dy)
    assert all(torch.equal(t.grad, want[f"d_{name}"]) for name, t in given.items())


def test_mixed_precision_as_users_run_it():
    torch.manual_seed(0)
    module = FusedMLP(21, 34, 13, gated=True, activation="silu", device=DEVICE)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**8)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    x, target = torch.randn(12, 21, device=DEVICE), torch.randn(12, 13, device=DEVICE)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, dtype=torch.float16):
            y = module(x)
            assert y.dtype == torch.float16
            loss = (y.float() - target).square().mean()
        scaler.scale(loss).backward()
        assert all(p.grad.dtype == torch.float32 for p in module.parameters())
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_gradients_are_those_of_differences():
    """What torch.autograd.gradcheck does in float64, which no kernel serves: differences of the reference in float64,
    the kernels' gradients in float32."""
    given, dy = sound()
    found = tapped(given, dy)
    step = 2.0**-10
    for name, t in given.items():
        index = tuple(size // 2 for size in t.shape)
        values = []
        for sign in (1, -1):
            held = {n: u.detach().double() for n, u in given.items()}
            held[name][index] += sign * step
            with torch.no_grad():
                values.append((functional.reference.mlp(**held, activation="silu") * dy.double()).sum())
        numeric = (values[0] - values[1]) / (2 * step)
        gradient = found[f"d_{name}"]
        # A third derivative of order one times step^2, and the roundings of float32.
        assert abs(gradient[index] - numeric) <= (step**2 + 64 * 2.0**-24) * gradient.norm()


@pytest.mark.parametrize("save", SAVES)
def test_a_decode_plan_trains(save):
    drawn = draw((12, 21, 34, 13), activation="silu", gated=True, biases="ugd", plan=Plan(strategy="decode", split_k=2))
    drawn.check_gradients(gradients(drawn, save), save)


@pytest.mark.parametrize("name", NAMES)
def test_a_lazily_negated_operand_is_negated(name):
    given, _ = sound([])
    options = {"activation": "silu", "plan": PLAN}
    assert torch.equal(
        fused_mlp(**given | {name: torch._neg_view(-given[name])}, **options), fused_mlp(**given, **options)
    )


def test_the_operator_stands_for_the_launches_where_they_are_watched():
    given, _ = sound([])
    x = given.pop("x")

    def call(x):
        return fused_mlp(x, **given, activation="silu", plan=PLAN)

    want = call(x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert call(mode.from_tensor(x)).shape == want.shape
    traced = make_fx(call)(x)
    assert "torchfused.mlp_fwd" in traced.code
    assert torch.equal(traced(x), want)
    # Not under the transform itself, but called inside of one.
    slope = torch.func.grad(lambda t: (t * call(x)).sum())(torch.ones((), device=DEVICE))
    assert torch.equal(slope, want.sum())
