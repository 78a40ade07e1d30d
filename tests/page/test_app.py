"""The page: its handlers as plain functions on a tiny CLIP, and the real thing, driven in a
browser.
"""

import asyncio
import copy
import json
import re
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import gradio as gr
import pytest
import torch
from by_hand import close_to, cut, independent
from gradio.state_holder import SessionState
from tiny import tiny_clip, tiny_task
from tiny_page import LAB, ONE, TINY, TWO, TinyLab, at, cells, walked

from copra_lab.adapters import NONE, Adapter
from copra_lab.bench import Bench
from copra_lab.merging import highest_barrier, interpolate
from copra_lab.models import load_clip
from copra_lab.page import VIEWS, build
from copra_lab.page.components import images
from copra_lab.page.server import gradio_sessions
from copra_lab.page.server.limits import MEASUREMENTS
from copra_lab.page.state.lab import BASE, Lab
from copra_lab.page.state.measurement import (
    FEWEST,
    FIRST,
    filled_in,
    first_images,
    first_numbers,
    remaining,
)
from copra_lab.page.state.schemas.blend import HIGH, LOW, BlendState, mirror
from copra_lab.page.state.schemas.measured import Base
from copra_lab.page.state.schemas.reading import Reading, Source, read
from copra_lab.page.state.session import Change, History, Point, Requests, Session, changes
from copra_lab.page.views.blend import html as blend_parts
from copra_lab.page.views.blend import view as blend
from copra_lab.page.views.blend.path_chart import Line, barrier, path_svg
from copra_lab.pruning import layers_of
from copra_lab.tasks import load_task
from copra_lab.utils.statistics import Accuracy
from copra_lab.zoo import FOLDER

ROOT = Path(__file__).parents[2]


# --- without a browser -------------------------------------------------------------------------------------------------


def in_between(weight: float) -> list[tuple[Adapter, float]]:
    return [(ONE, 1 - weight), (TWO, weight)]


def position(value) -> float:
    """λ, of what came from the slider."""
    controls = {"task": "colours", "a": "0/one", "b": "0/two", "weight": value}
    return read(BlendState, Reading(LAB, Source.CONTROLS), controls).weight


@pytest.mark.parametrize(
    ("value", "weight"),
    [
        (0, 0),
        (0.31, 0.32),
        ("0.5", 0.5),
        (99, HIGH),
        (-1e9, LOW),
        (float("inf"), HIGH),
        (-0.0001, 0),
        (0.7000000001, 0.7),
    ],
)
def test_any_number_becomes_a_position_of_the_slider(value, weight):
    assert position(value) == weight
    assert str(position(value)) == str(float(weight))


@pytest.mark.parametrize("value", [float("nan"), None, "much", [0.5], {}, 10**400])
def test_what_is_no_number_is_answered_in_words(value):
    with pytest.raises(ValueError, match=r"λ must be a number from -0.5 to 1.5"):
        position(value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("milliseconds", "images"), [(0, FIRST), (60, FIRST), (120, 50), (500, FEWEST)]
)
def test_a_slow_machine_runs_fewer_images_for_the_first_number(milliseconds, images):
    class Slow:
        def logits(self, stop):
            assert stop == FIRST
            time.sleep(milliseconds / 1000)

    assert 0.9 * images <= first_images(Slow()) <= images


def test_a_new_line_starts_with_the_base_and_both_ends():
    histories = list(first_numbers(LAB, Session(), at(0.3)))
    assert histories[0].points == {}
    assert histories[0].base is None
    assert histories[0].total == 0
    end = histories[-1]
    assert end.base.accuracy == TINY.accuracy()
    assert list(end.curve()) == [0.0, 0.3, 1.0]
    assert end.total == len(TINY)
    assert end.points[at(0.0)].accuracy == TINY.accuracy(ONE)
    assert end.points[at(1.0)].accuracy == TINY.accuracy(TWO)
    assert end.here is end.points[at(0.3)]
    assert end.here.accuracy.n == FIRST


