"""Keep the best layers by Shapley value.

The layer game is solved while one watches, and once enough of it is known the layers are kept.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from copra_lab.adapters.adapter import Adapter
from copra_lab.page.components.draw_order import newest, stamped
from copra_lab.page.components.events import EVENT, NUMBERED, WATCHING
from copra_lab.page.components.live import moved_by_hand
from copra_lab.page.components.numbers import signed
from copra_lab.page.components.panels import standing
from copra_lab.page.components.staleness import values
from copra_lab.page.components.tabs import Entrance, going
from copra_lab.page.components.updates import Shows, Updates, by_component
from copra_lab.page.state import address
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.layer_game import Values, sharpened, solving
from copra_lab.page.state.schemas.fields import within
from copra_lab.page.state.schemas.prune import PruneState
from copra_lab.page.state.session import Asked, Requests, Session
from copra_lab.pruning import keep_best, layers_of


def slider(layers: int) -> tuple[gr.Slider, gr.HTML]:
    """How many of so many `layers` to keep, and the words about them."""
    count = gr.Slider(0, layers, layers, step=1, label="keep the best", elem_id="prune-count")
    return count, newest(neutral(), elem_id="prune-said")


def keeping(
    lab: Lab,
    session: gr.State,
    count: gr.Slider,
    whose: Sequence[Any],
    said: gr.HTML,
    entrance: Entrance,
    by_hand: Sequence[Callable[..., Any]],
) -> None:
    """Keep so many of the best layers whenever a visitor moves the slider `count`.

    Of the adapter that `whose` tells, unless the visitor sets them otherwise `by_hand` meanwhile.
    What is known of them is `said`.
    """
    # Counted apart: moving the switches counts in the session.
    wishes, number = gr.State(Requests()), gr.Number(visible=False)
    components = {"said": said, "go": entrance.go}

    def watch(
        wish: Any, task: Any, key: Any, session: Session, wishes: Requests, number: Any
    ) -> Iterator[Shows]:
        asked = Asked(values([count, *whose], [wish, task, key], {}))
        since = time.time_ns()  # what the visitor asks for later has a larger number, and stays
        for updates in best(lab, task, key, wish, session, wishes, number):
            if "said" in updates:
                updates = updates | {"said": stamped(since, updates["said"], asked)}
            yield by_component(components, updates)

    asking = [count, *whose, session, wishes, number]
    gr.on(moved_by_hand(count), watch, asking, [said, entrance.go], js=NUMBERED, **WATCHING)
    every_time: dict[str, Any] = EVENT | {"trigger_mode": "multiple"}
    gr.on(list(by_hand), overtaken, [wishes, number], said, js=NUMBERED, **every_time)


def overtaken(wishes: Requests, number: Any) -> Any:
    """The visitor set a switch by hand: the last wish is over, and the words are neutral."""
    return neutral() if wishes.take(number) else gr.skip()


def best(
    lab: Lab, task: Any, key: Any, count: Any, session: Session, wishes: Requests, number: Any
) -> Iterator[Updates]:
    """The words, and once the address of the adapter with only these layers kept.

    Until the game is exact or the visitor wants something else.

    The layers are chosen once, when all that is to be sampled of the game is known, or all of it;
    what is learned after that is said, but changes no switch: a number must not move by itself.
    """
    yield {}  # a generator that gives nothing would empty its outputs
    if not wishes.take(number) or count is None:  # an empty field is somebody typing
        return
    lab = session.history.lab(lab)
    try:
        lab.check(task)
        whole = PruneState(task, lab.one(task, key))
        adapter = lab.adapter(task, whole.key)
        have = layers_of(adapter)
        wanted_count = round(within(count, 0, len(have), "how many layers to keep"))

        def wanted() -> bool:
            here = standing(session.history, PruneState)
            return not wishes.overtaken(number) and here is not None and here.whole == whole

        if wanted_count in (0, len(have)):
            told: Updates = {"said": words(None, wanted_count, len(have))}
            if wanted():
                told["go"] = _only(lab, session, have[:wanted_count], len(have))
            yield told
            return
        game = solving(lab, task, whole.key)
        if not wanted():  # making the game of a task that is new takes a minute
            return
        yield {"said": words(game.state, wanted_count, len(have), None)}
        kept: list[int] | None = None
        for now in sharpened(game, wanted):
            told = {}
            if kept is None and game.sampled:
                kept = _ranked(adapter, now, wanted_count)
                told["go"] = _only(lab, session, kept, len(have))
            yield told | {"said": words(now, wanted_count, len(have), kept)}
        if not wanted():  # Gradio gives what came last once more at the end
            yield {}
    except (ValueError, OSError) as e:  # AdapterError is a ValueError
        yield {"said": f'<p class="said" role="alert">{escape(str(e))}</p>'}


def neutral() -> str:
    """The words that hold of any layers, after all that was said before."""
    return stamped(time.time_ns(), words(None, 0))


def _only(lab: Lab, session: Session, layers: Sequence[int], of: int) -> str:
    """The address of where the visitor stands, with only these of the `of` layers kept."""
    here = standing(session.history, PruneState)
    assert here
    on = None if len(layers) == of else tuple(layers)
    kept = here.kept._replace(layers=on, off=())
    return going(address.write(lab, replace(here, kept=kept)))


def _ranked(adapter: Adapter, v: Values, count: int) -> list[int]:
    """The `count` layers of highest value."""
    values = dict(zip(v.layers, v.values.tolist(), strict=True))
    return list(layers_of(keep_best(adapter, values, count)))


def words(v: Values | None, count: int, of: int = 0, kept: Sequence[int] | None = None) -> str:
    """Which layers are worth most, and how surely that is known.

    ``of``: how many there are; 0 before anything was asked. ``kept``: those that were chosen, None
    as long as too little is known for that.
    """
    if of and count in (0, of):
        said = f"{'All' if count else 'None of the'} {of} layers: nothing to choose."
    elif not of:
        said = "By Shapley value: how much each layer adds, on average over all orders of joining."
    elif v is None or kept is None:
        known = f": {v.asked:,} of {v.every:,} coalitions so far" if v else ""
        said = (
            f"Computing the layers’ Shapley values{known}. The best {count} are kept once "
            "enough is known."
        )
    else:
        said = _kept(v, count, kept)
    state = "" if v is None else f' data-exact="{int(v.exact)}"'
    return f'<p class="said" role="status"{state}>{said}</p>'


def _kept(v: Values, count: int, kept: Sequence[int]) -> str:
    """What the layers that are kept are worth, or that others are worth more after all."""
    value = dict(zip(v.layers, v.values.tolist(), strict=True))
    ranked = sorted(value, key=lambda layer: -value[layer])
    first, names = ranked[:count], ", ".join(str(layer) for layer in ranked if layer in kept)
    total = sum(value[layer] for layer in kept)
    if sum(value[layer] for layer in first) > total + 1e-9:
        return (
            f"Chosen from samples: {names}. The exact values rank {', '.join(map(str, first))} "
            "first; move the slider to keep those."
        )
    how = "<b>exact</b>" if v.exact else f"<b>sampled</b>, {v.asked:,} of {v.every:,} coalitions"
    return (
        f"Best {count}: <b>{names}</b>, worth {signed(100 * total, 1)} of "
        f"{signed(100 * (v.full - v.empty), 1)} points · {how}, on {v.of_images.shape[1]} images"
    )
