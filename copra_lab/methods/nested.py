"""DyLoRA (arXiv:2210.07558): ranks are nested, so that an adapter may be cut to any of them.

Each step draws b from 1 … r, the same for all sites, and trains the first b rows of A and columns
of B alone: ΔW = B[:, :b]·A[:b]. It is to ranks what CopRA is to layers. Measured and saved is the
whole rank r; `cut` gives the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.methods.parametrisation import (
    AdapterMethod,
    Parametrisation,
    Start,
    check_rank,
    kaiming,
)
from copra_lab.models.sites import Site
from copra_lab.utils.checks import one_of

__all__ = ["DyLoRA", "cut"]


@dataclass(frozen=True)
class DyLoRA(AdapterMethod):
    """DyLoRA: LoRA whose first b ranks are an adapter by themselves, for every b.

    The paper scales ΔW by α/b in training; here the scale is 1 whatever b is, so that what is cut
    off later is what was left out in training.

    Args:
        rank: r, the highest rank.
        update: ``"all"`` trains the first b ranks, ``"last"`` the b-th alone (the paper's "frozen"
            mode, which is cheaper).
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    rank: int = 8
    update: str = "all"
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)

    def __post_init__(self) -> None:
        check_rank(self.rank)
        one_of("update", self.update, ("all", "last"))

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """A is drawn, and B starts at zero."""
        return _Nested(kaiming(self.rank, site.width, start.generator), site.shape[0], self.update)

    def numbers(self, out: int, width: int) -> int:
        """r·(out + in)."""
        return self.rank * (out + width)

    def before_step(
        self,
        parts: Mapping[str, Parametrisation],
        step: int,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        """Draw b, the same for all sites."""
        b = 1 + int(torch.randint(self.rank, (1,), generator=generator))
        for part in parts.values():
            assert isinstance(part, _Nested)
            part.drawn = b


class _Nested(Parametrisation):
    """B·A of one site, up to the rank that is drawn."""

    def __init__(self, a: Tensor, out: int, update: str) -> None:
        super().__init__()
        # a parameter each: a rank that is not trained has no gradient, and AdamW leaves it alone
        self.rows = nn.ParameterList([nn.Parameter(row.clone()) for row in a])
        self.columns = nn.ParameterList([nn.Parameter(torch.zeros(out)) for _ in a])
        self.update, self.drawn = update, len(a)

    def factors(self) -> tuple[Tensor, Tensor]:
        b = self.drawn if self.training else len(self.rows)
        a, up = list(self.rows)[:b], list(self.columns)[:b]
        if self.training and self.update == "last":
            a = [*(x.detach() for x in a[:-1]), a[-1]]
            up = [*(x.detach() for x in up[:-1]), up[-1]]
        return torch.stack(a), torch.stack(up, 1)


def cut(adapter: Adapter, rank: int) -> Adapter:
    """The first `rank` ranks of each matrix of an adapter, as DyLoRA nests them.

    Args:
        adapter: The adapter.
        rank: How many ranks to keep; a matrix with fewer stays whole.

    Raises:
        ValueError: For a rank that is none.
    """
    check_rank(rank)
    first = {
        name: LowRank(d.A[:rank].contiguous(), d.B[:, :rank].contiguous(), d.scale)
        for name, d in adapter.deltas.items()
    }
    return Adapter(first, adapter.base, {**adapter.provenance, "cut to rank": rank})
