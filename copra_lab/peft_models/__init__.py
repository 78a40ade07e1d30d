"""CopRA, pruning and averaging for any model that peft has adapted."""

from copra_lab.peft_models.adapter import PeftAdapter, average, keep
from copra_lab.peft_models.layers import Switches, block_of, tuner_layers
from copra_lab.peft_models.progressive import Progressive
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
