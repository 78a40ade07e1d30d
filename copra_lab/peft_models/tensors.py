"""The tensors of a folder that peft saved: their modules, low-rank products, and whole values."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.adapters.peft_config import peft_scale
from copra_lab.adapters.peft_folder import PEFT_ROOT
from copra_lab.peft_models.config import Config, method, not_low_rank, targets, trained_bias

Tensors = Mapping[str, Tensor]

_PLAIN: dict[str, Any] = {
    "use_rslora": False,
    "init_lora_weights": True,
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    "loftq_config": {},
}
"""Fields of a configuration whose scale and initialisation no longer matter."""


def prefix(kind: str) -> str:
    """How the names of a method's tensors begin, after the module's; "" if it has no layers.

    Args:
        kind: What peft calls the method.
    """
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    return next((p for t, p in PEFT_TYPE_TO_PREFIX_MAPPING.items() if t.value == kind and p), "")


def module_keys(config: Config, tensors: Tensors) -> dict[str, tuple[str, ...]]:
    """Name of an adapted module → the keys of its tensors."""
    start = prefix(config["peft_type"])
    out: dict[str, tuple[str, ...]] = {}
    for key in tensors:
        name, found, _ = key.removeprefix(PEFT_ROOT).partition(f".{start}")
        # What a method's layers share, such as VB-LoRA's bank, has no such root.
        if found and key.startswith(PEFT_ROOT):
            out[name] = (*out.get(name, ()), key)
    return out


def extra_tensors(config: Config, tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors that belong to no adapted module.

    Returns:
        Heads and tokens, and those of the base's own biases that were trained.
    """
    adapted = {k for keys in module_keys(config, tensors).values() for k in keys}
    heads = [f".{h}." for h in config.get("modules_to_save") or ()]
    rest: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for k, t in tensors.items():
        if k not in adapted:
            in_head = any(h in f".{k}" for h in heads)
            bias = trained_bias(config) and k.endswith(".bias") and not in_head
            (biases if bias else rest)[k] = t
    return rest, biases


def module_of(key: str) -> str:
    """The module that a bias belongs to."""
    return key.removeprefix(PEFT_ROOT).removesuffix(".bias").removesuffix(".base_layer")


def deltas_of(config: Config, tensors: Tensors) -> Adapter:
    """s·B·A of every module, whatever base it is added to.

    Raises:
        AdapterError: If it is not plain LoRA on linear layers.
    """
    if reason := not_low_rank(config):
        raise AdapterError(reason)
    out = {}
    for name, keys in module_keys(config, tensors).items():
        pair = [f"{PEFT_ROOT}{name}.lora_{half}.weight" for half in "AB"]
        if set(keys) != set(pair) or tensors[pair[0]].ndim != 2:
            raise AdapterError(
                f"the LoRA at {name!r} is not of a plain linear layer; average its parameters"
            )
        a, b = (tensors[k].float() for k in pair)
        out[name] = LowRank(a, b, peft_scale(config, name, a.shape[0]))
    return Adapter(out, provenance={"source": "peft"})


def plain_lora(
    config: Config, modules: Iterable[str], deltas: Adapter
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of plain LoRA with these deltas.

    Args:
        config: The configuration to start from.
        modules: The modules that it adapts.
        deltas: Module → delta.

    Raises:
        AdapterError: If there are no deltas.
    """
    if not deltas.deltas:
        raise AdapterError("an adapter without deltas has nothing to save; use the base")
    tensors: dict[str, Tensor] = {}
    for name, d in deltas.deltas.items():
        # The scale goes into B, so peft's alpha / r is 1 and one configuration fits every module.
        tensors[f"{PEFT_ROOT}{name}.lora_A.weight"] = d.A
        tensors[f"{PEFT_ROOT}{name}.lora_B.weight"] = d.B * d.scale
    ranks = {n: d.rank for n, d in deltas.deltas.items()}
    rank = max(ranks.values())
    plain = {"r": rank, "lora_alpha": rank} | {k: v for k, v in _PLAIN.items() if k in config}
    patterns = {f"^{re.escape(n)}": r for n, r in sorted(ranks.items()) if r != rank}
    config = {**config, **plain, "rank_pattern": patterns, "alpha_pattern": patterns}
    return targets(config, ranks, set(modules) - set(ranks)), tensors


def average_values(
    tensors: Sequence[Tensors], weights: Sequence[float], what: str
) -> dict[str, Tensor]:
    """Σ wᵢ of whole values, as opposed to differences.

    The weights must sum to 1: two halves of a head are a head, two heads are not.

    Args:
        tensors: What each adapter has.
        weights: One for each adapter.
        what: "heads", "biases" or "parameters", for error messages.

    Raises:
        ValueError: If names or shapes differ, the weights do not sum to 1, or integers differ.
    """
    first = tensors[0]
    shapes = [{k: x.shape for k, x in t.items()} for t in tensors]
    if any(s != shapes[0] for s in shapes):
        raise ValueError(
            "the tensors have different names or shapes; average adapters trained alike"
        )
    if first and not math.isclose(math.fsum(weights), 1, abs_tol=1e-6):
        fixes = {"heads": ", or choose heads='first'", "parameters": ", or space='delta'"}
        raise ValueError(
            f"{what} hold whole values, not differences, so their weights must sum to 1, got "
            f"{weights}; change them{fixes.get(what, '')}"
        )
    out = {}
    for k, x in first.items():
        if x.is_floating_point():
            weighted = [w * t[k] for t, w in zip(tensors, weights, strict=True)]
            out[k] = torch.stack(weighted).sum(0).to(x.dtype)
        elif all(torch.equal(t[k], x) for t in tensors):
            out[k] = x
        else:
            raise ValueError(f"{k} holds whole numbers that differ; train with the same seed")
    return out


def module_kinds(config: Config, tensors: Tensors, modules: Iterable[str]) -> set[object]:
    """Kinds of modules: names without their numbers, and the shapes of the adapter's tensors."""
    keys = module_keys(config, tensors)
    return {
        (re.sub(r"\d+", "", m), tuple(tuple(tensors[k].shape) for k in sorted(keys[m])))
        for m in modules
    }


def check_scales(config: Config, tensors: Tensors, model: nn.Module, name: str) -> None:
    """Check that the folder of a model's adapter says how the model scales each layer.

    peft writes patterns of alpha in another order than the model may have read them in, and does
    not save what ``scale_layer`` changed.

    Args:
        config: The configuration in the folder.
        tensors: The tensors in the folder.
        model: The model that peft adapted.
        name: Name of the adapter in the model.

    Raises:
        AdapterError: If the two differ.
    """
    if method(config) != "LORA":
        return
    modules = dict(model.named_modules())
    for path, keys in module_keys(config, tensors).items():
        layer: Any = modules.get(f"{PEFT_ROOT}{path}")
        scales = getattr(layer, "scaling", {})
        if name in scales and f"{PEFT_ROOT}{path}.lora_A.weight" in keys:
            saved = peft_scale(config, path, layer.r[name])
            if not math.isclose(saved, scales[name], rel_tol=1e-6):
                raise AdapterError(
                    f"peft scales {path!r} by {scales[name]:g} in this model, but writes a folder "
                    f"that says {saved:g}; give alpha_pattern one entry for each module, and undo "
                    "scale_layer"
                )


def natural_key(name: str) -> list[Any]:
    """Sort key that puts layer 10 after layer 9."""
    return [(0, int(x), "") if x.isdigit() else (1, 0, x) for x in re.split(r"(\d+)", name)]
