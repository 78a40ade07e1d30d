"""The Train view: LoRA and CopRA train side by side while one watches.

The result goes on into the other views, or home as a PEFT folder.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.peft_folder import CONFIG, WEIGHTS, save_adapter
from copra_lab.page.components import panels, staleness
from copra_lab.page.components.live import EVENT
from copra_lab.page.components.panels import copy_button, html
from copra_lab.page.components.staleness import of
from copra_lab.page.components.tabs import Entrance, View, going, refusal
from copra_lab.page.components.templates import render
from copra_lab.page.components.updates import Shows, Updates, by_component
from copra_lab.page.server.limits import MOST_WAITING
from copra_lab.page.state import address as link
from copra_lab.page.state.lab import METHODS, Lab, Own
from copra_lab.page.state.schemas.blend import BlendState
from copra_lab.page.state.schemas.classify import TryState
from copra_lab.page.state.schemas.prune import PruneState
from copra_lab.page.state.schemas.shapley import ShapleyState
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
from copra_lab.page.views.train.session import Progress, trained
from copra_lab.page.views.train.waiting_line import Waiting
from copra_lab.training.settings import RATES

TO = {"blend": "Blend it", "prune": "Prune it", "shapley": "Value its layers", "try": "Try it"}
"""Views that a result can be taken to, by name."""


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
    with gr.Row(elem_classes="choice", equal_height=False):
        task, method = _choice(lab)
    about = html(lab.about(next(iter(lab.tasks()))), elem_id="train-about", elem_classes="about")
    with gr.Row(equal_height=True):
        with gr.Column(scale=4, min_width=320, elem_classes="card", elem_id="train-settings"):
            rank, steps, batch, shots, sites, lr, seed = _settings()
            with gr.Row(elem_id="train-go"):
                go = gr.Button("Train", variant="primary", min_width=90, elem_id="train-start")
                stop = gr.Button("Stop", min_width=90, interactive=False, elem_id="train-stop")
        with gr.Column(scale=7, min_width=320, elem_classes="card"):
            pieces = {
                "status": html(draw.status(None), elem_id="train-status"),
                "race": html(draw.race(None), elem_id="train-race"),
                "charts": html(draw.charts(None), elem_id="train-charts"),
            }
    with gr.Column(elem_classes="card", elem_id="train-results"):
        results, file = _results()
    html(render("how_to_read/train"))
    with gr.Accordion("The looks at the test images in numbers", open=False, elem_id="train-more"):
        pieces["table"] = html(draw.table(None), elem_id="train-table")
        copy_button("train-table")

    settings = Settings(task, method, rank, lr, steps, batch, sites, shots, seed)
    hands = {"start": go, "stop": stop}
    own, controls = results["own"], {"about": about} | settings._asdict()
    links = {"link": entrance.link, "refused": entrance.refused}
    components = pieces | hands | results | controls | links

    def enter(key: Any, session: Session, query: Any, number: Any) -> Shows:
        return by_component(components, entered(lab, session, query, number, key))

    def choose(task: Any) -> Shows:
        return by_component(components, chosen(lab, task))

    staleness.watch([*settings, own])
    entrance.opened(
        enter,
        [own, session, *entrance.request],
        [*results.values(), *controls.values(), *links.values()],
        js=entrance.leaves([own]),
        preprocess=False,
        **EVENT,
    )
    gr.on(
        [c.change for c in settings],
        partial(address, lab),
        list(settings),
        entrance.link,
        preprocess=False,
        **EVENT,
    )
    task.change(choose, task, [about, pieces["status"]], preprocess=False, **EVENT)
    _train(lab, session, line, settings, pieces, hands, results)
    _hand_on(lab, session, entrance, results, file)


def _train(
    lab: Lab,
    session: gr.State,
    line: Waiting,
    settings: Settings,
    pieces: Mapping[str, Any],
    hands: Mapping[str, Any],
    results: Mapping[str, Any],
) -> None:
    """Begin a training, and stop it.

    Each training that goes on or waits keeps a thread of Gradio's until it is over, so there are
    as many places as the line has, and a few for those who are told that it is full.
    """
    components = {**pieces, **hands, **results}

    def run(*values: Any) -> Iterator[Shows]:
        *said, session = values
        asked = Asked(staleness.values(settings, said, {}))
        for updates in training(lab, line, session, *said):
            drawn = {name: of(asked, updates[name]) for name in pieces if name in updates}
            yield by_component(components, updates | drawn)

    def enough(session: Session) -> None:
        line.stop(session)

    everyone: dict[str, Any] = EVENT | {
        "trigger_mode": "once",
        "concurrency_limit": MOST_WAITING + 4,
        "concurrency_id": "training",
    }
    hands["start"].click(
        run, [*settings, session], list(components.values()), preprocess=False, **everyone
    )
    hands["stop"].click(enough, session, None, **EVENT)


def _choice(lab: Lab) -> tuple[gr.Dropdown, gr.Dropdown]:
    """The menus of tasks and of methods."""
    task = gr.Dropdown(
        lab.titles(),
        value=next(iter(lab.tasks())),
        label="Task",
        scale=3,
        min_width=220,
        elem_id="train-task",
    )
    methods = [
        ("LoRA and CopRA side by side", BOTH),
        *((label, name) for name, label in METHODS.items()),
    ]
    method = gr.Dropdown(
        methods, value=BOTH, label="Method", scale=2, min_width=150, elem_id="train-method"
    )
    return task, method


def _settings() -> tuple[Any, ...]:
    """The other settings, as they stand on the page."""
    usual = TrainState("")
    rank = gr.Slider(1, MOST_RANK, usual.rank, step=1, label="rank", elem_id="train-rank")
    steps = gr.Slider(*STEPS, usual.steps, step=50, label="steps", elem_id="train-steps")
    batch = gr.Radio(
        BATCHES,
        value=usual.batch,
        label="images in a step",
        elem_id="train-batch",
        elem_classes="switches one",
    )
    shots = gr.Radio(
        SHOTS,
        value=usual.shots,
        label="shots: training images a class",
        elem_id="train-shots",
        elem_classes="switches one",
    )
    sites = gr.Radio(
        list(SITES),
        value=next(iter(SITES)),
        label="matrices of each layer",
        elem_id="train-sites",
        elem_classes="switches one",
    )
    rates = [
        (f"tuned: {RATES['lora']:g} for LoRA, {RATES['copra']:g} for CopRA", TUNED),
        *((f"{r:g}", k) for k, r in LEARNING_RATES.items() if r),
    ]
    lr = gr.Dropdown(rates, value=TUNED, label="learning rate", elem_id="train-lr")
    seed = gr.Number(
        usual.seed,
        label=f"seed, 0 to {MOST_SEED}",
        precision=0,
        minimum=0,
        maximum=MOST_SEED,
        elem_id="train-seed",
    )
    return rank, steps, batch, shots, sites, lr, seed


def _results() -> tuple[dict[str, Any], gr.DownloadButton]:
    """What was trained, by name, with the buttons that need it, and the file to save."""
    results: dict[str, Any] = {
        "own": gr.Radio(
            [],
            label="What you trained: take it into another view, or home",
            elem_id="train-own",
            elem_classes="switches one",
        ),
        "described": html(draw.described(None), elem_id="train-described"),
    }
    with gr.Row(elem_id="train-to"):
        for view, label in TO.items():
            results[f"to {view}"] = gr.Button(
                label, size="sm", min_width=60, interactive=False, elem_id=f"train-to-{view}"
            )
        results["fetch"] = gr.Button(
            "Download as a PEFT folder (.zip)",
            size="sm",
            min_width=60,
            interactive=False,
            elem_id="train-fetch",
        )
    return results, gr.DownloadButton("Save", visible="hidden", elem_id="train-file")


def _hand_on(
    lab: Lab,
    session: gr.State,
    entrance: Entrance,
    results: Mapping[str, Any],
    file: gr.DownloadButton,
) -> None:
    """Take what was trained into another view, by its address, or home."""
    own = results["own"]

    def describe(key: Any, session: Session) -> str:
        return described(lab, mine(session, key))

    own.input(describe, [own, session], results["described"], preprocess=False, **EVENT)
    for view in TO:
        results[f"to {view}"].click(
            partial(take, lab, view), [own, session], entrance.go, preprocess=False, **EVENT
        )
    fetched = results["fetch"].click(
        partial(packed, file.GRADIO_CACHE), [own, session], file, preprocess=False, **EVENT
    )
    fetched.success(None, js="() => document.querySelector('#train-file').click()")


def entered(lab: Lab, session: Session, query: Any, number: Any, key: Any = None) -> Updates:
    """What the visitor trained, with `key` chosen, and the controls as the address has them.

    Nothing is trained before Train is pressed.
    """
    if not session.requests.take(number):
        return {}
    state, refused = link.read(lab, "train", query)
    own = session.change(History.nowhere).own  # what other views were measuring is not looked at
    updates = shelf(lab, own, mine(session, key), number) | {"refused": refusal(refused)}
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
            results = shelf(lab, session.history.own) if over else {}
            yield drawn(progress) | _hands(over) | results
    except (ValueError, OSError) as e:
        yield {"status": panels.trouble(e)} | (_hands(True) if joined else {})


def _hands(free: bool) -> Updates:
    """Train and Stop, of which one can be pressed."""
    return {"start": gr.update(interactive=free), "stop": gr.update(interactive=not free)}


def drawn(progress: Progress) -> dict[str, str]:
    """The pieces that show how far a training is."""
    return {
        "status": draw.status(progress),
        "race": draw.race(progress),
        "charts": draw.charts(progress),
        "table": draw.table(progress),
    }


def shelf(lab: Lab, own: tuple[Own, ...], one: Own | None = None, number: Any = None) -> Updates:
    """The visitor's own adapters to choose from, and the buttons that need one.

    `one` of them is chosen, or the newest.
    """
    one = one or (own[0] if own else None)
    choices = [(o.label, o.key) for o in own]
    return {
        "own": gr.update(choices=choices, value=one and one.key),
        "described": described(lab, one, number),
        **{name: gr.update(interactive=bool(own)) for name in (*(f"to {v}" for v in TO), "fetch")},
    }


def chosen(lab: Lab, task: Any) -> Updates:
    """Another task in the menu; what is being trained goes on."""
    try:
        lab.check(task)
        return {"about": lab.about(task)}
    except ValueError as e:
        return {"status": panels.trouble(e)}


def mine(session: Session, key: Any) -> Own | None:
    """The visitor's own adapter of that key, or else the newest; None if there is none."""
    own = session.history.own
    return next((o for o in own if o.key == key), own[0] if own else None)


