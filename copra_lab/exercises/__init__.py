"""Checks for the lessons' exercises: they run a reader's function and explain what is wrong.

A check calls the function on real data and compares what it returns with a reference solution. The
reference solution can make each mistake that readers make. A wrong result is compared with what
each mistake gives, alone and then two at a time, so that the check can name it.
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
    """An attempt is not right yet. A notebook shows the message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"✗ {self}"]


@dataclass(frozen=True)
class Passed:
    """What a check returns for a correct attempt."""

    message: str

    def __repr__(self) -> str:
        return f"✓ {self.message}"


class Mistakes(frozenset[str]):
    """The names of the mistakes that a reference solution shall make."""

    def pick(self, right: Any, **wrong: Any) -> Any:
        """`right`, or what stands in its place under the first name in `wrong` that is made."""
        return next((value for name, value in wrong.items() if name in self), right)


NONE = Mistakes()


@dataclass(frozen=True, eq=False)
class Exercise:
    """A check: call it with the reader's function.

    Attributes:
        parts: Names of what a solution returns: one tensor, or a tuple of them.
        solution: The reference solution. Its last argument is the `Mistakes` that it makes.
        arguments: Makes the arguments that the reader's function and the solution are called with.
        mistakes: What to tell the reader about each mistake that the solution can make, by its
            name. A message says what is wrong without giving the answer away.
        praise: Makes the message for a correct attempt, which it is given.
        atol: Absolute tolerance when results are compared.
    """

    parts: tuple[str, ...]
    solution: Callable[..., Any]
    arguments: Callable[[], tuple]
    mistakes: Mapping[str, str]
    praise: Callable[[Callable], str]
    atol: float = 1e-4

    def __call__(self, attempt: Callable) -> Passed:
        """Check an attempt.

        Args:
            attempt: The reader's function.

        Returns:
            The praise.

        Raises:
            CheckFailed: The attempt is wrong; the message says how.
        """
        if not callable(attempt):
            raise CheckFailed(
                f"Pass the function itself to the check, without calling it; got {_kind(attempt)}."
            )
        try:
            with torch.no_grad():
                found = attempt(*self._arguments)
        except NotImplementedError as e:
            raise CheckFailed(
                "Nothing to check yet: replace the line that raises NotImplementedError with your "
                "code."
            ) from e
        got = self._unpack(found)
        wrong = [i for i in range(len(got)) if not self._same(got[i], self._expected[i])]
        if not wrong:
            return Passed(self.praise(attempt))
        i = wrong[0]
        for made, outcome in self._outcomes():
            if self._same(got[i], outcome[i]):
                raise CheckFailed(" Also: ".join(self.mistakes[name] for name in made))
        raise CheckFailed(self._symptom(i, got[i]))

    @cached_property
    def _arguments(self) -> tuple:
        return self.arguments()

    @cached_property
    def _expected(self) -> tuple[Tensor, ...]:
        return self._run()

    def _run(self, *made: str) -> tuple[Tensor, ...]:
        out = self.solution(*self._arguments, Mistakes(made))
        return out if isinstance(out, tuple) else (out,)

    def _outcomes(self) -> Iterator[tuple[tuple[str, ...], tuple[Tensor, ...]]]:
        for count in (1, 2):
            for made in combinations(self.mistakes, count):
                yield made, self._run(*made)

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
        return a.shape == b.shape and bool(self._close(a, b).all())

    def _close(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.isclose(a.double(), b.double(), atol=self.atol, rtol=1e-4)

    def _symptom(self, i: int, got: Tensor) -> str:
        part, want = self.parts[i], self._expected[i]
        good = f"{', '.join(self.parts[:i])} right, but " if i else ""
        if got.shape != want.shape:
            return f"{good}{part}: expected the shape {tuple(want.shape)}, got {tuple(got.shape)}."
        if not got.double().isfinite().all():
            return f"{good}{part}: some values are not finite."
        off = int((~self._close(got, want)).sum())
        return (
            f"{good}{part}: {off} of {want.numel()} values are wrong, and not in a way this check "
            f"recognises. The first row should start with {_row(want)}; yours starts with "
            f"{_row(got)}. Compare shapes and sums step by step with the cells above."
        )


def _row(t: Tensor) -> str:
    return str([round(v, 3) for v in (t[0] if t.ndim > 1 else t).flatten()[:4].tolist()])


def _kind(x: Any) -> str:
    if isinstance(x, Tensor):
        return "a tensor"
    return "a function" if inspect.isfunction(x) else type(x).__name__
