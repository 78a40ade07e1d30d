"""What a data set holds, listed before any of its images is read."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from copra_lab.tasks.decoding import FORMATS, UNREADABLE, Readable, files_of, opened
from copra_lab.tasks.emoji import selection as so
from copra_lab.tasks.splits import PARTS, arrange

TEMPLATE = "a photo of a {}"
"""The prompt of images that come without one."""

TEST_SHARE, VAL_SHARE = 0.3, 0.2
"""Of a data set without a split of its own, as CoOp deals it (arXiv:2109.01134); and of training images that have none to validate."""

IMAGES = files_of(tuple(FORMATS))
"""How images in a folder of one's own are called."""

LEFT_BEHIND = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
"""What systems put into folders by themselves; with every name that begins with a dot, it is as if it were not there."""

JUDGE = "Whether pretraining knew such things is for you to judge."


@dataclass(frozen=True)
class Listing:
    """`classes`: each label, in order, with the words for it in a prompt. `entries` have a label of these and a part.
    `open` gives the picture of an entry's source.

    `passed`: (name, reason) of what was passed over. `lenient`: pictures that cannot be read are passed over too, and not an error.
    `options`: what `load_task` needs, beside the name, to list the same again.
    """

    name: str
    title: str
    about: str
    classes: Mapping[str, str]
    template: str
    entries: Sequence[so.Entry]
    open: Callable[[str], Readable]
    passed: Sequence[tuple[str, str]] = ()
    lenient: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def parted(entries: Sequence[so.Entry]) -> list[so.Entry]:
    """Entries of which each has a part. Where none has one, half of each label's groups train, a fifth validates and three tenths test,
    dealt by hashing the groups' names, the same way everywhere; where none is there to validate, a fifth of each label's training
    groups is, by the same hash. A group that has several labels is in one part: the test's, or else that to validate."""
    entries = list(entries)
    if not any(e.part for e in entries):
        entries = so.dealt(entries, TEST_SHARE, VAL_SHARE)
    if not any(e.part == "val" for e in entries):
        train: dict[str, set[str]] = {}
        for e in entries:
            if e.part == "train":
                train.setdefault(e.label, set()).add(e.group)
        val: set[tuple[str, str]] = set()
        for label, own in train.items():
            fifth = round(VAL_SHARE * len(own)) or int(len(own) > 1)
            val.update((label, group) for group in sorted(own, key=so.rank)[:fifth])
        entries = [
            replace(e, part="val") if e.part == "train" and (e.label, e.group) in val else e
            for e in entries
        ]
    best = _best(entries)
    return [replace(e, part=best[e.group]) for e in entries]


def _best(entries: Sequence[so.Entry]) -> dict[str, str]:
    """The part that a group belongs to if it is in several: the images that test are left alone."""
    best: dict[str, str] = {}
    for e in entries:
        best[e.group] = max(best.get(e.group, e.part), e.part, key=PARTS.index)
    return best


