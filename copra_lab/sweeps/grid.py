"""A sweep as a TOML file: methods × tasks × seeds × settings.

For example::

    clip = "emoji-clip"              # what load_clip takes; by default the bundled one
    methods = ["lora", "copra"]      # from copra_lab.methods.METHODS; svfit+copra: CopRA on SVFit
    tasks = ["digits", "icons"]      # names, or folders of images
    seeds = 3                        # 0, 1, 2; or a list

    [settings]                       # of every run; a list is an axis: each value is tried
    steps = 300
    shots = [4, 16]

    [lora]                           # of the adapter's method: rank, sites, towers, …
    rank = [2, 4]

    [method.copra]                   # of one method alone
    lr = 4e-3
    ramp = 0.75

The settings of a soft prompt are in ``[prompt]``, those of its penalty in the table of its method.
"""

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from copra_lab.methods.registry import METHODS, Parts
from copra_lab.methods.registry import method as method_named
from copra_lab.sweeps.runs import Run, TaskOptions
from copra_lab.training.settings import TrainingSettings
from copra_lab.utils.checks import spelling_hint

__all__ = ["Grid", "grid", "read_grid"]

MOST_SEEDS = 100_000
"""Of a sweep: more is a slip of the keyboard."""

_SETTINGS = tuple(
    f.name for c in (TrainingSettings, TaskOptions) for f in fields(c) if f.name != "seed"
)
_OF_ADAPTERS = ("schedule", "precision", "task_seed")
"""What ``[settings]``, which methods of both kinds share, says to adapters alone."""


@dataclass(frozen=True)
class Grid:
    """Which runs, on which CLIP (None: the bundled one)."""

    runs: tuple[Run, ...]
    clip: str | None = None


