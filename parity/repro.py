"""A failing case as a script that stands alone: operands, expected stages and bounds inside, or beside it if large."""

import base64
import io
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from .backward import evaluate_gradients
from .bounds import Bounds, Profile
from .cases import Case
from .contract.tolerance import Arithmetic
from .gradient_bounds import GradientBounds
from .judge import alone
from .oracle import evaluate
from .report import write_atomically

TEMPLATE = Path(__file__).with_name("templates") / "repro.py.in"
# Characters of base64 in the script; more goes into a file beside it.
INSIDE = 300_000


def write(
    path: Path, case: Case, arrays: dict[str, np.ndarray], reason: str, arithmetic: Arithmetic, *, equal: bool
) -> list[Path]:
    """Writes the case's script to ``path``: of its backward where "dy" is among ``arrays``, else of its forward. The
    paths written."""
    packed = _packed(case, arrays, arithmetic)
    text = base64.b64encode(packed).decode()
    written, inside = [path], len(text) <= INSIDE
    if not inside:
        beside = path.with_suffix(".npz")
        beside.write_bytes(packed)
        written.append(beside)
    script = Template(TEMPLATE.read_text()).substitute(
        name=case.name,
        reason=reason,
        problem=repr(asdict(case.problem)),
        plan=case.plan.to_json(),
        save=case.save,
        interpret=arithmetic == "ieee",
        equal=equal,
        data="(\n" + "".join(f'    "{text[i : i + 100]}"\n' for i in range(0, len(text), 100)) + ")"
        if inside
        else '""',
    )
    write_atomically(path, script)
    return written


def _packed(case: Case, arrays: dict[str, np.ndarray], arithmetic: Arithmetic) -> bytes:
    dy = arrays.get("dy")
    oracle = evaluate(case.problem, {name: array for name, array in arrays.items() if name != "dy"})
    bounds, profile = Bounds(oracle, case.plan), Profile(fused=True, arithmetic=arithmetic)
    if dy is None:
        want = oracle.rounded
        held = {stage: alone(allowed) for stage, allowed in bounds.of(profile).items()}
        steps = {stage: bounds.of(profile, after=want)[stage] for stage in ("h", "y")}
    else:
        want = evaluate_gradients(oracle, dy, case.save)
        of = GradientBounds(bounds, dy, want)
        held, steps = of.whole(profile), of.steps(profile, want)
    held |= {f"step_{stage}": alone(allowed) for stage, allowed in steps.items()}
    # A dtype that numpy's files do not know goes as the bytes it is.
    content: dict[str, Any] = {
        f"in/{n}": a.view(np.uint16) if a.dtype.name == "bfloat16" else a for n, a in arrays.items()
    }
    content |= {f"want/{stage}": values for stage, values in want.items()}
    for name, bound in held.items():
        content |= {f"stat/{name}": bound.stat, f"weight/{name}": bound.weight}
        content[f"energy/{name}"] = np.array(bound.energy)
    stream = io.BytesIO()
    np.savez_compressed(stream, **content)
    return stream.getvalue()
