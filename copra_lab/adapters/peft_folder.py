"""Adapters on disk: a folder as peft writes it (``adapter_config.json``, ``adapter_model.safetensors``).

The sites carry Hugging Face CLIPModel's names, so ``peft.PeftModel.from_pretrained`` loads the folder on such a model.
What peft has no word for (the base's hash, provenance) stands in the header of the weights file, which is complete in
itself and written last: a folder whose writing was cut off still holds the earlier adapter. Nothing is unpickled.

Folders that peft wrote are read too: of a CLIP's tower alone or inside another model, of open_clip's modules, with its own rank and
alpha for any matrix.
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

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.factor_pairs import AdapterError, assemble, pair_up, read_safetensors
from copra_lab.models.sites import hf_name, not_sites, parse
from copra_lab.utils.files import read_json, write_atomically

__all__ = ["save_adapter"]

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_ROOT = "base_model.model."
"""What peft puts before a module's own name."""


def save_adapter(adapter: Adapter, folder: "str | Path") -> None:
    """Write `adapter` into `folder`, which is made if need be. Raises AdapterError for an adapter without sites."""
    if not adapter.deltas:
        raise AdapterError("an adapter without sites has nothing to save")
    folder, weights = Path(folder), weights_file(adapter)
    write_atomically(
        folder / CONFIG, json.dumps(_peft_config(adapter), indent=2, sort_keys=True).encode()
    )
    write_atomically(folder / WEIGHTS, weights)


def weights_file(adapter: Adapter) -> bytes:
    """What `save_adapter` writes as the weights of `adapter`, zeros and all."""
    tensors = {}
    for name, d in adapter.deltas.items():
        for half, t in (
            ("A", d.A),
            ("B", d.B),
        ):  # copied, since sites may share a matrix, which safetensors refuses
            tensors[f"{PEFT_ROOT}{name}.lora_{half}.weight"] = (
                t.detach().float().clone(memory_format=torch.contiguous_format)
            )
    header = {
        "base": adapter.base,
        "scales": {n: d.scale for n, d in adapter.deltas.items()},
        "provenance": dict(adapter.provenance),
    }
    # One key only: the order of several is not fixed, and the same adapter shall give the same bytes.
    return to_bytes(tensors, {"copra_lab": json.dumps(header, sort_keys=True)})


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    ranks = {n: d.rank for n, d in adapter.deltas.items()}
    alphas = {n: d.scale * d.rank for n, d in adapter.deltas.items()}  # peft's scale is alpha / r
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
    file = folder / WEIGHTS
    tensors, header = read_adapter_file(folder)
    if header is not None:
        return own_adapter(file, tensors, header)
    config = _read_config(folder / CONFIG)
    pairs, scales = _as_sites(_pair_up(file, tensors), config, file, of_clip)
    named = config.get("base_model_name_or_path")
    return assemble(
        file, pairs, scales, "", {"source": "peft", **({"clip": named} if named else {})}
    )


def own_adapter(file: Path, tensors: Mapping[str, torch.Tensor], header: str) -> Adapter:
    """The adapter in a file that `save_adapter` wrote, which needs no other."""
    return assemble(file, _pair_up(file, tensors), *_from_header(file, header))


