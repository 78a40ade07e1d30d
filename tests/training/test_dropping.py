"""Progressive dropping: the schedule, the draw, and what a step does to what is off."""

import copy
from collections import Counter
from dataclasses import FrozenInstanceError
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.methods import InputDropout, LoRA
from copra_lab.plots import masks as picture
from copra_lab.training import (
    DEFAULTS,
    PLAIN,
    RATES,
    CopRA,
    Dropout,
    ProgressiveDropout,
    StochasticDepth,
    TrainingSettings,
    fit,
    group,
    masks,
)
from copra_lab.training.dropping import Draw, _binomial
from copra_lab.training.lora import AdapterTraining
from copra_lab.utils.devices import Process
from copra_lab.utils.rng import generator

QUICK = {"steps": 16, "lr": 1e-2, "batch": 16, "progress": False}


def draws(dropping, units, step, steps, n=4000):
    g = torch.Generator().manual_seed(0)
    return torch.tensor([dropping.draw(units, step, steps, g).on for _ in range(n)]).float()


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 30, 75, 110, 149])
@pytest.mark.parametrize("shape", ["linear", "exponential"])
def test_each_layer_is_on_with_probability_p(step, shape):
    copra = CopRA(shape=shape)
    p = copra.probability(step, 150)
    on = draws(copra, 12, step, 150)
    assert torch.allclose(
        on.mean(0), torch.tensor(p), atol=4.5 * (p * (1 - p) / len(on)) ** 0.5 + 1e-9
    )
    together = (on[:, 0] * on[:, 7]).mean().item()  # independent of each other
    assert together == pytest.approx(p * p, abs=4.5 * (p * p * (1 - p * p) / len(on)) ** 0.5 + 1e-9)


def test_p_is_the_papers_ramp():
    copra = CopRA()
    assert [copra.probability(t, 120) for t in (0, 45, 90, 119)] == [0, 0.5, 1, 1]
    assert CopRA(start=0.1).probability(0, 120) == pytest.approx(0.1)
    assert CopRA(start=0.1).probability(45, 120) == pytest.approx(0.55)
    assert CopRA(ramp=0).probability(0, 120) == 1
    assert CopRA(ramp=1).probability(60, 120) == 0.5
    curve = [CopRA(shape="exponential").probability(t, 120) for t in range(0, 91, 10)]
    assert curve[0] == 0
    assert curve[-1] == 1
    assert all(
        c - b > b - a for a, b, c in zip(curve, curve[1:], curve[2:], strict=False)
    )  # slow first
    assert draws(copra, 5, 90, 120, 50).all()
    assert not draws(copra, 5, 0, 120, 50).any()


@pytest.mark.parametrize("least", [1, 2])
def test_min_active_draws_as_if_again_until_enough_are_on(least):
    p, n = CopRA(min_active=least).probability(10, 120), 4
    on = draws(CopRA(min_active=least), n, 10, 120)
    law = {
        s: p ** len(s) * (1 - p) ** (n - len(s))
        for k in range(least, n + 1)
        for s in combinations(range(n), k)
    }
    total, seen = sum(law.values()), Counter(tuple(row.nonzero().flatten().tolist()) for row in on)
    assert set(seen) <= set(law)
    for s, weight in law.items():
        q = weight / total
        assert seen[s] / len(on) == pytest.approx(
            q, abs=4.5 * (q * (1 - q) / len(on)) ** 0.5 + 1e-9
        ), s
    assert (
        draws(CopRA(min_active=least), n, 0, 120, 200).sum(1) == least
    ).all()  # its limit at p = 0
    with pytest.raises(ValueError, match="more than the 1 units"):
        CopRA(min_active=2).draw(1, 0, 10, torch.Generator())
    assert CopRA(min_active=2).draw(2, 0, 10, torch.Generator()).on == (True, True)


def test_droppings_are_values_with_the_fields_defaults():
    assert (CopRA(), Dropout()) == (CopRA(0.0, 0.75, "linear", 0, "layer"), Dropout(0.25))
    assert (ProgressiveDropout(), StochasticDepth()) == (
        ProgressiveDropout(0.25, 0.75),
        StochasticDepth(0.5, "layer"),
    )
    with pytest.raises(FrozenInstanceError):
        Draw((True,)).on = (False,)
    for dropping in (CopRA(), Dropout(), ProgressiveDropout(), StochasticDepth(), PLAIN):
        with pytest.raises(FrozenInstanceError):
            dropping.unit = "module"
        assert hash(dropping) == hash(copy.copy(dropping))


