"""No number is shown in full black beside controls that say something else: every control of every
view, and every way from one view to another, on a server that answers late and in any order.
What is painted is held against the library's own numbers, frame by frame.
"""

import json
import random
from xml.etree import ElementTree

import gradio as gr
import pytest
from slow_page import FRAMES, LAB, SHIPPED, TASKS, served
from tiny_page import TINY, prune_state, triangle_state

from copra_lab.bench.prompt_survey import SIGMAS
from copra_lab.page.components import staleness
from copra_lab.page.state.lab import BASE, trained
from copra_lab.page.state.schemas.blend import BlendState
from copra_lab.page.state.schemas.prompt import PromptState, corrupted
from copra_lab.page.state.schemas.triangle import UNITS
from copra_lab.page.state.switches import kept_sites, matrices_of, named
from copra_lab.page.views.blend.view import CHOICES
from copra_lab.page.views.prune import view as prune

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings(
        "ignore:.*(no_silent_downcasting|copy keyword is deprecated)"
    ),  # Gradio's own statistics, which it makes every now and then
]

SLOW = 0.35
"""Seconds, at most, that each part of an answer takes on its way."""


@pytest.fixture(scope="module")
def server():
    with served() as page:
        yield page


class Guest:
    """A browser on the slow page, whose frames are noted."""

    def __init__(self, browser, server, address: str = "?view=blend"):
        self.url, self.slow = server
        self.slow.most, self.slow.rng = 0.0, random.Random(address)
        self.context = browser.new_context(viewport={"width": 1280, "height": 1000})
        self.page, self.errors, self.frames = self.context.new_page(), [], []
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.add_init_script(f"addEventListener('DOMContentLoaded', {FRAMES})")
        self.page.goto(f"{self.url}/{address}")
        self.quiet()
        self.slow.most = SLOW

    def quiet(self) -> None:
        """Until the open view shows a number that is not dimmed, on all images, and nothing changes
        any more.
        """
        self.page.wait_for_function("""() => {
          const view = document.querySelector('.view[data-open]');
          if (!view || view.dataset.asked || view.dataset.opening && view.id !== 'view-train') return false;
          const figures = [...view.querySelectorAll('.now, .asked table, .trouble')].filter(e => e.getClientRects().length);
          return view.id === 'view-train' || figures.length && figures.every(e => !e.closest('.stale') && !e.matches('.waiting, .first'));
        }""")  # fmt: skip
        self.page.wait_for_timeout(100)

    def tab(self, view: str) -> None:
        self.page.click(f"#header nav a[data-view={view}]")

    def choose(self, menu: str, label: str) -> None:
        self.page.locator(f"#{menu} input").click()
        self.page.get_by_role("option", name=label, exact=True).click()

    def slide(self, slider: str, key: str = "ArrowRight", times: int = 3) -> None:
        for _ in range(times):
            self.page.locator(f"#{slider} input[type=range]").press(key)

    def check(self, group: str, label: str) -> None:
        self.page.locator(f"#{group} label").filter(has_text=label).first.locator("input").click(
            force=True
        )

    def train(self) -> None:
        """An adapter of one's own for the task that is not the first."""
        self.slow.most = 0.0
        self.page.click("#train-start")
        self.page.wait_for_function(
            "document.querySelector('#train-status .training')?.dataset.state === 'done'"
        )
        self.page.wait_for_function("document.querySelector('#train-own input:checked')")
        self.slow.most = SLOW

    def leave(self) -> list[dict]:
        frames = self.page.evaluate("framesSoFar()")
        self.context.close()
        assert self.errors == []
        return frames


@pytest.fixture
def guest(browser, server):
    guests = []

    def come(address: str = "?view=blend") -> Guest:
        guests.append(Guest(browser, server, address))
        return guests[-1]

    yield come
    for one in guests:
        frames = one.leave()
        assert frames and (lies := [f for f in frames if not honest(f)]) == [], lies[:3]


# --- what a frame says, held against the library ------------------------------------------------------------------------

OWN: dict[str, str] = {}
"""The keys of what was trained in a test, by the menus' labels."""


def key_of(label: str) -> str:
    shipped = {words: key for key, words in SHIPPED.items()} | {"No adapter": BASE}
    return shipped.get(label) or OWN[label]


def task_of(label: str) -> str:
    return next(name for name, title in TASKS.items() if title == label)


