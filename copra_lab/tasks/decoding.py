"""Image files as 8-bit RGB: supported formats, conversion of more than 8 bits, memory limits.

Of integers with more than 8 bits (PNG, TIFF, PGM, JPEG 2000) the high byte counts; white is the
largest number that the format can hold, 65535, or 4095 in a 12-bit TIFF. Of floats 0 is black and 1
is white. Pillow itself clips both at 255 when asked for RGB. If it is unknown which value is white
(32-bit integers, signed ones, floats outside 0 to 1), the image is refused.

Everything else is as in Pillow: transparency becomes white, EXIF orientation is applied, of several
frames or pages the first is used, and colour profiles are ignored.
"""

import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "ICO": (".ico",),
    "PCX": (".pcx",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
"""Supported formats by Pillow's names, with their suffixes.

None starts another program (EPS) or holds more than images (PDF, WMF).
"""

COMMON = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
"""Formats that are accepted from strangers: their decoders are widely used and fast."""

UNMARKED = ("PCX", "TGA")
"""Formats whose first bytes hardly differ from noise: read only if the file's suffix says so."""

MEGAPIXELS = 64
"""An image of this size is always read; a larger one if it takes no more than `MEMORY`."""

MEMORY = 8_000_000 * MEGAPIXELS
"""Bytes that decoding one image may take: a small file can hold an image that fills the memory.

Every image takes 4 bytes a pixel, since it becomes RGB. A JPEG is shrunk while it is read: it
counts 1 byte for each of its pixels, or if it is progressive 2 for each pixel and channel.
"""

LARGE = 64_000_000
"""From this many bytes on, images are decoded one at a time and shrunk before anything else."""

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for damaged or malicious files."""

Readable = str | Path | BinaryIO | Image.Image

_ONE_LARGE = threading.Lock()
_SPREAD = {"L;2": 85, "L;4": 17}
"""Pillow spreads the greys of such a PNG over 0 to 255, but not its transparent grey."""


class PictureError(ValueError):
    """A file is not an image, or cannot be read. `reason` says only why."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"{name} cannot be read as an image ({reason}): repair or remove it")


@dataclass(frozen=True)
class Decoded:
    """An image as 8-bit RGB.

    Attributes:
        image: The image.
        odd: What was unusual: it had more bits ("deep"); it had more bits but used less than a
            sixteenth of their range, so that hardly anything is left of it ("dim"); it has several
            frames or pages ("frames").
    """

    image: Image.Image
    odd: tuple[str, ...] = ()


def files_of(formats: Sequence[str]) -> tuple[str, ...]:
    """The suffixes of files of these formats."""
    return tuple(suffix for f in formats for suffix in FORMATS[f])


@contextmanager
def opened(
    file: "str | Path | BinaryIO", formats: Sequence[str] = tuple(FORMATS)
) -> Iterator[Image.Image]:
    """Open an image and read its header only.

    Like ``Image.open`` without its limit on pixels, which is global and would refuse or warn about
    a large JPEG that takes little memory.

    Raises:
        ValueError: It is not an image of these formats; also what Pillow raises (`UNREADABLE`).
    """
    Image.init()
    named = Path(file).suffix.lower() if isinstance(file, str | Path) else ""
    with open(file, "rb") if isinstance(file, str | Path) else nullcontext(file) as f:
        head = f.read(16)
        for format in formats:
            if format not in Image.OPEN or (format in UNMARKED and named not in FORMATS[format]):
                continue
            factory, accepts = Image.OPEN[format]
            try:
                fits = accepts is None or accepts(head)
                if not fits or isinstance(fits, str):  # a string names a missing library
                    continue
                f.seek(0)
                image = factory(f, str(file) if named else "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # try another format
                continue
            with image:
                yield image
            return
    raise ValueError("not a supported image format")


def shrink(image: Image.Image, side: int) -> int:
    """Make a JPEG decode at a fraction of its size, but at least 8 × `side` pixels.

    Returns:
        Approximately how many bytes decoding the image takes.

    Raises:
        ValueError: It takes more than `MEMORY`.
    """
    pixels = image.width * image.height
    image.draft("RGB", (8 * side, 8 * side))
    cost = 4 * image.width * image.height
    if image.format in ("JPEG", "MPO"):
        per_pixel = 2 * len(image.getbands()) if "progressive" in image.info else 1
        cost = max(cost, per_pixel * pixels)
    if cost > MEMORY:
        raise ValueError(
            f"its {pixels / 1e6:.0f} megapixels take {cost / 1e6:,.0f} MB of memory but the limit "
            f"is {MEMORY / 1e6:.0f} MB: make it smaller"
        )
    return cost


def decoded(picture: Readable, side: int, formats: Sequence[str] = tuple(FORMATS)) -> Decoded:
    """Decode an image as RGB, a large JPEG at a fraction of its size.

    Args:
        picture: An image, or a file of one.
        side: The width and height in pixels that it will be used at.
        formats: The formats to accept.

    Raises:
        ValueError: It is unknown which pixel value is white; also what `opened` and `shrink`
            raise.
    """
    if isinstance(picture, Image.Image):
        return _decoded(picture, side, in_place=False)  # it is the caller's
    with opened(picture, formats) as image:
        cost = shrink(image, side)
        with _ONE_LARGE if cost > LARGE else nullcontext():
            return _decoded(image, side, in_place=True)


def _decoded(image: Image.Image, side: int, in_place: bool) -> Decoded:
    raw, colour = _raw(image), image.mode in ("RGB", "RGBA", "CMYK")
    deep_colour = ";16" in raw and not raw.startswith("BGR") and colour
    clear = _transparent(image, deep_colour)
    white, negative = _white(image)
    if in_place:
        ImageOps.exif_transpose(image, in_place=True)
    turned = image if in_place else ImageOps.exif_transpose(image)
    if deep := image.mode in ("I", "F") or image.mode.startswith("I;16"):
        eight = _high_byte(np.asarray(turned), white)
        dim = int(eight.max()) < 16
        eight = 255 - eight if negative else eight
        if isinstance(clear, int):
            eight[np.asarray(turned) == clear] = 255
        rgb = _shrunk(Image.fromarray(eight), side).convert("RGB")
    else:
        if clear is not None:
            turned.info["transparency"] = clear
        rgb = _opaque(turned, side)
        dim = deep_colour and int(np.asarray(turned.convert("RGB")).max()) < 16
    odd = {"deep": deep or deep_colour, "dim": dim, "frames": _several(image)}
    return Decoded(rgb, tuple(word for word, true in odd.items() if true))


def _white(image: Image.Image) -> tuple[float, bool]:
    """The value of white, or 0 if unknown; and whether black and white are swapped."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    negative = tags.get(262) == 0  # Pillow handles 8 bits or fewer
    if image.mode == "F":
        return 1.0, negative
    if image.mode.startswith("I;16"):
        return (1 << int(tags.get(258, (16,))[0])) - 1, negative
    return (65535 if image.format in ("PNG", "PPM", "JPEG2000") else 0), negative


def _high_byte(values: np.ndarray, white: float) -> np.ndarray:
    """Numbers from 0 to `white` as bytes."""
    if white == 0:
        raise ValueError(
            "its pixels are 32-bit or signed integers, and it is unknown which one is white: save "
            "it with 8 or 16 bits"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):  # also false for NaN
        raise ValueError(
            f"its pixels are numbers from {low:g} to {high:g}, but 0 is black and {white:g} is "
            "white: scale them to that range"
        )
    if values.dtype.kind == "f":
        bytes_ = values * np.float32(255)
        return np.rint(bytes_, out=bytes_).astype(np.uint8)  # in place: it may be large
    return (values >> (int(white).bit_length() - 8)).astype(np.uint8)


def _raw(image: Image.Image) -> str:
    """How the file stores pixels, in Pillow's terms ("RGB;16B"); "" if they are loaded already."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _transparent(image: Image.Image, deep_colour: bool) -> object:
    """The transparent grey or colour, if there is one."""
    clear = image.info.get("transparency")
    if deep_colour and isinstance(clear, tuple):
        raise ValueError("one of its 16-bit colours is transparent: save it with an alpha channel")
    if isinstance(clear, int) and image.mode == "L":
        return clear * _SPREAD.get(_raw(image), 1)
    return clear


def _opaque(image: Image.Image, side: int) -> Image.Image:
    """The image on white."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    image = _shrunk(image if image.mode == mode else image.convert(mode), side)
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    """A `LARGE` image at a fraction of its size, at least 8 × `side`: later steps copy it."""
    factor = min(image.size) // (8 * side)
    return image.reduce(factor) if factor > 1 and 4 * image.width * image.height > LARGE else image


def _several(image: Image.Image) -> bool:
    """Whether there are more frames or pages.

    Other images in a phone's JPEG and other sizes of an icon do not count.
    """
    try:
        return image.format not in ("MPO", "ICO") and bool(getattr(image, "is_animated", False))
    except UNREADABLE:  # the first one was complete
        return False
