"""Makes a task of a listing: reads the images it needs and notes what is unusual about them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from copra_lab.tasks.data import Split, Task
from copra_lab.tasks.decoding import PictureError
from copra_lab.tasks.emoji import selection as so
from copra_lab.tasks.listing import Listing
from copra_lab.tasks.photos import Fit, all_of, photos

if TYPE_CHECKING:
    from copra_lab.models.clip import Clip

Choice = Callable[[list[so.Entry]], list[so.Entry]]
"""Chooses the entries of a part that are read."""


def task_of(
    found: Listing, clip: "Clip | None", shots: int, seed: int, side: int, test_images: int | None
) -> Task:
    """Make a task of a listing.

    Args:
        found: The listing.
        clip: Resizes and crops the images, if `side` is what it takes.
        shots: Training and validation images per class, at most.
        seed: Chooses the shots.
        side: Width and height of the images in pixels.
        test_images: Test images at most, the same number per class; None is all.

    Raises:
        ValueError: A part is empty, or an image cannot be read; in a lenient listing, no image of
            a class.
    """
    reading = Reading(found, side, clip.fit if clip and clip.side == side else None)
    parts = (
        reading.split("train", "train", lambda own: so.first(own, shots, f"{seed}/")),
        reading.split("val", "validate", lambda own: so.first(own, shots)),
        reading.split("test", "test", lambda own: so.tested(own, test_images)),
    )
    asked, readable, notes = len(parts[2]), reading.readable("test"), reading.notes()
    few = [f"Tested on {asked:,} of {readable:,} images."] if asked < readable else []
    about, classes = " ".join([found.about, *few, *notes]), tuple(found.classes.values())
    texts = (found.name, found.title, about, classes, found.template)
    return Task(
        *texts, *parts, shots, seed, flip=True,
        notes=notes, options=found.options, group=found.group,
    )  # fmt: skip


@dataclass
class Reading:
    """Reads the images of a listing part by part, and remembers what went wrong.

    Attributes:
        found: The listing.
        side: Width and height of the images in pixels.
        fit: See `photos.photo`.
        failed: Errors of the images that could not be read, by source.
        odd: Counts of what was unusual, as in `photos.Read`.
    """

    found: Listing
    side: int
    fit: Fit | None = None
    failed: dict[str, PictureError] = field(default_factory=dict)
    odd: Counter[str] = field(default_factory=Counter)

    def split(self, part: str, verb: str, choose: Choice) -> Split:
        """Read the images of a part that are chosen.

        In a lenient listing an unreadable image is replaced by another choice, as if it did not
        exist.

        Args:
            part: "train", "val" or "test".
            verb: What the part is for, in an error.
            choose: Chooses the entries to read.

        Raises:
            ValueError: The part is empty, or an image cannot be read; in a lenient listing, no
                image of a class.
        """
        own = [e for e in self.found.entries if e.part == part]
        if not own:
            title = self.found.title
            raise ValueError(
                f"{title} has no images to {verb} on: give three or more of each class"
            )
        read: dict[str, torch.Tensor] = {}
        while True:
            chosen = choose([e for e in own if e.source not in self.failed])
            if not (wanted := [e.source for e in chosen if e.source not in read]):
                break
            images, failed = self._read(wanted, part)
            if len(images) == len(chosen) and not failed:
                return split_of(chosen, images, list(self.found.classes))
            pairs = zip(wanted, images, strict=True)
            read |= {source: image for source, image in pairs if source not in failed}
        if {e.label for e in own} - {e.label for e in chosen}:
            raise all_of([self.failed[e.source] for e in own if e.source in self.failed])
        images = torch.stack([read[e.source] for e in chosen])
        return split_of(chosen, images, list(self.found.classes))

    def _read(self, sources: list[str], part: str) -> tuple[torch.Tensor, dict[str, PictureError]]:
        found = self.found
        got = photos(sources, found.open, self.side, f"{found.name} {part}", self.fit)
        failed = {sources[i]: error for i, error in got.failed.items()}
        if failed and not found.lenient:
            raise all_of(failed.values())
        self.failed |= failed
        self.odd.update(got.odd)
        return got.images, failed

    def readable(self, part: str) -> int:
        """The number of images of a part that are not known to be unreadable."""
        return sum(e.part == part and e.source not in self.failed for e in self.found.entries)

    def notes(self) -> tuple[str, ...]:
        """What a reader of numbers should know, in sentences."""
        failed = [(source, e.reason) for source, e in self.failed.items()]
        return unusual(self.odd) + passed_over([*self.found.passed, *failed])


def split_of(entries: Sequence[so.Entry], images: torch.Tensor, classes: Sequence[str]) -> Split:
    """The split of these entries, labelled with the numbers of their classes."""
    number = {label: i for i, label in enumerate(classes)}
    labels = torch.tensor([number[e.label] for e in entries], dtype=torch.int64)
    return Split(images, labels, tuple(e.source for e in entries))


_UNUSUAL = {
    "deep": "{} of more than 8 bits, of which the high ones were taken.",
    "dim": "{:,} of these nearly black, using less than a sixteenth of their range: stretch them "
    "first if that is not meant.",
    "frames": "{} with several frames or pages, of which the first was taken.",
}


def unusual(odd: Mapping[str, int]) -> tuple[str, ...]:
    """Sentences about what was unusual, counted as in `photos.Read`."""
    counts = {word: n if word == "dim" else _images(n) for word, n in odd.items() if n}
    return tuple(said.format(counts[word]) for word, said in _UNUSUAL.items() if word in counts)


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n:,} images"


def passed_over(files: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """A sentence about the files (name, reason) that were skipped, if there are any."""
    first = [f"{name} ({reason})." for name, reason in files[:1]]
    many = f"{len(files):,} files, the first " if len(files) > 1 else ""
    return tuple(f"Passed over: {many}{file}" for file in first)
