"""A call made before, settled: which calls may share one, and that it launches the same on its own operands."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs

from parity.contract.plan import LIBRARY, Plan
from parity.contract.problem import Device, smem_of
from torchfused import functional, fused_mlp, launch_decode_portable, launch_tiled_portable, launcher, settled
from torchfused.launcher import Launch, Relaunch

H100 = Device(kind="gpu", name="H100", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0))
PLAN = Plan()
OPTIONS = ("gelu_tanh", "ieee", PLAN, "preact")


def given(**changed):
    torch.manual_seed(0)
    shapes = {"x": (3, 16), "w_up": (32, 16), "w_down": (8, 32), "b_up": (32,), "b_down": (8,)}
    return {name: torch.randn(shape) / 4 for name, shape in shapes.items()} | changed


def key(*options, **changed):
    held = given(**changed)
    return settled.key_of([held.get(name) for name in functional.NAMES], *options or OPTIONS)


def test_values_and_places_are_no_part_of_a_key():
    assert key() is not None
    assert key(x=torch.ones(3, 16), w_up=nn.Parameter(torch.ones(32, 16), requires_grad=False)) == key()


def shifted(*shape, by=1):
    return torch.zeros(torch.Size(shape).numel() + by)[by:].view(shape)


@pytest.mark.parametrize(
    "changed",
    [
        {"x": torch.ones(4, 16)},
        {"x": torch.ones(1, 3, 16)},
        {"x": torch.ones(16, 3).t()},
        {"w_up": torch.ones(32, 32)[:, :16]},
        {"x": torch.ones(3, 16, dtype=torch.float16)},
        {"x": shifted(3, 16)},
        {"b_down": shifted(8)},
        {"b_up": torch.ones(1).expand(32)},
        {"b_up": None},
        {"w_gate": torch.ones(32, 16)},
    ],
    ids=[
        "rows",
        "batch",
        "columns",
        "steps",
        "type",
        "alignment",
        "bias' alignment",
        "bias' stride",
        "no bias",
        "gate",
    ],
)
def test_a_key_holds(changed):
    found = key(**changed)
    assert found is not None
    assert found != key()


def test_a_key_holds_which_operand_is_absent():
    square = {"w_up": torch.ones(16, 16), "w_down": torch.ones(16, 16), "b_up": None, "b_down": None}
    assert key(**square | {"b_up": torch.ones(16)}) != key(**square | {"b_down": torch.ones(16)})


def test_a_key_holds_every_alignment_below_16_bytes():
    keys = [key(x=shifted(3, 16, by=by)) for by in range(8)]
    assert len(set(keys)) == 4
    assert keys[:4] == keys[4:]


def test_a_key_holds_the_options_the_device_and_what_autocast_casts_to():
    for options in (
        ("relu", "ieee", PLAN, "preact"),
        ("gelu_tanh", "tf32", PLAN, "preact"),
        ("gelu_tanh", "ieee", None, "preact"),
        ("gelu_tanh", "ieee", Plan(split_k=2), "preact"),
        ("gelu_tanh", "ieee", PLAN, "hidden"),
    ):
        assert key(*options) != key()
    assert torch.device("cpu") in key()
    keys = [key()]
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            keys.append(key())
    assert len(set(keys)) == 3


class Subclass(torch.Tensor):
    pass


class Watched(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(str(func))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(3, 16).as_subclass(Subclass),
        torch._neg_view(torch.ones(3, 16)),
        torch._efficientzerotensor((3, 16)),
        torch.ones(0, 16),
        torch.ones(3, 16, device="meta"),
        torch.ones(3, 16).to_sparse(),
        torch.ones(3, 16).numpy(),
        None,
    ],
    ids=["subclass", "negated", "zero", "empty", "meta", "sparse", "array", "nothing"],
)
def test_what_is_more_or_less_than_its_memory_has_no_key(x):
    assert key(x=x) is None


def test_a_call_that_is_watched_has_no_key():
    assert key(w_down=nn.Parameter(torch.ones(8, 32))) is None
    for quiet in (torch.no_grad(), torch.inference_mode()):
        with quiet:
            assert key(w_down=nn.Parameter(torch.ones(8, 32))) == key()
    found, x = [], torch.ones(3, 16)
    with Watched():
        found.append(key(x=x))
    with torch.autograd.forward_ad.dual_level():
        found.append(key(x=x))
    torch.func.vmap(lambda t: found.append(key(x=x)) or t, randomness="same")(torch.ones(2))
    torch.func.grad(lambda t: found.append(key(x=x)) or t)(torch.ones(()))
    assert found == [None] * 4


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_what_torch_jit_traces_has_no_key():
    found = []
    torch.jit.trace(lambda t: found.append(key()) or t, (torch.ones(2),), check_trace=False)
    assert found == [None]


@pytest.fixture(autouse=True)
def nothing_is_settled():
    settled.forget()
    yield
    settled.forget()


def test_a_settled_library_call_is_the_reference():
    held = given()
    want = fused_mlp(**held, plan=LIBRARY)
    assert len(settled._CALLS) == 1
    assert torch.equal(fused_mlp(**held, plan=LIBRARY), want)
    with pytest.raises(ValueError, match="w_gate has shape"):
        fused_mlp(**held, w_gate=torch.ones(3, 3), plan=LIBRARY)


class Kernel:
    """A kernel that compiles to itself, as far as anybody asks, and notes what is launched of it and how."""

    function, packed_metadata = 17, (4, 1, 0)

    def __init__(self, kernel):
        self.src = SimpleNamespace(fn=kernel)
        self.first, self.again = [], []

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.first.append((grid, args))
            return self

        return launch

    def run(self, *args):
        self.again.append(args)


@pytest.fixture
def gpu(monkeypatch):
    """An H100 as far as anybody asks, with kernels that launch nothing."""
    kernel, decode = Kernel(launch_tiled_portable.linear_fwd_kernel), Kernel(launch_decode_portable.decode_fwd_kernel)
    word = torch.zeros(1, dtype=torch.int32)
    state = SimpleNamespace(kernel=kernel, decode=decode, device=None, capturing=False, word=word)
    monkeypatch.setattr(launch_tiled_portable, "linear_fwd_kernel", kernel)
    monkeypatch.setattr(launch_decode_portable, "decode_fwd_kernel", decode)
    monkeypatch.setattr(launch_decode_portable, "arrivals_of", lambda device: state.word)
    monkeypatch.setattr(functional, "device_of", lambda _: H100)
    monkeypatch.setattr(settled, "current_device", lambda: state.device)
    monkeypatch.setattr(settled, "current_stream", lambda index: 7)
    monkeypatch.setattr(settled, "is_current_stream_capturing", lambda: state.capturing)
    monkeypatch.setattr(settled, "arrivals_on", lambda device, stream: state.word)
    return state


def launched(kernel):
    """What passed through the kernel since the last time: launches as Triton makes them, and settled ones."""
    first, again = list(kernel.first), list(kernel.again)
    kernel.first.clear()
    kernel.again.clear()
    return first, again


def test_the_second_call_launches_the_same_on_its_own_operands(gpu):
    fused_mlp(**given(), plan=PLAN)
    first, again = launched(gpu.kernel)
    assert (len(first), len(again)) == (2, 0)
    held = given()
    y = fused_mlp(**held, plan=PLAN)
    none, (up, down) = launched(gpu.kernel)
    assert none == []
    assert (y.shape, y.dtype) == ((3, 8), torch.float32)
    for (grid, args), found in zip(first, (up, down), strict=True):
        assert found[:9] == (*grid, 7, 17, (4, 1, 0), None, None, None)
        # Eight pointers, then the integers as before and the constants.
        assert found[17 : 17 + len(args) - 8] == args[8:]
    at = {name: t.data_ptr() for name, t in held.items()}
    h = up[9 + 5]
    assert up[9:17] == (at["x"], at["w_up"], at["w_up"], at["b_up"], at["w_up"], h, at["w_up"], at["w_up"])
    w = at["w_down"]
    assert down[9:17] == (h, w, w, at["b_down"], w, y.data_ptr(), w, w)


def test_every_launch_counts_in_the_word_of_its_own_stream(gpu):
    plan = Plan(strategy="decode")
    fused_mlp(**given(), plan=plan)
    gpu.word = torch.zeros(1, dtype=torch.int32)
    y = fused_mlp(**given(), plan=plan)
    first, (again,) = launched(gpu.decode)
    assert len(first) == 1
    # Nine operands and outputs, taps that are not asked for, the word.
    assert again[9 + 8] == y.data_ptr()
    assert again[9 + 11] == gpu.word.data_ptr()


@pytest.mark.parametrize("strategy", ["tiled", "decode"])
def test_a_forward_allocates_and_launches_and_that_is_all(gpu, strategy):
    """What settling a call rests on: whatever else it did would not be done again."""
    held = given()
    with Watched() as watch:
        functional.stages(**held, plan=Plan(strategy=strategy))
    assert watch.seen == {"aten.new_empty.default", "aten.view.default"}


def test_a_batch_keeps_its_shape(gpu):
    batch = torch.ones(2, 3, 16)
    assert [tuple(fused_mlp(**given(x=batch), plan=PLAN).shape) for _ in range(2)] == [(2, 3, 8)] * 2
    assert len(launched(gpu.kernel)[1]) == 2


@pytest.mark.parametrize("change", ["device", "alignment", "enter", "exit", "foreign"])
def test_triton_launches_where_it_must(gpu, change, monkeypatch):
    fused_mlp(**given(), plan=PLAN)
    if change == "device":
        gpu.device = 1
    elif change == "alignment":
        monkeypatch.setattr(torch.Tensor, "new_empty", lambda x, *shape: shifted(*shape))
    else:
        chain = knobs.HookChain()
        chain.add(print)
        name = "exit" if change == "exit" else "enter"
        monkeypatch.setattr(knobs.runtime, f"launch_{name}_hook", print if change == "foreign" else chain)
    launched(gpu.kernel)
    fused_mlp(**given(), plan=PLAN)
    first, again = launched(gpu.kernel)
    assert (len(first), len(again)) == (2, 0)


@pytest.mark.parametrize("change", [{"device": 1}, {"capturing": True}])
def test_what_is_special_is_not_settled(gpu, change):
    vars(gpu).update(change)
    fused_mlp(**given(), plan=PLAN)
    assert settled._CALLS == {}


def test_what_cannot_be_told_apart_is_not_settled(gpu):
    square = torch.ones(16, 16)
    same = {"w_up": square, "w_down": square, "b_up": None, "b_down": None}
    # A batch whose rows have to be copied together.
    apart = {"x": torch.ones(4, 3, 16)[:, :2].transpose(0, 1)[:, ::3]}
    for changed in (same, apart, {"x": torch.ones(3, 2, 16)[:, :1].transpose(0, 1).expand(2, 3, 16)}):
        fused_mlp(**given(**changed), plan=PLAN)
        assert settled._CALLS == {}
    with torch.autocast("cpu", torch.float16):
        fused_mlp(**given(), plan=PLAN)
        assert settled._CALLS == {}
        fused_mlp(**{name: t.half() for name, t in given().items()}, plan=PLAN)
    assert len(settled._CALLS) == 1


def test_a_launch_too_few_is_not_settled(gpu, monkeypatch):
    linear = launch_tiled_portable.linear
    monkeypatch.setattr(
        launch_tiled_portable,
        "linear",
        lambda *a, **k: linear(*a, **k) if k["activation"] != "identity" else {"y": a[2].new_ones(3, 8)},
    )
    fused_mlp(**given(), plan=PLAN)
    assert settled._CALLS == {}


def test_calls_are_forgotten_before_they_are_too_many(gpu, monkeypatch):
    monkeypatch.setattr(settled, "_MOST", 2)
    for rows in (1, 2, 3):
        fused_mlp(**given(x=torch.ones(rows, 16)), plan=PLAN)
    assert len(settled._CALLS) == 1


def test_a_tensor_map_is_encoded_once_for_an_address(monkeypatch):
    encodings, runs = [], []
    monkeypatch.setattr(launcher, "launcher_of_encoded", lambda compiled: lambda *args: runs.append(args))
    monkeypatch.setattr(
        launcher,
        "encoded",
        lambda described, meta, address: encodings.append((meta, address)) or (f"map {address}", 2, 64),
    )
    x, h = torch.zeros(2, 64), torch.zeros(2, 64)
    compiled = SimpleNamespace(
        function=17, packed_metadata=(4,), metadata=SimpleNamespace(tensordesc_meta=["of x", "of h"])
    )
    described = (SimpleNamespace(base=x), SimpleNamespace(base=h))
    places = [x.data_ptr(), h.data_ptr()]
    again = Relaunch(Launch(compiled, (9, 1, 1), described, (h, x), (64,)), places)
    for addresses in ([32, 64], [32, 64], [96, 64]):
        again(7, addresses)
    assert encodings == [("of x", 32), ("of h", 64), ("of x", 96)]
    assert runs[1] == (9, 1, 1, 7, 17, (4,), None, None, None, "map 32", 2, 64, "map 64", 2, 64, 64, 32, 64)
    assert runs[2][9:] == ("map 96", 2, 64, "map 64", 2, 64, 64, 96, 64)
