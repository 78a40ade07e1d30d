"""What every live view does: follow the controls, show a first number at once, then all images, then fill in the curve."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from copra_lab.bench import Bench
from copra_lab.page import parts
from copra_lab.page.lab import Lab
from copra_lab.page.measure import Ahead, filled_in, first_numbers, remaining
from copra_lab.page.places import Place
from copra_lab.page.walk import Session, Walk

NUMBERED = "(...x) => { x[x.length - 1] = performance.now(); return x; }"
"""Numbers a request as it leaves; see `Session.take`."""

LATE = 0.5
"""Seconds after which nothing can be on its way any more that was drawn for another place."""

EVENT: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
MODEL: dict[str, Any] = EVENT | {"concurrency_limit": 2, "concurrency_id": "bench"}
REST: dict[str, Any] = EVENT | {"concurrency_limit": 2, "concurrency_id": "rest"}
"""Apart, so that no first number waits in the queue behind all images of others."""
"""Everything that runs the model shares one small limit."""

REDRAWN = 0.3
"""Seconds between two drawings of what is filled in."""


class Panel(NamedTuple):
    """A piece of a view that is drawn from a walk."""

    where: gr.HTML
    draw: Callable[[Walk], str]


def panel(draw: Callable[[Walk], str], elem_id: str) -> Panel:
    return Panel(parts.html(draw(Walk()), elem_id=elem_id), draw)


def bench_of(lab: Lab, walk: Walk) -> Bench | None:
    """The bench that `walk` was measured on; None as long as nothing was."""
    return lab.bench(walk.place.task) if walk.place and walk.base else None


@dataclass(frozen=True)
class Stage:
    """Where a view shows what a visitor walks, the class of the places that it can show, and what it measures meanwhile."""

    kind: type
    number: Panel
    chart: Panel
    changed: Panel
    table: Panel
    ahead: Ahead = lambda walk: ()


Ask = Callable[..., tuple[Place, Sequence[Any]] | None]
"""(walk, *values of the inputs) → the place asked for and an update for each control; None for nothing to do. Raises
ValueError, which is shown in place of the number."""


def follow(
    lab: Lab, session: gr.State, stage: Stage, ask: Ask, opened: Callable[..., Any], inputs: Sequence[Any], controls: Sequence[Any], clear: gr.Button
) -> Any:
    """Whenever the view is `opened` or one of its `inputs` changes, go to the place that they `ask` for. Returns the event after which the place
    is known on all images, if the visitor stayed."""
    live = [stage.number, stage.chart, stage.changed]
    everything, growing = [*live, stage.table], [stage.number, stage.chart, stage.table]
    width = len(live) + len(controls)
    turn = gr.Number(visible=False)

    def draw(walk: Walk | None, panels: Sequence[Panel]) -> list[Any]:
        # All views share one session: by now the visitor may be in another one.
        return [p.draw(walk) for p in panels] if walk and isinstance(walk.place, stage.kind) else [gr.skip()] * len(panels)

    def move(*values: Any) -> Iterator[list[Any]]:
        """The first numbers. It always yields: a generator that does not would empty its outputs."""
        *given, session, number = values
        place, said = None, False
        try:
            asked = ask(session.walk, *given) if session.take(number) else None
            if asked is not None:
                place, updates = asked
                for walk in first_numbers(lab, session, place):
                    yield [*draw(walk, live), *updates]
                    said, updates = True, [gr.skip()] * len(controls)
        except (ValueError, OSError) as e:  # AdapterError is a ValueError
            if place is None or session.stands(place):
                session.change(Walk.nowhere)  # so that no number from before is shown in place of the words
                said = True
                words = [parts.trouble(e), *[gr.skip()] * (width - 1)]
            yield words
            if session.rests(LATE):  # a number of the place before that was on its way would hide the words
                yield words
        if not said:
            yield [gr.skip()] * width

    def rest(session: Session) -> list[Any]:
        return draw(remaining(lab, session), everything)

    def fill(session: Session) -> Iterator[list[Any]]:
        yield [gr.skip()] * len(growing)
        shown, walk = 0.0, None
        for walk in filled_in(lab, session, stage.ahead):
            if time.monotonic() - shown >= REDRAWN:
                shown = time.monotonic()
                yield draw(walk, growing)
        if walk and walk.turns == session.walk.turns:  # the last may have come too soon after the one before
            yield draw(walk, growing)

    def cleared(session: Session) -> list[Any]:
        return draw(session.change(Walk.cleared), everything)

    # What controls send is checked by `ask`, in words: a Gradio error would also lose the request that waits behind it.
    triggers = [opened, *(i.change for i in inputs)]
    shown = [p.where for p in live]
    moved = gr.on(triggers, move, [*inputs, session, turn], [*shown, *controls], js=NUMBERED, preprocess=False, **MODEL)
    rested = moved.success(rest, session, [p.where for p in everything], **REST)
    rested.success(fill, session, [p.where for p in growing], concurrency_limit=1, concurrency_id="background", **EVENT)
    clear.click(cleared, session, [p.where for p in everything], **EVENT)
    return rested
