"""What a data set holds, listed before any of its images is read."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from copra_lab import sources as so
from copra_lab.photos import IMAGE_FILES, Readable

TEMPLATE = "a photo of a {}"
"""The prompt of images that come without one."""

PARTS = ("train", "val", "test")
TEST_SHARE, VAL_SHARE = 0.3, 0.2
"""Of a data set without a split of its own, as CoOp deals it (arXiv:2109.01134); and of training images that have none to validate."""


@dataclass(frozen=True)
class Listing:
    """`classes`: each label, in order, with the words for it in a prompt. `entries` have a label of these and a part.
    `open` gives the picture of an entry's source."""

    name: str
    title: str
    about: str
    classes: Mapping[str, str]
    template: str
    entries: Sequence[so.Entry]
    open: Callable[[str], Readable]


def parted(entries: Sequence[so.Entry]) -> list[so.Entry]:
    """Entries of which each has a part. Where none has one, parts are dealt by hashing the sources' names, the same way everywhere;
    where none is there to validate, a fifth of each label's training entries is, by the same hash."""
    entries = list(entries)
    if not any(e.part for e in entries):
        entries = so.dealt(entries, TEST_SHARE, VAL_SHARE)
    if any(e.part == "val" for e in entries):
        return entries
    train: dict[str, list[so.Entry]] = {}
    for e in entries:
        if e.part == "train":
            train.setdefault(e.label, []).append(e)
    val: set[so.Entry] = set()
    for own in train.values():
        fifth = round(VAL_SHARE * len(own)) or int(len(own) > 1)
        val.update(sorted(own, key=lambda e: so.rank(e.source))[:fifth])
    return [replace(e, part="val") if e in val else e for e in entries]


def folder(path: "str | Path", template: str) -> Listing:
    """A folder with one folder of images a class, named like the class, with or without folders inside; equal files stay together.

    Raises FileNotFoundError where there is no such folder, and ValueError for fewer than two classes, or a class with fewer than
    three different images.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give a folder that holds one folder of images a class")
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if len(folders) < 2:
        raise ValueError(f"{root} holds {len(folders)} folders: a task needs two classes at least, one folder of images each")
    entries = so.dealt([e for f in folders for e in _files(f)])
    about = f"Your images in {root.name}, {len(folders)} classes. Whether pretraining knew such things is for you to judge."
    classes = {f.name: f.name.replace("_", " ") for f in folders}
    return Listing(str(root), root.name, about, classes, template, entries, lambda source: root / source)


def _files(folder: Path) -> list[so.Entry]:
    """The images of a class, also those in folders inside its own; equal files in one group."""
    inside = sorted(f for f in folder.rglob("*") if f.is_dir() and not any(p.startswith(".") for p in f.relative_to(folder).parts))
    files = [image for f in (folder, *inside) for image in images_in(f)]
    if not files:
        raise ValueError(f"{folder} holds no image: put some there ({', '.join(IMAGE_FILES)}) or remove the folder")
    found = [so.Entry(f.relative_to(folder.parent).as_posix(), folder.name, hashlib.blake2b(f.read_bytes()).hexdigest()) for f in files]
    if (different := len({e.group for e in found})) < 3:
        raise ValueError(
            f"{folder} holds {different} different images: it needs three at least, to train, validate and test; add some, or move the folder away"
        )
    return found


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name."""
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_FILES and not f.name.startswith(".") and f.is_file())
