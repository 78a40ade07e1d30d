"""The Train view: a training watched step by step is `fit_many`'s own, a line that is fair, and
results that are the visitor's alone.
"""

import gc
import json
import re
import time
import zipfile
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
import torch
from tiny import one_thread, tiny_clip, tiny_task
from tiny_page import ALL, TINY, TrainLab, cells, handler, prune_state
from visitor import Visitor

from copra_lab.adapters import AdapterError
from copra_lab.adapters.peft_folder import CONFIG, WEIGHTS
from copra_lab.methods import LoRA
from copra_lab.models import to_hugging_face
from copra_lab.page.server.limits import OWN
from copra_lab.page.state import address
from copra_lab.page.state.lab import BASE, Lab, Own
from copra_lab.page.state.measurement import first_numbers, remaining
from copra_lab.page.state.schemas.blend import BlendState
from copra_lab.page.state.schemas.classify import TryState
from copra_lab.page.state.schemas.shapley import ShapleyState
from copra_lab.page.state.schemas.train import TrainState
from copra_lab.page.state.session import History, Session
from copra_lab.page.views.blend import view as blend
from copra_lab.page.views.classify import view as classify
from copra_lab.page.views.prune import view as prune
from copra_lab.page.views.shapley import view as shapley
from copra_lab.page.views.train import charts as train_charts
from copra_lab.page.views.train import html as train_parts
from copra_lab.page.views.train import results
from copra_lab.page.views.train import session as tr
from copra_lab.page.views.train import view as train
from copra_lab.page.views.train.session import Course, Progress, trained
from copra_lab.page.views.train.waiting_line import Waiting
from copra_lab.training import (
    PLAIN,
    RATES,
    CopRA,
    Job,
    TrainingSettings,
    fit,
    fit_many,
    fit_many_steps,
    grouping,
    masks,
)
from copra_lab.utils.statistics import Accuracy

LAB = TrainLab()
ORDER = TrainState("colours", steps=20, rank=2, batch=4)
VALUES = ("colours", "both", 2, "tuned", 50, 4, "q, k, v", 16, 0)


def finished(
    order: TrainState = ORDER, session: Session | None = None, line: Waiting | None = None
) -> tuple[Session, list[Progress]]:
    session = session or Session()
    return session, list(trained(LAB, session, order, line or Waiting()))


def job(order: TrainState, method: str) -> Job:
    chosen = TrainingSettings(
        seed=order.seed,
        steps=order.steps,
        lr=order.rate(method),
        batch=order.batch,
        schedule="cooldown",
    )
    dropping = {"lora": PLAIN, "copra": CopRA()}[method]
    return Job(tiny_task(), LoRA(order.rank, sites=order.sites), dropping, chosen)


def alone(order: TrainState, method: str, **more):
    one = job(order, method)
    with one_thread():
        return fit(
            tiny_clip(), one.task, one.method, one.dropping, one.settings, progress=False, **more
        )


def together(order: TrainState, **more):
    with one_thread():
        jobs = [job(order, method) for method in order.methods]
        return fit_many(tiny_clip(), jobs, progress=False, **more)


def assert_close(one, two):
    """Two adapters of the same numbers, up to rounding."""
    assert list(one.deltas) == list(two.deltas)
    for site, delta in one.deltas.items():
        torch.testing.assert_close(delta.A, two.deltas[site].A, atol=1e-4, rtol=0)
        torch.testing.assert_close(delta.B, two.deltas[site].B, atol=1e-4, rtol=0)


