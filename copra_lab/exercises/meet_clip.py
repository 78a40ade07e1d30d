"""Lesson 1's check."""

from collections.abc import Callable, Sequence
from functools import cache

import torch.nn.functional as F
from torch import Tensor

from copra_lab.exercises import Exercise, Mistake
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.tasks.task import load_task
from copra_lab.utils.statistics import Accuracy


@cache
def _encoded(clip: Clip, images: Tensor, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    return clip.model.encode_image(clip.pixels(images)), clip.model.encode_text(
        clip.tokenizer(list(texts))
    )


def _zero_shot(
    clip: Clip, images: Tensor, names: Sequence[str], template: str, *,
    fill: bool = True, unit: str = "both", unit_dim: int = -1, scale: str = "exp", softmax_dim: int | None = -1, pick: str = "max", pick_dim: int = -1,
    flip: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Zero-shot probabilities (n, k) and predictions (n,); each switch is a way to err."""
    x, t = _encoded(clip, images, tuple(template.format(name) if fill else name for name in names))
    x = F.normalize(x, dim=unit_dim) if unit in ("both", "images") else x
    t = F.normalize(t, dim=unit_dim) if unit in ("both", "texts") else t
    logits = x @ t.T * {"exp": clip.logit_scale, "log": clip.model.logit_scale, "none": 1.0}[scale]
    logits = logits.T if flip else logits
    p = logits if softmax_dim is None else logits.softmax(softmax_dim)
    return p, (p if pick == "max" else -p).argmax(pick_dim)


def _example() -> tuple[Clip, Tensor, tuple[str, ...], str]:
    task = load_task("novel-kinds")
    return (
        load_clip(),
        task.test.images[::26][:12],
        task.classes,
        "an emoji of a {}",
    )  # not the task's own template


def _praise(attempt: Callable) -> str:
    clip, task = load_clip(), load_task("novel-kinds")
    _, predicted = attempt(clip, task.test.images, task.classes, task.template)
    score = Accuracy(int((predicted == task.test.labels).sum()), len(task.test))
    return f"That is zero-shot classification. On all test drawings of the task your function scores {score}."


zero_shot = Exercise(
    parts=("probabilities", "predictions"),
    solution=_zero_shot,
    arguments=_example,
    praise=_praise,
    mistakes={
        "no template": Mistake({"fill": False}, "The names went in bare: put each into `template` first."),
        "not normalised": Mistake({"unit": "none"}, "These are dot products of features as they come from the towers, not cosines: neither side has length 1."),
        "images not normalised": Mistake({"unit": "texts"}, "The texts' features have length 1, the images' do not: a cosine needs both."),
        "texts not normalised": Mistake({"unit": "images"}, "The images' features have length 1, the texts' do not: a cosine needs both."),
        "normalised over the batch": Mistake({"unit_dim": 0}, "The features were normalised down the batch: each row should have length 1, not each column."),
        "no scale": Mistake({"scale": "none"}, "The softmax came out almost flat: the cosines were not multiplied by the learned scale."),
        "scale not exponentiated": Mistake({"scale": "log"}, "`clip.model.logit_scale` is the logarithm of the scale: `clip.logit_scale` is the scale."),
        "softmax over images": Mistake({"softmax_dim": 0}, "The softmax ran over the images: the columns sum to 1, but each image should share its 1 among the names."),
        "no softmax": Mistake({"softmax_dim": None}, "These are logits: turn them into probabilities."),
        "argmin": Mistake({"pick": "min"}, "The predictions are the least likely names: you took the smallest where the largest was asked."),
        "argmax over images": Mistake({"pick_dim": 0}, "The predictions have an entry a name: argmax ran over the images, and should find a name for each image."),
        "texts by images": Mistake({"flip": True, "softmax_dim": 0, "pick_dim": 0}, "Your table has a row a text: it should have a row an image."),
    },
)  # fmt: skip
