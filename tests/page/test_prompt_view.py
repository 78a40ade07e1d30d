"""The Prompt view: what its sliders ask for, measured on a tiny CLIP; and in a browser on the
bundled one.
"""

import inspect
import re
import shutil
from functools import partial
from xml.etree import ElementTree

import gradio as gr
import pytest
import torch
import torch.nn.functional as F
from by_hand import close_to
from tiny import tiny_clip, tiny_task
from tiny_page import TINY, PromptLab, cells, handler
from tiny_page import walked as walked_in
from visitor import Visitor

from copra_lab.models import load_clip
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.measured import Base, Model
from copra_lab.page.state.schemas.prompt import PromptState, stretched
from copra_lab.page.state.session import History, Session
from copra_lab.page.views.prompt import comparison
from copra_lab.page.views.prompt import html as prompt_parts
from copra_lab.page.views.prompt import view as prompt
from copra_lab.prompts import SoftPrompt, replace, rescale, word_norm
from copra_lab.prompts.soft_prompt import FILE
from copra_lab.utils.statistics import Accuracy
from copra_lab.zoo import shipped_prompts

LAB = PromptLab()
LEARNED = PromptState("colours", "four")


def bent(*percents) -> PromptState:
    return PromptState("colours", "four", percents or None)


walked = partial(walked_in, lab=LAB)


def right(p: SoftPrompt) -> int:
    """Of the tiny task's test images, by the model's own code on embeddings put in a row by hand."""
    clip, task = tiny_clip(), tiny_task()
    m, t, rows, ends = clip.model, clip.tokenizer, [], []
    for name in task.classes:
        ids = [t.sot_token_id, *t.encode(name), *t.encode("."), t.eot_token_id]
        row = [*m.token_embedding.weight[ids[:1]], *p.context, *m.token_embedding.weight[ids[1:]]]
        ends.append(len(row) - 1)
        rows.append(
            torch.stack(row + [m.token_embedding.weight[0]] * (t.context_length - len(row)))
        )
    with torch.no_grad():
        x = m.ln_final(
            m.transformer(torch.stack(rows) + m.positional_embedding, attn_mask=m.attn_mask)
        )
        text = F.normalize(x[range(len(rows)), ends] @ m.text_projection, dim=-1)
        image = F.normalize(m.encode_image(clip.pixels(task.test.images)), dim=-1)
    return int(((image @ text.T).argmax(-1) == task.test.labels).sum())


@pytest.mark.parametrize(
    "state", [bent(), bent(100, 50, 100, 0), bent(0, 0, 0, 0), bent(200, 200, 5, 100)]
)
def test_the_number_is_that_of_an_independent_forward_pass(state):
    history = walked(state).history
    factors = [p / 100 for p in state.percents or [100] * 4]
    expected = SoftPrompt(LAB.prompt("colours", "four").context * torch.tensor(factors)[:, None])
    assert history.state == state
    assert history.whole(state)
    assert history.here.accuracy == Accuracy(right(expected), len(TINY))
    assert list(history.points) == list(dict.fromkeys([Base("colours"), LEARNED, state]))
    assert history.base.accuracy == TINY.accuracy()


def ask(history, task, key, *percents, replaced=(), sigma=0.1):
    return prompt.ask(LAB, history, task, key, list(replaced), sigma, *percents)


def test_sliders_say_where_to_go():
    history = walked(LEARNED).history
    state, updates = ask(history, "colours", "four", 100, 50, "100", 0)
    assert state == bent(100, 50, 100, 0)
    assert updates == {}
    assert ask(history, "colours", "four", 100, 100, 100.2, 100)[0] == LEARNED
    assert ask(history, "colours", "four", 1e9, -3, 100, 100)[0] == bent(200, 0, 100, 100)
    assert ask(history, "colours", "four", None, 1, 1, 1) is None  # somebody is typing
    assert stretched([100, 100, 30], 2) is None


