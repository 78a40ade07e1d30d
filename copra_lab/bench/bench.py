"""The lab bench: measures adapters on a task, fast, and never changes a model."""

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from copra_lab.adapters.adapter import NONE, Adapter, check_fits, merged_weights
from copra_lab.engine.extraction import append_context, embed, plain_tower
from copra_lab.engine.prefix_tree import PrefixTree
from copra_lab.engine.text_encoder import Encoder, encode_texts
from copra_lab.engine.transformer import CHUNK, MOST_WORKERS, Tower, workers
from copra_lab.merging.barriers import barrier
from copra_lab.merging.linear import SPACES, plane
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import SoftPrompt, check_prompt
from copra_lab.tasks.task import Task
from copra_lab.utils.checks import one_of
from copra_lab.utils.devices import cores
from copra_lab.utils.statistics import Accuracy

__all__ = ["Bench", "Path"]

LINE = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class Path:
    """Accuracy along a line between two adapters: an `Accuracy` for each weight λ."""

    weights: tuple[float, ...]
    accuracies: tuple[Accuracy, ...]

    @property
    def barrier(self) -> float:
        """How far accuracy falls below the line between its ends, 0…1 (see `barrier`)."""
        return barrier(self.weights, [a.value for a in self.accuracies])


class Bench:
    """A CLIP and the images of a task, with everything cached that no adapter can change.

    Images come in a fixed shuffled order, so the first k of them are a fair sample.

    Args:
        clip: the base.
        task: images and classes.
        split: "train", "val" or "test".
        precision: "float32", "bfloat16", or "auto": bfloat16 only where it is faster on this
            processor and the base predicts the same on at least 95 of 100 images.

    Attributes:
        order: the row of each image in ``split``, (n,).
        labels: its class, (n,).
        text: normalised features of the prompts, (classes, e).
        dtype: of the matrix products in the image tower.
        agreement: the share of images on which float32 and bfloat16 predict the same.

    Raises:
        ValueError: for an unknown split or precision.
    """

    def __init__(
        self, clip: Clip, task: Task, split: str = "test", precision: str = "auto"
    ) -> None:
        one_of("split", split, ("train", "val", "test"))
        one_of("precision", precision, ("auto", "float32", "bfloat16"))
        self.clip, self.task, self.split = clip, task, getattr(task, split)
        shuffled = torch.Generator().manual_seed(0)
        self.order = torch.randperm(len(self.split.labels), generator=shuffled)
        self.labels = self.split.labels[self.order]
        self.text = clip.text_features(task.prompts).clone()
        self._lock = threading.Lock()
        self._copy: torch.nn.Module | None = None
        self.base = _towers(clip)[0]
        self.dtype, self.agreement = torch.float32, 1.0
        self.tower: Tower | None = self.base
        if self.base is not None:
            with torch.inference_mode():
                images = self.split.images[self.order]
                self.tokens = torch.cat(  # (n, t, d), as they enter the first block
                    [embed(clip.model.visual, clip.pixels(x)) for x in images.split(CHUNK)]
                )
            if precision != "float32":
                self._try_bfloat16(forced=precision == "bfloat16")

    def __len__(self) -> int:
        return len(self.labels)

    def _try_bfloat16(self, forced: bool) -> None:
        """Use bfloat16 if it is faster and predicts the same, or at once if `forced`."""
        assert self.base is not None
        small = _towers(self.clip)[1]
        if small is None:
            return
        sample = self.tokens[:200]
        if not forced and not _bfloat16_is_faster(sample.shape[1], self.base, small):
            return
        full, half = ((_features(t, sample) @ self.text.T).argmax(-1) for t in (self.base, small))
        agreement = (full == half).float().mean().item()
        if forced or agreement >= 0.95:
            self.tower, self.dtype, self.agreement = small, torch.bfloat16, agreement

    @property
    def sources(self) -> list[str]:
        """The source that each image was made from, in the bench's order."""
        return [self.split.sources[i] for i in self.order.tolist()]

    def logits(
        self,
        adapter: Adapter = NONE,
        start: int = 0,
        stop: int | None = None,
        prompt: SoftPrompt | None = None,
    ) -> Tensor:
        """Cosine similarities times CLIP's scale, (images, classes).

        Args:
            adapter: merged into both towers.
            start: first image, in the bench's order.
            stop: where to stop, None for all images.
            prompt: a soft prompt for either tower.

        Raises:
            ValueError: for an adapter or prompt of another base or shape.
        """
        vision, texts = self._by_tower(adapter)
        if prompt is not None:
            check_prompt(prompt, self.clip, self.task.classes)
        with torch.inference_mode():
            if prompt is not None and prompt.tower == "text":
                text = self._encoder(prompt, texts)(prompt.context[None])[0]
                f = self._features_for_texts(vision, start, stop)
            else:
                text, f = self._text(texts), self._features(vision, start, stop, prompt)
            return self.clip.logit_scale * f @ text.T

    @cached_property
    def _base_features(self) -> Tensor:
        """Features of all images without an adapter, (n, e): no text prompt changes them."""
        with torch.inference_mode():
            return self._features(NONE)

    def _features_for_texts(
        self, vision: Adapter, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """`_features`, kept where there is no adapter."""
        if vision.deltas:
            return self._features(vision, start, stop)
        return self._base_features[start:stop]

    def _features(
        self,
        vision: Adapter,
        start: int = 0,
        stop: int | None = None,
        prompt: SoftPrompt | None = None,
    ) -> Tensor:
        """Normalised features of the images `start` to `stop`, (images, e)."""
        if self.base is not None and self.tower is not None:
            # Merged on a single-threaded worker: with such small matrices, several threads mostly
            # wait for each other.
            tower = self.tower
            if vision.deltas:
                deltas = {self.clip.sites[n]: d for n, d in vision.deltas.items()}
                tower = workers().submit(tower.with_deltas, self.base, deltas).result()
            context = prompt.context if prompt else None
            return _features(tower, append_context(self.tokens[start:stop], context))
        if prompt:
            raise ValueError("a soft prompt for images needs a plain ViT, and this CLIP has none")
        images = self.split.images[self.order[start:stop]]
        return torch.cat(
            [self._encode_images(vision, self.clip.pixels(x)) for x in images.split(CHUNK)]
        )

    def _encoder(self, prompt: SoftPrompt, texts: Adapter) -> Encoder:
        return _encoders(self.clip, self.task.classes, prompt.length, prompt.position, texts)

    def hits(self, prompts: Sequence[SoftPrompt], adapter: Adapter = NONE) -> Tensor:
        """Whether each image is classified correctly with each of several soft prompts.

        The features of the images are computed once for all prompts of the text tower.

        Returns:
            1 or 0, float32 (prompts, images), in the bench's order.

        Raises:
            ValueError: as `logits` does.
        """
        out = torch.empty(len(prompts), len(self))
        vision, texts = self._by_tower(adapter)
        together: dict[tuple, list[int]] = {}
        for i, p in enumerate(prompts):
            if p.tower == "vision":
                out[i] = (self.logits(adapter, prompt=p).argmax(-1) == self.labels).float()
            else:
                check_prompt(p, self.clip, self.task.classes)
                together.setdefault((p.position, p.context.shape), []).append(i)
        for members in together.values():
            with torch.inference_mode():
                f = self._features_for_texts(vision)
                encode = self._encoder(prompts[members[0]], texts)
                for some in (members[i : i + CHUNK] for i in range(0, len(members), CHUNK)):
                    text = encode(torch.stack([prompts[i].context for i in some]))
                    out[some] = ((f @ text.transpose(-1, -2)).argmax(-1) == self.labels).float()
        return out

    def outcomes(self, adapters: Sequence[Adapter], value: str = "accuracy") -> Tensor:
        """Measure every adapter on every image; more is better in each measure.

        What adapters share is computed once: texts, and the first blocks of the image tower where
        they hold the very same deltas (as parts of one adapter do, see `copra_lab.pruning.keep`).

        Args:
            adapters: the adapters.
            value: "accuracy", 1 where the prediction is correct, else 0; "loss", minus the
                cross-entropy in nats; "margin", the cosine with the true class minus that with
                the best other one.

        Returns:
            float32 (adapters, images), in the bench's order.

        Raises:
            ValueError: for an unknown measure, and as `logits` does.
        """
        one_of("value", value, MEASURES)
        measure = MEASURES[value]
        out = torch.empty(len(adapters), len(self))
        if self.base is None or self.tower is None:
            for i, adapter in enumerate(adapters):
                out[i] = measure(self.logits(adapter), self.labels, self.clip.logit_scale)
            return out
        towers = [self._by_tower(a) for a in adapters]
        distinct = {text.hash: text for _, text in towers}
        texts = {h: self._text(text) for h, text in distinct.items()}
        tree = workers().submit(self._prefix_tree, [vision for vision, _ in towers]).result()

        @torch.inference_mode()
        def run(start: int) -> None:
            rows = slice(start, start + CHUNK)
            for same, f in tree.features(self.tokens[rows]):  # f (images, e)
                by_text: dict[str, Tensor] = {}
                for i in same:
                    h = towers[i][1].hash
                    if h not in by_text:
                        logits = self.clip.logit_scale * f @ texts[h].T  # (images, classes)
                        by_text[h] = measure(logits, self.labels[rows], self.clip.logit_scale)
                    out[i, rows] = by_text[h]

        list(workers().map(run, range(0, len(self), CHUNK)))
        return out

    def accuracies(self, adapters: Sequence[Adapter]) -> list[Accuracy]:
        """The accuracy of each adapter; what they share is computed once, as in `outcomes`."""
        return [Accuracy(int(hits), len(self)) for hits in self.outcomes(adapters).sum(1)]

    def _by_tower(self, adapter: Adapter) -> tuple[Adapter, Adapter]:
        """An adapter's image tower and its text tower, as two adapters."""
        check_fits(adapter, self.clip.sites, self.clip.hash)
        vision = {n: d for n, d in adapter.deltas.items() if self.clip.sites[n].tower == "vision"}
        text = {n: d for n, d in adapter.deltas.items() if n not in vision}
        return Adapter(vision), Adapter(text)

    @torch.inference_mode()
    def _prefix_tree(self, adapters: Sequence[Adapter]) -> PrefixTree:
        """The image towers with these adapters merged, shared first blocks held once."""
        assert self.base is not None
        assert self.tower is not None
        made: dict = {}
        deltas = [{self.clip.sites[n]: d for n, d in a.deltas.items()} for a in adapters]
        return PrefixTree([self.tower.with_deltas(self.base, d, made) for d in deltas])

    def _text(self, adapter: Adapter) -> Tensor:
        """Normalised features of the prompts with an adapter, (classes, e)."""
        return encode_texts(self.clip, self.task.prompts, adapter) if adapter.deltas else self.text

    def _encode_images(self, adapter: Adapter, x: Tensor) -> Tensor:
        """The slow, general way: the model's own code on merged weights, (n, 3, h, w) → (n, e).

        One caller at a time, on a private copy: `functional_call` swaps the weights of the module.
        """
        with self._lock, torch.inference_mode():
            if self._copy is None:
                self._copy = copy.deepcopy(self.clip.model)
                self._copy.forward = self._copy.encode_image
            weights = merged_weights(self.clip.model, adapter)
            return F.normalize(functional_call(self._copy, weights, (x,)), dim=-1)

    def predictions(self, adapter: Adapter = NONE, prompt: SoftPrompt | None = None) -> Tensor:
        """The class predicted for each image, (n,), in the bench's order."""
        return self.logits(adapter, prompt=prompt).argmax(-1)

    def accuracy(self, adapter: Adapter = NONE, prompt: SoftPrompt | None = None) -> Accuracy:
        """Top-1 accuracy with its interval."""
        return self.score(self.predictions(adapter, prompt))

    def stream(
        self, adapter: Adapter = NONE, first: int = 100, prompt: SoftPrompt | None = None
    ) -> Iterator[Tensor]:
        """Predictions for the first `first` images, (first,), and then for all of them, (n,)."""
        head = self.logits(adapter, 0, first, prompt).argmax(-1)
        yield head
        if first < len(self):
            yield torch.cat([head, self.logits(adapter, first, prompt=prompt).argmax(-1)])

    def score(self, predictions: Tensor) -> Accuracy:
        """The accuracy of predictions (k,) for the first k images, as `stream` yields them."""
        n = len(predictions)
        return Accuracy(int((predictions == self.labels[:n]).sum()), n)

    def path(
        self, a: Adapter, b: Adapter, weights: Sequence[float] = LINE, space: str = "delta"
    ) -> Path:
        """Accuracy along the line between two adapters.

        Args:
            a: the adapter at λ = 0.
            b: the adapter at λ = 1.
            weights: values of λ to measure.
            space: "delta", the line (1−λ)·ΔW_a + λ·ΔW_b; "factors", the line of A and B; or
                "aligned", that of A and B after alignment (see `interpolate_aligned`).

        Raises:
            ValueError: for another space.
        """
        one_of("space", space, SPACES)
        points = [SPACES[space](a, b, w) for w in weights]
        return Path(tuple(weights), tuple(self.accuracies(points)))

    def landscape(
        self, a: Adapter, b: Adapter, c: Adapter, x: Sequence[float], y: Sequence[float]
    ) -> list[list[Accuracy]]:
        """Accuracies over the plane through three adapters (see `copra_lab.merging.plane`).

        Returns:
            A row for each of `y`, with an accuracy for each of `x`.
        """
        found = self.accuracies([plane(a, b, c, u, v) for v in y for u in x])
        return [found[i : i + len(x)] for i in range(0, len(found), len(x))]


def _margin(logits: Tensor, labels: Tensor, scale: float) -> Tensor:
    right = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return (right - others) / scale


MEASURES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "accuracy": lambda logits, labels, scale: (logits.argmax(-1) == labels).float(),
    "loss": lambda logits, labels, scale: -F.cross_entropy(logits, labels, reduction="none"),
    "margin": _margin,
}
"""Measures: logits (n, classes), labels (n,) and CLIP's scale → (n,), more is better."""


