"""The Train view: LoRA and CopRA train side by side while one watches; the result goes on into the other views, or home as a PEFT folder."""

import io
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.peft_folder import CONFIG, WEIGHTS, save_adapter
from copra_lab.page.components import panels, staleness
from copra_lab.page.components.live import EVENT
from copra_lab.page.components.panels import copy_button, html
from copra_lab.page.components.staleness import of
from copra_lab.page.components.tabs import Entrance, View, going, refusal
from copra_lab.page.server.limits import MOST_WAITING
from copra_lab.page.state import address as link
from copra_lab.page.state import training_request as orders
from copra_lab.page.state.lab import METHODS, Lab, Own
from copra_lab.page.state.session import Asked, Session, Walk
from copra_lab.page.state.training_request import BOTH, LEARNING_RATES, TUNED, Order, ordered
from copra_lab.page.state.view_states import Blended, Pruned, Valued
from copra_lab.page.views.train import html as draw
from copra_lab.page.views.train.session import Progress, trained
from copra_lab.page.views.train.waiting_line import Waiting
from copra_lab.training.settings import RATES

TO = {"blend": "Blend it", "prune": "Prune it", "shapley": "Value its layers", "try": "Try it"}
"""Views that a result can be taken to, by name."""

HOW_TO_READ = """<p class="how"><b>How to read this.</b> Both methods train the same low-rank matrices A and B, from the same A, on the same images in the same order. <b>LoRA</b> has every
layer on in every step; <b>CopRA</b> draws for each step which layers are on, each with a chance p that rises from 0 to 1 over the first three quarters, and only those
learn. After the same number of steps CopRA has learned less, and its curve lags at first; what it gains by that shows when you blend or prune it (lessons 3, 4 and 6). The accuracy is that of the whole adapter on
<b>test images</b>, with 95&#8202;% intervals: they are here to be looked at, and nothing is chosen by them. The learning rates that are called tuned were chosen on validation images, for 1,200
steps.</p>"""


