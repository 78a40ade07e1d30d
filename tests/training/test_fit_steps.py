"""A training one step at a time, and its settings as a value."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from tiny import tiny_clip, tiny_task
from torch.nn.utils import parametrize

from copra_lab.methods import LoRA
from copra_lab.prompts import VPT, CoOp, Nemesis
from copra_lab.training import (
    DEFAULTS,
    RATES,
    CopRA,
    Dropout,
    TrainingSettings,
    fit,
    fit_steps,
)

QUICK = {"steps": 6, "lr": 1e-2, "batch": 8}
BOTH = LoRA(rank=2, towers=("vision", "text"))  # goes through the model's own modules


def drained(steps):
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


@pytest.mark.parametrize("method", [LoRA(rank=2), BOTH, CoOp(2), VPT(2)])
def test_the_steps_end_with_what_fit_gives(method):
    seen, told = [], []
    settings = TrainingSettings(**QUICK)
    seen, result = drained(
        fit_steps(tiny_clip(), tiny_task(), method, settings=settings, validate_every=3)
    )
    same = fit(
        tiny_clip(),
        tiny_task(),
        method,
        progress=False,
        on_step=told.append,
        validate_every=3,
        **QUICK,
    )
    assert result == same
    assert result.provenance == same.provenance
    assert seen == told
    assert [s.step for s in seen if s.validation is not None] == [3, 6]
    assert seen[-1].learned().hash == result.hash


@pytest.mark.slow
def test_trainings_in_turn_in_one_thread_learn_what_each_learns_alone():
    trainings = [(BOTH, CopRA(start=0.5)), (BOTH, Dropout(0.3)), (LoRA(rank=2), CopRA(start=0.5))]
    alone = [fit(tiny_clip(), tiny_task(), *t, progress=False, **QUICK) for t in trainings]
    running = [fit_steps(tiny_clip(), tiny_task(), *t, **QUICK) for t in trainings]
    for _ in range(QUICK["steps"]):
        for steps in running:
            next(steps)
            assert parametrize._cache_enabled == 0
            assert not parametrize._cache
    assert [drained(steps)[1].hash for steps in running] == [a.hash for a in alone]


def test_closing_ends_a_training_and_keeps_its_checkpoint(tmp_path):
    file, options = tmp_path / "run", QUICK | {"checkpoint_every": 2}
    whole = fit(tiny_clip(), tiny_task(), BOTH, progress=False, **QUICK)
    steps = fit_steps(tiny_clip(), tiny_task(), BOTH, checkpoint=file, **options)
    for _ in range(5):
        next(steps)
    steps.close()
    assert file.exists()
    seen, result = drained(fit_steps(tiny_clip(), tiny_task(), BOTH, checkpoint=file, **options))
    assert [s.step for s in seen] == [5, 6]
    assert result.hash == whole.hash
    assert not file.exists()


def test_mistakes_are_told_before_the_first_step():
    with pytest.raises(TypeError, match=r"fit\(\) has no option 'stepz'; did you mean 'steps'"):
        fit_steps(tiny_clip(), tiny_task(), stepz=3)
    with pytest.raises(ValueError, match="schedule must be one of cosine, cooldown, got 'x'"):
        fit_steps(tiny_clip(), tiny_task(), schedule="x")
    with pytest.raises(ValueError, match="penalty and adapter are for soft prompts"):
        fit_steps(tiny_clip(), tiny_task(), penalty=Nemesis())
    with pytest.raises(ValueError, match="dropping and precision are for LoRA"):
        fit_steps(tiny_clip(), tiny_task(), CoOp(2), CopRA())


def test_settings_are_a_value_and_what_is_open_is_the_methods():
    settings = TrainingSettings(steps=7)
    with pytest.raises(FrozenInstanceError):
        settings.steps = 8
    for method in (LoRA(), CoOp(), VPT()):
        found = settings.resolve(method)
        expected = DEFAULTS[type(method)] | {"steps": 7}
        assert {k: getattr(found, k) for k in expected} == expected
        assert found.resolve(method) == found
    assert settings.resolve(LoRA(), CopRA()).lr == RATES["copra"]
    assert settings.resolve(LoRA(), Dropout()).lr == RATES["lora"]
    adapter = fit(tiny_clip(), tiny_task(), LoRA(1), settings=settings, steps=2, progress=False)
    assert adapter.provenance["steps"] == 2


def test_a_variant_of_lora_has_loras_defaults():
    class Variant(LoRA):
        pass

    assert TrainingSettings().resolve(Variant()) == TrainingSettings().resolve(LoRA())
    assert fit(tiny_clip(), tiny_task(), Variant(1), progress=False, **QUICK).provenance[
        "method"
    ] == ("variant")


def test_gradients_are_not_left_behind():
    steps = fit_steps(tiny_clip(), tiny_task(), LoRA(rank=1), **QUICK)
    next(steps)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in tiny_clip().model.parameters())
