"""FusedMLP, the Flax NNX module. The only room that knows how weights are held (linen.py is its Linen face)."""

import jax.numpy as jnp
from flax import nnx
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from parity.contract.activations import check_activation
from parity.contract.dtypes import check_precision
from parity.contract.errors import UnsupportedError
from parity.contract.explanation import Explanation
from parity.contract.plan import Plan, check_plan
from parity.contract.saved import check_save

from . import functional


class FusedMLP(nnx.Module):
    """Linear, activation, Linear (``gated``: activation of one Linear times another) as fused kernels.

    Children ``up_proj``, ``down_proj`` and, when gated, ``gate_proj`` are nnx.Linear, so checkpoints with these names
    load as they are. Set a child's ``bias`` to None to go without that one. ``out_features`` defaults to
    ``in_features``. ``dtype`` is what is computed in (None: what x and the parameters promote to), ``param_dtype``
    what is stored. ``precision`` is "ieee" or, for float32, "tf32"; ``save`` (what a fused plan keeps for the
    backward) is "preact", "hidden" or "recompute", ``plan`` forces how it runs, see fused_mlp.

    Raises ValueError for an unknown activation, precision, save or plan, UnsupportedError when a child is no longer a
    plain nnx.Linear: its weights are read, it is never called.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        *,
        activation: str = "gelu_tanh",
        gated: bool = False,
        use_bias: bool = True,
        precision: str = "ieee",
        save: str = "preact",
        plan: Plan | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_activation(activation)
        check_precision(precision)
        check_save(save)
        self.activation = activation
        self.gated = gated
        self.precision = precision
        self.save = save
        self.plan = check_plan(plan)
        self.dtype = dtype
        out_features = in_features if out_features is None else out_features
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.up_proj = nnx.Linear(in_features, hidden_features, **options)
        if gated:
            self.gate_proj = nnx.Linear(in_features, hidden_features, **options)
        self.down_proj = nnx.Linear(hidden_features, out_features, **options)

    def __call__(self, x: Float[Array, "*b k"]) -> Float[Array, "*b n"]:
        return functional.fused_mlp(**self._arguments(x))

    def explain(self, x: Float[Array, "*b k"]) -> Explanation:
        """What ``self(x)`` would run, and why."""
        return functional.explain(**self._arguments(x))

    def _arguments(self, x: Array) -> dict:
        up, down = _plain("up_proj", self.up_proj), _plain("down_proj", self.down_proj)
        gate = _plain("gate_proj", self.gate_proj) if self.gated else None
        held = {
            "x": x,
            "w_up": up.kernel,
            "b_up": up.bias,
            "w_gate": gate and gate.kernel,
            "b_gate": gate and gate.bias,
            "w_down": down.kernel,
            "b_down": down.bias,
        }
        options = {"activation": self.activation, "precision": self.precision, "save": self.save, "plan": self.plan}
        return promote(held, self.dtype) | options


def promote(held: dict, dtype: DTypeLike | None) -> dict:
    """The arrays of ``held`` (absent ones stay None) in ``dtype``, or in the type they promote to."""
    values = [None if value is None else value[...] for value in held.values()]
    return dict(zip(held, promote_dtype(*values, dtype=dtype), strict=True))


def _plain(name: str, child: nnx.Module) -> nnx.Linear:
    # A wrapped child (LoRA, quantisation) would be passed over in silence.
    if type(child) is not nnx.Linear:
        raise UnsupportedError(
            f"{name} is {type(child).__name__}: a fused MLP reads a plain nnx.Linear's weights and never calls it; "
            "merge the adapter into the weights or use jaxfused.reference.mlp"
        )
    return child
