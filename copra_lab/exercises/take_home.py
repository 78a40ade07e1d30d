"""The checks of lesson 10."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.exercises import NONE, Exercise, Mistakes
from copra_lab.exercises.material import adapters, largest_gap, seeded
from copra_lab.tasks.emoji.selection import digits

# --- splitting a folder


def _deal(
    labels: Tensor, content: Tensor, u: Tensor, share: float, made: Mistakes = NONE
) -> Tensor:
    """1 for each file in the test set, (n,)."""
    test = torch.zeros(len(labels))
    least = made.pick(1, none_for_small=0)
    groups = made.pick(labels, whole_folder=torch.zeros_like(labels))
    for label in groups.unique():
        rows = (groups == label).nonzero()[:, 0]
        of_files = max(least, round(share * len(rows)))
        if "files" in made:
            test[rows[u[rows].argsort()][:of_files]] = 1
            continue
        own = content[rows].unique()
        count = made.pick(max(least, round(share * len(own))), copies_counted=of_files)
        first = own[u[own].argsort(descending="largest" in made)][:count]
        test[rows[torch.isin(content[rows], first)]] = 1
    return test


@cache
def _files() -> tuple[Tensor, Tensor, Tensor, float]:
    """Sixty handwritten digits of four classes, one of which has three, some of them copied.

    Every third file has a copy, every sixth has two.
    """
    written = torch.tensor(digits()[1])
    rows = torch.cat([(written == c).nonzero()[:n, 0] for c, n in enumerate((21, 18, 18, 3))])
    labels = torch.cat([written[rows], written[rows[::3]], written[rows[::6]]])
    content = torch.cat([torch.arange(60), torch.arange(0, 60, 3), torch.arange(0, 60, 6)])
    mixed = torch.randperm(len(labels), generator=seeded(0))
    u = torch.rand(len(labels), generator=seeded(1))
    return labels[mixed], content[mixed], u, 0.15


def _on_both_sides(content: Tensor, test: Tensor) -> int:
    """The number of images that both train and test."""
    return sum(0 < float(test[content == c].mean()) < 1 for c in content.unique())


def _praise_deal(attempt: Callable) -> str:
    labels, content, u, share = _files()
    mine = _on_both_sides(content, attempt(labels, content, u, share))
    naive = _on_both_sides(content, _deal(labels, content, u, share, Mistakes(["files"])))
    return (
        f"Of {len(labels)} files with {len(content.unique())} different images, {mine} images are "
        f"on both sides; split file by file, {naive} test images would also be trained on."
    )


deal = Exercise(
    parts=("which files test",),
    solution=_deal,
    arguments=_files,
    praise=_praise_deal,
    mistakes={
        "files": "You split files: equal images ended up on both sides, so the test includes "
        "images that were trained on.",
        "copies_counted": "You took the share of a class's files, copies counted: take it of its "
        "different images.",
        "whole_folder": "You took the share of the whole folder, so a class may get too many or "
        "none: take it class by class.",
        "largest": "You took the images with the largest numbers: take those with the smallest.",
        "none_for_small": "A small class has no test image: its share was rounded to nothing.",
    },
)


# --- several adapters as one, for peft


def _pairs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One matrix of three shipped adapters, given different scales, and weights.

    A (3, r, in), B (3, out, r), scales (3,) and weights (3,).
    """
    found = [a.deltas["vision_model.encoder.layers.6.self_attn.v_proj"] for a in adapters()[:3]]
    scales, weights = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.5, 0.3, 0.2])
    b = torch.stack([d.scale * d.B for d in found])
    return torch.stack([d.A for d in found]), b, scales, weights


def _stacked(
    A: Tensor, B: Tensor, scales: Tensor, weights: Tensor, made: Mistakes = NONE
) -> tuple[Tensor, Tensor]:
    s = made.pick(scales, unscaled=torch.ones_like(scales))[:, None, None]
    w = weights[:, None, None]
    a, b = made.pick((A, s * B * w), unweighted=(A, s * B), a_weighted=(A * w, s * B))
    if "averaged" in made:
        return (w * A).sum(0), b.sum(0)
    if "reshaped" in made:
        return a.flatten(0, 1), b.reshape(b.shape[1], -1)
    return a.flatten(0, 1), b.transpose(0, 1).flatten(1)


def _praise_stacked(attempt: Callable) -> str:
    A, B, scales, weights = _pairs()
    a, b = attempt(A, B, scales, weights)
    wanted = ((weights * scales)[:, None, None] * (B @ A)).sum(0)
    return (
        f"{len(A)} adapters of rank {A.shape[1]} became one of rank {len(a)}; its product differs "
        f"from the sum of theirs by at most {largest_gap(b @ a, wanted)}."
    )


stacked = Exercise(
    parts=("A", "B"),
    solution=_stacked,
    arguments=_pairs,
    praise=_praise_stacked,
    atol=1e-6,
    mistakes={
        "averaged": "You averaged A and B: the product of averages is not the average of products "
        "(lesson 3). Stack them.",
        "reshaped": "B was reshaped instead of being put side by side: its columns no longer match "
        "their rows of A.",
        "unscaled": "The adapters' own scales are missing from B.",
        "unweighted": "The weights are missing: this is the sum, not the average.",
        "a_weighted": "The weights are in A: put them into B alone, with the scales. In both, the "
        "product would have their squares.",
    },
)


# --- layers drawn once for each optimiser step


def _switches(
    batches: Tensor, accumulate: int, steps: int, u: Tensor, made: Mistakes = NONE
) -> Tensor:
    """1 where a layer is on, (n, layers)."""
    step = batches // accumulate
    clock = made.pick(step, batch_clock=batches)
    p = (clock / (made.pick(0.75, no_ramp=1.0) * steps))[:, None]
    on = u[made.pick(step, own_draw=batches)] < p
    return made.pick(on, inverted=~on).float()


def _batches() -> tuple[Tensor, int, int, Tensor]:
    """Sixteen steps of four batches each, and enough numbers for every batch."""
    return torch.arange(64), 4, 16, torch.rand(64, 12, generator=seeded(0))


def _praise_switches(attempt: Callable) -> str:
    batches, accumulate, steps, u = _batches()
    mine = attempt(batches, accumulate, steps, u).view(steps, accumulate, -1)
    each = _switches(batches, accumulate, steps, u, Mistakes(["own_draw"]))
    each = each.view(steps, accumulate, -1)
    agree = 100 * float((mine == mine[:, :1]).all(1).double().mean())
    differ = 100 * float((each != each[:, :1]).any(1).double().mean())
    return (
        f"The batches of a step agree in {agree:.0f} % of the switches. With a new draw for each "
        f"batch, a layer would be neither on nor off for a whole step in {differ:.0f} %."
    )


switches = Exercise(
    parts=("which layers are on",),
    solution=_switches,
    arguments=_batches,
    praise=_praise_switches,
    mistakes={
        "own_draw": "Every batch has its own draw: the batches of one step must share it, or the "
        "step's gradient mixes several sets of layers.",
        "batch_clock": "p rises with the batches: it should rise with the optimiser steps.",
        "no_ramp": "p reaches 1 only at the very end: it should after three quarters of the steps.",
        "inverted": "On and off are the wrong way round: at first most layers should be off.",
    },
)
