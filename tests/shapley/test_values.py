"""Shapley values of games whose answer is known, and samplers that are unbiased with intervals that
cover.
"""

import itertools
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copra_lab.shapley import (
    SAMPLERS,
    Exact,
    all_coalitions,
    estimate,
    exact,
    owen,
    permutations,
    sharpen,
    solve,
    stratified,
)
from copra_lab.shapley.sampling import RunningMean


def glove(x):
    """Player 0 has a left glove, 1 and 2 a right one: a pair is worth 1."""
    return (x[:, 0] & (x[:, 1] | x[:, 2])).astype(float)


def conjunction(x):
    return x.all(1).astype(float)


def majority(x):
    return (x.sum(1) * 2 > x.shape[1]).astype(float)


def additive(weights):
    return lambda x: x @ np.asarray(weights, float) + 3.0


def random_game(n, seed=0):
    table = np.random.default_rng(seed).normal(size=2**n)
    return lambda x: table[np.asarray(x) @ (1 << np.arange(x.shape[1])[::-1])]


def brute_force(game, n):
    """The mean marginal over all orders: the definition."""
    total = np.zeros(n)
    for order in itertools.permutations(range(n)):
        inside = np.zeros((1, n), bool)
        for i in order:
            before = game(inside)[0]
            inside[0, i] = True
            total[i] += game(inside)[0] - before
    return total / math.factorial(n)


@pytest.mark.parametrize(
    ("game", "n", "values"),
    [
        (glove, 3, [4 / 6, 1 / 6, 1 / 6]),
        (conjunction, 3, [1 / 3] * 3),
        (conjunction, 1, [1.0]),
        (majority, 5, [0.2] * 5),
        (additive([1, -2, 0, 5]), 4, [1, -2, 0, 5]),
    ],
)
def test_closed_forms(game, n, values):
    assert exact(game, n).values == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_definition_over_all_orders(n):
    assert exact(random_game(n), n).values == pytest.approx(
        brute_force(random_game(n), n), abs=1e-12
    )


@given(st.integers(1, 8), st.integers(0, 1000))
def test_values_share_out_what_there_is(n, seed):
    solved = exact(random_game(n, seed), n)
    assert solved.values.sum() == pytest.approx(solved.worth[-1] - solved.worth[0], abs=1e-9)


def test_null_and_symmetric_players():
    inner = random_game(4)
    padded = exact(lambda x: inner(x[:, [0, 1, 3, 4]]), 5)  # player 2 never counts
    assert padded.values[2] == 0
    assert padded.values[[0, 1, 3, 4]] == pytest.approx(exact(inner, 4).values)
    same = exact(lambda x: np.sqrt(x.sum(1)), 6).values
    assert np.ptp(same) < 1e-12


def test_coalitions_are_listed_with_common_prefixes_together():
    rows = all_coalitions(4)
    assert rows.shape == (16, 4)
    assert [tuple(r) for r in rows] == sorted(tuple(r) for r in rows)


def test_interactions():
    product = exact(lambda x: (x[:, 0] & x[:, 2]).astype(float), 3).interactions
    assert product[0, 2] == product[2, 0] == pytest.approx(1)
    assert np.abs(product).sum() == pytest.approx(2)
    assert np.abs(exact(additive([1, 2, 3]), 3).interactions).max() < 1e-12
    assert exact(conjunction, 2).interactions.tolist() == [[0, 1], [1, 0]]
    n, game = 4, random_game(4)
    by_hand = np.zeros((n, n))
    for i, j in itertools.permutations(range(n), 2):
        for size in range(n - 1):
            for s in itertools.combinations([k for k in range(n) if k not in (i, j)], size):

                def v(*more, s=s):
                    x = np.zeros((1, n), bool)
                    x[0, [*s, *more]] = True
                    return game(x)[0]

                weight = math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1)
                by_hand[i, j] += weight * (v(i, j) - v(i) - v(j) + v())
    np.testing.assert_allclose(exact(game, n).interactions, by_hand, atol=1e-12)


def test_the_curve_is_the_mean_over_random_coalitions():
    n, game = 5, random_game(5)
    solved = exact(game, n)
    curve = solved.curve
    for p in (0.0, 0.2, 0.7, 1.0):
        law = np.prod(np.where(all_coalitions(n), p, 1 - p), axis=1)
        assert curve(p) == pytest.approx(law @ solved.worth, abs=1e-12)
    grid = np.linspace(0, 1, 20001)
    assert np.trapezoid(curve(grid), grid) == pytest.approx(curve.area, abs=1e-6)
    assert np.trapezoid(curve.slope(grid), grid) == pytest.approx(solved.values.sum(), abs=1e-6)
    assert curve.slope(0.3) == pytest.approx(
        (curve(0.3 + 1e-6) - curve(0.3 - 1e-6)) / 2e-6, abs=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        permutations,
        owen,
        stratified,
        lambda *a: permutations(*a, antithetic=False),
        lambda *a: owen(*a, antithetic=False),
    ],
)
def test_samplers_are_unbiased_and_their_intervals_cover(sampler):
    n, game = 5, random_game(5, 3)
    truth = exact(game, n).values
    found = [
        next(itertools.islice(sampler(game, n, np.random.default_rng(seed)), 59, None))
        for seed in range(300)
    ]
    values, errors = np.array([e.values for e in found]), np.array([e.errors for e in found])
    assert np.abs(values.mean(0) - truth).max() < 4.5 * values.std(0).max() / np.sqrt(300)
    covered = (np.abs(values - truth) <= 1.96 * errors).mean()
    assert 0.92 < covered < 0.97  # of 1,500
    assert errors.mean() == pytest.approx(values.std(0).mean(), rel=0.1)


