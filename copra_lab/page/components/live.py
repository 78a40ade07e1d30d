"""What every live view does: follow its controls.

It shows a first number at once, then that of all images, and then fills in the curve.

Gradio runs a handler, and each part of one that yields, in some thread of its pool: the limits in
`copra_lab.page.components.events` say how many run at once. Several handlers may run for one
visitor. They share only the `Session`, whose history is a value that is replaced under a lock, so
each sees a whole one, and what it draws carries the version that it saw: the browser shows nothing
of an older version after a newer one.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gradio as gr

from copra_lab.bench.bench import Bench
from copra_lab.page.components import staleness
from copra_lab.page.components.draw_order import newest, stamped
from copra_lab.page.components.events import BACKGROUND, EVENT, MODEL, REST
from copra_lab.page.components.panels import trouble
from copra_lab.page.components.tabs import Entrance, refusal
from copra_lab.page.components.updates import Components, Shows, Updates, by_component
from copra_lab.page.state import address
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.measurement import Ahead, filled_in, first_numbers, remaining
from copra_lab.page.state.schemas.measured import Measured
from copra_lab.page.state.session import Asked, History, Session

REDRAWN = 0.3
"""Seconds between two drawings of what is filled in."""


class Panel(NamedTuple):
    """A piece of a view that is drawn from a history."""

    where: gr.HTML
    draw: Callable[[History], str]


def panel(draw: Callable[[History], str], elem_id: str) -> Panel:
    """A piece that `draw` draws, as it is before anything was measured."""
    return Panel(newest(draw(History()), elem_id), draw)


def changed_panel(lab: Lab, draw: Callable[[History, Bench | None], str], elem_id: str) -> Panel:
    """The piece of the images that changed, which stand in the bench."""

    def drawn(history: History) -> str:
        here = history.state
        return draw(history, lab.bench(here.task) if here and history.base else None)

    return panel(drawn, elem_id)


Shown = tuple[Measured, Updates]
"""A state, and the updates that make the controls show it."""

Ask = Callable[..., Shown | None]
"""(lab, history, *values of the inputs) → the state asked for and updates of controls; None for
nothing to do. Raises ValueError, which is shown in place of the number."""


@dataclass(frozen=True)
class Stage:
    """What a view shows, and what it measures meanwhile.

    Attributes:
        kind: the class of the states that it can show.
        number: the piece with the accuracy; the other pieces are beside it and below.
        chart: the piece with the drawing.
        changed: the piece with the images that changed.
        table: the piece with the numbers of the chart.
        ask: the state that the inputs ask for.
        arrives: the state of an address as the view wants it, and the controls as they then stand.
        ahead: what is worth measuring while the visitor rests.
    """

    kind: type
    number: Panel
    chart: Panel
    changed: Panel
    table: Panel
    ask: Ask
    arrives: Callable[[Lab, Any], Shown]
    ahead: Ahead = lambda history: ()

    @property
    def live(self) -> list[Panel]:
        """The pieces that follow the thumb."""
        return [self.number, self.chart, self.changed]

    @property
    def growing(self) -> list[Panel]:
        """The pieces that are drawn anew as the curve is filled in."""
        return [self.number, self.chart, self.table]

    @property
    def everything(self) -> list[Panel]:
        """All pieces."""
        return [*self.live, self.table]


def moved_by_hand(control: Any) -> list[Callable[..., Any]]:
    """The events of a visitor who moves `control`.

    Not `change`: a handler that sets controls also says what they show, and a request that left
    between the first and the last of them would ask for neither the old state nor the new one.
    """
    return [control.input, *([control.release] if isinstance(control, gr.Slider) else [])]


@dataclass(frozen=True, eq=False)
class LiveView:
    """A view that shows the accuracy of the state that its controls ask for, as they move.

    Attributes:
        lab: what all visitors share.
        session: the visitor's.
        stage: what is shown.
        entrance: how the view is entered.
        inputs: the controls that ask for a state, in the order that `ask` takes them in, by name.
        others: what else the view sets, by its names.
        clear: the button that clears what was measured.
        follows: controls that ask for no state, and what each says of a state that is shown.
        events: more events that ask.
    """

    lab: Lab
    session: gr.State
    stage: Stage
    entrance: Entrance
    inputs: Components
    others: Components
    clear: gr.Button
    follows: Mapping[Any, Callable[[Lab, Any], Any]] = field(default_factory=dict)
    events: Sequence[Callable[..., Any]] = ()

    @property
    def controls(self) -> dict[str, Any]:
        """All that the view sets."""
        return {**self.inputs, **self.others}

    @property
    def _spoken(self) -> list[Any]:
        """The controls whose values say what is shown."""
        return [*self.inputs.values(), *self.follows]

    def bind(self) -> Any:
        """Listen to the controls.

        Returns the event after which the state is known on all images, if the visitor stayed.
        """
        stage, entrance = self.stage, self.entrance
        staleness.watch(self._spoken)
        triggers = [event for control in self.inputs.values() for event in moved_by_hand(control)]
        moved = gr.on(
            [entrance.opened, *triggers, *self.events],
            self.move,
            [*self._spoken, self.session, *entrance.request],
            [*(p.where for p in stage.live), *self.controls.values(), entrance.refused],
            js=entrance.leaves(self._spoken),
            **MODEL,
        )
        everything = [p.where for p in stage.everything]
        rested = moved.success(self.rest, self.session, [*everything, entrance.link], **REST)
        growing = [p.where for p in stage.growing]
        rested.success(self.fill, self.session, growing, **BACKGROUND)
        self.clear.click(self.cleared, self.session, everything, **EVENT)
        return rested

    def _draw(
        self, session: Session, history: History | None, panels: Sequence[Panel]
    ) -> dict[Any, Any]:
        # All views share one session: by now the visitor may be in another one, or have gone on.
        if (
            history is None
            or history.version != session.history.version
            or not isinstance(history.state, self.stage.kind)
        ):
            return {}
        return {p.where: stamped(history.version, p.draw(history), history.asked) for p in panels}

    def _arrived(self, session: Session, query: Any, values: Sequence[Any]) -> Shown | None:
        """Where to go, with an update for each control.

        "refused" is what of the address could not be used.
        """
        refused, found = {}, None
        if query:
            own = session.change(lambda history: address.adopt(history, query)).lab(self.lab)
            state, sentences = address.read(own, self.entrance.name, query)
            refused = {"refused": refusal(sentences)}
            found = state and self.stage.arrives(own, state)
        found = found or self.stage.ask(self.lab, session.history, *values)
        return found and (found[0], found[1] | refused)

    def _asked(self, lab: Lab, to: Shown | None, values: Sequence[Any], number: Any) -> Asked:
        """What the controls say once they show the state that they go `to`."""
        changed: dict[str, Any] = {}
        if to is not None:
            state, updates = to
            ours = self.controls.keys() & updates.keys()
            changed = {self.controls[name].elem_id: updates[name] for name in ours}
            changed |= {c.elem_id: says(lab, state) for c, says in self.follows.items()}
        return self.entrance.asked(staleness.values(self._spoken, values, changed), number)

    def move(self, *values: Any) -> Iterator[Shows]:
        """The first numbers.

        It always yields: a generator that does not would empty its outputs.
        """
        *values_, session, query, number = values
        outputs = {**self.controls, "refused": self.entrance.refused}
        state, said = None, False
        asked = self._asked(self.lab, None, values_, number)
        try:
            newest = session.requests.take(number)
            to = self._arrived(session, query, values_[: len(self.inputs)]) if newest else None
            if to is not None:
                state, updates = to
                asked = self._asked(session.history.lab(self.lab), to, values_, number)
                for history in first_numbers(self.lab, session, state, asked):
                    shows = by_component(outputs, updates) if updates else {}
                    yield self._draw(session, history, self.stage.live) | shows or gr.skip()
                    said, updates = True, {}
        except (ValueError, OSError) as e:  # AdapterError is a ValueError
            if state is None or session.stands(state):
                said = True
                yield self._trouble(session, e, asked)
        if not said:
            yield gr.skip()

    def _trouble(self, session: Session, error: Exception, asked: Asked) -> Shows:
        """Why there is no number; the chart and images of the state before go, too."""
        history = session.change(History.nowhere)
        number, *others = self.stage.live
        shows = {number.where: stamped(history.version, trouble(error), asked)}
        return shows | {p.where: stamped(history.version, p.draw(history), asked) for p in others}

    def rest(self, session: Session) -> Shows:
        """All images, and the address of the state: a thumb that moves on does not wait for it."""
        history = remaining(self.lab, session)
        shows = self._draw(session, history, self.stage.everything)
        if history and isinstance(history.state, self.stage.kind):
            said = address.write(session.history.lab(self.lab), history.state)
            shows |= {self.entrance.link: said}
        return shows or gr.skip()

    def fill(self, session: Session) -> Iterator[Shows]:
        """The rest of the curve, while the visitor rests."""
        yield gr.skip()
        shown, history = 0.0, None
        for history in filled_in(self.lab, session, self.stage.ahead):
            if time.monotonic() - shown >= REDRAWN:
                shown = time.monotonic()
                yield self._draw(session, history, self.stage.growing) or gr.skip()
        if history:  # the last may have come too soon after the one before
            yield self._draw(session, history, self.stage.growing) or gr.skip()

    def cleared(self, session: Session) -> Shows:
        """Only the state itself and what it is compared with."""
        history = session.change(History.cleared)
        return self._draw(session, history, self.stage.everything) or gr.skip()
