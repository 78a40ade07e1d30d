"""Shapley values: what each player of a game is worth, exactly or from samples with standard errors.

A *game* is any function from coalitions, a boolean array (m, n) with a row each, to their values, a float array (m,).
`exact` asks for all 2ⁿ coalitions; the samplers ask for as many as they are given and never stop to improve: each is a
generator of `Estimate`s. Everything here is NumPy; `copra_lab.shapley.games` makes a game of an adapter's layers.

Shapley 1953: ``φᵢ = Σ_S |S|!·(n−|S|−1)!/n! · (v(S ∪ i) − v(S))`` over the S without i.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

__all__ = [
    "SAMPLERS",
    "Curve",
    "Estimate",
    "Exact",
    "Game",
    "all_coalitions",
    "estimate",
    "exact",
    "owen",
    "permutations",
    "solve",
    "stratified",
]

Game = Callable[[np.ndarray], np.ndarray]
"""Coalitions, bool (m, n), → what each is worth, float (m,)."""


def all_coalitions(n: int) -> np.ndarray:
    """All 2ⁿ coalitions of `n` players, (2ⁿ, n): row r holds the binary digits of r, player 0 the most significant, so that
    neighbours in the list agree on the first players."""
    return (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1 == 1


@dataclass(frozen=True, eq=False)
class Exact:
    """A game solved: the values of all coalitions in the order of `all_coalitions`, (2ⁿ,); or those of many games at once, of each
    image by itself, say: (2ⁿ, games)."""

    worth: np.ndarray

    @property
    def n(self) -> int:
        """How many players."""
        return len(self.worth).bit_length() - 1

    @property
    def values(self) -> np.ndarray:
        """Shapley values (n,), or (n, games); they sum to v(N) − v(∅)."""
        n = self.n
        cube = self.worth.reshape((2,) * n + self.worth.shape[1:])
        weights = np.array(
            [math.factorial(s) * math.factorial(n - s - 1) / math.factorial(n) for s in range(n)]
        )
        sizes = all_coalitions(n - 1).sum(1) if n > 1 else np.zeros(1, int)
        gains = (
            (cube.take(1, i) - cube.take(0, i)).reshape(2 ** (n - 1), *self.worth.shape[1:])
            for i in range(n)
        )
        return np.array([weights[sizes] @ gain for gain in gains])

    @property
    def interactions(self) -> np.ndarray:
        """Shapley interaction indices of pairs (n, n), symmetric, zero on the diagonal (Grabisch & Roubens 1999):
        ``Σ_S |S|!·(n−|S|−2)!/(n−1)! · (v(S ∪ ij) − v(S ∪ i) − v(S ∪ j) + v(S))``."""
        n, out = self.n, np.zeros((self.n, self.n))
        if n < 2:
            return out
        cube = self.worth.reshape((2,) * n)
        weights = np.array(
            [
                math.factorial(s) * math.factorial(n - s - 2) / math.factorial(n - 1)
                for s in range(n - 1)
            ]
        )
        sizes = all_coalitions(n - 2).sum(1) if n > 2 else np.zeros(1, int)
        for i, j in itertools.combinations(range(n), 2):
            with_j, without_j = cube.take(1, j), cube.take(0, j)  # i < j keeps its place
            both = (
                with_j.take(1, i) - with_j.take(0, i) - without_j.take(1, i) + without_j.take(0, i)
            )
            out[i, j] = out[j, i] = weights[sizes] @ both.ravel()
        return out

    @property
    def curve(self) -> "Curve":
        """g(p), of one game."""
        sizes = all_coalitions(self.n).sum(1)
        return Curve(np.array([self.worth[sizes == k].mean() for k in range(self.n + 1)]))


@dataclass(frozen=True, eq=False)
class Curve:
    """The multilinear extension on the diagonal, g(p) = E[v(R)] where R holds each player with probability p (Owen 1972):
    a Bernstein polynomial whose coefficients are ``by_size``, the mean value of the coalitions of each size 0…n."""

    by_size: np.ndarray

    def __call__(self, p: "float | np.ndarray") -> np.ndarray:
        """g(p) for p in 0…1, of any shape."""
        return _bernstein(self.by_size, p)

    def slope(self, p: "float | np.ndarray") -> np.ndarray:
        """g'(p), the sum over players of what each adds to R; it integrates to Σφ = v(N) − v(∅)."""
        return (len(self.by_size) - 1) * _bernstein(np.diff(self.by_size), p)

    @property
    def area(self) -> float:
        """∫₀¹ g(p) dp, which a training with p rising from 0 to 1 raises: the mean of ``by_size``."""
        return float(self.by_size.mean())


