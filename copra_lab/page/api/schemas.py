"""What the endpoints answer, as types that become their schemas.

Accuracies and values are shares of 1.
"""

from typing import TypedDict


class Number(TypedDict):
    """An accuracy: ``correct`` of ``n`` test images are right.

    The 95 % interval is Wilson's, in shares of 1 like the accuracy.
    """

    accuracy: float
    correct: int
    n: int
    interval: list[float]


class Task(TypedDict):
    """A task that there are adapters for."""

    name: str
    title: str
    about: str


class AdapterEntry(TypedDict):
    """``trouble``: why its file cannot be used, if that is so."""

    key: str
    label: str
    layers: list[int]
    kinds: list[str]
    trouble: str | None


class PromptEntry(TypedDict):
    """A soft prompt; ``trouble``: why its file cannot be used, if that is so."""

    key: str
    label: str
    vectors: int
    trouble: str | None


class BlendAnswer(Number):
    """The accuracy of a blend, and the λ that it was measured at."""

    weight: float


class PruneAnswer(Number):
    """The accuracy of what is kept, and the share of entries that are left."""

    layers: list[int]
    kinds: list[str]
    sparsity: int
    left: float


class PromptAnswer(Number):
    """The accuracy of a prompt, and the percent of its learned length that each vector has."""

    percents: list[int]


class ShapleyAnswer(TypedDict):
    """The Shapley value of each layer, in shares of 1.

    ``halves`` are half the widths of their 95 % intervals; null as long as one order was drawn.
    """

    layers: list[int]
    values: list[float]
    halves: list[float | None]
    none: float
    all: float
    images: int
    coalitions: int
    of_coalitions: int
    exact: bool


class Opinion(TypedDict):
    """What one model takes a picture for, likeliest first; ``trouble``: why it cannot say."""

    model: str
    names: list[str]
    probabilities: list[float]
    trouble: str | None
