"""How a change of the weights, ΔW, is parametrised: one file a method."""

from copra_lab.methods.input_dropout import InputDropout
from copra_lab.methods.lora import Attached, LoRA

__all__ = ["Attached", "InputDropout", "LoRA"]
