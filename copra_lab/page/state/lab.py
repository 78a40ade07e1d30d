"""What all visitors share and nobody changes: the CLIP, the adapters, a bench a task."""

import secrets
import threading
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from copra_lab.adapters.adapter import NONE, Adapter
from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.adapters.loading import load_adapter
from copra_lab.bench.bench import Bench
from copra_lab.methods.registry import label_of
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.prompts.soft_prompt import FILE, PromptError, SoftPrompt
from copra_lab.tasks.emoji.catalogue import TASKS
from copra_lab.tasks.task import Task, load_task
from copra_lab.zoo import FOLDER, PROMPTS, Shipped, shipped, shipped_prompts

BASE = "base"
"""The key of "no adapter" in every menu."""

OPENING = "things-mosaic"
"""The task that the page opens with, if it has adapters: fine-tuning moves much there, two seeds
differ, and it has many images."""

PROMPT_OPENING = "digits"
"""The task that the Prompt view opens with: words fail there, and a learned prompt does not."""

SHELF = "0/"
"""How the keys of what comes with the page begin. In an address they go without."""

OWN = "own/"
"""How the keys of what visitors trained begin."""

NO_LONGER = "what you trained there is no longer kept; choose another adapter, or train it again"

_making = threading.Lock()


_trained: "WeakValueDictionary[str, Own]" = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class Own:
    """An adapter that a visitor trained on this page.

    It came from training number `number`; ``steps`` of those that were asked for are done.

    ``key`` cannot be guessed and never comes again, so what was measured under it is never another
    adapter's. Every lab finds the adapter by it as long as its visitor keeps it; only that
    visitor's menus show it (see `History.lab`).
    """

    task: str
    number: int
    adapter: Adapter
    steps: int
    key: str = field(default_factory=lambda: f"{OWN}{secrets.token_urlsafe(12)}")

    def __post_init__(self) -> None:
        _trained[self.key] = self

    @property
    def method(self) -> str:
        """The name of its method."""
        return self.adapter.provenance["method"]

    @property
    def seed(self) -> int | None:
        """The seed of its training."""
        return self.adapter.provenance.get("seed")

    @property
    def label(self) -> str:
        """What a menu shows."""
        return f"Your {METHODS[self.method]} {self.number}"

    def load(self, clip: Clip) -> Adapter:
        """The adapter, which was made from this CLIP."""
        return self.adapter


def trained(key: str) -> Own | None:
    """What a visitor trained, by its key; None if no visitor keeps it any more."""
    return _trained.get(key)


METHODS = {name: label_of(name) for name in ("lora", "copra")}
"""The methods that can be trained here and compared, and how a menu names them."""


