"""What an untrusted zip holds, told from its directory: nothing of it is unpacked yet."""

import os
import stat
import zipfile
from pathlib import Path, PurePosixPath

from copra_lab.tasks.listing import LEFT_BEHIND
from copra_lab.tasks.photos import IMAGE_FILES

MEGABYTES = 10
"""Limit on the zip, in MB."""

IMAGES, LONGEST = 500, 60
"""Limits on images, and on characters of a class name."""

MORE = 3
"""Entries allowed for each allowed image: folders, and what operating systems leave behind."""

_ENCRYPTED = 0x1 | 0x40 | 0x2000

Entries = dict[PurePosixPath, zipfile.ZipInfo]
"""Image files by path."""


class UploadError(ValueError):
    """A zip that cannot become a task; the message says why and what to do."""


def read_bytes(file: "str | Path | bytes") -> bytes:
    """The zip's bytes. Raises UploadError if they are more than `MEGABYTES`."""
    size = len(file) if isinstance(file, bytes) else os.path.getsize(file)
    if size > 1e6 * MEGABYTES:
        raise UploadError(
            f"the zip has {size / 1e6:.1f} MB but the limit is {MEGABYTES} MB; make the images "
            "smaller"
        )
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def image_entries(infos: list[zipfile.ZipInfo]) -> tuple[Entries, list[tuple[str, str]]]:
    """Image files, in the order of their names, and (name, reason) of the other files.

    Raises:
        UploadError: There are too many, or one of them cannot be trusted.
    """
    _check_count(len(infos), MORE * IMAGES, "entries")
    for info in infos:
        if fault := _fault(info):
            raise UploadError(f"{quoted(info.orig_filename)} {fault}")
    files = [info for info in infos if not info.is_dir() and not _left_behind(info)]
    _check_count(len(files), IMAGES, "files")
    found: Entries = {}
    passed = []
    for info in sorted(files, key=lambda info: info.filename):
        path = PurePosixPath(info.filename)
        if path.suffix.lower() not in IMAGE_FILES:
            passed.append((info.filename, "unsupported file type"))
        elif path in found:
            passed.append((info.filename, "in the zip twice"))
        else:
            found[path] = info
    return found, passed


def _check_count(n: int, most: int, what: str) -> None:
    if n > most:
        raise UploadError(f"the zip has {n} {what} but the limit is {IMAGES} images; remove some")


def _fault(info: zipfile.ZipInfo) -> str:
    """What is wrong with an entry before anything of it is read; "" if nothing is."""
    name = info.orig_filename
    outside = name.startswith("/") or name[1:2] == ":" or ".." in name.split("/")
    if outside or "\\" in name or "\0" in name:
        return "has a name that leads out of the zip; zip the folder itself, with relative names"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or not a file; put the image itself into the zip"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted; zip the folder without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in an uncommon way; zip the folder with the usual one (deflate)"
    return ""


def _left_behind(info: zipfile.ZipInfo) -> bool:
    """Whether an operating system added it by itself."""
    parts = PurePosixPath(info.filename).parts
    return not parts or parts[-1].startswith(".") or any(p.lower() in LEFT_BEHIND for p in parts)


def quoted(name: str) -> str:
    """An entry's name, short enough for a sentence."""
    return repr(name if len(name) <= LONGEST else f"…{name[-LONGEST:]}")
