"""The layer games of the page: solved while somebody watches, and shared by all who do.

`copra_lab.shapley.incremental` does the solving. Here are the limits: how many games are kept, on
how many images they are played, and when they give way to visitors who wait for a number.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from copra_lab.adapters.adapter import Adapter
from copra_lab.bench.bench import Bench
from copra_lab.page.server.limits import GAMES, WATCHED_SECONDS
from copra_lab.page.state.lab import OWN, Lab, trained
from copra_lab.page.state.measurement import traffic
from copra_lab.shapley.games import LayerGame, players_of
from copra_lab.shapley.incremental import Progress, sharpen
from copra_lab.shapley.values import Curve
from copra_lab.utils.statistics import Z95

IMAGES = 100
"""Test images that a game is played on: all 4,096 coalitions of a hundred take half a minute."""

ORDERS = 24
"""Orders that are sampled, each with its reverse, before all coalitions are enumerated."""

BATCH = 128
"""Coalitions between two looks at whether somebody still watches."""

REDRAWN = 0.4
"""Seconds between two drawings."""


@dataclass(frozen=True, eq=False)
class Values:
    """What is known so far of a game of n layers on some images.

    Attributes:
        layers: the numbers of the layers, (n,).
        of_images: the Shapley value of each layer for each image by itself, (n, images); their mean
            is the layer's value.
        errors: standard errors of the values, (n,), 0 when exact.
        by_size: the mean accuracy of the coalitions of each size, (n + 1,).
        asked: coalitions measured so far.
        every: how many there are, 2ⁿ.
        exact: whether all were measured.
    """

    layers: tuple[int, ...]
    of_images: np.ndarray
    errors: np.ndarray
    by_size: np.ndarray
    asked: int
    every: int
    exact: bool = False

    @property
    def values(self) -> np.ndarray:
        """Shapley values as shares of 1, (n,); they sum to v(N) − v(∅)."""
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
        """v(N), the accuracy with all layers on."""
        return float(self.by_size[-1])

    @property
    def curve(self) -> Curve:
        """Accuracy when each layer is on with probability p."""
        return Curve(self.by_size)


class Solving:
    """One game, shared by all who watch it: whoever calls `advance` solves a little more of it.

    The players are the layers of the image tower that the adapter has; v(S) is the share of
    `bench`'s images that are classified correctly with only the layers in S on.

    Raises:
        ValueError: for an adapter without layers in the image tower.
    """

    def __init__(self, bench: Bench, adapter: Adapter) -> None:
        players = players_of(adapter)
        if not players:
            raise ValueError(
                "this adapter has nothing in the image tower, whose layers are the players here; "
                "choose another one"
            )
        self.bench, self.layers = bench, tuple(map(int, players))
        self._game, self._lock = LayerGame(bench, adapter, players), threading.Lock()
        self._measured: dict[bytes, np.ndarray] = {}
        self._steps: Iterator[Progress] | None = None
        self._samples = 0
        self.state: Values | None = None

    @property
    def done(self) -> bool:
        """Whether the values are exact."""
        return self.state is not None and self.state.exact

    @property
    def sampled(self) -> bool:
        """Whether all orders were sampled."""
        return self.done or self._samples == ORDERS

    def advance(self) -> Values:
        """Solve a little more, and return what is known then."""
        with self._lock:
            if not self.done:
                self.state = self._next()
            assert self.state is not None
            return self.state

    def _next(self) -> Values:
        n = len(self.layers)
        if self._steps is None:
            self._steps = sharpen(self._correct, n, cache=self._measured, pairs=ORDERS, batch=BATCH)
        try:
            now = next(self._steps)
        except BaseException:
            self._steps = None  # the next call goes on from what was measured
            raise
        self._samples = now.samples
        if now.exact:
            self._steps = None
            self._measured.clear()  # the values hold all that was to be learned from it
        return Values(
            self.layers, now.values, now.errors, now.by_size, now.evaluations, 2**n, now.exact
        )

    def _correct(self, coalitions: np.ndarray) -> np.ndarray:
        """Whether each image is classified correctly with each coalition (m, n), (m, images)."""
        return self._game.outcomes(coalitions).astype(bool)  # an eighth of the memory


class _Once:
    """A game that is made when it is first asked for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.game: Solving | None = None


_asking = threading.Lock()

_games: "OrderedDict[tuple[Lab, str, str], _Once]" = OrderedDict()


def _once(lab: Lab, task: str, key: str) -> _Once:
    """The game of this adapter; the last `GAMES` that were asked for are kept.

    Those of trained adapters that no visitor has any more are dropped.
    """
    for old in [k for k in _games if k[2].startswith(OWN) and trained(k[2]) is None]:
        del _games[old]
    once = _games.setdefault((lab, task, key), _Once())
    _games.move_to_end((lab, task, key))
    if len(_games) > GAMES:
        _games.popitem(last=False)
    return once


def solving(lab: Lab, task: str, key: str) -> Solving:
    """The game of an adapter that ships or that a visitor trained.

    It is made once, however many ask for it at the same time, and nobody waits for the game of
    another adapter, which takes a minute for a task that is new.

    Raises:
        AdapterError: for an adapter that does not fit.
    """
    with _asking:
        once = _once(lab.shared, task, key)
    with once.lock:
        once.game = once.game or Solving(lab.few(task, IMAGES), lab.adapter(task, key))
        return once.game


PATIENCE = 10.0
"""Seconds that a game gives way to visitors who wait for a number, at most.

A step of it keeps the processor busy for longer than a number does.
"""

_turn = threading.Lock()


def onward(game: Solving) -> Values:
    """Solve a little more of this game once nobody waits for a number.

    One game advances at a time: however many are watched, together they take no more of the
    processor than one.
    """
    with _turn:
        traffic.give_way(PATIENCE)
        return game.advance()


def sharpened(game: Solving, wanted: Callable[[], bool]) -> Iterator[Values]:
    """Solve the game as long as that is `wanted`, and yield what is known every `REDRAWN` seconds.

    The last is exact, unless it takes longer than `WATCHED_SECONDS`.
    """
    shown, last, until = 0.0, None, time.monotonic() + WATCHED_SECONDS
    while wanted() and not game.done and time.monotonic() < until:
        values = onward(game)
        if not wanted():  # giving way may have taken seconds
            return
        if time.monotonic() - shown >= REDRAWN or game.done:
            shown, last = time.monotonic(), values
            yield values
    if (
        wanted() and game.state is not None and game.state is not last
    ):  # another visitor who watches brought it to its end
        yield game.state
