"""Tilings of strategy ``tiled`` on Hopper that were measured, as data in hopper_tiles.json; a model where none was.

    {"schema": 1, "devices": [{"name": ..., "sm_count": ..., "library": ..., "runs": {date: {"driver", "versions",
     "commit"}},
     "measured": [{"kind", "rows", "outer", "inner", "gated", "run": date, "us": {"128x256x64/16": ..., ...}}, ...]}]}

``us``: the median microseconds of each candidate, tiles/group_m, the fastest first, measured in bfloat16 through one
twin's launches (``python -m bench tune``) and looked up by that twin, ``library`` "torch" or "xla": tiles change no bit
of a result, but the two twins' compilers are not fast with the same ones. An activation's name, biases and what is kept
for a backward are no part of a launch's entry.
"""

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from .hopper_tiles import Tiling, Work, modelled, unfit
from .problem import Device, smem_of
from .tiles import Tiles

FILE = Path(__file__).with_name("hopper_tiles.json")
SCHEMA = 1
# (name, processors, library) of a device -> launch -> microseconds of each tiling.
Table = dict[tuple[str, int, str], dict[Work, dict[Tiling, float]]]


@lru_cache(maxsize=4096)
def tiling_for(device: Device, work: Work, tiles: Tiles | None = None) -> Tiling:
    """The fastest tiling that was measured of this very work on a device of this name, else the model's. ``tiles``:
    those of a plan, so that only their order is to be chosen."""
    us = _committed().get((device.name, device.sm_count, device.library), {}).get(work, {})
    fit = [t for t in us if tiles in (None, t.tiles) and not unfit(t.tiles, work, device)]
    if fit:
        return min(fit, key=us.__getitem__)
    model = modelled(work, device)
    return Tiling(tiles=tiles or model.tiles, group_m=model.group_m)


def parse(body: dict[str, Any]) -> Table:
    """A file's content. Raises ValueError for one of another schema."""
    if body.get("schema") != SCHEMA:
        raise ValueError(f"a table of tiles has schema {body.get('schema')!r}, this version reads {SCHEMA}")
    return {
        (chip["name"], chip["sm_count"], chip["library"]): {
            work_of(entry): {Tiling.parse(text): us for text, us in entry["us"].items()} for entry in chip["measured"]
        }
        for chip in body["devices"]
    }


def work_of(entry: dict[str, Any]) -> Work:
    return Work(**{name: entry[name] for name in Work.__dataclass_fields__})


def faults(table: Table) -> list[str]:
    """Each tiling of a table that could not be launched, and why; a lookup passes over it."""
    found = []
    for (name, sm_count, _), measured in table.items():
        device = Device(kind="gpu", name=name, sm_count=sm_count, smem_bytes=smem_of((9, 0)), capability=(9, 0))
        for work, us in measured.items():
            reasons = {str(tiling): unfit(tiling.tiles, work, device) for tiling in us}
            found += [f"{name}: {work}: {tiling}: {why}" for tiling, why in reasons.items() if why]
    return found


@cache
def _committed() -> Table:
    return parse(json.loads(FILE.read_text()))
