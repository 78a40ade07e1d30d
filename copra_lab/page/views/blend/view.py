"""The Blend view: two adapters, λ between and beyond them, and accuracy that follows the thumb."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from copra_lab.page.components.live import EVENT, Shown, Stage, bench_of, follow, panel
from copra_lab.page.components.panels import copy_button, html
from copra_lab.page.components.tabs import Entrance, View, going
from copra_lab.page.state import address
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.session import Session, Walk
from copra_lab.page.state.validation import position, space_of
from copra_lab.page.state.view_states import HIGH, LOW, SPACES, STEP, Beside, Blended, Place
from copra_lab.page.views.blend import html as draw

HOW_TO_READ = """<p class="how"><b>How to read this.</b> At every stop the weights of A and B are mixed, ΔW = (1 − λ)·ΔW<sub>A</sub> + λ·ΔW<sub>B</sub>,
and this new model is run on test images that neither adapter saw in training; nothing is looked up. Bars are 95&#8202;% intervals: wide and pale
after the first images, narrower once all were run. Where the path sinks below the dotted line from A to B there is a <b>barrier</b>: the two lie in
different valleys. Outside of the shaded part λ goes on beyond A and B.</p>
<p class="how"><b>Ask which line.</b> An adapter keeps ΔW = s·BA as two thin matrices, its factors. To mix the factors, A with A and B with B, is another thing than to mix ΔW:
halfway, what belongs to one adapter comes out at <b>half</b> of its size, and beside it stand <b>cross terms</b>, the B of one reading through the A of the other. Both lines have the same
ends; the one that you are not on is drawn paler. <b>CopRA</b> trains LoRA with layers switched off at random, ever fewer as training goes on, and its authors report that two seeds of it connect where two
of LoRA do not: let both be drawn and see. While you rest, all lines are filled in. More in lessons 3 (<i>Walk the line between two fine-tuned models</i>) and 4, and in
<a href="https://arxiv.org/abs/2410.22911">the paper</a>.</p>"""

CHOICES = [("ΔW", "delta"), ("the factors", "factors")]

METHODS = (("LoRA", "CopRA"), ("CopRA", "LoRA"))
"""Each with the one that it is compared with."""

GRID = tuple(round(LOW + i / 10, 1) + 0.0 for i in range(round(10 * (HIGH - LOW)) + 1))
"""Where lines are measured while the visitor rests."""


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    first = next(iter(lab.tasks()))
    menu = lab.menu(first)
    with gr.Row(elem_classes="choice", equal_height=False):
        task = gr.Dropdown(
            lab.titles(), value=first, label="Task", scale=3, min_width=220, elem_id="blend-task"
        )
        a = gr.Dropdown(
            menu,
            value=lab.pair(first, None, None)[0],
            label="A",
            scale=2,
            min_width=150,
            elem_id="blend-a",
        )
        b = gr.Dropdown(
            menu,
            value=lab.pair(first, None, None)[1],
            label="B",
            scale=2,
            min_width=150,
            elem_id="blend-b",
        )
        swap = gr.Button("⇄ Swap", elem_id="blend-swap", min_width=90, scale=0)
    about = html(lab.about(first), elem_id="blend-about", elem_classes="about")
    with gr.Row(equal_height=True):
        with gr.Column(scale=6, min_width=320, elem_classes="card"):
            number = panel(draw.number, "blend-number")
            with gr.Row(elem_id="blend-how", equal_height=True):
                space = gr.Radio(
                    CHOICES,
                    value="delta",
                    label="What is mixed",
                    min_width=200,
                    elem_id="blend-space",
                    elem_classes="switches one",
                )
                compare = gr.Checkbox(
                    label=_offer(rival(lab, first, *lab.pair(first, None, None))),
                    min_width=150,
                    elem_id="blend-compare",
                )
            chart = panel(draw.chart, "blend-chart")
            weight = gr.Slider(
                LOW, HIGH, 0, step=STEP, label="λ", elem_id="blend-weight", elem_classes="dial"
            )
            clear = gr.Button(
                "Clear the curve",
                size="sm",
                min_width=140,
                elem_id="blend-clear",
                elem_classes="clear",
            )
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            changed = panel(lambda walk: draw.changed(walk, bench_of(lab, walk)), "blend-changed")
    html(HOW_TO_READ)
    with gr.Accordion("The curve in numbers", open=False, elem_id="blend-more"):
        table = panel(draw.table, "blend-table")
        copy_button("blend-table")

    def turned(session: Session) -> Any:
        walk = session.change(swapped)
        return (
            going(address.write(walk.lab(lab), walk.place))
            if isinstance(walk.place, Blended)
            else gr.skip()
        )

    stage = Stage(Blended, number, chart, changed, table, arrives, ahead)
    inputs, controls = (
        [task, a, b, weight, space, compare],
        [about, a, b, weight, compare, task, space],
    )
    follow(lab, session, stage, partial(ask, lab), entrance, inputs, controls, clear)
    swap.click(turned, session, entrance.go, **EVENT)


def ask(
    lab: Lab, walk: Walk, task: Any, a: Any, b: Any, weight: Any, space: Any, compare: Any
) -> Shown | None:
    """See `copra_lab.page.components.live.Ask`."""
    lab = walk.lab(lab)
    lab.check(task)
    if weight is None:  # an empty field is somebody typing
        return None
    place, here = (
        Blended(
            task, *lab.pair(task, a, b), position(weight), space_of(space), compare=compare is True
        ),
        walk.place,
    )
    other = rival(lab, task, place.a, place.b)
    place = _among(lab, place, other, here.beside if isinstance(here, Blended) else ())
    updates = [gr.skip()] * 5
    if not isinstance(here, Blended) or here.task != task or (place.a, place.b) != (a, b):
        menu = lab.menu(task)
        updates[:3] = [
            lab.about(task),
            gr.update(choices=menu, value=place.a),
            gr.update(choices=menu, value=place.b),
        ]
    if not isinstance(here, Blended) or here.subject != place.subject:
        updates[4] = gr.update(label=_offer(other), interactive=other is not None)
    if abs(place.weight - float(weight)) > 1e-6:
        updates[3] = gr.update(value=place.weight)
    return place, updates


def arrives(lab: Lab, place: Blended) -> Shown:
    """See `copra_lab.page.components.live.Stage`."""
    menu, other = lab.menu(place.task), rival(lab, place.task, place.a, place.b)
    ends = [gr.update(choices=menu, value=key) for key in (place.a, place.b)]
    compare = gr.update(label=_offer(other), interactive=other is not None, value=place.compare)
    return _among(lab, place, other), [
        lab.about(place.task),
        *ends,
        place.weight,
        compare,
        place.task,
        place.space,
    ]


class Rival(NamedTuple):
    """The two adapters that another method made of the same seeds."""

    method: str
    a: str
    b: str


def rival(lab: Lab, task: str, a: str, b: str) -> Rival | None:
    """None where `a` and `b` are not of one method, as the menu names them, or one of theirs is missing."""
    labels = {key: label for label, key in lab.menu(task)}  # "LoRA, seed 0"
    keys = {label: key for key, label in labels.items()}
    for method, other in METHODS:
        if all(method in labels[key] for key in (a, b)):
            found = [keys.get(labels[key].replace(method, other, 1)) for key in (a, b)]
            return Rival(other, found[0], found[1]) if found[0] and found[1] else None
    return None


def _offer(other: Rival | None) -> str:
    return f"compare with {other.method}" if other else "no other method to compare with"


def _among(
    lab: Lab, place: Blended, other: Rival | None, known: tuple[Beside, ...] = ()
) -> Blended:
    """`place`, with the lines that are wanted beside it and can be made, as those ``known`` can."""
    lines = _beside(place, other if place.compare else None)
    return replace(place, beside=tuple(b for b in lines if b in known or _can_be_made(lab, b.line)))


def _beside(place: Blended, other: Rival | None) -> list[Beside]:
    """The same two adapters in the other space, and the `other` two in this one."""
    line = replace(place, weight=0.5)
    space = next(s for s in SPACES if s != place.space)
    lines = [Beside("space", draw.NAMES[space], replace(line, space=space))]
    if other:
        lines.append(
            Beside(
                "rival",
                f"{other.method}’s, {draw.NAMES[place.space]}",
                replace(line, a=other.a, b=other.b),
            )
        )
    return lines


def _can_be_made(lab: Lab, place: Blended) -> bool:
    """Factors of different ranks do not line up, and a file may be broken."""
    try:
        place.model(lab)
    except (ValueError, OSError):
        return False
    return True


def ahead(walk: Walk) -> list[list[Place]]:
    """See `copra_lab.page.state.measurement.Ahead`: the other lines at the visitor's λ and at their ends, then all lines from there on."""
    here = walk.place
    if not isinstance(here, Blended):
        return []
    others = [b.line for b in here.beside]
    near = sorted(GRID, key=lambda w: abs(w - here.weight))
    rounds: list[list[Place]] = [[o.at(w) for o in others for w in (here.weight, 0.0, 1.0)]]
    return rounds + [[line.at(w) for w in near] for line in (here, *others)]


def swapped(walk: Walk) -> Walk:
    """The same walk seen from the other end."""
    here, since = walk.place, walk.since
    if not isinstance(here, Blended) or not isinstance(since, Blended):
        return walk
    turned = {here.subject, *(b.line.subject for b in here.beside)}
    points = {
        p.swapped() if isinstance(p, Blended) and p.subject in turned else p: point
        for p, point in walk.points.items()
    }
    return replace(
        walk, place=here.swapped(), since=since.swapped(), points=points, turns=walk.turns + 1
    )


VIEW = View(
    "blend", "Blend", "Blend two fine‑tuned CLIPs",
    "Two adapters taught one small CLIP the same task. Drag λ along the line between them: every stop is a new model, tested as you arrive.", fill,
)  # fmt: skip
