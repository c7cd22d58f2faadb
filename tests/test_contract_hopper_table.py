"""Tiles of tiled/hopper: what fits, what was measured and is looked up, what the model says elsewhere."""

import json
from dataclasses import replace
from statistics import mean

import pytest

from parity.contract import hopper_table
from parity.contract.choice import complete
from parity.contract.hopper_table import FILE, faults, parse, tiling_for
from parity.contract.hopper_tiles import Tiling, Work, candidates, cluster_of, forward_of, modelled, unfit
from parity.contract.plan import Plan
from parity.contract.problem import Device, Problem
from parity.contract.tiles import Tiles

H100 = Device(kind="gpu", name="a made-up H100", sm_count=132, smem_bytes=232448, capability=(9, 0))
KINDS = ("linear", "activated", "hidden_bwd", "input_bwd", "weight_bwd")
WORKS = [
    Work(kind=kind, rows=rows, outer=outer, inner=512, gated=gated)
    for kind in KINDS
    for gated in (False, True)
    for rows in (1, 300, 1025, 4096)
    for outer in (8, 264, 4096)
]
# Slower tiles of two orders, faster ones, and the fastest, which no launch could take.
UP = Work(kind="activated", rows=4096, outer=4096, inner=4096)
CARDS = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
US = {"128x256x64/16": 3.0, "128x256x64/8": 2.0, "128x128x64/8": 1.5, "128x128x64/16": 1.8, "256x256x64/8": 1.0}


def tiles(n: int) -> Tiles:
    return Tiles(m=128, n=n, k=64)


def entry(work: Work, us: dict[str, float]) -> dict:
    return {name: getattr(work, name) for name in Work.__dataclass_fields__} | {"run": "2026-11-26", "us": us}


def table(*entries: dict, name: str = H100.name, sm_count: int = 132) -> dict:
    chip = {
        "name": name,
        "sm_count": sm_count,
        "library": "torch",
        "runs": {"2026-11-26": {}},
        "measured": list(entries),
    }
    return {"schema": hopper_table.SCHEMA, "devices": [chip]}


@pytest.fixture
def committed(monkeypatch, tmp_path):
    """Puts a table in the place of the committed one."""

    def put(body: dict) -> None:
        path = tmp_path / "hopper_tiles.json"
        path.write_text(json.dumps(body))
        monkeypatch.setattr(hopper_table, "FILE", path)
        forget()

    def forget() -> None:
        hopper_table._committed.cache_clear()
        tiling_for.cache_clear()

    yield put
    monkeypatch.undo()
    forget()


def test_the_committed_table_can_be_launched():
    assert faults(parse(json.loads(hopper_table.FILE.read_text()))) == []


def test_every_entry_of_the_committed_table_has_its_run_and_the_fastest_first():
    for chip in json.loads(hopper_table.FILE.read_text())["devices"]:
        for found in chip["measured"]:
            assert found["run"] in chip["runs"], found
            assert list(found["us"].values()) == sorted(found["us"].values()), found


def test_a_fault_is_named():
    found = faults(parse(table(entry(UP, US))))
    assert found == [
        "a made-up H100: activated 4096x4096x4096: 256x256x64/8: tiles 256x256x64 are none of 128x256x64, 128x128x64, "
        "128x64x64"
    ]
    turns = replace(UP, kind="hidden_bwd")
    (found,) = faults(parse(table(entry(turns, {"128x256x64/16": 1.0, "128x128x64/16": 2.0}))))
    assert "hidden_bwd 4096x4096x4096: 128x256x64/16: tiles 128x256x64 are none of 128x128x64, 128x64x64" in found


def test_a_table_of_another_schema_is_refused():
    with pytest.raises(ValueError, match="a table of tiles has schema 2, this version reads 1"):
        parse({"schema": 2, "devices": []})


def test_the_fastest_that_fits_is_looked_up(committed):
    committed(table(entry(UP, US)))
    assert tiling_for(H100, UP) == Tiling(tiles=tiles(128), group_m=8)
    # Of a plan's tiles, the faster order; of others, the first.
    assert tiling_for(H100, UP, tiles(256)) == Tiling(tiles=tiles(256), group_m=8)
    assert tiling_for(H100, UP, tiles(64)) == Tiling(tiles=tiles(64), group_m=modelled(UP, H100).group_m)
    small = replace(H100, smem_bytes=98304)
    assert unfit(tiles(128), UP, small)
    assert unfit(tiles(256), UP, small)
    assert tiling_for(small, UP) == modelled(UP, small)


