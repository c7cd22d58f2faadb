"""The vendor's order: what a plan of it is, where its chains come from, what it refuses, and the numbers it is spelled
with."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from parity import vendor_spelling as spelled
from parity.contract import activations, vendor
from parity.contract.choice import choose, limitation
from parity.contract.errors import UnsupportedError
from parity.contract.plan import LIBRARY, Backend, Plan, Strategy
from parity.contract.problem import Device, Problem
from parity.contract.vendor import FILE, Order, Record, layer, records
from parity.protocol import plan_from_dict

H100 = Device(kind="gpu", name="H100", sm_count=132, smem_bytes=232448, capability=(9, 0))
PLAIN = Problem(
    m=16, in_features=1024, hidden_features=4096, out_features=512, activation="gelu", bias_up=True, dtype="bfloat16"
)
GATED = replace(PLAIN, gated=True, bias_gate=True)
VENDOR = Plan(order=Order.VENDOR)
RESULTS = Path(__file__).parents[1] / "bench/results"


@pytest.fixture
def known(monkeypatch):
    """A record of two layers, and of a third that its bias has summed otherwise."""
    chains = {
        layer("bfloat16", 1024, 4096, True): {16: 1, 64: 2},
        layer("bfloat16", 1024, 4096, False): {16: 2},
        layer("bfloat16", 4096, 512, False): {16: 3, 64: 2, 128: 1},
    }
    monkeypatch.setattr(vendor, "records", lambda: {"H100": Record(vendor="torch 9", chains=chains)})
    monkeypatch.setattr("parity.contract.choice.records", vendor.records)
    choose_again()
    yield
    choose_again()


def choose_again():
    from parity.contract import choice

    choice._choose.cache_clear()


def test_a_plan_holds_its_order():
    assert Plan().order is Order.FUSED
    assert VENDOR.split_k is None
    assert Plan(order="vendor", split_k=2).split_k == (2, 2)
    assert Plan(order="vendor", split_k=1) != Plan(split_k=1)
    for plan in (VENDOR, replace(VENDOR, split_k=(3, 1)), replace(VENDOR, strategy=Strategy.DECODE)):
        assert Plan.from_json(plan.to_json()) == plan
        assert plan_from_dict(json.loads(plan.to_json())) == plan
    assert str(replace(VENDOR, split_k=(3, 1))) == "tiled/portable in the vendor's order split_k (3, 1)"
    with pytest.raises(ValueError, match="order is 'torch', must be one of fused, vendor"):
        Plan(order="torch")
    assert str(VENDOR) == "tiled/portable in the vendor's order split_k as recorded"
    for split_k in (None, 1):
        with pytest.raises(ValueError, match="a library plan has no tiles, split_k or order"):
            Plan(strategy="library", order="vendor", split_k=split_k)
    with pytest.raises(ValueError, match=r"left to the vendor's record: choose\(problem, device, plan\) completes"):
        _ = VENDOR.splits


def test_chains_are_the_recorded_ones(known):
    choice = choose(PLAIN, H100, VENDOR)
    assert choice.plan.split_k == (1, 3)
    assert choice.plan.order is Order.VENDOR
    assert choice.why == "forced by the caller; split_k is that of torch 9 on H100"
    assert choose(GATED, H100, VENDOR).plan.split_k == (1, 3)
    assert choose(replace(PLAIN, m=64), H100, replace(VENDOR, strategy=Strategy.DECODE)).plan.split_k == (2, 2)
    # No rows have no sums, whatever was recovered, and wherever.
    for device in (H100, replace(H100, name="another")):
        none = choose(replace(PLAIN, m=0), device, VENDOR)
        assert (none.plan.split_k, none.why) == ((1, 1), "forced by the caller")
    # The build on record; and one that does not matter where nothing is left to the record.
    assert choose(PLAIN, replace(H100, vendor="torch 9"), VENDOR).plan == choice.plan
    assert choose(PLAIN, replace(H100, vendor="torch 10"), replace(VENDOR, split_k=(1, 3))).plan == choice.plan
    # What is given counts, recorded or not.
    given = choose(replace(PLAIN, m=5), H100, replace(VENDOR, split_k=2))
    assert (given.plan.split_k, given.why) == ((2, 2), "forced by the caller")


def test_nobody_is_given_the_vendors_order_unasked(known):
    for problem in (PLAIN, GATED, replace(PLAIN, m=4096), replace(PLAIN, dtype="float32")):
        assert choose(problem, H100).plan.order is Order.FUSED


WAY = "give split_k, or let `python -m parity vendor` recover it"
DECODE = replace(VENDOR, strategy=Strategy.DECODE)


@pytest.mark.parametrize(
    ("problem", "device", "plan", "message"),
    [
        (PLAIN, replace(H100, name="H300"), VENDOR, f"the vendor's order was never recovered on H300; {WAY}"),
        (
            replace(PLAIN, m=17),
            H100,
            VENDOR,
            f"the order of torch 9 is known of bfloat16 1024-4096 bias on H100 only at 16, 64 rows, not at 17; {WAY}",
        ),
        (
            replace(PLAIN, dtype="float16"),
            H100,
            VENDOR,
            "the order of torch 9 is known of float16 1024-4096 bias on H100 at no number of rows, not at 16",
        ),
        (replace(PLAIN, packed=False), H100, VENDOR, "the vendor's order was recovered for packed operands, one of"),
        (
            replace(GATED, bias_gate=False),
            H100,
            VENDOR,
            "torch 9 sums bfloat16 1024-4096 bias and bfloat16 1024-4096 in different orders, ours sums both in one",
        ),
        (
            PLAIN,
            replace(H100, vendor="torch 10"),
            VENDOR,
            f"the vendor's order on H100 was recovered of torch 9, this is torch 10; {WAY}",
        ),
        (PLAIN, H100, DECODE, "decode sums 1, 2, 4 or 8 chains at once, split_k is (1, 3); use one of these, or tiled"),
        (
            PLAIN,
            H100,
            replace(VENDOR, backend=Backend.HOPPER, split_k=1),
            "the hopper backend rounds in an order of its own, not in the vendor's; use portable",
        ),
        (
            replace(PLAIN, dtype="float32", precision="tf32"),
            H100,
            replace(VENDOR, split_k=1),
            "the vendor rounds to tf32 in a way of its own, which its order does not replay; use precision ieee",
        ),
    ],
)
def test_what_cannot_be_replayed_is_refused(known, problem, device, plan, message):
    with pytest.raises(UnsupportedError, match=re.escape(f"cannot run here: {message}")):
        choose(problem, device, plan)


def test_an_interpreter_replays_what_it_is_given():
    device = Device(kind="interpreter")
    assert choose(replace(PLAIN, dtype="float16"), device, replace(VENDOR, split_k=2)).plan.split_k == (2, 2)
    assert "never recovered on cpu" in str(limitation(replace(PLAIN, dtype="float16"), device, VENDOR))
    assert limitation(PLAIN, device, LIBRARY) is None


def test_the_table_is_one_of_layers_and_rows():
    assert records()
    for name, record in records().items():
        assert re.fullmatch(r"torch \d+\.\d+\S*", record.vendor), name
        for text, rows in record.chains.items():
            assert re.fullmatch(r"(bfloat16|float16|float32) \d+-\d+( bias)?", text)
            assert rows
            assert all(m > 0 and 0 < chains <= 64 for m, chains in rows.items())
    assert FILE.read_text().endswith("}\n")


def test_what_is_recorded_is_what_was_measured():
    """Nothing without evidence, and nothing left out: the record is the committed run's 16-bit orders."""
    measured = json.loads((RESULTS / "h100/parity/vendor.json").read_text())
    facts = measured["environment"]
    (name, record), *others = records().items()
    assert not others
    assert (name, record.vendor) == (facts["gpu"], facts["workers"]["torch"]["vendor"])
    layers = [one for one in measured["layers"] if not one["layer"].startswith("float32")]
    found = {(one["layer"], one["m"], one["chains"]) for one in layers if one["chains"]}
    assert {(one, m, chains) for one, rows in record.chains.items() for m, chains in rows.items()} == found


