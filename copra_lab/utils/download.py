"""Archives from the web: downloads resume, are checked, and unpack in one step or not at all."""

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
"""How much is read at once, in bytes."""
TIMEOUT = 60
"""How long to wait for the next byte, in seconds."""


@dataclass(frozen=True)
class Archive:
    """A file to download, and where its contents go below the root folder.

    Attributes:
        url: Where it is downloaded from.
        md5: Its checksum; empty if the authors publish none (gzip's own checksum must then do).
        into: Folder for the file, below the root.
        gives: Name of the file or folder that ends up there: the file itself, or its contents.
    """

    url: str
    md5: str
    into: str
    gives: str

    def file(self, root: Path) -> Path:
        """Where the file is downloaded to, or put by hand: the same place that torchvision uses."""
        return root / self.into / self.url.rpartition("/")[2]


def install(archives: Sequence[Archive], root: Path) -> None:
    """Download, check and unpack whatever is not yet below `root`. The archives themselves stay.

    Raises:
        FileNotFoundError: If a file does not exist or there is no network.
        ConnectionError: If a download was cut off.
        ValueError: If an archive is damaged.
    """
    for archive in archives:
        target, file = root / archive.into / archive.gives, archive.file(root)
        if target.exists():
            continue
        if not file.is_file():
            download(archive.url, file, archive.md5)
        elif archive.md5 and _md5(file) != archive.md5:  # put there by hand, or never unpacked
            raise ValueError(f"{file} is not the file at {archive.url}: remove it and call again")
        if file != target:
            unpack(file, target)


def download(url: str, file: Path, md5: str = "") -> None:
    """Download `url` to `file`, which appears once it is complete and its checksum is right.

    A download that was cut off resumes where it stopped; until then it is kept in ``FILE.part``.

    Raises:
        FileNotFoundError: If the file does not exist or there is no network.
        ConnectionError: If the download was cut off; calling again resumes it.
        ValueError: If the file arrived damaged or does not fit on the disk.
    """
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
    except (OSError, HTTPException) as e:
        if not part.exists():
            why = str(
                e.reason if type(e) is URLError else e
            )  # the error itself would keep the socket
            raise FileNotFoundError(f"{url} cannot be downloaded: {why}") from e
        raise ConnectionError(
            f"{url} was cut off ({e}), and {part.stat().st_size / 1e6:,.0f} MB are there: "
            f"call again to resume, or put the file at {file} by hand"
        ) from e
    if md5 and _md5(part) != md5:
        part.unlink()
        raise ValueError(
            f"{url} arrived damaged, and was removed: call again, or put it (MD5 {md5}) at {file}"
        )
    os.replace(part, file)


def _fetch(url: str, part: Path) -> None:
    """Download `url` to `part`, after what `part` already holds."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "copra-lab"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as e:
        if e.code == 416 and have:  # the file is already complete
            return
        raise
    with response:
        have = have if response.status == 206 else 0  # some servers ignore the range
        total = have + response.length if response.length is not None else None
        if total and shutil.disk_usage(part.parent).free < 2 * total - have:
            need = f"{2 * total / 1e9:.1f} GB, packed and unpacked"
            raise ValueError(
                f"{url} needs {need}, in {part.parent}: make room, or give another root"
            )
        shown = {"desc": part.stem, "unit": "B", "unit_scale": True, "leave": False}
        bar = tqdm(total=total, initial=have, **shown)
        with open(part, "ab" if have else "wb") as f, bar:
            while block := response.read(BLOCK):
                f.write(block)
                bar.update(len(block))
            if total and f.tell() < total:
                raise ConnectionError("the connection was cut")


def unpack(file: Path, target: Path) -> None:
    """Take the folder named like `target` out of an archive; it appears once it is complete.

    The folder may lie at the top of the archive or one level below, or there in an archive of its
    own (``NAME.tar.gz``).

    Args:
        file: A ``.zip`` or ``.tar.*`` archive.
        target: The file or folder to create.

    Raises:
        ValueError: If the archive is damaged, does not fit on the disk, or has no such folder.
    """
    name, staging = target.name, target.with_name(f".{file.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)  # left by a call that was killed
    try:
        _extract(file, staging)
        for inner in staging.glob(f"*/{name}.tar.gz"):
            _extract(inner, inner.parent)
        found = next((f for f in (staging / name, *staging.glob(f"*/{name}")) if f.exists()), None)
        if found is None:
            raise ValueError(f"{file} holds no {name}: remove it and call again")
        os.replace(found, target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as e:
        fix = "make room if the disk is full, otherwise remove it and call again"
        raise ValueError(f"{file} cannot be unpacked ({e}): {fix}") from e
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(file: Path, folder: Path) -> None:
    """Extract all members into `folder`; none can be written outside of it."""
    bar = {"desc": f"unpacking {file.name}", "unit": " files", "leave": False}
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            for member in tqdm(archive.infolist(), **bar):
                archive.extract(member, folder)
    else:
        with tarfile.open(file) as tar, tqdm(tar, **bar) as members:
            tar.extractall(folder, members, filter="data")


def _md5(file: Path) -> str:
    """Checksum of a file, in hex digits."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
