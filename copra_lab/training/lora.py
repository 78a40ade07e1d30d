"""The training of LoRA: what `copra_lab.training.fitting.fit` drives where it is given LoRA's settings."""

import copy
import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from copra_lab.adapters.adapter import Adapter, check_fits
from copra_lab.engine.extraction import embed, plain_tower
from copra_lab.engine.transformer import CHUNK, Tower
from copra_lab.methods.input_dropout import InputDropout
from copra_lab.methods.lora import LoRA
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.base import Training
from copra_lab.training.dropping import Draw, Dropping, drawn, group
from copra_lab.utils.devices import Place
from copra_lab.utils.rng import generator

_TURN = threading.Lock()
"""What `parametrize.cached` remembers lies in one dictionary for all threads, and a step must not be given another one's weights."""


class LoRATraining(Training):
    """A private copy of the model with LoRA on it."""

    def __init__(
        self,
        clip: Clip,
        task: Task,
        lora: LoRA,
        dropping: Dropping,
        *,
        seed: int,
        lr: float,
        steps: int,
        weight_decay: float,
        views: int,
        precision: str,
        schedule: str,
        place: Place,
    ):
        self.clip, self.task, self.dropping = clip, task, dropping
        # Modules of its own around the same weights, which nothing here writes to.
        self.model = copy.deepcopy(clip.model, {id(p): p for p in clip.model.parameters()})
        self.attached = lora.attach(self.model, generator(seed, 0, "init"))
        self.units = group(self.attached.sites, dropping.unit)
        self.drawn = Draw((True,) * len(self.units))
        optimiser = torch.optim.AdamW(
            self.attached.parameters(),
            lr=lr,
            weight_decay=weight_decay,
            betas=(0.9, 0.999),
            fused=True,
        )
        super().__init__(self.attached.parameters(), optimiser, seed, steps, schedule, place)
        self.text_moves = "text" in lora.towers
        self.tokens = clip.tokenizer(list(task.prompts)).to(place.device)
        self.text = clip.text_features(task.prompts).clone()
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {precision!r}")
        self.tower = (
            None if self.text_moves else plain_tower(clip.model.visual, getattr(torch, precision))
        )
        if self.tower is None and precision == "bfloat16":
            raise ValueError(
                "bfloat16 training needs a plain ViT and LoRA on the image tower alone; choose precision='float32'"
            )
        copies = [
            task.augment(clip.pixels(task.train.images), generator(seed, v, "view"))
            for v in range(views)
        ]
        self.copies = views
        self.prefixes = (
            _Prefixes(clip, self.tower, torch.cat(copies)) if self.tower and copies else None
        )
        self.views = torch.stack(copies) if copies and not self.prefixes else None

    def start_from(self, adapter: Adapter | SoftPrompt) -> None:
        if not isinstance(adapter, Adapter):
            raise ValueError("LoRA can only start from an adapter")
        check_fits(adapter, self.clip.sites, self.clip.hash)
        self.attached.load(adapter)

    def result(self, recipe: dict[str, Any]) -> Adapter:
        return self.attached.adapter(self.clip.hash, recipe)

    @property
    def on(self) -> dict[str, bool]:
        """Which units were on in the last step."""
        return dict(zip(self.units, self.drawn.on, strict=True))

    def features(self, x: Tensor) -> Tensor:
        """Normalised features of normalised pixels (n, 3, side, side), with the sites that are on."""
        if self.tower is None:
            return F.normalize(self.model.encode_image(x), dim=-1)
        return self.tower.features(
            embed(self.clip.model.visual, x), factors=self.attached.factors()
        )

    def logits(self, features: Tensor) -> Tensor:
        """Scaled cosine similarities (n, classes)."""
        text = (
            F.normalize(self.model.encode_text(self.tokens), dim=-1)
            if self.text_moves
            else self.text
        )
        return self.clip.logit_scale * features @ text.T

    def batch_features(self, rows: Tensor, g: torch.Generator) -> Tensor:
        """Features of this process's share of augmented training images."""
        if self.copies:
            view = torch.randint(self.copies, (len(rows),), generator=g)
            view, rows = (
                view[self.place.rank :: self.place.world],
                rows[self.place.rank :: self.place.world],
            )
            if self.views is not None:
                return self.features(self.views[view, rows])
            assert self.prefixes
            assert self.tower
            factors = self.attached.factors()
            return self.tower.features(
                self.prefixes(view * len(self.task.train) + rows, min(factors)),
                min(factors),
                factors,
            )
        return self.features(
            self.place.share(self.task.augment(self.clip.pixels(self.task.train.images[rows]), g))
        )

    def step(self, step: int, batch: int) -> float | None:
        g = generator(self.seed, step, "batch")
        labels = self.task.train.labels
        rows = self.rows(len(labels), batch, g)
        self.drawn = drawn(self.dropping, len(self.units), self.seed, step, self.steps)
        if not any(self.drawn.on):
            return None  # nothing has a gradient
        self.set_rate(step)
        self.attached.activate(
            [
                s
                for sites, on in zip(self.units.values(), self.drawn.on, strict=True)
                if on
                for s in sites
            ]
        )
        self.attached.drop_inputs(InputDropout(self.drawn.dropout, g, self.place, batch))
        with _TURN, parametrize.cached():
            own = self.place.share(labels[rows])
            return self.learn(
                F.cross_entropy(self.logits(self.batch_features(rows, g)), own), len(own), batch
            )

    @torch.no_grad()
    def validate(self) -> float:
        """Accuracy on the validation images, 0…1, with everything on."""
        val = self.task.val
        with _TURN, self.attached.whole(), parametrize.cached():
            hits = [
                self.logits(self.features(self.clip.pixels(x))).argmax(-1).cpu() == y
                for x, y in zip(val.images.split(100), val.labels.split(100), strict=True)
            ]
        return torch.cat(hits).float().mean().item()


class _Prefixes:
    """What kept images look like before each block of the frozen tower, computed when it is first asked for."""

    MOST = 2**30
    """Bytes; beyond, only what enters the first block is kept."""

    def __init__(self, clip: Clip, tower: Tower, pixels: Tensor):
        self.tower = tower
        with torch.no_grad():
            first = torch.cat([embed(clip.model.visual, x) for x in pixels.split(CHUNK)])
        self.kept = len(tower.blocks) if first.nbytes * len(tower.blocks) <= self.MOST else 1
        self.tokens = first.new_empty((self.kept, *first.shape))
        self.tokens[0] = first
        self.depth = torch.zeros(len(first), dtype=torch.int64)

    @torch.no_grad()
    def __call__(self, rows: Tensor, layer: int) -> Tensor:
        """Tokens of these images before block `layer`."""
        if self.kept == 1:
            return self.tower.through(self.tokens[0, rows], 0, layer)
        for depth in range(layer):
            behind = rows[self.depth[rows] == depth].unique()
            if len(behind):
                self.tokens[depth + 1, behind] = self.tower.through(
                    self.tokens[depth, behind], depth, depth + 1
                )
                self.depth[behind] = depth + 1
        return self.tokens[layer, rows]