# --- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        ORDER,
        replace(
            ORDER, methods=("copra",), lr=8e-3, seed=5, sites=("q", "k", "v", "out", "fc1", "fc2")
        ),
    ],
)
def test_a_training_that_is_watched_ends_as_fit_many_does_and_as_fit_up_to_rounding(order):
    session, reports = finished(order)
    last, steps = reports[-1], []
    assert last.state == "done"
    assert [o.adapter.provenance["method"] for o in session.history.own] == list(order.methods)
    adapters = together(order, on_step=steps.append)
    for i, course in enumerate(last.courses):
        mine, theirs = session.history.own[i], [s for s in steps if s.run == i]
        assert mine.adapter.hash == adapters[i].hash
        assert mine.adapter.provenance == adapters[i].provenance
        assert_close(mine.adapter, alone(order, course.method))
        assert mine.steps == course.steps == order.steps
        assert list(course.losses) == [s.loss for s in theirs]
        assert list(course.on) == [tuple(s.units.values()) for s in theirs]
        assert course.measured[-1] == (order.steps, TINY.accuracy(adapters[i]))
        assert len(course.measured) == tr.LOOKS
    assert last.base == TINY.accuracy()
    if "copra" in order.methods:
        assert list(last.courses[-1].on) == masks(CopRA(), 3, order.steps, order.seed)


@pytest.mark.slow
def test_looks_at_test_images_show_the_adapters_of_that_step():
    _, reports = finished()
    kept = {}
    together(ORDER, on_step=lambda s: kept.update({(s.run, s.step): s.learned()}))
    for run, course in enumerate(reports[-1].courses):
        assert [step for step, _ in course.measured] == list(range(2, 21, 2))
        assert all(a == TINY.accuracy(kept[run, step]) for step, a in course.measured)


def test_what_was_learned_until_it_is_stopped_is_kept(monkeypatch):
    monkeypatch.setattr(tr, "REDRAWN", 0)
    session, line, order = Session(), Waiting(), replace(ORDER, steps=1200)
    for progress in trained(LAB, session, order, line):
        if progress.steps == 7:
            assert line.stop(session)
    n = progress.steps
    assert progress.state == "stopped"
    assert n == 8
    kept = []

    class Enough(Exception):
        pass

    def until(step):
        if step.step == n:
            kept.append(step.learned())
        if len(kept) == 2:
            raise Enough

    with pytest.raises(Enough):
        together(order, on_step=until)
    for mine, course, adapter in zip(session.history.own, progress.courses, kept, strict=True):
        assert mine.adapter == adapter
        assert mine.steps == course.steps == n
        assert mine.adapter.provenance["steps done"] == n
        assert course.measured == ((n, TINY.accuracy(adapter)),)
    assert not line.stop(session)


def test_a_training_that_takes_too_long_ends_by_itself(monkeypatch):
    monkeypatch.setattr(tr, "TRAINING_SECONDS", 0.0)
    session, reports = finished()
    assert reports[-1].state == "ended"
    assert reports[-1].steps == 1
    assert len(session.history.own) == 2


@pytest.mark.slow
def test_a_training_that_diverges_says_so_at_once_and_the_other_goes_on(monkeypatch):
    def begun(clip, jobs):
        lora, copra = jobs
        high = replace(copra.settings, lr=1e30)
        return fit_many_steps(clip, [lora, replace(copra, settings=high)])

    monkeypatch.setattr(tr, "fit_many_steps", begun)
    monkeypatch.setattr(tr, "REDRAWN", 0)
    session, reports = finished()
    first = next(p for p in reports if p.courses and p.courses[1].trouble)
    assert first.state == "training"
    lora, copra = first.courses
    assert lora.steps == copra.steps + 1 < ORDER.steps
    words = rf"the loss became \S+ at step {lora.steps}; lower the learning rate \(now 1e\+30\)"
    assert re.fullmatch(words, copra.trouble)
    assert copra.trouble in train_parts.race(reports[-1])
    assert reports[-1].state == "done"
    assert reports[-1].courses[1] == copra
    assert reports[-1].courses[0].steps == ORDER.steps
    [mine] = session.history.own
    assert mine.label == "Your LoRA 1"
    assert_close(mine.adapter, alone(ORDER, "lora"))


