"""CLIP's text transformer as a function of its weights."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from copra_lab.engine.blocks import after_attention, attention, causal_mask, queries, run_block
from copra_lab.engine.transformer import Tower


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
        mask = causal_mask(length, length, embedded.device)  # (t, t)
        for block in t.blocks:
            x = run_block(x, x, block, t.heads, t.act, {}, mask)
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
        mask, mask_x = causal_mask(s, s, x.device), causal_mask(u, s + u, x.device)
        for block in t.blocks:
            q, k, v = queries(first, block, t.heads, {})  # (m, heads, s, d / heads)
            qx, kx, vx = queries(x, block, t.heads, {})  # (m, n, heads, u, d / heads)
            keys, values = (  # (m, n, heads, s + u, d / heads)
                torch.cat([a[:, None].expand(-1, n, -1, -1, -1), b], -2)
                for a, b in ((k, kx), (v, vx))
            )
            x = after_attention(x, attention(qx, keys, values, mask_x), block, t.act, {})
            first = after_attention(first, attention(q, k, v, mask), block, t.act, {})
        return self._end(x.transpose(0, 1), torch.arange(n), ends - s).transpose(0, 1)

    def _end(self, x: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
        """The features of the tokens in these rows and columns of (n, t, d) or (n, m, t, d)."""
        t = self.tower
        last = x[rows, ends] if x.ndim == 3 else x[rows, :, ends]
        return F.normalize(t.head(F.layer_norm(last, last.shape[-1:], *t.ln_post)), dim=-1)
