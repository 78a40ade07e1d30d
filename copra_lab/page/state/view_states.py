"""The models that a visitor can ask for, as values: what a view's controls say, turned into an adapter when measured."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from torch import Tensor

from copra_lab.adapters.adapter import NONE, Adapter
from copra_lab.bench.bench import Bench
from copra_lab.merging.linear import interpolate, interpolate_factors, weighted_sum
from copra_lab.models.sites import site_of
from copra_lab.page.state.lab import Lab
from copra_lab.prompts.corruption import replace as drawn_anew
from copra_lab.prompts.corruption import rescale
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.pruning import keep, layers_of, sparsify

LOW, HIGH, STEP = -0.5, 1.5, 0.02

SPACES = {"delta": interpolate, "factors": interpolate_factors}
"""What is mixed on the way from one adapter to another: ΔW, or A and B by themselves."""

UNITS = 120
"""Weights in a triangle are whole numbers of these parts: two decimals, and thirds."""

MIDDLE = UNITS // 3
"""What B and C count where a visitor of the triangle begins, in `UNITS`."""

BEYOND = 20
"""How far, in `UNITS`, a weight in a triangle may be below zero."""

MOST_PERCENT = 200
"""Percent of its learned norm that a vector of a prompt can be stretched to."""


class Place(Protocol):
    """A model to be measured. Equal places are the same model, so that what was measured is found again."""

    @property
    def task(self) -> str: ...

    @property
    def position(self) -> float:
        """Where the slider is."""
        ...

    @property
    def line(self) -> Hashable:
        """The same for all places that the slider leads to: they make one curve."""
        ...

    @property
    def subject(self) -> Hashable:
        """The same for all places that belong into one table, and that are cleared together."""
        ...

    @property
    def references(self) -> "tuple[Place, ...]":
        """What the number here is held against: measured before it, on all images."""
        ...

    def model(self, lab: Lab) -> "Model":
        """Raises AdapterError or PromptError if a file is broken or does not fit."""
        ...


@dataclass(frozen=True)
class Model:
    """What the CLIP wears at a place."""

    adapter: Adapter = NONE
    prompt: SoftPrompt | None = None

    def predictions(self, bench: Bench, start: int = 0, stop: int | None = None) -> Tensor:
        """Classes of the images `start` to `stop` in the bench's order."""
        return bench.logits(self.adapter, start, stop, self.prompt).argmax(-1)


@dataclass(frozen=True)
class Base:
    """No adapter at all."""

    task: str
    position = 0.0
    references = ()

    @property
    def line(self) -> Hashable:
        return self

    subject = line

    def model(self, lab: Lab) -> Model:
        return Model()


@dataclass(frozen=True)
class Blended:
    """The point λ = ``weight`` on the line between two adapters, given by their keys on the shelf, in one of `SPACES`;
    ``beside`` are lines to be drawn beside this one, and ``compare`` whether another method's is wanted there: no part of the model."""

    task: str
    a: str
    b: str
    weight: float = 0.0
    space: str = "delta"
    beside: "tuple[Beside, ...]" = field(default=(), compare=False)
    compare: bool = field(default=False, compare=False)

    @property
    def position(self) -> float:
        return self.weight

    @property
    def line(self) -> Hashable:
        return replace(self, weight=0.0)

    @property
    def subject(self) -> Hashable:
        return replace(self, weight=0.0, space="delta")

    def at(self, weight: float) -> "Blended":
        """Another point of this line. Its ends are the two adapters, in whatever space."""
        return replace(self, weight=weight, space="delta" if weight in (0.0, 1.0) else self.space)

    @property
    def references(self) -> tuple[Place, ...]:
        return Base(self.task), self.at(0.0), self.at(1.0)

    def model(self, lab: Lab) -> Model:
        return Model(self.adapter(lab))

    def adapter(self, lab: Lab) -> Adapter:
        return SPACES[self.space](
            lab.adapter(self.task, self.a), lab.adapter(self.task, self.b), self.weight
        )

    def swapped(self) -> "Blended":
        """The same model, seen from the other end: λ becomes 1 − λ."""
        beside = tuple(other._replace(line=other.line.swapped()) for other in self.beside)
        return replace(self, a=self.b, b=self.a, weight=mirror(self.weight), beside=beside)


