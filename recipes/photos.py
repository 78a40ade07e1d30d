"""Photographs for pretraining, from wherever the user has them. None ever enters the repository or the package."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from copra_lab.concepts import plain

KEPT_BACK = 50
"""Photographs a class, the last ones, that pretraining never sees: for the model card's zero-shot figure."""


@dataclass(frozen=True)
class Photos:
    """`images` uint8 (n, 32, 32, 3), `labels` (n,), `names` of the classes, `train` (n,) False for those kept back."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    train: np.ndarray


def load_photos(source: str) -> Photos:
    """From an ``.npz`` of JPEGs (keys ``jpeg``, ``offsets``, ``labels``, ``names``), from a folder of class folders,
    or else from torchvision's CIFAR-100, downloaded into the folder `source`."""
    path = Path(source)
    if path.suffix == ".npz":
        z = np.load(path, allow_pickle=False)
        jpeg, at = z["jpeg"], z["offsets"]
        images = [Image.open(io.BytesIO(jpeg[a:b].tobytes())) for a, b in zip(at, at[1:], strict=False)]
        labels, names = z["labels"].astype(int), [str(n) for n in z["names"]]
    elif path.is_dir() and any(f.is_dir() and f.name != "cifar-100-python" for f in path.iterdir()):
        folders = sorted(f for f in path.iterdir() if f.is_dir())
        files = [(i, f) for i, folder in enumerate(folders) for f in sorted(folder.iterdir())]
        images, labels, names = [Image.open(f) for _, f in files], np.array([i for i, _ in files]), [f.name for f in folders]
    else:
        from torchvision.datasets import CIFAR100

        data = CIFAR100(source, train=True, download=True)
        images, labels, names = [Image.fromarray(i) for i in data.data], np.array(data.targets), data.classes
    pixels = np.stack([np.asarray(i.convert("RGB").resize((32, 32))) for i in tqdm(images, desc="photos", leave=False)])
    train = np.ones(len(labels), bool)
    for label in range(len(names)):
        train[np.flatnonzero(labels == label)[-KEPT_BACK:]] = False
    return Photos(pixels, labels, [plain(n) for n in names], train)
