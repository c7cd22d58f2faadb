"""torch's eager MLP as an order of ours: in how many chains its GEMMs sum, by device and sizes, as ``python -m parity
vendor`` recovered them.

cuBLAS has a kernel for each size of a product. All of them sum as ours do; those that cut a sum into parts cut it at
multiples of 64 terms, as ``chain_length`` does. So one number a product says in which order it is summed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from .problem import Device, Problem

FILE = Path(__file__).with_name("vendor_orders.json")


class Order(StrEnum):
    """``fused``: what lies between the two GEMMs is float32 and rounded once, to h. ``vendor``: torch's eager MLP bit
    for bit, forward: s and u, the activation of s and its product with u are each rounded to the operands' type, and
    the activation is spelled as torch spells it (activations.py). Gradients are those of our own spelling, computed
    from what was rounded: they are no eager gradient's bits.
    """

    FUSED = "fused"
    VENDOR = "vendor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What was recovered on a device: of which ``vendor``, a torch build, and by ``layer`` the ``chains`` of each
    number of rows."""

    vendor: str
    chains: Mapping[str, Mapping[int, int]]


def layer(dtype: str, inner: int, outer: int, bias: bool) -> str:
    """The name of a product ``[m, inner] @ [inner, outer]``, plus a bias, in a record."""
    return f"{dtype} {inner}-{outer}{' bias' if bias else ''}"


@cache
def records() -> Mapping[str, Record]:
    """Every device's record, by the device's name."""
    return {
        name: Record(
            vendor=found["vendor"],
            chains={layer: {int(m): n for m, n in rows.items()} for layer, rows in found["chains"].items()},
        )
        for name, found in json.loads(FILE.read_text()).items()
    }


def products(problem: Problem) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers of the first GEMM, one or two, and of the second."""
    k, h, n = problem.in_features, problem.hidden_features, problem.out_features
    biases = (problem.bias_up, problem.bias_gate) if problem.gated else (problem.bias_up,)
    first = tuple(dict.fromkeys(layer(problem.dtype, k, h, bias) for bias in biases))
    return first, (layer(problem.dtype, h, n, problem.bias_down),)


def recorded(problem: Problem, device: Device) -> tuple[int, int]:
    """The chains of both GEMMs; of no rows, one. Raises KeyError where ``unreplayed`` says why there are none."""
    if problem.m == 0:
        return 1, 1
    chains = records()[device.name].chains
    (up, *_), (down,) = products(problem)
    return chains[up][problem.m], chains[down][problem.m]


def unreplayed(problem: Problem, device: Device, split_k: object) -> str | None:
    """Why the vendor's order cannot be that of ``problem``, with the way out; None if it can. Without a ``split_k`` it
    must have been recovered."""
    if problem.precision == "tf32":
        return "the vendor rounds to tf32 in a way of its own, which its order does not replay; use precision ieee"
    if split_k is not None or problem.m == 0:
        return None
    way = "give split_k, or let `python -m parity vendor` recover it"
    record = records().get(device.name)
    if record is None:
        return f"the vendor's order was never recovered on {device.name}; {way}"
    if device.vendor and device.vendor != record.vendor:
        return f"the vendor's order on {device.name} was recovered of {record.vendor}, this is {device.vendor}; {way}"
    if not problem.packed:
        return f"the vendor's order was recovered for packed operands, one of these is strided; pack it, or {way}"
    first, second = products(problem)
    for one in (*first, *second):
        rows = record.chains.get(one, {})
        if problem.m not in rows:
            known = f"only at {', '.join(map(str, sorted(rows)))} rows" if rows else "at no number of rows"
            return f"the order of {record.vendor} is known of {one} on {device.name} {known}, not at {problem.m}; {way}"
    if len({record.chains[one][problem.m] for one in first}) > 1:
        return f"{record.vendor} sums {' and '.join(first)} in different orders, ours sums both in one; {way}"
    return None