def state(view: str, c: dict):
    """What the controls of a frame ask for."""
    if view == "blend":
        space = dict(CHOICES)[c["space"][0]]
        return BlendState(task_of(c["task"]), key_of(c["a"]), key_of(c["b"]), c["weight"], space)
    if view == "triangle":
        b, d = (round(UNITS * float(x)) for x in c["point"].split())
        return triangle_state(task_of(c["task"]), tuple(key_of(c[x]) for x in "abc"), b, d)
    if view == "prune":
        task, key = task_of(c["task"]), key_of(c["adapter"])
        have = matrices_of(LAB.adapter(task, key))
        single = [
            m for m in have if "single" not in c or not c["single"] or named(m) in c["single"]
        ]
        rows, columns, off = kept_sites(have, [int(x) for x in c["layers"]], c["kinds"], single)
        return prune_state(task, key, rows, columns, c["sparsity"], off)
    task, key = task_of(c["task"]), c["key"].lower()
    length = LAB.prompt(task, key).length
    noised = [int(x) - 1 for x in c["replaced"]]
    percents = tuple(c[str(i)] for i in range(1, length + 1))
    return PromptState(
        task,
        key,
        **corrupted(percents, noised, float(c["sigma"][0]) if c["sigma"] else SIGMAS[-1], length),
    )


def honest(frame: dict) -> bool:
    """Whether each number of it that is not dimmed is that of its controls."""
    for number in frame["numbers"]:
        if number["stale"] or "n" not in number or not number["kind"].startswith("now"):
            continue
        found = state(frame["view"], frame["controls"])
        predictions = found.model(LAB).predictions(TINY)[: int(number["n"])]
        if int(number["correct"]) != TINY.score(predictions).correct:
            return False
        if frame["view"] == "prune" and frame["controls"]["count"] != prune.kept(LAB, found):
            return False
    return True


def remember(guest: Guest) -> None:
    """The key of what was trained, as the address of the view that it was taken to has it."""
    key = next(
        part for part in guest.page.url.replace("=", "&").split("&") if part.startswith("own/")
    )
    OWN["Your LoRA 1"] = key
    assert trained(key)


def test_a_number_carries_the_controls_that_it_is_of():
    class Control:
        def __init__(self, elem_id):
            self.elem_id = elem_id

    controls = [Control("a"), Control("b"), Control("c")]
    said = staleness.values(
        controls, ["x", [2, 0], 5], {"a": "y", "b": gr.skip(), "c": gr.update(value=7, maximum=9)}
    )
    assert said == {"a": "y", "b": [2, 0], "c": 7}
    piece = ElementTree.fromstring(
        staleness.of(staleness.Asked(said | {"d": '<"&>'}, 12.5, "view-x"), "<p>1</p>")
    )
    assert json.loads(piece.get("data-of")) == said | {"d": '<"&>'}
    assert (
        piece.get("data-at"),
        piece.get("data-part"),
    ) == ("12.5", "view-x")


# --- every control of every view ----------------------------------------------------------------------------------------

