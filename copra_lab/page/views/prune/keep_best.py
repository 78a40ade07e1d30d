"""Keep the best layers by Shapley value: the layer game is solved while one watches, and once enough of it is known the layers are kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from copra_lab.page.components.live import EVENT, NUMBERED, WATCHING, moved_by_hand
from copra_lab.page.components.numbers import signed
from copra_lab.page.components.staleness import of, values
from copra_lab.page.components.tabs import Entrance, going
from copra_lab.page.state import address
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.layer_game import Values, sharpened, solving
from copra_lab.page.state.session import Asked, Requests, Session
from copra_lab.page.state.validation import whole_number
from copra_lab.page.state.view_states import Pruned
from copra_lab.pruning import keep_best, layers_of


def keeping(
    lab: Lab,
    session: gr.State,
    count: gr.Slider,
    whose: Sequence[Any],
    said: gr.HTML,
    entrance: Entrance,
    by_hand: Sequence[Callable[..., Any]],
) -> None:
    """Whenever a visitor moves the slider `count`, keep so many of the best layers of the adapter that `whose` tells, unless the visitor
    sets them otherwise `by_hand` meanwhile. What is known of them is `said`."""
    wishes, number = (
        gr.State(Requests()),
        gr.Number(visible=False),
    )  # counted apart: moving the switches counts in the session

    def watch(
        wish: Any, task: Any, key: Any, session: Session, wishes: Requests, number: Any
    ) -> Iterator[list[Any]]:
        asked = Asked(values([count, *whose], [wish, task, key], {}))
        for told, to in best(lab, task, key, wish, session, wishes, number):
            yield [of(asked, told) if isinstance(told, str) else told, to]

    gr.on(
        moved_by_hand(count),
        watch,
        [count, *whose, session, wishes, number],
        [said, entrance.go],
        js=NUMBERED,
        preprocess=False,
        **WATCHING,
    )
    gr.on(
        list(by_hand),
        overtaken,
        [wishes, number],
        said,
        js=NUMBERED,
        **EVENT | {"trigger_mode": "multiple"},
    )


def overtaken(wishes: Requests, number: Any) -> Any:
    """The visitor went on by hand: what was wished for before is not any more, and the words say nothing of it."""
    return words(None, 0) if wishes.take(number) else gr.skip()


def best(
    lab: Lab, task: Any, key: Any, count: Any, session: Session, wishes: Requests, number: Any
) -> Iterator[list[Any]]:
    """The words, and once the address of the adapter with only these layers kept, until the game is exact or the visitor wants something else.

    The layers are chosen once, when all that is to be sampled of the game is known, or all of it; what is learned after that is said,
    but changes no switch: a number must not move by itself.
    """
    stays = [gr.skip()] * 2
    yield stays  # a generator that gives nothing would empty its outputs
    if not wishes.take(number) or count is None:  # an empty field is somebody typing
        return
    lab = session.walk.lab(lab)
    try:
        lab.check(task)
        whole = Pruned(task, lab.one(task, key))
        adapter = lab.adapter(task, whole.key)
        have = layers_of(adapter)
        wanted_count = whole_number(count, len(have), "how many layers to keep")

        def wanted() -> bool:
            here = session.walk.place
            return not wishes.overtaken(number) and isinstance(here, Pruned) and here.whole == whole

        def only(layers: Sequence[int]) -> str:
            here = session.walk.place
            assert isinstance(here, Pruned)
            return going(
                address.write(
                    lab,
                    replace(
                        here, layers=None if len(layers) == len(have) else tuple(layers), off=()
                    ),
                )
            )

        def ranked(v: Values) -> list[int]:
            return list(
                layers_of(
                    keep_best(
                        adapter, dict(zip(v.layers, v.values.tolist(), strict=True)), wanted_count
                    )
                )
            )

        if wanted_count in (0, len(have)):
            yield [
                words(None, wanted_count, len(have)),
                only(have[:wanted_count]) if wanted() else gr.skip(),
            ]
            return
        game = solving(lab, task, whole.key)
        if not wanted():  # making the game of a task that is new takes a minute
            return
        yield [words(game.state, wanted_count, len(have), None), stays[1]]
        kept: list[int] | None = None
        for now in sharpened(game, wanted):
            to = gr.skip()
            if kept is None and game.sampled:
                kept = ranked(now)
                to = only(kept)
            yield [words(now, wanted_count, len(have), kept), to]
        if not wanted():  # Gradio gives what came last once more at the end
            yield stays
    except (ValueError, OSError) as e:  # AdapterError is a ValueError
        yield [f'<p class="said" role="alert">{escape(str(e))}</p>', stays[1]]


def words(v: Values | None, count: int, of: int = 0, kept: Sequence[int] | None = None) -> str:
    """Which layers are worth most, and how surely that is known. ``of``: how many there are; 0 before anything was asked. ``kept``: those
    that were chosen, None as long as too little is known for that."""
    if of and count in (0, of):
        said = f"{'All' if count else 'None'} of {of} layers: nothing to choose."
    elif not of:
        said = "By Shapley value: how much each layer adds, on average over all orders of joining."
    elif v is None or kept is None:
        known = f": {v.asked:,} of {v.every:,} coalitions so far" if v else ""
        said = f"Measuring what each layer is worth{known}. The best {count} are kept once enough is known."
    else:
        worth = dict(zip(v.layers, v.values.tolist(), strict=True))
        first = sorted(worth, key=lambda layer: -worth[layer])[:count]
        names = ", ".join(map(str, sorted(kept, key=lambda layer: -worth[layer])))
        how = (
            "<b>exact</b>" if v.exact else f"<b>sampled</b>, {v.asked:,} of {v.every:,} coalitions"
        )
        total, points = sum(worth[layer] for layer in kept), v.full - v.empty
        said = f"Best {count}: <b>{names}</b>, worth {signed(100 * total, 1)} of {signed(100 * points, 1)} points · {how}, on {v.of_images.shape[1]} images"
        if sum(worth[layer] for layer in first) > total + 1e-9:
            said = f"Kept by samples: {names}. The exact values put {', '.join(map(str, first))} first; move the slider to keep those."
    state = "" if v is None else ' data-exact="1"' if v.exact else ' data-exact="0"'
    return f'<p class="said" role="status"{state}>{said}</p>'
