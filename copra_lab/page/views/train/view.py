"""The Train view: LoRA and CopRA train side by side while one watches.

The result goes on into the other views, or home as a PEFT folder.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from copra_lab.page.components import controls, panels, staleness
from copra_lab.page.components.events import EVENT, TRAINING
from copra_lab.page.components.panels import folded, html
from copra_lab.page.components.tabs import Entrance, View, refusal
from copra_lab.page.components.updates import Components, Shows, Updates, by_component
from copra_lab.page.state import address as link
from copra_lab.page.state.lab import METHODS, Lab
from copra_lab.page.state.schemas.train import (
    BATCHES,
    BOTH,
    LEARNING_RATES,
    MOST_RANK,
    MOST_SEED,
    SHOTS,
    SITES,
    STEPS,
    TUNED,
    TrainState,
)
from copra_lab.page.state.session import Asked, History, Session
from copra_lab.page.views.train import html as draw
from copra_lab.page.views.train import results
from copra_lab.page.views.train.session import trained
from copra_lab.page.views.train.waiting_line import Waiting
from copra_lab.training.settings import RATES


class Settings(NamedTuple):
    """The controls that say what is trained, in the order of `TrainState`."""

    task: gr.Dropdown
    method: gr.Dropdown
    rank: gr.Slider
    lr: gr.Dropdown
    steps: gr.Slider
    batch: gr.Radio
    sites: gr.Radio
    shots: gr.Radio
    seed: gr.Number


def fill(lab: Lab, session: gr.State, entrance: Entrance, line: Waiting | None = None) -> None:
    """Lay the view out; ``line``: of those who want to train."""
    line = line or Waiting()
    with controls.menus():
        task, method = controls.task_menu(lab, "train-task"), _method()
    about = controls.about(lab, next(iter(lab.tasks())), "train")
    with gr.Row(equal_height=True):
        with controls.card(4, elem_id="train-settings"):
            settings = Settings(task, method, **_settings())
            with gr.Row(elem_id="train-go"):
                go = gr.Button("Train", variant="primary", min_width=90, elem_id="train-start")
                stop = gr.Button("Stop", min_width=90, interactive=False, elem_id="train-stop")
        with controls.card(7):
            at_first = draw.pieces(None)
            pieces = {
                name: html(at_first[name], elem_id=f"train-{name}")
                for name in ("status", "race", "charts")
            }
    with gr.Column(elem_classes="card", elem_id="train-results"):
        result, file = results.layout()
    controls.how_to_read("train")
    with folded("All accuracies in numbers", "train"):
        pieces["table"] = html(at_first["table"], elem_id="train-table")

    hands = {"start": go, "stop": stop}
    links = {"link": entrance.link, "refused": entrance.refused}
    arriving = result | {"about": about} | settings._asdict() | links
    components = pieces | arriving

    def enter(key: Any, session: Session, query: Any, number: Any) -> Shows:
        return by_component(components, entered(lab, session, query, number, key))

    def choose(task: Any) -> Shows:
        return by_component(components, chosen(lab, task))

    own, link_to = result["own"], partial(address, lab)
    staleness.watch([*settings, own])
    asking = [own, session, *entrance.request]
    entrance.opened(enter, asking, list(arriving.values()), js=entrance.leaves([own]), **EVENT)
    gr.on([c.change for c in settings], link_to, list(settings), entrance.link, **EVENT)
    task.change(choose, task, [about, pieces["status"]], **EVENT)
    _train(lab, session, line, settings, pieces, hands | result)
    results.hand_on(lab, session, entrance, result, file)


def _train(
    lab: Lab,
    session: gr.State,
    line: Waiting,
    settings: Settings,
    pieces: Components,
    others: Components,
) -> None:
    """Begin a training, and stop it; ``others``: what it sets besides the pieces."""
    components = {**pieces, **others}

    def run(*values: Any) -> Iterator[Shows]:
        *said, session = values
        asked = Asked(staleness.values(settings, said, {}))
        for updates in training(lab, line, session, *said):
            yield by_component(components, staleness.all_of(asked, updates, pieces))

    def enough(session: Session) -> None:
        line.stop(session)

    shown = list(components.values())
    others["start"].click(run, [*settings, session], shown, **TRAINING)
    others["stop"].click(enough, session, None, **EVENT)


def _method() -> gr.Dropdown:
    """The menu of methods."""
    methods = [("LoRA and CopRA side by side", BOTH), *((m, name) for name, m in METHODS.items())]
    return controls.menu(methods, BOTH, "Method", "train-method")


def _settings() -> dict[str, Any]:
    """The other settings, by their names in `Settings`, as they stand on the page."""
    usual, sites, one_of = TrainState(""), list(SITES), controls.one_of
    tuned = f"tuned: {RATES['lora']:g} for LoRA, {RATES['copra']:g} for CopRA"
    rates = [(tuned, TUNED), *((f"{r:g}", k) for k, r in LEARNING_RATES.items() if r)]
    seed = f"seed, 0 to {MOST_SEED}"
    seeds: dict[str, Any] = {"precision": 0, "minimum": 0, "maximum": MOST_SEED, "label": seed}
    return {
        "rank": gr.Slider(1, MOST_RANK, usual.rank, step=1, label="rank", elem_id="train-rank"),
        "steps": gr.Slider(*STEPS, usual.steps, step=50, label="steps", elem_id="train-steps"),
        "batch": one_of(BATCHES, "batch: images per step", "train-batch", value=usual.batch),
        "shots": one_of(
            SHOTS, "shots: training images per class", "train-shots", value=usual.shots
        ),
        "sites": one_of(sites, "matrices of each layer", "train-sites", value=sites[0]),
        "lr": gr.Dropdown(rates, value=TUNED, label="learning rate", elem_id="train-lr"),
        "seed": gr.Number(usual.seed, elem_id="train-seed", **seeds),
    }


def entered(lab: Lab, session: Session, query: Any, number: Any, key: Any = None) -> Updates:
    """What the visitor trained, with `key` chosen, and the controls as the address has them.

    Nothing is trained before Train is pressed.
    """
    if not session.requests.take(number):
        return {}
    state, refused = link.read(lab, "train", query)
    own = session.change(History.nowhere).own  # what other views were measuring is not looked at
    updates = results.shelf(lab, own, results.mine(session, key), number)
    updates |= {"refused": refusal(refused)}
    if state is not None:
        updates |= {"about": lab.about(state.task), "task": state.task}
        updates |= state.controls() | {"link": link.write(lab, state)}
    return updates


def address(lab: Lab, *values: Any) -> Any:
    """Of the controls as they stand, if that can be trained."""
    try:
        return link.write(lab, TrainState.from_controls(lab, *values))
    except ValueError:
        return gr.skip()


def training(lab: Lab, line: Waiting, session: Session, *values: Any) -> Iterator[Updates]:
    """The pieces, buttons and results of the view, again and again, until a training is over."""
    joined = False
    try:
        state = TrainState.from_controls(lab, *values)
        for progress in trained(lab, session, state, line):
            if progress.state == "waking":
                yield {"status": draw.status(progress)}
                continue
            joined, over = True, progress.state not in ("waiting", "training")
            shelf = results.shelf(lab, session.history.own) if over else {}
            yield draw.pieces(progress) | _hands(over) | shelf
    except (ValueError, OSError) as e:
        yield {"status": panels.trouble(e)} | (_hands(True) if joined else {})


def _hands(free: bool) -> Updates:
    """Train and Stop, of which one can be pressed."""
    return {"start": gr.update(interactive=free), "stop": gr.update(interactive=not free)}


def chosen(lab: Lab, task: Any) -> Updates:
    """Another task in the menu; what is being trained goes on."""
    try:
        lab.check(task)
        return {"about": lab.about(task)}
    except ValueError as e:
        return {"status": panels.trouble(e)}


VIEW = View(
    "train",
    "Train",
    "Train one of your own",
    "A few images of each class and a minute of one processor core: watch LoRA and CopRA learn "
    "side by side, then open what they learned in the other views.",
    fill,
)
