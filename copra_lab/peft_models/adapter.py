"""Adapters of any model and method, as peft saves them.

A `PeftAdapter` is a folder of peft's as a value. Whatever the method, blocks can be removed
(`keep`) and parameters averaged (`average`). Plain LoRA has deltas (`PeftAdapter.deltas`) that
every function of `copra_lab.merging` takes, and `PeftAdapter.with_deltas` puts them back. What is
saved loads with ``peft.PeftModel.from_pretrained``. Nothing is unpickled.

An adapter that moved its base before training (PiSSA, OLoRA, CorDA, LoRA-GA) holds no deltas: its
B·A is added to a base that lacks a part. `PeftAdapter.as_lora` turns it into plain LoRA. What
cannot be done exactly is refused.
"""

import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.adapters.peft_folder import CONFIG, WEIGHTS, read_adapter_file
from copra_lab.merging.linear import weighted_sum
from copra_lab.peft_models.config import (
    moved_base,
    not_low_rank,
    off_is_not_base,
    repeatable,
    subtracts_product,
)
from copra_lab.peft_models.layers import BlockOf, block_of
from copra_lab.peft_models.tensors import (
    check_scales,
    deltas_of,
    extra_tensors,
    module_keys,
    natural_key,
    plain_lora,
    prefix,
)
from copra_lab.utils.files import read_json, write_atomically

__all__ = ["PeftAdapter"]


