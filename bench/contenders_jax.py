"""What a JAX user would run: one small class each. To add one, write a class and put it into CONTENDERS.

A contender's ``build`` returns a traceable function of (x, layer) that computes one MLP; weights are [in, out]. XLA's
own flags are read once, at import, so each set of them (contenders_plans.VARIANTS) is a worker process of its own.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxfused.reference import ACTIVATIONS

from .contenders_plans import our_plans
from .workloads import Case, workload

Layer = dict[str, Any]
Function = Callable[[jax.Array, Layer], jax.Array]


class Contender:
    """As in contenders_torch."""

    name: str
    fusion = "none"

    def absent(self) -> str | None:
        return None

    def refuses(self, case: Case) -> str | None:
        return None

    def variants(self, case: Case) -> list[tuple[str, Any]]:
        return [("", None)]

    def build(self, case: Case, plan: Any) -> Function:
        raise NotImplementedError

    def pack(self, layer: Layer) -> Layer:
        """The layer as the contender wants it laid out; done once, outside the timed region."""
        return layer

    def unpack(self, gradients: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return gradients

    def detail(self, case: Case, plan: Any, x: jax.Array, layer: Layer) -> str:
        return ""


class Xla(Contender):
    """The MLP as everybody writes it, left to XLA. float32 in IEEE precision, as torch's default is."""

    name = "xla"

    def build(self, case: Case, plan: Any) -> Function:
        act = ACTIVATIONS[case.problem.activation]
        precision = "highest" if case.dtype == "float32" else None

        def linear(x: jax.Array, w: Layer, which: str) -> jax.Array:
            y = jnp.dot(x, w[f"w_{which}"], precision=precision)
            return y + w[f"b_{which}"] if f"b_{which}" in w else y

        def run(x: jax.Array, w: Layer) -> jax.Array:
            up = linear(x, w, "up")
            h = act(linear(x, w, "gate")) * up if "w_gate" in w else act(up)
            return linear(h, w, "down")

        return run


class Tokamax(Contender):
    """tokamax.gated_linear_unit for the first layer, XLA for the second. ``mosaic`` and ``triton`` are its kernels;
    named, so that it cannot turn into XLA in silence."""

    name = "tokamax"
    fusion = "epilogue"

    def absent(self) -> str | None:
        try:
            importlib.import_module("tokamax")
        except Exception as error:
            return f"cannot import tokamax: {' '.join(str(error).split())[:200]}"
        return None

    def refuses(self, case: Case) -> str | None:
        return None if case.problem.gated and not case.problem.bias_up else "serves gated layers without biases"

    def variants(self, case: Case) -> list[tuple[str, Any]]:
        return [("mosaic", "mosaic"), ("triton", "triton")]

    def pack(self, layer: Layer) -> Layer:
        packed = {k: v for k, v in layer.items() if k not in ("w_up", "w_gate")}
        return packed | {"w_both": jnp.stack([layer["w_gate"], layer["w_up"]], axis=1)}

    def unpack(self, gradients: dict[str, jax.Array]) -> dict[str, jax.Array]:
        out = dict(gradients)
        if "dw_both" in out:
            both = out.pop("dw_both")
            out |= {"dw_gate": both[:, 0], "dw_up": both[:, 1]}
        return out

    def build(self, case: Case, plan: Any) -> Function:
        glu = importlib.import_module("tokamax").gated_linear_unit
        act = {"silu": jax.nn.swish, "gelu_tanh": jax.nn.gelu}.get(case.problem.activation)
        act = act or ACTIVATIONS[case.problem.activation]

        def run(x: jax.Array, w: Layer) -> jax.Array:
            h = glu(x, w["w_both"], activation=act, implementation=plan)
            return jnp.dot(h, w["w_down"])

        return run

    def detail(self, case: Case, plan: Any, x: jax.Array, layer: Layer) -> str:
        return f"{plan}, tokamax {importlib.metadata.version('tokamax')}"


class Ours(Contender):
    """jaxfused: the automatic choice, then every strategy and backend forced."""

    name = "jaxfused"
    fusion = "epilogue"

    def absent(self) -> str | None:
        try:
            importlib.import_module("jaxfused")
        except Exception as error:
            return f"cannot import jaxfused: {' '.join(str(error).split())[:200]}"
        return None

    def variants(self, case: Case) -> list[tuple[str, Any]]:
        return our_plans(case.mode, case.m)

    def build(self, case: Case, plan: Any) -> Function:
        fused_mlp = importlib.import_module("jaxfused").fused_mlp
        act = workload(case.workload).activation

        def run(x: jax.Array, w: Layer) -> jax.Array:
            return fused_mlp(
                x,
                w["w_up"],
                w["w_down"],
                w_gate=w.get("w_gate"),
                b_up=w.get("b_up"),
                b_gate=w.get("b_gate"),
                b_down=w.get("b_down"),
                activation=act,
                **plan,
            )

        return run

    def detail(self, case: Case, plan: Any, x: jax.Array, layer: Layer) -> str:
        explain = importlib.import_module("jaxfused").explain
        rest = {n: layer.get(n) for n in ("w_gate", "b_up", "b_gate", "b_down")}
        act = case.problem.activation
        return str(explain(x, layer["w_up"], layer["w_down"], **rest, activation=act, **plan).plan)


class OursAuto(Ours):
    """The automatic choice alone, for the processes with other XLA flags."""

    def variants(self, case: Case) -> list[tuple[str, Any]]:
        return our_plans(case.mode, case.m)[:1]


CONTENDERS: list[Contender] = [Xla(), Ours(), Tokamax()]
# The vendor library's choice does not touch our kernels; how kernels are launched does.
FLAGGED: dict[str, list[Contender]] = {
    "cublaslt": [Xla()],
    "no_command_buffers": [Xla(), OursAuto()],
    "all_command_buffers": [Xla(), OursAuto()],
}
