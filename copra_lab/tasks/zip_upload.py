"""A task from an untrusted zip of class folders, read in memory and never unpacked to disk."""

import io
import os
import stat
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
from copra_lab.tasks.listing import JUDGE, LEFT_BEHIND, check_template
from copra_lab.tasks.photos import IMAGE_FILES, Fit, square
from copra_lab.tasks.reading import passed_over, unusual
from copra_lab.tasks.splits import Arranged, arrange

MEGABYTES, UNPACKED = 10, 50
"""Limits on the zip and on its unpacked contents, in MB."""

IMAGES, CLASSES, LONGEST = 500, 50, 60
"""Limits on images, classes, and characters of a class name."""

ALL_MEGAPIXELS = 200
"""Limit on all images together, JPEGs counted as in `decoding.MEMORY`.

A flat image takes few bytes but much time.
"""

MORE = 3
"""Entries allowed for each allowed image: folders, and what operating systems leave behind."""

_ENCRYPTED = 0x1 | 0x40 | 0x2000
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


class UploadError(ValueError):
    """A zip that cannot become a task; the message says why and what to do."""


def zip_task(
    file: "str | Path | bytes",
    side: int = 64,
    *,
    template: str | None = None,
    splits: bool = True,
    fit: Fit | None = None,
) -> Task:
    """Make a zero-shot task from a zip of class folders (``cats/1.png``, …).

    The folders may all be inside one folder. Their names are the classes, with spaces for _, and
    every image is a test image. If the zip brings its own split (see `splits.arrange`), only its
    test images are read. Files that are not images or cannot be read are skipped, counted and
    named in the task's `about`. Nothing is written to disk, and no name in the zip is used as a
    path.

    Args:
        file: The zip, or its bytes.
        side: Width and height of the images in pixels.
        template: The prompt with {} for the class name; None is "a photo of a {}".
        splits: Whether folders named like splits are a split, and not classes.
        fit: Makes an image square; None takes the middle square.

    Raises:
        UploadError: The zip is damaged, a class has no readable image, names lead out of the zip,
            it contains links or is encrypted, or it exceeds a limit of this module.
    """
    prompt = check_template(template)
    data = _bytes(file)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            entries, passed = _entries(z.infolist())
            arranged = _arranged(entries, [name for name, _ in passed], splits)
            members = _members(arranged, entries)
            read = _read(z, members, side, fit)
    except UploadError:
        raise
    except _DAMAGED as e:
        raise UploadError("this is not a whole zip file; zip the folder again") from e
    _check_lost(members, read)
    passed += [(p.as_posix(), "not in a class folder") for p in arranged.stray]
    passed += [(info.filename, reason) for (_, info), reason in read.failed]
    classes = tuple(dict.fromkeys(_spaced(label) for _, label, _ in arranged.files))
    labels = torch.tensor([classes.index(name) for name, _ in read.kept])
    images = torch.stack(read.images)
    none = Split(images[:0].clone(), torch.zeros(0, dtype=torch.int64), ())
    test = Split(images, labels, tuple(info.filename for _, info in read.kept))
    skipped = passed_over([(_named(name), _short(reason)) for name, reason in passed])
    notes = unusual(read.odd) + skipped
    about = [f"Your {len(test)} images of {len(classes)} classes, each asked as “{prompt}”."]
    if untested := len(arranged.files) - len(members):
        about += [f"{arranged.origin} The {untested:,} other images of it are not needed."]
    about += [f"{arranged.lacking}."] if arranged.lacking else []
    return Task(
        "your zip",
        "Your zip",
        " ".join([*about, *notes, JUDGE]),
        classes,
        prompt,
        none,
        none,
        test,
        shots=0,
        seed=0,
        flip=True,
        notes=notes,
    )


