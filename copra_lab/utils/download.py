"""Archives from the web: downloads that go on where they stopped, are checked, and appear unpacked in one step or not at all."""

import hashlib
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

BLOCK = 2**20
TIMEOUT = 60
"""Seconds without a byte."""


@dataclass(frozen=True)
class Archive:
    """A file at `url` that belongs into the folder `into` below the root and `gives` a file or folder there, itself or when it is
    unpacked. `md5` may be empty, where the authors give none: gzip's own checksum has to do."""

    url: str
    md5: str
    into: str
    gives: str

    def file(self, root: Path) -> Path:
        """Where it is downloaded to, or put by hand: the place that torchvision uses."""
        return root / self.into / self.url.rpartition("/")[2]


def install(archives: Sequence[Archive], root: Path) -> None:
    """Make sure that what the `archives` give is below `root`: download what is not there, check and unpack it. Archives stay.

    Raises FileNotFoundError or ConnectionError where one cannot be had, and ValueError for one that is damaged.
    """
    for archive in archives:
        target = root / archive.into / archive.gives
        if target.exists():
            continue
        file = archive.file(root)
        if (
            file.is_file()
        ):  # put there by hand, or left by a call that was ended before it had unpacked it
            if archive.md5 and _md5(file) != archive.md5:
                raise ValueError(
                    f"{file} is not the whole file of {archive.url}, or another version: remove it and call again"
                )
        else:
            download(archive.url, file, archive.md5)
        if file != target:
            unpack(file, target)


def download(url: str, file: Path, md5: str = "") -> None:
    """Download `url` to `file`, which appears when it is whole and its `md5` is right. A download that was cut off goes on where it
    stopped, in this call's file ``….part``.

    Raises FileNotFoundError where there is no such file or no network, ConnectionError for a download that was cut off, now or before,
    and cannot go on, and ValueError for one that is damaged or does not fit on the disk.
    """
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
    except (OSError, HTTPException) as e:
        if not part.exists():
            raise FileNotFoundError(
                f"{url} cannot be downloaded: {e.reason if type(e) is URLError else e}"
            ) from e
        there = f"{part.stat().st_size / 1e6:,.0f} MB are there"
        raise ConnectionError(
            f"{url} was cut off ({e}), and {there}: call again, and it goes on, or put the file by hand at {file}"
        ) from e
    if md5 and _md5(part) != md5:
        part.unlink()
        raise ValueError(
            f"{url} came damaged or has changed, and was removed again: call again, or put the right file (MD5 {md5}) at {file}"
        )
    os.replace(part, file)


def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = Request(
        url, headers={"User-Agent": "copra-lab", **({"Range": f"bytes={have}-"} if have else {})}
    )
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as e:
        if e.code == 416 and have:  # nothing is left to send
            return
        raise
    with response:
        have = have if response.status == 206 else 0  # some servers send all again
        total = have + response.length if response.length is not None else None
        if total and shutil.disk_usage(part.parent).free < 2 * total - have:
            raise ValueError(
                f"{url} needs {2 * total / 1e9:.1f} GB in {part.parent}, packed and unpacked: make room, or give another root"
            )
        bar = tqdm(
            desc=part.stem, total=total, initial=have, unit="B", unit_scale=True, leave=False
        )
        with open(part, "ab" if have else "wb") as f, bar:
            while block := response.read(BLOCK):
                f.write(block)
                bar.update(len(block))
            if total and f.tell() < total:
                raise ConnectionError("the connection was cut")


def unpack(file: Path, target: Path) -> None:
    """Unpack a ``.zip`` or ``.tar.*`` that holds a folder named like `target`, at the top or one level below, perhaps in an archive of
    its own. `target` appears when all is unpacked. Raises ValueError for an archive that is damaged or holds no such folder."""
    staging = target.with_name(f".{file.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)  # what a call that was killed left
    try:
        _unpack(file, staging)
        for inner in staging.glob(f"*/{target.name}.tar.gz"):
            _unpack(inner, inner.parent)
        found = next(
            (f for f in (staging / target.name, *staging.glob(f"*/{target.name}")) if f.exists()),
            None,
        )
        if found is None:
            raise ValueError(f"{file} holds no {target.name}: remove it and call again")
        os.replace(found, target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as e:
        raise ValueError(
            f"{file} cannot be unpacked ({e}): make room if the disk is full, or else remove it and call again"
        ) from e
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack(file: Path, folder: Path) -> None:
    """No member of the archive is written outside of `folder`."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as z:
            for member in tqdm(
                z.infolist(), desc=f"unpacking {file.name}", unit=" files", leave=False
            ):
                z.extract(member, folder)
    else:
        with (
            tarfile.open(file) as tar,
            tqdm(tar, desc=f"unpacking {file.name}", unit=" files", leave=False) as members,
        ):
            tar.extractall(folder, members, filter="data")


def _md5(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
