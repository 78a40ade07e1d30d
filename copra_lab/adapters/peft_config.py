"""peft's configuration of an adapter: written, read, and what of it only plain LoRA has."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.models.checkpoints import MALFORMED
from copra_lab.utils.files import read_json

_BASE_KEPT = ("gaussian", "eva", "orthogonal", "mica")
"""Words for ``init_lora_weights`` that leave the base as it is."""
_MORE_THAN_LORA = (
    "use_qalora", "use_bdlora", "kasa_config", "arrow_config", "alora_invocation_tokens",
    "target_parameters", "layer_replication", "trainable_token_indices",
)  # fmt: skip
"""Settings of methods that build on LoRA."""


def config_of(adapter: Adapter) -> dict[str, Any]:
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


def read_config(file: Path) -> dict[str, Any]:
    """Read a configuration of peft.

    Raises:
        AdapterError: If it is missing or damaged, or not of plain LoRA.
    """
    try:
        c = read_json(file)
        reason = not_plain_lora(c)
        float(c["lora_alpha"])
        for pattern, alpha in dict(c.get("alpha_pattern") or {}).items():
            re.compile(pattern), float(alpha)
    except FileNotFoundError as e:
        raise AdapterError(f"{file} is missing; copy it from where the weights come from") from e
    except (*MALFORMED, OSError, re.error) as e:
        raise AdapterError(f"{file} is not a peft configuration ({e}); copy it again") from e
    if reason:
        raise AdapterError(f"{file} describes {reason}; only plain LoRA can be read")
    return c


def not_plain_lora(config: Mapping[str, Any]) -> str | None:
    """What makes an adapter more than a low-rank delta for each matrix; None for plain LoRA.

    Args:
        config: peft's configuration.
    """
    c, init, modules = config, config.get("init_lora_weights"), config.get("modules_to_save")
    biased = c.get("bias", "none") != "none" or c.get("lora_bias")
    moved = isinstance(init, str) and init not in _BASE_KEPT
    fix = "(save it with path_initial_model_for_weight_conversion)"
    reasons = (
        (c["peft_type"] != "LORA", str(c["peft_type"])),
        (c.get("use_dora"), "DoRA, whose learned magnitudes are not a low-rank delta"),
        (c.get("fan_in_fan_out"), "LoRA on matrices stored as (in, out) (fan_in_fan_out)"),
        (biased, "LoRA that changed biases too (train it with bias='none')"),
        (modules, f"LoRA with whole modules beside it (modules_to_save={modules})"),
        (moved, f"LoRA initialised with {init}, which changes the base {fix}"),
        *((c.get(key), f"LoRA with {key}") for key in _MORE_THAN_LORA),
    )
    return next((reason for found, reason in reasons if found), None)


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