MOVES = {
    "blend": [
        lambda g: g.slide("blend-weight"), lambda g: g.choose("blend-a", "Three"), lambda g: g.choose("blend-task", "Shapes"),
        lambda g: g.check("blend-space", "the factors"), lambda g: g.check("blend-space", "aligned"), lambda g: g.slide("blend-weight", "ArrowLeft"), lambda g: g.page.click("#blend-swap"),
        lambda g: g.choose("blend-b", "No adapter"), lambda g: g.page.locator("#blend-weight input[type=number]").fill("0.31"), lambda g: g.page.locator("#blend-weight button").click(),
        lambda g: g.page.click("#blend-clear"),
    ],
    "triangle": [
        lambda g: g.page.get_by_label("weight of B").fill("0.5"), lambda g: g.choose("triangle-task", "Shapes"), lambda g: g.choose("triangle-c", "One"),
        lambda g: g.page.locator("#triangle-hands .hand").press("ArrowRight"), lambda g: g.choose("triangle-a", "Two"), lambda g: g.page.click("#triangle-clear"),
    ],
    "prune": [
        lambda g: g.check("prune-layers", "1"), lambda g: g.slide("prune-sparsity"), lambda g: g.check("prune-kinds", "v"), lambda g: g.slide("prune-count", "ArrowLeft", 1),
        lambda g: g.choose("prune-adapter", "Two"), lambda g: g.page.get_by_role("button", name="Even", exact=True).click(), lambda g: g.choose("prune-task", "Shapes"),
        lambda g: g.page.get_by_role("button", name="All", exact=True).click(), lambda g: g.slide("prune-count", "ArrowLeft", 1), lambda g: g.check("prune-layers", "2"),
        lambda g: g.page.click("#prune-clear"),
    ],
    "prompt": [
        lambda g: g.slide("prompt-1", "ArrowDown"), lambda g: g.check("prompt-replaced", "2"), lambda g: g.check("prompt-sigma", "0.01"),
        lambda g: g.page.get_by_role("button", name="All halved").click(), lambda g: g.choose("prompt-key", "Three"), lambda g: g.slide("prompt-2", "ArrowUp"),
        lambda g: g.choose("prompt-task", "Shapes"), lambda g: g.page.get_by_role("button", name="All gone").click(), lambda g: g.page.click("#prompt-clear"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("patient", [False, True], ids=["hasty", "patient"])
@pytest.mark.parametrize("view", MOVES)
def test_no_control_moves_without_its_number(guest, view, patient):
    visitor = guest(f"?view={view}")
    for move in MOVES[view]:
        move(visitor)
        visitor.quiet() if patient else visitor.page.wait_for_timeout(
            visitor.slow.rng.uniform(0, 500)
        )
    visitor.quiet()


def test_a_layer_and_an_adapter_are_asked_for_their_worth(guest):
    visitor = guest("?view=shapley")
    dimmed = "id => !!document.querySelector(`#${id} .stale`)"
    at = visitor.page.locator("#shapley-layer input:checked").input_value()
    visitor.check("shapley-layer", "1" if at == "2" else "2")
    assert visitor.page.evaluate(dimmed, "shapley-decided")
    assert not visitor.page.evaluate(dimmed, "shapley-number")
    visitor.choose("shapley-adapter", "Two")
    assert visitor.page.evaluate(dimmed, "shapley-number")
    assert visitor.page.evaluate(dimmed, "shapley-bars")
    visitor.choose("shapley-task", "Shapes")
    visitor.page.wait_for_function(
        "() => document.querySelector('#shapley-number .now')?.dataset.asked === '8' && "
        "!document.querySelector('#view-shapley .stale')"
    )
    shown = float(visitor.page.locator("#shapley-number .now").get_attribute("data-total"))
    right = TINY.accuracy(LAB.adapter("shapes", "0/two")).value - TINY.accuracy().value
    assert shown == pytest.approx(100 * right, abs=1e-4)


def test_answers_are_of_the_picture_and_the_task_that_are_given(guest, tmp_path):
    visitor = guest("?view=try")
    stale, page = (
        "() => !!document.querySelector('#try-answers .stale') && "
        "!!document.querySelector('#try-seen .stale')",
        visitor.page,
    )
    page.click("#try-another")
    assert page.evaluate(stale)
    visitor.quiet()
    visitor.choose("try-task", "Shapes")
    assert page.evaluate(stale)
    visitor.quiet()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.locator("#try-file input").set_input_files(str(tmp_path / "broken.png"))
    page.locator("#try-answers .trouble").wait_for()
    assert (
        page.locator("#try-seen img").count() == 0
    )  # nothing of the last picture beside the error


def test_what_was_trained_is_dimmed_beside_other_settings(guest):
    visitor = guest("?view=train&task=shapes&method=lora&steps=50&shots=1")
    visitor.train()
    stale = "() => !!document.querySelector('#train-race .stale')"
    assert not visitor.page.evaluate(stale)
    for slider in ("train-rank", "train-steps"):
        visitor.slide(slider, times=1)
        assert visitor.page.evaluate(stale)
        visitor.slide(slider, "ArrowLeft", times=1)
        visitor.page.wait_for_function(f"() => !({stale})()")


# --- from one view to another -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hurry", [True, False])
@pytest.mark.parametrize("view", ["blend", "prune", "shapley", "try"])
def test_what_was_trained_is_taken_elsewhere_in_one_piece(guest, view, hurry):
    """For a task that is not the first, into a view that shows another one."""
    visitor = guest(f"?view={view}")
    visitor.tab("train")
    visitor.page.wait_for_timeout(300)
    visitor.choose("train-task", "Shapes")
    visitor.choose("train-method", "LoRA")
    visitor.page.locator("#train-steps input[type=number]").fill("50")
    visitor.check("train-shots", "1")
    visitor.train()
    visitor.page.click(f"#train-to-{view}")
    visitor.page.locator(f"#view-{view}").wait_for()
    if view != "try":
        remember(visitor)
    if hurry:  # away before the answer, and back
        visitor.tab("triangle")
        visitor.page.wait_for_timeout(200)
        visitor.tab(view)
    visitor.quiet()
    menu = {"blend": "blend-a", "prune": "prune-adapter", "shapley": "shapley-adapter"}.get(view)
    task = {"shapley": "shapley-task"}.get(view, f"{view}-task")
    assert visitor.page.locator(f"#{task} input").input_value() == "Shapes"
    if menu:
        assert visitor.page.locator(f"#{menu} input").input_value() == "Your LoRA 1"
    if view in ("blend", "prune"):
        shown = int(visitor.page.locator(f"#{view}-number .now").get_attribute("data-correct"))
        assert shown == TINY.accuracy(trained(OWN["Your LoRA 1"]).adapter).correct


def test_tabs_and_the_tour_show_views_as_they_were_left(guest):
    visitor = guest("?view=prune&task=shapes&adapter=two&off=1&sparsity=30")
    for view in ("blend", "triangle", "prompt", "shapley", "prune"):
        visitor.tab(view)
        visitor.page.wait_for_timeout(visitor.slow.rng.uniform(0, 600))
    visitor.page.click("#tour-open")
    for _ in range(6):
        visitor.page.wait_for_timeout(visitor.slow.rng.uniform(0, 400))
        visitor.page.locator("#tour [data-tour=next]").click()
    visitor.quiet()
    now = visitor.page.locator("#prune-number .now")
    assert (now.get_attribute("data-layers"), now.get_attribute("data-sparsity")) == ("0 2", "30")


def test_back_and_forward_show_what_was_left(guest):
    visitor = guest("?view=blend&task=shapes&weight=0.3")
    page, weight = visitor.page, visitor.page.locator("#blend-weight input[type=range]")
    visitor.slide("blend-weight", times=5)
    visitor.tab("prune")  # before the last move was answered
    page.wait_for_timeout(100)
    page.go_back()
    visitor.quiet()
    assert weight.input_value() == "0.4"  # the move is not lost
    page.go_forward()
    visitor.quiet()
    visitor.tab("blend")
    visitor.choose("blend-task", "Colours")
    visitor.quiet()
    visitor.tab("triangle")
    for _ in range(3):
        page.go_back()
        page.wait_for_timeout(visitor.slow.rng.uniform(0, 300))
    visitor.quiet()
    assert weight.input_value() == "0.4"
    assert page.locator("#blend-task input").input_value() == "Shapes"
    for _ in range(2):
        page.go_forward()
    visitor.quiet()
    assert page.locator("#blend-task input").input_value() == "Colours"


@pytest.mark.parametrize("address", ["?view=blend&task=shapes&a=three&b=base&weight=0.5&mix=factors", "?view=triangle&task=shapes&c=one&point=0.25,0.5",
                                     "?view=prune&task=shapes&adapter=two&off=0,q&sparsity=40", "?view=prompt&task=shapes&prompt=three&percents=50,100,0&replaced=2&sigma=0.01",
                                     "?view=prune&task=nowhere&sparsity=400"])  # fmt: skip
def test_a_link_arrives_in_one_piece(browser, server, guest, address):
    visitor = guest("?view=train")
    visitor.page.evaluate("to => copra.go(to)", address)
    visitor.quiet()
    visitor.page.evaluate(
        "to => copra.go(to)", address.split("&")[0]
    )  # to the same view as it is usually
    visitor.quiet()


def test_the_best_layers_are_kept_once_and_their_number_waits(guest):
    visitor = guest("?view=prune&task=shapes")
    visitor.slide("prune-count", "ArrowLeft", 1)
    assert visitor.page.evaluate("() => !!document.querySelector('#prune-number .stale')")
    visitor.page.wait_for_function(
        "() => document.querySelector('#prune-said .said')?.dataset.exact === '1'"
    )
    visitor.quiet()
    layers = [
        tuple(f["controls"]["layers"])
        for f in visitor.page.evaluate("framesSoFar()")
        if f["controls"].get("layers")
    ]
    assert len(dict.fromkeys(layers)) <= 2
    assert visitor.page.locator("#prune-layers input:checked").count() == 2
