"""A task from an untrusted zip of class folders, read in memory and never unpacked to disk."""

import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import torch

from copra_lab.tasks.data import Split, Task
from copra_lab.tasks.decoding import COMMON, UNREADABLE, PictureError, opened, shrink
from copra_lab.tasks.listing import JUDGE, TEMPLATE
from copra_lab.tasks.photos import IMAGE_FILES, Fit, square
from copra_lab.tasks.reading import passed_over, unusual
from copra_lab.tasks.splits import Arranged, arrange
from copra_lab.tasks.zip_entries import (
    IMAGES,
    LONGEST,
    MEGABYTES,
    Entries,
    UploadError,
    image_entries,
    quoted,
    read_bytes,
)

__all__ = [
    "ALL_MEGAPIXELS",
    "CLASSES",
    "IMAGES",
    "MEGABYTES",
    "UNPACKED",
    "UploadError",
    "zip_task",
]

UNPACKED = 50
"""Limit on the unpacked contents, in MB."""

CLASSES = 50
"""Limit on classes."""

ALL_MEGAPIXELS = 200
"""Limit on all images together, JPEGs counted as in `decoding.MEMORY`.

A flat image takes few bytes but much time.
"""

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
)

Member = tuple[str, zipfile.ZipInfo]
"""The class of an image, and its entry."""


def zip_task(file: "str | Path | bytes", side: int = 64, *, fit: Fit | None = None) -> Task:
    """Make a zero-shot task from a zip of class folders (``cats/1.png``, …).

    The folders may all be inside one folder. Their names are the classes, with spaces for _, and
    every image is a test image. If the zip brings its own split (see `splits.arrange`), only its
    test images are read. Files that are not images or cannot be read are skipped, counted and
    named in the task's `about`. Nothing is written to disk, and no name in the zip is used as a
    path.

    Args:
        file: The zip, or its bytes.
        side: Width and height of the images in pixels.
        fit: Makes an image square; None takes the middle square.

    Raises:
        UploadError: The zip is damaged, a class has no readable image, names lead out of the zip,
            it contains links or is encrypted, or it exceeds a limit of this module.
    """
    data = read_bytes(file)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            entries, passed = image_entries(z.infolist())
            arranged = _arranged(entries, [name for name, _ in passed])
            tested = [(p, label) for p, label, part in arranged.files if part in ("test", "")]
            members = [(_spaced(label), entries[p]) for p, label in tested]
            read = _read(z, members, side, fit)
    except UploadError:
        raise
    except _DAMAGED as e:
        raise UploadError("this is not a whole zip file; zip the folder again") from e
    _check_lost(members, read)
    passed += [(p.as_posix(), "not in a class folder") for p in arranged.stray]
    passed += [(info.filename, reason) for (_, info), reason in read.failed]
    skipped = passed_over([(quoted(name), _short(reason)) for name, reason in passed])
    return _task(arranged, read, len(members), unusual(read.odd) + skipped)


def _task(arranged: Arranged, read: "_Read", tested: int, notes: tuple[str, ...]) -> Task:
    """The task of the images that were read, of `tested` that are meant to test."""
    classes = tuple(dict.fromkeys(_spaced(label) for _, label, _ in arranged.files))
    labels = torch.tensor([classes.index(name) for name, _ in read.kept])
    images = torch.stack(read.images)
    none = Split(images[:0].clone(), torch.zeros(0, dtype=torch.int64), ())
    test = Split(images, labels, tuple(info.filename for _, info in read.kept))
    about = [f"Your {len(test)} images of {len(classes)} classes, each asked as “{TEMPLATE}”."]
    if untested := len(arranged.files) - tested:
        about += [f"{arranged.origin} The {untested:,} other images of it are not needed."]
    about += [f"{arranged.lacking}."] if arranged.lacking else []
    texts = ("your zip", "Your zip", " ".join([*about, *notes, JUDGE]), classes, TEMPLATE)
    return Task(*texts, none, none, test, shots=0, seed=0, flip=True, notes=notes)


