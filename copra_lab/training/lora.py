"""The training of adapters through the model's modules: any method, any tower.

LoRA on the image tower of a plain ViT goes another way, the faster `copra_lab.training.joint`.
"""

import copy
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from copra_lab.adapters.adapter import Adapter, check_fits
from copra_lab.methods.attached import Attached
from copra_lab.methods.dense import Full
from copra_lab.methods.input_dropout import InputDropout
from copra_lab.methods.parametrisation import AdapterMethod
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.base import Training, adapter_recipe, augmented_copies, batch_rows
from copra_lab.training.dropping import Draw, Dropping, drawn, group
from copra_lab.training.settings import SCHEDULES, CompleteSettings
from copra_lab.utils.devices import Process
from copra_lab.utils.rng import generator

_TURN = threading.Lock()
"""Held during a step: what `parametrize.cached` remembers lies in one dictionary for all threads,
and a step must not see another one's weights."""


class AdapterTraining(Training):
    """A private copy of the model with a method on it.

    Args:
        clip: The model; its weights are shared and never written to.
        task: What is learned.
        method: The settings of the adapter.
        dropping: What is dropped in each step.
        settings: The settings of the training.
        process: The device, and which of several processes this is.
    """

    def __init__(
        self,
        clip: Clip,
        task: Task,
        method: AdapterMethod,
        dropping: Dropping,
        settings: CompleteSettings,
        process: Process,
    ) -> None:
        self.clip, self.task, self.method, self.dropping = clip, task, method, dropping
        # New modules around the same weights, which nothing here writes to.
        self.model = copy.deepcopy(clip.model, {id(p): p for p in clip.model.parameters()})
        self.process = process
        self.text_moves = "text" in method.towers
        self.tokens = clip.tokenizer(list(task.prompts)).to(process.device)
        self.text = clip.text_features(task.prompts).clone()
        copies = list(augmented_copies(clip, task, settings.views, settings.seed))
        self.views = torch.stack(copies) if copies else None
        gradients = self.gradients(settings) if method.gradient_batches else None
        begin = generator(settings.seed, 0, "init")
        self.attached = Attached(self.model, method, begin, gradients=gradients)
        self.units = group(self.attached.sites, dropping.unit)
        self.drawn = Draw((True,) * len(self.units))
        groups = [
            {
                "params": list(g.parameters),
                "share": g.rate,
                "weight_decay": settings.weight_decay if g.weight_decay is None else g.weight_decay,
            }
            for g in self.attached.groups()
        ]
        optimiser = torch.optim.AdamW(groups, settings.lr, fused=True)
        super().__init__([settings], process, optimiser)

    def gradients(self, settings: CompleteSettings) -> dict[str, Tensor]:
        """∂L/∂W of each site at the base, summed over as many batches as the method asks for."""
        of_base = Full(self.method.sites, self.method.towers)
        full = Attached(self.model, of_base, generator(settings.seed, 0, "init"))
        for batch in range(self.method.gradient_batches):
            g = generator(settings.seed, batch, "gradients")
            rows = batch_rows(len(self.task.train), settings.batch, g)
            with _TURN, parametrize.cached():
                labels = self.process.share(self.task.train.labels[rows])
                loss = F.cross_entropy(self.logits(self.batch_features(rows, g)), labels)
                self.process.weighted(loss, len(labels), settings.batch).backward()
        full.detach()
        # ΔW is zero there, so that its gradient is that of W
        found = {name: p.grad for name, part in full.parts.items() for p in part.parameters()}
        self.process.average([grad for grad in found.values() if grad is not None])
        return {name: grad.cpu() for name, grad in found.items() if grad is not None}

    def set_rates(self, step: int) -> None:
        """Let the learning rates follow the schedule, each in its proportion."""
        [s] = self.settings
        rate = s.lr * SCHEDULES[s.schedule](step / s.steps)
        for own in self.optimiser.param_groups:
            own["lr"] = rate * own["share"]

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: also what the method has frozen or counted."""
        buffers = {f"b{i}": b.contiguous() for i, b in enumerate(self.attached.buffers())}
        return super().state() | buffers

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint kept."""
        super().load_state(tensors)
        for i, b in enumerate(self.attached.buffers()):
            b.copy_(tensors[f"b{i}"])

    def start_from(self, run: int, learned: Adapter | SoftPrompt, /) -> None:
        """Begin with an adapter of the same sites, rank and scale, if the method can."""
        if not isinstance(learned, Adapter):
            raise ValueError(f"{type(self.method).__name__} can only start from an adapter")
        check_fits(learned, self.clip.sites, self.clip.hash)
        self.attached.load(learned)

    def recipe(self, run: int) -> dict[str, Any]:
        """What the provenance says of the adapter's settings and what was dropped."""
        return adapter_recipe(self.method, self.dropping, self.settings[0].precision)

    def result(self, run: int, recipe: dict[str, Any]) -> Adapter:
        """The adapter as it is now."""
        return self.attached.adapter(self.clip.hash, recipe)

    def on(self, run: int) -> dict[str, bool]:
        """Which units were on in the last step."""
        return dict(zip(self.units, self.drawn.on, strict=True))

    def features(self, x: Tensor) -> Tensor:
        """Normalised features of normalised pixels (n, 3, side, side), with the sites that are on.

        Returns:
            (n, e).
        """
        return F.normalize(self.model.encode_image(x), dim=-1)

    def logits(self, features: Tensor) -> Tensor:
        """Scaled cosine similarities (n, classes)."""
        text = self.text
        if self.text_moves:
            text = F.normalize(self.model.encode_text(self.tokens), dim=-1)
        return self.clip.logit_scale * features @ text.T

    def batch_features(self, rows: Tensor, g: torch.Generator) -> Tensor:
        """Features of this process's share of augmented training images."""
        if self.views is None:
            pixels = self.clip.pixels(self.task.train.images[rows])
            return self.features(self.process.share(self.task.augment(pixels, g)))
        view = torch.randint(len(self.views), (len(rows),), generator=g)
        mine = slice(self.process.rank, None, self.process.world_size)
        return self.features(self.views[view[mine], rows[mine]])

    def step(self, step: int) -> list[float | None]:
        """Draw what is on, and learn from one batch."""
        [s] = self.settings
        g = generator(s.seed, step, "batch")
        rows = batch_rows(len(self.task.train), s.batch, g)
        self.drawn = drawn(self.dropping, len(self.units), s.seed, step, s.steps)
        units = zip(self.units.values(), self.drawn.on, strict=True)
        sites = [site for sites, on in units if on for site in sites]
        parts = self.attached.parts
        self.method.before_step(parts, step, s.steps, generator(s.seed, step, "method"))
        loss = self.learn(step, rows, sites, g) if sites else None  # or nothing has a gradient
        self.method.after_step(parts, sites, step, s.steps)
        return [loss]

    def learn(self, step: int, rows: Tensor, sites: Sequence[str], g: torch.Generator) -> float:
        """One update from a batch, with these sites on.

        Returns:
            The loss of the whole batch.
        """
        [s] = self.settings
        self.set_rates(step)
        self.attached.activate(sites)
        self.attached.drop_inputs(InputDropout(self.drawn.dropout, g, self.process, s.batch))
        with _TURN, parametrize.cached():
            labels = self.process.share(self.task.train.labels[rows])
            logits = self.logits(self.batch_features(rows, g))
            return self.update(F.cross_entropy(logits, labels), len(labels))

    def update(self, loss: Tensor, images: int) -> float:
        """One update from this process's mean loss over so many images of the batch.

        Returns:
            The loss of the whole batch.
        """
        loss = self.process.weighted(loss, images, self.settings[0].batch)
        # None, not zeros: AdamW leaves alone what was off
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        mean = loss.detach()
        watched = (part.watched() for part in self.attached.parts.values())
        moved = [*self.parameters, *(x for x in watched if x is not None)]
        self.process.average([mean, *(p.grad for p in moved if p.grad is not None)])
        self.optimiser.step()
        return mean.item()

    @torch.no_grad()
    def validate(self, run: int) -> float:
        """Accuracy on the validation images, 0…1, with everything on."""
        val = self.task.val
        with _TURN, self.attached.whole(), parametrize.cached():
            hits = [
                self.logits(self.features(self.clip.pixels(x))).argmax(-1).cpu() == y
                for x, y in zip(val.images.split(100), val.labels.split(100), strict=True)
            ]
        return torch.cat(hits).float().mean().item()
