"""The Prune view's pieces of HTML: pure functions of a lab and a walk."""

from collections.abc import Sequence

from copra_lab.bench.bench import Bench
from copra_lab.page.components import panels
from copra_lab.page.components.numbers import percent
from copra_lab.page.state.adapter_size import left
from copra_lab.page.state.controls import named, switches_of
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.session import Walk
from copra_lab.page.state.view_states import Pruned
from copra_lab.page.views.prune.sparsity_chart import sparsity_svg
from copra_lab.utils.statistics import Accuracy

AGAINST = "against the whole adapter"


def number(lab: Lab, walk: Walk) -> str:
    """The accuracy with these switches and this sparsity, and the facts to hold it against."""
    here = walk.place if isinstance(walk.place, Pruned) else None
    recipe, data = "&nbsp;", {}
    if here:
        data = {
            "layers": _numbers(lab, here),
            "kinds": _kinds(lab, here),
            "sparsity": here.percent,
            "off": " ".join(map(named, here.off)),
        }
        single = f" · {len(here.off)} off" if here.off else ""
        recipe = f"<b>{_how_many(lab, here)}</b> <span>{_kinds(lab, here)}{single} · {here.percent}\u202f% sparse</span>"
    return panels.number(walk, recipe, data, "Measuring the base and the whole adapter.") + _facts(
        lab, walk, here
    )


def _switches(lab: Lab, place: Pruned) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The layers and kinds that are kept, None spelled out."""
    layers, kinds = switches_of(lab.adapter(place.task, place.key))
    return (
        layers if place.layers is None else place.layers,
        kinds if place.kinds is None else place.kinds,
    )


def _numbers(lab: Lab, place: Pruned) -> str:
    return " ".join(map(str, _switches(lab, place)[0]))


def _kinds(lab: Lab, place: Pruned) -> str:
    return " ".join(_switches(lab, place)[1])


def _how_many(lab: Lab, place: Pruned) -> str:
    kept, all_ = (
        len(_switches(lab, place)[0]),
        len(switches_of(lab.adapter(place.task, place.key))[0]),
    )
    return f"all {all_} layers" if kept == all_ else f"{kept or 'none'} of {all_} layers"


def _facts(lab: Lab, walk: Walk, here: Pruned | None) -> str:
    remains, how, size = "…", "", "…"
    if here:
        kept = left(lab, here)
        remains, how = (
            percent(kept.share),
            f"{kept.count:,} of {kept.of:,} entries of A and B are not zero",
        )
        size = f"{kilobytes(kept.bytes)} <span>zip {kilobytes(kept.zipped)}</span>"
    return panels.facts(
        panels.measured("base", walk.base, "base"),
        panels.measured("whole adapter", walk.points.get(here.whole) if here else None, "a"),
        panels.fact("numbers left", remains, "left", how),
        panels.fact(
            "file",
            size,
            "left wide",
            "The adapter's safetensors file as it would be saved now, and a zip of it",
        ),
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
    svg = sparsity_svg(
        points,
        total=walk.total,
        base=base,
        whole=whole.accuracy if whole else None,
        at=walk.position / 100 if here else None,
    )
    return f'{_strip(left(lab, here).layers if here else ())}<div class="chart flat">{svg}</div>'


def _strip(layers: Sequence[tuple[int, float]]) -> str:
    cells = "".join(
        f'<li style="--left:{share:.1%}" title="layer {layer}: {percent(share)} left">{100 * share:.0f}</li>'
        for layer, share in layers
    )
    return f'<div class="strip"><ol aria-label="Left in each layer, in percent">{cells}</ol><p>left in each layer, %</p></div>'


def changed(walk: Walk, bench: Bench | None) -> str:
    """The images whose prediction differs from the whole adapter's."""
    here = walk.place
    if (
        not isinstance(here, Pruned)
        or here == here.whole
        or bench is None
        or walk.here is None
        or here.whole not in walk.points
    ):
        return panels.nothing_changed(
            AGAINST,
            "Switch layers off or raise the sparsity: images that are lost or gained appear here.",
        )
    return panels.changed(bench, walk.points[here.whole], walk.here, AGAINST)


def table(lab: Lab, walk: Walk) -> str:
    """Every setting of this adapter that was measured, those of one curve together, after the base."""
    heads, here = (
        ("layers", "kinds", "without", "sparsity %", "left %", "kB", "zipped kB"),
        walk.place,
    )
    if not isinstance(here, Pruned):
        return panels.table(heads, [])
    own = {
        p: point.accuracy
        for p, point in walk.points.items()
        if isinstance(p, Pruned) and p.subject == here.subject
    }
    curves = list(dict.fromkeys(p.line for p in own))
    rows: list[tuple[Sequence[str], Accuracy]] = (
        [(("base", *[""] * 6), walk.base.accuracy)] if walk.base else []
    )
    for p in sorted(own, key=lambda p: (curves.index(p.line), p.percent)):
        layers = "all" if p.layers is None else panels.spans(p.layers) or "none"
        kept = left(lab, p)
        sizes = (f"{100 * kept.share:.1f}", f"{kept.bytes / 1000:.1f}", f"{kept.zipped / 1000:.1f}")
        rows.append(
            ((layers, _kinds(lab, p), " ".join(map(named, p.off)), str(p.percent), *sizes), own[p])
        )
    return panels.table(heads, rows)
