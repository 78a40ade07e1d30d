"""What every live view does: follow the controls, show a first number at once, then all images, then fill in the curve."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from copra_lab.bench.bench import Bench
from copra_lab.page.components import panels as parts
from copra_lab.page.components import staleness
from copra_lab.page.components.draw_order import newest, stamped
from copra_lab.page.components.tabs import Entrance, refusal
from copra_lab.page.state import address
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.measurement import Ahead, filled_in, first_numbers, remaining
from copra_lab.page.state.session import Session, Walk
from copra_lab.page.state.view_states import Place

NUMBERED = "(...x) => { x[x.length - 1] = performance.now(); return x; }"
"""Numbers a request as it leaves; see `Requests.take`."""

EVENT: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "api_visibility": "private",
}
MODEL: dict[str, Any] = EVENT | {"concurrency_limit": 2, "concurrency_id": "bench"}
"""Everything that runs the model shares one small limit."""

PICTURES: dict[str, Any] = EVENT | {"concurrency_limit": 1, "concurrency_id": "pictures"}
"""What reads a visitor's picture: one at a time, since a large one takes half a gigabyte, and apart, since nobody's number shall wait for that."""

PROGRAMS: dict[str, Any] = EVENT | {"concurrency_limit": 1, "concurrency_id": "programs"}
"""What programs ask: one at a time, and apart, so that no visitor waits for a program that asks in a loop."""

REST: dict[str, Any] = EVENT | {"concurrency_limit": 2, "concurrency_id": "rest"}
"""Apart, so that no first number waits in the queue behind all images of others."""

WATCHING: dict[str, Any] = EVENT | {
    "trigger_mode": "multiple",
    "concurrency_limit": 8,
    "concurrency_id": "watching",
}
"""What sharpens for half a minute: apart, so that whoever wants a number does not wait for it, and several at once, since another question of
the same visitor's must not wait until this one has ended by itself."""

BACKGROUND: dict[str, Any] = EVENT | {"concurrency_limit": 1, "concurrency_id": "background"}
"""What takes minutes, or nobody waits for: one at a time."""

REDRAWN = 0.3
"""Seconds between two drawings of what is filled in."""


class Panel(NamedTuple):
    """A piece of a view that is drawn from a walk."""

    where: gr.HTML
    draw: Callable[[Walk], str]


def panel(draw: Callable[[Walk], str], elem_id: str) -> Panel:
    return Panel(newest(draw(Walk()), elem_id), draw)


def bench_of(lab: Lab, walk: Walk) -> Bench | None:
    """The bench that `walk` was measured on; None as long as nothing was."""
    return lab.bench(walk.place.task) if walk.place and walk.base else None


Shown = tuple[Place, Sequence[Any]]
"""A place, and an update for each of a view's controls."""


@dataclass(frozen=True)
class Stage:
    """Where a view shows what a visitor walks, the class of the places that it can show, what it measures meanwhile, and how it ``arrives``
    at the place of an address: the place as the view wants it, and its controls as they then stand."""

    kind: type
    number: Panel
    chart: Panel
    changed: Panel
    table: Panel
    arrives: Callable[[Lab, Any], Shown]
    ahead: Ahead = lambda walk: ()


Ask = Callable[..., Shown | None]
"""(walk, *values of the inputs) → the place asked for and an update for each control, the last of which may be missing; None for nothing
to do. Raises ValueError, which is shown in place of the number."""


def moved_by_hand(control: Any) -> list[Callable[..., Any]]:
    """The events of a visitor who moves `control`. Not `change`: who sets controls by a handler also says what they show, and a request
    that left between the first and the last of them would ask for neither the old place nor the new one."""
    return [control.input, *([control.release] if isinstance(control, gr.Slider) else [])]


