"""The Shapley view: what each layer of an adapter is worth, sharpening while one watches until it is exact."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from copra_lab.page import parts
from copra_lab.page import worth_parts as draw
from copra_lab.page.lab import Lab
from copra_lab.page.live import EVENT, NUMBERED
from copra_lab.page.measure import traffic
from copra_lab.page.parts import copy_button, html
from copra_lab.page.places import Valued
from copra_lab.page.solving import Solving, Values, solving
from copra_lab.page.views import View
from copra_lab.page.walk import Session
from copra_lab.prune import layers_of

REDRAWN = 0.4
"""Seconds between two drawings."""

HOW_TO_READ = """<p class="how"><b>How to read this.</b> Let the layers join one after another, in every possible order: a layer’s <b>Shapley value</b> is what accuracy
rises by when it joins, on average over all orders. The values of all layers add up to what the whole adapter adds. A coalition is a set of layers whose ΔW is switched on; its
worth is the share of these test images that the CLIP then gets right, measured, not estimated. At first some orders are drawn (each with its reverse) and the
bars have <b>95&#8202;% intervals</b>; they are about the drawing of orders, not about other images. When all coalitions are known the values are exact <b>for these images</b>; on others
they would differ by a few points. The curve below shows the mean accuracy when each layer is on with probability p: its slope, averaged, is the sum of the values, and its
area is what CopRA’s ramp trains.</p>"""


def fill(lab: Lab, session: gr.State, opened: Any) -> None:
    first = next(iter(lab.tasks()))
    with gr.Row(elem_classes="choice", equal_height=False):
        task = gr.Dropdown(lab.titles(), value=first, label="Task", scale=3, min_width=220, elem_id="worth-task")
        adapter = gr.Dropdown(lab.adapters(first), value=lab.one(first, None), label="Adapter", scale=2, min_width=150, elem_id="worth-adapter")
    about = html(lab.about(first), elem_id="worth-about", elem_classes="about")
    with gr.Row(equal_height=True):
        with gr.Column(scale=6, min_width=320, elem_classes="card"):
            number = html(draw.number(None), elem_id="worth-number")
            bars = html(draw.bars(None, 0), elem_id="worth-bars")
            layer = gr.Radio(
                [],
                label="Layers, from the image on: choose one to see the images that it decides",
                elem_id="worth-layer",
                elem_classes="switches one",
            )
            curve = html(draw.curve(None), elem_id="worth-curve")
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            decided = html(draw.decided(None, None, 0), elem_id="worth-decided")
    html(HOW_TO_READ)
    with gr.Accordion("The values in numbers", open=False, elem_id="worth-more"):
        table = html(draw.table(None), elem_id="worth-table")
        copy_button("worth-table")

    panels, controls, turn = [number, bars, curve, decided, table], [about, adapter, layer], gr.Number(visible=False)
    watched: dict[str, Any] = EVENT | {"trigger_mode": "multiple", "concurrency_limit": 8, "concurrency_id": "watching"}

    def watch(task: Any, key: Any, layer: Any, session: Session, number: Any) -> Iterator[list[Any]]:
        yield from watching(lab, task, key, layer, session, number)

    def look(task: Any, key: Any, layer: Any, session: Session) -> list[Any]:
        return looked(lab, task, key, layer, session)

    # A new question must not wait until the last one is answered, which takes half a minute: that one ends by itself.
    gr.on(
        [opened, task.change, adapter.change],
        watch,
        [task, adapter, layer, session, turn],
        [*panels, *controls],
        js=NUMBERED,
        preprocess=False,
        **watched,
    )
    layer.change(look, [task, adapter, layer, session], [bars, decided], preprocess=False, **EVENT | {"trigger_mode": "always_last"})


def watching(lab: Lab, task: Any, key: Any, layer: Any, session: Session, number: Any) -> Iterator[list[Any]]:
    """The panels and controls, again and again, until the game is exact or the visitor looks at something else."""
    stays = [gr.skip()] * 8
    if not session.take(number):
        yield stays
        return
    lab = session.walk.lab(lab)
    try:
        lab.check(task)
        whole = Valued(task, lab.one(task, key))
        have = layers_of(lab.adapter(task, whole.key))
        game = solving(lab, task, whole.key)
        known = _here(session, whole) and layer in have
        place = Valued(task, whole.key, layer if known else _best(game))
        session.visit(place)
        choices = gr.update(choices=[(str(i), i) for i in have], value=place.layer)
        updates: list[Any] = [lab.about(task), gr.update(choices=lab.adapters(task), value=whole.key), choices]
        yield [*drawn(game.state, game, place.layer), *updates]
        for values in sharpened(game, lambda: session.turn == number and _here(session, whole)):
            updates = [gr.skip()] * 3
            if place.layer < 0:  # the first that is known chooses the layer that is looked at
                place = Valued(task, whole.key, _best(game))
                session.visit(place)
                updates[2] = gr.update(value=place.layer)
            now = session.walk.place
            yield [*drawn(values, game, now.layer if isinstance(now, Valued) else place.layer), *updates]
    except (ValueError, OSError) as e:  # AdapterError is a ValueError
        yield [parts.trouble(e), *stays[1:]]


def _best(game: Solving) -> int:
    """The layer of highest value; −1 as long as nothing is known."""
    return -1 if game.state is None else game.layers[int(game.state.values.argmax())]


def _here(session: Session, place: Valued) -> bool:
    now = session.walk.place
    return isinstance(now, Valued) and now.game == place.game


def sharpened(game: Solving, wanted: Callable[[], bool]) -> Iterator[Values]:
    """What is known of the game, as long as it is `wanted`, at most every `REDRAWN` seconds; the last is exact."""
    shown = 0.0
    while wanted() and not game.done:
        traffic.give_way()
        values = game.advance()
        if time.monotonic() - shown >= REDRAWN or game.done:
            shown = time.monotonic()
            yield values
    if wanted() and game.state is not None and shown == 0:
        yield game.state


def drawn(values: Values | None, game: Solving, layer: int) -> list[Any]:
    return [draw.number(values), draw.bars(values, layer), draw.curve(values), draw.decided(values, game.bench, layer), draw.table(values)]


def looked(lab: Lab, task: Any, key: Any, layer: Any, session: Session) -> list[Any]:
    """The bars and the images, another layer chosen."""
    if layer is None or layer == -1:  # none yet
        return [gr.skip(), gr.skip()]
    lab = session.walk.lab(lab)
    try:
        lab.check(task)
        place = Valued(task, lab.one(task, key))
        game = solving(lab, task, place.key)
        if layer not in game.layers:
            raise ValueError(f"the adapter has no layer {layer!r:.40}; it has {', '.join(map(str, game.layers))}")
        if _here(session, place):
            session.visit(Valued(task, place.key, layer))
        return [draw.bars(game.state, layer), draw.decided(game.state, game.bench, layer)]
    except (ValueError, OSError) as e:
        return [gr.skip(), parts.trouble(e)]


VIEW = View(
    "shapley", "Shapley", "Ask what a layer is worth",
    "An adapter’s layers share what it adds. Watch how much of it is each one’s, first from samples and then exactly, and which images each of them decides.", fill,
)  # fmt: skip
