"""Adapters on disk: a folder as peft writes it (``adapter_config.json``, ``adapter_model.safetensors``).

The sites carry Hugging Face CLIPModel's names, so ``peft.PeftModel.from_pretrained`` loads the folder on such a model.
What peft has no word for (the base's hash, provenance) stands in the header of the weights file, which is complete in
itself and written last: a folder whose writing was cut off still holds the earlier adapter. Nothing is unpickled.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from copra_lab.lora import Adapter, LowRank, check_fits

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


class AdapterError(ValueError):
    """An adapter folder that cannot be used; the message says why and what to do."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader finds the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_adapter(adapter: Adapter, folder: "str | Path") -> None:
    """Write `adapter` into `folder`, which is made if need be. Raises AdapterError for an adapter without sites."""
    if not adapter.deltas:
        raise AdapterError("an adapter without sites has nothing to save")
    folder, weights = Path(folder), weights_file(adapter)
    write_atomically(folder / CONFIG, json.dumps(_peft_config(adapter), indent=2, sort_keys=True).encode())
    write_atomically(folder / WEIGHTS, weights)


def weights_file(adapter: Adapter) -> bytes:
    """What `save_adapter` writes as the weights of `adapter`, zeros and all."""
    tensors = {}
    for name, d in adapter.deltas.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = d.A.detach().float().contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = d.B.detach().float().contiguous()
    header = {"base": adapter.base, "scales": {n: d.scale for n, d in adapter.deltas.items()}, "provenance": dict(adapter.provenance)}
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


def load_adapter(folder: "str | Path", clip=None) -> Adapter:
    """Read the adapter in `folder`; with `clip`, make sure that it fits that model.

    Raises AdapterError, one sentence that names the fix, for a missing or cut-off file, a pickle, numbers that are not
    finite, shapes that do not match, an unknown site, a kind of adapter that is not plain LoRA, or another base.
    """
    folder = Path(folder)
    file = folder / WEIGHTS
    if not folder.is_dir():
        raise AdapterError(f"no adapter folder at {folder}; check the path")
    if not file.is_file():
        if (folder / "adapter_model.bin").exists():
            raise AdapterError(f"{folder} holds a pickle (adapter_model.bin), which is never loaded; save it anew with safe_serialization=True")
        raise AdapterError(f"{file} is missing; an adapter folder holds {WEIGHTS} and {CONFIG}")
    try:
        with safe_open(file, "pt") as f:
            header = (f.metadata() or {}).get("copra_lab")
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as e:
        raise AdapterError(f"{file} is not a whole safetensors file ({e}); copy it anew") from e
    pairs = _pair_up(file, tensors)
    ranks = {name: a.shape[0] for name, (a, _) in pairs.items()}
    if header is not None:
        scales, base, provenance = _from_header(file, header)
    else:
        scales, base, provenance = _from_config(folder / CONFIG, ranks), "", {"source": "peft"}
    if missing := set(pairs) - set(scales):
        raise AdapterError(f"{file} gives no scale for {sorted(missing)[0]}; save the adapter anew")
    try:
        adapter = Adapter({n: LowRank(a, b, scales[n]) for n, (a, b) in pairs.items()}, base, provenance)
        if clip is not None:
            check_fits(adapter, clip.sites, clip.hash)
    except ValueError as e:
        raise AdapterError(f"{folder}: {e}") from e
    return adapter


def _pair_up(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, t in tensors.items():
        name, _, half = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
        if half not in ("A", "B") or not name:
            hint = "it is DoRA, which has no low-rank delta alone" if "magnitude" in key else "only plain LoRA is read"
            raise AdapterError(f"{file} holds {key!r}; {hint}")
        if not t.is_floating_point():
            raise AdapterError(f"{key} in {file} is {t.dtype}, not floating point; save the adapter anew")
        if not torch.isfinite(t).all():
            raise AdapterError(f"{key} in {file} holds NaN or infinity; the training diverged, so lower its learning rate and train again")
        halves.setdefault(name, {})[half] = t.float()
    if not halves:
        raise AdapterError(f"{file} holds no LoRA weights; save the adapter anew")
    for name, pair in halves.items():
        if len(pair) != 2:
            raise AdapterError(f"{file} has only one of A and B for {name}; save the adapter anew")
    return {name: (pair["A"], pair["B"]) for name, pair in halves.items()}


def _from_header(file: Path, header: str) -> tuple[dict[str, float], str, dict[str, Any]]:
    try:
        h = json.loads(header)
        scales = {str(n): float(s) for n, s in h["scales"].items()}
        base, provenance = str(h["base"]), dict(h["provenance"])
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise AdapterError(f"the header of {file} is damaged ({e}); save the adapter anew") from e
    if bad := [n for n, s in scales.items() if not math.isfinite(s)]:
        raise AdapterError(f"the scale of {bad[0]} in {file} is not a finite number; save the adapter anew")
    return scales, base, provenance


def _from_config(file: Path, ranks: dict[str, int]) -> dict[str, float]:
    """Scales as peft computes them, for folders that peft wrote."""
    try:
        c = json.loads(file.read_text(encoding="utf-8"))
        kind, alpha = c["peft_type"], float(c["lora_alpha"])
        alphas, root = dict(c.get("alpha_pattern") or {}), bool(c.get("use_rslora"))
        dora = bool(c.get("use_dora"))
    except FileNotFoundError as e:
        raise AdapterError(f"{file} is missing; an adapter folder holds {WEIGHTS} and {CONFIG}") from e
    except (ValueError, KeyError, TypeError, OSError) as e:
        raise AdapterError(f"{file} is not a peft configuration ({e}); copy it anew") from e
    if kind != "LORA" or dora:
        raise AdapterError(f"{file} describes {'DoRA' if dora else kind}; only plain LoRA is read")
    out = {}
    for name, r in ranks.items():
        a = next((float(v) for k, v in alphas.items() if name == k or name.endswith("." + k)), alpha)
        out[name] = a / (math.sqrt(r) if root else r)
    return out
