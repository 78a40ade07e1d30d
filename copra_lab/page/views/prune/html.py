"""The Prune view's pieces of HTML: pure functions of a lab and a history."""

from collections.abc import Sequence

from copra_lab.bench.bench import Bench
from copra_lab.page.components import images, panels
from copra_lab.page.components.numbers import percent
from copra_lab.page.components.panels import same_subject, standing
from copra_lab.page.state.adapter_size import left
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.prune import PruneState
from copra_lab.page.state.session import History
from copra_lab.page.state.switches import named, switches_of
from copra_lab.page.views.prune.sparsity_chart import sparsity_svg

AGAINST = "against the whole adapter"


def number(lab: Lab, history: History) -> str:
    """The accuracy with these switches and this sparsity, and the facts to hold it against."""
    here = standing(history, PruneState)
    recipe, data = "&nbsp;", {}
    if here:
        have, _ = switches_of(lab.adapter(here.task, here.key))
        layers, off = have if here.kept.layers is None else here.kept.layers, here.kept.off
        data = {
            "layers": " ".join(map(str, layers)),
            "kinds": _kinds(lab, here),
            "sparsity": here.percent,
            "off": " ".join(map(named, off)),
        }
        of = f"{len(layers) or 'none'} of" if len(layers) < len(have) else "all"
        single = f" · {len(off)} off" if off else ""
        recipe = (
            f"<b>{of} {len(have)} layers</b> <span>{data['kinds']}{single} · "
            f"{here.percent}\u202f% sparse</span>"
        )
    measuring = "Measuring the base and the whole adapter."
    return panels.number(history, recipe, data, measuring) + _facts(lab, history, here)


def _kinds(lab: Lab, state: PruneState) -> str:
    """The kinds of matrix that are kept."""
    kinds = state.kept.kinds
    return " ".join(switches_of(lab.adapter(state.task, state.key))[1] if kinds is None else kinds)


def _facts(lab: Lab, history: History, here: PruneState | None) -> str:
    remains, how, size, whole = "…", "", "…", None
    if here:
        kept, whole = left(lab, here), history.points.get(here.whole)
        remains = percent(kept.share)
        how = f"{kept.count:,} of {kept.of:,} entries of A and B are not zero"
        size = f"{kilobytes(kept.bytes)} <span>zip {kilobytes(kept.zipped)}</span>"
    saved = "The adapter's safetensors file as it would be saved now, and a zip of it"
    return panels.facts(
        panels.measured("base", history.base, "base"),
        panels.measured("whole adapter", whole, "a"),
        panels.fact("numbers left", remains, "left", how),
        panels.fact("file", size, "left wide", saved),
    )


def kilobytes(n: int) -> str:
    """Of so many bytes, in thousands, to three figures: ``4.31 kB``, ``152 kB``."""
    return f"{n / 1000:.{2 if n < 9995 else 1 if n < 99950 else 0}f}\u202fkB" if n else "nothing"


def chart(lab: Lab, history: History) -> str:
    """What is left in each layer, and accuracy against sparsity as far as it was measured."""
    here = standing(history, PruneState)
    svg = sparsity_svg(
        [(share / 100, p.accuracy) for share, p in history.curve().items()],
        total=history.total,
        base=panels.accuracy(history.base),
        whole=panels.accuracy(history.points.get(here.whole)) if here else None,
        at=history.position / 100 if here else None,
    )
    return f'{_strip(left(lab, here).layers if here else ())}<div class="chart flat">{svg}</div>'


def _strip(layers: Sequence[tuple[int, float]]) -> str:
    cells = "".join(
        f'<li style="--left:{share:.1%}" title="layer {layer}: {percent(share)} '
        f'left">{100 * share:.0f}</li>'
        for layer, share in layers
    )
    return (
        f'<div class="strip"><ol aria-label="Left in each layer, in percent">{cells}</ol>'
        "<p>left in each layer, %</p></div>"
    )


def changed(history: History, bench: Bench | None) -> str:
    """The images whose prediction differs from the whole adapter's."""
    here = standing(history, PruneState)
    hint = (
        "Switch layers off or raise the sparsity, and images that are lost or gained appear here."
    )
    return images.changed(history, bench, here and here.whole, AGAINST, hint)


def table(lab: Lab, history: History) -> str:
    """Every setting of this adapter that was measured, by curves, after the base."""
    heads = ("layers", "kinds", "without", "sparsity %", "left %", "kB", "zipped kB")
    here = standing(history, PruneState)
    if here is None:
        return panels.table(heads, [])
    own, rows = same_subject(history, here), []
    curves = list(dict.fromkeys(p.line for p in own))
    for p in sorted(own, key=lambda p: (curves.index(p.line), p.percent)):
        layers = "all" if p.kept.layers is None else panels.spans(p.kept.layers) or "none"
        without = " ".join(map(named, p.kept.off))
        size = left(lab, p)
        sizes = (100 * size.share, size.bytes / 1000, size.zipped / 1000)
        cells = (layers, _kinds(lab, p), without, str(p.percent), *(f"{x:.1f}" for x in sizes))
        rows.append((cells, own[p].accuracy))
    return panels.table(heads, rows, panels.accuracy(history.base))
