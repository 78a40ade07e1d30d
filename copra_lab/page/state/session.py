"""A visitor's history: what was measured where, and where the visitor stands."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from torch import Tensor

from copra_lab.page.server.limits import ALL_MEASUREMENTS, MEASUREMENTS, OWN
from copra_lab.page.state.lab import Lab, Own
from copra_lab.page.state.schemas.measured import Base, Measured
from copra_lab.utils.statistics import Accuracy


@dataclass(frozen=True)
class Asked:
    """What a request asked for.

    ``of``: the values of the controls by their ids; ``at``: the request's number, None if it has
    none; ``part``: the part of the page that asked, whose older answers are out of date once it
    asks for all anew (see `asks`).
    """

    of: Mapping[str, Any] = field(default_factory=dict)
    at: object = None
    part: str = ""


@dataclass(frozen=True, eq=False)
class Point:
    """What was measured of a state.

    The classes predicted for the first images of the bench's order, (k,), and how many are right.
    """

    predictions: Tensor
    accuracy: Accuracy


@dataclass(frozen=True)
class History:
    """Where a visitor was and is, and what was measured there.

    ``state`` is where the visitor stands, ``since`` the state of the same subject that it is
    compared with: the last one that was measured on all images before the slider left it.
    ``version`` counts how often the visitor went on or cleared what was there: work in the
    background that was begun before is then over, and what was drawn before is old. ``own`` is what
    the visitor trained, the last first. ``asked``: what the controls said on coming to ``state``.
    """

    state: Measured | None = None
    since: Measured | None = None
    points: Mapping[Measured, Point] = field(default_factory=dict)
    own: tuple[Own, ...] = ()
    version: int = field(default=0, compare=False)
    asked: Asked = field(default=Asked(), compare=False)

    @property
    def position(self) -> float:
        """Where the slider is."""
        return self.state.position if self.state else 0.0

    @property
    def here(self) -> Point | None:
        """The place itself, if it was measured."""
        return self.points.get(self.state) if self.state else None

    @property
    def base(self) -> Point | None:
        """The task without an adapter, if that was measured."""
        return self.points.get(Base(self.state.task)) if self.state else None

    @property
    def total(self) -> int:
        """How many images the task has; 0 as long as the base was not measured."""
        return self.base.accuracy.n if self.base else 0

    def whole(self, state: Measured) -> bool:
        """Whether `place` was measured on all images."""
        return state in self.points and self.points[state].accuracy.n == self.total

    def curve(self) -> dict[float, Point]:
        """What was measured on the line where the visitor stands, by position."""
        line = self.state.line if self.state else None
        found = {p.position: point for p, point in self.points.items() if p.line == line}
        return dict(sorted(found.items()))

    def step(self, state: Measured, asked: Asked | None = None) -> "History":
        """The visitor goes to `place`, having `asked` for it."""
        here, since = self.state, self.since
        if here is None or here.subject != state.subject:
            since = state
        elif here != state and self.whole(here):
            since = here
        return replace(
            self, state=state, since=since, version=self.version + 1, asked=asked or self.asked
        )

    def lab(self, lab: Lab) -> Lab:
        """What this visitor can choose from: `lab` with the adapters of one's own."""
        return replace(lab, own=self.own) if self.own else lab

    def keep(self, *trained: Own) -> "History":
        """With these adapters of one's own too.

        Beyond `OWN` the oldest go, but none of the place where the visitor stands.
        """
        here = repr(self.state)  # which names every key, however deep
        going = sorted(self.own, key=lambda o: o.key in here, reverse=True)[OWN - len(trained) :]
        return replace(self, own=(*trained, *(o for o in self.own if o not in going)))

    def nowhere(self) -> "History":
        """The visitor asked for what is not there."""
        return replace(self, state=None, since=None, version=self.version + 1)

    def add(self, state: Measured, point: Point) -> "History":
        """With one more point; a first estimate does not replace a result on all images."""
        known = self.points.get(state)
        if known and known.accuracy.n >= point.accuracy.n:
            return self
        here = self.state
        held = (state, here, *(here.references if here else ()))
        points = dict(self.points) | {state: point}
        _drop_oldest(points, MEASUREMENTS, lambda p: p in held or (here and p.line == here.line))
        # of the present line alone: a triangle has thousands
        _drop_oldest(points, ALL_MEASUREMENTS, lambda p: p in held)
        return replace(self, points=points)

    def cleared(self) -> "History":
        """Of the present subject, only the place itself and what it is held against are left."""
        here = self.state
        if here is None:
            return self
        kept = (here, *here.references)
        points = self.points.items()
        left = {p: point for p, point in points if p.subject != here.subject or p in kept}
        return replace(self, points=left, since=here, version=self.version + 1)


