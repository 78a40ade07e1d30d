"""Intervals, held against SciPy's, and the share of a gain that is lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from copra_lab.utils.statistics import (
    Z95,
    Accuracy,
    Outcomes,
    share_lost,
    share_lost_interval,
)


def test_z95_is_the_normal_quantile():
    assert norm.ppf(0.975) == pytest.approx(Z95, abs=1e-12)


@given(st.data())
def test_the_interval_is_wilsons(data):
    n = data.draw(st.integers(1, 100_000))
    correct = data.draw(st.integers(0, n))
    low, high = binomtest(correct, n).proportion_ci(0.95, "wilson")
    accuracy = Accuracy(correct, n)
    assert accuracy.interval == pytest.approx((low, high), abs=1e-9)
    assert accuracy.interval[0] <= accuracy.value <= accuracy.interval[1]


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (1, 2)])
def test_the_interval_is_wilsons_at_the_ends(correct, n):
    low, high = binomtest(correct, n).proportion_ci(0.95, "wilson")
    assert Accuracy(correct, n).interval == pytest.approx((low, high), abs=1e-12)
    assert 0 <= low <= correct / n <= high <= 1


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_an_impossible_accuracy_is_refused(correct, n):
    with pytest.raises(ValueError, match="needs 0 ≤ correct ≤ n"):
        Accuracy(correct, n)


# --- the share of a gain that is lost


def outcomes(alone: float, weaker: float, base: float, n: int = 100, seeds: int = 1) -> Outcomes:
    """The first images right, as many as these shares of `n`, each of a source of its own."""

    def first(share: float) -> np.ndarray:
        return (np.arange(n) < round(share * n)).astype(float)

    a, w = (np.tile(first(x), (seeds, 1)) for x in (alone, weaker))
    return Outcomes(a, w, first(base), [str(i) for i in range(n)])


def test_the_share_lost_is_losses_over_gains_summed_over_tasks():
    one, two = outcomes(0.8, 0.7, 0.4), outcomes(0.9, 0.6, 0.7, seeds=3)
    assert share_lost([one]) == pytest.approx(0.25)
    assert share_lost([two]) == pytest.approx(1.5)
    assert share_lost([one, two]) == pytest.approx(0.4 / 0.6)  # not the mean of the two
    assert share_lost([outcomes(0.8, 0.9, 0.4)]) == pytest.approx(-0.25)
    worse = outcomes(0.5, 0.5, 0.6)  # one task that gains nothing is no obstacle
    assert share_lost([one, worse]) == pytest.approx(0.1 / 0.3)


def test_nothing_and_everything_lost_have_intervals_without_width():
    for weaker, share in ((0.8, 0.0), (0.4, 1.0)):
        low, high = share_lost_interval([outcomes(0.8, weaker, 0.4, seeds=2)])
        assert low == pytest.approx(share)
        assert high == pytest.approx(share)


def by_hand(tasks: list[Outcomes], seed: int, draws: int) -> tuple[float, float]:
    """The same interval, one sample at a time, by picking images."""
    rng, shares = np.random.default_rng(seed), []
    for _ in range(draws):
        loss = gain = 0.0
        for t in tasks:
            names = np.unique(t.sources)
            picked = [
                i
                for s in rng.choice(names, len(names))
                for i in np.flatnonzero(np.asarray(t.sources) == s)
            ]
            rows = rng.integers(len(t.alone), size=len(t.alone))
            alone, weaker = (x[rows][:, picked].mean() for x in (t.alone, t.weaker))
            loss, gain = loss + alone - weaker, gain + alone - t.base[picked].mean()
        shares.append(loss / gain)
    low, high = np.quantile(shares, [0.025, 0.975])
    return low, high


def test_the_interval_of_the_share_is_that_of_a_bootstrap_one_sample_at_a_time():
    rng = np.random.default_rng(0)
    tasks = []
    for n, sources in ((60, 12), (90, 30)):
        alone = rng.random((3, n)) < 0.8
        weaker = alone & (rng.random((3, n)) < 0.8)
        base = (rng.random(n) < 0.3).astype(float)
        names = [f"drawing {i % sources}" for i in range(n)]
        tasks.append(Outcomes(alone.astype(float), weaker.astype(float), base, names))
    low, high = share_lost_interval(tasks, draws=4000)
    assert (low, high) == pytest.approx(by_hand(tasks, 1, 400), abs=0.04)
    assert low < share_lost(tasks) < high
    assert share_lost_interval(tasks) == share_lost_interval(tasks)


def test_where_nothing_is_gained_no_share_of_it_is_lost():
    for base in (0.8, 0.9):
        for function in (share_lost, share_lost_interval):
            with pytest.raises(ValueError, match=r"gain -?\d.* points over the base, so no share"):
                function([outcomes(0.8, 0.7, base)])
    with pytest.raises(ValueError, match="no interval; compare accuracies"):
        barely = outcomes(0.5, 0.4, 0.5, n=20)
        alone = barely.alone.copy()
        alone[0, -1] = 1  # one image of twenty
        share_lost_interval([Outcomes(alone, barely.weaker, barely.base, barely.sources)])


def test_outcomes_that_do_not_belong_together_are_refused():
    flat = np.ones(4)
    for wrong in (
        (np.ones((2, 4)), flat, flat, "abcd"),
        (flat, flat, np.ones(3), "abc"),
        (flat, flat, flat, "abc"),
        (np.ones((1, 2, 4)), np.ones((1, 2, 4)), flat, "abcd"),
    ):
        with pytest.raises(ValueError, match="expected alone and weaker"):
            Outcomes(*wrong[:3], list(wrong[3]))
    with pytest.raises(ValueError, match="of no image"):
        Outcomes(np.ones(0), np.ones(0), np.ones(0), [])
    with pytest.raises(ValueError, match="at least one task"):
        share_lost([])