def test_noise_takes_the_place_of_vectors():
    history = walked(LEARNED).history
    state, _ = ask(history, "colours", "four", 100, 50, 100, 30, replaced=[4, 1], sigma=0.01)
    assert state == PromptState("colours", "four", (100, 50, 100, 100), (0, 3), 0.01)
    context = state.model(LAB).prompt.context
    learned, noise = (
        LAB.prompt("colours", "four").context,
        torch.randn(2, 32, generator=torch.Generator().manual_seed(0)),
    )
    torch.testing.assert_close(
        context, torch.stack([0.01 * noise[0], learned[1] / 2, learned[2], 0.01 * noise[1]])
    )
    found = walked(state).history
    assert found.here.accuracy == Accuracy(right(SoftPrompt(context)), len(TINY))
    html = prompt_parts.number(found)
    assert 'data-replaced="1 4"' in html
    assert 'data-sigma="0.01"' in html
    assert "1 vector changed" in html
    assert "2 replaced" in html
    assert prompt_parts.in_words(state) == "2 at 50\u202f%; 1, 4 noise of σ = 0.01"


def test_noise_of_sigma_nought_is_rescale_by_nought():
    history = walked(LEARNED).history
    assert ask(history, "colours", "four", 100, 100, 70, 100, replaced=[2, 3], sigma=0)[0] == bent(
        100, 0, 0, 100
    )
    gone, none = (
        replace(LAB.prompt("colours", "four"), [1, 2], 0.0),
        rescale(LAB.prompt("colours", "four"), [1, 2], 0),
    )
    assert gone.context.equal(none.context)
    assert gone.context.equal(bent(100, 0, 0, 100).model(LAB).prompt.context)
    assert (
        ask(history, "colours", "four", 100, 100, 100, 100, replaced=[], sigma=0.01)[0] == LEARNED
    )
    assert (
        ask(history, "colours", "four", 0, 100, 100, 100, replaced=[1, 2, 3, 4])[0]
        == ask(history, "colours", "four", 9, 8, 7, 6, replaced=[4, 3, 2, 1])[0]
    )


@pytest.mark.parametrize(("replaced", "sigma", "words"), [(None, 0.1, "must be a list"), ([7], 0.1, "no vector 7"), ([1], 0.3, "σ must be one of 0, 0.001"),
                                                          ([1], float("nan"), "σ must be"), ([1], [], "σ must be"), ([{}], 0.1, "no vector")])  # fmt: skip
def test_junk_noise_is_answered_in_words(replaced, sigma, words):
    with pytest.raises(ValueError, match=words):
        prompt.ask(
            LAB, walked(LEARNED).history, "colours", "four", replaced, sigma, 100, 100, 100, 100
        )


def test_every_prompt_of_the_task_gets_the_same(monkeypatch):
    state = PromptState("colours", "four", (100, 50, 0, 100), (3,), 0.1)
    assert prompt_parts.alike(LAB, state, "four") == state
    three = prompt_parts.alike(LAB, state, "three")
    assert three == PromptState("colours", "three", (100, 50, 0))
    assert prompt_parts.alike(LAB, three, "four") == PromptState(
        "colours", "four", (100, 50, 0, 100)
    )
    found = comparison.reaction(LAB, state, "three")
    learned = LAB.prompt("colours", "three")
    assert found.learned == Accuracy(right(learned), len(TINY))
    assert found.now == Accuracy(right(rescale(learned, [1, 2], [0.5, 0])), len(TINY))
    assert found.norm == pytest.approx(learned.norms().mean().item())
    assert found.norm_now < found.norm
    html = comparison.measured(LAB, walked(state))
    root = ElementTree.fromstring(
        re.sub(
            r"(scope|class)=(\w+)", r'\1="\2"', html.replace('class="here"', "class=here")
        ).replace("colspan=5", 'colspan="5"')
    )
    rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")][1:]
    assert [row[0] for row in rows] == ["Four", "Three"]
    assert "2 at 50" in html
    assert "4 noise of σ = 0.1" in html
    assert rows[1][2].startswith(f"{100 * found.learned.value:.1f}")
    assert rows[1][3].startswith(f"{100 * found.now.value:.1f}")
    assert [row.get("class") for row in root.iter("tr")] == [None, "here", None]
    monkeypatch.setattr(
        PromptLab, "prompt_menu", lambda self, task: [("Four", "four"), ("Broken", "broken")]
    )
    assert "copy it again" in comparison.measured(LAB, walked(state))
    assert comparison.drawn(LAB, "colours", None).count("…") == 8
    session = Session()
    session.visit(state)
    assert "value" not in comparison.measured(LAB, session)  # not known on all images yet


