"""The Shapley view: the value of each layer, sharpening until it is exact."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from copra_lab.page.components import controls, panels, staleness
from copra_lab.page.components.draw_order import newest, stamped
from copra_lab.page.components.events import EVENT, WATCHING
from copra_lab.page.components.panels import folded, standing
from copra_lab.page.components.tabs import Entrance, View, refusal
from copra_lab.page.components.updates import Shows, Updates, by_component
from copra_lab.page.state import address as link
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.layer_game import Solving, Values, sharpened, solving
from copra_lab.page.state.schemas.fields import switched_on
from copra_lab.page.state.schemas.shapley import ShapleyState
from copra_lab.page.state.session import Asked, History, Session
from copra_lab.page.views.shapley import html as draw
from copra_lab.pruning import layers_of

OF_LAYER = ("bars", "decided")
"""The pieces that depend on the layer that is looked at, too."""


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    """Lay the view out."""
    first = next(iter(lab.tasks()))
    with controls.menus():
        task = controls.task_menu(lab, "shapley-task")
        adapter = controls.adapter_menu(lab, first, "shapley")
    about = controls.about(lab, first, "shapley")
    shown: dict[str, gr.HTML] = {}
    with gr.Row(equal_height=True):
        with controls.card(6):
            shown["number"] = newest(draw.number(None), "shapley-number")
            shown["bars"] = newest(draw.bars(None, 0), "shapley-bars")
            label = "Layers, from input to output: choose one to see the images that it decides"
            layer = controls.one_of([], label, "shapley-layer")
            shown["curve"] = newest(draw.curve(None), "shapley-curve")
        with controls.card(5):
            shown["decided"] = newest(draw.decided(None, None, 0), "shapley-decided")
    controls.how_to_read("shapley")
    with folded("The values in numbers", "shapley"):
        shown["table"] = newest(draw.table(None), "shapley-table")

    components = shown | {
        "about": about,
        "adapter": adapter,
        "layer": layer,
        "task": task,
        "link": entrance.link,
        "refused": entrance.refused,
    }

    def watch(
        task: Any, key: Any, layer: Any, session: Session, query: Any, number: Any
    ) -> Iterator[Shows]:
        for updates in watching(lab, task, key, layer, session, number, query):
            yield by_component(components, updates)

    def look(task: Any, key: Any, layer: Any, session: Session) -> Shows:
        return by_component(components, looked(lab, task, key, layer, session))

    menus = [task, adapter, layer]
    staleness.watch(menus)
    asking, all_ = [*menus, session, *entrance.request], list(components.values())
    begins = [entrance.opened, task.input, adapter.input]
    gr.on(begins, watch, asking, all_, js=entrance.leaves(menus), **WATCHING)
    layer.input(look, [*menus, session], [shown["bars"], shown["decided"]], **EVENT)
    layer.input(partial(address, lab), [*menus, session], entrance.link, **EVENT)


def watching(
    lab: Lab, task: Any, key: Any, layer: Any, session: Session, number: Any, query: Any = ""
) -> Iterator[Updates]:
    """The pieces, controls and address, until the game is exact or the visitor goes on.

    Args:
        lab: what all visitors share.
        task: what the menu says.
        key: what the menu of adapters says.
        layer: the layer that is chosen.
        session: the visitor's.
        number: of the request.
        query: of the address that the view is entered with.
    """
    if not session.requests.take(number):
        yield {}
        return
    lab = session.change(lambda history: link.adopt(history, query)).lab(lab)
    try:
        asked, sentences = link.read(lab, "shapley", query) if query else (None, [])
        if asked:
            task, key, layer = asked.task, asked.key, asked.layer
        whole = controls.state(ShapleyState, lab, task=task, key=key)
        have = layers_of(lab.adapter(whole.task, whole.key))
        game = solving(lab, whole.task, whole.key)
        # Of a task that is new this takes a minute, and by now the visitor may have gone on.
        if session.requests.overtaken(number):
            yield {}
            return
        known = (asked or query or _here(session.history, whole)) and layer in have
        state = replace(whole, layer=layer if known else _best(game))
        version = session.visit(state).version
        updates = pieces(version, game.state, game, state, number) | {
            "about": lab.about(whole.task),
            # What came from the menus is there already, and by now the visitor may have chosen
            # something else.
            "adapter": gr.update(
                choices=lab.adapters(whole.task),
                **({} if key == whole.key and not asked else {"value": whole.key}),
            ),
            "layer": gr.update(choices=[(str(i), i) for i in have], value=state.layer),
            "link": link.write(lab, state if known else whole),
        }
        if asked:
            updates["task"] = whole.task
        if query:
            updates["refused"] = refusal(sentences)
        yield updates
        yield from _sharpening(session, game, state, number)
    except (ValueError, OSError) as e:  # AdapterError is a ValueError
        if session.requests.overtaken(number):
            yield {}
            return
        version, menus = session.change(History.nowhere).version, of_menus(task, key, number=number)
        drawings = drawn(None, None, -1) | {"number": panels.trouble(e)}
        yield {name: stamped(version, piece, menus) for name, piece in drawings.items()}


def _sharpening(
    session: Session, game: Solving, state: ShapleyState, number: Any
) -> Iterator[Updates]:
    """The pieces, as the values of the game that the visitor stands in sharpen."""

    def wanted() -> bool:
        return not session.requests.overtaken(number) and bool(_here(session.history, state))

    for values in sharpened(game, wanted):
        updates: Updates = {}
        # The first that is known chooses the layer that is looked at, unless the visitor did
        # meanwhile.
        if state.layer < 0:
            state = replace(state, layer=_best(game))
            if session.change(partial(_led, to=state)).state == state:
                updates["layer"] = gr.update(value=state.layer)
        history = session.history
        if now := _here(history, state):
            yield pieces(history.version, values, game, now, number) | updates
    if not wanted():  # Gradio gives what came last once more at the end, old menus and all
        yield {}


def address(lab: Lab, task: Any, key: Any, layer: Any, session: Session) -> Any:
    """Of a layer that a visitor chose."""
    history = session.history
    here = _here(history, ShapleyState(task, key))
    if here is None or not isinstance(layer, int):
        return gr.skip()
    return link.write(history.lab(lab), replace(here, layer=layer))


def _best(game: Solving) -> int:
    """The layer of highest value; −1 as long as nothing is known."""
    return -1 if game.state is None else game.layers[int(game.state.values.argmax())]


def _here(history: History, state: ShapleyState) -> ShapleyState | None:
    """Where a visitor of this game stands in it."""
    now = standing(history, ShapleyState)
    return now if now and now.game == state.game else None


def _led(history: History, to: ShapleyState) -> History:
    """`history`, gone to the layer of `to` if it stands in that game and looks at no layer yet."""
    here = _here(history, to)
    return history.step(to) if here and here.layer < 0 else history


def of_menus(task: Any, key: Any, layer: Any = None, number: Any = None) -> Asked:
    """What the menus say; with a ``layer``, the switches too."""
    said = {"shapley-task": task, "shapley-adapter": key}
    if layer is not None:
        said["shapley-layer"] = layer
    return Asked(said, number, "view-shapley")


def pieces(
    version: int, values: Values | None, game: Solving, state: ShapleyState, number: Any
) -> Updates:
    """The pieces, each as of the controls that it depends on."""
    whole = of_menus(state.task, state.key, number=number)
    one = of_menus(state.task, state.key, state.layer, number)
    return {
        name: stamped(version, drawing, one if name in OF_LAYER else whole)
        for name, drawing in drawn(values, game, state.layer).items()
    }


def drawn(values: Values | None, game: Solving | None, layer: int) -> dict[str, str]:
    """The pieces; without a game, as when the page is opened."""
    return {
        "number": draw.number(values),
        "bars": draw.bars(values, layer),
        "curve": draw.curve(values),
        "decided": draw.decided(values, game.bench if game else None, layer),
        "table": draw.table(values),
    }


def looked(lab: Lab, task: Any, key: Any, layer: Any, session: Session) -> Updates:
    """The bars and the images, another layer chosen."""
    if layer is None or layer == -1:  # none yet
        return {}
    lab = session.history.lab(lab)
    try:
        state = controls.state(ShapleyState, lab, task=task, key=key)
        game = solving(lab, task, state.key)
        switched_on([layer], game.layers, "layer")
        history = session.history
        if _here(history, state):
            history = session.visit(replace(state, layer=layer))
        menus, drawings = of_menus(task, key, layer), drawn(game.state, game, layer)
        return {name: stamped(history.version, drawings[name], menus) for name in OF_LAYER}
    except (ValueError, OSError) as e:
        return {"decided": stamped(session.history.version, panels.trouble(e))}


VIEW = View(
    "shapley",
    "Shapley",
    "See what each layer contributes",
    "An adapter’s layers share what it adds. See how much each one contributes, first from samples "
    "and then exactly, and which images it decides.",
    fill,
)
