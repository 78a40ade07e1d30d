"""Many runs side by side, through joblib: processes of this machine, or the workers of a Ray or Dask cluster.

Each run is done once. A worker writes down what came of a run in the run's own folder, so nothing depends on the process that hands
runs out: killed, it finds everything when it starts again. A run that raises is a row that says why. A worker that is killed takes
down what its engine lets it: the runs that were lost are handed out again and go on from their checkpoints; those that were being
trained then are tried by themselves first, so that a run that kills its worker every time is found, and costs nothing but itself.
"""

import json
import os
import platform
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from copra_lab.adapters.adapter import Adapter
from copra_lab.bench.bench import Bench
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.sweeps.results import DONE, FAILED, WAITING, Table
from copra_lab.sweeps.runs import PromptRun, Run, trained
from copra_lab.utils.devices import cores, spread
from copra_lab.utils.extras import needs
from copra_lab.utils.files import write_atomically

__all__ = ["rows_of", "run_all"]

BACKENDS = ("loky", "ray", "dask")
TABLE = "results.sqlite"
_STARTED, _OUTCOME = "started.json", "outcome.json"

AnyRun = Run | PromptRun


def row_of(run: AnyRun, clip: Clip, work: Path) -> dict[str, Any]:
    """What is known of a run before it is done."""
    return {
        "key": run.folder(clip, work).name, "task": run.task, "method": run.method, "seed": run.seed, "settings": run.settings(), "base": clip.hash
    }  # fmt: skip


def attempt(run: AnyRun, work: Path, clip_name: str | None, device: str = "cpu") -> dict[str, Any]:
    """Train a run on one thread, or take it from `work`, and measure it on the task's test images: its row. What goes wrong is in the row."""
    torch.set_num_threads(1)
    clip = load_clip(clip_name)
    row, folder = row_of(run, clip, work), run.folder(clip, work)
    started = folder / _STARTED
    write_atomically(started, json.dumps({"host": platform.node(), "pid": os.getpid()}).encode())
    try:
        result, seconds = trained(run, clip, work, spread(device, folder.name))
        bench = Bench(clip, run.load_task(clip), precision="float32")
        found = (
            bench.accuracy(result) if isinstance(result, Adapter) else bench.accuracy(prompt=result)
        )
        low, high = found.interval
        row |= {
            "state": DONE,
            "accuracy": found.value,
            "low": low,
            "high": high,
            "correct": found.correct,
            "n": found.n,
        }
        row |= {
            "validation": result.provenance.get("validation accuracy"),
            "seconds": round(seconds, 2),
        }
    except Exception as e:
        row |= {
            "state": FAILED,
            "error": " ".join(
                f"{'' if isinstance(e, ValueError) else f'{type(e).__name__}: '}{e}".split()
            ),
        }
    row["host"] = platform.node()
    write_atomically(folder / _OUTCOME, json.dumps(row).encode())
    started.unlink(missing_ok=True)
    return row


