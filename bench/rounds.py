"""Programs take turns at being timed.

A card at its power limit runs whatever comes now at a clock that what ran before has set: up to 25 % slower behind a
hungry neighbour, for tens of milliseconds. So samples are short, and every round has an order of its own.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

FEWEST, MOST = 3, 8
BLOCK_S = 0.5

Program = TypeVar("Program")


def rounds(programs: Sequence[Program], seed: int) -> Iterator[list[Program]]:
    """All of them again and again, each time in an order of its own."""
    shuffled = random.Random(seed)
    while True:
        yield shuffled.sample(programs, len(programs))


def in_rounds(
    programs: Sequence[Program],
    sample: Callable[[Program], float | None],
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[Program, list[float]]]:
    """Each program with its samples, one a round (None is none): MOST rounds, or FEWEST and as many more as fit
    BLOCK_S seconds."""
    found: list[list[float]] = [[] for _ in programs]
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = clock()
        for done, order in enumerate(islice(rounds(range(len(programs)), seed), MOST)):
            if done >= FEWEST and (clock() - start) * (done + 1) > BLOCK_S * done:
                break
            for i in order:
                value = sample(programs[i])
                if value is not None:
                    found[i].append(value)
    finally:
        if collects:
            gc.enable()
    return list(zip(programs, found, strict=True))
