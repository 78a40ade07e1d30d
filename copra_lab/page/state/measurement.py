"""Measuring where a visitor stands: a first number at once, all images when the slider rests, the rest of the curve meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from copra_lab.bench.bench import Bench
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.session import Asked, Point, Session, Walk
from copra_lab.page.state.view_states import Place

FIRST, FEWEST = 100, 40
"""Images between two looks at whether the visitor has gone on, and for the first number; on a slow machine fewer for this."""

QUICK = 0.06
"""Seconds that the model may take for the first number. The way there and back takes two or three times as long."""

PAUSE = 0.06
"""Seconds that a slider or switch must rest before all images are run: one that is still moving soon asks for another position."""


PATIENCE = 0.2
"""Seconds that a hundred images wait at most for the first numbers of others."""


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


traffic, firsts = Traffic(), Traffic()
"""Those who wait for any number, and those of them who wait for a first one: all images of another visitor give way to these."""


@cache
def first_images(bench: Bench) -> int:
    """How many images the first number rests on: as many as run in `QUICK` seconds here, from `FEWEST` to `FIRST`."""

    def seconds() -> float:
        start = time.perf_counter()
        bench.logits(stop=FIRST)
        return time.perf_counter() - start

    return max(FEWEST, min(FIRST, int(FIRST * QUICK / min(seconds() for _ in range(3)))))


def _point(bench: Bench, predictions: Tensor) -> Point:
    return Point(predictions.to(torch.int16), bench.score(predictions))


def first_numbers(
    lab: Lab, session: Session, place: Place, asked: Asked | None = None
) -> Iterator[Walk]:
    """Go to `place`, which was `asked` for, and measure it on the first images; what it is held against comes before it, on all.

    Yields the walk whenever there is something new to see. Stops early if the visitor has gone elsewhere.
    """
    walk = session.visit(place, asked)
    missing = [r for r in place.references if r not in walk.points]
    if missing:
        yield walk
    bench, model = lab.bench(place.task), place.model(lab)
    for reference in missing:
        wanted = session.walk.place
        if wanted and reference in wanted.references:
            with traffic:
                session.add(reference, _point(bench, reference.model(lab).predictions(bench)))
        if session.stands(place):
            yield session.walk
    if place not in session.walk.points and session.stands(place):
        with traffic, firsts:
            session.add(place, _point(bench, model.predictions(bench, 0, first_images(bench))))
    if session.stands(place):
        yield session.walk


def remaining(lab: Lab, session: Session) -> Walk | None:
    """Measure the place where the visitor stands on the remaining images. None if the visitor left meanwhile."""
    walk = session.walk
    place = walk.place
    if place is None or place not in walk.points or not (walk.whole(place) or session.rests(PAUSE)):
        return None

    def stays() -> bool:
        firsts.give_way(PATIENCE)
        return session.stands(place)

    with traffic:
        bench = lab.bench(place.task)
        return session.walk if _measured(lab, session, place, len(bench), stays) else None


Ahead = Callable[[Walk], Sequence[Sequence[Place]]]
"""What is worth measuring while the visitor rests, beyond what the slider passed by: several rounds of places."""


def filled_in(lab: Lab, session: Session, ahead: Ahead = lambda walk: ()) -> Iterator[Walk]:
    """While the visitor rests, measure what the slider passed by on the remaining images, what is near first, and then
    what lies `ahead`: each round of places on the first images, and then on all."""
    walk = session.walk
    stood = walk.place
    if stood is None or not walk.total:
        return
    passed = [p for p in reversed(list(walk.points)) if p.line == stood.line and not walk.whole(p)]
    rounds = [sorted(passed, key=lambda p: abs(p.position - stood.position)), *ahead(walk)]
    if all(walk.whole(p) for places in rounds for p in places) or not session.rests(4 * PAUSE):
        return
    bench = lab.bench(stood.task)

    def stays() -> bool:
        traffic.give_way()
        return session.walk.turns == walk.turns

    for places in rounds:
        for images in (first_images(bench), walk.total):
            for place in places:
                if _known(session.walk, place) >= images:
                    continue
                if not _measured(lab, session, place, images, stays, walk.turns):
                    return
                yield session.walk


def _known(walk: Walk, place: Place) -> int:
    return len(walk.points[place].predictions) if place in walk.points else 0


def _measured(
    lab: Lab,
    session: Session,
    place: Place,
    images: int,
    stays: Callable[[], bool],
    turns: int | None = None,
) -> bool:
    """Whether `place` could be measured on its first `images` as long as the visitor `stays`."""
    known = session.walk.points.get(place)
    done = len(known.predictions) if known else 0
    if done < images:
        bench, model = lab.bench(place.task), place.model(lab)
        parts = [known.predictions] if known else []
        for start in range(done, images, FIRST):
            if not stays():
                return False
            parts.append(model.predictions(bench, start, min(start + FIRST, images)))
        session.add(place, _point(bench, torch.cat(parts)), turns)
    return stays()
