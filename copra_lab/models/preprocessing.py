"""From a picture to what a CLIP's image tower was trained on.

Settings are fields of `copra_lab.models.clip.Clip`: this module reads them from open_clip's files,
and `copra_lab.models.image_processors` from those of transformers. Pillow resizes pictures, as in
both libraries, and they stay uint8; only the mean and standard deviation are applied to floats.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from copra_lab.models.clip import Clip

FILTERS = {f.name.lower(): f for f in Image.Resampling}
"""Pillow's filters by name: nearest, lanczos, bilinear, bicubic, box and hamming."""
_MOST_WHOLE = 64
"""Largest area that a whole picture is resized to, in multiples of the CLIP's own.

For larger ones only the middle is computed, and results may differ by one level of 256; with
"nearest", also where two pixels are equally near.
"""
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def fit(clip: "Clip", picture: Image.Image) -> Image.Image:
    """Resize and crop or pad a picture as the CLIP's settings say.

    Args:
        clip: Its settings are used.
        picture: RGB, of any size.

    Returns:
        RGB, (side, side).
    """
    side, resample, (w, h) = clip.side, FILTERS[clip.interpolation], picture.size
    if clip.resize == "longest":
        ratio = max(w, h) / side
        w, h = max(1, round(w / ratio)), max(1, round(h / ratio))
        square = Image.new("RGB", (side, side), (clip.fill,) * 3)
        square.paste(picture.resize((w, h), resample), ((side - w) // 2, (side - h) // 2))
        return square
    to = clip.resize_to or side
    if clip.resize == "squash":
        height, width = to if isinstance(to, tuple) else (to, to)
    else:
        assert isinstance(to, int)
        height, width = int(to * h / min(h, w)), int(to * w / min(h, w))
    left, top = (
        (n - side) // 2 if clip.crop == "floor" else round((n - side) / 2) for n in (width, height)
    )
    if width * height > _MOST_WHOLE * side**2:  # a long strip, which would fill the memory
        x0, x1, low_x, high_x = _source(w, width, left, side)
        y0, y1, low_y, high_y = _source(h, height, top, side)
        box = (low_x, low_y, high_x, high_y)
        return picture.crop((x0, y0, x1, y1)).resize((side, side), resample, box)
    return picture.resize((width, height), resample).crop((left, top, left + side, top + side))


def _source(n: int, resized: int, start: int, side: int) -> tuple[int, int, float, float]:
    """What `side` pixels from `start` of a resized picture are made from, along one axis.

    Pillow keeps the box in single precision, so the picture is cropped first, with a margin as wide
    as the filter.

    Returns:
        Start and end of the crop, and start and end of the box in it, in pixels.
    """
    scale = n / resized
    low, high, margin = start * scale, (start + side) * scale, 4 * max(1, scale)
    first, last = max(0, int(low - margin)), min(n, int(high + margin) + 1)
    return first, last, low - first, min(last, high) - first


def of_open_clip(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a `Clip` from an open_clip ``preprocess_cfg`` or pretrained tag.

    Its ``size`` is ignored, as in open_clip: the image tower decides.

    Raises:
        ValueError: If a setting is not supported.
    """
    found = {k: v for k, v in settings.items() if v is not None}
    interpolation, resize = (
        found.get("interpolation", "bicubic"),
        found.get("resize_mode", "shortest"),
    )
    if interpolation == "random":  # for training; open_clip then evaluates with bicubic
        interpolation = "bicubic"
    for setting, value, supported in (
        ("interpolation", interpolation, ("bicubic", "bilinear")),
        ("resize_mode", resize, ("shortest", "squash", "longest")),
        ("mode", found.get("mode", "RGB"), ("RGB",)),
    ):
        if value not in supported:
            raise ValueError(f"{setting} {value!r} is not {' or '.join(supported)}; correct it")
    return {
        "mean": three(found.get("mean", OPENAI_MEAN), "mean"),
        "std": three(found.get("std", OPENAI_STD), "std"),
        "interpolation": interpolation,
        "resize": resize,
        "fill": int(found.get("fill_color", 0)) if resize == "longest" else 0,
    }


def three(values: Any, name: str) -> tuple[float, float, float]:
    """One number per colour, from three numbers or one for all.

    Raises:
        ValueError: With the setting's `name`, for another count.
    """
    found = [float(values)] * 3 if isinstance(values, int | float) else [float(v) for v in values]
    if len(found) != 3:
        raise ValueError(f"{name} has {len(found)} numbers for three colours; correct it")
    return found[0], found[1], found[2]
