"""How a change of the weights, ΔW, is parametrised: one file a method, and the table of them all.

Names are imported when first asked for, so that `copra_lab.methods.registry` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copra_lab.methods.attached import Attached
    from copra_lab.methods.dense import Full
    from copra_lab.methods.input_dropout import InputDropout
    from copra_lab.methods.lora import LoRA
    from copra_lab.methods.parametrisation import (
        AdapterMethod,
        ParameterGroup,
        Parametrisation,
        Start,
    )
    from copra_lab.methods.registry import METHODS

__all__ = [
    "METHODS",
    "AdapterMethod",
    "Attached",
    "Full",
    "InputDropout",
    "LoRA",
    "ParameterGroup",
    "Parametrisation",
    "Start",
]

_NAMES = {
    "attached": ("Attached",),
    "dense": ("Full",),
    "input_dropout": ("InputDropout",),
    "lora": ("LoRA",),
    "parametrisation": ("AdapterMethod", "ParameterGroup", "Parametrisation", "Start"),
    "registry": ("METHODS",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
