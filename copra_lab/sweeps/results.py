"""What came of many runs: a table made from what each run's own folder says."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.sweeps.runs import DONE_FILE, Run
from copra_lab.utils.extras import needs
from copra_lab.utils.files import csv_bytes, write_atomically

__all__ = ["COLUMNS", "DONE", "FAILED", "WAITING", "Outcomes", "export", "flat", "rows_of"]

COLUMNS = tuple(
    "key task method seed state accuracy low high correct n validation seconds host error settings "
    "base".split()
)
"""Of a row. ``key`` names the run's folder; ``accuracy`` is that on test images with its interval
``low`` to ``high`` (0…1), ``validation`` that on validation images; ``seconds`` is how long the
training took, and of runs that were trained side by side each one's share; ``base`` is the hash of
the CLIP. What is not known is None."""

WAITING, DONE, FAILED = "waiting", "done", "failed"

OUTCOME = "outcome.json"
"""The file in a run's folder that holds its row. It is written all at once, by whoever did the
run, so that nothing depends on the process that hands runs out."""


class Outcomes:
    """The rows of some runs, read from the runs' folders as they come in.

    Args:
        runs: The runs.
        clip: The CLIP that they adapt.
        work: The folder that holds the runs' folders.
        measured: Whether a run is done when it is measured, or already when it is trained.
    """

    def __init__(self, runs: Iterable[Run], clip: Clip, work: Path, measured: bool = True) -> None:
        self.clip, self.work, self.measured = clip, work, measured
        self.runs = {run.folder(clip, work).name: run for run in runs}
        self._found: dict[str, dict[str, Any]] = {}

    def collect(self) -> None:
        """Read what has been written since."""
        for key, run in self.runs.items():
            if key in self._found:
                continue
            if found := kept(self.work / key / OUTCOME):
                self._found[key] = row_of(run, self.clip, self.work) | found
            elif not self.measured and (self.work / key / DONE_FILE).exists():
                self._found[key] = row_of(run, self.clip, self.work) | {"state": DONE}

    def rows(self) -> list[dict[str, Any]]:
        """A row for every run, in order of task, method, settings and seed."""
        self.collect()
        rows = [self._found.get(k) or row_of(r, self.clip, self.work) for k, r in self.runs.items()]
        for row in rows:
            row["settings"] = json.loads(json.dumps(row["settings"], sort_keys=True))
        return sorted(rows, key=_order)

    def waiting(self) -> dict[str, Run]:
        """The runs without an outcome, by the names of their folders."""
        self.collect()
        return {key: run for key, run in self.runs.items() if key not in self._found}

    def count(self, state: str) -> int:
        """How many runs are known to be in this state."""
        return sum(row["state"] == state for row in list(self._found.values()))

    def fail(self, run: Run, error: str) -> None:
        """Write down that a run failed without saying so itself."""
        row = row_of(run, self.clip, self.work) | {"state": FAILED, "error": error}
        write_outcome(row, self.work)

    def forget_failures(self) -> None:
        """Let failed runs wait again."""
        for key in self.runs:
            file = self.work / key / OUTCOME
            if (row := kept(file)) and row["state"] == FAILED:
                file.unlink()
                self._found.pop(key, None)


def _order(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    settings = {k: v for k, v in row["settings"].items() if k != "seed"}
    words = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return row["task"], row["method"], words, row["seed"]


def row_of(run: Run, clip: Clip, work: Path) -> dict[str, Any]:
    """The row of a run that is not done yet."""
    known = {
        "key": run.folder(clip, work).name,
        "task": run.task,
        "method": run.name,
        "seed": run.seed,
        "state": WAITING,
        "settings": run.as_json(),
        "base": clip.hash,
    }
    return dict.fromkeys(COLUMNS) | known


def write_outcome(row: Mapping[str, Any], work: Path) -> None:
    """Keep a row in its run's folder, all at once."""
    write_atomically(work / row["key"] / OUTCOME, json.dumps(row).encode())


def kept(file: Path) -> dict[str, Any] | None:
    """What a JSON file holds, such as a row; None if it is not there, or broken."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def rows_of(runs: Iterable[Run], work: Path, clip_name: str | None = None) -> list[dict[str, Any]]:
    """How far the runs are, without doing any.

    Args:
        runs: The runs.
        work: The folder that holds their folders.
        clip_name: The CLIP, as `load_clip` takes it.

    Returns:
        A row for each, with the `COLUMNS`.

    Raises:
        FileNotFoundError: Where none was started.
    """
    if not work.is_dir():
        raise FileNotFoundError(f"no {work}: this sweep was not started yet")
    return Outcomes(runs, load_clip(clip_name), work.resolve()).rows()


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"lora": {"rank": 4}}`` → ``{"lora.rank": 4}``; lists become words."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = " ".join(map(str, value)) if isinstance(value, list) else value
    return out


def export(rows: list[dict[str, Any]], file: Path) -> None:
    """Write the rows as ``.csv`` or ``.parquet``, with a column for each setting.

    Raises:
        ValueError: For another ending.
        ImportError: Without what Parquet needs.
    """
    wide = [
        {k: v for k, v in r.items() if k != "settings"}
        | flat({k: v for k, v in r["settings"].items() if k not in r})
        for r in rows
    ]
    names = list(dict.fromkeys(n for r in wide for n in r))
    if file.suffix == ".csv":
        write_atomically(file, csv_bytes(names, wide))
    elif file.suffix == ".parquet":
        with needs("parquet", instead="write a .csv"):
            import pandas
            import pyarrow  # noqa: F401 (what pandas writes Parquet with)
        write_atomically(file, pandas.DataFrame(wide, columns=names).to_parquet(index=False))
    else:
        raise ValueError(f"a table is written as .csv or .parquet, got {file.name!r}")
