"""Picture files as 8-bit RGB: which kinds are read, how more than 8 bits become 8, and how much memory one may take.

More than 8 bits: of whole numbers (PNG, TIFF, PGM, JPEG 2000) the high byte counts, white being the largest number that the format
can hold, 65535 or in a 12-bit TIFF 4095. Of floats 0 is black and 1 is white. Pillow itself clips both at 255 when asked for RGB.
Where no white is known (32-bit whole numbers, signed ones, floats beyond 0 to 1) the picture is refused.

Otherwise as Pillow has it: transparency on white, orientation as EXIF says, of several frames or pages the first, no colour profile.
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
    "PNG": (".png", ".apng"), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "WEBP": (".webp",), "BMP": (".bmp",), "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"), "AVIF": (".avif", ".avifs"), "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"), "QOI": (".qoi",), "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "ICO": (".ico",), "PCX": (".pcx",), "TGA": (".tga", ".icb", ".vda", ".vst"),
}  # fmt: skip
"""What is read, as Pillow names it, and how such files are called. Nothing that starts another program (EPS) or holds more than
pictures (PDF, WMF)."""

COMMON = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
"""Those that are read from strangers too: by decoders that are in wide use and fast."""

UNMARKED = ("PCX", "TGA")
"""Formats whose files hardly differ from noise in their first bytes: read only where the file's name says so."""

MEGAPIXELS = 64
"""A picture of so many is always read; a larger one if it takes no more than `MEMORY`."""

MEMORY = 8_000_000 * MEGAPIXELS
"""Bytes that decoding one picture may take: a small file can hold a picture that fills the memory. Every picture has 4 bytes a pixel,
since it becomes RGB, but a JPEG is shrunk while it is read: 1 byte for each of its pixels is counted, or if it is progressive 2 for
each and each channel."""

LARGE = 64_000_000
"""Bytes from which on pictures are decoded one at a time, however many threads read, and shrunk before anything else is done."""

UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, RuntimeError, ArithmeticError, AssertionError, MemoryError, struct.error,
    zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow raises for files that are damaged or made to harm."""

Readable = str | Path | BinaryIO | Image.Image

_ONE_LARGE = threading.Lock()
_SPREAD = {"L;2": 85, "L;4": 17}
"""Pillow spreads the greys of such a PNG over 0 to 255, but not the one that is transparent."""


class PictureError(ValueError):
    """A file that is no picture, or not one that can be read. ``reason`` is the bare why."""

    def __init__(self, name: str, reason: str):
        self.name, self.reason = name, reason
        super().__init__(f"{name} cannot be read as an image ({reason}): repair or remove it")


@dataclass(frozen=True)
class Decoded:
    """A picture as 8-bit RGB. ``odd`` says what was unusual about it: "deep", it had more bits; "dim", and used less than a sixteenth
    of what they can say, so that hardly anything is left of it; "frames", it has more of them, or more pages."""

    image: Image.Image
    odd: tuple[str, ...] = ()


def files_of(formats: Sequence[str]) -> tuple[str, ...]:
    """How files of these formats are called."""
    return tuple(suffix for f in formats for suffix in FORMATS[f])


@contextmanager
def opened(
    file: "str | Path | BinaryIO", formats: Sequence[str] = tuple(FORMATS)
) -> Iterator[Image.Image]:
    """The picture, of which only the head is read yet. As ``Image.open`` does it, without its bound on pixels, which is global and
    would refuse or warn of a large JPEG that takes little memory.

    Raises ValueError for what is no picture of these formats, and what Pillow raises (`UNREADABLE`).
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
                if not fits or isinstance(fits, str):  # a text says which library is missing
                    continue
                f.seek(0)
                image = factory(f, str(file) if named else "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # another format may do
                continue
            with image:
                yield image
            return
    raise ValueError("no picture of a kind that is read")


def shrink(image: Image.Image, side: int) -> int:
    """Have a JPEG decoded at a fraction of its size, but at least 8 × `side`. Gives the bytes that decoding takes, about.

    Raises ValueError where they are more than `MEMORY`.
    """
    pixels = image.width * image.height
    image.draft("RGB", (8 * side, 8 * side))
    cost = 4 * image.width * image.height
    if image.format in ("JPEG", "MPO"):
        cost = max(
            cost, 2 * pixels * len(image.getbands()) if "progressive" in image.info else pixels
        )
    if cost > MEMORY:
        raise ValueError(
            f"its {pixels / 1e6:.0f} megapixels take {cost / 1e6:,.0f} MB of memory, and {MEMORY / 1e6:.0f} are the most: make it smaller"
        )
    return cost


def decoded(picture: Readable, side: int, formats: Sequence[str] = tuple(FORMATS)) -> Decoded:
    """A picture as RGB, a large JPEG at a fraction of its size. Raises what `opened` and `shrink` raise, and ValueError for pixels of
    which no white is known."""
    if isinstance(picture, Image.Image):
        return _decoded(picture, side, in_place=False)  # it is the caller's
    with opened(picture, formats) as image:
        cost = shrink(image, side)
        with _ONE_LARGE if cost > LARGE else nullcontext():
            return _decoded(image, side, in_place=True)


def _decoded(image: Image.Image, side: int, in_place: bool) -> Decoded:
    raw = _raw(image)
    deep_colour = (
        ";16" in raw and not raw.startswith("BGR") and image.mode in ("RGB", "RGBA", "CMYK")
    )
    clear = _transparent(image, deep_colour)
    white, negative = _white(image)
    turned = (
        (ImageOps.exif_transpose(image, in_place=True) or image)
        if in_place
        else ImageOps.exif_transpose(image)
    )
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
    """The number that is white, or 0 where none is known; and whether it is the other way round, 0 being white."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    negative = tags.get(262) == 0  # Pillow sees to it where there are 8 bits or fewer
    if image.mode == "F":
        return 1.0, negative
    if image.mode.startswith("I;16"):
        return (1 << int(tags.get(258, (16,))[0])) - 1, negative
    return (65535 if image.format in ("PNG", "PPM", "JPEG2000") else 0), negative


def _high_byte(values: np.ndarray, white: float) -> np.ndarray:
    """Numbers of 0 to `white` as bytes."""
    if white == 0:
        raise ValueError(
            "its pixels are whole numbers of 32 bits or with a sign, of which none is known to be white: save it with 8 or 16 bits"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):  # nor where one of them is no number
        raise ValueError(
            f"its pixels are numbers from {low:g} to {high:g}, where 0 is black and {white:g} white: scale them to that"
        )
    if values.dtype.kind == "f":
        bytes_ = values * np.float32(255)
        return np.rint(bytes_, out=bytes_).astype(np.uint8)  # in place: there may be much of it
    return (values >> (int(white).bit_length() - 8)).astype(np.uint8)


def _raw(image: Image.Image) -> str:
    """How the file stores pixels, in Pillow's words ("RGB;16B"); "" where they are loaded already."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _transparent(image: Image.Image, deep_colour: bool) -> object:
    """Which grey or colour is transparent, if one is."""
    clear = image.info.get("transparency")
    if deep_colour and isinstance(clear, tuple):
        raise ValueError(
            "one of its colours of 16 bits is transparent: save it with an alpha channel"
        )
    return (
        clear * _SPREAD.get(_raw(image), 1)
        if isinstance(clear, int) and image.mode == "L"
        else clear
    )


def _opaque(image: Image.Image, side: int) -> Image.Image:
    """On white."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    image = _shrunk(image if image.mode == mode else image.convert(mode), side)
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    """A `LARGE` picture at a fraction of its size, but at least 8 × `side`: what comes next makes copies of it."""
    factor = min(image.size) // (8 * side)
    return image.reduce(factor) if factor > 1 and 4 * image.width * image.height > LARGE else image


def _several(image: Image.Image) -> bool:
    """Whether there are more frames or pages. Other pictures in a phone's JPEG and other sizes of an icon are none."""
    try:
        return image.format not in ("MPO", "ICO") and bool(getattr(image, "is_animated", False))
    except UNREADABLE:  # the first one was whole
        return False
