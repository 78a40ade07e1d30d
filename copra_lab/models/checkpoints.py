"""The weights of a CLIP in a file, as trainings leave them: found under what a training wraps around them, and held against the architecture.

Nothing is unpickled: files are read as tensors alone.
"""

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from copra_lab.utils.extras import needs

OPENAI_MARKS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""What OpenAI's published state dicts hold beside the weights."""

_ALWAYS = "logit_scale"
"""A weight that every CLIP and SigLIP has, at its root: where it is, the model is."""
_DEEPEST = 4
_UNSAFE = re.compile(r"GLOBAL (\S+)")
_TENSORS_ALONE = (
    'python -c "import sys, torch; f = lambda o: {k: f(v) if isinstance(v, dict) else v for k, v in o.items() if isinstance(v, (dict, '
    "torch.Tensor))}; torch.save(f(torch.load(sys.argv[1], 'cpu', weights_only=False)), sys.argv[2])\" "
)
_SAFETENSORS = (
    'python -c "import sys, torch, safetensors.torch as s; s.save_file({k: v.float().contiguous() for k, v in '
    "torch.jit.load(sys.argv[1], 'cpu').state_dict().items()}, sys.argv[2])\" "
)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights in a file, by the names that the model gives them: safetensors, or what ``torch.load`` reads with
    ``weights_only=True``; what a training wraps around them (``state_dict``, ``model``, ``module.``, ``_orig_mod.``, …) is taken off.

    Raises ValueError for a damaged file, one that holds more than tensors, a TorchScript archive, and one with several models."""
    if _is_torchscript(file):
        raise ValueError(
            f"{file} is a TorchScript archive, which holds code and is not run here; where you trust it, convert it once with "
            f"`{_SAFETENSORS}{file.name} {file.stem}.safetensors`"
        )
    with _reading(file):
        found = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
        if not isinstance(found, Mapping):
            raise TypeError
    return _unprefixed(_unwrapped(found, file), file)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turns whatever a bad file raises into one sentence."""
    try:
        yield
    except pickle.UnpicklingError as e:
        held = _UNSAFE.search(str(e))
        if held and held[1].startswith("numpy."):
            raise ValueError(
                f"{file} holds numpy's numbers beside its tensors ({held[1]}) and is not unpickled here; where you trust it, keep its tensors "
                f"alone with `{_TENSORS_ALONE}{file.name} {file.stem}-tensors.pt`"
            ) from e
        what = f" ({held[1]})" if held else ""
        raise ValueError(
            f"{file} is damaged, or holds more than tensors{what} and is not unpickled here; save its weights as safetensors"
        ) from e
    except (
        SafetensorError,
        RuntimeError,
        OSError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        ValueError,
        StopIteration,
    ) as e:
        raise ValueError(f"{file} is damaged, or no file of weights; copy it anew") from e


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(n.endswith("/constants.pkl") for n in archive.namelist())
    except zipfile.BadZipFile:  # damaged, as whoever reads it will say
        return False


def _unwrapped(found: Mapping[Any, Any], file: Path) -> dict[str, Tensor]:
    """The tensors of the one model in a checkpoint. A ``state_dict`` comes first, as in open_clip."""
    if isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    models = dict(_models(found, ""))
    if len(models) > 1:
        names = " and ".join(repr(n) for n in list(models)[:2])
        raise ValueError(
            f"{file} holds several models, under {names}; save the weights of the one that you want as a file of its own"
        )
    chosen = next(iter(models.values()), found)
    weights = {str(k): v.detach() for k, v in chosen.items() if isinstance(v, Tensor)}
    if not weights:
        raise ValueError(
            f"{file} holds no weights of a CLIP, among which there would be {_ALWAYS!r}; give the file of a whole model"
        )
    return weights


