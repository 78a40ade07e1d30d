"""The Shapley view: values that are a layer game's own, sampled and exact; and in a browser on the
bundled CLIP.
"""

import gc
import math
import re
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from tiny import random_adapter, tiny_clip, tiny_task
from tiny_page import TINY, TinyLab, cells, handler
from visitor import Visitor

from copra_lab.adapters import NONE
from copra_lab.bench import Bench
from copra_lab.models import site_of
from copra_lab.page.state import layer_game as so
from copra_lab.page.state.lab import Lab, Own
from copra_lab.page.state.layer_game import Solving, Values
from copra_lab.page.state.schemas.blend import BlendState
from copra_lab.page.state.schemas.shapley import ShapleyState
from copra_lab.page.state.session import Session
from copra_lab.page.views.shapley import html as shapley_parts
from copra_lab.page.views.shapley import view as shapley
from copra_lab.pruning import layers_of
from copra_lab.shapley import Exact, LayerGame, all_coalitions, exact

LAB = TinyLab()
KEY = LAB.adapters("colours")[0][1]
ADAPTER = LAB.adapter("colours", KEY)


def solved(game: Solving) -> Values:
    while not game.done:
        game.advance()
    return game.state


def test_the_end_is_the_layer_games_own_exact_values():
    game = Solving(TINY, ADAPTER)
    steps = [game.advance() for _ in range(3)]
    held = {str(i): [n for n in ADAPTER.deltas if site_of(n)[1] == i] for i in layers_of(ADAPTER)}
    found, expected = solved(game), exact(LayerGame(TINY, ADAPTER, held), len(held))
    np.testing.assert_allclose(found.values, expected.values, atol=1e-12)
    np.testing.assert_allclose(found.by_size, expected.curve.by_size, atol=1e-12)
    assert found.exact
    assert not found.errors.any()
    assert found.asked == found.every == 8
    for v in [*steps, found]:
        assert v.values.sum() == pytest.approx(v.full - v.empty, abs=1e-12)
        assert (v.empty, v.full) == pytest.approx(
            (float(found.by_size[0]), float(found.by_size[-1]))
        )
        assert np.abs(v.of_images).max() <= 1 + 1e-12
    assert game.advance() is found  # nothing is left to do


def test_values_of_images_are_those_of_games_of_one_image():
    worth_ = np.random.default_rng(0).random((16, 5)) < 0.5
    found = Exact(worth_.astype(float)).values
    for image in range(5):
        order = {
            c.tobytes(): float(w) for c, w in zip(all_coalitions(4), worth_[:, image], strict=True)
        }
        np.testing.assert_allclose(
            found[:, image],
            exact(lambda x, o=order: np.array([o[r.tobytes()] for r in x]), 4).values,
            atol=1e-12,
        )


@pytest.mark.slow
@pytest.mark.parametrize("layers", [3, 7])
def test_each_step_shows_what_its_orders_say(monkeypatch, layers):
    """Worked out anew from the outcomes of all coalitions: the same draws in the same order."""
    monkeypatch.setattr(so, "ORDERS", 4)
    clip = tiny_clip(layers=layers)
    bench = Bench(clip, tiny_task(), precision="float32")
    adapter = random_adapter(clip, seed=1, towers=("vision",), size=0.3)
    every = LayerGame(bench, adapter).outcomes(all_coalitions(layers))
    game, rng, seen, gains = Solving(bench, adapter), np.random.default_rng(0), set(), []
    place = 1 << np.arange(layers)[::-1]
    while len(gains) < 4 and len(seen) < 2**layers:
        order, total = rng.permutation(layers), np.zeros((layers, len(bench)))
        for o in (order, order[::-1]):
            inside = [0, *np.cumsum(place[o]).tolist()]
            seen |= set(inside)
            total[o] += np.diff(every[inside], axis=0) / 2
        gains.append(total)
        now = game.advance()
        assert (now.of_images == sum(gains) / len(gains)).all()
        means = np.mean(gains, axis=2)
        if len(gains) > 1:
            expected = means.std(0, ddof=1) / len(gains) ** 0.5
            np.testing.assert_allclose(now.errors, expected, atol=1e-12)
        assert (now.asked, now.every, now.exact) == (len(seen), 2**layers, False)
        assert game.sampled == (len(gains) == 4)
    last = solved(game)
    assert (last.of_images == Exact(every).values).all()
    assert not last.errors.any()


