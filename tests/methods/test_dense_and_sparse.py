"""Full fine-tuning and SLTrain."""

import pytest
import torch
from tiny import tiny_clip, tiny_task

from copra_lab.methods import Full, SLTrain, Start
from copra_lab.training import fit

SITES = tiny_clip().sites
TALL = "vision_model.encoder.layers.1.mlp.fc1"


def part(learner, name=TALL, seed=0):
    start = Start(torch.zeros(SITES[name].shape), torch.Generator().manual_seed(seed))
    return learner.parametrise(SITES[name], start)


def test_full_fine_tuning_moves_every_element_and_one_factor_is_the_identity():
    learner = Full(sites=("q", "fc1", "fc2"))
    adapter = fit(tiny_clip(), tiny_task(), learner, steps=2, batch=8, progress=False)
    for site, d in adapter.deltas.items():
        assert d.delta().count_nonzero() > 0.9 * d.delta().numel(), site
        smaller = d.A if d.shape[1] <= d.shape[0] else d.B
        assert torch.equal(smaller, torch.eye(min(d.shape)))


def test_sltrains_support_is_its_share_and_stays():
    p = part(SLTrain(rank=0, share=0.1))
    torch.nn.init.ones_(p.values)
    assert p.delta().count_nonzero() == round(0.1 * 192 * 64) == len(p.values)
    same, other = part(SLTrain(rank=0, share=0.1)), part(SLTrain(rank=0, share=0.1), seed=1)
    assert torch.equal(p.support, same.support)
    assert not torch.equal(p.support, other.support)
    adapter = fit(tiny_clip(), tiny_task(), SLTrain(0, 0.1), steps=3, batch=8, progress=False)
    for d in adapter.deltas.values():
        assert d.delta().count_nonzero() <= round(0.1 * 64 * 64)


@torch.no_grad()
def test_sltrain_adds_the_two_parts():
    p = part(SLTrain(rank=2, share=0.1))
    for x in p.parameters():
        x.normal_(generator=torch.Generator().manual_seed(0))
    sparse = torch.zeros(192 * 64)
    sparse[p.support] = p.values
    torch.testing.assert_close(p.delta(), p.B @ p.A + sparse.view(192, 64))
    a, b = p.factors()
    torch.testing.assert_close(b @ a, p.delta())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: SLTrain(rank=0, share=0), "there is nothing to train; give one of them"),
        (lambda: SLTrain(share=-0.1), "share must be at least 0 and at most 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()
