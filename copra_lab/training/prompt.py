"""Soft prompts that advance together: CoOp's vectors in place of words, or VPT's beside patches.

The contexts of all runs form one batch through the frozen tower. A run has its own images,
settings, seed and penalty, and ends as it does alone, up to rounding.

Shapes: k runs, n images of one run, t tokens, d the width, e that of the features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from copra_lab.adapters.adapter import NONE, Adapter, check_fits
from copra_lab.methods.parametrisation import AdapterMethod
from copra_lab.methods.registry import name_of
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import VPT, CoOp, SoftPrompt, check_prompt, norms
from copra_lab.training.base import Training, as_json, batch_rows
from copra_lab.training.jobs import Job
from copra_lab.training.prompt_inputs import BesidePatches, InPlaceOfWords
from copra_lab.utils.devices import Process
from copra_lab.utils.rng import generator

__all__ = ["JointPrompts"]


class JointPrompts(Training):
    """The vectors of runs that go together, see `grouping`; the CLIP around them is frozen.

    Args:
        clip: The model.
        jobs: What is trained.
        process: The device.
    """

    def __init__(self, clip: Clip, jobs: Sequence[Job], process: Process) -> None:
        self.clip, self.jobs = clip, list(jobs)
        method, adapter = _method(jobs[0]), jobs[0].adapter or NONE
        check_fits(adapter, clip.sites, clip.hash)
        self.contexts = [_begin(clip, job, process) for job in jobs]
        settings = [job.complete for job in jobs]
        # a parameter of its own for each run: one that is over has no gradient, and stays
        groups = [
            {"params": [context], "weight_decay": s.weight_decay}
            for context, s in zip(self.contexts, settings, strict=True)
        ]
        optimiser = torch.optim.SGD(groups, lr=1.0, momentum=0.9)  # `set_rates` sets the rates
        super().__init__(settings, process, optimiser)
        self.tower, self.position = "vision", "end"
        self.inputs: BesidePatches | InPlaceOfWords
        if isinstance(method, VPT):
            self.inputs = BesidePatches(clip, jobs, adapter)
        else:
            self.tower, self.position = "text", method.position
            self.inputs = InPlaceOfWords(clip, jobs, adapter, method)

    def start_from(self, run: int, learned: Adapter | SoftPrompt, /) -> None:
        """Begin with the vectors of a prompt of the same shape, position and base.

        Raises:
            ValueError: For another prompt; where each class has its own vectors, also for other
                classes.
        """
        shape = tuple(self.contexts[run].shape)
        if not isinstance(learned, SoftPrompt) or (
            (learned.tower, learned.position) != (self.tower, self.position)
            or learned.context.shape != shape
        ):
            raise ValueError(
                f"the prompt to start from does not match these settings: {self.tower} tower, "
                f"position {self.position}, shape {shape}"
            )
        check_prompt(learned, self.clip, self.jobs[run].task.classes)
        with torch.no_grad():
            self.contexts[run].copy_(learned.context)

    def norms(self, run: int) -> tuple[float, ...]:
        """The L2 norm of each vector of a run."""
        return tuple(norms(self.contexts[run].detach()).tolist())

    def step(self, step: int) -> list[float | None]:
        """One step of every run that goes on, each from a batch of its own."""
        self.set_rates(step)
        batches = {j: self._batch(j, step) for j in sorted(self.alive)}
        contexts = {j: self.contexts[j][None] for j in batches}
        logits = dict(zip(batches, self._logits(contexts, batches), strict=True))
        losses = {j: F.cross_entropy(logits[j], b.labels) for j, b in batches.items()}
        for j, penalty in self._penalties(step, batches, logits).items():
            losses[j] = losses[j] + penalty
        joined = torch.stack(list(losses.values()))
        self.optimiser.zero_grad(set_to_none=True)
        joined.sum().backward()
        self.optimiser.step()
        found = dict(zip(losses, joined.tolist(), strict=True))
        return [found.get(j) for j in range(len(self.jobs))]

    def _batch(self, run: int, step: int) -> "_Batch":
        """What one run draws in one step: images first, then what its penalty tries."""
        job = self.jobs[run]
        g = generator(job.complete.seed, step, "batch")
        rows = batch_rows(len(job.task.train), job.complete.batch, g)
        labels = job.task.train.labels[rows].to(self.process.device)
        images = self.inputs.batch(run, rows, g)
        length = self.contexts[run].shape[-2]
        tried = job.penalty.tries(length, g) if job.penalty else torch.arange(0)
        return _Batch(images, labels, tried)

    def _penalties(
        self, step: int, batches: Mapping[int, "_Batch"], logits: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """What the norms of each run's vectors cost; nothing for a run without a penalty."""
        better = self._better(batches, logits)
        out = {}
        for j, batch in batches.items():
            if penalty := self.jobs[j].penalty:
                s = self.settings[j]
                epochs = s.batch / len(self.jobs[j].task.train)  # a step
                at, end = step * epochs, s.steps * epochs
                out[j] = penalty.loss(self.contexts[j], at, end, batch.tried, better[j])
        return out

    @torch.no_grad()
    def _better(
        self, batches: Mapping[int, "_Batch"], logits: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """Whether a run's batch is classified better with each vector that its penalty tries, (N,).

        What the penalties of all runs try forms one batch.
        """
        corrupted = {
            j: penalty.corrupted(self.contexts[j], batch.tried)
            for j, batch in batches.items()
            if (penalty := self.jobs[j].penalty)
        }
        found = iter(self._logits(corrupted, batches))
        out = {}
        for j, contexts in corrupted.items():
            labels = batches[j].labels
            now = _hits(logits[j], labels)
            out[j] = torch.stack([now, *(_hits(next(found), labels) for _ in contexts)])[1:] > now
        return out

    def _logits(
        self, contexts: Mapping[int, Tensor], batches: Mapping[int, "_Batch"]
    ) -> list[Tensor]:
        """Logits (n, classes) of each run's batch with each of its contexts, one after another."""
        runs = [j for j, some in contexts.items() for _ in range(len(some))]
        if not runs:
            return []
        images = [batches[j].images for j in runs]
        return self.inputs.logits(runs, torch.cat(list(contexts.values())), images)

    @torch.no_grad()
    def validate(self, run: int) -> float:
        """Accuracy of a run on its validation images, 0…1."""
        val = self.jobs[run].task.val
        context = self.contexts[run].detach()[None]
        [logits] = self.inputs.logits([run], context, [self.inputs.split(val)])
        return (logits.argmax(-1).cpu() == val.labels).float().mean().item()

    def recipe(self, run: int) -> dict[str, Any]:
        """What the provenance says of the vectors, their penalty, and the CLIP's adapter."""
        job = self.jobs[run]
        about = {
            "method": name_of(job.method, job.penalty),
            "prompt": as_json(job.method),
            "penalty": as_json(job.penalty) if job.penalty else None,
        }
        return about | ({"adapter": job.adapter.hash} if job.adapter else {})

    def result(self, run: int, recipe: dict[str, Any]) -> SoftPrompt:
        """The prompt of a run as it is now."""
        context = self.contexts[run].detach().to("cpu", copy=True)
        classes = self.jobs[run].task.classes
        return SoftPrompt(context, self.tower, self.position, classes, self.clip.hash, recipe)


@dataclass(frozen=True)
class _Batch:
    """What one run draws in one step.

    Attributes:
        images: as `inputs` keeps them: features (n, e), or tokens (n, t, d).
        labels: (n,).
        tried: positions of the vectors that its penalty tries, (N,).
    """

    images: Tensor
    labels: Tensor
    tried: Tensor


def _method(job: Job) -> CoOp | VPT:
    assert not isinstance(job.method, AdapterMethod)
    return job.method


def _begin(clip: Clip, job: Job, process: Process) -> Tensor:
    """The vectors that a run begins with, as its method draws them."""
    g = generator(job.complete.seed, 0, "init")
    start = _method(job).begin(clip, job.task.classes, g)
    dtype = next(clip.model.parameters()).dtype
    return start.to(process.device, dtype).requires_grad_()


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images (n, classes) are classified correctly."""
    return (logits.argmax(-1) == labels).sum()
