"""The adapters that come with the package: made by ``recipes/adapters.py`` from the bundled CLIP."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from copra_lab.clip import Clip
from copra_lab.lora import Adapter
from copra_lab.storage import CONFIG

FOLDER = Path(str(files("copra_lab") / "assets" / "adapters"))


@dataclass(frozen=True)
class Shipped:
    """One adapter folder; ``label`` is what a menu shows, e.g. ``LoRA, seed 0``."""

    task: str
    label: str
    folder: Path

    def load(self, clip: Clip) -> Adapter:
        """The adapter, held against `clip`. Raises AdapterError if it was made from other weights."""
        return _load(self.folder, clip)


@cache
def _load(folder: Path, clip: Clip) -> Adapter:
    return Adapter.load(folder, clip)


def shipped(task: str | None = None, folder: Path = FOLDER) -> tuple[Shipped, ...]:
    """What is shipped for `task` (None: for all), LoRA first: ``folder/task/label/``."""
    found = sorted((f.parent for f in folder.glob(f"*/*/{CONFIG}")), key=lambda f: (f.parent.name, not f.name.startswith("lora"), f.name))
    return tuple(Shipped(f.parent.name, _label(f.name), f) for f in found if task in (None, f.parent.name))


def _label(name: str) -> str:
    """``copra-seed-1`` → ``CopRA, seed 1``."""
    return name.replace("-", " ").replace("lora", "LoRA").replace("copra", "CopRA").replace(" seed", ", seed")
