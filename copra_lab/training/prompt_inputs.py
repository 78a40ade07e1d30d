"""Soft prompts and images through the frozen towers: many contexts, each with images of its own.

Shapes: m contexts, n images of each, t tokens, d the width, e that of the features.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, deltas_in
from copra_lab.engine.extraction import embed, plain_tower
from copra_lab.engine.text_encoder import Encoder, encode_texts
from copra_lab.engine.transformer import CHUNK
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import CoOp
from copra_lab.tasks.task import Split, Task
from copra_lab.training.base import augmented_copies
from copra_lab.training.jobs import Job

__all__ = ["BesidePatches", "InPlaceOfWords"]


class InPlaceOfWords:
    """Vectors in place of a prompt's words: the images' features are computed once."""

    def __init__(self, clip: Clip, jobs: Sequence[Job], adapter: Adapter, method: CoOp) -> None:
        length, classes = method.vectors(clip), jobs[0].task.classes
        self.encode = Encoder(clip, classes, length, method.position, adapter)
        self.scale, self.tower = clip.logit_scale, _ImageTower(clip, adapter)
        settings = [job.complete for job in jobs]
        self.train = [
            # without views nothing is drawn, so that one seed stands for all
            _copies(clip, job.task, adapter, s.views, s.seed if s.views else 0)
            for job, s in zip(jobs, settings, strict=True)
        ]

    def batch(self, run: int, rows: Tensor, g: torch.Generator) -> Tensor:
        """Features of a run's training images (n, e), each in one of its copies."""
        copies = self.train[run]
        return copies[torch.randint(len(copies), (len(rows),), generator=g), rows]

    def split(self, split: Split) -> Tensor:
        """Features of all images of a split (n, e)."""
        return self.tower.features(self.tower.clip.pixels(split.images))

    def logits(
        self, runs: Sequence[int], contexts: Tensor, images: Sequence[Tensor]
    ) -> list[Tensor]:
        """For each context the logits of its images.

        Args:
            runs: Whose each of the m contexts is.
            contexts: (m, [classes,] length, d).
            images: Features (n, e) for each.

        Returns:
            (n, classes) each.
        """
        texts = self.encode(contexts)  # (m, classes, e)
        return list(self.scale * torch.stack(list(images)) @ texts.mT)


class BesidePatches:
    """Vectors beside an image's patches: the texts' features are computed once."""

    def __init__(self, clip: Clip, jobs: Sequence[Job], adapter: Adapter) -> None:
        self.clip, self.jobs, self.scale = clip, jobs, clip.logit_scale
        self.tower = _ImageTower(clip, adapter)
        prompts = [tuple(job.task.prompts) for job in jobs]
        texts = {p: encode_texts(clip, p, adapter).clone() for p in set(prompts)}
        self.texts = [texts[p] for p in prompts]
        drawn = [(job.task, job.complete.views, job.complete.seed) for job in jobs]
        copies = {which: self._kept(*which) for which in set(drawn)}  # runs often share them
        self.copies = [copies[which] for which in drawn]

    def _kept(self, task: Task, views: int, seed: int) -> Tensor | None:
        """Tokens of the training images' augmented copies (views, n, t, d); None without views."""
        copies = [self.tower.tokens(x) for x in augmented_copies(self.clip, task, views, seed)]
        return torch.stack(copies) if copies else None

    def batch(self, run: int, rows: Tensor, g: torch.Generator) -> Tensor:
        """Tokens of a run's training images (n, t, d), augmented."""
        copies, task = self.copies[run], self.jobs[run].task
        if copies is not None:
            return copies[torch.randint(len(copies), (len(rows),), generator=g), rows]
        return self.tower.tokens(task.augment(self.clip.pixels(task.train.images[rows]), g))

    def split(self, split: Split) -> Tensor:
        """Tokens of all images of a split (n, t, d)."""
        return self.tower.tokens(self.clip.pixels(split.images))

    def logits(
        self, runs: Sequence[int], contexts: Tensor, images: Sequence[Tensor]
    ) -> list[Tensor]:
        """For each context the logits of its images.

        Args:
            runs: Whose each of the m contexts is.
            contexts: (m, length, d).
            images: Tokens (n, t, d) for each.

        Returns:
            (n, classes) each; runs of other tasks may have other numbers of classes.
        """
        features = self.tower.beside(contexts, images)
        return [self.scale * x @ self.texts[j].T for j, x in zip(runs, features, strict=True)]


class _ImageTower:
    """Images to features, with an adapter merged into the image tower."""

    def __init__(self, clip: Clip, adapter: Adapter) -> None:
        visual = clip.model.visual
        tower = plain_tower(visual, next(visual.parameters()).dtype)
        if tower is None:
            raise ValueError("soft prompts need a plain ViT, which this CLIP does not have")
        self.clip = clip
        self.tower = tower.with_deltas(tower, deltas_in(adapter, clip.sites, "vision"))

    def tokens(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, side, side) → tokens as they enter the blocks, (n, t, d)."""
        return torch.cat([embed(self.clip.model.visual, x) for x in pixels.split(CHUNK)])

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, side, side) → normalised features (n, e)."""
        return torch.cat([self.tower.features(x) for x in self.tokens(pixels).split(CHUNK)])

    def beside(self, contexts: Tensor, images: Sequence[Tensor]) -> list[Tensor]:
        """Normalised features (n, e) of the tokens (n, t, d) beside each context (length, d)."""
        together = max(1, CHUNK // len(images[0]))
        out: list[Tensor] = []
        for i in range(0, len(images), together):
            some = contexts[i : i + together]
            pieces = zip(*(x.split(CHUNK) for x in images[i : i + together]), strict=True)
            out += torch.cat([self._together(some, piece) for piece in pieces], 1)
        return out

    def _together(self, contexts: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Contexts (m, length, d) and as many times tokens (n, t, d) → features (m, n, e)."""
        tokens = torch.stack(list(images))  # (m, n, t, d)
        beside = contexts[:, None].expand(-1, tokens.shape[1], -1, -1)
        features = self.tower.features(torch.cat([tokens, beside], 2).flatten(0, 1))
        return features.unflatten(0, tokens.shape[:2])


# prompts of the same images are often learned with several settings, together or in turn
@lru_cache(maxsize=4)
@torch.no_grad()
def _copies(clip: Clip, task: Task, adapter: Adapter, views: int, seed: int) -> Tensor:
    """Features of the training images in each of their augmented copies, (views, n, e).

    Without views, of the images as they are, (1, n, e).
    """
    tower = _ImageTower(clip, adapter)
    if not views:
        return tower.features(clip.pixels(task.train.images))[None]
    return torch.stack([tower.features(x) for x in augmented_copies(clip, task, views, seed)])
