"""The tasks: small image classification problems to adapt the bundled CLIP to, and your own folder of images.

Three families (the table is in `catalogue`). *Held-out* tasks show drawings that pretraining never saw, of things whose
names it never met with an image. *Nuisance* tasks show drawings it knows in a way that it never saw them. *Far* tasks ask
what it was never asked.

Which drawings are for training, validation and test is fixed (see `sources`): a seed chooses the shots from the
training part and nothing else, so every seed and every number of shots is tested on the same images.
"""

import difflib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from copra_lab import sources as so
from copra_lab.catalogue import TASKS, Drawn, drawn
from copra_lab.nuisances import random_crop

if TYPE_CHECKING:
    from copra_lab.clip import Clip

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MEGAPIXELS = 40
"""Of an image file, at most: a small file can hold a picture that fills the memory."""


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

    def pick(self, rows: Sequence[int]) -> "Split":
        index = torch.tensor(rows, dtype=torch.int64)
        return Split(self.images[index], self.labels[index], tuple(self.sources[i] for i in rows))


@dataclass(frozen=True, eq=False)
class Task:
    """A classification problem: class names for CLIP's prompts, and images to train, validate and test on.

    `title` fits a menu, `about` says in a sentence or two what is asked and what pretraining knew of it. A class with
    few drawings has fewer than `shots` of them to train on. `flip` says whether a mirror image keeps its label.
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

    @property
    def prompts(self) -> list[str]:
        return [self.template.format(c) for c in self.classes]

    def with_classes(self, which: Sequence[int]) -> "Task":
        """The sub-task of telling apart the classes `which`; class ``which[i]`` is labelled i."""
        which = [int(c) for c in which]
        if not which or len(set(which)) < len(which) or not all(0 <= c < len(self.classes) for c in which):
            raise ValueError(f"choose different classes from 0 to {len(self.classes) - 1}, at least one; got {which}")

        def part(split: Split) -> Split:
            kept = split.pick([i for i, label in enumerate(split.labels.tolist()) if label in which])
            return replace(kept, labels=torch.tensor([which.index(label) for label in kept.labels.tolist()], dtype=torch.int64))

        name = f"{self.name}[{','.join(map(str, which))}]"  # its own, since results are kept by name
        train, val, test = map(part, (self.train, self.val, self.test))
        return replace(self, name=name, classes=tuple(self.classes[c] for c in which), train=train, val=val, test=test)

    def base_and_new(self) -> tuple["Task", "Task"]:
        """The first half of the classes (to train on) and the second (to test on), as in CoCoOp (arXiv:2203.05557)."""
        n = len(self.classes)
        return self.with_classes(range((n + 1) // 2)), self.with_classes(range((n + 1) // 2, n))

    def augment(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Random resized crops of float pixels (n, 3, h, w), mirrored at random where the task allows it; same shape."""
        return random_crop(pixels, generator, flip=self.flip)


def task_names() -> tuple[str, ...]:
    return tuple(TASKS)


@cache
def _test(name: str, side: int) -> Split:
    d = drawn(name, side)  # one tensor for every seed and number of shots
    return _split(d, "test", d.entries["test"])


def _split(d: Drawn, part: str, entries: Sequence[so.Entry]) -> Split:
    row = {e: i for i, e in enumerate(d.entries[part])}
    labels = torch.tensor([d.classes.index(e.label) for e in entries])
    images = d.images[part] if len(entries) == len(row) else d.images[part][[row[e] for e in entries]]
    return Split(images, labels, tuple(e.source for e in entries))


@cache
def _load(name: str, shots: int, seed: int, side: int) -> Task:
    recipe, d = TASKS[name], drawn(name, side)
    train = _split(d, "train", so.first(d.entries["train"], shots, f"{seed}/"))
    val = _split(d, "val", so.first(d.entries["val"], shots))
    return Task(name, recipe.title, recipe.about, d.classes, recipe.template, train, val, _test(name, side), shots, seed, recipe.flip)


