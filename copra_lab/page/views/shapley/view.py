"""The Shapley view: what each layer of an adapter is worth, sharpening while one watches until it is exact."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from copra_lab.page.components import panels, staleness
from copra_lab.page.components.draw_order import newest, stamped
from copra_lab.page.components.live import EVENT, WATCHING
from copra_lab.page.components.panels import copy_button, html
from copra_lab.page.components.tabs import Entrance, View, refusal
from copra_lab.page.state import address as link
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.layer_game import Solving, Values, sharpened, solving
from copra_lab.page.state.session import Asked, Session, Walk
from copra_lab.page.state.view_states import Valued
from copra_lab.page.views.shapley import html as draw
from copra_lab.pruning import layers_of

HOW_TO_READ = """<p class="how"><b>How to read this.</b> Let the layers join one after another, in every possible order: a layer’s <b>Shapley value</b> is what accuracy
rises by when it joins, on average over all orders. The values of all layers add up to what the whole adapter adds. A coalition is a set of layers whose ΔW is switched on; its
worth is the share of these test images that the CLIP then gets right, measured, not estimated. At first some orders are drawn (each with its reverse) and the
bars have <b>95&#8202;% intervals</b>; they are about the drawing of orders, not about other images. When all coalitions are known the values are exact <b>for these images</b>; on others
they would differ by a few points. The curve below shows the mean accuracy when each layer is on with probability p: its slope, averaged, is the sum of the values, and its
area is what CopRA’s ramp trains.</p>"""


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    first = next(iter(lab.tasks()))
    with gr.Row(elem_classes="choice", equal_height=False):
        task = gr.Dropdown(
            lab.titles(), value=first, label="Task", scale=3, min_width=220, elem_id="worth-task"
        )
        adapter = gr.Dropdown(
            lab.adapters(first),
            value=lab.one(first, None),
            label="Adapter",
            scale=2,
            min_width=150,
            elem_id="worth-adapter",
        )
    about = html(lab.about(first), elem_id="worth-about", elem_classes="about")
    with gr.Row(equal_height=True):
        with gr.Column(scale=6, min_width=320, elem_classes="card"):
            number = newest(draw.number(None), "worth-number")
            bars = newest(draw.bars(None, 0), "worth-bars")
            layer = gr.Radio(
                [],
                label="Layers, from the image on: choose one to see the images that it decides",
                elem_id="worth-layer",
                elem_classes="switches one",
            )
            curve = newest(draw.curve(None), "worth-curve")
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            decided = newest(draw.decided(None, None, 0), "worth-decided")
    html(HOW_TO_READ)
    with gr.Accordion("The values in numbers", open=False, elem_id="worth-more"):
        table = newest(draw.table(None), "worth-table")
        copy_button("worth-table")

    panels, controls = (
        [number, bars, curve, decided, table],
        [about, adapter, layer, task, entrance.link, entrance.refused],
    )

    def watch(
        task: Any, key: Any, layer: Any, session: Session, query: Any, number: Any
    ) -> Iterator[list[Any]]:
        yield from watching(lab, task, key, layer, session, number, query)

    def look(task: Any, key: Any, layer: Any, session: Session) -> list[Any]:
        return looked(lab, task, key, layer, session)

    def told(task: Any, key: Any, layer: Any, session: Session) -> Any:
        return address(lab, task, key, layer, session)

    menus = [task, adapter, layer]
    staleness.watch(menus)
    events, asking = (
        [entrance.opened, task.input, adapter.input],
        [*menus, session, *entrance.request],
    )
    gr.on(
        events,
        watch,
        asking,
        [*panels, *controls],
        js=entrance.leaves(menus),
        preprocess=False,
        **WATCHING,
    )
    layer.input(look, [*menus, session], [bars, decided], preprocess=False, **EVENT)
    layer.input(told, [task, adapter, layer, session], entrance.link, preprocess=False, **EVENT)


def watching(
    lab: Lab, task: Any, key: Any, layer: Any, session: Session, number: Any, query: Any = ""
) -> Iterator[list[Any]]:
    """The panels, controls, address and what of one was refused, again and again, until the game is exact or the visitor looks at
    something else. ``query``: of the address that the view is entered with."""
    stays, asked, refused = [gr.skip()] * 11, None, gr.skip()
    if not session.requests.take(number):
        yield stays
        return
    lab = session.change(lambda walk: link.adopt(walk, query)).lab(lab)
    try:
        if query:
            asked, sentences = link.read(lab, "shapley", query)
            refused = refusal(sentences)
        if asked:
            task, key, layer = asked.task, asked.key, asked.layer
        lab.check(task)
        whole = Valued(task, lab.one(task, key))
        have = layers_of(lab.adapter(task, whole.key))
        game = solving(lab, task, whole.key)
        if session.requests.overtaken(
            number
        ):  # of a task that is new this takes a minute, and by now the visitor has gone on
            yield stays
            return
        known = (asked or query or _here(session.walk, whole)) and layer in have
        place = Valued(task, whole.key, layer if known else _best(game))
        turn = session.visit(place).turns
        choices = gr.update(choices=[(str(i), i) for i in have], value=place.layer)
        # What came from the menus is there already, and by now the visitor may have chosen something else.
        menu = gr.update(
            choices=lab.adapters(task),
            **({} if key == whole.key and not asked else {"value": whole.key}),
        )
        updates: list[Any] = [lab.about(task), menu, choices, task if asked else gr.skip()]
        said = link.write(lab, place if known else whole)
        yield [*pieces(turn, game.state, game, place, number), *updates, said, refused]

        def wanted() -> bool:
            return not session.requests.overtaken(number) and bool(_here(session.walk, whole))

        for values in sharpened(game, wanted):
            updates = [gr.skip()] * 6
            if (
                place.layer < 0
            ):  # the first that is known chooses the layer that is looked at, unless the visitor did meanwhile
                place = Valued(task, whole.key, _best(game))
                if session.change(partial(_led, to=place)).place == place:
                    updates[2] = gr.update(value=place.layer)
            walk = session.walk
            if now := _here(walk, whole):
                yield [*pieces(walk.turns, values, game, now, number), *updates]
        if (
            not wanted()
        ):  # Gradio gives what came last once more at the end, menus of the adapter before and all
            yield stays
    except (ValueError, OSError) as e:  # AdapterError is a ValueError
        if session.requests.overtaken(number):
            yield stays
            return
        words = [panels.trouble(e), *drawn(None, None, -1)[1:]]
        yield [
            *stamped(session.change(Walk.nowhere).turns, words, of_menus(task, key, number=number)),
            *stays[len(words) :],
        ]


def address(lab: Lab, task: Any, key: Any, layer: Any, session: Session) -> Any:
    """Of a layer that a visitor chose."""
    walk = session.walk
    here = walk.place
    if (
        not isinstance(here, Valued)
        or (here.task, here.key) != (task, key)
        or not isinstance(layer, int)
    ):
        return gr.skip()
    return link.write(walk.lab(lab), replace(here, layer=layer))


def _best(game: Solving) -> int:
    """The layer of highest value; −1 as long as nothing is known."""
    return -1 if game.state is None else game.layers[int(game.state.values.argmax())]


def _here(walk: Walk, place: Valued) -> Valued | None:
    """Where a visitor of this game stands in it."""
    now = walk.place
    return now if isinstance(now, Valued) and now.game == place.game else None


def _led(walk: Walk, to: Valued) -> Walk:
    """`walk`, gone to the layer of `to` if it stands in that game and looks at no layer yet."""
    here = _here(walk, to)
    return walk.step(to) if here and here.layer < 0 else walk


def of_menus(task: Any, key: Any, layer: Any = None, number: Any = None) -> Asked:
    """What the menus say; with a ``layer``, the switches too."""
    said = {"worth-task": task, "worth-adapter": key} | (
        {} if layer is None else {"worth-layer": layer}
    )
    return Asked(said, number, "view-shapley")


def pieces(
    turn: int, values: Values | None, game: Solving, place: Valued, number: Any
) -> list[str]:
    """The panels, each as of the controls that it depends on: the bars and the images on the layer that is looked at, too."""
    whole, one = (
        of_menus(place.task, place.key, number=number),
        of_menus(place.task, place.key, place.layer, number),
    )
    shown = zip(drawn(values, game, place.layer), (whole, one, whole, one, whole), strict=True)
    return [piece for drawing, asked in shown for piece in stamped(turn, [drawing], asked)]


def drawn(values: Values | None, game: Solving | None, layer: int) -> list[str]:
    """The panels; without a game, as when the page is opened."""
    decided = draw.decided(values, game.bench if game else None, layer)
    return [
        draw.number(values),
        draw.bars(values, layer),
        draw.curve(values),
        decided,
        draw.table(values),
    ]


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
            raise ValueError(
                f"the adapter has no layer {layer!r:.40}; it has {', '.join(map(str, game.layers))}"
            )
        walk = session.walk
        if _here(walk, place):
            walk = session.visit(Valued(task, place.key, layer))
        return stamped(
            walk.turns,
            [draw.bars(game.state, layer), draw.decided(game.state, game.bench, layer)],
            of_menus(task, key, layer),
        )
    except (ValueError, OSError) as e:
        return [gr.skip(), *stamped(session.walk.turns, [panels.trouble(e)])]


VIEW = View(
    "shapley", "Shapley", "Ask what a layer is worth",
    "An adapter’s layers share what it adds. Watch how much of it is each one’s, first from samples and then exactly, and which images each of them decides.", fill,
)  # fmt: skip
