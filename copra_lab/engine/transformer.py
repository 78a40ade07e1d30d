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

<<<<<<< HEAD
Factors = Mapping[str, tuple[Tensor | Callable[[Tensor], Tensor], Tensor]]
"""By part of a block (``qkv``, ``out``, ``fc1``, ``fc2``): A (R, in) and B (out, R) of a delta B·A,
scale included. In place of A may stand a function x (…, in) → (…, R), such as dropout(x)·Aᵀ."""

NO_FACTORS: Mapping[int, Factors] = {}

Norm = tuple[Tensor, Tensor, float]
"""Weight, bias and ε of a layer norm, as `F.layer_norm` takes them."""


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of one pre-norm transformer block.

    Matrices (out, in) with their biases (out,) in the tower's dtype, norms in float32. ``qkv``
    stacks the projections of queries, keys and values, (3d, d).
    """

    ln1: Norm
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    ln2: Norm
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]

=======
>>>>>>> h-shapley

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
            tokens = run_block(
                tokens, tokens, self.blocks[i], self.heads, self.act, factors.get(i, {})
            )
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


<<<<<<< HEAD
class PrefixTree:
    """Many towers that differ in some blocks, run together: shared first blocks run once.

    The tree has a node for each different sequence of first blocks. It is traversed depth first, so
    that memory holds one activation for each depth. All 2¹² on-and-off variants of twelve blocks
    cost 8,190 passes through a block instead of 49,152.
    """

    def __init__(self, towers: Sequence[Tower]) -> None:
        self.tower = towers[0]  # heads, norms and head are the same in all
        self.depth = len(towers[0].blocks)
        self.root: dict[int, Any] = {}
        """id of a block → (block, what follows): another such dictionary; last, tower numbers."""
        for i, tower in enumerate(towers):
            node = self.root
            for block in tower.blocks[:-1]:
                node = node.setdefault(id(block), (block, {}))[1]
            node.setdefault(id(tower.blocks[-1]), (tower.blocks[-1], []))[1].append(i)

    @property
    def passes(self) -> int:
        """Passes through a block for each image: the number of nodes."""

        def count(node: dict[int, Any], depth: int) -> int:
            if depth == self.depth:
                return len(node)
            return len(node) + sum(count(below, depth + 1) for _, below in node.values())

        return count(self.root, 1)

    def features(self, tokens: Tensor) -> Iterator[tuple[list[int], Tensor]]:
        """Run tokens (n, t, d) through all towers.

        Yields:
            Numbers of towers that are the same, and their features (n, e); each tower once, in no
            particular order.
        """
        yield from self._descend(self.root, 1, tokens)

    def _descend(
        self, node: dict[int, Any], depth: int, x: Tensor
    ) -> Iterator[tuple[list[int], Tensor]]:
        for block, below in node.values():
            if depth == self.depth:
                yield below, self.tower._end(x, block, {})
            else:
                after = _block(x, x, block, self.tower.heads, self.tower.act, {})  # (n, t, d)
                yield from self._descend(below, depth + 1, after)


def _linear(
    x: Tensor,
    w: tuple[Tensor, Tensor],
    factors: tuple[Tensor | Callable[[Tensor], Tensor], Tensor] | None,
    rows: slice = slice(None),
) -> Tensor:
    """x·Wᵀ + b for some rows of W, plus x·Aᵀ·Bᵀ where there are factors: (…, in) → (…, out)."""
    y = F.linear(x, w[0][rows], w[1][rows])
    if factors is None:
        return y
    a, b = factors  # (R, in), (out, R)
    down = x @ a.T.to(x.dtype) if isinstance(a, Tensor) else a(x)
    return y + down @ b[rows].T.to(x.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention, softmax(q·kᵀ/√d + mask)·v (Vaswani et al., arXiv:1706.03762, equation 1).

    Args:
        q: queries (…, heads, u, d), d the width of a head.
        k: keys (…, heads, t, d).
        v: values (…, heads, t, d).
        mask: (u, t), added to the scores.

    Returns:
        (…, heads, u, d).
    """
    # The fused kernel's backward pass is slower at these sizes, many times so in bfloat16.
    if torch.is_grad_enabled():
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5  # (…, heads, u, t)
        return (scores if mask is None else scores + mask).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, mask)


def _causal(u: int, t: int, device: torch.device) -> Tensor:
    """The causal mask of the last u of t tokens, (u, t): −∞ hides the tokens that follow."""
    return torch.full((u, t), -torch.inf, device=device).triu(t - u + 1)


