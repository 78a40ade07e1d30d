"""Shapley values of a game: exact, or sampled within a budget.

A *game* is any function from coalitions, a boolean array (m, n) with a row each, to the worth v(S)
of each, a float array (m,). `copra_lab.shapley.games` makes a game of an adapter's layers.

Shapley 1953: ``φᵢ = Σ_S |S|!·(n−|S|−1)!/n! · (v(S ∪ i) − v(S))`` over the coalitions S without i.
"""

import itertools
import math
import time
from dataclasses import dataclass

import numpy as np

from copra_lab.shapley.coalitions import Game, all_coalitions, ask
from copra_lab.shapley.sampling import SAMPLERS, Estimate

__all__ = ["Curve", "Exact", "estimate", "exact", "solve"]

MOST_PLAYERS = 20
"""The most players that are solved exactly: 2²⁰ is a million coalitions."""


@dataclass(frozen=True, eq=False)
class Exact:
    """A game solved: the worth of every coalition, and what follows from it.

    Attributes:
        worth: v(S) of all coalitions in the order of `all_coalitions`, (2ⁿ,); or of many games on
            the same players at once, one an image, say: (2ⁿ, games).
    """

    worth: np.ndarray

    @property
    def n(self) -> int:
        """Number of players."""
        return len(self.worth).bit_length() - 1

    @property
    def values(self) -> np.ndarray:
        """Shapley values, (n,) or (n, games); they sum to v(N) − v(∅)."""
        n = self.n
        cube = self.worth.reshape((2,) * n + self.worth.shape[1:])
        weights = _weights(n - 1)
        gains = (cube.take(1, i) - cube.take(0, i) for i in range(n))
        shape = (2 ** (n - 1), *self.worth.shape[1:])
        return np.array([weights @ gain.reshape(shape) for gain in gains])

    @property
    def interactions(self) -> np.ndarray:
        """Shapley interaction indices of pairs of one game, (n, n).

        Grabisch & Roubens 1999: ``Iᵢⱼ = Σ_S |S|!·(n−|S|−2)!/(n−1)! · (v(S ∪ ij) − v(S ∪ i) −
        v(S ∪ j) + v(S))`` over the coalitions S without i and j. Symmetric, zero on the diagonal.
        """
        n, out = self.n, np.zeros((self.n, self.n))
        if n < 2:
            return out
        cube = self.worth.reshape((2,) * n)
        weights = _weights(n - 2)
        for i, j in itertools.combinations(range(n), 2):
            with_j, without_j = cube.take(1, j), cube.take(0, j)  # i < j, so i keeps its axis
            both = with_j.take(1, i) - with_j.take(0, i)
            both = both - without_j.take(1, i) + without_j.take(0, i)
            out[i, j] = out[j, i] = weights @ both.ravel()
        return out

    @property
    def curve(self) -> "Curve":
        """g(p), of one game, or of the mean of many."""
        sizes = all_coalitions(self.n).sum(1)
        return Curve(np.array([self.worth[sizes == k].mean() for k in range(self.n + 1)]))


def _weights(others: int) -> np.ndarray:
    """|S|!·(m−|S|)!/(m+1)! of all coalitions S of m = `others` players, (2ᵐ,)."""
    f, m = math.factorial, others
    by_size = np.array([f(s) * f(m - s) / f(m + 1) for s in range(m + 1)])
    return by_size[all_coalitions(m).sum(1)]


@dataclass(frozen=True, eq=False)
class Curve:
    """The multilinear extension on the diagonal, g(p) = E[v(R)] (Owen 1972).

    R holds each player with probability p. g is a Bernstein polynomial: Σₖ C(n, k) pᵏ (1−p)ⁿ⁻ᵏ cₖ.

    Attributes:
        by_size: its coefficients cₖ, the mean worth of the coalitions of each size 0…n, (n + 1,).
    """

    by_size: np.ndarray

    def __call__(self, p: "float | np.ndarray") -> np.ndarray:
        """g(p) for p in 0…1, of any shape."""
        return _bernstein(self.by_size, p)

    def slope(self, p: "float | np.ndarray") -> np.ndarray:
        """g'(p), the sum over players of what each adds to R; it integrates to v(N) − v(∅)."""
        return (len(self.by_size) - 1) * _bernstein(np.diff(self.by_size), p)

    @property
    def area(self) -> float:
        """∫₀¹ g(p) dp, which a training with p rising from 0 to 1 raises: the mean of `by_size`."""
        return float(self.by_size.mean())


def _bernstein(coefficients: np.ndarray, p: "float | np.ndarray") -> np.ndarray:
    """The Bernstein polynomial with these coefficients (m,) at each p."""
    p, n = np.asarray(p, float)[..., None], len(coefficients) - 1
    k = np.arange(n + 1)
    choose = np.array([math.comb(n, i) for i in k], float)
    return (choose * p**k * (1 - p) ** (n - k)) @ coefficients


def exact(game: Game, n: int) -> Exact:
    """Solve a game of `n` players by asking for all 2ⁿ coalitions.

    Raises:
        ValueError: for more than 20 players, or values that are not finite.
    """
    if not 1 <= n <= MOST_PLAYERS:
        raise ValueError(f"exact values need 1 to {MOST_PLAYERS} players, got {n}: sample them")
    return Exact(ask(game, all_coalitions(n)))


def estimate(
    game: Game,
    n: int,
    method: str = "permutations",
    *,
    budget: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> Estimate:
    """Sample until the budget of evaluations or the time is spent, whichever comes first.

    Args:
        game: the game.
        n: number of players.
        method: one of `SAMPLERS`.
        budget: evaluations of the game, at most; always one sample at least.
        seconds: time after which no further sample is begun.
        seed: of the samples.

    Returns:
        The last estimate within these limits.

    Raises:
        ValueError: for an unknown method, or if neither limit is given.
    """
    if method not in SAMPLERS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(SAMPLERS)}")
    if budget is None and seconds is None:
        raise ValueError("give a budget of evaluations, or seconds: sampling never ends by itself")
    start, last = time.monotonic(), None
    for now in SAMPLERS[method](game, n, np.random.default_rng(seed)):
        cost = now.evaluations - (last.evaluations if last else 0)
        last = now
        if (
            cost == 0  # one or two players: nothing is left to sample
            # No sample costs more than the one before it, so the next one would fit.
            or (budget is not None and now.evaluations + cost > budget)
            or (seconds is not None and time.monotonic() - start >= seconds)
        ):
            break
    assert last is not None
    return last


def solve(game: Game, n: int, method: str = "auto", budget: int = 2000, seed: int = 0) -> Estimate:
    """Shapley values, exact or sampled.

    Args:
        game: the game.
        n: number of players.
        method: "exact", one of `SAMPLERS`, or "auto": exact up to 12 players, who form 4,096
            coalitions, and permutations beyond.
        budget: evaluations of the game, at most, if it is sampled.
        seed: of the samples.

    Raises:
        ValueError: for an unknown method, and where `exact` does.
    """
    method = method_for(n, method)
    if method == "exact":
        return Estimate(exact(game, n).values, np.zeros(n), 2**n)
    return estimate(game, n, method, budget=budget, seed=seed)


def method_for(n: int, method: str) -> str:
    """The method that `solve` uses for `n` players."""
    return method if method != "auto" else "exact" if n <= 12 else "permutations"