@pytest.mark.parametrize("weight", [-0.5, 0.0, 0.36, 1.0, 1.5])
def test_the_number_is_that_of_an_independent_forward_pass(weight):
    history = walked(at(weight)).history
    assert history.position == weight
    assert history.whole(at(weight))
    assert history.here.accuracy == Accuracy(
        independent(tiny_clip(), tiny_task(), *in_between(weight)), len(TINY)
    )


def test_no_adapter_can_be_an_end():
    state = BlendState("colours", BASE, "0/two", 0.5)
    session = Session()
    list(first_numbers(LAB, session, state))
    assert session.history.curve()[0.0].accuracy == TINY.accuracy()
    assert remaining(LAB, session).here.accuracy == TINY.accuracy(interpolate(NONE, TWO, 0.5))


def test_a_first_estimate_never_replaces_a_result():
    session = walked(at(0.2))
    whole = session.history.here
    session.add(at(0.2), Point(whole.predictions[:FIRST], Accuracy(0, FIRST)))
    assert session.history.here is whole


def test_a_request_that_was_overtaken_is_dropped():
    requests = Requests()
    assert requests.take(10.0)
    assert requests.take(None)
    assert requests.take(11.5)
    assert not requests.take(11.0)
    assert requests.overtaken(11.0)
    assert not requests.overtaken(11.5)
    assert not requests.overtaken(None)
    assert requests.take(float("nan"))
    assert requests.take(11.5)


class Distracted(Bench):
    """The visitor moves on while a number is computed."""

    session: Session

    def logits(self, *args, **kwargs):
        self.session.visit(at(0.9))
        return super().logits(*args, **kwargs)


def test_a_result_for_a_place_that_was_left_is_not_shown(monkeypatch):
    session = walked(at(0.0))
    distracted = Distracted(tiny_clip(), tiny_task(), precision="float32")
    distracted.session = session
    monkeypatch.setattr(TinyLab, "bench", lambda self, task: distracted)
    assert list(first_numbers(LAB, session, at(0.4))) == []
    assert remaining(LAB, session) is None  # at 0.9 nothing was measured yet
    assert session.history.state == at(0.9)


def test_a_thumb_that_moves_on_is_not_waited_for():
    session = Session()
    list(first_numbers(LAB, session, at(0.4)))
    mover = threading.Timer(0.01, session.visit, (at(0.5),))
    mover.start()
    assert remaining(LAB, session) is None
    mover.join()
    assert not session.history.whole(at(0.4))


def test_positions_passed_by_are_filled_in_while_the_visitor_rests():
    session = Session()
    for weight in (0.2, 0.4, 0.6):
        list(first_numbers(LAB, session, at(weight)))
    assert remaining(LAB, session)
    histories = list(filled_in(LAB, session))
    assert [w.whole(at(0.4)) for w in histories] == [True, True]
    assert [w.whole(at(0.2)) for w in histories] == [False, True]
    assert session.history.points[at(0.2)].accuracy == TINY.accuracy(interpolate(ONE, TWO, 0.2))
    assert list(filled_in(LAB, session)) == []


def test_what_was_cleared_is_not_filled_in():
    session = Session()
    for weight in (0.2, 0.4, 0.6):
        list(first_numbers(LAB, session, at(weight)))
    assert remaining(LAB, session)
    histories = filled_in(LAB, session)
    assert next(histories).whole(at(0.4))
    session.change(History.cleared)
    assert list(histories) == []
    assert list(session.history.curve()) == [0.0, 0.6, 1.0]


async def components_kept() -> tuple[int, int]:
    """How many components Gradio keeps of a visitor, before and after a few updates."""
    with gr.Blocks() as page:
        words, said = gr.Textbox(), gr.HTML()
        words.change(lambda x: (gr.skip(), x), words, [words, said])
        words.submit(lambda x: (x, gr.skip()), words, [words, said])
    state = SessionState(page)
    before = len(state.blocks_config.blocks)
    for text in "abcde":
        for event in page.fns.values():
            assert text in (await page.process_api(event, [text], state=state))["data"]
    return before, len(state.blocks_config.blocks)


def test_what_gradio_holds_of_a_visitor_does_not_grow(monkeypatch):
    monkeypatch.setattr(SessionState, "__setitem__", SessionState.__setitem__)
    gradio_sessions.bound()
    before, after = asyncio.run(components_kept())
    assert after == before


