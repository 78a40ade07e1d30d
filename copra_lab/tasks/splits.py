"""Which folders of images are classes, and which are a split into training, validation and test images that holds classes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

PARTS = ("train", "val", "test")

NAMES = {
    "train": "train", "training": "train", "trainval": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val",
    "evaluation": "val", "test": "test", "testing": "test",
}  # fmt: skip
"""How splits are called, in any case, and also as in "training_set" or "test images"."""

_SPLIT = re.compile(rf"({'|'.join(NAMES)})[ _.-]?(sets?|split|data|images?|imgs?)?", re.IGNORECASE)

REPAIR = "name such folders train, val and test, and put one folder of images a class into each"


def part_of(name: str) -> str | None:
    """The part that a split of this name is: "train", "val", "test", or None for what is no split's name."""
    found = _SPLIT.fullmatch(name)
    return NAMES[found[1].lower()] if found else None


@dataclass(frozen=True)
class Arranged:
    """``files``: (path, class, part) of each image, its part "" where it is still to be dealt. ``stray`` ones lie in no class's folder.
    ``origin`` says in a sentence which split it is, "" for none; ``lacking`` names classes without an image in a part that exists.
    ``depth``: 0 where the folders at the top are classes, 1 where they are a split."""

    files: tuple[tuple[PurePosixPath, str, str], ...]
    stray: tuple[PurePosixPath, ...] = ()
    origin: str = ""
    lacking: str = ""
    depth: int = 0

    def without(self, folders: Iterable[str]) -> list[str]:
        """Which of these `folders` where classes lie have no image."""
        return sorted(set(folders) - {label for _, label, _ in self.files})


def arrange(paths: Sequence[PurePosixPath], splits: bool = True) -> Arranged:
    """Tell classes and parts from the paths of images below a root. The folders at its top are classes (``cat/1.png``), or if they are
    called like splits and hold folders, splits that hold classes (``train/cat/1.png``); without `splits` they are always classes.
    Folders inside a class are of it.

    Where a split has no test part its validation part tests, and a split alone is no split.

    Raises ValueError for what may be either, and for a split that lacks its training part, or a class there.
    """
    tops: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        if len(path.parts) > 1:
            tops.setdefault(path.parts[0], []).append(path)
    stray = [p for p in paths if len(p.parts) < 2]
    parts = {top: part for top in tops if splits and (part := part_of(top))}
    deep = {top for top in parts if any(len(p.parts) > 2 for p in tops[top])}
    if not deep and (
        not parts or len(parts) < len(tops)
    ):  # a class may be called "train": it holds its images itself, as the others do
        if splits:
            _check_inside(tops)
        return Arranged(tuple((p, top, "") for top, own in tops.items() for p in own), tuple(stray))
    _check(list(tops), parts, deep)
    stray += [p for own in tops.values() for p in own if len(p.parts) < 3]
    files = [
        (p, p.parts[1], parts[top]) for top, own in tops.items() for p in own if len(p.parts) > 2
    ]
    if len(parts) == 1:
        return Arranged(
            tuple((p, label, "") for p, label, _ in files),
            tuple(stray),
            f"All of its images are in {next(iter(parts))}.",
            depth=1,
        )
    origin = "The folder's own split."
    if "test" not in parts.values():
        files = [(p, label, "test" if part == "val" else part) for p, label, part in files]
        origin = "The folder's own split, its validation images for the test."
    top_of = {
        ("test" if "test" not in parts.values() and part == "val" else part): top
        for top, part in parts.items()
    }
    return Arranged(tuple(files), tuple(stray), origin, _lacking(files, top_of), 1)


def _check(tops: Sequence[str], parts: Mapping[str, str], deep: set[str]) -> None:
    both = _named(list(parts))
    if others := [t for t in tops if t not in parts]:
        raise ValueError(
            f"{both} {_is(parts)} called like a split and {_named(others)} like a class: {REPAIR}, or all classes beside one another"
        )
    if flat := [t for t in parts if t not in deep]:
        raise ValueError(
            f"{_named(flat)} {_is(flat)} called like a split but {'holds' if len(flat) == 1 else 'hold'} no folders of classes: {REPAIR}"
        )
    for part in PARTS:
        if len(twice := [t for t, p in parts.items() if p == part]) > 1:
            raise ValueError(
                f"{_named(twice)} are called like the same part of a split: put them together, or rename one"
            )
    if len(parts) > 1 and "train" not in parts.values():
        raise ValueError(
            f"{both} are called like parts of a split that has no train: add it, or give the path of one of them"
        )


def _check_inside(tops: Mapping[str, Sequence[PurePosixPath]]) -> None:
    for top, own in tops.items():
        inside = sorted({p.parts[1] for p in own if len(p.parts) > 2 and part_of(p.parts[1])})
        if len({part_of(name) for name in inside}) > 1:
            raise ValueError(f"the class {top!r} holds a split, {_named(inside)}: {REPAIR}")


def _lacking(files: Sequence[tuple[PurePosixPath, str, str]], top_of: Mapping[str, str]) -> str:
    """Classes that parts lack, in words. Raises ValueError for one that there are no images to train on."""
    has = {part: {label for _, label, p in files if p == part} for part in top_of}
    found = []
    for part in ("test", "val"):
        if part not in has:
            continue
        if unknown := sorted(has[part] - has["train"]):
            top = top_of[part]
            raise ValueError(
                f"{top} holds {_named(unknown)}, and {top_of['train']} does not: put images there, or rename the folder if it is a known class"
            )
        if none := sorted(has["train"] - has[part]):
            found.append(f"{top_of[part]} has no image of {_named(none)}")
    return "; ".join(found)


def _named(names: Sequence[str], most: int = 3) -> str:
    shown = [repr(n) for n in names[:most]]
    return (
        f"{', '.join(shown)} and {len(names) - most} more"
        if len(names) > most
        else " and ".join((", ".join(shown[:-1]), shown[-1]))
        if len(shown) > 1
        else shown[0]
    )


def _is(names: Mapping[str, str] | Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