def fill(lab: Lab, session: gr.State, entrance: Entrance, line: Waiting | None = None) -> None:
    first, usual, line = next(iter(lab.tasks())), Order(""), line or Waiting()
    with gr.Row(elem_classes="choice", equal_height=False):
        task = gr.Dropdown(
            lab.titles(), value=first, label="Task", scale=3, min_width=220, elem_id="train-task"
        )
        methods = [
            ("LoRA and CopRA side by side", BOTH),
            *((label, name) for name, label in METHODS.items()),
        ]
        method = gr.Dropdown(
            methods, value=BOTH, label="Method", scale=2, min_width=150, elem_id="train-method"
        )
    about = html(lab.about(first), elem_id="train-about", elem_classes="about")
    with gr.Row(equal_height=True):
        with gr.Column(scale=4, min_width=320, elem_classes="card", elem_id="train-settings"):
            rank = gr.Slider(
                1, orders.MOST_RANK, usual.rank, step=1, label="rank", elem_id="train-rank"
            )
            steps = gr.Slider(
                *orders.STEPS, usual.steps, step=50, label="steps", elem_id="train-steps"
            )
            batch = gr.Radio(
                orders.BATCHES,
                value=usual.batch,
                label="images in a step",
                elem_id="train-batch",
                elem_classes="switches one",
            )
            shots = gr.Radio(
                orders.SHOTS,
                value=usual.shots,
                label="shots: training images a class",
                elem_id="train-shots",
                elem_classes="switches one",
            )
            sites = gr.Radio(
                list(orders.SITES),
                value=next(iter(orders.SITES)),
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
                label=f"seed, 0 to {orders.MOST_SEED}",
                precision=0,
                minimum=0,
                maximum=orders.MOST_SEED,
                elem_id="train-seed",
            )
            with gr.Row(elem_id="train-go"):
                go = gr.Button("Train", variant="primary", min_width=90, elem_id="train-start")
                stop = gr.Button("Stop", min_width=90, interactive=False, elem_id="train-stop")
        with gr.Column(scale=7, min_width=320, elem_classes="card"):
            status = html(draw.status(None), elem_id="train-status")
            race = html(draw.race(None), elem_id="train-race")
            charts = html(draw.charts(None), elem_id="train-charts")
    with gr.Column(elem_classes="card", elem_id="train-results"):
        own = gr.Radio(
            [],
            label="What you trained: take it into another view, or home",
            elem_id="train-own",
            elem_classes="switches one",
        )
        told = html(draw.described(None), elem_id="train-described")
        with gr.Row(elem_id="train-to"):
            taking = [
                gr.Button(
                    label, size="sm", min_width=60, interactive=False, elem_id=f"train-to-{view}"
                )
                for view, label in TO.items()
            ]
            fetch = gr.Button(
                "Download as a PEFT folder (.zip)",
                size="sm",
                min_width=60,
                interactive=False,
                elem_id="train-fetch",
            )
        file = gr.DownloadButton("Save", visible="hidden", elem_id="train-file")
    html(HOW_TO_READ)
    with gr.Accordion("The looks at the test images in numbers", open=False, elem_id="train-more"):
        table = html(draw.table(None), elem_id="train-table")
        copy_button("train-table")

    panels, hands = [status, race, charts, table], [go, stop]
    results = [own, told, *taking, fetch]
    everyone: dict[str, Any] = EVENT | {
        "trigger_mode": "once",
        "concurrency_limit": MOST_WAITING + 4,
        "concurrency_id": "training",
    }

    def run(*values: Any) -> Iterator[list[Any]]:
        asked = Asked(staleness.values(chosen_by_hand, values[:-1], {}))
        for pieces in training(lab, line, values[-1], *values[:-1]):
            yield [
                of(asked, piece) if isinstance(piece, str) else piece
                for piece in pieces[: len(panels)]
            ] + pieces[len(panels) :]

    def enough(session: Session) -> None:
        line.stop(session)

    def enter(key: Any, session: Session, query: Any, number: Any) -> list[Any]:
        return entered(lab, session, query, number, key)

    def say(*values: Any) -> Any:
        return address(lab, *values)

    chosen_by_hand = [task, method, rank, lr, steps, batch, sites, shots, seed]
    shown = [*results, about, *chosen_by_hand, entrance.link, entrance.refused]
    staleness.watch([*chosen_by_hand, own])
    entrance.opened(
        enter,
        [own, session, *entrance.request],
        shown,
        js=entrance.leaves([own]),
        preprocess=False,
        **EVENT,
    )
    gr.on(
        [c.change for c in chosen_by_hand],
        say,
        chosen_by_hand,
        entrance.link,
        preprocess=False,
        **EVENT,
    )
    task.change(partial(chosen, lab), task, [about, status], preprocess=False, **EVENT)
    go.click(
        run, [*chosen_by_hand, session], [*panels, *hands, *results], preprocess=False, **everyone
    )
    stop.click(enough, session, None, **EVENT)
    own.input(
        lambda key, session: described(lab, mine(session, key)),
        [own, session],
        told,
        preprocess=False,
        **EVENT,
    )
    for view, button in zip(TO, taking, strict=True):
        button.click(
            partial(take, lab, view), [own, session], entrance.go, preprocess=False, **EVENT
        )
    fetched = fetch.click(
        partial(packed, file.GRADIO_CACHE), [own, session], file, preprocess=False, **EVENT
    )
    fetched.success(None, js="() => document.querySelector('#train-file').click()")


def entered(lab: Lab, session: Session, query: Any, number: Any, key: Any = None) -> list[Any]:
    """What the visitor trained, with `key` chosen, and the controls as the address has them: nothing is trained before Train is pressed."""
    stays = [gr.skip()] * (2 + len(orders.CHECKS))
    if not session.requests.take(number):
        return [*[gr.skip()] * (3 + len(TO)), *stays, gr.skip(), gr.skip()]
    order, refused = link.read(lab, "train", query)
    updates = (
        stays
        if order is None
        else [lab.about(order.task), order.task, *orders.settings(order).values()]
    )
    own = session.change(Walk.nowhere).own  # what other views were measuring is not looked at
    return [
        *shelf(lab, own, mine(session, key), number),
        *updates,
        gr.skip() if order is None else link.write(lab, order),
        refusal(refused),
    ]


