"""A plain ViT, and CLIP's text transformer, as functions of their weights (`copra_lab.engine.extraction` reads them out of a model): the
same numbers as the modules, several times faster for small images.

Nothing is mutated, so any number of threads may ask for different adapters at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copra_lab.adapters.adapter import LowRank
from copra_lab.models.sites import Site
from copra_lab.utils import devices

CHUNK = 50
"""Images a pass: small enough that a block's activations stay in a core's cache."""


Factors = Mapping[str, tuple[Tensor | Callable[[Tensor], Tensor], Tensor]]
"""By part of a block (``qkv``, ``out``, ``fc1``, ``fc2``): A (R, in) and B (out, R) of a delta B·A,
scale included. In place of A may stand a function x (…, in) → (…, R), such as dropout(x)·Aᵀ."""

NO_FACTORS: Mapping[int, Factors] = {}

Norm = tuple[Tensor, Tensor, float]
"""Of a layer norm: weight, bias and ε, as `F.layer_norm` takes them."""


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of one pre-norm transformer block: matrices of the tower's dtype, norms of float32."""

    ln1: Norm
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    ln2: Norm
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Tower:
    """The blocks of an image tower and what follows them. ``heads`` per block; ``act`` the MLP's activation; ``head`` turns what
    comes out of the last norm into features: the class token (n, d), or, with ``whole``, all tokens (n, t, d), as SigLIP does.

    ``dtype`` is that of the matrix products in the blocks. What runs between and after them stays float32, which costs next to
    nothing and halves the error of bfloat16.
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
        """This tower with deltas added. `base` is the same tower in float32: merging rounds once, at the end.

        Towers made with the same dictionary `made` share the blocks where they have the very same deltas.
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
        """Tokens (n, t, d) as they enter block `start` (before the first: embedded and normalised) → normalised
        features (n, e); both float32. `factors`: by layer, what is to be added to its matrices, unmerged."""
        last = len(self.blocks) - 1
        for i in range(start, last):
            tokens = _block(
                tokens, tokens, self.blocks[i], self.heads, self.act, factors.get(i, {})
            )
        return self._end(tokens, self.blocks[last], factors.get(last, {}))

    def _end(self, tokens: Tensor, last: Block, add: Factors) -> Tensor:
        # Where only the class token is read at the end, the last block computes only that one.
        at = tokens if self.whole else tokens[:, :1]
        out = _block(tokens, at, last, self.heads, self.act, add)
        out = F.layer_norm(out, out.shape[-1:], *self.ln_post)
        return F.normalize(self.head(out if self.whole else out[:, 0]), dim=-1)

    def through(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        """Tokens (n, t, d) before block `start` → those before block `stop`, in the tower as it is."""
        for block in self.blocks[start:stop]:
            tokens = _block(tokens, tokens, block, self.heads, self.act, {})
        return tokens


def _merged(
    block: Block, base: Block, members: Sequence[tuple[Site, LowRank]], dtype: torch.dtype
) -> Block:
    changed: dict[str, Tensor] = {}
    for site, d in members:
        part = site.part
        if part not in changed:
            changed[part] = getattr(base, part)[0].clone()
        changed[part][site.start : site.stop] += d.delta().to(changed[part].device)
    now = block.__dict__
    return Block(**(now | {part: (w.to(dtype), now[part][1]) for part, w in changed.items()}))


class Forest:
    """Many towers that differ in some blocks, run together: what they share, from the first block on, is computed once.

    A tree with a node for each different beginning; images walk it depth first, so that there is never more than one
    activation a depth in memory. All 2¹² on-and-off variants of twelve blocks cost 8,190 passes of a block, not 49,152.
    """

    def __init__(self, towers: Sequence[Tower]):
        self.any = towers[0]
        self.depth = len(towers[0].blocks)
        self.root: dict[int, Any] = {}
        """id of a block → (block, what follows): another such dictionary, or below the last block the towers' numbers."""
        for i, tower in enumerate(towers):
            node = self.root
            for block in tower.blocks[:-1]:
                node = node.setdefault(id(block), (block, {}))[1]
            node.setdefault(id(tower.blocks[-1]), (tower.blocks[-1], []))[1].append(i)

    @property
    def passes(self) -> int:
        """Of a block, for each image."""

        def count(node: dict[int, Any], depth: int) -> int:
            return (
                len(node)
                if depth == self.depth
                else len(node) + sum(count(below, depth + 1) for _, below in node.values())
            )

        return count(self.root, 1)

    def features(self, tokens: Tensor) -> Iterator[tuple[list[int], Tensor]]:
        """The numbers of some towers, and their features (n, e) of tokens (n, t, d); every tower once, in no set order."""
        yield from self._walk(self.root, 1, tokens)

    def _walk(
        self, node: dict[int, Any], depth: int, x: Tensor
    ) -> Iterator[tuple[list[int], Tensor]]:
        for block, below in node.values():
            if depth == self.depth:
                yield below, self.any._end(x, block, {})
            else:
                yield from self._walk(
                    below, depth + 1, _block(x, x, block, self.any.heads, self.any.act, {})
                )


def _linear(
    x: Tensor,
    w: tuple[Tensor, Tensor],
    factors: tuple[Tensor | Callable[[Tensor], Tensor], Tensor] | None,
    rows: slice = slice(None),
) -> Tensor:
    """x·Wᵀ + b for some rows of W, plus x·Aᵀ·Bᵀ where there are factors (A (R, in), B (out, R))."""
    y = F.linear(x, w[0][rows], w[1][rows])
    if factors is None:
        return y
    a, b = factors
    down = x @ a.T.to(x.dtype) if isinstance(a, Tensor) else a(x)
    return y + down @ b[rows].T.to(x.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(…, heads, u, d), (…, heads, t, d) twice → (…, heads, u, d); `mask` (u, t) is added to the scores."""
    if (
        torch.is_grad_enabled()
    ):  # the fused kernel's backward pass is slower here, many times so in bfloat16
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        return (scores if mask is None else scores + mask).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, mask)


def _causal(u: int, t: int, device: torch.device) -> Tensor:
    """For the last u of t tokens: each attends to itself and those before."""
    return torch.full((u, t), -torch.inf, device=device).triu(t - u + 1)


def _queries(x: Tensor, w: Block, heads: int, add: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (…, t, d) → their queries, keys and values (…, heads, t, d / heads)."""
    y = F.layer_norm(x, x.shape[-1:], *w.ln1).to(w.qkv[0].dtype)
    q, k, v = (
        _linear(y, w.qkv, add.get("qkv"))
        .unflatten(-1, (3, heads, -1))
        .movedim(-3, 0)
        .transpose(-2, -3)
    )
    return q, k, v


def _after(x: Tensor, attended: Tensor, w: Block, act: nn.Module, add: Factors) -> Tensor:
    """Tokens (…, t, d) and what their heads found (…, heads, t, d / heads) → tokens behind the block."""
    x = x + _linear(attended.transpose(-2, -3).flatten(-2), w.out, add.get("out"))
    y = F.layer_norm(x, x.shape[-1:], *w.ln2).to(w.fc1[0].dtype)
    return x + _linear(act(_linear(y, w.fc1, add.get("fc1"))), w.fc2, add.get("fc2"))


def _block(
    x: Tensor,
    at: Tensor,
    w: Block,
    heads: int,
    act: nn.Module,
    add: Factors,
    mask: Tensor | None = None,
) -> Tensor:
    """One block for the query tokens `at` (n, u, d), the first of `x` (n, t, d) and attending to all of it, but for what `mask` (u, t) hides."""
    if at is x:
        q, k, v = _queries(x, w, heads, add)
    else:
        d, u = x.shape[-1], at.shape[1]
        y = F.layer_norm(x, (d,), *w.ln1).to(w.qkv[0].dtype)
        q = (
            _linear(y[:, :u], w.qkv, add.get("qkv"), slice(0, d))
            .unflatten(-1, (heads, -1))
            .transpose(1, 2)
        )
        k, v = (
            _linear(y, w.qkv, add.get("qkv"), slice(d, 3 * d))
            .unflatten(-1, (2, heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
    return _after(at, _attention(q, k, v, mask), w, act, add)


@dataclass(frozen=True, eq=False)
class TextTower:
    """A causal text transformer whose feature is that of each text's last token: ``words`` (vocabulary, d) and ``places``
    (context, d) are the embeddings of tokens and of positions."""

    tower: Tower
    words: Tensor
    places: Tensor

    def features(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Embedded tokens (n, t, d) of texts of at most t tokens, the last of each at ``ends`` (n,) → normalised features
        (n, e). Tokens behind the last are never looked at, so t need not be the whole context."""
        t = self.tower
        x, mask = (
            embedded + self.places[: embedded.shape[1]],
            _causal(embedded.shape[1], embedded.shape[1], embedded.device),
        )
        for block in t.blocks:
            x = _block(x, x, block, t.heads, t.act, {}, mask)
        return self._end(x, torch.arange(len(x)), ends)

    def continued(self, first: Tensor, embedded: Tensor, ends: Tensor) -> Tensor:
        """The same for texts that begin alike: m beginnings (m, s, d), each followed by every one of n texts (n, u, d), whose last
        tokens stand at ``ends`` (n,), counted from the beginning → (m, n, e). What a beginning is turned into does not depend on
        what follows, so it is computed once for all that follow it."""
        t, s, u, n = self.tower, first.shape[1], embedded.shape[1], len(embedded)
        first, x = (
            first + self.places[:s],
            (embedded + self.places[s : s + u]).expand(len(first), -1, -1, -1),
        )
        own, after = _causal(s, s, x.device), _causal(u, s + u, x.device)
        for block in t.blocks:
            q, k, v = _queries(first, block, t.heads, {})
            qx, kx, vx = _queries(x, block, t.heads, {})
            keys, values = (
                torch.cat([a[:, None].expand(-1, n, -1, -1, -1), b], -2)
                for a, b in ((k, kx), (v, vx))
            )
            x = _after(x, _attention(qx, keys, values, after), block, t.act, {})
            first = _after(first, _attention(q, k, v, own), block, t.act, {})
        return self._end(x.transpose(0, 1), torch.arange(n), ends - s).transpose(0, 1)

    def _end(self, x: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
        t = self.tower
        last = x[rows, ends] if x.ndim == 3 else x[rows, :, ends]
        return F.normalize(t.head(F.layer_norm(last, last.shape[-1:], *t.ln_post)), dim=-1)


MOST_WORKERS = 8
"""More do not help at these sizes."""


@cache
def workers() -> ThreadPoolExecutor:
    """One worker a core, each single-threaded: at these sizes two passes side by side beat one pass on two threads."""
    return ThreadPoolExecutor(
        devices.cores(MOST_WORKERS), "copra-lab", initializer=torch.set_num_threads, initargs=(1,)
    )
