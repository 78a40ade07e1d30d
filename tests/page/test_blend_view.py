"""The Blend view's other lines: the factors, aligned or not, and another method's adapters; measured on a tiny
CLIP, and in a browser. The rest: see test_app.py.
"""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from by_hand import close_to, independent
from tiny import tiny_clip, tiny_task
from tiny_page import LAB, ONE, SEEDS, TINY, TWO, at, cells, walked

from copra_lab import page
from copra_lab.adapters import Adapter, LowRank
from copra_lab.merging import interpolate, interpolate_aligned, interpolate_factors
from copra_lab.models import load_clip
from copra_lab.page.state.lab import BASE, Lab
from copra_lab.page.state.measurement import filled_in, first_numbers
from copra_lab.page.state.schemas.blend import BlendState, mirror
from copra_lab.page.state.session import History, Session
from copra_lab.page.views.blend import html as blend_parts
from copra_lab.page.views.blend import view as blend
from copra_lab.page.views.blend.path_chart import Line, barrier, path_svg
from copra_lab.page.views.blend.view import Rival
from copra_lab.utils.statistics import Accuracy


def bent(weight: float) -> BlendState:
    """A point of the line in the factors."""
    return BlendState("colours", "0/one", "0/two", weight, "factors")


def by_hand(a: Adapter, b: Adapter, weight: float) -> Adapter:
    """A mixed with A and B with B, by nothing of `copra_lab.merging.linear`."""
    mixed = {}
    for name, d in a.deltas.items():
        A, B = (
            (1 - weight) * x + weight * y
            for x, y in ((d.A, b.deltas[name].A), (d.B, b.deltas[name].B))
        )
        mixed[name] = LowRank(A, B, d.scale)
    return Adapter(mixed, a.base)


def asked(*values, lab=SEEDS, history: History = History()):  # noqa: B008 (frozen)
    return blend.ask(lab, history, "colours", *values)


# --- the factors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [-0.5, 0.3, 0.5, 1.5])
def test_a_point_in_the_factors_is_that_of_an_independent_forward_pass(weight):
    history = walked(bent(weight)).history
    assert history.here.accuracy == Accuracy(
        independent(tiny_clip(), tiny_task(), (by_hand(ONE, TWO, weight), 1)), len(TINY)
    )
    straight = TINY.predictions(interpolate(ONE, TWO, weight))
    assert (history.here.predictions != straight).any()


def test_both_lines_end_at_the_same_adapters_measured_once():
    history = walked(bent(0.5)).history
    assert at(0.0) in history.points
    assert bent(0.0) not in history.points
    assert [p.accuracy for w, p in blend_parts.curve(history).items() if w in (0.0, 1.0)] == [
        TINY.accuracy(ONE),
        TINY.accuracy(TWO),
    ]
    for weight in (0.0, 1.0):
        assert walked(bent(weight)).history.here.predictions.equal(
            walked(at(weight)).history.here.predictions
        )


def test_going_from_one_line_to_the_other_shows_what_that_changed():
    history = walked(at(0.5), bent(0.5)).history
    assert history.since == at(0.5)
    assert list(history.curve()) == [0.5]
    html = blend_parts.changed(history, TINY)
    assert "from λ = 0.50 in ΔW to λ = 0.50 in the factors" in html
    assert "<li class=" in html


def test_clearing_clears_both_lines_but_no_other_adapters():
    other = BlendState("colours", "0/two", BASE, 0.5)
    history = walked(other, at(0.3), bent(0.3), at(0.6)).change(History.cleared)
    assert not {at(0.3), bent(0.3)} & set(history.points)
    assert {
        other,
        at(0.0),
        at(0.6),
        at(1.0),
    } <= set(history.points)


@pytest.mark.parametrize("space", [None, "", "Delta", ["delta"], 1])
def test_a_space_that_there_is_not_is_answered_in_words(space):
    with pytest.raises(ValueError, match="what is mixed must be one of delta, factors, aligned"):
        asked("LoRA, seed 0", "LoRA, seed 1", 0.5, space, False)


def test_factors_that_do_not_line_up_are_no_line_beside_and_said_in_words_when_asked_for():
    for b in (BASE, "LoRA, seed 7"):
        state, _ = asked("LoRA, seed 0", b, 0.5, "delta", True)
        assert state.beside == ()
        for space in ("factors", "aligned"):
            state, _ = asked("LoRA, seed 0", b, 0.5, space, False)
            with pytest.raises(ValueError, match="interpolate the deltas"):
                list(first_numbers(SEEDS, Session(), state))


