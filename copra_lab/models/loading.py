"""Where a CLIP comes from: open_clip's folders, tags and checkpoints, OpenAI's weights, a Hugging Face folder, the hub.

Whatever the source, open_clip's modules run it: a Hugging Face folder is renamed into them (`copra_lab.models.hugging_face`).
"""

import difflib
import json
import re
import warnings
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from copra_lab.models import preprocessing, tokenizers
from copra_lab.models.checkpoints import OPENAI_MARKS, fill, load_weights, read_weights
from copra_lab.models.clip import Clip
from copra_lab.models.freezing import freeze
from copra_lab.models.hub_download import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    PREFIX,
    download_clip,
    unreachable,
)
from copra_lab.models.hugging_face import read_hugging_face
from copra_lab.utils.extras import needs

__all__ = ["load_clip"]

BUNDLED = "emoji-clip"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


_loaded: dict[str, Clip] = {}


def load_clip(name: "str | Path | None" = None) -> Clip:
    """A CLIP or SigLIP with a ViT as image tower:

    =====================================  ======================================================================
    nothing, or ``emoji-clip``             the bundled one
    ``ViT-B-32:laion2b_s34b_b79k``         open_clip's architecture and pretrained tag
    ``ViT-B-32:epoch_32.safetensors``      open_clip's architecture, and a checkpoint (``.safetensors``, ``.pt``, ``.bin``)
    ``openai:ViT-B-32.safetensors``        a state dict of OpenAI's code, its architecture read off the shapes
    a folder                               in open_clip's layout (``open_clip_config.json``), or a Hugging Face CLIP or
                                           SigLIP (``config.json``)
    ``hf-hub:owner/name``, ``owner/name``  a repository on the Hugging Face hub that holds such a folder
    =====================================  ======================================================================

    Preprocessing and tokenizer are the model's own: what its files say is followed, as open_clip and transformers follow it, or refused
    by name, and a folder that does not say is refused. What a training wraps around weights (``model_state_dict``, ``module.``,
    ``_orig_mod.``, …) is taken off. Files that are no safetensors are read as tensors alone (``torch.load(…, weights_only=True)``):
    nothing is unpickled or run. A name is loaded once; asking again gives the same object.

    Warns (UserWarning) of weights trained with another activation than their architecture computes, and of a file of weights whose
    architecture has been trained with more than one preprocessing.

    Raises FileNotFoundError or ValueError for a missing or damaged file, a wrong name, or an architecture without a ViT, and
    ConnectionError where the hub would be needed and cannot be reached; each says in one sentence what to do.
    """
    if name in (None, BUNDLED):
        name, called = str(files("copra_lab") / "assets" / "clip"), BUNDLED
    else:
        name, called = str(name), None
    key = str(Path(name).resolve()) if Path(name).exists() else name
    if key not in _loaded:
        _loaded[key] = read(name, called)
    return _loaded[key]


def read(name: str, called: str | None = None) -> Clip:
    """See `load_clip`; ``called`` is the name that it shall have."""
    path = Path(name).expanduser()
    if path.is_dir():
        return read_folder(path, called or path.resolve().name)
    if path.is_file():
        return _openai(path, called or path.stem, sure=False)
    if name.startswith(PREFIX):
        repo = name.removeprefix(PREFIX)
        return read_folder(download_clip(repo), repo)
    with needs("clip"):
        from open_clip import list_models

    architecture, colon, rest = name.partition(":")
    if architecture == "openai" and colon:
        return _openai(_file(rest), Path(rest).stem, sure=True)
    if architecture in list_models():
        return _named(name, architecture, rest)
    if REPOSITORY.fullmatch(name):
        return read_folder(download_clip(name), name)
    close = difflib.get_close_matches(architecture, list_models(), 1, 0.6)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise FileNotFoundError(
        f"no CLIP {name!r}: {hint}give a folder, open_clip's architecture with a tag or a file ('ViT-B-32:laion2b_s34b_b79k'), or 'hf-hub:owner/name'"
    )


