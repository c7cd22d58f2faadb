"""Who is timed when: a contender must not have the same neighbour in every round."""

from itertools import pairwise

import pytest

from bench.rounds import BLOCK_S, FEWEST, MOST, in_rounds


def asked(seed, programs=6):
    """The order of the samples of one block, on a clock that stands."""
    found = []
    in_rounds(range(programs), lambda p: found.append(p) or 1.0, seed, clock=lambda: 0.0)
    return found


def test_every_round_has_everyone_once():
    order = asked(0)
    assert len(order) == 6 * MOST
    assert all(sorted(order[i : i + 6]) == list(range(6)) for i in range(0, len(order), 6))


def test_no_contender_follows_the_same_one_always():
    before = {}
    for seed in range(4):
        order = asked(seed)
        for one, other in pairwise(order):
            before.setdefault(other, []).append(one)
    for rows in before.values():
        assert max(rows.count(p) for p in rows) < len(rows) / 2


def test_a_seed_repeats_its_order_and_another_has_another():
    assert asked(3) == asked(3) != asked(4)


@pytest.mark.parametrize(("took", "rounds"), [(BLOCK_S, FEWEST), (BLOCK_S / 5.5, 5), (BLOCK_S / 100, MOST)])
def test_long_rounds_are_fewer(took, rounds):
    now = [0.0]

    def sample(_):
        now[0] += took
        return 1.0

    ((_, samples),) = in_rounds([0], sample, 0, clock=lambda: now[0])
    assert len(samples) == rounds


def test_none_is_no_sample_and_everyone_is_answered_for():
    found = in_rounds("ab", lambda p: None if p == "a" else 2.0, 0, clock=lambda: 0.0)
    assert found == [("a", []), ("b", [2.0] * MOST)]


def test_a_block_takes_turns(monkeypatch):
    """A sample each a round, device times and then wall times; roofs have no wall time."""
    pytest.importorskip("torch")
    from bench.timer_torch import Program, block

    asked = []

    def sampled(kind, value):
        return lambda p: asked.append((kind, p.key)) or (value if kind == "kernel" or p.wanted else None)

    for kind, value in (("kernel", 1.0), ("wall", 2.0)):
        monkeypatch.setattr(Program, f"{kind}_sample", sampled(kind, value))
    programs = [Program(key=key, step=list, layers=1, device=None, wanted=key != "roof") for key in ("a", "b", "roof")]
    found = block(programs, seed=1)
    assert found["b"] == {"kernel": [1.0] * MOST, "wall": [2.0] * MOST}
    assert found["roof"]["wall"] == []
    assert [kind for kind, _ in asked] == ["kernel"] * 3 * MOST + ["wall"] * 3 * MOST
    orders = [tuple(key for _, key in asked[first : first + 3]) for first in range(0, len(asked), 3)]
    assert all({*order} == {"a", "b", "roof"} for order in orders)
    assert len({*orders}) > 1
