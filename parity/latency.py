"""``parity latency``: the twins and their frameworks' own MLPs on the same device, the workers taking turns in blocks.

A time is only given for a case whose results were right. `bench` asks what fusion buys, with every contender and each
framework's best stopwatch; this asks one thing, whether the twins are equally fast, by one clock that both have.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from . import stimulus
from .cases import Case, build
from .judge import judge, prepare
from .latency_worker import Ask
from .run import Where
from .session import Session
from .statistics import Comparison, Estimate, compare, estimate

SCHEMA = "parity.latency/1"
# b against a.
PAIRS = (("torchfused", "jaxfused"), ("eager", "torchfused"), ("xla", "jaxfused"), ("eager", "xla"))
# A chain's weights are more than the largest L2 cache, twice over, in two layers at least.
COLD_BYTES = 128e6
LAYERS = (2, 8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One case. Nothing was timed where results are ``wrong``, or where it was ``skipped``: the text says why."""

    case: Case
    plan: str
    layers: int
    wrong: str = ""
    skipped: str = ""
    estimates: dict[str, Estimate] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Comparison] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "case": self.case.name,
            "plan": self.plan,
            "layers": self.layers,
            "wrong": self.wrong,
            "skipped": self.skipped,
            "microseconds": {name: found.as_json() for name, found in self.estimates.items()},
            "pairs": [
                {"a": a, "b": b, "ratio": c.ratio, "low": c.low, "high": c.high, "verdict": c.verdict}
                for (a, b), c in self.pairs.items()
            ],
        }


def cases(device: str) -> list[Case]:
    """The layers that are timed, on "gpu" or "cpu"."""
    if device == "gpu":
        plain, gated = (4096, 4096, 4096), (4096, 14336, 4096)
        return [
            build("gelu_tanh", (1, *plain), "bf16", biases="ud"),
            build("gelu_tanh", (1, *plain), "bf16", biases="ud", plan="decode-hopper"),
            build("gelu_tanh", (64, *plain), "bf16", biases="ud"),
            build("gelu_tanh", (64, *plain), "bf16", biases="ud", plan="tiled-hopper"),
            build("silu", (1, *gated), "bf16", gated=True),
            build("silu", (1, *gated), "bf16", gated=True, plan="decode-hopper"),
            build("silu", (16, *gated), "bf16", gated=True),
        ]
    return [build("gelu_tanh", (8, 32, 64, 32), biases="ud")]


def latency(
    asked: Iterable[Case], where: Where, *, blocks: int, say: Callable[[str], None] = lambda text: None
) -> list[Row]:
    """A row a case. ``where.workers``: those of latency_jax.py and latency_torch.py.

    Raises ValueError for a case whose y cannot be the next one's x.
    """
    rows = []
    with Session(where.workers, where.case_seconds) as session:
        for case in asked:
            say(case.name)
            rows.append(_row(case, where, session, blocks))
    return rows


def _row(case: Case, where: Where, session: Session, blocks: int) -> Row:
    p = case.problem
    if p.in_features != p.out_features:
        raise ValueError(
            f"{case.name} has {p.in_features} features in and {p.out_features} out: y is the next layer's x"
        )
    reason = case.skip_reason(where.device)
    layers = max(LAYERS[0], min(LAYERS[1], round(COLD_BYTES / p.weight_bytes)))
    if reason:
        return Row(case=case, plan=str(case.plan), layers=layers, skipped=reason)
    arrays = stimulus.generate(p, case.stimulus, case.seed)
    with ThreadPoolExecutor(1) as beside:
        # Nothing is timed yet, but for how many passes make a sample: a large layer's oracle takes as long as its
        # compilers.
        reference = beside.submit(prepare, case, arrays)
        answer = session.ask(
            p, arrays, case.plan, save=case.save, say=lambda request: Ask(request=request, layers=layers), in_turns=True
        )
    errors = [f"{runner}: {why}" for runner, why in answer.errors.items()]
    if not errors:
        pairs = judge(case, reference.result(), answer.stages, where.arithmetic, twins_equal=where.twins_equal)
        red = [f"{pair.a} ~ {pair.b} {pair.stage}" for pair in pairs if pair.red]
        errors += [f"wrong results: {', '.join(red[:4])}"] if red else []
    samples: dict[str, list[list[float]]] = {}
    names = [worker.spec.name for worker in session.workers]
    # A B | B A | A B ...: over the workers, and over the runners inside each.
    for i in range(0 if errors else blocks):
        replies, dead = session.send(Ask(reverse=bool(i % 2)), names[:: -1 if i % 2 else 1], in_turns=True)
        errors += [f"{name}: {why}" for name, why in dead.items()]
        for reply in replies.values():
            for runner, taken in reply["samples"].items():
                samples.setdefault(runner, []).append(taken)
        if errors:
            break
    if errors:
        return Row(case=case, plan=answer.plan, layers=layers, wrong="; ".join(errors))
    found = {(a, b): compare(samples[a], samples[b]) for a, b in PAIRS if a in samples and b in samples}
    estimates = {runner: estimate(taken) for runner, taken in samples.items()}
    return Row(case=case, plan=answer.plan, layers=layers, estimates=estimates, pairs=found)
