"""``copra-lab fit`` and ``copra-lab prompt``: train, measure, save."""

import inspect
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from copra_lab.cli import arguments
from copra_lab.cli.command import Group, Report, verb
from copra_lab.methods.registry import METHODS, names

if TYPE_CHECKING:
    from copra_lab.adapters.adapter import Adapter
    from copra_lab.models.clip import Clip
    from copra_lab.plots import Picture
    from copra_lab.tasks.task import Task
    from copra_lab.training import Step, TrainingSettings

TaskName = Annotated[
    str, typer.Argument(help="A task by name, or a folder with one folder of images a class.")
]
ValidateEvery = Annotated[
    int, typer.Option(min=0, help="Measure on validation images every so many steps; 0 never.")
]
Device = Annotated[
    str, typer.Option(help="Where to train: auto (a GPU if there is one), cpu, cuda, cuda:1, …")
]
MethodName: Any = Literal[names("adapter")]

# --- settings of the training --------------------------------------------------------------------

_SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "seed": (
        int,
        {"min": 0, "help": "Of the start, the order of the images and the layers dropped."},
    ),
    "steps": (int | None, {"min": 1, "help": "How many."}),
    "lr": (float | None, {"min": 0, "help": "The learning rate."}),
    "batch": (int | None, {"min": 1, "help": "Images a step."}),
    "weight_decay": (float | None, {"min": 0, "help": "AdamW's."}),
    "schedule": (Literal["cooldown", "cosine"] | None, {"help": "How the rate falls."}),
    "views": (
        int,
        {"min": 0, "help": "Augmented copies of each image to keep; 0: new ones in every step."},
    ),
    "precision": (
        Literal["float32", "bfloat16"],
        {"help": "Of the products with frozen weights."},
    ),
}
"""By field of `TrainingSettings`: its type, and what `typer.Option` takes."""

_OF_FIT = {
    "steps": {"show_default": "1200"},
    "lr": {"show_default": "0.002, CopRA 0.004"},
    "batch": {"show_default": "8"},
    "weight_decay": {"show_default": "0.01"},
    "schedule": {"show_default": "cooldown"},
}
_OF_PROMPT = {
    "steps": {"show_default": "200, vision 400"},
    "lr": {"show_default": "0.01, vision 0.02"},
    "batch": {"show_default": "32, vision 16"},
    "weight_decay": {"show_default": "0.0005", "help": "SGD's."},
    "schedule": {"show_default": "cosine"},
    "views": {"help": "Augmented copies of each image to keep."},
}


def _settings_group(words: dict[str, dict[str, str]], **defaults: Any) -> Group:
    """The options for those fields of `TrainingSettings` that `defaults` names."""

    def make(**values: Any) -> "TrainingSettings":
        from copra_lab.training.settings import TrainingSettings

        return TrainingSettings(**values)

    parameters = []
    for name, default in defaults.items():
        kind, option = _SETTINGS[name]
        flags = ["--lr"] if name == "lr" else []
        says = typer.Option(*flags, **(option | words.get(name, {})))
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[kind, says],
                default=default,
            )
        )
    return Group(tuple(parameters), make)


_OPEN = dict.fromkeys(("steps", "lr", "batch", "weight_decay", "schedule"))
"""What the method decides where nothing is said."""

FitSettings = Annotated[
    Any, _settings_group(_OF_FIT, seed=0, **_OPEN, views=0, precision="float32")
]
PromptSettings = Annotated[Any, _settings_group(_OF_PROMPT, seed=0, **_OPEN, views=4)]

# --- other groups of options ---------------------------------------------------------------------


def lora_options(
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
) -> dict[str, Any]:
    """The settings that every variant of LoRA has."""
    places = {"sites": arguments.commas(sites), "towers": arguments.commas(towers)}
    return {"rank": rank, "alpha": alpha, "scaling": scaling, **places}


def dropping_options(
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
) -> dict[str, Any]:
    """What a method says about what it drops, by name; None where nothing was said."""
    return {
        "start": start,
        "ramp": ramp,
        "shape": shape,
        "min_active": min_active,
        "unit": unit,
        "rate": rate,
        "deepest": deepest,
    }


@dataclass(frozen=True)
class _Images:
    """Which images to train on, as `load_task` takes it."""

    shots: int
    task_seed: int
    more: dict[str, Any]


