"""A task out of a zip that a stranger made: class folders of images, read in memory and never unpacked to disk."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch

from copra_lab.tasks.decoding import COMMON, UNREADABLE, PictureError, opened, shrink
from copra_lab.tasks.listing import LEFT_BEHIND, check_template
from copra_lab.tasks.photos import IMAGE_FILES, Fit, square
from copra_lab.tasks.reading import passed_over, unusual
from copra_lab.tasks.splits import Arranged, arrange
from copra_lab.tasks.task import Split, Task

MEGABYTES, UNPACKED = 10, 50
"""Of the zip, at most, and of all that is in it."""

IMAGES, CLASSES, LONGEST = 500, 50, 60
"""At most; the last is characters of a class's name."""

ALL_MEGAPIXELS = 200
"""Of all images together, at most, a JPEG's counted as `decoding.MEMORY` does: a flat picture takes few bytes and much time."""

MORE = 3
"""Entries that a zip may have for each image that it may have: folders, and what systems leave behind."""

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
_UNLIKE = "order the files as cats/1.png, dogs/1.png and so on"

Member = tuple[str, zipfile.ZipInfo]
"""The class of an image, and its entry."""


class UploadError(ValueError):
    """A zip that makes no task; the message says why and what to do."""


def zip_task(
    file: "str | Path | bytes",
    side: int = 64,
    *,
    template: str | None = None,
    splits: bool = True,
    fit: Fit | None = None,
) -> Task:
    """A task out of a zip of class folders (``cats/1.png``, …, or all of them inside one folder), given as a file or as its bytes.

    It is zero-shot: the folders' names are the classes, with _ for a space, and every image is a test image, uint8 (side, side, 3), its
    middle square. Of a zip that brings its own split (see `splits.arrange`) only the images that test are read. What is no image, or
    cannot be read as one, is passed over, counted and named in the task's `about`. Nothing is written to disk, and no name in the zip is
    used as a path.

    Raises UploadError, one sentence that names the fix, for what is no whole zip, a class of which no image can be read, names that
    lead out of it, links, encryption, or more than the bounds of this module.
    """
    words = check_template(template)
    data = _bytes(file)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            entries, passed = _entries(z.infolist())
            arranged = _arranged(entries, [name for name, _ in passed], splits)
            members, passed = (
                _members(arranged, entries),
                passed + [(p.as_posix(), "in no class's folder") for p in arranged.stray],
            )
            kept, images, odd, unread = _images(z, members, side, fit)
    except UploadError:
        raise
    except _DAMAGED as e:
        raise UploadError("this is not a whole zip file; zip the folder anew") from e
    passed += [(info.filename, reason) for info, reason in unread]
    classes = tuple(dict.fromkeys(_words(label) for _, label, _ in arranged.files))
    if lost := [
        name
        for name in dict.fromkeys(name for name, _ in members)
        if name not in {name for name, _ in kept}
    ]:
        info, reason = next(
            (info, reason)
            for info, reason in unread
            if any(info is i and name == lost[0] for name, i in members)
        )
        raise UploadError(
            f"no image of {lost[0]!r} can be read: {_named(info.filename)} cannot be read as an image ({_short(reason)}); repair them or leave the class out"
        )
    labels = torch.tensor([classes.index(name) for name, _ in kept])
    none = Split(
        torch.zeros(0, side, side, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), ()
    )
    test = Split(images, labels, tuple(info.filename for _, info in kept))
    notes = unusual(odd) + passed_over([(_named(name), _short(reason)) for name, reason in passed])
    about = [f"Your {len(kept)} images of {len(classes)} classes, each asked as “{words}”."]
    about += (
        [f"{arranged.origin} The {untested:,} other images of it are not needed."]
        if (untested := len(arranged.files) - len(members))
        else []
    )
    about += [f"{arranged.lacking}."] if arranged.lacking else []
    about += [*notes, "Whether pretraining knew such things is for you to judge."]
    return Task(
        "your zip",
        "Your zip",
        " ".join(about),
        classes,
        words,
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
            f"the zip has {size / 1e6:.1f} MB, and {MEGABYTES} are the most that is read; make the images smaller"
        )
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def _entries(
    entries: list[zipfile.ZipInfo],
) -> tuple[dict[PurePosixPath, zipfile.ZipInfo], list[tuple[str, str]]]:
    """What is an image by its name, by its path in the order of names, and (name, reason) of other files."""
    if len(entries) > MORE * IMAGES:
        raise UploadError(
            f"the zip has {len(entries)} entries, and {IMAGES} images are the most that is read; keep fewer"
        )
    for info in entries:
        if fault := _fault(info):
            raise UploadError(f"{_named(info.orig_filename)} {fault}")
    files = sorted(
        (i for i in entries if not i.is_dir() and not _left_behind(i)), key=lambda i: i.filename
    )
    if len(files) > IMAGES:
        raise UploadError(
            f"the zip has {len(files)} files, and {IMAGES} are the most that is read; keep fewer"
        )
    found: dict[PurePosixPath, zipfile.ZipInfo] = {}
    passed = []
    for info in files:
        path = PurePosixPath(info.filename)
        if path.suffix.lower() not in IMAGE_FILES:
            passed.append((info.filename, "no image by its name"))
        elif path in found:
            passed.append((info.filename, "in the zip twice"))
        else:
            found[path] = info
    return found, passed


