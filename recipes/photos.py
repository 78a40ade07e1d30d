"""Photographs for pretraining, provided by the user. None is ever in the repository or package."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from copra_lab.tasks.emoji.concepts import plain

SIDE = 64
CARD, CHOICE = 50, 20
"""Photographs per class, the last ones of a file, that are never trained on.

The very last are for the model card, unless the data set has a separate file for that; those before
them are used for all decisions.
"""


@dataclass(frozen=True, eq=False)
class Photos:
    """One data set: ``images`` uint8 (n, 64, 64, 3), ``labels`` (n,) into ``names``, ``part`` (n,).

    A part is "train", "choice" or "card" (see `CARD`).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    part: np.ndarray

    def rows(self, part: str) -> np.ndarray:
        """Which images belong to a part."""
        return np.flatnonzero(self.part == part)


def load_photos(source: str, card: int = CARD) -> Photos:
    """Photographs at 64 pixels, their middle squares. The source is

    - an ``.npz`` with the bytes of image files (keys ``jpeg``, ``offsets``, ``labels``, ``names``),
    - Tiny ImageNet's archive, unpacked (a folder with ``words.txt`` and ``train/``),
    - a folder of class folders,
    - or else CIFAR-100, which torchvision downloads into the folder ``source``.

    ``card`` is the number of images per class to keep for the model card; 0 if another file serves
    for it.
    """
    path = Path(source)
    labels: Sequence[int] | np.ndarray
    if path.suffix == ".npz":
        images, labels, names = _packed(path)
    elif (path / "words.txt").is_file() and (path / "train").is_dir():
        images, labels, names = _tiny_imagenet(path)
    elif path.is_dir() and any(f.is_dir() and f.name != "cifar-100-python" for f in path.iterdir()):
        images, labels, names = _class_folders(path)
    else:
        from torchvision.datasets import CIFAR100

        data = CIFAR100(source, train=True, download=True)
        images, labels, names = (Image.fromarray(i) for i in data.data), data.targets, data.classes
    labels = np.asarray(labels, dtype=int)
    pixels = np.empty((len(labels), SIDE, SIDE, 3), np.uint8)
    for i, image in enumerate(
        tqdm(images, total=len(labels), desc=f"reading {path.name}", leave=False)
    ):
        pixels[i] = np.asarray(
            ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC)
        )
    part = np.full(len(labels), "train", dtype="<U6")
    for label in range(len(names)):
        own = np.flatnonzero(labels == label)[::-1]
        part[own[:card]] = "card"
        part[own[card : card + CHOICE]] = "choice"
    return Photos(path.stem, pixels, labels, tuple(plain(n) for n in names), part)


def _packed(path: Path) -> tuple[Iterator[Image.Image], np.ndarray, list[str]]:
    z = dict(np.load(path, allow_pickle=False))
    data, at = z["jpeg"], z["offsets"]
    images = (Image.open(io.BytesIO(data[a:b].tobytes())) for a, b in zip(at, at[1:], strict=False))
    return images, z["labels"], [str(n) for n in z["names"]]


def _tiny_imagenet(path: Path) -> tuple[Iterator[Image.Image], list[int], list[str]]:
    words = dict(
        line.split("\t", 1)
        for line in (path / "words.txt").read_text(encoding="utf-8").splitlines()
    )
    folders = sorted((path / "train").iterdir(), key=lambda f: words[f.name].split(",")[0].lower())
    files = [(i, f) for i, folder in enumerate(folders) for f in sorted(folder.rglob("*.JPEG"))]
    return (
        (Image.open(f) for _, f in files),
        [i for i, _ in files],
        [words[f.name].split(",")[0] for f in folders],
    )


def _class_folders(path: Path) -> tuple[Iterator[Image.Image], list[int], list[str]]:
    folders = sorted(f for f in path.iterdir() if f.is_dir())
    files = [(i, f) for i, folder in enumerate(folders) for f in sorted(folder.iterdir())]
    return (Image.open(f) for _, f in files), [i for i, _ in files], [f.name for f in folders]


def fingerprint(images: np.ndarray) -> str:
    """Names what is in an array of images."""
    return hashlib.blake2b(np.ascontiguousarray(images).data, digest_size=6).hexdigest()