def _models(
    found: Mapping[Any, Any], where: str, depth: int = 0
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every mapping in a checkpoint that holds a CLIP's weights, by the keys that lead to it."""
    if any(str(k).endswith(_ALWAYS) and isinstance(v, Tensor) for k, v in found.items()):
        yield where, found
        return
    for key, value in found.items():
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _models(value, f"{where}.{key}".lstrip("."), depth + 1)


def _unprefixed(weights: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The weights under the names that they have in the model itself: without what comes before each of them."""
    prefixes = sorted(
        k.removesuffix(_ALWAYS)
        for k in weights
        if k.endswith(_ALWAYS) and (k == _ALWAYS or k.endswith(f".{_ALWAYS}"))
    )
    if len(prefixes) > 1:
        raise ValueError(
            f"{file} holds several models, with names that begin with {prefixes[0]!r} and {prefixes[1]!r}; save the weights of the one that "
            "you want as a file of its own"
        )
    prefix = prefixes[0] if prefixes else ""
    if prefix and (other := next((k for k in weights if not k.startswith(prefix)), None)):
        raise ValueError(
            f"{file} holds {other!r} beside the model under {prefix!r}; save the weights of the model alone"
        )
    return {k.removeprefix(prefix): v for k, v in weights.items()}


def load_weights(model: nn.Module, file: Path, made_with: str) -> bool:
    """Put the weights in `file` into open_clip's `model`, by open_clip's own conversions, which know its earlier names and sizes. Says
    whether they are marked as OpenAI's own. ``made_with``: what an error says is to be given.

    Raises ValueError as `read_weights` does, and for weights of another architecture."""
    if file.suffix in (".npz", ".npy"):
        with needs("clip"):
            from open_clip import load_checkpoint

        with _reading(file):
            load_checkpoint(model, str(file))
        return False
    weights = read_weights(file)
    marked = not OPENAI_MARKS.isdisjoint(weights)
    weights = {k: v for k, v in weights.items() if k not in OPENAI_MARKS}
    if (
        "logit_bias" in weights and getattr(model, "logit_bias", None) is None
    ):  # trained with SigLIP's loss
        model.logit_bias = nn.Parameter(torch.zeros_like(weights["logit_bias"]))
    fill(model, _converted(weights, model, file, made_with), file, made_with)
    return marked


def _converted(
    weights: dict[str, Tensor], model: nn.Module, file: Path, made_with: str
) -> dict[str, Tensor]:
    """What open_clip does with a state dict before it loads it."""
    with needs("clip"):
        from open_clip.convert import convert_state_dict
        from open_clip.model import (
            convert_to_custom_text_state_dict,
            resize_pos_embed,
            resize_text_pos_embed,
        )

    try:
        weights = convert_state_dict(model, weights)
        if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
            weights = convert_to_custom_text_state_dict(weights)
        for name in ("logit_scale", "logit_bias"):  # a number, or a row of one
            if (
                name in weights
                and getattr(model, name, None) is not None
                and weights[name].numel() == 1
            ):
                weights[name] = weights[name].reshape(getattr(model, name).shape)
        if getattr(model, "logit_bias", None) is not None:
            weights.setdefault("logit_bias", torch.zeros_like(model.logit_bias, device="cpu"))
        position_ids = "text.transformer.embeddings.position_ids"  # no weight, and only some versions of transformers have it
        if position_ids not in model.state_dict():
            weights.pop(position_ids, None)
        resize_pos_embed(weights, model)
        resize_text_pos_embed(weights, model)
    except (
        KeyError,
        RuntimeError,
        TypeError,
        AttributeError,
        AssertionError,
        ValueError,
        IndexError,
    ) as e:
        raise ValueError(f"{file} does not fit {made_with}") from e
    return weights


def fill(model: nn.Module, weights: Mapping[str, Tensor], file: Path, made_with: str) -> None:
    """`model` gets exactly these weights. Raises ValueError, with the first name that is too many, missing or of another shape."""
    if misfit := first_misfit(weights, model.state_dict()):
        raise ValueError(
            f"{file} does not fit {made_with}: {misfit}; give the architecture that it was made with"
        )
    model.load_state_dict(weights)


def first_misfit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """In words, the first name in a file that the architecture does not have, or the other way round, or has in another shape."""
    for name, w in weights.items():
        if name in expected and w.shape != expected[name].shape:
            return f"its {name!r} has shape {tuple(w.shape)}, where {tuple(expected[name].shape)} is expected"
    if unknown := next((k for k in weights if k not in expected), None):
        return (
            f"it holds {unknown!r} of shape {tuple(weights[unknown].shape)}, which is not expected"
        )
    if missing := next((k for k in expected if k not in weights), None):
        return f"it lacks {missing!r} of shape {tuple(expected[missing].shape)}"
    return ""