@lru_cache(64)
def _encoders(
    clip: Clip, classes: tuple[str, ...], length: int, position: str, texts: Adapter
) -> Encoder:
    """The encoders used last: making one tokenises all class names."""
    return Encoder(clip, classes, length, position, texts)


@cache
def _towers(clip: Clip) -> tuple[Tower | None, Tower | None]:
    """The image tower in float32 and in bfloat16, shared by every bench of one CLIP."""
    return plain_tower(clip.model.visual), plain_tower(clip.model.visual, torch.bfloat16)


@cache
def _bfloat16_is_faster(tokens: int, full: Tower, half: Tower) -> bool:
    """Whether this processor runs the tower clearly faster in bfloat16; measured once a model."""
    x = torch.zeros(2 * CHUNK, tokens, len(full.ln_post[0]))

    def seconds(tower: Tower, images: int) -> float:
        start = time.perf_counter()
        _features(tower, x[:images])
        return time.perf_counter() - start

    # A few images are enough for a large tower: as many as run in half a second, since nobody asked
    # for this measurement.
    images = max(1, min(len(x), int(0.5 / seconds(full, 1))))
    best = min(seconds(full, images) for _ in range(5))
    # Without instructions for bfloat16 it is far slower, and repeating that would take seconds.
    if seconds(half, images) >= 4 * best:
        return False
    return min(seconds(half, images) for _ in range(5)) < 0.85 * best


def _features(tower: Tower, tokens: Tensor) -> Tensor:
    """Tokens (n, t, d) → normalised features (n, e), on all workers."""
    share = -(-len(tokens) // cores(MOST_WORKERS))  # few images are shared out evenly
    size = max(1, min(CHUNK, share))
    run = torch.inference_mode()(tower.features)
    return torch.cat(list(workers().map(run, tokens.split(size))))
