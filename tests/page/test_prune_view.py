"""The Prune view: what its switches and its slider ask for, measured on a tiny CLIP. In a browser:
see test_app.py.
"""

import inspect
import re
import zipfile
from xml.etree import ElementTree

import gradio as gr
import numpy as np
import pytest
import torch
from by_hand import close_to, cut, independent
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_adapter, tiny_clip, tiny_task
from tiny_page import (
    ALL,
    EVERY,
    LAB,
    ONE,
    TINY,
    TWO,
    BrokenLab,
    cells,
    handler,
    prune_state,
    walked,
)

from copra_lab.adapters import Adapter, save_adapter
from copra_lab.adapters.peft_folder import WEIGHTS
from copra_lab.models import load_clip, site_of
from copra_lab.page.components import panels
from copra_lab.page.state import address as link
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.layer_game import Solving, Values
from copra_lab.page.state.measurement import FIRST, filled_in, first_numbers, remaining
from copra_lab.page.state.schemas.blend import BlendState
from copra_lab.page.state.schemas.fields import switched_on
from copra_lab.page.state.schemas.measured import Base
from copra_lab.page.state.schemas.prune import PruneState
from copra_lab.page.state.schemas.reading import Reading, Source, read
from copra_lab.page.state.session import History, Requests, Session
from copra_lab.page.state.switches import kept_sites, matrices_of, named, switches_of
from copra_lab.page.views.prune import html as prune_parts
from copra_lab.page.views.prune import keep_best
from copra_lab.page.views.prune import view as prune
from copra_lab.page.views.prune.sparsity_chart import sparsity_svg
from copra_lab.shapley import LayerGame, exact
from copra_lab.utils.statistics import Accuracy

WHOLE = prune_state("colours", "0/one")


def pruned(layers=None, kinds=None, percent=0) -> PruneState:
    return prune_state("colours", "0/one", layers, kinds, percent)


def by_hand(adapter: Adapter, state: PruneState) -> Adapter:
    return cut(adapter, state.kept.layers, state.kept.kinds, state.percent)


# --- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        pruned(),
        pruned((0, 2)),
        pruned((1,), ("q", "fc2")),
        pruned(None, ("v",), 30),
        pruned((0, 1), None, 85),
        pruned(percent=97),
        pruned((), None, 50),
    ],
)
def test_the_number_is_that_of_an_independent_forward_pass(state):
    history = walked(state).history
    assert history.state == state
    assert history.whole(state)
    assert history.here.accuracy == Accuracy(
        independent(tiny_clip(), tiny_task(), (by_hand(ONE, state), 1)), len(TINY)
    )


def test_everything_on_and_dense_is_the_whole_adapter():
    assert WHOLE.adapter(LAB) == ONE
    assert WHOLE.whole == WHOLE == pruned(percent=50).line
    assert walked(WHOLE).history.here.accuracy == TINY.accuracy(ONE)


@pytest.mark.parametrize(
    "state",
    [
        pruned(()),
        pruned(None, ()),
        pruned((), (), 40),
        pruned(percent=100),
        pruned((1,), ("v",), 100),
    ],
)
def test_nothing_on_or_nothing_left_is_the_base(state):
    history = walked(state).history
    assert torch.equal(history.here.predictions, history.base.predictions)
    assert history.here.accuracy == TINY.accuracy()
    assert prune_parts.left(LAB, state).count == 0


def test_a_visitor_comes_to_the_base_and_the_whole_adapter_first_and_once():
    session = Session()
    histories = list(first_numbers(LAB, session, pruned((0,), None, 20)))
    assert histories[0].points == {}
    assert histories[0].base is None
    assert list(histories[-1].points) == [Base("colours"), WHOLE, pruned((0,), None, 20)]
    assert histories[-1].here.accuracy.n == FIRST
    again = list(first_numbers(LAB, session, pruned((0, 1), None, 20)))
    assert len(again) == 1
    assert again[0].points[WHOLE] is histories[-1].points[WHOLE]


def test_a_curve_belongs_to_its_switches_and_the_slider_fills_it_in():
    session = walked(pruned((0,), None, 10))
    for percent in (20, 40, 60):
        list(first_numbers(LAB, session, pruned((0, 1), None, percent)))
    assert list(session.history.curve()) == [20, 40, 60]
    assert remaining(LAB, session)
    assert [w.whole(pruned((0, 1), None, 20)) for w in filled_in(LAB, session)] == [False, True]
    list(first_numbers(LAB, session, pruned((0,), None, 30)))
    assert list(session.history.curve()) == [10, 30]


