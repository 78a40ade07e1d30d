"""The checks of lesson 7, on changes (ΔW) of shipped adapters."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.adapters.adapter import LowRank
from copra_lab.exercises import Exercise
from copra_lab.models.loading import load_clip
from copra_lab.zoo import shipped

TASKS = ("digits", "faces-noise", "things-blur")
SITE = "vision_model.encoder.layers.6.self_attn.v_proj"


@cache
def _low_ranks() -> tuple[LowRank, ...]:
    """One matrix of three adapters, LoRA with seed 0."""
    return tuple(shipped(task)[0].load(load_clip()).deltas[SITE] for task in TASKS)


@cache
def _vectors() -> Tensor:
    """Some entries of each ΔW, (3, 480)."""
    return torch.stack([d.delta().flatten()[::37][:480] for d in _low_ranks()])


# --- TIES


def _trim(vectors: Tensor, density: float, by: str = "size", over: str = "each") -> Tensor:
    size = vectors.abs() if by == "size" else vectors
    flat = size.flatten()[None] if over == "all" else size
    largest = flat.topk(round(density * flat.shape[1]), dim=1).indices
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter(1, largest, True)
    return vectors * kept.view_as(vectors)


def _ties(
    vectors: Tensor,
    density: float,
    *,
    trim: bool = True,
    by: str = "size",
    over: str = "each",
    elect: str = "mass",
    of: str = "trimmed",
    disjoint: bool = True,
    divide: str = "agreeing",
) -> Tensor:
    trimmed = _trim(vectors, density, by, over) if trim else vectors
    voters = trimmed if of == "trimmed" else vectors
    sign = (voters.sum(0) if elect == "mass" else voters.sign().sum(0)).sign()
    agrees = (trimmed != 0) & ((trimmed.sign() == sign) | (not disjoint))
    total = (trimmed * agrees).sum(0)
    return total / {"agreeing": agrees.sum(0).clamp_min(1), "all": len(vectors), "none": 1}[divide]


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
        "Nothing was trimmed: small entries still vote and count.": {"trim": False},
        "You kept the largest values when trimming, so every negative entry was lost: trim by "
        "magnitude.": {"by": "value"},
        "The entries of all tasks were trimmed together, so a task with a small ΔW is hardly "
        "heard: trim each task separately.": {"over": "all"},
        "The sign was elected by counting heads: larger entries should weigh more.": {
            "elect": "count"
        },
        "The sign was elected before the trimming: trimmed entries should have no vote.": {
            "of": "all"
        },
        "Entries of both signs were averaged, so they still cancel: leave out those that lost the "
        "election.": {"disjoint": False},
        "The sum was divided by the number of tasks: average only over the tasks whose entry "
        "counts.": {"divide": "all"},
        "This is a sum: where two tasks agree it should be their mean.": {"divide": "none"},
    },
)


# --- DARE


@cache
def _noise() -> Tensor:
    return torch.rand(_vectors().shape[1], generator=torch.Generator().manual_seed(0))


def _dare(
    delta: Tensor, rate: float, noise: Tensor, *, kept: str = "right", rescale: str = "kept"
) -> Tensor:
    keep = {"right": noise >= rate, "dropped": noise < rate, "other": noise >= 1 - rate}[kept]
    share = {
        "kept": 1 - rate,
        "none": 1.0,
        "rate": rate,
        "times": 1 / (1 - rate),
        "drawn": keep.double().mean().item(),
    }[rescale]
    return delta * keep / share


def _praise_dare(attempt: Callable) -> str:
    d, draws = _vectors()[0], []
    for seed in range(300):
        noise = torch.rand(d.shape, generator=torch.Generator().manual_seed(seed))
        draws.append(attempt(d, 0.7, noise))
    mean = torch.stack(draws).mean(0)
    off, off_mean = (100 * float((x - d).norm() / d.norm()) for x in (draws[0], mean))
    return (
        f"A single draw is off by {off:.0f} % of the length of ΔW, the mean of 300 draws by "
        f"{off_mean:.0f} %. Right on average, but far off each time."
    )


dare = Exercise(
    parts=("what is left of ΔW",),
    solution=_dare,
    arguments=lambda: (_vectors()[0], 0.7, _noise()),
    praise=_praise_dare,
    atol=1e-7,
    mistakes={
        "Entries were dropped and the rest was not rescaled: on average ΔW came out too small.": {
            "rescale": "none"
        },
        "The other entries were divided by the rate of dropping: think of which share of the "
        "entries is left.": {"rescale": "rate"},
        "The remaining entries got smaller: they stand in for what was dropped, so they should "
        "grow.": {"rescale": "times"},
        "You divided by the share that this draw happened to keep: each entry should be right on "
        "average by itself, whatever happens to the others.": {"rescale": "drawn"},
        "You kept what should go and dropped what should stay.": {"kept": "dropped"},
        "The share that was dropped is one minus the rate: the threshold is wrong.": {
            "kept": "other"
        },
    },
)


# --- federated averages


@cache
def _clients() -> tuple[Tensor, Tensor, Tensor]:
    """Factors A (3, r, in) and B (3, out, r) of three made-up clients, and their image counts."""
    d = _low_ranks()
    b = torch.stack([x.scale * x.B for x in d])
    return torch.stack([x.A for x in d]), b, torch.tensor([160, 72, 362])


def _averages(
    a: Tensor,
    b: Tensor,
    images: Tensor,
    *,
    weigh: str = "share",
    second: str = "factors",
    first: str = "deltas",
) -> tuple[Tensor, Tensor]:
    weights = {
        "share": images / images.sum(),
        "equal": torch.full((len(images),), 1 / len(images)),
        "counts": images.float(),
    }[weigh][:, None, None]
    averages = {
        "deltas": (weights * (b @ a)).sum(0),
        "factors": (weights * b).sum(0) @ (weights * a).sum(0),
        "own": (weights**2 * (b @ a)).sum(0),
    }
    return averages[first], averages[second]


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
        "Every client weighs the same: a client with more images should weigh more.": {
            "weigh": "equal"
        },
        "The weights are numbers of images and do not sum to 1.": {"weigh": "counts"},
        "You returned the average of products twice: the second is the product of two averages.": {
            "second": "deltas"
        },
        "The first should average the products, client by client: a product of averages mixes one "
        "client's B with another's A.": {"first": "factors"},
        "In a product of averages every B meets every A: yours has only the products of each "
        "client's own.": {"second": "own"},
    },
)
