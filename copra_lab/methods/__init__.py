"""How a change of the weights, ΔW, is parametrised: one file a method, and the table of them all.

Names are imported when first asked for, so that `copra_lab.methods.registry` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copra_lab.methods.attached import Attached
    from copra_lab.methods.cores import LoRASB, LoRAXS
    from copra_lab.methods.dense import Full
    from copra_lab.methods.gated import CoDyRA, SoRA
    from copra_lab.methods.growing import IncreLoRA, TriAdaptLoRA
    from copra_lab.methods.input_dropout import InputDropout
    from copra_lab.methods.lamda import LaMDA
    from copra_lab.methods.loldu import LoLDU
    from copra_lab.methods.lora import LoRA
    from copra_lab.methods.nested import DyLoRA, cut
    from copra_lab.methods.nola import NOLA
    from copra_lab.methods.parametrisation import (
        AdapterMethod,
        ParameterGroup,
        Parametrisation,
        Start,
    )
    from copra_lab.methods.registry import METHODS
    from copra_lab.methods.sltrain import SLTrain
    from copra_lab.methods.sparse import LTSFT, SaRA
    from copra_lab.methods.svfit import SVFit

__all__ = [
    "LTSFT",
    "METHODS",
    "NOLA",
    "AdapterMethod",
    "Attached",
    "CoDyRA",
    "DyLoRA",
    "Full",
    "IncreLoRA",
    "InputDropout",
    "LaMDA",
    "LoLDU",
    "LoRA",
    "LoRASB",
    "LoRAXS",
    "ParameterGroup",
    "Parametrisation",
    "SLTrain",
    "SVFit",
    "SaRA",
    "SoRA",
    "Start",
    "TriAdaptLoRA",
    "cut",
]

_NAMES = {
    "attached": ("Attached",),
    "cores": ("LoRASB", "LoRAXS"),
    "dense": ("Full",),
    "gated": ("CoDyRA", "SoRA"),
    "growing": ("IncreLoRA", "TriAdaptLoRA"),
    "input_dropout": ("InputDropout",),
    "lamda": ("LaMDA",),
    "loldu": ("LoLDU",),
    "lora": ("LoRA",),
    "nested": ("DyLoRA", "cut"),
    "nola": ("NOLA",),
    "parametrisation": ("AdapterMethod", "ParameterGroup", "Parametrisation", "Start"),
    "registry": ("METHODS",),
    "sltrain": ("SLTrain",),
    "sparse": ("LTSFT", "SaRA"),
    "svfit": ("SVFit",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