@dataclass(frozen=True, eq=False)
class PeftAdapter:
    """An adapter as peft saves it. It never changes.

    Attributes:
        config: What adapter_config.json holds.
        tensors: What adapter_model.safetensors holds, including heads trained beside the adapter.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def __repr__(self) -> str:
        numbers = sum(t.numel() for t in self.tensors.values())
        kind = self.config.get("peft_type", "?")
        return f"PeftAdapter({kind}, {len(self.tensors)} tensors, {numbers:,} numbers)"

    @staticmethod
    def of(model: nn.Module, name: str = "default") -> "PeftAdapter":
        """Copy an adapter out of a model.

        Args:
            model: The model that peft adapted.
            name: Name of the adapter in it.

        Raises:
            ValueError: If the model does not have it.
            AdapterError: If the model scales a layer differently from what peft would save.
        """
        from peft import PeftModel

        if not isinstance(model, PeftModel) or name not in model.peft_config:
            raise ValueError(
                f"{type(model).__name__} has no adapter {name!r}; make one with peft.get_peft_model"
            )
        with tempfile.TemporaryDirectory() as folder:  # peft knows best what to save
            model.save_pretrained(folder, selected_adapters=[name])
            adapter = PeftAdapter.load(Path(folder) if name == "default" else Path(folder) / name)
        check_scales(adapter.config, adapter.tensors, model, name)
        return adapter

    @staticmethod
    def load(folder: "str | Path") -> "PeftAdapter":
        """Load a folder that peft saved.

        Raises:
            AdapterError: If it is missing, cut off or a pickle, a number is not finite, or the
                method has no layers.
        """
        folder = Path(folder)
        tensors, _ = read_adapter_file(folder)
        try:
            config = read_json(folder / CONFIG)
            kind = config["peft_type"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            where = folder / CONFIG
            raise AdapterError(f"{where} is not a peft configuration ({e}); copy it again") from e
        if bad := [k for k, t in tensors.items() if not torch.isfinite(t).all()]:
            raise AdapterError(
                f"{bad[0]} in {folder / WEIGHTS} holds NaN or infinity; lower the learning rate"
            )
        adapter = PeftAdapter(config, tensors)
        if not prefix(kind) or not adapter.modules:
            raise AdapterError(f"{folder} holds {kind}, which has no adapter layers; choose LoRA")
        return adapter

    def save(self, folder: "str | Path") -> None:
        """Save a folder that peft loads; the weights are written last.

        Raises:
            OSError: If the folder cannot be written.
        """
        folder = Path(folder)
        config = json.dumps(dict(self.config), indent=2, sort_keys=True)
        write_atomically(folder / CONFIG, config.encode())
        tensors = {k: t.contiguous() for k, t in self.tensors.items()}
        write_atomically(folder / WEIGHTS, to_bytes(tensors, {"format": "pt"}))

    @property
    def modules(self) -> dict[str, tuple[str, ...]]:
        """Name of an adapted module → the keys of its tensors."""
        return module_keys(self.config, self.tensors)

    @property
    def head(self) -> dict[str, Tensor]:
        """Heads and tokens trained beside the adapter: whole values, not differences."""
        return extra_tensors(self.config, self.tensors)[0]

    @property
    def biases(self) -> dict[str, Tensor]:
        """The base's biases that were trained (``bias="all"``, …), as whole values."""
        return extra_tensors(self.config, self.tensors)[1]

    def blocks(self, block_of: BlockOf = block_of) -> dict[str, tuple[str, ...]]:
        """Transformer block → the adapted modules in it, from the first to the last.

        Blocks have the same names as in `copra_lab.peft_models.tuner_layers`.

        Args:
            block_of: How modules are grouped, from their names.
        """
        out: dict[str, tuple[str, ...]] = {}
        for name in sorted(self.modules, key=natural_key):
            block = block_of(name)
            out[block] = (*out.get(block, ()), name)
        return out

    @property
    def deltas(self) -> Adapter:
        """ΔW of every module, for plain LoRA on linear layers.

        `copra_lab.merging` and `copra_lab.pruning.sparsify` take it.

        Raises:
            AdapterError: For other methods and DoRA, and if the adapter moved its base (see
                `as_lora`) or trained biases.
        """
        self._check_deltas()
        return deltas_of(self.config, self.tensors)

    def as_lora(self, start: "PeftAdapter | nn.Module") -> "PeftAdapter":
        """Convert an adapter that moved its base into plain LoRA on the original base.

        It does the same: ΔW = s·(B·A − B₀·A₀), with twice the rank. Heads and trained biases stay.

        Args:
            start: The adapter before training, saved right after ``get_peft_model``. For OLoRA, and
                PiSSA with the full decomposition, also the base model before peft changed it, from
                which B₀ and A₀ are computed again.

        Raises:
            AdapterError: If that would not be exact: for DoRA, for LoftQ (which also rounds the
                base), for an unknown initialisation, and for a `start` of other modules, ranks or
                scales.
        """
        init = str(self.config.get("init_lora_weights"))
        if moved_base(self.config) is None:
            raise AdapterError("this adapter did not move its base; use it as it is")
        trained = deltas_of(self.config, self.tensors)
        if not subtracts_product(self.config):
            moved = moved_base(self.config)
            raise AdapterError(f"{moved}, which no delta of low rank undoes; train plain LoRA")
        if isinstance(start, nn.Module):
            if not repeatable(self.config):
                raise AdapterError(
                    f"the start of {init} cannot be computed again; give the untrained adapter"
                )
            start = _initial(start, self.config)
        initial = deltas_of(start.config, start.tensors)
        start_init = str(start.config.get("init_lora_weights")).lower()
        if _form(trained) != _form(initial) or start_init not in (init.lower(), "true"):
            raise AdapterError(
                f"modules, ranks or scales differ; give what this {init} training began with"
            )
        difference = weighted_sum([trained, initial], [1.0, -1.0])
        return replace_deltas(self, difference, {**self.head, **self.biases})

    def with_deltas(self, deltas: Adapter) -> "PeftAdapter":
        """The same adapter with other deltas, of any rank, and the same head.

        Raises:
            AdapterError: If there are no deltas, and as `deltas`.
        """
        self._check_deltas()
        return replace_deltas(self, deltas, self.head)

    def _check_deltas(self) -> None:
        """Raise AdapterError if the adapter is more than deltas."""
        if reason := not_low_rank(self.config) or off_is_not_base(self.config):
            raise AdapterError(reason)


def replace_deltas(
    adapter: PeftAdapter, deltas: Adapter, rest: Mapping[str, Tensor]
) -> PeftAdapter:
    """Plain LoRA of other deltas.

    Args:
        adapter: Its configuration is used.
        deltas: Module → delta.
        rest: The tensors that belong to no module.

    Raises:
        AdapterError: If there are no deltas.
    """
    config, tensors = plain_lora(adapter.config, adapter.modules, deltas)
    return PeftAdapter(config, {**rest, **tensors})


def _form(adapter: Adapter) -> dict[str, tuple[int, tuple[int, int], float]]:
    """What two adapters must share for their difference to have a meaning."""
    return {n: (d.rank, d.shape, d.scale) for n, d in adapter.deltas.items()}


def _initial(base: nn.Module, config: Mapping[str, Any]) -> PeftAdapter:
    """The adapter that peft makes of `base` before any training."""
    from peft import PeftConfig, get_peft_model

    if any(hasattr(m, "base_layer") for m in base.modules()):
        raise AdapterError("the base still holds an adapter, which changed it; load it again")
    config = {**config, "base_model_name_or_path": None, "inference_mode": False}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        write_atomically(Path(folder) / CONFIG, json.dumps(config).encode())
        model = get_peft_model(copy.deepcopy(base), PeftConfig.from_pretrained(folder))
        return PeftAdapter.of(model)
