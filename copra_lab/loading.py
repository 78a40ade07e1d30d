"""Where a CLIP comes from: open_clip's folders, tags and checkpoints, OpenAI's weights, a Hugging Face folder, the hub.

Whatever the source, open_clip's modules run it: a Hugging Face folder is renamed into them (`copra_lab.hf`).
"""

import difflib
import json
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

from copra_lab.clip import Clip
from copra_lab.fetching import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, PREFIX, download_clip, tokenizer_files, unreachable
from copra_lab.sites import find_sites

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_OF_OPENAI = {"input_resolution", "context_length", "vocab_size"}
"""What OpenAI's published state dicts hold beside the weights."""


def read(name: str, called: str | None = None) -> Clip:
    """See `copra_lab.clip.load_clip`; ``called`` is the name that it shall have."""
    path = Path(name).expanduser()
    if path.is_dir():
        return read_folder(path, called or path.resolve().name)
    if path.is_file():
        return _openai(path, called or path.stem, sure=False)
    if name.startswith(PREFIX):
        repo = name.removeprefix(PREFIX)
        return read_folder(download_clip(repo), repo)
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
        from copra_lab.hf import read_hugging_face

        return read_hugging_face(folder, name)
    if not config_file.is_file():
        raise FileNotFoundError(
            f"{config_file} is missing; a CLIP folder holds {OPEN_CLIP_CONFIG} and {OPEN_CLIP_WEIGHTS[0]}, or Hugging Face's config.json and model.safetensors"
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        model_cfg, preprocess = dict(config["model_cfg"]), dict(config["preprocess_cfg"])
        model = _build(model_cfg)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError, ArithmeticError) as e:
        raise ValueError(f"{config_file} is not an open_clip configuration ({e}); copy it anew") from e
    weights = next((folder / w for w in OPEN_CLIP_WEIGHTS if (folder / w).is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"{folder / OPEN_CLIP_WEIGHTS[0]} is missing; a CLIP folder holds {OPEN_CLIP_CONFIG} and {OPEN_CLIP_WEIGHTS[0]}")
    _load(model, weights)
    return finish(model, _tokenizer(model_cfg["text_cfg"], folder, name), name, preprocess)


def _named(name: str, architecture: str, rest: str) -> Clip:
    """open_clip's architecture with a pretrained tag or a checkpoint file."""
    import open_clip
    from huggingface_hub import snapshot_download

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    tag = open_clip.get_pretrained_cfg(architecture, rest) if rest else {}
    if tag:
        try:
            if repo := str(tag.get("hf_hub", "")).rpartition("/")[0]:
                snapshot_download(repo, allow_patterns=[OPEN_CLIP_CONFIG])  # asks once: without a hub, the download asks for a minute
            file = Path(open_clip.download_pretrained(tag))
        except (OSError, RuntimeError) as e:
            raise unreachable(f"the weights of {name!r}", f"them as a file, as {architecture + ':FILE'!r}") from e
    elif rest and Path(rest).expanduser().is_file():
        file = Path(rest).expanduser()
        tag = open_clip.get_pretrained_cfg(architecture, tags[0]) if tags else {}  # whose preprocessing all tags of SigLIP share
        tag = {k: v for k, v in tag.items() if k != "quick_gelu"}  # a file's activation is in the architecture's name
    else:
        close = difflib.get_close_matches(rest, tags, 1, 0.5)
        hint = f"did you mean {architecture + ':' + close[0]!r}? " if close else ""
        some = ", ".join(tags[:5]) + (", …" if len(tags) > 5 else "") or "it has none"
        raise FileNotFoundError(f"{name!r} names no weights: {hint}after the colon goes a file, or a tag of {architecture} ({some})")
    model_cfg = open_clip.get_model_config(architecture)
    if tag.get("quick_gelu"):
        model_cfg["quick_gelu"] = True
    model = _build(model_cfg)
    _load(model, file)
    return finish(model, _tokenizer(model_cfg["text_cfg"], file.parent, name), name, tag)


def _openai(file: Path, name: str, sure: bool) -> Clip:
    """A state dict of OpenAI's code: a ViT with heads of width 64 and QuickGELU, whose other sizes are read off the shapes."""
    weights = read_weights(file)
    marks = {k: int(weights.pop(k)) for k in _OF_OPENAI & set(weights)}
    if not marks and not sure:
        raise ValueError(f"{file} does not say its architecture; give it too, as 'ViT-B-32:{file}', or 'openai:{file}' if OpenAI's code saved it")
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
        model.load_state_dict(weights)
    except (KeyError, RuntimeError, IndexError) as e:
        raise ValueError(f"{file} holds no CLIP of OpenAI's with a ViT; if open_clip made it, give its architecture too, as 'ViT-B-32:{file}'") from e
    return finish(model, _tokenizer({"context_length": model.context_length}, file.parent, name), name, {})


def _layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({k.split(".resblocks.")[1].split(".")[0] for k in weights if k.startswith(prefix)})


def _file(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}; check the path")
    return file


def _build(model_cfg: dict[str, Any]) -> nn.Module:
    """open_clip's module for a configuration, with random weights."""
    from open_clip import CLIP, CustomTextCLIP

    cfg = {k: v for k, v in model_cfg.items() if k != "custom_text"}
    if "multimodal_cfg" in cfg:
        raise ValueError("it is a CoCa, whose text decoder is not read: choose a CLIP or SigLIP")
    if cfg["text_cfg"].get("hf_model_name"):
        cfg["text_cfg"] = {**cfg["text_cfg"], "hf_model_pretrained": False}
    custom = model_cfg.get("custom_text") or cfg["text_cfg"].get("hf_model_name")
    return (CustomTextCLIP if custom else CLIP)(**cfg)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turns whatever a bad file raises into one sentence, and refuses one that would have to be run."""
    if _is_torchscript(file):
        raise ValueError(
            f"{file} is a TorchScript archive, which holds code and is not run here; where you trust it, convert it once with "
            '`python -c "import sys, torch, safetensors.torch as s; s.save_file({k: v.float().contiguous() for k, v in '
            "torch.jit.load(sys.argv[1], 'cpu').state_dict().items()}, sys.argv[2])\" "
            f"{file.name} {file.stem}.safetensors`"
        )
    try:
        yield
    except pickle.UnpicklingError as e:
        raise ValueError(f"{file} is damaged, or holds more than tensors and is not unpickled here; save its weights as safetensors") from e
    except (SafetensorError, RuntimeError, OSError, EOFError, LookupError, TypeError, AttributeError, AssertionError, ValueError, StopIteration) as e:
        raise ValueError(f"{file} is damaged or belongs to another configuration; copy it anew") from e


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(n.endswith("/constants.pkl") for n in archive.namelist())
    except zipfile.BadZipFile:  # damaged, as whoever reads it will say
        return False


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name: safetensors, or what ``torch.load`` reads with ``weights_only=True``. Raises ValueError for a
    damaged file, one that holds more than tensors, and a TorchScript archive."""
    with _reading(file):
        found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
        found = found.get("state_dict", found)
        return {k.removeprefix("module."): v.detach() for k, v in found.items()}


def _load(model: nn.Module, file: Path) -> None:
    """The weights in `file` into open_clip's `model`, by open_clip's own code, which knows its earlier names and sizes."""
    from open_clip import load_checkpoint

    with _reading(file):
        load_checkpoint(model, str(file))


def _tokenizer(text_cfg: dict[str, Any], folder: Path, name: str) -> Any:
    """The tokenizer that a configuration names: CLIP's own, with the vocabulary in the folder if there is one, or Hugging Face's."""
    from open_clip.tokenizer import SimpleTokenizer

    context, more = text_cfg.get("context_length", 77), text_cfg.get("tokenizer_kwargs") or {}
    if named := text_cfg.get("hf_tokenizer_name"):
        source = str(folder) if tokenizer_files(folder) else named
        return hugging_face_tokenizer(source, name, context, tokenizer_mode=text_cfg.get("tokenizer_mode"), **more)
    merges = folder / "merges.txt.gz"
    return SimpleTokenizer(context_length=context, **more, **({"bpe_path": str(merges)} if merges.is_file() else {}))


def hugging_face_tokenizer(source: str, name: str, context: int, **more: Any) -> Any:
    """A Hugging Face tokenizer from a folder or the hub, called as open_clip calls its own: texts → int64 (n, context)."""
    from open_clip.tokenizer import HFTokenizer

    try:
        return HFTokenizer(source, context_length=context, **more)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as e:
        if not Path(source).is_dir():
            raise unreachable(f"the tokenizer {source!r} of {name}", "its files (tokenizer.json, tokenizer_config.json) beside the weights") from e
        raise ValueError(
            f"the tokenizer in {source} cannot be read ({str(e).strip().splitlines()[0]}); copy tokenizer.json and tokenizer_config.json anew"
        ) from e


def finish(model: nn.Module, tokenizer: Any, name: str, preprocess: Mapping[str, Any]) -> Clip:
    """The frozen CLIP of a model with its weights. ``preprocess``: open_clip's words (mean, std, interpolation, resize_mode); what is
    missing is CLIP's own. Raises ValueError for an image tower that is no ViT on squares."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    size = model.visual.image_size
    sides = {size} if isinstance(size, int) else set(size)
    try:
        fits = len(sides) == 1 and any(s.tower == "vision" for s in find_sites(model).values())
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"the image tower of {name} is no ViT for square images, which LoRA here needs; choose an architecture such as ViT-B-32")
    mean, std = (tuple(preprocess.get(k) or d) for k, d in (("mean", OPENAI_DATASET_MEAN), ("std", OPENAI_DATASET_STD)))
    interpolation = "bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic"
    resize = preprocess.get("resize_mode") or "shortest"
    return Clip(model.requires_grad_(False).eval(), tokenizer, name, sides.pop(), mean, std, interpolation, resize)
