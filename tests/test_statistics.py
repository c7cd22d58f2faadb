"""The bench must not call noise a difference, nor a difference noise."""

import numpy as np
import pytest

from bench.worker_fake import noisy
from parity.statistics import compare, estimate, verdict


def blocks(seed: str, factor: float = 1.0) -> list[list[float]]:
    """Four blocks of a 20 us contender; drift is shared by block number, noise is the seed's own."""
    first = int(seed.split("/")[0])
    return [noisy(20.0, seed, 100 * first + i, factor) for i in range(4)]


def test_a_against_a_says_same_in_95_of_100_tries():
    words = [compare(blocks(f"{i}/a"), blocks(f"{i}/b"), seed=i).verdict for i in range(100)]
    assert words.count("SAME") >= 95


def test_three_percent_slower_is_never_called_same():
    words = [compare(blocks(f"{i}/a"), blocks(f"{i}/b", 1.03), seed=i).verdict for i in range(100)]
    assert "SAME" not in words
    assert words.count("SLOWER") >= 90


def test_three_percent_faster_is_never_called_same():
    words = [compare(blocks(f"{i}/a", 1.03), blocks(f"{i}/b"), seed=i).verdict for i in range(100)]
    assert "SAME" not in words


def test_drift_of_the_card_does_not_decide():
    # Twice as slow in the second half, both of them: paired blocks cancel it.
    a = [[10.0, 10.1], [10.0, 10.1], [20.0, 20.1], [20.0, 20.1]]
    assert compare(a, a).verdict == "SAME"


def test_wild_noise_is_unclear():
    rng = np.random.default_rng(0)
    a, b = (list(20 * (1 + 0.4 * rng.random((4, 6)))) for _ in range(2))
    assert compare(a, b).verdict == "UNCLEAR"


def test_verdict_by_interval():
    assert [verdict(*i) for i in ((0.99, 1.01), (1.01, 1.05), (0.9, 0.95), (0.9, 1.1))] == [
        "SAME",
        "SLOWER",
        "FASTER",
        "UNCLEAR",
    ]


def test_interval_holds_the_median_and_most_truths():
    hits = 0
    for i in range(100):
        rng = np.random.default_rng(i)
        e = estimate(list(20 + rng.standard_normal((6, 8))))
        assert e.low <= e.median <= e.high
        hits += e.low <= 20 <= e.high
    assert hits >= 88


def test_blocks_of_unequal_length():
    e = estimate([[1.0], [2.0, 2.0, 2.0], []])
    assert e.median == 2.0
    assert e.blocks == (1.0, 2.0)


def test_no_sample_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        estimate([[], []])
