"""A task out of a zip that a stranger made: class folders of images, read in memory and never unpacked to disk."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch
from PIL import Image

from copra_lab.listing import TEMPLATE
from copra_lab.photos import FORMATS, IMAGE_FILES, UNREADABLE, Fit, photo
from copra_lab.tasks import Split, Task

MEGABYTES, UNPACKED = 10, 50
"""Of the zip, at most, and of all that is in it."""

IMAGES, CLASSES, LONGEST = 500, 50, 60
"""At most; the last is characters of a class's name."""

ALL_MEGAPIXELS = 200
"""Of all images together, at most: a flat picture takes few bytes and much time."""

MORE = 3
"""Entries that a zip may have for each image that it may have: folders, and what systems leave behind."""

_ENCRYPTED = 0x1 | 0x40 | 0x2000
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError, IndexError)


class UploadError(ValueError):
    """A zip that makes no task; the message says why and what to do."""


def zip_task(file: "str | Path | bytes", side: int = 64, *, template: str = TEMPLATE, fit: Fit | None = None) -> Task:
    """A task out of a zip of class folders (``cats/1.png``, …, or all of them inside one folder), given as a file or as its bytes.

    It is zero-shot: the folders' names are the classes, with _ for a space, and every image is a test image, uint8 (side, side, 3), its
    middle square. Nothing is written to disk, and no name in the zip is used as a path.

    Raises UploadError, one sentence that names the fix, for what is no whole zip of images, names that lead out of it, links,
    encryption, or more than the bounds of this module.
    """
    data = _bytes(file)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            members = _members(z.infolist())
            images = _images(z, members, side, fit)
    except UploadError:
        raise
    except _DAMAGED as e:
        raise UploadError("this is not a whole zip file; zip the folder anew") from e
    classes = tuple(dict.fromkeys(name for name, _ in members))
    labels = torch.tensor([classes.index(name) for name, _ in members])
    none = Split(torch.zeros(0, side, side, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), ())
    test = Split(images, labels, tuple(info.filename for _, info in members))
    about = f"Your {len(members)} images of {len(classes)} classes. Whether pretraining knew such things is for you to judge."
    return Task("your zip", "Your zip", about, classes, template, none, none, test, shots=0, seed=0, flip=True)


def _bytes(file: "str | Path | bytes") -> bytes:
    size = len(file) if isinstance(file, bytes) else os.path.getsize(file)
    if size > 1e6 * MEGABYTES:
        raise UploadError(f"the zip has {size / 1e6:.1f} MB, and {MEGABYTES} are the most that is read; make the images smaller")
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def _members(entries: list[zipfile.ZipInfo]) -> list[tuple[str, zipfile.ZipInfo]]:
    """(class, entry) of each image, in the order of their names."""
    if len(entries) > MORE * IMAGES:
        raise UploadError(f"the zip has {len(entries)} entries, and {IMAGES} images are the most that is read; keep fewer")
    for info in entries:
        if fault := _fault(info):
            raise UploadError(f"{_named(info)} {fault}")
    files = sorted((i for i in entries if not i.is_dir() and not _left_behind(i)), key=lambda i: i.filename)
    if len(files) > IMAGES:
        raise UploadError(f"the zip has {len(files)} files, and {IMAGES} are the most that is read; keep fewer")
    paths = [PurePosixPath(i.filename).parts for i in files]
    if paths and all(len(p) > 2 for p in paths) and len({p[0] for p in paths}) == 1:
        paths = [p[1:] for p in paths]  # a folder was zipped that holds the folders
    found = []
    for info, path in zip(files, paths, strict=True):
        if len(path) != 2:
            raise UploadError(f"{_named(info)} does not stand in a folder named like its class; order the files as cats/1.png, dogs/1.png and so on")
        if PurePosixPath(path[1]).suffix.lower() not in IMAGE_FILES:
            raise UploadError(f"{_named(info)} is no image ({', '.join(IMAGE_FILES)}); leave it out of the zip")
        name = " ".join(path[0].replace("_", " ").split())
        if not 0 < len(name) <= LONGEST or not name.isprintable():
            raise UploadError(f"{_named(info)} has a folder whose name is no class's name; choose one of 1 to {LONGEST} characters")
        found.append((name, info))
    if not 2 <= (count := len({name for name, _ in found})) <= CLASSES:
        raise UploadError(f"the zip has {count} folders of images, and a task needs 2 to {CLASSES}, one for each class; add or remove some")
    return found


def _fault(info: zipfile.ZipInfo) -> str:
    """What is wrong with an entry before anything of it is read; "" if nothing is."""
    name = info.orig_filename
    if name.startswith("/") or "\\" in name or "\0" in name or name[1:2] == ":" or ".." in name.split("/"):
        return "has a name that leads out of the zip; zip the folder itself, with relative names"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or no file at all; put the image itself into the zip"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted; zip the folder without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in an uncommon way; zip the folder with the usual one (deflate)"
    return ""


def _left_behind(info: zipfile.ZipInfo) -> bool:
    """Whether it is what a system adds to folders by itself."""
    parts = PurePosixPath(info.filename).parts
    return not parts or parts[0] == "__MACOSX" or parts[-1].startswith(".") or parts[-1].lower() in ("thumbs.db", "desktop.ini")


def _images(z: zipfile.ZipFile, members: list[tuple[str, zipfile.ZipInfo]], side: int, fit: Fit | None) -> torch.Tensor:
    """The members as (n, side, side, 3). What is counted are the bytes that come out, not those that the zip promises, and all pixels
    before any picture is decoded."""
    room, pixels, files = int(1e6 * UNPACKED), 1e6 * ALL_MEGAPIXELS, []
    for _, info in members:
        with z.open(info) as f:
            raw = f.read(room + 1)
        room -= len(raw)
        if room < 0:
            raise UploadError(f"the zip unpacks to more than {UNPACKED} MB; make the images fewer or smaller")
        with _readable(info), Image.open(io.BytesIO(raw), formats=FORMATS) as opened:
            pixels -= opened.width * opened.height
        if pixels < 0:
            raise UploadError(f"the images have more than {ALL_MEGAPIXELS} megapixels together; make them smaller")
        files.append(raw)
    images = []
    for (_, info), raw in zip(members, files, strict=True):
        with _readable(info):
            images.append(photo(io.BytesIO(raw), side, fit=fit))
    return torch.stack(images)


@contextmanager
def _readable(info: zipfile.ZipInfo) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as e:
        raise UploadError(f"{_named(info)} cannot be read as an image, or has too many megapixels; repair it or leave it out") from e


def _named(info: zipfile.ZipInfo) -> str:
    """An entry's name as a sentence can hold it."""
    name = info.orig_filename
    return repr(name if len(name) <= LONGEST else f"…{name[-LONGEST:]}")
