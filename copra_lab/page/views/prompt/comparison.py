"""CoOp against Nemesis: every prompt of a task, with the same done to its vectors."""

from dataclasses import dataclass
from functools import lru_cache
from html import escape
from statistics import fmean

import gradio as gr

from copra_lab.page.components.axes import dot, row_svg
from copra_lab.page.components.numbers import gained, interval, percent
from copra_lab.page.components.panels import columns, standing
from copra_lab.page.components.staleness import of
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.measured import Measured
from copra_lab.page.state.schemas.prompt import PromptState
from copra_lab.page.state.session import Session
from copra_lab.page.views.prompt.html import alike, in_words, norms
from copra_lab.utils.statistics import Accuracy

ROW = 22
"""Pixels: the height of a row's picture."""


@dataclass(frozen=True)
class Reaction:
    """A prompt's accuracy on all test images and its vectors' mean norm, as learned and as bent."""

    learned: Accuracy
    now: Accuracy
    norm: float
    norm_now: float


@lru_cache(1024)
def accuracy(lab: Lab, state: Measured) -> Accuracy:
    """On all test images. Raises PromptError for a prompt that is broken."""
    bench = lab.bench(state.task)
    return bench.score(state.model(lab).predictions(bench))


def reaction(lab: Lab, state: PromptState, key: str) -> "Reaction | str":
    """How the prompt `key` takes what is done in `state`.

    Why it cannot be told, if its file is broken.
    """
    try:
        there = alike(lab, state, key)
        norm, norm_now = (fmean(norms(lab, state)) for state in (there.learned, there))
        return Reaction(accuracy(lab, there.learned), accuracy(lab, there), norm, norm_now)
    except (ValueError, OSError) as e:  # PromptError is a ValueError
        return str(e)


def measured(lab: Lab, session: Session) -> object:
    """The table for where the visitor stands, once that is known on all images."""
    history = session.history
    here = standing(history, PromptState)
    if here is None or not history.whole(here):
        return gr.skip()
    found = of(history.asked, drawn(lab, here.task, here))  # which takes seconds
    return found if session.stands(here) else gr.skip()


def drawn(lab: Lab, task: str, state: PromptState | None) -> str:
    """A row for each prompt of `task`; as long as the visitor stands nowhere, without numbers."""
    rows = [
        _row(label, reaction(lab, state, key) if state else None, bool(state and state.key == key))
        for label, key in lab.prompt_menu(task)
    ]
    head = (
        f"as learned, and with {escape(in_words(state))}"
        if state and state != state.learned
        else "as learned; change the prompt above to compare"
    )
    heads = columns(("prompt", "mean norm", "as learned", "now", "difference"))
    return (
        '<section class="against" tabindex="0" aria-label="CoOp against Nemesis"><h2>CoOp '
        f"against Nemesis <span>{head}</span></h2><table><thead><tr>{heads}"
        '<th scope=col class="dots" aria-hidden="true">0 to 100\u202f%</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _row(label: str, found: "Reaction | str | None", here: bool) -> str:
    name = f"<th scope=row>{escape(label)}</th>"
    if isinstance(found, str):
        return f'<tr>{name}<td colspan=5 class="broken">{escape(found)}</td></tr>'
    if found is None:
        return f"<tr>{name}{'<td>…</td>' * 4}<td class=dots></td></tr>"
    norm, norm_now = f"{found.norm:.2f}", f"{found.norm_now:.2f}"
    change = norm if norm == norm_now else f"{norm} → {norm_now}"
    points = gained(100 * (found.now.value - found.learned.value), 1)
    cells = "".join(
        f"<td>{cell}</td>"
        for cell in (change, _percent(found.learned), _percent(found.now), points)
    )
    # Hollow as learned, filled as bent.
    dots = (
        f'<g class="was">{dot(found.learned, ROW / 2 - 4, 3.5)}</g>',
        f'<g class="is">{dot(found.now, ROW / 2 + 4, 3.5)}</g>',
    )
    drawing = row_svg(f"As learned {found.learned}, now {found.now}.", ROW, dots)
    return f'<tr{" class=here" if here else ""}>{name}{cells}<td class="dots">{drawing}</td></tr>'


def _percent(a: Accuracy) -> str:
    return f'{percent(a.value)} <span class="long">{interval(a)}</span>'