def test_two_visitors_get_their_own_numbers():
    one, two = walked(pruned((0,))), walked(prune_state("colours", "0/two", (0,)))
    assert one.history.here.accuracy == TINY.accuracy(by_hand(ONE, pruned((0,))))
    assert two.history.here.accuracy == TINY.accuracy(by_hand(TWO, pruned((0,))))
    assert not set(one.history.points) & set(two.history.points) - {Base("colours")}


def test_going_to_another_view_abandons_what_this_one_waits_for():
    session = Session()
    list(first_numbers(LAB, session, pruned((0,))))
    elsewhere = BlendState("colours", "0/one", "0/two", 0.5)
    session.visit(elsewhere)
    assert remaining(LAB, session) is None
    assert not session.history.whole(pruned((0,)))
    assert session.history.base
    assert session.history.since == elsewhere


# --- what controls send ------------------------------------------------------------------------------------------------


def asked(history: History, *values, single=ALL):
    state, updates = prune.ask(LAB, history, *values, single)
    return state, {n: u["value"] if isinstance(u, dict) else u for n, u in updates.items()}


def test_a_new_visitor_finds_everything_switched_on():
    state, updates = asked(History(), "colours", "0/one", [], [], 0, single=[])
    assert state == WHOLE
    assert updates["adapter"] == "0/one"
    assert updates["layers"] == [0, 1, 2]
    assert updates["kinds"] == list(EVERY)
    assert "sparsity" not in updates
    assert updates["single"] == ALL
    assert updates["count"] == 3
    assert switches_of(random_adapter(tiny_clip(), kinds=("q", "v"), towers=("vision",))) == (
        (0, 1, 2),
        ("q", "v"),
    )


def test_switches_and_slider_say_where_to_go():
    history = walked(WHOLE).history
    state, updates = asked(history, "colours", "0/one", [2, 0], ["v", "q"], 30)
    assert state == pruned((0, 2), ("q", "v"), 30)
    assert updates == {"count": 2}
    stays = walked(pruned((0, 2))).history
    assert asked(stays, "colours", "0/one", [2, 0], list(EVERY), 30)[1] == {}
    assert asked(history, "colours", "0/one", [], list(EVERY), 0)[0] == pruned(())
    assert asked(history, "colours", "0/one", [2, 1, 0], list(EVERY), "7")[0] == pruned(percent=7)
    assert (
        prune.ask(LAB, history, "colours", "0/one", [0], ["q"], None, ALL) is None
    )  # somebody is typing


def test_another_adapter_keeps_the_switches_that_it_has():
    history = walked(pruned((0, 2), ("q",))).history
    state, updates = asked(history, "colours", "0/two", [0, 2, 7], ["q", "k"], 40)
    assert state == prune_state("colours", "0/two", (0, 2), ("q", "k"), 40)
    assert updates["layers"] == [0, 2]
    assert updates["kinds"] == ["q", "k"]
    assert asked(history, "colours", "../../etc", [0], ["q"], 0)[0].key == "0/one"


@pytest.mark.parametrize(
    ("value", "percent"),
    [(0, 0), (99.6, 100), ("12", 12), (1e9, 100), (-5, 0), (float("inf"), 100)],
)
def test_any_number_becomes_whole_percent(value, percent):
    controls = {"task": "colours", "key": "0/one", "percent": value}
    state = read(PruneState, Reading(LAB, Source.CONTROLS), controls)
    assert state.percent == percent


JUNK = [
    (("elsewhere", "0/one", [], [], 0), "choose one of the tasks"), ((None, None, None, None, 0), "choose one of the tasks"),
    (("colours", "0/one", None, ["q"], 0), "layer must be a list"), (("colours", "0/one", [0], {"q": 1}, 0), "kind must be a list"),
    (("colours", "0/one", [99], ["q"], 0), "no layer 99; it has 0, 1, 2"), (("colours", "0/one", [[0], {}], ["q"], 0), r"no layer \[0\]"),
    (("colours", "0/one", [0], ["<b>"], 0), "no kind '<b>'; it has q, k, v"), (("colours", "0/one", [0], ["q"], "much"), "sparsity must be a number from 0 to 100"),
    (("colours", "0/one", [0], ["q"], float("nan")), "sparsity must be a number"), (("colours", ["0/one"], [0], ["q"], {}), "sparsity must be a number"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "words"), JUNK)
