"""A plain ViT as a function of its weights.

It computes what the modules compute, several times faster for small images
(`copra_lab.engine.extraction` reads the weights out of a model). Nothing is mutated, so threads may
run different adapters at the same time.

Shapes: n images, t tokens, d the width, e that of the features.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copra_lab.adapters.adapter import LowRank
from copra_lab.engine.blocks import NO_FACTORS, Block, Factors, Norm, run_block
from copra_lab.models.sites import Site
from copra_lab.utils import devices

CHUNK = 50
"""Images that run together: few enough that a block's activations stay in a core's cache."""


@dataclass(frozen=True, eq=False)
class Tower:
    """The blocks of an image tower, and what follows them.

    Attributes:
        blocks: in order.
        heads: attention heads of each block.
        act: the activation of the MLPs.
        ln_post: the last norm.
        head: turns what leaves the last norm into features (n, e): the class token (n, d), or, if
            `whole`, all tokens (n, t, d).
        dtype: of the matrix products in the blocks. What runs between and after them stays
            float32, which costs next to nothing and halves the error of bfloat16.
        whole: whether the head reads all tokens, as SigLIP's does.
    """

    blocks: tuple[Block, ...]
    heads: int
    act: nn.Module
    ln_post: Norm
    head: Callable[[Tensor], Tensor]
    dtype: torch.dtype
    whole: bool = False

    def with_deltas(
        self, base: "Tower", deltas: Mapping[Site, LowRank], made: "dict[Any, Block] | None" = None
    ) -> "Tower":
        """This tower with deltas merged into its weights.

        Args:
            base: the same tower in float32, so that merging rounds once, at the end.
            deltas: what is added, by site.
            made: blocks that were merged before. Towers made with the same dictionary share the
                blocks where they have the very same deltas.
        """
        made = {} if made is None else made
        blocks = list(self.blocks)
        by_layer: dict[int, list[tuple[Site, LowRank]]] = {}
        for site, d in deltas.items():
            by_layer.setdefault(site.layer, []).append((site, d))
        for layer, members in by_layer.items():
            key = (layer, *members)  # LowRank compares by identity; the key keeps it alive
            if key not in made:
                made[key] = _merged(blocks[layer], base.blocks[layer], members, self.dtype)
            blocks[layer] = made[key]
        return replace(self, blocks=tuple(blocks))

    def features(
        self, tokens: Tensor, start: int = 0, factors: Mapping[int, Factors] = NO_FACTORS
    ) -> Tensor:
        """Run the blocks from `start` on, and what follows them.

        Args:
            tokens: float32 (n, t, d), as they enter block `start`; those of block 0 are embedded
                and normalised.
            start: number of the first block to run.
            factors: layer → deltas that are added to its matrices without merging them.

        Returns:
            Normalised features, float32 (n, e).
        """
        last = len(self.blocks) - 1
        for i in range(start, last):
            block, add = self.blocks[i], factors.get(i, {})
            tokens = run_block(tokens, tokens, block, self.heads, self.act, add)
        return self.finish(tokens, self.blocks[last], factors.get(last, {}))

    def finish(self, tokens: Tensor, last: Block, add: Factors) -> Tensor:
        """The last block, the last norm and the head: (n, t, d) → (n, e)."""
        # Where the head reads only the class token, the last block computes only that one.
        at = tokens if self.whole else tokens[:, :1]  # (n, t or 1, d)
        out = run_block(tokens, at, last, self.heads, self.act, add)  # (n, t or 1, d)
        out = F.layer_norm(out, out.shape[-1:], *self.ln_post)
        return F.normalize(self.head(out if self.whole else out[:, 0]), dim=-1)

    def through(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        """Tokens (n, t, d) as they enter block `start` → as they enter block `stop`."""
        for block in self.blocks[start:stop]:
            tokens = run_block(tokens, tokens, block, self.heads, self.act, {})
        return tokens


def _merged(
    block: Block, base: Block, members: Sequence[tuple[Site, LowRank]], dtype: torch.dtype
) -> Block:
    """One block with the deltas of `members` added in float32, then rounded to `dtype`."""
    changed: dict[str, Tensor] = {}
    for site, d in members:
        part = site.part
        if part not in changed:
            changed[part] = getattr(base, part)[0].clone()
        changed[part][site.start : site.stop] += d.delta().to(changed[part].device)
    now = block.__dict__
    return Block(**(now | {part: (w.to(dtype), now[part][1]) for part, w in changed.items()}))


MOST_WORKERS = 8
"""More do not help at these sizes."""


@cache
def workers() -> ThreadPoolExecutor:
    """One single-threaded worker for each core.

    At these sizes two passes side by side are faster than one pass on two threads.
    """
    return ThreadPoolExecutor(
        devices.cores(MOST_WORKERS), "copra-lab", initializer=torch.set_num_threads, initargs=(1,)
    )
