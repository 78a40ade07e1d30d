"""A visitor's walk from place to place: what was measured where, and where the visitor stands."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from torch import Tensor

from copra_lab.page.server.limits import ALL_MEASUREMENTS, MEASUREMENTS, OWN
from copra_lab.page.state.lab import Lab, Own
from copra_lab.page.state.view_states import Base, Place
from copra_lab.utils.statistics import Accuracy


@dataclass(frozen=True)
class Asked:
    """What a request asked for. ``of``: the values of the controls by their ids; ``at``: the request's number, None if it has none;
    ``part``: the part of the page that asked, whose older answers are out of date once it asks for all anew (see `asks`)."""

    of: Mapping[str, Any] = field(default_factory=dict)
    at: object = None
    part: str = ""


@dataclass(frozen=True, eq=False)
class Point:
    """A measured place: the classes predicted for the first images of the bench's order, (k,), and how many are right."""

    predictions: Tensor
    accuracy: Accuracy


@dataclass(frozen=True)
class Walk:
    """``place`` is where the visitor stands, ``since`` the place of the same subject that it is compared with: the last one
    that was measured on all images before the slider left it. ``turns`` counts how often the visitor went on or cleared
    what was there: work in the background that was begun before is then over, and what was drawn before is old. ``own`` is what the visitor trained, the last first. ``asked``: what the controls said on coming to ``place``."""

    place: Place | None = None
    since: Place | None = None
    points: Mapping[Place, Point] = field(default_factory=dict)
    own: tuple[Own, ...] = ()
    turns: int = field(default=0, compare=False)
    asked: Asked = field(default=Asked(), compare=False)

    @property
    def position(self) -> float:
        return self.place.position if self.place else 0.0

    @property
    def here(self) -> Point | None:
        """The place itself, if it was measured."""
        return self.points.get(self.place) if self.place else None

    @property
    def base(self) -> Point | None:
        """The task without an adapter, if that was measured."""
        return self.points.get(Base(self.place.task)) if self.place else None

    @property
    def total(self) -> int:
        """How many images the task has; 0 as long as the base was not measured."""
        return self.base.accuracy.n if self.base else 0

    def whole(self, place: Place) -> bool:
        """Whether `place` was measured on all images."""
        return place in self.points and self.points[place].accuracy.n == self.total

    def curve(self) -> dict[float, Point]:
        """What was measured on the line where the visitor stands, by position."""
        line = self.place.line if self.place else None
        return dict(
            sorted((p.position, point) for p, point in self.points.items() if p.line == line)
        )

    def step(self, place: Place, asked: Asked | None = None) -> "Walk":
        """The visitor goes to `place`, having `asked` for it."""
        here, since = self.place, self.since
        if here is None or here.subject != place.subject:
            since = place
        elif here != place and self.whole(here):
            since = here
        return replace(
            self, place=place, since=since, turns=self.turns + 1, asked=asked or self.asked
        )

    def lab(self, lab: Lab) -> Lab:
        """What this visitor can choose from: `lab` with the adapters of one's own."""
        return replace(lab, own=self.own) if self.own else lab

    def keep(self, *trained: Own) -> "Walk":
        """With these adapters of one's own too. Beyond `OWN` the oldest go, but none of the place where the visitor stands."""
        here = repr(self.place)  # which names every key, however deep
        going = sorted(self.own, key=lambda o: o.key in here, reverse=True)[OWN - len(trained) :]
        return replace(self, own=(*trained, *(o for o in self.own if o not in going)))

    def nowhere(self) -> "Walk":
        """The visitor asked for what is not there."""
        return replace(self, place=None, since=None, turns=self.turns + 1)

    def add(self, place: Place, point: Point) -> "Walk":
        """With one more point; a first estimate does not replace a result on all images."""
        known = self.points.get(place)
        if known and known.accuracy.n >= point.accuracy.n:
            return self
        points = {**self.points, place: point}
        if (over := len(points) - MEASUREMENTS) > 0:
            for old in [p for p in points if not self._needs(p) and p != place][:over]:
                del points[old]
        if (
            over := len(points) - ALL_MEASUREMENTS
        ) > 0:  # of the present line alone: a triangle has thousands
            held = (place, self.place, *(self.place.references if self.place else ()))
            for old in [p for p in points if p not in held][:over]:
                del points[old]
        return replace(self, points=points)

    def _needs(self, place: Place) -> bool:
        return self.place is not None and (
            place.line == self.place.line or place in self.place.references
        )

    def cleared(self) -> "Walk":
        """Of the present subject, only the place itself and what it is held against are left."""
        here = self.place
        if here is None:
            return self
        kept = (here, *here.references)
        points = {
            p: point for p, point in self.points.items() if p.subject != here.subject or p in kept
        }
        return replace(self, points=points, since=here, turns=self.turns + 1)


@dataclass(frozen=True)
class Change:
    """Image number `image` of the bench's order was taken for class `before`, now for class `after`."""

    image: int
    before: int
    after: int


def changes(before: Point | None, after: Point | None) -> list[Change]:
    """In the bench's order, among the images measured at both. Nothing if one of the two was not measured."""
    if before is None or after is None:
        return []
    n = min(len(before.predictions), len(after.predictions))
    moved = (before.predictions[:n] != after.predictions[:n]).nonzero().flatten().tolist()
    return [Change(i, int(before.predictions[i]), int(after.predictions[i])) for i in moved]


class Requests:
    """The numbers of the requests that a visitor made: the browser numbers them as they leave, since two that are sent at once may be
    handled in any order."""

    def __init__(self) -> None:
        self.newest, self._lock = -math.inf, threading.Lock()

    def __deepcopy__(self, memo: object) -> "Requests":
        return Requests()  # Gradio copies a state's first value for each visitor

    def take(self, number: object) -> bool:
        """Whether the request of this number is the newest so far. Requests without a number count as newest."""
        with self._lock:
            if self.overtaken(number):
                return False
            self.newest = float(number) if _counts(number) else self.newest
            return True

    def overtaken(self, number: object) -> bool:
        """Whether a newer one than the request of this number was taken; never of one without a number."""
        return _counts(number) and number < self.newest


def _counts(number: object) -> TypeGuard[float]:
    return isinstance(number, int | float) and math.isfinite(number)


class Session:
    """What one visitor has walked, through all views. Values inside are never changed, only replaced: of two handlers
    that run for the same visitor at once, each sees a whole `Walk`."""

    def __init__(self) -> None:
        # Turns are counted on from the clock: a visitor's page may outlive the server, and with it the session.
        self.walk, self.requests = Walk(turns=time.time_ns() // 1_000_000), Requests()
        self._lock = threading.Condition()

    def __deepcopy__(self, memo: object) -> "Session":
        return Session()  # Gradio copies a state's first value for each visitor

    def change(self, how: Callable[[Walk], Walk]) -> Walk:
        with self._lock:
            self.walk = how(self.walk)
            self._lock.notify_all()
            return self.walk

    def visit(self, place: Place, asked: Asked | None = None) -> Walk:
        return self.change(lambda walk: walk.step(place, asked))

    def add(self, place: Place, point: Point, turns: int | None = None) -> None:
        """`turns`: only if the walk is still at these."""
        self.change(lambda walk: walk.add(place, point) if turns in (None, walk.turns) else walk)

    def stands(self, place: Place | None) -> bool:
        return self.walk.place == place

    def rests(self, seconds: float) -> bool:
        """Wait so long, and tell whether the visitor stayed."""
        place = self.walk.place
        with self._lock:
            return not self._lock.wait_for(lambda: not self.stands(place), seconds)
