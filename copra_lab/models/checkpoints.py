"""Checkpoint files: find the CLIP's weights in them, and check that they fit an architecture.

Nothing is unpickled: only tensors are read.
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

MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch, open_clip and transformers raise for settings or weights that make no sense."""

OPENAI_MARKS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Entries that OpenAI's published state dicts contain besides the weights."""

_ROOT = re.compile(r"(.*\.)?logit_scale")
"""A weight at the root of every CLIP and SigLIP: wherever it is, the model is."""
_MAX_DEPTH = 4
_UNSAFE = re.compile(r"GLOBAL (\S+)")
_KEEP_TENSORS = (
    'python -c "import sys, torch; '
    "f = lambda o: {k: f(v) if isinstance(v, dict) else v for k, v in o.items() "
    "if isinstance(v, (dict, torch.Tensor))}; "
    "torch.save(f(torch.load(sys.argv[1], 'cpu', weights_only=False)), sys.argv[2])\" "
)
_TO_SAFETENSORS = (
    'python -c "import sys, torch, safetensors.torch as s; '
    "s.save_file({k: v.float().contiguous() for k, v in "
    "torch.jit.load(sys.argv[1], 'cpu').state_dict().items()}, sys.argv[2])\" "
)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the weights of a CLIP from a file, under the names that the model gives them.

    Whatever a training run wraps around them (``state_dict``, ``model``, ``module.``,
    ``_orig_mod.``, …) is removed.

    Args:
        file: Safetensors, or what ``torch.load`` reads with ``weights_only=True``.

    Raises:
        ValueError: If the file is damaged, holds more than tensors or several models, or is a
            TorchScript archive.
    """
    if _is_torchscript(file):
        raise ValueError(
            f"{file} is a TorchScript archive, which holds code and is not run here; if you trust "
            f"it, convert it once with `{_TO_SAFETENSORS}{file.name} {file.stem}.safetensors`"
        )
    with _reading(file):
        if file.suffix == ".safetensors":
            found = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(found, Mapping):
            raise TypeError
    return _find_model(found, file)


def read_marked_weights(file: Path) -> tuple[dict[str, Tensor], bool]:
    """The weights without `OPENAI_MARKS`, and whether they had such; raises as `read_weights`."""
    weights = read_weights(file)
    kept = {k: v for k, v in weights.items() if k not in OPENAI_MARKS}
    return kept, len(kept) < len(weights)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn whatever a bad file raises into one sentence."""
    try:
        yield
    except pickle.UnpicklingError as e:
        unsafe = _UNSAFE.search(str(e))
        if unsafe and unsafe[1].startswith("numpy."):
            raise ValueError(
                f"{file} holds NumPy numbers ({unsafe[1]}) and is not unpickled here; "
                "if you trust it, keep only the tensors with "
                f"`{_KEEP_TENSORS}{file.name} {file.stem}-tensors.pt`"
            ) from e
        what = f" ({unsafe[1]})" if unsafe else ""
        raise ValueError(
            f"{file} is damaged, or holds more than tensors{what}, and is not unpickled here; "
            "save its weights as safetensors"
        ) from e
    except (*MALFORMED, SafetensorError, OSError, EOFError, StopIteration) as e:
        raise ValueError(f"{file} is damaged or not a file of weights; copy it again") from e


