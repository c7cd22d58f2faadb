"""What both frameworks' training processes do: run the steps, write losses, hashes and snapshots to a file."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .train_model import Config

# A planted fault: the learning rate of a fused runner is off by this factor.
FAULT = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A model and its optimizer: ``step(i)`` -> the loss on the device, ``value`` of it on the host, ``fetch`` the
    parameters, weights ``[in, out]``."""

    step: Callable[[int], Any]
    value: Callable[[Any], float]
    fetch: Callable[[], dict[str, np.ndarray]]


def snapshots(steps: int) -> list[int]:
    """After how many steps the parameters are kept: each of the first ten, then ten an order of magnitude, and the
    last."""
    grown = {round(10 ** (i / 10)) for i in range(10 * len(str(steps)) + 1)}
    return sorted({s for s in (grown | set(range(1, 11))) if s <= steps} | {steps})


def serve(runners: Mapping[str, Callable[..., Trained]], arguments: list[str]) -> None:
    """Trains by each of ``runners`` and writes ``FOLDER/<runner>.npz``: "loss" of each step; "hash" of all parameters
    and the parameters themselves at ``snapshots``. ``arguments``: device, Config as JSON, folder, the runner with the
    planted fault or nothing."""
    device, text, folder, fault = arguments
    c = Config(**json.loads(text))
    kept = set(snapshots(c.steps))
    for name, make in runners.items():
        trained = make(device, c, c.rate * (FAULT if name == fault else 1.0))
        losses, found = [], {}
        for i in range(c.steps):
            losses.append(trained.step(i))
            if i + 1 in kept:
                parameters = trained.fetch()
                found |= {f"{i + 1}/{key}": value for key, value in parameters.items()}
                digest = hashlib.sha256(b"".join(np.ascontiguousarray(v).tobytes() for v in parameters.values()))
                found[f"{i + 1}/hash"] = np.array(digest.hexdigest())
        found["loss"] = np.array([trained.value(loss) for loss in losses], np.float32)
        np.savez(Path(folder) / f"{name}.npz", **found)
