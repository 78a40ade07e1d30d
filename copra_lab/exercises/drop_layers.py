"""The checks of lesson 4."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from copra_lab.exercises import NONE, Exercise, Mistakes, Passed
from copra_lab.exercises.material import seeded
from copra_lab.models.loading import load_clip
from copra_lab.tasks.task import load_task
from copra_lab.training.dropping import CopRA

# --- the schedule


def _schedule(step: Tensor, steps: int, start: float, ramp: float, made: Mistakes = NONE) -> Tensor:
    """The probability p at each of the steps (n,)."""
    x = step / (steps * made.pick(ramp, no_ramp=1.0, other_share=1 - ramp))
    if "beyond_1" not in made:
        x = x.clamp(max=1)
    if "falls" in made:
        x = 1 - x
    return made.pick(
        start + (1 - start) * x,
        steep=(start + x).clamp(max=1),
        waits=x.clamp(min=start),
        no_start=x,
    )


def _praise_schedule(attempt: Callable) -> str:
    off = max(
        abs(float(attempt(torch.tensor([float(t)]), 1200, start, ramp)) - p(t, 1200))
        for start, ramp in ((0.0, 0.75), (0.1, 0.75), (0.3, 1.0))
        for p in [CopRA(start=start, ramp=ramp).probability]
        for t in range(0, 1200, 50)
    )
    return (
        "That is the schedule. Over three settings of 1,200 steps it differs from the library's "
        f"by at most {off:.0e}."
    )


schedule = Exercise(
    parts=("p",),
    solution=_schedule,
    arguments=lambda: (torch.arange(0.0, 400, 40), 400, 0.1, 0.6),
    praise=_praise_schedule,
    mistakes={
        "no_ramp": "p is still rising when training ends: `ramp` was not used.",
        "other_share": "p reaches 1 too early: you divided by the share of steps that comes "
        "*after* the ramp.",
        "beyond_1": "p keeps rising beyond 1, where it is no longer a probability.",
        "steep": "p begins at `start` but rises as steeply as from 0: it reaches 1 too early.",
        "waits": "p waits at `start`: it should rise from the first step on.",
        "no_start": "p begins at 0, whatever `start` says.",
        "falls": "Your p falls: it is the probability that a layer is off.",
    },
)


# --- the draw


def _draw(p: Tensor, least: int, u: Tensor, made: Mistakes = NONE) -> Tensor:
    """Which layers are on (steps, layers), from uniform u (steps, tries, layers)."""
    if "one_number" in made:
        u = u[:, :, :1].expand_as(u)
    on = u < p[:, None, None]
    if "off" in made:
        on = ~on
    enough = on.sum(-1) >= made.pick(least, more_than_least=least + 1)
    rows = made.pick(enough.int().argmax(1), first_row=0, by_hand=0, last_row=u.shape[1] - 1)
    out = on[torch.arange(len(u)), rows].float()
    if "by_hand" in made:
        out[~enough[:, 0], 0] = 1
    return out / p[:, None] if "rescaled" in made else out


def _uniform() -> tuple[Tensor, int, Tensor]:
    """Probabilities for 24 steps, and forty rows of numbers a step, so that one has enough on."""
    return torch.linspace(0.1, 0.6, 24), 2, torch.rand(24, 40, 12, generator=seeded(4))


def _praise_draw(attempt: Callable) -> str:
    u = torch.rand(2000, 60, 12, generator=seeded(0))
    p = 0.1
    kept = attempt(torch.full((2000,), p), 1, u).float().mean()
    return (
        f"That is the draw. With p = {p} and at least one layer on, {100 * kept:.1f} % of the "
        "layers are on: drawing again raises the share above p."
    )


draw = Exercise(
    parts=("on",),
    solution=_draw,
    arguments=_uniform,
    praise=_praise_draw,
    mistakes={
        "off": "Layers are on too often early: your p acts as the probability to be off.",
        "one_number": "Your layers are all on or all off: they share one number, but each needs "
        "its own.",
        "first_row": "Some steps have fewer than `least` layers on: you took the first row anyway.",
        "last_row": "You took the last row of numbers: stop at the first that has enough on.",
        "more_than_least": "Rows with exactly `least` layers on were passed over: they have "
        "enough.",
        "by_hand": "Where too few were on, layer 0 was switched on by hand, so it trains more than "
        "the others: take a new row instead.",
        "rescaled": "Layers that are on count 1/p: that is dropout's rescaling, but here a layer "
        "is just on or off.",
    },
)


# --- the loop


class _Training(Exercise):
    """An exercise whose attempt needs gradients."""

    def __call__(self, attempt: Callable) -> Passed:
        return super().__call__(torch.enable_grad()(attempt) if callable(attempt) else attempt)


@cache
def _digits() -> tuple[Tensor, Tensor, Tensor]:
    """Scaled image features, text features and labels of some of the digits."""
    clip, task = load_clip(), load_task("digits")
    few = task.train.pick(range(0, len(task.train), 3))
    images = clip.logit_scale * clip.image_features(few.images).clone()
    return images, clip.text_features(task.prompts).clone(), few.labels


def _loss(layers: Sequence[Tensor | None]) -> Tensor:
    """Cross-entropy after a row of layers that stretch the image features; None is no layer."""
    x, text, labels = _digits()
    for layer in layers:
        x = x if layer is None else x * (1 + layer)
    return F.cross_entropy(x @ text.T, labels)


@torch.enable_grad()
def _train(start: Tensor, masks: Tensor, loss_of: Callable, made: Mistakes = NONE) -> Tensor:
    """Layers (n, d) after training with AdamW; masks (steps, n) say which layers are on."""
    layers = [torch.nn.Parameter(x.clone()) for x in start]
    optimiser = torch.optim.AdamW(layers, lr=0.02, weight_decay=0.1)
    for row in ~masks if "inverted" in made else masks:
        if not row.any():
            if "stops" in made:
                break
            continue
        on = torch.ones_like(row) if "unmasked" in made else row
        if "not_cleared" not in made:
            optimiser.zero_grad()
        if "reset" in made:
            for layer, is_on in zip(layers, on, strict=True):
                layer.data *= is_on
        absent = made.pick(lambda x: None, zero=lambda x: x * 0)
        used = [x if is_on else absent(x) for x, is_on in zip(layers, on, strict=True)]
        loss_of(used).backward()
        optimiser.step()
    return torch.stack([layer.detach() for layer in layers])


def _layers() -> tuple[Tensor, Tensor, Callable]:
    d = _digits()[0].shape[1]
    start = 0.1 * torch.randn(4, d, generator=seeded(0))
    masks = [[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]]
    return start, torch.tensor(masks, dtype=torch.bool), _loss


def _praise_train(attempt: Callable) -> str:
    start, _, loss_of = _layers()
    masks = torch.ones(6, 4, dtype=torch.bool)
    masks[:, 2] = False
    after = attempt(start, masks, loss_of)
    moved = ", ".join(f"{m:.3f}" for m in (after - start).abs().amax(1).tolist())
    return (
        "A layer that is off does not change: with layer 2 never on, the four layers moved by up "
        f"to {moved}."
    )


train = _Training(
    parts=("layers",),
    solution=_train,
    arguments=_layers,
    praise=_praise_train,
    atol=1e-3,
    mistakes={
        "zero": "Layers that were off have moved: multiplied by 0 they still get a gradient of "
        "zeros, and AdamW decays them and follows their momentum.",
        "not_cleared": "Gradients of earlier steps are still there and move layers that are off: "
        "clear them before each backward pass.",
        "unmasked": "Every layer learned in every step: the masks were not used.",
        "inverted": "Layers that should be off were on, and those that should be on were off.",
        "stops": "Training stopped at the first step with no layer on: there were steps after it.",
        "reset": "Layers that were off lost what they had learned: they are off for one step only.",
    },
)
