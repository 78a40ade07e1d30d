"""Adapters on disk, in a folder as peft writes it.

The folder holds ``adapter_config.json`` and ``adapter_model.safetensors``. Sites have the names of
Hugging Face's CLIPModel, so ``peft.PeftModel.from_pretrained`` loads the folder on such a model.
What peft has no field for (the base's hash, provenance) is in the header of the weights file, which
is complete in itself and written last: if writing is cut off, the folder still holds the earlier
adapter. Nothing is unpickled.

Folders that peft wrote are read too: of one tower of a CLIP or of a larger model around it, of
open_clip's modules, and with a rank and alpha of its own for any matrix.
"""

import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.factor_pairs import (
    AdapterError,
    Pairs,
    assemble,
    pair_up,
    read_safetensors,
)
from copra_lab.models.sites import hf_name, not_sites, parse
from copra_lab.utils.files import read_json, write_atomically

__all__ = ["save_adapter"]

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_ROOT = "base_model.model."
"""What peft puts before a module's own name."""
_BASE_KEPT = ("gaussian", "eva", "orthogonal", "mica")
"""Words for ``init_lora_weights`` that leave the base as it is."""
_LAYOUT = f"an adapter folder holds {WEIGHTS} and {CONFIG}"


def save_adapter(adapter: Adapter, folder: "str | Path") -> None:
    """Save an adapter as a folder that peft and `load_adapter` read.

    Args:
        adapter: The adapter.
        folder: Where to save it; created if necessary.

    Raises:
        AdapterError: If the adapter has no sites.
        OSError: If the folder cannot be written.
    """
    if not adapter.deltas:
        raise AdapterError("an adapter without sites has nothing to save; use the base")
    folder, weights = Path(folder), weights_file(adapter)
    config = json.dumps(_peft_config(adapter), indent=2, sort_keys=True)
    write_atomically(folder / CONFIG, config.encode())
    write_atomically(folder / WEIGHTS, weights)


def weights_file(adapter: Adapter) -> bytes:
    """The contents of the weights file that `save_adapter` writes; equal adapters, equal bytes."""
    tensors = {}
    for name, d in adapter.deltas.items():
        for half, t in (("A", d.A), ("B", d.B)):
            # Copied, because safetensors refuses a matrix that two sites share.
            whole = t.detach().float().clone(memory_format=torch.contiguous_format)
            tensors[f"{PEFT_ROOT}{name}.lora_{half}.weight"] = whole
    header = {
        "base": adapter.base,
        "scales": {n: d.scale for n, d in adapter.deltas.items()},
        "provenance": dict(adapter.provenance),
    }
    # A single key, since safetensors does not keep the order of several.
    return to_bytes(tensors, {"copra_lab": json.dumps(header, sort_keys=True)})


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    """The configuration in peft of plain LoRA with these ranks and scales (alpha / r)."""
    ranks = {n: d.rank for n, d in adapter.deltas.items()}
    alphas = {n: d.scale * d.rank for n, d in adapter.deltas.items()}
    rank, alpha = max(ranks.values()), max(alphas.values())
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.provenance.get("clip"),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {n: r for n, r in sorted(ranks.items()) if r != rank},
        "alpha_pattern": {n: a for n, a in alphas.items() if a != alpha},
        "target_modules": sorted(adapter.deltas),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def read_folder(folder: Path, of_clip: bool) -> Adapter:
    """Read an adapter from a folder.

    Args:
        folder: Written by `save_adapter` or peft.
        of_clip: Whether every module must be a site of a CLIP.

    Raises:
        AdapterError: If it cannot be used.
    """
    file = folder / WEIGHTS
    tensors, header = read_adapter_file(folder)
    if header is not None:
        return from_own_file(file, tensors, header)
    config = _read_config(folder / CONFIG)
    pairs, scales = _as_sites(_pair_up(file, tensors), config, file, of_clip)
    base = config.get("base_model_name_or_path")
    return assemble(file, pairs, scales, "", {"source": "peft"} | ({"clip": base} if base else {}))


