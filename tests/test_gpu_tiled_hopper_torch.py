"""What only a GPU can show of strategy tiled on Hopper: the bits of the portable kernels, and none that move."""

from dataclasses import replace

import pytest
import torch
from adapter_torch import DEVICE, operands, run
from test_gpu_torch import same
from yardstick import draw

from parity.contract.activations import ACTIVATIONS
from parity.contract.hopper_tiles import Tiling
from parity.contract.plan import Plan
from parity.contract.saved import SAVES
from parity.contract.tiles import Tiles
from parity.gpu import find_gpu
from torchfused import functional, fused_mlp, launch_tiled_hopper, settled, training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(
        find_gpu() is None or torch.cuda.get_device_capability() != (9, 0), reason="needs compute capability 9.0"
    ),
]

HOPPER = Plan(strategy="tiled", backend="hopper")
# A tile of both warpgroups' and one of each one's own, of two weights and of one.
WIDE = Plan(strategy="tiled", backend="hopper", up=Tiles(m=128, n=128, k=64), down=Tiles(m=128, n=256, k=64))
OWN = Plan(strategy="tiled", backend="hopper", up=Tiles(m=128, n=64, k=64), down=Tiles(m=128, n=128, k=64))
SHAPES = [(300, 264, 520, 136), (1, 64, 64, 64), (1025, 512, 768, 640), (129, 8, 1000, 24)]


def layer(shape, plan, *, gated=False, dtype="bfloat16"):
    biases = "ugd" if gated else "ud"
    drawn = draw(shape, activation="silu", gated=gated, biases=biases, dtype=dtype, plan=plan, judged=False)
    given = operands(drawn.arrays)
    return given.pop("x"), given | {"activation": "silu", "plan": plan}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bits_of_portable(activation, gated, dtype):
    biases = "ugd" if gated else "ud"
    drawn = draw(SHAPES[0], activation=activation, gated=gated, biases=biases, dtype=dtype, plan=HOPPER)
    found = run(drawn)
    drawn.check(found)
    assert same(found, run(replace(drawn, plan=Plan())))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_leave_the_bits(shape, gated):
    drawn = draw(shape, activation="gelu_tanh", gated=gated, dtype="bfloat16", plan=Plan())
    want = run(drawn)
    plans = [HOPPER, OWN, WIDE if gated else replace(WIDE, up=WIDE.down)]
    assert all(same(run(replace(drawn, plan=plan)), want) for plan in plans)


def differing(shape, activation, gated, save):
    """The gradients, by name, in which hopper and portable differ."""
    x, given = layer(shape, HOPPER, gated=gated)
    given["activation"] = activation
    dy = torch.randn(shape[0], shape[3], device=DEVICE).to(x.dtype)
    found = functional.gradients(dy, x, **given, save=save)
    want = functional.gradients(dy, x, **given | {"plan": Plan()}, save=save)
    return [name for name in want if not torch.equal(found[name], want[name])]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_have_the_bits_of_portable(activation, gated):
    assert differing(SHAPES[0], activation, gated, "preact") == []


@pytest.mark.parametrize("save", SAVES[:2])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_gradients_of_other_shapes_have_too(shape, gated, save):
    assert differing(shape, "silu", gated, save) == []


UPSTREAMS = {
    "one number": lambda y: y.sum(),
    "one a row": lambda y: y.float().sum(-1).pow(2).sum(),
    "turned": lambda y: (y.t().contiguous() ** 2).sum(),
}


@pytest.mark.parametrize("m", [1, 300])
@pytest.mark.parametrize("loss", UPSTREAMS.values(), ids=UPSTREAMS)
def test_a_backward_from_an_upstream_that_is_not_packed(loss, m):
    x, given = layer((m, *SHAPES[0][1:]), HOPPER)
    leaves = [x, given["w_up"], given["w_down"], given["b_up"]]
    for leaf in leaves:
        leaf.requires_grad_()
    found = torch.autograd.grad(loss(fused_mlp(x, **given)), leaves)
    want = torch.autograd.grad(loss(fused_mlp(x, **given | {"plan": Plan()})), leaves)
    assert all(map(torch.equal, found, want))


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("gated", [False, True])
def test_autograd_has_the_bits_of_portable(gated, save, monkeypatch):
    """By way of the operators; what is computed again, 128 rows at a time."""
    monkeypatch.setattr(training, "_PART", 1)
    x, given = layer((1025, *SHAPES[0][1:]), HOPPER, gated=gated)
    names = ["x", *(name for name in given if name.startswith(("w_", "b_")))]
    leaves = [({"x": x} | given)[name].requires_grad_() for name in names]
    dy = torch.randn(1025, SHAPES[0][3], device=DEVICE).to(x.dtype)
    found, want = (
        torch.autograd.grad(fused_mlp(x, **given | {"plan": plan}, save=save), leaves, dy) for plan in (HOPPER, Plan())
    )
    assert [name for name, one, two in zip(names, found, want, strict=True) if not torch.equal(one, two)] == []


@pytest.fixture(params=[1, 2, 7])
def few(request, monkeypatch):
    """A GPU of so few processors: each program has many tiles, of one warpgroup as of the other, also odd numbers."""
    found = functional.device_of(torch.empty(0, device=DEVICE))
    monkeypatch.setattr(functional, "device_of", lambda _: replace(found, sm_count=request.param))
    functional._decided.cache_clear()
    settled.forget()
    yield
    functional._decided.cache_clear()
    settled.forget()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("group_m", [3, 8, 16])
@pytest.mark.parametrize("tiles", [Tiles(m=128, n=n, k=64) for n in (64, 128, 256)], ids=str)
def test_many_tiles_a_program_in_any_order_leave_the_bits(tiles, group_m, gated, few, monkeypatch):
    def tiling_for(device, work, given=None):
        return Tiling(tiles=given or replace(tiles, n=min(tiles.n, 256 - 128 * work.turns)), group_m=group_m)

    monkeypatch.setattr(launch_tiled_hopper, "tiling_for", tiling_for)
    assert differing((900, 264, 520, 392), "silu", gated, "preact") == []


@pytest.mark.parametrize("plan", [WIDE, OWN], ids=["shared", "own"])
def test_repeated_it_gives_the_same_bytes(plan):
    x, given = layer((2048, 1024, 2048, 1024), plan, gated=True)
    want = fused_mlp(x, **given | {"plan": Plan()})
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = fused_mlp(x, **given)
    differs = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for _ in range(200):
        y.fill_(float("nan"))
        graph.replay()
        differs += (y != want).any()
    assert differs.item() == 0


def test_a_row_has_the_same_bits_in_any_batch():
    x, given = layer((8192, 512, 1024, 512), HOPPER, gated=True)
    want = fused_mlp(x, **given)
    for m in (1, 63, 128, 1000):
        assert torch.equal(fused_mlp(x[5 : 5 + m].clone(), **given), want[5 : 5 + m]), m