@pytest.mark.parametrize(("n", "p", "least"), [(1000, 0.3, 2), (1001, 0.3, 2), (1500, 0.01, 5)])
def test_how_many_units_are_on_follows_the_binomial_law(n, p, least):
    weights = _binomial(n, p, least).double().numpy()
    law = scipy.stats.binom.pmf(range(least, n + 1), n, p)
    np.testing.assert_allclose(weights / weights.sum(), law / law.sum(), rtol=1e-3, atol=1e-9)


def test_the_baselines_draw_what_they_say():
    g = torch.Generator().manual_seed(0)
    assert Dropout(0.3).draw(3, 5, 10, g).dropout == 0.3
    assert all(Dropout().draw(3, 5, 10, g).on + ProgressiveDropout().draw(3, 5, 10, g).on)
    assert [ProgressiveDropout(0.4).draw(3, t, 120, g).dropout for t in (0, 45, 90, 119)] == [
        0.4,
        0.2,
        0,
        0,
    ]
    on = draws(StochasticDepth(0.5), 12, 119, 120).mean(0)
    expected = 1 - 0.5 * torch.arange(1, 13) / 12
    assert torch.allclose(on, expected, atol=4.5 * 0.5 / 4000**0.5)
    assert PLAIN.draw(2, 0, 10, g) == Dropout(0.0).draw(2, 0, 10, g)


def test_units_are_layers_of_one_tower_or_single_matrices():
    sites = list(tiny_clip().sites.values())
    layers = group(sites)
    assert list(layers) == ["vision 0", "vision 1", "vision 2", "text 0", "text 1"]
    assert all(len(u) == 6 for u in layers.values())
    assert list(group(sites, "module")) == [s.name for s in sites]
    odd = group([s for s in sites if s.name in {sites[0].name, sites[7].name, sites[8].name}])
    assert [len(u) for u in odd.values()] == [1, 2]


@pytest.mark.parametrize(
    "bad",
    [
        {"start": 1.5},
        {"ramp": -0.1},
        {"shape": "cubic"},
        {"min_active": -1},
        {"min_active": 0.5},
        {"unit": "head"},
        {"start": float("nan")},
    ],
)
def test_settings_that_make_no_sense_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        CopRA(**bad)
    with pytest.raises(ValueError, match="rate"):
        Dropout(1.0)


def run_of(dropping, lora=LoRA(rank=2), steps=16):  # noqa: B008
    settings = TrainingSettings(steps=steps, lr=1e-2, batch=16, schedule="cosine").resolve(lora)
    return AdapterTraining(
        tiny_clip(), tiny_task(), lora, dropping, settings, Process(torch.device("cpu"))
    )


@pytest.mark.parametrize("unit", ["layer", "module"])
def test_what_is_off_is_left_alone_by_the_optimiser_too(unit):
    run = run_of(CopRA(start=0.4, unit=unit))
    run.step(0), run.step(1)
    for step in range(2, 10):
        params = run.attached.parameters()
        before = [p.detach().clone() for p in params]
        state = [copy.deepcopy(run.optimiser.state.get(p, {})) for p in params]
        if run.step(step) == [None]:
            assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
            continue
        off = [
            s
            for sites, on in zip(run.units.values(), run.drawn.on, strict=True)
            if not on
            for s in sites
        ]
        names = [s.name for d in run.attached._deltas for s in d.sites for half in "AB"]
        for name, p, was, kept in zip(names, params, before, state, strict=True):
            if name in off:
                assert torch.equal(p, was)
                assert p.grad is None
                now = run.optimiser.state.get(p, {})
                assert now.keys() == kept.keys()
                assert all(
                    torch.equal(torch.as_tensor(now[k]), torch.as_tensor(kept[k])) for k in now
                )
            else:
                assert p.grad is not None


def test_a_step_with_nothing_on_is_counted_and_learns_nothing():
    seen = []
    fit(tiny_clip(), tiny_task(), LoRA(rank=2), CopRA(), on_step=seen.append, **QUICK)
    assert seen[0].loss is None
    assert not any(seen[0].units.values())
    assert [s.step for s in seen] == list(range(1, 17))
    assert all(all(s.units.values()) and s.loss for s in seen[12:])
    assert masks(CopRA(), 3, 16) == [
        tuple(s.units.values()) for s in seen
    ]  # can be had without training


