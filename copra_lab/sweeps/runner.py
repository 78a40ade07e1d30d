"""Many runs, in groups that are trained side by side, each group by a worker, through joblib.

Each run is done once. A worker writes what came of a run into the run's own folder, so nothing
depends on the process that hands groups out: killed, it finds everything when it starts again,
also the groups that were begun. A run that raises is a row that says why.

When a worker is killed, its engine may lose other groups with it. All that were being trained then
are handed out again one by one, before any other, and continue from their checkpoints. The runs of
one that loses its worker again are tried each by itself, so that a run that kills its worker every
time is found, and costs nothing but itself.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from copra_lab.adapters.adapter import Adapter
from copra_lab.bench.bench import Bench
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.sweeps.engines import engine
from copra_lab.sweeps.groups import Group, Grouping
from copra_lab.sweeps.results import (
    DONE,
    FAILED,
    OUTCOME,
    Outcomes,
    export,
    kept,
    row_of,
    write_outcome,
)
from copra_lab.sweeps.runs import Run, trained_together
from copra_lab.training.jobs import Step
from copra_lab.utils.checks import whole_number
from copra_lab.utils.devices import spread
from copra_lab.utils.extras import needs
from copra_lab.utils.files import write_atomically

__all__ = ["run_all"]

TABLE = "results.csv"
"""A copy of all rows, written when a sweep ends."""

LOCK = "sweep.lock"


def attempt(group: Group, clip_name: str | None, device: str = "cpu", measure: bool = True) -> None:
    """Train the runs of a group on one thread, or read them, and measure each on its test images.

    What comes of a run is written into its folder, also what goes wrong.
    """
    torch.set_num_threads(1)
    clip, work = load_clip(clip_name), group.work
    tell, place = _Teller(group.started), spread(device, group.folder.name)
    waiting = {key: run for key, run in group.runs.items() if not kept(work / key / OUTCOME)}
    runs = group.runs if group.begun else waiting  # a checkpoint is of all runs of a group
    results = trained_together(list(runs.values()), clip, work, group.folder, place, tell)
    for key, found in zip(runs, results, strict=True):
        if key in waiting:
            _conclude(runs[key], found, clip, work, measure)
    group.started.unlink(missing_ok=True)


class _Teller:
    """Tells in a file who is at a group, and every few seconds how far."""

    SECONDS = 2

    def __init__(self, file: Path) -> None:
        self.file = file
        self._tell(0, 1)

    def __call__(self, step: Step) -> None:
        if time.monotonic() > self.told + self.SECONDS:
            self._tell(step.step, step.steps)

    def _tell(self, step: int, steps: int) -> None:
        about = {"host": platform.node(), "pid": os.getpid(), "step": step, "steps": steps}
        write_atomically(self.file, json.dumps(about).encode())
        self.told = time.monotonic()


def _conclude(
    run: Run, found: tuple[Any, float] | Exception, clip: Clip, work: Path, measure: bool
) -> None:
    """Measure what came of a run, and write its row."""
    row = row_of(run, clip, work)
    try:
        if isinstance(found, Exception):
            raise found
        result, seconds = found
        row |= {"state": DONE, "seconds": round(seconds, 2)}
        if measure:
            row |= _measured(run, result, clip)
    except Exception as e:
        kind = "" if isinstance(e, ValueError) else f"{type(e).__name__}: "
        row |= {"state": FAILED, "error": " ".join(f"{kind}{e}".split())}
    if measure or row["state"] == FAILED:
        write_outcome(row | {"host": platform.node()}, work)


def _measured(run: Run, result: Any, clip: Clip) -> dict[str, Any]:
    """The part of a row that is about accuracy."""
    bench = Bench(clip, run.load_task(clip), precision="float32")
    adapter = isinstance(result, Adapter)
    found = bench.accuracy(result) if adapter else bench.accuracy(prompt=result)
    low, high = found.interval
    return {
        "accuracy": found.value,
        "low": low,
        "high": high,
        "correct": found.correct,
        "n": found.n,
        "validation": result.provenance.get("validation accuracy"),
    }


def run_all(
    runs: Iterable[Run],
    work: Path,
    *,
    clip_name: str | None = None,
    backend: str = "loky",
    jobs: int = -1,
    address: str | None = None,
    device: str = "cpu",
    measure: bool = True,
    at_once: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Do the runs that have no outcome in `work` yet. Safe to interrupt and to start again.

    Each worker trains a group of runs side by side, as `fit_many` does, where they can advance
    together.

    Args:
        runs: What to train.
        work: A folder for the runs' folders; all workers must see it under the same path.
        clip_name: The CLIP, as `load_clip` takes it.
        backend: "loky", processes of this machine; "ray" or "dask", the workers of a cluster.
        jobs: Workers, of one thread each; -1 for as many as there are cores.
        address: Of the cluster; None for one that is started here.
        device: As `fit` has it.
        measure: Whether to measure on test images too, and to write ``results.csv``; False only
            trains.
        at_once: How many runs a worker trains side by side at most, as `fit_many` has it; fewer
            where workers would be idle.
        retry_failed: Whether to do failed runs again.
        progress: Show a progress bar.

    Returns:
        A row for each run, done before or now.

    Raises:
        ValueError: For an unknown backend, an `at_once` below 1, or where another process works on
            the same sweep.
        MissingExtra: The engine is not installed.
        RuntimeError: If workers are lost again and again before anything is done.
    """
    with needs("sweeps"):
        from joblib import delayed
    if at_once is not None:
        whole_number("at_once", at_once)
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work) if measure else nullcontext():
        outcomes = Outcomes(dict.fromkeys(runs), load_clip(clip_name), work, measure)
        if retry_failed:
            outcomes.forget_failures()

        def job(group: Group) -> Any:
            return delayed(attempt)(group, clip_name, device, measure)

        try:
            with engine(backend, jobs, address) as workers:
                grouping = Grouping(outcomes.clip, work, workers, device, at_once)
                groups = grouping.groups(outcomes.waiting(), outcomes.runs)
                with _progress(outcomes, groups, progress):
                    _Sweep(outcomes, groups, workers, job).work_off()
        finally:
            rows = outcomes.rows()
            if measure:
                export(rows, work / TABLE)
        return rows


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the lock of a sweep's folder."""
    lock = FileLock(work / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as e:
        raise ValueError(f"another sweep is at work in {work}; choose another folder") from e
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Sweep:
    """Hands out groups until each of their runs has an outcome."""

    outcomes: Outcomes
    groups: list[Group]
    workers: int
    job: Callable[[Group], Any]

    def work_off(self) -> None:
        fruitless = 0
        while waiting := self.outcomes.waiting():
            lost = self._hand_out(self._left(), self.workers)
            suspects = [g for g in self._left() if g.started.exists()] if lost else []
            for group in suspects:
                self._try_alone(group)
            nothing = lost and self.outcomes.waiting() == waiting
            fruitless = fruitless + 1 if nothing else 0
            if lost and fruitless == 3:
                raise RuntimeError(f"the workers do nothing and are lost: {lost!r}") from lost
        for group in self.groups:
            group.remove()

    def _left(self) -> list[Group]:
        """The groups with runs that have no outcome."""
        waiting = self.outcomes.waiting().keys()
        return [g for g in self.groups if waiting & g.runs.keys()]

    def _try_alone(self, group: Group) -> None:
        # with one worker joblib would use this process
        lost = self._hand_out([group], 2)
        if lost and len(group.runs) == 1:
            words = " ".join(f"{type(lost).__name__}: {lost}".split())[:200]
            [run] = group.runs.values()
            self.outcomes.fail(run, f"its worker was lost each time, the last time alone ({words})")
        elif lost:
            group.remove()
            waiting = self.outcomes.waiting()
            for single in group.singly():
                if waiting.keys() & single.runs.keys():
                    self._try_alone(single)

    def _hand_out(self, groups: Sequence[Group], workers: int) -> Exception | None:
        """Let workers do these groups; the error that ended the engine, if one did."""
        for group in groups:
            group.started.unlink(missing_ok=True)
        with needs("sweeps"):
            from joblib import Parallel

        try:
            Parallel(workers, batch_size=1)(self.job(group) for group in groups)
        except Exception as e:  # attempt() itself raises nothing, so a worker was lost
            return e
        return None


@contextmanager
def _progress(outcomes: Outcomes, groups: Sequence[Group], shown: bool) -> Iterator[tqdm]:
    """A progress bar that follows outcomes, and the steps of groups that are trained."""
    over = threading.Event()
    bar = tqdm(
        total=len(outcomes.runs),
        initial=len(outcomes.runs) - len(outcomes.waiting()),
        desc="runs",
        disable=not shown,
        unit="run",
        bar_format="{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    )

    def look() -> None:
        waiting = outcomes.waiting()
        done = float(len(outcomes.runs) - len(waiting))
        for group in groups:
            if about := kept(group.started):
                left = len(waiting.keys() & group.runs.keys())
                done += left * about["step"] / about["steps"]
        bar.set_postfix(failed=outcomes.count(FAILED), refresh=False)
        bar.update(done - bar.n)

    def watch() -> None:
        while not over.wait(1):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield bar
    finally:
        over.set()
        thread.join()
        look()
        bar.close()
