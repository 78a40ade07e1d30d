"""Values that sharpen: what each step says, what it measures, and going on where it was left."""

import itertools

import numpy as np
import pytest

from copra_lab.shapley import Exact, all_coalitions, exact, permutations, sharpen
from copra_lab.shapley.coalitions import CachedGame


def random_table(n, seed=0, games=None):
    return np.random.default_rng(seed).normal(size=2**n if games is None else (2**n, games))


def looked_up(table, asked=None):
    """A game that looks its values up, and notes what it was asked for."""

    def game(x):
        if asked is not None:
            asked.append([r.tobytes() for r in np.asarray(x)])
        return table[np.asarray(x) @ (1 << np.arange(x.shape[1])[::-1])]

    return game


def glove(x):
    """Player 0 has a left glove, 1 and 2 a right one: a pair is worth 1."""
    return (x[:, 0] & (x[:, 1] | x[:, 2])).astype(float)


@pytest.mark.parametrize(
    ("game", "values"),
    [
        (glove, [4 / 6, 1 / 6, 1 / 6]),
        (lambda x: x.all(1).astype(float), [0.25] * 4),
        (lambda x: x @ np.array([1.0, -2, 0, 5]) + 3, [1, -2, 0, 5]),
        (lambda x: x[:, 0] * 2.0, [2]),
    ],
)
def test_the_end_is_exact_on_closed_forms(game, values):
    *_, last = sharpen(game, len(values), pairs=2, batch=3)
    assert last.exact
    assert not last.errors.any()
    assert last.evaluations == 2 ** len(values)
    assert last.values == pytest.approx(values, abs=1e-12)


def test_a_game_that_was_measured_before_is_only_solved():
    cache, asked = {}, []
    list(sharpen(looked_up(random_table(4)), 4, cache=cache))
    (only,) = sharpen(looked_up(random_table(4), asked), 4, cache=cache)
    assert (only.samples, only.evaluations, only.exact, asked) == (0, 16, True, [])


@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("pairs", [1, 4])
def test_the_end_is_what_exact_says_and_nothing_is_measured_twice(pairs, batch):
    n, asked, table = 6, [], random_table(6)
    *steps, last = sharpen(looked_up(table, asked), n, pairs=pairs, batch=batch)
    assert (last.values == exact(looked_up(table), n).values).all()
    assert (last.by_size == exact(looked_up(table), n).curve.by_size).all()
    flat = [key for call in asked for key in call]
    assert len(flat) == len(set(flat)) == 2**n
    assert max(map(len, asked)) <= batch
    assert [s.samples for s in steps[:pairs]] == list(range(1, pairs + 1))
    assert all(s.values is steps[pairs - 1].values for s in steps[pairs:])  # samples stand
    left = 2**n - steps[pairs - 1].evaluations
    assert len(steps) == pairs + (left - 1) // batch
    counts = [s.evaluations for s in [*steps, last]]
    assert counts == sorted(counts)


def test_samples_are_those_of_permutations():
    n, table = 7, random_table(7)
    expected = permutations(looked_up(table), n, np.random.default_rng(5))
    for step, e in zip(
        itertools.islice(sharpen(looked_up(table), n, pairs=9, seed=5), 9), expected, strict=False
    ):
        np.testing.assert_allclose(step.values, e.values, atol=1e-12)
        np.testing.assert_allclose(step.errors, e.errors, atol=1e-12)
        assert step.values.sum() == pytest.approx(step.by_size[-1] - step.by_size[0])


def test_a_game_of_vectors_is_many_games():
    n, table = 4, random_table(4, games=5)
    steps = list(sharpen(looked_up(table), n, pairs=2, batch=2))
    for i in range(5):
        alone = list(sharpen(looked_up(table[:, i]), n, pairs=2, batch=2))
        for step, one in zip(steps, alone, strict=True):
            np.testing.assert_allclose(step.values[:, i], one.values, atol=1e-12)
    mean = list(sharpen(looked_up(table.mean(1)), n, pairs=2, batch=2))
    for step, one in zip(steps, mean, strict=True):
        np.testing.assert_allclose(step.errors, one.errors, atol=1e-12)
        np.testing.assert_allclose(step.by_size, one.by_size, atol=1e-12)
        np.testing.assert_allclose(step.values.mean(1), one.values, atol=1e-12)
    assert (steps[-1].values == Exact(table).values).all()