def test_junk_is_answered_in_words(values, words):
    with pytest.raises(ValueError, match=words):
        prune.ask(LAB, walked(WHOLE).history, *values, ALL)


def test_a_selection_is_in_order_and_complete_or_not():
    assert switched_on([2, 0], (0, 1, 2), "layer") == (0, 2)
    assert switched_on([1, 0], (0, 1), "layer") is None
    assert switched_on([], (0, 1), "layer") == ()
    assert switched_on([5, 1], (0, 1), "layer", others=True) == (1,)


def test_single_matrices_are_switched_and_equal_models_are_equal_places():
    history, without = (
        walked(WHOLE).history,
        lambda *gone: [name for name in ALL if name not in gone],
    )
    state, _ = asked(
        history, "colours", "0/one", [0, 1, 2], list(EVERY), 20, single=without("q0", "fc22")
    )
    assert state == prune_state("colours", "0/one", None, None, 20, ((0, "q"), (2, "fc2")))
    gone = {("vision", 0, "q"), ("vision", 2, "fc2")}
    hand = ONE.keep([name for name in ONE.deltas if site_of(name) not in gone])
    assert state.adapter(LAB) == cut(hand, percent=20)
    # A layer that lost its last matrix is off, however it was switched; and where a whole group is
    # off, nothing is on.
    every_0 = [f"{kind}0" for kind in EVERY]
    one_way = asked(
        history, "colours", "0/one", [0, 1, 2], list(EVERY), 0, single=without(*every_0)
    )[0]
    assert (
        one_way == asked(history, "colours", "0/one", [1, 2], list(EVERY), 0)[0] == pruned((1, 2))
    )
    other = asked(
        history, "colours", "0/one", [1, 2], ["q", "k"], 0, single=without("q1", "v1", "q0")
    )[0]
    assert other == prune_state("colours", "0/one", (1, 2), ("q", "k"), 0, ((1, "q"),))
    assert (
        asked(history, "colours", "0/one", [1], ["q"], 0, single=without("q1"))[0]
        == asked(history, "colours", "0/one", [2], [], 0)[0]
        == pruned(())
    )
    html = prune_parts.number(LAB, walked(other).history)
    assert 'data-off="q1"' in html
    assert "q k · 1 off" in html
    with pytest.raises(ValueError, match="no matrix 'q9'"):
        prune.ask(LAB, history, "colours", "0/one", [0], ["q"], 0, ["q9"])


SELECTIONS = st.tuples(
    st.sets(st.sampled_from([0, 1, 2])),
    st.sets(st.sampled_from(EVERY)),
    st.sets(st.sampled_from(ALL)),
)


@settings(max_examples=60)
@given(SELECTIONS, SELECTIONS)
def test_two_selections_are_one_place_exactly_if_they_keep_the_same_matrices(first, second):
    have = matrices_of(ONE)
    assert [named(m) for m in have] == ALL

    def kept(layers, kinds, single):
        return {m for m in have if m[0] in layers and m[1] in kinds and named(m) in single}

    one, two = (
        kept_sites(have, layers, kinds, [m for m in have if named(m) in single])
        for layers, kinds, single in (first, second)
    )
    assert (one == two) == (kept(*first) == kept(*second))
    assert {
        site_of(n)[1:]
        for n in prune_state("colours", "0/one", *one[:2], 0, one[2]).adapter(LAB).deltas
    } == kept(*first)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("all", [0, 1, 2]),
        ("none", []),
        ("even", [0, 2]),
        ("odd", [1]),
        ("low", [0]),
        ("middle", [1]),
        ("high", [2]),
    ],
)
def test_buttons_choose_layers(name, layers):
    address = prune.pressed(LAB, name, "colours", "0/one", ["q", "v"], 30, Session())
    state, refused = link.read(LAB, "prune", address.partition("#")[0])
    expected = pruned(
        None if len(layers) == 3 else tuple(layers), ("q", "v") if layers else None, 30
    )
    assert (state, refused) == (expected, [])
    assert name in prune.BUTTONS.values()
    assert prune.pressed(LAB, name, "elsewhere", "0/one", [], 30, Session()) == gr.skip()


