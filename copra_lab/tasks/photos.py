"""Images as square tensors, from files or from whatever else holds them."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from copra_lab.tasks.decoding import (
    COMMON,
    FORMATS,
    UNREADABLE,
    PictureError,
    Readable,
    decoded,
    files_of,
)

IMAGE_FILES = files_of(COMMON)
"""Suffixes of the files that `photo` reads. Folders may hold more kinds (`decoding.FORMATS`)."""

MANY = 500
"""From this many images on, a progress bar shows."""

NAMED = 10
"""An error names this many images at most, besides the first."""

BATCH = 64
"""Images decoded at a time: undecoded ones may be a hundred times larger than the tensors."""

Fit = Callable[[Image.Image], torch.Tensor]
"""Makes an image square: RGB (h, w) → uint8 (side, side, 3)."""


def photo(
    picture: Readable, side: int = 64, name: str = "", fit: Fit | None = None
) -> torch.Tensor:
    """Read an image.

    Transparency becomes white, EXIF orientation is applied, and of several frames the first is
    used. Of more than 8 bits the high ones count: 16-bit integers are divided by 256 and rounded
    down, floats from 0 to 1 are multiplied by 255.

    Args:
        picture: An image, or a file of one.
        side: Width and height of the result in pixels.
        name: What errors call the image.
        fit: Makes the image square, such as a CLIP's own `copra_lab.models.clip.Clip.fit`; None
            takes the middle square.

    Returns:
        uint8 (side, side, 3).

    Raises:
        ValueError: It is not an image of a common format, takes too much memory (an image of
            `MEGAPIXELS` never does), or it is unknown which pixel value is white: 32-bit integers,
            and floats outside 0 to 1.
    """
    name = name or (str(picture) if isinstance(picture, str | Path) else "the picture")
    return square(picture, side, name, COMMON, fit)[0]


def square(
    picture: Readable, side: int, name: str, formats: Sequence[str], fit: Fit | None = None
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """An image as uint8 (side, side, 3), and what was unusual about it (see `decoding.Decoded`).

    Raises:
        PictureError: The image cannot be read.
    """
    try:
        found = decoded(picture, side, formats)
        return fit(found.image) if fit else middle(found.image, side), found.odd
    except UNREADABLE as e:
        raise PictureError(name, str(e) or type(e).__name__) from e


def middle(image: Image.Image, side: int) -> torch.Tensor:
    """The middle square of an image, uint8 (side, side, 3)."""
    return torch.from_numpy(np.array(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)))


@dataclass
class Read:
    """Images that were read together.

    Attributes:
        images: uint8 (n, side, side, 3).
        failed: The errors of the images, by index, that could not be read.
        odd: Counts of unusual images: of more than 8 bits ("deep"), nearly black ("dim"), with
            several frames ("frames").
    """

    images: torch.Tensor
    failed: dict[int, PictureError] = field(default_factory=dict)
    odd: Counter[str] = field(default_factory=Counter)


def photos(
    sources: Sequence[str],
    open_: Callable[[str], Readable],
    side: int,
    what: str = "images",
    fit: Fit | None = None,
) -> Read:
    """Read images on several threads.

    Args:
        sources: Names of the images.
        open_: Gives the image, or its file, of a source. It is called only on the caller's thread,
            shortly before an image is needed; its exceptions are not caught.
        side: Width and height of the images in pixels.
        what: What the progress bar calls the images.
        fit: See `photo`.
    """
    read = Read(torch.empty(len(sources), side, side, 3, dtype=torch.uint8))
    bar = tqdm(total=len(sources), desc=f"reading {what}", disable=len(sources) < MANY, leave=False)
    with ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(sources), BATCH):
            jobs = []
            for source in sources[start : start + BATCH]:
                picture = open_(source)
                name = str(picture) if isinstance(picture, str | Path) else source
                jobs.append(pool.submit(square, picture, side, name, tuple(FORMATS), fit))
            for i, job in enumerate(jobs, start):
                try:
                    read.images[i], odd = job.result()
                    read.odd.update(odd)
                except PictureError as e:
                    read.failed[i] = e
            bar.update(len(jobs))
    return read


def all_of(failed: Iterable[PictureError]) -> ValueError:
    """One error for all of them."""
    first, *others = failed
    if not others:
        return ValueError(str(first))
    names = ", ".join(e.name for e in others[:NAMED]) + (", …" if len(others) > NAMED else "")
    return ValueError(f"{first}; nor can {len(others)} more: {names}")
