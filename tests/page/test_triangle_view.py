"""The Triangle view: a point between three adapters, measured on a tiny CLIP, and dragged in a
browser.
"""

from xml.etree import ElementTree

import pytest
import torch
from by_hand import close_to, independent
from tiny import tiny_clip, tiny_task
from tiny_page import LAB, ONE, TINY, TWO, at, cells, handler, triangle_state, walked
from visitor import Visitor

from copra_lab.models import load_clip
from copra_lab.page.components.numbers import signed
from copra_lab.page.state.lab import BASE, Lab
from copra_lab.page.state.measurement import filled_in, first_images
from copra_lab.page.state.schemas.measured import Base
from copra_lab.page.state.schemas.triangle import BEYOND, UNITS, TriangleState, point_of
from copra_lab.page.state.session import History, Point, Session
from copra_lab.page.views.triangle import html as triangle_parts
from copra_lab.page.views.triangle import view as triangle
from copra_lab.utils.statistics import Accuracy

KEYS = ("0/one", "0/two", BASE)
HALF, THIRD = UNITS // 2, UNITS // 3


def mixed(b: int, c: int, keys=KEYS) -> TriangleState:
    return triangle_state("colours", keys, b, c)


# --- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b", "c"),
    [(THIRD, THIRD), (HALF, 0), (30, 60), (-BEYOND, UNITS), (UNITS + 2 * BEYOND, -BEYOND)],
)
def test_the_number_is_that_of_an_independent_forward_pass(b, c):
    history = walked(mixed(b, c)).history
    parts = (ONE, (UNITS - b - c) / UNITS), (TWO, b / UNITS)  # the base adds nothing
    assert history.here.accuracy == Accuracy(
        independent(tiny_clip(), tiny_task(), *parts), len(TINY)
    )


def test_a_corner_is_its_adapter_and_an_edge_is_a_blend():
    keys = ("0/two", BASE, "0/one")
    history = walked(mixed(THIRD, 0, keys), mixed(0, UNITS // 4, keys)).history
    two, base, one = (history.points[corner].predictions for corner in mixed(0, 0, keys).corners)
    assert two.equal(TINY.predictions(TWO).short())
    assert one.equal(TINY.predictions(ONE).short())
    assert base.equal(history.base.predictions)
    blended = walked(at(0.75)).history.here  # from one to two
    assert history.here.accuracy == blended.accuracy
    assert history.here.predictions.equal(blended.predictions)
    assert mixed(0, 0, keys).adapter(LAB) == TWO
    assert mixed(UNITS, 0, KEYS).adapter(LAB) == TWO


def test_a_visitor_comes_to_the_base_and_the_corners_first():
    assert mixed(10, 20).references == (
        Base("colours"),
        mixed(0, 0),
        mixed(UNITS, 0),
        mixed(0, UNITS),
    )
    assert list(walked(mixed(10, 20)).history.points) == [*mixed(10, 20).references, mixed(10, 20)]


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("0 0", (0, 0)),
        ("0.333 0.333", (40, 40)),
        ("0.25 0.5", (30, 60)),
        ("0.042 -0.083", (5, -10)),
        ("1e9 0", (142, -2)),
        ("-inf 1", (-20, 120)),
        ("0.9 0.9", (70, 70)),
        ("9 9", (70, 70)),
    ],
)
def test_any_two_numbers_become_a_place_in_the_larger_triangle(text, point):
    b, c = point_of(text)
    assert min(b, c, UNITS - b - c) >= -BEYOND
    assert (b, c) == point


@pytest.mark.parametrize(
    "text", [None, "", "0.5", "a b", "0 nan", "0 0 0", 0.5, [0.1, 0.2], {}, "1" * 400 + " x"]
)
def test_what_is_no_point_is_answered_in_words(text):
    with pytest.raises(ValueError, match=r"two numbers, the weights|must be a number from"):
        point_of(text)