def _bernstein(coefficients: np.ndarray, p: "float | np.ndarray") -> np.ndarray:
    p, n = np.asarray(p, float)[..., None], len(coefficients) - 1
    k = np.arange(n + 1)
    choose = np.array([math.comb(n, i) for i in k], float)
    return (choose * p**k * (1 - p) ** (n - k)) @ coefficients


def exact(game: Game, n: int) -> Exact:
    """Ask `game` for all 2ⁿ coalitions. Raises ValueError for more than 20 players, or values that are not finite."""
    if not 1 <= n <= 20:
        raise ValueError(f"exact values need 1 to 20 players, got {n}: sample them instead")
    return Exact(_ask(game, all_coalitions(n)))


def _ask(game: Game, coalitions: np.ndarray) -> np.ndarray:
    worth = np.asarray(game(coalitions), float)
    if worth.shape != (len(coalitions),):
        raise ValueError(
            f"a game must give one value a coalition: expected shape ({len(coalitions)},), got {worth.shape}"
        )
    if not np.isfinite(worth).all():
        raise ValueError("the game gave a value that is not a finite number")
    return worth


# --- sampling ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Estimate:
    """Shapley values (n,) with their standard errors (n,; infinite after a single sample, 0 where the values are exact), from so many
    evaluations of the game, counted as it was asked."""

    values: np.ndarray
    errors: np.ndarray
    evaluations: int


class _Mean:
    """A running mean of vectors and its standard error (Welford)."""

    def __init__(self, n: int):
        self.count, self.mean, self._squares = 0, np.zeros(n), np.zeros(n)

    def add(self, x: np.ndarray) -> None:
        self.count += 1
        off = x - self.mean
        self.mean = self.mean + off / self.count
        self._squares += off * (x - self.mean)

    @property
    def variance(self) -> np.ndarray:
        """Of the mean."""
        if self.count < 2:
            return np.full_like(self.mean, np.inf)
        return self._squares / (self.count - 1) / self.count


def permutations(
    game: Game, n: int, rng: np.random.Generator, antithetic: bool = True
) -> Iterator[Estimate]:
    """Each player's marginal value on joining in a random order (Castro et al. 2009), every order followed by its reverse if
    `antithetic` (Mitchell et al. 2022). One sample costs n − 1 evaluations, twice that in pairs; ∅ and N are asked once."""
    empty, full = _ask(game, np.array([[False] * n, [True] * n]))
    used, mean = 2, _Mean(n)
    while True:
        order = rng.permutation(n)
        orders = [order, order[::-1]] if antithetic else [order]
        joined = (
            np.concatenate([np.argsort(o)[None, :] < np.arange(1, n)[:, None] for o in orders])
            if n > 1
            else np.zeros((0, 1), bool)
        )
        worth = (
            _ask(game, joined).reshape(len(orders), n - 1) if n > 1 else np.zeros((len(orders), 0))
        )
        used += joined.shape[0]
        sample = np.zeros(n)
        for o, w in zip(orders, worth, strict=True):
            sample[o] += np.diff(np.concatenate([[empty], w, [full]])) / len(orders)
        mean.add(sample)
        yield Estimate(mean.mean.copy(), np.sqrt(mean.variance), used)


