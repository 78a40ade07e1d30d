"""Lesson 4's checks."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from copra_lab.exercises import Exercise, Mistake, Passed
from copra_lab.models.loading import load_clip
from copra_lab.tasks.task import load_task
from copra_lab.training.dropping import CopRA

# --- the schedule


def _schedule(
    step: Tensor, steps: int, start: float, ramp: float, *,
    over: str = "share", clip: bool = True, begin: str = "between", flip: bool = False,
) -> Tensor:  # fmt: skip
    """p at each of the steps (n,); each switch is a way to err."""
    x = step / (steps * {"share": ramp, "all": 1.0, "rest": 1 - ramp}[over])
    x = x.clamp(max=1) if clip else x
    x = 1 - x if flip else x
    return {
        "between": start + (1 - start) * x,
        "added": (start + x).clamp(max=1),
        "at least": x.clamp(min=start),
        "ignored": x,
    }[begin]


def _praise_schedule(attempt: Callable) -> str:
    off = max(
        abs(
            float(attempt(torch.tensor([float(t)]), 1200, start, ramp))
            - CopRA(start=start, ramp=ramp).probability(t, 1200)
        )
        for start, ramp in ((0.0, 0.75), (0.1, 0.75), (0.3, 1.0))
        for t in range(0, 1200, 50)
    )
    return f"That is the schedule. Against the library's, over three settings of 1,200 steps, the largest difference is {off:.0e}."


schedule = Exercise(
    parts=("p",),
    solution=_schedule,
    arguments=lambda: (torch.arange(0.0, 400, 40), 400, 0.1, 0.6),
    praise=_praise_schedule,
    mistakes={
        "over all steps": Mistake({"over": "all"}, "p is still rising when the training ends: `ramp` was not used."),
        "over the rest": Mistake({"over": "rest"}, "p arrives too soon: you divided by the share of steps that comes *after* the rise."),
        "no end": Mistake({"clip": False}, "p goes on rising beyond 1, and is no probability there."),
        "start added": Mistake({"begin": "added"}, "p begins at `start` but rises as steeply as from 0, and so arrives too soon."),
        "start as a floor": Mistake({"begin": "at least"}, "p waits at `start` until the line from 0 has caught up: it should rise from the first step on."),
        "start ignored": Mistake({"begin": "ignored"}, "p begins at 0, whatever `start` says."),
        "falling": Mistake({"flip": True}, "Your p falls: it is the probability to be off."),
    },
)  # fmt: skip


# --- the draw


def _draw(p: Tensor, least: int, u: Tensor, *, compare: str = "below", coin: str = "layer", retry: str = "first", strict: bool = False,
          scale: bool = False) -> Tensor:  # fmt: skip
    """Which layers are on (steps, layers), from uniform numbers u (steps, tries, layers); each switch is a way to err."""
    u = u[:, :, :1].expand_as(u) if coin == "step" else u
    on = (u < p[:, None, None]) if compare == "below" else (u >= p[:, None, None])
    enough = on.sum(-1) > least if strict else on.sum(-1) >= least
    chosen = {"first": enough.int().argmax(1), "last": torch.full((len(u),), u.shape[1] - 1)}.get(
        retry, torch.zeros(len(u), dtype=torch.int64)
    )
    out = on[torch.arange(len(u)), chosen].float()
    if retry == "force":
        out[:, 0] = torch.where(enough[:, 0], out[:, 0], torch.ones(len(u)))
    return out / p[:, None] if scale else out


def _uniform() -> tuple[Tensor, int, Tensor]:
    """Probabilities of 24 steps, and forty rows of numbers a step, so that one row has enough on."""
    u = torch.rand(24, 40, 12, generator=torch.Generator().manual_seed(4))
    return torch.linspace(0.1, 0.6, 24), 2, u


def _praise_draw(attempt: Callable) -> str:
    u = torch.rand(2000, 60, 12, generator=torch.Generator().manual_seed(0))
    p = 0.1
    kept = attempt(torch.full((2000,), p), 1, u).float().mean()
    return f"That is the draw. With p = {p} and one layer at least, {100 * kept:.1f} % of the layers are on: redrawing bends the measure away from p."


draw = Exercise(
    parts=("on",),
    solution=_draw,
    arguments=_uniform,
    praise=_praise_draw,
    mistakes={
        "off with p": Mistake({"compare": "above"}, "A layer is on too rarely late and too often early: p came out as the probability to be off."),
        "one coin": Mistake({"coin": "step"}, "In each step your layers are all on or all off: they share one number where each should have its own."),
        "no redraw": Mistake({"retry": "none"}, "Some steps have fewer than `least` layers on: the first row was taken though it had too few."),
        "the last row": Mistake({"retry": "last"}, "Your layers are those of the last row of numbers: stop at the first that has enough on."),
        "more than least": Mistake({"strict": True}, "Rows with exactly `least` layers on were passed over."),
        "forced": Mistake({"retry": "force"}, "Where too few were on, layer 0 was switched on by hand: then it trains more than the others. Take a new row."),
        "rescaled": Mistake({"scale": True}, "What is on counts 1/p: that is dropout's rescaling, and here a layer is on or off."),
    },
)  # fmt: skip


# --- the loop


class _Training(Exercise):
    """One whose attempt needs gradients."""

    def __call__(self, attempt: Callable) -> Passed:
        return super().__call__(torch.enable_grad()(attempt) if callable(attempt) else attempt)


@cache
def _digits() -> tuple[Tensor, Tensor, Tensor]:
    clip, task = load_clip(), load_task("digits")
    few = task.train.pick(range(0, len(task.train), 3))
    return (
        clip.logit_scale * clip.image_features(few.images).clone(),
        clip.text_features(task.prompts).clone(),
        few.labels,
    )


def _loss(parts: Sequence[Tensor | None]) -> Tensor:
    """Cross-entropy of real image features that pass a row of stretching layers; None is a layer that is not there."""
    x, text, labels = _digits()
    for part in parts:
        x = x if part is None else x * (1 + part)
    return F.cross_entropy(x @ text.T, labels)


@torch.enable_grad()
def _train(start: Tensor, masks: Tensor, loss_of: Callable, lr: float = 0.02, *, off: str = "absent", clear: bool = True, empty: str = "skip",
           flip: bool = False, mask: bool = True) -> Tensor:  # fmt: skip
    """Layers (n, d) after a training with AdamW in which masks (steps, n) say what is on; each switch is a way to err."""
    layers = [torch.nn.Parameter(x.clone()) for x in start]
    optimiser = torch.optim.AdamW(layers, lr=lr, weight_decay=0.1)
    for row in masks.tolist():
        on = [not r for r in row] if flip else row if mask or not any(row) else [True] * len(row)
        if not any(on):
            if empty == "stop":
                break
            continue
        if clear:
            optimiser.zero_grad()
        if off == "reset":
            with torch.no_grad():
                for layer, is_on in zip(layers, on, strict=True):
                    layer.mul_(float(is_on))
        loss_of(
            [
                layer if is_on else layer * 0 if off == "zero" else None
                for layer, is_on in zip(layers, on, strict=True)
            ]
        ).backward()
        optimiser.step()
    return torch.stack([layer.detach() for layer in layers])


def _layers() -> tuple[Tensor, Tensor, Callable]:
    d = _digits()[0].shape[1]
    start = 0.1 * torch.randn(4, d, generator=torch.Generator().manual_seed(0))
    masks = torch.tensor(
        [[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]],
        dtype=torch.bool,
    )
    return start, masks, _loss


def _praise_train(attempt: Callable) -> str:
    start, _, loss_of = _layers()
    masks = torch.ones(6, 4, dtype=torch.bool)
    masks[:, 2] = False
    after = attempt(start, masks, loss_of)
    moved = (after - start).abs().amax(1)
    return f"A layer that is off stays where it is: with layer 2 never on, the four layers moved by up to {', '.join(f'{m:.3f}' for m in moved.tolist())}."


train = _Training(
    parts=("layers",),
    solution=_train,
    arguments=_layers,
    praise=_praise_train,
    atol=1e-3,
    mistakes={
        "multiplied by zero": Mistake({"off": "zero"}, "Layers that were off have moved: multiplied by 0 they still get a gradient, of zeros, and AdamW decays them and follows their momentum."),
        "not cleared": Mistake({"clear": False}, "Gradients of earlier steps are still there, and move layers that are off: clear them before each backward."),
        "mask ignored": Mistake({"mask": False}, "Every layer learned in every step: the masks were not used."),
        "mask inverted": Mistake({"flip": True}, "The layers that should be off were on, and those that should be on were off."),
        "stops at an empty draw": Mistake({"empty": "stop"}, "The training ended with the first step that had nothing on: there were steps after it."),
        "reset": Mistake({"off": "reset"}, "Layers that were off have lost what they had learned: off is for one step only."),
    },
)  # fmt: skip
