"""What both frameworks' token processes do: decode greedily, then score the corpus' own characters; to a file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .tokens_model import Config, prompts

# (characters [batch], position) -> logits [batch, vocabulary], float32; position 0 begins anew.
Step = Callable[[np.ndarray, int], np.ndarray]


def serve(runners: Mapping[str, Callable[[str, Config, bool], Step]], arguments: list[str]) -> None:
    """Writes ``FOLDER/<runner>-<depth>.npz``: "tokens" ``[batch, steps]`` decoded greedily, "logits" ``[batch, steps,
    vocabulary]`` where the characters of the corpus are fed. ``arguments``: device, a list of Configs as JSON, folder,
    the runner whose MLPs are to be wrong or nothing."""
    device, text, folder, fault = arguments
    for fields in json.loads(text):
        c = Config(**fields)
        for name, make in runners.items():
            step = make(device, c, name == fault)
            np.savez(Path(folder) / f"{name}-{c.depth}.npz", tokens=greedy(step, c), logits=forced(step, c))


def greedy(step: Step, c: Config) -> np.ndarray:
    """What the model says after each prompt, the likeliest character at a time."""
    known, said = prompts(c), []
    now = known[:, 0]
    for position in range(c.length - 1):
        likeliest = step(now, position).argmax(axis=1)
        inside = position + 1 < c.prompt
        now = known[:, position + 1] if inside else likeliest
        if not inside:
            said.append(likeliest)
    return np.stack(said, axis=1)


def forced(step: Step, c: Config) -> np.ndarray:
    """The logits of each step if what really follows is what was said."""
    known: Any = prompts(c)
    logits = [step(known[:, position], position) for position in range(c.length - 1)]
    return np.stack(logits[c.prompt - 1 :], axis=1).astype(np.float32)