def folder(path: "str | Path", template: str | None = None, splits: bool = True) -> Listing:
    """A folder with one folder of images a class, named like the class, with or without folders inside; or with folders ``train``,
    ``val`` and ``test`` (see `splits.arrange`) that hold these. Equal files are in one part: where a folder's own split has them in
    several, those to train on are left out before those to validate, and these before those that test.

    What is no image by its name, or cannot be opened as one, is passed over and named.

    Raises FileNotFoundError where there is no such folder, and ValueError for fewer than two classes, a class without images or,
    where they are dealt, with fewer than three different ones, a split that is not clear, and a template without {}.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}: give a folder that holds one folder of images a class"
        )
    words = check_template(template)
    found, passed = _images(root)
    try:
        arranged = arrange(list(found), splits)
    except ValueError as e:
        raise ValueError(
            f"{root}: {e}, or say splits=False (--no-splits) if these are names of classes"
        ) from e
    top = _folders(root)
    holding = {p.parts[0] for p in found}
    empty = [root / t for t in top if t not in holding]
    empty += [
        root / t / name
        for t in top
        if arranged.depth
        for name in arranged.without(_folders(root / t))
    ]
    if empty:
        inside = empty[0].relative_to(root).as_posix() + "/"
        why = next(
            (f" (of {name}: {reason})" for name, reason in passed if name.startswith(inside)), ""
        )
        raise ValueError(
            f"{empty[0]} holds no image that can be read{why}: put some there (PNG, JPEG, WebP, TIFF, …), or move the folder away"
        )
    labels = sorted({label for _, label, _ in arranged.files})
    if len(labels) < 2:
        raise ValueError(
            f"{root} holds {len(labels)} folders of images: a task needs two classes at least, one folder of images each"
        )
    classes = {name: name.replace("_", " ") for name in labels}
    if len(set(classes.values())) < len(labels):
        same = next(w for w in classes.values() if list(classes.values()).count(w) > 1)
        raise ValueError(
            f"{root} holds two classes that both read {same!r}, and no prompt could tell them apart: rename one"
        )
    entries = [so.Entry(p.as_posix(), label, found[p], part) for p, label, part in arranged.files]
    passed += [(p.as_posix(), "in no class's folder") for p in arranged.stray]
    split, dropped = (
        _own_split(entries, root) if any(e.part for e in entries) else (_dealt(entries, root), 0)
    )
    about = [f"Your images in {root.name}, {len(labels)} classes."]
    about += [arranged.origin] if arranged.origin else []
    if not any(e.part for e in entries):
        about.append("Half train, a fifth validates, three tenths test, by what the files contain.")
    elif not any(e.part == "val" for e in entries):
        about.append("A fifth of its training images validates.")
    about += [f"{arranged.lacking}."] if arranged.lacking else []
    about += [f"{dropped:,} left out since the same file tests or validates."] if dropped else []
    if several := _in_several_classes(entries):
        about.append(
            f"{several:,} file{'s are' if several > 1 else ' is'} in more than one class, such as {_first_twice(entries)}."
        )
    about += [f"The prompt is “{words}”.", JUDGE]
    options = ({"template": words} if template else {}) | ({} if splits else {"splits": False})
    return Listing(
        str(root),
        root.name,
        " ".join(about),
        classes,
        words,
        split,
        lambda s: root / s,
        passed,
        lenient=True,
        options=options,
    )


def check_template(template: str | None) -> str:
    """The template, or the usual one for None. Raises ValueError where it is not a text with {} once."""
    if template is None:
        return TEMPLATE
    if (
        not isinstance(template, str)
        or template.count("{}") != 1
        or set("{}") & set(template.replace("{}", ""))
    ):
        raise ValueError(
            f"a template holds {{}} once, where the class's name stands, such as {TEMPLATE!r}; got {template!r}"
        )
    return template


def _images(root: Path) -> tuple[dict[PurePosixPath, str], list[tuple[str, str]]]:
    """The images below a folder with a hash of what each contains, and (name, reason) of other files."""
    found: dict[PurePosixPath, str] = {}
    passed = []
    for file in _files(root):
        name = PurePosixPath(file.relative_to(root).as_posix())
        if file.suffix.lower() not in IMAGES:
            passed.append((str(name), "no image by its name"))
            continue
        try:
            with open(file, "rb") as f:
                found_hash = hashlib.file_digest(f, "blake2b").hexdigest()
            with opened(file):
                found[name] = found_hash
        except UNREADABLE as e:
            passed.append((str(name), str(e)))
    return found, passed


def _files(root: Path) -> Iterator[Path]:
    """All files below a folder, also behind links, but each folder once."""
    seen = set()
    for here, folders, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = [
            f
            for f in sorted(folders)
            if not _left_behind(f) and os.path.realpath(os.path.join(here, f)) not in seen
        ]
        yield from (
            f
            for name in sorted(files)
            if not _left_behind(name) and (f := Path(here, name)).is_file()
        )


def _folders(here: Path) -> list[str]:
    return sorted(f.name for f in here.iterdir() if f.is_dir() and not _left_behind(f.name))


def _left_behind(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BEHIND


def _dealt(entries: Sequence[so.Entry], root: Path) -> list[so.Entry]:
    different: dict[str, set[str]] = {}
    for e in entries:
        different.setdefault(e.label, set()).add(e.group)
    for label, own in different.items():
        if len(own) < 3:
            raise ValueError(
                f"{root / label} holds {len(own)} different images: it needs three at least, to train, validate and test; add some, or move the folder away"
            )
    return parted(entries)


def _own_split(entries: Sequence[so.Entry], root: Path) -> tuple[list[so.Entry], int]:
    """The entries of which none is in two parts, and how many were left out for that."""
    best = _best(entries)
    kept = [e for e in entries if e.part == best[e.group]]
    if gone := {e.label for e in entries if e.part == "train"} - {
        e.label for e in kept if e.part == "train"
    }:
        raise ValueError(
            f"{root}: every training image of {min(gone)!r} also tests or validates: remove it there, or add others"
        )
    return parted(kept), len(entries) - len(kept)


def _in_several_classes(entries: Sequence[so.Entry]) -> int:
    labels: dict[str, set[str]] = {}
    for e in entries:
        labels.setdefault(e.group, set()).add(e.label)
    return sum(len(own) > 1 for own in labels.values())


def _first_twice(entries: Sequence[so.Entry]) -> str:
    labels: dict[str, str] = {}
    return next(e.source for e in entries if labels.setdefault(e.group, e.label) != e.label)


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name."""
    return sorted(
        f
        for f in folder.iterdir()
        if f.suffix.lower() in IMAGES and not f.name.startswith(".") and f.is_file()
    )
