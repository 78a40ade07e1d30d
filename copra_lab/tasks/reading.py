"""Reading the pictures of a listing that a task is to have, and saying what was unusual about them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from copra_lab.tasks.decoding import PictureError
from copra_lab.tasks.emoji.selection import Entry
from copra_lab.tasks.listing import Listing
from copra_lab.tasks.photos import Fit, all_of, photos

Choice = Callable[[list[Entry]], list[Entry]]
"""Of the entries of a part, those to read."""


@dataclass
class Reading:
    """Reads the pictures of a listing, `side` pixels wide and high, part after part; see `photos.photo` for `fit`."""

    found: Listing
    side: int
    fit: Fit | None = None
    failed: dict[str, PictureError] = field(default_factory=dict)
    odd: Counter[str] = field(default_factory=Counter)

    def part(self, part: str, verb: str, choose: Choice) -> tuple[list[Entry], torch.Tensor]:
        """The entries that are chosen of a part, and their pictures, uint8 (n, side, side, 3). In a lenient listing another entry is
        chosen for one whose picture cannot be read, as if that one were not there.

        Raises ValueError where the part is empty, where a picture cannot be read, or in a lenient listing none of a class.
        """
        found, read = self.found, dict[str, torch.Tensor]()
        own = [e for e in found.entries if e.part == part]
        if not own:
            raise ValueError(
                f"{found.title} has no images to {verb} on: give a data set that has three or more of each class"
            )
        while True:
            chosen = choose([e for e in own if e.source not in self.failed])
            if not (wanted := [e.source for e in chosen if e.source not in read]):
                break
            got = photos(wanted, found.open, self.side, f"{found.name} {part}", self.fit)
            failed = {wanted[i]: error for i, error in got.failed.items()}
            if failed and not found.lenient:
                raise all_of(failed.values())
            self.failed |= failed
            self.odd.update(got.odd)
            if len(got.images) == len(chosen) and not failed:
                return chosen, got.images
            read |= {
                source: image
                for source, image in zip(wanted, got.images, strict=True)
                if source not in failed
            }
        if {e.label for e in own} - {e.label for e in chosen}:
            raise all_of([self.failed[e.source] for e in own if e.source in self.failed])
        return chosen, torch.stack([read[e.source] for e in chosen])

    def readable(self, part: str) -> int:
        """How many pictures of a part there are, as far as is known."""
        return sum(e.part == part and e.source not in self.failed for e in self.found.entries)

    def notes(self) -> tuple[str, ...]:
        """What a reader of numbers should know, a sentence each."""
        return unusual(self.odd) + passed_over(
            [*self.found.passed, *((source, e.reason) for source, e in self.failed.items())]
        )


def unusual(odd: Mapping[str, int]) -> tuple[str, ...]:
    """What was unusual about pictures, counted as `photos.Read` does."""
    sentences = {
        "deep": "{} of more than 8 bits, of which the high ones were taken.",
        "dim": "{} of these nearly black, using less than a sixteenth of their range: stretch them first if that is not meant.",
        "frames": "{} with several frames or pages, of which the first was taken.",
    }
    return tuple(
        said.format(f"{odd[word]:,}" if word == "dim" else _images(odd[word]))
        for word, said in sentences.items()
        if odd.get(word)
    )


def passed_over(files: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """(name, reason) of what is not in the task, in a sentence, if there is any."""
    if not files:
        return ()
    name, reason = files[0]
    return (
        f"Passed over: {name} ({reason})."
        if len(files) == 1
        else f"Passed over: {len(files):,} files, the first {name} ({reason}).",
    )


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n:,} images"
