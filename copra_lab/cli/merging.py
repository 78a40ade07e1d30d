"""``copra-lab merge`` and ``copra-lab prune``: adapters made of adapters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from copra_lab.cli import arguments
from copra_lab.cli.command import Group, Report, verb

if TYPE_CHECKING:
    from copra_lab.adapters.adapter import Adapter
    from copra_lab.bench.bench import Bench
    from copra_lab.models.clip import Clip
    from copra_lab.tasks.task import Task
    from copra_lab.utils.statistics import Accuracy

MERGES = {
    "sum": {"weights"},
    "factors": {"weights"},
    "task-arithmetic": {"scale"},
    "ties": {"scale", "density"},
}
"""Ways to merge, and the options that each has."""

SPARSITIES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class _Way:
    """How to merge."""

    how: str
    weights: str | None
    scale: float | None
    density: float | None
    dare: float | None
    rank: int | None
    seed: int

    def merge(self, adapters: Sequence["Adapter"]) -> "Adapter":
        """The adapters merged into one."""
        import torch

        from copra_lab import merging as m

        g = torch.Generator().manual_seed(self.seed)
        dared = [m.dare(a, self.dare, g) for a in adapters] if self.dare else adapters
        shares = _shares(self.weights, len(adapters))
        merged = _merged(self.how, dared, shares, self.scale, self.density)
        return m.truncate(merged, self.rank) if self.rank else merged


def merge_options(
    how: Annotated[
        Literal["sum", "task-arithmetic", "ties", "factors"],
        typer.Option(
            help="Weighted sum of ΔW; every ΔW times a scale; TIES; or the mean of A and of B, "
            "which is not that of ΔW."
        ),
    ] = "sum",
    weights: Annotated[
        str | None,
        typer.Option(
            help="sum, factors: one for each adapter, with commas.",
            show_default="equal, together 1",
        ),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="task-arithmetic, ties.", show_default="0.3, ties 1")
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="ties: the share of entries kept.", show_default="0.2")
    ] = None,
    dare: Annotated[
        float | None,
        typer.Option(
            help="Drop this share of each ΔW's entries first, and rescale the rest (DARE)."
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Cut the result to this rank.", show_default="exact")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of DARE.")] = 0,
) -> _Way:
    """How to merge."""
    said = {"weights": weights, "scale": scale, "density": density}
    arguments.check_known(f"--how {how}", MERGES[how], said)
    return _Way(how, weights, scale, density, dare, rank, seed)


@verb("copra-lab merge digits/lora-seed-0 digits/lora-seed-1 --out digits-merged")
def merge(
    adapters: Annotated[
        list[str],
        typer.Argument(
            help="Adapters: folders, files, hf-hub:owner/name, or ones that ship, such as "
            "digits/lora-seed-0."
        ),
    ],
    out: arguments.Out,
    *,
    way: Annotated[Any, Group.of(merge_options)],
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            help="Measure on it; can be repeated.",
            show_default="what they were trained on",
        ),
    ] = None,
    template: arguments.Template = None,
    splits: arguments.Splits = True,
    precision: arguments.Precision = "auto",
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
    overwrite: arguments.Overwrite = False,
) -> Report:
    """Merge adapters of one CLIP into one."""
    from copra_lab.adapters.peft_folder import WEIGHTS, save_adapter
    from copra_lab.models.loading import load_clip

    arguments.check_free(out, overwrite, WEIGHTS)
    model = load_clip(clip)
    parts = arguments.load_adapters(adapters, model)
    merged = way.merge(parts)
    rows = dict(zip(["merged", *adapters], [merged, *parts], strict=True))
    measured = _measured(model, parts, rows, task, arguments.images(template, splits), precision)
    if figure:
        _draw(measured, figure)
    save_adapter(merged, out)
    document = {
        "verb": "merge",
        "folder": str(out),
        "hash": merged.hash,
        "base": merged.base,
        "rank": merged.rank,
        "how": way.how,
        "adapters": [{"name": n, "hash": a.hash} for n, a in zip(adapters, parts, strict=True)],
        "test": {
            t: {row: arguments.numbers(a) for row, a in found.items()}
            for t, found in measured.items()
        },
    }
    lines = []
    if measured:
        cells = [(row, *(str(found[row]) for found in measured.values())) for row in rows]
        lines.append(arguments.columns(cells, ("", *measured)))
    return Report(document, "\n".join([*lines, f"adapter of rank {merged.rank} saved in {out}"]))


def _shares(weights: str | None, adapters: int) -> list[float]:
    """The weight of each adapter; equal ones where nothing was said."""
    try:
        return [float(w) for w in arguments.commas(weights)] or [1 / adapters] * adapters
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers with commas, got {weights!r}", param_hint="--weights"
        ) from None


def _merged(
    how: str,
    adapters: Sequence["Adapter"],
    shares: Sequence[float],
    scale: float | None,
    density: float | None,
) -> "Adapter":
    """The adapters merged in one of the ways of `MERGES`."""
    from copra_lab import merging as m

    if how == "sum":
        return m.weighted_sum(adapters, shares)
    if how == "factors":
        return m.average_factors(adapters, shares)
    if how == "ties":
        return m.ties(
            adapters, 0.2 if density is None else density, 1.0 if scale is None else scale
        )
    return m.task_arithmetic(adapters, 0.3 if scale is None else scale)


def _measured(
    clip: "Clip",
    parts: Sequence["Adapter"],
    rows: Mapping[str, "Adapter"],
    tasks: list[str] | None,
    images: dict[str, Any],
    precision: str,
) -> "dict[str, dict[str, Accuracy]]":
    """By task the accuracy of each row: on `tasks`, or on what the parts were trained on."""
    trained_on = dict.fromkeys(str(a.provenance["task"]) for a in parts if "task" in a.provenance)
    measured = {}
    for name in tasks or trained_on:
        try:
            bench = arguments.load_bench(
                clip, (), name, precision=precision, images=arguments.recorded(name, parts, images)
            )
        except (ValueError, OSError) as e:
            if tasks:
                raise
            arguments.note(f"not measured on {name}, which an adapter was trained on: {e}")
        else:
            measured[name] = dict(zip(rows, bench.accuracies(list(rows.values())), strict=True))
    return measured


def _draw(measured: "Mapping[str, Mapping[str, Accuracy]]", file: Path) -> None:
    """Save a figure of the accuracies."""
    from copra_lab import plots

    if not measured:
        raise typer.BadParameter(
            "there is nothing to draw: name a task to measure on", param_hint="--task"
        )
    bars = {
        f"{row}, {Path(t).name}": a for t, found in measured.items() for row, a in found.items()
    }
    arguments.save_figure(plots.accuracies(bars), file)


@dataclass(frozen=True)
class _Cut:
    """What to remove from an adapter."""

    layers: Any
    best: int | None
    by: str
    kinds: tuple[str, ...] | None
    tower: str
    sparsity: float | None
    of: str
    within: str


def cut_options(
    layers: Annotated[
        str | None,
        typer.Option(help="Keep even, odd, low, middle or high ones, or numbers with commas."),
    ] = None,
    best: Annotated[
        int | None, typer.Option(min=0, help="Keep so many layers, the most important ones.")
    ] = None,
    by: Annotated[
        Literal["shapley", "magnitude"],
        typer.Option(
            help="What --best goes by: Shapley values on validation images, or the size of ΔW."
        ),
    ] = "shapley",
    kinds: Annotated[
        str | None,
        typer.Option(help="Keep these kinds of matrix: of q, k, v, out, fc1, fc2; with commas."),
    ] = None,
    tower: Annotated[
        Literal["vision", "text"], typer.Option(help="Whose layers and kinds.")
    ] = "vision",
    sparsity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Set this share of the entries to zero, the smallest."),
    ] = None,
    of: Annotated[
        Literal["factors", "delta"], typer.Option(help="Whose entries: of A and B, or of ΔW.")
    ] = "factors",
    within: Annotated[
        Literal["adapter", "layer", "site"], typer.Option(help="Where entries are ranked together.")
    ] = "adapter",
) -> _Cut:
    """What to remove from an adapter."""
    from copra_lab.pruning import PRESETS

    if layers is None and best is None and kinds is None and sparsity is None:
        raise typer.BadParameter("say what to remove: --layers, --best, --kinds or --sparsity")
    if layers is not None and best is not None:
        raise typer.BadParameter("give --layers or --best, not both")
    try:
        numbers = (
            layers
            if layers is None or layers in PRESETS
            else [int(x) for x in arguments.commas(layers)]
        )
    except ValueError:
        raise typer.BadParameter(
            f"expected {', '.join(PRESETS)} or numbers with commas, got {layers!r}",
            param_hint="--layers",
        ) from None
    of_kind = arguments.commas(kinds) or None
    return _Cut(numbers, best, by, of_kind, tower, sparsity, of, within)


@verb("copra-lab prune digits/copra-seed-0 --layers even --out digits-half")
def prune(
    adapter: arguments.AdapterName,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write.", show_default="only measure"),
    ] = None,
    cut: Annotated[Any, Group.of(cut_options)],
    measured: Annotated[Any, Group.of(arguments.measurement_on_test)],
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
    overwrite: arguments.Overwrite = False,
) -> Report:
    """Remove parts of an adapter: layers, kinds of matrix, or small entries.

    The figure shows accuracy over sparsity.
    """
    from copra_lab import pruning as p
    from copra_lab.adapters.peft_folder import WEIGHTS, save_adapter
    from copra_lab.models.loading import load_clip

    if out:
        arguments.check_free(out, overwrite, WEIGHTS)
    model = load_clip(clip)
    whole = arguments.load_adapter(adapter, model)
    bench = measured.bench(model, [whole])
    kept = _kept(whole, cut, bench.task, model, measured.precision)
    pruned = p.sparsify(kept, cut.sparsity, cut.of, cut.within) if cut.sparsity else kept
    before, after = bench.accuracies([whole, pruned])
    if figure:
        _draw_sparsities(bench, kept, cut, figure)
    if out:
        save_adapter(pruned, out)
    zeros, layers = p.sparsity(pruned), p.layers_of(pruned, cut.tower)
    document = {
        "verb": "prune",
        "adapter": adapter,
        "folder": str(out) if out else None,
        "hash": pruned.hash,
        "task": bench.task.name,
        "sites": len(pruned),
        "of sites": len(whole),
        "layers": list(layers),
        "zeros": zeros,
        "test": arguments.numbers(after),
        "before": arguments.numbers(before),
    }
    rows = [
        ("whole", len(whole), "0 %", before),
        ("pruned", len(pruned), f"{100 * zeros:.0f} %", after),
    ]
    lines = [
        arguments.columns(rows, ("", "matrices", "zeros", "accuracy")),
        f"layers kept: {', '.join(map(str, layers)) or 'none'}",
        arguments.measured_on(bench),
        *([f"adapter saved in {out}"] if out else []),
    ]
    return Report(document, "\n".join(lines))


def _kept(whole: "Adapter", cut: _Cut, task: "Task", clip: "Clip", precision: str) -> "Adapter":
    """The adapter without the layers and kinds to remove."""
    from copra_lab import pruning as p

    kept = p.keep(whole, cut.layers, cut.kinds, cut.tower)
    if cut.best is None:
        return kept
    if cut.by == "magnitude":
        scores = p.magnitudes(kept, cut.tower)
    else:
        scores = _shapley_values(kept, task, clip, cut.tower, precision, whole)
    return p.keep_best(kept, scores, cut.best, cut.tower)


def _draw_sparsities(bench: "Bench", kept: "Adapter", cut: _Cut, file: Path) -> None:
    """Save a figure of accuracy over sparsity."""
    from copra_lab import plots
    from copra_lab.pruning import sparsify

    adapters = [sparsify(kept, s, cut.of, cut.within) for s in SPARSITIES]
    name = f"entries of {'A and B' if cut.of == 'factors' else 'ΔW'}"
    curve = {name: bench.accuracies(adapters)}
    arguments.save_figure(plots.curve([100 * s for s in SPARSITIES], curve, "sparsity, %"), file)


def _shapley_values(
    adapter: "Adapter", task: "Task", clip: "Clip", tower: str, precision: str, whole: "Adapter"
) -> dict[int, float]:
    """The Shapley value of each layer of a tower on the validation images."""
    from copra_lab.shapley.games import LayerGame, players_of
    from copra_lab.shapley.values import solve

    game = LayerGame(
        arguments.load_bench(clip, [whole], task.name, "val", precision, task.options),
        adapter,
        players_of(adapter, tower),
    )
    arguments.note(
        f"measuring the Shapley values of {game.n_players} layers, on {len(game.bench)} "
        "validation images"
    )
    return {
        int(name): float(v)
        for name, v in zip(game.names, solve(game, game.n_players).values, strict=True)
    }