def test_a_game_that_failed_goes_on_where_it_was(monkeypatch):
    game, good = Solving(TINY, ADAPTER), solved(Solving(TINY, ADAPTER))
    game.advance()
    with monkeypatch.context() as m:
        m.setattr(game, "_game", None)
        with pytest.raises(AttributeError):
            solved(game)
    assert (solved(game).of_images == good.of_images).all()


def test_two_who_watch_share_one_game_and_get_the_same():
    game, seen = Solving(TINY, ADAPTER), []
    threads = [threading.Thread(target=lambda: seen.append(solved(game))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(v is seen[0] for v in seen)
    assert len(seen) == 4


def test_who_watches_sees_the_end_that_another_reached():
    game = Solving(TINY, ADAPTER)
    watched = so.sharpened(game, lambda: True)
    assert not next(watched).exact
    end = solved(game)
    assert [v is end for v in watched] == [True]


def test_who_begin_at_once_get_one_game(monkeypatch):
    so._games.clear()

    class Slow(Solving):
        def __init__(self, *values):
            time.sleep(0.05)
            super().__init__(*values)

    monkeypatch.setattr(so, "Solving", Slow)
    with ThreadPoolExecutor(4) as pool:
        games = list(pool.map(lambda _: so.solving(LAB, "colours", KEY), range(4)))
    assert all(game is games[0] for game in games)
    assert (
        LAB.few("colours", 50) is LAB.few("colours", 50) is not LAB.few("colours", 60)
    )  # and each task's images are prepared once


def test_nobody_waits_for_the_game_of_another_task(monkeypatch):
    so._games.clear()
    begun, goes_on, known = threading.Event(), threading.Event(), so.solving(LAB, "colours", KEY)

    class New(Solving):
        def __init__(self, *values):
            begun.set()
            assert goes_on.wait(20)
            super().__init__(*values)

    monkeypatch.setattr(so, "Solving", New)
    with ThreadPoolExecutor(2) as pool:
        new = pool.submit(so.solving, LAB, "colours", "0/two")
        assert begun.wait(20)
        try:
            assert pool.submit(so.solving, LAB, "colours", KEY).result(20) is known
            assert not new.done()
        finally:
            goes_on.set()


@pytest.mark.slow
def test_a_game_keeps_nothing_that_its_visitor_let_go():
    mine = Own("colours", 1, replace(ADAPTER, provenance={"method": "lora"}), 1)
    gone, lab = weakref.ref(mine), replace(LAB, own=(mine,))
    so._games.clear()
    so.solving(lab, "colours", KEY)
    del lab, mine
    gc.collect()
    assert gone() is None


def test_an_adapter_without_layers_there_is_refused_in_words():
    with pytest.raises(ValueError, match="nothing in the image tower"):
        Solving(TINY, NONE)


def test_watching_ends_when_exact_or_when_the_visitor_leaves():
    so._games.clear()
    session = Session()
    frames = list(shapley.watching(LAB, "colours", KEY, None, session, 1))
    assert 'data-asked="8"' in frames[-1]["number"]
    assert "exact" in frames[-1]["number"]
    looked_at = session.history.state.layer
    assert looked_at in layers_of(ADAPTER)
    assert f"by layer {looked_at}" in frames[-1]["decided"]
    again = list(shapley.watching(LAB, "colours", KEY, 0, session, 2))
    assert session.history.state.layer == 0
    assert "exact" in again[-1]["number"]

    so._games.clear()
    watching = shapley.watching(LAB, "colours", KEY, None, session, 3)
    next(watching)
    session.requests.take(4)  # asked for something else
    assert list(watching) == [{}]  # the last comes to the page twice
    late = list(shapley.watching(LAB, "colours", KEY, None, session, 1))
    assert late == [{}]


ELSEWHERE = BlendState("colours", "0/one", "0/two", 0.5)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_game_that_is_late_moves_nobody_who_has_gone_on(monkeypatch, breaks):
    """That of a task that is new takes a minute to make: meanwhile the visitor asks for something
    else.
    """
    session, made = Session(), shapley.solving

    def slow(lab, task, key):
        session.requests.take(2)
        session.visit(ELSEWHERE)
        if breaks:
            raise ValueError("copy it again")
        return made(lab, task, key)

    monkeypatch.setattr(shapley, "solving", slow)
    assert list(shapley.watching(LAB, "colours", KEY, None, session, 1)) == [{}]
    assert session.history.state == ELSEWHERE


@pytest.mark.parametrize(
    "to", [ELSEWHERE, ShapleyState("colours", KEY, 0), ShapleyState("colours", KEY, 2)]
)
def test_who_leaves_or_chooses_a_layer_before_the_first_values_is_let(monkeypatch, to):
    session = Session()

    class Game(Solving):
        def advance(self):
            if self.state is None:
                session.visit(to)
            return super().advance()

    game = Game(TINY, ADAPTER)
    monkeypatch.setattr(shapley, "solving", lambda lab, task, key: game)
    frames = list(shapley.watching(LAB, "colours", KEY, None, session, 1))
    assert session.history.state == to
    assert game.done == (to != ELSEWHERE)
    assert frames[1:] == [{}] if to == ELSEWHERE else f"by layer {to.layer}" in frames[1]["decided"]


def test_coming_back_finds_the_layer_that_was_looked_at_and_its_address():
    session = Session()
    list(shapley.watching(LAB, "colours", KEY, None, session, 1))
    layer = next(i for i in layers_of(ADAPTER) if i != session.history.state.layer)
    shapley.looked(LAB, "colours", KEY, layer, session)
    session.visit(ELSEWHERE)
    first, *_ = shapley.watching(LAB, "colours", KEY, layer, session, 2, "?")
    assert session.history.state == ShapleyState("colours", KEY, layer)
    assert first["link"] == f"?view=shapley&layer={layer}"
    assert first["layer"]["value"] == layer


JUNK = [("elsewhere", KEY, 0), ([], {}, None), (None, None, "x")]


@pytest.mark.slow
@pytest.mark.parametrize("values", JUNK)
def test_junk_is_answered_in_words(values):
    *_, last = shapley.watching(LAB, *values, Session(), None)
    assert 'role="alert"' in last["number"]
    assert "choose one of the tasks" in last["number"]
    assert "<rect" not in last["bars"]
    assert "appear here" in last["decided"]
    assert cells(re.sub("<!--.*?-->", "", last["table"])) == []
    assert "choose one of the tasks" in shapley.looked(LAB, *values[:2], 0, Session())["decided"]
    assert (
        "has no layer" in shapley.looked(LAB, "colours", KEY, values[2] or 99, Session())["decided"]
    )
    assert handler(LAB, "watch", "shapley")
    assert handler(LAB, "look", "shapley")


def test_another_layer_shows_other_images():
    so._games.clear()
    session = Session()
    list(shapley.watching(LAB, "colours", KEY, None, session, 1))
    for layer in layers_of(ADAPTER):
        pieces = shapley.looked(LAB, "colours", KEY, layer, session)
        assert session.history.state.layer == layer
        assert f"by layer {layer}" in pieces["decided"]
        assert pieces["bars"].count("chosen") == 1


def test_what_is_drawn():
    of_images = np.array([[0.5, -0.25, 0.0, 0.25], [0.0, 0.0, 0.0, 0.0]])
    sampled = Values(
        (3, 7), of_images, np.array([0.05, math.inf]), np.array([0.25, 0.3, 0.375]), 4, 16
    )
    over = Values((3, 7), of_images, np.zeros(2), np.array([0.25, 0.3, 0.375]), 16, 16, exact=True)
    assert "sampled" in shapley_parts.number(sampled)
    assert "<b>exact</b>" in shapley_parts.number(over)
    assert ">+12<" in shapley_parts.number(over).replace("+13", "+12")
    svg = ElementTree.fromstring(
        shapley_parts.bars(sampled, 3)
        .replace('<div class="chart shapley">', "")
        .removesuffix("</div>")
    )
    heights = [float(e.get("height")) for e in svg.iter("rect")]
    assert heights[0] > 20
    assert heights[1] == 1
    assert sum(e.get("class") == "whisker" for e in svg.iter("line")) == 1
    assert "whisker" not in shapley_parts.bars(over, 3)
    tiles = shapley_parts.decided(over, TINY, 3)
    assert "✓ 2 helped" in tiles
    assert "✗ 1 harmed" in tiles
    assert "○ 1 as they were" in tiles
    assert tiles.index("+50") < tiles.index("+25") < tiles.index("−25")
    assert "No image depends" in shapley_parts.decided(over, TINY, 7)
    assert "appear here" in shapley_parts.decided(None, None, -1)
    rows = cells(shapley_parts.table(over))
    assert rows[0] == ["3", "12.50", "12.50", "12.50"]
    assert rows[-1][:2] == ["all", "12.50"]
    assert cells(shapley_parts.table(sampled))[1][2] == ""
    assert "25 % at p = 0" in shapley_parts.curve(over)
    assert "38 % at p = 1" in shapley_parts.curve(over)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_values_sharpen_until_exact_and_a_layer_shows_its_images(browser, url, width):
    visitor = Visitor(browser, url, "shapley", width=width, height=900)
    page = visitor.page
    page.wait_for_function(
        "() => document.querySelector('#shapley-number .now')?.dataset.asked", timeout=120_000
    )
    layers = "#shapley-layer input"
    page.wait_for_function("n => document.querySelectorAll(n).length === 12", arg=layers)
    tops = """() => ['#shapley-bars', '#shapley-layer', '#shapley-curve', '#shapley-decided', '#footer'].map(id => {
      const box = document.querySelector(id).getBoundingClientRect(); return box.top + scrollY; })"""
    before = page.evaluate(tops)
    page.locator(layers).nth(2).check(force=True)
    page.wait_for_function(
        "() => document.querySelector('#shapley-decided h2').innerText.includes('layer 2')"
    )
    asked, every = page.evaluate(
        "() => { const d = document.querySelector('#shapley-number .now').dataset; return "
        "[Number(d.asked), Number(d.every)]; }"
    )
    if asked < every:  # the game may have been solved for a visitor before
        page.wait_for_function(
            "old => Number(document.querySelector('#shapley-number .now')?.dataset.asked) > old",
            arg=asked,
            timeout=120_000,
        )
    assert "layer 2" in page.inner_text("#shapley-decided h2")  # the stream keeps the choice
    assert page.evaluate(tops) == pytest.approx(before, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.wait_for_function(
        "() => { const d = document.querySelector('#shapley-number .now')?.dataset; return d && "
        "d.asked === d.every; }",
        timeout=300_000,
    )
    lab = Lab(precision="float32")
    task = next(iter(lab.tasks()))
    bench = lab.few(task, so.IMAGES)
    whole = bench.accuracy(lab.adapter(task, lab.one(task, None))).value - bench.accuracy().value
    assert float(
        page.evaluate("() => document.querySelector('#shapley-number .now')?.dataset.total")
    ) == pytest.approx(100 * whole, abs=1.01)
    page.locator(layers).nth(2).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_function(
        "() => document.querySelector('#shapley-decided h2').innerText.includes('layer 3')"
    )
    visitor.leave()
