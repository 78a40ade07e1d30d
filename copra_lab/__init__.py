"""Adapters as values and a bench that measures them: LoRA, CopRA, Shapley values and Nemesis on a small bundled CLIP.

Everything public is reachable from here (``import copra_lab as cl``) and imported when it is first asked for, so that
the import itself stays light.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "models": ("Clip", "load_clip", "save_hugging_face", "to_hugging_face"),
    "tasks": ("Task", "load_task"),
    "adapters": ("Adapter", "load_adapter", "push_to_hub", "save_adapter"),
    "methods": ("LoRA",),
    "prompts": ("CoOp", "Nemesis", "SoftPrompt", "VPT"),
    "training": ("CopRA", "Job", "fit", "fit_many"),
    "bench": ("Bench",),
    "peft_models": ("CopRACallback", "PeftAdapter", "Progressive"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
