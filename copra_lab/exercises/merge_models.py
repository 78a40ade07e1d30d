"""Lesson 7's checks, on deltas of shipped adapters."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.adapters.adapter import LowRank
from copra_lab.exercises import Exercise, Mistake
from copra_lab.models.loading import load_clip
from copra_lab.zoo import shipped

TASKS = ("digits", "faces-noise", "things-blur")
SITE = "vision_model.encoder.layers.6.self_attn.v_proj"


@cache
def _low_ranks() -> tuple[LowRank, ...]:
    """One matrix of three adapters, seed 0 of LoRA."""
    return tuple(shipped(task)[0].load(load_clip()).deltas[SITE] for task in TASKS)


@cache
def _vectors() -> Tensor:
    """Some entries of each ΔW, (3, 480)."""
    return torch.stack([d.delta().flatten()[::37][:480] for d in _low_ranks()])


# --- TIES


def _trim(vectors: Tensor, density: float, by: str = "size", over: str = "each") -> Tensor:
    size = vectors.abs() if by == "size" else vectors
    flat = size.flatten()[None] if over == "all" else size
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter(
        1, flat.topk(round(density * flat.shape[1]), dim=1).indices, True
    )
    return vectors * kept.view_as(vectors)


def _ties(
    vectors: Tensor, density: float, *,
    trim: bool = True, by: str = "size", over: str = "each", elect: str = "mass", of: str = "trimmed", disjoint: bool = True, divide: str = "agreeing",
) -> Tensor:  # fmt: skip
    trimmed = _trim(vectors, density, by, over) if trim else vectors
    voters = trimmed if of == "trimmed" else vectors
    sign = (voters.sum(0) if elect == "mass" else voters.sign().sum(0)).sign()
    agrees = (trimmed != 0) & ((trimmed.sign() == sign) | (not disjoint))
    total = (trimmed * agrees).sum(0)
    return total / {"agreeing": agrees.sum(0).clamp_min(1), "all": len(vectors), "none": 1}[divide]


def _ties_praise(attempt: Callable) -> str:
    v = _vectors()
    merged, mean = attempt(v, 0.2), v.mean(0)
    return f"On {v.shape[1]} entries of ΔW of three tasks TIES leaves {100 * float((merged != 0).double().mean()):.0f} % other than zero, and the longest of them is {float(merged.abs().max() / mean.abs().max()):.1f} times that of the plain mean."


ties = Exercise(
    parts=("the merged vector",),
    solution=_ties,
    arguments=lambda: (_vectors(), 0.3),
    praise=_ties_praise,
    atol=1e-7,
    mistakes={
        "not trimmed": Mistake({"trim": False}, "Nothing was trimmed: small entries still vote and count."),
        "trimmed by value": Mistake({"by": "value"}, "The trimming kept the largest values, so every negative entry was lost: it goes by magnitude."),
        "trimmed together": Mistake({"over": "all"}, "The entries of all tasks were trimmed together, so a task with a small ΔW is hardly heard: each is trimmed by itself."),
        "one task, one vote": Mistake({"elect": "count"}, "The sign was elected by counting heads: a large entry should weigh more than a small one."),
        "voted before trimming": Mistake({"of": "all"}, "The sign was elected before the trimming: entries that were cut off should have no vote."),
        "no election": Mistake({"disjoint": False}, "Entries of both signs were averaged, so they still cancel: those that lost the election should not count."),
        "mean over all tasks": Mistake({"divide": "all"}, "The sum was divided by the number of tasks: the mean should be over those whose entry counts."),
        "a sum": Mistake({"divide": "none"}, "This is a sum: where two tasks agree it should be their mean."),
    },
)  # fmt: skip


# --- DARE


@cache
def _noise() -> Tensor:
    return torch.rand(_vectors().shape[1], generator=torch.Generator().manual_seed(0))


def _dare(
    delta: Tensor, rate: float, noise: Tensor, *, kept: str = "right", rescale: str = "kept"
) -> Tensor:
    keep = (
        noise >= rate
        if kept == "right"
        else noise < rate
        if kept == "dropped"
        else noise >= 1 - rate
    )
    share = {
        "kept": 1 - rate,
        "none": 1.0,
        "rate": rate,
        "times": 1 / (1 - rate),
        "drawn": keep.double().mean().item(),
    }[rescale]
    return delta * keep / share


def _dare_praise(attempt: Callable) -> str:
    d = _vectors()[0]
    many = torch.stack(
        [
            attempt(d, 0.7, torch.rand(d.shape, generator=torch.Generator().manual_seed(i)))
            for i in range(300)
        ]
    )
    off = (many.mean(0) - d).norm() / d.norm()
    return f"A single draw is off by {100 * float((many[0] - d).norm() / d.norm()):.0f} % of the length of ΔW; the mean of 300 draws by {100 * float(off):.0f} %. Right on average, far from it each time."


dare = Exercise(
    parts=("what is left of ΔW",),
    solution=_dare,
    arguments=lambda: (_vectors()[0], 0.7, _noise()),
    praise=_dare_praise,
    atol=1e-7,
    mistakes={
        "not rescaled": Mistake({"rescale": "none"}, "Entries were dropped and the others left as they are: on average ΔW came out too small."),
        "rescaled by the rate": Mistake({"rescale": "rate"}, "The others were divided by the rate of dropping: think of which share of the entries is left."),
        "shrunk": Mistake({"rescale": "times"}, "What is left came out smaller than before: it has to stand in for what was dropped, and grow."),
        "rescaled by the draw": Mistake({"rescale": "drawn"}, "You divided by the share that this draw happened to keep: each entry should be right on average by itself, whatever the others drew."),
        "kept what should go": Mistake({"kept": "dropped"}, "You kept what should go and dropped what should stay."),
        "another rate": Mistake({"kept": "one minus"}, "The share that was dropped is one minus the rate: the border lies on the wrong side."),
    },
)  # fmt: skip


# --- federated averages


@cache
def _clients() -> tuple[Tensor, Tensor, Tensor]:
    """Factors A (3, r, in), B (3, out, r) as if of three clients, and their numbers of images."""
    d = _low_ranks()
    return (
        torch.stack([x.A for x in d]),
        torch.stack([x.scale * x.B for x in d]),
        torch.tensor([160, 72, 362]),
    )


def _averages(
    a: Tensor,
    b: Tensor,
    images: Tensor,
    *,
    weigh: str = "share",
    second: str = "factors",
    first: str = "deltas",
) -> tuple[Tensor, Tensor]:
    share = {
        "share": images / images.sum(),
        "alike": torch.full((len(images),), 1 / len(images)),
        "counts": images.float(),
    }[weigh]
    weights = share[:, None, None]
    deltas, factors = (weights * (b @ a)).sum(0), (weights * b).sum(0) @ (weights * a).sum(0)
    twice = (weights**2 * (b @ a)).sum(0)
    return (deltas if first == "deltas" else factors), {
        "factors": factors,
        "deltas": deltas,
        "twice": twice,
    }[second]


def _averages_praise(attempt: Callable) -> str:
    a, b, images = _clients()
    one, two = attempt(a, b, images)
    same_one, same_two = attempt(a[:1].expand_as(a).contiguous(), b, images)
    return (
        f"With an A for each client the two averages differ by {100 * float((one - two).norm() / one.norm()):.0f} % of their length; "
        f"with one A for all of them by {100 * float((same_one - same_two).norm() / same_one.norm()):.5f} %."
    )


averages = Exercise(
    parts=("the average of ΔW", "ΔW of the averages"),
    solution=_averages,
    arguments=_clients,
    praise=_averages_praise,
    atol=1e-6,
    mistakes={
        "clients alike": Mistake({"weigh": "alike"}, "Every client weighs the same: a client with more images should weigh more."),
        "not normalised": Mistake({"weigh": "counts"}, "The weights are numbers of images and do not sum to 1."),
        "the same twice": Mistake({"second": "deltas"}, "You gave the average of the products twice: the second is the product of two averages."),
        "the product twice": Mistake({"first": "factors"}, "The first should average the products, client by client: a product of averages mixes one client's B with another's A."),
        "no cross terms": Mistake({"second": "twice"}, "In a product of averages every B meets every A: yours has only the products of each client's own."),
    },
)  # fmt: skip
