import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.bench import Bench
from copra_lab.methods import LoRA
from copra_lab.prompts import VPT, CoOp
from copra_lab.tasks import Task
from copra_lab.training import PLAIN, CopRA, Dropout, fit
from copra_lab.training.base import Group, Training
from copra_lab.training.optimisers import MaskedAdamW
from copra_lab.utils.statistics import Accuracy, bootstrap_interval

QUICK = {"steps": 40, "lr": 1e-2, "batch": 16, "progress": False}


def test_fit_learns_and_leaves_the_clip_alone():
    clip, task = tiny_clip(), tiny_task()
    before = {k: v.clone() for k, v in clip.model.state_dict().items()}
    steps = []
    adapter = fit(clip, task, LoRA(rank=2), validate_every=20, on_step=steps.append, **QUICK)
    bench = Bench(clip, task)
    assert bench.accuracy(adapter).value > 0.9 > bench.accuracy().value + 0.2
    assert all(torch.equal(v, before[k]) for k, v in clip.model.state_dict().items())
    assert adapter.base == clip.hash
    assert adapter.provenance["task"] == "colours"
    assert len(adapter) == 9
    assert [s.step for s in steps] == list(range(1, 41))
    assert [s.step for s in steps if s.validation is not None] == [20, 40]
    assert steps[-1].loss < steps[0].loss
    assert steps[-1].validation == pytest.approx(
        adapter.provenance["validation accuracy"], abs=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "lora",
    [LoRA(rank=2), LoRA(rank=1, alpha=2, sites=("q", "out", "fc1"), towers=("vision", "text"))],
)
@pytest.mark.parametrize("dropping", [PLAIN, CopRA(start=0.2), Dropout()])
def test_same_seed_same_bytes(lora, dropping):
    clip, task = tiny_clip(), tiny_task()
    quick = QUICK | {"steps": 6}
    one, two, other = (fit(clip, task, lora, dropping, seed=s, **quick) for s in (3, 3, 4))
    assert one.hash == two.hash != other.hash


def test_an_interrupted_run_ends_as_an_unbroken_one(tmp_path):
    clip, task, file = tiny_clip(), tiny_task(), tmp_path / "run.safetensors"
    lora, quick = LoRA(rank=2), QUICK | {"steps": 12, "checkpoint": file, "checkpoint_every": 3}
    whole = fit(clip, task, lora, **QUICK | {"steps": 12})

    class Stop(Exception):
        pass

    for at in (5, 9, 10):
        seen = []

        def stop(s, at=at, seen=seen):
            seen.append(s.step)
            if s.step == at:
                raise Stop

        with pytest.raises(Stop):
            fit(clip, task, lora, on_step=stop, **quick)
        assert file.exists()
        assert (seen[0] - 1) % 3 == 0
    assert fit(clip, task, lora, **quick).hash == whole.hash
    assert not file.exists()


def test_training_goes_on_from_an_adapter_and_may_leave_a_alone():
    clip, task = tiny_clip(), tiny_task()
    first = fit(clip, task, LoRA(rank=2), **QUICK)
    again = fit(clip, task, LoRA(rank=2), start_from=first, **QUICK | {"steps": 1, "lr": 1e-9})
    assert all(
        torch.allclose(again.deltas[n].delta(), d.delta(), atol=1e-6)
        for n, d in first.deltas.items()
    )
    frozen = fit(clip, task, LoRA(rank=2, train_a=False), start_from=first, **QUICK | {"steps": 3})
    assert all(
        torch.equal(frozen.deltas[n].A, d.A) and not torch.equal(frozen.deltas[n].B, d.B)
        for n, d in first.deltas.items()
    )
    with pytest.raises(ValueError, match="does not match these LoRA settings"):
        fit(clip, task, LoRA(rank=3), start_from=first, **QUICK)
    with pytest.raises(ValueError, match="trained on base"):
        fit(tiny_clip(1), task, LoRA(rank=2), start_from=first, **QUICK)


@pytest.mark.slow
def test_trainings_in_threads_learn_what_each_learns_alone():
    """One thread stays inside a step until another has done some: what torch then remembers of a
    weight must be neither's of before.
    """
    clip, lora, quick = (
        tiny_clip(),
        LoRA(rank=2, towers=("vision", "text")),
        QUICK | {"steps": 6, "batch": 8},
    )
    alone = [fit(clip, tiny_task(), lora, seed=seed, **quick).hash for seed in (0, 1)]
    others = threading.Event()

    class Slow(Task):
        def augment(self, pixels, generator):
            others.wait(0.2)
            return super().augment(pixels, generator)

    slow = Slow(**vars(tiny_task()))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fit, clip, slow, lora, seed=0, **quick)
        second = pool.submit(
            fit,
            clip,
            tiny_task(),
            lora,
            seed=1,
            on_step=lambda s: others.set() if s.step == 3 else None,
            **quick,
        )
        assert [first.result().hash, second.result().hash] == alone


CHILD = """
    import sys, torch
    sys.path.insert(0, sys.argv[2])
    torch.set_num_threads(1)
    from tiny import tiny_clip, tiny_task
    from copra_lab.methods import LoRA
    from copra_lab.training import fit
    a = fit(tiny_clip(), tiny_task(), LoRA(rank=2), steps=30, lr=1e-2, batch=16, checkpoint=sys.argv[1], checkpoint_every=2,
            progress=False, on_step=lambda s: print(s.step, flush=True))
    print(a.hash, flush=True)
"""