@pytest.mark.parametrize(
    ("units", "words"), [(15, "0.13"), (45, "0.38"), (-15, "−0.13"), (40, "0.33"), (105, "0.88")]
)
def test_a_weight_is_rounded_as_the_field_beside_it(units, words):
    """By ECMAScript's toFixed, which the fields use, 0.125 is 0.13; Python's formatting says 0.12."""
    assert signed(units / UNITS) == words
    assert words.replace("−", "") in triangle_parts.recipe(mixed(units, 0))


def test_every_place_that_can_be_dragged_to_survives_the_way_through_the_text_box():
    for state in triangle.lattice(mixed(0, 0), triangle_parts.CELLS[-1]):
        assert point_of(" ".join(f"{w:.3f}" for w in state.weights[1:])) == state.point


# --- what controls send ------------------------------------------------------------------------------------------------


def test_controls_say_where_to_go():
    state, updates = triangle.ask(LAB, History(), "colours", "0/one", "0/two", BASE, "0.25 0.5")
    assert state == mixed(30, 60)
    assert [updates[name]["value"] for name in "abc"] == list(KEYS)
    assert "point" not in updates
    state, updates = triangle.ask(LAB, walked(mixed(30, 60)).history, "colours", *KEYS, "0.25 3")
    assert state == mixed(19, 121)
    assert point_of(updates["point"]["value"]) == state.point
    state, _ = triangle.ask(LAB, History(), "colours", "../../etc", ["0/two"], None, "0 0")
    assert state.keys == KEYS


def test_a_task_with_few_adapters_has_three_corners_too():
    class Few(type(LAB)):
        def menu(self, task):
            return [("One", "0/one"), ("No adapter", BASE)]

    assert Few().first("colours", 3) == ["0/one", BASE, BASE]


@pytest.mark.slow
def test_the_page_answers_junk_in_words_and_goes_on():
    move, rest = (handler(LAB, name, "triangle") for name in ("move", "rest"))
    session = Session()
    for values in [
        ("elsewhere", *KEYS, "0 0"),
        ("colours", *KEYS, "<b> 0"),
        ("colours", *KEYS, None),
    ]:
        *_, last = move(*values, session, "", None)
        assert 'role="alert"' in last["triangle-number"]
        assert "<b> 0" not in last["triangle-number"]
    *_, last = move("colours", *KEYS, "0.5 0", session, "", None)
    assert 'data-b="0.5000"' in last["triangle-number"]
    assert f'data-n="{len(TINY)}"' in rest(session)["triangle-number"]


# --- the landscape -----------------------------------------------------------------------------------------------------


def test_lattices_hold_corners_middles_and_thirds_and_what_is_near_comes_first():
    coarse, fine = triangle.ahead(History(mixed(0, 40)))
    assert len(set(coarse)) == len(coarse) == 55
    assert len(set(fine)) == len(fine) == 190
    assert set(coarse) < set(fine)
    assert {
        *mixed(0, 0).corners,
        mixed(HALF, 0),
        mixed(0, HALF),
        mixed(HALF, HALF),
        mixed(THIRD, THIRD),
    } < set(coarse)
    assert coarse[0] == mixed(0, 40)
    assert all(min(p.weights) >= 0 for p in coarse[:28])
    assert all(min(p.weights) < 0 for p in coarse[28:])
    assert set(coarse[1:5]) == {mixed(0, 20), mixed(0, 60), mixed(20, 20), mixed(20, 40)}


@pytest.mark.slow
def test_the_landscape_is_coloured_in_while_the_visitor_rests_coarse_and_first_images_first():
    session = walked(mixed(THIRD, THIRD))
    histories = filled_in(LAB, session, triangle.ahead)
    coarse, fine = (len(states) for states in triangle.ahead(session.history))
    known = 4  # corners and middle
    first = [next(histories) for _ in range(coarse - known)]
    passed = set(triangle_parts.landscape(first[-1])) - {*mixed(0, 0).corners, mixed(THIRD, THIRD)}
    assert len(passed) == coarse - known
    assert not any(map(first[-1].whole, passed))
    assert {p.accuracy.n for p in first[-1].points.values()} == {first_images(TINY), len(TINY)}
    rest = list(histories)
    assert len(rest) == coarse - known + 2 * (fine - coarse)
    landscape = triangle_parts.landscape(session.history)
    assert len(landscape) == fine
    assert all(map(session.history.whole, landscape))
    some = mixed(80, -20)
    assert landscape[some].accuracy == TINY.accuracy(some.adapter(LAB))