def test_rows_of_another_task_go_at_once_and_late_ones_do_not_come(monkeypatch):
    class Two(PromptLab):
        def tasks(self):
            return {"colours": "Colours", "shapes": "Shapes"}

    lab, history = Two(), walked(LEARNED).history
    _, updates = prompt.ask(lab, history, "shapes", "four", [], 0.1, 100, 100, 100, 100)
    assert (
        updates["beside"]
        == comparison.drawn(lab, "shapes", None)
        == prompt.arrives(4, lab, PromptState("shapes", "four"))[1]["beside"]
    )
    assert all(
        "beside" not in prompt.ask(lab, w, "colours", "three", [], 0.1, *[100] * 4)[1]
        for w in (history, walked(PromptState("colours", "three"), Base("colours")).history)
    )
    session, drawn = walked(bent(100, 50, 100, 0)), comparison.drawn

    def slow(*values):
        session.visit(LEARNED)
        return drawn(*values)

    monkeypatch.setattr(comparison, "drawn", slow)
    assert comparison.measured(LAB, session) == gr.skip()


def test_a_word_is_one_of_the_labs_own_clip():
    class Other(PromptLab):
        clip = tiny_clip()

    for lab in (LAB, Other()):
        assert f"dashed: a word, {word_norm(lab.clip):.2f}" in prompt_parts.chart(
            lab, walked(LEARNED).history
        )
    assert f"{word_norm(tiny_clip()):.2f}" != f"{word_norm(load_clip()):.2f}"


def test_norms_of_other_prompts_stand_in_the_picture():
    svg = prompt_parts.chart(LAB, walked(PromptState("colours", "four", (100, 50, 0, 100))).history)
    root = ElementTree.fromstring(svg)
    assert [e.get("class") for e in root.iter("rect")].count("other") == 3
    assert "of Three: " in root.find(".//desc").text
    norms = prompt_parts.norms(LAB, PromptState("colours", "three", (100, 50, 0)))
    assert ", ".join(f"{n:.2f}" for n in norms) in root.find(".//desc").text


def test_another_prompt_comes_as_it_was_learned_with_as_many_sliders():
    history = walked(bent(100, 50, 100, 0)).history
    state, updates = ask(history, "colours", "three", 100, 50, 100, 0)
    assert state == PromptState("colours", "three")
    assert updates["key"]["value"] == "three"
    sliders = [updates[f"vector {i}"] for i in range(1, 5)]
    assert [u["visible"] for u in sliders] == [True, True, True, False]
    assert {u["value"] for u in sliders} == {100}
    assert ask(history, "colours", "../etc", 100, 100, 100, 100)[0] == LEARNED
    # Coming from another view, what the sliders show is what was left.
    there = walked(bent(100, 50, 100, 0), Base("colours")).history
    assert ask(there, "colours", "four", 100, 50, 100, 0)[0] == bent(100, 50, 100, 0)
    back = walked(bent(100, 50, 100, 0), PromptState("colours", "three", (10, 20, 30))).history
    assert ask(back, "colours", "four", 10, 20, 30, 100)[0] == LEARNED


JUNK = [
    (("elsewhere", "four", 1, 1, 1, 1), "choose one of the tasks"), (([], {}, 1, 1, 1, 1), "choose one of the tasks"),
    (("colours", "four", "much", 1, 1, 1), "vector 1 must be a number from 0 to 200"), (("colours", "four", 1, 1, 1, float("nan")), "vector 4 must be"),
    (("colours", "four", 1, [], 1, 1), "vector 2 must be"), (("colours", "broken", 1, 1, 1, 1), "copy it again"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "words"), JUNK)
def test_junk_is_answered_in_words(values, words):
    with pytest.raises(ValueError, match=words):
        ask(walked(LEARNED).history, *values)


def test_a_lab_without_prompts_says_how_to_make_some(tmp_path):
    assert Lab(prompts=tmp_path).prompt_tasks() == []
    with pytest.raises(ValueError, match="no soft prompts"):
        Lab(prompts=tmp_path).one_prompt("digits", None)


