"""SoRA, CoDyRA and DyLoRA: ranks that are closed, and ranks that are nested."""

import pytest
import torch
from tiny import tiny_clip, tiny_task

from copra_lab.adapters import save_adapter
from copra_lab.bench import Bench
from copra_lab.methods import CoDyRA, DyLoRA, SoRA, cut
from copra_lab.methods.gated import soft
from copra_lab.training import PLAIN, TrainingSettings, fit
from copra_lab.training.lora import AdapterTraining
from copra_lab.utils.devices import this_process

SITE = "vision_model.encoder.layers.1.self_attn.v_proj"


def training(learner, steps=20, **settings):
    complete = TrainingSettings(**{"steps": steps, "batch": 8, "lr": 1e-2} | settings)
    complete = complete.resolve(learner)
    return AdapterTraining(tiny_clip(), tiny_task(), learner, PLAIN, complete, this_process())


# --- gates ---------------------------------------------------------------------------------------


def test_the_proximal_step_by_hand():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    assert soft(x, 1.0).tolist() == [-1, 0, 0, 0, 1]
    assert torch.equal(soft(x, 0.0), x)


def test_sora_draws_its_gates_and_codyra_begins_with_ones():
    gates = torch.cat([p.gate for p in training(SoRA(rank=64)).attached.parts.values()])
    assert abs(gates.mean()) < 0.2 and abs(gates.std() - 1) < 0.2
    assert (training(CoDyRA(rank=3)).attached.parts[SITE].gate == 1).all()


def test_a_gate_that_is_closed_takes_the_gradient_of_its_rank():
    p = training(SoRA(rank=3)).attached.parts[SITE]
    with torch.no_grad():
        p.gate[1] = 0
        p.B.normal_(generator=torch.Generator().manual_seed(0))
    p.delta().square().sum().backward()
    assert not p.A.grad[1].any() and not p.B.grad[:, 1].any()
    assert p.A.grad[0].any() and p.B.grad[:, 2].any()


@torch.no_grad()
def test_closed_ranks_are_left_out_of_the_adapter_and_change_nothing():
    p = training(SoRA(rank=4)).attached.parts[SITE]
    p.B.normal_(generator=torch.Generator().manual_seed(0))
    p.gate.copy_(torch.tensor([0.5, 0, -2, 0]))
    pair = p.result()
    assert pair.rank == 2
    torch.testing.assert_close(pair.delta(), p.delta())


@pytest.mark.parametrize("learner", [SoRA(rank=2, threshold=9), CoDyRA(rank=2, threshold=9)])
def test_a_huge_threshold_leaves_an_adapter_of_nothing(learner, tmp_path):
    adapter = fit(tiny_clip(), tiny_task(), learner, steps=4, batch=8, progress=False)
    assert len(adapter) == 0
    bench = Bench(tiny_clip(), tiny_task())
    assert bench.accuracy(adapter) == bench.accuracy()
    with pytest.raises(ValueError, match="an adapter without sites has nothing to save"):
        save_adapter(adapter, tmp_path)


def test_some_ranks_close_and_some_stay():
    run = training(SoRA(rank=8, threshold=0.05), steps=30)
    for step in range(30):
        run.step(step)
    ranks = [d.rank for d in run.result(0, {}).deltas.values()]
    assert 0 < sum(ranks) < 9 * 8


def test_codyra_is_dense_first_and_then_closes_more_and_more(monkeypatch):
    seen = []
    monkeypatch.setattr("copra_lab.methods.gated.soft", lambda x, k: (seen.append(k), x)[1])
    run = training(CoDyRA(rank=2, dense=0.5, threshold=0.4, sites=("v",)), steps=8)
    for step in range(8):
        run.step(step)
    sites = 3
    assert seen == pytest.approx([k for k in (0.1, 0.2, 0.3, 0.4) for _ in range(sites)])


def test_weight_decay_leaves_gates_alone():
    run = training(SoRA(rank=2, threshold=0), weight_decay=0.5)
    decays = {id(p): g["weight_decay"] for g in run.optimiser.param_groups for p in g["params"]}
    p = run.attached.parts[SITE]
    assert (decays[id(p.gate)], decays[id(p.A)]) == (0.0, 0.5)


# --- nested ranks --------------------------------------------------------------------------------


def test_ranks_are_drawn_evenly_the_same_for_all_sites_and_again_for_the_same_step():
    learner = DyLoRA(rank=4)
    run = training(learner)
    parts, drawn = run.attached.parts, []
    for step in range(2000):
        g = torch.Generator().manual_seed(step)
        learner.before_step(parts, step, 2000, g)
        [b] = {p.drawn for p in parts.values()}
        drawn.append(b)
    counts = torch.tensor(drawn).bincount(minlength=5)[1:]
    assert ((counts - 500).abs() < 90).all()  # 4.6 standard deviations
    runs = [training(learner), training(learner)]
    for r in runs:
        r.step(5)
    assert runs[0].attached.parts[SITE].drawn == runs[1].attached.parts[SITE].drawn


@pytest.mark.parametrize("update", ["all", "last"])
def test_what_is_not_drawn_learns_nothing(update):
    run = training(DyLoRA(rank=4, update=update), weight_decay=0.3)
    p = run.attached.parts[SITE]
    for step in range(6):
        before = [c.detach().clone() for c in p.columns]
        run.step(step)
        trained = range(p.drawn) if update == "all" else [p.drawn - 1]
        for i, (was, c) in enumerate(zip(before, p.columns, strict=True)):
            assert (c.grad is not None) == (i in trained)
            assert torch.equal(was, c) == (i not in trained)


@torch.no_grad()
def test_a_step_adds_the_first_ranks_and_the_result_has_all():
    p = training(DyLoRA(rank=4)).attached.parts[SITE]
    for c in p.columns:
        c.normal_(generator=torch.Generator().manual_seed(0))
    p.drawn = 2
    a, b = p.factors()
    p.eval()
    whole_a, whole_b = p.factors()
    assert torch.equal(a, whole_a[:2]) and torch.equal(b, whole_b[:, :2])
    assert len(whole_a) == 4


def test_an_adapter_is_cut_to_its_first_ranks():
    adapter = fit(tiny_clip(), tiny_task(), DyLoRA(rank=4), steps=3, batch=8, progress=False)
    for rank in (1, 3, 9):
        short = cut(adapter, rank)
        for site, d in adapter.deltas.items():
            r = min(4, rank)
            expected = d.scale * d.B[:, :r] @ d.A[:r]
            torch.testing.assert_close(short.deltas[site].delta(), expected)
    assert cut(adapter, 4).hash == adapter.hash
    assert cut(adapter, 2).provenance["cut to rank"] == 2
    with pytest.raises(ValueError, match="rank must be"):
        cut(adapter, 0)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: SoRA(threshold=-1), "threshold must be 0 or more, got -1"),
        (lambda: CoDyRA(threshold=float("nan")), "threshold must be 0 or more, got nan"),
        (lambda: CoDyRA(dense=1.5), "dense must be at least 0 and at most 1, got 1.5"),
        (lambda: CoDyRA(gate_rate=-1), "gate_rate must be 0 or more"),
        (lambda: DyLoRA(update="some"), "update must be one of all, last, got 'some'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()
