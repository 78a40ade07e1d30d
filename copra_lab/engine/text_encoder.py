"""From texts to features, by CLIP's text tower with an adapter merged into it.

`encode_texts` takes whole texts, `Encoder` class names beside the vectors of a soft prompt.
"""

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from copra_lab.adapters.adapter import NONE, Adapter, LowRank, deltas_in, merged_weights
from copra_lab.engine.extraction import plain_text
from copra_lab.engine.text_tower import TextTower
from copra_lab.engine.transformer import workers
from copra_lab.models.clip import Clip
from copra_lab.models.sites import Site

__all__ = ["Encoder", "encode_texts"]


def embedding(model: nn.Module) -> nn.Embedding:
    """The token embedding of a CLIP's text tower.

    Raises:
        ValueError: for a text tower that has none by that name.
    """
    for owner in (model, getattr(model, "text", None)):
        if isinstance(found := getattr(owner, "token_embedding", None), nn.Embedding):
            return found
    raise ValueError(f"the text tower of {type(model).__name__} has no token_embedding")


def token_ids(clip: Clip, text: str) -> list[int]:
    """The token ids of a text, without start and end."""
    return list(clip.tokenizer.encode(text))


@dataclass(frozen=True, eq=False)
class Layout:
    """Class names with room for a soft prompt's context.

    Attributes:
        tokens: token ids, padded, (classes, t).
        where: the columns of the context's vectors, (classes, length).
        ends: the column of the last token, (classes,).
    """

    tokens: Tensor
    where: Tensor
    ends: Tensor


