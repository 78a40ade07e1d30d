"""``copra-lab path`` and ``copra-lab shapley``: between two adapters, and layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Option

from copra_lab.cli import arguments
from copra_lab.cli.command import Report, verb

SPACES = {"delta": "ΔW", "factors": "A and B", "aligned": "A and B, aligned"}
UNITS = {"accuracy": (100, "points"), "loss": (1, "nats"), "margin": (1, "cosine")}
"""By value function: what its numbers are multiplied by, and their unit."""


@verb("copra-lab path digits/lora-seed-0 digits/lora-seed-1 --figure path.svg")
def path(
    a: arguments.AdapterName,
    b: arguments.AdapterName,
    *,
    space: Annotated[
        Literal["all", "delta", "factors", "aligned"],
        Option(
            help="The line of ΔW = s·B·A, that of A and B, that of A and B in the gauge in which "
            "the adapters are most alike, or all three."
        ),
    ] = "all",
    points: Annotated[int, Option(min=2, max=201, help="On the line, ends included.")] = 11,
    measured: arguments.Measurement,
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
) -> Report:
    """Measure accuracy along the line between two adapters, and its barrier."""
    from copra_lab.models.loading import load_clip

    model = load_clip(clip)
    one, two = arguments.load_adapters([a, b], model)
    bench = measured.bench(model, [one, two])
    weights = [i / (points - 1) for i in range(points)]
    spaces = SPACES if space == "all" else {space: SPACES[space]}
    paths = {s: bench.path(one, two, weights, s) for s in spaces}
    if figure:
        from copra_lab import plots

        curves = {SPACES[s]: p.accuracies for s, p in paths.items()}
        label = "λ, from the first adapter to the second"
        arguments.save_figure(plots.curve(weights, curves, label), figure)
    document = {
        **measured.document(bench),
        "precision": str(bench.dtype).removeprefix("torch."),
        "adapters": [{"name": n, "hash": x.hash} for n, x in ((a, one), (b, two))],
        "paths": {s: _path_document(p) for s, p in paths.items()},
    }
    accuracies = zip(*(p.accuracies for p in paths.values()), strict=True)
    rows = [(f"{w:.2f}", *at) for w, at in zip(weights, accuracies, strict=True)]
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


@dataclass(frozen=True)
class Game:
    """What is valued, and how.

    Args:
        players: What plays: whole layers, or single matrices.
        value: The value of a coalition.
        method: Exact, or how to sample; auto is exact up to 12 players, else permutations.
        budget: Coalitions to measure, where values are sampled.
        seed: Of the samples.
    """

    players: Literal["layer", "module"] = "layer"
    value: Literal["accuracy", "loss", "margin"] = "accuracy"
    method: Literal["auto", "exact", "permutations", "owen", "stratified"] = "auto"
    budget: Annotated[int, Option(min=1)] = 2000
    seed: Annotated[int, Option(min=0)] = 0


@verb("copra-lab shapley digits/copra-seed-0 --split val")
def shapley(
    adapter: arguments.AdapterName,
    *,
    options: Game,
    measured: arguments.Measurement,
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
) -> Report:
    """Estimate what each layer of an adapter contributes: its Shapley value."""
    import numpy as np

    from copra_lab.models.loading import load_clip
    from copra_lab.shapley.games import LayerGame
    from copra_lab.shapley.values import method_for, solve
    from copra_lab.utils.statistics import Z95

    model = load_clip(clip)
    of = arguments.load_adapter(adapter, model)
    bench = measured.bench(model, [of])
    game = LayerGame(bench, of, options.players, options.value)
    n = game.n_players
    used = method_for(n, options.method)
    exact = used == "exact"
    arguments.note(
        f"measuring {2**n if exact else options.budget:,} coalitions of {n} players, "
        f"on {len(bench)} images"
    )
    found = solve(game, n, used, options.budget, options.seed)
    values = [
        (name, float(v), float(e))
        for name, v, e in zip(game.names, found.values, found.errors, strict=True)
    ]
    times, unit = UNITS[options.value]
    if figure:
        _draw(values, used, times, unit, options.players, figure)
    empty, full = map(float, game(np.array([[False] * n, [True] * n])))
    document = {
        "adapter": adapter,
        "hash": of.hash,
        **measured.document(bench),
        "value": options.value,
        "method": used,
        "evaluations": found.evaluations,
        "none": empty,
        "all": full,
        "players": [{"name": name, "value": v, "error": e} for name, v, e in values],
    }
    rows = [
        (name, f"{round(times * v, 2) + 0.0:+.2f}", "" if exact else f"± {Z95 * times * e:.2f}")
        for name, v, e in values
    ]
    lines = [
        arguments.columns(rows, (options.players, unit, "")),
        f"{used}, {found.evaluations} coalitions; {options.value} without the adapter "
        f"{times * empty:.2f}, with it {times * full:.2f}",
        arguments.measured_on(bench, measured.split),
    ]
    return Report(document, "\n".join(lines))


def _draw(
    values: Sequence[tuple[str, float, float]],
    used: str,
    times: float,
    unit: str,
    players: str,
    file: Path,
) -> None:
    """Save a figure of (name, value, error), with intervals where values are sampled."""
    from copra_lab import plots
    from copra_lab.utils.statistics import Z95

    spans = [(times * (v - Z95 * e), times * (v + Z95 * e)) for _, v, e in values]
    estimate = ([times * v for _, v, _ in values], None if used == "exact" else spans)
    names = [name.replace(" ", "\n") for name, _, _ in values]
    panels = {f"Shapley value, {unit}": {used: estimate}}
    arguments.save_figure(plots.estimates(names, panels, players), file)