def test_methods_that_all_diverge_end_the_training():
    session, reports = finished(replace(ORDER, lr=1e30))
    assert reports[-1].state == "done"
    assert all("lower the learning rate" in c.trouble for c in reports[-1].courses)
    assert session.history.own == ()


@pytest.mark.slow
def test_a_model_that_methods_cannot_share_is_trained_by_one_after_the_other(monkeypatch):
    monkeypatch.setattr(grouping, "_plain", lambda clip, precision: None)
    session, reports = finished()
    assert reports[-1].state == "done"
    kept = {}
    together(ORDER, on_step=lambda s: kept.update({(s.run, s.step): s.learned()}))
    for run, course in enumerate(reports[-1].courses):
        mine = session.history.own[run]
        assert mine.adapter == alone(ORDER, course.method)
        assert mine.steps == course.steps == ORDER.steps
        assert [step for step, _ in course.measured] == list(range(2, 21, 2))
        assert all(a == TINY.accuracy(kept[run, step]) for step, a in course.measured)


def test_a_training_gives_way_before_each_step_and_counts_its_images(monkeypatch):
    monkeypatch.setattr(tr, "REDRAWN", 0)
    counted, waited = [], []
    line = Waiting()
    monkeypatch.setattr(line, "worked", lambda ticket, images, seconds: counted.append(images))
    monkeypatch.setattr(tr, "_accuracy", lambda bench, adapter: Accuracy(1, 2))
    monkeypatch.setattr(tr.traffic, "give_way", waited.append)
    finished(line=line)
    assert counted == [2 * ORDER.batch] * ORDER.steps
    assert waited == [tr.PATIENCE] * ORDER.steps


def test_a_visitor_who_leaves_frees_the_place_and_ends_the_training(monkeypatch):
    monkeypatch.setattr(tr, "REDRAWN", 0)
    begun = []
    monkeypatch.setattr(
        tr, "fit_many_steps", lambda *given: begun.append(fit_many_steps(*given)) or begun[-1]
    )
    line, session = Waiting(), Session()
    watched = trained(LAB, session, replace(ORDER, steps=1200), line)
    while next(watched).steps < 3:
        pass
    [steps] = begun
    assert next(steps).step == 4
    watched.close()
    assert next(steps, None) is None
    assert line.ahead(line.join(Session(), 1)) == 0
    assert session.history.own == ()


# --- the line ----------------------------------------------------------------------------------------------------------


def test_first_come_first_served_and_each_is_told_how_long():
    line = Waiting()
    first, second, third = (
        line.join(who, work) for who, work in (("a", 100), ("b", 300), ("c", 50))
    )
    assert [line.ahead(t) for t in (first, second, third)] == [0, 1, 2]
    assert line.seconds(second) is None
    line.worked(first, 40, 4.0)
    assert line.seconds(first, own=True) == pytest.approx(6)
    assert line.seconds(second) == pytest.approx(6)
    assert line.seconds(third) == pytest.approx(36)
    assert line.seconds(third, own=True) == pytest.approx(41)
    line.leave(second)
    assert line.ahead(third) == 1
    assert line.seconds(third) == pytest.approx(6)
    line.leave(first)
    assert line.ahead(third) == 0


def test_nobody_is_in_the_line_twice_and_it_is_not_endless():
    line = Waiting(most=2)
    line.join("a", 1)
    with pytest.raises(ValueError, match="stop it first"):
        line.join("a", 1)
    line.join("b", 1)
    with pytest.raises(ValueError, match="try again in a few minutes"):
        line.join("c", 1)


def test_who_is_gone_is_not_waited_for():
    line = Waiting(gone=0.05)
    first = line.join("a", 1)
    time.sleep(0.06)
    second = line.join("b", 1)
    assert line.ahead(second) == 0
    with pytest.raises(ValueError, match="press Train again"):
        line.ahead(first)