@dataclass(frozen=True)
class Lab:
    """The models, tasks, adapters and prompts that the page offers.

    ``folders`` hold adapters and ``prompts`` soft prompts as ``task/label/``; ``precision`` is
    `Bench`'s. ``clip_name``: another CLIP than the bundled one, as `load_clip` takes it; then only
    what was made from it is shown. ``own``: what one visitor trained, in that visitor's copy alone.
    """

    folders: tuple[Path, ...] = (FOLDER,)
    precision: str = "auto"
    prompts: Path = PROMPTS
    clip_name: str | None = None
    # Not compared: a key means the same adapter in every copy, so what was computed for one
    # visitor serves all.
    own: tuple[Own, ...] = field(default=(), compare=False)

    @property
    def shared(self) -> "Lab":
        """The part that all visitors share.

        What is cached by it keeps no visitor's own adapters alive.
        """
        return replace(self, own=()) if self.own else self

    @property
    def clip(self) -> Clip:
        """The model; it is loaded once."""
        return load_clip(self.clip_name)

    def _ours(self, folder: Path) -> bool:
        """Whether what is in `folder` may be shown.

        With the bundled CLIP all: a misfit is reported when it is chosen.
        """
        if self.clip_name is None:
            return True
        return _base(folder) in ("", self.clip.hash, self.clip.hash.partition("-")[0])

    def tasks(self) -> dict[str, str]:
        """The titles of the tasks that have adapters, by name.

        `OPENING` comes first, then the others in the catalogue's order.
        """
        order = sorted(TASKS, key=lambda name: name != OPENING)
        return {name: TASKS[name].title for name in order if self.offers(name)}

    def offers(self, task: str) -> bool:
        """Whether there are adapters of `task`."""
        return task in TASKS and bool(self.shelf(task))

    def titles(self) -> list[tuple[str, str]]:
        """(title, name) of each task, as a menu takes them."""
        return [(title, name) for name, title in self.tasks().items()]

    def check(self, task: object) -> None:
        """Raises ValueError if `task`, which may be anything, is not one of the tasks."""
        if not isinstance(task, str) or not self.offers(task):
            raise ValueError("choose one of the tasks in the list")

    def about(self, task: str) -> str:
        """What a task shows, in words."""
        return TASKS[task].about

    def shelf(self, task: str) -> dict[str, Shipped | Own]:
        """The adapters of `task` by a key: never a path, so that no visitor can name one."""
        found: dict[str, Shipped | Own] = {}
        for i, folder in enumerate(self.folders):
            ours = [s for s in shipped(task, folder) if self._ours(s.folder)]
            found |= {f"{i}/{s.folder.name}": s for s in ours}
        return found | {o.key: o for o in self.own if o.task == task}

    def menu(self, task: str) -> list[tuple[str, str]]:
        """(label, key) of what can be blended in `task`; the last is no adapter at all."""

        def label(key: str, s: Shipped | Own) -> str:
            if isinstance(s, Own) or key.startswith(SHELF):
                return s.label
            return f"{s.label} ({s.folder.parent.parent.name})"

        offered = [(label(key, s), key) for key, s in self.shelf(task).items()]
        return [*offered, ("No adapter (the base)", BASE)]

    def first(self, task: str, count: int) -> list[str]:
        """The keys of the first `count` in the menu of `task`; the last again where it is short."""
        keys = [key for _, key in self.menu(task)]
        return [keys[min(i, len(keys) - 1)] for i in range(count)]

    def adapters(self, task: str) -> list[tuple[str, str]]:
        """(label, key) of the adapters of `task`, without "no adapter"."""
        return self.menu(task)[:-1]

    def one(self, task: str, key: object) -> str:
        """`key` where `task` has an adapter of that key, or else the key of its first."""
        keys = [key for _, key in self.adapters(task)]
        return str(key) if key in keys else keys[0]

    def adapter(self, task: str, key: str) -> Adapter:
        """An adapter by its key.

        Raises AdapterError for one that does not fit the CLIP or is no longer kept, and KeyError
        for an unknown key.
        """
        if key in _trained:
            return _trained[key].adapter
        if key.startswith(OWN):
            raise AdapterError(NO_LONGER)
        return NONE if key == BASE else self.shelf(task)[key].load(self.clip)

    def prompt_shelf(self, task: str) -> dict[str, Shipped[SoftPrompt]]:
        """The soft prompts of `task` by a key."""
        found = shipped_prompts(task, self.prompts)
        return {s.folder.name: s for s in found if self._ours(s.folder)}

    def prompt_tasks(self) -> list[tuple[str, str]]:
        """(title, name) of each task that has soft prompts, `PROMPT_OPENING` first."""
        titles = sorted(self.titles(), key=lambda t: t[1] != PROMPT_OPENING)
        return [(title, name) for title, name in titles if self.prompt_shelf(name)]

    def prompt_menu(self, task: str) -> list[tuple[str, str]]:
        """(label, key) of the soft prompts of `task`."""
        return [(s.label, key) for key, s in self.prompt_shelf(task).items()]

    def one_prompt(self, task: str, key: object) -> str:
        """`key` where `task` has a prompt of that key, or else the key of its first.

        Raises ValueError if it has none.
        """
        keys = list(self.prompt_shelf(task))
        if not keys:
            raise ValueError("this task has no soft prompts; choose another one in the list")
        return str(key) if key in keys else keys[0]

    def prompt(self, task: str, key: str) -> SoftPrompt:
        """A soft prompt by its key.

        Raises PromptError for one that does not fit the CLIP, and KeyError for an unknown key.
        """
        return self.prompt_shelf(task)[key].load(self.clip)

    def longest_prompt(self) -> int:
        """How many vectors the longest prompt has.

        The model is not needed for that, and a file that is broken counts as 0.
        """
        lengths = [0]
        for s in shipped_prompts(None, self.prompts):
            with suppress(PromptError):
                lengths.append(SoftPrompt.load(s.folder).length)
        return max(lengths)

    def bench(self, task: str) -> Bench:
        """The bench of `task`: made once, however many visitors ask for it at the same time.

        The calling thread works alone from here on: merging small matrices on several threads costs
        a hundred times more in waiting than it saves as soon as the machine is busy, and the bench
        spreads images over the cores itself.
        """
        torch.set_num_threads(1)
        with _making:
            return _bench(task, self.precision, self.clip_name)

    def few_shot(self, task: str, shots: int) -> Task:
        """`task` with so many training images a class; those to test on are those of its bench."""
        return load_task(task, self.clip, shots=shots)

    def few(self, task: str, images: int) -> Bench:
        """A bench of the first `images` images in the order of the task's bench; made once."""
        whole = self.bench(task)
        with _making:
            return _few(whole, images, self.precision)


def counterpart(shelf: "dict[str, Shipped[Adapter] | Own]", key: str, method: str) -> str | None:
    """The key of what `method` made with the same seed as the adapter `key`, or None.

    What comes with the page is compared with what lies in the same folder, and what a visitor
    trained with what the same training made.
    """

    def origin(entry: "Shipped[Adapter] | Own") -> Hashable:
        return entry.number if isinstance(entry, Own) else entry.folder.parent

    wanted = (method, shelf[key].seed, origin(shelf[key]))
    return next((k for k, s in shelf.items() if (s.method, s.seed, origin(s)) == wanted), None)


@cache
def _base(folder: Path) -> str:
    """The hash of the weights that an adapter or soft prompt was made from; "" if unknown."""
    try:
        return (SoftPrompt.load(folder) if (folder / FILE).exists() else load_adapter(folder)).base
    except ValueError:
        return ""  # a broken one stays on the shelf, and says so when it is chosen


@cache
def _bench(task: str, precision: str, clip_name: str | None) -> Bench:
    clip = load_clip(clip_name)
    return Bench(clip, load_task(task, clip), precision=precision)


@cache
def _few(whole: Bench, images: int, precision: str) -> Bench:
    some = replace(whole.task, test=whole.split.pick(whole.order[:images].tolist()))
    return Bench(whole.clip, some, precision=precision)
