"""What the endpoints answer, as types that become their schemas. Accuracies and values are shares of 1."""

from typing import TypedDict


class Number(TypedDict):
    """``correct`` of ``n`` test images are right; the 95 % interval is Wilson's, in shares of 1 like the accuracy."""

    accuracy: float
    correct: int
    n: int
    interval: list[float]


class Task(TypedDict):
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
    key: str
    label: str
    vectors: int
    trouble: str | None


class BlendAnswer(Number):
    weight: float


class PruneAnswer(Number):
    layers: list[int]
    kinds: list[str]
    sparsity: int
    left: float


class PromptAnswer(Number):
    percents: list[int]


class ShapleyAnswer(TypedDict):
    """``values`` and their ``halves`` (of 95 % intervals; null as long as one order was drawn) are shares of 1, one a layer."""

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
    model: str
    names: list[str]
    probabilities: list[float]
    trouble: str | None
