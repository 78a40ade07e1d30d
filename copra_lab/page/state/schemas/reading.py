"""How a view's state is read: one schema for an address, a program and the controls.

A state is a frozen dataclass, so that it is cheap to make, compare and look up in a frame. Each of
its fields is annotated with a `Field`, which pydantic calls to validate what comes from outside. A
field says once what it may be, what it is by default, and how an address names it. What is offered
depends on the lab and on the fields before it (the task, the adapter): the lab comes in as
pydantic's validation context, a `Reading`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from copra_lab.page.state.lab import Lab

MISSING: Any = object()
"""The value of a field that was not given: it gets its default."""

Known = Mapping[str, Any]
"""The fields before this one, already checked, by their names."""

S = TypeVar("S")


class Source(Enum):
    """Where values come from, which decides what happens to those that cannot be used.

    An address must say what is meant: a number beyond its bounds is refused, not moved to the
    nearest, and the default takes its place. A program is told what is wrong. The menus of a
    visitor may still be those of another task: what is not offered is replaced by the default.
    """

    ADDRESS = "address"
    PROGRAM = "program"
    CONTROLS = "controls"


@dataclass(frozen=True)
class Reading:
    """The validation context: what there is to choose from, and where the values come from.

    Attributes:
        lab: what the visitor can choose from.
        source: where the values come from.
        refused: a sentence for each value of an address that could not be used.
    """

    lab: Lab
    source: Source = Source.PROGRAM
    refused: list[str] = field(default_factory=list)

    @property
    def is_address(self) -> bool:
        """Whether the values are texts of an address."""
        return self.source is Source.ADDRESS


@dataclass(frozen=True)
class Field:
    """One field of a state: how it is read, what it is by default and how an address says it.

    Attributes:
        address: its name in an address; "" for a field that an address does not say.
        usual: its default, unless that depends on what there is to choose from.
    """

    address: str = ""
    usual: Any = field(default=None, kw_only=True)

    needs: ClassVar[tuple[str, ...]] = ("task",)
    """Fields before this one that it is checked against."""

    def read(self, value: Any, reading: Reading, known: Known) -> Any:
        """The field of what came from outside.

        Raises ValueError, one sentence, for what cannot be used.
        """
        raise NotImplementedError

    def default(self, reading: Reading, known: Known) -> Any:
        """The field where nothing was given."""
        return self.usual

    def text(self, value: Any, state: Any, lab: Lab) -> str | None:
        """The field as an address has it; None to leave it out."""
        return str(value)

    def _validated(self, value: Any, info: ValidationInfo) -> Any:
        assert isinstance(info.context, Reading)
        reading, known = info.context, info.data
        if not all(name in known for name in self.needs):
            raise ValueError("a field before this one cannot be used")  # which is the one reported
        if value is MISSING:
            return self.default(reading, known)
        try:
            return self.read(value, reading, known)
        except (ValueError, OSError) as e:  # AdapterError and PromptError are ValueErrors
            if not reading.is_address:
                raise
            reading.refused.append(f"{self.address}: {e}")
            return self.default(reading, known)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """A validator in place of the one that pydantic would make of the type."""
        return core_schema.with_info_plain_validator_function(self._validated)


@cache
def schema(state: Any) -> dict[str, Field]:
    """The `Field` of each of a state's fields, by the fields' names."""
    hints = get_type_hints(state, include_extras=True)
    found = {f.name: getattr(hints[f.name], "__metadata__", ()) for f in fields(state)}
    return {name: m for name, metadata in found.items() for m in metadata if isinstance(m, Field)}


@cache
def _adapter(state: Any) -> TypeAdapter[Any]:
    return TypeAdapter(state)


def read(state: type[S], reading: Reading, values: Mapping[str, Any]) -> S:
    """The state that `values`, by the fields' names, say.

    Raises:
        ValueError: one sentence, for the first value that cannot be used; an address gets the
            default instead.
    """
    kind: Any = state
    given = {name: values.get(name, MISSING) for name in schema(kind)}
    try:
        found = _adapter(kind).validate_python(given, context=reading)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        raise ValueError(str(first["ctx"]["error"])) from e
    canonical: Callable[[Lab], S] | None = getattr(found, "canonical", None)
    return canonical(reading.lab) if canonical else found


def read_address(state: type[S], lab: Lab, words: Mapping[str, str]) -> tuple[S, list[str]]:
    """The state that an address says in `words`, and a sentence for each that could not be used."""
    reading, kind = Reading(lab, Source.ADDRESS), cast(Any, state)
    values = {name: words[f.address] for name, f in schema(kind).items() if f.address in words}
    return read(state, reading, values), reading.refused


def words(state: Any, lab: Lab) -> dict[str, str]:
    """A state as an address has it: a text for each field, by its name there."""
    kind: Any = type(state)
    found = {
        f.address: f.text(getattr(state, name), state, lab)
        for name, f in schema(kind).items()
        if f.address
    }
    return {name: text for name, text in found.items() if text is not None}
