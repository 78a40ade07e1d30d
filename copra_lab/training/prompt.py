"""The training of a soft prompt: what `copra_lab.training.fitting.fit` drives where it is given CoOp or VPT."""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from copra_lab.adapters.adapter import NONE, Adapter, check_fits, deltas_in
from copra_lab.engine.extraction import beside, embed, plain_tower
from copra_lab.engine.text_encoder import Encoder, encode_texts
from copra_lab.engine.transformer import CHUNK
from copra_lab.models.clip import Clip
from copra_lab.prompts.nemesis import Nemesis
from copra_lab.prompts.soft_prompt import VPT, CoOp, SoftPrompt, check_prompt, norms
from copra_lab.tasks.task import Split, Task
from copra_lab.training.base import Training
from copra_lab.utils.devices import Place
from copra_lab.utils.rng import generator


def name_of(method: CoOp | VPT, penalty: Nemesis | None) -> str:
    """coop, vpt, pun, pan, pun+pan, vpt+pun, …: what tables call a way of tuning."""
    own = "vpt" if isinstance(method, VPT) else "coop"
    return own if penalty is None else f"vpt+{penalty.method}" if own == "vpt" else penalty.method


class PromptTraining(Training):
    """Vectors and their optimiser, the CLIP around them frozen."""

    def __init__(
        self,
        clip: Clip,
        task: Task,
        method: CoOp | VPT,
        penalty: Nemesis | None,
        adapter: Adapter | None,
        *,
        seed: int,
        lr: float,
        steps: int,
        weight_decay: float,
        views: int,
        schedule: str,
        place: Place,
    ):
        adapter = adapter or NONE
        check_fits(adapter, clip.sites, clip.hash)
        self.clip, self.task, self.penalty = clip, task, penalty
        self.context = (
            method.begin(clip, task.classes, generator(seed, 0, "init"))
            .to(place.device)
            .requires_grad_()
        )
        optimiser = torch.optim.SGD([self.context], lr=lr, momentum=0.9, weight_decay=weight_decay)
        super().__init__([self.context], optimiser, seed, steps, schedule, place)
        self.position = method.position if isinstance(method, CoOp) else "end"
        self.tower = "vision" if isinstance(method, VPT) else "text"
        kind = _Beside if isinstance(method, VPT) else _Instead
        self.side: _Beside | _Instead = kind(
            clip, task, self.context.shape[-2], self.position, adapter, views, seed
        )

    def start_from(self, prompt: "Adapter | SoftPrompt") -> None:
        """Take the vectors of `prompt`, which must have the same shape, the same place and the same base; where each class has its own, the
        same classes."""
        have = (self.tower, self.position, tuple(self.context.shape))
        if (
            not isinstance(prompt, SoftPrompt)
            or (prompt.tower, prompt.position, tuple(prompt.context.shape)) != have
        ):
            raise ValueError(
                f"the prompt to start from does not match these settings: {have[0]} tower, position {have[1]}, shape {have[2]}"
            )
        check_prompt(prompt, self.clip, self.task.classes)
        with torch.no_grad():
            self.context.copy_(prompt.context)

    @property
    def norms(self) -> tuple[float, ...]:
        return tuple(norms(self.context.detach()).tolist())

    def step(self, step: int, batch: int) -> float:
        g, n = generator(self.seed, step, "batch"), len(self.task.train)
        rows = self.rows(n, batch, g)
        labels = self.task.train.labels[rows].to(self.place.device)
        self.set_rate(step)
        view = self.side.see(rows, g)
        logits = self.side.logits(self.context[None], view)[0]
        loss = F.cross_entropy(logits, labels)
        if self.penalty:

            @torch.no_grad()
            def hits(contexts: Tensor) -> Tensor:
                return (self.side.logits(contexts, view).argmax(-1) == labels).sum(-1)

            now = int((logits.argmax(-1) == labels).sum())
            epochs = batch / n
            loss = loss + self.penalty.loss(
                self.context, step * epochs, self.steps * epochs, now, hits, g
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> float:
        """Accuracy on the validation images, 0…1."""
        hits = (
            self.side.logits(self.context.detach()[None], self.side.whole(self.task.val))[0]
            .argmax(-1)
            .cpu()
            == self.task.val.labels
        )
        return hits.float().mean().item()

    def result(self, recipe: dict[str, Any]) -> SoftPrompt:
        return SoftPrompt(
            self.context.detach().to("cpu", copy=True),
            self.tower,
            self.position,
            self.task.classes,
            self.clip.hash,
            recipe,
        )


class _Instead:
    """Vectors in place of a prompt's words: of the images only features are needed, computed once."""

    def __init__(
        self,
        clip: Clip,
        task: Task,
        length: int,
        position: str,
        adapter: Adapter,
        views: int,
        seed: int,
    ):
        self.encode, self.scale = (
            Encoder(clip, task.classes, length, position, adapter),
            clip.logit_scale,
        )
        self.vision = _ImageFeatures(clip, adapter)
        self.train = _copies(clip, task, adapter, views, seed)

    def see(self, rows: Tensor, g: torch.Generator) -> Tensor:
        """Features of training images (n, e), each in one of its copies."""
        return self.train[torch.randint(len(self.train), (len(rows),), generator=g), rows]

    def whole(self, split: Split) -> Tensor:
        return self.vision(self.vision.clip.pixels(split.images))

    def logits(self, contexts: Tensor, features: Tensor) -> Tensor:
        """(m, [classes,] length, d), (n, e) → (m, n, classes)."""
        return self.scale * features @ self.encode(contexts).transpose(-1, -2)


@lru_cache(
    maxsize=4
)  # one after another, prompts of the same images are learned with other settings
@torch.no_grad()
def _copies(clip: Clip, task: Task, adapter: Adapter, views: int, seed: int) -> Tensor:
    """Features of the training images in each of their augmented copies, (views, n, e); with no views, of the images as they are."""
    vision, pixels = _ImageFeatures(clip, adapter), clip.pixels(task.train.images)
    return torch.stack(
        [
            vision(task.augment(pixels, generator(seed, v, "view")) if views else pixels)
            for v in range(max(1, views))
        ]
    )


class _Beside:
    """Vectors beside an image's patches: the texts' features are computed once."""

    def __init__(
        self,
        clip: Clip,
        task: Task,
        length: int,
        position: str,
        adapter: Adapter,
        views: int,
        seed: int,
    ):
        self.clip, self.task, self.scale = clip, task, clip.logit_scale
        self.vision, self.text = (
            _ImageFeatures(clip, adapter),
            encode_texts(clip, task.prompts, adapter).clone(),
        )
        pixels = clip.pixels(task.train.images)
        self.copies = (
            torch.stack([task.augment(pixels, generator(seed, v, "view")) for v in range(views)])
            if views
            else None
        )

    def see(self, rows: Tensor, g: torch.Generator) -> Tensor:
        """Pixels of training images (n, 3, side, side), augmented."""
        if self.copies is not None:
            return self.copies[torch.randint(len(self.copies), (len(rows),), generator=g), rows]
        return self.task.augment(self.clip.pixels(self.task.train.images[rows]), g)

    def whole(self, split: Split) -> Tensor:
        return self.clip.pixels(split.images)

    def logits(self, contexts: Tensor, pixels: Tensor) -> Tensor:
        """(m, length, d), (n, 3, side, side) → (m, n, classes)."""
        return torch.stack([self.scale * self.vision(pixels, c) @ self.text.T for c in contexts])


class _ImageFeatures:
    """Normalised pixels → normalised features, by the image tower with an adapter merged into it and a context beside the patches."""

    def __init__(self, clip: Clip, adapter: Adapter):
        tower = plain_tower(clip.model.visual)
        if tower is None:
            raise ValueError(
                "soft prompts need a plain ViT as image tower, which this CLIP does not have"
            )
        self.clip = clip
        self.tower = tower.with_deltas(tower, deltas_in(adapter, clip.sites, "vision"))

    def __call__(self, pixels: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.cat(
            [
                self.tower.features(beside(embed(self.clip.model.visual, x), context))
                for x in pixels.split(CHUNK)
            ]
        )