def layout(clip: Clip, classes: Sequence[str], length: int, position: str = "end") -> Layout:
    """Lay out the class names with `length` vectors before, around or behind them.

    Args:
        clip: whose tokenizer is used.
        classes: names of the classes.
        length: number of vectors in the context.
        position: of the class name in the context: "end", "middle" or "front".

    Raises:
        ValueError: for an empty class name, or one that leaves less room than `length` in CLIP's
            context, and for a tokenizer other than CLIP's.
    """
    if not hasattr(clip.tokenizer, "sot_token_id"):
        raise ValueError(
            f"soft prompts for texts need CLIP's own tokenizer, and {clip.name} has another; use "
            "LoRA, or VPT in the image tower"
        )
    start, stop = clip.tokenizer.sot_token_id, clip.tokenizer.eot_token_id
    room, dot = clip.tokenizer.context_length, token_ids(clip, ".")
    rows, where = [], []
    for name in classes:
        if not name.strip():
            raise ValueError(
                f"class {list(classes).index(name)} has an empty name; "
                "a soft prompt needs one to put its vectors beside"
            )
        words = token_ids(clip, name)
        before = {"end": length, "middle": length // 2, "front": 0}[position]
        row = [start, *[0] * before, *words, *[0] * (length - before), *dot, stop]
        if len(row) > room:
            raise ValueError(
                f"{length} vectors and the class {name!r} need {len(row)} tokens, "
                f"and this CLIP reads {room}; "
                f"make the context shorter by {len(row) - room}, or the name"
            )
        rows.append(row)
        behind = 1 + before + len(words)
        where.append([*range(1, 1 + before), *range(behind, 1 + length + len(words))])
    tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return Layout(tokens, torch.tensor(where), torch.tensor([len(row) - 1 for row in rows]))


class Encoder:
    """Turns contexts into the features of class names; gradients flow through to the context.

    Args:
        clip: the base.
        classes: names of the classes.
        length: number of vectors in a context.
        position: of the class name in the context: "end", "middle" or "front".
        adapter: merged into the text tower.

    Raises:
        ValueError: for a context that does not fit (see `layout`).
    """

    TEXTS = 100
    """Texts that run together when no gradients are needed."""

    def __init__(
        self,
        clip: Clip,
        classes: Sequence[str],
        length: int,
        position: str,
        adapter: Adapter = NONE,
    ) -> None:
        self.layout = layout(clip, classes, length, position)
        deltas = deltas_in(adapter, clip.sites, "text")
        tokens = self.layout.tokens
        run: TextTower | _General = _plain_with(clip, deltas) or _General(clip, tokens, deltas)
        self._run, self._same_start = run, position == "end"
        padded = run.tokens if isinstance(run, _General) else tokens
        self._embedded = embedding(clip.model).weight.detach()[padded]

    def __call__(self, contexts: Tensor) -> Tensor:
        """Encode contexts together with the class names.

        Args:
            contexts: (m, length, d), or (m, classes, length, d) where each class has its own.

        Returns:
            Normalised features, (m, classes, e).
        """
        if torch.is_grad_enabled():
            return self._encode(contexts)
        batches = contexts.split(max(1, self.TEXTS // len(self._embedded)))
        return torch.cat(list(workers().map(torch.no_grad()(self._encode), batches)))

    def _encode(self, contexts: Tensor) -> Tensor:
        m, classes = len(contexts), len(self._embedded)
        if contexts.ndim == 3 and self._same_start and isinstance(self._run, TextTower):
            # All classes begin with the same tokens, start and context: these run once.
            begun = 1 + contexts.shape[1]
            start = self._embedded[:1, :1].expand(m, -1, -1)
            first = torch.cat([start, contexts], 1)  # (m, 1 + length, d)
            return self._run.continued(first, self._embedded[:, begun:], self.layout.ends)
        if contexts.ndim == 3:
            contexts = contexts[:, None].expand(-1, classes, -1, -1)  # (m, classes, length, d)
        x = self._embedded.repeat(m, 1, 1, 1)  # (m, classes, t, d)
        x[:, torch.arange(classes)[:, None], self.layout.where] = contexts
        features = self._run.features(x.flatten(0, 1), self.layout.ends.repeat(m))
        return features.unflatten(0, (m, classes))


def encode_texts(clip: Clip, texts: Sequence[str], adapter: Adapter) -> Tensor:
    """Normalised features of whole texts with an adapter, (n, e)."""
    deltas = deltas_in(adapter, clip.sites, "text")
    if not deltas:
        return clip.text_features(texts)
    tokens = clip.tokenizer(list(texts))
    ends = tokens.argmax(-1)
    with torch.inference_mode():
        if plain := _plain_with(clip, deltas):
            return plain.features(plain.tokens[tokens[:, : int(ends.max()) + 1]], ends)
        return _General(clip, tokens, deltas).features(embedding(clip.model).weight[tokens], ends)


def _plain_with(clip: Clip, deltas: Mapping[Site, LowRank]) -> TextTower | None:
    """The text tower with deltas merged, or None if it is not a plain one."""
    if plain := _plain(clip):
        return replace(plain, tower=plain.tower.with_deltas(plain.tower, deltas))
    return None


@cache
def _plain(clip: Clip) -> TextTower | None:
    return plain_text(clip.model)


class _General:
    """The slow way, for any text tower: the model's own code on a private copy.

    A hook replaces what the copy's token embedding returns.
    """

    def __init__(self, clip: Clip, tokens: Tensor, deltas: Mapping[Site, LowRank]) -> None:
        self.model, self.lock = copy.deepcopy(clip.model), threading.Lock()
        self.model.forward = self.model.encode_text  # what functional_call calls
        adapter = Adapter({site.name: d for site, d in deltas.items()})
        self.weights = merged_weights(clip.model, adapter)
        self.tokens = F.pad(tokens, (0, clip.tokenizer.context_length - tokens.shape[1]))

    def features(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Embedded tokens (n, t, d) → normalised features (n, e), as `TextTower.features`."""
        tokens = self.tokens.repeat(len(embedded) // len(self.tokens), 1)
        with self.lock:
            hook = embedding(self.model).register_forward_hook(lambda *_: embedded)
            try:
                return F.normalize(functional_call(self.model, self.weights, (tokens,)), dim=-1)
            finally:
                hook.remove()
