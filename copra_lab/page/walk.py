"""A visitor's walk along the line between two adapters: what was measured where, and what the last move changed."""

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from copra_lab.stats import Accuracy

LOW, HIGH, STEP = -0.5, 1.5, 0.02
KEPT = 4
"""Walks that a visitor finds again on coming back to a pair."""


class Pair(NamedTuple):
    """Between which adapters, by their keys, and in which task."""

    task: str
    a: str
    b: str


@dataclass(frozen=True, eq=False)
class Point:
    """A measured position: the classes predicted for the first images of the bench's order, (k,), and how many are right."""

    predictions: Tensor
    accuracy: Accuracy


@dataclass(frozen=True)
class Walk:
    """``points`` by λ, all of `pair`. ``at`` is where the thumb is, ``since`` the position it is compared with: the
    last one that was measured on all `total` images before the thumb left it."""

    pair: Pair | None = None
    total: int = 0
    base: Point | None = None
    points: Mapping[float, Point] = field(default_factory=dict)
    at: float = 0.0
    since: float = 0.0

    def whole(self, weight: float) -> bool:
        """Whether `weight` was measured on all images."""
        return weight in self.points and self.points[weight].accuracy.n == self.total

    def step(self, at: float) -> "Walk":
        """The thumb moved to `at`."""
        return replace(self, at=at, since=self.at if at != self.at and self.whole(self.at) else self.since)

    def add(self, weight: float, point: Point) -> "Walk":
        """With one more point; a first estimate does not replace a result on all images."""
        known = self.points.get(weight)
        return self if known and known.accuracy.n >= point.accuracy.n else replace(self, points={**self.points, weight: point})

    def cleared(self) -> "Walk":
        """Only the ends and the position itself are left."""
        kept = (0.0, 1.0, self.at)
        return replace(self, points={w: p for w, p in self.points.items() if w in kept}, since=self.at)

    def swapped(self) -> "Walk":
        """The same walk seen from the other end: λ becomes 1 − λ."""
        assert self.pair is not None
        pair = Pair(self.pair.task, self.pair.b, self.pair.a)
        points = {mirror(w): p for w, p in self.points.items()}
        return replace(self, pair=pair, points=points, at=mirror(self.at), since=mirror(self.since))

    @property
    def changes(self) -> "list[Change]":
        """The images whose prediction differs between `since` and `at`, among those measured at both."""
        return changes(self.points.get(self.since), self.points.get(self.at))


@dataclass(frozen=True)
class Change:
    """Image number `image` of the bench's order was taken for class `before`, now for class `after`."""

    image: int
    before: int
    after: int


def changes(before: Point | None, after: Point | None) -> list[Change]:
    """In the bench's order. Nothing if one of the two was not measured."""
    if before is None or after is None:
        return []
    n = min(len(before.predictions), len(after.predictions))
    moved = (before.predictions[:n] != after.predictions[:n]).nonzero().flatten().tolist()
    return [Change(i, int(before.predictions[i]), int(after.predictions[i])) for i in moved]


def position(value: object) -> float:
    """What came from the slider or its number field → a λ on the slider's grid, within its ends.

    Raises ValueError for what is no number.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"λ must be a number from {LOW} to {HIGH}")
    return round(round(min(max(number, LOW), HIGH) / STEP) * STEP, 2) + 0.0  # + 0.0: there is no −0


def mirror(weight: float) -> float:
    return round(LOW + HIGH - weight, 2) + 0.0


class Session:
    """What one visitor has walked. Values inside are never changed, only replaced: of two handlers that run for the
    same visitor at once, each sees a whole `Walk`."""

    def __init__(self) -> None:
        self.walk, self.turn = Walk(), -math.inf
        self._earlier: dict[Pair, Walk] = {}
        self._lock = threading.Condition()

    def __deepcopy__(self, memo: object) -> "Session":
        return Session()  # Gradio copies a state's first value for each visitor

    def take(self, turn: object) -> bool:
        """Whether the request numbered `turn` is the newest so far: the browser numbers them, since two that are sent
        at once may be handled in any order. Requests without a number count as newest."""
        number = float(turn) if isinstance(turn, int | float) and math.isfinite(turn) else self.turn
        with self._lock:
            newest = number >= self.turn
            self.turn = max(self.turn, number)
        return newest

    def visit(self, pair: Pair, at: float) -> Walk:
        """Go to `at` on the line of `pair`; a walk on that line from before goes on."""
        with self._lock:
            if self.walk.pair != pair:
                self._keep(self.walk)
                self.walk = self._earlier.get(pair) or Walk(pair, at=at, since=at)
            self.walk = self.walk.step(at)
            self._lock.notify_all()
            return self.walk

    def _keep(self, walk: Walk) -> None:
        if walk.pair:
            self._earlier = dict([*((p, w) for p, w in self._earlier.items() if p != walk.pair), (walk.pair, walk)][-KEPT:])

    def put(self, walk: Walk) -> None:
        """`walk` is what this visitor finds on coming to its pair."""
        with self._lock:
            self._keep(walk)

    def add(self, pair: Pair, weight: float, point: Point) -> None:
        with self._lock:
            if self.walk.pair == pair:
                self.walk = self.walk.add(weight, point)

    def found(self, pair: Pair, total: int, base: Point) -> None:
        with self._lock:
            if self.walk.pair == pair:
                self.walk = replace(self.walk, total=total, base=base)

    def clear(self) -> Walk:
        with self._lock:
            self.walk = self.walk.cleared()
            return self.walk

    def stands(self, pair: Pair | None, at: float) -> bool:
        return self.walk.pair == pair and self.walk.at == at

    def rests(self, seconds: float) -> bool:
        """Wait so long, and tell whether the visitor stayed."""
        walk = self.walk
        with self._lock:
            return not self._lock.wait_for(lambda: not self.stands(walk.pair, walk.at), seconds)
