"""Adapters of any model and method, as peft saves them: taken apart, averaged, and put through the tools for LoRA.

A `PeftAdapter` is a folder of peft's as a value. Blocks can be removed whatever the method is (`keep`); parameters can be
averaged (`average`); plain LoRA has deltas (`PeftAdapter.deltas`) that every function of `copra_lab.merging.linear` takes, and goes back with
`PeftAdapter.with_deltas`. What is saved loads with ``peft.PeftModel.from_pretrained``. Nothing is unpickled.

An adapter that moved its base before the training (PiSSA, OLoRA, CorDA, LoRA-GA) holds no deltas: B·A is measured from a base that
lacks a part. `PeftAdapter.as_lora` makes plain LoRA of it. What cannot be done exactly is refused.
"""

import copy
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.adapters.peft_folder import CONFIG, PEFT_ROOT, WEIGHTS, read_adapter_file
from copra_lab.merging.linear import weighted_sum
from copra_lab.peft_models.config import (
    for_keeping,
    low_rank,
    method,
    moved_base,
    off_is_not_base,
    repeatable,
    subtracts,
    targets,
)
from copra_lab.peft_models.layers import BlockOf, block_of
from copra_lab.peft_models.tensors import (
    beside,
    check_scales,
    form,
    from_products,
    kinds,
    module_keys,
    module_of,
    natural,
    prefix,
    products,
    whole_values,
)
from copra_lab.pruning import preset
from copra_lab.utils.files import read_json, write_atomically

__all__ = ["PeftAdapter", "average", "keep"]

_ABOUT = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
}
"""What a configuration says of its making, not of what its numbers mean."""

_ALIKE = ("bias", "layer_replication", "trainable_token_indices", "alora_invocation_tokens")
"""What adapters must share beside their base for their deltas to be added."""

_SHARED_PROJECTION = {"VERA": "VeRA", "PVERA": "PVeRA", "RANDLORA": "RandLoRA"}
"""Methods whose random matrices are as large as the largest adapted module asks for."""