def address(lab: Lab, *values: Any) -> Any:
    """Of the controls as they stand, if that can be trained."""
    try:
        return link.write(lab, ordered(lab, *values))
    except ValueError:
        return gr.skip()


def training(lab: Lab, line: Waiting, session: Session, *values: Any) -> Iterator[list[Any]]:
    """The panels, buttons and results of the view, again and again, until a training is over."""
    stays, nothing = [gr.skip()] * 5, [gr.skip()] * (3 + len(TO))
    joined = False
    try:
        for progress in trained(lab, session, ordered(lab, *values), line):
            if progress.state == "waking":
                yield [draw.status(progress), *stays, *nothing]
                continue
            joined, over = True, progress.state not in ("waiting", "training")
            yield [
                *drawn(progress),
                *_hands(over),
                *(shelf(lab, session.walk.own) if over else nothing),
            ]
    except (ValueError, OSError) as e:
        yield [panels.trouble(e), *stays[:3], *(_hands(True) if joined else stays[3:]), *nothing]


def _hands(free: bool) -> list[Any]:
    """Train and Stop, of which one can be pressed."""
    return [gr.update(interactive=free), gr.update(interactive=not free)]


def drawn(progress: Progress) -> list[str]:
    return [draw.status(progress), draw.race(progress), draw.charts(progress), draw.table(progress)]


def shelf(lab: Lab, own: tuple[Own, ...], one: Own | None = None, number: Any = None) -> list[Any]:
    """The visitor's own adapters to choose from, `one` of them or the newest chosen, and the buttons that need one."""
    choices = [(o.label, o.key) for o in own]
    one = one or (own[0] if own else None)
    buttons = [gr.update(interactive=bool(own))] * (len(TO) + 1)
    return [
        gr.update(choices=choices, value=one and one.key),
        described(lab, one, number),
        *buttons,
    ]


def chosen(lab: Lab, task: Any) -> list[Any]:
    """Another task in the menu; what is being trained goes on."""
    try:
        lab.check(task)
        return [lab.about(task), gr.skip()]
    except ValueError as e:
        return [gr.skip(), panels.trouble(e)]


def mine(session: Session, key: Any) -> Own | None:
    """The visitor's own adapter of that key, or else the newest; None if there is none."""
    own = session.walk.own
    return next((o for o in own if o.key == key), own[0] if own else None)


def described(lab: Lab, own: Own | None, number: Any = None) -> str:
    asked = Asked({"train-own": own.key} if own else {}, number, "view-train")
    return of(asked, draw.described(own, lab.tasks()[own.task]) if own else draw.described(None))


def packed(folder: str, key: Any, session: Session) -> Any:
    """The adapter as a zip in gradio's own `folder` of files to serve; nothing that a visitor wrote is in its name."""
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
    """The address of `view` with an adapter of the visitor's own: in Blend against the last other one of its task."""
    own = mine(session, key)
    if own is None:
        return gr.skip()
    lab, task = session.walk.lab(lab), own.task
    others = [o.key for o in session.walk.own if o.task == task and o is not own]
    places = {
        "blend": Blended(task, own.key, others[0] if others else lab.pair(task, None, None)[0]),
        "prune": Pruned(task, own.key),
        "shapley": Valued(task, own.key),
        "try": link.Tried(task),
    }
    return going(link.write(lab, places[view]))


VIEW = View(
    "train", "Train", "Train one of your own",
    "A few images of each class, a minute of one processor core: watch LoRA and CopRA learn side by side, then take what they learned into the other views.", fill,
)  # fmt: skip
