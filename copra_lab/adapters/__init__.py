"""The `Adapter`, an immutable value, and how to load, save and publish it."""

from copra_lab.adapters.adapter import NONE, Adapter, LowRank, from_delta, merged_into
from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.adapters.loading import load_adapter
from copra_lab.adapters.peft_folder import save_adapter
from copra_lab.adapters.publishing import model_card, push_to_hub

__all__ = [
    "NONE",
    "Adapter",
    "AdapterError",
    "LowRank",
    "from_delta",
    "load_adapter",
    "merged_into",
    "model_card",
    "push_to_hub",
    "save_adapter",
]
