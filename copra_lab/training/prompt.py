"""The training of a soft prompt: CoOp's vectors in place of words, or VPT's beside patches."""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from copra_lab.adapters.adapter import NONE, Adapter, check_fits, deltas_in
from copra_lab.engine.extraction import append_context, embed, plain_tower
from copra_lab.engine.text_encoder import Encoder, encode_texts
from copra_lab.engine.transformer import CHUNK
from copra_lab.methods.registry import name_of
from copra_lab.models.clip import Clip
from copra_lab.prompts.nemesis import Nemesis
from copra_lab.prompts.soft_prompt import VPT, CoOp, SoftPrompt, check_prompt, norms
from copra_lab.tasks.task import Split, Task
from copra_lab.training.base import Training, as_json, augmented_copies
from copra_lab.training.settings import CompleteSettings
from copra_lab.utils.devices import Process
from copra_lab.utils.rng import generator


class PromptTraining(Training):
    """Vectors and their optimiser; the CLIP around them is frozen.

    Args:
        clip: The model.
        task: What is learned.
        method: `CoOp` or `VPT`.
        penalty: What the norms of the vectors cost; None for nothing.
        adapter: An adapter that the CLIP has meanwhile; None for none.
        settings: The settings of the training.
        process: The device.
    """

    def __init__(
        self,
        clip: Clip,
        task: Task,
        method: CoOp | VPT,
        penalty: Nemesis | None,
        adapter: Adapter | None,
        settings: CompleteSettings,
        process: Process,
    ) -> None:
        self.method, self.penalty, self.adapter = method, penalty, adapter
        check_fits(adapter or NONE, clip.sites, clip.hash)
        start = method.begin(clip, task.classes, generator(settings.seed, 0, "init"))
        self.context = start.to(process.device).requires_grad_()
        optimiser = torch.optim.SGD(
            [self.context], lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay
        )
        super().__init__(clip, task, settings, process, [self.context], optimiser)
        self.position = method.position if isinstance(method, CoOp) else "end"
        self.tower = "vision" if isinstance(method, VPT) else "text"
        self.inputs: _BesidePatches | _InPlaceOfWords
        if isinstance(method, VPT):
            self.inputs = _BesidePatches(clip, task, adapter or NONE, settings)
        else:
            shape = (self.context.shape[-2], self.position)
            encoder = Encoder(clip, task.classes, *shape, adapter or NONE)
            self.inputs = _InPlaceOfWords(clip, task, encoder, adapter or NONE, settings)

    def start_from(self, run: int, learned: Adapter | SoftPrompt, /) -> None:
        """Begin with the vectors of a prompt of the same shape, position and base.

        Raises:
            ValueError: For another prompt; where each class has its own vectors, also for other
                classes.
        """
        shape = tuple(self.context.shape)
        if not isinstance(learned, SoftPrompt) or (
            (learned.tower, learned.position) != (self.tower, self.position)
            or learned.context.shape != shape
        ):
            raise ValueError(
                f"the prompt to start from does not match these settings: {self.tower} tower, "
                f"position {self.position}, shape {shape}"
            )
        check_prompt(learned, self.clip, self.task.classes)
        with torch.no_grad():
            self.context.copy_(learned.context)

    def norms(self, run: int) -> tuple[float, ...]:
        """The L2 norm of each vector."""
        return tuple(norms(self.context.detach()).tolist())

    def step(self, step: int) -> list[float | None]:
        """Learn from one batch."""
        g = generator(self.settings.seed, step, "batch")
        rows = self.rows(g)
        labels = self.task.train.labels[rows].to(self.process.device)
        self.set_rate(step)
        images = self.inputs.batch(rows, g)
        logits = self.inputs.logits(self.context[None], images)[0]
        loss = F.cross_entropy(logits, labels)
        if self.penalty:

            @torch.no_grad()
            def hits(contexts: Tensor) -> Tensor:
                return (self.inputs.logits(contexts, images).argmax(-1) == labels).sum(-1)

            now = int((logits.argmax(-1) == labels).sum())
            epochs = self.settings.batch / len(self.task.train)  # a step
            loss = loss + self.penalty.loss(
                self.context, step * epochs, self.settings.steps * epochs, now, hits, g
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return [loss.item()]

    @torch.no_grad()
    def validate(self, run: int) -> float:
        """Accuracy on the validation images, 0…1."""
        images = self.inputs.split(self.task.val)
        logits = self.inputs.logits(self.context.detach()[None], images)[0]
        return (logits.argmax(-1).cpu() == self.task.val.labels).float().mean().item()

    def recipe(self, run: int) -> dict[str, Any]:
        """What the provenance says of the vectors, their penalty, and the CLIP's adapter."""
        about = {
            "method": name_of(self.method, self.penalty),
            "prompt": as_json(self.method),
            "penalty": as_json(self.penalty) if self.penalty else None,
        }
        return about | ({"adapter": self.adapter.hash} if self.adapter else {})

    def result(self, run: int, recipe: dict[str, Any]) -> SoftPrompt:
        """The prompt as it is now."""
        context = self.context.detach().to("cpu", copy=True)
        return SoftPrompt(
            context, self.tower, self.position, self.task.classes, self.clip.hash, recipe
        )


class _InPlaceOfWords:
    """Vectors in place of a prompt's words: the images' features are computed once."""

    def __init__(
        self, clip: Clip, task: Task, encoder: Encoder, adapter: Adapter, settings: CompleteSettings
    ) -> None:
        self.encode, self.scale = encoder, clip.logit_scale
        self.vision = _ImageFeatures(clip, adapter)
        self.train = _copies(clip, task, adapter, settings.views, settings.seed)

    def batch(self, rows: Tensor, g: torch.Generator) -> Tensor:
        """Features of training images (n, e), each in one of its copies."""
        return self.train[torch.randint(len(self.train), (len(rows),), generator=g), rows]

    def split(self, split: Split) -> Tensor:
        """Features of all images of a split (n, e)."""
        return self.vision(self.vision.clip.pixels(split.images))

    def logits(self, contexts: Tensor, features: Tensor) -> Tensor:
        """(m, [classes,] length, d), (n, e) → (m, n, classes)."""
        return self.scale * features @ self.encode(contexts).transpose(-1, -2)


# one after another, prompts of the same images are learned with other settings
@lru_cache(maxsize=4)
@torch.no_grad()
def _copies(clip: Clip, task: Task, adapter: Adapter, views: int, seed: int) -> Tensor:
    """Features of the training images in each of their augmented copies, (views, n, e).

    Without views, of the images as they are, (1, n, e).
    """
    vision = _ImageFeatures(clip, adapter)
    if not views:
        return vision(clip.pixels(task.train.images))[None]
    return torch.stack([vision(x) for x in augmented_copies(clip, task, views, seed)])


class _BesidePatches:
    """Vectors beside an image's patches: the texts' features are computed once."""

    def __init__(
        self, clip: Clip, task: Task, adapter: Adapter, settings: CompleteSettings
    ) -> None:
        self.clip, self.task, self.scale = clip, task, clip.logit_scale
        self.vision = _ImageFeatures(clip, adapter)
        self.text = encode_texts(clip, task.prompts, adapter).clone()
        copies = list(augmented_copies(clip, task, settings.views, settings.seed))
        self.copies = torch.stack(copies) if copies else None

    def batch(self, rows: Tensor, g: torch.Generator) -> Tensor:
        """Pixels of training images (n, 3, side, side), augmented."""
        if self.copies is not None:
            return self.copies[torch.randint(len(self.copies), (len(rows),), generator=g), rows]
        return self.task.augment(self.clip.pixels(self.task.train.images[rows]), g)

    def split(self, split: Split) -> Tensor:
        """Pixels of all images of a split (n, 3, side, side)."""
        return self.clip.pixels(split.images)

    def logits(self, contexts: Tensor, pixels: Tensor) -> Tensor:
        """(m, length, d), (n, 3, side, side) → (m, n, classes)."""
        return torch.stack([self.scale * self.vision(pixels, c) @ self.text.T for c in contexts])


class _ImageFeatures:
    """Normalised pixels → normalised features, with an adapter merged into the image tower."""

    def __init__(self, clip: Clip, adapter: Adapter) -> None:
        tower = plain_tower(clip.model.visual)
        if tower is None:
            raise ValueError("soft prompts need a plain ViT, which this CLIP does not have")
        self.clip = clip
        self.tower = tower.with_deltas(tower, deltas_in(adapter, clip.sites, "vision"))

    def __call__(self, pixels: Tensor, context: Tensor | None = None) -> Tensor:
        """(n, 3, side, side) and vectors beside the patches (length, d) → (n, e)."""
        tokens = (embed(self.clip.model.visual, x) for x in pixels.split(CHUNK))
        return torch.cat([self.tower.features(append_context(t, context)) for t in tokens])