def by_hand(
    values: dict[tuple[int, int], int], standing: tuple[int, int] = (0, 0), n: int = 100
) -> History:
    """A history where so many of 100 images are right; a negative number stands for a first
    estimate on half of them.
    """
    points = {Base("colours"): Point(torch.zeros(n), Accuracy(n // 2, n))}
    for (b, c), right in values.items():
        images = n if right >= 0 else n // 2
        points[mixed(b, c)] = Point(torch.zeros(images), Accuracy(abs(right), images))
    return History(mixed(*standing), points=points)


CORNERS = {(0, 0): 60, (UNITS, 0): 70, (0, UNITS): 80}


def test_the_dip_is_held_against_the_plane_through_the_corners():
    assert triangle_parts.dip(by_hand({(0, 0): 60, (UNITS, 0): 70})) is None
    assert triangle_parts.dip(by_hand(CORNERS))[0] == pytest.approx(0)
    depth, state = triangle_parts.dip(
        by_hand(CORNERS | {(THIRD, THIRD): 64, (HALF, 0): 60, (-20, 0): 1, (0, HALF): -3})
    )
    assert depth == pytest.approx(0.06)
    assert state == mixed(THIRD, THIRD)


def test_the_drawing_is_well_formed_and_says_what_it_shows():
    history = by_hand(CORNERS | {(THIRD, THIRD): 64, (10, 20): -40, (5, 0): 62}, standing=(5, 0))
    history = history.add(
        mixed(0, 0, ("0/two", "0/one", BASE)), history.here
    )  # of another triangle
    svg = ElementTree.fromstring(triangle_parts.chart(history))
    assert svg.get("role") == "img"
    assert svg.get("aria-label")
    assert "5 points measured on all images" in svg.find("desc").text
    assert str(Accuracy(80, 100)) in svg.find("desc").text
    used = [(e.get("href"), e.get("class")) for e in svg.iter("use")]
    assert [h for h, _ in used] == ["#cell-0"] * 4 + ["#cell-1", "#cell-2"]
    assert used[4][1] == "cell first"
    assert used[5][1] == "cell at"
    assert [e.text for e in svg.iter("text") if e.get("class") == "value"] == ["64"]
    assert {p.get("id") for p in svg.iter("polygon") if p.get("id")} == {
        "cell-0",
        "cell-1",
        "cell-2",
    }


def test_colours_depend_on_the_corners_alone():
    assert (
        triangle_parts.scale(by_hand(CORNERS))
        == triangle_parts.scale(by_hand(CORNERS | {(40, 40): 5, (20, 0): 100}))
        == (45, 85)
    )
    assert triangle_parts.scale(History()) == (0, 100)
    assert triangle_parts.scale(by_hand({(0, 0): 2, (UNITS, 0): 99})) == (0, 100)


def test_the_table_has_every_place():
    rows = cells(triangle_parts.table(by_hand(CORNERS | {(30, 60): 64})))
    assert [row[:4] for row in rows] == [
        ["base", "", "", ""], ["A", "1.00", "0.00", "0.00"], ["B", "0.00", "1.00", "0.00"], ["", "0.25", "0.25", "0.50"], ["C", "0.00", "0.00", "1.00"],
    ]  # fmt: skip
    assert [int(row[7]) for row in rows[1:]] == [60, 70, 64, 80]


def test_images_are_held_against_where_the_point_was():
    history = walked(mixed(0, 0), mixed(UNITS, 0)).history
    moved = int((TINY.predictions(ONE) != TINY.predictions(TWO)).sum())
    html = triangle_parts.changed(history, TINY)
    assert "by the last move" in html
    assert 0 < html.count("<li class=") <= moved
    assert "appear here" in triangle_parts.changed(walked(mixed(0, 0)).history, TINY)
    assert "appear here" in triangle_parts.changed(History(), None)


def test_before_anything_is_known_the_page_says_so():
    assert "Loading" in triangle_parts.number(History())
    assert "Measuring" in triangle_parts.number(History(mixed(0, 0)))
    assert ElementTree.fromstring(triangle_parts.chart(History())) is not None
    assert "<tbody></tbody>" in triangle_parts.table(History())


# --- in a browser ------------------------------------------------------------------------------------------------------


def settled(visitor: Visitor, b: float, c: float) -> dict:
    """The number that is shown, once it is for these weights and on all images."""
    shown = """([b, c]) => {
      const now = document.querySelector('#triangle-number .now');
      return now && now.dataset.n && now.dataset.n === now.dataset.total && Math.abs(now.dataset.b - b) < .006 && Math.abs(now.dataset.c - c) < .006
        ? {...now.dataset} : null; }"""
    return visitor.page.wait_for_function(shown, arg=[b, c]).json_value()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_point_is_dragged_moved_by_keys_and_typed(browser, url, fresh, width):
    _, task, _ = fresh
    lab, clip = Lab(), load_clip()
    adapters = [lab.adapter(task.name, key) for key in lab.first(task.name, 3)]

    def truth(shown: dict):
        return close_to(
            independent(
                clip,
                task,
                *(
                    (a, round(UNITS * float(shown[name])) / UNITS)
                    for a, name in zip(adapters, "abc", strict=True)
                ),
            )
        )

    visitor = Visitor(browser, url, "triangle", width=width, height=844)
    try:
        shown = settled(visitor, 1 / 3, 1 / 3)
        assert int(shown["correct"]) == truth(shown)
        assert int(shown["n"]) == len(task.test)
        svg = visitor.page.locator("#triangle-hands svg")
        svg.scroll_into_view_if_needed()
        box, where = (
            svg.bounding_box(),
            "svg => { const r = svg.getBoundingClientRect(); return [r.left, r.top + scrollY, "
            "r.width, r.height]; }",
        )
        stood = svg.evaluate(where)

        def pixel(b: float, c: float) -> tuple[float, float]:
            x, y = triangle_parts.xy(UNITS * b, UNITS * c)
            return box["x"] + x * box["width"] / triangle_parts.WIDTH, box["y"] + y * box[
                "width"
            ] / triangle_parts.WIDTH

        visitor.page.mouse.move(*pixel(1 / 3, 1 / 3))
        visitor.page.mouse.down()
        for state in ((0.9, 0), (0, 0.9), (0.5, 0.5)):
            visitor.page.mouse.move(*pixel(*state), steps=3)
        visitor.page.mouse.up()
        shown = settled(visitor, 0.5, 0.5)
        assert int(shown["correct"]) == truth(shown)
        visitor.page.keyboard.press("ArrowRight")
        settled(visitor, 0.5 + 1 / 24, 0.5)
        visitor.page.keyboard.press("ArrowLeft")
        visitor.page.keyboard.press("ArrowDown")
        visitor.page.keyboard.press("ArrowUp")
        assert settled(visitor, 0.5, 0.5)["correct"] == shown["correct"]
        visitor.page.get_by_label("weight of A").fill(
            "0.5"
        )  # the others share the rest as they did
        shown = settled(visitor, 0.25, 0.25)
        assert int(shown["correct"]) == truth(shown)
        visitor.page.wait_for_function(
            "document.querySelectorAll('#triangle-chart use').length > 20"
        )  # it is coloured in meanwhile
        assert svg.evaluate(where) == pytest.approx(stood, abs=1)  # nothing jumped
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        visitor.leave()
