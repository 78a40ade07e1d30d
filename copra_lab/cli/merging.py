"""``copra-lab merge`` and ``copra-lab prune``: adapters made of adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from copra_lab.cli import arguments
from copra_lab.cli.command import Told, verb

if TYPE_CHECKING:
    from copra_lab.adapters.adapter import Adapter
    from copra_lab.models.clip import Clip
    from copra_lab.tasks.task import Task

SPARSITIES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@verb("copra-lab merge digits/lora-seed-0 digits/lora-seed-1 --out digits-merged")
def merge(
    adapters: Annotated[
        list[str],
        typer.Argument(
            help="Adapters: folders, files, hf-hub:owner/name, or ones that ship, such as digits/lora-seed-0."
        ),
    ],
    out: arguments.Out,
    how: Annotated[
        Literal["sum", "task-arithmetic", "ties", "factors"],
        typer.Option(
            help="Weighted sum of ΔW; every ΔW times a scale; TIES; or the mean of A and of B, which is not that of ΔW."
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
) -> Told:
    """Merge adapters of one CLIP into one."""
    import torch

    from copra_lab import merging as m
    from copra_lab.adapters.peft_folder import WEIGHTS, save_adapter
    from copra_lab.models.loading import load_clip

    allowed = {
        "sum": {"weights"},
        "factors": {"weights"},
        "task-arithmetic": {"scale"},
        "ties": {"scale", "density"},
    }[how]
    arguments.check_known(
        f"--how {how}", allowed, {"weights": weights, "scale": scale, "density": density}
    )
    arguments.check_free(out, overwrite, WEIGHTS)
    model = load_clip(clip)
    parts = arguments.load_adapters(adapters, model)
    try:
        shares = [float(w) for w in arguments.commas(weights)] or [1 / len(parts)] * len(parts)
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers with commas, got {weights!r}", param_hint="--weights"
        ) from None
    g = torch.Generator().manual_seed(seed)
    dared = [m.dare(a, dare, g) for a in parts] if dare else parts
    if how == "sum":
        merged = m.weighted_sum(dared, shares)
    elif how == "factors":
        merged = m.average_factors(dared, shares)
    elif how == "ties":
        merged = m.ties(dared, 0.2 if density is None else density, 1.0 if scale is None else scale)
    else:
        merged = m.task_arithmetic(dared, 0.3 if scale is None else scale)
    if rank:
        merged = m.truncate(merged, rank)
    rows = dict(zip(["merged", *adapters], [merged, *parts], strict=True))
    measured, own = {}, arguments.images(template, splits)
    for name in task or dict.fromkeys(
        str(a.provenance["task"]) for a in parts if "task" in a.provenance
    ):
        try:
            bench = arguments.load_bench(
                model, (), name, precision=precision, images=arguments.recorded(name, parts, own)
            )
        except (ValueError, OSError) as e:
            if task:
                raise
            arguments.note(f"not measured on {name}, which an adapter was trained on: {e}")
        else:
            measured[name] = dict(zip(rows, bench.accuracies(list(rows.values())), strict=True))
    if figure:
        from copra_lab import plots

        if not measured:
            raise typer.BadParameter(
                "there is nothing to draw: name a task to measure on", param_hint="--task"
            )
        bars = {
            f"{row}, {Path(t).name}": a for t, found in measured.items() for row, a in found.items()
        }
        arguments.save_figure(plots.accuracies(bars), figure)
    save_adapter(merged, out)
    document = {
        "verb": "merge", "folder": str(out), "hash": merged.hash, "base": merged.base, "rank": merged.rank, "how": how,
        "adapters": [{"name": n, "hash": a.hash} for n, a in zip(adapters, parts, strict=True)],
        "test": {t: {row: arguments.numbers(a) for row, a in found.items()} for t, found in measured.items()},
    }  # fmt: skip
    lines = (
        [
            arguments.columns(
                [(row, *(str(found[row]) for found in measured.values())) for row in rows],
                ("", *measured),
            )
        ]
        if measured
        else []
    )
    return Told(document, "\n".join([*lines, f"adapter of rank {merged.rank} saved in {out}"]))


@verb("copra-lab prune digits/copra-seed-0 --layers even --out digits-half")
def prune(
    adapter: arguments.AdapterName,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write.", show_default="only measure"),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Keep even, odd, low, middle or high ones, or numbers with commas."),
    ] = None,
    best: Annotated[
        int | None, typer.Option(min=0, help="Keep so many layers, those that are worth most.")
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
    task: arguments.TaskName = None,
    template: arguments.Template = None,
    splits: arguments.Splits = True,
    precision: arguments.Precision = "auto",
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
    overwrite: arguments.Overwrite = False,
) -> Told:
    """Remove parts of an adapter: layers, kinds of matrix, or small entries. The figure shows accuracy over sparsity."""
    from copra_lab import pruning as p
    from copra_lab.adapters.peft_folder import WEIGHTS, save_adapter
    from copra_lab.models.loading import load_clip

    if layers is None and best is None and kinds is None and sparsity is None:
        raise typer.BadParameter("say what to remove: --layers, --best, --kinds or --sparsity")
    if layers is not None and best is not None:
        raise typer.BadParameter("give --layers or --best, not both")
    try:
        numbers = (
            layers
            if layers is None or layers in p.PRESETS
            else [int(x) for x in arguments.commas(layers)]
        )
    except ValueError:
        raise typer.BadParameter(
            f"expected {', '.join(p.PRESETS)} or numbers with commas, got {layers!r}",
            param_hint="--layers",
        ) from None
    if out:
        arguments.check_free(out, overwrite, WEIGHTS)
    model = load_clip(clip)
    whole = arguments.load_adapter(adapter, model)
    bench = arguments.load_bench(
        model, [whole], task, precision=precision, images=arguments.images(template, splits)
    )
    pruned = p.keep(whole, numbers, arguments.commas(kinds) or None, tower)
    if best is not None:
        worth = (
            p.magnitudes(pruned, tower)
            if by == "magnitude"
            else _worth(pruned, bench.task, model, tower, precision, whole)
        )
        pruned = p.keep_best(pruned, worth, best, tower)
    kept = pruned
    if sparsity:
        pruned = p.sparsify(pruned, sparsity, of, within)
    before, after = bench.accuracies([whole, pruned])
    if figure:
        from copra_lab import plots

        curve = {
            f"entries of {'A and B' if of == 'factors' else 'ΔW'}": bench.accuracies(
                [p.sparsify(kept, s, of, within) for s in SPARSITIES]
            )
        }
        arguments.save_figure(
            plots.curve([100 * s for s in SPARSITIES], curve, "sparsity, %"), figure
        )
    if out:
        save_adapter(pruned, out)
    zeros = p.sparsity(pruned)
    document = {
        "verb": "prune", "adapter": adapter, "folder": str(out) if out else None, "hash": pruned.hash, "task": bench.task.name, "sites": len(pruned),
        "of sites": len(whole), "layers": list(p.layers_of(pruned, tower)), "zeros": zeros, "test": arguments.numbers(after), "before": arguments.numbers(before),
    }  # fmt: skip
    rows = [
        ("whole", len(whole), "0 %", before),
        ("pruned", len(pruned), f"{100 * zeros:.0f} %", after),
    ]
    kept_layers = ", ".join(map(str, p.layers_of(pruned, tower))) or "none"
    ends = [
        f"layers kept: {kept_layers}",
        arguments.measured_on(bench),
        *([f"adapter saved in {out}"] if out else []),
    ]
    return Told(
        document, "\n".join([arguments.columns(rows, ("", "matrices", "zeros", "accuracy")), *ends])
    )


def _worth(
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
        f"measuring what {game.n_players} layers are worth, on {len(game.bench)} validation images"
    )
    return {
        int(name): float(v)
        for name, v in zip(game.names, solve(game, game.n_players).values, strict=True)
    }
