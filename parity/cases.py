"""The cases of the parity run and the suites they form: data, and the one rule for what a device leaves out."""

import zlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

from .contract.activations import ACTIVATIONS
from .contract.choice import limitation
from .contract.plan import DECODE_ROWS, Backend, Plan, Strategy
from .contract.problem import Device, Problem
from .contract.saved import SAVES
from .contract.tiles import Tiles
from .pairwise import Row, cover

# An interpreter runs some 1e8 of these a second: the layers of a language model are left to a GPU.
INTERPRETER_FLOPS = 1e8
# The most elements of one weight whose gradients are compared.
GRADIENT_ELEMENTS = 4e6
SHORT_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

Stimulus = Literal["normal", "integer", "special"]


# Forced, so that the kernels run where the automatic plan would take the library.
TILED = Plan()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One problem, how its inputs are drawn and the plan that is forced on both twins.

    ``demands``: the worst verdict that passes. "special" inputs make the round trip only; nothing is computed.
    """

    name: str
    problem: Problem
    stimulus: Stimulus = "normal"
    plan: Plan = TILED
    save: str = "preact"

    @property
    def seed(self) -> int:
        """Fixed by the name: a case keeps its inputs whatever else joins its suite."""
        return zlib.crc32(self.name.encode())

    @property
    def demands(self) -> str:
        return "BIT_EQUAL" if self.stimulus == "integer" else "WITHIN_STAT"

    @property
    def gradients(self) -> bool:
        """Whether the backward is run too. Gradients of a language model's weights are as large as these: comparing
        them element by element takes minutes, so the largest layers go forward only."""
        largest = self.problem.hidden_features * max(self.problem.in_features, self.problem.out_features)
        return self.stimulus != "special" and largest <= GRADIENT_ELEMENTS

    def skip_reason(self, device: Device) -> str | None:
        """Why ``device`` does not run this case; None if it does."""
        if self.stimulus == "special":
            return None
        if device.kind == "interpreter" and self.problem.flops > INTERPRETER_FLOPS:
            return f"{self.problem.flops:.1e} operations are too many for an interpreter; needs a GPU"
        return limitation(self.problem, device, self.plan)


# (m, in, hidden, out): ragged against every tile size, single rows and columns, powers of two, nothing at all.
SHAPES = {
    "ragged": (33, 47, 65, 29),
    "one-row": (1, 37, 70, 19),
    "one-of-all": (1, 1, 1, 1),
    "square": (32, 32, 32, 32),
    "one-over": (17, 65, 33, 17),
    "deep": (5, 129, 20, 40),
    "wide": (3, 24, 130, 7),
    "thin": (50, 3, 96, 1),
    "many-rows": (130, 16, 24, 16),
    "empty": (0, 20, 24, 28),
}
SMALL, UNLIKE = Tiles(m=16, n=16, k=16), Tiles(m=16, n=32, k=32)
PLANS = {
    "tiled": TILED,
    "small": Plan(up=SMALL, down=SMALL),
    "split2": Plan(up=SMALL, down=UNLIKE, split_k=2),
    "split3-1": Plan(up=UNLIKE, down=SMALL, split_k=(3, 1)),
    "decode": Plan(strategy=Strategy.DECODE),
    "decode4-2": Plan(strategy=Strategy.DECODE, split_k=(4, 2)),
}
# Plans of one device alone, by name as the others.
OWN_PLANS = {
    "decode-hopper": Plan(strategy=Strategy.DECODE, backend=Backend.HOPPER),
    "tiled-hopper": Plan(strategy=Strategy.TILED, backend=Backend.HOPPER),
}
FORMS = ("plain", "gated")
BIASES = (False, True)
DTYPES = ("fp32", "tf32", "fp16", "bf16")


def build(
    activation: str,
    shape: tuple[int, int, int, int],
    dtype: str = "fp32",
    *,
    gated: bool = False,
    biases: str = "",
    stimulus: Stimulus = "normal",
    plan: str = "tiled",
    save: str = "preact",
) -> Case:
    """A case named after what it is. ``dtype``: fp32, tf32, fp16, bf16; ``biases``: letters of u(p), g(ate), d(own)."""
    m, k, h, n = shape
    long = {short: name for name, short in SHORT_DTYPES.items()}
    problem = Problem(
        m=m,
        in_features=k,
        hidden_features=h,
        out_features=n,
        activation=activation,
        gated=gated,
        bias_up="u" in biases,
        bias_gate="g" in biases,
        bias_down="d" in biases,
        dtype=long.get(dtype, "float32"),
        precision="tf32" if dtype == "tf32" else "ieee",
    )
    parts = [activation, "gated" * gated, biases, dtype, f"{m}x{k}x{h}x{n}"]
    parts += ["" if plan == "tiled" else plan, "" if stimulus == "normal" else stimulus]
    parts += ["" if save == "preact" else save]
    return Case(
        name="-".join(filter(None, parts)),
        problem=problem,
        stimulus=stimulus,
        plan=(PLANS | OWN_PLANS)[plan],
        save=save,
    )


def smoke() -> list[Case]:
    """One look at everything: seconds."""
    ragged, small = SHAPES["ragged"], SHAPES["one-over"]
    return [
        build("gelu_tanh", ragged, biases="ud"),
        build("gelu_tanh", ragged, "fp16", biases="ud"),
        build("silu", ragged, "fp16", gated=True, save="hidden"),
        build("gelu", small, "tf32", gated=True, biases="ugd", plan="split2"),
        build("tanh", SHAPES["one-row"], biases="d", plan="small", save="recompute"),
        build("relu2", SHAPES["empty"], "fp16", biases="u"),
        build("silu", ragged, "bf16", gated=True),
        build("relu", ragged, "fp16", biases="ud", stimulus="integer", plan="split2"),
        build("identity", ragged, gated=True, stimulus="integer"),
        *(build("identity", small, dtype, biases="d", stimulus="special") for dtype in ("fp32", "fp16", "bf16")),
    ]


def core() -> list[Case]:
    """Every activation with every set of biases, plain and gated; dtypes, shapes and plans pairwise with all of it."""
    factors = {
        "activation": tuple(ACTIVATIONS),
        "form": FORMS,
        "up": BIASES,
        "gate": BIASES,
        "down": BIASES,
        "dtype": tuple(dtype for dtype in DTYPES if dtype != "bf16"),
        "shape": tuple(SHAPES),
        "plan": tuple(PLANS),
        "save": SAVES,
    }
    rows = cover(factors, ("activation", "form", "up", "gate", "down"), _sound)
    normal = [_from_row(row) for row in rows]
    integer = [
        build(
            activation,
            SHAPES[shape],
            dtype,
            gated=gated,
            biases="ugd" if gated else "ud",
            stimulus="integer",
            plan=plan,
        )
        for activation, gated in (
            ("relu", False),
            ("identity", False),
            ("relu", True),
            ("identity", True),
            ("relu2", False),
        )
        for dtype, shape, plan in (
            ("fp32", "ragged", "tiled"),
            ("fp16", "one-over", "split2"),
            ("tf32", "many-rows", "small"),
            ("bf16", "one-over", "tiled"),
        )
    ]
    bf16 = [
        build(activation, SHAPES["ragged"], "bf16", gated=gated, biases="ud")
        for activation in ACTIVATIONS
        for gated in (False, True)
    ]
    return _distinct([*smoke(), *normal, *integer, *bf16])


def full() -> list[Case]:
    """core, everything in bf16 as well, larger ragged layers, and those of language models. For a GPU."""
    forms = (("gelu_tanh", False), ("silu", True))
    sizes = [
        ((m, 4096, hidden, 4096), dtype) for m in (1, 16) for hidden in (4096, 14336) for dtype in ("fp16", "bf16")
    ]
    # More rows cost the oracle half a minute of float64 products a case.
    sizes += [((257, 4096, 4096, 4096), "bf16")]
    layers = [
        build(activation, size, dtype, gated=gated, biases="" if gated else "ud")
        for activation, gated in forms
        for size, dtype in sizes
    ]
    layers.append(build("silu", (257, 4096, 14336, 4096), "bf16", gated=True))
    layers += [build("gelu_tanh", (16, 4096, 4096, 4096), dtype, biases="ud") for dtype in ("fp32", "tf32")]
    layers += [
        build(activation, (m, 4096, hidden, 4096), dtype, gated=gated, biases="" if gated else "ud", plan=plan)
        for (activation, gated), hidden in zip(forms, (4096, 14336), strict=True)
        for m, dtype in ((1, "bf16"), (16, "fp16"), (64, "bf16"))
        for plan in ("decode", "decode4-2")
    ]
    layers += [
        build("relu", (257, 256, 1000, 512), dtype, biases="ud", stimulus="integer")
        for dtype in ("fp32", "tf32", "fp16")
    ]
    layers += [
        build(activation, (257, 1024, 3584, 1024), dtype, gated=gated, biases="" if gated else "ud", save=save)
        for (activation, gated), dtype, save in (
            (forms[0], "bf16", "preact"),
            (forms[1], "bf16", "hidden"),
            (forms[0], "fp16", "recompute"),
            (forms[1], "tf32", "preact"),
        )
    ]
    hopper = [
        build(
            activation,
            (m, 512, 768, 320),
            dtype,
            gated=gated,
            biases="ugd" if gated else "ud",
            plan="decode-hopper",
        )
        for activation, m in zip(ACTIVATIONS, (1, 2, 7, 8, 9, 16, 17, 33, 64), strict=True)
        for dtype, gated in (("bf16", False), ("fp16", True))
    ]
    hopper += [
        build(
            activation, (m, 4096, hidden, 4096), "bf16", gated=gated, biases="" if gated else "ud", plan="decode-hopper"
        )
        for (activation, gated), hidden in zip(forms, (4096, 14336), strict=True)
        for m in (1, 16, 64)
    ]
    hopper += [
        build(activation, (300, 264, 520, 136), dtype, gated=gated, biases=biases, plan="tiled-hopper", save=save)
        for activation, save in zip(ACTIVATIONS, 3 * SAVES, strict=True)
        for dtype, gated, biases in (("bf16", False, "ud"), ("fp16", True, "ugd"))
    ]
    hopper += [
        build(activation, (m, 1024, 3584, 1024), dtype, gated=gated, plan="tiled-hopper", save=save)
        for (activation, gated), dtype, save in zip(forms, ("fp16", "bf16"), SAVES[:2], strict=True)
        for m in (1, 257, 1024)
    ]
    middle = [
        build(activation, (300, 257, 520, 264), dtype, gated=gated, biases="ugd" if gated else "ud", plan=plan)
        for activation in ACTIVATIONS
        for dtype, gated, plan in (
            ("fp32", False, "tiled"),
            ("tf32", True, "tiled"),
            ("fp16", True, "tiled"),
            ("bf16", False, "tiled"),
            ("bf16", True, "split2"),
        )
    ]
    factors = {"activation": tuple(ACTIVATIONS), "form": FORMS, "up": BIASES, "gate": BIASES, "down": BIASES}
    factors |= {"dtype": ("bf16",), "shape": tuple(SHAPES), "plan": tuple(PLANS), "save": SAVES}
    bf16 = [_from_row(row) for row in cover(factors, ("activation", "form"), _sound)]
    return _distinct([*core(), *bf16, *middle, *hopper, *layers])


SUITES = {"smoke": cache(smoke), "core": cache(core), "full": cache(full)}


def known() -> dict[str, Case]:
    """Every case of every suite, by name."""
    return {case.name: case for suite in SUITES.values() for case in suite()}


def _sound(row: Row) -> bool:
    served = PLANS[str(row["plan"])].strategy is not Strategy.DECODE or SHAPES[str(row["shape"])][0] <= DECODE_ROWS
    return served and (row["form"] == "gated" or not row["gate"])


def _from_row(row: Row) -> Case:
    biases = "".join(letter for letter, factor in (("u", "up"), ("g", "gate"), ("d", "down")) if row[factor])
    return build(
        str(row["activation"]),
        SHAPES[str(row["shape"])],
        str(row["dtype"]),
        gated=row["form"] == "gated",
        biases=biases,
        plan=str(row["plan"]),
        save=str(row["save"]),
    )


def _distinct(cases: list[Case]) -> list[Case]:
    return list({case.name: case for case in cases}.values())
