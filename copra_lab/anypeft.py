"""Adapters of any model and method, as peft saves them: taken apart, averaged, and put through the tools for LoRA.

A `PeftAdapter` is a folder of peft's as a value. Blocks can be removed whatever the method is (`keep`); parameters can be
averaged (`average`); plain LoRA has deltas (`PeftAdapter.deltas`) that every function of `copra_lab.merge` takes, and goes back with
`PeftAdapter.with_deltas`. What is saved loads with ``peft.PeftModel.from_pretrained``. Nothing is unpickled.
"""

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from copra_lab.files import read_json, write_atomically
from copra_lab.lora import Adapter, LowRank
from copra_lab.merge import weighted_sum
from copra_lab.prune import preset
from copra_lab.storage import CONFIG, PEFT_ROOT, WEIGHTS, AdapterError, for_module, peft_scale, read_adapter_file
from copra_lab.tuners import BlockOf, block_of

__all__ = ["PeftAdapter", "average", "keep"]

_ABOUT = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}
"""What a configuration says of its making, not of what its numbers mean."""


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
        """A copy of the adapter `name` of a model. Raises ValueError for a model without it."""
        from peft import PeftModel

        if not isinstance(model, PeftModel) or name not in model.peft_config:
            raise ValueError(f"{type(model).__name__} has no adapter {name!r}; make one with peft.get_peft_model")
        with tempfile.TemporaryDirectory() as folder:  # peft knows best what belongs into a folder of its own
            model.save_pretrained(folder, selected_adapters=[name])
            return PeftAdapter.load(Path(folder) if name == "default" else Path(folder) / name)

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
            raise AdapterError(f"{folder / CONFIG} is not a peft configuration ({e}); copy it anew") from e
        if bad := [k for k, t in tensors.items() if not torch.isfinite(t).all()]:
            raise AdapterError(f"{bad[0]} in {folder / WEIGHTS} holds NaN or infinity; lower the learning rate and train again")
        adapter = PeftAdapter(config, tensors)
        if not _prefix(kind) or not adapter.modules:
            raise AdapterError(f"{folder} holds {kind}, which has no adapter layers; choose LoRA or another method that has")
        return adapter

    def save(self, folder: "str | Path") -> None:
        """Write a folder that peft loads; the weights last."""
        folder = Path(folder)
        write_atomically(folder / CONFIG, json.dumps(dict(self.config), indent=2, sort_keys=True).encode())
        write_atomically(folder / WEIGHTS, to_bytes({k: t.contiguous() for k, t in self.tensors.items()}, {"format": "pt"}))

    @property
    def modules(self) -> dict[str, tuple[str, ...]]:
        """Name of an adapted module → the keys of its tensors."""
        prefix = _prefix(self.config["peft_type"])
        out: dict[str, tuple[str, ...]] = {}
        for key in self.tensors:
            name, found, _ = key.removeprefix(PEFT_ROOT).partition(f".{prefix}")
            if found and key.startswith(PEFT_ROOT):  # what a method's layers share (VB-LoRA's bank, say) is the tuner's own
                out[name] = (*out.get(name, ()), key)
        return out

    @property
    def head(self) -> dict[str, Tensor]:
        """What was trained beside the adapter: tensors that belong to no adapted module."""
        own = {k for keys in self.modules.values() for k in keys}
        return {k: t for k, t in self.tensors.items() if k not in own}

    def blocks(self, block_of: BlockOf = block_of) -> dict[str, tuple[str, ...]]:
        """Transformer block → the adapted modules in it, in the order of their numbers; the names that `tuners.tuner_layers` gives."""
        out: dict[str, tuple[str, ...]] = {}
        for name in sorted(self.modules, key=_natural):
            block = block_of(name)
            out[block] = (*out.get(block, ()), name)
        return out

    @property
    def deltas(self) -> Adapter:
        """Of plain LoRA on linear layers: ΔW of every module, for `copra_lab.merge` and `copra_lab.prune.sparsify`. Raises AdapterError for
        other methods and for DoRA, with what to do."""
        if self.config["peft_type"] != "LORA" or self.config.get("use_dora"):
            kind = "DoRA" if self.config.get("use_dora") else self.config["peft_type"]
            raise AdapterError(f"{kind} has no low-rank delta alone; convert it with peft's convert_to_lora, or average its parameters")
        out = {}
        for name, keys in self.modules.items():
            pair = [f"{PEFT_ROOT}{name}.lora_{half}.weight" for half in "AB"]
            if set(keys) != set(pair) or self.tensors[pair[0]].ndim != 2:
                raise AdapterError(f"the LoRA at {name!r} is not that of a linear layer without a bias of its own; average its parameters instead")
            a, b = (self.tensors[k].float() for k in pair)
            out[name] = LowRank(a, b, peft_scale(self.config, name, a.shape[0]))
        return Adapter(out, provenance={"source": "peft"})

    def with_deltas(self, deltas: Adapter) -> "PeftAdapter":
        """The same with other deltas, of whatever rank, and the same head. Raises AdapterError without any."""
        if not deltas.deltas:
            raise AdapterError("an adapter without deltas has nothing to save; use the base")
        tensors = self.head
        for name, d in deltas.deltas.items():
            # peft's scale is alpha / r; ours goes into B, so that the same configuration holds for every module.
            tensors |= {f"{PEFT_ROOT}{name}.lora_A.weight": d.A, f"{PEFT_ROOT}{name}.lora_B.weight": d.B * d.scale}
        ranks = {n: d.rank for n, d in deltas.deltas.items()}
        rank = max(ranks.values())
        plain = {"r": rank, "lora_alpha": rank, "use_rslora": False, "init_lora_weights": True}
        patterns = {f"^{re.escape(n)}": r for n, r in sorted(ranks.items()) if r != rank}
        config = {**self.config, **plain, "rank_pattern": patterns, "alpha_pattern": patterns}
        return PeftAdapter(_targets(config, ranks), tensors)


