"""The table of bundled tasks, one per row, and how the images of a row are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F

from copra_lab.tasks import difficulty as di
from copra_lab.tasks.emoji import corruptions as nu
from copra_lab.tasks.emoji import selection as so
from copra_lab.tasks.emoji.drawings import SIZE, drawings
from copra_lab.tasks.emoji.recipe import Recipe
from copra_lab.tasks.scenes.catalogue import SCENES
from copra_lab.tasks.scenes.sources import BETWEEN

HELD_OUT = (
    "Held out: pretraining saw none of these drawings, and no image that has one of their names."
)
KNOWN = "Pretraining saw these drawings, but never like this:"
OF_ALL_KINDS = (
    "Tell the kind of thing, of all the kinds of animals, plants, food, places, vehicles, games "
    "and objects."
)


def _known(title: str, question: str, manner: str, *categories: str, **more: Any) -> Recipe:
    return Recipe(title, f"{question} {KNOWN} {manner}", partial(so.kinds, *categories), **more)


# The strength of each nuisance was chosen on training and validation drawings, where the bundled
# CLIP gets about a third to 60 % right zero-shot; the newest tasks were tried with LoRA on such
# drawings too. Which tasks they replaced was decided after seeing an earlier table of test results,
# and ten of the forty novel names were seen, test drawings included, while that task was tried. Two
# tasks are kept although adapting changes little: `novel-kinds`, which shows what a small CLIP
# cannot learn from a few drawings, and `same-drawings`.
TASKS: dict[str, Recipe] = {
    "known-groups": Recipe(
        "What sort of thing?",
        "Tell what sort of thing a drawing shows: animal, food, vehicle, … Near: pretraining saw "
        "these drawings with their names and kinds, but read next to nothing of these broader "
        "sorts.",
        so.groups,
    ),
    "novel-kinds": Recipe(
        "New things: what kind?",
        f"Tell the kind of thing a drawing shows. {HELD_OUT} Near: the kinds themselves are "
        "familiar from other drawings.",
        partial(so.kinds, held_out=True), group="novel",
    ),
    "novel-names": Recipe(
        "New things: which one?",
        f"Name the animal, plant or food, of forty. {HELD_OUT} One drawing of each trains, a "
        "drawing by another artist tests.",
        so.novel_names, group="novel",
    ),
    "style-shift": Recipe(
        "New things, another artist",
        f"Tell what sort of thing it is. {HELD_OUT} All training drawings come from OpenMoji, all "
        "test drawings from Twemoji, of other things.",
        so.style_shift, group="novel",
    ),
    "icons": Recipe(
        "Icons: what sort?",
        "Tell what sort of thing a one-colour icon shows. Pretraining saw these icons with their "
        "names, but never read of what sort they are.",
        so.icon_groups, "an icon of a {}", shadow=0.0,
    ),
    "things-blur": _known(
        "Everything out of focus",
        OF_ALL_KINDS, "out of focus.",
        *so.THINGS, nuisance=partial(nu.blur, sigma=di.BLUR),
    ),
    "things-mosaic": _known(
        "Everything in coarse pixels",
        OF_ALL_KINDS, "pixelated to 10 to 12 squares a side.",
        *so.THINGS, nuisance=partial(nu.mosaic, cells=di.MOSAIC),
    ),
    "things-shadows": _known(
        "Everything by its shadow",
        OF_ALL_KINDS, "dark shapes through which a third of their colours shows.",
        *so.THINGS, shadow=di.SHADOW,
    ),
    "things-sketch": _known(
        "Everything as a pencil sketch",
        OF_ALL_KINDS, "grey pencil lines with a pale wash of their colours.",
        *so.THINGS, nuisance=partial(nu.sketch, tint=di.SKETCH),
    ),
    "travel-solarised": _known(
        "Travel on spoilt prints",
        "Tell vehicles, buildings, landscapes and weather apart.",
        "inverted where they are bright, as a photograph that saw light too early.",
        "Travel & Places", nuisance=partial(nu.negative, above=di.SOLARISED),
    ),
    "faces-noise": _known(
        "Faces in a snowstorm",
        "Tell a face's mood or costume.", "under noise, one pixel in twenty dead.",
        "Smileys & Emotion", nuisance=partial(nu.noise, sigma=di.NOISE, dead=di.DEAD),
    ),
    "people-occluded": _known(
        "People behind patches",
        "Tell what people, hands and body parts are doing.", "with a sixth of the picture covered.",
        "People & Body", nuisance=partial(nu.patches, share=di.HIDDEN),
    ),
    "symbols-waves": _known(
        "Symbols under water",
        "Tell the kind of sign.", "bent as through rippling water.",
        "Symbols", nuisance=partial(nu.waves, reach=di.WAVES), flip=False,
    ),
    "same-drawings": Recipe(
        "The same drawings again",
        "Name the thing. The test shows the very drawings of the training part, known from "
        "pretraining too, in other places, sizes and angles: nearly solved, and no measure of "
        "generalisation.",
        so.same_drawings,
    ),
    "same-drawings-occluded": Recipe(
        "The same drawings behind patches",
        "Name the thing. The test shows the very drawings of the training part, known from "
        "pretraining too, behind other patches: it measures robustness, not generalisation to new "
        "drawings.",
        so.same_drawings, nuisance=partial(nu.patches, share=di.HIDDEN_AGAIN),
    ),
    "count": Recipe(
        "How many?",
        f"Count one to five copies of a drawing. {HELD_OUT} Far: pretraining was never asked to "
        "count.",
        so.unlabelled, "{} objects", "structured", deal=so.NUMBERS[1:6], number=True,
    ),
    **SCENES,
    "digits": Recipe(
        "Handwritten digits",
        "Read a digit written by hand (scikit-learn's set). Far: pretraining saw no handwriting "
        "and next to no digits.",
        so.digit_entries, "a handwritten {}", "real", flip=False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """All images of a task.

    Attributes:
        classes: The classes, in order.
        entries: Of each part.
        images: Of each part's entries, uint8 (n, side, side, 3).
    """

    classes: tuple[str, ...]
    entries: dict[str, tuple[so.Entry, ...]]
    images: dict[str, torch.Tensor]


@cache
def drawn(name: str, side: int) -> Drawn:
    """The images of a task, drawn once for every seed and number of shots."""
    entries = _entries(name)
    parts = {
        "train": tuple(e for e in entries if e.part == "train"),
        "val": tuple(e for e in entries if e.part == "val"),
        "test": tuple(so.tested(entries)),
    }
    images = {
        p: torch.cat([_paint(name, es[i : i + 128], side) for i in range(0, len(es), 128)])
        for p, es in parts.items()
    }
    return Drawn(classes(name), parts, images)


@cache
def classes(name: str) -> tuple[str, ...]:
    """The classes of a task, in order."""
    return TASKS[name].deal or tuple(dict.fromkeys(e.label for e in _entries(name)))


@cache
def _entries(name: str) -> list[so.Entry]:
    """The images of a task, each with its label and part."""
    recipe = TASKS[name]
    entries = so.dealt(recipe.entries())
    return so.labelled_in_turn(entries, recipe.deal) if recipe.number else entries


def _paint(name: str, entries: Sequence[so.Entry], side: int) -> torch.Tensor:
    """The images of some entries, uint8 (n, side, side, 3)."""
    recipe = TASKS[name]
    gens = nu.generators(so.rank(f"{name}/{e.part}/{e.source}") for e in entries)
    if recipe.scene:
        scenes = [
            recipe.scene(_drawings(e.source), recipe.deal.index(e.label), g, side)
            for e, g in zip(entries, gens, strict=True)
        ]
        return nu.to_bytes(nu.on_ground(torch.stack(scenes), gens))
    rgba = _rgba([e.source for e in entries])
    if recipe.number:
        drawing = nu.copies(rgba, [so.NUMBERS.index(e.label) for e in entries], gens, side)
    else:
        drawing = nu.place(rgba, gens, side)
    if recipe.shadow is not None:
        drawing = nu.silhouette(drawing, gens, left=recipe.shadow)
    images = nu.on_ground(drawing, gens)
    return nu.to_bytes(recipe.nuisance(images, gens) if recipe.nuisance else images)


def _drawings(source: str) -> list[torch.Tensor]:
    """The drawings of one image, each uint8 (SIZE, SIZE, 4); none of a clock."""
    return [] if source.startswith("clock:") else list(_rgba(source.split(BETWEEN)))


def _rgba(sources: Sequence[str]) -> torch.Tensor:
    """Digits or else drawings, uint8 (n, SIZE, SIZE, 4) with straight alpha."""
    keys = [source.split(":", 1) for source in sources]
    if keys[0][0] != "digits":
        images = [drawings(style).rgba[_rows(style)[key]] for style, key in keys]
        return torch.stack([torch.from_numpy(image) for image in images])
    ink = so.digits()[0][[int(key) for _, key in keys]]
    ink = F.pad(ink, (1, 1, 1, 1))  # a margin, or strokes end in straight cuts
    ink = F.interpolate(ink, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
    dark = torch.full((len(keys), SIZE, SIZE, 3), 40, dtype=torch.uint8)
    return torch.cat([dark, (ink * 255).byte().permute(0, 2, 3, 1)], -1)


@cache
def _rows(style: str) -> dict[str, int]:
    return {key: i for i, key in enumerate(drawings(style).keys)}
