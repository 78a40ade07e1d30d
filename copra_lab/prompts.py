"""Soft prompts: learned vectors in place of a prompt's words (CoOp, Zhou et al., arXiv:2109.01134), or beside an image's
patches (VPT-shallow, Jia et al., arXiv:2203.12119). A `SoftPrompt` is a value like an `Adapter`.

    end      [start] v₁ … v_m  class  .  [stop]
    middle   [start] v₁ … v_⌊m/2⌋  class  v_⌊m/2⌋₊₁ … v_m  .  [stop]
    front    [start]  class  v₁ … v_m  .  [stop]
"""

import copy
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.func import functional_call

from copra_lab.clip import Clip
from copra_lab.lora import NONE, Adapter, merged_weights
from copra_lab.storage import write_atomically
from copra_lab.tower import TextTower, plain_text, workers

POSITIONS = ("end", "middle", "front")
FILE = "soft_prompt.safetensors"


@dataclass(frozen=True)
class CoOp:
    """How to learn a text's context: `length` vectors, the class name at the `position` "end", "middle" or "front" of them;
    with `class_specific` each class learns its own. They begin as noise of standard deviation `std`, or as `words`,
    whose number is then the length. The defaults are CoOp's.

    Raises ValueError for a length below 1, another position, or a length beside words.
    """

    length: int | None = None
    position: str = "end"
    class_specific: bool = False
    words: str | None = None
    std: float = 0.02

    def __post_init__(self) -> None:
        _check_length(self.length)
        if self.position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, got {self.position!r}")
        if self.words is not None and (self.length is not None or not self.words.strip()):
            raise ValueError("give words or a length: the length of words is their number of tokens, at least one")

    def begin(self, clip: Clip, classes: Sequence[str], g: torch.Generator) -> Tensor:
        """Where training starts: (length, d), or (classes, length, d)."""
        vocabulary = _embedding(clip.model).weight.detach()
        if self.words is not None:
            context = vocabulary[_tokens(clip, self.words)].clone()
            return context.expand(len(classes), -1, -1).clone() if self.class_specific else context
        shape = (self.length or 16, vocabulary.shape[1])
        return self.std * torch.randn((len(classes), *shape) if self.class_specific else shape, generator=g)


@dataclass(frozen=True)
class VPT:
    """How to learn tokens of the image tower: `length` vectors that enter its first block beside the patches, noise of standard
    deviation `std` at first. Raises ValueError for a length below 1."""

    length: int = 4
    std: float = 0.02

    def __post_init__(self) -> None:
        _check_length(self.length)

    def begin(self, clip: Clip, classes: Sequence[str], g: torch.Generator) -> Tensor:
        """Where training starts: (length, d)."""
        return self.std * torch.randn(self.length, clip.model.visual.class_embedding.shape[0], generator=g)