def _bytes(file: "str | Path | bytes") -> bytes:
    size = len(file) if isinstance(file, bytes) else os.path.getsize(file)
    if size > 1e6 * MEGABYTES:
        raise UploadError(
            f"the zip has {size / 1e6:.1f} MB but the limit is {MEGABYTES} MB; make the images "
            "smaller"
        )
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def _entries(
    entries: list[zipfile.ZipInfo],
) -> tuple[dict[PurePosixPath, zipfile.ZipInfo], list[tuple[str, str]]]:
    """Image files by path, in the order of their names, and (name, reason) of the other files."""
    if len(entries) > MORE * IMAGES:
        raise UploadError(
            f"the zip has {len(entries)} entries but the limit is {IMAGES} images; remove some"
        )
    for info in entries:
        if fault := _fault(info):
            raise UploadError(f"{_named(info.orig_filename)} {fault}")
    files = [info for info in entries if not info.is_dir() and not _left_behind(info)]
    if len(files) > IMAGES:
        raise UploadError(
            f"the zip has {len(files)} files but the limit is {IMAGES} images; remove some"
        )
    found: dict[PurePosixPath, zipfile.ZipInfo] = {}
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


def _arranged(
    entries: dict[PurePosixPath, zipfile.ZipInfo], others: list[str], splits: bool
) -> Arranged:
    """Classes and parts from the images' paths, below the one folder around them if there is one.

    `others` are the names of other files: a class that has only these is refused.
    """
    paths = list(entries)
    nested = all(len(p.parts) > 2 for p in paths) and len({p.parts[0] for p in paths}) == 1
    above, root = int(nested), paths[0].parts[0] if nested else ""
    try:
        found = arrange([PurePosixPath(*p.parts[above:]) for p in paths], splits)
    except ValueError as e:
        raise UploadError(str(e)) from e
    _check_classes(found)
    at = above + found.depth
    folders = (PurePosixPath(name).parts for name in others)
    beside = [f[at] for f in folders if len(f) > at + 1 and (not above or f[0] == root)]
    if empty := found.without(beside):
        raise UploadError(
            f"the folder {_named(empty[0])} has no image ({', '.join(IMAGE_FILES[:6])}, …); add "
            "some, or leave it out"
        )
    files = tuple((root / p, label, part) for p, label, part in found.files)
    return replace(found, files=files, stray=tuple(root / p for p in found.stray))


def _check_classes(found: Arranged) -> None:
    if found.stray and not found.files:
        raise UploadError(
            f"{_named(str(found.stray[0]))} is not in a folder named after its class; arrange the "
            "files as cats/1.png, dogs/1.png and so on"
        )
    for path, label, _ in found.files:
        if not 0 < len(_spaced(label)) <= LONGEST or not _spaced(label).isprintable():
            raise UploadError(
                f"{_named(str(path))} is in a folder whose name cannot be a class name; choose one "
                f"of 1 to {LONGEST} characters"
            )
    if not 2 <= (count := len({_spaced(label) for _, label, _ in found.files})) <= CLASSES:
        raise UploadError(
            f"the zip has {count} folders of images, but a task needs 2 to {CLASSES}, one for each "
            "class; add or remove some"
        )


def _members(found: Arranged, entries: dict[PurePosixPath, zipfile.ZipInfo]) -> list[Member]:
    """The images that test: those of the test part, or all of them if there is no split."""
    files = found.files
    return [(_spaced(label), entries[p]) for p, label, part in files if part in ("test", "")]


def _spaced(label: str) -> str:
    return " ".join(label.replace("_", " ").split())


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
    ignored = {name.lower() for name in LEFT_BEHIND}
    return not parts or parts[-1].startswith(".") or any(p.lower() in ignored for p in parts)


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
            with opened(io.BytesIO(raw), COMMON) as image:
                memory -= shrink(image, side)
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
            f"no image of {lost!r} can be read: {_named(info.filename)} cannot be read as an image "
            f"({_short(why)}); repair them or leave the class out"
        )


def _named(name: str) -> str:
    """An entry's name, short enough for a sentence."""
    return repr(name if len(name) <= LONGEST else f"…{name[-LONGEST:]}")


def _short(reason: str) -> str:
    return " ".join(reason.split())[: 2 * LONGEST]
