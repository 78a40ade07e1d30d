"""SVFit, LoRA-XS, LoRA-SB, NOLA, LoLDU and LaMDA: frozen directions, and few numbers along them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_clip, tiny_task

from copra_lab.adapters import Adapter
from copra_lab.merging import average_factors, weighted_sum
from copra_lab.methods import NOLA, LaMDA, LoLDU, LoRASB, LoRAXS, Start, SVFit
from copra_lab.methods.loldu import decomposed
from copra_lab.training import PLAIN, TrainingSettings, fit
from copra_lab.training.base import batch_rows
from copra_lab.training.lora import AdapterTraining
from copra_lab.utils.devices import this_process
from copra_lab.utils.rng import generator

SITES = tiny_clip().sites
SQUARE, TALL, WIDE = (f"vision_model.encoder.layers.1.{m}" for m in
                      ("self_attn.v_proj", "mlp.fc1", "mlp.fc2"))  # fmt: skip


def weight(name: str) -> torch.Tensor:
    s = SITES[name]
    found = tiny_clip().model.get_submodule(s.module).get_parameter(s.parameter)
    return found[s.start : s.stop].detach()


def part(learner, name=SQUARE, seed=0, gradient=None):
    start = Start(weight(name), torch.Generator().manual_seed(seed), gradient)
    return learner.parametrise(SITES[name], start)


def training(learner, steps=10):
    settings = TrainingSettings(steps=steps, batch=8, lr=1e-2).resolve(learner)
    return AdapterTraining(tiny_clip(), tiny_task(), learner, PLAIN, settings, this_process())


def random_numbers(p: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in p.parameters():
            x.copy_(torch.randn(x.shape, generator=g))
    return p


def core_gradient(p, g):
    """The gradient of the core for ∂L/∂ΔW = g."""
    p.zero_grad()
    (p.delta() * g).sum().backward()
    return p.core.grad


# --- SVFit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SQUARE, TALL, WIDE])
@torch.no_grad()
def test_svfit_is_diagonal_in_the_singular_directions_of_the_weight(name):
    w = weight(name)
    p = random_numbers(part(SVFit(rank=5), name))
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    inside = u[:, :5].T @ p.delta() @ v[:5].T
    torch.testing.assert_close(inside, torch.diag(p.shift), atol=1e-5, rtol=0)
    whole = part(SVFit(), name)
    whole.shift.copy_(-s)
    torch.testing.assert_close(w + whole.delta(), torch.zeros_like(w), atol=1e-5, rtol=0)


def test_two_svfits_average_in_their_numbers_as_in_their_deltas():
    """One basis: ½(ΔW₁ + ΔW₂) has the shifts ½(δ₁ + δ₂), without cross terms."""
    runs = [fit(tiny_clip(), tiny_task(), SVFit(), steps=4, batch=8, seed=s, progress=False)
            for s in (0, 1)]  # fmt: skip
    both = weighted_sum(runs, [0.5, 0.5])
    for site, d in average_factors(runs).deltas.items():
        torch.testing.assert_close(d.delta(), both.deltas[site].delta(), atol=1e-6, rtol=0)
        assert torch.equal(runs[0].deltas[site].A, runs[1].deltas[site].A)


# --- LoRA-XS and LoRA-SB -------------------------------------------------------------------------


@torch.no_grad()
def test_lora_xs_begins_beside_the_base_or_at_it():
    w = weight(TALL)
    p = part(LoRAXS(rank=4), TALL)
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    torch.testing.assert_close(p.B, u[:, :4] * s[:4])
    torch.testing.assert_close(p.A, v[:4])
    assert 0 < p.delta().abs().max() < 1e-3
    at_base = LoRAXS(rank=4, spread=0)
    assert at_base.starts_at_base and not LoRAXS(rank=4).starts_at_base
    assert not part(at_base).delta().any()


@torch.no_grad()
def test_lora_sb_begins_with_the_best_copy_of_the_first_full_step():
    gradient = torch.randn(SITES[TALL].shape, generator=torch.Generator().manual_seed(3))
    step = -1e-3 * gradient.sign()
    p = part(LoRASB(rank=6, first_step=1e-3), TALL, gradient=gradient)
    torch.testing.assert_close(p.B.T @ p.B, torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(p.A @ p.A.T, torch.eye(6), atol=1e-5, rtol=0)
    left = torch.linalg.svdvals(step)[6:].square().sum().sqrt()  # Eckart and Young
    assert (step - p.delta()).norm() == pytest.approx(left.item(), rel=1e-4)
    for seed in range(20):
        b, a = (torch.randn(shape, generator=torch.Generator().manual_seed(seed))
                for shape in ((len(step), 6), (6, step.shape[1])))  # fmt: skip
        best = (step * (b @ a)).sum() / (b @ a).square().sum()
        assert (step - best * (b @ a)).norm() > left
    whole = part(LoRASB(rank=64, first_step=1e-3), TALL, gradient=gradient)
    torch.testing.assert_close(whole.delta(), step, atol=1e-6, rtol=0)


@pytest.mark.parametrize("learner", [LoRAXS(rank=4), LoRASB(rank=4)], ids=["xs", "sb"])
def test_the_gradient_of_a_core_is_the_weights_gradient_between_its_factors(learner):
    g = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    p = part(learner, gradient=g)
    torch.testing.assert_close(core_gradient(p, g), p.B.T @ g @ p.A.T, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # and by finite differences
        before = (p.delta().double() * g.double()).sum()
        p.core[1, 2] += 1.0
        after = (p.delta().double() * g.double()).sum()
    assert (after - before).item() == pytest.approx(p.core.grad[1, 2].item(), abs=1e-3)


def test_the_gradients_that_lora_sb_begins_with_are_those_of_the_weights():
    """Against autograd on the weights themselves, on the same two batches."""
    run = training(LoRASB(rank=2, batches=2))
    run.attached.detach()
    found = run.gradients(run.settings[0])
    model = copy.deepcopy(tiny_clip().model)
    weights = {s: SITES[s] for s in found}
    leaves = {
        s.module: model.get_submodule(s.module).get_parameter(s.parameter).requires_grad_()
        for s in weights.values()
    }
    for batch in range(2):
        g = generator(0, batch, "gradients")
        rows = batch_rows(len(tiny_task().train), 8, g)
        pixels = tiny_clip().pixels(tiny_task().train.images[rows])
        features = F.normalize(model.encode_image(tiny_task().augment(pixels, g)), dim=-1)
        logits = tiny_clip().logit_scale * features @ run.text.T
        F.cross_entropy(logits, tiny_task().train.labels[rows]).backward()
    for name, s in weights.items():
        expected = leaves[s.module].grad[s.start : s.stop]
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-4)


def test_lora_sb_needs_gradients():
    with pytest.raises(ValueError, match="LoRA-SB begins with gradients; train it with fit"):
        part(LoRASB())


# --- NOLA ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_nola_of_one_basis_averages_in_its_coefficients_as_in_its_factors():
    one, two, both = (part(NOLA(rank=3, bases=16), seed=s) for s in (0, 1, 2))
    assert torch.equal(one.of_a, two.of_a) and torch.equal(one.of_b, two.of_b)
    random_numbers(one, 0), random_numbers(two, 1)
    for x, y, z in zip(one.parameters(), two.parameters(), both.parameters(), strict=True):
        z.copy_((x + y) / 2)
    for x, y, z in zip(one.factors(), two.factors(), both.factors(), strict=True):
        torch.testing.assert_close((x + y) / 2, z, atol=1e-5, rtol=0)
    assert torch.linalg.matrix_rank(one.delta()) == 3
    other = part(NOLA(rank=3, bases=16, basis_seed=1))
    assert not torch.equal(one.of_a, other.of_a)
    assert not torch.equal(one.of_a, part(NOLA(rank=3, bases=16), WIDE).of_a[..., :64])


@torch.no_grad()
def test_nola_with_as_many_bases_as_elements_reaches_every_factor():
    p = part(NOLA(rank=1, bases=64))
    wanted = torch.randn(64, generator=torch.Generator().manual_seed(5))
    p.a.copy_(torch.linalg.solve(p.of_a[:, 0].T, wanted - p.first[0]))
    torch.testing.assert_close(p.factors()[0][0], wanted, atol=1e-3, rtol=0)


# --- LoLDU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SQUARE, TALL, WIDE])
@torch.no_grad()
def test_loldu_takes_the_weight_apart_and_begins_with_nothing(name):
    w = weight(name)
    lower, pivots, upper = decomposed(w)
    torch.testing.assert_close(lower * pivots @ upper, w, atol=1e-5, rtol=0)
    assert torch.equal(upper.diagonal(), torch.ones(len(pivots)))
    p = part(LoLDU(rank=7), name)
    assert not p.delta().any()
    p.shift.copy_(torch.randn(7, generator=torch.Generator().manual_seed(0)))
    p.stretch.fill_(0.5)
    z = pivots[:7] + p.shift
    by_hand = lower[:, :7] @ (torch.diag(1.5 * z) - torch.diag(pivots[:7])) @ upper[:7]
    torch.testing.assert_close(p.delta(), by_hand, atol=1e-5, rtol=1e-5)


def test_loldu_does_not_divide_by_a_pivot_that_is_zero():
    w = torch.ones(4, 4) + torch.diag(torch.tensor([1.0, 0, 0, 0]))
    lower, pivots, upper = decomposed(w)
    assert (pivots == 0).any()
    assert upper.isfinite().all()
    torch.testing.assert_close(lower * pivots @ upper, w)


# --- LaMDA ---------------------------------------------------------------------------------------


def test_lamda_freezes_its_columns_one_by_one_and_then_for_good():
    run = training(LaMDA(rank=4, freezing=0.5), steps=16)
    p = run.attached.parts[SQUARE]
    u, _, v = torch.linalg.svd(weight(SQUARE), full_matrices=False)
    torch.testing.assert_close(p.factors()[0], v[:4])
    torch.testing.assert_close(torch.stack(list(p.columns), 1), u[:, :4])
    for step in range(16):
        before = [c.detach().clone() for c in p.columns]
        run.step(step)
        frozen = min(4, int(4 * step / 8))
        same = [torch.equal(a, b) for a, b in zip(before, p.columns, strict=True)]
        assert same[4 - frozen :] == [True] * frozen, step
        # in the first step the core is zero, and B has no gradient but decays
        assert not any(same[: 4 - frozen])


def test_lamda_can_freeze_at_once():
    run = training(LaMDA(rank=4, freezing=0))
    p = run.attached.parts[SQUARE]
    before = [c.detach().clone() for c in p.columns]
    run.step(0), run.step(1)
    assert all(torch.equal(a, b) for a, b in zip(before, p.columns, strict=True))
    assert p.core.any()


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: LoRAXS(spread=-1), "spread must be 0 or more, got -1"),
        (lambda: LoRASB(first_step=0), "first_step must be positive, got 0"),
        (lambda: LoRASB(batches=0), "batches must be a whole number of at least 1, got 0"),
        (lambda: NOLA(bases=0), "bases must be a whole number of at least 1, got 0"),
        (lambda: LaMDA(freezing=2), "freezing must be at least 0 and at most 1, got 2"),
        (lambda: part(SVFit(rank=65)), "rank 65 is more than the 64 directions of .* (64×64)"),
        (lambda: part(LoLDU(rank=65)), "rank 65 is more than the 64 directions"),
        (lambda: part(LaMDA(rank=65)), "rank 65 is more than the 64 directions"),
        (lambda: part(LoRAXS(rank=65)), "rank 65 is more than the 64 directions"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        wrong()


def test_the_result_is_an_adapter_like_any_other():
    adapter = fit(tiny_clip(), tiny_task(), SVFit(rank=3), steps=2, batch=8, progress=False)
    assert isinstance(adapter, Adapter)
    assert adapter.rank == 3
    assert adapter.provenance["method"] == "svfit"
    assert adapter.provenance["lora"]["rank"] == 3
    assert adapter.provenance["lr"] == SVFit.defaults["lr"]