def _check_length(length: int | None) -> None:
    if length is not None and (not isinstance(length, int) or length < 1):
        raise ValueError(f"length must be a whole number of at least 1, got {length!r}")


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Learned vectors, never changed after they are made: ``context`` (length, d), or (classes, length, d) where each class
    has its own. ``tower``: "text", with the class name at the ``position`` of it, or "vision".

    ``classes`` are those it was trained for: vectors that all classes share go with any others too. ``base`` is the `Clip.hash`
    it was trained on ("" if unknown). Two soft prompts are equal when all of that is.

    Raises ValueError for shapes and words that make no sense.
    """

    context: Tensor
    tower: str = "text"
    position: str = "end"
    classes: tuple[str, ...] = ()
    base: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
        if self.tower not in ("text", "vision") or self.position not in POSITIONS:
            raise ValueError(f"tower must be text or vision and position one of {', '.join(POSITIONS)}, got {self.tower!r} and {self.position!r}")
        if self.context.ndim not in (2, 3) or self.context.shape[-2] < 1 or not self.context.is_floating_point():
            raise ValueError(
                f"a context is (length, d) or (classes, length, d), of floating point, got {self.context.dtype} {tuple(self.context.shape)}"
            )
        if self.class_specific and (self.tower == "vision" or len(self.context) != len(self.classes)):
            raise ValueError(f"a context for each of {len(self.context)} classes needs their names, and the text tower")

    @property
    def length(self) -> int:
        return self.context.shape[-2]

    @property
    def class_specific(self) -> bool:
        return self.context.ndim == 3

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits that name what is in this prompt."""
        about = json.dumps([self.base, self.tower, self.position, self.classes, list(self.context.shape)])
        return hashlib.blake2b(about.encode() + self.context.detach().float().contiguous().numpy().tobytes(), digest_size=8).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SoftPrompt) and self.hash == other.hash

    def __hash__(self) -> int:
        return int(self.hash, 16)

    def norms(self, p: float = 2) -> Tensor:
        """The norm of each vector, (length,): L1, L2 or L∞ for p = 1, 2, inf; where each class has its own, the mean over classes."""
        return norms(self.context, p)

    def with_context(self, context: Tensor, **provenance: Any) -> "SoftPrompt":
        """The same prompt with other vectors."""
        about = {**provenance, "of": [self.hash]} if provenance else self.provenance
        return SoftPrompt(context, self.tower, self.position, self.classes, self.base, about)

    def save(self, folder: "str | Path") -> None:
        """Write the prompt into `folder`, which is made if need be: one file, all at once."""
        header = {
            "tower": self.tower, "position": self.position, "classes": self.classes, "base": self.base, "provenance": dict(self.provenance)
        }  # fmt: skip
        data = to_bytes({"context": self.context.detach().float().contiguous()}, {"copra_lab": json.dumps(header, sort_keys=True)})
        write_atomically(Path(folder) / FILE, data)

    @staticmethod
    def load(folder: "str | Path", clip: Clip | None = None, classes: Sequence[str] | None = None) -> "SoftPrompt":
        """Read the prompt in `folder`; with `clip` and `classes`, hold it against them. Nothing is unpickled.

        Raises PromptError, one sentence that names the fix, for a missing or damaged file, numbers that are not finite,
        another base, or class names other than those it was trained for.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            raise PromptError(f"no soft prompt at {file}; check the path")
        try:
            with safe_open(file, "pt") as f:
                h = json.loads((f.metadata() or {})["copra_lab"])
                context = f.get_tensor("context").float()
            prompt = SoftPrompt(context, h["tower"], h["position"], tuple(map(str, h["classes"])), str(h["base"]), dict(h["provenance"]))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
            raise PromptError(f"{file} is not a whole soft prompt ({e}); copy or save it anew") from e
        if not torch.isfinite(context).all():
            raise PromptError(f"{file} holds NaN or infinity; the training diverged, so lower its learning rate and train again")
        try:
            if clip is not None:
                check_prompt(prompt, clip, prompt.classes if classes is None else classes)
        except ValueError as e:
            raise PromptError(f"{folder}: {e}") from e
        return prompt


class PromptError(ValueError):
    """A soft prompt on disk that cannot be used; the message says why and what to do."""


def norms(context: Tensor, p: float = 2) -> Tensor:
    """The p-norm of each vector of (length, d), or of (classes, length, d) the mean over classes: (length,)."""
    found = torch.linalg.vector_norm(context, ord=p, dim=-1)
    return found.mean(0) if context.ndim == 3 else found


def word_norm(clip: Clip) -> float:
    """The mean L2 norm of the embeddings of CLIP's own tokens: what a learned vector stands in for."""
    return float(_embedding(clip.model).weight.detach().norm(dim=-1).mean())


def check_prompt(prompt: SoftPrompt, clip: Clip, classes: Sequence[str]) -> None:
    """Raises ValueError if `prompt` was made for another base, for vectors of another width, or, where each class has its own
    vectors, for other classes."""
    if prompt.base and prompt.base != clip.hash:
        raise ValueError(f"this soft prompt was trained on base {prompt.base}, not on {clip.hash}; load the CLIP it was made from, or train it anew")
    width = _width(clip, prompt.tower)
    if prompt.context.shape[-1] != width:
        raise ValueError(f"its vectors have {prompt.context.shape[-1]} numbers, those of this CLIP's {prompt.tower} tower {width}; train it anew")
    if prompt.class_specific and tuple(classes) != prompt.classes:
        differ = next(
            (f"{b!r} instead of {a!r}" for a, b in zip(prompt.classes, classes, strict=False) if a != b), f"{len(classes)} of {len(prompt.classes)}"
        )
        raise ValueError(f"each class has its own vectors in this prompt, and the classes changed ({differ}); train it anew for these")


def _width(clip: Clip, tower: str) -> int:
    return clip.model.visual.class_embedding.shape[0] if tower == "vision" else _embedding(clip.model).weight.shape[1]


def _embedding(model: nn.Module) -> nn.Embedding:
    """The embedding of tokens. Raises ValueError for a text tower that has none by that name."""
    for owner in (model, getattr(model, "text", None)):
        if isinstance(found := getattr(owner, "token_embedding", None), nn.Embedding):
            return found
    raise ValueError(f"the text tower of {type(model).__name__} has no token_embedding, which soft prompts replace")


# --- from class names and vectors to features ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layout:
    """Class names with room for a context: ``tokens`` (classes, t) as the model numbers them, padded, ``where`` (classes, length) the
    columns of the context's vectors, ``ends`` (classes,) that of the last token."""

    tokens: Tensor
    where: Tensor
    ends: Tensor


