"""``copra-lab merge`` and ``copra-lab prune``: adapters made of adapters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from typer import Argument, BadParameter, Option

from copra_lab.cli import arguments
from copra_lab.cli.command import Report, verb
from copra_lab.merging.registry import MERGES, Parameter, merge_names

if TYPE_CHECKING:
    from copra_lab.adapters.adapter import Adapter
    from copra_lab.bench.bench import Bench
    from copra_lab.models.clip import Clip
    from copra_lab.utils.statistics import Accuracy

SPARSITIES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


How: Any = Literal[merge_names(data=False)]
"""The merges that need nothing but adapters, of the table in `copra_lab.merging.registry`."""


OPTIONS = ("weights", "scale", "density", "seed")
"""Parameters of merges that have an option of their own."""


def _having(parameter: str) -> str:
    """The merges that have a parameter."""
    return ", ".join(name for name in get_args(How) if parameter in MERGES[name].parameters)


def _defaults(parameter: str) -> str:
    """What a parameter is by default, merge by merge: "0.3, ties 1"."""
    of: dict[str, list[str]] = {}
    for name in get_args(How):
        if p := MERGES[name].parameters.get(parameter):
            of.setdefault(f"{p.default:g}", []).append(name)
    return "; ".join(f"{', '.join(names)}: {default}" for default, names in of.items())


def _others() -> str:
    """Each merge with the parameters that have no option of their own, and their defaults."""
    texts = []
    for name in get_args(How):
        own = [
            p if x.default is None else f"{p}={json.dumps(x.default)}"
            for p, x in MERGES[name].parameters.items()
            if p not in OPTIONS
        ]
        texts += [f"{name}: {', '.join(own)}"] if own else []
    return "; ".join(texts)


@dataclass(frozen=True)
class Merging:
    """How to merge.

    Args:
        how: The merge; what each is says docs/methods/merging.md.
        scale: What the result is multiplied by.
        density: The share of entries kept.
        dare: Drop this share of each ΔW's entries first, and rescale the rest (DARE).
        rank: Cut the result to this rank.
        seed: Of what is drawn.
    """

    how: How = "sum"
    weights: Annotated[
        str | None,
        Option(
            help=f"{_having('weights')}: one for each adapter, with commas.",
            show_default="equal, together 1",
        ),
    ] = None
    scale: Annotated[float | None, Option(show_default=_defaults("scale"))] = None
    density: Annotated[float | None, Option(show_default=_defaults("density"))] = None
    set_: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="NAME=VALUE",
            help=f"Another parameter of the merge; can be repeated. They are, with their defaults: "
            f"{_others()}.",
            show_default=False,
        ),
    ] = None
    dare: float | None = None
    rank: Annotated[int | None, Option(min=1, show_default="exact")] = None
    seed: Annotated[int, Option(min=0)] = 0

    def __post_init__(self) -> None:
        self._said()

    def _said(self) -> dict[str, Any]:
        """The merge's parameters that were said; refuses what it does not have."""
        known = MERGES[self.how].parameters
        given = {"scale": self.scale, "density": self.density, "weights": self.weights}
        options = arguments.said(f"--how {self.how}", known, given)
        for text in self.set_ or ():
            name, equals, value = text.partition("=")
            if not equals or name not in known or name in OPTIONS:
                free = ", ".join(p for p in known if p not in OPTIONS) or "none"
                raise BadParameter(
                    f"expected NAME=VALUE, where --how {self.how} has {free}, got {text!r}",
                    param_hint="--set",
                )
            options[name] = _number(name, value, known[name])
        for name, value in options.items():
            try:
                known[name].check(name, value)
            except ValueError as e:
                raise BadParameter(str(e), param_hint=f"--how {self.how}") from None
        return options | ({"seed": self.seed} if "seed" in known else {})

    def merge(self, adapters: Sequence["Adapter"]) -> "Adapter":
        """The adapters merged into one."""
        import torch

        from copra_lab import merging as m

        g = torch.Generator().manual_seed(self.seed)
        dared = [m.dare(a, self.dare, g) for a in adapters] if self.dare else adapters
        options = self._said()
        if "weights" in MERGES[self.how].parameters:
            options["weights"] = self._shares(len(adapters))
        merged = m.merge(self.how, dared, **options)
        return m.truncate(merged, self.rank) if self.rank else merged

    def _shares(self, adapters: int) -> list[float]:
        """The weight of each adapter; equal ones where nothing was said."""
        try:
            weights = [float(w) for w in arguments.commas(self.weights)]
        except ValueError:
            raise BadParameter(
                f"expected numbers with commas, got {self.weights!r}", param_hint="--weights"
            ) from None
        return weights or [1 / adapters] * adapters


