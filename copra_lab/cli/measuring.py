"""``copra-lab path`` and ``copra-lab shapley``: between two adapters, and layer by layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from copra_lab.cli import arguments
from copra_lab.cli.command import Group, Report, verb

if TYPE_CHECKING:
    from copra_lab.shapley.games import LayerGame
    from copra_lab.shapley.values import Estimate

SPACES = {"delta": "ΔW", "factors": "A and B"}
UNITS = {"accuracy": (100, "points"), "loss": (1, "nats"), "margin": (1, "cosine")}
"""By value function: what its numbers are multiplied by, and their unit."""

Measured = Annotated[Any, Group.of(arguments.measurement)]


@verb("copra-lab path digits/lora-seed-0 digits/lora-seed-1 --figure path.svg")
def path(
    a: arguments.AdapterName,
    b: arguments.AdapterName,
    *,
    space: Annotated[
        Literal["both", "delta", "factors"],
        typer.Option(help="The line of ΔW = s·B·A, that of A and B, or both."),
    ] = "both",
    points: Annotated[int, typer.Option(min=2, max=201, help="On the line, ends included.")] = 11,
    measured: Measured,
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
) -> Report:
    """Measure accuracy along the line between two adapters, and its barrier."""
    from copra_lab.models.loading import load_clip

    model = load_clip(clip)
    one, two = arguments.load_adapters([a, b], model)
    bench = measured.bench(model, [one, two])
    weights = [i / (points - 1) for i in range(points)]
    spaces = SPACES if space == "both" else {space: SPACES[space]}
    paths = {s: bench.path(one, two, weights, s) for s in spaces}
    if figure:
        from copra_lab import plots

        curves = {SPACES[s]: p.accuracies for s, p in paths.items()}
        label = "λ, from the first adapter to the second"
        arguments.save_figure(plots.curve(weights, curves, label), figure)
    document = {
        "verb": "path",
        **measured.document(bench),
        "precision": str(bench.dtype).removeprefix("torch."),
        "adapters": [{"name": n, "hash": x.hash} for n, x in ((a, one), (b, two))],
        "paths": {s: _path_document(p) for s, p in paths.items()},
    }
    rows = [
        (f"{w:.2f}", *(str(p.accuracies[i]) for p in paths.values())) for i, w in enumerate(weights)
    ]
    lines = [arguments.columns(rows, ("λ", *spaces.values()))]
    lines += [f"barrier along {SPACES[s]}: {100 * p.barrier:.1f} points" for s, p in paths.items()]
    return Report(document, "\n".join([*lines, arguments.measured_on(bench, measured.split)]))


def _path_document(path: Any) -> dict[str, Any]:
    """A line as JSON holds it."""
    points = zip(path.weights, path.accuracies, strict=True)
    return {
        "barrier": path.barrier,
        "points": [{"weight": w, **arguments.numbers(x)} for w, x in points],
    }


@verb("copra-lab shapley digits/copra-seed-0 --split val")
def shapley(
    adapter: arguments.AdapterName,
    *,
    players: Annotated[
        Literal["layer", "module"],
        typer.Option(help="What plays: whole layers, or single matrices."),
    ] = "layer",
    value: Annotated[
        Literal["accuracy", "loss", "margin"], typer.Option(help="The value of a coalition.")
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
    measured: Measured,
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
) -> Report:
    """Estimate what each layer of an adapter contributes: its Shapley value."""
    from copra_lab.models.loading import load_clip
    from copra_lab.shapley.games import LayerGame
    from copra_lab.shapley.values import method_for, solve

    of = arguments.load_adapter(adapter, load_clip(clip))
    game = LayerGame(measured.bench(load_clip(clip), [of]), of, players, value)
    n = game.n_players
    used = method_for(n, method)
    arguments.note(
        f"measuring {2**n if used == 'exact' else budget:,} coalitions of {n} players, "
        f"on {len(game.bench)} images"
    )
    found = solve(game, n, used, budget, seed)
    if figure:
        _draw(game, found, used, value, players, figure)
    about = {
        "verb": "shapley",
        "adapter": adapter,
        "hash": of.hash,
        **measured.document(game.bench),
    }
    ends = _ends(game)
    words = [*_values(game, found, ends, used, value, players)]
    about |= {
        "value": value,
        "method": used,
        "evaluations": found.evaluations,
        "none": ends[0],
        "all": ends[1],
        "players": [
            {"name": p, "value": float(v), "error": float(e)}
            for p, v, e in zip(game.names, found.values, found.errors, strict=True)
        ],
    }
    return Report(about, "\n".join([*words, arguments.measured_on(game.bench, measured.split)]))


def _ends(game: "LayerGame") -> tuple[float, float]:
    """The value of no layer and of all layers."""
    import numpy as np

    n = game.n_players
    empty, full = game(np.array([[False] * n, [True] * n]))
    return float(empty), float(full)


def _values(
    game: "LayerGame",
    found: "Estimate",
    ends: tuple[float, float],
    used: str,
    value: str,
    players: str,
) -> tuple[str, str]:
    """The values in columns, and what they are about."""
    from copra_lab.utils.statistics import Z95

    times, unit = UNITS[value]
    rows = [
        (
            p,
            f"{round(times * float(v), 2) + 0.0:+.2f}",
            "" if used == "exact" else f"± {Z95 * times * e:.2f}",
        )
        for p, v, e in zip(game.names, found.values, found.errors, strict=True)
    ]
    empty, full = ends
    words = (
        f"{used}, {found.evaluations} coalitions; {value} without the adapter "
        f"{times * empty:.2f}, with it {times * full:.2f}"
    )
    return arguments.columns(rows, (players, unit, "")), words


def _draw(
    game: "LayerGame", found: "Estimate", used: str, value: str, players: str, file: Path
) -> None:
    """Save a figure of the values, with intervals where they are sampled."""
    from copra_lab import plots
    from copra_lab.utils.statistics import Z95

    times, unit = UNITS[value]
    pairs = list(zip(found.values, found.errors, strict=True))
    spans = [(times * (v - Z95 * e), times * (v + Z95 * e)) for v, e in pairs]
    estimate = ([times * float(v) for v, _ in pairs], None if used == "exact" else spans)
    names = [name.replace(" ", "\n") for name in game.names]
    panels = {f"Shapley value, {unit}": {used: estimate}}
    arguments.save_figure(plots.estimates(names, panels, players), file)
