"""Addresses that carry what a visitor has set, and turns: nothing that is drawn late is shown after
what is newer.
"""

import re
from dataclasses import dataclass, replace
from functools import cache

import gradio as gr
import pytest
from by_hand import close_to
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_page import (
    ONE,
    SEEDS,
    TINY,
    BrokenLab,
    PromptLab,
    TrainLab,
    at,
    handler,
    prune_state,
    triangle_state,
    walked,
)
from visitor import Visitor

from copra_lab.bench.prompt_survey import SIGMAS
from copra_lab.page.components.draw_order import newest, stamped
from copra_lab.page.components.tabs import refusal
from copra_lab.page.state import address as link
from copra_lab.page.state.lab import BASE, Lab, Own
from copra_lab.page.state.measurement import first_numbers
from copra_lab.page.state.schemas.blend import HIGH, LOW, STEP, BlendState
from copra_lab.page.state.schemas.classify import TryState
from copra_lab.page.state.schemas.prompt import MOST_PERCENT, PromptState, corrupted
from copra_lab.page.state.schemas.shapley import ShapleyState
from copra_lab.page.state.schemas.train import (
    BATCHES,
    DROPPING,
    LEARNING_RATES,
    MOST_RANK,
    MOST_SEED,
    SHOTS,
    SITES,
    STEPS,
    TrainState,
)
from copra_lab.page.state.schemas.triangle import BEYOND, UNITS
from copra_lab.page.state.session import History, Session
from copra_lab.page.state.switches import kept_sites, matrices_of
from copra_lab.page.views.blend import view as blend
from copra_lab.page.views.classify import view as classify
from copra_lab.page.views.shapley import view as shapley
from copra_lab.page.views.train import view as train
from copra_lab.page.views.triangle.view import lattice
from copra_lab.pruning import layers_of


@dataclass(frozen=True)
class LinkLab(PromptLab, TrainLab):
    """Two tasks, with two adapters and two prompts each."""

    def tasks(self):
        return {"colours": "Colours", "shapes": "Shapes"}


LAB = LinkLab()
WORDS = "task a b c weight mix compare point adapter off sparsity layer prompt percents replaced sigma method rank lr steps batch sites shots seed view".split()

# --- states -------------------------------------------------------------------------------------------------------------

TASKS, KEYS = st.sampled_from(["colours", "shapes"]), st.sampled_from(["0/one", "0/two", BASE])
MATRICES = matrices_of(ONE)


@st.composite
def pruned(draw):
    layers, kinds = ({m[i] for m in MATRICES} for i in (0, 1))
    on = [
        draw(st.none() | st.sets(st.sampled_from(sorted(have))))
        for have in (layers, kinds, MATRICES)
    ]
    rows, columns, off = kept_sites(MATRICES, *on)
    return prune_state(
        draw(TASKS),
        draw(KEYS.filter(lambda k: k != BASE)),
        rows,
        columns,
        draw(st.integers(0, 100)),
        off,
    )


@st.composite
def bent(draw):
    key, length = draw(st.sampled_from([("four", 4), ("three", 3)]))
    shares = draw(st.none() | st.tuples(*[st.integers(0, MOST_PERCENT)] * length))
    noised = sorted(draw(st.sets(st.integers(0, length - 1))))
    return PromptState(
        draw(TASKS), key, **corrupted(shares, noised, draw(st.sampled_from(SIGMAS)), length)
    )


@st.composite
def orders(draw):
    methods = draw(st.sampled_from([tuple(DROPPING), *((m,) for m in DROPPING)]))
    whole = [
        st.integers(1, MOST_RANK),
        st.sampled_from(list(LEARNING_RATES.values())),
        st.integers(*STEPS),
        st.sampled_from(BATCHES),
    ]
    rest = [
        st.sampled_from(list(SITES.values())),
        st.sampled_from(SHOTS),
        st.integers(0, MOST_SEED),
    ]
    return TrainState(draw(TASKS), methods, *(draw(s) for s in (*whole, *rest)))