def image_options(
    shots: arguments.Shots = 16,
    template: arguments.Template = None,
    splits: arguments.Splits = True,
    task_seed: arguments.TaskSeed = 0,
) -> _Images:
    """Which images to train on."""
    return _Images(shots, task_seed, arguments.images(template, splits))


@dataclass(frozen=True)
class _Output:
    """Where to train, on what, and where the results go."""

    validate_every: int
    clip: str | None
    figure: Path | None
    overwrite: bool


def output_options(
    validate_every: ValidateEvery = 0,
    clip: arguments.ClipName = None,
    figure: arguments.Figure = None,
    overwrite: arguments.Overwrite = False,
) -> _Output:
    """What is measured on the way, and where results go."""
    return _Output(validate_every, clip, figure, overwrite)


Images = Annotated[Any, Group.of(image_options)]
Output = Annotated[Any, Group.of(output_options)]

# --- the verbs -----------------------------------------------------------------------------------


@verb("copra-lab fit digits --method copra --out digits-copra")
def fit(
    task: TaskName,
    out: arguments.Out,
    *,
    method: Annotated[MethodName, typer.Option(help="LoRA, CopRA, or a baseline of it.")] = "lora",
    lora: Annotated[Any, Group.of(lora_options)],
    dropping: Annotated[Any, Group.of(dropping_options)],
    settings: FitSettings,
    device: Device = "auto",
    images: Images,
    output: Output,
) -> Report:
    """Train an adapter on a task: LoRA, or CopRA, which drops layers at random less and less.

    Interrupted, the same command continues where it stopped.
    """
    from copra_lab.adapters.peft_folder import WEIGHTS

    parts = METHODS[method].parts()
    known = {f.name for f in fields(parts.dropping)}
    arguments.check_known(f"--method {method}", known, dropping)
    said = {k: v for k, v in dropping.items() if v is not None}
    arguments.check_free(out, output.overwrite, WEIGHTS)
    options = {"dropping": replace(parts.dropping, **said), "settings": settings, "device": device}
    return _train(task, out, images, output, replace(parts.method, **lora), options)


def vector_options(
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
        bool, typer.Option("--class-specific", help="text: separate vectors for each class.")
    ] = False,
) -> Any:
    """The vectors to learn: CoOp or VPT."""
    from copra_lab.prompts.soft_prompt import VPT, CoOp

    text = {"words": words, "position": position, "class_specific": class_specific or None}
    arguments.check_known(f"--tower {tower}", text if tower == "text" else (), text)
    if tower == "vision":
        return VPT(length or 4)
    return CoOp(length, position or "end", class_specific, words)


def penalty_options(
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
) -> Any:
    """What the norms of the vectors cost: Nemesis, or None."""
    from copra_lab.prompts.nemesis import Nemesis

    said: dict[str, Any] = {
        "weight": weight,
        "norm": math.inf if norm == "inf" else norm and int(norm),
        "tau": tau,
        "samples": samples,
    }
    known = {"none": (), "pun": ("weight", "norm")}.get(penalty, tuple(said))
    arguments.check_known(f"--penalty {penalty}", known, said)
    if penalty == "none":
        return None
    beta: Any = METHODS[penalty].beta
    return Nemesis(beta, **{k: v for k, v in said.items() if v is not None})


@verb("copra-lab prompt digits --penalty pun --out digits-pun")
def prompt(
    task: TaskName,
    out: arguments.Out,
    *,
    vectors: Annotated[Any, Group.of(vector_options)],
    cost: Annotated[Any, Group.of(penalty_options)],
    adapter: Annotated[
        str | None, typer.Option(help="An adapter that the CLIP has while the prompt is learned.")
    ] = None,
    settings: PromptSettings,
    device: Device = "auto",
    images: Images,
    output: Output,
) -> Report:
    """Learn a soft prompt: CoOp's or VPT's vectors, with a penalty on their norms (Nemesis)."""
    from copra_lab.models.loading import load_clip
    from copra_lab.prompts.soft_prompt import FILE

    arguments.check_free(out, output.overwrite, FILE)
    worn = arguments.load_adapter(adapter, load_clip(output.clip)) if adapter else None
    options = {"penalty": cost, "adapter": worn, "settings": settings, "device": device}
    return _train(task, out, images, output, vectors, options)