def read_grid(file: str | Path) -> Grid:
    """The runs that a TOML file describes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For anything in it that is not understood, in one sentence.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(
            f"no file {file}; a sweep is a TOML file with methods, tasks and seeds"
        )
    try:
        return grid(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{file} is not a TOML file ({e})") from e
    except ValueError as e:
        raise ValueError(f"{file}: {e}") from e


def grid(table: Mapping[str, Any]) -> Grid:
    """The runs that a table describes, see `copra_lab.sweeps.grid`.

    A setting that is a list is an axis; one that is itself a list of words, such as ``sites``, has
    an axis that is a list of lists.

    Raises:
        ValueError: For anything in it that is not understood, in one sentence.
    """
    keys = ("clip", "methods", "tasks", "seeds", "settings", "lora", "prompt", "method")
    _check_known(table, keys, "")
    methods, tasks, seeds = _words(table, "methods"), _words(table, "tasks"), _seeds(table)
    for name in methods:
        try:
            method_named(name)
        except KeyError:
            _check_known([name], tuple(METHODS), "method ")
    of_one = _table(table, "method")
    _check_known(of_one, methods, "method.")
    shared = {k: _table(table, k) for k in ("settings", "lora", "prompt")}
    runs: list[Run] = []
    for method in methods:
        axes = _Axes(method).read(shared, _table(of_one, method))
        for options in axes.combinations():
            runs += [Run.of(t, s, **options) for t in tasks for s in seeds]
    if not runs:
        raise ValueError("there is nothing to do: name at least one method, one task and one seed")
    clip = table.get("clip")
    if clip is not None and not isinstance(clip, str):
        raise ValueError(f"clip must be a name or a folder, got {clip!r}")
    return Grid(tuple(dict.fromkeys(runs)), clip)


def _seeds(table: Mapping[str, Any]) -> list[int]:
    seeds = table.get("seeds", 1)
    seeds = list(range(min(seeds, MOST_SEEDS + 1))) if isinstance(seeds, int) else seeds
    if (
        not isinstance(seeds, list)
        or not 1 <= len(seeds) <= MOST_SEEDS
        or not all(isinstance(s, int) and 0 <= s < 2**63 for s in seeds)
    ):
        raise ValueError(
            f"seeds must be a number, or a list of at most {MOST_SEEDS:,} numbers, "
            f"got {table['seeds']!r:.60}"
        )
    return seeds


class _Axes:
    """The values to try of each setting of one method."""

    def __init__(self, name: str) -> None:
        line = method_named(name)
        self.name, made = name, line.parts()
        self.kind = "lora" if line.kind == "adapter" else "prompt"
        self.parts = {self.kind: made.method, "dropping": made.dropping, "penalty": made.penalty}
        self.parts = {k: v for k, v in self.parts.items() if v is not None}
        self.run = _usual(made)
        # Which part a setting belongs to; "" is the run itself.
        self.homes = {k: "" for k in _SETTINGS if self.kind == "lora" or k != "precision"}
        for part, value in self.parts.items():
            self.homes |= {f.name: part for f in fields(value)}
        self.axes: dict[tuple[str, str], list[Any]] = {}

    def read(self, shared: Mapping[str, dict], of_one: dict) -> "_Axes":
        """Take the tables that methods share, and then that of this method, which wins."""
        everywhere = shared["settings"]
        if self.kind == "prompt":
            everywhere = {k: v for k, v in everywhere.items() if k not in _OF_ADAPTERS}
        general = [k for k, home in self.homes.items() if home == ""]
        self._add("settings", everywhere, general)
        inner = [k for k, home in self.homes.items() if home == self.kind]
        self._add(self.kind, shared[self.kind], inner)
        self._add(f"method.{self.name}", of_one, list(self.homes))
        return self

    def _add(self, heading: str, table: dict, allowed: Sequence[str]) -> None:
        _check_known(table, allowed, f"{heading}.")
        for key, value in table.items():
            home = self.homes[key]
            default = getattr(self.parts[home], key) if home else self.run[key]
            self.axes[home, key] = _axis(f"{heading}.{key}", value, default)

    def combinations(self) -> Iterator[dict[str, Any]]:
        """The options of a run, for every combination of values."""
        for values in itertools.product(*self.axes.values()):
            chosen: dict[str, dict[str, Any]] = {}
            for (home, key), value in zip(self.axes, values, strict=True):
                chosen.setdefault(home, {})[key] = value
            parts = {k: replace(v, **chosen.get(k, {})) for k, v in self.parts.items()}
            parts["method"] = parts.pop(self.kind)
            yield parts | chosen.get("", {})


def _usual(made: Parts) -> dict[str, Any]:
    """The value of each setting where nothing is said, of the type that it must have."""
    parts = {k: v for k, v in vars(made).items() if v is not None}
    run = Run.of("", **parts)
    return {**vars(run.settings), **vars(run.options), "task_seed": run.task_seed}


def _axis(name: str, value: Any, default: Any) -> list[Any]:
    """The values of a setting, each of the type of its default."""
    words = isinstance(default, tuple)
    several = isinstance(value, list) and not (words and all(isinstance(v, str) for v in value))
    values = value if several else [value]
    if not values:
        raise ValueError(f"{name} is an empty list: give a value, or leave it out")
    return [_typed(name, v, default) for v in values]


def _typed(name: str, value: Any, default: Any) -> Any:
    """The value, where it has the type of the default."""
    if not _fits(name, value, default):
        words = "a list of words" if isinstance(default, tuple) else "a number or a word"
        kind = _KINDS.get(type(default), words)
        raise ValueError(f"{name} must be {kind}, got {value!r}")
    if isinstance(default, tuple):
        return tuple(value)
    return float(value) if isinstance(default, float) else value


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def _fits(name: str, value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if default is None:  # a number or words, which the class itself tells apart
        return isinstance(value, int | float | str)
    if isinstance(default, float) or name.endswith(".norm"):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def _words(table: Mapping[str, Any], key: str) -> list[str]:
    value = table.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        example = {"methods": '["lora", "copra"]', "tasks": '["digits"]'}[key]
        raise ValueError(f"{key} must be a list of names, such as {key} = {example}, got {value!r}")
    return value


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be a table ([{key}]), got {value!r}")
    return value


def _check_known(keys: Iterable[str], known: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in known:
            hint = spelling_hint(key, known).removeprefix(";")
            raise ValueError(f"unknown {where}{key}:{hint} choose from {', '.join(known)}")
