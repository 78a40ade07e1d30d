"""The check of lesson 1."""

from collections.abc import Callable, Sequence
from functools import cache

import torch.nn.functional as F
from torch import Tensor

from copra_lab.exercises import NONE, Exercise, Mistakes
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.tasks.task import load_task
from copra_lab.utils.statistics import Accuracy


@cache
def _encoded(clip: Clip, images: Tensor, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    tokens = clip.tokenizer(list(texts))
    return clip.model.encode_image(clip.pixels(images)), clip.model.encode_text(tokens)


def _zero_shot(
    clip: Clip, images: Tensor, names: Sequence[str], template: str, made: Mistakes = NONE
) -> tuple[Tensor, Tensor]:
    """Zero-shot probabilities (n, k) and predictions (n,)."""
    texts = tuple(names if "bare" in made else map(template.format, names))
    x, t = _encoded(clip, images, texts)
    axis = made.pick(-1, along_batch=0)
    if not made & {"raw", "raw_images"}:
        x = F.normalize(x, dim=axis)
    if not made & {"raw", "raw_texts"}:
        t = F.normalize(t, dim=axis)
    scale = made.pick(clip.logit_scale, unscaled=1.0, log_scale=clip.model.logit_scale)
    logits = x @ t.T * scale
    if "transposed" in made:
        logits = logits.T
    p = logits if "logits" in made else logits.softmax(made.pick(-1, over_images=0, transposed=0))
    return p, made.pick(p, least=-p).argmax(made.pick(-1, per_name=0, transposed=0))


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
        "bare": "The names went in bare: put each into `template` first.",
        "raw": "These are dot products, not cosines: neither side was scaled to length 1.",
        "raw_images": "The texts' features have length 1, the images' do not: a cosine needs both.",
        "raw_texts": "The images' features have length 1, the texts' do not: a cosine needs both.",
        "along_batch": "Features were normalised along the batch: give each row length 1.",
        "unscaled": "The softmax came out almost flat: multiply the cosines by the learned scale.",
        "log_scale": "`clip.model.logit_scale` is the scale's logarithm: use `clip.logit_scale`.",
        "over_images": "The softmax ran over the images: each row should sum to 1, not columns.",
        "logits": "These are logits: turn them into probabilities.",
        "least": "The predictions are the least likely names: take the largest value.",
        "per_name": "There is one prediction per name: find the best name for each image.",
        "transposed": "Your table has one row per text: it should have one row per image.",
    },
)
