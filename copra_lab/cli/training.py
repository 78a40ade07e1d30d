"""``copra-lab fit`` and ``copra-lab prompt``: train, measure, keep."""

import math
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from copra_lab.cli import arguments
from copra_lab.cli.command import Told, verb

if TYPE_CHECKING:
    from copra_lab.plots import Picture
    from copra_lab.training.fitting import Step

Task = Annotated[
    str, typer.Argument(help="A task by name, or a folder with one folder of images a class.")
]
Seed = Annotated[
    int, typer.Option(min=0, help="Of the start, the order of the images and the layers dropped.")
]
ValidateEvery = Annotated[
    int, typer.Option(min=0, help="Measure on validation images every so many steps; 0 never.")
]
Device = Annotated[
    str, typer.Option(help="Where to train: auto (a GPU if there is one), cpu, cuda, cuda:1, …")
]


@verb("copra-lab fit digits --method copra --out digits-copra")
def fit(
    task: Task,
    out: arguments.Out,
    method: Annotated[
        Literal["lora", "copra", "dropout", "progressive-dropout", "stochastic-depth"],
        typer.Option(help="LoRA, CopRA, or a baseline of it."),
    ] = "lora",
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter.")] = 4,
    alpha: Annotated[
        float | None,
        typer.Option(help="LoRA's scale times its rank.", show_default="the rank, so a scale of 1"),
    ] = None,
    scaling: Annotated[
        Literal["alpha/r", "alpha/sqrt(r)"], typer.Option(help="The scale from alpha and rank.")
    ] = "alpha/r",
    sites: Annotated[str, typer.Option(help="Of q, k, v, out, fc1, fc2; with commas.")] = "q,k,v",
    towers: Annotated[str, typer.Option(help="Of vision, text; with commas.")] = "vision",
    start: Annotated[
        float | None, typer.Option(help="copra: the first probability of a layer to be on.")
    ] = None,
    ramp: Annotated[
        float | None,
        typer.Option(
            help="copra, progressive-dropout: the share of the steps over which it rises."
        ),
    ] = None,
    shape: Annotated[
        Literal["linear", "exponential"] | None, typer.Option(help="copra: of the rise.")
    ] = None,
    min_active: Annotated[
        int | None, typer.Option(help="copra: layers that are on at least.")
    ] = None,
    unit: Annotated[
        Literal["layer", "module"] | None,
        typer.Option(help="copra, stochastic-depth: what is dropped together."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="dropout, progressive-dropout: the share of input features dropped."),
    ] = None,
    deepest: Annotated[
        float | None, typer.Option(help="stochastic-depth: how often the deepest layer is dropped.")
    ] = None,
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="How many.", show_default="1200")] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", min=0, help="The learning rate.", show_default="0.002, CopRA 0.004"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images a step.", show_default="8")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(min=0, help="AdamW's.", show_default="0.01")
    ] = None,
    schedule: Annotated[
        Literal["cooldown", "cosine"] | None,
        typer.Option(help="How the rate falls.", show_default="cooldown"),
    ] = None,
    views: Annotated[
        int,
        typer.Option(
            min=0, help="Augmented copies of each image to keep; 0: new ones in every step."
        ),
    ] = 0,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of the products with frozen weights.")
    ] = "float32",
    device: Device = "auto",
    shots: arguments.Shots = 16,
    template: arguments.Template = None,
    splits: arguments.Splits = True,
    task_seed: arguments.TaskSeed = 0,
    validate_every: ValidateEvery = 0,
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
    overwrite: arguments.Overwrite = False,
) -> Told:
    """Train an adapter on a task: LoRA, or CopRA, which drops layers at random less and less.

    Interrupted, the same command goes on where it stopped.
    """
    from copra_lab.adapters.peft_folder import WEIGHTS
    from copra_lab.methods.lora import LoRA
    from copra_lab.sweeps.grid import DROPPINGS

    dropping: Any = DROPPINGS[method]
    own = {
        "start": start,
        "ramp": ramp,
        "shape": shape,
        "min_active": min_active,
        "unit": unit,
        "rate": rate,
        "deepest": deepest,
    }
    arguments.check_known(f"--method {method}", {f.name for f in fields(dropping)}, own)
    own = {k: v for k, v in own.items() if v is not None}
    lora = LoRA(rank, alpha, scaling, arguments.commas(sites), arguments.commas(towers))
    arguments.check_free(out, overwrite, WEIGHTS)
    return _train(
        task, clip, out, figure, validate_every, lora, replace(dropping, **own), shots=shots, task_seed=task_seed, images=arguments.images(template, splits), seed=seed, steps=steps,
        lr=lr, batch=batch, weight_decay=weight_decay, schedule=schedule, views=views, precision=precision, device=device,
    )  # fmt: skip


