"""The one table of methods: how each is called, how it is shown, and what it is made of.

A new method is a file with its class and a line in `METHODS`; sweeps, the command line, menus and
reports find it there. Classes are named, not imported, so that the command line can list methods
without torch.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

__all__ = ["METHODS", "Method", "Parts", "label_of", "name_of", "names"]


@dataclass(frozen=True)
class Parts:
    """What `fit` takes for a method.

    Args:
        method: LoRA, CoOp or VPT, or a variant, with its default settings.
        dropping: What is dropped in training; None for a soft prompt.
        penalty: What norms cost; None for an adapter.
    """

    method: Any
    dropping: Any = None
    penalty: Any = None


@dataclass(frozen=True)
class Method:
    """One line of the table.

    Args:
        label: What menus and reports show.
        paper: Where it is from.
        settings: ``module:Class`` of the method's settings.
        kind: What is learned.
        dropping: ``module:Class`` of what is dropped in training an adapter; nothing if empty.
        beta: Of a soft prompt's penalty (`Nemesis`); None without a penalty.
    """

    label: str
    paper: str
    settings: str
    kind: Literal["adapter", "prompt"] = "adapter"
    dropping: str = ""
    beta: float | None = None

    def parts(self) -> Parts:
        """The method with its default settings."""
        method = _load(self.settings)()
        if self.kind == "adapter":
            plain = _load("copra_lab.training.dropping:PLAIN")
            return Parts(method, dropping=_load(self.dropping)() if self.dropping else plain)
        nemesis = _load("copra_lab.prompts.nemesis:Nemesis")
        return Parts(method, penalty=None if self.beta is None else nemesis(beta=self.beta))


_LORA = "copra_lab.methods.lora:LoRA"
_COOP, _VPT = (f"copra_lab.prompts.soft_prompt:{c}" for c in ("CoOp", "VPT"))
_DROPPING = "copra_lab.training.dropping:"

_NEMESIS = "Nemesis, ICLR 2024"

METHODS: dict[str, Method] = {
    "lora": Method("LoRA", "arXiv:2106.09685", _LORA),
    "copra": Method("CopRA", "arXiv:2410.22911", _LORA, dropping=_DROPPING + "CopRA"),
    "dropout": Method("LoRA + dropout", "arXiv:2106.09685", _LORA, dropping=_DROPPING + "Dropout"),
    "progressive-dropout": Method(
        "LoRA + progressive dropout",
        "arXiv:2410.22911",
        _LORA,
        dropping=_DROPPING + "ProgressiveDropout",
    ),
    "stochastic-depth": Method(
        "stochastic depth", "arXiv:1603.09382", _LORA, dropping=_DROPPING + "StochasticDepth"
    ),
    "coop": Method("CoOp", "arXiv:2109.01134", _COOP, "prompt"),
    "pun": Method("PUN", _NEMESIS, _COOP, "prompt", beta=1.0),
    "pan": Method("PAN", _NEMESIS, _COOP, "prompt", beta=0.0),
    "pun+pan": Method("PUN and PAN", _NEMESIS, _COOP, "prompt", beta=0.5),
    "vpt": Method("VPT", "arXiv:2203.12119", _VPT, "prompt"),
    "vpt+pun": Method("VPT, PUN", "arXiv:2203.12119", _VPT, "prompt", beta=1.0),
    "vpt+pan": Method("VPT, PAN", "arXiv:2203.12119", _VPT, "prompt", beta=0.0),
    "vpt+pun+pan": Method("VPT, PUN and PAN", "arXiv:2203.12119", _VPT, "prompt", beta=0.5),
}
"""By the name that tables, folders and the command line use."""


def names(kind: str = "") -> tuple[str, ...]:
    """The names of all methods, or of those that learn an "adapter" or a "prompt"."""
    return tuple(n for n, m in METHODS.items() if kind in ("", m.kind))


def label_of(name: str) -> str:
    """What is shown for a method; its name with spaces if it is not in the table."""
    return METHODS[name].label if name in METHODS else name.replace("-", " ")


def name_of(method: Any, penalty: Any = None, dropping: Any = None) -> str:
    """The name of a method with its penalty or dropping, as tables use it.

    LoRA and CoOp go unnamed beside what is added to them: copra, pun; but vpt+pun.
    """
    kind = f"{type(method).__module__}:{type(method).__qualname__}"
    bases = (
        n for n, m in METHODS.items() if m.settings == kind and not m.dropping and m.beta is None
    )
    base = next(bases, type(method).__name__.lower())
    added = penalty or dropping
    if added is None or added.method == "lora":  # nothing is dropped
        return base
    return added.method if base in ("lora", "coop") else f"{base}+{added.method}"


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
