"""Tasks: small image classification problems to adapt a CLIP to.

There are bundled ones, the field's data sets, and your own images. The bundled ones (see
`emoji.catalogue`) come in four groups (`TASK_GROUPS`). *Near* tasks show drawings that pretraining
knows, changed in a way that it never saw or asked for anew. *Novel* tasks show drawings that it
never saw, of things whose names it never met with an image. *Structured* tasks ask what no name
tells: how many, where, which way. *Real* tasks show images that nobody drew for this package; the
field's data sets are real, too.

Which images train, validate and test is fixed: a seed only chooses the shots from the training
part, so every seed and every number of shots is tested on the same images.
"""

import os
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from copra_lab.tasks import benchmarks, folder, hugging_face
from copra_lab.tasks.data import Split, Task
from copra_lab.tasks.decoding import MEGAPIXELS
from copra_lab.tasks.emoji import selection as so
from copra_lab.tasks.emoji.catalogue import TASKS, Drawn, classes, drawn
from copra_lab.tasks.emoji.recipe import TASK_GROUPS
from copra_lab.tasks.listing import Listing
from copra_lab.tasks.photos import IMAGE_FILES, photo
from copra_lab.tasks.reading import split_of, task_of
from copra_lab.utils.checks import did_you_mean

if TYPE_CHECKING:
    from copra_lab.models.clip import Clip

__all__ = [
    "IMAGE_FILES",
    "MEGAPIXELS",
    "Split",
    "Task",
    "class_names",
    "image_folder",
    "load_task",
    "photo",
    "task_names",
]


def task_names(group: str | None = None) -> tuple[str, ...]:
    """The names of the bundled tasks.

    Args:
        group: Only those of this group, one of `TASK_GROUPS`.

    Raises:
        ValueError: There is no such group.
    """
    if group is not None and group not in TASK_GROUPS:
        raise ValueError(f"unknown group {group!r}; choose one of {', '.join(TASK_GROUPS)}")
    return tuple(name for name, recipe in TASKS.items() if group in (None, recipe.group))


def load_task(
    name: "str | Path | Any",
    clip: "Clip | None" = None,
    *,
    shots: int = 16,
    seed: int = 0,
    side: int | None = None,
    root: "str | Path | None" = None,
    test_images: int | None = so.MOST_TEST,
    download: bool = True,
    template: str | None = None,
    splits: bool = True,
) -> Task:
    """Load a task. Bundled ones are kept in memory.

    Args:
        name: One of `task_names()`, a data set of the field (``"oxford-pets"``, see
            `benchmarks.SETS`), a folder of images (see `image_folder`), a ``datasets.Dataset`` or
            ``DatasetDict`` of Hugging Face, or its `hugging_face.listing`.
        clip: Gives the size of the images, and how they are resized and cropped. Without it they
            are cropped to their middle square.
        shots: Training images per class, or as many as there are; as many validate, always the
            same ones.
        seed: Chooses the shots.
        side: Width and height of the images in pixels, instead of `clip`'s or else 64.
        root: For a data set of the field, the folder that holds it or is to hold it (see
            `benchmarks.data_folder`).
        test_images: Test images at most, the same number per class; None is all. Not for bundled
            tasks. At 224 pixels an image takes 0.15 MB, and in a `Bench` the same again with a
            ViT-B-32, or 0.6 MB with a ViT-B-16.
        download: For a data set of the field, whether to download it if it is missing.
        template: For your own images, the prompt with {} for the class name; None is
            "a photo of a {}".
        splits: For a folder, whether folders named like splits are a split, and not classes.

    Raises:
        ValueError: The name is unknown (the message suggests the closest), `shots` is below 1 or
            `side` below 16, or a `template` is given for a task that has its own; also what
            `benchmarks.listing`, `image_folder` and `hugging_face.listing` raise.
    """
    side = side if side is not None else clip.side if clip else 64
    _check(shots, side, test_images)
    named, own = isinstance(name, str | Path), template is not None or not splits
    if named and own and (name in TASKS or benchmarks.find(name)):
        raise ValueError(f"{name} has its own prompt and split: only your own images take another")
    if named and name in TASKS:
        return _bundled(str(name), int(shots), int(seed), int(side))
    found = _listing(name, root, download, template, splits)
    return task_of(found, clip, shots, seed, side, test_images)


