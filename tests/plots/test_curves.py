"""Curves over many positions."""

from copra_lab import plots
from copra_lab.utils.statistics import Accuracy


def test_a_curve_over_many_positions_leaves_the_ticks_to_matplotlib():
    x = list(range(20))
    picture = plots.curve(x, {"a": [Accuracy(k, 50) for k in x]}, "shots")
    assert len(picture.figure.axes[0].get_xticks()) < 20
    assert "38 % at 19" in picture.alt
