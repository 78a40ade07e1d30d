"""The tasks: small image classification problems to adapt a CLIP to: the bundled ones, the field's, and your own images.

Three families of bundled ones (the table is in `catalogue`). *Held-out* tasks show drawings that pretraining never saw, of things whose
names it never met with an image. *Nuisance* tasks show drawings it knows in a way that it never saw them. *Far* tasks ask
what it was never asked.

Which drawings are for training, validation and test is fixed (see `sources`): a seed chooses the shots from the
training part and nothing else, so every seed and every number of shots is tested on the same images. So it is with the data
sets of the field (see `datasets`), with a folder, and with a Hugging Face data set.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from copra_lab.tasks import benchmarks, hugging_face
from copra_lab.tasks.decoding import MEGAPIXELS
from copra_lab.tasks.emoji import selection as so
from copra_lab.tasks.emoji.catalogue import TASKS, Drawn, drawn
from copra_lab.tasks.emoji.corruptions import random_crop
from copra_lab.tasks.listing import Listing, folder
from copra_lab.tasks.photos import IMAGE_FILES, Fit, photo
from copra_lab.tasks.reading import Choice, Reading

if TYPE_CHECKING:
    from copra_lab.models.clip import Clip

__all__ = [
    "IMAGE_FILES",
    "MEGAPIXELS",
    "Split",
    "Task",
    "image_folder",
    "load_task",
    "photo",
    "task_names",
]


@dataclass(frozen=True, eq=False)
class Split:
    """`images` uint8 (n, side, side, 3), `labels` int64 (n,), `sources` names what each image shows: ``twemoji:1f415``.

    Tasks share these tensors: read them, never write into them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        return f"Split({len(self)} images)"

    def pick(self, rows: Sequence[int]) -> "Split":
        """The split with these rows only, in this order."""
        index = torch.tensor(rows, dtype=torch.int64)
        return Split(self.images[index], self.labels[index], tuple(self.sources[i] for i in rows))


