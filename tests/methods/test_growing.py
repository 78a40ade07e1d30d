"""IncreLoRA and TriAdaptLoRA: ranks that are added while training."""

import pytest
import torch
from tiny import tiny_clip, tiny_task

from copra_lab.methods import IncreLoRA, LoRA, Start, TriAdaptLoRA
from copra_lab.training import PLAIN, CopRA, TrainingSettings
from copra_lab.training.lora import AdapterTraining
from copra_lab.utils.devices import this_process

SITES = tiny_clip().sites
SITE = "vision_model.encoder.layers.1.self_attn.v_proj"
both = pytest.mark.parametrize("kind", [IncreLoRA, TriAdaptLoRA])


def training(learner, dropping=PLAIN, steps=20):
    settings = TrainingSettings(steps=steps, batch=8, lr=1e-2).resolve(learner)
    return AdapterTraining(tiny_clip(), tiny_task(), learner, dropping, settings, this_process())


def part(learner):
    start = Start(torch.zeros(64, 64), torch.Generator().manual_seed(0))
    return learner.parametrise(SITES[SITE], start)


@both
@pytest.mark.parametrize("dropping", [PLAIN, CopRA(start=0.3)], ids=["plain", "copra"])
def test_ranks_grow_to_the_budget_and_never_beyond(kind, dropping):
    learner = kind(rank=3, most=5)
    run, totals = training(learner, dropping), []
    for step in range(20):
        run.step(step)
        totals.append(sum(int(p.now) for p in run.attached.parts.values()))
        assert totals[-1] <= learner.budget(9, step, 20)
    assert totals == sorted(totals)
    assert (totals[1], totals[-1]) == (9, 27)
    result = run.result(0, {})
    assert sum(d.rank for d in result.deltas.values()) == 27
    assert max(d.rank for d in result.deltas.values()) <= 5


@both
def test_the_order_of_growth_is_the_seeds(kind):
    found = []
    for _ in range(2):
        run = training(kind(rank=2, most=4), steps=8)
        for step in range(8):
            run.step(step)
        found.append([int(p.now) for p in run.attached.parts.values()])
    assert found[0] == found[1]


@both
def test_where_all_may_grow_all_do(kind):
    run = training(kind(rank=2, most=2), steps=8)
    for step in range(8):
        run.step(step)
    assert {int(p.now) for p in run.attached.parts.values()} == {2}


@both
def test_a_rank_that_waits_adds_nothing_and_admitting_it_changes_nothing(kind):
    p = part(kind(rank=2, most=3))
    with torch.no_grad():
        for x in p.parameters() if kind is IncreLoRA else p.columns[:1]:
            x.normal_(generator=torch.Generator().manual_seed(1))
        if kind is IncreLoRA:
            p.e[1].zero_()
    before = p.delta().detach()
    p.eval()
    torch.testing.assert_close(p.delta(), before)
    p.admit()
    torch.testing.assert_close(p.delta(), before)


def test_increloras_next_rank_already_trains():
    p = part(IncreLoRA(rank=2, most=3))
    p.delta().backward(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))
    assert p.rows[1].grad.any() and p.columns[1].grad.any()
    assert p.e[1].grad is None and p.rows[2].grad is None


def test_increloras_score_by_hand():
    p = part(IncreLoRA(rank=1, most=2))
    p.seen = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    p.seen.grad = torch.tensor([[0.5, 1.0], [7.0, -1.0]])
    p.watch()
    found = (0.5 + 2 + 0 + 3) / 2  # √4
    mean = 0.15 * found
    spread = 0.15 * (found - mean)
    assert p.score() == pytest.approx(mean * spread)
    assert p.seen is None


def test_triadapts_core_has_two_triangles_and_of_rank_one_it_is_lora():
    p = part(TriAdaptLoRA(rank=1, most=4))
    p.now.fill_(4)
    assert torch.equal(p.core(), torch.eye(4))
    numbers = sum(x.numel() for x in [*p.lower, *p.upper])
    assert numbers == 4 * 5
    with torch.no_grad():
        p.lower[3][1], p.upper[2][0] = 7.0, 9.0
    assert (p.core()[3, 1], p.core()[0, 2], p.core()[1, 3]) == (7, 9, 0)
    p.now.fill_(1)
    start = Start(torch.zeros(64, 64), torch.Generator().manual_seed(0))
    lora = LoRA(4).parametrise(SITES[SITE], start)
    with torch.no_grad():
        b = torch.randn(64, generator=torch.Generator().manual_seed(1))
        p.columns[0].copy_(b)
    torch.testing.assert_close(p.delta(), b[:, None] * lora.A[:1])


def test_triadapt_prefers_the_core_that_grew():
    run = training(TriAdaptLoRA(rank=2, most=9, begin=0, end=0.5))
    parts = run.attached.parts
    assert {p.score() for p in parts.values()} == {0.0}
    with torch.no_grad():
        parts[SITE].lower[0].fill_(3.0)
    run.method.after_step(parts, list(parts), 1, 20)
    assert int(parts[SITE].now) == 2
    assert parts[SITE].score() == 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: IncreLoRA(rank=4, most=3), "most must be at least the rank 4, got 3"),
        (lambda: TriAdaptLoRA(begin=2), "begin must be at least 0 and at most 1"),
        (lambda: TriAdaptLoRA(begin=0.5, end=0.4), "end must be at least 0.5 and at most 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()
