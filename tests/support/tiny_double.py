"""A tiny CLIP and its tasks in float64, in which rounding cannot hide an error."""

import copy
from dataclasses import fields

from tiny import tiny_clip, tiny_task

from copra_lab.models import Clip
from copra_lab.tasks import Task


class DoubleClip(Clip):
    def pixels(self, images):
        return super().pixels(images).double()


def double_clip() -> Clip:
    clip = tiny_clip()
    parts = {f.name: getattr(clip, f.name) for f in fields(clip)}
    return DoubleClip(**parts | {"model": copy.deepcopy(clip.model).double()})


class DoubleTask(Task):
    def augment(self, images, generator):
        return super().augment(images.float(), generator).double()


def double_task(seed: int = 0, classes: int = 4) -> Task:
    task = tiny_task(seed=seed, classes=classes)
    return DoubleTask(**{f.name: getattr(task, f.name) for f in fields(task) if f.init})
