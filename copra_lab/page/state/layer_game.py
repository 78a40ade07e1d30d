"""A layer game that is solved while somebody watches: sampled at first, then coalition by coalition until it is exact."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from copra_lab.adapters.adapter import Adapter
from copra_lab.bench.bench import Bench
from copra_lab.page.server.limits import GAMES, WATCHED_SECONDS
from copra_lab.page.state.lab import OWN, Lab, trained
from copra_lab.page.state.measurement import traffic
from copra_lab.shapley.games import LayerGame, players_of
from copra_lab.shapley.values import Curve, Exact, all_coalitions
from copra_lab.utils.statistics import Z95

IMAGES = 100
"""On how many test images a game is played: all 4,096 coalitions of a hundred take half a minute."""

ORDERS = 24
"""How many orders, each with its reverse, are sampled before all coalitions are asked for."""

BATCH = 128
"""Coalitions between two looks at whether somebody still watches."""

REDRAWN = 0.4
"""Seconds between two drawings."""


@dataclass(frozen=True, eq=False)
class Values:
    """What is known so far of a game of n layers on some images. ``of_images`` (n, images): the Shapley value of each layer for each
    image by itself, whose mean is the layer's value. ``errors`` (n,): standard errors, 0 when exact. ``by_size`` (n + 1,): the mean value
    of coalitions of each size. ``asked`` of ``every`` coalitions were measured."""

    layers: tuple[int, ...]
    of_images: np.ndarray
    errors: np.ndarray
    by_size: np.ndarray
    asked: int
    every: int
    exact: bool = False

    @property
    def values(self) -> np.ndarray:
        """(n,), in shares of 1; they sum to v(N) − v(∅)."""
        return self.of_images.mean(1)

    @property
    def halves(self) -> np.ndarray:
        """Half the width of each value's 95 % interval, (n,)."""
        return Z95 * self.errors

    @property
    def empty(self) -> float:
        """v(∅), the accuracy with no layer on."""
        return float(self.by_size[0])

    @property
    def full(self) -> float:
        return float(self.by_size[-1])

    @property
    def curve(self) -> Curve:
        return Curve(self.by_size)


class Solving:
    """One game, shared by all who watch it: each `advance` does a little more of it, whoever calls.

    The players are the layers of the image tower that the adapter has; v is the share of `bench`'s images that are right.
    Raises ValueError for an adapter without any.
    """

    def __init__(self, bench: Bench, adapter: Adapter):
        held = players_of(adapter)
        if not held:
            raise ValueError(
                "this adapter has nothing in the image tower, whose layers are the players here; choose another one"
            )
        self.bench, self.layers = bench, tuple(map(int, held))
        self._game, self._rng, self._lock = (
            LayerGame(bench, adapter, held),
            np.random.default_rng(0),
            threading.Lock(),
        )
        n = len(held)
        self._known: dict[int, np.ndarray] = {}
        self._bits = 1 << np.arange(n - 1, -1, -1)
        self._orders = 0
        self._sum, self._squares = np.zeros((n, len(bench))), np.zeros(n)
        self._sizes, self._counts = np.zeros(n + 1), np.zeros(n + 1)
        self.state: Values | None = None

    @property
    def done(self) -> bool:
        return self.state is not None and self.state.exact

    @property
    def sampled(self) -> bool:
        """Whether all that is to be sampled was."""
        return self.done or self._orders == ORDERS

    def advance(self) -> Values:
        """Do a little more, and give what is known then."""
        with self._lock:
            if not self.done:
                self.state = (
                    self._complete()
                    if self._orders == ORDERS or len(self._known) == 2 ** len(self.layers)
                    else self._sample()
                )
            assert self.state is not None
            return self.state

    def _ask(self, coalitions: np.ndarray) -> np.ndarray:
        """Whether each image is right with each coalition (m, n) on, (m, images)."""
        keys = (coalitions @ self._bits).tolist()
        if missing := sorted({k for k in keys if k not in self._known}):
            rows = np.array(missing)[:, None] & self._bits > 0
            found = self._game.outcomes(rows).astype(bool)
            self._known.update(zip(missing, found, strict=True))
        return np.array([self._known[k] for k in keys], dtype=float)

    def _sample(self) -> Values:
        """Two orders more, one the reverse of the other (see `copra_lab.shapley.values.permutations`)."""
        n = len(self.layers)
        order = self._rng.permutation(n)
        joined = np.concatenate(
            [np.argsort(o)[None, :] < np.arange(n + 1)[:, None] for o in (order, order[::-1])]
        )
        right = self._ask(joined).reshape(2, n + 1, -1)
        own = np.zeros_like(self._sum)
        for o, r in zip((order, order[::-1]), right, strict=True):
            own[o] += np.diff(r, axis=0) / 2
        self._orders += 1
        self._sum += own
        self._squares += own.mean(1) ** 2
        self._sizes += right.mean((0, 2)) * 2
        self._counts += 2
        m, mean = self._orders, self._sum / self._orders
        spread = (self._squares - m * mean.mean(1) ** 2).clip(0) / max(1, m - 1)
        errors = np.sqrt(spread / m) if m > 1 else np.full(n, np.inf)
        return Values(self.layers, mean, errors, self._sizes / self._counts, len(self._known), 2**n)

    def _complete(self) -> Values:
        """The next coalitions in an order in which neighbours share most layers; the values of the samples stand until all are known."""
        assert self.state is not None
        n = len(self.layers)
        missing = [k for k in range(2**n) if k not in self._known][:BATCH]
        if missing:
            self._ask(np.array(missing)[:, None] & self._bits > 0)
        if len(self._known) < 2**n:
            return replace(self.state, asked=len(self._known))
        worth = np.array([self._known[k] for k in range(2**n)], dtype=float)
        self._known = dict.fromkeys(
            self._known, _NOTHING
        )  # all that was to be learned from them is in the values
        sizes = all_coalitions(n).sum(1)
        by_size = np.array([worth[sizes == k].mean() for k in range(n + 1)])
        return Values(
            self.layers, Exact(worth).values, np.zeros(n), by_size, 2**n, 2**n, exact=True
        )