def described(lab: Lab, own: Own | None, number: Any = None) -> str:
    """What an adapter was trained with, as of the request of this number."""
    asked = Asked({"train-own": own.key} if own else {}, number, "view-train")
    return of(asked, draw.described(own, lab.tasks()[own.task]) if own else draw.described(None))


def packed(folder: str, key: Any, session: Session) -> Any:
    """The adapter as a zip in gradio's own `folder` of files to serve.

    Nothing that a visitor wrote is in its name.
    """
    own = mine(session, key)
    if own is None:
        return gr.skip()
    return save_bytes_to_cache(
        peft_zip(own.adapter),
        f"{own.task}-{own.adapter.provenance['method']}-rank-{own.adapter.rank}.zip",
        folder,
    )


def peft_zip(adapter: Adapter) -> bytes:
    """A PEFT folder, zipped: the same adapter gives the same bytes."""
    file = io.BytesIO()
    with TemporaryDirectory() as folder, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        save_adapter(adapter, folder)
        for name in (CONFIG, WEIGHTS):
            out.writestr(
                zipfile.ZipInfo(name), (Path(folder) / name).read_bytes(), zipfile.ZIP_DEFLATED
            )
    return file.getvalue()


def take(lab: Lab, view: str, key: Any, session: Session) -> Any:
    """The address of `view` with an adapter of the visitor's own.

    In Blend against the last other one of its task.
    """
    own = mine(session, key)
    if own is None:
        return gr.skip()
    lab, task = session.history.lab(lab), own.task
    others = [o.key for o in session.history.own if o.task == task and o is not own]
    states = {
        "blend": BlendState(task, own.key, others[0] if others else lab.first(task, 1)[0]),
        "prune": PruneState(task, own.key),
        "shapley": ShapleyState(task, own.key),
        "try": TryState(task),
    }
    return going(link.write(lab, states[view]))


VIEW = View(
    "train",
    "Train",
    "Train one of your own",
    "A few images of each class, a minute of one processor core: watch LoRA and CopRA learn side "
    "by side, then take what they learned into the other views.",
    fill,
)
