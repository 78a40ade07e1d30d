"""The browser dims a number as soon as the controls say something else.

Each piece of the page that holds numbers carries the values of the controls that it was computed
for, by the controls' ids, and the number of the request (see
`copra_lab.page.state.session.Requests`). staleness.js compares both with what the controls say now,
whatever changed them and in whatever order the server answers: no view has rules of its own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from copra_lab.page.state.session import Asked


def of(asked: Asked, piece: str) -> str:
    """`piece`, HTML, as computed for what was `asked`."""
    at = f' data-at="{asked.at!r}"' if isinstance(asked.at, int | float) else ""
    return (
        f'<div class="of" data-of="{escape(json.dumps(dict(asked.of)))}"{at} '
        f'data-part="{escape(asked.part)}">{piece}</div>'
    )


def all_of(asked: Asked, updates: Mapping[str, Any], pieces: Iterable[str]) -> dict[str, Any]:
    """`updates`, those of `pieces` by their names as computed for what was `asked`."""
    found = updates.keys() & set(pieces)
    return {**updates, **{name: of(asked, updates[name]) for name in found}}


def values(
    controls: Sequence[Any], given: Sequence[Any], updates: Mapping[str, Any]
) -> dict[str, Any]:
    """What `controls` say, by their ids.

    The `given` values, but for those that `updates`, by their ids, change.
    """
    return {
        c.elem_id: _updated(value, updates.get(c.elem_id, gr.skip()))
        for c, value in zip(controls, given, strict=True)
    }


def _updated(value: Any, update: Any) -> Any:
    if isinstance(update, dict) and update.get("__type__") == "update":
        return update.get("value", value)
    return update


def says(controls: Sequence[Any]) -> str:
    """JavaScript that takes the first of its arguments as what the `controls` say now."""
    ids = json.dumps([c.elem_id for c in controls])
    return f"(...x) => {{ globalThis.copra?.says({ids}, x); }}"


def asks(part: str) -> str:
    """JavaScript: what `part` of the page shows is out of date from now on.

    Until a request that is made after that is answered.
    """
    return f"() => {{ globalThis.copra?.asks({json.dumps(part)}); }}"


def outdate(part: str, events: Sequence[Any]) -> None:
    """Let the browser dim what `part` of the page shows at these events; see `asks`."""
    gr.on(list(events), None, None, None, js=asks(part), show_progress="hidden")


def watch(controls: Sequence[Any]) -> None:
    """Let the browser know at once what the `controls` say, whoever changes them.

    To be called before any other handler is given to them, since the browser runs the handlers of
    an event one after the other.
    """
    changes = [c.change for c in controls]
    gr.on(changes, None, list(controls), None, js=says(controls), show_progress="hidden")