@verb("copra-lab prompt digits --penalty pun --out digits-pun")
def prompt(
    task: Task,
    out: arguments.Out,
    tower: Annotated[
        Literal["text", "vision"],
        typer.Option(help="Vectors in place of words (CoOp), or beside patches (VPT)."),
    ] = "text",
    length: Annotated[
        int | None,
        typer.Option(min=1, help="How many vectors.", show_default="16, in the image tower 4"),
    ] = None,
    words: Annotated[
        str | None, typer.Option(help="text: the words to begin with, in place of noise.")
    ] = None,
    position: Annotated[
        Literal["end", "middle", "front"] | None,
        typer.Option(help="text: of the class name.", show_default="end"),
    ] = None,
    class_specific: Annotated[
        bool, typer.Option("--class-specific", help="text: vectors of its own for each class.")
    ] = False,
    penalty: Annotated[
        Literal["none", "pun", "pan", "pun+pan"], typer.Option(help="What norms cost (Nemesis).")
    ] = "none",
    weight: Annotated[
        float | None, typer.Option(min=0, help="The penalty's weight A.", show_default="1")
    ] = None,
    norm: Annotated[
        Literal["1", "2", "inf"] | None, typer.Option(help="The penalty's norm.", show_default="2")
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option(
            help="pan, pun+pan: what a vector is multiplied by when it is tried.",
            show_default="0.5",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="pan, pun+pan: positions tried a step.", show_default="1"),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="An adapter that the CLIP wears while the prompt is learned.")
    ] = None,
    seed: Seed = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="How many.", show_default="200, vision 400")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", min=0, help="The learning rate.", show_default="0.01, vision 0.02"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images a step.", show_default="32, vision 16")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(min=0, help="SGD's.", show_default="0.0005")
    ] = None,
    schedule: Annotated[
        Literal["cooldown", "cosine"] | None,
        typer.Option(help="How the rate falls.", show_default="cosine"),
    ] = None,
    views: Annotated[int, typer.Option(min=0, help="Augmented copies of each image to keep.")] = 4,
    device: Device = "auto",
    shots: arguments.Shots = 16,
    template: arguments.Template = None,
    splits: arguments.Splits = True,
    task_seed: arguments.TaskSeed = 0,
    validate_every: ValidateEvery = 0,
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
    overwrite: arguments.Overwrite = False,
) -> Told:
    """Learn a soft prompt for a task: CoOp's or VPT's vectors, with a price on their norms if you like (Nemesis)."""
    from copra_lab.models.loading import load_clip
    from copra_lab.prompts.nemesis import Nemesis
    from copra_lab.prompts.soft_prompt import FILE, VPT, CoOp

    text = {"words": words, "position": position, "class_specific": class_specific or None}
    arguments.check_known(f"--tower {tower}", text if tower == "text" else (), text)
    price = {
        "weight": weight,
        "norm": math.inf if norm == "inf" else norm and int(norm),
        "tau": tau,
        "samples": samples,
    }
    known = {"none": (), "pun": ("weight", "norm")}.get(penalty, tuple(price))
    arguments.check_known(f"--penalty {penalty}", known, price)
    method = (
        CoOp(length, position or "end", class_specific, words)
        if tower == "text"
        else VPT(length or 4)
    )
    beta = {"pun": 1.0, "pan": 0.0, "pun+pan": 0.5}.get(penalty)
    own: dict[str, Any] = {k: v for k, v in price.items() if v is not None}
    cost = None if beta is None else Nemesis(beta, **own)
    arguments.check_free(out, overwrite, FILE)
    worn = arguments.load_adapter(adapter, load_clip(clip)) if adapter else None
    return _train(
        task, clip, out, figure, validate_every, method, penalty=cost, adapter=worn, shots=shots, task_seed=task_seed, images=arguments.images(template, splits), seed=seed, steps=steps, lr=lr,
        batch=batch, weight_decay=weight_decay, schedule=schedule, views=views, device=device,
    )  # fmt: skip


