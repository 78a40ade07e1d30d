"""The settings of transformers' image processors, read and written.

Every setting is followed as transformers does, or refused by name.
"""

from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from copra_lab.models.preprocessing import FILTERS, OPENAI_MEAN, OPENAI_STD, three
from copra_lab.utils.files import read_json

if TYPE_CHECKING:
    from copra_lab.models.clip import Clip

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    JSONDecodeError,
    KeyError,
    TypeError,
    UnicodeDecodeError,
)
"""What a file raises that holds no settings at all."""
_LARGEST = 8
"""How many times the CLIP's side a processor may resize to; published ones stay within 2."""

_OF_CLIP: dict[str, Any] = {
    "do_resize": True, "size": {"shortest_edge": 224}, "resample": 3,
    "do_center_crop": True, "crop_size": 224, "do_pad": False,
    "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": OPENAI_MEAN, "image_std": OPENAI_STD,
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
"""Defaults of transformers' image processors, which otherwise compute the same."""


def of_transformers(folder: Path, siglip: bool, side: int) -> dict[str, Any]:
    """Fields of a `Clip` from the image processor's settings in a Hugging Face folder.

    Args:
        folder: Holds processor_config.json (nested) or preprocessor_config.json.
        siglip: Whether it is a SigLIP, whose defaults are others.
        side: Height and width that the image tower takes, in pixels.

    Raises:
        FileNotFoundError: If the folder has no settings.
        ValueError: If the file is damaged or a setting is not supported.
    """
    for file in (folder / PROCESSOR, folder / PREPROCESSOR):  # in transformers' order
        if not file.is_file():
            continue
        try:
            found = read_json(file)
            settings = found.get("image_processor") if file.name == PROCESSOR else found
            if settings is not None:
                return _fields(settings, "Siglip" if siglip else "CLIP", side)
        except _DAMAGED as e:
            raise ValueError(f"{file} is damaged; copy it again") from e
        except ValueError as e:
            raise ValueError(f"{file} cannot be followed: {e}") from e
    raise FileNotFoundError(
        f"{folder} does not say how pictures are prepared: copy {PREPROCESSOR} (or {PROCESSOR}) "
        "into it from the repository that the model comes from"
    )


def _fields(found: Mapping[str, Any], kind: str, side: int) -> dict[str, Any]:
    """Fields of a `Clip`. Raises ValueError, with the setting's name, for what is not supported."""
    named = found.get("image_processor_type") or found.get("feature_extractor_type")
    named = str(named or f"{kind}ImageProcessor")
    bare = named
    for suffix in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        bare = bare.removesuffix(suffix)
    if bare not in _DEFAULTS:
        raise ValueError(
            f"{named} prepares its pictures; choose a model with a CLIPImageProcessor, "
            "SiglipImageProcessor or ViTImageProcessor"
        )
    if found.get("use_square_size"):
        raise ValueError("use_square_size is a setting of KOSMOS; write size with height and width")
    settings = _DEFAULTS[bare] | {k: v for k, v in found.items() if v is not None}
    if not settings["do_resize"]:
        raise ValueError("do_resize is false, and a CLIP takes a single size; set it to true")
    if settings["do_pad"]:
        raise ValueError("do_pad is true, which no CLIP or SigLIP needs; set it to false")
    interpolation = next((n for n, f in FILTERS.items() if f == settings["resample"]), None)
    if interpolation is None:
        raise ValueError(
            f"resample {settings['resample']!r} is not a filter of Pillow's; give 0 to 5"
        )
    mean, std = _normalisation(settings)
    size = _resized(settings, side)
    return {
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
        "resize": "squash" if isinstance(size, tuple) else "shortest",
        "resize_to": None if size in (side, (side, side)) else size,
        "crop": "floor",
    }


def _resized(settings: Mapping[str, Any], side: int) -> int | tuple[int, int]:
    """What pictures are resized to before cropping: the shorter side, or (height, width)."""
    size = _size(settings["size"], bool(settings.get("default_to_square", False)), "size")
    cropped = settings["do_center_crop"]
    crop = _size(settings["crop_size"], True, "crop_size") if cropped else size
    if not isinstance(crop, tuple):
        raise ValueError("do_center_crop is false, so pictures stay oblong; set it to true")
    if crop != (side, side):
        raise ValueError(
            f"pictures become {crop[1]} × {crop[0]} pixels, and the image tower takes {side} × "
            f"{side}; copy the file of this model"
        )
    sides = size if isinstance(size, tuple) else (size,)
    if not side <= min(sides) <= max(sides) <= _LARGEST * side:
        most = f"{_LARGEST} times that"
        raise ValueError(f"size ({size}) is not between crop_size ({side}) and {most}; correct it")
    return size


_Colours = tuple[float, float, float]


def _normalisation(settings: Mapping[str, Any]) -> tuple[_Colours, _Colours]:
    """Mean and standard deviation for pixels in 0…1.

    With x = 255·f·u for a pixel u in 0…1, (x − m) / s is (u − m/255f) / (s/255f).
    """
    factor = 255 * float(settings["rescale_factor"] if settings["do_rescale"] else 1)
    normalised = settings["do_normalize"]
    mean = three(settings["image_mean"] if normalised else 0.0, "image_mean")
    std = three(settings["image_std"] if normalised else 1.0, "image_std")
    if factor <= 0 or min(std) <= 0:
        raise ValueError("rescale_factor and image_std must be above zero; correct them")
    if abs(factor - 1) < 1e-6:
        return mean, std
    return three([m / factor for m in mean], "mean"), three([s / factor for s in std], "std")


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
    said = " and ".join(sorted(given)) or "nothing"
    raise ValueError(f"{name} says {said}; write shortest_edge, or height and width")


def to_transformers(clip: "Clip", siglip: bool) -> dict[str, Any]:
    """The contents of preprocessor_config.json for a CLIP.

    Args:
        clip: Its preprocessing is described.
        siglip: Whether it is a SigLIP.

    Raises:
        ValueError: If transformers has no such preprocessing.
    """
    if clip.resize == "longest":
        raise ValueError(
            f"{clip.name} puts a border around pictures (resize 'longest') and transformers does "
            "not; use a CLIP with another preprocessing"
        )
    squash, to = clip.resize == "squash", clip.resize_to or clip.side
    height, width = to if isinstance(to, tuple) else (to, to)
    cropped = not squash or clip.resize_to is not None
    # SigLIP's processor could not always crop; CLIP's could.
    processor = "CLIP" if cropped or not siglip else "Siglip"
    return {
        "processor_class": f"{'Siglip' if siglip else 'CLIP'}Processor",
        "image_processor_type": f"{processor}ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width} if squash else {"shortest_edge": to},
        "resample": int(FILTERS[clip.interpolation]),
        "do_center_crop": cropped,
        "crop_size": {"height": clip.side, "width": clip.side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(clip.mean),
        "image_std": list(clip.std),
    }