def from_own_file(file: Path, tensors: Mapping[str, Tensor], header: str) -> Adapter:
    """The adapter in a weights file that `save_adapter` wrote.

    Args:
        file: Where it is from, for error messages.
        tensors: What the file holds.
        header: The JSON that `save_adapter` put into its header.

    Raises:
        AdapterError: If it is damaged.
    """
    pairs = _pair_up(file, tensors)
    try:
        h = json.loads(header)
        scales = {str(n): float(s) for n, s in h["scales"].items()}
        base, provenance = str(h["base"]), dict(h["provenance"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise AdapterError(f"the header of {file} is damaged ({e}); save the adapter again") from e
    if bad := [n for n, s in scales.items() if not math.isfinite(s)]:
        raise AdapterError(
            f"the scale of {bad[0]} in {file} is not a finite number; save the adapter again"
        )
    return assemble(file, pairs, scales, base, provenance)


def read_adapter_file(folder: Path) -> tuple[dict[str, Tensor], str | None]:
    """Read the weights file of an adapter's folder.

    Returns:
        The tensors, and the header that `save_adapter` writes, if it has one.

    Raises:
        AdapterError: If the file is missing, cut off or a pickle.
    """
    file = folder / WEIGHTS
    if folder.is_file():
        raise AdapterError(
            f"{folder} is a file; give the folder that peft saved, with {WEIGHTS} and {CONFIG}"
        )
    if not folder.is_dir():
        raise AdapterError(
            f"no adapter at {folder}: there is no such file or folder; check the path"
        )
    if not file.is_file():
        if (folder / "adapter_model.bin").exists():
            raise AdapterError(
                f"{folder} holds a pickle (adapter_model.bin), which is never loaded; save it "
                "again with safe_serialization=True"
            )
        suffixes = (".safetensors", ".pt", ".pth")
        others = sorted(f.name for f in folder.iterdir() if f.suffix in suffixes)
        hint = f"; if the adapter is {others[0]}, give the path of that file" if others else ""
        raise AdapterError(f"{file} is missing; {_LAYOUT}{hint}")
    tensors, metadata = read_safetensors(file)
    return tensors, metadata.get("copra_lab")


def _pair_up(file: Path, tensors: Mapping[str, Tensor]) -> Pairs:
    """A and B of each module, by peft's names. Raises AdapterError for any other tensor."""
    factors: dict[str, dict[str, tuple[str, Tensor]]] = {}
    linear = True
    for key, t in tensors.items():
        path = key.removeprefix(PEFT_ROOT).removesuffix(".weight").removesuffix(".default")
        name, _, half = path.rpartition(".lora_")
        if half not in ("A", "B", "embedding_A", "embedding_B") or not name:
            dora = "it is DoRA, which is more than a low-rank delta; train plain LoRA"
            hint = dora if "magnitude" in key else "only plain LoRA can be read"
            raise AdapterError(f"{file} holds {key!r}; {hint}")
        # A convolution's A has four axes.
        linear = linear and not half.startswith("embedding") and t.ndim <= 2
        factors.setdefault(name, {})[half] = key, t
    if not linear:
        raise AdapterError(f"{file}: {not_sites([n for n in factors if not _parse(n)], factors)}")
    return pair_up(file, factors)


def _read_config(file: Path) -> dict[str, Any]:
    """Read a configuration of peft. Raises AdapterError if it is not plain LoRA."""
    try:
        c = read_json(file)
        reason = not_plain_lora(c)
        float(c["lora_alpha"])
        for pattern, alpha in dict(c.get("alpha_pattern") or {}).items():
            re.compile(pattern), float(alpha)
    except FileNotFoundError as e:
        raise AdapterError(f"{file} is missing; {_LAYOUT}") from e
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
        re.error,
    ) as e:
        raise AdapterError(f"{file} is not a peft configuration ({e}); copy it again") from e
    if reason:
        raise AdapterError(f"{file} describes {reason}; only plain LoRA can be read")
    return c


def not_plain_lora(config: Mapping[str, Any]) -> str | None:
    """What makes an adapter more than a low-rank delta for each matrix; None for plain LoRA.

    Args:
        config: peft's configuration.
    """
    c = config
    if c["peft_type"] != "LORA":
        return str(c["peft_type"])
    if c.get("use_dora"):
        return "DoRA, whose learned magnitudes are not a low-rank delta"
    if c.get("fan_in_fan_out"):
        return "LoRA on matrices stored as (in, out) (fan_in_fan_out), which no CLIP has"
    if c.get("bias", "none") != "none" or c.get("lora_bias"):
        return "LoRA that changed biases too (train it with bias='none')"
    if c.get("modules_to_save"):
        return f"LoRA with whole modules beside it (modules_to_save={c['modules_to_save']})"
    init = c.get("init_lora_weights")
    if isinstance(init, str) and init not in _BASE_KEPT:
        return (
            f"LoRA initialised with {init}, which changes the base (save it with "
            "path_initial_model_for_weight_conversion)"
        )
    others = (
        "use_qalora", "use_bdlora", "kasa_config", "arrow_config", "alora_invocation_tokens",
        "target_parameters", "layer_replication", "trainable_token_indices",
    )  # fmt: skip
    return next((f"LoRA with {key}" for key in others if c.get(key)), None)


def _as_sites(
    pairs: Pairs, config: Mapping[str, Any], file: Path, of_clip: bool
) -> tuple[Pairs, dict[str, float]]:
    """The pairs that peft wrote, by names of sites, and their scales as peft computes them.

    A module that is not a CLIP's keeps its name.
    """
    if of_clip:
        # ΔW = 0 is no loss. nn.MultiheadAttention's output projection has it: its forward pass
        # never calls the adapter.
        pairs = {p: (a, b) for p, (a, b) in pairs.items() if _parse(p) or (a.any() and b.any())}
        if outside := [p for p in pairs if not _parse(p)]:
            raise AdapterError(f"{file}: {not_sites(outside, pairs)}")
    if any(path.endswith(".base_layer.out_proj") and b.any() for path, (_, b) in pairs.items()):
        warnings.warn(
            f"{file}: peft (measured: 0.21.2) adds the ΔW of the output projection of "
            "nn.MultiheadAttention twice; here it counts once, as the file says, so results differ "
            "from those of peft's own model",
            stacklevel=4,
        )
    trained = str((config.get("auto_mapping") or {}).get("base_model_class", ""))
    vision = "Vision" in trained or "ImageClassification" in trained
    default = "text" if "Text" in trained else "vision" if vision else None
    out, scales = {}, {}
    for path, (a, b) in pairs.items():
        tower = (_parse(path) or (None,))[0] or default
        if of_clip and tower is None:
            raise AdapterError(
                f"{file} does not say whether {path} is of the image or the text tower; train it "
                "on the whole model and save it again"
            )
        for name, rows in _split(path, tower, b).items():
            if name in out:
                raise AdapterError(
                    f"{file} has LoRA twice on {name}; only one per matrix can be read, so merge "
                    "them with peft first"
                )
            out[name] = a, rows.contiguous()
            scales[name] = peft_scale(config, path, len(a))
    return out, scales


def _split(path: str, tower: str | None, b: Tensor) -> dict[str, Tensor]:
    """Site → its rows of B (out, r): all, or a third for fused q, k and v, which share A."""
    found = _parse(path)
    if found and tower and found[2] != "qkv":
        return {hf_name(tower, found[1], found[2]): b}
    if found and tower and len(b) % 3 == 0:
        thirds = zip("qkv", b.chunk(3), strict=True)
        return {hf_name(tower, found[1], kind): rows for kind, rows in thirds}
    return {path.replace(".base_layer", ""): b}


def _parse(path: str) -> tuple[str | None, int, str] | None:
    """`parse`, for a module by peft's name."""
    return parse(path.replace(".base_layer", ""))


def pattern_matches(pattern: str, path: str) -> bool:
    """Whether a key of peft's ``alpha_pattern`` or ``rank_pattern`` is about a module."""
    return re.match(rf"(.*\.)?({pattern})$", path) is not None


def peft_scale(config: Mapping[str, Any], path: str, rank: int) -> float:
    """The scale s of s·B·A in peft: alpha / r, or alpha / √r with rsLoRA.

    Args:
        config: peft's configuration.
        path: The module; what is inside a module that peft wrapped shares its alpha.
        rank: r.
    """
    path = path.partition(".base_layer")[0]
    patterns = (config.get("alpha_pattern") or {}).items()
    alphas = (alpha for pattern, alpha in patterns if pattern_matches(pattern, path))
    alpha = next(alphas, config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
