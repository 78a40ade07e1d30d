"""What a visitor has set, as an address to share, and back: ``?view=prune&task=digits&adapter=copra-seed-0&off=0,q,v7&sparsity=80``.

A state is a place of the view's kind, of Train an `Order`, and of Try `Tried`. What is as the view opens with it is left out. An
address may be anything: its values are checked one by one, and in place of one that is none stands what is usual.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from copra_lab.adapters.adapter import Adapter
from copra_lab.bench.prompt_survey import SIGMAS
from copra_lab.page.state.controls import corrupted, kept_sites, matrices_of, named, switches_of
from copra_lab.page.state.lab import BASE, SHELF, Lab, trained
from copra_lab.page.state.session import Walk
from copra_lab.page.state.training_request import CHECKS, Order, settings
from copra_lab.page.state.validation import (
    adapter_of,
    inside,
    noise,
    percentage,
    point_of,
    position,
    prompt_of,
    shares_of,
    space_of,
    switched_on,
)
from copra_lab.page.state.view_states import (
    HIGH,
    LOW,
    MIDDLE,
    MOST_PERCENT,
    UNITS,
    Bent,
    Blended,
    Mixed,
    Pruned,
    Valued,
)

LONGEST = 2000
"""Characters that are read of an address."""


class Tried(NamedTuple):
    """A picture is no part of an address, but whose names there are to choose from is."""

    task: str


State = Blended | Mixed | Pruned | Valued | Bent | Order | Tried


def write(lab: Lab, state: Any) -> str:
    """The address of a `State`, from its ``?`` on."""
    view, code = next((v, c) for v, c in CODES.items() if isinstance(state, c.kind))
    usual = code.words(lab, code.read(_Asked(lab, {}), state.task)) | {"task": code.first(lab)}
    said = {"task": state.task} | code.words(lab, state)
    return "?" + urlencode(
        {"view": view} | {k: v for k, v in said.items() if v != usual.get(k)}, safe=",/"
    )


def read(lab: Lab, view: str, query: Any) -> tuple[Any, list[str]]:
    """The `State` that an address asks `view` for, and a sentence for each value that could not be used. None if it says nothing of it: an
    address that names the view says all of it, the usual where it is silent."""
    code, asked = CODES[view], _Asked(lab)
    try:
        asked.given |= _pairs(query)
    except ValueError:
        return None, [f"an address has at most {LONGEST:,} characters"]
    if (named := asked.given.pop("view", None)) not in (None, view):
        return None, [f"there is no view {named!r:.40}"]
    asked.found = named is not None
    state = code.read(asked, asked.take("task", code.first(lab), partial(code.check, lab)))
    return (state if asked.found else None), asked.refused


def adopt(walk: Walk, query: Any) -> Walk:
    """`walk`, with what a visitor trained and the address names: whoever knows a key that cannot be guessed was given it."""
    try:
        found = [
            own for key in _pairs(query).values() if (own := trained(key)) and own not in walk.own
        ]
    except ValueError:
        return walk
    return walk.keep(*dict.fromkeys(found)) if found else walk


def _pairs(query: Any) -> dict[str, str]:
    """Raises ValueError for what is too long."""
    if not isinstance(query, str) or len(query) > LONGEST:
        raise ValueError("too long")
    return dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True))


@dataclass
class _Asked:
    """What an address says, by name, whether any of it was looked for (``found``), and what could not be taken."""

    lab: Lab
    given: dict[str, str] = field(default_factory=dict)
    found: bool = False
    refused: list[str] = field(default_factory=list)

    def take(self, name: str, usual: Any, check: Callable[[str], Any]) -> Any:
        if name not in self.given:
            return usual
        self.found = True
        try:
            return check(self.given[name])
        except (ValueError, OSError) as e:  # AdapterError and PromptError are ValueErrors
            self.refused.append(f"{name}: {e}")
            return usual

    def adapter(self, name: str, task: str, usual: str, base: bool = False) -> str:
        def check(text: str) -> str:
            key = adapter_of(
                self.lab, task, text if text == BASE or "/" in text else SHELF + text, base
            )
            self.lab.adapter(task, key)  # raises for a file that is broken
            return key

        return self.take(name, usual, check)


def _name(key: str) -> str:
    return key.removeprefix(SHELF)


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("compare must be yes or no")
    return text == "yes"


def _blend_words(lab: Lab, s: Blended) -> dict[str, str]:
    return {
        "a": _name(s.a),
        "b": _name(s.b),
        "weight": f"{s.weight:g}",
        "mix": s.space,
        "compare": "yes" if s.compare else "no",
    }


def _blend(asked: _Asked, task: str) -> Blended:
    a, b = (
        asked.adapter(name, task, key, base=True)
        for name, key in zip("ab", asked.lab.pair(task, None, None), strict=True)
    )
    weight = asked.take("weight", 0.0, lambda text: position(inside(text, LOW, HIGH, "λ")))
    return Blended(
        task,
        a,
        b,
        weight,
        asked.take("mix", "delta", space_of),
        compare=asked.take("compare", False, _yes),
    )


def _triangle_words(lab: Lab, s: Mixed) -> dict[str, str]:
    return {name: _name(key) for name, key in zip("abc", s.keys, strict=True)} | {
        "point": ",".join(f"{round(x / UNITS, 3):g}" for x in (s.b, s.c))
    }


def _triangle(asked: _Asked, task: str) -> Mixed:
    a, b, c = (
        asked.adapter(name, task, key, base=True)
        for name, key in zip("abc", asked.lab.three(task, None, None, None), strict=True)
    )
    return Mixed(task, (a, b, c), *asked.take("point", (MIDDLE, MIDDLE), _point))


def _point(text: str) -> tuple[int, int]:
    point = point_of(text.replace(",", " "))
    if any(
        abs(x / UNITS - float(said)) > 0.01
        for x, said in zip(point, text.replace(",", " ").split(), strict=True)
    ):
        raise ValueError("the point lies too far outside of the triangle")
    return point


def _prune_words(lab: Lab, s: Pruned) -> dict[str, str]:
    off = [named(matrix) for matrix in s.off]
    if s.layers is not None or s.kinds is not None:
        have = switches_of(lab.adapter(s.task, s.key))
        off = [
            str(h)
            for own, kept in zip(have, (s.layers, s.kinds), strict=True)
            if kept is not None
            for h in own
            if h not in kept
        ] + off
    return {"adapter": _name(s.key), "off": ",".join(off), "sparsity": str(s.percent)}


def _prune(asked: _Asked, task: str) -> Pruned:
    key = asked.adapter("adapter", task, asked.lab.one(task, None))
    rows, columns, off = asked.take(
        "off", (None, None, ()), lambda text: _kept(asked.lab.adapter(task, key), text)
    )
    return Pruned(
        task,
        key,
        rows,
        columns,
        asked.take("sparsity", 0, lambda text: percentage(inside(text, 0, 100, "the sparsity"))),
        off,
    )


def _kept(adapter: Adapter, text: str) -> tuple[Any, ...]:
    """``0,q,v7``: without the layer 0, the kind q, and of layer 7 the v."""
    (layers, kinds), matrices = switches_of(adapter), matrices_of(adapter)
    off = text.split(",") if text else []
    if unknown := [o for o in off if o not in (*map(str, layers), *kinds, *map(named, matrices))]:
        raise ValueError(f"the adapter has no layer, kind or matrix {unknown[0]!r:.40}")
    on = (
        [i for i in layers if str(i) not in off],
        [k for k in kinds if k not in off],
        [m for m in matrices if named(m) not in off],
    )
    return kept_sites(matrices, *on)


def _shapley_words(lab: Lab, s: Valued) -> dict[str, str]:
    return {"adapter": _name(s.key), "layer": str(s.layer)}


def _shapley(asked: _Asked, task: str) -> Valued:
    key = asked.adapter("adapter", task, asked.lab.one(task, None))
    return Valued(
        task, key, asked.take("layer", -1, lambda text: _layer(asked.lab.adapter(task, key), text))
    )


def _layer(adapter: Adapter, text: str) -> int:
    have = {str(i): i for i in switches_of(adapter)[0]}
    switched_on([text], tuple(have), "layer")
    return have[text]


def _prompt_words(lab: Lab, s: Bent) -> dict[str, str]:
    words = {
        "prompt": s.key,
        "percents": ",".join(map(str, s.percents or ())),
        "replaced": ",".join(str(i + 1) for i in s.replaced),
    }
    return words | ({"sigma": f"{s.sigma:g}"} if s.replaced else {})


def _prompt(asked: _Asked, task: str) -> Bent:
    lab, usual = asked.lab, asked.lab.one_prompt(task, None)
    key = asked.take("prompt", usual, lambda text: _readable(lab, task, prompt_of(lab, task, text)))
    shares = asked.take("percents", None, lambda text: _shares(text, lab.prompt(task, key).length))
    replaced = asked.take("replaced", (), lambda text: _vectors(text, lab.prompt(task, key).length))
    sigma = asked.take("sigma", SIGMAS[-1], lambda text: noise(inside(text, 0, max(SIGMAS), "σ")))
    if shares is None and not replaced:
        return Bent(task, key)
    return Bent(task, key, *corrupted(shares, replaced, sigma, lab.prompt(task, key).length))


def _readable(lab: Lab, task: str, key: str) -> str:
    lab.prompt(task, key)
    return key


def _shares(text: str, length: int) -> tuple[int, ...] | None:
    return shares_of(
        [inside(v, 0, MOST_PERCENT, f"vector {i}") for i, v in enumerate(text.split(","), 1)],
        length,
    )


def _vectors(text: str, length: int) -> tuple[int, ...]:
    numbers = {str(i + 1): i for i in range(length)}
    on = switched_on(text.split(","), tuple(numbers), "vector", whose="prompt")
    return tuple(numbers[n] for n in (numbers if on is None else on))


def _prompt_task(lab: Lab, task: str) -> str:
    lab.one_prompt(_task(lab, task), None)
    return task


def _train_words(lab: Lab, s: Order) -> dict[str, str]:
    return {name: str(value) for name, value in settings(s).items()}


def _train(asked: _Asked, task: str) -> Order:
    usual = settings(Order(task))
    return Order(
        task,
        *(
            asked.take(name, check(usual[name]), partial(_checked, check))
            for name, check in CHECKS.items()
        ),
    )


def _checked(check: Callable[[Any], Any], text: str) -> Any:
    return check(int(text) if text.isdecimal() and len(text) < 10 else text)


def _task(lab: Lab, task: str) -> str:
    lab.check(task)
    return task


class _Code(NamedTuple):
    """How the states of a view are said. ``words``: by name, all of them but the task; ``read``: of a task, what the words say;
    ``check`` of a task, and the ``first`` that there is."""

    kind: type
    words: Callable[[Lab, Any], dict[str, str]]
    read: Callable[[_Asked, str], Any]
    check: Callable[[Lab, str], str] = _task
    first: Callable[[Lab], str] = lambda lab: next(iter(lab.tasks()))


CODES = {
    "blend": _Code(Blended, _blend_words, _blend),
    "triangle": _Code(Mixed, _triangle_words, _triangle),
    "prune": _Code(Pruned, _prune_words, _prune),
    "shapley": _Code(Valued, _shapley_words, _shapley),
    "prompt": _Code(
        Bent, _prompt_words, _prompt, _prompt_task, lambda lab: lab.prompt_tasks()[0][1]
    ),
    "train": _Code(Order, _train_words, _train),
    "try": _Code(Tried, lambda lab, s: {}, lambda asked, task: Tried(task)),
}
