"""Training while somebody watches: LoRA and CopRA in turn, a step each.

All of it runs in the thread that asks for the next report.
"""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

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
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.fitting import Step, fit_steps
from copra_lab.utils.statistics import Accuracy

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
        """The same, one step later."""
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
    runs: dict[str, Run] = {}
    try:
        while ahead := line.ahead(ticket, REDRAWN):
            if ticket.stopped:
                yield replace(progress, state="stopped")
                return
            yield replace(progress, ahead=ahead, seconds=line.seconds(ticket))
        yield replace(progress, state="training")
        runs |= {method: _begun(bench, task, order, method) for method in order.methods}
        progress = replace(progress, state="training", base=_accuracy(bench, NONE))
        for now in _watched(bench, runs, progress, ticket, line):
            yield now
        _keep(session, order, runs)
        yield replace(now, seconds=None)
    finally:
        for run in runs.values():
            run.end()
        line.leave(ticket)


class Run:
    """A training that does one step when it is asked to.

    Attributes:
        last: the newest step; None before the first.
        done: whether there is nothing left to do.
    """

    def __init__(self, steps: Generator[Step, None, Adapter | SoftPrompt]) -> None:
        self._steps = steps
        self._result: Adapter | SoftPrompt | None = None
        self._failed = False
        self.last: Step | None = None
        self.done = False

    def step(self) -> Step | None:
        """Do one more; None after the last one.

        Raises ValueError as `fit` does, and is over then.
        """
        torch.set_num_threads(1)  # Gradio may ask for each report in another thread
        try:
            self.last = next(self._steps)
            return self.last
        except StopIteration as end:
            self._result, self.done = self._result or end.value, True
            return None
        except ValueError:
            self._failed = self.done = True
            raise

    def learned(self) -> Adapter | None:
        """The result, or what has been learned so far.

        None before the first step and after a failure.
        """
        found = self._result
        if found is None and not self._failed and self.last and self.last.learned:
            found = self.last.learned()
        assert found is None or isinstance(found, Adapter)  # LoRA learns no prompts
        return found

    def end(self) -> None:
        """Give up what is left to do."""
        self._steps.close()


def _begun(bench: Bench, task: Task, order: TrainState, method: str) -> Run:
    """The training of one method, before its first step.

    Both methods see the same images in the same order, and begin with the same A.
    """
    return Run(
        fit_steps(
            bench.clip,
            task,
            LoRA(order.rank, sites=order.sites),
            DROPPING[method],
            seed=order.seed,
            steps=order.steps,
            lr=order.rate(method),
            batch=order.batch,
        )
    )


def _watched(
    bench: Bench, runs: dict[str, Run], progress: Progress, ticket: Ticket, line: Waiting
) -> Iterator[Progress]:
    """The runs in turn, a step each, until all are over or the visitor has had enough."""
    order, start = progress.order, time.monotonic()
    looks = {round(order.steps * i / LOOKS) for i in range(1, LOOKS + 1)}
    courses = {c.method: c for c in progress.courses}
    shown, images = start, 0

    def report(state: str) -> Progress:
        left = line.seconds(ticket, own=True)
        return replace(progress, state=state, courses=tuple(courses.values()), seconds=left)

    while True:
        line.ahead(ticket)  # still here
        traffic.give_way(PATIENCE)
        for method, run in runs.items():
            before = courses[method]
            courses[method] = after = _stepped(before, run)
            images += order.batch * (after.steps - before.steps)
            if after.steps in looks:
                courses[method] = _looked(bench, after, run)
        state = _state(runs, ticket, start)
        if images and (state != "training" or time.monotonic() - shown >= REDRAWN):
            line.worked(ticket, images, time.monotonic() - shown)
            shown, images = time.monotonic(), 0
            if state == "training":
                yield report(state)
        if state != "training":
            break
    courses = {method: _looked(bench, courses[method], run) for method, run in runs.items()}
    yield report(state)


def _stepped(course: Course, run: Run) -> Course:
    """The course after one more step, if there is one, or with why there is none."""
    try:
        step = run.step()
    except ValueError as e:
        return replace(course, trouble=str(e))
    return course.after(step) if step else course


def _looked(bench: Bench, course: Course, run: Run) -> Course:
    """The course with the accuracy of what was learned by now, unless that is known."""
    adapter = run.learned()
    if adapter is None or (course.measured and course.measured[-1][0] == course.steps):
        return course
    measured = (course.steps, _accuracy(bench, adapter))
    return replace(course, measured=(*course.measured, measured))


def _state(runs: dict[str, Run], ticket: Ticket, start: float) -> str:
    """What goes on after a step of each run; see `Progress`."""
    if all(run.done for run in runs.values()):
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


def _keep(session: Session, order: TrainState, runs: dict[str, Run]) -> None:
    number = 1 + max((o.number for o in session.history.own), default=0)
    learned = [
        Own(order.task, number, adapter, run.last.step if run.last else 0)
        for run in runs.values()
        if (adapter := run.learned())
    ]
    session.change(lambda history: history.keep(*learned))
