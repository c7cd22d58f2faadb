"""The article's claims: arithmetic that needs no GPU, and verdicts that follow the numbers."""

from pathlib import Path

import pytest

from bench import claims
from bench.results import Results


def row(contender: str, plan: str, kernel: float, wall: float, launches: int, **more) -> dict:
    place = {"workload": "article", "m": 1, "mode": "forward", "correct": True, "dtype": "bfloat16", "cache": "cold"}
    times = {"kernel_us": {"median": kernel}, "wall_us": {"median": wall}, "cupti_us": kernel - launches}
    rest = {"launches": launches, "stream_us": 18.2, "power_w": 400.0, "joules": kernel * 4e-4}
    moved = {"hbm_bytes": {"read": 67_133_440, "write": 8_192, "method": "counted"}}
    return {**place, **times, **rest, **moved, "contender": contender, "plan": plan, **more}


def run(*rows: dict, shares: list | None = None) -> Results:
    return Results(path=Path("x.json"), rows=list(rows), shares=shares or [], environment={"l2_bytes": 60 << 20})


def by_name(lines: list[claims.Claim]) -> dict[str, claims.Claim]:
    return {c.claim: c for c in lines}


MEASURED = run(
    row("torch.eager", "", 27.0, 42.0, 3),
    row("torch.eager_graph", "", 28.0, 28.5, 3),
    row("torchfused", "auto", 20.0, 24.0, 1),
    shares=[{"model": "llama3_8b", "m": 1, "context": 2048, "block_us": 130.0, "mlp_us": 91.0, "share": 0.7}],
)


def test_without_results_every_line_is_there_and_open():
    lines = claims.table(None) + claims.others(None)
    assert len(lines) == 11
    assert by_name(lines)["kernel launches a forward pass"].verdict == claims.OPEN


def test_reads_cannot_hold_by_arithmetic_alone():
    reads = by_name(claims.table(None))["global memory reads"]
    assert reads.verdict.startswith("cannot hold")
    assert "67,108,864" in reads.arithmetic


def test_latency_names_the_bandwidth_it_would_need():
    latency = by_name(claims.table(MEASURED))["mean latency, us"]
    assert "8.3 TB/s" in latency.arithmetic
    assert latency.verdict.startswith("cannot hold")


def test_latency_holds_only_in_the_setting_that_reaches_it():
    hot = [
        row("torch.eager", "", 12.0, 20.0, 3, cache="hot"),
        row("torch.eager_graph", "", 12.0, 12.0, 3, cache="hot"),
        row("torchfused", "auto", 8.0, 9.0, 1, cache="hot"),
    ]
    latency = by_name(claims.table(run(*MEASURED.rows, *hot)))["mean latency, us"]
    assert latency.verdict == "holds only when bf16, hot"


def test_launches_follow_the_trace():
    assert by_name(claims.table(MEASURED))["kernel launches a forward pass"].verdict == "holds"
    two = run(*MEASURED.rows[:2], row("torchfused", "auto", 20.0, 24.0, 2))
    assert by_name(claims.table(two))["kernel launches a forward pass"].verdict == "does not hold: 2 launches"


def test_power_speaks_of_energy_too():
    power = by_name(claims.table(MEASURED))["power"]
    assert "energy a call falls by 29 %" in power.verdict


def test_fleet_is_amdahls():
    fleet = claims.others(MEASURED)[-1]
    assert fleet.verdict.startswith("cannot hold")
    assert "model 1.25x" in fleet.measured


@pytest.mark.parametrize(("share", "after"), [(1.0, 84), (0.7, 97), (0.0, 128)])
def test_calculator(share, after):
    cost = claims.Cost(gpus=128, price=12_000, tokens_a_day=1e9, ratio=claims.ARTICLE_RATIO, share=share)
    assert cost.gpus_after == after
    assert cost.month_before == 1_536_000
