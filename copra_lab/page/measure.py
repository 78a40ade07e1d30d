"""Measuring where a visitor stands: a first number at once, all images when the thumb rests, the rest of the curve meanwhile."""

import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from copra_lab.bench import NONE, Bench
from copra_lab.merge import interpolate
from copra_lab.page.lab import Lab
from copra_lab.page.walk import Pair, Point, Session, Walk

FIRST = 100
"""Images for the first number, and between two looks at whether the visitor has gone on."""

PAUSE = 0.06
"""Seconds that a thumb must rest before all images are run: one that is still moving soon asks for another position."""


class Traffic:
    """How many visitors wait for a number, so that filling in curves gives way to them."""

    def __init__(self) -> None:
        self._waiting, self._changed = 0, threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._waiting += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._waiting -= 1
            self._changed.notify_all()

    def give_way(self, seconds: float = 5) -> None:
        """Return when nobody waits, after `seconds` at the latest."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds)


traffic = Traffic()


def _point(bench: Bench, predictions: Tensor) -> Point:
    return Point(predictions.to(torch.int16), bench.score(predictions))


def first_numbers(lab: Lab, session: Session, pair: Pair, at: float) -> Iterator[Walk]:
    """Go to `at` and measure it on the first images; on a line that is new, first the base and both ends on all.

    Yields the walk whenever there is something new to see. Stops early if the visitor has gone elsewhere.
    """
    walk = session.visit(pair, at)
    if walk.base is None:
        yield walk
    bench = lab.bench(pair.task)
    a, b = (lab.adapter(pair.task, key) for key in (pair.a, pair.b))
    if walk.base is None:
        with traffic:
            session.found(pair, len(bench), _point(bench, bench.predictions(NONE)))
        yield session.walk
    for weight, adapter in ((0.0, a), (1.0, b)):
        if weight not in session.walk.points and session.walk.pair == pair:
            with traffic:
                session.add(pair, weight, _point(bench, bench.predictions(adapter)))
            yield session.walk
    if at not in session.walk.points and session.stands(pair, at):
        with traffic:
            session.add(pair, at, _point(bench, bench.logits(interpolate(a, b, at), 0, FIRST).argmax(-1)))
    if session.stands(pair, at):
        yield session.walk


def remaining(lab: Lab, session: Session) -> Walk | None:
    """Measure the place where the visitor stands on the remaining images. None if the visitor left meanwhile."""
    walk = session.walk
    if walk.pair is None or walk.at not in walk.points or not (walk.whole(walk.at) or session.rests(PAUSE)):
        return None
    with traffic:
        return _complete(lab, session, walk, walk.at)


def filled_in(lab: Lab, session: Session) -> Iterator[Walk]:
    """While the visitor rests, measure what was passed by on the remaining images, what is near first."""
    walk = session.walk
    if all(map(walk.whole, walk.points)) or not session.rests(4 * PAUSE):
        return
    for weight in sorted(walk.points, key=lambda w: abs(w - walk.at)):
        if not walk.whole(weight):
            done = _complete(lab, session, walk, weight, before=traffic.give_way)
            if done is None:
                return
            yield done


def _complete(lab: Lab, session: Session, walk: Walk, weight: float, before: Callable[[], None] = lambda: None) -> Walk | None:
    """Measure `weight` on the images that it was not measured on, as long as the visitor stands where `walk` says."""
    assert walk.pair is not None
    pair, points = walk.pair, walk.points[weight].predictions
    if not walk.whole(weight):
        bench = lab.bench(pair.task)
        adapter = interpolate(lab.adapter(pair.task, pair.a), lab.adapter(pair.task, pair.b), weight)
        parts = [points]
        for start in range(len(points), len(bench), FIRST):
            before()
            if not session.stands(pair, walk.at):
                return None
            parts.append(bench.logits(adapter, start, start + FIRST).argmax(-1))
        session.add(pair, weight, _point(bench, torch.cat(parts)))
    return session.walk if session.stands(pair, walk.at) else None
