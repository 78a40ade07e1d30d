"""A task and its parts, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from copra_lab.tasks.augmentation import random_crop


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels. Tasks share these tensors: read them, never write into them.

    Attributes:
        images: uint8 (n, side, side, 3).
        labels: int64 (n,).
        sources: What each image shows, such as ``twemoji:1f415``.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        return f"Split({len(self)} images)"

    def pick(self, rows: Sequence[int]) -> "Split":
        """The split with only these rows, in this order."""
        index = torch.tensor(rows, dtype=torch.int64)
        return Split(self.images[index], self.labels[index], tuple(self.sources[i] for i in rows))


@dataclass(frozen=True, eq=False)
class Task:
    """A classification problem.

    Attributes:
        name: Its name, unique among results.
        title: A short title, for a menu.
        about: What is asked, and what pretraining knew of it, in a sentence or two.
        classes: Class names, as they stand in prompts.
        template: The prompt, with {} for the class name.
        train: Images to train on; a class with few images has fewer than `shots`.
        val: Images to validate on.
        test: Images to test on.
        shots: Training images per class, at most.
        seed: What chose the shots.
        flip: Whether a mirror image keeps its label.
        notes: Sentences of `about` on files that were skipped and images that are unusual.
        options: What `load_task` needs, besides the name, to make the same task again. It is kept
            in the provenance of adapters trained on the task.
        group: One of `TASK_GROUPS`, or "" for your own images.
        crop: Least share of the area that a training crop keeps.
    """

    name: str
    title: str
    about: str
    classes: tuple[str, ...]
    template: str
    train: Split
    val: Split
    test: Split
    shots: int
    seed: int
    flip: bool
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    crop: float = 0.5

    def __repr__(self) -> str:
        return f"Task({self.name}, {self.counts})"

    @property
    def counts(self) -> str:
        """The numbers of classes and images, in words."""
        return (
            f"{len(self.classes)} classes, images: {len(self.train)} to train, "
            f"{len(self.val)} to validate, {len(self.test)} to test"
        )

    @property
    def prompts(self) -> list[str]:
        """The text of each class, in order: the template with its name."""
        return [self.template.format(c) for c in self.classes]

    def with_classes(self, which: Sequence[int]) -> "Task":
        """The task of telling apart only some of the classes.

        Args:
            which: Numbers of different classes; class ``which[i]`` gets label i.

        Raises:
            ValueError: A number repeats or is out of range, or there is none.
        """
        which, n = [int(c) for c in which], len(self.classes)
        if not which or len(set(which)) < len(which) or not set(which) <= set(range(n)):
            raise ValueError(
                f"choose at least one of the classes 0 to {n - 1}, each once; got {which}"
            )

        def part(split: Split) -> Split:
            kept = split.pick([i for i, c in enumerate(split.labels.tolist()) if c in which])
            labels = [which.index(c) for c in kept.labels.tolist()]
            return replace(kept, labels=torch.tensor(labels, dtype=torch.int64))

        return replace(
            self,
            name=f"{self.name}[{','.join(map(str, which))}]",  # results are kept by name
            classes=tuple(self.classes[c] for c in which),
            train=part(self.train),
            val=part(self.val),
            test=part(self.test),
        )

    def base_and_new(self) -> tuple["Task", "Task"]:
        """The first half of the classes, to train on, and the second, to test on.

        This is the split of CoCoOp (arXiv:2203.05557).
        """
        n = len(self.classes)
        return self.with_classes(range((n + 1) // 2)), self.with_classes(range((n + 1) // 2, n))

    def augment(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Random resized crops of float (n, 3, h, w), mirrored if the task allows it."""
        return random_crop(pixels, generator, flip=self.flip, least=self.crop)