def follow(
    lab: Lab,
    session: gr.State,
    stage: Stage,
    ask: Ask,
    entrance: Entrance,
    inputs: Sequence[Any],
    controls: Sequence[Any],
    clear: gr.Button,
    led: Mapping[Any, Callable[[Lab, Any], Any]] | None = None,
    by: Sequence[Callable[..., Any]] = (),
) -> Any:
    """Whenever the view is entered or a visitor moves one of its `inputs`, go to the place that they, or the address, `ask` for. ``led``:
    controls that ask for no place, and what each says of a place that is shown; ``by``: more events that ask. Returns the event after which the place is known on all images, if the visitor stayed."""
    led = led or {}
    spoken = [*inputs, *led]
    staleness.watch(spoken)
    live = [stage.number, stage.chart, stage.changed]
    everything, growing = [*live, stage.table], [stage.number, stage.chart, stage.table]
    hands = len(controls) + 1

    def draw(session: Session, walk: Walk | None, panels: Sequence[Panel]) -> list[Any]:
        # All views share one session: by now the visitor may be in another one, or have gone on.
        if (
            walk is None
            or walk.turns != session.walk.turns
            or not isinstance(walk.place, stage.kind)
        ):
            return [gr.skip()] * len(panels)
        return stamped(walk.turns, [p.draw(walk) for p in panels], walk.asked)

    def arrived(session: Session, query: Any, given: Sequence[Any]) -> Shown | None:
        """Where to go, and an update for each control and for what of the address was refused."""
        refused, found = gr.skip(), None
        if query:
            own = session.change(lambda walk: address.adopt(walk, query)).lab(lab)
            place, sentences = address.read(own, entrance.name, query)
            refused, found = refusal(sentences), place and stage.arrives(own, place)
        if found := found or ask(session.walk, *given):
            place, updates = found
            missing = [gr.skip()] * (len(controls) - len(updates))
            return place, [*updates, *missing, refused]
        return None

    def move(*values: Any) -> Iterator[list[Any]]:
        """The first numbers. It always yields: a generator that does not would empty its outputs."""
        *given, session, query, number = values
        place, said = None, False
        asked = entrance.asked(staleness.values(spoken, given, {}), number)
        try:
            to = (
                arrived(session, query, given[: len(inputs)])
                if session.requests.take(number)
                else None
            )
            if to is not None:
                place, updates = to
                new = {c.elem_id: update for c, update in zip(controls, updates, strict=False)}
                told = {
                    c.elem_id: of_place(session.walk.lab(lab), place) for c, of_place in led.items()
                }
                asked = entrance.asked(staleness.values(spoken, given, new | told), number)
                for walk in first_numbers(lab, session, place, asked):
                    yield [*draw(session, walk, live), *updates]
                    said, updates = True, [gr.skip()] * hands
        except (ValueError, OSError) as e:  # AdapterError is a ValueError
            if place is None or session.stands(place):
                walk = session.change(
                    Walk.nowhere
                )  # so that no number from before is shown in place of the words
                said = True
                pieces = [
                    parts.trouble(e),
                    *(p.draw(walk) for p in live[1:]),
                ]  # nor a chart and images of the place before
                yield [*stamped(walk.turns, pieces, asked), *[gr.skip()] * hands]
        if not said:
            yield [gr.skip()] * (len(live) + hands)

    def rest(session: Session) -> list[Any]:
        """All images, and the address of the place: a thumb that moves on does not wait for it."""
        walk = remaining(lab, session)
        here = walk.place if walk and isinstance(walk.place, stage.kind) else None
        return [
            *draw(session, walk, everything),
            address.write(session.walk.lab(lab), here) if here else gr.skip(),
        ]

    def fill(session: Session) -> Iterator[list[Any]]:
        yield [gr.skip()] * len(growing)
        shown, walk = 0.0, None
        for walk in filled_in(lab, session, stage.ahead):
            if time.monotonic() - shown >= REDRAWN:
                shown = time.monotonic()
                yield draw(session, walk, growing)
        if walk:  # the last may have come too soon after the one before
            yield draw(session, walk, growing)

    def cleared(session: Session) -> list[Any]:
        return draw(session, session.change(Walk.cleared), everything)

    # What controls send is checked by `ask`, in words: a Gradio error would also lose the request that waits behind it.
    triggers = [entrance.opened, *(event for i in inputs for event in moved_by_hand(i)), *by]
    outputs = [*(p.where for p in live), *controls, entrance.refused]
    asking = [*spoken, session, *entrance.request]
    moved = gr.on(
        triggers, move, asking, outputs, js=entrance.leaves(spoken), preprocess=False, **MODEL
    )
    rested = moved.success(rest, session, [*(p.where for p in everything), entrance.link], **REST)
    rested.success(fill, session, [p.where for p in growing], **BACKGROUND)
    clear.click(cleared, session, [p.where for p in everything], **EVENT)
    return rested
