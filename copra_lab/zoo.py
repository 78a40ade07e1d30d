"""The adapters and soft prompts that come with the package: made by ``recipes/adapters.py`` and ``recipes/prompts.py`` from
the bundled CLIP."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.loading import load_adapter
from copra_lab.adapters.peft_folder import CONFIG
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import FILE, SoftPrompt

__all__ = ["Shipped", "ShippedPrompt", "shipped", "shipped_prompts"]

FOLDER = Path(str(files("copra_lab") / "assets" / "adapters"))
PROMPTS = FOLDER.with_name("prompts")


@dataclass(frozen=True)
class Shipped:
    """One adapter folder; ``label`` is what a menu shows, e.g. ``LoRA, seed 0``."""

    task: str
    label: str
    folder: Path

    def load(self, clip: Clip) -> Adapter:
        """The adapter, held against `clip`. Raises AdapterError if it was made from other weights."""
        return _load(self.folder, clip)


@dataclass(frozen=True)
class ShippedPrompt:
    """One folder of a soft prompt; ``label`` is what a menu shows, e.g. ``CoOp, seed 0``."""

    task: str
    label: str
    folder: Path

    def load(self, clip: Clip) -> SoftPrompt:
        """The prompt, held against `clip`. Raises PromptError if it was made from other weights."""
        return _load_prompt(self.folder, clip)


@cache
def _load_prompt(folder: Path, clip: Clip) -> SoftPrompt:
    return SoftPrompt.load(folder, clip)


@cache
def _load(folder: Path, clip: Clip) -> Adapter:
    return load_adapter(folder, clip)


def shipped(task: str | None = None, folder: Path = FOLDER) -> tuple[Shipped, ...]:
    """What is shipped for `task` (None: for all), LoRA first: ``folder/task/label/``."""
    found = sorted(
        (f.parent for f in folder.glob(f"*/*/{CONFIG}")),
        key=lambda f: (f.parent.name, not f.name.startswith("lora"), f.name),
    )
    return tuple(
        Shipped(f.parent.name, _label(f.name), f) for f in found if task in (None, f.parent.name)
    )


def shipped_prompts(task: str | None = None, folder: Path = PROMPTS) -> tuple[ShippedPrompt, ...]:
    """What is shipped for `task` (None: for all), CoOp first: ``folder/task/label/``."""
    order = ("coop", "pun", "pan", "pun+pan")
    found = sorted(
        (f.parent for f in folder.glob(f"*/*/{FILE}")),
        key=lambda f: (f.parent.name, *_rank(f.name, order)),
    )
    return tuple(
        ShippedPrompt(f.parent.name, _label(f.name), f)
        for f in found
        if task in (None, f.parent.name)
    )


def _rank(name: str, order: tuple[str, ...]) -> tuple[int, str]:
    method = name.partition("-")[0]
    return (order.index(method) if method in order else len(order)), name


WORDS = {
    "lora": "LoRA",
    "copra": "CopRA",
    "coop": "CoOp",
    "pun": "PUN",
    "pan": "PAN",
    "pun+pan": "PUN and PAN",
}


def _label(name: str) -> str:
    """``copra-seed-1`` → ``CopRA, seed 1``."""
    method, _, rest = name.partition("-seed-")
    words = WORDS.get(method, method.replace("-", " "))
    return f"{words}, seed {rest}" if rest else words
