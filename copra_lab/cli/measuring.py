"""``copra-lab path`` and ``copra-lab shapley``: what lies between two adapters, and what each layer of one is worth."""

from typing import Annotated, Literal

import typer

from copra_lab.cli import arguments
from copra_lab.cli.command import Told, verb


@verb("copra-lab path digits/lora-seed-0 digits/lora-seed-1 --figure path.svg")
def path(
    a: arguments.AdapterName,
    b: arguments.AdapterName,
    space: Annotated[
        Literal["both", "delta", "factors"],
        typer.Option(help="The line of ΔW = s·B·A, that of A and B, or both."),
    ] = "both",
    points: Annotated[int, typer.Option(min=2, max=201, help="On the line, ends included.")] = 11,
    task: arguments.TaskName = None,
    template: arguments.Template = None,
    splits: arguments.Splits = True,
    split: arguments.Split = "test",
    precision: arguments.Precision = "auto",
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
) -> Told:
    """Measure accuracy along the line between two adapters, and its barrier."""
    from copra_lab.models.loading import load_clip

    model = load_clip(clip)
    one, two = arguments.load_adapters([a, b], model)
    bench = arguments.load_bench(
        model, [one, two], task, split, precision, arguments.images(template, splits)
    )
    weights = [i / (points - 1) for i in range(points)]
    names = {"delta": "ΔW", "factors": "A and B"}
    spaces = names if space == "both" else {space: names[space]}
    paths = {s: bench.path(one, two, weights, s) for s in spaces}
    if figure:
        from copra_lab import plots

        arguments.save_figure(
            plots.curve(
                weights,
                {names[s]: p.accuracies for s, p in paths.items()},
                "λ, from the first adapter to the second",
            ),
            figure,
        )
    document = {
        "verb": "path", "task": bench.task.name, "split": split, "n": len(bench), "precision": str(bench.dtype).removeprefix("torch."),
        "adapters": [{"name": n, "hash": x.hash} for n, x in ((a, one), (b, two))],
        "paths": {
            s: {"barrier": p.barrier, "points": [{"weight": w, **arguments.numbers(x)} for w, x in zip(p.weights, p.accuracies, strict=True)]}
            for s, p in paths.items()
        },
    }  # fmt: skip
    rows = [
        (f"{w:.2f}", *(str(p.accuracies[i]) for p in paths.values())) for i, w in enumerate(weights)
    ]
    barriers = [f"barrier along {names[s]}: {100 * p.barrier:.1f} points" for s, p in paths.items()]
    return Told(
        document,
        "\n".join(
            [
                arguments.columns(rows, ("λ", *spaces.values())),
                *barriers,
                arguments.measured_on(bench, split),
            ]
        ),
    )


@verb("copra-lab shapley digits/copra-seed-0 --split val")
def shapley(
    adapter: arguments.AdapterName,
    players: Annotated[
        Literal["layer", "module"],
        typer.Option(help="What plays: whole layers, or single matrices."),
    ] = "layer",
    value: Annotated[
        Literal["accuracy", "loss", "margin"], typer.Option(help="What a coalition is worth.")
    ] = "accuracy",
    method: Annotated[
        Literal["auto", "exact", "permutations", "owen", "stratified"],
        typer.Option(
            help="Exact, or how to sample; auto is exact up to 12 players, else permutations."
        ),
    ] = "auto",
    budget: Annotated[
        int, typer.Option(min=1, help="Coalitions to measure, where values are sampled.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
    task: arguments.TaskName = None,
    template: arguments.Template = None,
    splits: arguments.Splits = True,
    split: arguments.Split = "test",
    precision: arguments.Precision = "auto",
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
) -> Told:
    """Tell what each layer of an adapter is worth: its Shapley value."""
    import numpy as np

    from copra_lab.models.loading import load_clip
    from copra_lab.shapley.games import LayerGame
    from copra_lab.shapley.values import solve, way
    from copra_lab.utils.statistics import Z95

    model = load_clip(clip)
    of = arguments.load_adapter(adapter, model)
    game = LayerGame(
        arguments.load_bench(
            model, [of], task, split, precision, arguments.images(template, splits)
        ),
        of,
        players,
        value,
    )
    n = game.n_players
    used = way(n, method)
    arguments.note(
        f"measuring {2**n if used == 'exact' else budget:,} coalitions of {n} players, on {len(game.bench)} images"
    )
    found = solve(game, n, used, budget, seed)
    values, errors = found.values, found.errors
    empty, full = game(np.array([[False] * n, [True] * n]))
    times, unit = {"accuracy": (100, "points"), "loss": (1, "nats"), "margin": (1, "cosine")}[value]
    if figure:
        from copra_lab import plots

        spans = (
            None
            if used == "exact"
            else [
                (times * (v - Z95 * e), times * (v + Z95 * e))
                for v, e in zip(values, errors, strict=True)
            ]
        )
        panels = {f"Shapley value, {unit}": {used: ([times * float(v) for v in values], spans)}}
        arguments.save_figure(
            plots.estimates([name.replace(" ", "\n") for name in game.names], panels, players),
            figure,
        )
    document = {
        "verb": "shapley", "adapter": adapter, "hash": of.hash, "task": game.bench.task.name, "split": split, "n": len(game.bench), "value": value,
        "method": used, "evaluations": found.evaluations, "none": float(empty), "all": float(full),
        "players": [{"name": p, "value": float(v), "error": float(e)} for p, v, e in zip(game.names, values, errors, strict=True)],
    }  # fmt: skip
    rows = [
        (
            p,
            f"{round(times * float(v), 2) + 0.0:+.2f}",
            "" if used == "exact" else f"± {Z95 * times * e:.2f}",
        )
        for p, v, e in zip(game.names, values, errors, strict=True)
    ]
    words = f"{used}, {found.evaluations} coalitions; {value} without the adapter {times * empty:.2f}, with it {times * full:.2f}"
    return Told(
        document,
        "\n".join(
            [
                arguments.columns(rows, (players, unit, "")),
                words,
                arguments.measured_on(game.bench, split),
            ]
        ),
    )
