"""Average adapters of peft's."""

import math
from collections.abc import Iterable, Sequence

from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.merging.linear import weighted_sum
from copra_lab.peft_models.adapter import PeftAdapter, replace_deltas
from copra_lab.peft_models.config import (
    moved_base,
    not_low_rank,
    off_is_not_base,
    remedy,
    repeatable,
)
from copra_lab.peft_models.tensors import average_values, deltas_of
from copra_lab.utils.checks import one_of

__all__ = ["average"]

_IRRELEVANT = frozenset(
    "auto_mapping base_model_name_or_path inference_mode peft_version revision task_type".split()
)
"""Fields of a configuration that do not change what its numbers mean."""

_SHARED = ("bias", "layer_replication", "trainable_token_indices", "alora_invocation_tokens")
"""Fields that adapters must share for their deltas to be added."""


def average(
    adapters: Sequence[PeftAdapter],
    weights: Sequence[float] | None = None,
    space: str = "delta",
    heads: str = "average",
) -> PeftAdapter:
    """Σ wᵢ of several adapters of one base.

    Trained biases are whole values and are always averaged.

    Args:
        adapters: The adapters.
        weights: One for each adapter; by default their mean.
        space: "delta" adds the deltas of plain LoRA, exactly, by stacking ranks, with any weights.
            "parameters" averages every number by itself, which any method allows, with weights that
            sum to 1. For LoRA that is the average of A and of B, not of B·A; for methods that
            multiply (IA³, OFT, HRA, LoHa, …) the result is an adapter, but not an average of what
            the adapters do.
        heads: What was trained beside the adapters (heads, tokens) holds whole values, not
            differences. "average" averages it, and the weights must sum to 1; "first" takes that of
            the first adapter.

    Raises:
        ValueError: If the adapters do not match, or the weights do not fit.
        AdapterError: As `PeftAdapter.deltas`.
    """
    one_of("space", space, ("delta", "parameters"))
    one_of("heads", heads, ("average", "first"))
    weights = [1 / max(1, len(adapters))] * len(adapters) if weights is None else list(weights)
    if not adapters or len(weights) != len(adapters) or not all(map(math.isfinite, weights)):
        raise ValueError(
            f"expected one finite weight for each of {len(adapters)} adapters, got {weights}"
        )
    bases = {b for a in adapters if (b := a.config.get("base_model_name_or_path"))}
    if len(bases) > 1:
        raise ValueError(f"adapters of different bases cannot be averaged: {sorted(bases)}")
    return (_deltas if space == "delta" else _parameters)(adapters, weights, heads == "first")


def _deltas(
    adapters: Sequence[PeftAdapter], weights: Sequence[float], first_head: bool
) -> PeftAdapter:
    """Add the deltas of plain LoRA."""
    for a in adapters:
        moved = moved_base(a.config) and off_is_not_base(a.config)
        if reason := not_low_rank(a.config) or moved:
            raise AdapterError(reason)
    _check_alike(adapters, _SHARED, "deltas cannot be added")
    first = adapters[0]
    biases = average_values([a.biases for a in adapters], weights, "biases")
    head = first.head
    if not first_head:
        head = average_values([a.head for a in adapters], weights, "heads")
    deltas = weighted_sum([deltas_of(a.config, a.tensors) for a in adapters], weights)
    return replace_deltas(first, deltas, head | biases)


def _parameters(
    adapters: Sequence[PeftAdapter], weights: Sequence[float], first_head: bool
) -> PeftAdapter:
    """Average every number by itself."""
    first = adapters[0]
    fields = {k for a in adapters for k in a.config} - _IRRELEVANT
    _check_alike(adapters, fields, "parameters do not line up")
    if not repeatable(first.config):
        moved, fix = moved_base(first.config), remedy(first.config)
        raise AdapterError(f"{moved}, differently for each adapter; {fix}")
    tensors = average_values([a.tensors for a in adapters], weights, "parameters")
    return PeftAdapter(first.config, tensors | first.head if first_head else tensors)


def _check_alike(adapters: Sequence[PeftAdapter], fields: Iterable[str], so: str) -> None:
    """Raise ValueError if adapters differ in one of these fields."""
    first, fields = adapters[0].config, sorted(fields)
    for a in adapters[1:]:
        for k in fields:
            if _sorted(a.config.get(k)) != _sorted(first.get(k)):
                raise ValueError(f"the adapters differ in {k}, so their {so}; train them alike")


def _sorted(value: object) -> object:
    """Sets come back from JSON as lists in any order."""
    if isinstance(value, list) and all(isinstance(x, str) for x in value):
        return sorted(value)
    return value