def test_gradio_still_keeps_copies_by_itself(monkeypatch):
    """Once it does not, `gradio_sessions.bound` is no longer needed: its docstring says what to do."""
    monkeypatch.setattr(SessionState, "__setitem__", gradio_sessions._store)
    before, after = asyncio.run(components_kept())
    assert after > before


def test_another_way_of_keeping_components_is_said(monkeypatch):
    monkeypatch.setattr(gradio_sessions, "_store", lambda self, key: None)
    with pytest.raises(RuntimeError, match="how Gradio"):
        gradio_sessions.bound()


def test_visitors_share_nothing():
    first, second = walked(at(0.4)), copy.deepcopy(walked(at(0.8)))
    assert second.history == History()
    assert first.history.state == at(0.4)
    assert second.requests.take(0.0)


def test_coming_back_to_a_pair_finds_its_curve():
    session = walked(at(0.4))
    list(first_numbers(LAB, session, BlendState("colours", "0/two", BASE, 0.4)))
    assert len(session.history.curve()) == 3
    assert session.history.curve()[1.0].accuracy == TINY.accuracy()
    again = next(iter(first_numbers(LAB, session, at(0.0))))
    assert again.whole(at(0.4))
    assert again.position == 0.0
    assert again.since == again.state


@pytest.mark.slow
def test_a_visitor_who_stays_long_does_not_fill_the_memory():
    history = walked(at(0.4)).history
    point = history.here
    for i in range(MEASUREMENTS):
        history = history.add(BlendState("colours", "0/two", str(i)), point)
    assert len(history.points) == MEASUREMENTS
    assert {Base("colours"), at(0.0), at(0.4), at(1.0)} <= set(history.points)


def test_swapping_turns_the_curve_round():
    history = walked(at(0.3)).history
    turned = blend.swapped(history)
    assert turned.state == BlendState("colours", "0/two", "0/one", 0.7)
    assert {w: p.accuracy for w, p in turned.curve().items()} == {
        mirror(w): p.accuracy for w, p in history.curve().items()
    }
    assert blend.swapped(turned) == history
    assert blend.swapped(History()) == History()


def test_clearing_keeps_the_ends_and_the_place():
    session = walked(BlendState("colours", "0/two", BASE, 0.1), at(0.2), at(0.4), at(0.6))
    history = session.change(History.cleared)
    assert list(history.curve()) == [0.0, 0.6, 1.0]
    assert history.since == history.state
    assert history.base
    assert BlendState("colours", "0/two", BASE, 0.1) in history.points
    assert History().cleared() == History()


def test_changes_are_counted_from_where_the_visitor_last_rested():
    session = walked(at(0.0))
    list(first_numbers(LAB, session, at(0.5)))  # passed by: first images only
    list(first_numbers(LAB, session, at(1.0)))
    history = session.history
    assert (history.since, history.state) == (at(0.0), at(1.0))
    before, after = TINY.predictions(ONE), TINY.predictions(TWO)
    found = changes(history.points[history.since], history.here)
    assert [c.image for c in found] == (before != after).nonzero().flatten().tolist() != []
    assert all((c.before, c.after) == (before[c.image], after[c.image]) for c in found)


def test_changes_among_images_measured_at_both_places():
    def point(*classes):
        return Point(torch.tensor(classes, dtype=torch.int16), Accuracy(0, len(classes)))

    assert changes(point(0, 1, 2, 3), point(0, 2, 2)) == [Change(1, 1, 2)]
    assert changes(None, point(1)) == [] == changes(point(1), None)


