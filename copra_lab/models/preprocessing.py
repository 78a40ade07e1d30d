"""From a picture to what a CLIP's image tower was trained on: the settings of open_clip and of transformers, followed or refused.

A setting is a field of `copra_lab.models.clip.Clip`. Pictures are resized by Pillow, as both libraries do it, and stay uint8; only mean and
standard deviation are applied on floats.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from copra_lab.utils.files import read_json

if TYPE_CHECKING:
    from copra_lab.models.clip import Clip

FILTERS = {
    "nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC, "box": Image.Resampling.BOX, "hamming": Image.Resampling.HAMMING,
}  # fmt: skip
_LONG = 64
"""Times the CLIP's own pixels that a picture is resized to as a whole. Beyond, results may differ by a level of
256, or with "nearest" where two pixels are as near."""
_LARGEST = 8
"""Times the CLIP's side that a processor may resize to; of the public ones, none goes beyond twice."""
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_OF_CLIP: dict[str, Any] = {
    "do_resize": True, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True, "crop_size": 224, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": OPENAI_MEAN, "image_std": OPENAI_STD, "do_pad": False,
}  # fmt: skip
_OF_SIGLIP = _OF_CLIP | {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": 0.5,
    "image_std": 0.5,
}
_DEFAULTS = {
    "CLIP": _OF_CLIP,
    "Siglip": _OF_SIGLIP,
    "ViT": _OF_SIGLIP | {"resample": 2, "default_to_square": True},
}
"""What transformers' image processors assume where their file does not say. They compute alike and differ in these alone."""


def fit(clip: "Clip", picture: Image.Image) -> Image.Image:
    """An RGB picture of any size → (side, side), resized and cropped or padded as the CLIP's settings say."""
    side, resample, (w, h) = clip.side, FILTERS[clip.interpolation], picture.size
    if clip.resize == "longest":
        ratio = max(w, h) / side
        w, h = max(1, round(w / ratio)), max(1, round(h / ratio))
        left, top = (side - w) // 2, (side - h) // 2
        border = (left, top, side - w - left, side - h - top)
        return ImageOps.expand(picture.resize((w, h), resample), border, fill=(clip.fill,) * 3)
    to = clip.resize_to or side
    if clip.resize == "squash":
        height, width = to if isinstance(to, tuple) else (to, to)
    else:
        assert isinstance(to, int)
        height, width = int(to * h / min(h, w)), int(to * w / min(h, w))
    left, top = (
        (n - side) // 2 if clip.crop == "floor" else round((n - side) / 2) for n in (width, height)
    )
    if (
        width * height > _LONG * side**2
    ):  # of a strip, the middle alone: whole, it would fill the memory
        x, y = w / width, h / height
        # Cut out with what the filter reaches, since Pillow knows the box in single precision only.
        a, b = (
            max(0, int(start - 4 * max(1, scale))) for start, scale in ((left * x, x), (top * y, y))
        )
        c, d = (
            min(n, int(end + 4 * max(1, scale)) + 1)
            for end, scale, n in (((left + side) * x, x, w), ((top + side) * y, y, h))
        )
        box = (
            left * x - a,
            top * y - b,
            min(c, (left + side) * x) - a,
            min(d, (top + side) * y) - b,
        )
        return picture.crop((a, b, c, d)).resize((side, side), resample, box)
    return picture.resize((width, height), resample).crop((left, top, left + side, top + side))


