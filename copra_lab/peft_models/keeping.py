"""Prune an adapter of peft's: keep some of its transformer blocks."""

from collections.abc import Iterable

from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.adapters.peft_folder import PEFT_ROOT
from copra_lab.peft_models.adapter import PeftAdapter
from copra_lab.peft_models.config import method, not_separable, targets
from copra_lab.peft_models.layers import BlockOf, block_of
from copra_lab.peft_models.tensors import module_kinds, module_of
from copra_lab.pruning import preset

__all__ = ["keep"]

_SHARED_PROJECTION = {"VERA": "VeRA", "PVERA": "PVeRA", "RANDLORA": "RandLoRA"}
"""Methods whose random matrices are as large as the largest adapted module needs."""


def keep(
    adapter: PeftAdapter, blocks: "str | Iterable[str]", block_of: BlockOf = block_of
) -> PeftAdapter:
    """The adapter with only these blocks.

    Where the adapter is removed the base shows, its biases included. Heads stay, and so do trained
    biases outside of all blocks.

    Args:
        adapter: The adapter.
        blocks: Names of `PeftAdapter.blocks`, or a preset of `copra_lab.pruning` ("even", "odd",
            "low", "middle", "high"), which counts the blocks of each stack of layers.
        block_of: How modules are grouped, from their names.

    Raises:
        ValueError: If the adapter does not have a block, or none is left.
        AdapterError: If the method's layers mean something else without the others.
    """
    if reason := not_separable(adapter.config):
        raise AdapterError(reason)
    have, modules = adapter.blocks(block_of), adapter.modules
    chosen = _preset(blocks, have) if isinstance(blocks, str) else set(blocks)
    if unknown := sorted(chosen - set(have)):
        raise ValueError(f"the adapter has no block {unknown[0]!r}; it has {', '.join(have)}")
    if not chosen:
        raise ValueError("no block is left; use the base")
    kept = [m for block, members in have.items() if block in chosen for m in members]
    removed = set(modules) - set(kept)
    if name := _SHARED_PROJECTION.get(method(adapter.config)):
        lost, left = (module_kinds(adapter.config, adapter.tensors, m) for m in (removed, kept))
        if not lost <= left:
            raise AdapterError(
                f"{name}'s matrices fit its largest module; keep one of every kind and shape"
            )
    gone = {k for m in removed for k in modules[m]}
    wrapped = tuple(f"{PEFT_ROOT}{m}.base_layer." for m in removed)
    gone |= {k for k in adapter.tensors if k.startswith(wrapped)}
    for k in adapter.biases:
        if (m := module_of(k)) not in kept and block_of(m) in set(have) - chosen:
            gone.add(k)
    tensors = {k: t for k, t in adapter.tensors.items() if k not in gone}
    return PeftAdapter(targets(adapter.config, kept, removed), tensors)


def _preset(name: str, have: Iterable[str]) -> set[str]:
    """The blocks of a preset, counted in each stack of layers."""
    stacks: dict[str, list[str]] = {}
    for block in have:
        stack, _, number = block.rpartition(".")
        stacks.setdefault(stack if number.isdigit() else block, []).append(block)
    return {stack[i] for stack in stacks.values() for i in preset(name, len(stack))}