# --- another method ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ("LoRA, seed 0", "LoRA, seed 1", ("CopRA", "CopRA, seed 0", "CopRA, seed 1")),
        ("CopRA, seed 1", "CopRA, seed 0", ("LoRA", "LoRA, seed 1", "LoRA, seed 0")),
        ("LoRA, seed 0", "LoRA, seed 7", None),
        ("LoRA, seed 0", "CopRA, seed 1", None),
        ("Mine, seed 0", "Mine, seed 0", None),
        ("LoRA, seed 0", BASE, None),
        (BASE, BASE, None),
    ],
)
def test_the_rival_are_the_same_seeds_of_the_other_method(a, b, found):
    assert blend.rival(SEEDS, "colours", a, b) == (found and Rival(*found))


def test_the_shipped_adapters_have_rivals_in_every_task():
    lab = Lab()
    for task in lab.tasks():
        assert blend.rival(lab, task, *lab.first(task, 2))


def test_what_is_drawn_beside_is_asked_for_and_no_part_of_the_model():
    state, updates = asked("LoRA, seed 0", "LoRA, seed 1", 0.3, "delta", True)
    assert [(b.kind, b.line.a, b.line.space) for b in state.beside] == [
        ("factors", "LoRA, seed 0", "factors"),
        ("aligned", "LoRA, seed 0", "aligned"),
        ("rival", "CopRA, seed 0", "delta"),
    ]
    assert updates["compare"]["label"] == "compare with CopRA"
    assert updates["compare"]["interactive"]
    alone, _ = asked("LoRA, seed 0", "LoRA, seed 1", 0.3, "delta", "yes")
    assert alone == state
    assert hash(alone) == hash(state)
    assert [b.kind for b in alone.beside] == ["factors", "aligned"]
    bent, _ = asked("LoRA, seed 0", "LoRA, seed 1", 0.3, "aligned", False)
    assert [b.kind for b in bent.beside] == ["delta", "factors"]
    _, updates = asked("LoRA, seed 0", BASE, 0.3, "delta", True)
    assert not updates["compare"]["interactive"]


@pytest.fixture(scope="module")
def rested() -> History:
    """A visitor who compares, and rests at λ = 0.26 until every line is filled in."""
    state, _ = asked("LoRA, seed 0", "LoRA, seed 1", 0.26, "delta", True)
    session = walked(state, lab=SEEDS)
    assert len(list(filled_in(SEEDS, session, blend.ahead))) > 2 * len(blend.GRID)
    assert list(filled_in(SEEDS, session, blend.ahead)) == []
    return session.history


def test_all_lines_are_filled_in_while_the_visitor_rests(rested):
    one, two, *_ = (SEEDS.adapter("colours", key) for _, key in SEEDS.menu("colours"))
    three, four = (SEEDS.adapter("colours", f"CopRA, seed {i}") for i in range(2))
    lines = rested.state, *(b.line for b in rested.state.beside)
    for line, a, b, mix in zip(
        lines,
        (one, one, one, three),
        (two, two, two, four),
        (interpolate, interpolate_factors, interpolate_aligned, interpolate),
        strict=True,
    ):
        curve = blend_parts.curve(rested, line)
        assert set(curve) == {*blend.GRID, 0.26}
        assert all(p.accuracy.n == len(TINY) for p in curve.values())
        assert all(curve[w].accuracy == TINY.accuracy(mix(a, b, w)) for w in (-0.5, 0.26, 0.5, 1.0))


@pytest.mark.slow
def test_a_visitor_who_moves_or_clears_ends_what_is_filled_in():
    for how in (lambda history: history.step(at(0.5)), History.cleared):
        session = walked(at(0.4))
        histories = filled_in(LAB, session, blend.ahead)
        next(histories)
        session.change(how)
        known = len(session.history.points)
        assert list(histories) == []
        assert len(session.history.points) == known


def test_swapping_turns_every_line_round(rested):
    turned = blend.swapped(rested)
    assert turned.state.a == rested.state.b
    assert turned.state.weight == 0.74
    for before, after in zip(rested.state.beside, turned.state.beside, strict=True):
        assert (before.kind, before.name) == (after.kind, after.name)
        mirrored = {mirror(w): p for w, p in blend_parts.curve(rested, before.line).items()}
        assert blend_parts.curve(turned, after.line) == mirrored != {}


# --- what is drawn -----------------------------------------------------------------------------------------------------


def test_the_legend_says_what_each_line_is_and_its_number_where_the_visitor_is(rested):
    legend = ElementTree.fromstring(blend_parts.chart(rested)).find("table")
    rows = [["".join(cell.itertext()) for cell in row] for row in legend.iter("tr")]
    assert [row[0] for row in rows] == [
        "lines from A to B",
        "in ΔW",
        "in the factors",
        "in aligned factors",
        "CopRA’s, in ΔW",
    ]
    for row, line in zip(
        rows[1:], (rested.state, *(b.line for b in rested.state.beside)), strict=True
    ):
        curve = blend_parts.curve(rested, line)
        assert row[1] == f"{100 * curve[0.26].accuracy.value:.1f}\u202f%"
        depth, weight = barrier([(w, p.accuracy) for w, p in curve.items()])
        assert row[2] == (
            f"{100 * depth:.1f} at {weight:.2f}" if depth * len(TINY) >= 1 else "none so far"
        )
    assert "…" in blend_parts.chart(History(rested.state))