@pytest.mark.slow
def test_the_second_visitor_waits_then_trains_and_can_give_up(monkeypatch):
    monkeypatch.setattr(tr, "REDRAWN", 0.01)
    line, (one, two, three) = Waiting(), (Session() for _ in range(3))
    watched = [trained(LAB, s, ORDER, line) for s in (one, two, three)]
    assert [next(w).state for w in watched] == ["waking"] * 3
    assert next(watched[0]).state == "training"
    waiting = [next(w) for w in watched[1:]]
    assert [(p.state, p.ahead) for p in waiting] == [("waiting", 1), ("waiting", 2)]
    assert "1 training is ahead of you" in train_parts.status(waiting[0])
    assert "2 trainings are" in train_parts.status(waiting[1])
    line.stop(three)
    assert [p.state for p in watched[2]] == ["stopped"]
    assert three.history.own == ()
    assert list(watched[0])[-1].state == "done"
    assert list(watched[1])[-1].state == "done"
    assert [o.adapter for o in one.history.own] == [
        o.adapter for o in two.history.own
    ]  # the same order gives the same numbers


# --- what comes from the controls --------------------------------------------------------------------------------------


def test_controls_make_an_order():
    assert TrainState.from_controls(LAB, *VALUES) == TrainState(
        "colours", rank=2, steps=50, batch=4
    )
    assert TrainState("colours").rate("lora") == RATES["lora"]
    assert TrainState("colours").rate("copra") == RATES["copra"]
    order = TrainState.from_controls(
        LAB, "colours", "copra", 8.0, "0.008", 1200, 16, "all six", 1, 999
    )
    assert order == TrainState(
        "colours", ("copra",), 8, 8e-3, 1200, 16, ("q", "k", "v", "out", "fc1", "fc2"), 1, 999
    )
    assert order.work == 1200 * 16
    assert replace(order, methods=("lora", "copra")).work == 2 * 1200 * 16


JUNK = [
    (0, "elsewhere", "choose one of the tasks"), (0, None, "choose one of the tasks"), (1, "<b>", "the method must be one of both, lora, copra"),
    (2, 0, "the rank must be a whole number from 1 to 8"), (2, 1e9, "the rank"), (2, "4", "the rank"), (2, None, "the rank"), (2, True, "the rank"),
    (3, "1", "the learning rate must be one of"), (3, ["tuned"], "the learning rate"), (4, 49, "the number of steps must be a whole number from 50 to 1200"),
    (4, float("nan"), "the number of steps"), (4, float("inf"), "the number of steps"), (4, 60.5, "the number of steps"), (5, 1000, "the batch size must be one of 4, 8, 16"),
    (6, "../..", "the choice of matrices"), (7, 3, "the number of shots"), (7, {}, "the number of shots"), (8, -1, "the seed"), (8, 10**400, "the seed"),
]  # fmt: skip


@pytest.mark.parametrize(("at", "value", "words"), JUNK)
def test_junk_is_answered_in_a_sentence_and_nothing_is_trained(at, value, words):
    values = [*VALUES[:at], value, *VALUES[at + 1 :]]
    with pytest.raises(ValueError, match=words):
        TrainState.from_controls(LAB, *values)
    session = Session()
    (answer,) = train.training(LAB, Waiting(), session, *values)
    assert 'role="alert"' in answer["status"]
    assert words.split()[1] in answer["status"]
    assert "<b>" not in answer["status"].replace("<b>No number here.</b>", "")
    assert session.history.own == ()


@pytest.mark.slow
def test_a_second_press_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(tr, "REDRAWN", 0)
    line, session = Waiting(), Session()
    first = train.training(LAB, line, session, *VALUES)
    assert "Loading" in next(first)["status"]
    assert not next(first)["start"]["interactive"]
    _, answer = train.training(LAB, line, session, *VALUES)
    assert "start" not in answer
    assert "your last training is not over" in answer["status"]
    *_, end = first
    assert 'data-state="done"' in end["status"]
    assert len(session.history.own) == 2