@pytest.mark.slow
def test_the_page_answers_junk_and_broken_files_and_goes_on():
    move, rest = (handler(BrokenLab(), name, "prune") for name in ("move", "rest"))
    assert inspect.isgeneratorfunction(move)
    session = Session()
    for values in [values for values, _ in JUNK]:
        *_, last = move(*values, ALL, 3, walked(WHOLE), "", None)
        assert 'role="alert"' in last["prune-number"]
        assert "<b>" not in last["prune-number"].replace("<b>No number here.</b>", "")
        assert len(last) == 3
        assert "<circle" not in last["prune-chart"]
        assert "appear here" in last["prune-changed"]
    *_, last = move("colours", "0/two", [0], ["q"], 0, ALL, 1, session, "", None)
    assert "copy it again" in last["prune-number"]
    assert session.history.state is None
    assert rest(session) == {}  # nothing is drawn over the words
    *_, last = move("colours", "0/one", [1], ["q"], 25, ALL, 1, session, "", None)
    assert 'data-layers="1"' in last["prune-number"]
    assert 'data-sparsity="25"' in last["prune-number"]
    assert f'data-n="{len(TINY)}"' in rest(session)["prune-number"]


@pytest.mark.slow
def test_a_view_draws_no_place_of_another():
    rest = handler(LAB, "rest", "blend")
    assert rest(walked(WHOLE)) == {}
    assert (
        "data-weight" in rest(walked(BlendState("colours", "0/one", "0/two", 0.5)))["blend-number"]
    )


def test_a_request_that_was_overtaken_is_dropped():
    move, session = handler(LAB, "move", "prune"), Session()
    list(move("colours", "0/one", [0], ["q"], 5, ALL, 1, session, "", 20.0))
    assert len(list(move("colours", "0/one", [1], ["q"], 5, ALL, 1, session, "", 10.0))) == 1
    assert session.history.state.kept.layers == (0,)


# --- the best layers ---------------------------------------------------------------------------------------------------


def kept_best(count, lab=LAB, key="0/one", session=None, wishes=None, number=1.0):
    return list(
        keep_best.best(
            lab,
            "colours",
            key,
            count,
            session or walked(prune_state("colours", key)),
            wishes or Requests(),
            number,
        )
    )


@pytest.fixture
def game(monkeypatch):
    """The tiny game, not yet begun."""
    begun = Solving(TINY, ONE)
    monkeypatch.setattr(keep_best, "solving", lambda lab, task, key: begun)
    return begun


def kept_by(to: str) -> tuple[int, ...] | None:
    """The layers that an address keeps."""
    state, refused = link.read(LAB, "prune", to.partition("#")[0])
    assert refused == []
    assert isinstance(state, PruneState)
    return state.kept.layers


def test_the_best_layers_are_those_of_highest_exact_value(game):
    held = {str(i): [n for n in ONE.deltas if site_of(n)[1] == i] for i in range(3)}
    values = exact(LayerGame(TINY, ONE, held), 3).values
    while not game.done:
        game.advance()
    steps = kept_best(1)
    words, to = steps[-1]["said"], steps[-1]["go"]
    assert 'data-exact="1"' in words
    assert f"Best 1: <b>{values.argmax()}</b>" in words
    assert f"{len(TINY)} images" in words
    assert kept_by(to) == (int(values.argmax()),)
    asked_before = game.state
    steps = kept_best(2)
    words, to = steps[-1]["said"], steps[-1]["go"]
    assert game.state is asked_before
    assert kept_by(to) == tuple(sorted(np.argsort(-values)[:2].tolist()))
    assert "of 8 coalitions" not in words


@pytest.mark.parametrize("orders", [1, 24])
def test_layers_are_chosen_once_and_what_is_learned_later_is_only_said(game, monkeypatch, orders):
    monkeypatch.setattr("copra_lab.page.state.layer_game.REDRAWN", 0)
    monkeypatch.setattr("copra_lab.page.state.layer_game.ORDERS", orders)
    steps = kept_best(1)
    assert "Computing" in steps[1]["said"]
    assert game.done
    assert 'data-exact="1"' in steps[-1]["said"]
    chosen = [kept_by(step["go"]) for step in steps if "go" in step]
    assert len(chosen) == 1
    assert len(chosen[0]) == 1
    worth = dict(zip(game.state.layers, game.state.values.tolist(), strict=True))
    ranked_first = worth[chosen[0][0]] == pytest.approx(max(worth.values()))
    assert (f"Best 1: <b>{chosen[0][0]}</b>" if ranked_first else "Chosen from samples") in steps[
        -1
    ]["said"]


