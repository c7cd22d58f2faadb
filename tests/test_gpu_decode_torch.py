"""What only a GPU can show of a decode plan: the bits of tiled, one launch, and a hand-over that never hangs."""

from dataclasses import replace

import pytest
import torch
from adapter_torch import DEVICE, operands, run
from test_gpu_torch import KINDS, drawn_as, same
from yardstick import draw

from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan
from parity.gpu import find_gpu
from torchfused import functional, fused_mlp, settled

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned")]

DECODE, HOPPER = Plan(strategy="decode"), Plan(strategy="decode", backend="hopper")
SPLITS = [(1, 1), (4, 4), (8, 2)]
on_hopper = pytest.mark.skipif(
    find_gpu() is None or torch.cuda.get_device_capability() != (9, 0), reason="needs compute capability 9.0"
)
BOTH = [pytest.param(replace(DECODE, split_k=4), id="portable"), pytest.param(HOPPER, id="hopper", marks=on_hopper)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("dtype", "precision"), KINDS)
@pytest.mark.parametrize("gated", [False, True])
def test_bits_of_tiled(dtype, precision, gated, split):
    for m, k in ((1, 264), (16, 1024), (33, 264), (64, 256)):
        drawn = drawn_as(dtype, precision, shape=(m, k, 392, 136), gated=gated, plan=replace(DECODE, split_k=split))
        assert same(run(drawn), run(replace(drawn, plan=Plan(split_k=split)))), (m, k)


@on_hopper
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("activation", "m"), list(zip(ACTIVATIONS, (1, 2, 7, 8, 9, 16, 17, 33, 64), strict=True)))
def test_bits_of_tiled_on_hopper(activation, m, gated, dtype):
    biases = "ugd" if gated else "ud"
    drawn = draw((m, 512, 768, 320), activation=activation, gated=gated, biases=biases, dtype=dtype, plan=HOPPER)
    found = run(drawn)
    drawn.check(found)
    assert same(found, run(replace(drawn, plan=Plan())))


@pytest.mark.parametrize("split", SPLITS)
def test_a_row_has_the_same_bits_in_any_batch(split):
    drawn = draw((8192, 512, 1024, 512), activation="silu", gated=True, dtype="bfloat16", judged=False)
    given = operands(drawn.arrays)
    x = given.pop("x")
    want = fused_mlp(x, **given, activation="silu", plan=Plan(split_k=split))
    for m in (1, 2, 16, 17, 64):
        found = fused_mlp(x[5 : 5 + m], **given, activation="silu", plan=replace(DECODE, split_k=split))
        assert torch.equal(found, want[5 : 5 + m]), m


@pytest.fixture(params=BOTH)
def layer(request):
    """A layer: its operands but for x, the plan, and what it gives for two of them."""
    drawn = draw((2, 1024, 4096, 1024), activation="gelu_tanh", biases="ud", dtype="bfloat16", judged=False)
    given = operands(drawn.arrays) | {"plan": request.param}
    x = given.pop("x")
    tiled = given | {"plan": Plan(split_k=request.param.split_k)}
    return x, given, [fused_mlp(row, **tiled) for row in (x[:1], x[1:])]


def test_ten_thousand_replays_give_the_same_bytes(layer):
    x, given, want = layer
    fused_mlp(x[:1], **given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = fused_mlp(x[:1], **given)
    differs = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for _ in range(10_000):
        y.fill_(float("nan"))
        graph.replay()
        differs += (y != want[0]).any()
    assert differs.item() == 0


def test_two_streams_at_once_and_graphs_on_both(layer):
    x, given, want = layer
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    graphs = []
    for i in (0, 1):
        # Both are captured on the same stream of torch's own.
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            graphs.append((graph, fused_mlp(x[i : i + 1], **given)))
    results = [[], []]
    for _ in range(300):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results[i].append(fused_mlp(x[i : i + 1], **given))
                graphs[i][0].replay()
    torch.cuda.synchronize()
    for i in (0, 1):
        assert all(torch.equal(y, want[i]) for y in results[i])
        assert torch.equal(graphs[i][1], want[i])


@pytest.mark.parametrize("processors", [1, 7, 132])
def test_any_number_of_processors(layer, processors, monkeypatch):
    x, given, want = layer
    found = functional.device_of(x)
    monkeypatch.setattr(functional, "device_of", lambda _: replace(found, sm_count=min(processors, found.sm_count)))
    functional._decided.cache_clear()
    settled.forget()
    assert torch.equal(fused_mlp(x[:1], **given), want[0])
    functional._decided.cache_clear()
    settled.forget()


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")
def test_one_kernel_and_nothing_else_is_launched(layer, monkeypatch):
    from torch.profiler import ProfilerActivity, profile

    # Poison is launched too.
    monkeypatch.undo()
    x, given, _ = layer
    fused_mlp(x[:1], **given)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler, torch.no_grad():
        fused_mlp(x[:1], **given)
        torch.cuda.synchronize()
    events = [e.name for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert len(events) == 1, events
    assert "decode_fwd_kernel" in events[0]


# Inductor of torch 2.11 imports what torch itself deprecates, and keeps its pool by an empty graph.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")
def test_compiled_and_graphed_by_torch(layer):
    x, given, want = layer
    compiled = torch.compile(lambda x: fused_mlp(x, **given), fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(4):
            assert torch.equal(compiled(x[:1]), want[0])
