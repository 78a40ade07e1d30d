"""Many runs side by side, through joblib.

Each run is done once. A worker writes what came of a run into the run's own folder, so nothing
depends on the process that hands runs out: killed, it finds everything when it starts again. A run
that raises is a row that says why. When a worker is killed, its engine may lose other runs with
it: they are handed out again and continue from their checkpoints. Those that were being trained
then are tried alone first, so that a run that kills its worker every time is found, and costs
nothing but itself.
"""

import json
import os
import platform
import threading
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
from copra_lab.sweeps.results import DONE, FAILED, Outcomes, export, row_of, write_outcome
from copra_lab.sweeps.runs import Run, trained
from copra_lab.utils.devices import spread
from copra_lab.utils.extras import needs
from copra_lab.utils.files import write_atomically

__all__ = ["run_all"]

TABLE = "results.csv"
"""A copy of all rows, written when a sweep ends."""

LOCK = "sweep.lock"
_STARTED = "started.json"


def attempt(
    run: Run, work: Path, clip_name: str | None, device: str = "cpu", measure: bool = True
) -> None:
    """Train a run on one thread, or read it, and measure it on the task's test images.

    What comes of it is written into the run's folder, also what goes wrong.
    """
    torch.set_num_threads(1)
    clip = load_clip(clip_name)
    row, started = row_of(run, clip, work), run.folder(clip, work) / _STARTED
    write_atomically(started, json.dumps({"host": platform.node(), "pid": os.getpid()}).encode())
    try:
        result, seconds = trained(run, clip, work, spread(device, row["key"]))
        row |= {"state": DONE, "seconds": round(seconds, 2)}
        if measure:
            row |= _measured(run, result, clip)
    except Exception as e:
        kind = "" if isinstance(e, ValueError) else f"{type(e).__name__}: "
        row |= {"state": FAILED, "error": " ".join(f"{kind}{e}".split())}
    if measure or row["state"] == FAILED:
        write_outcome(row | {"host": platform.node()}, work)
    started.unlink(missing_ok=True)


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
    retry_failed: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Do the runs that have no outcome in `work` yet. Safe to interrupt and to start again.

    Args:
        runs: What to train.
        work: A folder for the runs' folders; all workers must see it under the same path.
        clip_name: The CLIP, as `load_clip` takes it.
        backend: "loky", processes of this machine; "ray" or "dask", the workers of a cluster.
        jobs: Runs side by side; -1 for as many as there are cores.
        address: Of the cluster; None for one that is started here.
        device: As `fit` has it.
        measure: Whether to measure on test images too, and to write ``results.csv``; False only
            trains.
        retry_failed: Whether to do failed runs again.
        progress: Show a progress bar.

    Returns:
        A row for each run, done before or now.

    Raises:
        ValueError: For an unknown backend, or where another process works on the same sweep.
        MissingExtra: The engine is not installed.
        RuntimeError: If workers are lost again and again before anything is done.
    """
    with needs("sweeps"):
        from joblib import delayed
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work) if measure else nullcontext():
        outcomes = Outcomes(dict.fromkeys(runs), load_clip(clip_name), work, measure)
        if retry_failed:
            outcomes.forget_failures()

        def job(run: Run) -> Any:
            return delayed(attempt)(run, work, clip_name, device, measure)

        try:
            with engine(backend, jobs, address) as workers, _progress(outcomes, progress):
                _Sweep(outcomes, workers, job).work_off()
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
    """Hands out runs until each has an outcome."""

    outcomes: Outcomes
    workers: int
    job: Callable[[Run], Any]

    def work_off(self) -> None:
        fruitless = 0
        while missing := self.outcomes.waiting():
            lost = self._hand_out(missing, self.workers)
            left = self.outcomes.waiting()
            suspects = [r for r in left if self._started(r).exists()] if lost else []
            for run in suspects:
                self._try_alone(run)
            fruitless = fruitless + 1 if lost and not suspects and len(left) == len(missing) else 0
            if lost and fruitless == 3:
                raise RuntimeError(f"the workers do nothing and are lost: {lost!r}") from lost

    def _try_alone(self, run: Run) -> None:
        # with one worker joblib would use this process
        if again := self._hand_out([run], 2):
            words = " ".join(f"{type(again).__name__}: {again}".split())[:200]
            self.outcomes.fail(run, f"its worker was lost twice, the second time alone ({words})")

    def _hand_out(self, runs: Sequence[Run], workers: int) -> Exception | None:
        """Let workers do these runs; the error that ended the engine, if one did."""
        for run in runs:
            self._started(run).unlink(missing_ok=True)
        with needs("sweeps"):
            from joblib import Parallel

        try:
            Parallel(workers, batch_size=1)(self.job(run) for run in runs)
        except Exception as e:  # attempt() itself raises nothing, so a worker was lost
            return e
        return None

    def _started(self, run: Run) -> Path:
        """The file that says that a worker is at a run."""
        return run.folder(self.outcomes.clip, self.outcomes.work) / _STARTED


@contextmanager
def _progress(outcomes: Outcomes, shown: bool) -> Iterator[None]:
    """A progress bar that follows the outcomes while workers work."""
    over = threading.Event()
    bar = tqdm(total=len(outcomes.runs), desc="runs", disable=not shown, unit="run")

    def look() -> None:
        outcomes.collect()
        failed, done = outcomes.count(FAILED), outcomes.count(DONE)
        bar.set_postfix(failed=failed, refresh=False)
        bar.update(done + failed - bar.n)

    def watch() -> None:
        while not over.wait(1):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()
        bar.close()
