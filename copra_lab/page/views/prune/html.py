"""The Prune view's pieces of HTML: pure functions of a lab and a history."""

from collections.abc import Sequence

from copra_lab.bench.bench import Bench
from copra_lab.page.components import panels
from copra_lab.page.components.numbers import percent
from copra_lab.page.state.adapter_size import left
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.prune import PruneState
from copra_lab.page.state.session import History
from copra_lab.page.state.switches import named, switches_of
from copra_lab.page.views.prune.sparsity_chart import sparsity_svg
from copra_lab.utils.statistics import Accuracy

AGAINST = "against the whole adapter"


def number(lab: Lab, history: History) -> str:
    """The accuracy with these switches and this sparsity, and the facts to hold it against."""
    here = history.state if isinstance(history.state, PruneState) else None
    recipe, data = "&nbsp;", {}
    if here:
        data = {
            "layers": _numbers(lab, here),
            "kinds": _kinds(lab, here),
            "sparsity": here.percent,
            "off": " ".join(map(named, here.kept.off)),
        }
        single = f" · {len(here.kept.off)} off" if here.kept.off else ""
        recipe = (
            f"<b>{_how_many(lab, here)}</b> <span>{_kinds(lab, here)}{single} · "
            f"{here.percent}\u202f% sparse</span>"
        )
    return panels.number(
        history, recipe, data, "Measuring the base and the whole adapter."
    ) + _facts(lab, history, here)


def _switches(lab: Lab, state: PruneState) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The layers and kinds that are kept, None spelled out."""
    layers, kinds = switches_of(lab.adapter(state.task, state.key))
    return (
        layers if state.kept.layers is None else state.kept.layers,
        kinds if state.kept.kinds is None else state.kept.kinds,
    )


def _numbers(lab: Lab, state: PruneState) -> str:
    return " ".join(map(str, _switches(lab, state)[0]))


def _kinds(lab: Lab, state: PruneState) -> str:
    return " ".join(_switches(lab, state)[1])


def _how_many(lab: Lab, state: PruneState) -> str:
    kept, all_ = (
        len(_switches(lab, state)[0]),
        len(switches_of(lab.adapter(state.task, state.key))[0]),
    )
    return f"all {all_} layers" if kept == all_ else f"{kept or 'none'} of {all_} layers"


def _facts(lab: Lab, history: History, here: PruneState | None) -> str:
    remains, how, size = "…", "", "…"
    if here:
        kept = left(lab, here)
        remains, how = (
            percent(kept.share),
            f"{kept.count:,} of {kept.of:,} entries of A and B are not zero",
        )
        size = f"{kilobytes(kept.bytes)} <span>zip {kilobytes(kept.zipped)}</span>"
    return panels.facts(
        panels.measured("base", history.base, "base"),
        panels.measured("whole adapter", history.points.get(here.whole) if here else None, "a"),
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


def chart(lab: Lab, history: History) -> str:
    """What is left in each layer, and accuracy against sparsity as far as it was measured."""
    here = history.state if isinstance(history.state, PruneState) else None
    whole = history.points.get(here.whole) if here else None
    points = [(share / 100, p.accuracy) for share, p in history.curve().items()]
    base = history.base.accuracy if history.base else None
    svg = sparsity_svg(
        points,
        total=history.total,
        base=base,
        whole=whole.accuracy if whole else None,
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
    here = history.state
    if (
        not isinstance(here, PruneState)
        or here == here.whole
        or bench is None
        or history.here is None
        or here.whole not in history.points
    ):
        return panels.nothing_changed(
            AGAINST,
            "Switch layers off or raise the sparsity: images that are lost or gained appear here.",
        )
    return panels.changed(bench, history.points[here.whole], history.here, AGAINST)


def table(lab: Lab, history: History) -> str:
    """Every setting of this adapter that was measured, by curves, after the base."""
    heads, here = (
        ("layers", "kinds", "without", "sparsity %", "left %", "kB", "zipped kB"),
        history.state,
    )
    if not isinstance(here, PruneState):
        return panels.table(heads, [])
    own = {
        p: point.accuracy
        for p, point in history.points.items()
        if isinstance(p, PruneState) and p.subject == here.subject
    }
    curves = list(dict.fromkeys(p.line for p in own))
    rows: list[tuple[Sequence[str], Accuracy]] = (
        [(("base", *[""] * 6), history.base.accuracy)] if history.base else []
    )
    for p in sorted(own, key=lambda p: (curves.index(p.line), p.percent)):
        layers = "all" if p.kept.layers is None else panels.spans(p.kept.layers) or "none"
        kept = left(lab, p)
        sizes = (f"{100 * kept.share:.1f}", f"{kept.bytes / 1000:.1f}", f"{kept.zipped / 1000:.1f}")
        rows.append(
            (
                (layers, _kinds(lab, p), " ".join(map(named, p.kept.off)), str(p.percent), *sizes),
                own[p],
            )
        )
    return panels.table(heads, rows)