def test_words_about_what_is_kept():
    sampled = Values(
        (0, 1, 2), np.array([[0.3], [0.2], [0.1]]), np.full(3, 0.05), np.zeros(4), 5, 8
    )
    later = Values(
        (0, 1, 2),
        np.array([[0.1], [0.2], [0.3]]),
        np.zeros(3),
        np.array([0.1, 0.2, 0.3, 0.7]),
        8,
        8,
        exact=True,
    )
    assert "5 of 8 coalitions so far" in keep_best.words(sampled, 2, 3)
    assert "kept once enough is known" in keep_best.words(None, 2, 3)
    assert "Best 2: <b>0, 1</b>, worth 50.0 of" in keep_best.words(sampled, 2, 3, [0, 1])
    assert "sampled" in keep_best.words(sampled, 2, 3, [0, 1])
    assert "Chosen from samples: 1, 0. The exact values rank 2, 1 first" in keep_best.words(
        later, 2, 3, [0, 1]
    )
    assert "Best 2: <b>2, 1</b>, worth 50.0 of 60.0 points · <b>exact</b>" in keep_best.words(
        later, 2, 3, [1, 2]
    )


@pytest.mark.parametrize(("count", "layers"), [(0, ()), (3, None), ("99", None), (-4, ())])
def test_all_or_none_needs_no_values(game, count, layers):
    *_, last = kept_best(count)
    assert kept_by(last["go"]) == layers
    assert game.state is None


def test_it_ends_when_the_visitor_wants_something_else(game):
    wishes = Requests()
    steps = keep_best.best(LAB, "colours", "0/one", 1, session := walked(WHOLE), wishes, 1.0)
    next(steps), next(steps)
    # A switch was set by hand: the words are no longer of the layers that are on.
    assert keep_best.overtaken(wishes, 2.0).endswith(keep_best.words(None, 0))
    assert list(steps) == [{}]
    assert not game.done
    assert keep_best.overtaken(wishes, 1.7) == gr.skip()
    assert handler(LAB, "overtaken", "prune")
    assert kept_best(1, wishes=wishes, number=1.5) == [{}]  # came late
    steps = keep_best.best(LAB, "colours", "0/one", 1, session, Requests(), 3.0)
    next(steps), next(steps)
    session.visit(prune_state("colours", "0/two"))
    assert list(steps) == [{}]
    assert not game.done


@pytest.mark.slow
def test_words_that_arrive_late_are_not_shown(game):
    """The browser keeps the piece with the larger number: what a switch set by hand says, though
    words of the wish before it may leave the server after it.
    """
    watch, overtaken = handler(LAB, "watch", "prune"), handler(LAB, "overtaken", "prune")
    session, wishes = walked(WHOLE), Requests()
    steps = watch(1, "colours", "0/one", session, wishes, 1.0)
    next(steps)
    late = next(steps)["prune-said"]
    turn = lambda piece: int(re.match(r"<!--(\d+)-->", piece)[1])  # noqa: E731
    assert turn(late) < turn(overtaken(wishes, 2.0))


@pytest.mark.parametrize("goes", ["hand", "adapter"])
def test_values_that_come_after_the_visitor_went_on_set_nothing(game, monkeypatch, goes):
    session, wishes, more = walked(WHOLE), Requests(), game.advance

    def advance():
        keep_best.overtaken(wishes, 2.0) if goes == "hand" else session.visit(
            prune_state("colours", "0/two")
        )
        return more()

    monkeypatch.setattr(game, "advance", advance)
    steps = kept_best(1, session=session, wishes=wishes)
    assert "Computing" in steps[1]["said"]
    assert steps[2:] == [{}]
    assert game.state is not None


def test_a_game_that_is_late_says_nothing_of_itself(monkeypatch):
    wishes = Requests()

    def slow(lab, task, key):
        keep_best.overtaken(wishes, 2.0)
        return Solving(TINY, ONE)

    monkeypatch.setattr(keep_best, "solving", slow)
    assert kept_best(1, wishes=wishes) == [{}]


@pytest.mark.parametrize(("values", "words"), [(("elsewhere", "0/one", 1), "choose one of the tasks"), (("colours", "0/one", "much"), "how many layers"),
                                               (("colours", "0/one", []), "how many layers"), (("colours", "0/two", 1), "copy it again")])  # fmt: skip