@pytest.mark.slow
def test_a_broken_prompt_keeps_no_page_from_opening_and_is_said_in_words(tmp_path):
    source = shipped_prompts("digits")[0].folder
    for name in ("coop-seed-0", "pun-seed-0"):
        shutil.copytree(source, tmp_path / "digits" / name)
    file = tmp_path / "digits" / "coop-seed-0" / FILE
    file.write_bytes(file.read_bytes()[:-50])
    lab = Lab(prompts=tmp_path)
    length = shipped_prompts("digits")[0].load(load_clip()).length
    assert lab.longest_prompt() == length
    move, session = handler(lab, "move", "prompt"), Session()
    *_, last = move("digits", "coop-seed-0", [], 0.1, *[100] * length, session, "", None)
    assert 'role="alert"' in last["prompt-number"]
    assert "copy or save it anew" in last["prompt-number"]
    *_, last = move("digits", "pun-seed-0", [], 0.1, *[100] * length, session, "", None)
    assert "as learned" in last["prompt-number"]
    assert "alert" not in last["prompt-number"]


@pytest.mark.slow
def test_the_page_goes_on_after_junk():
    move, rest = (handler(LAB, name, "prompt") for name in ("move", "rest"))
    assert inspect.isgeneratorfunction(move)
    for values in [values for values, _ in JUNK]:
        *_, last = move(*values[:2], [], 0.1, *values[2:], walked(LEARNED), "", None)
        assert 'role="alert"' in last["prompt-number"]
        assert len(last) == 3
    session = Session()
    *_, last = move("colours", "four", [], 0.1, 100, 100, 100, 100, session, "", None)
    *_, last = move("colours", "four", [], 0.1, 100, 50, 100, 0, session, "", None)
    assert 'data-percents="100 50 100 0"' in last["prompt-number"]
    assert "2 vectors changed" in last["prompt-number"]
    assert f'data-n="{len(TINY)}"' in rest(session)["prompt-number"]


def test_what_is_drawn():
    state = bent(100, 50, 100, 0)
    history = walked(state).history
    difference = history.here.accuracy.correct - history.points[LEARNED].accuracy.correct
    html = prompt_parts.number(history)
    assert f"{difference:+d} images".replace("-", "−") in html
    assert "1 vector changed" in prompt_parts.number(walked(bent(100, 50, 100, 100)).history)
    svg = ElementTree.fromstring(
        prompt_parts.chart(LAB, history)
        .removeprefix('<div class="chart norms">')
        .removesuffix("</div>")
    )
    now, was = (
        [float(e.get("height")) for e in svg.iter("rect") if e.get("class") == kind]
        for kind in ("is", "was")
    )
    assert [a / b for a, b in zip(now, was, strict=True)] == pytest.approx([1, 0.5, 1, 0], abs=0.02)
    top = [e.get("y1") for e in svg.iter("line")]
    other = ElementTree.fromstring(
        prompt_parts.norms_svg(
            prompt_parts.norms(LAB, bent(200, 200, 200, 200)),
            prompt_parts.norms(LAB, LEARNED),
            prompt_parts.word(LAB.clip),
        )
    )
    assert [e.get("y1") for e in other.iter("line")] == top  # the axis stays
    loud = ElementTree.fromstring(
        prompt_parts.norms_svg((9.0, 0.1), (0.1, 0.2), 0.3, [("Nine", (9.0, 9.0))])
    )  # noise may be longer than the axis
    assert all(
        float(e.get("y")) >= 0
        and float(e.get("y")) + float(e.get("height")) <= prompt_parts.HEIGHT + 0.01
        for e in loud.iter("rect")
    )
    rows = cells(prompt_parts.table(LAB, history))
    assert [r[0] for r in rows] == ["plain words", "as learned", "4 at 0\u202f%; 2 at 50\u202f%"]
    assert float(rows[1][1]) == pytest.approx(
        LAB.prompt("colours", "four").norms().mean().item(), abs=1e-3
    )
    moved = int((history.here.predictions != history.points[LEARNED].predictions).sum())
    assert ("No prediction changed" in prompt_parts.changed(history, TINY)) == (moved == 0)
    assert "appear here" in prompt_parts.changed(walked(LEARNED).history, TINY)
    assert "appear here" in prompt_parts.changed(History(), None)
    assert "Loading" in prompt_parts.number(History())
    assert "<svg" in prompt_parts.chart(LAB, History())
    assert "<tbody></tbody>" in prompt_parts.table(LAB, History())