@dataclass(frozen=True, eq=False)
class PeftAdapter:
    """An adapter of peft's, never changed after it is made.

    ``config``: what adapter_config.json holds. ``tensors``: what adapter_model.safetensors holds, heads that were trained beside the
    adapter included.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @staticmethod
    def of(model: nn.Module, name: str = "default") -> "PeftAdapter":
        """A copy of the adapter `name` of a model. Raises ValueError for a model without it, and AdapterError for one that scales a layer
        otherwise than the folder will say."""
        from peft import PeftModel

        if not isinstance(model, PeftModel) or name not in model.peft_config:
            raise ValueError(
                f"{type(model).__name__} has no adapter {name!r}; make one with peft.get_peft_model"
            )
        with (
            tempfile.TemporaryDirectory() as folder
        ):  # peft knows best what belongs into a folder of its own
            model.save_pretrained(folder, selected_adapters=[name])
            adapter = PeftAdapter.load(Path(folder) if name == "default" else Path(folder) / name)
        check_scales(adapter.config, adapter.tensors, model, name)
        return adapter

    @staticmethod
    def load(folder: "str | Path") -> "PeftAdapter":
        """Read a folder that peft saved. Raises AdapterError, one sentence that names the fix, for one that is missing, cut off or a
        pickle, for numbers that are not finite, and for a method without layers."""
        folder = Path(folder)
        tensors, _ = read_adapter_file(folder)
        try:
            config = read_json(folder / CONFIG)
            kind = config["peft_type"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise AdapterError(
                f"{folder / CONFIG} is not a peft configuration ({e}); copy it anew"
            ) from e
        if bad := [k for k, t in tensors.items() if not torch.isfinite(t).all()]:
            raise AdapterError(
                f"{bad[0]} in {folder / WEIGHTS} holds NaN or infinity; lower the learning rate and train again"
            )
        adapter = PeftAdapter(config, tensors)
        if not prefix(kind) or not adapter.modules:
            raise AdapterError(
                f"{folder} holds {kind}, which has no adapter layers; choose LoRA or another method that has"
            )
        return adapter

    def save(self, folder: "str | Path") -> None:
        """Write a folder that peft loads; the weights last."""
        folder = Path(folder)
        write_atomically(
            folder / CONFIG, json.dumps(dict(self.config), indent=2, sort_keys=True).encode()
        )
        write_atomically(
            folder / WEIGHTS,
            to_bytes({k: t.contiguous() for k, t in self.tensors.items()}, {"format": "pt"}),
        )

    @property
    def modules(self) -> dict[str, tuple[str, ...]]:
        """Name of an adapted module → the keys of its tensors."""
        return module_keys(self.config, self.tensors)

    @property
    def head(self) -> dict[str, Tensor]:
        """What was trained beside the adapter: tensors that belong to no adapted module and are no biases of the base. Whole values, not
        differences."""
        return beside(self.config, self.tensors)[0]

    @property
    def biases(self) -> dict[str, Tensor]:
        """The base's own biases that were trained (``bias="all"`` and its like): whole values, not differences."""
        return beside(self.config, self.tensors)[1]

    def blocks(self, block_of: BlockOf = block_of) -> dict[str, tuple[str, ...]]:
        """Transformer block → the adapted modules in it, in the order of their numbers; the names that `tuners.tuner_layers` gives."""
        out: dict[str, tuple[str, ...]] = {}
        for name in sorted(self.modules, key=natural):
            block = block_of(name)
            out[block] = (*out.get(block, ()), name)
        return out

    @property
    def deltas(self) -> Adapter:
        """Of plain LoRA on linear layers: ΔW of every module, for `copra_lab.merging.linear` and `copra_lab.pruning.sparsify`. Raises AdapterError, with
        what to do, for other methods and DoRA, for an adapter that moved its base (see `as_lora`), and for one that trained biases."""
        if why := low_rank(self.config) or off_is_not_base(self.config):
            raise AdapterError(why)
        return products(self.config, self.tensors)

    def as_lora(self, start: "PeftAdapter | nn.Module") -> "PeftAdapter":
        """Plain LoRA on the untouched base that does what this adapter does on the base that it moved: ΔW = s·(B·A − B₀·A₀), of twice the
        rank. Heads and trained biases stay.

        ``start``: the adapter as it was before the training, saved right after ``get_peft_model``; or, for PiSSA by the full decomposition
        and for OLoRA, the base model as it was before peft changed it, of which B₀ and A₀ are computed again.

        Raises AdapterError where that is not exact: for DoRA, for other beginnings without their `start`, for LoftQ, whose base is rounded
        besides, for a beginning that is not known, and for a `start` of other modules, ranks or scales.
        """
        if moved_base(self.config) is None:
            raise AdapterError(
                "this adapter did not move its base, so there is nothing to convert; use it as it is"
            )
        now, begun = products(self.config, self.tensors), str(self.config["init_lora_weights"])
        if not subtracts(self.config):
            raise AdapterError(
                f"{moved_base(self.config)}, which no delta of low rank undoes; train plain LoRA"
            )
        if isinstance(start, nn.Module):
            if not repeatable(self.config):
                raise AdapterError(
                    f"the beginning of {begun} cannot be computed again; give the adapter as it was before the training instead"
                )
            start = _beginning(start, self.config)
        then = products(start.config, start.tensors)
        if form(now) != form(then) or str(start.config.get("init_lora_weights")).lower() not in (
            begun.lower(),
            "true",
        ):
            raise AdapterError(
                f"the two adapters differ in modules, ranks or scales; give the one that this {begun} training began with"
            )
        return self._with(weighted_sum([now, then], [1.0, -1.0]), {**self.head, **self.biases})

    def with_deltas(self, deltas: Adapter) -> "PeftAdapter":
        """The same with other deltas, of whatever rank, and the same head. Raises AdapterError without any, and where `deltas` does."""
        if why := low_rank(self.config) or off_is_not_base(self.config):
            raise AdapterError(why)
        return self._with(deltas, self.head)

    def _with(self, deltas: Adapter, rest: Mapping[str, Tensor]) -> "PeftAdapter":
        config, tensors = from_products(self.config, self.modules, deltas)
        return PeftAdapter(config, {**rest, **tensors})


def keep(
    adapter: PeftAdapter, blocks: "str | Iterable[str]", block_of: BlockOf = block_of
) -> PeftAdapter:
    """The adapter with these blocks only: names of `PeftAdapter.blocks`, or a preset of `copra_lab.pruning` ("even", "odd", "low", "middle",
    "high"), which counts the blocks of each stack of layers. Where an adapter is gone the base shows, its biases included; heads stay, and
    so do trained biases outside of all blocks.

    Raises ValueError for a block that the adapter does not have, and if none is left; AdapterError for a method whose layers mean something
    else once others are gone.
    """
    if why := for_keeping(adapter.config):
        raise AdapterError(why)
    have = adapter.blocks(block_of)
    chosen = _preset(blocks, have) if isinstance(blocks, str) else set(blocks)
    if unknown := sorted(chosen - set(have)):
        raise ValueError(f"the adapter has no block {unknown[0]!r}; it has {', '.join(have)}")
    if not chosen:
        raise ValueError("no block is left; use the base")
    modules = adapter.modules
    kept = [m for block, members in have.items() if block in chosen for m in members]
    left_out = set(modules) - set(kept)
    if (name := _SHARED_PROJECTION.get(method(adapter.config))) and not kinds(
        adapter.config, adapter.tensors, left_out
    ) <= kinds(adapter.config, adapter.tensors, kept):
        raise AdapterError(
            f"{name}'s random matrices are as large as its largest module asks for; keep a module of every kind and shape"
        )
    gone = {k for m in left_out for k in modules[m]} | {
        k
        for k in adapter.tensors
        if any(k.startswith(f"{PEFT_ROOT}{m}.base_layer.") for m in left_out)
    }
    gone |= {
        k
        for k in adapter.biases
        if module_of(k) not in kept and block_of(module_of(k)) in set(have) - chosen
    }
    return PeftAdapter(
        targets(adapter.config, kept, left_out),
        {k: t for k, t in adapter.tensors.items() if k not in gone},
    )