def run_all(
    runs: Iterable[AnyRun], work: Path, *, clip_name: str | None = None, backend: str = "loky", jobs: int = -1, address: str | None = None,
    device: str = "cpu", retry_failed: bool = False, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Do the runs that ``work/results.sqlite`` does not have yet, and give the rows of all of them.

    ``backend``: "loky", processes of this machine; "ray" or "dask", the workers of a cluster at `address`, or of one that is started here.
    All workers must see `work` under the same path. ``jobs``: side by side, -1 for as many as there are cores. ``device``: as `fit` has
    it. ``retry_failed``: also those that failed.

    Raises ValueError for an unknown backend, or where another process works on the same table; ImportError without the engine;
    RuntimeError if workers are lost again and again before anything is done.
    """
    with needs("sweeps"):
        from joblib import delayed

    runs = list(dict.fromkeys(runs))
    work = work.resolve()
    clip = load_clip(clip_name)
    keys = {run.folder(clip, work).name: run for run in runs}
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(work / f"{TABLE}.lock", timeout=0)
        lock.acquire()
    except Timeout as e:
        raise ValueError(
            f"another sweep is at work on {work / TABLE}; wait for it, or give another folder"
        ) from e
    table = Table(work / TABLE)
    try:
        table.add(row_of(run, clip, work) for run in runs)
        if retry_failed:
            for key in keys:
                if (row := _read(work / key / _OUTCOME)) and row["state"] == FAILED:
                    (work / key / _OUTCOME).unlink()
            table.forget_failures(keys)
        _collect(table, work)
        missing = [keys[r["key"]] for r in table.rows(keys) if r["state"] == WAITING]
        with _engine(backend, jobs, address) as many, _watching(table, work, keys, progress):
            _work_off(
                missing,
                table,
                many,
                work,
                clip,
                lambda r: delayed(attempt)(r, work, clip_name, device),
            )
        return table.rows(keys)
    finally:
        table.close()
        lock.release()


def rows_of(
    runs: Iterable[AnyRun], work: Path, clip_name: str | None = None
) -> list[dict[str, Any]]:
    """How far the runs are, without doing any: their rows. Raises FileNotFoundError where none was started."""
    if not (work / TABLE).is_file():
        raise FileNotFoundError(f"no {work / TABLE}: this sweep was not started yet")
    clip, table = load_clip(clip_name), Table(work / TABLE)
    try:
        table.add(row_of(run, clip, work) for run in runs)
        _collect(table, work)
        return table.rows(run.folder(clip, work).name for run in runs)
    finally:
        table.close()


def _work_off(
    missing: Sequence[AnyRun],
    table: Table,
    many: int,
    work: Path,
    clip: Clip,
    job: Callable[[AnyRun], Any],
) -> None:
    """Hand out runs until each has an outcome."""
    with needs("sweeps"):
        from joblib import Parallel

    def hand_out(some: Sequence[AnyRun], workers: int) -> Exception | None:
        """The error that ended the engine, if one did."""
        for r in some:
            (r.folder(clip, work) / _STARTED).unlink(missing_ok=True)
        try:
            for row in Parallel(workers, batch_size=1)(job(r) for r in some):
                table.record(row)
        except Exception as e:  # attempt() itself raises nothing, so a worker was lost
            return e
        return None

    fruitless = 0
    while missing:
        lost = hand_out(missing, many)
        _collect(table, work)
        still = {r["key"] for r in table.rows() if r["state"] == WAITING}
        left = [r for r in missing if r.folder(clip, work).name in still]
        suspects = [r for r in left if (r.folder(clip, work) / _STARTED).exists()]
        for r in suspects if lost else ():
            if again := hand_out([r], 2):  # with one worker joblib would use this process
                told = " ".join(f"{type(again).__name__}: {again}".split())
                table.record(
                    row_of(r, clip, work)
                    | {
                        "state": FAILED,
                        "error": f"its worker was lost twice, the second time alone ({told[:200]})",
                    }
                )
        fruitless = fruitless + 1 if lost and not suspects and len(left) == len(missing) else 0
        if lost and fruitless == 3:
            raise RuntimeError(
                f"the workers are lost before they do anything ({type(lost).__name__}: {lost})"
            ) from lost
        missing = [r for r in left if r not in suspects]


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _collect(table: Table, work: Path) -> None:
    """Take up what workers wrote down, whoever handed the runs out."""
    for row in table.rows():
        if row["state"] == WAITING and (found := _read(work / row["key"] / _OUTCOME)):
            table.record(found)


@contextmanager
def _watching(table: Table, work: Path, keys: Iterable[str], progress: bool):
    """Keep the table and a progress bar up to date while workers work."""
    over = threading.Event()
    keys = set(keys)
    bar = tqdm(total=len(keys), desc="runs", disable=not progress, unit="run")

    def look() -> None:
        _collect(table, work)
        states = [r["state"] for r in table.rows(keys)]
        bar.set_postfix(failed=states.count(FAILED), refresh=False)
        bar.update(len(states) - states.count(WAITING) - bar.n)

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


@contextmanager
def _engine(backend: str, jobs: int, address: str | None):
    """joblib with this engine: how many workers work side by side."""
    with needs("sweeps"):
        from joblib import parallel_config

    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if address and backend == "loky":
        raise ValueError(
            "loky has no address: it starts processes on this machine; choose ray or dask for a cluster"
        )
    many = jobs if jobs > 0 else max(1, cores() + 1 + jobs)
    if backend == "ray":
        with needs("ray"):
            import ray
            from ray.util.joblib import register_ray
        mine = not ray.is_initialized()
        if mine:
            os.environ.setdefault(
                "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
            )  # workers shall see the GPUs, which `spread` shares out
            ray.init(
                address=address or os.environ.get("RAY_ADDRESS"),
                **({} if address or "RAY_ADDRESS" in os.environ else {"num_cpus": max(2, many)}),
            )
        register_ray()
        try:
            if jobs < 0:
                many = int(ray.cluster_resources().get("CPU", 1))
            with parallel_config("ray"):
                yield many
        finally:
            if mine:
                ray.shutdown()
    elif backend == "dask":
        with needs("dask"):
            from distributed import Client
        with Client(address) if address else Client(n_workers=many, threads_per_worker=1) as client:
            if jobs < 0:
                many = max(1, sum(client.nthreads().values()))
            with parallel_config("dask"):
                yield many
    else:
        with parallel_config("loky"):
            yield many
