"""The checks of lesson 4."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from copra_lab.exercises import Exercise, Passed
from copra_lab.models.loading import load_clip
from copra_lab.tasks.task import load_task
from copra_lab.training.dropping import CopRA

# --- the schedule


def _schedule(
    step: Tensor,
    steps: int,
    start: float,
    ramp: float,
    *,
    over: str = "share",
    clip: bool = True,
    begin: str = "between",
    flip: bool = False,
) -> Tensor:
    """The probability p at each of the steps (n,); each switch is a mistake."""
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
        "p is still rising when training ends: `ramp` was not used.": {"over": "all"},
        "p reaches 1 too early: you divided by the share of steps that comes *after* the ramp.": {
            "over": "rest"
        },
        "p keeps rising beyond 1, where it is no longer a probability.": {"clip": False},
        "p begins at `start` but rises as steeply as from 0, so it reaches 1 too early.": {
            "begin": "added"
        },
        "p waits at `start` until the line from 0 has caught up: it should rise from the first "
        "step on.": {"begin": "at least"},
        "p begins at 0, whatever `start` says.": {"begin": "ignored"},
        "Your p falls: it is the probability that a layer is off.": {"flip": True},
    },
)


# --- the draw


def _draw(
    p: Tensor,
    least: int,
    u: Tensor,
    *,
    compare: str = "below",
    coin: str = "layer",
    retry: str = "first",
    strict: bool = False,
    scale: bool = False,
) -> Tensor:
    """Which layers are on (steps, layers), from uniform u (steps, tries, layers)."""
    u = u[:, :, :1].expand_as(u) if coin == "step" else u
    on = (u < p[:, None, None]) if compare == "below" else (u >= p[:, None, None])
    enough = on.sum(-1) > least if strict else on.sum(-1) >= least
    chosen = torch.zeros(len(u), dtype=torch.int64)
    if retry == "first":
        chosen = enough.int().argmax(1)
    elif retry == "last":
        chosen = torch.full((len(u),), u.shape[1] - 1)
    out = on[torch.arange(len(u)), chosen].float()
    if retry == "force":
        out[:, 0] = torch.where(enough[:, 0], out[:, 0], torch.ones(len(u)))
    return out / p[:, None] if scale else out


def _uniform() -> tuple[Tensor, int, Tensor]:
    """Probabilities for 24 steps, and forty rows of numbers a step, so that one has enough on."""
    u = torch.rand(24, 40, 12, generator=torch.Generator().manual_seed(4))
    return torch.linspace(0.1, 0.6, 24), 2, u


def _praise_draw(attempt: Callable) -> str:
    u = torch.rand(2000, 60, 12, generator=torch.Generator().manual_seed(0))
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
        "Layers are on too rarely late and too often early: your p acts as the probability to be "
        "off.": {"compare": "above"},
        "In each step your layers are all on or all off: they share one number, but each needs its "
        "own.": {"coin": "step"},
        "Some steps have fewer than `least` layers on: you took the first row although it had too "
        "few.": {"retry": "none"},
        "Your layers are those of the last row of numbers: stop at the first row that has enough "
        "on.": {"retry": "last"},
        "Rows with exactly `least` layers on were passed over: they have enough.": {"strict": True},
        "Where too few layers were on, layer 0 was switched on by hand, so it trains more than the "
        "others: take a new row instead.": {"retry": "force"},
        "Layers that are on count 1/p: that is dropout's rescaling, but here a layer is just on or "
        "off.": {"scale": True},
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
def _train(
    start: Tensor,
    masks: Tensor,
    loss_of: Callable,
    lr: float = 0.02,
    *,
    off: str = "absent",
    clear: bool = True,
    empty: str = "skip",
    flip: bool = False,
    mask: bool = True,
) -> Tensor:
    """Layers (n, d) after training with AdamW; masks (steps, n) say which layers are on."""
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
        pairs = list(zip(layers, on, strict=True))
        if off == "reset":
            with torch.no_grad():
                for layer, is_on in pairs:
                    layer.mul_(float(is_on))
        absent = (lambda x: x * 0) if off == "zero" else (lambda x: None)
        loss_of([layer if is_on else absent(layer) for layer, is_on in pairs]).backward()
        optimiser.step()
    return torch.stack([layer.detach() for layer in layers])


def _layers() -> tuple[Tensor, Tensor, Callable]:
    d = _digits()[0].shape[1]
    start = 0.1 * torch.randn(4, d, generator=torch.Generator().manual_seed(0))
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
        "Layers that were off have moved: multiplied by 0 they still get a gradient of zeros, and "
        "AdamW decays them and follows their momentum.": {"off": "zero"},
        "Gradients of earlier steps are still there and move layers that are off: clear them "
        "before each backward pass.": {"clear": False},
        "Every layer learned in every step: the masks were not used.": {"mask": False},
        "The layers that should be off were on, and those that should be on were off.": {
            "flip": True
        },
        "Training stopped at the first step with no layer on: there were steps after it.": {
            "empty": "stop"
        },
        "Layers that were off have lost what they had learned: a layer is off for one step only.": {
            "off": "reset"
        },
    },
)
