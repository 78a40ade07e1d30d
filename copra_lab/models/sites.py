"""Where LoRA can sit: the weight matrices of a CLIP's transformer blocks, found by name.

A site carries one name whatever the model is made of: the name that Hugging Face's CLIPModel gives the matrix. So an
adapter trained on open_clip's fused attention fits the same weights in transformers, and peft reads it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["KINDS", "TOWERS", "Site", "choose", "find_sites", "hf_name", "site_of"]

KINDS = ("q", "k", "v", "out", "fc1", "fc2")
"""Of a block's matrices: query, key, value, output projection, and the two of the MLP."""

TOWERS = ("vision", "text")

_PARTS = {
    "attn": "qkv", "attn.out_proj": "out", "mlp.c_fc": "fc1", "mlp.c_proj": "fc2",  # open_clip
    "attn.qkv": "qkv", "attn.proj": "out", "mlp.fc1": "fc1", "mlp.fc2": "fc2",  # timm, as open_clip's SigLIP has it
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.out_proj": "out",  # Hugging Face
}  # fmt: skip
_PATH = re.compile(
    rf"(?P<where>\D*?)(?:resblocks|blocks|layers)\.(?P<layer>\d+)\.(?P<part>{'|'.join(map(re.escape, _PARTS))})$"
)

_TARGETS = {
    "layers": r".*layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    "resblocks": r".*resblocks\.\d+\.(attn|mlp\.c_fc|mlp\.c_proj)",
    "blocks": r".*\bblocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc[12])",
}
"""By what a model calls its blocks: the ``target_modules`` of peft that are sites and nothing else."""


@dataclass(frozen=True)
class Site:
    """One (out, in) weight matrix: rows `start` to `stop` of ``module.parameter``."""

    name: str
    tower: str
    layer: int
    kind: str
    module: str
    parameter: str
    start: int
    stop: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.stop - self.start, self.width

    @property
    def part(self) -> str:
        """What of its block it lies in: its kind, or ``qkv`` where the three are one matrix."""
        found = parse(self.module)
        return found[2] if found else self.kind


def hf_name(tower: str, layer: int, kind: str) -> str:
    """E.g. ``vision_model.encoder.layers.3.self_attn.q_proj``."""
    part = f"mlp.{kind}" if kind.startswith("fc") else f"self_attn.{kind}_proj"
    return f"{tower}_model.encoder.layers.{layer}.{part}"


def parse(path: str) -> tuple[str | None, int, str] | None:
    """(tower, layer, part) of a module of a transformer block by its path, in open_clip's, timm's or Hugging Face's words.

    A part is a kind of site, or ``qkv`` for the three of them in one matrix. The tower is None where the path does not tell (a Hugging
    Face tower by itself), and the whole None for what is no such module.
    """
    if not (m := _PATH.match(path)):
        return None
    words = m["where"].split(".")
    text = words == ["transformer", ""] or any(w.startswith("text") for w in words)
    tower = "text" if text else "vision" if any(w.startswith("vis") for w in words) else None
    return tower, int(m["layer"]), _PARTS[m["part"]]


def site_of(name: str) -> tuple[str, int, str]:
    """(tower, layer, kind) of a site by its name. Raises ValueError for a name that is no site's."""
    found = parse(name)
    if found and found[2] in KINDS:
        return found[0] or "vision", found[1], found[2]
    raise ValueError(
        f"{name!r} is not the name of a matrix in a CLIP's transformer block, such as {hf_name('vision', 3, 'q')!r}"
    )


def targets(paths: Iterable[str]) -> str:
    """The ``target_modules`` with which peft adapts all sites and nothing else, in the words of these paths of modules."""
    used = [
        re.escape(name) for name in _TARGETS if any(re.search(rf"\b{name}\.\d", p) for p in paths)
    ]
    return "|".join(_TARGETS[name] for name in used or ["layers"])


def no_sites(outside: Sequence[str], paths: Iterable[str]) -> str:
    """What to say of an adapter on the modules `paths`, of which those `outside` are no sites."""
    more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
    named = ", ".join(outside[:3]) + more
    return (
        f"it adapts {named}: outside the matrices q, k, v, out, fc1 and fc2 of the transformer blocks; only LoRA on those is read, and an "
        f"adapter without the rest would be another one: train with target_modules=r'{targets(paths)}', or merge it with peft's "
        "merge_and_unload() and load the merged CLIP"
    )


def find_sites(model: nn.Module) -> dict[str, Site]:
    """Every site of an open_clip or Hugging Face CLIP or SigLIP, by name: text after vision, in order of depth.

    The attribute names decide, not the classes: ``in_proj_weight`` and ``out_proj`` (``nn.MultiheadAttention`` and
    open_clip's own attention), ``qkv`` and ``proj`` (timm's), or ``q_proj`` and its like under ``layers.N.``.

    Raises ValueError if the model has none.
    """
    found = [site for name, module in model.named_modules() for site in _sites_of(name, module)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no transformer block that LoRA knows; expected open_clip's or Hugging Face's CLIP"
        )
    found.sort(key=lambda s: (TOWERS.index(s.tower), s.layer, KINDS.index(s.kind)))
    return {s.name: s for s in found}


def _sites_of(path: str, module: nn.Module) -> Iterable[Site]:
    if not (found := parse(path)):
        return
    tower, layer, part = found[0] or "vision", found[1], found[2]
    parameter = "in_proj_weight" if path.endswith(".attn") else "weight"
    weight = getattr(module, parameter, None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return  # an attention whose keys have another width is not fused, and a wrapped layer keeps its weight elsewhere
    kinds = ("q", "k", "v") if part == "qkv" else (part,)
    rows, width = weight.shape[0] // len(kinds), weight.shape[1]
    for i, kind in enumerate(kinds):
        yield Site(
            hf_name(tower, layer, kind),
            tower,
            layer,
            kind,
            path,
            parameter,
            i * rows,
            (i + 1) * rows,
            width,
        )


def choose(
    sites: dict[str, Site],
    kinds: Iterable[str] = ("q", "k", "v"),
    towers: Iterable[str] = ("vision",),
) -> tuple[Site, ...]:
    """The sites of these kinds in these towers. Raises ValueError for a kind or tower that is not one, or none left."""
    kinds, towers = tuple(kinds), tuple(towers)
    for given, known, what in ((kinds, KINDS, "site"), (towers, TOWERS, "tower")):
        if wrong := [g for g in given if g not in known]:
            raise ValueError(f"unknown {what} {wrong[0]!r}; choose from {', '.join(known)}")
    chosen = tuple(s for s in sites.values() if s.kind in kinds and s.tower in towers)
    if not chosen:
        raise ValueError(f"this model has no site {'/'.join(kinds)} in {'/'.join(towers)}")
    return chosen
