"""What checks an exercise: it runs an attempt on real data, and where the result is wrong it says what went wrong.

A lesson's reference solution has a switch for each mistake that readers make. An attempt that agrees with no right
answer is compared with what each switch gives, alone and then two at a time, so that the mistake can be named.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor


class CheckFailed(AssertionError):
    """An attempt that is not right yet. A notebook shows its sentence without the traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"✗ {self}"]


@dataclass(frozen=True)
class Passed:
    """What a check returns."""

    message: str

    def __repr__(self) -> str:
        return f"✓ {self.message}"


@dataclass(frozen=True)
class Mistake:
    """`switches` make the reference solution err in this way; `says` tells the reader what is wrong, not the answer."""

    switches: Mapping[str, Any]
    says: str


@dataclass(frozen=True, eq=False)
class Exercise:
    """A check, called with the reader's function: returns `Passed` or raises `CheckFailed`.

    ``parts`` names what a solution returns: one tensor, or a tuple of them. ``arguments()`` are what it is called with,
    ``praise(attempt)`` is said of one that is right.
    """

    parts: tuple[str, ...]
    solution: Callable[..., Any]
    arguments: Callable[[], tuple]
    mistakes: Mapping[str, Mistake]
    praise: Callable[[Callable], str]
    atol: float = 1e-4

    def __call__(self, attempt: Callable) -> Passed:
        if not callable(attempt):
            raise CheckFailed(
                f"Give the check your function itself, without calling it; it got {_kind(attempt)}."
            )
        try:
            with torch.no_grad():
                found = attempt(*self._arguments)
        except NotImplementedError as e:
            raise CheckFailed(
                "Nothing to check yet: write your code in place of the line that raises NotImplementedError."
            ) from e
        got = self._unpack(found)
        wrong = [i for i in range(len(got)) if not self._same(got[i], self._expected[i])]
        if not wrong:
            return Passed(self.praise(attempt))
        i = wrong[0]
        for mistakes, outcome in self._outcomes():
            if self._same(got[i], outcome[i]):
                raise CheckFailed(" Also: ".join(m.says for m in mistakes))
        raise CheckFailed(self._symptom(i, got[i]))

    @cached_property
    def _arguments(self) -> tuple:
        return self.arguments()

    @cached_property
    def _expected(self) -> tuple[Tensor, ...]:
        return self._run({})

    def _run(self, switches: Mapping[str, Any]) -> tuple[Tensor, ...]:
        out = self.solution(*self._arguments, **switches)
        return out if isinstance(out, tuple) else (out,)

    def _outcomes(self) -> Iterator[tuple[tuple[Mistake, ...], tuple[Tensor, ...]]]:
        every = list(self.mistakes.values())
        for chosen in [(m,) for m in every] + list(combinations(every, 2)):
            switches = {k: v for m in chosen for k, v in m.switches.items()}
            if len(switches) == sum(
                len(m.switches) for m in chosen
            ):  # a pair that pulls one switch two ways is none
                yield chosen, self._run(switches)

    def _unpack(self, found: Any) -> tuple[Tensor, ...]:
        if found is None:
            raise CheckFailed("Your function returned None: is a `return` missing?")
        got = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        if len(got) != len(self.parts) or not all(isinstance(g, Tensor) for g in got):
            wanted = "one tensor" if len(self.parts) == 1 else f"{len(self.parts)} tensors"
            raise CheckFailed(
                f"Return {wanted} ({', '.join(self.parts)}); got {', '.join(map(_kind, got))}."
            )
        return got

    def _same(self, a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and torch.allclose(
            a.double(), b.double(), atol=self.atol, rtol=1e-4
        )

    def _symptom(self, i: int, got: Tensor) -> str:
        part, want = self.parts[i], self._expected[i]
        good = f"{', '.join(self.parts[:i])} right, but " if i else ""
        if got.shape != want.shape:
            return f"{good}{part}: expected the shape {tuple(want.shape)}, got {tuple(got.shape)}."
        if not got.double().isfinite().all():
            return f"{good}{part}: some values are not finite."
        off = (~torch.isclose(got.double(), want.double(), atol=self.atol, rtol=1e-4)).sum()
        return (
            f"{good}{part}: {off} of {want.numel()} values are wrong, and not in a way this check knows. "
            f"The first row should begin {_row(want)}, yours begins {_row(got)}. Compare shapes and sums step by step with the cells above."
        )


def _row(t: Tensor) -> str:
    return str([round(v, 3) for v in (t[0] if t.ndim > 1 else t).flatten()[:4].tolist()])


def _kind(x: Any) -> str:
    return (
        "a tensor"
        if isinstance(x, Tensor)
        else "a function"
        if inspect.isfunction(x)
        else f"{type(x).__name__}"
    )
