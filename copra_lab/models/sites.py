"""Sites: the weight matrices of a CLIP's transformer blocks that LoRA can adapt.

A site has the same name whatever the model is made of: the name in Hugging Face's CLIPModel. So an
adapter trained on open_clip's fused attention fits the same weights in transformers, and peft can
read it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["KINDS", "TOWERS", "Site", "choose", "find_sites", "hf_name", "site_of"]

KINDS = ("q", "k", "v", "out", "fc1", "fc2")
"""A block's matrices: query, key, value, output projection, and the two layers of the MLP."""

TOWERS = ("vision", "text")

_PARTS = {
    # open_clip
    "attn": "qkv", "attn.out_proj": "out", "mlp.c_fc": "fc1", "mlp.c_proj": "fc2",
    # timm, in open_clip's SigLIP
    "attn.qkv": "qkv", "attn.proj": "out", "mlp.fc1": "fc1", "mlp.fc2": "fc2",
    # Hugging Face
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v",
    "self_attn.out_proj": "out",
}  # fmt: skip
_PATH = re.compile(
    r"(?P<parents>\D*?)(?:resblocks|blocks|layers)\.(?P<layer>\d+)\."
    rf"(?P<part>{'|'.join(map(re.escape, _PARTS))})$"
)

_TARGETS = {
    "layers": r".*layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    "resblocks": r".*resblocks\.\d+\.(attn|mlp\.c_fc|mlp\.c_proj)",
    "blocks": r".*\bblocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc[12])",
}
"""What a model calls its blocks → peft's ``target_modules`` for all sites and nothing else."""


@dataclass(frozen=True)
class Site:
    """A weight matrix (out, in): rows `start` to `stop` of ``module.parameter``.

    Attributes:
        name: Its name in Hugging Face's CLIPModel.
        tower: "vision" or "text".
        layer: Number of the block, from 0.
        kind: One of `KINDS`.
        module: Path of the module in this model.
        parameter: Name of the module's parameter.
        start: First row.
        stop: Row after the last.
        width: Number of columns.
    """

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
        """The matrix of the block that it is in: its kind, or ``qkv`` if those three are fused."""
        found = parse(self.module)
        return found[2] if found else self.kind


def hf_name(tower: str, layer: int, kind: str) -> str:
    """Name of a site, e.g. ``vision_model.encoder.layers.3.self_attn.q_proj``."""
    part = f"mlp.{kind}" if kind.startswith("fc") else f"self_attn.{kind}_proj"
    return f"{tower}_model.encoder.layers.{layer}.{part}"


def parse(path: str) -> tuple[str | None, int, str] | None:
    """Find out what a module is from its path, in open_clip, timm or Hugging Face.

    Returns:
        (tower, layer, part), or None if the module is not in a transformer block. A part is a kind
        of site, or ``qkv`` for the three in one matrix. The tower is None if the path does not
        tell, as in a single tower of Hugging Face's.
    """
    if not (m := _PATH.match(path)):
        return None
    parents = m["parents"].split(".")
    text = parents == ["transformer", ""] or any(p.startswith("text") for p in parents)
    tower = "text" if text else "vision" if any(p.startswith("vis") for p in parents) else None
    return tower, int(m["layer"]), _PARTS[m["part"]]


def site_of(name: str) -> tuple[str, int, str]:
    """Take a site's name apart.

    Returns:
        (tower, layer, kind).

    Raises:
        ValueError: If it is not the name of a site.
    """
    found = parse(name)
    if found and found[2] in KINDS:
        return found[0] or "vision", found[1], found[2]
    like = hf_name("vision", 3, "q")
    raise ValueError(f"{name!r} is not a matrix of a CLIP's transformer block, such as {like!r}")


def not_sites(outside: Sequence[str], paths: Iterable[str]) -> str:
    """The end of an error message about an adapter of modules that are not sites.

    Args:
        outside: Paths of the modules that are not sites.
        paths: Paths of all modules that it adapts.
    """
    paths = list(paths)
    more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
    used = [name for name in _TARGETS if any(re.search(rf"\b{name}\.\d", p) for p in paths)]
    targets = "|".join(_TARGETS[name] for name in used or ["layers"])
    return (
        f"it adapts {', '.join(outside[:3])}{more}, outside the matrices q, k, v, out, fc1 and fc2 "
        "of the transformer blocks; only LoRA on those can be read, and leaving out the rest would "
        f"change what it does: train with target_modules=r'{targets}', or merge it with peft's "
        "merge_and_unload() and load the merged CLIP"
    )


def find_sites(model: nn.Module) -> dict[str, Site]:
    """Find every site of an open_clip or Hugging Face CLIP or SigLIP.

    Sites are recognised by attribute names, not by classes: ``in_proj_weight`` and ``out_proj``
    (``nn.MultiheadAttention`` and open_clip's own attention), ``qkv`` and ``proj`` (timm), or
    ``q_proj`` and so on under ``layers.N.``.

    Returns:
        Name → site: vision before text, from the first layer to the last.

    Raises:
        ValueError: If the model has none.
    """
    found = [site for name, module in model.named_modules() for site in _sites_in(name, module)]
    if not found:
        name = type(model).__name__
        raise ValueError(f"{name} has no transformer block of a CLIP; give open_clip's or another")
    found.sort(key=lambda s: (TOWERS.index(s.tower), s.layer, KINDS.index(s.kind)))
    return {s.name: s for s in found}


def _sites_in(path: str, module: nn.Module) -> Iterator[Site]:
    """The sites in one module: none, one, or q, k and v."""
    if not (found := parse(path)):
        return
    tower, layer, part = found[0] or "vision", found[1], found[2]
    parameter = "in_proj_weight" if path.endswith(".attn") else "weight"
    weight = getattr(module, parameter, None)
    # An attention whose keys have another width is not fused, and a wrapped layer keeps its weight
    # elsewhere.
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return
    kinds = ("q", "k", "v") if part == "qkv" else (part,)
    rows, width = weight.shape[0] // len(kinds), weight.shape[1]
    for i, kind in enumerate(kinds):
        name, start = hf_name(tower, layer, kind), i * rows
        yield Site(name, tower, layer, kind, path, parameter, start, start + rows, width)


def choose(
    sites: dict[str, Site],
    kinds: Iterable[str] = ("q", "k", "v"),
    towers: Iterable[str] = ("vision",),
) -> tuple[Site, ...]:
    """Choose the sites of these kinds in these towers.

    Args:
        sites: All sites of a model, by name.
        kinds: Of `KINDS`.
        towers: Of `TOWERS`.

    Raises:
        ValueError: If a kind or tower is unknown, or the model has no such site.
    """
    kinds, towers = tuple(kinds), tuple(towers)
    for chosen, known, what in ((kinds, KINDS, "site"), (towers, TOWERS, "tower")):
        if unknown := [c for c in chosen if c not in known]:
            raise ValueError(f"unknown {what} {unknown[0]!r}; choose from {', '.join(known)}")
    found = tuple(s for s in sites.values() if s.kind in kinds and s.tower in towers)
    if not found:
        raise ValueError(f"this model has no site {'/'.join(kinds)} in {'/'.join(towers)}")
    return found