def test_junk_wishes_are_answered_in_words(values, words):
    task, key, count = values
    *_, last = keep_best.best(BrokenLab(), task, key, count, walked(WHOLE), Requests(), 1.0)
    assert 'role="alert"' in last["said"]
    assert words in last["said"]


# --- what is drawn -----------------------------------------------------------------------------------------------------


def test_what_is_left_counts_entries_that_are_not_zero():
    whole = prune_parts.left(LAB, WHOLE)
    assert whole.count == whole.of == ONE.parameters
    assert whole.layers == ((0, 1.0), (1, 1.0), (2, 1.0))
    assert whole.share == 1
    state = pruned((0, 2), ("q", "v"), 60)
    hand = by_hand(ONE, state)
    kept = prune_parts.left(LAB, state)
    assert kept.count == sum(int((t != 0).sum()) for d in hand.deltas.values() for t in (d.A, d.B))
    assert kept.of == ONE.parameters
    assert dict(kept.layers)[1] == 0
    assert 0 < dict(kept.layers)[0] < 0.4
    html = prune_parts.number(LAB, walked(state).history)
    assert "2 of 3 layers" in html
    assert "q v · 60" in html
    assert f"{kept.count:,} of {kept.of:,}" in html
    assert prune_parts.chart(LAB, walked(state).history).count("<li ") == 3


def test_the_size_is_that_of_the_file_as_it_is_saved(tmp_path):
    for i, state in enumerate([WHOLE, pruned((0, 2), ("q",)), pruned(percent=90)]):
        save_adapter(state.adapter(LAB), tmp_path / str(i))
        file = tmp_path / str(i) / WEIGHTS
        kept = prune_parts.left(LAB, state)
        assert kept.bytes == file.stat().st_size
        with zipfile.ZipFile(tmp_path / f"{i}.zip", "w", zipfile.ZIP_DEFLATED) as z:
            z.write(file, WEIGHTS)
        assert kept.zipped == (tmp_path / f"{i}.zip").stat().st_size
    whole, sparse = (prune_parts.left(LAB, p) for p in (WHOLE, pruned(percent=90)))
    assert (
        sparse.bytes >= whole.bytes > 3 * sparse.zipped
    )  # zeros take their room, but not in a zip
    assert prune_parts.left(LAB, pruned(())).bytes == 0
    assert "nothing" in prune_parts.number(LAB, walked(pruned(())).history)
    assert [
        prune_parts.kilobytes(n).replace("\u202f", " ") for n in (0, 941, 9990, 42_300, 159_872)
    ] == [
        "nothing",
        "0.94 kB",
        "9.99 kB",
        "42.3 kB",
        "160 kB",
    ]


def test_the_drawing_is_well_formed_and_says_what_it_shows():
    points = [
        (0.2, Accuracy(60, 100)),
        (0.0, Accuracy(70, 100)),
        (0.5, Accuracy(10, 50)),
        (1.0, Accuracy(30, 100)),
    ]
    svg = ElementTree.fromstring(
        sparsity_svg(points, total=100, base=Accuracy(30, 100), whole=Accuracy(70, 100), at=0.5)
    )
    assert svg.get("role") == "img"
    assert svg.get("aria-label")
    said = svg.find("desc").text
    assert "3 positions" in said
    assert str(Accuracy(60, 100)) in said
    assert "The whole adapter: " + str(Accuracy(70, 100)) in said
    kinds = [g.get("class").split() for g in svg.iter("g")]
    assert len(kinds) == 4
    assert "at" in kinds[2]
    assert "first" in kinds[2]
    assert len([e for e in svg.iter("line") if e.get("class") == "curve"]) == 2


def test_the_axes_never_move():
    def frame(svg: str) -> list[str]:
        return [
            ElementTree.tostring(e)
            for e in ElementTree.fromstring(svg)
            if e.get("class") in ("tick", "grid")
        ]

    assert (
        frame(sparsity_svg([(0.3, Accuracy(1, 2))], total=2, base=Accuracy(1, 2), at=0.3))
        == frame(sparsity_svg([], total=0))
        != []
    )


@pytest.mark.parametrize("value", [0, 3, 50, 97, 100])
def test_names_of_lines_stay_inside(value):
    svg = ElementTree.fromstring(
        sparsity_svg(
            [], total=100, base=Accuracy(value, 100), whole=Accuracy(min(value + 1, 100), 100)
        )
    )
    names = [e for e in svg.iter("text") if e.get("class") == "base-name"]
    assert len(names) == 2
    assert all(10 <= float(e.get("y")) + float(e.get("dy")) <= 198 for e in names)