@dataclass(frozen=True, eq=False)
class Task:
    """A classification problem: class names for CLIP's prompts, and images to train, validate and test on.

    `title` fits a menu, `about` says in a sentence or two what is asked and what pretraining knew of it. A class with
    few drawings has fewer than `shots` of them to train on. `flip` says whether a mirror image keeps its label.

    `notes` are sentences of `about` that say what was passed over and what was unusual. `options` of `load_task`, beside the name,
    make the same task again; they are in the provenance of what is trained on it.
    """

    name: str
    title: str
    about: str
    classes: tuple[str, ...]
    template: str
    train: Split
    val: Split
    test: Split
    shots: int
    seed: int
    flip: bool
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Task({self.name}, {self.counts})"

    @property
    def counts(self) -> str:
        """How much there is of everything, in words."""
        return f"{len(self.classes)} classes, images: {len(self.train)} to train, {len(self.val)} to validate, {len(self.test)} to test"

    @property
    def prompts(self) -> list[str]:
        """A text for each class, in order: the template with its name."""
        return [self.template.format(c) for c in self.classes]

    def with_classes(self, which: Sequence[int]) -> "Task":
        """The sub-task of telling apart the classes `which`; class ``which[i]`` is labelled i."""
        which = [int(c) for c in which]
        if (
            not which
            or len(set(which)) < len(which)
            or not all(0 <= c < len(self.classes) for c in which)
        ):
            raise ValueError(
                f"choose different classes from 0 to {len(self.classes) - 1}, at least one; got {which}"
            )

        def part(split: Split) -> Split:
            kept = split.pick(
                [i for i, label in enumerate(split.labels.tolist()) if label in which]
            )
            return replace(
                kept,
                labels=torch.tensor(
                    [which.index(label) for label in kept.labels.tolist()], dtype=torch.int64
                ),
            )

        name = (
            f"{self.name}[{','.join(map(str, which))}]"  # its own, since results are kept by name
        )
        train, val, test = map(part, (self.train, self.val, self.test))
        return replace(
            self,
            name=name,
            classes=tuple(self.classes[c] for c in which),
            train=train,
            val=val,
            test=test,
        )

    def base_and_new(self) -> tuple["Task", "Task"]:
        """The first half of the classes (to train on) and the second (to test on), as in CoCoOp (arXiv:2203.05557)."""
        n = len(self.classes)
        return self.with_classes(range((n + 1) // 2)), self.with_classes(range((n + 1) // 2, n))

    def augment(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Random resized crops of float pixels (n, 3, h, w), mirrored at random where the task allows it; same shape."""
        return random_crop(pixels, generator, flip=self.flip)


def task_names() -> tuple[str, ...]:
    """The bundled tasks."""
    return tuple(TASKS)


@cache
def _test(name: str, side: int) -> Split:
    d = drawn(name, side)  # one tensor for every seed and number of shots
    return _split(d, "test", d.entries["test"])


def _split(d: Drawn, part: str, entries: Sequence[so.Entry]) -> Split:
    row = {e: i for i, e in enumerate(d.entries[part])}
    labels = torch.tensor([d.classes.index(e.label) for e in entries])
    images = (
        d.images[part] if len(entries) == len(row) else d.images[part][[row[e] for e in entries]]
    )
    return Split(images, labels, tuple(e.source for e in entries))


@lru_cache(64)  # each holds its training images, and a sweep may go through many seeds
def _load(name: str, shots: int, seed: int, side: int) -> Task:
    recipe, d = TASKS[name], drawn(name, side)
    train = _split(d, "train", so.first(d.entries["train"], shots, f"{seed}/"))
    val = _split(d, "val", so.first(d.entries["val"], shots))
    return Task(
        name,
        recipe.title,
        recipe.about,
        d.classes,
        recipe.template,
        train,
        val,
        _test(name, side),
        shots,
        seed,
        recipe.flip,
    )


def _check(shots: int, side: int, test_images: int | None) -> None:
    if shots < 1 or side < 16:
        raise ValueError(
            f"shots must be at least 1 and side at least 16 pixels; got shots={shots}, side={side}"
        )
    if test_images is not None and test_images < 1:
        raise ValueError(f"test_images must be at least 1, or None for all; got {test_images}")


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
    """A task by its name, one of `task_names()` or of `datasets.SETS` (``"oxford-pets"``), from a folder of images (see
    `image_folder`), or from a ``datasets.Dataset`` or ``DatasetDict`` of Hugging Face, or its `hf_datasets.listing`. Bundled ones are
    kept in memory. Its images are `side` pixels wide and high: as many as `clip` takes, resized and cropped as its own settings say, or else 64,
    the middle square.

    `shots` training images a class, or as many as there are, chosen by `seed`, and as many validation images, always the same.

    Of all but the bundled tasks: ``test_images``, how many images to test on at most, the same number a class; None for all: at 224
    pixels an image takes 0.15 MB, and a `Bench` as much again with a ViT-B-32, 0.6 MB with a ViT-B-16. Of a data set of the field: ``root``, the folder that it lies in or is downloaded to (see
    `datasets.data_folder`), and whether to ``download`` it if it is not there. Of a folder or a Hugging Face data set: ``template``, the
    prompt with {} for a class's name; None is "a photo of a {}". Of a folder: ``splits=False`` takes its folders for classes whatever
    their names.

    Raises ValueError for an unknown name (it suggests the closest), for `shots` below 1 or `side` below 16, for a `template` of a task
    that has its own, and what `datasets.listing`, `image_folder` and `hf_datasets.listing` raise.
    """
    side = side if side is not None else clip.side if clip else 64
    fit = _fit(clip, side)
    _check(shots, side, test_images)
    if hugging_face.is_dataset(name):
        name = hugging_face.listing(name)
    if isinstance(name, Listing):
        found = name if template is None else hugging_face.with_template(name, template)
        return of_listing(found, shots, seed, side, test_images, fit)
    if not isinstance(name, str | Path):
        raise ValueError(
            f"{type(name).__name__} is no task: give a name, the path of a folder, or a Hugging Face data set"
        )
    key = benchmarks.find(name)
    if (template is not None or not splits) and (name in TASKS or key):
        raise ValueError(
            f"{name} has its own prompt and split: template and splits are for images of yours"
        )
    if name in TASKS:
        return _load(str(name), int(shots), int(seed), int(side))
    if key:
        return of_listing(
            benchmarks.listing(key, root, download), shots, seed, side, test_images, fit
        )
    if os.path.isdir(
        os.path.expanduser(name)
    ):  # unlike Path.is_dir, False for names too long and for none at all
        return image_folder(
            name,
            shots=shots,
            seed=seed,
            side=side,
            template=template,
            test_images=test_images,
            splits=splits,
            clip=clip,
        )
    known = [*TASKS, *benchmarks.SETS]
    close = difflib.get_close_matches(str(name), known, 1, 0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"unknown task {str(name)!r}: {hint}give the path of a folder (there is none of this name) or one of {', '.join(known)}"
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
    """Your own task: a folder with one folder of images a class, named like the class, with or without folders inside. Of each class
    half of the images train, a fifth validates and three tenths test, decided by what the files contain: their names do not matter,
    and equal files stay together. Images are cropped to their middle square, or if `side` is what `clip` takes, as its own settings
    say (see `photo` for what else is done to them).

    A folder that brings its own split, folders like ``train``, ``val`` and ``test`` with these folders of classes inside, is used as it
    is, unless ``splits`` is False. Without ``test`` its validation images test, and validation images are dealt from ``train``; of equal
    files in several parts only those that test are kept, or else those that validate. What is no image that can be read is passed over.
    The task's `about` says all of this.

    Raises FileNotFoundError where there is no such folder, and ValueError for fewer than two classes, a class with fewer than three
    different images where they are dealt, a class of which no image can be read, and a split that is not clear.
    """
    _check(shots, side, test_images)
    return of_listing(
        folder(path, template, splits), shots, seed, side, test_images, _fit(clip, side)
    )


def _fit(clip: "Clip | None", side: int) -> Fit | None:
    return clip.fit if clip and clip.side == side else None


def of_listing(
    found: Listing,
    shots: int,
    seed: int,
    side: int,
    test_images: int | None,
    fit: Fit | None = None,
) -> Task:
    """The task of a listing. Raises ValueError where there is nothing to train or to test on, or a picture cannot be read; of a lenient
    listing, where none of a class can be."""
    reading = Reading(found, side, fit)
    number = {label: i for i, label in enumerate(found.classes)}

    def split(part: str, verb: str, choose: Choice) -> Split:
        entries, images = reading.part(part, verb, choose)
        return Split(
            images,
            torch.tensor([number[e.label] for e in entries], dtype=torch.int64),
            tuple(e.source for e in entries),
        )

    train = split("train", "train", lambda own: so.first(own, shots, f"{seed}/"))
    val = split("val", "validate", lambda own: so.first(own, shots))
    test = split("test", "test", lambda own: so.tested(own, test_images))
    n, notes, classes = reading.readable("test"), reading.notes(), tuple(found.classes.values())
    about = " ".join(
        (
            found.about,
            *([f"Tested on {len(test):,} of {n:,} images."] if len(test) < n else []),
            *notes,
        )
    )
    return Task(
        found.name,
        found.title,
        about,
        classes,
        found.template,
        train,
        val,
        test,
        shots,
        seed,
        True,
        notes,
        found.options,
    )