@pytest.mark.slow
def test_the_page_trains_and_gives_buttons_back():
    run = handler(LAB, "run", "train")
    answers = list(run(*VALUES, Session()))
    assert not answers[1]["train-start"]["interactive"]
    assert answers[1]["train-stop"]["interactive"]
    last = answers[-1]
    assert not last["train-stop"]["interactive"]
    own_, described = last["train-own"], last["train-described"]
    buttons = [last[f"train-{name}"] for name in (*(f"to-{view}" for view in results.TO), "fetch")]
    assert [label for label, _ in own_["choices"]] == ["Your LoRA 1", "Your CopRA 1"]
    assert own_["value"] == own_["choices"][0][1]
    assert "Colours · rank 2 on q, k, v" in described
    assert "50 of 50 steps of 4" in described
    assert all(b["interactive"] for b in buttons)
    assert f'data-n="{len(TINY)}"' in last["train-race"]
    assert [row[:2] for row in cells(last["train-table"])][:2] == [["base", ""], ["LoRA", "5"]]


# --- the visitor's own -------------------------------------------------------------------------------------------------


def test_results_are_in_the_visitors_own_menus_and_in_nobody_elses():
    one, two = finished()[0], Session()
    mine = [o.key for o in one.history.own]
    assert [key for _, key in one.history.lab(LAB).menu("colours")] == [
        "0/one",
        "0/two",
        *mine,
        BASE,
    ]
    assert one.history.lab(LAB).menu("colours")[2][0] == "Your LoRA 1"
    assert two.history.lab(LAB) is LAB
    assert not {key for _, key in two.history.lab(LAB).menu("colours")} & set(mine)
    switches = ("colours", mine[0], [0], ["q"], 0, ALL)
    assert prune.ask(LAB, one.history, *switches)[0].key == mine[0]
    assert prune.ask(LAB, two.history, *switches)[0].key == "0/one"
    assert blend.ask(LAB, one.history, "colours", *mine, 0.5, "delta", False)[0] == BlendState(
        "colours", *mine, 0.5
    )
    assert blend.ask(LAB, two.history, "colours", *mine, 0.5, "delta", False)[0] == BlendState(
        "colours", "0/one", "0/two", 0.5
    )


@pytest.mark.slow
def test_a_result_is_measured_blended_pruned_valued_and_shown_pictures():
    session, _ = finished()
    lora, copra = (o for o in session.history.own)
    for state in (
        prune_state("colours", lora.key, (0, 2)),
        BlendState("colours", lora.key, copra.key, 0.0),
    ):
        list(first_numbers(LAB, session, state))
        assert remaining(LAB, session).whole(state)
    assert session.history.here.accuracy == TINY.accuracy(lora.adapter)
    first = next(shapley.watching(replace(LAB), "colours", copra.key, -1, session, None))
    assert session.history.state.key == copra.key
    assert "value" not in first["adapter"]
    assert copra.key in first["number"]  # the panel says whose layers it shows
    labels = [
        label
        for label, _, _ in classify.opinions(
            session.history.lab(LAB), "colours", classify.from_test_set(LAB, "colours", 0)
        )
    ]
    assert labels[-2:] == ["Your LoRA 1", "Your CopRA 1"]


def test_only_the_last_are_kept_and_never_the_one_in_use_is_lost():
    adapters = [alone(replace(ORDER, steps=1, seed=i), "lora") for i in range(OWN + 2)]
    own_ = [Own("colours", i, a, 1) for i, a in enumerate(adapters)]
    history = History()
    for o in own_[:OWN]:
        history = history.keep(o)
    assert [o.number for o in history.own] == list(range(OWN))[::-1]
    assert [o.number for o in history.keep(*own_[OWN:]).own] == [
        *range(OWN, OWN + 2),
        *range(2, OWN)[::-1],
    ]
    standing = replace(history, state=prune_state("colours", own_[0].key))
    assert [o.number for o in standing.keep(*own_[OWN:]).own] == [
        *range(OWN, OWN + 2),
        *range(3, OWN)[::-1],
        0,
    ]


