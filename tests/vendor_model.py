"""What a plan of the vendor's order must give, from the runner's own previous stages: roundings and spelling, in numpy.
A GEMM's sums are the interpreter's: they are taken from plans of our own order, which share them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from yardstick import Draw, draw

from parity import epilogue
from parity.compare import unlike
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan, Strategy
from parity.contract.vendor import Order
from parity.rounding import round_to
from parity.vendor_spelling import VENDOR

Run = Callable[[Draw], Mapping[str, np.ndarray]]
SHAPE = (19, 70, 96, 24)
PLANS = {
    "tiled": Plan(order=Order.VENDOR, split_k=(2, 1)),
    "decode": Plan(order=Order.VENDOR, split_k=(2, 2), strategy=Strategy.DECODE),
}
CASES = [(name, gated, dtype) for name in ACTIVATIONS for gated in (False, True) for dtype in ("float16", "float32")]


def drawn_as(activation: str, gated: bool, dtype: str, plan: Plan) -> Draw:
    biases = "ugd" if gated else "ud"
    return draw(SHAPE, activation=activation, gated=gated, dtype=dtype, biases=biases, plan=plan, judged=False)


def wrong(drawn: Draw, found: Mapping[str, np.ndarray], **changes: object) -> int:
    """In how many elements h is not what the recipe gives, with ``changes``, from s and u."""
    recipe = replace(epilogue.contract(drawn.problem, drawn.plan), **changes)
    h = epilogue.hidden(drawn.problem, found["s"], found.get("u"), recipe)
    return int(unlike(round_to(h, drawn.problem.dtype), found["h"]).sum())


def check(run: Run, drawn: Draw) -> None:
    """Every stage of ``run(drawn)``, and that each rounding left out would be seen."""
    found, dtype = run(drawn), drawn.problem.dtype
    own = run(replace(drawn, plan=replace(drawn.plan, order=Order.FUSED)))
    for stage in {"s", "u"} & found.keys():
        assert not unlike(found[stage], round_to(own[stage], dtype).astype(np.float32)).any(), stage
        assert unlike(found[stage], own[stage]).any() == (dtype != "float32")
    # The second GEMM, of what h is.
    second = {"x": found["h"], "w_up": drawn.arrays["w_down"], "w_down": np.eye(SHAPE[3], dtype=found["h"].dtype)}
    second |= {"b_up": drawn.arrays["b_down"]}
    _, _, h, n = SHAPE
    problem = replace(
        drawn.problem, in_features=h, hidden_features=n, out_features=n, activation="identity", gated=False,
        bias_gate=False, bias_down=False,
    )  # fmt: skip
    plan = replace(drawn.plan, order=Order.FUSED, split_k=(drawn.plan.splits[1], 1))
    assert not unlike(run(Draw(problem=problem, plan=plan, arrays=second, oracle=None))["h"], found["y"]).any()

    right = wrong(drawn, found)
    if drawn.problem.activation in epilogue.EXACT:
        assert right == 0
    # (An interpreter's exp2, or a product and a sum that it rounds twice, may be another by an ulp of float32.)
    if dtype == "float16":
        if drawn.problem.gated and drawn.problem.activation not in ("relu", "identity"):
            assert right < wrong(drawn, found, round_f=False)
        if drawn.problem.activation in ("gelu", "gelu_tanh", "quick_gelu", "silu", "tanh", "sigmoid"):
            assert right < found["h"].size // 64
        if drawn.problem.activation == "quick_gelu":
            h = VENDOR["quick_gelu"](found["s"], lambda t: t)
            h = epilogue.rounded(h, drawn.problem) * found["u"] if drawn.problem.gated else h
            assert right < unlike(round_to(h, dtype), found["h"]).sum()
