"""jaxfused under differentiation, and what is built on it: which gradients, how many launches, jax' transforms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from adapter_jax import gradients, operands
from flax import linen, nnx
from jax._src.ad_checkpoint import saved_residuals
from yardstick import SMALL, draw, upstream

from jaxfused import FusedMLP, functional, fused_mlp, launch, reference
from jaxfused import linen as fused_linen
from parity.contract.errors import UnsupportedError
from parity.contract.hopper_tiles import DEPTH
from parity.contract.plan import LIBRARY, Plan
from parity.contract.problem import Device
from parity.contract.saved import SAVES
from parity.contract.tolerance import chain_bound

pytestmark = pytest.mark.usefixtures("strict_jax")

PLAN = Plan(up=SMALL, down=SMALL)
# Three GEMMs follow each other; no inner length is longer than 4 * 12 rows and 34 columns.
CLOSE = 3 * chain_bound(4 * 12 + 34, "ieee").stat


def sound(**fields):
    drawn = draw((12, 21, 34, 13), activation="silu", gated=True, biases="ugd", plan=PLAN, **fields)
    return drawn, operands(drawn.arrays), jnp.asarray(upstream(drawn))


def layer(x, held, *, plan=PLAN, **options):
    return fused_mlp(x, **held, activation="silu", plan=plan, **options)


def library(x, held):
    with jax.numpy_rank_promotion("allow"):
        return reference.mlp(x, **held, activation="silu")


def split(given):
    return given["x"], {name: a for name, a in given.items() if name != "x"}


def pull(f, dy):
    """The gradients of ``f(x, held)`` for the upstream ``dy``, by operand."""

    def of(x, held):
        _, back = jax.vjp(f, x, held)
        d_x, rest = back(dy)
        return {"d_x": d_x} | {f"d_{name}": a for name, a in rest.items()}

    return of


def close(found, want):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert np.linalg.norm(a - b) <= CLOSE * np.linalg.norm(b)
        assert np.any(b)


def kernels(f, *arguments):
    """Grids of the kernels that are left once what nobody uses is gone."""
    closed = jax.make_jaxpr(f)(*arguments)
    from jax.interpreters import partial_eval as pe

    jaxpr, _ = pe.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    found = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "pallas_call":
                found.append(equation.params["grid_mapping"].grid)
                continue
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jaxpr)
    return found


@pytest.mark.parametrize("save", SAVES)
def test_differentiation_gives_what_the_kernels_give(save):
    drawn, given, dy = sound()
    found = jax.jit(pull(partial(layer, save=save), dy))(*split(given))
    want = gradients(drawn, save)
    assert all(np.array_equal(found[f"d_{name}"], want[f"d_{name}"]) for name in given)


def test_only_what_is_differentiated_is_computed():
    _, given, dy = sound()
    x, held = split(given)

    def wrt(name):
        def loss(value):
            return jnp.vdot(layer(value, held) if name == "x" else layer(x, held | {name: value}), dy)

        return jax.grad(loss), given[name]

    # Two launches forward; backward the hidden layer's, and one product for the operand.
    for name in ("x", "w_up", "w_down", "w_gate", "b_up", "b_gate"):
        assert len(kernels(*wrt(name))) == 4, name
    assert len(kernels(*wrt("b_down"))) == 3


def test_value_and_grad_and_empty_batch():
    _, given, dy = sound()
    x, held = split(given)
    value, found = jax.value_and_grad(lambda held: jnp.vdot(layer(x, held), dy))(held)
    close(found, jax.grad(lambda held: jnp.vdot(library(x, held), dy))(held))
    assert np.isfinite(value)
    empty = jax.grad(lambda held: layer(x[:0], held).sum())(held)
    assert not any(np.any(a) for a in jax.tree.leaves(empty))


def test_vmap_folds_a_batch_into_the_rows():
    _, given, _ = sound()
    x, held = split(given)
    xs = jnp.stack([x, 2 * x, -x, x + 1])
    each = jnp.stack([layer(x, held) for x in xs])
    assert np.array_equal(jax.vmap(lambda x: layer(x, held))(xs), each)
    # 48 rows and 34 columns in tiles of 16, then 13 columns: one launch a GEMM for the whole batch.
    assert kernels(jax.vmap(lambda x: layer(x, held)), xs) == [(9,), (3,)]


def test_a_batch_that_is_too_many_rows_for_decode_is_refused():
    _, given, _ = sound()
    x, held = split(given)
    decode = partial(layer, held=held, plan=Plan(strategy="decode"))
    few = jnp.stack([x] * 5)
    close(jax.vmap(decode)(few)[0], decode(x))
    with pytest.raises(UnsupportedError, match="decode serves at most 64 rows, these are 72"):
        jax.vmap(decode)(jnp.stack([x] * 6))


@pytest.mark.parametrize("save", SAVES)
def test_a_decode_plan_trains(save):
    drawn = draw((12, 21, 34, 13), activation="silu", gated=True, biases="ugd", plan=Plan(strategy="decode", split_k=2))
    drawn.check_gradients(gradients(drawn, save), save)


@pytest.mark.parametrize("save", SAVES)
def test_a_decode_plan_of_hopper_is_trained_by_tiled_kernels_of_hopper(save, monkeypatch):
    gpu = Device(kind="gpu", name="NVIDIA H200", sm_count=132, smem_bytes=232448, capability=(9, 0), library="xla")
    monkeypatch.setattr(functional, "device_of", lambda x: gpu)
    ran = []

    def forward(plan, device, x, w_up, w_down, *, taps=None, **rest):
        ran.append(f"{plan.strategy}/{plan.backend}")
        hidden = jnp.zeros((x.shape[0], w_up.shape[1]), x.dtype)
        found = {"y": jnp.zeros((x.shape[0], w_down.shape[1]), x.dtype)}
        return found | ({"s": hidden, "h": hidden} if taps else {})

    def backward(plan, device, dy, x, w_up, w_down, *, needs, **rest):
        ran.append(f"{plan.strategy}/{plan.backend} backward")
        return {f"d_{name}": jnp.zeros_like({"x": x, "w_up": w_up, "w_down": w_down}[name]) for name in needs}

    def hidden_again(plan, device, x, w_up, **options):
        assert plan.gemms()[0].tiles.k == DEPTH
        return {"s": jnp.zeros((x.shape[0], w_up.shape[1]), x.dtype)}

    monkeypatch.setattr(launch, "forward", forward)
    monkeypatch.setattr(launch, "tiled_hidden", hidden_again)
    monkeypatch.setattr(launch, "tiled_backward", backward)
    x, w_up, w_down = (jnp.ones(shape, jnp.bfloat16) for shape in ((2, 256), (256, 512), (512, 64)))
    plan = Plan(strategy="decode", backend="hopper")

    def loss(x):
        return fused_mlp(x, w_up, w_down, plan=plan, save=save).sum()

    loss(x)
    assert ran == ["decode/hopper"]
    ran.clear()
    jax.grad(loss)(x)
    assert ran == ["tiled/hopper", "tiled/hopper backward"]


def test_vmap_of_grad_and_batched_weights():
    _, given, dy = sound()
    x, held = split(given)
    xs = jnp.stack([x, 2 * x, -x])

    def loss(f, x, held):
        return jnp.vdot(f(x, held), dy)

    for argnum in (0, 1):
        found, want = (
            jax.jit(jax.vmap(jax.grad(partial(loss, f), argnum), (0, None)))(xs, held) for f in (layer, library)
        )
        close(found, want)
    many = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), held)
    close(jax.vmap(layer, (None, 0))(x, many), jax.vmap(library, (None, 0))(x, many))


def test_checkpoint_policies_know_the_names():
    _, given, dy = sound()
    x, held = split(given)
    want = pull(layer, dy)(x, held)
    names = ("fused_mlp_s", "fused_mlp_u")
    keep = jax.checkpoint_policies.save_only_these_names(*names)
    for policy, kept in ((jax.checkpoint_policies.nothing_saveable, 0), (keep, 2)):
        again = jax.checkpoint(layer, policy=policy)
        found = jax.jit(pull(again, dy))(x, held)
        assert all(np.array_equal(found[gradient], want[gradient]) for gradient in want)
        residuals = [why for _, why in saved_residuals(again, x, held) if "fused_mlp_" in why]
        assert len(residuals) == kept, residuals


def test_scan_over_layers_and_donated_buffers():
    _, given, _ = sound()
    x, held = split(given)
    square = {"w_up": held["w_up"], "w_gate": held["w_gate"], "w_down": held["w_down"] @ jnp.ones((13, 21)) / 13}
    stacked = jax.tree.map(lambda a: jnp.stack([a, a / 2, a / 3]), square)

    def loss(f, x, stacked):
        return jnp.mean(jax.lax.scan(lambda x, held: (x + f(x, held), None), x, stacked)[0] ** 2)

    want = jax.grad(partial(loss, library), 1)(x, stacked)
    found = jax.jit(jax.grad(partial(loss, layer), 1), donate_argnums=1)(x, jax.tree.map(jnp.copy, stacked))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        # Three layers of three GEMMs.
        assert np.linalg.norm(a - b) <= 9 * CLOSE * np.linalg.norm(b)


def test_export_keeps_the_gradient():
    _, given, dy = sound()
    x, held = split(given)
    exported = jax.export.export(jax.jit(pull(layer, dy)))(x, held)
    found = exported.call(x, held)
    want = jax.jit(pull(layer, dy))(x, held)
    assert all(np.array_equal(found[name], want[name]) for name in want)


def test_forward_mode_and_second_derivatives_are_refused():
    _, given, dy = sound()
    x, held = split(given)
    with pytest.raises(TypeError, match=r"forward-mode autodiff .* custom_vjp"):
        jax.jvp(lambda x: layer(x, held), (x,), (x,))
    with pytest.raises(UnsupportedError, match=r'^the fused backward has no derivative .*strategy="library"'):
        jax.grad(lambda x: jax.grad(lambda x: jnp.vdot(layer(x, held), dy))(x).sum())(x)
    twice = jax.grad(lambda x: jax.grad(lambda x: jnp.vdot(layer(x, held, plan=LIBRARY), dy))(x).sum())
    with jax.numpy_rank_promotion("allow"):
        assert np.any(twice(x))


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_optax_trains_in_mixed_precision(kind):
    _, given, _ = sound()
    x, target = given["x"], jnp.asarray(np.random.default_rng(0).standard_normal((12, 13)), jnp.float32)
    options = {"activation": "silu", "gated": True, "dtype": jnp.float16}
    if kind == "nnx":
        graph, parameters = nnx.split(FusedMLP(21, 34, 13, **options, rngs=nnx.Rngs(0)), nnx.Param)

        def apply(parameters, x):
            return nnx.merge(graph, parameters)(x)
    else:
        model = fused_linen.FusedMLP(21, 34, 13, **options)
        assert isinstance(model, linen.Module)
        parameters = model.init(jax.random.key(0), x)

        def apply(parameters, x):
            return model.apply(parameters, x)

    optimizer = optax.sgd(0.5)
    state = optimizer.init(parameters)

    @jax.jit
    def step(parameters, state):
        def loss(parameters):
            y = apply(parameters, x)
            assert y.dtype == jnp.float16
            return jnp.mean((y.astype(jnp.float32) - target) ** 2)

        value, found = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(found, state)
        return value, found, optax.apply_updates(parameters, updates), state

    losses = []
    for _ in range(8):
        value, found, parameters, state = step(parameters, state)
        losses.append(float(value))
        assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    assert losses[-1] < 0.9 * losses[0]