@pytest.mark.slow
def test_a_key_is_never_used_again_and_copies_of_a_lab_share_what_was_computed():
    (lora, copra), lab = finished()[0].history.own, TrainLab()
    again = finished()[0].history.own[0]
    assert again.adapter == lora.adapter
    assert len({lora.key, copra.key, again.key}) == 3
    assert replace(lab, own=(lora,)) == lab == replace(lab, own=(copra,))
    assert hash(replace(lab, own=(lora,))) == hash(lab)


@pytest.mark.slow
def test_what_a_visitor_no_longer_keeps_is_gone_and_said_so():
    session, _ = finished(replace(ORDER, methods=("lora",)))
    key = session.history.own[0].key
    assert Lab().adapter("colours", key) == session.history.own[0].adapter
    session.change(lambda history: replace(history, own=()))
    gc.collect()
    with pytest.raises(AdapterError, match="no longer kept"):
        Lab().adapter("colours", key)


def opened(view: str, key: str, session: Session):
    """What an address that a result is taken to shows."""
    link, _, _ = results.take(LAB, view, key, session).partition("#")
    state, refused = address.read(session.history.lab(LAB), view, link)
    assert refused == []
    return state


def test_a_result_is_taken_to_an_address_of_another_view():
    session, _ = finished()
    lora, copra = session.history.own
    assert opened("blend", copra.key, session) == BlendState(
        "colours", copra.key, lora.key
    )  # against the last other one
    assert opened("prune", lora.key, session) == prune_state("colours", lora.key)
    assert opened("shapley", lora.key, session) == ShapleyState(
        "colours", lora.key
    )  # no layer of the adapter before
    assert opened("try", lora.key, session) == TryState("colours")
    assert results.take(LAB, "shapley", lora.key, Session()) == gr.skip()  # somebody else's key
    assert results.take(LAB, "prune", lora.key, session) != results.take(
        LAB, "prune", lora.key, session
    )  # pressed twice, it opens twice
    assert results.mine(session, "own/../../etc") is lora
    assert results.mine(Session(), lora.key) is None


def test_the_zip_is_a_folder_that_peft_loads(tmp_path):
    from peft import PeftModel

    session, _ = finished(replace(ORDER, methods=("lora",)))
    mine = session.history.own[0]
    file = results.packed(str(tmp_path / "served"), mine.key, session)
    assert file == results.packed(str(tmp_path / "served"), mine.key, session)
    assert file.endswith("colours-lora-rank-2.zip")
    with zipfile.ZipFile(file) as z:
        assert sorted(z.namelist()) == sorted([CONFIG, WEIGHTS])
        z.extractall(tmp_path / "home")
    assert json.loads((tmp_path / "home" / CONFIG).read_text())["r"] == 2
    clip, task = tiny_clip(), tiny_task()
    theirs = (
        PeftModel.from_pretrained(to_hugging_face(clip).double(), str(tmp_path / "home"))
        .double()
        .eval()
    )
    with torch.inference_mode():
        logits = theirs(
            input_ids=clip.tokenizer(task.prompts),
            pixel_values=clip.pixels(task.test.images).double(),
        ).logits_per_image
    torch.testing.assert_close(
        logits[TINY.order].float(), TINY.logits(mine.adapter), atol=1e-3, rtol=1e-3
    )
    assert "value" not in results.packed(str(tmp_path), mine.key, Session())  # nobody else's


# --- what is drawn -----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_of_whole_points_only():
    course = Course("copra", (1.0, None, 3.0, 5.0, 7.0), ((True,),) * 5)
    assert train_charts.losses(course, 100) == [(1.0, 1.0), (3.0, 4.0)]
    assert train_charts.losses(Course("copra", (None, None)), 100) == []