def test_what_ships_fits_and_is_measured_as_was_said():
    clip, lab, found = load_clip(), Lab(), shipped_prompts()
    assert [s.label for s in shipped_prompts("digits")] == [
        "CoOp, seed 0",
        "PUN, seed 0",
        "PAN, seed 0",
    ]
    assert len(found) == 18
    for s in found:
        loaded = s.load(clip)
        assert loaded.base == clip.hash
        assert loaded.provenance["task"] == s.task
    bench = lab.bench("digits")
    first = lab.prompt("digits", lab.one_prompt("digits", None))
    half = PromptState("digits", lab.one_prompt("digits", None), (50,) * first.length)
    assert (
        Model(prompt=rescale(first, range(first.length), 0.5))
        .predictions(bench)
        .equal(half.model(lab).predictions(bench))
    )
    assert bench.accuracy(prompt=first).value > bench.accuracy().value + 0.3


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_sliders_follow_mouse_and_keyboard_and_nothing_jumps(browser, url, width):
    visitor = Visitor(browser, url, "prompt", width=width, height=900)
    page = visitor.page

    def settled(percents: str) -> dict:
        shown = """percents => {
          const now = document.querySelector('#prompt-number .now');
          return now && now.dataset.n && now.dataset.n === now.dataset.total && now.dataset.percents === percents ? {...now.dataset} : null; }"""
        return page.wait_for_function(shown, arg=percents).json_value()

    lab = Lab(precision="float32")
    task = lab.prompt_tasks()[0][1]
    learned = lab.prompt(task, lab.one_prompt(task, None))
    clip, bench = load_clip(), lab.bench(task)
    settled("")
    tops = """() => ['#prompt-chart', '#prompt-bank', '#prompt-presets', '#prompt-changed', '#footer'].map(id => {
      const box = document.querySelector(id).getBoundingClientRect(); return [box.top + scrollY, box.height]; }).flat().slice(0, 9)"""
    before = page.evaluate(tops)
    second = page.locator("#prompt-2 input[type=range]")
    second.focus()
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    percents = ["100"] * learned.length
    percents[1] = "80"
    assert int(settled(" ".join(percents))["correct"]) == close_to(
        bench.accuracy(prompt=rescale(learned, 1, 0.8)).correct
    )
    fourth = page.locator("#prompt-4 input[type=range]")
    fourth.scroll_into_view_if_needed()
    box = fourth.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.2, 0.7, 1.02):  # to the very bottom
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * share, steps=3)
    page.mouse.up()
    percents[3] = "0"
    assert int(settled(" ".join(percents))["correct"]) == close_to(
        bench.accuracy(prompt=rescale(learned, [1, 3], [0.8, 0.0])).correct
    )
    page.locator("#prompt-replaced label").filter(has_text="1").locator("input").focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('#prompt-number .now').dataset.replaced === '1'")
    noisy = replace(rescale(learned, [1, 3], [0.8, 0.0]), 0, 0.1)
    assert int(settled(" ".join(percents))["correct"]) == close_to(
        bench.accuracy(prompt=noisy).correct
    )
    page.wait_for_function(
        "document.querySelector('#prompt-against h2').innerText.includes('noise of σ = 0.1')"
    )
    pun = lab.prompt(task, "pun-seed-0")
    there = bench.accuracy(prompt=replace(rescale(pun, [1, 3], [0.8, 0.0]), 0, 0.1)).value
    row = page.locator("#prompt-against tr").filter(has_text="PUN, seed 0").locator("td")
    assert float(row.nth(2).inner_text().split()[0].rstrip("%")) == pytest.approx(
        100 * there, abs=200 / len(bench)
    )
    assert page.evaluate(tops) == pytest.approx(before, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="All gone", exact=True).click()
    gone = settled(" ".join(["0"] * learned.length))
    assert int(gone["correct"]) == close_to(
        bench.accuracy(prompt=rescale(learned, range(learned.length), 0.0)).correct
    )
    page.get_by_role("button", name="As learned", exact=True).click()
    settled("")
    visitor.choose("prompt-key", "PUN, seed 0")
    page.wait_for_function("old => { const now = document.querySelector('#prompt-number .now'); return now.dataset.n === now.dataset.total && now.dataset.correct !== old; }",
                           arg=str(bench.accuracy(prompt=learned).correct))  # fmt: skip
    assert clip.hash == learned.base
    visitor.leave()