def read_adapter_file(folder: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """What the weights file of an adapter's folder holds, and our header if it has one. Raises AdapterError for what is missing, cut off or a pickle."""
    file = folder / WEIGHTS
    if folder.is_file():
        raise AdapterError(
            f"{folder} is a file, and a folder is needed that peft saved, with {WEIGHTS} and {CONFIG}; give that folder"
        )
    if not folder.is_dir():
        raise AdapterError(
            f"no adapter at {folder}: there is no such file or folder; check the path"
        )
    if not file.is_file():
        if (folder / "adapter_model.bin").exists():
            raise AdapterError(
                f"{folder} holds a pickle (adapter_model.bin), which is never loaded; save it anew with safe_serialization=True"
            )
        others = sorted(
            f.name for f in folder.iterdir() if f.suffix in (".safetensors", ".pt", ".pth")
        )
        hint = f"; if the adapter is {others[0]}, give the path of that file" if others else ""
        raise AdapterError(
            f"{file} is missing; an adapter folder holds {WEIGHTS} and {CONFIG}{hint}"
        )
    tensors, metadata = read_safetensors(file)
    return tensors, metadata.get("copra_lab")


def _pair_up(
    file: Path, tensors: Mapping[str, torch.Tensor]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B of each module in peft's words. Raises AdapterError for a tensor that is neither."""
    halves: dict[str, dict[str, tuple[str, torch.Tensor]]] = {}
    odd = False
    for key, t in tensors.items():
        name, _, half = (
            key.removeprefix(PEFT_ROOT)
            .removesuffix(".weight")
            .removesuffix(".default")
            .rpartition(".lora_")
        )
        if half not in ("A", "B", "embedding_A", "embedding_B") or not name:
            hint = (
                "it is DoRA, which has no low-rank delta alone"
                if "magnitude" in key
                else "only plain LoRA is read"
            )
            raise AdapterError(f"{file} holds {key!r}; {hint}")
        if half.startswith("embedding") or t.ndim > 2:  # of convolutions A has four axes
            odd = True
        halves.setdefault(name, {})[half] = key, t
    if odd:
        raise AdapterError(f"{file}: {not_sites([n for n in halves if not _parsed(n)], halves)}")
    return pair_up(file, halves)


def _from_header(file: Path, header: str) -> tuple[dict[str, float], str, dict[str, Any]]:
    try:
        h = json.loads(header)
        scales = {str(n): float(s) for n, s in h["scales"].items()}
        base, provenance = str(h["base"]), dict(h["provenance"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise AdapterError(f"the header of {file} is damaged ({e}); save the adapter anew") from e
    if bad := [n for n, s in scales.items() if not math.isfinite(s)]:
        raise AdapterError(
            f"the scale of {bad[0]} in {file} is not a finite number; save the adapter anew"
        )
    return scales, base, provenance


def _read_config(file: Path) -> dict[str, Any]:
    """What peft says of its adapter. Raises AdapterError for one that is more than, or other than, low-rank deltas."""
    try:
        c = read_json(file)
        reason = more_than_lora(c)
        float(c["lora_alpha"])
        for a in dict(c.get("alpha_pattern") or {}).items():
            re.compile(a[0]), float(a[1])
    except FileNotFoundError as e:
        raise AdapterError(
            f"{file} is missing; an adapter folder holds {WEIGHTS} and {CONFIG}"
        ) from e
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        RecursionError,
        OverflowError,
        re.error,
    ) as e:
        raise AdapterError(f"{file} is not a peft configuration ({e}); copy it anew") from e
    if reason:
        raise AdapterError(f"{file} describes {reason}; only plain LoRA is read")
    return c


def more_than_lora(c: dict[str, Any]) -> str | None:
    """What makes it more than a delta of low rank on each matrix, in words."""
    if c["peft_type"] != "LORA":
        return str(c["peft_type"])
    if c.get("use_dora"):
        return "DoRA, whose learned magnitudes are no low-rank delta"
    if c.get("fan_in_fan_out"):
        return "LoRA on matrices stored as (in, out) (fan_in_fan_out), which no CLIP has"
    if c.get("bias", "none") != "none" or c.get("lora_bias"):
        return "LoRA that changed biases too (train it with bias='none')"
    if c.get("modules_to_save"):
        return f"LoRA with whole modules beside it (modules_to_save={c['modules_to_save']})"
    begun = c.get("init_lora_weights")
    if isinstance(begun, str) and begun not in ("gaussian", "eva", "orthogonal", "mica"):
        return f"LoRA begun with {begun}, which moves the base (save it with path_initial_model_for_weight_conversion)"
    others = (
        "use_qalora", "use_bdlora", "kasa_config", "arrow_config", "alora_invocation_tokens",
        "target_parameters", "layer_replication", "trainable_token_indices",
    )  # fmt: skip
    return next((f"LoRA with {key}" for key in others if c.get(key)), None)


def _as_sites(
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    config: dict[str, Any],
    file: Path,
    of_clip: bool,
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], dict[str, float]]:
    """The pairs that peft wrote under the names of sites, and their scales as peft computes them.

    A matrix that is no CLIP's keeps its name. Of one that holds q, k and v together, each gets its rows of B and shares A.
    """
    own = str((config.get("auto_mapping") or {}).get("base_model_class", ""))
    alone = (
        "text"
        if "Text" in own
        else "vision"
        if "Vision" in own or "ImageClassification" in own
        else None
    )
    out, scales = {}, {}
    if of_clip:
        # ΔW = 0 changes nothing. So it is on the output projection of nn.MultiheadAttention, whose forward pass calls no adapter of its own.
        pairs = {p: (a, b) for p, (a, b) in pairs.items() if _parsed(p) or (a.any() and b.any())}
        if outside := [p for p in pairs if not _parsed(p)]:
            raise AdapterError(f"{file}: {not_sites(outside, pairs)}")
    if any(path.endswith(".base_layer.out_proj") and b.any() for path, (_, b) in pairs.items()):
        warnings.warn(
            f"{file}: peft (measured: 0.21.2) adds the ΔW of the output projection of nn.MultiheadAttention twice; here it counts once, as "
            "the file says, so that results differ from those of peft's own model",
            stacklevel=4,
        )
    for path, (a, b) in pairs.items():
        found, members = _parsed(path), {path.replace(".base_layer", ""): b}
        if found:
            tower, layer, part = found
            tower = tower or alone
            if tower is None and of_clip:
                raise AdapterError(
                    f"{file} does not say whether {path} is of the image or the text tower; train it on the whole model and save it anew"
                )
            if tower and part == "qkv" and len(b) % 3 == 0:
                members = {
                    hf_name(tower, layer, kind): rows
                    for kind, rows in zip("qkv", b.chunk(3), strict=True)
                }
            elif tower and part != "qkv":
                members = {hf_name(tower, layer, part): b}
        for name, rows in members.items():
            if name in out:
                raise AdapterError(
                    f"{file} has LoRA twice on {name}; only one on each matrix is read, so merge them with peft first"
                )
            out[name] = a, rows.contiguous()
            scales[name] = peft_scale(config, path, len(a))
    return out, scales


def _parsed(path: str) -> tuple[str | None, int, str] | None:
    """`parse`, of a module in peft's words."""
    return parse(path.replace(".base_layer", ""))


def for_module(pattern: str, path: str) -> bool:
    """Whether a key of peft's ``alpha_pattern`` or ``rank_pattern`` is about the module at `path`."""
    return re.match(rf"(.*\.)?({pattern})$", path) is not None


def peft_scale(config: Mapping[str, Any], path: str, rank: int) -> float:
    """What peft multiplies B·A of this rank by, at the module of this path; what lies inside a module that it wrapped shares its alpha."""
    path = path.partition(".base_layer")[0]
    alphas = config.get("alpha_pattern") or {}
    alpha = next(
        (a for pattern, a in alphas.items() if for_module(pattern, path)), config["lora_alpha"]
    )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