def of_open_clip(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a Clip from an open_clip ``preprocess_cfg`` or pretrained tag. Its ``size`` is the image tower's own, as in open_clip.
    Raises ValueError for a setting that is not followed."""
    found = {k: v for k, v in settings.items() if v is not None}
    out: dict[str, Any] = {
        "mean": _three(found.get("mean", OPENAI_MEAN), "mean"),
        "std": _three(found.get("std", OPENAI_STD), "std"),
        "interpolation": found.get("interpolation", "bicubic"),
        "resize": found.get("resize_mode", "shortest"),
    }
    if (
        out["interpolation"] == "random"
    ):  # which concerns training; open_clip evaluates with bicubic then
        out["interpolation"] = "bicubic"
    if out["interpolation"] not in ("bicubic", "bilinear"):
        raise ValueError(
            f"interpolation {out['interpolation']!r} is neither bicubic nor bilinear; correct it"
        )
    if out["resize"] not in ("shortest", "squash", "longest"):
        raise ValueError(
            f"resize_mode {out['resize']!r} is none of shortest, squash and longest; correct it"
        )
    if found.get("mode", "RGB") != "RGB":
        raise ValueError(
            f"mode {found['mode']!r} is not RGB, as which pictures are read; choose another model"
        )
    if out["resize"] == "longest":
        out["fill"] = int(found.get("fill_color", 0))
    return out


def of_transformers(folder: Path, siglip: bool, side: int) -> dict[str, Any]:
    """Fields of a Clip from the image processor's settings in a Hugging Face folder, in either form: nested in processor_config.json, or
    preprocessor_config.json. `side`: pixels that the image tower takes.

    Raises FileNotFoundError where there are none, and ValueError for a damaged file or a setting that is not followed.
    """
    file, found = _settings(folder)
    try:
        return _followed(found, "Siglip" if siglip else "CLIP", side)
    except (TypeError, KeyError, AttributeError, ZeroDivisionError, OverflowError) as e:
        raise ValueError(f"{file} is damaged; copy it anew") from e
    except ValueError as e:
        raise ValueError(f"{file} cannot be followed: {e}") from e


def _settings(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """As in transformers, what is nested comes first."""
    for name, nested in ((PROCESSOR, True), (PREPROCESSOR, False)):
        file = folder / name
        if not file.is_file():
            continue
        try:
            found = read_json(file)
            if nested:
                found = found.get("image_processor")
            if isinstance(found, dict):
                return file, found
            if found is not None:
                raise TypeError
        except (ValueError, TypeError, AttributeError) as e:
            raise ValueError(f"{file} is damaged; copy it anew") from e
    raise FileNotFoundError(
        f"{folder} does not say how pictures are prepared: copy {PREPROCESSOR} (or {PROCESSOR}) into it from the repository that the model "
        "comes from, or save the model with its processor"
    )


def _followed(found: Mapping[str, Any], kind: str, side: int) -> dict[str, Any]:
    """Raises ValueError, with the setting's name, for what is not followed."""
    named = str(
        found.get("image_processor_type")
        or found.get("feature_extractor_type")
        or f"{kind}ImageProcessor"
    )
    bare = (
        named.removesuffix("Fast")
        .removesuffix("Pil")
        .removesuffix("ImageProcessor")
        .removesuffix("FeatureExtractor")
    )
    if bare not in _DEFAULTS:
        raise ValueError(
            f"pictures are prepared by {named}; choose a model with a CLIPImageProcessor, SiglipImageProcessor or ViTImageProcessor"
        )
    if found.get("use_square_size"):
        raise ValueError(
            "use_square_size is KOSMOS's; write size with height and width in its place"
        )
    says = _DEFAULTS[bare] | {k: v for k, v in found.items() if v is not None}
    if not says["do_resize"]:
        raise ValueError(
            "do_resize is false, so that only pictures of one size would fit; set it to true"
        )
    if says["do_pad"]:
        raise ValueError("do_pad is true, which no CLIP or SigLIP needs; set it to false")
    try:
        interpolation = next(name for name, f in FILTERS.items() if f == says["resample"])
    except StopIteration:
        raise ValueError(
            f"resample {says['resample']!r} is no filter of Pillow's, which are 0 to 5; correct it"
        ) from None
    mean, std = _normalisation(says)
    square = says.get("default_to_square", False)
    size = _size(says["size"], bool(square), "size")
    crop = _size(says["crop_size"], True, "crop_size") if says["do_center_crop"] else size
    if crop != (side, side):
        if not isinstance(crop, tuple):
            raise ValueError(
                "size keeps the picture's shape and do_center_crop is false, so that pictures would not be square; set it to true"
            )
        raise ValueError(
            f"pictures become {crop[1]} × {crop[0]} pixels, and the image tower takes {side} × {side}; copy the file of this model"
        )
    if max(size if isinstance(size, tuple) else (size,)) > _LARGEST * side:
        raise ValueError(
            f"size ({size}) is more than {_LARGEST} times what the image tower takes ({side}); correct it"
        )
    if min(size if isinstance(size, tuple) else (size,)) < side:
        raise ValueError(
            f"crop_size ({side}) is larger than size ({size}), which would make a border; make size larger"
        )
    resize = "squash" if isinstance(size, tuple) else "shortest"
    to = None if size in (side, (side, side)) else size
    return {
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
        "resize": resize,
        "resize_to": to,
        "crop": "floor",
    }


def _normalisation(
    says: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of pixels in 0…1, whatever the pixels are multiplied by before: of x = 255·f·u, (x − m) / s is
    (u − m/255f) / (s/255f)."""
    factor = 255 * float(says["rescale_factor"] if says["do_rescale"] else 1)
    mean, std = (0.0,) * 3, (1.0,) * 3
    if says["do_normalize"]:
        mean, std = _three(says["image_mean"], "image_mean"), _three(says["image_std"], "image_std")
    if factor <= 0 or min(std) <= 0:
        raise ValueError("rescale_factor and image_std must be above zero; correct them")
    if abs(factor - 1) < 1e-6:
        return mean, std
    return _three([m / factor for m in mean], "image_mean"), _three(
        [s / factor for s in std], "image_std"
    )


def _three(values: Any, name: str) -> tuple[float, float, float]:
    found = [float(values)] * 3 if isinstance(values, int | float) else [float(v) for v in values]
    if len(found) != 3:
        raise ValueError(
            f"{name} has {len(found)} numbers, and a picture three colours; correct it"
        )
    return found[0], found[1], found[2]


def _size(size: Any, square: bool, name: str) -> int | tuple[int, int]:
    """(height, width), or the length of the shorter side."""
    if isinstance(size, int | float):
        return (int(size), int(size)) if square else int(size)
    if isinstance(size, list | tuple):
        height, width = size
        return int(height), int(width)
    given = {k: v for k, v in size.items() if v is not None}
    if given.keys() == {"shortest_edge"}:
        return int(given["shortest_edge"])
    if given.keys() == {"height", "width"}:
        return int(given["height"]), int(given["width"])
    raise ValueError(
        f"{name} with {' and '.join(sorted(given)) or 'nothing'} is not followed; write shortest_edge, or height and width"
    )


def to_transformers(clip: "Clip", siglip: bool) -> dict[str, Any]:
    """What preprocessor_config.json says of the CLIP's preprocessing. Raises ValueError for what transformers has no word for."""
    if clip.resize == "longest":
        raise ValueError(
            f"{clip.name} fits the whole picture on a square with a border (resize 'longest'), which no processor of transformers' does"
        )
    to = clip.resize_to or clip.side
    height, width = to if isinstance(to, tuple) else (to, to)
    kind = "Siglip" if siglip else "CLIP"
    return {
        "processor_class": f"{kind}Processor",
        # Of the two, only CLIP's has always known how to crop.
        "image_processor_type": f"{'Siglip' if siglip and clip.resize == 'squash' and clip.resize_to is None else 'CLIP'}ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width}
        if clip.resize == "squash"
        else {"shortest_edge": to},
        "resample": int(FILTERS[clip.interpolation]),
        "do_center_crop": clip.resize != "squash" or clip.resize_to is not None,
        "crop_size": {"height": clip.side, "width": clip.side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(clip.mean),
        "image_std": list(clip.std),
    }