def _arranged(
    entries: dict[PurePosixPath, zipfile.ZipInfo], others: list[str], splits: bool
) -> Arranged:
    """The classes and parts that the images' paths tell, below the one folder that all of them are in, if they are in one. `others` are
    names of files that are no images: a class of these alone is refused."""
    paths = list(entries)
    above = (
        1
        if paths and all(len(p.parts) > 2 for p in paths) and len({p.parts[0] for p in paths}) == 1
        else 0
    )
    root = paths[0].parts[0] if above else ""
    try:
        found = arrange([PurePosixPath(*p.parts[above:]) for p in paths], splits)
    except ValueError as e:
        raise UploadError(str(e)) from e
    if found.stray and not found.files:
        raise UploadError(
            f"{_named(str(found.stray[0]))} does not stand in a folder named like its class; {_UNLIKE}"
        )
    for path, label, _ in found.files:
        if not 0 < len(_words(label)) <= LONGEST or not _words(label).isprintable():
            raise UploadError(
                f"{_named(str(path))} has a folder whose name is no class's name; choose one of 1 to {LONGEST} characters"
            )
    if not 2 <= (count := len({_words(label) for _, label, _ in found.files})) <= CLASSES:
        raise UploadError(
            f"the zip has {count} folders of images, and a task needs 2 to {CLASSES}, one for each class; add or remove some"
        )
    at = above + found.depth
    beside = [
        parts[at]
        for name in others
        if len(parts := PurePosixPath(name).parts) > at + 1 and (not above or parts[0] == root)
    ]
    if empty := found.without(beside):
        raise UploadError(
            f"the folder {_named(empty[0])} holds no image by its name ({', '.join(IMAGE_FILES[:6])}, …); put some there, or leave it out"
        )
    return replace(
        found,
        files=tuple((root / p, label, part) for p, label, part in found.files),
        stray=tuple(root / p for p in found.stray),
    )


def _members(found: Arranged, entries: dict[PurePosixPath, zipfile.ZipInfo]) -> list[Member]:
    """The images that test: those of the test part, or where nothing is split all of them."""
    return [
        (_words(label), entries[path]) for path, label, part in found.files if part in ("test", "")
    ]


def _words(label: str) -> str:
    return " ".join(label.replace("_", " ").split())


def _fault(info: zipfile.ZipInfo) -> str:
    """What is wrong with an entry before anything of it is read; "" if nothing is."""
    name = info.orig_filename
    if (
        name.startswith("/")
        or "\\" in name
        or "\0" in name
        or name[1:2] == ":"
        or ".." in name.split("/")
    ):
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
    return (
        not parts
        or parts[-1].startswith(".")
        or any(p.lower() in {name.lower() for name in LEFT_BEHIND} for p in parts)
    )


def _images(
    z: zipfile.ZipFile, members: list[Member], side: int, fit: Fit | None
) -> tuple[list[Member], torch.Tensor, Counter[str], list[tuple[zipfile.ZipInfo, str]]]:
    """The members that can be read, as (n, side, side, 3), with what was unusual about them; and (entry, reason) of the others. What is
    counted are the bytes that come out, not those that the zip promises, and all pixels before any picture is decoded."""
    room, memory, files, unread = int(1e6 * UNPACKED), 4e6 * ALL_MEGAPIXELS, [], []
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
            unread.append((member[1], str(e)))
            continue
        if memory < 0:
            raise UploadError(
                f"the images have more than {ALL_MEGAPIXELS} megapixels together; make them smaller"
            )
        files.append((member, raw))
    kept, images, odd = [], [], Counter[str]()
    for member, raw in files:
        try:
            image, unusual = square(io.BytesIO(raw), side, member[1].filename, COMMON, fit)
        except PictureError as e:
            unread.append((member[1], e.reason))
            continue
        kept.append(member)
        images.append(image)
        odd.update(unusual)
    return (
        kept,
        torch.stack(images) if images else torch.zeros(0, side, side, 3, dtype=torch.uint8),
        odd,
        unread,
    )


def _named(name: str) -> str:
    """An entry's name as a sentence can hold it."""
    return repr(name if len(name) <= LONGEST else f"…{name[-LONGEST:]}")


def _short(reason: str) -> str:
    return " ".join(reason.split())[: 2 * LONGEST]
