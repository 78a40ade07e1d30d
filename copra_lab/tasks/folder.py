"""A folder of your own images, with one folder per class."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from copra_lab.tasks.decoding import FORMATS, UNREADABLE, files_of, opened
from copra_lab.tasks.emoji import selection as so
from copra_lab.tasks.listing import (
    JUDGE,
    LEFT_BEHIND,
    Listing,
    check_template,
    parted,
)
from copra_lab.tasks.splits import Arranged, arrange

IMAGES = files_of(tuple(FORMATS))
"""Suffixes of image files in a folder."""

Files = Mapping[PurePosixPath, str]
"""Image files below the root, with a hash of each one's contents."""


def listing(path: "str | Path", template: str | None = None, splits: bool = True) -> Listing:
    """List a folder with one folder per class, named after the class; they may be nested.

    It may instead hold the folders ``train``, ``val`` and ``test`` (see `splits.arrange`) with
    these folders inside. Equal files are in one part: if the folder's own split repeats a file,
    copies that train give way to those that validate, and these to those that test. Files that
    are not images, or cannot be opened as such, are skipped and named.

    Args:
        path: The folder.
        template: The prompt with {} for the class name; None is "a photo of a {}".
        splits: Whether folders named like splits are a split, and not classes.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are fewer than two classes, a class has no images (or fewer than three
            different ones, if they are yet to be split), the split is unclear, or the template
            lacks {}.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give one with one folder of images a class")
    prompt = check_template(template)
    files, passed = _images(root)
    try:
        arranged = arrange(list(files), splits)
    except ValueError as e:
        raise ValueError(
            f"{root}: {e}, or set splits=False (--no-splits) if these are class names"
        ) from e
    _check_empty(root, arranged, files, passed)
    classes = _classes(root, arranged)
    entries = [so.Entry(p.as_posix(), label, files[p], part) for p, label, part in arranged.files]
    split = _own_split(entries, root) if any(e.part for e in entries) else _deal(entries, root)
    about = _about(root, arranged, entries, len(entries) - len(split))
    about = f"{about} The prompt is “{prompt}”. {JUDGE}"
    passed += [(p.as_posix(), "not in a class folder") for p in arranged.stray]
    options = ({"template": prompt} if template else {}) | ({} if splits else {"splits": False})
    texts, open_ = (str(root), root.name, about), root.joinpath
    return Listing(*texts, classes, prompt, split, open_, passed, lenient=True, options=options)


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name."""
    return sorted(
        f
        for f in folder.iterdir()
        if f.suffix.lower() in IMAGES and not f.name.startswith(".") and f.is_file()
    )


def _images(root: Path) -> tuple[dict[PurePosixPath, str], list[tuple[str, str]]]:
    """The images below a folder, and (name, reason) of the other files."""
    found: dict[PurePosixPath, str] = {}
    passed = []
    for file in _files(root):
        name = PurePosixPath(file.relative_to(root).as_posix())
        if file.suffix.lower() not in IMAGES:
            passed.append((str(name), "unsupported file type"))
            continue
        try:
            with open(file, "rb") as f:
                contents = hashlib.file_digest(f, "blake2b").hexdigest()
            with opened(file):
                found[name] = contents
        except UNREADABLE as e:
            passed.append((str(name), str(e)))
    return found, passed


def _files(root: Path) -> Iterator[Path]:
    """All files below a folder; links are followed, each folder is visited once."""
    seen = set()
    for here, folders, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(here))
        names = [f for f in sorted(folders) if not _left_behind(f)]
        folders[:] = [f for f in names if os.path.realpath(os.path.join(here, f)) not in seen]
        paths = (Path(here, name) for name in sorted(files) if not _left_behind(name))
        yield from (f for f in paths if f.is_file())


def _folders(here: Path) -> list[str]:
    return sorted(f.name for f in here.iterdir() if f.is_dir() and not _left_behind(f.name))


def _left_behind(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def _check_empty(
    root: Path, arranged: Arranged, files: Files, passed: Sequence[tuple[str, str]]
) -> None:
    top, holding = _folders(root), {p.parts[0] for p in files}
    empty = [root / t for t in top if t not in holding]
    if arranged.depth:
        empty += [root / t / n for t in top for n in arranged.without(_folders(root / t))]
    if empty:
        inside = empty[0].relative_to(root).as_posix() + "/"
        reasons = (f" ({name}: {reason})" for name, reason in passed if name.startswith(inside))
        why = next(reasons, "")
        raise ValueError(f"{empty[0]} has no readable image{why}: add some, or move it away")


def _classes(root: Path, arranged: Arranged) -> dict[str, str]:
    """The folders' names, in order, each with the class name for prompts."""
    labels = sorted({label for _, label, _ in arranged.files})
    if len(labels) < 2:
        raise ValueError(
            f"{root} has {len(labels)} folders of images: a task needs two or more, one for a class"
        )
    classes = {name: name.replace("_", " ") for name in labels}
    names = list(classes.values())
    if same := next((n for n in names if names.count(n) > 1), None):
        raise ValueError(f"{root} has two classes named {same!r} in prompts: rename one")
    return classes


def _deal(entries: Sequence[so.Entry], root: Path) -> list[so.Entry]:
    for label, groups in so.groups_by_label(entries).items():
        if len(groups) < 3:
            raise ValueError(
                f"{root / label} has {len(groups)} different images: it needs three, to train, "
                "validate and test; add some, or move the folder away"
            )
    return parted(entries)


def _own_split(entries: Sequence[so.Entry], root: Path) -> list[so.Entry]:
    """The entries without copies that are in another part too."""
    part = so.part_of_groups(entries)
    kept = [e for e in entries if e.part == part[e.group]]
    before, after = ({e.label for e in es if e.part == "train"} for es in (entries, kept))
    if lost := before - after:
        raise ValueError(
            f"{root}: every training image of {min(lost)!r} also tests or validates: add others"
        )
    return parted(kept)


def _about(root: Path, arranged: Arranged, entries: Sequence[so.Entry], dropped: int) -> str:
    about = [f"Your images in {root.name}, {len({e.label for e in entries})} classes."]
    about += [arranged.origin] if arranged.origin else []
    if not any(e.part for e in entries):
        about.append("Half train, a fifth validates, three tenths test, by what the files contain.")
    elif not any(e.part == "val" for e in entries):
        about.append("A fifth of its training images validates.")
    about += [f"{arranged.lacking}."] if arranged.lacking else []
    about += [f"{dropped:,} left out since the same file tests or validates."] if dropped else []
    first: dict[str, str] = {}
    again = [e for e in entries if first.setdefault(e.group, e.label) != e.label]
    if several := len({e.group for e in again}):
        files = f"{several:,} files are" if several > 1 else "1 file is"
        about.append(f"{files} in more than one class, such as {again[0].source}.")
    return " ".join(about)
