"""The Prune view's pieces of HTML: pure functions of a lab and a walk."""

import io
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.peft_folder import WEIGHTS, weights_file
from copra_lab.bench.bench import Bench
from copra_lab.models.sites import site_of
from copra_lab.page.components import panels
from copra_lab.page.components.numbers import percent
from copra_lab.page.state.controls import named, switches_of
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.session import Walk
from copra_lab.page.state.view_states import Pruned
from copra_lab.page.views.prune.sparsity_chart import sparsity_svg
from copra_lab.utils.statistics import Accuracy

AGAINST = "against the whole adapter"


@dataclass(frozen=True)
class Left:
    """How many entries of A and B are not zero, of how many that the whole adapter has, the share in each layer of the image tower,
    and the bytes of the file that it would be saved as, as it is and zipped; 0 where nothing is to be saved."""

    count: int
    of: int
    layers: tuple[tuple[int, float], ...]
    bytes: int
    zipped: int

    @property
    def share(self) -> float:
        return self.count / self.of


@lru_cache(1024)
def left(lab: Lab, place: Pruned) -> Left:
    """What is left of the adapter at `place`."""
    whole = lab.adapter(place.task, place.key)
    of = _entries(whole, Tensor.numel)
    kept = place.adapter(lab)
    count = _entries(kept, lambda t: int(t.count_nonzero()))
    layers = tuple((layer, count["vision", layer] / of["vision", layer]) for layer in switches_of(whole)[0])
    file = weights_file(kept) if kept.deltas else b""
    return Left(count.total(), of.total(), layers, len(file), _zipped(file) if file else 0)


def _zipped(data: bytes) -> int:
    """Bytes of a zip of it: runs of zeros take no room there, as they do in the file itself."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(WEIGHTS, data)
    return len(out.getvalue())


def _entries(adapter: Adapter, count: Callable[[Tensor], int]) -> "Counter[tuple[str, int]]":
    """`count` over A and B, by tower and layer."""
    found: Counter[tuple[str, int]] = Counter()
    for name, d in adapter.deltas.items():
        found[site_of(name)[:2]] += count(d.A) + count(d.B)
    return found


def number(lab: Lab, walk: Walk) -> str:
    """The accuracy with these switches and this sparsity, and the facts to hold it against."""
    here = walk.place if isinstance(walk.place, Pruned) else None
    recipe, data = "&nbsp;", {}
    if here:
        data = {"layers": _numbers(lab, here), "kinds": _kinds(lab, here), "sparsity": here.percent, "off": " ".join(map(named, here.off))}
        single = f" · {len(here.off)} off" if here.off else ""
        recipe = f"<b>{_how_many(lab, here)}</b> <span>{_kinds(lab, here)}{single} · {here.percent}\u202f% sparse</span>"
    return panels.number(walk, recipe, data, "Measuring the base and the whole adapter.") + _facts(lab, walk, here)


def _switches(lab: Lab, place: Pruned) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The layers and kinds that are kept, None spelled out."""
    layers, kinds = switches_of(lab.adapter(place.task, place.key))
    return layers if place.layers is None else place.layers, kinds if place.kinds is None else place.kinds


def _numbers(lab: Lab, place: Pruned) -> str:
    return " ".join(map(str, _switches(lab, place)[0]))


def _kinds(lab: Lab, place: Pruned) -> str:
    return " ".join(_switches(lab, place)[1])


def _how_many(lab: Lab, place: Pruned) -> str:
    kept, all_ = len(_switches(lab, place)[0]), len(switches_of(lab.adapter(place.task, place.key))[0])
    return f"all {all_} layers" if kept == all_ else f"{kept or 'none'} of {all_} layers"


def _facts(lab: Lab, walk: Walk, here: Pruned | None) -> str:
    remains, how, size = "…", "", "…"
    if here:
        kept = left(lab, here)
        remains, how = percent(kept.share), f"{kept.count:,} of {kept.of:,} entries of A and B are not zero"
        size = f"{kilobytes(kept.bytes)} <span>zip {kilobytes(kept.zipped)}</span>"
    return panels.facts(
        panels.measured("base", walk.base, "base"),
        panels.measured("whole adapter", walk.points.get(here.whole) if here else None, "a"),
        panels.fact("numbers left", remains, "left", how),
        panels.fact("file", size, "left wide", "The adapter's safetensors file as it would be saved now, and a zip of it"),
    )


def kilobytes(n: int) -> str:
    """Of so many bytes, in thousands, to three figures: ``4.31 kB``, ``152 kB``."""
    return f"{n / 1000:.{2 if n < 9995 else 1 if n < 99950 else 0}f}\u202fkB" if n else "nothing"


def chart(lab: Lab, walk: Walk) -> str:
    """What is left in each layer, and accuracy against sparsity as far as it was measured."""
    here = walk.place if isinstance(walk.place, Pruned) else None
    whole = walk.points.get(here.whole) if here else None
    points = [(share / 100, p.accuracy) for share, p in walk.curve().items()]
    base = walk.base.accuracy if walk.base else None
    svg = sparsity_svg(points, total=walk.total, base=base, whole=whole.accuracy if whole else None, at=walk.position / 100 if here else None)
    return f'{_strip(left(lab, here).layers if here else ())}<div class="chart flat">{svg}</div>'


def _strip(layers: Sequence[tuple[int, float]]) -> str:
    cells = "".join(f'<li style="--left:{share:.1%}" title="layer {layer}: {percent(share)} left">{100 * share:.0f}</li>' for layer, share in layers)
    return f'<div class="strip"><ol aria-label="Left in each layer, in percent">{cells}</ol><p>left in each layer, %</p></div>'


def changed(walk: Walk, bench: Bench | None) -> str:
    """The images whose prediction differs from the whole adapter's."""
    here = walk.place
    if not isinstance(here, Pruned) or here == here.whole or bench is None or walk.here is None or here.whole not in walk.points:
        return panels.nothing_changed(AGAINST, "Switch layers off or raise the sparsity: images that are lost or gained appear here.")
    return panels.changed(bench, walk.points[here.whole], walk.here, AGAINST)


def table(lab: Lab, walk: Walk) -> str:
    """Every setting of this adapter that was measured, those of one curve together, after the base."""
    heads, here = ("layers", "kinds", "without", "sparsity %", "left %", "kB", "zipped kB"), walk.place
    if not isinstance(here, Pruned):
        return panels.table(heads, [])
    own = {p: point.accuracy for p, point in walk.points.items() if isinstance(p, Pruned) and p.subject == here.subject}
    curves = list(dict.fromkeys(p.line for p in own))
    rows: list[tuple[Sequence[str], Accuracy]] = [(("base", *[""] * 6), walk.base.accuracy)] if walk.base else []
    for p in sorted(own, key=lambda p: (curves.index(p.line), p.percent)):
        layers = "all" if p.layers is None else panels.spans(p.layers) or "none"
        kept = left(lab, p)
        sizes = (f"{100 * kept.share:.1f}", f"{kept.bytes / 1000:.1f}", f"{kept.zipped / 1000:.1f}")
        rows.append(((layers, _kinds(lab, p), " ".join(map(named, p.off)), str(p.percent), *sizes), own[p]))
    return panels.table(heads, rows)
