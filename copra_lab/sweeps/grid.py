"""A sweep as a TOML file says it: methods × tasks × seeds × settings, as the runs (`Run`, `PromptRun`) that they come to::

    clip = "emoji-clip"              # what load_clip takes; the bundled one if nothing is said
    methods = ["lora", "copra"]      # of METHODS
    tasks = ["digits", "icons"]      # names, or folders of images
    seeds = 3                        # 0, 1, 2; or a list

    [settings]                       # of every run; a list is tried one by one, each with everything else
    steps = 300
    shots = [4, 16]

    [lora]                           # of the adapter: rank, alpha, scaling, sites, towers, train_a
    rank = [2, 4]

    [method.copra]                   # what one method has: its own settings, or others than the rest
    lr = 4e-3
    ramp = 0.75

A soft prompt's own settings stand in ``[prompt]``, those of its penalty in the table of its method.
"""

import difflib
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from copra_lab.methods.lora import LoRA
from copra_lab.prompts.nemesis import Nemesis
from copra_lab.prompts.soft_prompt import VPT, CoOp
from copra_lab.sweeps.runs import PromptRun, Run
from copra_lab.training.dropping import DROPPINGS
from copra_lab.training.fitting import DEFAULTS, RATES
from copra_lab.training.prompt import name_of

__all__ = ["METHODS", "Grid", "grid", "read_grid"]

_PENALTIES = (None, Nemesis(beta=1.0), Nemesis(beta=0.0), Nemesis(beta=0.5))
TUNINGS: dict[str, tuple[CoOp | VPT, Nemesis | None]] = {
    name_of(m, p): (m, p) for m in (CoOp(), VPT()) for p in _PENALTIES
}
"""Ways to learn a soft prompt, by name."""

METHODS = (*DROPPINGS, *TUNINGS)
"""All of them: what a sweep's ``methods`` may name."""

MOST_SEEDS = 100_000
"""Of a sweep: more is a slip of the keyboard."""


@dataclass(frozen=True)
class Grid:
    """Which runs, on which CLIP (None: the bundled one)."""

    runs: tuple[Run | PromptRun, ...]
    clip: str | None = None


def read_grid(file: "str | Path") -> Grid:
    """The runs that a TOML file describes. Raises FileNotFoundError, or ValueError in a sentence for what it does not understand."""
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
    """The same of a table that is read already. A setting that is a list is an axis; one that is itself a list of words, such as
    ``sites``, has an axis that is a list of lists."""
    _known(table, ("clip", "methods", "tasks", "seeds", "settings", "lora", "prompt", "method"), "")
    methods, tasks = _words(table, "methods"), _words(table, "tasks")
    seeds = table.get("seeds", 1)
    seeds = list(range(min(seeds, MOST_SEEDS + 1))) if isinstance(seeds, int) else seeds
    if (
        not isinstance(seeds, list)
        or not 1 <= len(seeds) <= MOST_SEEDS
        or not all(isinstance(s, int) and 0 <= s < 2**63 for s in seeds)
    ):
        raise ValueError(
            f"seeds must be a number, or a list of at most {MOST_SEEDS:,} numbers, got {table['seeds']!r:.60}"
        )
    _known(methods, METHODS, "method ")
    own = _table(table, "method")
    _known(own, methods, "method.")
    runs: list[Run | PromptRun] = []
    for method in methods:
        runs += _runs_of(
            method,
            tasks,
            seeds,
            _table(table, "settings"),
            _table(table, "lora"),
            _table(table, "prompt"),
            _table(own, method),
        )
    if not runs:
        raise ValueError("there is nothing to do: name at least one method, one task and one seed")
    clip = table.get("clip")
    if clip is not None and not isinstance(clip, str):
        raise ValueError(f"clip must be a name or a folder, got {clip!r}")
    return Grid(tuple(dict.fromkeys(runs)), clip)


def _runs_of(
    method: str,
    tasks: Sequence[str],
    seeds: Sequence[int],
    settings: dict,
    lora: dict,
    prompt: dict,
    own: dict,
) -> Iterator[Run | PromptRun]:
    run: Run | PromptRun
    if method in DROPPINGS:
        dropping = DROPPINGS[method]
        run = Run("", dropping=dropping, lr=RATES.get(method, RATES["lora"]))
        parts: dict[str, Any] = {"lora": LoRA(), "dropping": dropping}
        inner = {"lora": lora}
    else:
        vectors, penalty = TUNINGS[method]
        run = PromptRun(
            "",
            prompt=vectors,
            penalty=penalty,
            **{k: DEFAULTS[type(vectors)][k] for k in ("steps", "lr", "batch")},
        )
        parts = {"prompt": vectors} | ({"penalty": penalty} if penalty else {})
        inner = {"prompt": prompt}
    # Where a setting belongs: to the run, or to what the run holds (its LoRA, its dropping, …).
    homes = {f.name: "" for f in fields(run) if f.name not in ("task", "seed", *parts)}
    homes |= {f.name: part for part, value in parts.items() for f in fields(value)}
    of_others = {
        f.name for f in (*fields(Run("")), *fields(PromptRun("")))
    }  # [settings] are shared by methods of both kinds
    axes: dict[tuple[str, str], list[Any]] = {}
    for given, heading in (
        (settings, "settings"),
        *((t, k) for k, t in inner.items()),
        (own, f"method.{method}"),
    ):
        for key, value in given.items():
            if heading == "settings" and key not in homes and key in of_others:
                continue
            allowed = [
                k
                for k, home in homes.items()
                if heading.startswith("method.") or home == (heading if heading in parts else "")
            ]
            _known([key], allowed, f"{heading}.")
            home = homes[key]
            axes[home, key] = _axis(
                f"{heading}.{key}", value, getattr(parts[home] if home else run, key)
            )
    for values in itertools.product(*axes.values()):
        chosen: dict[str, dict[str, Any]] = {}
        for (home, key), value in zip(axes, values, strict=True):
            chosen.setdefault(home, {})[key] = value
        held = {part: replace(value, **chosen.get(part, {})) for part, value in parts.items()}
        yield from (
            replace(run, task=t, seed=s, **held, **chosen.get("", {})) for t in tasks for s in seeds
        )


def _axis(name: str, given: Any, default: Any) -> list[Any]:
    """The values of a setting, each of the kind of its default."""
    words = isinstance(default, tuple)
    several = isinstance(given, list) and not (words and all(isinstance(v, str) for v in given))
    values = given if several else [given]
    if not values:
        raise ValueError(f"{name} is an empty list: give a value, or leave it out")
    return [_one(name, v, default) for v in values]


def _one(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple):
        value, fits = (
            tuple(value) if isinstance(value, list) else value,
            isinstance(value, list) and all(isinstance(v, str) for v in value),
        )
    elif isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif default is None:  # a number or words, which the class itself tells apart
        fits = isinstance(value, int | float | str)
    elif isinstance(default, float) or name.endswith(".norm"):
        fits = isinstance(value, int | float)
    else:
        fits = isinstance(value, type(default))
    if not fits:
        kind = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: "a word",
            tuple: "a list of words",
        }
        raise ValueError(
            f"{name} must be {kind.get(type(default), 'a number or a word')}, got {value!r}"
        )
    return float(value) if isinstance(default, float) else value


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


def _known(given: "Mapping[str, Any] | Sequence[str]", known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            raise ValueError(
                f"unknown {where}{key}: {f'did you mean {close[0]!r}? ' if close else ''}choose from {', '.join(known)}"
            )
