"""Which trainings advance together, and what they become."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any, Protocol

import torch

from copra_lab.adapters.adapter import Adapter
from copra_lab.engine.extraction import plain_tower
from copra_lab.engine.transformer import Tower
from copra_lab.methods.lora import LoRA
from copra_lab.methods.parametrisation import AdapterMethod
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import VPT, CoOp
from copra_lab.training.base import Group
from copra_lab.training.jobs import Job
from copra_lab.training.joint import JointLoRA, LoRARun
from copra_lab.training.lora import AdapterTraining
from copra_lab.training.prompt import JointPrompts
from copra_lab.training.settings import CompleteSettings
from copra_lab.utils.devices import Process

RANK = 16
"""Runs up to this rank go together: A and B are padded to the widest of a group, which up to here
costs less than the runs save together."""

IMAGES = {"cpu": 64, "cuda": 1024}
"""Images that advance together: beyond, a processor gets no faster, and memory grows. Soft
prompts beside patches (VPT) save a quarter of the time in batches of 8, a tenth in batches of 16,
and nothing beyond."""

TEXTS = {"cpu": 160, "cuda": 1024}
"""Class names beside CoOp's vectors that advance together: with ten classes sixteen runs, each in a
third of its time. Beyond, hardly anything is left to gain; images are no part of such a step. The
figure for GPUs is a guess, not measured."""


class Training(Protocol):
    """What decides who joins: of a `Job`, or of a plan of one whose task is not loaded yet."""

    @property
    def method(self) -> AdapterMethod | CoOp | VPT:
        """What is trained."""

    @property
    def complete(self) -> CompleteSettings:
        """How."""

    @property
    def adapter(self) -> Adapter | None:
        """What the CLIP has while a prompt is learned."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names, where they are known."""


def grouped(
    clip: Clip,
    jobs: Sequence[Training],
    device: str,
    most: int | None = None,
    workers: int = 1,
) -> list[list[int]]:
    """Group jobs that can advance together.

    They can with as many steps and images a step, whatever their seeds and rates are:

    - LoRA on the image tower of a plain ViT, whatever the tasks, matrices and droppings are, and
      the ranks up to `RANK`. Higher ranks, from 17 to 32, from 33 to 64 and so on, go with each
      other.
    - Soft prompts beside one adapter or none, whatever their penalties are: VPT of one length; CoOp
      of one number of vectors in the same place of the same class names.

    Any other job is alone.

    Args:
        clip: The model.
        jobs: What is to be trained.
        device: The type of device, as torch has it.
        most: How many advance together at most; None for as many as is fast.
        workers: How many groups are trained at the same time. No group is larger than the share
            of a worker, and all are of about one size, so that workers end together.

    Returns:
        Numbers of jobs, in groups; in the order of the first of each.
    """
    plain = cache(partial(_plain, clip))
    alike: dict[object, list[int]] = {}
    for j, job in enumerate(jobs):
        alike.setdefault(_in_common(clip, job, plain) or j, []).append(j)
    share = -(-len(jobs) // workers)
    groups: list[list[int]] = []
    for mine in alike.values():
        size = min(share, most or _most(jobs[mine[0]], device))
        groups += _parts(mine, size, workers)
    return sorted(groups)


def _in_common(
    clip: Clip, job: Training, plain: Callable[[str], Tower | None]
) -> tuple[object, ...]:
    """What the jobs of a group have in common; nothing for a job that must be alone."""
    method, s = job.method, job.complete
    if isinstance(method, VPT):
        return "vision", method.length, job.adapter, s.steps, s.batch
    if isinstance(method, CoOp):
        shape = (method.vectors(clip), method.position, method.class_specific)
        return (*shape, job.classes, job.adapter, s.steps, s.batch) if job.classes else ()
    if not (isinstance(method, LoRA) and _on_images(method)) or plain(s.precision) is None:
        return ()
    return s.steps, s.batch, s.precision, (max(RANK, method.rank) - 1).bit_length()


def _most(job: Training, device: str) -> int:
    """How many jobs like this one advance together."""
    if isinstance(job.method, CoOp) and job.classes:
        return max(1, TEXTS.get(device, TEXTS["cpu"]) // len(job.classes))
    return max(1, IMAGES.get(device, IMAGES["cpu"]) // job.complete.batch)


def _parts(members: Sequence[int], size: int, workers: int) -> list[list[int]]:
    """The members in parts of at most `size`, which differ by one at most.

    Where each worker gets several parts, all get the same number of them.
    """
    n = -(-len(members) // size)
    if n > workers:
        n = min(len(members), n + -n % workers)
    cuts = [i * len(members) // n for i in range(n + 1)]
    return [list(members[a:b]) for a, b in pairwise(cuts)]


def build(clip: Clip, jobs: Sequence[Job], process: Process) -> Group:
    """The trainings of a group, before their first step.

    Raises:
        ValueError: For bfloat16 where the tower does not allow it.
    """
    first = jobs[0]
    if tower := _tower(clip, first):
        return JointLoRA(clip, tower, [_run(job) for job in jobs], process)
    if isinstance(first.method, AdapterMethod):
        if first.complete.precision == "bfloat16":
            raise ValueError(
                "bfloat16 training needs a plain ViT, and LoRA on images alone; choose float32"
            )
        return AdapterTraining(
            clip, first.task, first.method, first.dropping, first.complete, process
        )
    return JointPrompts(clip, jobs, process)


def _tower(clip: Clip, job: Job) -> Tower | None:
    """The tower that a job shares with others; None where it must be alone."""
    return _plain(clip, job.complete.precision) if _on_images(job.method) else None


def _on_images(method: Any) -> bool:
    """Whether a method trains A and B on the image tower, and nothing else."""
    if not isinstance(method, LoRA) or method.towers != ("vision",):
        return False
    # a variant that trains other parameters than A and B, or otherwise, overrides one of these
    changed = ("parametrise", "before_step", "after_step")
    return all(getattr(type(method), name) is getattr(LoRA, name) for name in changed)


def _plain(clip: Clip, precision: str) -> Tower | None:
    return plain_tower(clip.model.visual, getattr(torch, precision))


def _run(job: Job) -> LoRARun:
    assert isinstance(job.method, LoRA)
    return LoRARun(job.task, job.method, job.dropping, job.complete)
