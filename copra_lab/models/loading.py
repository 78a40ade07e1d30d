"""Load a CLIP: open_clip's folders, tags and checkpoints, OpenAI's weights, Hugging Face, the hub.

Whatever the source, open_clip's modules run it; a Hugging Face folder is renamed into them
(`copra_lab.models.hugging_face_folder`).
"""

import json
import re
import warnings
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from copra_lab.models import preprocessing, tokenizers
from copra_lab.models.checkpoints import MALFORMED, fill, load_weights, read_marked_weights
from copra_lab.models.clip import Clip
from copra_lab.models.earlier import EARLIER, earlier_clip
from copra_lab.models.freezing import freeze
from copra_lab.models.hub_download import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    PREFIX,
    download_clip,
    unreachable,
)
from copra_lab.models.hugging_face_folder import read_hugging_face
from copra_lab.utils.checks import did_you_mean
from copra_lab.utils.extras import needs

__all__ = ["load_clip"]

BUNDLED = "emoji-clip"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_loaded: dict[str, Clip] = {}


def load_clip(name: "str | Path | None" = None) -> Clip:
    """Load a CLIP or SigLIP that has a ViT as its image tower.

    =====================================  =========================================================
    nothing, or ``emoji-clip``             the bundled one
    ``emoji-clip-0.1.0``                   that of an earlier version (see `earlier`)
    ``ViT-B-32:laion2b_s34b_b79k``         open_clip's architecture and pretrained tag
    ``ViT-B-32:epoch_32.safetensors``      open_clip's architecture, and a checkpoint
                                           (``.safetensors``, ``.pt``, ``.bin``)
    ``openai:ViT-B-32.safetensors``        a state dict of OpenAI's code; the shapes tell the
                                           architecture
    a folder                               in open_clip's layout (``open_clip_config.json``), or a
                                           Hugging Face CLIP or SigLIP (``config.json``)
    ``hf-hub:owner/name``, ``owner/name``  a repository on the Hugging Face hub with such a folder
    =====================================  =========================================================

    Preprocessing and tokenizer are the model's own: what its files say is followed, as open_clip
    and transformers follow it. A setting that is not supported, or a folder that does not say, is
    an error. Whatever a training run wraps around weights (``model_state_dict``, ``module.``,
    ``_orig_mod.``, …) is removed. Files other than safetensors are read as tensors alone
    (``torch.load(…, weights_only=True)``): nothing is unpickled or run. A name is loaded once;
    asking again gives the same object.

    Warns (UserWarning) if weights were trained with another activation than their architecture
    computes, and for a checkpoint whose architecture was trained with more than one preprocessing.

    Args:
        name: One of the above.

    Raises:
        FileNotFoundError: If there is no such name or file.
        ValueError: If a file is damaged, or the architecture has no ViT.
        ConnectionError: If the hub is needed and cannot be reached.
    """
    if name in EARLIER:
        source, called = str(earlier_clip(str(name))), str(name)
    elif name in (None, BUNDLED):
        source, called = str(files("copra_lab") / "assets" / "clip"), BUNDLED
    else:
        source, called = str(name), None
    key = str(Path(source).resolve()) if Path(source).exists() else source
    if key not in _loaded:
        _loaded[key] = _load(source, called)
    clip = _loaded[key]
    if called in EARLIER and not clip.hash.startswith(EARLIER[called]):
        raise ValueError(f"{source} does not hold {called}; remove it and call again")
    return clip


def _load(name: str, called: str | None) -> Clip:
    """See `load_clip`; `called` is the name to give it."""
    path = Path(name).expanduser()
    if path.is_dir():
        return _read_folder(path, called or path.resolve().name)
    if path.is_file():
        return _read_openai(path, called or path.stem, sure=False)
    if name.startswith(PREFIX):
        repo = name.removeprefix(PREFIX)
        return _read_folder(download_clip(repo), repo)
    with needs("clip"):
        from open_clip import list_models

    architecture, colon, rest = name.partition(":")
    if architecture == "openai" and colon:
        file = Path(rest).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}; check the path")
        return _read_openai(file, Path(rest).stem, sure=True)
    if architecture in list_models():
        return _read_named(name, architecture, rest)
    if REPOSITORY.fullmatch(name):
        return _read_folder(download_clip(name), name)
    hint = did_you_mean(architecture, list_models())
    raise FileNotFoundError(
        f"no CLIP {name!r}: {hint}give a folder, open_clip's architecture with a tag or a file "
        "('ViT-B-32:laion2b_s34b_b79k'), or 'hf-hub:owner/name'"
    )