def _is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive; a damaged one is not."""
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(n.endswith("/constants.pkl") for n in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _find_model(found: Mapping[Any, Any], file: Path) -> dict[str, Tensor]:
    """The tensors of the one model in a checkpoint; ``state_dict`` comes first, as in open_clip.

    The prefix that all their names share, such as ``module.``, is removed.
    """
    if isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    models = list(_models(found))
    if len(models) > 1:
        names = " and ".join(repr(where) for where, _, _ in models[:2])
        raise ValueError(
            f"{file} holds several models, under {names}; save one as a file of its own"
        )
    _, holder, prefix = models[0] if models else ("", found, "")
    weights = {str(k): v.detach() for k, v in holder.items() if isinstance(v, Tensor)}
    if not weights:
        raise ValueError(f"{file} holds no weights of a CLIP; give the file of a whole model")
    if other := next((k for k in weights if not k.startswith(prefix)), None):
        raise ValueError(
            f"{file} holds {other!r} beside the model under {prefix!r}; save only the model"
        )
    return {k.removeprefix(prefix): v for k, v in weights.items()}


def _models(
    found: Mapping[Any, Any], where: str = "", depth: int = 0
) -> Iterator[tuple[str, Mapping[Any, Any], str]]:
    """Each CLIP in a checkpoint: where it is, the mapping there, and the prefix of its names."""
    roots = [_ROOT.fullmatch(str(k)) for k, v in found.items() if isinstance(v, Tensor)]
    prefixes = sorted(root[1] or "" for root in roots if root)
    for prefix in prefixes:
        yield f"{where}{prefix}".rstrip("."), found, prefix
    for key, value in found.items():
        if isinstance(value, Mapping) and depth < _MAX_DEPTH and not prefixes:
            yield from _models(value, f"{where}{key}.", depth + 1)


def load_weights(model: nn.Module, file: Path, made_with: str) -> bool:
    """Load the weights in `file` into an open_clip model.

    open_clip's own conversions are applied, so its earlier names and other sizes are understood.

    Args:
        model: open_clip's module; its weights are replaced.
        file: The checkpoint.
        made_with: What the weights should fit, for error messages.

    Returns:
        Whether the weights are marked as OpenAI's own.

    Raises:
        ValueError: As `read_weights`, and if the weights are of another architecture.
    """
    if file.suffix in (".npz", ".npy"):
        with needs("clip"):
            from open_clip import load_checkpoint

        with _reading(file):
            load_checkpoint(model, str(file))
        return False
    weights, marked = read_marked_weights(file)
    if "logit_bias" in weights and getattr(model, "logit_bias", None) is None:
        # A CLIP trained with SigLIP's loss.
        model.logit_bias = nn.Parameter(torch.zeros_like(weights["logit_bias"]))
    try:
        weights = _converted(weights, model)
    except MALFORMED as e:
        raise ValueError(f"{file} does not fit {made_with}") from e
    fill(model, weights, file, made_with)
    return marked


def _converted(weights: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """What open_clip does with a state dict before it loads it."""
    with needs("clip"):
        from open_clip import model as open_clip_model
        from open_clip.convert import convert_state_dict

    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = open_clip_model.convert_to_custom_text_state_dict(weights)
    for name in ("logit_scale", "logit_bias"):  # shape () or (1,)
        scalar = getattr(model, name, None)
        if name in weights and scalar is not None and weights[name].numel() == 1:
            weights[name] = weights[name].reshape(scalar.shape)
    if getattr(model, "logit_bias", None) is not None:
        weights.setdefault("logit_bias", torch.zeros_like(model.logit_bias, device="cpu"))
    # Not a weight, and only some versions of transformers save it.
    position_ids = "text.transformer.embeddings.position_ids"
    if position_ids not in model.state_dict():
        weights.pop(position_ids, None)
    open_clip_model.resize_pos_embed(weights, model)
    open_clip_model.resize_text_pos_embed(weights, model)
    return weights


def fill(model: nn.Module, weights: Mapping[str, Tensor], file: Path, made_with: str) -> None:
    """Load exactly these weights into `model`.

    Args:
        model: The module; its weights are replaced.
        weights: Name → weight.
        file: Where the weights are from, for error messages.
        made_with: What they should fit, for error messages.

    Raises:
        ValueError: With the first name that is unknown, missing or of another shape.
    """
    if misfit := first_misfit(weights, model.state_dict()):
        raise ValueError(f"{file} does not fit {made_with}: {misfit}; give its own architecture")
    model.load_state_dict(weights)


def first_misfit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Describe the first weight that is unknown, missing or of another shape; "" if all fit."""
    shapes = {name: tuple(w.shape) for name, w in weights.items()}
    wanted = {name: tuple(w.shape) for name, w in expected.items()}
    for name, shape in shapes.items():
        if name in wanted and shape != wanted[name]:
            return f"its {name!r} has shape {shape}, where {wanted[name]} is expected"
    if unknown := next((k for k in shapes if k not in wanted), None):
        return f"it holds {unknown!r} of shape {shapes[unknown]}, which is not expected"
    if missing := next((k for k in wanted if k not in shapes), None):
        return f"it lacks {missing!r} of shape {wanted[missing]}"
    return ""