def _arranged(entries: Entries, others: list[str]) -> Arranged:
    """Classes and parts from the images' paths, below the one folder around them if there is one.

    `others` are the names of other files: a class that has only these is refused.
    """
    paths = list(entries)
    nested = all(len(p.parts) > 2 for p in paths) and len({p.parts[0] for p in paths}) == 1
    above, root = int(nested), paths[0].parts[0] if nested else ""
    try:
        found = arrange([PurePosixPath(*p.parts[above:]) for p in paths])
    except ValueError as e:
        raise UploadError(str(e)) from e
    _check_classes(found)
    at = above + found.depth
    folders = (PurePosixPath(name).parts for name in others)
    without_images = [f[at] for f in folders if len(f) > at + 1 and (not above or f[0] == root)]
    if empty := found.without(without_images):
        raise UploadError(
            f"the folder {quoted(empty[0])} has no image ({', '.join(IMAGE_FILES[:6])}, …); add "
            "some, or leave it out"
        )
    files = tuple((root / p, label, part) for p, label, part in found.files)
    return replace(found, files=files, stray=tuple(root / p for p in found.stray))


def _check_classes(found: Arranged) -> None:
    if found.stray and not found.files:
        raise UploadError(
            f"{quoted(str(found.stray[0]))} is not in a folder named after its class; arrange the "
            "files as cats/1.png, dogs/1.png and so on"
        )
    for path, label, _ in found.files:
        if not 0 < len(_spaced(label)) <= LONGEST or not _spaced(label).isprintable():
            raise UploadError(
                f"{quoted(str(path))} is in a folder whose name cannot be a class name; choose one "
                f"of 1 to {LONGEST} characters"
            )
    if not 2 <= (count := len({_spaced(label) for _, label, _ in found.files})) <= CLASSES:
        raise UploadError(
            f"the zip has {count} folders of images, but a task needs 2 to {CLASSES}, one for each "
            "class; add or remove some"
        )


def _spaced(label: str) -> str:
    return " ".join(label.replace("_", " ").split())


@dataclass
class _Read:
    """The members that could be read, their images, what was unusual, and the other members."""

    kept: list[Member] = field(default_factory=list)
    images: list[torch.Tensor] = field(default_factory=list)
    odd: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[Member, str]] = field(default_factory=list)


def _read(z: zipfile.ZipFile, members: list[Member], side: int, fit: Fit | None) -> _Read:
    """Unpack and decode images.

    The limits count the bytes that come out, not those that the zip claims, and all pixels before
    any image is decoded.
    """
    read, files = _Read(), []
    room, memory = int(1e6 * UNPACKED), 4e6 * ALL_MEGAPIXELS
    for member in members:
        with z.open(member[1]) as f:
            raw = f.read(room + 1)
        room -= len(raw)
        if room < 0:
            raise UploadError(
                f"the zip unpacks to more than {UNPACKED} MB; make the images fewer or smaller"
            )
        try:
            with opened(io.BytesIO(raw), COMMON) as undecoded:
                memory -= shrink(undecoded, side)
        except UNREADABLE as e:
            read.failed.append((member, str(e)))
            continue
        if memory < 0:
            raise UploadError(
                f"the images have more than {ALL_MEGAPIXELS} megapixels together; make them smaller"
            )
        files.append((member, raw))
    for member, raw in files:
        try:
            image, odd = square(io.BytesIO(raw), side, member[1].filename, COMMON, fit)
        except PictureError as e:
            read.failed.append((member, e.reason))
            continue
        read.kept.append(member)
        read.images.append(image)
        read.odd.update(odd)
    return read


def _check_lost(members: Sequence[Member], read: _Read) -> None:
    kept = {name for name, _ in read.kept}
    if lost := next((name for name, _ in members if name not in kept), None):
        info, why = next((info, why) for (name, info), why in read.failed if name == lost)
        raise UploadError(
            f"no image of {lost!r} can be read: {quoted(info.filename)} cannot be read as an image "
            f"({_short(why)}); repair them or leave the class out"
        )


def _short(reason: str) -> str:
    return " ".join(reason.split())[: 2 * LONGEST]
