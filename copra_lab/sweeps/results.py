"""What came of many runs, in one SQLite file: a row each, waiting, done or failed. Any SQLite tool reads it, and so does
``pandas.read_sql``."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from copra_lab.utils.extras import needs
from copra_lab.utils.files import csv_bytes, write_atomically, writing

COLUMNS = {
    "key": "TEXT PRIMARY KEY", "task": "TEXT", "method": "TEXT", "seed": "INTEGER", "state": "TEXT NOT NULL", "accuracy": "REAL", "low": "REAL",
    "high": "REAL", "correct": "INTEGER", "n": "INTEGER", "validation": "REAL", "seconds": "REAL", "host": "TEXT", "error": "TEXT",
    "settings": "TEXT", "base": "TEXT",
}  # fmt: skip
"""``key`` names the run's folder; ``accuracy`` is that on test images with its interval ``low`` to ``high`` (0…1), ``validation`` that on
validation images; ``settings`` is JSON; ``base`` the hash of the CLIP."""

WAITING, DONE, FAILED = "waiting", "done", "failed"


class Table:
    """The table in `file`, made if need be. Each change is one transaction: a reader, or a process that is killed, finds it whole.

    Raises ValueError for a file that is no such table, and OSError, here and in every change, where it cannot be written.
    """

    def __init__(self, file: Path):
        self._file, self._lock = (
            file,
            threading.Lock(),
        )  # a connection's transaction is shared by all threads
        try:
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(file, timeout=60, check_same_thread=False)
            with self._change():
                self._db.execute(
                    f"CREATE TABLE IF NOT EXISTS runs ({', '.join(f'{n} {kind}' for n, kind in COLUMNS.items())})"
                )
            self._db.execute(f"SELECT {', '.join(COLUMNS)} FROM runs LIMIT 1")
        except sqlite3.Error as e:
            raise ValueError(
                f"{file} is not a table of runs ({e}); remove it, and what is trained already is put into a new one"
            ) from e

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._lock, writing(self._file), self._db:
            yield

    def close(self) -> None:
        self._db.close()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Runs that are to be done, where they are not in the table yet."""
        with self._change():
            for row in rows:
                self._put("INSERT OR IGNORE", {**row, "state": WAITING})

    def record(self, row: Mapping[str, Any]) -> None:
        """What came of a run: its ``state``, and what is measured of it."""
        with self._change():
            self._put("INSERT OR REPLACE", row)

    def _put(self, how: str, row: Mapping[str, Any]) -> None:
        values = [
            json.dumps(row[n], sort_keys=True) if n == "settings" else row.get(n) for n in COLUMNS
        ]
        self._db.execute(
            f"{how} INTO runs ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",
            values,
        )

    def forget_failures(self, keys: Iterable[str]) -> None:
        """Let failed runs wait again."""
        with self._change():
            self._db.executemany(
                f"UPDATE runs SET state = '{WAITING}', error = NULL WHERE key = ? AND state = '{FAILED}'",
                [(k,) for k in keys],
            )

    def rows(self, keys: "Iterable[str] | None" = None) -> list[dict[str, Any]]:
        """Every row, or those of these keys, in order of task, method, settings and seed."""
        order = "task, method, json_remove(settings, '$.seed'), seed"
        with self._lock:
            found = self._db.execute(
                f"SELECT {', '.join(COLUMNS)} FROM runs ORDER BY {order}"
            ).fetchall()
        wanted = None if keys is None else set(keys)
        rows = [dict(zip(COLUMNS, r, strict=True)) for r in found]
        return [
            r | {"settings": json.loads(r["settings"])}
            for r in rows
            if wanted is None or r["key"] in wanted
        ]


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
    """The rows as ``.csv`` or ``.parquet``, a column for each setting. Raises ValueError for another ending, ImportError without what
    Parquet needs."""
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
