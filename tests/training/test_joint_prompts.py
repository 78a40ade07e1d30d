"""Soft prompts that advance together end as each does alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_adapter, tiny_clip, tiny_task
from tiny_double import double_clip, double_task

from copra_lab.prompts import VPT, CoOp, Nemesis
from copra_lab.training import Diverged, Job, fit, fit_many, fit_many_steps
from copra_lab.training.grouping import IMAGES, TEXTS, build, grouped
from copra_lab.training.prompt import JointPrompts
from copra_lab.utils.devices import this_process

STEPS = 20
PUN, PAN = Nemesis(1.0, 0.1), Nemesis(0.0, 0.5, samples=2, ramp="one")
BOTH = Nemesis(0.4, 0.2, norm=1, tau=-1.0, samples=9)
PENALTIES = (None, PUN, PAN, BOTH)
METHODS = {
    "end": CoOp(4),
    "front": CoOp(2, "front"),
    "own": CoOp(3, "middle", class_specific=True),
    "words": CoOp(words="a photo of a"),
    "vpt": VPT(3),
}


def job(method=CoOp(4), task=None, **more) -> Job:  # noqa: B008 (frozen)
    return Job.of(task or tiny_task(), method, **{"steps": STEPS, "batch": 8, "lr": 0.05} | more)


def trained(clip, jobs):
    """The vectors of each run, and the losses of each step."""
    group = build(clip, jobs, this_process())
    assert isinstance(group, JointPrompts)
    losses = [group.step(step) for step in range(jobs[0].complete.steps)]
    return [group.result(j, {}).context for j in range(len(jobs))], losses


def alone(job: Job):
    return fit(
        tiny_clip(), job.task, job.method, settings=job.settings, penalty=job.penalty,
        adapter=job.adapter, start_from=job.start_from, progress=False,
    )  # fmt: skip


def apart(a, b) -> float:
    return float((a.context - b.context).abs().max())


def mixture(method, task, other, batch=8) -> list[Job]:
    several = (
        {},
        {"task": other, "seed": 1, "penalty": PUN, "views": 3},
        {"seed": 2, "penalty": PAN, "lr": 0.2, "weight_decay": 0.1},
        {"seed": 2, "penalty": BOTH, "schedule": "cooldown", "views": 2},
    )
    return [job(method, **{"task": task, "batch": batch} | more) for more in several]


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_runs_end_together_as_each_alone(kind):
    # the texts beside which VPT's images are classified may be of any number
    classes = 3 if kind == "vpt" else 4
    # batches of which not all fit into one pass through the tower
    jobs = mixture(METHODS[kind], double_task(), double_task(seed=1, classes=classes), batch=16)
    clip = double_clip()
    assert grouped(clip, jobs, "cpu") == [[0, 1, 2, 3]]
    together, losses = trained(clip, jobs)
    for j, each in enumerate(jobs):
        [by_itself], own = trained(clip, [each])
        assert by_itself.dtype == torch.float64
        torch.testing.assert_close(together[j], by_itself, atol=1e-9, rtol=0)
        for at_once, single in zip(losses, own, strict=True):
            assert at_once[j] == pytest.approx(single[0], abs=1e-9)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["end", "front", "own", "vpt"]),
    st.integers(1, 5),
    st.lists(
        st.tuples(
            st.sampled_from(PENALTIES),
            st.integers(0, 2),
            st.sampled_from([1e-3, 0.05, 0.5]),
            st.sampled_from([0, 2]),
        ),
        min_size=2,
        max_size=4,
    ),
    st.sampled_from([3, 8, 70]),
)
def test_any_group_ends_as_its_runs_alone(kind, length, drawn, batch):
    clip, tasks = double_clip(), [double_task(), double_task(seed=1)]
    method = replace(METHODS[kind], length=length)
    more = {"steps": 4, "batch": batch}
    jobs = [
        job(method, tasks[seed % 2], penalty=penalty, seed=seed, lr=lr, views=views, **more)
        for penalty, seed, lr, views in drawn
    ]
    together, _ = trained(clip, jobs)
    for j, each in enumerate(jobs):
        [by_itself], _ = trained(clip, [each])
        torch.testing.assert_close(together[j], by_itself, atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["end", "vpt"])
def test_the_order_of_runs_does_not_matter(kind):
    jobs = mixture(METHODS[kind], tiny_task(), tiny_task(seed=1))
    jobs = [replace(j, adapter=random_adapter(tiny_clip(), size=0.3)) for j in jobs]
    first, again = (fit_many(tiny_clip(), jobs, progress=False) for _ in range(2))
    assert first == again
    turned = fit_many(tiny_clip(), jobs[::-1], progress=False)[::-1]
    for one, two, each in zip(first, turned, jobs, strict=True):
        assert apart(one, two) < 1e-5
        assert apart(one, alone(each)) < 1e-5
        assert one.provenance == two.provenance == alone(each).provenance


@pytest.mark.slow
@pytest.mark.parametrize("method", [CoOp(4), VPT(2)])
def test_a_run_that_diverges_ends_alone(method):
    jobs = [job(method, penalty=PAN), job(method, lr=1e30, seed=1), job(method, seed=2)]
    seen = []
    with pytest.raises(Diverged, match=r"^1 of 3 runs failed: run 1 \(.*\): the loss") as e:
        fit_many(tiny_clip(), jobs, progress=False, on_step=seen.append)
    one, none, three = e.value.results
    assert none is None
    assert apart(one, alone(jobs[0])) < 1e-5
    assert apart(three, alone(jobs[2])) < 1e-5
    last = [s for s in seen if s.run == 1][-1]
    assert last.step < STEPS
    assert last.error in str(e.value)
    assert {s.run for s in seen if s.step > last.step} == {0, 2}


def test_a_run_that_is_over_does_not_move():
    group = build(tiny_clip(), [job(penalty=PUN), job(seed=1)], this_process())
    group.step(0)
    group.alive.discard(0)
    before = {k: v.clone() for k, v in group.state().items()}
    none, loss = group.step(1)
    assert none is None
    assert loss > 0
    after = group.state()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"p1", "o1.momentum_buffer"}


@pytest.mark.slow
@pytest.mark.parametrize("method", [CoOp(4), VPT(2)])
def test_an_interrupted_group_ends_as_an_unbroken_one(method, tmp_path):
    jobs = [
        job(method, penalty=PAN),
        job(method, seed=1, views=2, lr=0.1),
        job(method, lr=1e30, seed=2),
    ]
    options = {"checkpoint": tmp_path / "group.part", "checkpoint_every": 4, "progress": False}

    def ends(**more):
        with pytest.raises(Diverged) as e:
            fit_many(tiny_clip(), jobs, **options, **more)
        return e.value.results

    def interrupt(step):
        if step.step == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ends(on_step=interrupt)
    with pytest.raises(ValueError, match="other settings"):
        fit_many(tiny_clip(), jobs[:2], **options)
    seen = []
    resumed = ends(on_step=seen.append)
    assert {(s.run, s.step) for s in seen} == {(j, s) for j in (0, 1) for s in range(9, STEPS + 1)}
    assert not list(tmp_path.iterdir())
    unbroken = ends()
    assert resumed == unbroken
    assert resumed[2] is None


def test_each_run_has_steps_of_its_own():
    jobs = [job(steps=4), job(seed=1, penalty=PUN, steps=4, lr=0.5)]
    steps = list(fit_many_steps(tiny_clip(), jobs, validate_every=2))
    for j, each in enumerate(jobs):
        mine, seen = [s for s in steps if s.run == j], []
        fit(
            tiny_clip(), each.task, each.method, settings=each.settings, penalty=each.penalty,
            progress=False, validate_every=2, on_step=seen.append,
        )  # fmt: skip
        for one, two in zip(mine, seen, strict=True):
            assert (one.step, one.validation) == (two.step, two.validation)
            assert one.loss == pytest.approx(two.loss, abs=1e-5)
            assert one.norms == pytest.approx(two.norms, abs=1e-5)
            assert len(one.norms) == 4


def test_a_run_begins_with_a_prompt_of_its_own():
    first = alone(job(steps=4))
    jobs = [replace(job(seed=1, steps=4), start_from=first), job(seed=1, steps=4)]
    one, two = fit_many(tiny_clip(), jobs, progress=False)
    assert apart(one, alone(jobs[0])) < 1e-5
    assert apart(one, two) > 1e-3
    assert one.provenance["start from"] == first.hash
    assert "start from" not in two.provenance
    other = alone(job(CoOp(3), steps=1))
    with pytest.raises(ValueError, match="does not match these settings"):
        fit_many(tiny_clip(), [jobs[1], replace(jobs[1], start_from=other)], progress=False)


def test_what_differs_in_more_than_a_run_may_is_trained_apart():
    adapter = random_adapter(tiny_clip())
    jobs = [
        job(),
        job(CoOp(words="a photo of a"), lr=1.0, penalty=PAN, seed=5),  # four vectors, too
        job(CoOp(5)),
        job(CoOp(4, "front")),
        job(CoOp(4, class_specific=True)),
        job(task=tiny_task(classes=3)),
        job(task=tiny_task(seed=1)),
        job(steps=3),
        job(batch=9),
        replace(job(), adapter=adapter),
        job(VPT(4)),
        job(VPT(4), task=tiny_task(classes=3)),
        job(VPT(5)),
        replace(job(VPT(4)), adapter=adapter),
        replace(job(seed=1), adapter=adapter),
    ]
    together = [[0, 1, 6], [9, 14], [10, 11]]
    apart = [[j] for j in (2, 3, 4, 5, 7, 8, 12, 13)]
    assert grouped(tiny_clip(), jobs, "cpu") == sorted(together + apart)


def test_a_group_is_as_large_as_is_fast():
    texts = [job(seed=seed) for seed in range(50)]
    images = [job(VPT(2), seed=seed) for seed in range(50)]
    for jobs, size in ((texts, TEXTS["cpu"] // 4), (images, IMAGES["cpu"] // 8)):
        groups = grouped(tiny_clip(), jobs, "cpu")
        assert len(groups) == -(-50 // size)
        assert max(map(len, groups)) <= size
    assert len(grouped(tiny_clip(), texts, "cpu", 10)) == 5
    assert grouped(tiny_clip(), texts[:3], "cpu", 1) == [[0], [1], [2]]
