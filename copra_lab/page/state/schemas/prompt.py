"""The state of the Prompt view: a soft prompt, and what is done to each of its vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from typing_extensions import override

from copra_lab.bench.prompt_survey import SIGMAS
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.fields import TaskName, inside, switched_on, within
from copra_lab.page.state.schemas.measured import Base, Measured, Model, WithoutSlider
from copra_lab.page.state.schemas.reading import Field, Known, Reading, Source
from copra_lab.prompts.corruption import replace as replaced_by_noise
from copra_lab.prompts.corruption import rescale

MOST_PERCENT = 200
"""Percent of its learned norm that a vector of a prompt can be stretched to."""


@dataclass(frozen=True)
class PromptTask(TaskName):
    """The name of a task that has soft prompts."""

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> str:
        task = super().read(value, reading, known)
        if reading.is_address:
            reading.lab.one_prompt(task, None)
        return task

    @override
    def default(self, reading: Reading, known: Known) -> str:
        return reading.lab.prompt_tasks()[0][1]


class PromptKey(Field):
    """The key of a soft prompt of the task."""

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> str:
        lab, task = reading.lab, known["task"]
        if reading.source is Source.CONTROLS:
            return lab.one_prompt(task, value)
        keys = [key for _, key in lab.prompt_menu(task)]
        if value not in keys:
            raise ValueError(
                f"the task has no soft prompt {value!r:.40}; it has {', '.join(keys) or 'none'}"
            )
        lab.prompt(task, value)  # raises for a file that is broken
        return value

    @override
    def default(self, reading: Reading, known: Known) -> str:
        return reading.lab.one_prompt(known["task"], None)


def _length(reading: Reading, known: Known) -> int:
    return reading.lab.prompt(known["task"], known["key"]).length


class Percents(Field):
    """The share of its learned length that each vector has, in whole percent; None for 100 of each.

    A list of one for each vector from a program, ``100,50`` in an address, and from the controls
    one for each slider, of which there are as many as the longest prompt has vectors.
    """

    needs: ClassVar[tuple[str, ...]] = ("task", "key")

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> tuple[int, ...] | None:
        length = _length(reading, known)
        if reading.is_address:
            texts = enumerate(value.split(","), 1)
            value = [inside(text, 0, MOST_PERCENT, f"vector {i}") for i, text in texts]
        if reading.source is not Source.CONTROLS and (
            not isinstance(value, list) or len(value) != length
        ):
            raise ValueError(
                f"percents must be a list of {length} numbers from 0 to {MOST_PERCENT}, "
                "one for each vector of the prompt"
            )
        return stretched(value, length)

    @override
    def text(self, value: tuple[int, ...] | None, state: Any, lab: Lab) -> str:
        return ",".join(map(str, value or ()))


def stretched(values: Sequence[object], length: int) -> tuple[int, ...] | None:
    """Whole percent for each of the `length` vectors, None where all are 100. Raises ValueError."""
    found = tuple(
        round(within(v, 0, MOST_PERCENT, f"vector {i}")) for i, v in enumerate(values[:length], 1)
    )
    return None if all(p == 100 for p in found) else found


@dataclass(frozen=True)
class Switched:
    """The vectors, counted from 1, that are switched to noise.

    ``others``: the switches may be those of another prompt.
    """

    on: object
    others: bool = field(default=False, kw_only=True)


class Replaced(Field):
    """The positions, counted from 0, of vectors that noise replaces.

    ``1,3``, counted from 1, in an address.
    """

    needs: ClassVar[tuple[str, ...]] = ("task", "key")

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> tuple[int, ...]:
        vectors = range(1, _length(reading, known) + 1)
        if reading.is_address:
            texts = tuple(map(str, vectors))
            on = switched_on(value.split(","), texts, "vector", whose="prompt")
            return tuple(int(text) - 1 for text in (texts if on is None else on))
        on = switched_on(value.on, tuple(vectors), "vector", value.others, whose="prompt")
        return tuple(i - 1 for i in (vectors if on is None else on))

    @override
    def text(self, value: tuple[int, ...], state: Any, lab: Lab) -> str:
        return ",".join(str(i + 1) for i in value)


class Sigma(Field):
    """The standard deviation of the noise: one of `SIGMAS`, by default the largest."""

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> float:
        if reading.is_address:
            value = inside(value, 0, max(SIGMAS), "σ")
        if value not in SIGMAS:
            raise ValueError(f"σ must be one of {', '.join(f'{s:g}' for s in SIGMAS)}")
        return SIGMAS[SIGMAS.index(value)]

    @override
    def text(self, value: float, state: Any, lab: Lab) -> str | None:
        return f"{value:g}" if state.replaced else None


@dataclass(frozen=True)
class PromptState(WithoutSlider):
    """A soft prompt whose vectors have these ``percents`` of their learned length, or are noise.

    The vectors at the positions ``replaced``, counted from 0, are noise of standard deviation
    ``sigma``. ``percents`` None: all are 100.
    """

    view: ClassVar = "prompt"

    task: Annotated[str, PromptTask()]
    key: Annotated[str, PromptKey("prompt")]
    percents: Annotated[tuple[int, ...] | None, Percents("percents")] = None
    replaced: Annotated[tuple[int, ...], Replaced("replaced", usual=())] = ()
    sigma: Annotated[float, Sigma("sigma", usual=SIGMAS[-1])] = 0.0

    def canonical(self, lab: Lab) -> "PromptState":
        """The same prompt, said in the one way in which equal prompts are equal states."""
        if self.percents is None and not self.replaced:
            return self.learned
        length = lab.prompt(self.task, self.key).length
        return replace(self, **corrupted(self.percents, self.replaced, self.sigma, length))

    @property
    def learned(self) -> "PromptState":
        """The prompt as it was."""
        return PromptState(self.task, self.key)

    subject = learned

    @property
    def references(self) -> tuple[Measured, ...]:
        """The base and the prompt as it was."""
        return Base(self.task), self.learned

    def model(self, lab: Lab) -> Model:
        """The prompt with its vectors changed."""
        prompt = lab.prompt(self.task, self.key)
        if self.percents is not None:
            prompt = rescale(prompt, range(prompt.length), [p / 100 for p in self.percents])
        if self.replaced:
            prompt = replaced_by_noise(prompt, self.replaced, self.sigma)
        return Model(prompt=prompt)


def corrupted(
    percents: tuple[int, ...] | None, replaced: Sequence[int], sigma: float, length: int
) -> dict[str, Any]:
    """The last three fields of `PromptState`, said in one way only.

    For a prompt of `length` vectors. Noise of σ = 0 is a share of 0 percent, and no share matters
    where there is noise.
    """
    shares = [100] * length if percents is None else list(percents)
    for i in replaced:
        shares[i] = 100 if sigma else 0
    said = None if all(p == 100 for p in shares) else tuple(shares)
    noise = bool(replaced and sigma)
    return {
        "percents": said,
        "replaced": tuple(replaced) if noise else (),
        "sigma": sigma if noise else 0.0,
    }