def class_names(name: str | Path, *, splits: bool = True) -> tuple[str, ...]:
    """The classes of a task, in order, without loading its images or downloading any.

    Args:
        name: A task by name, or a folder of images.
        splits: As `load_task` has it.

    Raises:
        ValueError: As `load_task`; also for a data set of the field that is not there yet.
    """
    if name in TASKS:
        return classes(str(name))
    return tuple(_listing(name, None, False, None, splits).classes.values())


def _listing(
    name: Any, root: "str | Path | None", download: bool, template: str | None, splits: bool
) -> Listing:
    """See `load_task`."""
    if hugging_face.is_dataset(name):
        return hugging_face.listing(name, template=template)
    if isinstance(name, Listing):
        return name if template is None else hugging_face.with_template(name, template)
    if not isinstance(name, str | Path):
        kind = type(name).__name__
        raise ValueError(f"{kind} is not a task: give a name, a folder, or a Hugging Face data set")
    if key := benchmarks.find(name):
        return benchmarks.listing(key, root, download)
    if os.path.isdir(os.path.expanduser(name)):  # Path.is_dir fails for names that are too long
        return folder.listing(name, template, splits)
    known = [*TASKS, *benchmarks.SETS]
    raise ValueError(
        f"unknown task {str(name)!r}: {did_you_mean(str(name), known, 0.5)}give the path of a "
        f"folder (there is none of this name) or one of {', '.join(known)}"
    )


def image_folder(
    path: str | Path,
    *,
    shots: int = 16,
    seed: int = 0,
    side: int = 64,
    template: str | None = None,
    test_images: int | None = so.MOST_TEST,
    splits: bool = True,
    clip: "Clip | None" = None,
) -> Task:
    """Make a task of your own images: a folder with one folder per class, named after the class.

    Half of each class's images train, a fifth validate and three tenths test. The files' contents
    decide which: names do not matter, and equal files stay together. A folder that brings its own
    split, with folders like ``train``, ``val`` and ``test`` around the class folders, keeps it.
    If it lacks ``test``, its validation images test, and validation images are taken from
    ``train``. Of equal files in several parts only those that test are kept, or else those that
    validate. Unreadable files are skipped. The task's `about` says all of this.

    Args:
        path: The folder; class folders may contain folders.
        shots: Training and validation images per class, or as many as there are.
        seed: Chooses the shots.
        side: Width and height of the images in pixels. They are cropped to their middle square
            (see `photo`).
        template: The prompt with {} for the class name; None is "a photo of a {}".
        test_images: Test images at most, the same number per class; None is all.
        splits: Whether folders named like splits are a split, and not classes.
        clip: If `side` is what it takes, images are resized and cropped as its settings say.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are fewer than two classes, a class has no readable image (or fewer than
            three different ones, if they are yet to be split), or the split is unclear.
    """
    _check(shots, side, test_images)
    found = folder.listing(path, template, splits)
    return task_of(found, clip, shots, seed, side, test_images)


def _check(shots: int, side: int, test_images: int | None) -> None:
    if shots < 1 or side < 16:
        got = f"shots={shots}, side={side}"
        raise ValueError(f"shots must be at least 1 and side at least 16 pixels; got {got}")
    if test_images is not None and test_images < 1:
        raise ValueError(f"test_images must be at least 1, or None for all; got {test_images}")


@lru_cache(64)  # each holds its training images, and a sweep may use many seeds
def _bundled(name: str, shots: int, seed: int, side: int) -> Task:
    recipe, d = TASKS[name], drawn(name, side)
    train = _split(d, "train", so.first(d.entries["train"], shots, f"{seed}/"))
    val = _split(d, "val", so.first(d.entries["val"], shots))
    parts, texts = (train, val, _test(name, side)), (recipe.title, recipe.about)
    return Task(
        name, *texts, d.classes, recipe.template, *parts, shots, seed, recipe.flip,
        group=recipe.group, crop=recipe.crop,
    )  # fmt: skip


@cache
def _test(name: str, side: int) -> Split:
    d = drawn(name, side)  # one tensor for every seed and number of shots
    return _split(d, "test", d.entries["test"])


def _split(d: Drawn, part: str, entries: Sequence[so.Entry]) -> Split:
    row, images = {e: i for i, e in enumerate(d.entries[part])}, d.images[part]
    if len(entries) < len(row):
        images = images[[row[e] for e in entries]]
    return split_of(entries, images, d.classes)