def test_the_picture_of_layers_has_a_column_for_each_step_or_the_share_of_several():
    on = tuple((i % 2 == 0, True, False) for i in range(4))
    picture = train_charts.layers_on(Course("copra", (0.0,) * 4, on), 8)
    assert picture.shape == (3, 8)
    np.testing.assert_array_equal(picture[:, :4], np.array(on).T)
    assert not picture[:, 4:].any()
    many = train_charts.layers_on(
        Course("copra", (0.0,) * 600, (on[0], on[1]) * 300), 2 * train_charts.COLUMNS
    )
    assert many.shape == (3, train_charts.COLUMNS)
    assert (many[0] == 0.5).all()
    assert (many[1] == 1).all()


def test_drawings_are_well_formed_and_their_axes_do_not_move():
    from xml.etree import ElementTree

    course = Course(
        "lora",
        (2.0, 0.4, 99.0, 0.2),
        ((True,),) * 4,
        ((2, Accuracy(60, 100)), (4, Accuracy(70, 100))),
    )
    for svg, empty in (
        (train_charts.loss_svg([course], 4, 4), train_charts.loss_svg([], 4, 4)),
        (
            train_charts.accuracy_svg([course], 4, Accuracy(30, 100)),
            train_charts.accuracy_svg([], 4, None),
        ),
    ):
        frames = [
            [
                ElementTree.tostring(e)
                for e in ElementTree.fromstring(x)
                if e.get("class") in ("tick", "grid")
            ]
            for x in (svg, empty)
        ]
        assert frames[0] == frames[1] != []
        heights = [
            float(e.get(y)) for e in ElementTree.fromstring(svg).iter("line") for y in ("y1", "y2")
        ]
        assert all(0 <= h <= train_charts.HEIGHT for h in heights)
    assert str(Accuracy(70, 100)) in ElementTree.fromstring(svg).find("desc").text


def test_before_anything_is_trained_the_page_says_so():
    assert "guessing" not in train_parts.charts(None)  # by how many classes, nobody knows yet
    assert "guessing" not in train_parts.charts(Progress(ORDER, "waking"))
    assert "guessing 1.39" in train_parts.charts(Progress(ORDER, "waiting", classes=4))
    assert "press Train" in train_parts.status(None)
    assert "…" in train_parts.race(None)
    assert "<svg" in train_parts.charts(None)
    assert "<tbody></tbody>" in train_parts.table(None)


# --- in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_watch_stop_prune_and_download_a_training(browser, url):
    visitor = Visitor(browser, url, "train", width=390, height=844)
    page = visitor.page
    page.click("#train-start")
    page.wait_for_function("document.querySelector('#train-status .training')?.dataset.step > 0")
    before = page.evaluate("document.querySelector('#train-charts').getBoundingClientRect().height")
    page.wait_for_function("document.querySelectorAll('#train-race section[data-n]').length == 2")
    page.click("#train-stop")
    page.wait_for_function(
        "document.querySelector('#train-status .training').dataset.state == 'stopped'"
    )
    assert page.evaluate(
        "document.querySelector('#train-charts').getBoundingClientRect().height"
    ) == pytest.approx(before, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shown = page.locator("#train-race .lora").evaluate("e => ({...e.dataset})")
    with page.expect_download() as download:
        page.click("#train-fetch")
    with zipfile.ZipFile(download.value.path()) as z:
        assert sorted(z.namelist()) == sorted([CONFIG, WEIGHTS])
    page.click("#train-to-prune")
    page.locator("#view-prune").wait_for()
    page.wait_for_function("document.querySelector('#prune-adapter input').value == 'Your LoRA 1'")
    page.wait_for_function(
        "c => document.querySelector('#prune-number .now')?.dataset.correct == c",
        arg=shown["correct"],
    )
    assert visitor.pruned()["n"] == shown["n"]
    other = Visitor(browser, url, "prune")
    other.pruned()
    other.page.locator("#prune-adapter input").click()
    assert not any("Your" in label for label in other.page.get_by_role("option").all_inner_texts())
    visitor.leave()
    other.leave()
