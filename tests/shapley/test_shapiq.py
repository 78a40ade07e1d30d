"""The same game, solved by shapiq and by us."""

import numpy as np
import pytest
from shapiq import SVARM, ExactComputer, OwenSamplingSV, PermutationSamplingSV
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.bench import Bench
from copra_lab.shapley import LayerGame, exact

BENCH = Bench(tiny_clip(), tiny_task(), precision="float32")


def game(value="margin"):
    return LayerGame(
        BENCH, random_adapter(tiny_clip(), size=0.4, towers=("vision", "text")), value=value
    )  # five layers


@pytest.mark.parametrize("value", ["accuracy", "loss", "margin"])
def test_exact_values_and_interactions_are_shapiqs(value):
    g = game(value)
    ours, theirs = exact(g, g.n_players), ExactComputer(g, n_players=g.n_players)
    sv, sii = theirs("SV", order=1), theirs("SII", order=2)
    n = g.n_players
    np.testing.assert_allclose(ours.values, [sv[(i,)] for i in range(n)], atol=1e-9)
    np.testing.assert_allclose(
        ours.interactions,
        [[sii[(i, j)] if i != j else 0 for j in range(n)] for i in range(n)],
        atol=1e-9,
    )
    assert np.abs(ours.values).max() > 1e-3  # something is worth something


@pytest.mark.filterwarnings("ignore:Not all budget is required:UserWarning")
@pytest.mark.parametrize("approximator", [PermutationSamplingSV, OwenSamplingSV, SVARM])
def test_shapiqs_approximators_take_the_game_as_it_is(approximator):
    g = game()
    truth = exact(g, g.n_players).values
    found = approximator(n=g.n_players, random_state=0).approximate(2000, g)
    assert (
        np.abs([found[(i,)] for i in range(g.n_players)] - truth).max() < 0.2 * np.abs(truth).max()
    )
