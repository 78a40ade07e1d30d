"""After IncreLoRA and TriAdaptLoRA: every matrix begins with rank one, and some get more.

As many ranks as a matrix may get are prepared; those that are not admitted yet add nothing to ΔW.
Ranks are admitted one by one, in a straight line from one a matrix to the budget, each at the
matrix that scores highest. (The papers admit them in batches, on schedules of their own.)
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from copra_lab.methods.parametrisation import (
    AdapterMethod,
    Parametrisation,
    Start,
    check_rank,
    check_share,
    kaiming,
)
from copra_lab.models.sites import Site

__all__ = ["IncreLoRA", "TriAdaptLoRA"]

BETA = 0.85
"""How much of a smoothed score stays in a step."""

SIZE = 0.02
"""The deviation of IncreLoRA's A and B at the start."""


@dataclass(frozen=True)
class _Growing(AdapterMethod):
    rank: int = 4
    most: int = 12
    begin: float = 0.1
    end: float = 0.6
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_rank(self.most, name="most")
        check_share("begin", self.begin)
        check_share("end", self.end, least=self.begin)
        if self.most < self.rank:
            raise ValueError(f"most must be at least the rank {self.rank}, got {self.most}")

    def budget(self, sites: int, step: int, steps: int) -> int:
        """How many ranks all sites together may have after a step."""
        begin, end = self.begin * steps, self.end * steps
        done = 1.0 if step + 1 >= end else max(0.0, (step + 1 - begin) / (end - begin))
        return sites + int((self.rank - 1) * sites * done)

    @torch.no_grad()
    def after_step(
        self, parts: Mapping[str, Parametrisation], on: Collection[str], step: int, steps: int
    ) -> None:
        """Score the matrices that took part, and admit the ranks that are due."""
        growing = {name: part for name, part in parts.items() if isinstance(part, _Grown)}
        for name in on:
            growing[name].watch()
        due = self.budget(len(parts), step, steps) - sum(int(p.now) for p in growing.values())
        for _ in range(due):
            left = [growing[name] for name in on if growing[name].now < self.most]
            if left:
                max(left, key=lambda p: p.score()).admit()


class _Grown(Parametrisation):
    """What is trained at one site; `now` counts the ranks that are admitted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = nn.Buffer(torch.ones((), dtype=torch.int64))

    @abstractmethod
    def watch(self) -> None:
        """Look at the site after an update, for its score."""

    @abstractmethod
    def score(self) -> float:
        """How much the site would gain from one rank more."""

    def admit(self) -> None:
        """One rank more."""
        self.now.add_(1)


@dataclass(frozen=True)
class IncreLoRA(_Growing):
    """After IncreLoRA (arXiv:2308.12043): ΔW = B·diag(e)·A, and ranks go where W matters most.

    A site's score is Ī·U, with I = ‖ΔW ∘ ∂L/∂ΔW‖₁ / √n of its n elements, Ī its running mean and U
    that of how far I is from Ī. The next rank already trains a and b while it waits. (The authors
    let it wait behind a factor of 10⁻⁵; here it adds nothing at all until it is admitted.) The
    scale is 1 whatever the rank is.

    Args:
        rank: How many ranks a matrix has in the end, on average.
        most: How many one matrix may have.
        begin: The share of the steps after which ranks are admitted.
        end: The share of the steps after which all are.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"lr": 4e-3}

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """A and B are drawn, and e starts at zero."""
        g, (out, width) = start.generator, site.shape
        a = SIZE * torch.randn(self.most, width, generator=g)
        return _Diagonal(a, SIZE * torch.randn(self.most, out, generator=g))

    def numbers(self, out: int, width: int) -> int:
        """most·(out + in + 1), of which most of the time a part is trained."""
        return self.most * (out + width + 1)


