"""LT-SFT and SaRA: which entries are trained, and that the others stay."""

import pytest
import torch
from tiny import tiny_clip, tiny_task

from copra_lab.merging import weighted_sum
from copra_lab.methods import LTSFT, Full, SaRA
from copra_lab.training import PLAIN, TrainingSettings, fit
from copra_lab.training.lora import AdapterTraining
from copra_lab.utils.devices import this_process

SITE = "vision_model.encoder.layers.1.self_attn.v_proj"


def training(learner, steps=10):
    settings = TrainingSettings(steps=steps, batch=8, lr=1e-2, weight_decay=0.3).resolve(learner)
    return AdapterTraining(tiny_clip(), tiny_task(), learner, PLAIN, settings, this_process())


def test_a_ticket_is_the_entries_that_moved_most_over_all_matrices():
    run = training(LTSFT(share=0.05, first=0.5))
    parts = run.attached.parts
    for step in range(5):
        run.step(step)
    assert not any(p.second_phase for p in parts.values())
    moved = torch.cat([p.first.detach().abs().flatten() for p in parts.values()])
    run.step(5)
    mask = torch.cat([p.mask.flatten() for p in parts.values()])
    assert mask.sum() == round(0.05 * len(moved))
    assert moved[mask].min() >= moved[~mask].max()
    kept = {name: p.mask.clone() for name, p in parts.items()}
    assert run.optimiser.state[parts[SITE].second]["step"] == 1  # new moments
    for step in range(6, 10):
        run.step(step)
    for name, d in run.result(0, {}).deltas.items():
        assert torch.equal(parts[name].mask, kept[name])
        assert not d.delta()[~kept[name]].any()
        assert (d.delta()[kept[name]] != 0).all()


@torch.no_grad()
def test_the_second_phase_begins_at_the_base():
    learner = LTSFT(share=0.05, first=0.5)
    parts = training(learner).attached.parts
    for p in parts.values():
        p.first.normal_(generator=torch.Generator().manual_seed(0))
    learner.before_step(parts, 5, 10, torch.Generator())
    assert not any(p.delta().any() for p in parts.values())


def test_a_ticket_of_all_entries_is_full_fine_tuning():
    options = {"steps": 4, "batch": 8, "lr": 1e-3, "progress": False}
    full = fit(tiny_clip(), tiny_task(), Full(), **options)
    assert fit(tiny_clip(), tiny_task(), LTSFT(share=1, first=0), **options).hash == full.hash


def test_tickets_are_composed_by_adding_them():
    one, two = (
        fit(tiny_clip(), tiny_task(), LTSFT(), steps=6, batch=8, seed=s, progress=False)
        for s in (0, 1)
    )
    both = weighted_sum([one, two], [1.0, 1.0])
    for site, d in both.deltas.items():
        expected = one.deltas[site].delta() + two.deltas[site].delta()
        torch.testing.assert_close(d.delta(), expected, atol=1e-6, rtol=0)


def test_sara_trains_the_smallest_entries_and_lets_those_that_grew_stay():
    run = training(SaRA(share=0.2, again=0.5))
    p, s = run.attached.parts[SITE], tiny_clip().sites[SITE]
    w = tiny_clip().model.get_submodule(s.module).in_proj_weight[s.start : s.stop].flatten()
    small = torch.zeros(len(w), dtype=torch.bool)
    small[p.support] = True
    assert len(p.support) == round(0.2 * len(w))
    assert w[small].abs().max() <= w[~small].abs().min()
    for step in range(5):
        run.step(step)
    assert p.chosen_again
    threshold = w[small].abs().max()
    expected = (w[small] + p.values.detach()).abs() <= threshold
    assert torch.equal(p.going, expected)
    assert 0 < p.going.sum() < len(p.going)
    before = p.delta().detach().flatten()[p.support]
    for step in range(5, 10):
        run.step(step)
    after = p.delta().detach().flatten()[p.support]
    assert torch.equal(before[~p.going], after[~p.going])
    assert (before[p.going] != after[p.going]).all()
    assert not p.delta().flatten()[~small].any()


def test_sara_may_keep_its_choice():
    run = training(SaRA(share=0.2, again=1))
    for step in range(10):
        run.step(step)
    assert run.attached.parts[SITE].going.all()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: LTSFT(share=0), "with a share of 0 there is nothing to train"),
        (lambda: LTSFT(first=0), "first must be above 0 and below 1"),
        (lambda: LTSFT(first=1), "first must be above 0 and below 1"),
        (lambda: SaRA(share=2), "share must be at least 0 and at most 1, got 2"),
        (lambda: SaRA(share=0), "with a share of 0 there is nothing to train"),
        (lambda: SaRA(again=-1), "again must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()