def test_lines_beside_are_told_apart_without_colour_and_in_words():
    points = [
        (0.0, Accuracy(60, 100)),
        (0.5, Accuracy(40, 100)),
        (1.0, Accuracy(60, 100)),
        (1.5, Accuracy(1, 50)),
    ]
    svg = ElementTree.fromstring(
        path_svg(
            [],
            total=100,
            beside=[
                Line("factors", "in the factors", points),
                Line("aligned", "in aligned factors", points[:2]),
                Line("delta", "in ΔW", points[:2]),
                Line("rival", "CopRA’s", points[:2]),
            ],
        )
    )
    kinds = [(e.tag, e.get("class", "")) for e in svg]
    assert kinds.count(("line", "other factors")) == 2
    assert kinds.count(("circle", "mark factors")) == 3
    for kind, mark in (("aligned", "circle"), ("delta", "rect"), ("rival", "rect")):
        assert kinds.count(("line", f"other {kind}")) == 1
        assert kinds.count((mark, f"mark {kind}")) == 2
    # Dashes and fillings differ, too.
    style = (Path(page.__file__).parent / "static" / "page.css").read_text(encoding="utf-8")
    dashes = re.findall(r"\.path \.other\.(\w+) { stroke-dasharray: (.*?); }", style)
    assert len(set(dict(dashes).values())) == len(dashes) == 4
    said = svg.find("desc").text
    assert "in the factors, barrier 20.0 points at λ = 0.50" in said
    assert "CopRA’s, barrier" not in said


def test_the_table_has_the_numbers_of_every_line(rested):
    rows = cells(blend_parts.table(rested))
    n = len(blend.GRID) + 1
    assert [row[0] for row in rows if row[0] not in ("", "A", "B", "base")] == [
        "in the factors"
    ] * (n - 2) + ["in aligned factors"] * (n - 2) + ["CopRA’s, in ΔW"] * n
    bent = blend_parts.curve(rested, replace(rested.state, space="factors"))
    assert [int(row[5]) for row in rows if row[0] == "in the factors"] == [
        p.accuracy.correct for w, p in bent.items() if w not in (0.0, 1.0)
    ]


def test_two_ends_are_no_line_beside(rested):
    history = rested.cleared()
    beside = ElementTree.fromstring(blend_parts.chart(history)).iter("circle")
    assert not [
        e for e in beside if e.get("class") == "mark factors" and e.get("cx") != "17"
    ]  # that one is the legend's
    assert "in the factors" not in [row[0] for row in cells(blend_parts.table(history))]


# --- in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_the_other_lines_in_a_browser(visit, fresh):
    _, task, _ = fresh
    lab, clip = Lab(), load_clip()
    visitor = visit()
    visitor.page.locator("#blend-weight input[type=number]").fill("0.5")
    straight = visitor.settled(0.5)
    visitor.page.get_by_label("the factors").check()
    now = "{...document.querySelector('#blend-number .now').dataset}"
    shown = visitor.page.wait_for_function(
        f"() => {{ const d = {now}; return d.space === 'factors' && d.n === d.total && d; }}"
    ).json_value()
    one, two = (lab.adapter(task.name, key) for key in lab.first(task.name, 2))
    assert int(shown["correct"]) == close_to(independent(clip, task, (by_hand(one, two, 0.5), 1)))
    visitor.page.get_by_label("compare with CopRA").check()
    row = visitor.page.locator("#blend-chart .legend .rival td").first
    visitor.page.wait_for_function(
        "/%/.test(document.querySelector('#blend-chart .legend .rival td:not(.first)')?.innerText)"
    )
    other = blend.rival(lab, task.name, *lab.first(task.name, 2))
    correct = independent(
        clip, task, (by_hand(*(lab.adapter(task.name, key) for key in (other.a, other.b)), 0.5), 1)
    )
    assert float(row.inner_text()[:-2]) == pytest.approx(100 * correct / len(task.test), abs=0.3)
    beside = visitor.page.locator("#blend-chart .legend .delta td").first.inner_text()
    assert beside == f"{100 * int(straight['correct']) / int(straight['n']):.1f}\u202f%"
    visitor.page.get_by_label("aligned", exact=True).check()
    shown = visitor.page.wait_for_function(
        f"() => {{ const d = {now}; return d.space === 'aligned' && d.n === d.total && d; }}"
    ).json_value()
    middle = lab.bench(task.name).accuracy(interpolate_aligned(one, two, 0.5))
    assert int(shown["correct"]) == close_to(middle.correct)
