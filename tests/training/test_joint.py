"""Runs that advance together end as each does alone."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_clip, tiny_task
from tiny_double import double_clip, double_task

from copra_lab.engine.extraction import plain_tower
from copra_lab.methods import LoRA
from copra_lab.methods.input_dropout import InputDropout
from copra_lab.prompts import CoOp
from copra_lab.training import (
    PLAIN,
    CopRA,
    Diverged,
    Dropout,
    Job,
    ProgressiveDropout,
    StochasticDepth,
    TrainingSettings,
    fit,
    fit_many,
    fit_many_steps,
)
from copra_lab.training.grouping import grouped
from copra_lab.training.joint import JointLoRA, LoRARun
from copra_lab.training.lora import AdapterTraining
from copra_lab.utils.devices import this_process
from copra_lab.utils.rng import generator

STEPS = 20


def run(task, lora=LoRA(rank=4), dropping=PLAIN, steps=STEPS, **more) -> LoRARun:  # noqa: B008
    chosen = TrainingSettings(**{"steps": steps, "batch": 8, "lr": 1e-2} | more)
    return LoRARun(task, lora, dropping, chosen.resolve(lora, dropping))


def trained(clip, runs):
    dtype = next(clip.model.parameters()).dtype
    group = JointLoRA(clip, plain_tower(clip.model.visual, dtype), runs, this_process())
    losses = [group.step(step) for step in range(runs[0].settings.steps)]
    return [group.result(j, {}) for j in range(len(runs))], losses, group


def apart(a, b) -> float:
    """The largest difference of any number of two adapters."""
    assert list(a.deltas) == list(b.deltas)
    pairs = [(a.deltas[n], b.deltas[n]) for n in a.deltas]
    return max(float((x - y).abs().max()) for p, q in pairs for x, y in ((p.A, q.A), (p.B, q.B)))


def mixture(task, other):
    return [
        run(task),
        run(other, LoRA(rank=1, sites=("q",)), CopRA(), seed=1),
        run(task, LoRA(rank=16, alpha=8, sites=("v", "fc1", "out")), CopRA(unit="module"), seed=2),
        run(task, LoRA(rank=4), Dropout(), seed=3),
        run(other, LoRA(rank=2, sites=("q", "k", "v", "fc2")), ProgressiveDropout(), lr=3e-3),
        run(other, LoRA(rank=4, train_a=False), StochasticDepth(), schedule="cosine"),
        run(task, LoRA(rank=4), CopRA(), views=2, weight_decay=0.1),
    ]


@pytest.mark.slow
def test_runs_of_every_kind_end_together_as_each_alone():
    clip, task, other = double_clip(), double_task(), double_task(seed=1, classes=3)
    runs = mixture(task, other)
    together, losses, _ = trained(clip, runs)
    for j, each in enumerate(runs):
        [alone], own, _ = trained(clip, [each])
        assert apart(together[j], alone) < 1e-9
        for at_once, by_itself in zip(losses, own, strict=True):
            assert at_once[j] == pytest.approx(by_itself[0], abs=1e-9)


def mask_of(dropout, shape, site):
    """A mask that depends on the site alone; where a block computes fewer tokens, those of it."""
    whole = torch.rand(shape[0], 20, *shape[2:], generator=generator(0, 0, site.name))
    return whole[:, : shape[1]] >= dropout.rate


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "tolerance"), [(20, 1e-5), (200, 1e-4)])
def test_it_learns_what_the_models_own_modules_and_torchs_optimiser_learn(
    steps, tolerance, monkeypatch
):
    # the last block computes only the class token's query, and would draw fewer masks
    monkeypatch.setattr(InputDropout, "kept", mask_of)
    clip, runs = tiny_clip(), mixture(tiny_task(), tiny_task(seed=1, classes=3))
    runs = [replace(r, settings=replace(r.settings, steps=steps, lr=1e-3)) for r in runs]
    together, _, group = trained(clip, runs)
    for j, r in enumerate(runs):
        by_modules = AdapterTraining(clip, r.task, r.lora, r.dropping, r.settings, this_process())
        for step in range(steps):
            by_modules.step(step)
        assert apart(together[j], by_modules.result(0, {})) < tolerance
        assert group.validate(j) == pytest.approx(by_modules.validate(0))


DROPPINGS = [PLAIN, CopRA(), CopRA(unit="module"), CopRA(start=0.3), Dropout(), StochasticDepth()]


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 3, 8]),
            st.lists(
                st.sampled_from(["q", "k", "v", "out", "fc1", "fc2"]), min_size=1, unique=True
            ),
            st.sampled_from(DROPPINGS),
            st.integers(0, 2),
            st.sampled_from([0, 0, 2]),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_any_group_ends_as_its_runs_alone(drawn):
    clip, tasks = double_clip(), [double_task(), double_task(seed=1, classes=3)]
    runs = [
        run(tasks[seed % 2], LoRA(rank=rank, sites=tuple(kinds)), dropping, 5, seed=seed, views=v)
        for rank, kinds, dropping, seed, v in drawn
    ]
    together, _, _ = trained(clip, runs)
    for j, each in enumerate(runs):
        assert apart(together[j], trained(clip, [each])[0][0]) < 1e-9


def test_what_is_off_in_one_run_stays_as_it_is_while_another_runs_moves():
    runs = [run(tiny_task(), LoRA(rank=2), CopRA()), run(tiny_task(), LoRA(rank=3), seed=1)]
    tower = plain_tower(tiny_clip().model.visual)
    group = JointLoRA(tiny_clip(), tower, runs, this_process())
    moved = stayed = 0
    for step in range(STEPS):
        before = {k: v.clone() for k, v in group.state().items()}
        group.step(step)
        after = group.state()
        off = [i for i, on in enumerate(group.on(0).values()) if not on]
        for name, was in before.items():  # (layers, runs, …)
            for layer in off:
                assert torch.equal(was[layer, 0], after[name][layer, 0])
                stayed += 1
            if not name.startswith("counts"):
                moved += not torch.equal(was[:, 1], after[name][:, 1])
    assert stayed > 50
    assert moved > 50


def test_a_run_with_nothing_on_holds_up_no_other():
    jobs = [_job(CopRA()), _job(PLAIN, seed=1)]
    steps = {}
    for step in fit_many_steps(tiny_clip(), jobs):
        steps.setdefault(step.run, []).append(step)
    assert steps[0][0].loss is None  # p is 0 at first
    assert steps[1][0].loss is not None
    assert [s.step for s in steps[0]] == [s.step for s in steps[1]] == list(range(1, STEPS + 1))


def _job(dropping=PLAIN, lora=LoRA(rank=2), task=None, **more) -> Job:  # noqa: B008
    chosen = TrainingSettings(**{"steps": STEPS, "batch": 8, "lr": 1e-2} | more)
    return Job(task or tiny_task(), lora, dropping, chosen)


def _alone(job: Job):
    return fit(
        tiny_clip(), job.task, job.method, job.dropping, job.settings, penalty=job.penalty,
        progress=False,
    )  # fmt: skip


def test_a_job_takes_its_settings_by_name_too():
    job = Job.of(tiny_task(), LoRA(2), CopRA(), seed=3, lr=1e-3)
    same = Job(job.task, LoRA(2), CopRA(), TrainingSettings(seed=3, lr=1e-3))
    assert (job.method, job.dropping, job.settings) == (same.method, same.dropping, same.settings)
    with pytest.raises(TypeError, match="rates"):
        Job.of(tiny_task(), rates=1e-3)


def test_a_run_that_diverges_ends_alone():
    jobs = [_job(), _job(lr=1e30, seed=1), _job(CopRA(), seed=2)]
    seen = []
    with pytest.raises(Diverged, match=r"^1 of 3 runs failed: run 1 \(lora .*\): the loss") as e:
        fit_many(tiny_clip(), jobs, progress=False, on_step=seen.append)
    one, none, three = e.value.results
    assert none is None
    assert apart(one, _alone(jobs[0])) < 1e-5
    assert apart(three, _alone(jobs[2])) < 1e-5
    *before, last = [s for s in seen if s.run == 1]
    assert last.step < STEPS
    assert not math.isfinite(last.loss)
    assert last.error in str(e.value)
    assert last.learned is None
    assert not any(s.error for s in seen if s is not last)
    assert {s.run for s in seen if s.step > last.step} == {0, 2}
    assert [s.step for s in before] == list(range(1, last.step))
    alone = []
    with pytest.raises(ValueError, match="lower the learning rate"):
        fit(tiny_clip(), tiny_task(), LoRA(rank=2), settings=jobs[1].settings, progress=False,
            on_step=alone.append)  # fmt: skip
    assert [s.step for s in alone] == [s.step for s in before]


def test_runs_that_all_diverge_say_so_and_nothing_follows():
    jobs = [_job(lr=1e30), _job(lr=1e30, seed=1)]
    *_, one, two = fit_many_steps(tiny_clip(), jobs)
    assert (one.run, two.run) == (0, 1)
    assert one.error and two.error


@pytest.mark.slow
def test_the_same_group_gives_the_same_bytes_and_another_order_the_same_numbers():
    jobs = [_job(), _job(CopRA(), seed=1), _job(Dropout(), seed=2)]
    first, again = (fit_many(tiny_clip(), jobs, progress=False) for _ in range(2))
    assert [a.hash for a in first] == [a.hash for a in again]
    turned = fit_many(tiny_clip(), jobs[::-1], progress=False)[::-1]
    assert max(map(apart, first, turned)) < 1e-5
    assert [a.provenance for a in first] == [a.provenance for a in turned]


@pytest.mark.slow
def test_an_interrupted_group_ends_as_an_unbroken_one(tmp_path):
    jobs = [_job(), _job(CopRA(), seed=1), _job(lr=1e30, seed=2)]
    options = {"checkpoint": tmp_path / "group.part", "checkpoint_every": 4}

    def ends(**more):
        with pytest.raises(Diverged) as e:
            fit_many(tiny_clip(), jobs, progress=False, **options, **more)
        return [a and a.hash for a in e.value.results]

    def interrupt(step):
        if step.step == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_many(tiny_clip(), jobs, progress=False, on_step=interrupt, **options)
    assert (tmp_path / "group.part").exists()
    with pytest.raises(ValueError, match="other settings"):
        fit_many(tiny_clip(), jobs[:2], progress=False, **options)
    seen = []
    resumed = ends(on_step=seen.append)
    assert min(s.step for s in seen) == 9
    assert not list(tmp_path.iterdir())
    assert resumed == ends()


@pytest.mark.slow
def test_a_group_that_is_done_is_not_trained_again(tmp_path):
    jobs = [_job(), _job(steps=8)]
    options = {"checkpoint": tmp_path / "all.part", "checkpoint_every": 4, "progress": False}

    def interrupt(step):
        if (step.run, step.step) == (1, 6):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_many(tiny_clip(), jobs, on_step=interrupt, **options)
    seen = []
    resumed = fit_many(tiny_clip(), jobs, on_step=seen.append, **options)
    assert [(s.run, s.step) for s in seen] == [(1, 5), (1, 6), (1, 7), (1, 8)]
    assert not list(tmp_path.iterdir())
    unbroken = fit_many(tiny_clip(), jobs, progress=False)
    assert [a.hash for a in resumed] == [a.hash for a in unbroken]
    assert [a.provenance for a in resumed] == [a.provenance for a in unbroken]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [[_job()], [_job(), _job(steps=8)]], ids=["one", "two groups"])
def test_a_checkpoint_that_is_kept_gives_the_same_again_without_a_step(tmp_path, jobs):
    options = {"checkpoint": tmp_path / "all.part", "progress": False}
    first = fit_many(tiny_clip(), jobs, keep_checkpoint=True, **options)
    assert len(list(tmp_path.iterdir())) == len(jobs)
    again = fit_many(tiny_clip(), jobs, on_step=pytest.fail, **options)
    assert [a.hash for a in again] == [a.hash for a in first]
    assert [a.provenance for a in again] == [a.provenance for a in first]
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_version_is_refused_in_a_sentence(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = tmp_path / "x.part"

    def interrupt(step):
        if step.step == 5:
            raise KeyboardInterrupt

    options = {"checkpoint": file, "checkpoint_every": 2, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        fit_many(tiny_clip(), [_job()], on_step=interrupt, **options)
    with safe_open(file, "pt") as f:
        about = f.metadata()
    save_file({"p0": torch.zeros(2)}, file, about)
    with pytest.raises(ValueError, match="does not hold this run"):
        fit_many(tiny_clip(), [_job()], **options)


@pytest.mark.slow
def test_what_cannot_advance_together_is_trained_by_itself_and_stays_in_order():
    other = tiny_task(seed=1, classes=3)
    jobs = [
        _job(),
        _job(lora=LoRA(rank=2, towers=("vision", "text"))),
        _job(steps=6),
        _job(CopRA(), task=other),
        Job(tiny_task(), CoOp(2), settings=TrainingSettings(steps=3, views=1)),
    ]
    groups = grouped(tiny_clip(), jobs, "cpu")
    assert groups == [[0, 3], [1], [2], [4]]
    assert grouped(tiny_clip(), jobs, "cpu", 1) == [[0], [1], [2], [3], [4]]
    seen = []
    results = fit_many(tiny_clip(), jobs, progress=False, on_step=seen.append)
    for job, result in zip(jobs, results, strict=True):
        alone = _alone(job)
        assert result.provenance == alone.provenance
        if job.method == CoOp(2):
            assert result == alone
        else:
            assert apart(result, alone) < 1e-5
    assert {s.run for s in seen} == set(range(5))


def test_high_ranks_go_with_each_other():
    jobs = [_job(lora=LoRA(rank=rank)) for rank in (1, 64, 16, 17, 33)]
    assert grouped(tiny_clip(), jobs, "cpu") == [[0, 2], [1, 4], [3]]


@pytest.mark.slow
def test_a_group_that_was_killed_goes_on_where_it_was(tmp_path):
    """kill -9 in the middle, in a process of its own; then the same bytes as unbroken."""
    program = """
