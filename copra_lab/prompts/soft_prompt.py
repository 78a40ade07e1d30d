"""Soft prompts: learned vectors in place of a prompt's words, or beside an image's patches.

The first is CoOp (Zhou et al., arXiv:2109.01134), the second VPT-shallow (Jia et al.,
arXiv:2203.12119). A `SoftPrompt` is a value like an `Adapter`. Where the class name stands::

    end      [start] v₁ … v_m  class  .  [stop]
    middle   [start] v₁ … v_⌊m/2⌋  class  v_⌊m/2⌋₊₁ … v_m  .  [stop]
    front    [start]  class  v₁ … v_m  .  [stop]
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from copra_lab.engine.text_encoder import embedding, token_ids
from copra_lab.models.clip import Clip, check_base
from copra_lab.utils.checks import one_of, whole_number
from copra_lab.utils.files import write_atomically

__all__ = ["VPT", "CoOp", "PromptError", "SoftPrompt", "norms", "word_norm"]

POSITIONS = ("end", "middle", "front")
FILE = "soft_prompt.safetensors"


@dataclass(frozen=True)
class CoOp:
    """How to learn a text's context; the defaults are those of CoOp.

    Attributes:
        length: number of vectors; 16 if it is None.
        position: of the class name: at the "end", in the "middle" or in "front" of them.
        class_specific: whether each class learns vectors of its own.
        words: words whose embeddings the vectors start from; their number is then the length.
        std: standard deviation of the noise that they start from without words.

    Raises:
        ValueError: for a length below 1, another position, or a length beside words.
    """

    length: int | None = None
    position: str = "end"
    class_specific: bool = False
    words: str | None = None
    std: float = 0.02

    def __post_init__(self) -> None:
        if self.length is not None:
            whole_number("length", self.length)
        one_of("position", self.position, POSITIONS)
        if self.words is not None and (self.length is not None or not self.words.strip()):
            raise ValueError(
                "give words or a length: the length of words is their number of tokens, "
                "at least one"
            )

    def vectors(self, clip: Clip) -> int:
        """How many vectors there are for each class."""
        return (self.length or 16) if self.words is None else len(token_ids(clip, self.words))

    def begin(self, clip: Clip, classes: Sequence[str], g: torch.Generator) -> Tensor:
        """The vectors that training starts from, (length, d) or (classes, length, d)."""
        vocabulary = embedding(clip.model).weight.detach()
        if self.words is not None:
            context = vocabulary[token_ids(clip, self.words)].clone()
            return context.expand(len(classes), -1, -1).clone() if self.class_specific else context
        shape: tuple[int, ...] = (self.vectors(clip), vocabulary.shape[1])
        shape = (len(classes), *shape) if self.class_specific else shape
        return self.std * torch.randn(shape, generator=g)


@dataclass(frozen=True)
class VPT:
    """How to learn vectors that enter the first block of the image tower beside the patches.

    Attributes:
        length: number of vectors.
        std: standard deviation of the noise that they start from.

    Raises:
        ValueError: for a length below 1.
    """

    length: int = 4
    std: float = 0.02

    def __post_init__(self) -> None:
        whole_number("length", self.length)

    def begin(self, clip: Clip, classes: Sequence[str], g: torch.Generator) -> Tensor:
        """The vectors that training starts from, (length, d)."""
        return self.std * torch.randn(self.length, _width(clip, "vision"), generator=g)


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Learned vectors as a value: never changed, equal when all but the provenance is.

    Attributes:
        context: the vectors, (length, d), or (classes, length, d) where each class has its own.
        tower: "text" or "vision".
        position: of the class name: "end", "middle" or "front".
        classes: those it was trained for. Vectors that all classes share work with others too.
        base: the `Clip.hash` that it was trained on, "" if unknown.
        provenance: how it was made.

    Raises:
        ValueError: for a context, tower, position or classes other than these.
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
        one_of("tower", self.tower, ("text", "vision"))
        one_of("position", self.position, POSITIONS)
        if (
            self.context.ndim not in (2, 3)
            or self.context.shape[-2] < 1
            or not self.context.is_floating_point()
        ):
            raise ValueError(
                "a context is (length, d) or (classes, length, d), of floating point, "
                f"got {self.context.dtype} {tuple(self.context.shape)}"
            )
        if self.class_specific and (
            self.tower == "vision" or len(self.context) != len(self.classes)
        ):
            raise ValueError(
                f"a context for each of {len(self.context)} classes needs their names, "
                "and the text tower"
            )

    def __repr__(self) -> str:
        about = [str(self.provenance[k]) for k in ("method", "task") if k in self.provenance]
        size = "×".join(map(str, self.context.shape))
        return f"SoftPrompt({', '.join([*about, f'{self.tower} tower', f'{size} numbers'])})"

    @property
    def length(self) -> int:
        """Number of vectors for each class."""
        return self.context.shape[-2]

    @property
    def class_specific(self) -> bool:
        """Whether each class has vectors of its own."""
        return self.context.ndim == 3

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits that identify the content of this prompt."""
        shape = list(self.context.shape)
        about = json.dumps([self.base, self.tower, self.position, self.classes, shape])
        numbers = self.context.detach().float().contiguous().numpy().tobytes()
        return hashlib.blake2b(about.encode() + numbers, digest_size=8).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SoftPrompt) and self.hash == other.hash

    def __hash__(self) -> int:
        return int(self.hash, 16)

    def norms(self, p: float = 2) -> Tensor:
        """The p-norm of each vector, (length,); of class-specific ones the mean over classes."""
        return norms(self.context, p)

    def with_context(self, context: Tensor, **provenance: Any) -> "SoftPrompt":
        """The same prompt with other vectors."""
        about = {**provenance, "of": [self.hash]} if provenance else self.provenance
        return SoftPrompt(context, self.tower, self.position, self.classes, self.base, about)

    def save(self, folder: "str | Path") -> None:
        """Write the prompt into `folder`, made if need be: one file, whole or not at all."""
        header = {
            "tower": self.tower,
            "position": self.position,
            "classes": self.classes,
            "base": self.base,
            "provenance": dict(self.provenance),
        }
        data = to_bytes(
            {"context": self.context.detach().float().contiguous()},
            {"copra_lab": json.dumps(header, sort_keys=True)},
        )
        write_atomically(Path(folder) / FILE, data)

    @staticmethod
    def load(
        folder: "str | Path", clip: Clip | None = None, classes: Sequence[str] | None = None
    ) -> "SoftPrompt":
        """Read the prompt in `folder`. Nothing is unpickled.

        Args:
            folder: where `save` wrote it.
            clip: the base that it must fit, if given.
            classes: the classes that it must fit; by default its own.

        Raises:
            PromptError: for a missing or damaged file, numbers that are not finite, another base,
                or class names other than those it was trained for; it names the fix.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            raise PromptError(f"no soft prompt at {file}; check the path")
        try:
            with safe_open(file, "pt") as f:
                h = json.loads((f.metadata() or {})["copra_lab"])
                context = f.get_tensor("context").float()
            classes_of, about = tuple(map(str, h["classes"])), dict(h["provenance"])
            prompt = SoftPrompt(
                context, h["tower"], h["position"], classes_of, str(h["base"]), about
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as e:
            raise PromptError(
                f"{file} is not a whole soft prompt ({e}); copy or save it anew"
            ) from e
        if not torch.isfinite(context).all():
            raise PromptError(
                f"{file} holds NaN or infinity; "
                "the training diverged, so lower its learning rate and train again"
            )
        try:
            if clip is not None:
                check_prompt(prompt, clip, prompt.classes if classes is None else classes)
        except ValueError as e:
            raise PromptError(f"{folder}: {e}") from e
        return prompt


class PromptError(ValueError):
    """A soft prompt on disk that cannot be used; the message says why and what to do."""


def norms(context: Tensor, p: float = 2) -> Tensor:
    """The p-norm of each vector, (length,).

    Args:
        context: (length, d), or (classes, length, d), of which the mean over classes is taken.
        p: 1, 2 or infinity.
    """
    each = torch.linalg.vector_norm(context, ord=p, dim=-1)  # (length,) or (classes, length)
    return each.mean(0) if context.ndim == 3 else each


def word_norm(clip: Clip) -> float:
    """The mean L2 norm of CLIP's own token embeddings, which learned vectors take the place of."""
    return float(embedding(clip.model).weight.detach().norm(dim=-1).mean())


def check_prompt(prompt: SoftPrompt, clip: Clip, classes: Sequence[str]) -> None:
    """Check that a soft prompt fits a CLIP and the classes.

    Raises:
        ValueError: for another base, vectors of another width, or, where each class has vectors of
            its own, other classes.
    """
    check_base("soft prompt", prompt.base, clip.hash)
    width = _width(clip, prompt.tower)
    if prompt.context.shape[-1] != width:
        raise ValueError(
            f"its vectors have {prompt.context.shape[-1]} numbers, "
            f"those of this CLIP's {prompt.tower} tower {width}; train it anew"
        )
    if prompt.class_specific and tuple(classes) != prompt.classes:
        pairs = zip(prompt.classes, classes, strict=False)
        changed = [f"{b!r} instead of {a!r}" for a, b in pairs if a != b]
        differ = (*changed, f"{len(classes)} of {len(prompt.classes)}")[0]
        raise ValueError(
            "each class has its own vectors in this prompt, and the classes changed "
            f"({differ}); train it anew for these"
        )


def _width(clip: Clip, tower: str) -> int:
    """The width d of a tower's tokens."""
    if tower == "vision":
        return next(s.width for s in clip.sites.values() if s.tower == "vision")
    return embedding(clip.model).weight.shape[1]