def ends(a: torch.Tensor, b: torch.Tensor) -> History:
    """A history from end to end with these predictions."""
    n = len(TINY)
    points = {Base("colours"): a, at(0.0): a, at(1.0): b}
    return History(
        at(1.0),
        at(0.0),
        {
            state: Point(classes.to(torch.int16), Accuracy(n // 2, n))
            for state, classes in points.items()
        },
    )


def test_changed_images_show_gains_and_losses_and_say_what_is_hidden():
    n = len(TINY)
    right, wrong = TINY.labels, (TINY.labels + 1) % 4
    html = blend_parts.changed(
        ends(
            torch.cat([right[: n // 2], wrong[n // 2 :]]),
            torch.cat([wrong[: n // 2], right[n // 2 :]]),
        ),
        TINY,
    )
    assert f"✓ {n // 2} now right" in html
    assert f"✗ {n // 2} now wrong" in html
    assert f"and {n - images.TILES} more" in html
    assert html.count('<li class="right"') + html.count('<li class="wrong"') == images.TILES
    assert html.count('<li class="wrong"') >= 3
    assert "No prediction changed." in blend_parts.changed(ends(right, right), TINY)


def test_class_names_are_text_not_html():
    task = tiny_task()
    object.__setattr__(
        evil := copy.copy(task), "classes", ("<script>x</script>", *task.classes[1:])
    )
    bench = copy.copy(TINY)
    bench.task = evil
    html = blend_parts.changed(ends(torch.zeros(len(TINY)), torch.ones(len(TINY))), bench)
    assert "<script" not in html
    assert "&lt;script" in html


POINTS = [
    (0.0, Accuracy(60, 100)),
    (0.5, Accuracy(45, 100)),
    (1.0, Accuracy(70, 100)),
    (1.2, Accuracy(10, 50)),
]


def test_the_drawing_is_well_formed_and_says_what_it_shows():
    svg = ElementTree.fromstring(path_svg(POINTS, total=100, base=Accuracy(30, 100), at=0.5))
    assert svg.get("role") == "img"
    assert svg.get("aria-label")
    said = svg.find("desc").text
    assert "3 positions" in said
    assert "Barrier 20.0 points at λ = 0.50" in said
    assert str(Accuracy(60, 100)) in said
    kinds = [g.get("class").split() for g in svg.iter("g")]
    assert len(kinds) == len(POINTS)
    assert "at" in kinds[1]
    assert "first" in kinds[3]
    assert (
        len([e for e in svg.iter("line") if e.get("class") == "curve"]) == 2
    )  # a first estimate is no part of the curve


def test_the_axes_never_move():
    def frame(svg: str) -> list[str]:
        return re.findall(r'<text class="tick"[^>]*>[^<]*|<line class="grid"[^>]*', svg)

    assert frame(path_svg(POINTS, total=100)) == frame(path_svg([], total=0)) != []


def test_the_barrier_is_that_of_the_library():
    depth, weight = barrier(POINTS)
    assert (
        (depth, weight)
        == highest_barrier([w for w, _ in POINTS], [a.value for _, a in POINTS])
        == (pytest.approx(0.2), 0.5)
    )
    assert barrier(POINTS[1:]) is None
    assert barrier(POINTS[:1] + POINTS[2:])[0] == 0


def test_less_than_an_image_is_no_barrier_in_words_either():
    flat = [(0.0, Accuracy(60, 100)), (0.5, Accuracy(60, 100)), (1.0, Accuracy(61, 100))]
    first = [
        (0.0, Accuracy(60, 100)),
        (0.5, Accuracy(1, 50)),
        (1.0, Accuracy(60, 100)),
    ]  # a first estimate is no part of a line
    svg = ElementTree.fromstring(
        path_svg(flat, total=100, beside=[Line("factors", "in the factors", first)])
    )
    assert "No barrier. Beside it: in the factors, no barrier." in svg.find("desc").text
    assert not [e for e in svg.iter("line") if e.get("class") == "barrier"]


def test_the_table_has_every_number_of_the_curve():
    history = walked(at(0.2), at(-0.3)).history
    rows = cells(blend_parts.table(history))
    assert [row[1] for row in rows] == ["", "−0.30", "0.00", "0.20", "1.00"]
    assert [row[0] for row in rows] == ["base", "", "A", "", "B"]
    assert [int(row[5]) for row in rows[1:]] == [
        p.accuracy.correct for p in history.curve().values()
    ]


def test_before_anything_is_known_the_page_says_so():
    assert "Loading" in blend_parts.number(History())
    assert "Measuring" in blend_parts.number(History(at(0.0)))
    assert ElementTree.fromstring(blend_parts.chart(History())) is not None
    assert "Move λ" in blend_parts.changed(History(), None)


def test_a_key_that_is_not_on_the_menu_is_answered_with_one_that_is():
    said = {"task": "colours", "a": "../../etc", "b": BASE}
    state = read(BlendState, Reading(LAB, Source.CONTROLS), said)
    assert (state.a, state.b) == ("0/one", BASE)
    assert LAB.first("colours", 2) == ["0/one", "0/two"]
    assert LAB.one("colours", "0/two") == "0/two"
    assert LAB.one("colours", BASE) == LAB.one("colours", ["0/two"]) == "0/one"
    for task in ("elsewhere", None, ["colours"], {}):
        with pytest.raises(ValueError, match="choose one of the tasks"):
            LAB.check(task)


@pytest.mark.slow
def test_the_page_is_built_without_waking_the_model_and_asks_for_no_web_font():
    async def built():
        return build()

    page = asyncio.run(built())  # outside of a loop gradio makes one and never closes it
    config = json.dumps(page.get_config_file(), default=str)
    assert all(f"?view={view.name}" in config and f"open-{view.name}" in config for view in VIEWS)
    assert not page.analytics_enabled
    assert "googleapis" not in config
    assert page._queue.max_size is not None
    from copra_lab.page.components.theme import THEME

    css = THEME._get_theme_css()
    assert not re.search(r"@font-face|@import|url\(.?(https?:)?//", css)
    assert not THEME._stylesheets


def test_a_lab_without_adapters_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no adapter to show"):
        build(Lab((tmp_path,)))


# --- in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_drag_and_arrow_keys_end_at_the_number_of_the_last_position(visit, truth, fresh):
    visitor = visit()
    visitor.grab()
    visitor.drag(0.2, 0.5, 0.9, 1.3, 0.62)
    visitor.drop()
    shown = visitor.settled()
    assert (
        float(shown["weight"])
        == float(visitor.thumb.input_value())
        == pytest.approx(0.62, abs=0.021)
    )
    assert int(shown["n"]) == len(fresh[1].test)
    assert int(shown["correct"]) == close_to(truth(float(shown["weight"])))
    before = float(shown["weight"])
    visitor.thumb.press("ArrowRight")
    shown = visitor.settled()
    assert float(shown["weight"]) == pytest.approx(before + 0.02)
    assert int(shown["correct"]) == close_to(truth(float(shown["weight"])))
    assert f"{100 * Accuracy(int(shown['correct']), int(shown['n'])).value:.1f}" in shown["text"]
    visitor.quiet()
    assert visitor.settled() == shown


@pytest.mark.browser
def test_a_burst_of_positions_never_leaves_a_stale_number(visit, truth):
    visitor = visit()
    visitor.thumb.evaluate("""async thumb => {
      for (let i = 0; i < 30; i++) {
        thumb.value = (-0.5 + 0.2 * ((i * 7) % 11)).toFixed(2);
        thumb.dispatchEvent(new Event('input', {bubbles: true}));
        if (i % 3) await new Promise(done => setTimeout(done, i));
      }
      thumb.value = '0.46';
      thumb.dispatchEvent(new Event('input', {bubbles: true}));
    }""")
    shown = visitor.settled(0.46)
    assert int(shown["correct"]) == close_to(truth(0.46))
    visitor.quiet()
    assert visitor.settled(0.46) == shown


@pytest.mark.browser
def test_two_visitors_at_once_get_their_own_numbers(visit, truth):
    one, two = visit(), visit()
    one.grab()
    two.grab()
    for i in range(4):
        one.drag(1.4 - 0.4 * i)
        two.drag(-0.4 + 0.4 * i)
    one.drag(-0.3)
    two.drag(1.36)
    one.drop()
    two.drop()
    shown = [visitor.settled() for visitor in (one, two)]
    weights = [float(s["weight"]) for s in shown]
    assert weights == pytest.approx([-0.3, 1.36], abs=0.021)
    assert [int(s["correct"]) for s in shown] == [close_to(truth(w)) for w in weights]


@pytest.mark.browser
def test_a_fresh_adapter_can_be_blended_to_a_place_used_nowhere_else(visit, fresh):
    _, task, adapter = fresh
    lab, clip = Lab(), load_clip()
    visitor = visit()
    labels = [
        label for label, key in Lab((FOLDER, fresh[0])).menu(task.name) if key.startswith("1/")
    ]
    good, broken = sorted(labels)
    visitor.choose("blend-b", broken)
    assert "copy it again" in visitor.page.locator("#blend-number .trouble").inner_text()
    visitor.choose("blend-b", good)
    visitor.page.wait_for_function(
        "document.querySelectorAll('#blend-chart .mark-end').length == 2"
    )
    visitor.grab()
    visitor.drag(0.3, 0.78)
    visitor.drop()
    visitor.thumb.press("ArrowLeft")
    shown = visitor.settled()
    first = lab.adapter(task.name, lab.first(task.name, 1)[0])
    assert int(shown["correct"]) == close_to(
        independent(
            clip, task, (first, 1 - float(shown["weight"])), (adapter, float(shown["weight"]))
        )
    )


@pytest.mark.browser
def test_typing_swapping_clearing_and_the_table(visit):
    visitor = visit()
    field = visitor.page.locator("#blend-weight input[type=number]")
    field.fill("99")
    field.press("Tab")
    visitor.settled(1.5)
    assert float(visitor.thumb.input_value()) == 1.5
    field.fill("0.3")
    shown = visitor.settled(0.3)
    facts = visitor.page.locator("#blend-number dd").all_inner_texts()
    visitor.page.click("#blend-swap")
    swapped = visitor.settled(0.7)
    assert swapped["correct"] == shown["correct"]
    after = visitor.page.locator("#blend-number dd").all_inner_texts()
    assert after[:3] == [facts[0], facts[2], facts[1]]
    visitor.quiet()
    visitor.page.wait_for_function("document.querySelectorAll('#blend-chart .point').length >= 4")
    visitor.page.click("#blend-clear")
    visitor.page.wait_for_function("document.querySelectorAll('#blend-chart .point').length == 3")
    visitor.page.get_by_text("The curve in numbers").click()
    rows = visitor.page.locator("#blend-table tbody tr")
    rows.first.wait_for()
    assert rows.count() == 4
    assert swapped["correct"] in rows.nth(2).inner_text().split("\t")


@pytest.mark.browser
def test_every_task_brings_its_own_adapters_and_numbers(visit):
    lab, clip = Lab(), load_clip()
    tasks = list(lab.tasks().items())
    assert len(tasks) >= 2
    visitor = visit()
    name, title = tasks[1]
    before = visitor.settled(0.0)["correct"]  # the two tasks may have as many images
    visitor.choose("blend-task", title)
    about = visitor.page.locator("#blend-about")
    visitor.page.wait_for_function(
        "text => document.querySelector('#blend-about').innerText.trim() === text",
        arg=lab.about(name),
    )
    assert about.is_visible()
    total = len(load_task(name, side=clip.side).test)
    changed = "([n, c]) => { const d = document.querySelector('#blend-number .now').dataset; return d.n == n && d.correct != c; }"
    visitor.page.wait_for_function(changed, arg=[total, before])
    shown = visitor.settled(0.0)
    bench = Bench(clip, load_task(name, side=clip.side), precision="float32")
    assert int(shown["correct"]) == close_to(
        bench.accuracy(lab.adapter(name, lab.first(name, 1)[0])).correct
    )


@pytest.mark.browser
def test_a_link_opens_the_prune_view_and_switches_follow_mouse_and_keyboard(
    visit, pruned_truth, fresh
):
    visitor = visit("prune")
    layers = visitor.page.locator("#prune-layers input")
    lab = Lab()
    whole = lab.adapter(fresh[1].name, lab.one(fresh[1].name, None))
    assert not visitor.page.locator("#view-blend").is_visible()
    assert visitor.page.locator("nav a[aria-current]").inner_text() == "Prune"
    assert layers.count() == len(layers_of(whole))
    assert visitor.page.locator("#blend-number .now").get_attribute("data-n") is None
    shown = visitor.pruned()
    assert int(shown["n"]) == len(fresh[1].test)
    assert int(shown["correct"]) == close_to(pruned_truth(shown))
    first, second, *_, last = layers_of(whole)
    visitor.switch(second).click()
    shown = visitor.pruned()
    assert str(second) not in shown["layers"].split()
    assert int(shown["correct"]) == close_to(pruned_truth(shown))
    visitor.switch(first).focus()
    visitor.page.keyboard.press("Space")
    for _ in layers_of(whole)[1:]:
        visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("Space")
    visitor.switch("k", "kinds").click()
    shown = visitor.pruned()
    assert not {str(first), str(second), str(last)} & set(shown["layers"].split())
    assert shown["kinds"] == "q v"
    assert int(shown["correct"]) == close_to(pruned_truth(shown))
    assert f"{100 * Accuracy(int(shown['correct']), int(shown['n'])).value:.1f}" in shown["text"]
    cells = visitor.page.locator("#prune-chart .strip li").all_inner_texts()
    assert cells[:2] == ["0", "0"]
    assert cells[-1] == "0"
    assert set(cells[2:-1]) == {"67"}


@pytest.mark.browser
def test_dragging_sparsity_ends_at_the_number_of_the_last_position(visit, pruned_truth):
    visitor = visit("prune")
    visitor.page.get_by_role("button", name="Odd", exact=True).click()
    visitor.pruned()
    visitor.grab()
    visitor.drag(20, 90, 35, 60)
    visitor.drop()
    shown = visitor.pruned()
    assert shown["sparsity"] == visitor.thumb.input_value()
    assert int(shown["sparsity"]) == pytest.approx(60, abs=1)
    assert int(shown["correct"]) == close_to(pruned_truth(shown))
    visitor.thumb.press("ArrowRight")
    following = visitor.pruned()
    assert int(following["sparsity"]) == int(shown["sparsity"]) + 1
    assert int(following["correct"]) == close_to(pruned_truth(following))
    visitor.quiet("prune")
    assert visitor.pruned() == following
    field = visitor.page.locator("#prune-sparsity input[type=number]")
    field.fill("999")
    field.press("Tab")
    shown = visitor.pruned()
    base = visitor.page.locator("#prune-number dd").first.inner_text()
    assert shown["sparsity"] == "100"
    assert f"{100 * Accuracy(int(shown['correct']), int(shown['n'])).value:.1f}" in base


@pytest.mark.browser
def test_buttons_clearing_and_the_table_of_settings(visit, pruned_truth, fresh):
    visitor = visit("prune")
    have = [int(t) for t in visitor.pruned()["layers"].split()]
    for name in ("None", "Even", "Low ⅓", "All"):
        visitor.page.get_by_role("button", name=name, exact=True).click()
        visitor.page.wait_for_function("n => document.querySelectorAll('#prune-layers input:checked').length === n",
                                       arg={"None": 0, "Even": len(have[::2]), "Low ⅓": -(-len(have) // 3), "All": len(have)}[name])  # fmt: skip
        shown = visitor.pruned()
        assert int(shown["correct"]) == close_to(pruned_truth(shown))
    visitor.page.get_by_text("All settings of this adapter").click()
    rows = visitor.page.locator("#prune-table tbody tr")
    rows.nth(4).wait_for()
    assert rows.count() == 5
    assert shown["correct"] in rows.nth(1).inner_text().split("\t")
    visitor.page.click("#prune-clear")
    visitor.page.wait_for_function("document.querySelectorAll('#prune-table tbody tr').length == 2")


@pytest.mark.browser
def test_two_visitors_prune_at_once(visit, pruned_truth):
    one, two = visit("prune"), visit("prune")
    for i in range(3):
        one.switch(2 * i).click()
        two.switch(2 * i + 1).click()
    shown = [visitor.pruned() for visitor in (one, two)]
    assert shown[0]["layers"] != shown[1]["layers"]
    assert [int(s["correct"]) for s in shown] == [close_to(pruned_truth(s)) for s in shown]


@pytest.mark.browser
def test_a_broken_adapter_is_said_in_words_and_another_one_keeps_the_switches(visit, fresh):
    visitor = visit("prune")
    visitor.switch(0).click()
    layers = visitor.pruned()["layers"]
    good, broken = sorted(
        label
        for label, key in Lab((FOLDER, fresh[0])).adapters(fresh[1].name)
        if key.startswith("1/")
    )
    visitor.choose("prune-adapter", broken)
    assert "copy it again" in visitor.page.locator("#prune-number .trouble").inner_text()
    visitor.choose("prune-adapter", good)
    visitor.page.locator("#prune-number .now").wait_for()
    shown = visitor.pruned()
    assert shown["layers"] == layers
    expected = independent(
        load_clip(), fresh[1], (cut(fresh[2], list(map(int, layers.split()))), 1)
    )
    assert int(shown["correct"]) == close_to(expected)


@pytest.mark.browser
def test_views_have_addresses_and_keep_what_was_set(visit):
    visitor = visit()
    visitor.thumb.press("ArrowRight")
    visitor.settled(0.02)
    visitor.page.get_by_role("link", name="Prune").click()
    assert visitor.page.url.endswith("?view=prune")
    visitor.pruned()
    visitor.switch(1).click()
    layers = visitor.pruned()["layers"]
    visitor.page.go_back()
    visitor.page.locator("#view-blend").wait_for()
    assert not visitor.page.locator("#view-prune").is_visible()
    assert visitor.settled(0.02)
    visitor.page.get_by_role("link", name="Prune").press("Enter")
    visitor.page.locator("#view-prune").wait_for()
    assert visitor.pruned()["layers"] == layers
    assert "Prune" in visitor.page.title()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_prune_view_fits_and_nothing_jumps(visit, width):
    visitor = visit("prune", width=width, height=844)
    visitor.page.get_by_text("All settings of this adapter").click()
    visitor.page.locator("#prune-table table").wait_for()
    tops = """() => ['#prune-presets', '#prune-layers', '#prune-chart', '#prune-sparsity', '#prune-changed', '#prune-more', '#footer'].map(id => {
      const box = document.querySelector(id).getBoundingClientRect(); return [box.top + scrollY, box.height]; }).flat().slice(0, 13)"""
    before = visitor.page.evaluate(tops)
    visitor.switch(1).click()
    visitor.page.get_by_role("button", name="None", exact=True).click()
    visitor.pruned()
    assert visitor.page.evaluate(tops) == pytest.approx(before, abs=1)
    visitor.page.get_by_role("button", name="High ⅓", exact=True).click()
    visitor.grab()
    visitor.drag(40, 75)
    visitor.drop()
    visitor.pruned()
    assert visitor.page.evaluate(tops) == pytest.approx(before, abs=1)
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    shown = [
        box
        for box in (
            e.bounding_box()
            for e in visitor.page.locator(".card, #prune-layers label, #prune-presets button").all()
        )
        if box
    ]
    assert shown
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in shown)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 760, 1280])
def test_the_page_fits_and_nothing_jumps_while_dragging(visit, width):
    visitor = visit(width=width, height=844)
    visitor.page.get_by_text("The curve in numbers").click()
    tops = """() => ['#blend-chart', '#blend-weight', '#blend-changed', '#blend-more', '#footer'].map(id => {
      const box = document.querySelector(id).getBoundingClientRect(); return [box.top + scrollY, box.height]; }).flat().slice(0, 7)"""
    visitor.page.locator("#blend-table table").wait_for()
    before = visitor.page.evaluate(tops)
    visitor.grab()
    visitor.drag(0.4, 1.2)
    visitor.drop()
    visitor.settled()
    assert visitor.page.evaluate(tops) == pytest.approx(before, abs=1)
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    cut = "[...document.querySelectorAll('.tiles li')].filter(li => li.getBoundingClientRect().bottom > li.parentElement.getBoundingClientRect().bottom + 1)"
    assert visitor.page.evaluate(f"{cut}.length") == 0
    cards = [e.bounding_box() for e in visitor.page.locator("#view-blend .card").all()]
    assert cards
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in cards)
