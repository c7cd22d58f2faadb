"""Plan: everything that changes a result's bits. choice.py chooses one and completes it.

What only changes speed (warps, pipeline stages, tile order) lives in schedule.py and hopper_table.py.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache

from .tiles import Tiles
from .vendor import Order

# The most rows of a decode plan, and the most chains it keeps going at once.
DECODE_ROWS = 64
DECODE_CHAINS = 8
# The step along a sum of decode/hopper, and the columns of its blocks.
HOPPER_DEPTH = 256
HOPPER_COLUMNS = 64
# What TMA needs of each row: 16 bytes, in elements.
HOPPER_ROW = 8


class Strategy(StrEnum):
    """``tiled``: two launches, each GEMM with its epilogue. ``decode``: one launch of programs that are all on the GPU
    at once and hand the hidden layer over inside it; for few rows. ``library``: the framework's own unfused operations,
    with their bits (in torch the gate's product is one launch where no gradient is wanted).
    """

    TILED = "tiled"
    DECODE = "decode"
    LIBRARY = "library"


class Backend(StrEnum):
    """Which kernels serve a strategy. ``portable``: Triton in torchfused, Pallas' Triton lowering in jaxfused.
    ``hopper``: Gluon in torchfused, Pallas Mosaic GPU in jaxfused, for compute capability 9.0."""

    PORTABLE = "portable"
    HOPPER = "hopper"


# What there are kernels for, in both twins.
SERVED = (
    (Strategy.TILED, Backend.PORTABLE),
    (Strategy.TILED, Backend.HOPPER),
    (Strategy.DECODE, Backend.PORTABLE),
    (Strategy.DECODE, Backend.HOPPER),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gemm:
    """How one of the two GEMMs is summed: its tiles, and the number of accumulator chains over K."""

    tiles: Tiles
    split_k: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """``up`` and ``down`` tile the two GEMMs; None leaves them to ``choose``; they change no bit. ``split_k = (s, t)``
    sums the first GEMM's K range in s chains and the second's in t: each chain has ``64 ceil(ceil(K / 64) / s)`` terms,
    and the chains are added in ascending order in float32. A single number stands for both. Plans of one ``split_k``
    and ``order`` give the same bits, whatever their strategy and the number of rows. Left out, ``split_k`` is one chain
    each; in the vendor's order, what was recovered of the vendor's GEMMs (vendor.py).

    Raises ValueError for a split below 1, for tiles, splits, an order or a backend on a ``library`` plan, which has
    none, or tiles on a ``decode/hopper`` plan, whose twins cut their own layouts.
    """

    strategy: Strategy = Strategy.TILED
    backend: Backend = Backend.PORTABLE
    up: Tiles | None = None
    down: Tiles | None = None
    split_k: tuple[int, int] | int | None = None
    order: Order = Order.FUSED

    def __post_init__(self) -> None:
        for name, known in (("strategy", Strategy), ("backend", Backend), ("order", Order)):
            value = getattr(self, name)
            if value not in list(known):
                raise ValueError(f"{name} is {value!r}, must be one of {', '.join(known)}")
            object.__setattr__(self, name, known(value))
        for name in ("up", "down"):
            if not isinstance(getattr(self, name), Tiles | None):
                raise ValueError(f"{name} is {getattr(self, name)!r}, must be Tiles(m=..., n=..., k=...) or None")
        splits = 1 if self.split_k is None and self.order is Order.FUSED else self.split_k
        if splits is not None:
            splits = tuple(splits) if isinstance(splits, tuple | list) else (splits, splits)
            if len(splits) != 2 or not all(type(split) is int and split >= 1 for split in splits):
                raise ValueError(f"split_k is {self.split_k}, must be 1 or more for each of the two GEMMs")
        object.__setattr__(self, "split_k", splits)
        fused = self.order is Order.FUSED
        if self.strategy is Strategy.LIBRARY and (self.up or self.down or splits != (1, 1) or not fused):
            raise ValueError("a library plan has no tiles, split_k or order: the vendor's GEMM decides; drop them")
        if self.strategy is Strategy.LIBRARY and self.backend is not Backend.PORTABLE:
            raise ValueError(f"a library plan has no backend of ours, {self.backend} is one; drop it")
        if (self.strategy, self.backend) == (Strategy.DECODE, Backend.HOPPER) and (self.up or self.down):
            raise ValueError(
                "a decode/hopper plan has no tiles: each twin cuts its own layout of the weights; drop them"
            )

    @property
    def launches(self) -> int | None:
        """Kernels of ours that one forward pass launches; None where the framework decides. (In jax a memset of XLA's
        goes with a decode plan's.)"""
        return {Strategy.TILED: 2, Strategy.DECODE: 1}.get(self.strategy)

    @property
    def splits(self) -> tuple[int, int]:
        """``split_k`` of each GEMM. Raises ValueError where it is the vendor's and ``choose`` has not looked it up."""
        if not isinstance(self.split_k, tuple):
            raise ValueError("split_k is left to the vendor's record: choose(problem, device, plan) completes the plan")
        return self.split_k

    def gemms(self) -> tuple[Gemm, Gemm]:
        """The two GEMMs of a plan that ``choose`` has completed."""
        assert self.up is not None
        assert self.down is not None
        up, down = self.splits
        return Gemm(tiles=self.up, split_k=up), Gemm(tiles=self.down, split_k=down)

    @lru_cache(maxsize=4096)  # noqa: B019 (a plan is a small value, and a call asks for its text each time)
    def to_json(self) -> str:
        """The plan as text, for those who can only hand on text; ``from_json`` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    @lru_cache(maxsize=4096)
    def from_json(cls, text: str) -> "Plan":
        fields = json.loads(text)
        for name in ("up", "down"):
            fields[name] = Tiles(**fields[name]) if fields[name] else None
        return cls(**fields)

    def __str__(self) -> str:
        if self.strategy is Strategy.LIBRARY:
            return "library"
        text = f"{self.strategy}/{self.backend}"
        text += " in the vendor's order" if self.order is Order.VENDOR else ""
        text += f" up {self.up} down {self.down}" if self.up or self.down else ""
        return text if self.split_k == (1, 1) else f"{text} split_k {self.split_k or 'as recorded'}"


LIBRARY = Plan(strategy=Strategy.LIBRARY)


def check_plan(plan: Plan | None) -> Plan | None:
    """``plan``. Raises ValueError for what is no Plan."""
    if not isinstance(plan, Plan | None):
        raise ValueError(f'plan is {plan!r}, must be a Plan, such as Plan(strategy="library")')
    return plan
