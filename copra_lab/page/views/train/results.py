"""What a visitor trained: to choose from, to take into another view, or home as a PEFT folder."""

import io
import zipfile
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.peft_folder import CONFIG, WEIGHTS, save_adapter
from copra_lab.page.components import controls
from copra_lab.page.components.events import EVENT
from copra_lab.page.components.panels import html
from copra_lab.page.components.staleness import of
from copra_lab.page.components.tabs import Entrance, going
from copra_lab.page.components.updates import Components, Updates
from copra_lab.page.state import address
from copra_lab.page.state.lab import Lab, Own
from copra_lab.page.state.schemas.blend import BlendState
from copra_lab.page.state.schemas.classify import TryState
from copra_lab.page.state.schemas.prune import PruneState
from copra_lab.page.state.schemas.shapley import ShapleyState
from copra_lab.page.state.session import Asked, Session
from copra_lab.page.views.train import html as draw

TO = {"blend": "Blend it", "prune": "Prune it", "shapley": "Its Shapley values", "try": "Try it"}
"""Views that a result can be taken to, by name."""


BUTTONS = {f"to-{view}": label for view, label in TO.items()} | {
    "fetch": "Download as a PEFT folder (.zip)"
}
"""The buttons that need a result."""


def layout() -> tuple[dict[str, Any], gr.DownloadButton]:
    """What was trained, by name, with the buttons that need it, and the file to save."""
    label = "What you trained: open it in another view, or download it"
    results: dict[str, Any] = {
        "own": controls.one_of([], label, "train-own"),
        "described": html(draw.described(None), elem_id="train-described"),
    }
    with gr.Row(elem_id="train-to"):
        for name, label in BUTTONS.items():
            results[name] = controls.button(label, f"train-{name}", 60, interactive=False)
    return results, gr.DownloadButton("Save", visible="hidden", elem_id="train-file")


def hand_on(
    lab: Lab, session: gr.State, entrance: Entrance, results: Components, file: gr.DownloadButton
) -> None:
    """Take what was trained into another view, by its address, or home."""
    own = results["own"]
    chosen = [own, session]

    def describe(key: Any, session: Session) -> str:
        return described(lab, mine(session, key))

    own.input(describe, chosen, results["described"], **EVENT)
    for view in TO:
        to = partial(take, lab, view)
        results[f"to-{view}"].click(to, chosen, entrance.go, **EVENT)
    pack = partial(packed, file.GRADIO_CACHE)
    fetched = results["fetch"].click(pack, chosen, file, **EVENT)
    fetched.success(None, js="() => document.querySelector('#train-file').click()")


def shelf(lab: Lab, own: tuple[Own, ...], one: Own | None = None, number: Any = None) -> Updates:
    """The visitor's own adapters to choose from, and the buttons that need one.

    `one` of them is chosen, or the newest.
    """
    one = one or next(iter(own), None)
    choices = [(o.label, o.key) for o in own]
    return {
        "own": gr.update(choices=choices, value=one and one.key),
        "described": described(lab, one, number),
        **{name: gr.update(interactive=bool(own)) for name in BUTTONS},
    }


def mine(session: Session, key: Any) -> Own | None:
    """The visitor's own adapter of that key, or else the newest; None if there is none."""
    own = session.history.own
    return next((o for o in own if o.key == key), next(iter(own), None))


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
    name = f"{own.task}-{own.adapter.provenance['method']}-rank-{own.adapter.rank}.zip"
    return save_bytes_to_cache(peft_zip(own.adapter), name, folder)


def peft_zip(adapter: Adapter) -> bytes:
    """A PEFT folder, zipped: the same adapter gives the same bytes."""
    file = io.BytesIO()
    with TemporaryDirectory() as folder, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        save_adapter(adapter, folder)
        for name in (CONFIG, WEIGHTS):
            data = (Path(folder) / name).read_bytes()
            out.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
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
    return going(address.write(lab, states[view]))
