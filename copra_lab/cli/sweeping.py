"""``copra-lab sweep``: methods × tasks × seeds × settings from a file, each run done once."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, BadParameter, Option

from copra_lab.cli import arguments
from copra_lab.cli.command import Report, verb


@dataclass(frozen=True)
class Engine:
    """Where runs are done, as `run_all` takes it.

    Args:
        backend: Processes of this machine, or the workers of a cluster.
        address: ray, dask: of the cluster.
        jobs: Workers, of one thread each; -1 for as many as there are cores.
        at_once: How many runs a worker trains side by side, at most; 1 trains each by itself.
        device: Where to train: auto (a GPU if there is one), cpu, cuda, cuda:1, …
    """

    backend: Literal["loky", "ray", "dask"] = "loky"
    address: Annotated[str | None, Option(show_default="one that is started here")] = None
    jobs: int = -1
    at_once: Annotated[int | None, Option(min=1, show_default="as many as is fast")] = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.jobs == 0:
            raise BadParameter(
                "one at least, or -1 for as many as there are cores", param_hint="--jobs"
            )


@verb("copra-lab sweep sweep.toml --jobs 2 --table results.csv")
def sweep(
    file: Annotated[Path, Argument(help="A TOML file with methods, tasks, seeds and settings.")],
    *,
    work: Annotated[
        Path | None,
        Option(
            help="Where adapters and results.csv are kept.",
            show_default="the file's name without .toml",
        ),
    ] = None,
    engine: Engine,
    status: Annotated[bool, Option("--status", help="Only say how far it is.")] = False,
    retry_failed: Annotated[bool, Option("--retry-failed", help="Do again what failed.")] = False,
    table: Annotated[Path | None, Option(help="Also write the table, as .csv or .parquet.")] = None,
) -> Report:
    """Do many runs, here or on a cluster, each once.

    Restarted, it continues. Results land in WORK/results.csv.
    """
    from copra_lab.sweeps import results as t
    from copra_lab.sweeps import runner
    from copra_lab.sweeps.grid import read_grid

    if table is not None and table.suffix not in (".csv", ".parquet"):
        raise BadParameter(
            f"a table is written as .csv or .parquet, got {table.name!r}", param_hint="--table"
        )
    grid = read_grid(file)
    work = work or file.with_suffix("")
    if status:
        rows = t.rows_of(grid.runs, work, grid.clip)
    else:
        rows = runner.run_all(
            grid.runs,
            work,
            clip_name=grid.clip,
            **asdict(engine),
            retry_failed=retry_failed,
            progress=sys.stderr.isatty(),
        )
    if table is not None:
        t.export(rows, table)
    return _report(rows, work / runner.TABLE, status)


def _report(rows: list[dict[str, Any]], table: Path, status: bool) -> Report:
    """What a sweep came to, for people and as JSON."""
    from copra_lab.sweeps.results import DONE, FAILED, WAITING

    states = [r["state"] for r in rows]
    counts = {s: states.count(s) for s in (DONE, FAILED, WAITING)}
    failed = [r for r in rows if r["state"] == FAILED]
    document = {"table": str(table), **counts, "rows": rows}
    lines = []
    if counts[DONE]:
        head = ("task", "method", "settings", "accuracy, %", "seeds")
        lines.append(arguments.columns(_summary(rows), head))
    lines += [f"failed: {r['key']}: {r['error']}" for r in failed]
    lines += [", ".join(f"{n} {s}" for s, n in counts.items()) + f"; the table is {table}"]
    if failed:
        lines.append("do the failed ones again with --retry-failed")
    return Report(document, "\n".join(lines), failed=bool(failed) and not status)


def _summary(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Mean ± standard deviation over seeds, a row for each setting.

    Of the settings only those are named that differ within a method.
    """
    from copra_lab.sweeps.results import DONE, flat

    done = [
        (r, flat({k: v for k, v in r["settings"].items() if k not in ("task", "method", "seed")}))
        for r in rows
        if r["state"] == DONE
    ]
    values: dict[tuple[str, str], set[str]] = {}
    for r, settings in done:
        for k, v in settings.items():
            values.setdefault((r["method"], k), set()).add(str(v))
    groups: dict[tuple[str, str, str], list[float]] = {}
    for r, settings in done:
        differ = " ".join(
            f"{k}={v}" for k, v in settings.items() if len(values[r["method"], k]) > 1
        )
        groups.setdefault((r["task"], r["method"], differ), []).append(100 * r["accuracy"])
    spread = {k: f" ± {statistics.stdev(v):.1f}" if len(v) > 1 else "" for k, v in groups.items()}
    return [(*k, f"{statistics.mean(v):.1f}{spread[k]}", str(len(v))) for k, v in groups.items()]
