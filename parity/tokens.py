"""``parity tokens``: what a fused MLP, or the other framework, changes of what a language model says.

One model of random weights, decoded greedily from the same prompts by four runners, in two depths. Where each says
another character first; and, fed the same characters, how often the likeliest one flips, how far log-probabilities are
apart, and the Kullback-Leibler divergence. The flips are predicted too: a step whose two likeliest characters are a
margin apart flips if the difference of their errors is larger, which at its observed root mean square, taken as normal,
it is with a known probability.

Red: logits that are not finite, or further apart than rounding drives them: each block adds about one rounding of its
MLP's type, ``UNFUSED_ROUNDINGS`` where it is not fused, and what is independent grows with the root of the depth.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import special

from .contract.dtypes import DTYPES
from .contract.tolerance import UNFUSED_ROUNDINGS
from .process import run_both
from .tokens_model import Config, config, prompts
from .train import PAIRS, RUNNERS

SCHEMA = "parity.tokens/1"
DEPTHS = {"gpu": (4, 16), "cpu": (1, 3)}
SECONDS = 1500.0

Found = dict[str, dict[str, np.ndarray]]


def tokens(
    device: Literal["gpu", "cpu"],
    *,
    depths: Sequence[int] = (),
    steps: int | None = None,
    seed: int = 0,
    fault: str = "",
) -> dict[str, Any]:
    """All ``depths``, or those that the device usually takes, ready for JSON; "passed" and "reasons".

    Raises RuntimeError if a process fails.
    """
    configs = [config(device, depth, steps, seed) for depth in depths or DEPTHS[device]]
    with tempfile.TemporaryDirectory(prefix="parity-tokens-") as folder:
        arguments = [json.dumps([asdict(c) for c in configs]), folder, fault]
        run_both("tokens", device, arguments, SECONDS)
        compared = []
        for c in configs:
            found = {}
            for name in RUNNERS:
                with np.load(Path(folder) / f"{name}-{c.depth}.npz") as file:
                    found[name] = dict(file)
            compared.append(compare(found, c))
    reasons = [reason for depth in compared for reason in depth["reasons"]]
    return {"passed": not reasons, "reasons": reasons, "depths": compared}


def compare(found: Found, c: Config) -> dict[str, Any]:
    """What the pairs of runners have between them, of one depth."""
    allowed = UNFUSED_ROUNDINGS * np.sqrt(2 * c.depth) * DTYPES[c.dtype].unit_roundoff
    reasons = [
        f"depth {c.depth}: {name}'s logits are not finite"
        for name, of in found.items()
        if not np.isfinite(of["logits"]).all()
    ]
    pairs = []
    if not reasons:
        pairs = [_pair(a, b, found[a], found[b], c) for a, b in PAIRS]
        reasons = [
            f"depth {c.depth}: {p['a']} and {p['b']} have logits {p['relative']:.2e} apart, {allowed:.2e} is rounding"
            for p in pairs
            if p["relative"] > allowed
        ]
    return {"config": asdict(c), "allowed": float(f"{allowed:.6g}"), "pairs": pairs, "reasons": reasons}


def _pair(name_a: str, name_b: str, a: dict[str, np.ndarray], b: dict[str, np.ndarray], c: Config) -> dict[str, Any]:
    other = a["tokens"] != b["tokens"]
    steps = np.flatnonzero(other.any(axis=0))
    x, y = a["logits"].astype(np.float64), b["logits"].astype(np.float64)
    log_x, log_y = special.log_softmax(x, axis=2), special.log_softmax(y, axis=2)
    really = prompts(c)[:, c.prompt :, None]
    apart = np.abs(np.take_along_axis(log_x, really, 2) - np.take_along_axis(log_y, really, 2))
    divergence = np.maximum((np.exp(log_x) * (log_x - log_y)).sum(axis=2), 0.0)
    numbers = {
        "relative": float(np.linalg.norm(x - y) / np.linalg.norm(y)),
        "logits_equal": float(np.mean(a["logits"] == b["logits"])),
        "flip_rate": float(np.mean(x.argmax(axis=2) != y.argmax(axis=2))),
        "flip_rate_predicted": _predicted(x, y),
        "logprob_mean": float(apart.mean()),
        "logprob_max": float(apart.max()),
        "kl_mean": float(divergence.mean()),
        "kl_max": float(divergence.max()),
    }
    return {
        "a": name_a,
        "b": name_b,
        # Steps count from one. None: no character differs.
        "first_divergence": int(steps[0]) + 1 if len(steps) else None,
        "diverged": int(other.any(axis=1).sum()),
    } | {name: float(f"{value:.6g}") for name, value in numbers.items()}


def _predicted(x: np.ndarray, y: np.ndarray) -> float:
    """The share of steps whose likeliest character should flip, by their margins and the size of the errors."""
    best = np.argsort(y, axis=2)[..., -2:]
    second, first = np.moveaxis(np.take_along_axis(y, best, 2), 2, 0)
    off = np.take_along_axis(x - y, best, 2)
    sigma = np.sqrt(np.mean((off[..., 1] - off[..., 0]) ** 2))
    return float(special.ndtr(-(first - second) / sigma).mean()) if sigma else 0.0
