"""Shapley values from samples, with standard errors.

Each sampler is a generator that yields an `Estimate` after every sample and never ends by itself.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from copra_lab.shapley.coalitions import Game, ask

__all__ = ["SAMPLERS", "Estimate", "owen", "permutations", "stratified"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """Shapley values as far as they are known.

    Attributes:
        values: Shapley values, (n,).
        errors: their standard errors, (n,); infinite after a single sample, 0 if exact.
        evaluations: coalitions that the game was asked for; one asked for twice counts twice.
    """

    values: np.ndarray
    errors: np.ndarray
    evaluations: int


class RunningMean:
    """The mean of vectors (n,) that come one by one, and its standard error (Welford 1962)."""

    def __init__(self, n: int) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(n), np.zeros(n)

    def add(self, x: np.ndarray) -> None:
        """Count in one vector (n,)."""
        self.count += 1
        deviation = x - self.mean
        self.mean = self.mean + deviation / self.count
        self._squares += deviation * (x - self.mean)

    @property
    def variance(self) -> np.ndarray:
        """The variance of the mean, (n,): s² / count, infinite before the second vector."""
        if self.count < 2:
            return np.full_like(self.mean, np.inf)
        return self._squares / (self.count - 1) / self.count

    @property
    def error(self) -> np.ndarray:
        """The standard error of the mean, (n,)."""
        return np.sqrt(self.variance)


def random_orders(
    game: Game,
    n: int,
    rng: np.random.Generator,
    antithetic: bool = True,
    vector: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Let the players join in random orders, and measure the coalition after each of them.

    Args:
        game: asked once for ∅ and N, and n − 1 times for each order.
        n: number of players.
        rng: source of the orders.
        antithetic: follow every order by its reverse.
        vector: whether `game` gives a row of values for each coalition, (m, games).

    Yields:
        Orders (k, n), k = 2 if antithetic, else 1; and the worth of the first 0…n players of each,
        (k, n + 1) or (k, n + 1, games).
    """
    empty, full = ask(game, np.array([[False] * n, [True] * n]), vector)
    sizes = np.arange(1, n)[:, None]
    while True:
        order = rng.permutation(n)
        orders = np.array([order, order[::-1]] if antithetic else [order])
        joined = np.concatenate([np.argsort(o)[None, :] < sizes for o in orders])
        between = ask(game, joined, vector) if n > 1 else np.zeros((0, *np.shape(empty)))
        paths = between.reshape(len(orders), n - 1, *np.shape(empty))
        yield orders, np.array([np.concatenate([[empty], path, [full]]) for path in paths])


def marginals(orders: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """What each player adds on joining, v(before ∪ i) − v(before), averaged over a few orders.

    Args:
        orders: (k, n).
        paths: the worth of the first 0…n players of each order, (k, n + 1) or (k, n + 1, games).

    Returns:
        (n,) or (n, games), in the order of the players.
    """
    gains = np.zeros((orders.shape[1], *paths.shape[2:]))
    for order, path in zip(orders, paths, strict=True):
        gains[order] += np.diff(path, axis=0) / len(orders)
    return gains


def permutations(
    game: Game, n: int, rng: np.random.Generator, antithetic: bool = True
) -> Iterator[Estimate]:
    """Sample what each player adds on joining in a random order (Castro et al. 2009).

    One sample is one order, or an order and its reverse (Mitchell et al. 2022, arXiv:2104.12199).
    It costs n − 1 evaluations, twice that in pairs; ∅ and N are asked for once.

    Args:
        game: the game.
        n: number of players.
        rng: source of the orders.
        antithetic: follow every order by its reverse.

    Yields:
        The estimate after each sample.
    """
    mean, evaluations = RunningMean(n), 2
    for orders, paths in random_orders(game, n, rng, antithetic):
        evaluations += len(orders) * (n - 1)
        mean.add(marginals(orders, paths))
        yield Estimate(mean.mean.copy(), mean.error, evaluations)


def owen(
    game: Game, n: int, rng: np.random.Generator, antithetic: bool = True
) -> Iterator[Estimate]:
    """Sample the integral φᵢ = ∫₀¹ E[v(R ∪ i) − v(R ∖ i)] dp (Owen 1972).

    R holds each player with probability p, and p is uniform: a fixed grid of p would be biased.
    One sample costs n + 1 evaluations, twice that in pairs.

    Args:
        game: the game.
        n: number of players.
        rng: source of p and R.
        antithetic: follow every p and R by 1 − p and the complement of R.

    Yields:
        The estimate after each sample.
    """
    mean, evaluations = RunningMean(n), 0
    while True:
        r = rng.random(n) < rng.random()
        sets = [r, ~r] if antithetic else [r]
        # Each set, and after it the same with one player switched: (sets · (n + 1), n).
        switched = np.concatenate([np.zeros((1, n), bool), np.eye(n, dtype=bool)])
        asked = np.concatenate([s ^ switched for s in sets])
        worth = ask(game, asked).reshape(len(sets), n + 1)
        evaluations += len(asked)
        # Where i is in R, v(R) − v(R ∖ i); where not, v(R ∪ i) − v(R).
        gains = [np.where(s, w[0] - w[1:], w[1:] - w[0]) for s, w in zip(sets, worth, strict=True)]
        mean.add(np.mean(gains, axis=0))
        yield Estimate(mean.mean.copy(), mean.error, evaluations)


def stratified(game: Game, n: int, rng: np.random.Generator) -> Iterator[Estimate]:
    """Sample one coalition of each size for each player (Maleki et al. 2013).

    φᵢ is the mean over the sizes 0…n−1 of the mean marginal, so sizes never compete for samples.
    One sample costs 2n² − 2n evaluations; the sizes 0 and n − 1, which hold one coalition each, are
    asked for once.

    Args:
        game: the game.
        n: number of players.
        rng: source of the coalitions.

    Yields:
        The estimate after each sample.
    """
    evaluations, strata = 0, [RunningMean(n) for _ in range(n)]
    sizes = list(range(n))
    while True:
        asked = []
        for size, i in itertools.product(sizes, range(n)):
            without = np.zeros(n, bool)
            without[rng.choice(np.delete(np.arange(n), i), size, replace=False)] = True
            asked += [without, without | (np.arange(n) == i)]
        if asked:
            worth = ask(game, np.array(asked)).reshape(len(sizes), n, 2)
            for size, (low, high) in zip(sizes, np.moveaxis(worth, -1, 1), strict=True):
                strata[size].add(high - low)
        evaluations += len(asked)
        sizes = list(range(1, n - 1))  # the others are known by now
        variance = sum(strata[size].variance for size in sizes) + np.zeros(n)
        values = np.mean([s.mean for s in strata], axis=0)
        yield Estimate(values, np.sqrt(variance) / n, evaluations)


SAMPLERS: dict[str, Callable[[Game, int, np.random.Generator], Iterator[Estimate]]] = {
    "permutations": permutations,
    "owen": owen,
    "stratified": stratified,
}
"""The samplers, by the name that `estimate` takes."""