def _number(name: str, text: str, parameter: Parameter) -> float | int | bool:
    """A parameter's value from its text."""
    kind, truths = parameter.kind or float, {"true": True, "false": False}
    try:
        return truths[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        words = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
        raise BadParameter(f"{name} must be {words}, got {text!r}", param_hint="--set") from None


@verb("copra-lab merge digits/lora-seed-0 digits/lora-seed-1 --out digits-merged")
def merge(
    adapters: Annotated[
        list[str],
        Argument(
            help="Adapters: folders, files, hf-hub:owner/name, or ones that ship, such as "
            "digits/lora-seed-0."
        ),
    ],
    out: arguments.Out,
    *,
    way: Merging,
    task: Annotated[
        list[str] | None,
        Option(help="Measure on it; can be repeated.", show_default="what they were trained on"),
    ] = None,
    images: arguments.ImageFolder,
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
    measured = _measured(model, parts, rows, task, images.options, precision)
    if figure:
        _draw(measured, figure)
    save_adapter(merged, out)
    document = {
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
    text = f"adapter of rank {merged.rank} saved in {out}"
    if measured:
        cells = [(row, *(found[row] for found in measured.values())) for row in rows]
        text = arguments.columns(cells, ("", *measured)) + "\n" + text
    return Report(document, text)


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
        raise BadParameter(
            "there is nothing to draw: name a task to measure on", param_hint="--task"
        )
    bars = {
        f"{row}, {Path(t).name}": a for t, found in measured.items() for row, a in found.items()
    }
    arguments.save_figure(plots.accuracies(bars), file)


@dataclass(frozen=True)
class Pruning:
    """What to remove from an adapter.

    Args:
        layers: Keep even, odd, low, middle or high ones, or numbers with commas.
        best: Keep so many layers, the most important ones.
        by: What --best goes by: Shapley values on validation images, or the size of ΔW.
        kinds: Keep these kinds of matrix: of q, k, v, out, fc1, fc2; with commas.
        tower: Whose layers and kinds.
        sparsity: Set this share of the entries to zero, the smallest.
        of: Whose entries: of A and B, or of ΔW.
        within: Where entries are ranked together.
    """

    layers: str | None = None
    best: Annotated[int | None, Option(min=0)] = None
    by: Literal["shapley", "magnitude"] = "shapley"
    kinds: str | None = None
    tower: Literal["vision", "text"] = "vision"
    sparsity: Annotated[float | None, Option(min=0, max=1)] = None
    of: Literal["factors", "delta"] = "factors"
    within: Literal["adapter", "layer", "site"] = "adapter"

    def __post_init__(self) -> None:
        if self.layers is self.best is self.kinds is self.sparsity is None:
            raise BadParameter("say what to remove: --layers, --best, --kinds or --sparsity")
        if self.layers is not None and self.best is not None:
            raise BadParameter("give --layers or --best, not both")

        self._named_layers()

    def _named_layers(self) -> Any:
        """As `copra_lab.pruning.keep` takes them."""
        from copra_lab.pruning import PRESETS

        if self.layers is None or self.layers in PRESETS:
            return self.layers
        try:
            return [int(x) for x in arguments.commas(self.layers)]
        except ValueError:
            raise BadParameter(
                f"expected {', '.join(PRESETS)} or numbers with commas, got {self.layers!r}",
                param_hint="--layers",
            ) from None

    def keep(self, adapter: "Adapter") -> "Adapter":
        """The adapter without the layers and kinds to remove by name."""
        from copra_lab.pruning import keep

        kinds = arguments.commas(self.kinds) or None
        return keep(adapter, self._named_layers(), kinds, self.tower)

    def sparsify(self, adapter: "Adapter", sparsity: float) -> "Adapter":
        """The adapter with a share of its entries set to zero."""
        from copra_lab.pruning import sparsify

        return sparsify(adapter, sparsity, self.of, self.within)


@verb("copra-lab prune digits/copra-seed-0 --layers even --out digits-half")
def prune(
    adapter: arguments.AdapterName,
    *,
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="The folder to write.", show_default="only measure"),
    ] = None,
    cut: Pruning,
    measured: arguments.MeasurementOnTest,
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
    kept = cut.keep(whole)
    if cut.best is not None:
        if cut.by == "magnitude":
            scores = p.magnitudes(kept, cut.tower)
        else:
            scores = _shapley_values(kept, whole, bench, cut.tower, measured.precision)
        kept = p.keep_best(kept, scores, cut.best, cut.tower)
    pruned = cut.sparsify(kept, cut.sparsity or 0.0)
    before, after = bench.accuracies([whole, pruned])
    if figure:
        _draw_sparsities(bench, kept, cut, figure)
    if out:
        save_adapter(pruned, out)
    zeros, layers = p.sparsity(pruned), p.layers_of(pruned, cut.tower)
    document = {
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


def _shapley_values(
    adapter: "Adapter", whole: "Adapter", tested: "Bench", tower: str, precision: str
) -> dict[int, float]:
    """The Shapley value of each layer of a tower on the validation images."""
    from copra_lab.shapley.games import LayerGame, players_of
    from copra_lab.shapley.values import solve

    task = tested.task
    bench = arguments.load_bench(tested.clip, [whole], task.name, "val", precision, task.options)
    game = LayerGame(bench, adapter, players_of(adapter, tower))
    arguments.note(
        f"measuring the Shapley values of {game.n_players} layers, on {len(bench)} validation "
        "images"
    )
    values = solve(game, game.n_players).values
    return {int(name): float(v) for name, v in zip(game.names, values, strict=True)}


def _draw_sparsities(bench: "Bench", kept: "Adapter", cut: Pruning, file: Path) -> None:
    """Save a figure of accuracy over sparsity."""
    from copra_lab import plots

    adapters = [cut.sparsify(kept, s) for s in SPARSITIES]
    name = f"entries of {'A and B' if cut.of == 'factors' else 'ΔW'}"
    curve = {name: bench.accuracies(adapters)}
    arguments.save_figure(plots.curve([100 * s for s in SPARSITIES], curve, "sparsity, %"), file)