def read_folder(folder: Path, name: str) -> Clip:
    """A folder in open_clip's layout, or else in Hugging Face's."""
    config_file = folder / OPEN_CLIP_CONFIG
    if not config_file.is_file() and (folder / "config.json").is_file():
        return read_hugging_face(folder, name)
    if not config_file.is_file():
        raise FileNotFoundError(
            f"{config_file} is missing; a CLIP folder holds {OPEN_CLIP_CONFIG} and {OPEN_CLIP_WEIGHTS[0]}, or Hugging Face's config.json and model.safetensors"
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        model_cfg, says = dict(config["model_cfg"]), dict(config["preprocess_cfg"])
        model = _build(model_cfg)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        AssertionError,
        RuntimeError,
        ArithmeticError,
    ) as e:
        raise ValueError(
            f"{config_file} is not an open_clip configuration ({e}); copy it anew"
        ) from e
    try:
        preprocess = preprocessing.of_open_clip(says)
    except (ValueError, TypeError) as e:
        raise ValueError(f"the preprocess_cfg in {config_file} cannot be followed: {e}") from e
    weights = next((folder / w for w in OPEN_CLIP_WEIGHTS if (folder / w).is_file()), None)
    if weights is None:
        raise FileNotFoundError(
            f"{folder / OPEN_CLIP_WEIGHTS[0]} is missing; a CLIP folder holds {OPEN_CLIP_CONFIG} and {OPEN_CLIP_WEIGHTS[0]}"
        )
    if load_weights(model, weights, f"the architecture in {config_file}") and not model_cfg.get(
        "quick_gelu"
    ):
        _warn_of_gelu(
            weights,
            "QuickGELU",
            "GELU",
            f'write "quick_gelu": true into the model_cfg of {config_file}',
        )
    return freeze(
        model, tokenizers.of_open_clip(model_cfg["text_cfg"], folder, name), name, preprocess
    )


def _named(name: str, architecture: str, rest: str) -> Clip:
    """open_clip's architecture with a pretrained tag or a checkpoint file."""
    with needs("clip"):
        import open_clip
    from huggingface_hub import snapshot_download

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    tag = open_clip.get_pretrained_cfg(architecture, rest) if rest else {}
    model_cfg = open_clip.get_model_config(architecture)
    quick = bool(model_cfg.get("quick_gelu"))
    if tag:
        try:
            if repo := str(tag.get("hf_hub", "")).rpartition("/")[0]:
                snapshot_download(
                    repo, allow_patterns=[OPEN_CLIP_CONFIG]
                )  # asks once: without a hub, the download asks for a minute
            file = Path(open_clip.download_pretrained(tag))
        except (OSError, RuntimeError) as e:
            raise unreachable(
                f"the weights of {name!r}", f"them as a file, as {architecture + ':FILE'!r}"
            ) from e
        if quick and not tag.get("quick_gelu"):
            _warn_of_gelu(
                name,
                "GELU",
                "QuickGELU",
                f"give {architecture.removesuffix('-quickgelu') + ':' + rest!r}",
            )
        quick = model_cfg["quick_gelu"] = quick or bool(tag.get("quick_gelu"))
        preprocess = preprocessing.of_open_clip(tag)
    elif rest and Path(rest).expanduser().is_file():
        file = Path(rest).expanduser()
        preprocess = _preprocessing_of_a_file(architecture, tags, name)
    else:
        close = difflib.get_close_matches(rest, tags, 1, 0.5)
        hint = f"did you mean {architecture + ':' + close[0]!r}? " if close else ""
        some = ", ".join(tags[:5]) + (", …" if len(tags) > 5 else "") or "it has none"
        raise FileNotFoundError(
            f"{name!r} names no weights: {hint}after the colon goes a file, or a tag of {architecture} ({some})"
        )
    model = _build(model_cfg)
    if load_weights(model, file, architecture) and not quick:
        _warn_of_gelu(file, "QuickGELU", "GELU", f"give {'openai:' + str(file)!r}")
    return freeze(
        model, tokenizers.of_open_clip(model_cfg["text_cfg"], file.parent, name), name, preprocess
    )