def _check(shots: int, side: int) -> None:
    if shots < 1 or side < 16:
        raise ValueError(f"shots must be at least 1 and side at least 16 pixels; got shots={shots}, side={side}")


def load_task(name: str | Path, clip: "Clip | None" = None, *, shots: int = 16, seed: int = 0, side: int | None = None) -> Task:
    """A task by its name, one of `task_names()`, or from a folder of images (see `image_folder`). Named ones are kept in
    memory. Its images are `side` pixels wide and high: as many as `clip` takes, or else 64.

    `shots` training images a class, or as many as there are, chosen by `seed`, and as many validation images, always the same.

    Raises ValueError for an unknown name (it suggests the closest), for `shots` below 1 or `side` below 16.
    """
    side = side if side is not None else clip.side if clip else 64
    _check(shots, side)
    if name in TASKS:
        return _load(str(name), int(shots), int(seed), int(side))
    if os.path.isdir(os.path.expanduser(name)):  # unlike Path.is_dir, False for names too long and for none at all
        return image_folder(name, shots=shots, seed=seed, side=side)
    close = difflib.get_close_matches(str(name), TASKS, 1, 0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown task {str(name)!r}: {hint}give the path of a folder or one of {', '.join(TASKS)}")


def image_folder(path: str | Path, *, shots: int = 16, seed: int = 0, side: int = 64, template: str = "a photo of a {}") -> Task:
    """Your own task: a folder with one folder of images a class, named like the class. The files' names decide which
    images train, validate and test; equal files stay together. Images are cropped to a square.

    Raises FileNotFoundError where there is no such folder, and ValueError for fewer than two classes, a class with
    fewer than three different images, or a file that is no image.
    """
    _check(shots, side)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give a folder that holds one folder of images a class")
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if len(folders) < 2:
        raise ValueError(f"{root} holds {len(folders)} folders: a task needs two classes at least, one folder of images each")
    entries = so.dealt([e for folder in folders for e in _files(folder)])
    own = {part: [e for e in entries if e.part == part] for part in ("train", "val")}
    chosen = {
        "train": so.first(own["train"], shots, f"{seed}/"),
        "val": so.first(own["val"], shots),
        "test": so.tested(entries),
    }
    names = [f.name for f in folders]

    def split(part: str) -> Split:
        images = torch.stack([photo(root / e.source, side) for e in chosen[part]])
        return Split(images, torch.tensor([names.index(e.label) for e in chosen[part]]), tuple(e.source for e in chosen[part]))

    about = f"Your images in {root.name}, {len(names)} classes. Whether pretraining knew such things is for you to judge."
    classes = tuple(n.replace("_", " ") for n in names)
    return Task(str(root), root.name, about, classes, template, split("train"), split("val"), split("test"), shots, seed, True)


def _files(folder: Path) -> list[so.Entry]:
    """The images of a class, equal files in one group."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_FILES and not f.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} holds no image: put some there ({', '.join(IMAGE_FILES)}) or remove the folder")
    found = [so.Entry(f"{folder.name}/{f.name}", folder.name, hashlib.blake2b(f.read_bytes()).hexdigest()) for f in files]
    if (different := len({e.group for e in found})) < 3:
        raise ValueError(f"{folder} holds {different} different images: it needs three at least, to train, validate and test")
    return found


def photo(file: "str | Path | BinaryIO", side: int = 64) -> torch.Tensor:
    """An image file as uint8 (side, side, 3): its middle square, transparency on white.

    Raises ValueError for what is no image of a common kind, or one of more than `MEGAPIXELS`.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > 1e6 * MEGAPIXELS:
                raise ValueError(f"it has {opened.width * opened.height / 1e6:.0f} megapixels, and {MEGAPIXELS} are the most that is read")
            opened.draft("RGB", (8 * side, 8 * side))  # a large JPEG is read at a fraction of its size
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise ValueError(f"{file} cannot be read as an image ({e}): repair or remove it") from e
    white = Image.new("RGBA", image.size, "white")
    image = ImageOps.fit(Image.alpha_composite(white, image).convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image))