@pytest.mark.parametrize("stop", [1, 3, 4, 9])
def test_going_on_from_a_cache_gives_what_an_unbroken_run_gives(stop):
    n, table = 6, random_table(6, games=3)
    unbroken = list(sharpen(looked_up(table), n, pairs=3, batch=8))
    cache, asked = {}, []
    first = list(
        itertools.islice(sharpen(looked_up(table), n, pairs=3, batch=8, cache=cache), stop)
    )
    measured = len(cache)
    assert measured == first[-1].evaluations == unbroken[stop - 1].evaluations
    second = list(sharpen(looked_up(table, asked), n, pairs=3, batch=8, cache=cache))
    assert sum(map(len, asked)) == 2**n - measured
    for a, b in zip(second, unbroken, strict=False):
        if a.samples and not a.exact and not b.exact:
            assert (a.values == b.values).all()
            assert (a.errors == b.errors).all()
            assert (a.by_size == b.by_size).all()
    assert (second[-1].values == unbroken[-1].values).all()
    assert second[-1].exact
    asked.clear()
    (again,) = sharpen(looked_up(table, asked), n, pairs=3, cache=cache)  # nothing is left to do
    assert asked == []
    assert (again.values == unbroken[-1].values).all()


def test_an_interrupted_game_loses_only_what_was_being_measured():
    n, table, cache = 5, random_table(5), {}
    game, calls = looked_up(table), itertools.count()

    def fails_once(x):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return game(x)

    with pytest.raises(KeyboardInterrupt):
        list(sharpen(fails_once, n, pairs=2, batch=4, cache=cache))
    assert 0 < len(cache) < 2**n
    *_, last = sharpen(fails_once, n, pairs=2, batch=4, cache=cache)
    assert (last.values == exact(game, n).values).all()


def test_intervals_of_samples_cover_as_often_as_they_say():
    """On a random game of many images, in which orders differ much."""
    table = (np.random.default_rng(1).random((256, 20)) < 0.5).astype(float)
    truth = Exact(table).values.mean(1)
    inside = []
    for seed in range(120):
        last = next(itertools.islice(sharpen(looked_up(table), 8, seed=seed), 23, None))
        assert last.samples == 24
        inside += (np.abs(last.values.mean(1) - truth) <= 1.96 * last.errors).tolist()
    assert 0.90 <= np.mean(inside) <= 0.985


def test_many_players_are_sampled_until_the_time_is_up():
    weights = np.random.default_rng(0).normal(size=25)
    steps = list(sharpen(lambda x: x @ weights, 25, pairs=1, seconds=0.05))
    assert len(steps) > 1
    assert not steps[-1].exact
    np.testing.assert_allclose(steps[-1].values, weights, atol=1e-12)
    assert len(list(sharpen(lambda x: x @ weights, 25, seconds=0))) == 1
    (only,) = sharpen(glove, 3, seconds=0)  # one step at least
    assert not only.exact
    cache = {}
    list(sharpen(glove, 3, pairs=1, cache=cache))
    assert [s.exact for s in sharpen(glove, 3, seconds=0, cache=cache)] == [True]


def test_games_are_enumerated_up_to_the_most_players(monkeypatch):
    from copra_lab.shapley import incremental

    monkeypatch.setattr(incremental, "MOST_PLAYERS", 6)
    steps = [list(sharpen(looked_up(random_table(n)), n, pairs=1, batch=64)) for n in (5, 6)]
    assert [s[1].exact for s in steps] == [True, True]
    many = list(itertools.islice(sharpen(looked_up(random_table(7)), 7, pairs=1, batch=64), 4))
    assert [s.samples for s in many] == [1, 2, 3, 4]


def test_enumerating_stops_at_the_end_of_the_time(monkeypatch):
    from copra_lab.shapley import incremental

    now = itertools.count()
    monkeypatch.setattr(incremental.time, "monotonic", lambda: float(next(now)))
    steps = list(sharpen(looked_up(random_table(6)), 6, pairs=1, batch=1, seconds=5))
    assert len(steps) == 5
    assert not steps[-1].exact


def test_wrong_settings_and_games_are_named():
    for bad in ({"pairs": 0}, {"batch": 0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            next(sharpen(glove, 3, **bad))
    with pytest.raises(ValueError, match="must be 1 or more"):
        next(sharpen(glove, 0))
    with pytest.raises(ValueError, match="one value a coalition"):
        next(sharpen(lambda x: np.zeros(len(x) + 1), 3))
    with pytest.raises(ValueError, match="not a finite"):
        next(sharpen(lambda x: np.full(len(x), np.inf), 3))


def test_a_cached_game_asks_in_order_once_and_in_batches():
    asked, table = [], random_table(4)
    game = CachedGame(looked_up(table, asked), 4, batch=3)
    rows = all_coalitions(4)[[9, 2, 9, 15, 0, 2, 4]]
    assert game(rows).tolist() == table[[9, 2, 9, 15, 0, 2, 4]].tolist()
    assert [
        [all_coalitions(4)[i].tobytes() for i in call] for call in ([0, 2, 4], [9, 15])
    ] == asked
    assert game(rows[0]).tolist() == [table[9]]
    assert len(asked) == 2
    with pytest.raises(ValueError, match="of 4 players, got 3"):
        game(rows[:, :3])
