"""Shapley values that sharpen while they are computed: sampled at first, exact in the end."""

import itertools
import math
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, replace

import numpy as np

from copra_lab.shapley.coalitions import CachedGame, Game, all_coalitions, ask
from copra_lab.shapley.sampling import RunningMean, marginals, random_orders
from copra_lab.shapley.values import MOST_PLAYERS, Exact

__all__ = ["Progress", "sharpen"]


@dataclass(frozen=True, eq=False)
class Progress:
    """What is known of a game so far.

    Attributes:
        values: Shapley values, (n,); of a game of vectors, those of each by itself, (n, games).
        errors: standard errors of the values, of their mean over games if there are several, (n,):
            infinite after a single sample, 0 when exact.
        by_size: the mean worth of the coalitions of each size, (n + 1,), as `Curve` takes it.
        samples: pairs of orders that the values rest on.
        evaluations: different coalitions that were measured.
        exact: whether these are all 2ⁿ.
    """

    values: np.ndarray
    errors: np.ndarray
    by_size: np.ndarray
    samples: int
    evaluations: int
    exact: bool = False


def sharpen(
    game: Game,
    n: int,
    *,
    cache: "MutableMapping[bytes, np.ndarray] | None" = None,
    pairs: int = 24,
    batch: int = 128,
    seconds: float | None = None,
    seed: int = 0,
) -> Iterator[Progress]:
    """Yield ever sharper Shapley values, until they are exact.

    First the players join in `pairs` random orders, each with its reverse (see `permutations`);
    then the remaining coalitions are measured in batches, while the values of the samples stand,
    and the last step is exact. Beyond 20 players it goes on sampling.

    Args:
        game: coalitions, bool (m, n) → their worth (m,), or (m, games) for many games at once.
        n: number of players.
        cache: where measured coalitions are kept. Whoever passes the same one again, with the same
            seed, goes on where the work was left: what is in it is not measured again.
        pairs: pairs of orders to sample before all coalitions are enumerated.
        batch: coalitions measured in one step.
        seconds: time after which no further step is begun.
        seed: of the orders.

    Yields:
        What is known after each step.

    Raises:
        ValueError: for settings below 1, or a game that gives values of the wrong shape or ones
            that are not finite.
    """
    if min(n, pairs, batch) < 1:
        raise ValueError(f"n, pairs and batch must be 1 or more, got {n}, {pairs} and {batch}")
    known = CachedGame(game, n, cache, batch)
    until = math.inf if seconds is None else time.monotonic() + seconds
    last = None
    for last in _sampled(known, pairs, np.random.default_rng(seed)):
        yield last
        if time.monotonic() >= until:
            return
    for now in _enumerated(known, last):
        yield now
        if time.monotonic() >= until:
            return


def _sampled(known: CachedGame, pairs: int, rng: np.random.Generator) -> Iterator[Progress]:
    """Sample pairs of orders, until there are enough or no coalition is left to measure."""
    n, mean, by_size = known.n, RunningMean(known.n), np.zeros(known.n + 1)
    total = np.zeros(())  # becomes (n,) or (n, games)
    samples = random_orders(known, n, rng, vector=True)
    for count in itertools.count(1):
        if len(known.cache) == 2**n or (n <= MOST_PLAYERS and count > pairs):
            return
        orders, paths = next(samples)
        gains = marginals(orders, paths)
        mean.add(gains.reshape(n, -1).mean(1))
        # Sums, not a running mean: gains of images are ±½, 0 and 1, whose sums are exact.
        total = total + gains
        by_size += paths.reshape(len(paths), n + 1, -1).mean((0, 2))
        yield Progress(total / count, mean.error, by_size / count, count, len(known.cache))


def _enumerated(known: CachedGame, last: Progress | None) -> Iterator[Progress]:
    """Measure what is missing, neighbours together; the values of the samples stand meanwhile."""
    n = known.n
    everything = all_coalitions(n)
    missing = [c for c in everything if c.tobytes() not in known.cache]
    for start in range(0, len(missing), known.batch):
        known(np.array(missing[start : start + known.batch]))
        if last is not None and len(known.cache) < 2**n:
            yield replace(last, evaluations=len(known.cache))
    solved = Exact(ask(known, everything, vector=True))
    samples = last.samples if last else 0
    yield Progress(solved.values, np.zeros(n), solved.curve.by_size, samples, 2**n, exact=True)
