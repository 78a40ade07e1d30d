"""How a change of the weights, ΔW, is parametrised: one file a method, and the table of them all.

Names are imported when first asked for, so that `copra_lab.methods.registry` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copra_lab.methods.input_dropout import InputDropout
    from copra_lab.methods.lora import Attached, LoRA
    from copra_lab.methods.registry import METHODS

__all__ = ["METHODS", "Attached", "InputDropout", "LoRA"]

_HOME = {"METHODS": "registry", "InputDropout": "input_dropout"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'lora')}"), name)
