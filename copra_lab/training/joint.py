"""LoRA trainings that share one frozen image tower and advance together.

The images of all runs form one batch through the frozen products; each run's A and B act on its
own rows. A run has its own task, settings, seed and draw of layers, and ends as it does alone, up
to rounding.

Shapes: k runs, n images of one run, t tokens, d the width, e that of the features, L layers.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, check_fits
from copra_lab.engine.blocks import Factors, run_block
from copra_lab.engine.extraction import embed
from copra_lab.engine.transformer import CHUNK, Tower
from copra_lab.methods.attached import Attached
from copra_lab.methods.input_dropout import InputDropout
from copra_lab.methods.lora import LoRA
from copra_lab.methods.stacked import Dropped, StackedLoRA
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.base import Group, adapter_recipe, augmented_copies, batch_rows
from copra_lab.training.dropping import Draw, Dropping, drawn, group
from copra_lab.training.optimisers import MaskedAdamW
from copra_lab.training.settings import SCHEDULES, CompleteSettings
from copra_lab.utils.devices import Process
from copra_lab.utils.rng import generator

__all__ = ["JointLoRA", "LoRARun"]


@dataclass(frozen=True)
class LoRARun:
    """What one run of a group trains.

    Args:
        task: What is learned.
        lora: The settings of the adapter, on the image tower alone.
        dropping: What is dropped in each step.
        settings: The settings of the training.
    """

    task: Task
    lora: LoRA
    dropping: Dropping
    settings: CompleteSettings


class JointLoRA(Group):
    """Runs of one base, one number of steps and one batch size.

    Args:
        clip: The model; its weights are shared and never written to.
        tower: Its image tower, in the precision of the runs.
        runs: What is trained.
        process: The device, and which of several processes this is.
    """

    def __init__(self, clip: Clip, tower: Tower, runs: Sequence[LoRARun], process: Process) -> None:
        super().__init__(len(runs), process)
        self.clip, self.tower, self.members = clip, tower, list(runs)
        begun = [_begin(clip, r) for r in runs]
        self.units = [
            group([clip.sites[name] for name in a.deltas], r.dropping.unit)
            for a, r in zip(begun, runs, strict=True)
        ]
        units = [list(u.values()) for u in self.units]
        self.depths = [[min(clip.sites[s].layer for s in sites) for sites in u] for u in units]
        trains = [r.lora.train_a for r in runs]
        dtype = torch.promote_types(tower.dtype, torch.float32)  # bfloat16 is for products alone
        self.stack = StackedLoRA(begun, units, clip.sites, trains, process.device, dtype)
        self.optimiser = MaskedAdamW(self.stack.parameters(), self.stack.counts())
        self.drawn = [Draw((True,) * len(u)) for u in self.units]
        prompts = [tuple(r.task.prompts) for r in runs]
        texts = {p: clip.text_features(p) for p in set(prompts)}  # runs often share a task
        self.text, self.absent = _padded([texts[p] for p in prompts])
        self.ragged = len(set(map(len, prompts))) > 1
        self.images = [_Images(clip, tower, r, process, len(runs)) for r in runs]

    def start_from(self, run: int, learned: Adapter | SoftPrompt, /) -> None:
        """Begin a run with an adapter of the same sites, rank and scale."""
        if not isinstance(learned, Adapter):
            raise ValueError("LoRA can only start from an adapter")
        check_fits(learned, self.clip.sites, self.clip.hash)
        self.stack.load(run, learned)

    def recipe(self, run: int) -> dict[str, Any]:
        """What the provenance says of the adapter's settings and what was dropped."""
        r = self.members[run]
        return adapter_recipe(r.lora, r.dropping, r.settings.precision)

    def result(self, run: int, recipe: Mapping[str, Any]) -> Adapter:
        """The adapter of a run as it is now."""
        return self.stack.adapter(run, self.clip.hash, recipe)

    def on(self, run: int) -> dict[str, bool]:
        """Which units of a run were on in the last step."""
        return dict(zip(self.units[run], self.drawn[run].on, strict=True))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: parameters, moments, counts."""
        return self.optimiser.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint kept."""
        for name, x in self.optimiser.state().items():
            x.copy_(tensors[name])

    def step(self, step: int) -> list[float | None]:
        """One step of every run that goes on: draw what is on, learn from one batch."""
        losses: list[float | None] = [None] * len(self.members)
        for j, r in enumerate(self.members):
            s = r.settings
            self.drawn[j] = drawn(r.dropping, len(self.units[j]), s.seed, step, s.steps)
        active = [j for j in sorted(self.alive) if any(self.drawn[j].on)]
        if not active:
            return losses  # nothing has a gradient
        on = self._on(active)
        lowest = {j: self._lowest(j) for j in active}
        active.sort(key=lambda j: (lowest[j], self.images[j].views is None))
        batches = [_Batch(self.members[j], step) for j in active]
        entering = self._entering(active, batches, [lowest[j] for j in active])
        labels = torch.stack([self.process.share(b.labels) for b in batches])
        factors = self._factors(on, active, batches)
        features = self._features(entering, factors, labels.shape[1])
        logits = self._logits(features, active)
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        mean = each.unflatten(0, labels.shape).mean(1)
        mean = self.process.weighted(mean, labels.shape[1], len(batches[0].rows))
        self._learn(mean, step, on)
        for j, loss in zip(active, mean.tolist(), strict=True):
            losses[j] = loss
        return losses

    def _on(self, active: Sequence[int]) -> dict[str, Tensor]:
        """Which columns of the stack are on; of runs that are not `active`, none."""
        flags = [False]
        for j, draw in enumerate(self.drawn):
            flags += draw.on if j in active else [False] * len(draw.on)
        return self.stack.on(torch.tensor(flags, device=self.process.device))

    def _lowest(self, run: int) -> int:
        """The lowest layer with something on."""
        draw = zip(self.depths[run], self.drawn[run].on, strict=True)
        return min(depth for depth, on in draw if on)

    def _entering(
        self, active: Sequence[int], batches: Sequence["_Batch"], lowest: Sequence[int]
    ) -> list[list[Tensor]]:
        """For each layer the tokens (n, t, d) of the runs whose lowest active layer it is.

        What lies below has no gradient.
        """
        entering: list[list[Tensor]] = [[] for _ in self.tower.blocks]
        fresh: list[int] = []
        for i, j in enumerate(active):
            if self.images[j].views is None:
                fresh.append(i)
            else:
                entering[lowest[i]].append(self.images[j].kept(batches[i], lowest[i]))
        if not fresh:
            return entering
        with torch.no_grad():
            pixels = [self.images[active[i]].fresh(batches[i]) for i in fresh]
            tokens = embed(self.clip.model.visual, torch.cat(pixels))
            for layer in range(1 + lowest[fresh[-1]]):
                here = sum(len(pixels[0]) for i in fresh if lowest[i] == layer)
                entering[layer] += [tokens[:here]] if here else []
                if len(tokens := tokens[here:]):
                    tokens = self.tower.through(tokens, layer, layer + 1)
        return entering

    def _factors(
        self, on: Mapping[str, Tensor], active: Sequence[int], batches: Sequence["_Batch"]
    ) -> Sequence[Factors]:
        """What each layer adds to the rows of the active runs, in their order."""
        drops = [self._drop(j, b) for j, b in zip(active, batches, strict=True)]
        return self.stack.factors(on, active, drops, len(self.process.share(batches[0].rows)))

    def _drop(self, run: int, batch: "_Batch") -> Dropped | None:
        draw = self.drawn[run]
        if not draw.dropout:
            return None
        units = zip(self.units[run].values(), draw.on, strict=True)
        on = {site for sites, is_on in units if is_on for site in sites}
        drop = InputDropout(draw.dropout, batch.generator, self.process, len(batch.rows))
        return drop, on

    def _features(
        self, entering: Sequence[Sequence[Tensor]], factors: Sequence[Factors], n: int
    ) -> Tensor:
        """Normalised features (k, n, e) of the active runs."""
        live: Tensor | None = None
        last = len(self.tower.blocks) - 1
        for layer, block in enumerate(self.tower.blocks):
            if tokens := [*([] if live is None else [live]), *entering[layer]]:
                live = tokens[0] if len(tokens) == 1 else torch.cat(tokens)
            if live is None or layer == last:
                continue
            add = _of_first(factors[layer], len(live) // n)
            live = run_block(live, live, block, self.tower.heads, self.tower.act, add)
        assert live is not None
        features = self.tower.finish(live, self.tower.blocks[last], factors[last])
        return features.unflatten(0, (-1, n))

    def _logits(self, features: Tensor, runs: Sequence[int]) -> Tensor:
        """(k, n, e) → scaled cosine similarities (k, n, classes), −∞ for classes a run lacks."""
        text, absent = self.text[list(runs)], self.absent[list(runs)]
        logits = self.clip.logit_scale * features @ text.mT
        return logits.masked_fill(absent[:, None], -torch.inf) if self.ragged else logits

    def _learn(self, losses: Tensor, step: int, on: Mapping[str, Tensor]) -> None:
        """One update from each run's mean loss (k,); the runs do not touch each other."""
        for p in self.stack.parameters():
            p.grad = None
        losses.sum().backward()
        found = [p.grad for p in self.stack.parameters() if p.grad is not None]
        self.process.average([losses.detach(), *found])
        rates = torch.tensor(
            [
                r.settings.lr * SCHEDULES[r.settings.schedule](step / r.settings.steps)
                for r in self.members
            ]
        )
        decays = torch.tensor([r.settings.weight_decay for r in self.members])
        device = self.process.device
        self.optimiser.step(
            rates[:, None, None].to(device), decays[:, None, None].to(device), self.stack.masks(on)
        )

    @torch.no_grad()
    def validate(self, run: int) -> float:
        """Accuracy of a run on its validation images, 0…1, with everything on."""
        val = self.members[run].task.val
        on = {name: p.unit > 0 for name, p in self.stack.parts.items()}
        factors = self.stack.factors(on, [run])
        hits = []
        for x, y in zip(val.images.split(100), val.labels.split(100), strict=True):
            tokens = embed(self.clip.model.visual, self.clip.pixels(x).to(self.process.device))
            features = self.tower.features(tokens, 0, dict(enumerate(factors)))
            hits.append(self._logits(features[None], [run])[0].argmax(-1).cpu() == y)
        return torch.cat(hits).float().mean().item()


def _begin(clip: Clip, run: LoRARun) -> Adapter:
    """The adapter that a run begins with, as its method draws it."""
    # new modules around the same weights
    model = copy.deepcopy(clip.model, {id(p): p for p in clip.model.parameters()})
    return Attached(model, run.lora, generator(run.settings.seed, 0, "init")).adapter()


def _padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (classes, e) of each run → (k, most classes, e), and which are absent."""
    most = max(map(len, texts))
    text = torch.stack([F.pad(x, (0, 0, 0, most - len(x))) for x in texts])
    absent = torch.arange(most)[None] >= torch.tensor([[len(x)] for x in texts])
    return text, absent.to(text.device)


def _of_first(factors: Factors, k: int) -> Factors:
    """The factors of the first k runs."""
    return {part: (a if callable(a) else a[:k], b[:k]) for part, (a, b) in factors.items()}


class _Batch:
    """What one run draws in one step, in the order in which it draws: images first."""

    def __init__(self, run: LoRARun, step: int) -> None:
        self.generator = generator(run.settings.seed, step, "batch")
        self.rows = batch_rows(len(run.task.train), run.settings.batch, self.generator)
        self.labels = run.task.train.labels[self.rows]


class _Images:
    """The training images of one run: augmented anew in each step, or kept in some copies."""

    MOST = 2**30
    """Bytes that a group keeps of images as they enter blocks; beyond, only of the first."""

    def __init__(self, clip: Clip, tower: Tower, run: LoRARun, process: Process, runs: int) -> None:
        self.clip, self.tower, self.run, self.process = clip, tower, run, process
        self.views: Tensor | None = None
        if not run.settings.views:
            return
        copies = augmented_copies(clip, run.task, run.settings.views, run.settings.seed)
        with torch.no_grad():
            first = torch.cat([embed(clip.model.visual, x) for c in copies for x in c.split(CHUNK)])
        everywhere = first.nbytes * len(tower.blocks) <= self.MOST // runs
        self.views = first.new_empty((len(tower.blocks) if everywhere else 1, *first.shape))
        self.views[0] = first
        self.depth = torch.zeros(len(first), dtype=torch.int64)

    def fresh(self, batch: _Batch) -> Tensor:
        """This process's share of a batch, augmented: normalised pixels (n, 3, side, side)."""
        pixels = self.clip.pixels(self.run.task.train.images[batch.rows])
        return self.process.share(self.run.task.augment(pixels, batch.generator))

    @torch.no_grad()
    def kept(self, batch: _Batch, layer: int) -> Tensor:
        """Its share of kept copies as they enter block `layer`, (n, t, d); computed once."""
        assert self.views is not None
        n = len(batch.rows)
        view = torch.randint(self.run.settings.views, (n,), generator=batch.generator)
        mine = slice(self.process.rank, None, self.process.world_size)
        rows = (view * len(self.run.task.train) + batch.rows)[mine]
        if len(self.views) == 1:
            return self.tower.through(self.views[0, rows], 0, layer)
        for depth in range(layer):
            behind = rows[self.depth[rows] == depth].unique()
            if len(behind):
                self.views[depth + 1, behind] = self.tower.through(
                    self.views[depth, behind], depth, depth + 1
                )
                self.depth[behind] = depth + 1
        return self.views[layer, rows]
