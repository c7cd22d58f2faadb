"""A failing case as a script that stands alone: operands, expected stages and bounds inside, or beside it if large."""

import base64
import io
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from .bounds import Bounds, Profile, between
from .cases import Case
from .contract.tolerance import Arithmetic
from .oracle import evaluate
from .report import write_atomically

TEMPLATE = Path(__file__).with_name("templates") / "repro.py.in"
# Characters of base64 in the script; more goes into a file beside it.
INSIDE = 300_000


def write(
    path: Path, case: Case, arrays: dict[str, np.ndarray], reason: str, arithmetic: Arithmetic, *, equal: bool
) -> list[Path]:
    """Writes the script of the case's forward to ``path``; the paths written."""
    forward = {name: array for name, array in arrays.items() if name != "dy"}
    packed = _packed(case, forward, arithmetic)
    text = base64.b64encode(packed).decode()
    written, inside = [path], len(text) <= INSIDE
    if not inside:
        beside = path.with_suffix(".npz")
        beside.write_bytes(packed)
        written.append(beside)
    problem = case.problem
    script = Template(TEMPLATE.read_text()).substitute(
        name=case.name,
        reason=reason,
        options=repr({"activation": problem.activation, "precision": problem.precision}),
        plan=case.plan.to_json(),
        dtype=problem.dtype,
        interpret=arithmetic == "ieee",
        equal=equal,
        data="(\n" + "".join(f'    "{text[i : i + 100]}"\n' for i in range(0, len(text), 100)) + ")"
        if inside
        else '""',
    )
    write_atomically(path, script)
    return written


def _packed(case: Case, arrays: dict[str, np.ndarray], arithmetic: Arithmetic) -> bytes:
    oracle = evaluate(case.problem, arrays)
    bounds = Bounds(oracle, case.plan)
    profile, exact = Profile(fused=True, arithmetic=arithmetic), bounds.exact()
    held = {stage: between(own, exact[stage]) for stage, own in bounds.of(profile).items()}
    step = bounds.of(profile, after=oracle.rounded)["y"]
    held["step_y"] = between(step, exact["y"])
    # A dtype that numpy's files do not know goes as the bytes it is.
    content: dict[str, Any] = {
        f"in/{n}": a.view(np.uint16) if a.dtype.name == "bfloat16" else a for n, a in arrays.items()
    }
    content |= {f"want/{stage}": values for stage, values in oracle.rounded.items()}
    for name, bound in held.items():
        content |= {f"stat/{name}": bound.stat, f"weight/{name}": bound.weight}
        content[f"energy/{name}"] = np.array(bound.energy)
    stream = io.BytesIO()
    np.savez_compressed(stream, **content)
    return stream.getvalue()
