"""Training while somebody watches: LoRA and CopRA side by side.

All of it runs in the thread that asks for the next report.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import torch

from copra_lab.adapters.adapter import NONE, Adapter
from copra_lab.bench.bench import Bench
from copra_lab.methods.lora import LoRA
from copra_lab.page.server.fair_queue import asking
from copra_lab.page.server.limits import TRAINING_SECONDS
from copra_lab.page.state.lab import Lab, Own
from copra_lab.page.state.measurement import FIRST, traffic
from copra_lab.page.state.schemas.train import DROPPING, TrainState
from copra_lab.page.state.session import Session
from copra_lab.page.views.train.waiting_line import Ticket, Waiting
from copra_lab.tasks.task import Task
from copra_lab.training.fitting import Job, Step, fit_many_steps
from copra_lab.training.running import Result
from copra_lab.training.settings import TrainingSettings
from copra_lab.utils.statistics import Accuracy

Steps = Generator[Step, None, list[Result]]

LOOKS = 10
"""How often the test images are asked on the way."""

REDRAWN = 0.4
"""Seconds between two reports."""

PATIENCE = 1.0
"""Seconds that a step waits for other visitors' numbers, at most."""


@dataclass(frozen=True)
class Course:
    """How one method fared so far, an entry a step.

    ``losses``, None where nothing was on, and which layers were ``on``; ``measured``: (step,
    accuracy on the test images). ``trouble``: why it ended early, if it did by itself.
    """

    method: str
    losses: tuple[float | None, ...] = ()
    on: tuple[tuple[bool, ...], ...] = ()
    measured: tuple[tuple[int, Accuracy], ...] = ()
    trouble: str = ""

    @property
    def steps(self) -> int:
        """How many are done."""
        return len(self.losses)

    def after(self, step: Step) -> "Course":
        """The same, one step later, or with why there is none."""
        if step.error:
            return replace(self, trouble=step.error)
        return replace(
            self, losses=(*self.losses, step.loss), on=(*self.on, tuple(step.units.values()))
        )


@dataclass(frozen=True)
class Progress:
    """What is known of a training.

    ``state``: "waking" of the model, "waiting", "training", "done", "stopped" by the visitor, or
    "ended", when it took too long. ``ahead``: trainings that come before. ``seconds``: about how
    long until it begins, or ends; None as long as nobody knows.
    """

    order: TrainState
    state: str
    courses: tuple[Course, ...] = ()
    base: Accuracy | None = None
    classes: int = 0
    ahead: int = 0
    seconds: float | None = None

    @property
    def steps(self) -> int:
        """How many are done."""
        return max((c.steps for c in self.courses), default=0)


def trained(lab: Lab, session: Session, order: TrainState, line: Waiting) -> Iterator[Progress]:
    """Wait in `line`, train what was ordered, and keep what was learned among the visitor's own.

    The last report tells how it ended.

    Whoever no longer asks for reports ends it, and the next one's turn comes. Raises ValueError if
    there is no place.
    """
    yield Progress(order, "waking")
    bench, task = lab.bench(order.task), lab.few_shot(order.task, order.shots)
    progress = Progress(
        order, "waiting", tuple(map(Course, order.methods)), classes=len(task.classes)
    )
    ticket = line.join(session, order.work, asking())
    try:
        while ahead := line.ahead(ticket, REDRAWN):
            if ticket.stopped:
                yield replace(progress, state="stopped")
                return
            yield replace(progress, ahead=ahead, seconds=line.seconds(ticket))
        progress = replace(progress, state="training")
        yield progress
        progress = replace(progress, base=_accuracy(bench, NONE))
        with closing(_begun(bench, task, order)) as steps:
            progress, learned = yield from _watched(bench, steps, progress, ticket, line)
        _keep(session, progress, learned)
        yield progress
    finally:
        line.leave(ticket)