def _queries(x: Tensor, w: Block, heads: int, add: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (…, t, d) → their queries, keys and values, each (…, heads, t, d / heads)."""
    y = F.layer_norm(x, x.shape[-1:], *w.ln1).to(w.qkv[0].dtype)
    qkv = _linear(y, w.qkv, add.get("qkv")).unflatten(-1, (3, heads, -1))  # (…, t, 3, heads, d/h)
    q, k, v = qkv.movedim(-3, 0).transpose(-2, -3)  # each (…, heads, t, d / heads)
    return q, k, v


def _after(x: Tensor, attended: Tensor, w: Block, act: nn.Module, add: Factors) -> Tensor:
    """The rest of a block after attention.

    Args:
        x: tokens as they enter the block, (…, t, d).
        attended: what the heads return, (…, heads, t, d / heads).
        w: the block's weights.
        act: the activation of the MLP.
        add: deltas that are not merged.

    Returns:
        Tokens as they leave the block, (…, t, d).
    """
    joined = attended.transpose(-2, -3).flatten(-2)  # (…, t, d)
    x = x + _linear(joined, w.out, add.get("out"))
    y = F.layer_norm(x, x.shape[-1:], *w.ln2).to(w.fc1[0].dtype)
    y = act(_linear(y, w.fc1, add.get("fc1")))  # (…, t, hidden)
    return x + _linear(y, w.fc2, add.get("fc2"))


def _block(
    x: Tensor,
    at: Tensor,
    w: Block,
    heads: int,
    act: nn.Module,
    add: Factors,
    mask: Tensor | None = None,
) -> Tensor:
    """One pre-norm transformer block, for some of its tokens.

    Args:
        x: all tokens as they enter the block, (n, t, d).
        at: those to compute, the first u of `x`, (n, u, d); `x` itself for all.
        w: the block's weights.
        heads: number of heads.
        act: the activation of the MLP.
        add: deltas that are not merged.
        mask: (u, t), added to the attention scores.

    Returns:
        The tokens `at` as they leave the block, (n, u, d).
    """
    if at is x:
        q, k, v = _queries(x, w, heads, add)
    else:
        d, u = x.shape[-1], at.shape[1]
        y = F.layer_norm(x, (d,), *w.ln1).to(w.qkv[0].dtype)
        q = _linear(y[:, :u], w.qkv, add.get("qkv"), slice(0, d))  # (n, u, d)
        q = q.unflatten(-1, (heads, -1)).transpose(1, 2)  # (n, heads, u, d / heads)
        kv = _linear(y, w.qkv, add.get("qkv"), slice(d, 3 * d))  # (n, t, 2d)
        k, v = kv.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)  # (n, heads, t, d / heads)
    return _after(at, _attention(q, k, v, mask), w, act, add)


@dataclass(frozen=True, eq=False)
class TextTower:
    """A causal text transformer, which reads a text's feature from its last token.

    Attributes:
        tower: the blocks, and what follows them.
        tokens: embeddings of the tokens, (vocabulary, d).
        positions: embeddings of the positions, (context, d).
    """

    tower: Tower
    tokens: Tensor
    positions: Tensor

    def features(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Run whole texts.

        Args:
            embedded: embedded tokens of texts of at most t tokens, (n, t, d). Tokens behind the
                last are never looked at, so t need not be the whole context.
            ends: the column of the last token of each, (n,).

        Returns:
            Normalised features, (n, e).
        """
        t, length = self.tower, embedded.shape[1]
        x = embedded + self.positions[:length]  # (n, t, d)
        mask = _causal(length, length, embedded.device)  # (t, t)
        for block in t.blocks:
            x = _block(x, x, block, t.heads, t.act, {}, mask)
        return self._end(x, torch.arange(len(x)), ends)

    def continued(self, first: Tensor, embedded: Tensor, ends: Tensor) -> Tensor:
        """Run texts that begin alike; a causal tower computes a common prefix once for all.

        Args:
            first: m prefixes, (m, s, d).
            embedded: n texts that follow each of them, (n, u, d).
            ends: the column of the last token of each text, counted from the prefix on, (n,).

        Returns:
            Normalised features, (m, n, e).
        """
        t, s, u, n = self.tower, first.shape[1], embedded.shape[1], len(embedded)
        first = first + self.positions[:s]  # (m, s, d)
        x = (embedded + self.positions[s : s + u]).expand(len(first), -1, -1, -1)  # (m, n, u, d)
        mask, mask_x = _causal(s, s, x.device), _causal(u, s + u, x.device)
        for block in t.blocks:
            q, k, v = _queries(first, block, t.heads, {})  # (m, heads, s, d / heads)
            qx, kx, vx = _queries(x, block, t.heads, {})  # (m, n, heads, u, d / heads)
            keys, values = (  # (m, n, heads, s + u, d / heads)
                torch.cat([a[:, None].expand(-1, n, -1, -1, -1), b], -2)
                for a, b in ((k, kx), (v, vx))
            )
            x = _after(x, _attention(qx, keys, values, mask_x), block, t.act, {})
            first = _after(first, _attention(q, k, v, mask), block, t.act, {})
        return self._end(x.transpose(0, 1), torch.arange(n), ends - s).transpose(0, 1)

    def _end(self, x: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
        """The features of the tokens in these rows and columns of (n, t, d) or (n, m, t, d)."""
        t = self.tower
        last = x[rows, ends] if x.ndim == 3 else x[rows, :, ends]
        return F.normalize(t.head(F.layer_norm(last, last.shape[-1:], *t.ln_post)), dim=-1)


MOST_WORKERS = 8
"""More do not help at these sizes."""
=======
def cores() -> int:
    """Cores that this process may use, at most eight."""
    return min(8, devices.cores())
>>>>>>> h-shapley


@cache
def workers() -> ThreadPoolExecutor:
    """One single-threaded worker for each core.

    At these sizes two passes side by side are faster than one pass on two threads.
    """
    return ThreadPoolExecutor(
        devices.cores(MOST_WORKERS), "copra-lab", initializer=torch.set_num_threads, initargs=(1,)
    )
