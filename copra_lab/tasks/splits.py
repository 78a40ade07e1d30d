"""Tells which folders of images are classes, and which are a split that holds classes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

PARTS = ("train", "val", "test")

NAMES = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val",
    "evaluation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Names of splits, in any case, and also as in "training_set" or "test images"."""

_SPLIT = re.compile(rf"({'|'.join(NAMES)})[ _.-]?(sets?|split|data|images?|imgs?)?", re.IGNORECASE)

_FIX = "name such folders train, val and test, and put one folder of images per class into each"

File = tuple[PurePosixPath, str, str]
"""The path of an image, its class and its part."""


def part_of(name: str) -> str | None:
    """The part that a split of this name is: "train", "val" or "test"; None for other names."""
    found = _SPLIT.fullmatch(name)
    return NAMES[found[1].lower()] if found else None


@dataclass(frozen=True)
class Arranged:
    """Image files sorted into classes and parts.

    Attributes:
        files: (path, class, part) of each image; the part is "" if it is yet to be decided.
        stray: Images outside any class folder.
        origin: A sentence about the split that was found, or "".
        lacking: Names the classes without images in the test or validation part, or "".
        depth: 0 if the top folders are classes, 1 if they are a split.
    """

    files: tuple[File, ...]
    stray: tuple[PurePosixPath, ...] = ()
    origin: str = ""
    lacking: str = ""
    depth: int = 0

    def without(self, folders: Iterable[str]) -> list[str]:
        """Those of the class `folders` that have no image."""
        return sorted(set(folders) - {label for _, label, _ in self.files})


def arrange(paths: Sequence[PurePosixPath], splits: bool = True) -> Arranged:
    """Tell classes and parts from image paths.

    The top folders are classes (``cat/1.png``), or, if they are named like splits and hold
    folders, splits that hold classes (``train/cat/1.png``). Folders inside a class belong to it.
    If a split has no test part, its validation part tests. A single split does not count as one.

    Args:
        paths: Image files, relative to the root.
        splits: Whether to look for splits; if not, the top folders are always classes.

    Raises:
        ValueError: The folders could be either, or a split has no training part, or a class has
            no training images.
    """
    tops: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        if len(path.parts) > 1:
            tops.setdefault(path.parts[0], []).append(path)
    stray = [p for p in paths if len(p.parts) < 2]
    parts = {top: part for top in tops if splits and (part := part_of(top))}
    deep = {top for top in parts if any(len(p.parts) > 2 for p in tops[top])}
    # A class may be called "train": then it holds its images directly, as the other classes do.
    if not deep and (not parts or len(parts) < len(tops)):
        if splits:
            _check_inside(tops)
        return Arranged(tuple((p, top, "") for top, own in tops.items() for p in own), tuple(stray))
    _check(list(tops), parts, deep)
    stray += [p for own in tops.values() for p in own if len(p.parts) < 3]
    inside = [(p, top) for top, own in tops.items() for p in own if len(p.parts) > 2]
    origin = "The folder's own split."
    if len(parts) == 1:
        files = [(p, p.parts[1], "") for p, _ in inside]
        origin = f"All of its images are in {next(iter(parts))}."
        return Arranged(tuple(files), tuple(stray), origin, depth=1)
    if "test" not in parts.values():
        parts = {top: "test" if part == "val" else part for top, part in parts.items()}
        origin = "The folder's own split, its validation images for the test."
    files = [(p, p.parts[1], parts[top]) for p, top in inside]
    top_of = {part: top for top, part in parts.items()}
    return Arranged(tuple(files), tuple(stray), origin, _lacking(files, top_of), 1)


def _check(tops: Sequence[str], parts: Mapping[str, str], deep: set[str]) -> None:
    both = _named(list(parts))
    if others := [t for t in tops if t not in parts]:
        raise ValueError(
            f"{both} {_is(parts)} named like a split and {_named(others)} like a class: {_FIX}, or "
            "put all classes next to each other"
        )
    if flat := [t for t in parts if t not in deep]:
        has = "has" if len(flat) == 1 else "have"
        raise ValueError(
            f"{_named(flat)} {_is(flat)} named like a split but {has} no class folders: {_FIX}"
        )
    for part in PARTS:
        if len(twice := [t for t, p in parts.items() if p == part]) > 1:
            raise ValueError(
                f"{_named(twice)} are named like the same part of a split: merge them, or rename "
                "one"
            )
    if len(parts) > 1 and "train" not in parts.values():
        raise ValueError(
            f"{both} are named like a split without train: add it, or give the path of one of them"
        )


def _check_inside(tops: Mapping[str, Sequence[PurePosixPath]]) -> None:
    for top, own in tops.items():
        inside = sorted({p.parts[1] for p in own if len(p.parts) > 2 and part_of(p.parts[1])})
        if len({part_of(name) for name in inside}) > 1:
            raise ValueError(f"the class {top!r} contains a split, {_named(inside)}: {_FIX}")


def _lacking(files: Sequence[File], top_of: Mapping[str, str]) -> str:
    """Names the classes without images in a part; raises ValueError if that part is train."""
    has = {part: {label for _, label, p in files if p == part} for part in top_of}
    found = []
    for part in ("test", "val"):
        if part not in has:
            continue
        if unknown := sorted(has[part] - has["train"]):
            raise ValueError(
                f"{top_of[part]} has {_named(unknown)} but {top_of['train']} does not: add images "
                "there, or rename the folder if the class has another name"
            )
        if none := sorted(has["train"] - has[part]):
            found.append(f"{top_of[part]} has no image of {_named(none)}")
    return "; ".join(found)


def _named(names: Sequence[str], most: int = 3) -> str:
    shown = [repr(n) for n in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _is(names: Mapping[str, str] | Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
