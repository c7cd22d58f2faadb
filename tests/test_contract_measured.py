"""The automatic plan against the committed results: wherever both plans were timed, it takes the faster one."""

import json
from math import inf
from pathlib import Path

import pytest

from bench.workloads import Case
from parity.contract.choice import choose
from parity.contract.measured import FASTER, Region
from parity.contract.plan import LIBRARY as LIBRARY_PLAN
from parity.contract.plan import Plan
from parity.contract.problem import Device, Problem

RESULTS = Path(__file__).parents[1] / "bench/results"
HOPPER = {
    library: Device(kind="gpu", name="H200", sm_count=132, smem_bytes=232448, capability=(9, 0), library=library)
    for library in FASTER
}
LIBRARY = {"torch": "torch", "jax": "xla"}
# Rows of kernels that are others now: jax's, before two programs brought an operand together; training's, before what
# is written took turns, and the contenders.
SUPERSEDED = {("h100", "jax", "tiled/hopper", mode) for mode in ("forward", "forward_backward")}
SUPERSEDED |= {("h100", "torch", "tiled/hopper", "forward_backward")}


def timed() -> dict[tuple, dict[str, float]]:
    """The best time of each plan, the library's among them, for each (GPU, framework, workload, m, dtype, mode), of the
    newest run that has two or more; training, what is kept by default."""
    found: dict[tuple, dict[str, float]] = {}
    for file in sorted(RESULTS.glob("*/*.json")):
        here: dict[tuple, dict[str, float]] = {}
        for row in json.loads(file.read_text())["rows"]:
            sixteen_bit = row["cache"] == "cold" and row["dtype"] != "float32"
            if sixteen_bit and row["contender"] in ("torchfused", "jaxfused") and row["correct"]:
                place = file.parent.name, row["framework"], row["workload"], row["m"], row["dtype"], row["mode"]
                times, plan = here.setdefault(place, {}), row["detail"].split()[0]
                if (*place[:2], plan, row["mode"]) not in SUPERSEDED and "," not in row["plan"]:
                    times[plan] = min(times.get(plan, inf), row["kernel_us"]["median"])
        found |= {place: times for place, times in here.items() if len(times) >= 2}
    return found


def problem_at(place: tuple) -> Problem:
    _, _, workload, m, dtype, _ = place
    return Case(workload=workload, m=m, dtype=dtype).problem


def trains(place: tuple) -> bool:
    return place[-1] == "forward_backward"


def name_of(plan: Plan) -> str:
    return "library" if plan == LIBRARY_PLAN else f"{plan.strategy}/{plan.backend}"


@pytest.mark.parametrize("framework", LIBRARY)
def test_the_automatic_plan_loses_little(framework):
    """A rule of few regions may lose a tenth somewhere against the plans it knows, and must win on the whole. (In jax
    it knows no decode plan: that one must be asked for.)"""
    known = {"library", *(region.plan for region in FASTER[LIBRARY[framework]])}
    losses = {}
    for place, times in timed().items():
        plan = name_of(choose(problem_at(place), HOPPER[LIBRARY[place[1]]], training=trains(place)).plan)
        # A run from before there was such a plan says nothing of it.
        if place[1] == framework and plan in times:
            losses[place] = times[plan] / min(time for name, time in times.items() if name in known)
    assert len(losses) > 50
    assert {key: loss for key, loss in losses.items() if loss > 1.1} == {}
    assert sum(losses.values()) / len(losses) < 1.005


@pytest.mark.parametrize(("framework", "region"), [(f, region) for f in LIBRARY for region in FASTER[LIBRARY[f]]])
def test_each_region_was_measured(framework, region):
    """Somewhere in it its plan was timed in one run with the library, and was faster."""
    gains = [
        times["library"] / times[region.plan]
        for place, times in timed().items()
        if place[1] == framework and {"library", region.plan} <= times.keys()
        if trains(place) == region.training and region.holds(problem_at(place))
    ]
    assert gains
    assert sum(gains) / len(gains) > 1


ALL = {
    "plan": "tiled/portable",
    "rows": (1, 16),
    "megabytes": (1, 3),
    "widest": 1024,
    "longest": 768,
    "multiple": 256,
    "gated": True,
}
FITS = {"m": 16, "in_features": 256, "hidden_features": 768, "out_features": 1024, "gated": True, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("limits", "outside"),
    [
        ({}, {"m": 17}),
        ({}, {"m": 0}),
        ({}, {"in_features": 128}),
        ({"megabytes": (0, inf)}, {"out_features": 1280}),
        ({"megabytes": (0, inf)}, {"hidden_features": 1024}),
        ({"megabytes": (0, inf)}, {"in_features": 1024}),
        ({}, {"gated": False}),
        ({}, {"dtype": "float32"}),
        ({"megabytes": (0, inf), "multiple": 1}, {"in_features": 1, "hidden_features": 769}),
    ],
)
def test_a_region_ends_at_each_of_its_limits(limits, outside):
    region = Region(**ALL | limits, gain="1")
    assert region.holds(Problem(**FITS))
    assert not region.holds(Problem(**FITS | outside))


def test_a_region_says_its_limits():
    assert str(Region(**ALL, gain="1 to 2")) == (
        "tiled/portable: gated, 1 to 16 rows, 1 to 3 MB of weights, no width above 1024, no sum longer than 768, sums "
        "in multiples of 256 (1 to 2 times)"
    )
    steps = Region(plan="tiled/hopper", rows=(4096, inf), training=True, gain="2")
    assert str(steps) == "tiled/hopper: training, 4096 rows or more (2 times)"
    few = Region(plan="decode/hopper", rows=(0, 8), megabytes=(3, inf), gain="2")
    assert str(few) == "decode/hopper: at most 8 rows, 3 MB of weights or more (2 times)"