def test_the_table_has_every_setting_of_the_adapter():
    session = walked(
        WHOLE,
        pruned((0, 1), ("q",), 50),
        pruned(percent=30),
        prune_state("colours", "0/two"),
        pruned((0, 1), ("q",), 20),
        pruned(()),
    )
    rows = cells(prune_parts.table(LAB, session.history))
    assert [row[:2] + row[3:4] for row in rows] == [
        ["base", "", ""], ["all", " ".join(EVERY), "0"], ["all", " ".join(EVERY), "30"], ["0–1", "q", "20"], ["0–1", "q", "50"], ["none", " ".join(EVERY), "0"],
    ]  # fmt: skip
    assert int(rows[1][10]) == TINY.accuracy(ONE).correct
    assert float(rows[2][4]) == pytest.approx(70, abs=0.1)
    session.change(History.cleared)
    assert [row[0] for row in cells(prune_parts.table(LAB, session.history))] == [
        "base",
        "all",
        "none",
    ]
    assert prune_state("colours", "0/two") in session.history.points


@pytest.mark.parametrize(
    ("layers", "words"), [((), ""), ((3,), "3"), ((0, 1, 2), "0–2"), ((0, 2, 3, 11), "0, 2–3, 11")]
)
def test_layers_are_named_in_spans(layers, words):
    assert panels.spans(layers) == words


def test_images_are_held_against_the_whole_adapter():
    state = pruned((0,))
    history = walked(pruned((1,)), state).history
    html = prune_parts.changed(history, TINY)
    moved = int((TINY.predictions(ONE) != TINY.predictions(by_hand(ONE, state))).sum())
    hidden = int(found[1]) if (found := re.search(r"and (\d+) more", html)) else 0
    assert "against the whole adapter" in html
    assert html.count("<li class=") + hidden == moved > 0
    assert "appear here" in prune_parts.changed(walked(WHOLE).history, TINY)


def test_before_anything_is_known_the_page_says_so():
    assert "Loading" in prune_parts.number(LAB, History())
    assert "Measuring" in prune_parts.number(LAB, History(pruned((0,))))
    assert "<svg" in prune_parts.chart(LAB, History())
    assert "<tbody></tbody>" in prune_parts.table(LAB, History())
    assert "appear here" in prune_parts.changed(History(), None)


@pytest.mark.browser
def test_the_best_four_layers_and_a_single_matrix_are_switched(visit, pruned_truth, fresh):
    visitor = visit("prune", width=390, height=844)
    page, count = visitor.page, visitor.page.locator("#prune-count input[type=range]")
    height = "() => document.querySelector('#prune-best').getBoundingClientRect().height"
    before = page.evaluate(height)
    count.focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        """() => document.querySelectorAll('#prune-layers input:checked').length === 4
      && /^(Best 4:|Chosen from samples)/.test(document.querySelector('#prune-said .said').innerText)""",
        timeout=180_000,  # half of the processor may be busy with what visitors before left behind
    )
    shown = visitor.pruned()
    assert len(shown["layers"].split()) == 4
    assert int(shown["correct"]) == close_to(pruned_truth(shown))
    assert page.evaluate(height) == before
    page.get_by_role("button", name="All", exact=True).click()  # by hand: the game is left
    page.wait_for_function("document.querySelectorAll('#prune-layers input:checked').length === 12")
    page.wait_for_function(
        "document.querySelector('#prune-said .said').innerText.startsWith('By Shapley value')"
    )
    page.get_by_text("Single matrices").click()
    matrix = (
        page.locator("#prune-single label")
        .filter(has_text=re.compile(r"^\s*v11\s*$"))
        .locator("input")
    )
    matrix.focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('#prune-number .now').dataset.off === 'v11'")
    shown = visitor.pruned()
    lab = Lab()
    adapter = lab.adapter(fresh[1].name, lab.one(fresh[1].name, None))
    less = adapter.keep([name for name in adapter.deltas if site_of(name) != ("vision", 11, "v")])
    assert page.inner_text("#prune-said .said").startswith(
        "By Shapley value"
    )  # and what the game had to say does not come back
    assert int(shown["correct"]) == close_to(independent(load_clip(), fresh[1], (less, 1)))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
