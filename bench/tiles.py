"""The table of measured tilings (parity/contract/hopper_table.py says what is in it) as the tuner extends it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parity.contract.hopper_table import SCHEMA, faults, parse, work_of
from parity.contract.hopper_tiles import Tiling, Work
from parity.contract.problem import Device

from .results import rewrite


@dataclass
class TileFile:
    """A file's content and where it lives."""

    path: Path
    devices: list[dict[str, Any]] = field(default_factory=list)

    def of(self, device: Device) -> dict[str, Any]:
        """The part that is this device's, empty at first."""
        for chip in self.devices:
            if (chip["name"], chip["sm_count"], chip["library"]) == (device.name, device.sm_count, device.library):
                return chip
        chip = {"name": device.name, "sm_count": device.sm_count, "library": device.library, "runs": {}, "measured": []}
        self.devices.append(chip)
        return chip

    def known(self, device: Device) -> set[Work]:
        """What has been measured on this device."""
        return {work_of(entry) for entry in self.of(device)["measured"]}

    def merge(self, device: Device, date: str, about: dict[str, Any], work: Work, us: dict[Tiling, float]) -> None:
        """``us`` takes the place of what an earlier run measured of the same launch; a run without entries goes."""
        chip = self.of(device)
        fastest = {str(tiling): us[tiling] for tiling in sorted(us, key=us.__getitem__)}
        chip["measured"] = [entry for entry in chip["measured"] if work_of(entry) != work]
        chip["measured"].append({**asdict(work), "run": date, "us": fastest})
        chip["measured"].sort(key=_place)
        chip["runs"][date] = about
        used = {entry["run"] for entry in chip["measured"]}
        chip["runs"] = {date: about for date, about in chip["runs"].items() if date in used}

    def save(self) -> None:
        """A line an entry: readable in a diff."""
        chips = [
            f'{{"name": {json.dumps(chip["name"])}, "sm_count": {chip["sm_count"]}, "library": "{chip["library"]}",\n'
            '   "runs": {'
            + _lines([f"{json.dumps(date)}: {json.dumps(about)}" for date, about in chip["runs"].items()])
            + '},\n   "measured": ['
            + _lines([json.dumps(entry) for entry in chip["measured"]])
            + "]}"
            for chip in self.devices
            if chip["measured"]
        ]
        body = f'{{\n "schema": {SCHEMA},\n "devices": [' + ",".join(f"\n  {chip}" for chip in chips)
        rewrite(self.path, body + ("\n ]\n}\n" if chips else "]\n}\n"))


def load(path: Path) -> TileFile:
    """An empty table where there is no file. Raises ValueError for another schema, or tiles that no launch takes."""
    if not path.exists():
        return TileFile(path=path)
    body = json.loads(path.read_text())
    found = faults(parse(body))
    if found:
        raise ValueError(f"{path} has tiles that cannot be: {'; '.join(found)}")
    return TileFile(path=path, devices=body["devices"])


def _place(entry: dict[str, Any]) -> tuple:
    """Launches of a kind together, of one weight in the order of their rows."""
    return entry["kind"], entry["gated"], entry["outer"], entry["inner"], entry["rows"]


def _lines(items: list[str]) -> str:
    return ",".join(f"\n    {item}" for item in items) + "\n   " * bool(items)
