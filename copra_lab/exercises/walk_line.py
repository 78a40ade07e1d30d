"""The checks of lesson 3."""

from collections.abc import Callable

import torch
from torch import Tensor

from copra_lab.exercises import NONE, Exercise, Mistakes
from copra_lab.exercises.material import adapters, largest_gap
from copra_lab.models.sites import hf_name


def _factors() -> tuple[Tensor, ...]:
    """A₁, B₁, A₂, B₂ of the two LoRA adapters for digits at one site."""
    pairs = [a.deltas[hf_name("vision", 3, "v")] for a in adapters()[:2]]
    return tuple(t for d in pairs for t in (d.A, d.B))


# --- a point on the line in ΔW


def _on_line(
    A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor, lam: float, made: Mistakes = NONE
) -> tuple[Tensor, Tensor]:
    w1, w2 = made.pick((1 - lam, lam), swapped=(lam, 1 - lam))
    if "factors" in made:
        return w1 * A1 + w2 * A2, w1 * B1 + w2 * B2
    a, b = [A1, A2], [B1, B2]
    if "a_weighted" in made:
        a = [w1 * A1, w2 * A2]
    elif "unweighted" not in made:
        b = [w1 * B1, w2 * B2]
    if "crossed" in made:
        b.reverse()
    return torch.cat(a), torch.cat(b, dim=made.pick(1, vertical=0))


def _praise_line(attempt: Callable) -> str:
    A1, B1, A2, B2 = _factors()
    A, B = attempt(A1, B1, A2, B2, 0.5)
    return (
        f"This is an exact point of the line, of rank {len(A)}: halfway it differs from the mean "
        f"of the two changes by {largest_gap(B @ A, (B1 @ A1 + B2 @ A2) / 2)}."
    )


on_line = Exercise(
    parts=("A", "B"),
    solution=_on_line,
    arguments=lambda: (*_factors(), 0.3),
    praise=_praise_line,
    atol=1e-6,
    mistakes={
        "swapped": "The weights are the wrong way round: λ = 0 should be the first adapter.",
        "unweighted": "This is the sum of the two changes: the weights are missing.",
        "a_weighted": "A carries weights: put them into B alone, or the product has their squares.",
        "crossed": "The B's are in a different order from the A's: each reads the other's A.",
        "factors": "This averages the factors: nothing is stacked, and it has cross terms.",
        "vertical": "The B's are stacked vertically: the result would have twice as many outputs.",
    },
)


# --- the barrier


def _barrier_of(lam: Tensor, values: Tensor, made: Mistakes = NONE) -> Tensor:
    start, end = values[lam == 0], values[lam == 1]
    line = made.pick(
        (1 - lam) * start + lam * end,
        reversed_line=lam * start + (1 - lam) * end,
        mean_of_ends=(start + end) / 2,
        better_end=torch.maximum(start, end),
        start=start,
    )
    gap = line - values
    gap = made.pick(gap, above=-gap)
    if "middle" in made:
        return gap[lam == 0.5][0]
    inside = gap if "beyond" in made else gap[(lam >= 0) & (lam <= 1)]
    return inside.mean() if "average" in made else inside.max()


def _path() -> tuple[Tensor, Tensor]:
    """A worked example: unordered, with points beyond the ends, not deepest in the middle."""
    lam = torch.tensor([0.5, 0.0, -0.5, 0.25, 1.5, 1.0, 0.75])
    return lam, torch.tensor([0.62, 0.77, 0.30, 0.58, 0.41, 0.83, 0.81])


def _praise_barrier(attempt: Callable) -> str:
    flat = attempt(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.7, 0.9, 0.8]))
    return (
        f"That path has a barrier of {100 * attempt(*_path()):.1f} points. A path that rises "
        f"between its ends has {100 * flat:.1f}, as it should."
    )


barrier_of = Exercise(
    parts=("the barrier",),
    solution=_barrier_of,
    arguments=_path,
    praise=_praise_barrier,
    atol=1e-5,
    mistakes={
        "beyond": "Points beyond the two ends were counted: a barrier lies between them.",
        "reversed_line": "The straight line starts at the wrong end: its value at λ = 0 is off.",
        "mean_of_ends": "Each point is compared with the mean of the two ends, not with the line.",
        "better_end": "Each point is compared with the better end, not with the straight line.",
        "start": "Each point is compared with the start, not with the straight line.",
        "middle": "This is the gap in the middle; the path is deeper elsewhere.",
        "average": "This is the average gap; a barrier is the largest.",
        "above": "The sign is wrong: this is how far the path rises above the straight line.",
    },
)


# --- what a point on the line in A and B is made of


def _parts_of(
    A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor, lam: float, made: Mistakes = NONE
) -> tuple[Tensor, Tensor]:
    w1, w2 = made.pick((1 - lam, lam), swapped=(lam, 1 - lam))
    own1, own2 = made.pick((w1**2, w2**2), not_squared=(w1, w2))
    own = own1 * (B1 @ A1) + own2 * (B2 @ A2)
    one, two = B1 @ A2, B2 @ A1
    mixed = made.pick(one + two, only_first=one, only_second=two, subtracted=one - two)
    cross = made.pick(w1 * w2, doubled=2 * w1 * w2, unweighted=1.0) * mixed
    return made.pick((own, cross), other_order=(cross, own))


def _praise_parts(attempt: Callable) -> str:
    own, cross = attempt(*_factors(), 0.5)
    return (
        f"At this site the midpoint has own parts of norm {own.norm():.2f} and cross terms of norm "
        f"{cross.norm():.2f}; on the line in ΔW the midpoint would have norm {2 * own.norm():.2f}."
    )


parts_of = Exercise(
    parts=("own", "cross"),
    solution=_parts_of,
    arguments=lambda: (*_factors(), 0.3),
    praise=_praise_parts,
    atol=1e-6,
    mistakes={
        "not_squared": "These are weights of the line in ΔW: here B and A each carry one.",
        "swapped": "The weights are the wrong way round: λ = 0 should be the first adapter.",
        "only_first": "One cross term is missing: the second's B reads the first's A as well.",
        "only_second": "One cross term is missing: the first's B reads the second's A as well.",
        "subtracted": "The two cross terms are subtracted: add them.",
        "doubled": "The cross terms are twice too large: both are in the sum already.",
        "unweighted": "The cross terms came in at full size: B and A each carry a weight.",
        "other_order": "The two parts are returned in the other order.",
    },
)
