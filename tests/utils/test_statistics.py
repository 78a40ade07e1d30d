"""Intervals, held against SciPy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from copra_lab.utils.statistics import Z95, Accuracy


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