def test_a_plan_takes_what_was_measured(committed):
    problem = Problem(m=4096, in_features=4096, hidden_features=4096, out_features=4096, dtype="bfloat16")
    plan = Plan(strategy="tiled", backend="hopper")
    committed(table())
    assert (complete(plan, problem, H100).up, complete(plan, problem, H100).down) == (tiles(128), tiles(128))
    committed(table(entry(UP, {"128x256x64/3": 1.0, "128x128x64/3": 2.0})))
    assert forward_of(problem)[0] == UP
    assert (complete(plan, problem, H100).up, complete(plan, problem, H100).down) == (tiles(256), tiles(128))


@pytest.mark.parametrize(
    ("device", "work"),
    [
        (replace(H100, name="another"), UP),
        (replace(H100, sm_count=114), UP),
        (replace(H100, library="xla"), UP),
        *[(H100, replace(UP, **{name: 4095})) for name in ("rows", "outer", "inner")],
        (H100, replace(UP, gated=True)),
        *[(H100, replace(UP, kind=kind)) for kind in KINDS if kind != UP.kind],
    ],
)
def test_anything_else_is_modelled(device, work, committed):
    committed(table(entry(UP, US)))
    assert tiling_for(device, work) == modelled(work, device)


def test_the_model_fills_the_processors_there_are():
    work = Work(kind="linear", rows=1024, outer=4096, inner=16384)
    assert modelled(work, replace(H100, sm_count=128)).tiles == tiles(256)
    assert modelled(replace(work, rows=128, outer=1024), H100).tiles == tiles(64)
    assert len({modelled(work, replace(H100, sm_count=n)).group_m for n in (1, 7, 66, 114, 132)}) == 1


@pytest.mark.parametrize("kind", ["linear", "activated", "input_bwd", "weight_bwd"])
@pytest.mark.parametrize("library", ["torch", "xla"])
def test_the_model_takes_turns_where_sums_are_too_short_to_hide_what_follows_them(library, kind):
    # (As many tiles as there are processors, four times and eight.)
    work, device = Work(kind=kind, rows=2048, outer=8448, inner=2048), replace(H100, library=library)
    assert modelled(work, device).tiles == tiles(128)
    assert modelled(replace(work, inner=32768), device).tiles == tiles(256)


def test_the_model_loses_little_against_what_was_measured():
    """On the cards that it was fitted to, in each twin; where there are few rows one order is as another."""
    table = parse(json.loads(FILE.read_text()))
    for name, library, count in (*((name, "torch", 232) for name in CARDS), (CARDS[0], "xla", 24)):
        device, measured = replace(H100, name=name, library=library), table[name, 132, library]
        losses = []
        for work, us in measured.items():
            model, rows = modelled(work, device), -(work.rows // -128)
            same = [t for t in us if t.tiles == model.tiles and min(t.group_m, rows) == min(model.group_m, rows)]
            losses += [us[same[0]] / min(us.values()) - 1] if same else []
        assert len(losses) >= count, "a launch's table lacks the model's tiling: tune it again"
        assert mean(losses) < 0.02, f"{name}, {library}: fit the model to the tables again"


def test_sums_of_two_products_are_twice_as_long():
    assert Work(kind="input_bwd", rows=8, outer=8, inner=512, gated=True).terms == 1024
    for work in (
        UP,
        replace(UP, gated=True),
        replace(UP, kind="hidden_bwd", gated=True),
        replace(UP, kind="input_bwd"),
    ):
        assert work.terms == work.inner


def test_programs_that_form_clusters_have_fewer_orders():
    gated = replace(UP, gated=True)
    assert [cluster_of(tiles(n), gated) for n in (64, 128)] == [2, 1]
    assert cluster_of(tiles(64), replace(gated, rows=4096 + 128)) == 1
    for library, orders in (("torch", [2, 3, 4, 8, 16]), ("xla", [3, 4, 8, 16])):
        found = candidates(gated, replace(H100, library=library))
        assert [tiling.group_m for tiling in found if tiling.tiles == tiles(64)] == orders


@pytest.mark.parametrize("work", WORKS, ids=str)
def test_what_is_chosen_and_what_is_tried_fit(work):
    found = candidates(work, H100)
    assert len(set(found)) == len(found)
    assert modelled(work, H100) in found
    assert not any(unfit(tiling.tiles, work, H100) for tiling in [*found, modelled(work, H100)])
    # Groups of more rows of tiles than there are come once: as many orders as there are rows of them, at most five.
    orders = {min(group, -(work.rows // -128)) for group in (2, 3, 4, 8, 16)}
    assert len(found) == len(orders) * len({tiling.tiles for tiling in found})


def test_nothing_is_tried_where_nothing_fits():
    assert candidates(UP, replace(H100, smem_bytes=49152)) == []


def test_a_tiling_is_read_as_it_was_written():
    for tiling in candidates(UP, H100):
        assert Tiling.parse(str(tiling)) == tiling
