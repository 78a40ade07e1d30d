"""Keep the best layers by Shapley value: the layer game is solved while one watches, and the switches follow what is known of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from copra_lab.page.checks import whole_number
from copra_lab.page.controls import matrices_of, named
from copra_lab.page.lab import Lab
from copra_lab.page.live import EVENT, NUMBERED, WATCHING
from copra_lab.page.places import Pruned
from copra_lab.page.solving import Values, sharpened, solving
from copra_lab.page.walk import Requests, Session
from copra_lab.page.words import signed
from copra_lab.prune import keep_best, layers_of


def keeping(lab: Lab, session: gr.State, count: gr.Slider, whose: Sequence[Any], shown: Sequence[Any], by_hand: Sequence[Callable[..., Any]]) -> None:
    """Whenever a visitor moves the slider `count`, set the switches to so many of the best layers of the adapter that `whose` tells, until
    the values are exact, or the visitor sets them otherwise `by_hand`. ``shown``: words, switches of layers, those of matrices."""
    wishes, number = gr.State(Requests()), gr.Number(visible=False)  # counted apart: moving the switches counts in the session

    def watch(count: Any, task: Any, key: Any, session: Session, wishes: Requests, number: Any) -> Iterator[list[Any]]:
        yield from best(lab, task, key, count, session, wishes, number)

    # Not `change`: what other handlers set the slider to is no wish of the visitor's.
    count.input(watch, [count, *whose, session, wishes, number], list(shown), js=NUMBERED, preprocess=False, **WATCHING)
    gr.on(list(by_hand), overtaken, [wishes, number], shown[0], js=NUMBERED, **EVENT | {"trigger_mode": "multiple"})


def overtaken(wishes: Requests, number: Any) -> Any:
    """The visitor went on by hand: what was wished for before is not any more, and the words say nothing of it."""
    return words(None, 0) if wishes.take(number) else gr.skip()


def best(lab: Lab, task: Any, key: Any, count: Any, session: Session, wishes: Requests, number: Any) -> Iterator[list[Any]]:
    """The words, layers and matrices, again and again, until the game is exact or the visitor wants something else."""
    stays = [gr.skip()] * 3
    yield stays  # a generator that gives nothing would empty its outputs
    if not wishes.take(number) or count is None:  # an empty field is somebody typing
        return
    lab = session.walk.lab(lab)
    try:
        lab.check(task)
        whole = Pruned(task, lab.one(task, key))
        adapter = lab.adapter(task, whole.key)
        have, matrices = layers_of(adapter), [named(m) for m in matrices_of(adapter)]
        kept = whole_number(count, len(have), "how many layers to keep")
        if kept in (0, len(have)):
            yield [words(None, kept, len(have)), list(have[:kept]), matrices]
            return
        game = solving(lab, task, whole.key)

        def wanted() -> bool:
            here = session.walk.place
            return not wishes.overtaken(number) and isinstance(here, Pruned) and here.whole == whole

        decided, switched = None, None
        if not wanted():  # making the game of a task that is new takes a minute
            return
        yield [words(game.state, kept, len(have)), *stays[1:]]
        for values in sharpened(game, wanted):
            # Each change of switches is a model to be measured: so only when twice as much is known, and at the end.
            if decided is None or values.exact or values.asked >= 2 * decided.asked:
                decided = values
            ranking = dict(zip(decided.layers, decided.values.tolist(), strict=True))
            layers = list(layers_of(keep_best(adapter, ranking, kept)))
            said = words(replace(decided, asked=values.asked), kept, len(have))
            yield [said, *([layers, matrices] if layers != switched else stays[1:])]
            switched = layers
        if not wanted():  # Gradio gives what came last once more at the end
            yield stays
    except (ValueError, OSError) as e:  # AdapterError is a ValueError
        yield [f'<p class="said" role="alert">{escape(str(e))}</p>', *stays[1:]]


def words(v: Values | None, kept: int, of: int = 0) -> str:
    """Which layers are worth most, and how surely that is known. ``of``: how many there are; 0 before anything was asked."""
    if of and kept in (0, of):
        said = f"{'All' if kept else 'None'} of {of} layers: nothing to choose."
    elif v is None:
        said = (
            "By Shapley value: how much each layer adds, on average over all orders of joining."
            if not of
            else "Asking what the first layers are worth."
        )
    else:
        order = sorted(zip(-v.values, v.layers, strict=True))[:kept]
        how = "<b>exact</b>" if v.exact else f"<b>sampled</b>, {v.asked:,} of {v.every:,} coalitions"
        names, total = ", ".join(str(layer) for _, layer in order), -sum(value for value, _ in order)
        said = f"Best {kept}: <b>{names}</b>, worth {signed(100 * total, 1)} of {signed(100 * (v.full - v.empty), 1)} points · {how}, on {v.of_images.shape[1]} images"
    state = "" if v is None else ' data-exact="1"' if v.exact else ' data-exact="0"'
    return f'<p class="said" role="status"{state}>{said}</p>'