def owen(
    game: Game, n: int, rng: np.random.Generator, antithetic: bool = True
) -> Iterator[Estimate]:
    """∫₀¹ E[v(R ∪ i) − v(R ∖ i)] dp with p drawn uniformly (Owen 1972; a fixed grid of p would be biased), followed by
    1 − p and the complement of R if `antithetic`. One sample costs n + 1 evaluations, twice that in pairs."""
    used, mean = 0, _Mean(n)
    while True:
        r = rng.random(n) < rng.random()
        sets = [r, ~r] if antithetic else [r]
        asked = np.concatenate(
            [np.concatenate([s[None], s[None] ^ np.eye(n, dtype=bool)]) for s in sets]
        )
        worth = _ask(game, asked).reshape(len(sets), n + 1)
        used += len(asked)
        # Where i is in R, v(R) − v(R \ i); where not, v(R ∪ i) − v(R).
        mean.add(
            np.mean(
                [np.where(s, w[0] - w[1:], w[1:] - w[0]) for s, w in zip(sets, worth, strict=True)],
                axis=0,
            )
        )
        yield Estimate(mean.mean.copy(), np.sqrt(mean.variance), used)


def stratified(game: Game, n: int, rng: np.random.Generator) -> Iterator[Estimate]:
    """For each player and each size 0…n−1 one coalition of the others (Maleki et al. 2013): φᵢ is the mean over sizes of the
    mean marginal, and sizes never compete for samples. One sample costs 2n² − 2n evaluations; ∅, N and the strata that
    hold a single coalition are asked once."""
    used, strata = 0, [_Mean(n) for _ in range(n)]
    while True:
        asked, where = [], []
        for size, i in itertools.product(range(n), range(n)):
            if strata[size].count and size in (0, n - 1):  # one coalition: nothing left to sample
                continue
            others = np.delete(np.arange(n), i)
            without = np.zeros(n, bool)
            without[rng.choice(others, size, replace=False)] = True
            asked += [without, without | (np.arange(n) == i)]
            where.append((size, i))
        worth = _ask(game, np.array(asked).reshape(-1, n)).reshape(-1, 2)
        used += len(asked)
        samples = np.zeros((n, n))
        for (size, i), (low, high) in zip(where, worth, strict=True):
            samples[size, i] = high - low
        for size in dict.fromkeys(s for s, _ in where):
            strata[size].add(samples[size])
        variance = np.stack(
            [np.zeros(n) if size in (0, n - 1) else strata[size].variance for size in range(n)]
        )
        yield Estimate(
            np.mean([s.mean for s in strata], axis=0), np.sqrt(variance.sum(0)) / n, used
        )


SAMPLERS: dict[str, Callable[[Game, int, np.random.Generator], Iterator[Estimate]]] = {
    "permutations": permutations,
    "owen": owen,
    "stratified": stratified,
}
"""Ways to sample, by the name that `estimate` takes."""


def estimate(
    game: Game,
    n: int,
    method: str = "permutations",
    *,
    budget: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> Estimate:
    """The last estimate within `budget` evaluations or `seconds`, whichever ends first; always one sample at least.

    Raises ValueError for an unknown method, or without either limit.
    """
    if method not in SAMPLERS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(SAMPLERS)}")
    if budget is None and seconds is None:
        raise ValueError("give a budget of evaluations, or seconds: sampling never ends by itself")
    start, found, cost = time.monotonic(), None, 0
    for now in SAMPLERS[method](game, n, np.random.default_rng(seed)):
        if found and budget is not None and now.evaluations > budget:
            break
        cost = now.evaluations - (found.evaluations if found else 0)
        found = now
        if (budget is not None and now.evaluations + cost > budget) or (
            seconds is not None and time.monotonic() - start >= seconds
        ):
            break
    assert found is not None
    return found


def solve(game: Game, n: int, method: str = "auto", budget: int = 2000, seed: int = 0) -> Estimate:
    """Shapley values by ``method``: "exact", one of `SAMPLERS` within `budget` evaluations, or "auto", which is exact up to 12 players, of whose
    4,096 coalitions all can be asked, and permutations beyond.

    Raises ValueError for an unknown method, and where `exact` does.
    """
    if way(n, method) == "exact":
        return Estimate(exact(game, n).values, np.zeros(n), 2**n)
    return estimate(game, n, way(n, method), budget=budget, seed=seed)


def way(n: int, method: str) -> str:
    """What `solve` does with so many players."""
    return method if method != "auto" else "exact" if n <= 12 else "permutations"
