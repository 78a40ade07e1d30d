"""Lesson 10's checks."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.adapters.adapter import LowRank
from copra_lab.exercises import Exercise, Mistake
from copra_lab.models.loading import load_clip
from copra_lab.tasks.emoji.selection import digits
from copra_lab.zoo import shipped

# --- dealing a folder


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
    """1 where a file tests, (n,); each switch is a way to err."""
    test = torch.zeros(len(labels))
    every = labels if over == "class" else torch.zeros_like(labels)
    for label in every.unique():
        rows = (every == label).nonzero()[:, 0]
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
    """Sixty handwritten digits of four classes, of which one has three; every third file was copied, every sixth twice."""
    written = torch.tensor(digits()[1])
    rows = torch.cat([(written == c).nonzero()[:n, 0] for c, n in enumerate((21, 18, 18, 3))])
    labels = torch.cat([written[rows], written[rows[::3]], written[rows[::6]]])
    content = torch.cat([torch.arange(60), torch.arange(0, 60, 3), torch.arange(0, 60, 6)])
    mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return (
        labels[mixed],
        content[mixed],
        torch.rand(len(labels), generator=torch.Generator().manual_seed(1)),
        0.15,
    )


def _torn(content: Tensor, test: Tensor) -> int:
    """Pictures that both train and test."""
    return sum(0 < float(test[content == c].mean()) < 1 for c in content.unique())


def _praise_deal(attempt: Callable) -> str:
    labels, content, u, share = _files()
    torn = _torn(content, _deal(labels, content, u, share, of="files"))
    return (
        f"Of {len(labels)} files with {len(content.unique())} different pictures, {_torn(content, attempt(labels, content, u, share))} are on both sides; "
        f"dealt file by file, {torn} pictures would be asked about that were learned from."
    )


deal = Exercise(
    parts=("which files test",),
    solution=_deal,
    arguments=_files,
    praise=_praise_deal,
    mistakes={
        "files": Mistake({"of": "files"}, "You dealt files: equal pictures came to lie on both sides, and the test asks about pictures that were learned."),
        "share of files": Mistake({"of": "count"}, "The share was taken of a class's files, copies counted: take it of its different pictures."),
        "whole folder": Mistake({"over": "all"}, "The share was taken of the whole folder: a class may get too much of it or nothing. Take it class by class."),
        "the other end": Mistake({"end": "high"}, "You took the pictures with the largest numbers: those with the smallest come first."),
        "none": Mistake({"least": 0}, "A small class has no test picture at all: its share was rounded to nothing."),
    },
)  # fmt: skip


# --- several adapters as one, for peft


@cache
def _pairs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One matrix of three shipped adapters: A (3, r, in), B (3, out, r), made to have different scales, and weights."""
    found: list[LowRank] = [
        s.load(load_clip()).deltas["vision_model.encoder.layers.6.self_attn.v_proj"]
        for s in shipped("digits")[:3]
    ]
    return (
        torch.stack([d.A for d in found]),
        torch.stack([d.scale * d.B for d in found]),
        torch.tensor([2.0, 0.5, 1.0]),
        torch.tensor([0.5, 0.3, 0.2]),
    )


def _stacked(
    A: Tensor, B: Tensor, scales: Tensor, weights: Tensor, *,
    scaled: bool = True, weighed: str = "B", way: str = "stacked",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    s = (scales if scaled else torch.ones_like(scales))[:, None, None]
    w = weights[:, None, None]
    a = A * (w if weighed == "A" else 1)
    b = s * B * (w if weighed == "B" else 1)
    if way == "averaged":
        return (w * A).sum(0), b.sum(0)
    if way == "reshaped":
        return a.flatten(0, 1), b.reshape(b.shape[1], -1)
    return a.flatten(0, 1), b.transpose(0, 1).flatten(1)


def _praise_stacked(attempt: Callable) -> str:
    A, B, scales, weights = _pairs()
    a, b = attempt(A, B, scales, weights)
    wanted = ((weights * scales)[:, None, None] * (B @ A)).sum(0)
    return f"{len(A)} of rank {A.shape[1]} are one of rank {len(a)}; its product differs from the sum of theirs by {float((b @ a - wanted).abs().max()):.0e} at most."


stacked = Exercise(
    parts=("A", "B"),
    solution=_stacked,
    arguments=_pairs,
    praise=_praise_stacked,
    atol=1e-6,
    mistakes={
        "averaged": Mistake({"way": "averaged"}, "You averaged A and B: the product of averages is not the average of products (lesson 3). Stack them."),
        "reshaped": Mistake({"way": "reshaped"}, "B was reshaped, not put side by side: its columns no longer meet their own rows of A."),
        "no scale": Mistake({"scaled": False}, "The adapters' own scales are missing from B."),
        "no weights": Mistake({"weighed": "no"}, "The weights are missing: this is the sum, not the average."),
        "weights in A": Mistake({"weighed": "A"}, "The weights are in A: they go into B alone, with the scales. In both, the product would have their squares."),
    },
)  # fmt: skip


# --- layers drawn once a step of the optimiser


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
    """1 where a layer is on, (n, layers); each switch is a way to err."""
    step = batches // accumulate
    p = {"step": step, "batch": batches}[clock] / (ramp * steps)
    drawn = u[{"step": step, "batch": batches}[row]]
    return ((drawn < p[:, None]) if on == "below" else (drawn >= p[:, None])).float()


def _batches() -> tuple[Tensor, int, int, Tensor]:
    """Sixteen steps of four batches each, and numbers enough for every batch."""
    return torch.arange(64), 4, 16, torch.rand(64, 12, generator=torch.Generator().manual_seed(0))


def _praise_switches(attempt: Callable) -> str:
    batches, accumulate, steps, u = _batches()
    step_by_step = attempt(batches, accumulate, steps, u).view(steps, accumulate, -1)
    each = _switches(batches, accumulate, steps, u, row="batch").view(steps, accumulate, -1)
    share = 100 * float((each != each[:, :1]).any(1).double().mean())
    return (
        f"The batches of a step agree in {100 * float((step_by_step == step_by_step[:, :1]).all(1).double().mean()):.0f} % of the switches; drawn anew for "
        f"each batch, a layer would be neither on nor off in {share:.0f} %."
    )


switches = Exercise(
    parts=("which layers are on",),
    solution=_switches,
    arguments=_batches,
    praise=_praise_switches,
    mistakes={
        "each batch": Mistake({"row": "batch"}, "Every batch has its own draw: those of one step must share it, or the step's gradient mixes several sets of layers."),
        "batches as steps": Mistake({"clock": "batch"}, "p rises with the batches: it should rise with the steps of the optimiser."),
        "no cooldown": Mistake({"ramp": 1.0}, "p reaches 1 only at the very end: it should do so after three quarters of the steps."),
        "upside down": Mistake({"on": "above"}, "On and off are the wrong way round: at first nearly all layers should be off."),
    },
)  # fmt: skip