def _begun(bench: Bench, task: Task, order: TrainState) -> Steps:
    """The steps of all methods, before the first.

    They see the same images in the same order, and begin with the same A.
    """
    jobs = [
        Job(
            task,
            LoRA(order.rank, sites=order.sites),
            DROPPING[method],
            TrainingSettings(
                seed=order.seed, steps=order.steps, lr=order.rate(method), batch=order.batch
            ),
        )
        for method in order.methods
    ]
    return fit_many_steps(bench.clip, jobs)


def _watched(
    bench: Bench, steps: Steps, progress: Progress, ticket: Ticket, line: Waiting
) -> Generator[Progress, None, tuple[Progress, dict[str, Adapter]]]:
    """Reports until all methods are over or the visitor has had enough.

    Returns the last one, and what was learned.
    """
    order, start = progress.order, time.monotonic()
    looks = {round(order.steps * i / LOOKS) for i in range(1, LOOKS + 1)}
    courses = {c.method: c for c in progress.courses}
    newest: dict[str, Step] = {}
    going, images, shown = len(courses), 0, start
    while True:
        line.ahead(ticket)  # still here
        traffic.give_way(PATIENCE)
        torch.set_num_threads(1)  # Gradio may ask for each report in another thread
        # The first of them computes all; of a model that cannot be shared, each its own, and one
        # method is done before the other begins.
        for step in islice(steps, going):
            method = order.methods[step.run]
            newest[method] = step
            courses[method] = courses[method].after(step)
            if step.step in looks:
                courses[method] = _looked(bench, courses[method], _learned(step))
            going -= bool(step.error) or step.step == step.steps
            images += order.batch
        state, now = _state(going, ticket, start), time.monotonic()
        if state == "training" and now - shown < REDRAWN:
            continue
        line.worked(ticket, images, now - shown)
        images, shown = 0, now
        if state != "training":
            break
        seconds = line.seconds(ticket, own=True)
        yield replace(progress, courses=tuple(courses.values()), seconds=seconds)
    found = [_learned(s) for s in newest.values()] if going else _results(steps)
    learned = {m: a for m, a in zip(newest, found, strict=True) if isinstance(a, Adapter)}
    for method, adapter in learned.items():
        courses[method] = _looked(bench, courses[method], adapter)
    return replace(progress, state=state, courses=tuple(courses.values())), learned


def _learned(step: Step) -> Result | None:
    """What a method has learned by its newest step; None if it diverged."""
    return step.learned and step.learned()


def _results(steps: Steps) -> list[Result]:
    """What became of the methods, whose last steps are done."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _looked(bench: Bench, course: Course, learned: Result | None) -> Course:
    """The course with the accuracy of what was learned by now, unless that is known."""
    known = course.measured and course.measured[-1][0] == course.steps
    if known or not isinstance(learned, Adapter):
        return course
    measured = (course.steps, _accuracy(bench, learned))
    return replace(course, measured=(*course.measured, measured))


def _state(going: int, ticket: Ticket, start: float) -> str:
    """What goes on while so many methods are not over; see `Progress`."""
    if not going:
        return "done"
    if ticket.stopped:
        return "stopped"
    return "ended" if time.monotonic() - start > TRAINING_SECONDS else "training"


def _accuracy(bench: Bench, adapter: Adapter) -> Accuracy:
    """On all test images, giving way to those who wait for a number of their own."""
    found = []
    for start in range(0, len(bench), FIRST):
        traffic.give_way(PATIENCE)
        found.append(bench.logits(adapter, start, start + FIRST).argmax(-1))
    return bench.score(torch.cat(found))


def _keep(session: Session, progress: Progress, learned: dict[str, Adapter]) -> None:
    number = 1 + max((o.number for o in session.history.own), default=0)
    task, steps = progress.order.task, {c.method: c.steps for c in progress.courses}
    own = [Own(task, number, adapter, steps[method]) for method, adapter in learned.items()]
    session.change(lambda history: history.keep(*own))