@pytest.mark.parametrize("dropping", [PLAIN, CopRA(), CopRA(start=0.1), Dropout()])
def test_the_rate_is_the_one_that_was_tuned_for_the_method_unless_it_is_given(dropping):
    quick = {"steps": 2, "batch": 4, "progress": False}
    expected = RATES.get(dropping.method, DEFAULTS[LoRA]["lr"])
    assert (
        fit(tiny_clip(), tiny_task(), LoRA(rank=2), dropping, **quick).provenance["lr"] == expected
    )
    assert (
        fit(tiny_clip(), tiny_task(), LoRA(rank=2), dropping, lr=1e-3, **quick).provenance["lr"]
        == 1e-3
    )
    assert RATES["copra"] != RATES["lora"]


def test_validation_has_everything_on_and_restores_what_was():
    run = run_of(CopRA(start=0.5))
    for step in range(4):
        run.step(step)
    run.attached.load(
        random_adapter(tiny_clip(), rank=2, kinds="qkv", towers=("vision",), size=0.4, scale=1.0)
    )
    with_all = run.validate(0)
    run.attached.activate([next(iter(run.units.values()))[0]])
    run.attached.drop_inputs(InputDropout(0.5, generator(0, 0, "test")))
    before = run.attached.active, run.attached.dropout
    assert run.validate(0) == with_all
    assert (run.attached.active, run.attached.dropout) == before
    assert len(before[0]) == 1


def test_kept_views_give_the_same_with_and_without_their_prefixes(monkeypatch):
    kept = fit(tiny_clip(), tiny_task(), LoRA(rank=2), CopRA(start=0.2), views=3, **QUICK)
    monkeypatch.setattr("copra_lab.training.joint._Images.MOST", 0)
    again = fit(tiny_clip(), tiny_task(), LoRA(rank=2), CopRA(start=0.2), views=3, **QUICK)
    for name, d in kept.deltas.items():
        torch.testing.assert_close(d.delta(), again.deltas[name].delta(), atol=1e-4, rtol=1e-3)
    assert kept != fit(tiny_clip(), tiny_task(), LoRA(rank=2), CopRA(start=0.2), **QUICK)


def test_a_run_resumed_in_the_ramp_ends_as_an_unbroken_one(tmp_path):
    clip, task, file = tiny_clip(), tiny_task(), tmp_path / "run.safetensors"
    how = (LoRA(rank=2), CopRA())
    whole = fit(clip, task, *how, **QUICK)
    for at in (3, 7, 11):
        with pytest.raises(KeyboardInterrupt):
            fit(
                clip,
                task,
                *how,
                **QUICK,
                checkpoint=file,
                checkpoint_every=2,
                on_step=lambda s, at=at: stop(s, at),
            )
    assert fit(clip, task, *how, **QUICK, checkpoint=file).hash == whole.hash


def stop(step, at):
    if step.step == at:
        raise KeyboardInterrupt


def test_bfloat16_learns_the_same_and_refuses_what_it_cannot():
    full, half = (
        fit(tiny_clip(), tiny_task(), LoRA(rank=2), precision=p, **QUICK)
        for p in ("float32", "bfloat16")
    )
    a, b = (torch.cat([d.delta().flatten() for d in x.deltas.values()]) for x in (full, half))
    assert F.cosine_similarity(a, b, dim=0) > 0.9
    assert full != half
    with pytest.raises(ValueError, match="plain ViT"):
        fit(tiny_clip(), tiny_task(), LoRA(towers=("text",)), precision="bfloat16", **QUICK)
    with pytest.raises(ValueError, match="precision must be"):
        fit(tiny_clip(), tiny_task(), precision="float16", **QUICK)


def test_the_masks_can_be_looked_at():
    shown = picture(masks(CopRA(), 12, 120), [CopRA().probability(t, 120) for t in range(120)])
    assert shown.png[:4] == b"\x89PNG"
    assert "12 layers" in shown.alt
    assert shown.alt.endswith("100 % of them.")
    assert len(picture(masks(CopRA(), 3, 10)).figure.axes) == 1


@pytest.mark.parametrize(("least", "step"), [(0, 0), (1, 0), (0, 300), (2, 300), (0, 750)])
def test_thousands_of_units_follow_the_same_law(least, step):
    on = [
        sum(CopRA(min_active=least).draw(4000, step, 1000, generator(seed, step, "layers")).on)
        for seed in range(20)
    ]
    p = CopRA().probability(step, 1000)
    assert min(on) >= least
    assert abs(sum(on) / len(on) - max(least, 4000 * p)) <= 4 * (4000 * p * (1 - p) / 20) ** 0.5
