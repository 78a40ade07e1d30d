"""The checks of lesson 7, on changes (ΔW) of shipped adapters."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.adapters.adapter import LowRank
from copra_lab.exercises import NONE, Exercise, Mistakes
from copra_lab.exercises.material import adapters, seeded

TASKS = ("digits", "faces-noise", "things-blur")
SITE = "vision_model.encoder.layers.6.self_attn.v_proj"


def _low_ranks() -> list[LowRank]:
    """One matrix of three adapters, LoRA with seed 0."""
    return [adapters(task)[0].deltas[SITE] for task in TASKS]


@cache
def _vectors() -> Tensor:
    """Some entries of each ΔW, (3, 480)."""
    return torch.stack([d.delta().flatten()[::37][:480] for d in _low_ranks()])


# --- TIES


def _trim(vectors: Tensor, density: float, made: Mistakes) -> Tensor:
    size = made.pick(vectors.abs(), by_value=vectors)
    flat = size.flatten()[None] if "together" in made else size
    largest = flat.topk(round(density * flat.shape[1]), dim=1).indices
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter(1, largest, True)
    return vectors * kept.view_as(vectors)


def _ties(vectors: Tensor, density: float, made: Mistakes = NONE) -> Tensor:
    trimmed = vectors if "untrimmed" in made else _trim(vectors, density, made)
    voters = made.pick(trimmed, elected_before=vectors)
    sign = made.pick(voters, by_count=voters.sign()).sum(0).sign()
    agrees = (trimmed != 0) & ((trimmed.sign() == sign) | ("both_signs" in made))
    total = (trimmed * agrees).sum(0)
    return total / made.pick(agrees.sum(0).clamp_min(1), by_all=len(vectors), sum=1)


def _praise_ties(attempt: Callable) -> str:
    v = _vectors()
    merged, mean = attempt(v, 0.2), v.mean(0)
    share, longest = (merged != 0).double().mean(), merged.abs().max() / mean.abs().max()
    return (
        f"On {v.shape[1]} entries of ΔW for three tasks, TIES leaves {100 * float(share):.0f} % "
        f"nonzero, and the largest is {float(longest):.1f} times that of the plain mean."
    )


ties = Exercise(
    parts=("the merged vector",),
    solution=_ties,
    arguments=lambda: (_vectors(), 0.3),
    praise=_praise_ties,
    atol=1e-7,
    mistakes={
        "untrimmed": "Nothing was trimmed: small entries still vote and count.",
        "by_value": "You kept the largest values when trimming, so every negative entry was lost: "
        "trim by magnitude.",
        "together": "The entries of all tasks were trimmed together, so a task with a small ΔW is "
        "hardly heard: trim each task separately.",
        "by_count": "The sign was elected by counting heads: larger entries should weigh more.",
        "elected_before": "The sign was elected before the trimming: trimmed entries have no vote.",
        "both_signs": "Entries of both signs were averaged, so they still cancel: leave out those "
        "that lost the election.",
        "by_all": "The sum was divided by the number of tasks: count only those that agree.",
        "sum": "This is a sum: where two tasks agree it should be their mean.",
    },
)


# --- DARE


def _noise(seed: int) -> Tensor:
    return torch.rand(_vectors().shape[1], generator=seeded(seed))


def _dare(delta: Tensor, rate: float, noise: Tensor, made: Mistakes = NONE) -> Tensor:
    kept = made.pick(noise >= rate, kept_dropped=noise < rate, threshold=noise >= 1 - rate)
    share = made.pick(
        1 - rate,
        not_rescaled=1.0,
        by_rate=rate,
        shrunk=1 / (1 - rate),
        as_drawn=kept.double().mean().item(),
    )
    return delta * kept / share


def _praise_dare(attempt: Callable) -> str:
    d = _vectors()[0]
    draws = [attempt(d, 0.7, _noise(seed)) for seed in range(300)]
    mean = torch.stack(draws).mean(0)
    off, off_mean = (100 * float((x - d).norm() / d.norm()) for x in (draws[0], mean))
    return (
        f"A single draw is off by {off:.0f} % of the length of ΔW, the mean of 300 draws by "
        f"{off_mean:.0f} %. Right on average, but far off each time."
    )


dare = Exercise(
    parts=("what is left of ΔW",),
    solution=_dare,
    arguments=lambda: (_vectors()[0], 0.7, _noise(0)),
    praise=_praise_dare,
    atol=1e-7,
    mistakes={
        "not_rescaled": "Entries were dropped and the rest was not rescaled: on average ΔW came "
        "out too small.",
        "by_rate": "The other entries were divided by the rate of dropping: think of which share "
        "of the entries is left.",
        "shrunk": "The remaining entries got smaller: they stand in for what was dropped, so they "
        "should grow.",
        "as_drawn": "You divided by the share that this draw happened to keep: each entry should "
        "be right on average by itself, whatever happens to the others.",
        "kept_dropped": "You kept what should go and dropped what should stay.",
        "threshold": "The share that was dropped is one minus the rate: the threshold is wrong.",
    },
)


# --- federated averages


@cache
def _clients() -> tuple[Tensor, Tensor, Tensor]:
    """Factors A (3, r, in) and B (3, out, r) of three made-up clients, and their image counts."""
    d = _low_ranks()
    b = torch.stack([x.scale * x.B for x in d])
    return torch.stack([x.A for x in d]), b, torch.tensor([160, 72, 362])


def _averages(a: Tensor, b: Tensor, images: Tensor, made: Mistakes = NONE) -> tuple[Tensor, Tensor]:
    weights = made.pick(
        images / images.sum(),
        equal=torch.full((len(images),), 1 / len(images)),
        counts=images.float(),
    )[:, None, None]
    of_products = (weights * (b @ a)).sum(0)
    of_factors = (weights * b).sum(0) @ (weights * a).sum(0)
    own = (weights**2 * (b @ a)).sum(0)
    return (
        made.pick(of_products, first_of_factors=of_factors),
        made.pick(of_factors, products_twice=of_products, only_own=own),
    )


def _praise_averages(attempt: Callable) -> str:
    def differ(a: Tensor) -> float:
        one, two = attempt(a, b, images)
        return 100 * float((one - two).norm() / one.norm())

    a, b, images = _clients()
    shared = differ(a[:1].expand_as(a).contiguous())
    return (
        f"If each client has its own A, the two averages differ by {differ(a):.0f} % of their "
        f"length; if all share one A, by {shared:.5f} %."
    )


averages = Exercise(
    parts=("the average of ΔW", "ΔW of the averages"),
    solution=_averages,
    arguments=_clients,
    praise=_praise_averages,
    atol=1e-6,
    mistakes={
        "equal": "Every client weighs the same: one with more images should weigh more.",
        "counts": "The weights are numbers of images and do not sum to 1.",
        "products_twice": "You returned the average of products twice: the second is the product "
        "of two averages.",
        "first_of_factors": "The first should average the products, client by client: a product of "
        "averages mixes one client's B with another's A.",
        "only_own": "In a product of averages every B meets every A: yours has only the products "
        "of each client's own.",
    },
)
