"""The checks of lesson 10."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.exercises import Exercise
from copra_lab.models.loading import load_clip
from copra_lab.tasks.emoji.selection import digits
from copra_lab.zoo import shipped

# --- splitting a folder


def _deal(
    labels: Tensor,
    content: Tensor,
    u: Tensor,
    share: float,
    *,
    of: str = "contents",
    over: str = "class",
    end: str = "low",
    least: int = 1,
) -> Tensor:
    """1 for each file in the test set, (n,); each switch is a mistake."""
    test = torch.zeros(len(labels))
    groups = labels if over == "class" else torch.zeros_like(labels)
    for label in groups.unique():
        rows = (groups == label).nonzero()[:, 0]
        if of == "files":
            test[rows[u[rows].argsort()][: max(least, round(share * len(rows)))]] = 1
            continue
        own = content[rows].unique()
        count = max(least, round(share * (len(own) if of == "contents" else len(rows))))
        first = own[u[own].argsort(descending=end == "high")][:count]
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
    mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    u = torch.rand(len(labels), generator=torch.Generator().manual_seed(1))
    return labels[mixed], content[mixed], u, 0.15


def _on_both_sides(content: Tensor, test: Tensor) -> int:
    """The number of images that both train and test."""
    return sum(0 < float(test[content == c].mean()) < 1 for c in content.unique())


def _praise_deal(attempt: Callable) -> str:
    labels, content, u, share = _files()
    mine = _on_both_sides(content, attempt(labels, content, u, share))
    naive = _on_both_sides(content, _deal(labels, content, u, share, of="files"))
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
        "You split files: equal images ended up on both sides, so the test includes images that "
        "were trained on.": {"of": "files"},
        "You took the share of a class's files, copies counted: take it of its different images.": {
            "of": "count"
        },
        "You took the share of the whole folder, so a class may get too many or none: take it "
        "class by class.": {"over": "all"},
        "You took the images with the largest numbers: take those with the smallest.": {
            "end": "high"
        },
        "A small class has no test image at all: its share was rounded to nothing.": {"least": 0},
    },
)


# --- several adapters as one, for peft


@cache
def _pairs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One matrix of three shipped adapters, given different scales, and weights.

    A (3, r, in), B (3, out, r), scales (3,) and weights (3,).
    """
    clip, site = load_clip(), "vision_model.encoder.layers.6.self_attn.v_proj"
    found = [s.load(clip).deltas[site] for s in shipped("digits")[:3]]
    scales, weights = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.5, 0.3, 0.2])
    b = torch.stack([d.scale * d.B for d in found])
    return torch.stack([d.A for d in found]), b, scales, weights


def _stacked(
    A: Tensor,
    B: Tensor,
    scales: Tensor,
    weights: Tensor,
    *,
    scaled: bool = True,
    weighted: str = "B",
    way: str = "stacked",
) -> tuple[Tensor, Tensor]:
    s = (scales if scaled else torch.ones_like(scales))[:, None, None]
    w = weights[:, None, None]
    a, b = A * (w if weighted == "A" else 1), s * B * (w if weighted == "B" else 1)
    if way == "averaged":
        return (w * A).sum(0), b.sum(0)
    if way == "reshaped":
        return a.flatten(0, 1), b.reshape(b.shape[1], -1)
    return a.flatten(0, 1), b.transpose(0, 1).flatten(1)


def _praise_stacked(attempt: Callable) -> str:
    A, B, scales, weights = _pairs()
    a, b = attempt(A, B, scales, weights)
    wanted = ((weights * scales)[:, None, None] * (B @ A)).sum(0)
    return (
        f"{len(A)} adapters of rank {A.shape[1]} became one of rank {len(a)}; its product differs "
        f"from the sum of theirs by at most {float((b @ a - wanted).abs().max()):.0e}."
    )


stacked = Exercise(
    parts=("A", "B"),
    solution=_stacked,
    arguments=_pairs,
    praise=_praise_stacked,
    atol=1e-6,
    mistakes={
        "You averaged A and B: the product of averages is not the average of products (lesson 3). "
        "Stack them.": {"way": "averaged"},
        "B was reshaped instead of being put side by side: its columns no longer match their rows "
        "of A.": {"way": "reshaped"},
        "The adapters' own scales are missing from B.": {"scaled": False},
        "The weights are missing: this is the sum, not the average.": {"weighted": "no"},
        "The weights are in A: put them into B alone, with the scales. In both, the product would "
        "have their squares.": {"weighted": "A"},
    },
)


# --- layers drawn once for each optimiser step


def _switches(
    batches: Tensor,
    accumulate: int,
    steps: int,
    u: Tensor,
    *,
    row: str = "step",
    clock: str = "step",
    ramp: float = 0.75,
    on: str = "below",
) -> Tensor:
    """1 where a layer is on, (n, layers); each switch is a mistake."""
    index = {"step": batches // accumulate, "batch": batches}
    p = (index[clock] / (ramp * steps))[:, None]
    return (u[index[row]] < p if on == "below" else u[index[row]] >= p).float()


def _batches() -> tuple[Tensor, int, int, Tensor]:
    """Sixteen steps of four batches each, and enough numbers for every batch."""
    return torch.arange(64), 4, 16, torch.rand(64, 12, generator=torch.Generator().manual_seed(0))


def _praise_switches(attempt: Callable) -> str:
    batches, accumulate, steps, u = _batches()
    mine = attempt(batches, accumulate, steps, u).view(steps, accumulate, -1)
    each = _switches(batches, accumulate, steps, u, row="batch").view(steps, accumulate, -1)
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
        "Every batch has its own draw: the batches of one step must share it, or the step's "
        "gradient mixes several sets of layers.": {"row": "batch"},
        "p rises with the batches: it should rise with the optimiser steps.": {"clock": "batch"},
        "p reaches 1 only at the very end: it should do so after three quarters of the steps.": {
            "ramp": 1.0
        },
        "On and off are the wrong way round: at first nearly all layers should be off.": {
            "on": "above"
        },
    },
)