def test_the_vendors_functions_are_what_they_are_called():
    s = np.concatenate([np.linspace(-80.0, 80.0, 200001), np.linspace(-2.0, 2.0, 100001)]).astype(np.float32)
    exact = {"exp": np.exp, "erf": special.erf, "tanh": np.tanh}
    for name, function in exact.items():
        with np.errstate(over="ignore"):
            found, want = getattr(spelled, name)(s), function(s.astype(np.float64))
        # CUDA's own bounds: 2 ulps each (CUDA C++ Programming Guide, mathematical functions).
        assert (np.abs(found - want) <= 2 * np.spacing(np.abs(want).astype(np.float32))).all(), name


def test_every_activation_is_spelled():
    assert list(spelled.VENDOR) == list(activations.ACTIVATIONS)
    assert all(row.vendor for row in activations.ACTIVATIONS.values())


# (s, torch's erf GELU of it on an H100): float32, which a libdevice of CUDA 12 gives other bits.
MEASURED = [
    (-4.1269731521606445, -7.576392818009481e-05),
    (-3.134298324584961, -0.0026997176464647055),
    (-3.0654544830322266, -0.00333126587793231),
    (1.6733946800231934, 1.5945361852645874),
    (3.3810577392578125, 3.3798367977142334),
    (-2.807767152786255, -0.007003512233495712),
]


def test_gelu_has_the_bits_of_a_gpus():
    s, want = np.array(MEASURED, np.float32).T
    assert np.array_equal(spelled.VENDOR["gelu"](s, lambda t: t), want)