def _drop_oldest(
    points: dict[Measured, Point], most: int, keep: Callable[[Measured], object]
) -> None:
    """Delete what is beyond `most`, but nothing to `keep`."""
    over = max(0, len(points) - most)
    for old in [p for p in points if not keep(p)][:over]:
        del points[old]


@dataclass(frozen=True)
class Change:
    """Image number `image` was classified as `before`, and is now classified as `after`.

    Counted in the bench's order.
    """

    image: int
    before: int
    after: int


def changes(before: Point | None, after: Point | None) -> list[Change]:
    """In the bench's order, among the images measured at both.

    Nothing if one of the two was not measured.
    """
    if before is None or after is None:
        return []
    n = min(len(before.predictions), len(after.predictions))
    moved = (before.predictions[:n] != after.predictions[:n]).nonzero().flatten().tolist()
    return [Change(i, int(before.predictions[i]), int(after.predictions[i])) for i in moved]


class Requests:
    """The numbers of the requests that a visitor made.

    The browser numbers them as they leave, since two that are sent at once may be handled in any
    order, in two threads: hence the lock.
    """

    def __init__(self) -> None:
        self.newest, self._lock = -math.inf, threading.Lock()

    def __deepcopy__(self, memo: object) -> "Requests":
        return Requests()  # Gradio copies a state's first value for each visitor

    def take(self, number: object) -> bool:
        """Whether the request of this number is the newest so far.

        Requests without a number count as newest.
        """
        with self._lock:
            if self.overtaken(number):
                return False
            self.newest = float(number) if _counts(number) else self.newest
            return True

    def overtaken(self, number: object) -> bool:
        """Whether a newer request than the one of this number was taken.

        Never of one without a number.
        """
        return _counts(number) and number < self.newest


def _counts(number: object) -> TypeGuard[float]:
    return isinstance(number, int | float) and math.isfinite(number)


class Session:
    """What one visitor has walked, through all views.

    Values inside are never changed, only replaced: of two handlers that run for the same visitor at
    once, each sees a whole `History`.
    """

    def __init__(self) -> None:
        # Versions are counted on from the clock: a visitor's page may outlive the server, and with
        # it the session.
        self.history, self.requests = History(version=time.time_ns() // 1_000_000), Requests()
        self._lock = threading.Condition()

    def __deepcopy__(self, memo: object) -> "Session":
        return Session()  # Gradio copies a state's first value for each visitor

    def change(self, how: Callable[[History], History]) -> History:
        """Replace the history, and wake those who wait: handlers run in several threads."""
        with self._lock:
            self.history = how(self.history)
            self._lock.notify_all()
            return self.history

    def visit(self, state: Measured, asked: Asked | None = None) -> History:
        """Go to `state`, which was `asked` for."""
        return self.change(lambda history: history.step(state, asked))

    def add(self, state: Measured, point: Point, version: int | None = None) -> None:
        """Keep what was measured; with a `version` only if the history is still at it."""
        self.change(lambda h: h.add(state, point) if version in (None, h.version) else h)

    def stands(self, state: Measured | None) -> bool:
        """Whether the visitor is at `state`."""
        return self.history.state == state

    def rests(self, seconds: float) -> bool:
        """Wait so long, and tell whether the visitor stayed."""
        state = self.history.state
        with self._lock:
            return not self._lock.wait_for(lambda: not self.stands(state), seconds)