@pytest.mark.parametrize("sampler", [permutations, owen])
def test_antithetic_samples_solve_a_game_of_pairs(sampler):
    weights = np.triu(np.random.default_rng(0).normal(size=(6, 6)))
    first = next(sampler(lambda x: ((x @ weights) * x).sum(1), 6, np.random.default_rng(1)))
    assert first.values == pytest.approx(exact(lambda x: ((x @ weights) * x).sum(1), 6).values)


@pytest.mark.parametrize("method", SAMPLERS)
def test_budgets_count_what_the_game_was_asked(method):
    asked = []

    def game(x):
        asked.append(len(x))
        return random_game(5)(x)

    found = estimate(game, 5, method, budget=300, seed=4)
    assert sum(asked) == found.evaluations <= 300
    assert found.evaluations > 200
    again = estimate(random_game(5), 5, method, budget=300, seed=4)
    assert (again.values == found.values).all()
    usual, zero = (
        estimate(random_game(5), 5, method, budget=300, **s).values for s in ({}, {"seed": 0})
    )
    assert (usual == zero).all()
    assert (
        np.isinf(estimate(random_game(5), 5, method, budget=1).errors).all()
        or method == "stratified"
    )
    assert estimate(random_game(5), 5, method, seconds=0.05).evaluations > 0


def test_a_budget_is_spent_to_its_last_evaluation():
    def spent(budget):
        return estimate(random_game(5), 5, "owen", budget=budget).evaluations

    assert [spent(b) for b in (1, 12, 23, 24, 35, 36)] == [12, 12, 12, 24, 24, 36]


def test_the_standard_error_of_a_mean():
    mean, x = RunningMean(3), np.random.default_rng(0).normal(size=(7, 3))
    for row in x:
        mean.add(row)
    assert mean.mean == pytest.approx(x.mean(0))
    assert mean.error == pytest.approx(x.std(0, ddof=1) / 7**0.5)


def test_no_sample_is_begun_when_the_time_is_up(monkeypatch):
    clock = itertools.count(1000)
    monkeypatch.setattr("copra_lab.shapley.values.time.monotonic", lambda: next(clock))
    assert estimate(random_game(5), 5, "owen", seconds=3).evaluations == 3 * 12


def test_a_stratified_sample_asks_once_for_the_smallest_and_largest_coalitions():
    samples = SAMPLERS["stratified"](random_game(5), 5, np.random.default_rng(0))
    spent = [now.evaluations for now, _ in zip(samples, range(3), strict=False)]
    assert spent == [50, 80, 110]  # 2n², and then 2n² − 4n


@pytest.mark.slow
def test_twenty_players_are_solved_exactly():
    assert exact(lambda x: x[:, 3].astype(float), 20).values == pytest.approx(np.eye(20)[3])


@pytest.mark.parametrize("method", SAMPLERS)
@pytest.mark.parametrize("n", [1, 2])
def test_games_with_nothing_left_to_sample_end_all_the_same(method, n):
    found = estimate(additive(range(1, n + 1)), n, method, budget=50)
    assert found.evaluations <= 50
    assert found.values == pytest.approx(list(range(1, n + 1)))
    assert np.isfinite(found.errors).all()


def test_solve_is_exact_for_few_players_and_samples_for_many():
    few, many = additive(range(12)), additive(range(13))
    solved = solve(few, 12)
    assert solved.evaluations == 4096
    assert not solved.errors.any()
    assert (solved.values == exact(few, 12).values).all()
    sampled, expected = (
        solve(many, 13, seed=5),
        estimate(many, 13, "permutations", budget=2000, seed=5),
    )
    assert sampled.evaluations == expected.evaluations <= 2000
    assert (sampled.values == expected.values).all()
    rough = random_game(13)  # unlike an additive one it tells the draws apart
    assert (solve(rough, 13).values == solve(rough, 13, seed=0).values).all()
    assert (solve(rough, 13).values != solve(rough, 13, seed=1).values).any()
    assert solve(many, 13, "exact").evaluations == 2**13
    assert (
        solve(few, 12, "owen", 100, 3).values
        == estimate(few, 12, "owen", budget=100, seed=3).values
    ).all()
    with pytest.raises(ValueError, match="unknown method"):
        solve(few, 12, "kernel")


def test_results_are_values_that_do_not_change():
    solved, sampled = exact(glove, 3), estimate(glove, 3, budget=10)
    for found, name in (
        (solved, "worth"),
        (solved.curve, "by_size"),
        (sampled, "values"),
        (next(sharpen(glove, 3)), "errors"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(found, name, None)


def test_bad_games_are_named():
    with pytest.raises(ValueError, match="one value a coalition"):
        exact(lambda x: x, 3)
    with pytest.raises(ValueError, match="one value a coalition"):
        estimate(lambda x: x.astype(float), 3, budget=10)
    with pytest.raises(ValueError, match="not a finite"):
        exact(lambda x: np.full(len(x), np.nan), 3)
    with pytest.raises(ValueError, match="1 to 20 players"):
        exact(glove, 40)
    with pytest.raises(ValueError, match="1 to 20 players"):
        exact(glove, 0)
    with pytest.raises(ValueError, match="unknown method"):
        estimate(glove, 3, "kernel", budget=10)
    with pytest.raises(ValueError, match="never ends"):
        estimate(glove, 3)
    assert Exact(np.array([0.0, 2.0])).interactions.tolist() == [[0.0]]
