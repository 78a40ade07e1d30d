"""Which trainings advance together, and what they become."""

from collections.abc import Sequence

import torch

from copra_lab.engine.extraction import plain_tower
from copra_lab.engine.transformer import Tower
from copra_lab.methods.lora import LoRA
from copra_lab.models.clip import Clip
from copra_lab.training.base import Group
from copra_lab.training.jobs import Job
from copra_lab.training.joint import JointLoRA, LoRARun
from copra_lab.training.lora import LoRATraining
from copra_lab.training.prompt import PromptTraining
from copra_lab.utils.devices import Process

RANK = 16
"""Runs up to this rank go together: A and B are padded to the widest of a group, which up to here
costs less than the runs save together."""

IMAGES = {"cpu": 64, "cuda": 1024}
"""Images that advance together: beyond, a processor gets no faster, and memory grows."""


def grouped(
    clip: Clip, jobs: Sequence[Job], process: Process, most: int | None = None
) -> list[list[int]]:
    """Group jobs that can advance together.

    They can if they train LoRA on the image tower of a plain ViT, with as many steps and images a
    step; whatever their tasks, matrices, droppings and rates are, and their ranks up to `RANK`.
    Higher ranks, from 17 to 32, from 33 to 64 and so on, go with each other. Any other job is
    alone.

    Args:
        clip: The model.
        jobs: What is to be trained.
        process: The device.
        most: How many advance together at most; None for as many as is fast.

    Returns:
        Numbers of jobs, in groups; in the order of the first of each.
    """
    groups: dict[object, list[list[int]]] = {}
    order: list[list[int]] = []
    for j, job in enumerate(jobs):
        s = job.complete
        key: object = j
        if _tower(clip, job) is not None:
            assert isinstance(job.method, LoRA)
            wide = (max(RANK, job.method.rank) - 1).bit_length()
            key = (s.steps, s.batch, s.precision, wide)
        size = most or max(1, IMAGES.get(process.device.type, 64) // s.batch)
        mine = groups.setdefault(key, [])
        if not mine or len(mine[-1]) == size:
            mine.append([])
            order.append(mine[-1])
        mine[-1].append(j)
    return order


def build(clip: Clip, jobs: Sequence[Job], process: Process) -> Group:
    """The trainings of a group, before their first step.

    Raises:
        ValueError: For bfloat16 where the tower does not allow it.
    """
    first = jobs[0]
    if tower := _tower(clip, first):
        return JointLoRA(clip, tower, [_run(job) for job in jobs], process)
    if isinstance(first.method, LoRA):
        if first.complete.precision == "bfloat16":
            raise ValueError(
                "bfloat16 training needs a plain ViT, and no LoRA on texts; choose float32"
            )
        return LoRATraining(clip, first.task, first.method, first.dropping, first.complete, process)
    return PromptTraining(
        clip, first.task, first.method, first.penalty, first.adapter, first.complete, process
    )


def _tower(clip: Clip, job: Job) -> Tower | None:
    """The tower that a job shares with others; None where it must be alone."""
    method = job.method
    if not isinstance(method, LoRA) or method.towers != ("vision",):
        return None
    # a variant that trains other parameters than A and B says so in its `attach`
    if type(method).attach is not LoRA.attach:
        return None
    return plain_tower(clip.model.visual, getattr(torch, job.complete.precision))


def _run(job: Job) -> LoRARun:
    assert isinstance(job.method, LoRA)
    return LoRARun(job.task, job.method, job.dropping, job.complete)