import os, signal, sys
from test_joint import _group_of_three
from tiny import tiny_clip
from copra_lab.training import fit_many
def die(step):
    if step.step == 13:
        os.kill(os.getpid(), signal.SIGKILL)
on_step = die if sys.argv[2] == "die" else None
found = fit_many(tiny_clip(), _group_of_three(), checkpoint=sys.argv[1], checkpoint_every=4,
                 progress=False, on_step=on_step)
print(*(a.hash for a in found))
"""

    def go(file, end):
        command = [sys.executable, "-c", program, str(file), end]
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
        }
        return subprocess.run(command, env=env, capture_output=True, text=True)

    assert go(tmp_path / "a.part", "die").returncode == -signal.SIGKILL
    assert (tmp_path / "a.part").exists()
    resumed, unbroken = (go(tmp_path / name, "live") for name in ("a.part", "b.part"))
    assert resumed.stdout == unbroken.stdout != ""
    assert list(tmp_path.iterdir()) == []


def _group_of_three() -> list[Job]:
    droppings = (PLAIN, CopRA(), Dropout())
    return [_job(dropping, seed=seed, steps=20) for seed, dropping in enumerate(droppings)]


def test_a_run_begins_with_an_adapter_of_its_own():
    first = _alone(_job())
    jobs = [replace(_job(seed=1), start_from=first), _job(seed=1)]
    one, two = fit_many(tiny_clip(), jobs, progress=False)
    alone = fit(
        tiny_clip(), tiny_task(), LoRA(rank=2), settings=jobs[0].settings, start_from=first,
        progress=False,
    )  # fmt: skip
    assert apart(one, alone) < 1e-5
    assert apart(one, two) > 1e-3
    assert one.provenance["start from"] == first.hash
    with pytest.raises(ValueError, match="does not match"):
        fit_many(tiny_clip(), [replace(jobs[0], method=LoRA(rank=3))], progress=False)


def test_bad_input_is_refused_before_anything_is_trained():
    seen = []
    with pytest.raises(ValueError, match="list of jobs is empty"):
        fit_many(tiny_clip(), [])
    with pytest.raises(ValueError, match="at_once must be"):
        fit_many(tiny_clip(), [_job()], at_once=0)
    with pytest.raises(TypeError, match="has no option 'steps'"):
        fit_many(tiny_clip(), [_job()], steps=3)
    with pytest.raises(ValueError, match="no training images"):
        _job(task=replace(tiny_task(), train=tiny_task().train.pick([])))
    with pytest.raises(ValueError, match=r"other weights|made from|base"):
        fit_many(
            tiny_clip(1),
            [_job(), replace(_job(), start_from=_alone(_job()))],
            progress=False,
            on_step=seen.append,
        )
    with pytest.raises(ValueError, match="can only start from an adapter"):
        fit_many(tiny_clip(), [replace(_job(), start_from=object())], progress=False)
    assert not seen