def keep(adapter: PeftAdapter, blocks: "str | Iterable[str]", block_of: BlockOf = block_of) -> PeftAdapter:
    """The adapter with these blocks only: names of `PeftAdapter.blocks`, or a preset of `copra_lab.prune` ("even", "odd", "low", "middle",
    "high"), which counts the blocks of each stack of layers. Where an adapter is gone the base shows; heads stay.

    Raises ValueError for a block that the adapter does not have, and if none is left.
    """
    have = adapter.blocks(block_of)
    chosen = _preset(blocks, have) if isinstance(blocks, str) else set(blocks)
    if unknown := sorted(chosen - set(have)):
        raise ValueError(f"the adapter has no block {unknown[0]!r}; it has {', '.join(have)}")
    if not chosen:
        raise ValueError("no block is left; use the base")
    modules = adapter.modules
    kept = [m for block, members in have.items() if block in chosen for m in members]
    gone = {k for m in set(modules) - set(kept) for k in modules[m]}
    return PeftAdapter(_targets(adapter.config, kept), {k: t for k, t in adapter.tensors.items() if k not in gone})


def average(adapters: Sequence[PeftAdapter], weights: Sequence[float] | None = None, space: str = "delta") -> PeftAdapter:
    """Σ wᵢ of several adapters of one base, by default their mean. ``space``: "delta", the deltas of plain LoRA, exactly, its ranks
    stacked; or "parameters", every number by itself, which for LoRA is the average of A and B, not of B·A, and which any method allows. Heads
    are averaged number by number.

    Raises ValueError for adapters that do not match.
    """
    if space not in ("delta", "parameters"):
        raise ValueError(f"space must be 'delta' or 'parameters', got {space!r}")
    weights = [1 / max(1, len(adapters))] * len(adapters) if weights is None else list(weights)
    if not adapters or len(weights) != len(adapters) or not all(map(math.isfinite, weights)):
        raise ValueError(f"expected one finite weight for each adapter, got {len(adapters)} adapters and the weights {weights}")
    bases = {b for a in adapters if (b := a.config.get("base_model_name_or_path"))}
    if len(bases) > 1:
        raise ValueError(f"adapters of different bases ({', '.join(sorted(bases))}) cannot be averaged; train them on the same")
    first = adapters[0]
    if space == "delta":
        merged = weighted_sum([a.deltas for a in adapters], weights)
        return PeftAdapter(first.config, _mean([a.head for a in adapters], weights)).with_deltas(merged)
    for a in adapters[1:]:
        if differ := sorted(k for k in {*a.config, *first.config} - _ABOUT if _plain(a.config.get(k)) != _plain(first.config.get(k))):
            raise ValueError(f"the adapters differ in {differ[0]}, so their parameters do not line up; train them with the same configuration")
    return PeftAdapter(first.config, _mean([a.tensors for a in adapters], weights))


def _mean(tensors: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    first = tensors[0]
    if any({k: x.shape for k, x in t.items()} != {k: x.shape for k, x in first.items()} for t in tensors):
        raise ValueError("the adapters have tensors of different names or shapes; average adapters that were trained alike")
    out = {}
    for k, x in first.items():
        if x.is_floating_point():
            out[k] = torch.stack([w * t[k] for t, w in zip(tensors, weights, strict=True)]).sum(0).to(x.dtype)
        elif all(torch.equal(t[k], x) for t in tensors):
            out[k] = x
        else:
            raise ValueError(f"{k} holds whole numbers that differ between the adapters, which have no average; train them with the same seed")
    return out


def _prefix(kind: str) -> str:
    """How the names of a method's tensors begin, after that of the module: peft's table; "" for a method without layers."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    return next((p for t, p in PEFT_TYPE_TO_PREFIX_MAPPING.items() if t.value == kind and p), "")


def _targets(config: Mapping[str, Any], modules: Iterable[str]) -> dict[str, Any]:
    """A configuration that names its modules one by one and nothing else."""
    names = sorted(modules)
    out = {**config, "target_modules": names}
    out |= {k: None for k in ("exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters") if k in config}
    out |= {
        k: {pattern: v for pattern, v in config[k].items() if any(for_module(pattern, n) for n in names)}
        for k in ("rank_pattern", "alpha_pattern")
        if config.get(k)
    }
    if feedforward := config.get("feedforward_modules"):  # of IA³: those whose input it scales
        ends = tuple(f".{f}" for f in feedforward)
        out["feedforward_modules"] = [n for n in names if (re.fullmatch(feedforward, n) if isinstance(feedforward, str) else f".{n}".endswith(ends))]
    return out


def _preset(name: str, have: Mapping[str, object]) -> set[str]:
    stacks: dict[str, list[str]] = {}
    for block in have:
        stack, _, number = block.rpartition(".")
        stacks.setdefault(stack if number.isdigit() else block, []).append(block)
    return {stack[i] for stack in stacks.values() for i in preset(name, len(stack))}


def _plain(value: object) -> object:
    """Sets come back from JSON as lists in any order."""
    return sorted(value) if isinstance(value, list) and all(isinstance(x, str) for x in value) else value


def _natural(name: str) -> list[Any]:
    """Sorts layer 10 after layer 9."""
    return [(0, int(x), "") if x.isdigit() else (1, 0, x) for x in re.split(r"(\d+)", name)]
