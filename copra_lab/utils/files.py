"""Files that are whole or not there, and small ones that are read with care."""

import csv
import errno
import io
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

LARGEST_JSON = 10_000_000
"""Bytes of a configuration, at most."""


_ROOM, _ELSEWHERE = (
    "make room on that disk, and do it again",
    "choose a folder that you may write to",
)
_WHAT_TO_DO = {errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EFBIG: _ROOM} | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), _ELSEWHERE
)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system, safetensors or SQLite say of a write that failed into one sentence: OSError, of the kind that it was."""
    try:
        yield
    except OSError as e:
        raise type(e)(
            f"{path} cannot be written ({e.strerror or e}); {_WHAT_TO_DO.get(e.errno or 0, _ELSEWHERE)}"
        ) from e
    except (SafetensorError, sqlite3.OperationalError) as e:
        full = "full" in str(e) or "No space" in str(e)
        raise OSError(f"{path} cannot be written ({e}); {_ROOM if full else _ELSEWHERE}") from e


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader finds the old file or the new one, never a part. Raises OSError, in one sentence, where the
    disk is full or the folder is not to be written to."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(part, path)
        finally:
            with suppress(OSError):  # what was wrong is said already
                part.unlink(missing_ok=True)


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A new folder for a library that writes several files one after another: they take their places in `folder` when all are whole,
    the weights last."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix="", suffix=".part", dir=folder
        ) as aside:  # the same disk, so that moving is renaming
            yield Path(aside)
            for file in sorted(Path(aside).iterdir(), key=lambda f: f.suffix == ".safetensors"):
                os.replace(file, folder / file.name)


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A table with a line of names and a line for each of `rows`; what a row does not have stays empty. Raises ValueError for a row that has more."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_json(file: Path) -> Any:
    """What a small JSON file holds. Raises FileNotFoundError for what is no file, ValueError for one that is too large or nested too deep."""
    if not file.is_file():  # a device would be read for ever
        raise FileNotFoundError(f"there is no file {file}")
    if file.stat().st_size > LARGEST_JSON:
        raise ValueError(f"it has more than {LARGEST_JSON / 1e6:.0f} MB")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as e:
        raise ValueError("it is nested too deep") from e
