"""Where LoRA can sit: the weight matrices of a CLIP's transformer blocks, found by name.

A site carries one name whatever the model is made of: the name that Hugging Face's CLIPModel gives the matrix. So an
adapter trained on open_clip's fused attention fits the same weights in transformers, and peft reads it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

KINDS = ("q", "k", "v", "out", "fc1", "fc2")
TOWERS = ("vision", "text")

_OPEN_CLIP = re.compile(r"^(?P<visual>visual\.)?transformer\.resblocks\.(?P<layer>\d+)\.(?P<part>attn|attn\.out_proj|mlp\.c_fc|mlp\.c_proj)$")
_HF = re.compile(r"(?P<prefix>.*?)layers\.(?P<layer>\d+)\.(?:self_attn\.(?P<attn>q|k|v|out)_proj|mlp\.(?P<mlp>fc[12]))$")


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
        return self.stop - self.start, self.width


def hf_name(tower: str, layer: int, kind: str) -> str:
    """E.g. ``vision_model.encoder.layers.3.self_attn.q_proj``."""
    part = f"mlp.{kind}" if kind.startswith("fc") else f"self_attn.{kind}_proj"
    return f"{tower}_model.encoder.layers.{layer}.{part}"


def place(name: str) -> tuple[str, int, str]:
    """(tower, layer, kind) of a site by its name. Raises ValueError for a name that is no site's."""
    if m := _HF.match(name):
        return "text" if "text" in m["prefix"] else "vision", int(m["layer"]), m["attn"] or m["mlp"]
    raise ValueError(f"{name!r} is not the name of a matrix in a CLIP's transformer block, such as {hf_name('vision', 3, 'q')!r}")


def find_sites(model: nn.Module) -> dict[str, Site]:
    """Every site of an open_clip or Hugging Face CLIP, by name: text after vision, in order of depth.

    The attribute names decide, not the classes: ``in_proj_weight`` and ``out_proj`` (``nn.MultiheadAttention`` and
    open_clip's own attention), or ``q_proj`` and its like under ``layers.N.``.

    Raises ValueError if the model has none.
    """
    found = [site for name, module in model.named_modules() for site in _sites_of(name, module)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no transformer block that LoRA knows; expected open_clip's or Hugging Face's CLIP")
    found.sort(key=lambda s: (TOWERS.index(s.tower), s.layer, KINDS.index(s.kind)))
    return {s.name: s for s in found}


def _sites_of(path: str, module: nn.Module) -> Iterable[Site]:
    if m := _OPEN_CLIP.match(path):
        tower, layer, part = ("vision" if m["visual"] else "text"), int(m["layer"]), m["part"]
        fused = getattr(module, "in_proj_weight", None)
        if part == "attn" and fused is not None:
            d = fused.shape[0] // 3
            for i, kind in enumerate("qkv"):
                yield Site(hf_name(tower, layer, kind), tower, layer, kind, path, "in_proj_weight", i * d, (i + 1) * d, fused.shape[1])
        elif part != "attn":
            kind = {"attn.out_proj": "out", "mlp.c_fc": "fc1", "mlp.c_proj": "fc2"}[part]
            out, width = module.weight.shape
            yield Site(hf_name(tower, layer, kind), tower, layer, kind, path, "weight", 0, out, width)
    elif (m := _HF.match(path)) and isinstance(getattr(module, "weight", None), nn.Parameter):
        tower, layer, kind = ("text" if "text" in m["prefix"] else "vision"), int(m["layer"]), m["attn"] or m["mlp"]
        out, width = module.weight.shape
        yield Site(hf_name(tower, layer, kind), tower, layer, kind, path, "weight", 0, out, width)


def choose(sites: dict[str, Site], kinds: Iterable[str] = ("q", "k", "v"), towers: Iterable[str] = ("vision",)) -> tuple[Site, ...]:
    """The sites of these kinds in these towers. Raises ValueError for a kind or tower that is not one, or none left."""
    kinds, towers = tuple(kinds), tuple(towers)
    for given, known, what in ((kinds, KINDS, "site"), (towers, TOWERS, "tower")):
        if wrong := [g for g in given if g not in known]:
            raise ValueError(f"unknown {what} {wrong[0]!r}; choose from {', '.join(known)}")
    chosen = tuple(s for s in sites.values() if s.kind in kinds and s.tower in towers)
    if not chosen:
        raise ValueError(f"this model has no site {'/'.join(kinds)} in {'/'.join(towers)}")
    return chosen
