"""The Train view's pieces of HTML: pure functions of how far a training is."""

import math
from html import escape

from copra_lab.page.components import panels
from copra_lab.page.components.numbers import interval
from copra_lab.page.state.lab import METHODS, Own
from copra_lab.page.views.train.charts import accuracy_svg, layers_html, loss_svg, losses
from copra_lab.page.views.train.session import TRAINING_SECONDS, Course, Progress


def pieces(progress: Progress | None) -> dict[str, str]:
    """All that shows how far a training is, by name; None: before there was one."""
    return {
        "status": status(progress),
        "race": race(progress),
        "charts": charts(progress),
        "table": table(progress),
    }


BEFORE = "Choose what to train and press Train: nothing is computed before that."


def status(progress: Progress | None) -> str:
    """What is going on, in a sentence, and how far it is."""
    if progress is None:
        return _status("", BEFORE, 0, 1)
    steps, of = progress.steps, progress.order.steps
    come = "training is" if progress.ahead == 1 else "trainings are"
    words = {
        "waking": "Loading the model. The very first start also draws all images, which takes "
        "about a minute.",
        "waiting": f"Waiting: {progress.ahead} {come} ahead of you{_time(progress, 'it begins')}.",
        "training": f"Step {steps:,} of {of:,}{_time(progress, 'it is done')}."
        if steps
        else "Measuring the base first.",
        "done": f"Done: {of:,} steps. What was learned is below, and in the menus of the other "
        "views.",
        "stopped": f"Stopped after {steps:,} of {of:,} steps. What was learned so far is below."
        if steps
        else "Stopped before it began.",
        "ended": f"Ended after {TRAINING_SECONDS:.0f} seconds, at step {steps:,} of {of:,}. What "
        "was learned so far is below.",
    }
    return _status(progress.state, words[progress.state], steps, of)


def _time(progress: Progress, until: str) -> str:
    if progress.seconds is None:
        return ""
    return f", about {math.ceil(progress.seconds)}\u202fs until {until}"


def _status(state: str, words: str, steps: int, of: int) -> str:
    return (
        f'<div class="training" data-state="{state}" data-step="{steps}">'
        f'<p role="status">{words}</p><progress max="{of}" value="{steps}" '
        'aria-label="Steps done"></progress></div>'
    )


def race(progress: Progress | None) -> str:
    """The newest accuracy of each method, side by side."""
    courses = progress.courses if progress else (Course("lora"), Course("copra"))
    return f'<div class="race">{"".join(_runner(c, progress) for c in courses)}</div>'


def _runner(course: Course, progress: Progress | None) -> str:
    figure, data, words = "…", "", "&nbsp;<br>&nbsp;"
    if course.measured:
        step, a = course.measured[-1]
        figure = f"{100 * a.value:.1f}<small>%</small>"
        data = f' data-step="{step}" data-correct="{a.correct}" data-n="{a.n}"'
        words = (
            f"95\u202f% <span class='long'>interval</span> <b>{interval(a)}</b><br>{a.n} "
            f"test images, step {step:,}"
        )
    if course.trouble:
        words = escape(course.trouble)
    return (
        f'<section class="{course.method}" data-method="{course.method}"{data}>'
        f"<h2>{METHODS[course.method]}</h2>"
        f'<div class="figure">{figure}</div><p>{words}<br>{_loss(course, progress)}</p></section>'
    )


def _loss(course: Course, progress: Progress | None) -> str:
    found = losses(course, progress.order.steps) if progress else []
    return f"training loss <b>{found[-1][1]:.2f}</b>" if found else "&nbsp;"


def charts(progress: Progress | None) -> str:
    """Accuracy, loss, and the layers that CopRA had on."""
    courses, steps = (progress.courses, progress.order.steps) if progress else ((), 300)
    accuracy = accuracy_svg(courses, steps, progress.base if progress else None)
    loss = loss_svg(courses, steps, progress.classes if progress else 0)
    copra = next((c for c in courses if c.method == "copra"), None)
    key = "".join(
        f'<span class="{name}"><svg width="26" height="8" aria-hidden="true"><line '
        f'class="course {name}" x1="1" x2="25" y1="4" y2="4"/></svg> {label}</span>'
        for name, label in METHODS.items()
    )
    return (
        f'<div class="courses"><p class="key">{key}</p><h3>accuracy on test images</h3>'
        f'<div class="chart">{accuracy}</div><h3>loss on training images</h3>'
        f'<div class="chart">{loss}</div>{layers_html(copra, steps)}</div>'
    )


def table(progress: Progress | None) -> str:
    """Every look at the test images, the base first."""
    courses, base = (progress.courses, progress.base) if progress else ((), None)
    rows = [((METHODS[c.method], str(step)), a) for c in courses for step, a in c.measured]
    return panels.table(("", "step"), rows, base)


def described(own: Own | None, title: str = "") -> str:
    """What an adapter of the visitor's own was made with; `title` is its task's."""
    if own is None:
        return (
            '<p class="described">What you train appears here: the last eight adapters, for '
            "as long as this page is open.</p>"
        )
    p = own.adapter.provenance
    kinds = ", ".join(p["lora"]["sites"])
    return (
        f'<p class="described"><b>{escape(own.label)}</b> {escape(title)} · rank '
        f"{p['lora']['rank']} on {kinds} · learning rate {p['lr']:g} · {own.steps:,} "
        f"of {p['steps']:,} steps of {p['batch']} · {p['shots']} shots · seed {p['seed']} · "
        f"{own.adapter.parameters:,} numbers</p>"
    )