def _train(
    task: str,
    clip: str | None,
    out: Path,
    figure: Path | None,
    validate_every: int,
    *method: Any,
    shots: int,
    task_seed: int,
    images: dict[str, Any],
    **settings: Any,
) -> Told:
    """Train, keep, then measure on the test images beside what was there before."""
    import time

    from copra_lab.adapters.adapter import NONE, Adapter
    from copra_lab.adapters.peft_folder import save_adapter
    from copra_lab.bench.bench import Bench
    from copra_lab.models.loading import load_clip
    from copra_lab.tasks import task as tasks
    from copra_lab.training import fitting as train
    from copra_lab.utils.devices import find_place

    model = load_clip(clip)
    problem = tasks.load_task(task, model, shots=shots, seed=task_seed, **images)
    steps: list[Step] = []
    default = train.DEFAULTS[type(method[0])]["steps"]
    total = settings["steps"] or default
    every = validate_every or (max(1, total // 20) if figure else 0)
    first = find_place(
        settings["device"]
    ).first  # of several processes that train together one keeps and tells
    if first:
        arguments.note(f"{problem.title}: {problem.counts}; {total} steps")
        if (worn := settings.get("adapter")) and (
            trained := worn.provenance.get("task", problem.name)
        ) != problem.name:
            arguments.note(f"the adapter that it wears was trained on {trained}")
        if problem.name not in tasks.task_names():
            arguments.note(problem.about)

    def on_step(step: "Step") -> None:
        steps.append(step)
        if validate_every and first and step.validation is not None:
            arguments.note(
                f"step {step.step}: {100 * step.validation:.1f} % of the validation images"
            )

    begun = time.perf_counter()
    result = train.fit(
        model,
        problem,
        *method,
        **settings,
        validate_every=every,
        checkpoint=out / "fit.part",
        on_step=on_step,
        progress=sys.stderr.isatty(),
    )
    seconds = time.perf_counter() - begun
    if not first:
        raise typer.Exit
    save_adapter(result, out) if isinstance(result, Adapter) else result.save(out)
    if figure:
        arguments.save_figure(_curve(steps), figure)
    bench, worn = Bench(model, problem), settings.get("adapter") or NONE
    before = bench.accuracy(worn)
    after = bench.accuracy(result) if isinstance(result, Adapter) else bench.accuracy(worn, result)
    document = {
        "verb": "fit" if isinstance(result, Adapter) else "prompt", "folder": str(out), "hash": result.hash, "base": result.base, "task": problem.name,
        "test": arguments.numbers(after), "before": arguments.numbers(before), "notes": list(problem.notes), "seconds": round(seconds, 2), "provenance": dict(result.provenance),
        "curve": [{"step": s.step, "validation": s.validation} for s in steps if s.validation is not None],
    }  # fmt: skip
    what = "adapter" if isinstance(result, Adapter) else "prompt"
    lines = [(f"without the {what}", before), (f"with the {what}", after)]
    return Told(document, arguments.columns(lines) + f"\n{what} saved in {out} ({seconds:.0f} s)")


def _curve(steps: "Sequence[Step]") -> "Picture":
    from copra_lab import plots

    seen = [s for s in steps if s.validation is not None]
    losses, last = [], 0
    for s in seen:
        part = [p.loss for p in steps if last < p.step <= s.step and p.loss is not None]
        losses.append(sum(part) / len(part) if part else math.nan)
        last = s.step
    panels = {
        "loss (nats)": {"training images, mean since the mark before": losses},
        "accuracy, %": {"validation images": [100 * float(s.validation or 0) for s in seen]},
    }
    return plots.lines([s.step for s in seen], panels, "step")