GRID = st.integers(round(LOW / STEP), round(HIGH / STEP)).map(lambda i: round(i * STEP, 2) + 0.0)
STATES = st.one_of(
    st.builds(BlendState, TASKS, KEYS, KEYS, GRID, st.sampled_from(["delta", "factors", "aligned"]), st.just(()), st.booleans()),
    st.builds(lambda p, task, keys: triangle_state(task, keys, *p.point), st.sampled_from(lattice(triangle_state("", ("", "", "")), 1)), TASKS, st.tuples(KEYS, KEYS, KEYS)),
    pruned(), bent(), orders(), st.builds(TryState, TASKS),
    st.builds(ShapleyState, TASKS, st.sampled_from(["0/one", "0/two"]), st.sampled_from([-1, *layers_of(ONE)])),
)  # fmt: skip


def view_of(state) -> str:
    return state.view


@pytest.mark.slow
@settings(max_examples=400)
@given(STATES)
def test_what_is_written_is_read_again(state):
    query = link.write(LAB, state)
    asked, refused = link.read(LAB, view_of(state), query)
    assert refused == []
    assert query.startswith(f"?view={view_of(state)}")
    assert len(query) < link.LONGEST / 4
    assert asked == state
    assert getattr(asked, "compare", None) == getattr(state, "compare", None)


def test_every_number_of_a_triangle_is_read_again():
    ends = range(-BEYOND, UNITS + 2 * BEYOND + 1)
    for state in [
        triangle_state("colours", ("0/one", "0/two", "0/one"), *point)
        for x in ends
        for point in ((x, -BEYOND), (-BEYOND, x))
    ]:
        assert link.read(LAB, "triangle", link.write(LAB, state)) == (state, [])


ANY = st.text(max_size=60) | st.lists(st.tuples(st.sampled_from(WORDS), st.text(max_size=12) | st.sampled_from(["one", "0,q", "1e9", "nan", "-1", "own/x"]))).map(
    lambda pairs: "?" + "&".join(f"{name}={value}" for name, value in pairs)
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=400)
@given(st.sampled_from(list(link.STATES)), ANY)
def test_any_text_is_a_state_or_none_and_its_address_says_the_same(view, text):
    state, refused = link.read(LAB, view, text)
    assert state is None or isinstance(state, link.STATES[view])
    assert all(0 < len(sentence) < 300 for sentence in refused)
    assert not re.search("<(?!p |/p>)", refusal(refused))
    if state is not None:
        query = link.write(LAB, state)
        assert link.read(LAB, view, query + "&task=" + state.task) == (state, [])


@pytest.mark.parametrize(
    "text", [None, 5, [], {}, "", "?", "&&==", "?%ff%fe", "?__theme=dark&utm_source=x"]
)
def test_what_asks_for_nothing_leaves_all_as_it_is(text):
    assert link.read(LAB, "prune", text)[0] is None


def test_an_address_that_only_names_its_view_says_that_all_is_as_usual():
    for view, usual in USUAL.items():
        assert link.read(LAB, view, f"?view={view}") == (usual, [])