# --- training and measuring ----------------------------------------------------------------------


def _train(
    name: str,
    out: Path,
    images: _Images,
    output: _Output,
    method: Any,
    options: dict[str, Any],
) -> Report:
    """Train, save, then measure on the test images beside what was there before."""
    from copra_lab.adapters.adapter import Adapter
    from copra_lab.adapters.peft_folder import save_adapter
    from copra_lab.models.loading import load_clip
    from copra_lab.tasks.task import load_task
    from copra_lab.training.fitting import fit as train
    from copra_lab.utils.devices import this_process

    clip = load_clip(output.clip)
    task = load_task(name, clip, shots=images.shots, seed=images.task_seed, **images.more)
    total = options["settings"].resolve(method).steps
    # of several processes that train together, one saves and reports
    first = this_process(options["device"]).first
    if first:
        _announce(task, total, options.get("adapter"))
    steps: list[Step] = []

    def on_step(step: "Step") -> None:
        steps.append(step)
        if output.validate_every and first and step.validation is not None:
            measured = f"{100 * step.validation:.1f} % of the validation images"
            arguments.note(f"step {step.step}: {measured}")

    begun = time.perf_counter()
    result = train(
        clip,
        task,
        method,
        **options,
        validate_every=output.validate_every or (max(1, total // 20) if output.figure else 0),
        checkpoint=out / "fit.part",
        on_step=on_step,
        progress=sys.stderr.isatty(),
    )
    seconds = time.perf_counter() - begun
    if not first:
        raise typer.Exit
    save_adapter(result, out) if isinstance(result, Adapter) else result.save(out)
    if output.figure:
        arguments.save_figure(_curve(steps), output.figure)
    return _report(clip, task, result, options.get("adapter"), out, steps, seconds)


def _announce(task: "Task", steps: int, adapter: "Adapter | None") -> None:
    """Say what is about to be trained on what."""
    from copra_lab.tasks.task import task_names

    arguments.note(f"{task.title}: {task.counts}; {steps} steps")
    trained_on = adapter.provenance.get("task", task.name) if adapter else task.name
    if trained_on != task.name:
        arguments.note(f"the adapter that the CLIP has was trained on {trained_on}")
    if task.name not in task_names():
        arguments.note(task.about)


def _report(
    clip: "Clip",
    task: "Task",
    result: Any,
    adapter: "Adapter | None",
    out: Path,
    steps: "Sequence[Step]",
    seconds: float,
) -> Report:
    """Accuracy on the test images with and without what was learned."""
    from copra_lab.adapters.adapter import NONE, Adapter
    from copra_lab.bench.bench import Bench

    bench, worn = Bench(clip, task), adapter or NONE
    before = bench.accuracy(worn)
    is_adapter = isinstance(result, Adapter)
    after = bench.accuracy(result) if is_adapter else bench.accuracy(worn, result)
    document = {
        "verb": "fit" if is_adapter else "prompt",
        "folder": str(out),
        "hash": result.hash,
        "base": result.base,
        "task": task.name,
        "test": arguments.numbers(after),
        "before": arguments.numbers(before),
        "notes": list(task.notes),
        "seconds": round(seconds, 2),
        "provenance": dict(result.provenance),
        "curve": [
            {"step": s.step, "validation": s.validation} for s in steps if s.validation is not None
        ],
    }
    what = "adapter" if is_adapter else "prompt"
    lines = [(f"without the {what}", before), (f"with the {what}", after)]
    return Report(document, arguments.columns(lines) + f"\n{what} saved in {out} ({seconds:.0f} s)")


def _curve(steps: "Sequence[Step]") -> "Picture":
    """Loss and validation accuracy against the steps."""
    from copra_lab import plots

    measured = [s for s in steps if s.validation is not None]
    losses, last = [], 0
    for s in measured:
        part = [p.loss for p in steps if last < p.step <= s.step and p.loss is not None]
        losses.append(sum(part) / len(part) if part else math.nan)
        last = s.step
    panels = {
        "loss (nats)": {"training images, mean since the mark before": losses},
        "accuracy, %": {"validation images": [100 * float(s.validation or 0) for s in measured]},
    }
    return plots.lines([s.step for s in measured], panels, "step")
