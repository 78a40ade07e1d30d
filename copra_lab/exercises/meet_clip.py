"""The check of lesson 1."""

from collections.abc import Callable, Sequence
from functools import cache

import torch.nn.functional as F
from torch import Tensor

from copra_lab.exercises import Exercise
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.tasks.task import load_task
from copra_lab.utils.statistics import Accuracy


@cache
def _encoded(clip: Clip, images: Tensor, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    tokens = clip.tokenizer(list(texts))
    return clip.model.encode_image(clip.pixels(images)), clip.model.encode_text(tokens)


def _zero_shot(
    clip: Clip,
    images: Tensor,
    names: Sequence[str],
    template: str,
    *,
    fill: bool = True,
    unit: str = "both",
    unit_dim: int = -1,
    scale: str = "exp",
    softmax_dim: int | None = -1,
    pick: str = "max",
    pick_dim: int = -1,
    flip: bool = False,
) -> tuple[Tensor, Tensor]:
    """Zero-shot probabilities (n, k) and predictions (n,); each switch is a mistake."""
    x, t = _encoded(clip, images, tuple(template.format(name) if fill else name for name in names))
    x = F.normalize(x, dim=unit_dim) if unit in ("both", "images") else x
    t = F.normalize(t, dim=unit_dim) if unit in ("both", "texts") else t
    logits = x @ t.T * {"exp": clip.logit_scale, "log": clip.model.logit_scale, "none": 1.0}[scale]
    logits = logits.T if flip else logits
    p = logits if softmax_dim is None else logits.softmax(softmax_dim)
    return p, (p if pick == "max" else -p).argmax(pick_dim)


def _example() -> tuple[Clip, Tensor, tuple[str, ...], str]:
    task, template = load_task("novel-kinds"), "an emoji of a {}"  # not the task's own template
    return load_clip(), task.test.images[::26][:12], task.classes, template


def _praise(attempt: Callable) -> str:
    clip, task = load_clip(), load_task("novel-kinds")
    _, predicted = attempt(clip, task.test.images, task.classes, task.template)
    score = Accuracy(int((predicted == task.test.labels).sum()), len(task.test))
    return (
        "That is zero-shot classification. "
        f"On all test drawings of the task your function scores {score}."
    )


zero_shot = Exercise(
    parts=("probabilities", "predictions"),
    solution=_zero_shot,
    arguments=_example,
    praise=_praise,
    mistakes={
        "The names went in bare: put each into `template` first.": {"fill": False},
        "These are dot products of features as the towers return them, not cosines: neither side "
        "was scaled to length 1.": {"unit": "none"},
        "The texts' features have length 1, the images' do not: a cosine needs both.": {
            "unit": "texts"
        },
        "The images' features have length 1, the texts' do not: a cosine needs both.": {
            "unit": "images"
        },
        "The features were normalised along the batch: each row should have length 1, not each "
        "column.": {"unit_dim": 0},
        "The softmax came out almost flat: multiply the cosines by the learned scale.": {
            "scale": "none"
        },
        "`clip.model.logit_scale` is the logarithm of the scale; `clip.logit_scale` is the scale "
        "itself.": {"scale": "log"},
        "The softmax ran over the images, so each column sums to 1: each image's probabilities "
        "should sum to 1.": {"softmax_dim": 0},
        "These are logits: turn them into probabilities.": {"softmax_dim": None},
        "The predictions are the least likely names: take the largest value, not the smallest.": {
            "pick": "min"
        },
        "There is one prediction per name: argmax ran over the images, but should find a name for "
        "each image.": {"pick_dim": 0},
        "Your table has one row per text: it should have one row per image.": {
            "flip": True,
            "softmax_dim": 0,
            "pick_dim": 0,
        },
    },
)