def layout(clip: Clip, classes: Sequence[str], length: int, position: str = "end") -> Layout:
    """Raises ValueError for an empty class name, or one that leaves less room than `length` in CLIP's context."""
    start, stop = clip.tokenizer.sot_token_id, clip.tokenizer.eot_token_id
    room, dot = clip.tokenizer.context_length, _tokens(clip, ".")
    rows, where = [], []
    for name in classes:
        if not name.strip():
            raise ValueError(f"class {list(classes).index(name)} has an empty name; a soft prompt needs one to put its vectors beside")
        own = _tokens(clip, name)
        before = {"end": length, "middle": length // 2, "front": 0}[position]
        row = [start, *[0] * before, *own, *[0] * (length - before), *dot, stop]
        if len(row) > room:
            raise ValueError(
                f"{length} vectors and the class {name!r} need {len(row)} tokens, and this CLIP reads {room}; "
                f"make the context shorter by {len(row) - room}, or the name"
            )
        rows.append(row)
        where.append([*range(1, 1 + before), *range(1 + before + len(own), 1 + length + len(own))])
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    return Layout(tokens, torch.tensor(where), torch.tensor([len(row) - 1 for row in rows]))


def _tokens(clip: Clip, text: str) -> list[int]:
    """The numbers of a text's tokens, without those of start and end."""
    return list(clip.tokenizer.encode(text))


class Encoder:
    """Turns contexts into the features of class names, by CLIP's text tower with an adapter merged into it; with gradients.

    Raises ValueError for a context that does not fit (see `layout`).
    """

    TEXTS = 100
    """How many a pass without gradients."""

    def __init__(self, clip: Clip, classes: Sequence[str], length: int, position: str, adapter: Adapter = NONE):
        self.layout = layout(clip, classes, length, position)
        deltas = {clip.sites[n]: d for n, d in adapter.deltas.items() if clip.sites[n].tower == "text"}
        run: TextTower | _General
        if plain := _plain(clip):
            run = TextTower(plain.tower.with_deltas(plain.tower, deltas), plain.words, plain.places)
        else:
            run = _General(clip, self.layout, Adapter({s.name: d for s, d in deltas.items()}))
        self._run, self._alike = run, position == "end"
        self._embedded = _embedding(clip.model).weight.detach()[run.tokens if isinstance(run, _General) else self.layout.tokens]

    def __call__(self, contexts: Tensor) -> Tensor:
        """Contexts (m, length, d) or (m, classes, length, d) → normalised features (m, classes, e)."""
        if torch.is_grad_enabled():
            return self._encode(contexts)
        parts = contexts.split(max(1, self.TEXTS // len(self._embedded)))
        return torch.cat(list(workers().map(torch.no_grad()(self._encode), parts)))

    def _encode(self, contexts: Tensor) -> Tensor:
        m, classes = len(contexts), len(self._embedded)
        if contexts.ndim == 3 and self._alike and isinstance(self._run, TextTower):
            begun = 1 + contexts.shape[1]
            start = self._embedded[:1, :1].expand(m, -1, -1)
            return self._run.continued(torch.cat([start, contexts], 1), self._embedded[:, begun:], self.layout.ends)
        if contexts.ndim == 3:
            contexts = contexts[:, None].expand(-1, classes, -1, -1)
        x = self._embedded.repeat(m, 1, 1, 1)
        x[:, torch.arange(classes)[:, None], self.layout.where] = contexts
        return self._run.features(x.flatten(0, 1), self.layout.ends.repeat(m)).unflatten(0, (m, classes))


def encode_texts(clip: Clip, texts: Sequence[str], adapter: Adapter) -> Tensor:
    """Normalised features (n, e) of whole texts, by the text tower with an adapter merged into it."""
    tokens = clip.tokenizer(list(texts))
    deltas = {clip.sites[n]: d for n, d in adapter.deltas.items() if clip.sites[n].tower == "text"}
    if not deltas:
        return clip.text_features(texts)
    with torch.inference_mode():
        if plain := _plain(clip):
            ends = tokens.argmax(-1)
            run = TextTower(plain.tower.with_deltas(plain.tower, deltas), plain.words, plain.places)
            return run.features(plain.words[tokens[:, : int(ends.max()) + 1]], ends)
        general = _General(clip, Layout(tokens, tokens, tokens), Adapter({s.name: d for s, d in deltas.items()}))
        return general.features(_embedding(clip.model).weight[tokens], tokens)


@cache
def _plain(clip: Clip) -> TextTower | None:
    return plain_text(clip.model)


class _General:
    """The slow way for any text tower: the model's own code, its embedding exchanged by a hook, on a private copy."""

    def __init__(self, clip: Clip, room: Layout, adapter: Adapter):
        self.model, self.lock = copy.deepcopy(clip.model), threading.Lock()
        self.model.forward = self.model.encode_text  # what functional_call calls
        self.weights = merged_weights(clip.model, adapter)
        self.tokens = F.pad(room.tokens, (0, clip.tokenizer.context_length - room.tokens.shape[1]))

    def features(self, embedded: Tensor, ends: Tensor) -> Tensor:
        tokens = self.tokens.repeat(len(embedded) // len(self.tokens), 1)
        with self.lock:
            hook = _embedding(self.model).register_forward_hook(lambda *_: embedded)
            try:
                return F.normalize(functional_call(self.model, self.weights, (tokens,)), dim=-1)
            finally:
                hook.remove()


def beside(tokens: Tensor, context: Tensor | None) -> Tensor:
    """Tokens (n, t, d) of images as they enter the first block, and after them those of a soft prompt."""
    return tokens if context is None else torch.cat([tokens, context.expand(len(tokens), -1, -1)], 1)
