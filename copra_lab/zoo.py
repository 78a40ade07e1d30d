"""The adapters and soft prompts that come with the package.

``recipes/adapters.py`` and ``recipes/prompts.py`` made them from the bundled CLIP.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.loading import load_adapter
from copra_lab.adapters.peft_folder import CONFIG
from copra_lab.methods.registry import METHODS, label_of
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import FILE, SoftPrompt

__all__ = ["Shipped", "shipped", "shipped_prompts"]

FOLDER = Path(str(files("copra_lab") / "assets" / "adapters"))
PROMPTS = FOLDER.with_name("prompts")

T = TypeVar("T", Adapter, SoftPrompt)

Read = Callable[..., T]
"""(folder) or (folder, clip) → what is saved there."""


@dataclass(frozen=True)
class Shipped(Generic[T]):
    """One folder of an adapter or a soft prompt.

    Args:
        task: What it was trained on.
        method: The name of its method, as in `copra_lab.methods.registry`.
        seed: The seed of its training; None where nobody recorded it.
        folder: Where it is.
        read: Loads the folder.
    """

    task: str
    method: str
    seed: int | None
    folder: Path
    read: Read[T]

    @property
    def label(self) -> str:
        """What a menu shows, such as ``LoRA, seed 0``."""
        name = label_of(self.method)
        return name if self.seed is None else f"{name}, seed {self.seed}"

    def load(self, clip: Clip) -> T:
        """What is in the folder, checked against `clip`.

        Raises:
            ValueError: `AdapterError` or `PromptError`, if it was made from other weights.
        """
        return _load(self.read, self.folder, clip)


def shipped(task: str | None = None, folder: Path = FOLDER) -> tuple[Shipped[Adapter], ...]:
    """The adapters that ship, from ``folder/task/name/``, LoRA first.

    Args:
        task: Only those of this task; None for all.
        folder: Where they are.
    """
    return _found(folder, CONFIG, task, load_adapter)


def shipped_prompts(
    task: str | None = None, folder: Path = PROMPTS
) -> tuple[Shipped[SoftPrompt], ...]:
    """The soft prompts that ship, from ``folder/task/name/``, CoOp first.

    Args:
        task: Only those of this task; None for all.
        folder: Where they are.
    """
    return _found(folder, FILE, task, SoftPrompt.load)


def _found(folder: Path, file: str, task: str | None, read: Read[T]) -> tuple[Shipped[T], ...]:
    """One for each folder that holds `file`, by task, in the registry's order of methods."""
    found = []
    for f in folder.glob(f"{task or '*'}/*/{file}"):
        method, seed = _trained(read, f.parent, f.stat().st_mtime_ns)
        found.append(Shipped(f.parent.parent.name, method, seed, f.parent, read))
    order = {method: i for i, method in enumerate(METHODS)}
    found.sort(key=lambda s: (s.task, order.get(s.method, len(order)), s.folder.name))
    return tuple(found)


@cache
def _trained(read: Callable[[Path], Any], folder: Path, written: int) -> tuple[str, int | None]:
    """Method and seed, from the provenance; where it does not say, from the folder's name."""
    name, _, seed = folder.name.partition("-seed-")
    about: dict[str, Any] = {"method": name} | ({"seed": int(seed)} if seed.isdecimal() else {})
    with suppress(ValueError):  # a broken one is listed, and says so when it is loaded
        about |= read(folder).provenance
    return str(about["method"]), about.get("seed")


@cache
def _load(read: Callable[[Path, Clip], T], folder: Path, clip: Clip) -> T:
    return read(folder, clip)