def average(
    adapters: Sequence[PeftAdapter],
    weights: Sequence[float] | None = None,
    space: str = "delta",
    heads: str = "average",
) -> PeftAdapter:
    """Σ wᵢ of several adapters of one base, by default their mean.

    ``space``: "delta", the deltas of plain LoRA, exactly, its ranks stacked, with any weights; or "parameters", every number by itself,
    which any method allows, with weights that sum to 1. For LoRA that is the average of A and B, not of B·A; for methods that multiply
    (IA³, OFT, HRA, LoHa …) the result is an adapter too, but no average of what the adapters do.

    ``heads``: what was trained beside the adapters (heads, tokens) holds whole values, not differences. "average" weights them, for which
    the weights must sum to 1; "first" takes those of the first adapter. Trained biases are whole values too and are always averaged.

    Raises ValueError for adapters that do not match and for such weights; AdapterError as `PeftAdapter.deltas` does.
    """
    if space not in ("delta", "parameters"):
        raise ValueError(f"space must be 'delta' or 'parameters', got {space!r}")
    if heads not in ("average", "first"):
        raise ValueError(f"heads must be 'average' or 'first', got {heads!r}")
    weights = [1 / max(1, len(adapters))] * len(adapters) if weights is None else list(weights)
    if not adapters or len(weights) != len(adapters) or not all(map(math.isfinite, weights)):
        raise ValueError(
            f"expected one finite weight for each adapter, got {len(adapters)} adapters and the weights {weights}"
        )
    bases = {b for a in adapters if (b := a.config.get("base_model_name_or_path"))}
    if len(bases) > 1:
        raise ValueError(
            f"adapters of different bases ({', '.join(sorted(bases))}) cannot be averaged; train them on the same"
        )
    first = adapters[0]
    if space == "delta":
        for a in adapters:
            if why := low_rank(a.config) or (moved_base(a.config) and off_is_not_base(a.config)):
                raise AdapterError(why)
        _check_alike(adapters, _ALIKE, "deltas cannot be added")
        biases = whole_values([a.biases for a in adapters], weights, "biases")
        head = (
            first.head
            if heads == "first"
            else whole_values([a.head for a in adapters], weights, "heads")
        )
        return first._with(
            weighted_sum([products(a.config, a.tensors) for a in adapters], weights), head | biases
        )
    _check_alike(
        adapters, {k for a in adapters for k in a.config} - _ABOUT, "parameters do not line up"
    )
    if not repeatable(first.config):
        remedy = (
            "convert them with PeftAdapter.as_lora"
            if subtracts(first.config)
            else "train plain LoRA"
        )
        raise AdapterError(
            f"{moved_base(first.config)}, and of each adapter in another way; {remedy}"
        )
    out = whole_values([a.tensors for a in adapters], weights, "parameters")
    return PeftAdapter(first.config, out | first.head if heads == "first" else out)


def _check_alike(adapters: Sequence[PeftAdapter], fields: Iterable[str], so: str) -> None:
    for a in adapters[1:]:
        if differ := sorted(
            k for k in fields if _plain(a.config.get(k)) != _plain(adapters[0].config.get(k))
        ):
            raise ValueError(
                f"the adapters differ in {differ[0]}, so their {so}; train them with the same configuration"
            )


def _beginning(base: nn.Module, config: Mapping[str, Any]) -> PeftAdapter:
    """The adapter as peft makes it of `base`, before any training. Raises AdapterError for a base that peft has changed."""
    from peft import PeftConfig, get_peft_model

    if any(hasattr(m, "base_layer") for m in base.modules()):
        raise AdapterError(
            "the base still holds an adapter, and peft changed it in place; load it anew"
        )
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        write_atomically(
            Path(folder) / CONFIG,
            json.dumps(
                {**config, "base_model_name_or_path": None, "inference_mode": False}
            ).encode(),
        )
        return PeftAdapter.of(
            get_peft_model(copy.deepcopy(base), PeftConfig.from_pretrained(folder))
        )


def _preset(name: str, have: Mapping[str, object]) -> set[str]:
    stacks: dict[str, list[str]] = {}
    for block in have:
        stack, _, number = block.rpartition(".")
        stacks.setdefault(stack if number.isdigit() else block, []).append(block)
    return {stack[i] for stack in stacks.values() for i in preset(name, len(stack))}


def _plain(value: object) -> object:
    """Sets come back from JSON as lists in any order."""
    return (
        sorted(value)
        if isinstance(value, list) and all(isinstance(x, str) for x in value)
        else value
    )
