"""Pictures as square tensors, from files or from whatever else holds them."""

import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MEGAPIXELS = 40
"""Of an image file, at most: a small file can hold a picture that fills the memory."""

UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow raises for files that are damaged or made to harm."""

MANY = 500
"""Pictures whose reading a progress bar shows."""

NAMED = 10
"""Pictures that an error names, at most, beside the first."""

Readable = str | Path | BinaryIO | Image.Image
Fit = Callable[[Image.Image], torch.Tensor]


def photo(picture: Readable, side: int = 64, name: str = "", fit: Fit | None = None) -> torch.Tensor:
    """An image, or a file of one, as uint8 (side, side, 3): its middle square, transparency on white, or what `fit` makes of an RGB
    image, such as a CLIP's own `copra_lab.clip.Clip.fit`. `name` is what an error calls it.

    Raises ValueError for what is no image of a common kind, or one of more than `MEGAPIXELS`.
    """
    try:
        if isinstance(picture, Image.Image):
            image = _opaque(picture)
        else:
            with Image.open(picture, formats=FORMATS) as opened:
                if opened.width * opened.height > 1e6 * MEGAPIXELS:
                    raise ValueError(f"it has {opened.width * opened.height / 1e6:.0f} megapixels, and {MEGAPIXELS} are the most that is read")
                opened.draft("RGB", (8 * side, 8 * side))  # a large JPEG is read at a fraction of its size
                image = _opaque(opened)
    except UNREADABLE as e:
        raise ValueError(f"{name or picture} cannot be read as an image ({e}): repair or remove it") from e
    if fit is not None:
        return fit(image)
    return torch.from_numpy(np.array(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)))


def _opaque(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def photos(sources: Sequence[str], open_: Callable[[str], Readable], side: int, what: str = "images", fit: Fit | None = None) -> torch.Tensor:
    """The pictures of `sources`, uint8 (n, side, side, 3), read on several threads. `open_` is called on the caller's thread
    alone, shortly before a picture is needed. Raises as `photo` does, but for all pictures that cannot be read at once."""
    out = torch.empty(len(sources), side, side, 3, dtype=torch.uint8)
    bad: dict[str, ValueError] = {}
    with ThreadPoolExecutor() as pool, tqdm(total=len(sources), desc=f"reading {what}", disable=len(sources) < MANY, leave=False) as bar:
        for start in range(0, len(sources), 64):  # a few at a time: a picture as it comes may be a hundred times larger
            some = [open_(s) for s in sources[start : start + 64]]
            names = [str(p) if isinstance(p, str | Path) else s for p, s in zip(some, sources[start : start + 64], strict=True)]
            for i, (name, read) in enumerate([(n, pool.submit(photo, p, side, n, fit)) for p, n in zip(some, names, strict=True)], start):
                try:
                    out[i] = read.result()
                except ValueError as e:
                    bad[name] = e
            bar.update(len(some))
    if bad:
        first, *others = bad
        more = f"; nor can {len(others)} more: {', '.join(others[:NAMED])}" + (", …" if len(others) > NAMED else "") if others else ""
        raise ValueError(f"{bad[first]}{more}") from bad[first]
    return out