def _preprocessing_of_a_file(architecture: str, tags: list[str], name: str) -> dict[str, Any]:
    """A file of weights does not say how pictures were prepared. Taken is what the architecture's published weights have in common,
    or where they differ, that of the first, with a warning."""
    with needs("clip"):
        import open_clip

    known = [
        preprocessing.of_open_clip(open_clip.get_pretrained_cfg(architecture, t)) for t in tags
    ] or [preprocessing.of_open_clip({})]
    if other := next((i for i, k in enumerate(known) if k != known[0]), 0):
        warnings.warn(
            f"{name} does not say how pictures were prepared for it, and {architecture}'s published weights differ in that: they are prepared as for "
            f"{tags[0]!r}, not as for {tags[other]!r}; if that is wrong, give a folder whose {OPEN_CLIP_CONFIG} says so in its preprocess_cfg",
            stacklevel=2,
        )
    return known[0]


def _warn_of_gelu(weights: object, trained: str, computed: str, instead: str) -> None:
    """As open_clip does: the weights are loaded all the same."""
    warnings.warn(
        f"{weights} was trained with {trained}, and this architecture computes {computed}; {instead}",
        stacklevel=2,
    )


def _openai(file: Path, name: str, sure: bool) -> Clip:
    """A state dict of OpenAI's code: a ViT with heads of width 64 and QuickGELU, whose other sizes are read off the shapes."""
    weights = read_weights(file)
    marked = not OPENAI_MARKS.isdisjoint(weights)
    weights = {k: v for k, v in weights.items() if k not in OPENAI_MARKS}
    if not marked and not sure:
        raise ValueError(
            f"{file} does not say its architecture; give it too, as 'ViT-B-32:{file}', or 'openai:{file}' if OpenAI's code saved it"
        )
    try:
        vision, text = weights["visual.conv1.weight"], weights["token_embedding.weight"]
        grid = round((len(weights["visual.positional_embedding"]) - 1) ** 0.5)
        model = _build(
            {
                "embed_dim": weights["text_projection"].shape[1],
                "quick_gelu": True,
                "vision_cfg": {
                    "image_size": grid * vision.shape[-1], "patch_size": vision.shape[-1], "width": vision.shape[0],
                    "layers": _layers(weights, "visual.transformer."),
                },
                "text_cfg": {
                    "context_length": len(weights["positional_embedding"]), "vocab_size": text.shape[0], "width": text.shape[1],
                    "heads": max(1, text.shape[1] // 64), "layers": _layers(weights, "transformer."),
                },
            }
        )  # fmt: skip
    except (KeyError, RuntimeError, IndexError, ZeroDivisionError) as e:
        lacks = f" (it lacks {e.args[0]!r})" if isinstance(e, KeyError) else ""
        raise ValueError(
            f"{file} holds no CLIP of OpenAI's with a ViT{lacks}; if open_clip made it, give its architecture too, as 'ViT-B-32:{file}'"
        ) from e
    fill(model, weights, file, "OpenAI's code with a ViT")
    return freeze(
        model,
        tokenizers.of_open_clip({"context_length": model.context_length}, file.parent, name),
        name,
        preprocessing.of_open_clip({}),
    )


def _layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({k.split(".resblocks.")[1].split(".")[0] for k in weights if k.startswith(prefix)})


def _file(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}; check the path")
    return file


def _build(model_cfg: dict[str, Any]) -> nn.Module:
    """open_clip's module for a configuration, with random weights."""
    with needs("clip"):
        from open_clip import CLIP, CustomTextCLIP

    cfg = {k: v for k, v in model_cfg.items() if k != "custom_text"}
    if "multimodal_cfg" in cfg:
        raise ValueError("it is a CoCa, whose text decoder is not read: choose a CLIP or SigLIP")
    if cfg["text_cfg"].get("hf_model_name"):
        cfg["text_cfg"] = {**cfg["text_cfg"], "hf_model_pretrained": False}
    custom = model_cfg.get("custom_text") or cfg["text_cfg"].get("hf_model_name")
    return (CustomTextCLIP if custom else CLIP)(**cfg)
