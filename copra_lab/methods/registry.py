"""The one table of methods: how each is called, how it is shown, and what it is made of.

A new method is a file with its class and a line in `METHODS`; sweeps, the command line, menus and
reports find it there. Classes are named, not imported, so that the command line can list methods
without torch.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

__all__ = ["METHODS", "Method", "Parts", "label_of", "method", "name_of", "names"]


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
        about: What it does, in a sentence.
    """

    label: str
    paper: str
    settings: str
    kind: Literal["adapter", "prompt"] = "adapter"
    dropping: str = ""
    beta: float | None = None
    about: str = ""

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


def _adapter(label: str, paper: str, home: str, about: str) -> Method:
    """A line for a file of this package."""
    return Method(label, paper, f"copra_lab.methods.{home}", about=about)


METHODS: dict[str, Method] = {
    "lora": _adapter(
        "LoRA", "arXiv:2106.09685", "lora:LoRA", "Adds a trained product of low rank to W."
    ),
    "copra": Method(
        "CopRA",
        "arXiv:2410.22911",
        _LORA,
        dropping=_DROPPING + "CopRA",
        about="LoRA whose layers are off at random, less and less often.",
    ),
    "dropout": Method(
        "LoRA + dropout",
        "arXiv:2106.09685",
        _LORA,
        dropping=_DROPPING + "Dropout",
        about="LoRA that misses elements of its input.",
    ),
    "progressive-dropout": Method(
        "LoRA + progressive dropout",
        "arXiv:2410.22911",
        _LORA,
        dropping=_DROPPING + "ProgressiveDropout",
        about="LoRA that misses elements of its input, less and less often.",
    ),
    "stochastic-depth": Method(
        "stochastic depth",
        "arXiv:1603.09382",
        _LORA,
        dropping=_DROPPING + "StochasticDepth",
        about="LoRA whose layers are off at random, deep ones most often.",
    ),
    "svfit": _adapter(
        "SVFit",
        "arXiv:2409.05926",
        "svfit:SVFit",
        "Trains the largest singular values of W; its directions stay.",
    ),
    "lora-xs": _adapter(
        "LoRA-XS",
        "arXiv:2405.17604",
        "cores:LoRAXS",
        "Trains an r×r core between frozen singular directions of W.",
    ),
    "lora-sb": _adapter(
        "LoRA-SB",
        "arXiv:2411.19557",
        "cores:LoRASB",
        "Trains an r×r core between the directions of the first step of full fine-tuning.",
    ),
    "nola": _adapter(
        "NOLA",
        "arXiv:2310.02556",
        "nola:NOLA",
        "Trains the coefficients of frozen random factors.",
    ),
    "loldu": _adapter(
        "LoLDU",
        "arXiv:2410.13618",
        "loldu:LoLDU",
        "Trains pivots of the triangular decomposition of W, and a scale of them.",
    ),
    "lamda": _adapter(
        "LaMDA",
        "after arXiv:2406.12832",
        "lamda:LaMDA",
        "After LaMDA: trains an r×r core, and an output factor that freezes column by column.",
    ),
    "sora": _adapter(
        "SoRA",
        "arXiv:2311.11696",
        "gated:SoRA",
        "LoRA with a gate at each rank, which a proximal step closes.",
    ),
    "codyra": _adapter(
        "CoDyRA",
        "after arXiv:2412.01004",
        "gated:CoDyRA",
        "After CoDyRA: LoRA with gates that a proximal step closes once the first steps are over.",
    ),
    "dylora": _adapter(
        "DyLoRA",
        "arXiv:2210.07558",
        "nested:DyLoRA",
        "LoRA that may be cut to any lower rank: each step trains the first few ranks.",
    ),
    "increlora": _adapter(
        "IncreLoRA",
        "after arXiv:2308.12043",
        "growing:IncreLoRA",
        "After IncreLoRA: ranks are added where the change of W matters most to the loss.",
    ),
    "triadaptlora": _adapter(
        "TriAdaptLoRA",
        "after arXiv:2501.08008",
        "growing:TriAdaptLoRA",
        "After TriAdaptLoRA: a core of two triangles; ranks are added where it grew most.",
    ),
    "sltrain": _adapter(
        "SLTrain",
        "after arXiv:2406.02214",
        "sltrain:SLTrain",
        "After SLTrain, as an adapter: LoRA and a few entries of W at random places.",
    ),
    "lt-sft": _adapter(
        "LT-SFT",
        "after arXiv:2110.07560",
        "sparse:LTSFT",
        "After LT-SFT: trains all entries of W first, and then those that had moved most.",
    ),
    "sara": _adapter(
        "SaRA",
        "after arXiv:2409.06633",
        "sparse:SaRA",
        "After SaRA: trains the smallest entries of W, and chooses them again half-way.",
    ),
    "full": _adapter(
        "full fine-tuning",
        "the usual baseline",
        "dense:Full",
        "Trains every element of W, as a change of it.",
    ),
    "coop": Method(
        "CoOp",
        "arXiv:2109.01134",
        _COOP,
        "prompt",
        about="Learns vectors in place of a prompt's words.",
    ),
    "pun": Method("PUN", _NEMESIS, _COOP, "prompt", beta=1.0, about="CoOp, with a cost for norms."),
    "pan": Method(
        "PAN",
        _NEMESIS,
        _COOP,
        "prompt",
        beta=0.0,
        about="CoOp, with a cost for norms that hurt.",
    ),
    "pun+pan": Method(
        "PUN and PAN", _NEMESIS, _COOP, "prompt", beta=0.5, about="CoOp, with half of both costs."
    ),
    "vpt": Method(
        "VPT", "arXiv:2203.12119", _VPT, "prompt", about="Learns vectors beside an image's patches."
    ),
    "vpt+pun": Method(
        "VPT, PUN",
        "arXiv:2203.12119",
        _VPT,
        "prompt",
        beta=1.0,
        about="VPT, with a cost for norms.",
    ),
    "vpt+pan": Method(
        "VPT, PAN",
        "arXiv:2203.12119",
        _VPT,
        "prompt",
        beta=0.0,
        about="VPT, with a cost for norms that hurt.",
    ),
    "vpt+pun+pan": Method(
        "VPT, PUN and PAN",
        "arXiv:2203.12119",
        _VPT,
        "prompt",
        beta=0.5,
        about="VPT, with half of both costs.",
    ),
}
"""By the name that tables, folders and the command line use."""


def names(kind: str = "") -> tuple[str, ...]:
    """The names of all methods, or of those that learn an "adapter" or a "prompt"."""
    return tuple(n for n, m in METHODS.items() if kind in ("", m.kind))


def method(name: str) -> Method:
    """A line of the table, or of a method with what is dropped on top of it: ``svfit+copra``.

    Raises:
        KeyError: For a name that is neither.
    """
    if name in METHODS:
        return METHODS[name]
    first, _, added = name.partition("+")
    base, on_top = METHODS[first], METHODS[added]
    if base.kind != "adapter" or base.dropping or not on_top.dropping:
        raise KeyError(name)
    both = f"{base.label} + {on_top.label.removeprefix('LoRA + ')}"
    return replace(base, label=both, dropping=on_top.dropping)


def label_of(name: str) -> str:
    """What is shown for a method; its name with spaces if it is not in the table."""
    try:
        return method(name).label
    except KeyError:
        return name.replace("-", " ")


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
