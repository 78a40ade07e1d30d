"""Pictures as square tensors, from files or from whatever else holds them."""

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
"""How files that `photo` reads are called. A folder of images may hold some more kinds (`decoding.FORMATS`)."""

MANY = 500
"""Pictures whose reading a progress bar shows."""

NAMED = 10
"""Pictures that an error names, at most, beside the first."""

Fit = Callable[[Image.Image], torch.Tensor]
"""Makes a picture square: (h, w) RGB → uint8 (side, side, 3)."""


def photo(
    picture: Readable, side: int = 64, name: str = "", fit: Fit | None = None
) -> torch.Tensor:
    """An image, or a file of one, as uint8 (side, side, 3): its middle square, or what `fit` makes of it, such as a CLIP's own
    `copra_lab.models.clip.Clip.fit`. `name` is what an error calls it.

    Transparency lies on white, EXIF's orientation is followed, of several frames the first is taken. Of more than 8 bits the
    high ones count: whole numbers of 16 bits are divided by 256 and rounded down, floats from 0 to 1 multiplied by 255.

    Raises ValueError for what is no image of a common kind, takes too much memory (an image of `MEGAPIXELS` never does), or has
    pixels of which no white is known: 32-bit whole numbers, and floats beyond 0 to 1.
    """
    return square(
        picture,
        side,
        name or (str(picture) if isinstance(picture, str | Path) else "the picture"),
        COMMON,
        fit,
    )[0]


def square(
    picture: Readable, side: int, name: str, formats: Sequence[str], fit: Fit | None = None
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """A picture as uint8 (side, side, 3), and what was unusual about it (see `decoding.Decoded`). Raises PictureError."""
    try:
        found = decoded(picture, side, formats)
        return fit(found.image) if fit else middle(found.image, side), found.odd
    except UNREADABLE as e:
        raise PictureError(name, str(e) or type(e).__name__) from e


def middle(image: Image.Image, side: int) -> torch.Tensor:
    """The middle square of a picture, uint8 (side, side, 3)."""
    return torch.from_numpy(np.array(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)))


@dataclass
class Read:
    """``images`` uint8 (n, side, side, 3), of which those of ``failed`` (by their place) hold nothing. ``odd`` counts what was unusual:
    of more than 8 bits ("deep"), nearly black ("dim"), of several frames ("frames")."""

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
    """The pictures of `sources`, read on several threads. `open_` is called on the caller's thread alone, shortly before a picture is
    needed, and what it raises is not caught."""
    read = Read(torch.empty(len(sources), side, side, 3, dtype=torch.uint8))

    def named(source: str) -> tuple[Readable, str]:
        picture = open_(source)
        return picture, str(picture) if isinstance(picture, str | Path) else source

    with (
        ThreadPoolExecutor() as pool,
        tqdm(
            total=len(sources), desc=f"reading {what}", disable=len(sources) < MANY, leave=False
        ) as bar,
    ):
        for start in range(
            0, len(sources), 64
        ):  # a few at a time: a picture as it comes may be a hundred times larger
            some = [named(s) for s in sources[start : start + 64]]
            jobs = [
                pool.submit(square, picture, side, name, tuple(FORMATS), fit)
                for picture, name in some
            ]
            for i, job in enumerate(jobs, start):
                try:
                    read.images[i], odd = job.result()
                    read.odd.update(odd)
                except PictureError as e:
                    read.failed[i] = e
            bar.update(len(some))
    return read


def all_of(failed: Iterable[PictureError]) -> ValueError:
    """One error for all of them."""
    first, *others = failed
    names = [e.name for e in others]
    more = (
        f"; nor can {len(names)} more: {', '.join(names[:NAMED])}"
        + (", …" if len(names) > NAMED else "")
        if names
        else ""
    )
    return ValueError(f"{first}{more}")
