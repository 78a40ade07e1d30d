"""The Blend view: two adapters, λ between and beyond them, and accuracy that follows the thumb."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from copra_lab.page import parts
from copra_lab.page.lab import Lab
from copra_lab.page.measure import filled_in, first_numbers, remaining
from copra_lab.page.walk import HIGH, LOW, STEP, Pair, Session, Walk, mirror, position

HOW_TO_READ = """<p class="how"><b>How to read this.</b> At every stop the weights of A and B are mixed, ΔW = (1 − λ)·ΔW<sub>A</sub> + λ·ΔW<sub>B</sub>,
and this new model is run on test images that neither adapter saw in training; nothing is looked up. Bars are 95&#8202;% intervals: wide and pale
after the first images, narrower once all were run. Where the path sinks below the dotted line from A to B there is a <b>barrier</b>: the two lie in
different valleys. Outside of the shaded part λ goes on beyond A and B.</p>"""

COPY = """() => {
  const rows = [...document.querySelectorAll('#blend-table tr')].map(r => [...r.children].map(c => c.innerText.trim()).join('\\t'));
  const area = Object.assign(document.createElement('textarea'), {value: rows.join('\\n')});
  document.body.append(area); area.select(); document.execCommand('copy'); area.remove();
}"""
"""Also where navigator.clipboard is missing: on a page that is served without TLS."""

NUMBERED = "(...x) => { x[x.length - 1] = performance.now(); return x; }"
"""Numbers a request as it leaves; see `Session.take`."""


def view(lab: Lab, page: gr.Blocks) -> None:
    """Add the view to the page that is being built."""
    tasks = lab.tasks()
    first = next(iter(tasks))
    menu = lab.menu(first)
    session = gr.State(Session())
    turn = gr.Number(visible=False)
    with gr.Row(elem_id="blend-choice", equal_height=False):
        task = gr.Dropdown([(title, name) for name, title in tasks.items()], value=first, label="Task", scale=3, min_width=220, elem_id="blend-task")
        a = gr.Dropdown(menu, value=lab.pair(first, None, None)[0], label="A", scale=2, min_width=150, elem_id="blend-a")
        b = gr.Dropdown(menu, value=lab.pair(first, None, None)[1], label="B", scale=2, min_width=150, elem_id="blend-b")
        swap = gr.Button("⇄ Swap", elem_id="blend-swap", min_width=90, scale=0)
    about = _html(_about(lab, first), elem_id="blend-about")
    with gr.Row(equal_height=True, elem_id="blend"):
        with gr.Column(scale=6, min_width=320, elem_classes="card"):
            number = _html(parts.number(Walk()), elem_id="blend-number")
            chart = _html(parts.chart(Walk()), elem_id="blend-chart")
            weight = gr.Slider(LOW, HIGH, 0, step=STEP, label="λ", elem_id="blend-weight")
            clear = gr.Button("Clear the curve", size="sm", min_width=140, elem_id="blend-clear")
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            changed = _html(parts.changed(Walk(), None), elem_id="blend-changed")
    _html(HOW_TO_READ)
    with gr.Accordion("The curve in numbers", open=False, elem_id="blend-more"):
        table = _html(parts.table(Walk()), elem_id="blend-table")
        copy = gr.Button("Copy the table", size="sm", scale=0, min_width=140)

    live = [number, chart, changed]
    outputs = [*live, table, about, a, b, weight]

    def show(walk: Walk) -> list[Any]:
        bench = lab.bench(walk.pair.task) if walk.pair and walk.base else None
        return [parts.number(walk), parts.chart(walk), parts.changed(walk, bench)]

    def move(task: Any, a: Any, b: Any, weight: Any, session: Session, turn: Any) -> Iterator[list[Any]]:
        # A generator that yields nothing would empty its outputs.
        yield [gr.skip()] * len(outputs)
        try:
            if not isinstance(task, str) or task not in tasks:
                raise ValueError("choose one of the tasks in the list")
            if weight is None or not session.take(turn):  # an empty field is somebody typing
                return
            at = position(weight)
            pair = Pair(task, *lab.pair(task, a, b))
            controls = [gr.skip()] * 5
            if session.walk.pair is None or session.walk.pair.task != task or (pair.a, pair.b) != (a, b):
                menu = lab.menu(task)
                controls[1:4] = [_about(lab, task), gr.update(choices=menu, value=pair.a), gr.update(choices=menu, value=pair.b)]
            if abs(at - float(weight)) > 1e-6:
                controls[4] = gr.update(value=at)
            for walk in first_numbers(lab, session, pair, at):
                yield [*show(walk), *controls]
                controls = [gr.skip()] * 5
        except (ValueError, OSError) as e:  # AdapterError is a ValueError
            yield [parts.trouble(e), *[gr.skip()] * (len(outputs) - 1)]

    def rest(session: Session) -> list[Any]:
        walk = remaining(lab, session)
        return [*show(walk), parts.table(walk)] if walk else [gr.skip()] * 4

    def fill(session: Session) -> Iterator[list[Any]]:
        yield [gr.skip()] * 3
        for walk in filled_in(lab, session):
            yield [parts.number(walk), parts.chart(walk), parts.table(walk)]

    def swapped(session: Session) -> list[Any]:
        walk = session.walk
        if walk.pair is None:
            return [gr.skip()] * 3
        session.put(walk.swapped())
        return [walk.pair.b, walk.pair.a, mirror(walk.at)]

    def cleared(session: Session) -> list[Any]:
        walk = session.clear()
        return [*show(walk), parts.table(walk)]

    # Everything that runs the model shares one small limit. What controls send is checked above, in words: a Gradio error
    # would also lose the request that waits behind it.
    event: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
    model: dict[str, Any] = event | {"concurrency_limit": 2, "concurrency_id": "bench"}
    triggers = [page.load, *(control.change for control in (task, a, b, weight))]
    moved = gr.on(triggers, move, [task, a, b, weight, session, turn], outputs, js=NUMBERED, preprocess=False, **model)
    rested = moved.success(rest, session, [*live, table], **model)
    rested.success(fill, session, [number, chart, table], concurrency_limit=1, concurrency_id="background", **event)
    swap.click(swapped, session, [a, b, weight], **event)
    clear.click(cleared, session, [*live, table], **event)
    copy.click(None, js=COPY)


def _html(value: str, **options: Any) -> gr.HTML:
    return gr.HTML(value, apply_default_css=False, **options)


def _about(lab: Lab, task: str) -> str:
    return f'<p class="about">{lab.about(task)}</p>'