class _Diagonal(_Grown):
    """B·diag(e)·A of one site."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        # a parameter each: a rank that is not reached has no gradient, and AdamW leaves it alone
        self.rows = nn.ParameterList([nn.Parameter(x.clone()) for x in a])
        self.columns = nn.ParameterList([nn.Parameter(x.clone()) for x in b])
        self.e = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in a])
        self.mean, self.spread = nn.Buffer(torch.zeros(())), nn.Buffer(torch.zeros(()))
        self.seen: Tensor | None = None

    def factors(self) -> tuple[Tensor, Tensor]:
        ranks = range(int(self.now))
        a = torch.stack([self.rows[i] for i in ranks])
        return a, torch.stack([self.columns[i] * self.e[i] for i in ranks], 1)

    def delta(self) -> Tensor:
        found = super().delta()
        if self.training and found.requires_grad:
            if (n := int(self.now)) < len(self.rows):
                waiting = self.columns[n][:, None] * self.rows[n]
                found = found + (waiting - waiting.detach())  # zero, with a gradient
            found.retain_grad()
            self.seen = found
        return found

    def watched(self) -> Tensor | None:
        return self.seen

    def watch(self) -> None:
        if self.seen is None or self.seen.grad is None:
            raise ValueError("IncreLoRA needs the gradient of ΔW; train it without dropout")
        found = (self.seen * self.seen.grad).abs().sum() / self.seen.numel() ** 0.5
        self.mean.lerp_(found, 1 - BETA)
        self.spread.lerp_((found - self.mean).abs(), 1 - BETA)
        self.seen = None

    def score(self) -> float:
        return float(self.mean * self.spread)


@dataclass(frozen=True)
class TriAdaptLoRA(_Growing):
    """After TriAdaptLoRA (arXiv:2501.08008): ΔW = B·(L + U)·A, and ranks go where L + U grew most.

    L is lower and U upper triangular, both with a diagonal. A site's score is ‖L + U‖_F / r, minus
    what it was when the site last got a rank. B starts at zero and L + U at the identity: the
    authors' code starts both at zero, where every gradient is zero and nothing is ever learned. The
    scale is 1 whatever the rank is.

    Args:
        rank: How many ranks a matrix has in the end, on average.
        most: How many one matrix may have.
        begin: The share of the steps after which ranks are admitted.
        end: The share of the steps after which all are.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """A is drawn, B starts at zero, L and U at half an identity each."""
        return _Triangles(kaiming(self.most, site.width, start.generator), site.shape[0])

    def numbers(self, out: int, width: int) -> int:
        """most·(out + in) and two triangles, of which most of the time a part is trained."""
        return self.most * (out + width) + self.most * (self.most + 1)


class _Triangles(_Grown):
    """B·(L + U)·A of one site."""

    def __init__(self, a: Tensor, out: int) -> None:
        super().__init__()
        ends = [0.5 * torch.eye(i + 1)[i] for i in range(len(a))]  # 0 … 0 ½
        self.rows = nn.ParameterList([nn.Parameter(x.clone()) for x in a])
        self.columns = nn.ParameterList([nn.Parameter(torch.zeros(out)) for _ in a])
        self.lower = nn.ParameterList([nn.Parameter(x.clone()) for x in ends])
        self.upper = nn.ParameterList([nn.Parameter(x.clone()) for x in ends])
        self.before = nn.Buffer(torch.ones(()))

    def core(self) -> Tensor:
        """L + U of the ranks that are admitted."""
        r = int(self.now)
        pad = nn.functional.pad
        low = torch.stack([pad(self.lower[i], (0, r - i - 1)) for i in range(r)])
        return low + torch.stack([pad(self.upper[i], (0, r - i - 1)) for i in range(r)], 1)

    def factors(self) -> tuple[Tensor, Tensor]:
        ranks = range(int(self.now))
        b = torch.stack([self.columns[i] for i in ranks], 1)
        return torch.stack([self.rows[i] for i in ranks]), b @ self.core()

    def watch(self) -> None:
        """The score depends on the parameters alone."""

    def score(self) -> float:
        return float((self._size() - self.before).detach())

    def admit(self) -> None:
        super().admit()
        self.before.copy_(self._size())

    def _size(self) -> Tensor:
        return self.core().norm() / self.now