class Beside(NamedTuple):
    """A line to be drawn beside another one. ``kind``: "space", the same two adapters in the other space, or "rival",
    another two; ``name``: what a legend calls it."""

    kind: str
    name: str
    line: Blended


@dataclass(frozen=True)
class Mixed:
    """A point of the plane through three adapters: what the second and the third count, in `UNITS`; the first counts what
    is left."""

    task: str
    keys: tuple[str, str, str]
    b: int = 0
    c: int = 0

    position = 0.0

    @property
    def line(self) -> Hashable:
        return replace(self, b=0, c=0)

    subject = line

    @property
    def weights(self) -> tuple[float, float, float]:
        return (UNITS - self.b - self.c) / UNITS, self.b / UNITS, self.c / UNITS

    @property
    def corners(self) -> "tuple[Mixed, Mixed, Mixed]":
        return replace(self, b=0, c=0), replace(self, b=UNITS, c=0), replace(self, b=0, c=UNITS)

    @property
    def references(self) -> tuple[Place, ...]:
        return Base(self.task), *self.corners

    def model(self, lab: Lab) -> Model:
        return Model(self.adapter(lab))

    def adapter(self, lab: Lab) -> Adapter:
        return weighted_sum([lab.adapter(self.task, key) for key in self.keys], self.weights)


@dataclass(frozen=True)
class Pruned:
    """An adapter of which only some layers and kinds of site of the image tower are kept (None: all), without the single
    matrices ``off``, (layer, kind) each, and then of what is left the smallest ``percent`` of A's entries and of B's set to
    zero. See `controls.kept_sites` for how to say that in one way only."""

    task: str
    key: str
    layers: tuple[int, ...] | None = None
    kinds: tuple[str, ...] | None = None
    percent: int = 0
    off: tuple[tuple[int, str], ...] = ()

    @property
    def position(self) -> float:
        return self.percent

    @property
    def line(self) -> Hashable:
        return replace(self, percent=0)

    @property
    def whole(self) -> "Pruned":
        """The adapter as it was."""
        return Pruned(self.task, self.key)

    subject = whole

    @property
    def references(self) -> tuple[Place, ...]:
        return Base(self.task), self.whole

    def model(self, lab: Lab) -> Model:
        return Model(self.adapter(lab))

    def adapter(self, lab: Lab) -> Adapter:
        adapter = lab.adapter(self.task, self.key)
        # An adapter without sites in the image tower has nothing to choose from, but can be made sparse.
        kept = keep(adapter, self.layers, self.kinds) if layers_of(adapter) else adapter
        if self.off:
            gone = {("vision", *matrix) for matrix in self.off}
            kept = kept.keep([name for name in kept.deltas if site_of(name) not in gone])
        return sparsify(kept, self.percent / 100)


@dataclass(frozen=True)
class Bent:
    """A soft prompt whose vectors are each so many ``percents`` of what they were when learned (None: all of them 100), but those at
    the positions ``replaced``, counted from 0, are noise of standard deviation ``sigma``. See `controls.corrupted` for how to say
    that in one way only."""

    task: str
    key: str
    percents: tuple[int, ...] | None = None
    replaced: tuple[int, ...] = ()
    sigma: float = 0.0

    position = 0.0

    @property
    def line(self) -> Hashable:
        return self  # many sliders make no single curve

    @property
    def learned(self) -> "Bent":
        """The prompt as it was."""
        return Bent(self.task, self.key)

    subject = learned

    @property
    def references(self) -> tuple[Place, ...]:
        return Base(self.task), self.learned

    def model(self, lab: Lab) -> Model:
        prompt = lab.prompt(self.task, self.key)
        if self.percents is not None:
            prompt = rescale(prompt, range(prompt.length), [p / 100 for p in self.percents])
        if self.replaced:
            prompt = drawn_anew(prompt, self.replaced, self.sigma)
        return Model(prompt=prompt)


@dataclass(frozen=True)
class Valued:
    """An adapter whose layers are valued, and the layer that is looked at; −1 as long as none is."""

    task: str
    key: str
    layer: int = -1

    position = 0.0

    @property
    def line(self) -> Hashable:
        return self

    @property
    def game(self) -> "Valued":
        """The same for all layers."""
        return Valued(self.task, self.key)

    subject = game
    references = ()

    def model(self, lab: Lab) -> Model:
        return Model(lab.adapter(self.task, self.key))


def mirror(weight: float) -> float:
    return round(LOW + HIGH - weight, 2) + 0.0
