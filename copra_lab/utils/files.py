"""Files that appear complete or not at all, and small files that are read with limits."""

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

from platformdirs import user_cache_path
from safetensors import SafetensorError

LARGEST_JSON = 10_000_000
"""Largest configuration file that is read, in bytes."""

_DISK_FULL = "make room on that disk, and do it again"
_NOT_ALLOWED = "choose a folder that you may write to"


def cache_folder() -> Path:
    """Where this package keeps what it makes or downloads.

    ``$COPRA_LAB_CACHE``, or else the user's cache folder.
    """
    return Path(os.environ.get("COPRA_LAB_CACHE") or user_cache_path("copra-lab"))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn any error of writing `path` into one sentence that says how to fix it.

    Raises:
        OSError: Of the kind that the system raised, or for a failure of safetensors or SQLite.
    """
    try:
        yield
    except OSError as e:
        fix = _DISK_FULL if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else _NOT_ALLOWED
        raise type(e)(f"{path} cannot be written ({e.strerror or e}); {fix}") from e
    except (SafetensorError, sqlite3.OperationalError) as e:
        fix = _DISK_FULL if "full" in str(e) or "No space" in str(e) else _NOT_ALLOWED
        raise OSError(f"{path} cannot be written ({e}); {fix}") from e


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader finds the old file or the new one, never a part.

    Raises:
        OSError: If the disk is full or the folder is not writable.
    """
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
            with suppress(OSError):  # the first error is the one to report
                part.unlink(missing_ok=True)


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A temporary folder for a library that writes several files one after another.

    When the block ends without an error, the files move into `folder`, the weights last.

    Raises:
        OSError: If the disk is full or the folder is not writable.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Inside `folder`, so on the same disk: moving a file is then renaming it.
        with tempfile.TemporaryDirectory(prefix="", suffix=".part", dir=folder) as aside:
            yield Path(aside)
            for file in sorted(Path(aside).iterdir(), key=lambda f: f.suffix == ".safetensors"):
                os.replace(file, folder / file.name)


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A CSV table in UTF-8: a header line, then one line per row.

    Args:
        columns: Names of the columns.
        rows: One mapping per row, column → value; missing values stay empty.

    Raises:
        ValueError: If a row has a value for an unknown column.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_json(file: Path) -> Any:
    """Read a small JSON file.

    Raises:
        FileNotFoundError: If there is no such regular file.
        ValueError: If the file is too large, nested too deep, or not JSON.
    """
    if not file.is_file():  # reading a device might never end
        raise FileNotFoundError(f"there is no file {file}")
    if file.stat().st_size > LARGEST_JSON:
        raise ValueError(f"it is larger than {LARGEST_JSON / 1e6:.0f} MB")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as e:
        raise ValueError("it is nested too deep") from e
