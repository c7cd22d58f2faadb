"""FusedMLP in torch: what it holds, what loads into it, and what it computes."""

import pytest
import torch
from adapter_torch import DEVICE, operands, run, to_numpy
from torch import nn
from yardstick import draw

from parity.contract.errors import UnsupportedError
from parity.contract.saved import SAVES
from torchfused import FusedMLP, fused_mlp
from torchfused.functional import gradients

pytestmark = pytest.mark.usefixtures("poisoned")


def loaded(**fields):
    """A module with a Draw's weights, and the Draw."""
    gated, activation = fields.get("gated", False), fields.get("activation", "gelu_tanh")
    drawn = draw((12, 21, 34, 13), biases="ugd" if gated else "ud", **fields)
    module = FusedMLP(21, 34, 13, activation=activation, gated=gated, device=DEVICE)
    held = operands(drawn.arrays)
    x = held.pop("x")
    names = {"w": "weight", "b": "bias"}
    module.load_state_dict({f"{name[2:]}_proj.{names[name[0]]}": tensor for name, tensor in held.items()})
    return module, x, drawn


@pytest.mark.parametrize(("gated", "activation"), [(False, "gelu_tanh"), (True, "silu"), (True, "gelu")])
def test_computes_with_the_weights_it_loaded(gated, activation):
    module, x, drawn = loaded(gated=gated, activation=activation)
    with torch.no_grad():
        drawn.check({"y": to_numpy(module(x))})
    if DEVICE == "cpu":
        with torch.no_grad():
            assert to_numpy(module(x)).tobytes() == run(drawn)["y"].tobytes()


def test_names_and_shapes_are_a_checkpoints():
    held = FusedMLP(6, 10, gated=True).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in held.items()} == {
        "up_proj.weight": (10, 6), "up_proj.bias": (10,), "gate_proj.weight": (10, 6), "gate_proj.bias": (10,),
        "down_proj.weight": (6, 10), "down_proj.bias": (6,),
    }  # fmt: skip
    assert set(FusedMLP(6, 10, 4, bias=False).state_dict()) == {"up_proj.weight", "down_proj.weight"}
    assert FusedMLP(6, 10, 4).down_proj.out_features == 4


def test_starts_as_linear_layers_do():
    torch.manual_seed(0)
    module = FusedMLP(6, 10)
    torch.manual_seed(0)
    up, down = nn.Linear(6, 10), nn.Linear(10, 6)
    assert torch.equal(module.up_proj.weight, up.weight)
    assert torch.equal(module.down_proj.bias, down.bias)


@pytest.mark.parametrize("child", ["up_proj", "gate_proj", "down_proj"])
def test_a_childs_bias_can_go(child):
    module, x, drawn = loaded(gated=True, activation="silu")
    before = run(drawn)["y"]
    getattr(module, child).bias = None
    arrays = {name: array for name, array in drawn.arrays.items() if name != f"b_{child.removesuffix('_proj')}"}
    rest = operands(arrays)
    with torch.no_grad():
        assert torch.equal(module(x), fused_mlp(**rest, activation="silu"))
        assert not drawn.accepts({"y": to_numpy(module(x))})
    assert drawn.accepts({"y": before})


def test_dtype_follows():
    module = FusedMLP(6, 10, gated=True, dtype=torch.float16)
    assert {p.dtype for p in module.parameters()} == {torch.float16}
    with torch.no_grad(), pytest.raises(ValueError, match="w_up is float16 and x is float32"):
        module(torch.ones(2, 6))
    module = module.float().to(DEVICE)
    with torch.no_grad():
        y = module(torch.ones(2, 6, device=DEVICE))
    assert y.dtype == torch.float32
    assert y.isfinite().all()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("save", SAVES)
def test_every_parameter_gets_its_gradient(gated, save):
    """The functional's, bit for bit, under its own name: names that are mixed up, or one left out, are seen."""
    module, x, _ = loaded(gated=gated, activation="silu")
    module.save = save
    y = module(x.requires_grad_())
    dy = torch.randn(y.shape, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))
    y.backward(dy)
    arguments = module._arguments()
    assert arguments["save"] == save
    want = gradients(dy, x.detach(), **arguments | {"plan": module.explain(x).plan})
    held = {name: t for name, t in arguments.items() if torch.is_tensor(t)} | {"x": x}
    assert {f"d_{name}" for name in held} == {name for name in want if name[2:] in held}
    assert len(held) == len(list(module.parameters())) + 1
    for name, parameter in held.items():
        assert torch.equal(parameter.grad, want[f"d_{name}"]), name
        assert parameter.grad.any(), name


def test_what_is_saved_is_asked_for_by_name():
    assert FusedMLP(6, 10).save == "preact"
    with pytest.raises(ValueError, match=r"^save is 'inputs', must be one of preact, hidden, recompute"):
        FusedMLP(6, 10, save="inputs")


def test_repr_says_what_it_is():
    text = repr(FusedMLP(6, 10, activation="silu", gated=True, precision="tf32", save="hidden"))
    assert "activation='silu', gated=True, precision='tf32', save='hidden'" in text
    assert "(gate_proj): Linear(in_features=6, out_features=10, bias=True)" in text


class Adapter(nn.Linear):
    """What LoRA puts in a Linear's place."""


@pytest.mark.parametrize("child", ["up_proj", "gate_proj", "down_proj"])
def test_a_child_that_is_no_plain_linear_is_refused(child):
    module, x, _ = loaded(gated=True)
    plain = getattr(module, child)
    setattr(module, child, Adapter(plain.in_features, plain.out_features))
    with pytest.raises(UnsupportedError, match=f"^{child} is Adapter with 0 hooks: .*merge the adapter"):
        module(x)
    setattr(module, child, plain)
    handle = plain.register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match=f"^{child} is Linear with 1 hooks: a fused MLP reads a plain"):
        module(x)
    handle.remove()
    with torch.no_grad():
        assert module(x).isfinite().all()


def test_unknown_activation_is_refused_at_once():
    with pytest.raises(ValueError, match=r"^activation is 'swiglu', must be one of relu, relu2, gelu, gelu_tanh,"):
        FusedMLP(6, 10, activation="swiglu")


def test_explain_and_tf32():
    module, x, _ = loaded(gated=True)
    module.precision = "tf32"
    with torch.no_grad():
        told, y = module.explain(x), module(x)
    assert told.problem.precision == "tf32"
    assert "gated gelu_tanh, float32 (tf32)" in str(told)
    drawn = draw((12, 21, 34, 13), biases="ugd", gated=True, precision="tf32")
    drawn.check({"y": to_numpy(y)})