_NOTHING = np.zeros(0)


class _Once:
    """A game that is made when it is first asked for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.game: Solving | None = None


_asking = threading.Lock()


_games: "OrderedDict[tuple[Lab, str, str], _Once]" = OrderedDict()


def _once(lab: Lab, task: str, key: str) -> _Once:
    """The game of this adapter, one of the last `GAMES` that were asked for. Those of adapters that no visitor keeps any more go."""
    for old in [k for k in _games if k[2].startswith(OWN) and trained(k[2]) is None]:
        del _games[old]
    once = _games.setdefault((lab, task, key), _Once())
    _games.move_to_end((lab, task, key))
    if len(_games) > GAMES:
        _games.popitem(last=False)
    return once


def solving(lab: Lab, task: str, key: str) -> Solving:
    """The game of an adapter on the shelf or of a visitor's own: made once, however many ask for it at the same time, and nobody waits for
    another one's, which takes a minute for a task that is new. Raises AdapterError for an adapter that does not fit."""
    with _asking:
        once = _once(lab.shared, task, key)
    with once.lock:
        once.game = once.game or Solving(lab.few(task, IMAGES), lab.adapter(task, key))
        return once.game


PATIENCE = 10.0
"""Seconds that a game waits for those who want a number, at most: a step of it keeps the processor for longer than a number does."""

_turn = threading.Lock()


def onward(game: Solving) -> Values:
    """A little more of this game once nobody waits for a number, one game at a time: however many are watched, together they take no more
    of the processor than one."""
    with _turn:
        traffic.give_way(PATIENCE)
        return game.advance()


def sharpened(game: Solving, wanted: Callable[[], bool]) -> Iterator[Values]:
    """What is known of the game, as long as it is `wanted`, at most every `REDRAWN` seconds; the last is exact, if it did not take longer
    than `WATCHED_SECONDS`."""
    shown, last, until = 0.0, None, time.monotonic() + WATCHED_SECONDS
    while wanted() and not game.done and time.monotonic() < until:
        values = onward(game)
        if not wanted():  # who gave way and asked was away for seconds
            return
        if time.monotonic() - shown >= REDRAWN or game.done:
            shown, last = time.monotonic(), values
            yield values
    if (
        wanted() and game.state is not None and game.state is not last
    ):  # another who watches came to the end
        yield game.state
