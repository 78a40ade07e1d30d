"""After LT-SFT and SaRA: few entries of each matrix are trained, chosen by what they are or do."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from copra_lab.methods.dense import Dense
from copra_lab.methods.parametrisation import AdapterMethod, Parametrisation, Start, check_share
from copra_lab.models.sites import Site

__all__ = ["LTSFT", "SaRA"]


@dataclass(frozen=True)
class LTSFT(AdapterMethod):
    """After LT-SFT (arXiv:2110.07560), lottery-ticket sparse fine-tuning, in two phases.

    First every entry of ΔW is trained. Then ΔW goes back to zero, and only the entries that had
    moved most, over all matrices together, are trained, with new moments. Sparse changes are
    composed by adding them. The paper gives each phase a schedule of its own; here one schedule
    runs over both.

    Args:
        share: Of all entries, those that are trained in the second phase.
        first: The share of the steps that the first phase takes; 0 only where `share` is 1, which
            is full fine-tuning.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    share: float = 0.06
    first: float = 0.3
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    defaults: ClassVar[Mapping[str, Any]] = {"lr": 5e-4}

    def __post_init__(self) -> None:
        check_share("share", self.share)
        check_share("first", self.first)
        if self.share == 0:
            raise ValueError("with a share of 0 there is nothing to train; give a larger one")
        if self.first == 1 or (self.first == 0 and self.share < 1):
            raise ValueError(
                f"first must be above 0 and below 1, so that both phases have steps, "
                f"got {self.first!r}"
            )

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """ΔW = 0."""
        return _Ticket(site.shape)

    def numbers(self, out: int, width: int) -> int:
        """All, once in each phase; in the second a share of them counts."""
        return 2 * out * width

    @torch.no_grad()
    def before_step(
        self,
        parts: Mapping[str, Parametrisation],
        step: int,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        """Choose the entries when the second phase begins."""
        tickets = [p for p in parts.values() if isinstance(p, _Ticket)]
        if step < self.first * steps or any(p.second_phase for p in tickets):
            return
        moved = torch.cat([p.first.abs().flatten() for p in tickets])
        chosen = torch.zeros_like(moved, dtype=torch.bool)
        chosen[moved.topk(max(1, round(self.share * len(moved)))).indices] = True
        sizes = [p.first.numel() for p in tickets]
        for p, mask in zip(tickets, chosen.split(sizes), strict=True):
            p.mask.copy_(mask.view(p.mask.shape))
            p.second_phase.fill_(True)


class _Ticket(Dense):
    """ΔW of one site: the first phase's, or the chosen entries of the second's."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        # each phase has its own parameter, and with it moments of its own
        self.first = nn.Parameter(torch.zeros(shape))
        self.second = nn.Parameter(torch.zeros(shape))
        self.mask = nn.Buffer(torch.zeros(shape, dtype=torch.bool))
        self.second_phase = nn.Buffer(torch.zeros((), dtype=torch.bool))

    def delta(self) -> Tensor:
        return torch.where(self.mask, self.second, 0) if self.second_phase else self.first


@dataclass(frozen=True)
class SaRA(AdapterMethod):
    """After SaRA (arXiv:2409.06633): the entries of W that are smallest are trained.

    In the middle of the training the choice is made again: entries of W + ΔW that are no longer
    below the threshold stay as they are, and the others go on. The paper's penalty on the nuclear
    norm of the trained entries is left out.

    Args:
        share: Of a matrix, the entries that are trained: those of the smallest magnitude.
        again: The share of the steps after which the choice is made again; 1 for never.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    share: float = 0.1
    again: float = 0.5
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-3}

    def __post_init__(self) -> None:
        check_share("share", self.share)
        check_share("again", self.again)
        if self.share == 0:
            raise ValueError("with a share of 0 there is nothing to train; give a larger one")

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """The smallest entries of W, and values of zero."""
        count = self.numbers(*site.shape)
        found = start.weight.abs().flatten().topk(count, largest=False, sorted=False)
        return _Smallest(start.weight, found.indices.sort().values)

    def numbers(self, out: int, width: int) -> int:
        """A share of all, and at least one."""
        return max(1, round(self.share * out * width))

    @torch.no_grad()
    def after_step(
        self, parts: Mapping[str, Parametrisation], on: Collection[str], step: int, steps: int
    ) -> None:
        """Choose again, once."""
        if step + 1 < self.again * steps or self.again == 1:
            return
        for name in on:
            part = parts[name]
            assert isinstance(part, _Smallest)
            if not part.chosen_again:
                part.choose_again()


class _Smallest(Dense):
    """ΔW of one site, on the smallest entries of its W."""

    def __init__(self, weight: Tensor, support: Tensor) -> None:
        super().__init__()
        self.shape = weight.shape
        self.support = nn.Buffer(support)
        self.base = nn.Buffer(weight.flatten()[support])
        self.values = nn.Parameter(torch.zeros(len(support)))
        self.settled = nn.Buffer(torch.zeros(len(support)))
        self.going = nn.Buffer(torch.ones(len(support), dtype=torch.bool))
        self.chosen_again = nn.Buffer(torch.zeros((), dtype=torch.bool))

    def delta(self) -> Tensor:
        now = torch.where(self.going, self.values, self.settled)
        return now.new_zeros(self.shape).flatten().index_put((self.support,), now).view(self.shape)

    def choose_again(self) -> None:
        """Let the entries that have grown out of the smallest stay as they are."""
        self.settled.copy_(self.values)
        self.going.copy_((self.base + self.values).abs() <= self.base.abs().max())
        self.chosen_again.fill_(True)
