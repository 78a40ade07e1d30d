"""Corruption, the survey, and the penalty, against what they are by hand."""

import math

import numpy as np
import pytest
import torch
from tiny import tiny_clip, tiny_task

from copra_lab.adapters import NONE
from copra_lab.bench import Bench, Corruption, occurrences, survey
from copra_lab.prompts import VPT, CoOp, Nemesis, SoftPrompt, omega, pan, pun, replace, rescale
from copra_lab.training import fit
from copra_lab.utils.statistics import paired_bootstrap

CLASSES = tiny_task().classes


def prompt(classes=None, length=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (length, 32) if classes is None else (classes, length, 32)
    return SoftPrompt(0.3 * torch.randn(*shape, generator=g), classes=CLASSES if classes else ())


@pytest.mark.parametrize("classes", [None, 4])
def test_replace_and_rescale(classes):
    p = prompt(classes)
    assert (replace(p, 2, 0).context == rescale(p, 2, 0).context).all()
    assert (rescale(p, range(5), 1).context == p.context).all()
    two = rescale(p, [1, 3], 0.5).context
    assert (two[..., [1, 3], :] == p.context[..., [1, 3], :] / 2).all()
    assert (two[..., [0, 2, 4], :] == p.context[..., [0, 2, 4], :]).all()
    assert (
        rescale(p, [3, 0], [0.5, 2.0]).context == rescale(rescale(p, 0, 2), 3, 0.5).context
    ).all()
    new = replace(p, [1, 3], 0.1, seed=4)
    assert (new.context[..., [0, 2, 4], :] == p.context[..., [0, 2, 4], :]).all()
    assert new == replace(p, [3, 1], 0.1, seed=4) != replace(p, [1, 3], 0.1)
    assert replace(prompt(length=200), range(200), 0.1).context.std() == pytest.approx(
        0.1, rel=0.05
    )
    assert new.provenance["made by"] == "replace"
    assert new.provenance["of"] == [p.hash]
    for wrong, words in (
        (lambda: rescale(p, 5, 1), "0 to 4"), (lambda: replace(p, [-1], 1), "0 to 4"), (lambda: rescale(p, 0, math.nan), "finite"), (lambda: rescale(p, [0, 1], [1.0]), "each of 2"), (lambda: rescale(p, [1, 1], 2), "once"),
        (lambda: replace(p, 0, -1), "0 or more"), (lambda: replace(p, 0, math.inf), "0 or more"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            wrong()


def test_norms_by_hand():
    p = SoftPrompt(torch.tensor([[3.0, -4.0], [0.0, 1.0]]))
    assert p.norms().tolist() == [5, 1]
    assert p.norms(1).tolist() == [7, 1]
    assert p.norms(math.inf).tolist() == [4, 1]
    own = SoftPrompt(torch.stack([p.context, 3 * p.context]), classes=("a", "b"))
    assert own.norms().tolist() == [10, 2]  # the mean over classes, not their sum
    assert pun(p.context, 2.0).item() == 6
    assert pan(p.context, torch.tensor([0, 1]), torch.tensor([2.0, 0.0])).item() == 10
    assert pan(p.context, torch.tensor([0, 1]), torch.zeros(2)).item() == 0
    assert (
        pan(p.context, torch.tensor([1, 0]), torch.tensor([2.0, 2.0])).item() == (2 * 1 + 2 * 5) / 2
    )


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6)])
def test_gradients_against_finite_differences(norm, shape):
    x = torch.randn(
        *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: pun(c, 1.7, norm), x)
    assert torch.autograd.gradcheck(
        lambda c: pan(c, torch.tensor([2, 0]), torch.tensor([1.0, 1.0], dtype=torch.float64), norm),
        x,
    )


def test_omega_falls_from_one_to_none():
    assert omega(25, 50) == 0.5
    assert omega(0, 50) == pytest.approx(1 - 1 / (1 + math.exp(5)))
    assert omega(50, 50) == pytest.approx(1 / (1 + math.exp(5)))


def test_beta_weighs_the_two():
    p = prompt().context
    chosen = Nemesis(0.5, samples=3).tries(5, torch.Generator().manual_seed(1))

    def loss(beta, better=(True, True, True), **more):
        penalty = Nemesis(beta, 2.0, samples=3, **more)
        return penalty.loss(p, 3, 10, chosen, torch.tensor(better)).item()

    norms = p.norm(dim=-1)
    assert len(set(chosen.tolist())) == 3
    assert loss(1.0, ramp="one") == pytest.approx(2 * norms.mean().item())
    assert loss(0.0, ramp="one") == pytest.approx(2 * norms[chosen].mean().item())
    assert loss(0.25, ramp="one") == pytest.approx(
        0.25 * loss(1.0, ramp="one") + 0.75 * loss(0.0, ramp="one")
    )
    assert loss(0.25) == pytest.approx(omega(3, 10) * loss(0.25, ramp="one"))
    assert [Nemesis(b).method for b in (1, 0, 0.3)] == ["pun", "pan", "pun+pan"]
    one = loss(0.0, (False, True, False), ramp="one")
    assert one == pytest.approx(2 * norms[chosen[1]].item())
    assert loss(0.0, (False, False, False)) == 0
    assert len(Nemesis(1.0).tries(5, torch.Generator())) == 0  # PUN alone tries nothing
    assert len(Nemesis(0.0, samples=9).tries(5, torch.Generator())) == 5