@pytest.mark.slow
def test_kill_9_during_fit_loses_nothing(tmp_path):
    def start(file):
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(CHILD),
                str(file),
                str(Path(__file__).parents[1] / "support"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )

    expected = start(tmp_path / "whole").communicate(timeout=120)[0].split()[-1]
    file, rng, resumed = tmp_path / "run", np.random.default_rng(0), []
    for wait_for in (4, 13, 22):
        child = start(file)
        for line in child.stdout:
            resumed.append(int(line))
            if int(line) >= wait_for:
                break
        time.sleep(
            rng.uniform(0, 0.03)
        )  # anywhere within the following steps, also while a checkpoint is written
        os.kill(child.pid, signal.SIGKILL)
        child.communicate(timeout=30)
    last = start(file).communicate(timeout=120)[0].split()
    assert last[-1] == expected
    assert int(last[0]) > 1
    assert not file.exists()


def test_wrong_settings_and_strange_checkpoints_are_refused(tmp_path):
    clip, task, file = tiny_clip(), tiny_task(), tmp_path / "run"
    for bad in ({"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"lr": float("nan")}):
        with pytest.raises(ValueError, match="at least 1, lr positive"):
            fit(clip, task, **QUICK | bad)
    for bad in ({"checkpoint_every": 0}, {"validate_every": -1}):
        with pytest.raises(
            ValueError, match="checkpoint_every must be at least 1 and validate_every 0 or more"
        ):
            fit(clip, task, checkpoint=file, **QUICK | bad)
    with pytest.raises(
        ValueError, match=r"method must be LoRA\(\), CoOp\(\) or VPT\(\), got CopRA\(.*dropping="
    ):
        fit(clip, task, CopRA(), **QUICK)
    with pytest.raises(ValueError, match="schedule must be one of cosine, cooldown, got 'linear'"):
        fit(clip, task, **QUICK | {"schedule": "linear"})
    file.write_bytes(b"\x80\x04 not a checkpoint")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        fit(clip, task, checkpoint=file, **QUICK)
    file.unlink()
    with pytest.raises(KeyboardInterrupt):
        fit(clip, task, checkpoint=file, checkpoint_every=1, on_step=_interrupt, **QUICK)
    with pytest.raises(ValueError, match="other settings"):
        fit(clip, task, checkpoint=file, checkpoint_every=1, seed=1, **QUICK)
    with pytest.raises(ValueError, match="lower the learning rate"):
        fit(clip, task, **QUICK | {"lr": 1e30})


@pytest.mark.parametrize(
    "method",
    [LoRA(rank=2), LoRA(rank=2, towers=("text",)), CoOp(2), VPT(2)],
    ids=["vision", "text", "coop", "vpt"],
)
def test_a_task_needs_images_to_train_on_but_none_to_validate_on(method):
    clip, task = tiny_clip(), tiny_task()
    quick = QUICK | {"steps": 2, "batch": 4}
    with pytest.raises(ValueError, match="colours has no training images"):
        fit(clip, replace(task, train=task.train.pick([])), method, **quick)
    unseen = replace(task, val=task.val.pick([]))
    found = fit(clip, unseen, method, **quick)
    assert found == fit(clip, task, method, **quick)
    assert "validation accuracy" not in found.provenance
    with pytest.raises(
        ValueError, match="colours has no validation images; leave out validate_every"
    ):
        fit(clip, unseen, method, validate_every=1, **quick)


def test_a_training_says_what_fit_asks_of_it():
    left = {"start_from", "step", "validate", "result", "recipe"}
    assert Training.__abstractmethods__ == left
    assert Group.__abstractmethods__ == left | {"state", "load_state"}


def test_the_rate_follows_its_schedule(monkeypatch):
    seen = []
    take = MaskedAdamW.step
    monkeypatch.setattr(
        MaskedAdamW,
        "step",
        lambda self, rate, *a: (seen.append(rate.item()), take(self, rate, *a))[1],
    )
    fit(tiny_clip(), tiny_task(), **QUICK | {"steps": 8, "lr": 1e-2})
    assert seen == pytest.approx([1e-2] * 7 + [5e-3])
    seen.clear()
    fit(tiny_clip(), tiny_task(), **QUICK | {"steps": 4, "lr": 1e-2, "schedule": "cosine"})
    assert seen == pytest.approx([1e-2, 1e-2 * (2 + 2**0.5) / 4, 5e-3, 1e-2 * (2 - 2**0.5) / 4])


def _interrupt(step):
    if step.step == 3:
        raise KeyboardInterrupt


def test_wilson_against_the_formulas_own_example():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20, to four places.
    assert Accuracy(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Accuracy(0, 20).interval == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert Accuracy(7, 7).interval[1] == 1.0
    assert str(Accuracy(1, 2)) == "50.0 % (9.5 to 90.5, n = 2)"
    for bad in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="accuracy needs"):
            Accuracy(*bad)


def test_bootstrap_counts_sources_not_copies():
    rng = np.random.default_rng(0)
    hits = (rng.random(100) < 0.6).astype(float)
    alone = bootstrap_interval(hits, [str(i) for i in range(100)])
    copied = bootstrap_interval(np.repeat(hits, 9), np.repeat(np.arange(100), 9))
    assert copied == pytest.approx(alone, abs=0.02)
    assert bootstrap_interval(hits, np.arange(100), seed=1) == bootstrap_interval(
        hits, np.arange(100), seed=1
    )


def test_accuracy_of_nobody_else():
    clip, task = tiny_clip(), tiny_task()
    bench = Bench(clip, task)
    assert bench.accuracy(random_adapter(clip, size=0.5)).n == len(task.test.labels) == len(bench)