def _read_folder(folder: Path, name: str) -> Clip:
    """A folder in open_clip's layout, or else in Hugging Face's."""
    config_file = folder / OPEN_CLIP_CONFIG
    layout = f"a CLIP folder holds {OPEN_CLIP_CONFIG} and {OPEN_CLIP_WEIGHTS[0]}"
    if not config_file.is_file():
        if (folder / "config.json").is_file():
            return read_hugging_face(folder, name)
        raise FileNotFoundError(f"{config_file} is missing; {layout}, or Hugging Face's files")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        model_cfg, preprocess_cfg = dict(config["model_cfg"]), dict(config["preprocess_cfg"])
        model = _build(model_cfg)
        fields = preprocessing.of_open_clip(preprocess_cfg)
    except MALFORMED as e:
        raise ValueError(
            f"{config_file} is not an open_clip configuration ({e}); copy it again"
        ) from e
    weights = next((folder / w for w in OPEN_CLIP_WEIGHTS if (folder / w).is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"{folder / OPEN_CLIP_WEIGHTS[0]} is missing; {layout}")
    marked = load_weights(model, weights, f"the architecture in {config_file}")
    if marked and not model_cfg.get("quick_gelu"):
        fix = f'write "quick_gelu": true into the model_cfg of {config_file}'
        _warn_of_gelu(weights, "QuickGELU", "GELU", fix)
    tokenizer = tokenizers.of_open_clip(model_cfg["text_cfg"], folder, name)
    return freeze(model, tokenizer, name, fields)


def _read_named(name: str, architecture: str, rest: str) -> Clip:
    """open_clip's architecture with a pretrained tag or a checkpoint file."""
    with needs("clip"):
        import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    tag = open_clip.get_pretrained_cfg(architecture, rest) if rest else {}
    model_cfg = open_clip.get_model_config(architecture)
    quick = bool(model_cfg.get("quick_gelu"))
    if tag:
        file = _download_tag(name, architecture, tag)
        if quick and not tag.get("quick_gelu"):
            plain = f"{architecture.removesuffix('-quickgelu')}:{rest}"
            _warn_of_gelu(name, "GELU", "QuickGELU", f"give {plain!r}")
        quick = model_cfg["quick_gelu"] = quick or bool(tag.get("quick_gelu"))
        fields = preprocessing.of_open_clip(tag)
    elif rest and Path(rest).expanduser().is_file():
        file = Path(rest).expanduser()
        fields = _usual_preprocessing(architecture, tags, name)
    else:
        hint = did_you_mean(name, [f"{architecture}:{t}" for t in tags])
        some = ", ".join(tags[:5]) + (", …" if len(tags) > 5 else "") or "it has none"
        raise FileNotFoundError(
            f"{name!r} names no weights: {hint}after the colon goes a file, or a tag of "
            f"{architecture} ({some})"
        )
    model = _build(model_cfg)
    if load_weights(model, file, architecture) and not quick:
        _warn_of_gelu(file, "QuickGELU", "GELU", f"give {'openai:' + str(file)!r}")
    tokenizer = tokenizers.of_open_clip(model_cfg["text_cfg"], file.parent, name)
    return freeze(model, tokenizer, name, fields)


def _download_tag(name: str, architecture: str, tag: Mapping[str, Any]) -> Path:
    """The file of weights that open_clip publishes under a tag."""
    from huggingface_hub import snapshot_download

    with needs("clip"):
        from open_clip import download_pretrained

    try:
        # Asks once; without a hub, the download itself would ask for a minute.
        if repo := str(tag.get("hf_hub", "")).rpartition("/")[0]:
            snapshot_download(repo, allow_patterns=[OPEN_CLIP_CONFIG])
        return Path(download_pretrained(tag))
    except (OSError, RuntimeError) as e:
        raise unreachable(f"the weights of {name!r}", f"a file, '{architecture}:FILE'") from e


def _usual_preprocessing(architecture: str, tags: list[str], name: str) -> dict[str, Any]:
    """The preprocessing of the architecture's published weights, for a file that does not say.

    If they differ, it is that of the first, with a warning.
    """
    with needs("clip"):
        from open_clip import get_pretrained_cfg

    published = [get_pretrained_cfg(architecture, t) for t in tags] or [{}]
    known = [preprocessing.of_open_clip(cfg) for cfg in published]
    if other := next((i for i, k in enumerate(known) if k != known[0]), 0):
        warnings.warn(
            f"{name} does not say how pictures were prepared for it, and published weights "
            f"differ in that: they are prepared as for {tags[0]!r}, not as for {tags[other]!r}; if "
            f"that is wrong, give a folder with a preprocess_cfg in its {OPEN_CLIP_CONFIG}",
            stacklevel=2,
        )
    return known[0]


def _warn_of_gelu(weights: object, trained: str, computed: str, fix: str) -> None:
    """Warn of another activation, as open_clip does; the weights are loaded all the same."""
    warnings.warn(
        f"{weights} was trained with {trained}, and this architecture computes {computed}; {fix}",
        stacklevel=2,
    )


def _read_openai(file: Path, name: str, sure: bool) -> Clip:
    """A state dict of OpenAI's code: a ViT with heads of width 64 and QuickGELU."""
    weights, marked = read_marked_weights(file)
    if not marked and not sure:
        raise ValueError(
            f"{file} does not say its architecture; give it too, as 'ViT-B-32:{file}', or "
            f"'openai:{file}' if OpenAI's code saved it"
        )
    try:
        model = _build(_openai_config(weights))
    except MALFORMED as e:
        lacks = f" (it lacks {e.args[0]!r})" if isinstance(e, KeyError) else ""
        raise ValueError(
            f"{file} holds no CLIP of OpenAI's with a ViT{lacks}; if open_clip made it, give its "
            f"architecture too, as 'ViT-B-32:{file}'"
        ) from e
    fill(model, weights, file, "OpenAI's code with a ViT")
    text_cfg = {"context_length": model.context_length}
    tokenizer = tokenizers.of_open_clip(text_cfg, file.parent, name)
    return freeze(model, tokenizer, name, preprocessing.of_open_clip({}))


def _openai_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """open_clip's configuration for a state dict of OpenAI's, from its shapes."""
    patch = weights["visual.conv1.weight"]  # (width, 3, size, size)
    tokens, width = weights["token_embedding.weight"].shape
    grid = round((len(weights["visual.positional_embedding"]) - 1) ** 0.5)
    return {
        "embed_dim": weights["text_projection"].shape[1],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": grid * patch.shape[-1],
            "patch_size": patch.shape[-1],
            "width": patch.shape[0],
            "layers": _count_layers(weights, "visual.transformer."),
        },
        "text_cfg": {
            "context_length": len(weights["positional_embedding"]),
            "vocab_size": tokens,
            "width": width,
            "heads": max(1, width // 64),
            "layers": _count_layers(weights, "transformer."),
        },
    }


def _count_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many different numbers follow ``resblocks.`` in these names."""
    return len({k.split(".resblocks.")[1].split(".")[0] for k in weights if k.startswith(prefix)})


def _build(model_cfg: dict[str, Any]) -> Any:
    """open_clip's module for a configuration, with random weights."""
    with needs("clip"):
        from open_clip import CLIP, CustomTextCLIP

    cfg = {k: v for k, v in model_cfg.items() if k != "custom_text"}
    if "multimodal_cfg" in cfg:
        raise ValueError("it is a CoCa, whose text decoder is not read: choose a CLIP or SigLIP")
    if hf_text := cfg["text_cfg"].get("hf_model_name"):
        cfg["text_cfg"] = {**cfg["text_cfg"], "hf_model_pretrained": False}
    return (CustomTextCLIP if model_cfg.get("custom_text") or hf_text else CLIP)(**cfg)