@pytest.mark.parametrize("classes", [None, 4])
def test_alpha_by_hand(classes):
    """Of a batch of 24, who is classified better with one vector halved: as the bench says of
    `rescale`.
    """
    clip, task = tiny_clip(), tiny_task()
    bench = Bench(clip, task, precision="float32")
    p = prompt(classes, seed=3)
    encode = bench._encoder(p, NONE)

    def hits(contexts):
        with torch.no_grad():
            return (
                (bench._base_features[:24] @ encode(contexts).transpose(-1, -2)).argmax(-1)
                == bench.labels[:24]
            ).sum(-1)

    def right(q):
        return int((bench.predictions(prompt=q)[:24] == bench.labels[:24]).sum())

    positions = torch.tensor([4, 0, 1, 2, 3])
    found = (hits(Nemesis(0.0, tau=-2.0).corrupted(p.context, positions)) > right(p)).float()
    expected = [float(right(rescale(p, i, -2.0)) > right(p)) for i in positions.tolist()]
    assert found.tolist() == expected
    assert 0 < sum(expected) < 5


@pytest.mark.slow
def test_a_penalty_keeps_norms_down():
    clip, task = tiny_clip(), tiny_task()
    settings = {"steps": 60, "lr": 0.05, "batch": 16, "progress": False}
    for method in (CoOp(4), CoOp(2, class_specific=True), VPT(2)):
        free = fit(clip, task, method, **settings)
        assert fit(clip, task, method, penalty=Nemesis(1.0, 0.0), **settings).context.equal(
            free.context
        )
        for penalty in (Nemesis(1.0, 1.0, ramp="one"), Nemesis(0.0, 4.0, samples=2, ramp="one")):
            held = fit(clip, task, method, penalty=penalty, **settings)
            assert (
                held.provenance["method"]
                == ("vpt+" if isinstance(method, VPT) else "") + penalty.method
            )
            if penalty.method == "pun":
                assert held.norms().mean() < 0.8 * free.norms().mean()


def test_the_survey_finds_a_vector_that_is_too_long():
    clip, task = tiny_clip(), tiny_task()
    good = fit(clip, task, CoOp(4), steps=60, lr=0.05, batch=16, progress=False)
    bad = rescale(good, 2, 60)
    bench = Bench(clip, task)
    assert bench.accuracy(prompt=bad).value < bench.accuracy(prompt=good).value - 0.2
    found = survey(bench, bad, taus=(1 / 60, 1.0, 2.0), sigmas=(0.0,))
    assert len(found) == 4 * 4
    assert [c.position for c in found if c.kind == "rescale"] == [
        i for i in range(4) for _ in range(3)
    ]
    mended = next(c for c in found if (c.kind, c.position, c.factor) == ("rescale", 2, 1 / 60))
    assert mended.delta == pytest.approx(
        bench.accuracy(prompt=good).value - bench.accuracy(prompt=bad).value, abs=1e-6
    )
    assert mended.p < 0.05
    assert mended.lowers
    assert mended.norm == pytest.approx(1 / 60)
    assert all((c.delta, c.p) == (0, 1) for c in found if c.factor == 1.0)
    none, nothing = (
        next(c for c in found if c.position == 1 and (c.kind, c.factor) == k)
        for k in (("replace", 0.0), ("rescale", 1.0))
    )
    assert none.norm == 0
    assert nothing.norm == 1
    assert occurrences(found).surely >= 1


def test_occurrences_are_counted():
    def c(position, factor, delta, p=0.5, kind="rescale"):
        return Corruption(kind, position, factor, factor, delta, p)

    found = [
        c(0, 0.5, 0.1, 0.01), c(0, 2.0, -0.1), c(0, 0.1, -0.1), c(1, 0.5, 0.1), c(1, 2.0, 0.1), c(2, 0.5, 0.0), c(2, 2.0, -0.1, 0.01),
        c(2, 0.0, 0.2, kind="replace"),
    ]  # fmt: skip
    assert vars(occurrences(found)) == {"of": 5, "rose": 3, "surely": 1, "positions": 1}
    assert vars(occurrences([])) == {"of": 0, "rose": 0, "surely": 0, "positions": 0}


@pytest.mark.slow
def test_p_is_small_as_often_as_it_says():
    rng = np.random.default_rng(0)
    before = rng.random((400, 150)) < 0.6
    after = np.where(
        rng.random((400, 150)) < 0.15, rng.random((400, 150)) < 0.6, before
    )  # other answers, no better
    p = np.array(
        [
            paired_bootstrap(a[None], b, np.arange(150), draws=500)[1][0]
            for a, b in zip(after, before, strict=True)
        ]
    )
    assert 0.02 < (p < 0.05).mean() < 0.09  # of 400
    better = np.where(rng.random((1, 150)) < 0.2, 1, before[0])
    assert paired_bootstrap(better, before[0], np.arange(150))[1][0] < 0.01
    # Copies of one drawing are one: two images changed fifty times over are no more than two.
    one = np.zeros((1, 100))
    one[0, :2] = 1
    few, copied = (
        paired_bootstrap(one, np.zeros(100), np.arange(100)),
        paired_bootstrap(one.repeat(50, 1), np.zeros(5000), np.arange(100).repeat(50)),
    )
    assert few[1][0] == copied[1][0] > 0.1
    assert few[0][0] == copied[0][0] == 0.02


def test_settings_that_make_no_sense():
    for bad, words in (
        ({"beta": 1.1}, "beta"), ({"weight": -1}, "weight"), ({"tau": math.inf}, "tau"), ({"norm": 3}, "norm"), ({"ramp": "linear"}, "ramp"),
        ({"samples": 0}, "samples"), ({"beta": math.nan}, "beta"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            Nemesis(**bad)
