"""Measuring where a visitor stands.

A first number at once, all images when the slider rests, and the rest of the curve meanwhile.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from copra_lab.bench.bench import Bench
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.measured import Measured
from copra_lab.page.state.session import Asked, History, Point, Session

FIRST, FEWEST = 100, 40
"""Images between two looks at whether the visitor has gone on, and for the first number; on a slow
machine fewer for this."""

QUICK = 0.06
"""Seconds that the model may take for the first number. The way there and back takes two or three
times as long."""

PAUSE = 0.06
"""Seconds that a slider or switch must rest before all images are run: one that is still moving
soon asks for another position."""


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
"""Those who wait for any number, and those of them who wait for a first one: all images of another
visitor give way to these."""


@cache
def first_images(bench: Bench) -> int:
    """How many images the first number rests on.

    As many as run in `QUICK` seconds here, from `FEWEST` to `FIRST`.
    """

    def seconds() -> float:
        start = time.perf_counter()
        bench.logits(stop=FIRST)
        return time.perf_counter() - start

    return max(FEWEST, min(FIRST, int(FIRST * QUICK / min(seconds() for _ in range(3)))))


def _point(bench: Bench, predictions: Tensor) -> Point:
    return Point(predictions.to(torch.int16), bench.score(predictions))


def first_numbers(
    lab: Lab, session: Session, state: Measured, asked: Asked | None = None
) -> Iterator[History]:
    """Go to `state` and measure it on the first images.

    What it is compared with comes before it, on all images.

    Yields the history whenever there is something new to see. Stops early if the visitor has gone
    elsewhere.
    """
    history = session.visit(state, asked)
    missing = [r for r in state.references if r not in history.points]
    if missing:
        yield history
    bench, model = lab.bench(state.task), state.model(lab)
    for reference in missing:
        wanted = session.history.state
        if wanted and reference in wanted.references:
            with traffic:
                session.add(reference, _point(bench, reference.model(lab).predictions(bench)))
        if session.stands(state):
            yield session.history
    if state not in session.history.points and session.stands(state):
        with traffic, firsts:
            session.add(state, _point(bench, model.predictions(bench, 0, first_images(bench))))
    if session.stands(state):
        yield session.history


def remaining(lab: Lab, session: Session) -> History | None:
    """Measure the place where the visitor stands on the remaining images.

    None if the visitor left meanwhile.
    """
    history = session.history
    state = history.state
    if (
        state is None
        or state not in history.points
        or not (history.whole(state) or session.rests(PAUSE))
    ):
        return None

    def stays() -> bool:
        firsts.give_way(PATIENCE)
        return session.stands(state)

    with traffic:
        bench = lab.bench(state.task)
        return session.history if _measured(lab, session, state, len(bench), stays) else None


Ahead = Callable[[History], Sequence[Sequence[Measured]]]
"""What is worth measuring while the visitor rests, beyond what the slider passed by: several rounds
of places."""


def filled_in(lab: Lab, session: Session, ahead: Ahead = lambda history: ()) -> Iterator[History]:
    """While the visitor rests, measure the rest of the curve.

    First what the slider passed by, on the remaining images, what is near first; then what lies
    `ahead`: each round of states on the first images, and then on all.
    """
    history = session.history
    stood = history.state
    if stood is None or not history.total:
        return
    passed = [
        p for p in reversed(list(history.points)) if p.line == stood.line and not history.whole(p)
    ]
    rounds = [sorted(passed, key=lambda p: abs(p.position - stood.position)), *ahead(history)]
    if all(history.whole(p) for states in rounds for p in states) or not session.rests(4 * PAUSE):
        return
    bench = lab.bench(stood.task)

    def stays() -> bool:
        traffic.give_way()
        return session.history.version == history.version

    for states in rounds:
        for images in (first_images(bench), history.total):
            for state in states:
                if _known(session.history, state) >= images:
                    continue
                if not _measured(lab, session, state, images, stays, history.version):
                    return
                yield session.history


def _known(history: History, state: Measured) -> int:
    return len(history.points[state].predictions) if state in history.points else 0


def _measured(
    lab: Lab,
    session: Session,
    state: Measured,
    images: int,
    stays: Callable[[], bool],
    version: int | None = None,
) -> bool:
    """Whether `place` could be measured on its first `images` as long as the visitor `stays`."""
    known = session.history.points.get(state)
    done = len(known.predictions) if known else 0
    if done < images:
        bench, model = lab.bench(state.task), state.model(lab)
        parts = [known.predictions] if known else []
        for start in range(done, images, FIRST):
            if not stays():
                return False
            parts.append(model.predictions(bench, start, min(start + FIRST, images)))
        session.add(state, _point(bench, torch.cat(parts)), version)
    return stays()