@pytest.mark.parametrize(
    ("state", "query"),
    [
        (BlendState("colours", "0/one", "0/two"), "?view=blend"),
        (
            BlendState("shapes", "0/two", BASE, 0.3, "factors", compare=True),
            "?view=blend&task=shapes&a=two&b=base&weight=0.3&mix=factors&compare=yes",
        ),
        (
            BlendState("shapes", "0/two", "0/one", 0.3, "aligned"),
            "?view=blend&task=shapes&a=two&b=one&weight=0.3&mix=aligned",
        ),
        (
            triangle_state("colours", ("0/one", "0/two", BASE), UNITS // 4, UNITS // 2),
            "?view=triangle&point=0.25,0.5",
        ),
        (
            prune_state("colours", "0/two", (1,), ("q", "k", "v"), 80, ((1, "q"),)),
            "?view=prune&adapter=two&off=0,2,out,fc1,fc2,q1&sparsity=80",
        ),
        (prune_state("colours", "0/one", ()), "?view=prune&off=0,1,2"),
        (ShapleyState("colours", "0/two", 2), "?view=shapley&adapter=two&layer=2"),
        (
            PromptState("colours", "three", (100, 50, 0), (0,), 0.01),
            "?view=prompt&prompt=three&percents=100,50,0&replaced=1&sigma=0.01",
        ),
        (
            TrainState("colours", ("copra",), 8, 4e-3, sites=SITES["all six"]),
            "?view=train&method=copra&rank=8&lr=0.004&sites=all+six",
        ),
        (TryState("shapes"), "?view=try&task=shapes"),
    ],
)
def test_addresses_are_short_and_can_be_read(state, query):
    assert link.write(LAB, state) == query


def test_a_folder_that_does_not_come_with_the_page_is_named():
    state = BlendState("colours", "1/mine", "0/one")
    assert link.write(LAB, state) == "?view=blend&a=1/mine&b=one"


USUAL = {"blend": BlendState("colours", "0/one", "0/two"), "triangle": triangle_state("colours", ("0/one", "0/two", BASE), UNITS // 3, UNITS // 3),
         "prune": prune_state("colours", "0/one"), "shapley": ShapleyState("colours", "0/one"), "prompt": PromptState("colours", "four"),
         "train": TrainState("colours"), "try": TryState("colours")}  # fmt: skip
REFUSED = [
    ("blend", "task=elsewhere", "choose one of the tasks"), ("blend", "a=three", "the task has no adapter '0/three'"), ("blend", "weight=9", "λ must be a number from -0.5 to 1.5"),
    ("blend", "weight=much", "λ must be a number"), ("blend", "mix=all", "what is mixed must be one of delta, factors, aligned"), ("blend", "compare=1", "compare must be yes or no"),
    ("blend", "b=own/abcdefgh", "no longer kept"), ("triangle", "point=1,1", "too far outside"), ("triangle", "point=0.5", "two numbers"), ("triangle", "point=0,nan", "the weight of C must be a number"),
    ("triangle", "c=../../etc", "the task has no adapter '../../etc'"), ("prune", "sparsity=101", "the sparsity must be a number from 0 to 100"), ("prune", "sparsity=-1", "the sparsity must"),
    ("prune", "off=0,99", "no layer, kind or matrix '99'"), ("prune", "off=0,,1", "no layer, kind or matrix ''"), ("prune", "adapter=base", "the task has no adapter"),
    ("shapley", "layer=7", "has no layer '7'; it has 0, 1, 2"), ("shapley", "layer=-1x", "has no layer"), ("prompt", "prompt=broken", "the task has no soft prompt 'broken'"),
    ("prompt", "percents=100,50", "a list of 4 numbers from 0 to 200"), ("prompt", "percents=100,50,0,201", "vector 4 must be a number from 0 to 200"),
    ("prompt", "replaced=5", "the prompt has no vector '5'; it has 1, 2, 3, 4"), ("prompt", "sigma=0.02", "σ must be one of"), ("prompt", "sigma=x", "σ must be a number"),
    ("train", "rank=9", "the rank must be a whole number from 1 to 8"), ("train", "rank=4.5", "the rank must"), ("train", "lr=0.5", "the learning rate must be one of"),
    ("train", "seed=99999999999999999999", "the seed must be"), ("train", "method=sgd", "the method must be one of both, lora, copra"), ("try", "task=%3Cb%3E", "choose one of the tasks"),
]  # fmt: skip


@pytest.mark.parametrize(("view", "text", "words"), REFUSED)
def test_a_value_that_is_none_gives_the_usual_and_a_sentence(view, text, words):
    state, (sentence,) = link.read(LAB, view, f"?view={view}&{text}")
    assert state == USUAL[view]
    assert words in sentence
    # And it takes nothing with it.
    state, refused = link.read(
        LAB, view, f"?{text}&task=shapes" if not text.startswith("task") else f"?{text}"
    )
    assert len(refused) == 1
    assert state.task == ("colours" if text.startswith("task") else "shapes")


def test_what_is_too_long_or_for_another_view_is_not_read():
    assert link.read(LAB, "blend", "?weight=0.5&a=" + "x" * link.LONGEST) == (
        None,
        ["an address has at most 2,000 characters"],
    )
    assert link.read(LAB, "blend", "?view=<b>&weight=0.5") == (None, ["there is no view '<b>'"])
    html = refusal(["there is no view '<b>'"])
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert refusal([]) == ""


def test_a_file_that_is_broken_is_refused_too():
    state, (sentence,) = link.read(BrokenLab(), "prune", "?adapter=two&off=1")
    assert state == prune_state("colours", "0/one", (0, 2))
    assert "copy it again" in sentence


def test_what_a_visitor_trained_opens_where_it_is_kept():
    mine = Own("colours", 1, replace(ONE, provenance={"method": "lora"}), 50)
    query = link.write(replace(LAB, own=(mine,)), prune_state("colours", mine.key, (0,)))
    assert query == f"?view=prune&adapter={mine.key}&off=1,2"
    history = link.adopt(History(), query)
    assert history.own == (mine,)
    assert link.adopt(history, query) is history
    assert link.read(history.lab(LAB), "prune", query) == (
        prune_state("colours", mine.key, (0,)),
        [],
    )
    assert (
        link.adopt(History(), "?a=own/other&" + "x" * link.LONGEST)
        == link.adopt(History(), None)
        == History()
    )


# --- the page's handlers ------------------------------------------------------------------------------------------------


@cache
def handles(name: str, view: str):
    return handler(LAB, name, view)


ALL = [f"{kind}{layer}" for layer, kind in MATRICES]
ENTERED = [
    ("blend", ("colours", "0/one", "0/two", 0, "delta", False), "?view=blend&task=shapes&a=two&b=one&weight=0.3&mix=factors", BlendState("shapes", "0/two", "0/one", 0.3, "factors")),
    ("triangle", ("colours", "0/one", "0/two", BASE, "0 0"), "?view=triangle&a=two&point=0.25,0.5", triangle_state("colours", ("0/two", "0/two", BASE), 30, 60)),
    ("prune", ("colours", "0/one", [], [], 0, [], 12), "?view=prune&task=shapes&adapter=two&off=0,q1&sparsity=30", prune_state("shapes", "0/two", (1, 2), None, 30, ((1, "q"),))),
    ("prune", ("colours", "0/one", [], [], 0, [], 12), "?view=prune&off=0,1,2", prune_state("colours", "0/one", ())),
    ("prompt", ("colours", "four", [], 0.1, 100, 100, 100, 100), "?view=prompt&prompt=three&percents=50,100,0&replaced=2&sigma=0.01",
     PromptState("colours", "three", (50, 100, 0), (1,), 0.01)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("view", "controls", "query", "state"), ENTERED)
def test_a_view_arrives_at_the_place_of_its_address_and_says_it(view, controls, query, state):
    session = Session()
    first, *_ = handles("move", view)(*controls, session, query, None)
    assert session.history.state == state
    assert session.history.here
    assert first[f"refused-{view}"] == ""
    assert first[f"{view}-task"] == state.task
    rest = handles("rest", view)(session)
    assert rest[f"link-{view}"] == query
    assert f'data-n="{len(TINY)}"' in rest[f"{view}-number"]


def test_the_controls_that_an_address_sets_say_the_same_place():
    first, *_ = handles("move", "prune")(
        "colours",
        "0/one",
        [],
        [],
        0,
        [],
        12,
        session := Session(),
        "?adapter=two&off=0,q1&sparsity=30",
        None,
    )
    groups = [first[f"prune-{name}"]["value"] for name in ("adapter", "layers", "kinds", "single")]
    adapter, layers, kinds, single = groups
    values = [first["prune-task"], adapter, layers, kinds, first["prune-sparsity"], single]
    count = first["prune-count"]
    assert values == [
        "colours",
        "0/two",
        [1, 2],
        ["q", "k", "v", "out", "fc1", "fc2"],
        30,
        [name for name in ALL if name != "q1"],
    ]
    assert count["value"] == 2
    list(handles("move", "prune")(*values, count["value"], session, "", None))
    assert session.history.state == prune_state("colours", "0/two", (1, 2), None, 30, ((1, "q"),))


def test_a_line_of_another_method_is_drawn_beside_where_an_address_wants_it():
    state, updates = blend.arrives(
        SEEDS, BlendState("colours", "LoRA, seed 0", "LoRA, seed 1", 0.3, compare=True)
    )
    assert [b.kind for b in state.beside] == ["factors", "aligned", "rival"]
    assert updates["compare"]["value"] is True
    assert updates["compare"]["label"] == "compare with CopRA"
    state, updates = blend.arrives(SEEDS, BlendState("colours", "LoRA, seed 0", BASE, compare=True))
    assert state.beside == ()
    assert not updates["compare"]["interactive"]


def test_what_cannot_be_had_is_told_and_an_address_that_asks_for_nothing_leaves_the_controls():
    controls, session = ("shapes", "0/two", [1], ["q"], 20, ALL, 1), Session()
    first, *_ = handles("move", "prune")(
        *controls, session, "?view=prune&adapter=<i>x</i>&off=1", None
    )
    assert session.history.state == prune_state("colours", "0/one", (0, 2))
    assert "has no adapter" in first["refused-prune"]
    assert "<i>" not in first["refused-prune"]
    first, *_ = handles("move", "prune")(
        *controls, walked(prune_state("shapes", "0/two")), "?", None
    )
    assert first["refused-prune"] == ""
    assert 'data-layers="1"' in first["prune-number"]


def test_layers_settings_and_tasks_arrive_too():
    session = Session()
    first, *_ = shapley.watching(
        LAB, "colours", "0/one", None, session, 1, "?view=shapley&task=shapes&adapter=two&layer=1"
    )
    assert session.history.state == ShapleyState("shapes", "0/two", 1)
    assert first["task"] == "shapes"
    assert first["link"] == "?view=shapley&task=shapes&adapter=two&layer=1"
    assert first["refused"] == ""
    assert shapley.address(LAB, "shapes", "0/two", 2, session).endswith("&layer=2")
    assert (
        shapley.address(LAB, "shapes", "0/one", 2, session)
        == shapley.address(LAB, "shapes", "0/two", {}, session)
        == gr.skip()
    )
    entered = train.entered(
        LAB, session, "?view=train&task=shapes&method=copra&steps=50&lr=0.5", None
    )
    values = [entered[name] for name in train.Settings._fields]
    assert values == ["shapes", "copra", 4, "tuned", 50, 8, "q, k, v", 16, 0]
    assert "the learning rate must be" in entered["refused"]
    said = "?view=train&task=shapes&method=copra&steps=50"
    assert entered["link"] == train.address(LAB, *values) == said
    assert not {"about", "link", *train.Settings._fields} & set(
        train.entered(LAB, session, "?", None)
    )
    assert train.address(LAB, "shapes", "sgd", *[1] * 7) == gr.skip()
    opened = classify.opening(LAB, "colours", None, session, "?view=try&task=shapes")
    assert (opened["task"], opened["refused"]) == ("shapes", "")
    assert "task" not in classify.opening(LAB, "colours", None, session, "?")
    opened = classify.opening(LAB, "colours", None, session, "?view=tr&task=shapes")
    assert "no view" in opened["refused"]


# --- versions -------------------------------------------------------------------------------------------------------------


def version_of(piece) -> int:
    return int(re.match(r"<!--(\d+)-->", piece)[1])


def test_what_is_drawn_carries_its_turn_and_later_ones_are_greater():
    session, move = Session(), handles("move", "prune")
    assert (
        session.history.version > Session().history.version - 60_000 > 1e12
    )  # from the clock, so that a server that starts anew goes on
    first, *_ = move("colours", "0/one", [1], ["q"], 5, ALL, 1, session, "", None)
    *_, words = move("elsewhere", "0/one", [1], ["q"], 5, ALL, 1, session, "", None)
    *_, after = move("colours", "0/one", [0], ["q"], 5, ALL, 1, session, "", None)
    versions = [version_of(answer["prune-number"]) for answer in (first, words, after)]
    assert "alert" in words["prune-number"]
    assert versions == sorted(set(versions))
    assert version_of(handles("rest", "prune")(session)["prune-table"]) == versions[-1]
    assert blend.swapped(history := walked(at(0.3)).history).version > history.version


def test_nothing_of_a_turn_that_is_over_is_given():
    session, move = Session(), handles("move", "prune")
    asked = move("colours", "0/one", [1], ["q"], 5, ALL, 1, session, "", None)
    assert version_of(next(asked)["prune-number"]) == session.history.version
    session.change(History.nowhere)  # the visitor asked for what is not there
    assert not any(asked)
    session = walked(prune_state("colours", "0/one"))
    late = session.history
    session.visit(prune_state("colours", "0/two"))
    list(first_numbers(LAB, session, prune_state("colours", "0/two")))
    assert late.version < session.history.version
    assert stamped(late.version, "x") < stamped(session.history.version, "x")


# --- in a browser -------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_a_late_piece_never_hides_a_newer_one(browser):
    with gr.Blocks(analytics_enabled=False) as page:
        shown = newest("<p>begin</p>", "piece")
        with gr.Accordion("More", open=False):  # first shown after it was drawn
            other = newest("<p>begin</p>", "other")
        for version in (4, 5, 5.5, 6):
            gr.Button(f"Turn {version}").click(
                lambda t=version: stamped(int(t), f"<p>turn {t}</p>"),
                None,
                shown,
                show_progress="hidden",
            )
        gr.Button("Both").click(
            lambda: ["<p>no number</p>", stamped(1, "<p>its own</p>")],
            None,
            [shown, other],
            show_progress="hidden",
        )
    _, address, _ = page.launch(
        prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False, pwa=False
    )
    tab, errors = browser.new_page(), []
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    try:
        tab.goto(address)
        says = "([id, text]) => document.querySelector(`#${id} p`)?.innerText === text"
        tab.wait_for_function(says, arg=["piece", "begin"])
        for press, text in (
            ("5", "5"),
            ("4", "5"),
            ("5.5", "5.5"),
            ("4", "5.5"),
            ("6", "6"),
        ):  # of one turn, the last
            with tab.expect_response(re.compile("/queue/join")):
                tab.get_by_role("button", name=f"Turn {press}", exact=True).click()
            tab.wait_for_timeout(400)
            tab.wait_for_function(says, arg=["piece", f"turn {text}"])
        with tab.expect_response(re.compile("/queue/join")):
            tab.get_by_role("button", name="Both").click()
        tab.wait_for_timeout(400)
        tab.get_by_text("More").click()
        tab.wait_for_function(says, arg=["other", "its own"])  # each for itself
        assert tab.locator("#piece").inner_text() == "turn 6"
        assert errors == []
    finally:
        tab.close()
        page.close()


LIVE = [
    (
        "blend",
        "?view=blend&task=faces-noise&a=copra-seed-0&b=copra-seed-1&weight=0.3&mix=factors&compare=yes",
    ),
    ("triangle", "?view=triangle&task=faces-noise&c=copra-seed-1&point=0.25,0.5"),
    ("prune", "?view=prune&task=faces-noise&adapter=copra-seed-0&off=0,3,k,q7&sparsity=40"),
    (
        "prompt",
        "?view=prompt&task=faces-noise&prompt=pun-seed-0&percents=50,100,100,0&replaced=2&sigma=0.01",
    ),
]


def load_anew(visitor: Visitor, address: str | None = None) -> None:
    """Here or at another address. Gradio logs as an error that it breaks off what was being sent."""
    visitor.page.goto(address or visitor.page.url)
    assert all("AbortError" in e or "errored out" in e for e in visitor.errors)
    visitor.errors.clear()


WHOLE = """view => { const now = document.querySelector(`#${view}-number .now`); return now?.dataset.n && now.dataset.n === now.dataset.total && {...now.dataset}; }"""


@pytest.mark.browser
@pytest.mark.parametrize(("view", "query"), LIVE)
def test_a_link_opens_what_was_shared_computed_anew(browser, url, view, query):
    lab = Lab(precision="float32")
    state, refused = link.read(lab, view, query)
    bench = lab.bench(state.task)
    right = bench.score(state.model(lab).predictions(bench)).correct
    visitor = Visitor(browser, url, query.removeprefix("?view="))
    for again in (False, True):
        if again:
            load_anew(visitor)
        shown = visitor.page.wait_for_function(WHOLE, arg=view).json_value()
        assert refused == []
        assert int(shown["correct"]) == close_to(right)
        visitor.page.wait_for_timeout(500)
        assert visitor.page.url == url + "/" + query
        assert not visitor.page.locator(".refused").is_visible()
    if view == "blend":
        assert visitor.page.get_by_label("compare with LoRA").is_checked()
        assert visitor.page.get_by_label("the factors").is_checked()
    if view == "prune":
        assert "0 3" not in shown["layers"]
        assert shown["kinds"] == "q v"
        assert shown["off"] == "q7"
        assert visitor.thumb.input_value() == "40"
    if view == "prompt":
        assert visitor.page.locator("#prompt-replaced input:checked").count() == 1
        assert visitor.page.locator("#prompt-1 input[type=range]").input_value() == "50"
    visitor.leave()


@pytest.mark.browser
def test_links_to_layers_settings_and_tasks(browser, url):
    visitor = Visitor(browser, url, "shapley&task=faces-noise&adapter=copra-seed-1&layer=3")
    page = visitor.page
    page.wait_for_function(
        "document.querySelector('#shapley-decided h2')?.innerText.includes('layer 3')"
    )
    page.locator("#shapley-layer label").filter(has_text=re.compile(r"^\s*5\s*$")).locator(
        "input"
    ).check()
    page.wait_for_url("**/?view=shapley&task=faces-noise&adapter=copra-seed-1&layer=5")
    load_anew(
        visitor,
        f"{url}/?view=train&task=digits&method=copra&rank=2&lr=0.004&steps=100&sites=all+six&shots=4&seed=7",
    )
    page.wait_for_function("document.querySelector('#train-seed input')?.value === '7'")
    assert page.locator("#train-rank input[type=range]").input_value() == "2"
    assert page.get_by_label("all six").is_checked()
    page.locator("#train-rank input[type=range]").press("ArrowRight")
    page.wait_for_url(
        "**/?view=train&task=digits&method=copra&rank=3&lr=0.004&steps=100&sites=all+six&shots=4&seed=7"
    )
    page.get_by_role("link", name="Try").click()
    visitor.choose("try-task", Lab().tasks()["digits"])
    page.wait_for_url("**/?view=try&task=digits")
    load_anew(visitor)
    page.wait_for_function(
        "words => document.querySelector('#try-task input')?.value === words",
        arg=Lab().tasks()["digits"],
    )
    visitor.leave()


@pytest.mark.browser
def test_the_address_follows_the_thumb_and_the_button_copies_it(browser, url):
    visitor = Visitor(browser, url, "blend&task=faces-noise")
    page = visitor.page
    visitor.settled(0.0)
    page.evaluate(
        "() => { window.stays = true; window.said = 0; const put = history.replaceState; "
        "history.replaceState = (...x) => { said++; put.apply(history, x); }; }"
    )
    length = page.evaluate("history.length")
    visitor.grab()
    visitor.drag(0.2, 0.9, 1.3, 0.5)
    visitor.drop()
    shown = visitor.settled()
    page.wait_for_url(f"**/?view=blend&task=faces-noise&weight={float(shown['weight']):g}")
    assert page.evaluate("[stays, history.length]") == [True, length]
    assert page.evaluate("said") <= 5
    button = page.get_by_role("button", name="Copy link")
    page.evaluate(
        "document.execCommand = what => { window.copied = what === 'copy' && "
        "document.activeElement.value; return true; }"
    )
    button.press("Enter")
    assert page.evaluate("copied") == page.url
    assert page.evaluate("document.activeElement.id") == "link-copy"
    # Back and forward: each view as its address says.
    page.get_by_role("link", name="Prune").click()
    page.locator("#prune-number .now[data-n]").wait_for()
    page.go_back()
    assert float(visitor.settled()["weight"]) == float(shown["weight"])
    page.go_forward()
    page.locator("#view-prune").wait_for()
    page.get_by_role("link", name="Blend").click()
    page.wait_for_url(f"**/?view=blend&task=faces-noise&weight={float(shown['weight']):g}")
    visitor.leave()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_link_that_cannot_be_had_says_so_in_words(browser, url, width):
    visitor = Visitor(
        browser,
        url,
        "prune&task=faces-noise&adapter=own/abcdefghijklmnop&off=99&sparsity=<img src=x "
        "onerror=alert(1)>",
        width=width,
        height=844,
    )
    page = visitor.page
    page.locator("#refused-prune .refused").wait_for()
    words = page.locator("#refused-prune").inner_text()
    assert all(
        w in words
        for w in (
            "no longer kept",
            "no layer, kind or matrix '99'",
            "the sparsity must be a number from 0 to 100",
        )
    )
    assert page.locator(".refused img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.wait_for_function(WHOLE, arg="prune")
    page.wait_for_url("**/?view=prune&task=faces-noise")  # an address that can be shared again
    visitor.leave()


@pytest.mark.browser
def test_words_about_a_broken_file_stay_while_curves_are_filled_in(browser, url, fresh):
    broken = max(
        label
        for label, key in Lab((Lab().folders[0], fresh[0])).adapters(fresh[1].name)
        if key.startswith("1/")
    )
    visitor = Visitor(browser, url)
    visitor.settled(0.0)
    visitor.grab()
    visitor.drag(0.3, 1.1, 0.6)
    visitor.drop()
    visitor.settled()  # and now the curve is filled in
    visitor.choose("blend-b", broken)
    visitor.page.locator("#blend-number .trouble").wait_for()
    for _ in range(10):
        visitor.page.wait_for_timeout(100)
        assert visitor.page.locator("#blend-number .trouble").is_visible()
        assert not visitor.page.locator("#blend-number .now").is_visible()
    visitor.leave()
