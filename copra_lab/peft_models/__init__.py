"""CopRA, pruning and averaging for any model that peft has adapted."""

from typing import TYPE_CHECKING, Any

from copra_lab.peft_models.adapter import PeftAdapter
from copra_lab.peft_models.averaging import average
from copra_lab.peft_models.keeping import keep
from copra_lab.peft_models.layers import Switches, block_of, tuner_layers
from copra_lab.peft_models.progressive import Progressive

if TYPE_CHECKING:
    from copra_lab.peft_models.trainer_callback import CopRACallback

__all__ = [
    "CopRACallback",
    "PeftAdapter",
    "Progressive",
    "Switches",
    "average",
    "block_of",
    "keep",
    "tuner_layers",
]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: transformers' Trainer takes seconds to import.
    if name == "CopRACallback":
        from copra_lab.peft_models.trainer_callback import CopRACallback

        return CopRACallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
