"""``copra-lab fit`` and ``copra-lab prompt``: train, measure, save."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, BadParameter, Exit, Option

from copra_lab.cli import arguments
from copra_lab.cli.command import Report, verb
from copra_lab.methods.registry import METHODS, names
from copra_lab.methods.registry import method as method_named

if TYPE_CHECKING:
    from copra_lab.adapters.adapter import Adapter
    from copra_lab.methods.parametrisation import AdapterMethod
    from copra_lab.models.clip import Clip
    from copra_lab.plots import Picture
    from copra_lab.prompts.nemesis import Nemesis
    from copra_lab.prompts.soft_prompt import VPT, CoOp
    from copra_lab.tasks.task import Task
    from copra_lab.training import Step
    from copra_lab.utils.statistics import Accuracy

TaskName = Annotated[
    str, Argument(help="A task by name, or a folder with one folder of images a class.")
]
Device = Annotated[
    str, Option(help="Where to train: auto (a GPU if there is one), cpu, cuda, cuda:1, …")
]
MethodName: Any = Literal[names("adapter")]
Dropping: Any = Literal[tuple(n for n in names("adapter") if METHODS[n].dropping)]
Schedule = Literal["cooldown", "cosine"]

# --- groups of options ---------------------------------------------------------------------------


@dataclass(frozen=True)
class FitSettings:
    """The settings of an adapter's training.

    Args:
        seed: Of the start, the order of the images and the layers dropped.
        steps: How many.
        lr: The learning rate.
        batch: Images a step.
        weight_decay: AdamW's.
        schedule: How the rate falls.
        views: Augmented copies of each image to keep; 0: new ones in every step.
        precision: Of the products with frozen weights.
    """

    seed: Annotated[int, Option(min=0)] = 0
    steps: Annotated[int | None, Option(min=1, show_default="1200")] = None
    lr: Annotated[float | None, Option(min=0, show_default="0.002, CopRA 0.004")] = None
    batch: Annotated[int | None, Option(min=1, show_default="8")] = None
    weight_decay: Annotated[float | None, Option(min=0, show_default="0.01")] = None
    schedule: Annotated[Schedule | None, Option(show_default="cooldown")] = None
    views: Annotated[int, Option(min=0)] = 0
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class PromptSettings:
    """The settings of a prompt's training.

    Args:
        seed: Of the start, the order of the images and the positions tried (PAN).
        steps: How many.
        lr: The learning rate.
        batch: Images a step.
        weight_decay: SGD's.
        schedule: How the rate falls.
        views: Augmented copies of each image to keep.
    """

    seed: Annotated[int, Option(min=0)] = 0
    steps: Annotated[int | None, Option(min=1, show_default="200, vision 400")] = None
    lr: Annotated[float | None, Option(min=0, show_default="0.01, vision 0.02")] = None
    batch: Annotated[int | None, Option(min=1, show_default="32, vision 16")] = None
    weight_decay: Annotated[float | None, Option(min=0, show_default="0.0005")] = None
    schedule: Annotated[Schedule | None, Option(show_default="cosine")] = None
    views: Annotated[int, Option(min=0)] = 4


@dataclass(frozen=True)
class MethodSettings:
    """The settings of an adapter's method; None where nothing was said.

    Args:
        rank: Of the adapter, for methods that have a rank.
        alpha: LoRA's scale times its rank.
        scaling: The scale from alpha and rank.
        sites: Of q, k, v, out, fc1, fc2; with commas.
        towers: Of vision, text; with commas.
        more: Any other setting of the method, such as bases=64 of nola; may be repeated.
    """

    rank: Annotated[int | None, Option(min=1, show_default="4; others their own")] = None
    alpha: Annotated[float | None, Option(show_default="the rank, so a scale of 1")] = None
    scaling: Annotated[
        Literal["alpha/r", "alpha/sqrt(r)"] | None, Option(show_default="alpha/r")
    ] = None
    sites: Annotated[str | None, Option(show_default="q,k,v")] = None
    towers: Annotated[str | None, Option(show_default="vision")] = None
    more: Annotated[list[str] | None, Option("--set", metavar="NAME=VALUE")] = None

    def of(self, name: str, method: "AdapterMethod") -> "AdapterMethod":
        """A method with these settings. Refuses one that it does not have."""
        usual: dict[str, Any] = {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]
        given = asdict(self)
        for word in given.pop("more") or ():
            key, _, value = word.partition("=")
            if key not in usual:
                known = ", ".join(usual)
                raise BadParameter(f"--method {name} has no setting {key!r}; it has {known}")
            given[key] = _read(key, value, usual[key])
        for key in ("sites", "towers"):
            if isinstance(given[key], str):
                given[key] = arguments.commas(given[key])
        return replace(method, **arguments.said(f"--method {name}", usual, given))  # type: ignore[type-var]


def _read(name: str, word: str, usual: Any) -> Any:
    """A value of the type of the usual one."""
    if isinstance(usual, tuple | str):
        return word
    kinds: list[Callable[[str], Any]] = [int, float] if usual is None else [type(usual)]
    if isinstance(usual, bool):
        kinds = [lambda w: {"true": True, "false": False}[w.lower()]]
    for kind in kinds:
        try:
            return kind(word)
        except (ValueError, KeyError):
            pass
    like = str(usual).lower() if isinstance(usual, bool) else "a number"
    raise BadParameter(f"{name} must be like {like}, got {word!r}", param_hint="--set")


@dataclass(frozen=True)
class DroppingSettings:
    """What a method says about what it drops; None where nothing was said.

    Args:
        drop: What to drop on top of a method that drops nothing, such as CopRA on svfit.
        start: copra: the first probability of a layer to be on.
        ramp: copra, progressive-dropout: the share of the steps over which it rises.
        shape: copra: of the rise.
        min_active: copra: layers that are on at least.
        unit: copra, stochastic-depth: what is dropped together.
        rate: dropout, progressive-dropout: the share of input features dropped.
        deepest: stochastic-depth: how often the deepest layer is dropped.
    """

    drop: Dropping | None = None
    start: float | None = None
    ramp: float | None = None
    shape: Literal["linear", "exponential"] | None = None
    min_active: int | None = None
    unit: Literal["layer", "module"] | None = None
    rate: float | None = None
    deepest: float | None = None


@dataclass(frozen=True)
class TrainingImages(arguments.ImageFolder):
    """Which images to train on.

    Args:
        shots: Training and validation images a class, at most.
        task_seed: Chooses the training images.
    """

    shots: Annotated[int, Option(min=1)] = 16
    task_seed: int = 0


@dataclass(frozen=True)
class Output:
    """What is measured on the way, and where results go.

    Args:
        validate_every: Measure on validation images every so many steps; 0 never.
    """

    validate_every: Annotated[int, Option(min=0)] = 0
    clip: arguments.ClipName = None
    figure: arguments.Figure = None
    overwrite: arguments.Overwrite = False


@dataclass(frozen=True)
class Vectors:
    """The vectors to learn: CoOp or VPT.

    Args:
        tower: Vectors in place of words (CoOp), or beside patches (VPT).
        length: How many vectors.
        words: text: the words to begin with, in place of noise.
        position: text: of the class name.
        class_specific: text: separate vectors for each class.
    """

    tower: Literal["text", "vision"] = "text"
    length: Annotated[int | None, Option(min=1, show_default="16, in the image tower 4")] = None
    words: str | None = None
    position: Annotated[Literal["end", "middle", "front"] | None, Option(show_default="end")] = None
    class_specific: Annotated[bool, Option("--class-specific")] = False

    def method(self) -> "CoOp | VPT":
        """Refuses what VPT does not have."""
        from copra_lab.prompts.soft_prompt import VPT, CoOp

        class_specific = self.class_specific or None
        text = {"words": self.words, "position": self.position, "class_specific": class_specific}
        said = arguments.said(f"--tower {self.tower}", text if self.tower == "text" else (), text)
        return VPT(self.length or 4) if self.tower == "vision" else CoOp(self.length, **said)


@dataclass(frozen=True)
class Penalty:
    """What the norms of the vectors cost: Nemesis.

    Args:
        penalty: What norms cost (Nemesis).
        weight: The penalty's weight A.
        norm: The penalty's norm.
        tau: pan, pun+pan: what a vector is multiplied by when it is tried.
        samples: pan, pun+pan: positions tried a step.
    """

    penalty: Literal["none", "pun", "pan", "pun+pan"] = "none"
    weight: Annotated[float | None, Option(min=0, show_default="1")] = None
    norm: Annotated[Literal["1", "2", "inf"] | None, Option(show_default="2")] = None
    tau: Annotated[float | None, Option(show_default="0.5")] = None
    samples: Annotated[int | None, Option(min=1, show_default="1")] = None

    def nemesis(self) -> "Nemesis | None":
        """The penalty; None for none. Refuses a setting that it does not have."""
        from copra_lab.prompts.nemesis import Nemesis

        norm = math.inf if self.norm == "inf" else self.norm and int(self.norm)
        given = {"weight": self.weight, "norm": norm, "tau": self.tau, "samples": self.samples}
        known = {"none": (), "pun": ("weight", "norm")}.get(self.penalty, tuple(given))
        said: dict[str, Any] = arguments.said(f"--penalty {self.penalty}", known, given)
        if self.penalty == "none":
            return None
        beta: Any = METHODS[self.penalty].beta
        return Nemesis(beta, **said)


# --- the verbs -----------------------------------------------------------------------------------


@verb("copra-lab fit digits --method copra --out digits-copra")
def fit(
    task: TaskName,
    out: arguments.Out,
    *,
    method: Annotated[MethodName, Option(help="LoRA, CopRA, or another method.")] = "lora",
    of_method: MethodSettings,
    dropping: DroppingSettings,
    settings: FitSettings,
    device: Device = "auto",
    images: TrainingImages,
    output: Output,
) -> Report:
    """Train an adapter on a task: LoRA, or CopRA, which drops layers at random less and less.

    Other methods change the weights in other ways; copra_lab.methods.METHODS says how.

    Interrupted, the same command continues where it stopped.
    """
    from copra_lab.adapters.peft_folder import WEIGHTS

    name = f"{method}+{dropping.drop}" if dropping.drop else method
    try:
        parts = method_named(name).parts()
    except KeyError:
        raise BadParameter(f"{method} already drops something", param_hint="--drop") from None
    known = {f.name for f in fields(parts.dropping)}
    said = arguments.said(f"--method {name}", known, asdict(replace(dropping, drop=None)))
    arguments.check_free(out, output.overwrite, WEIGHTS)
    options = {"dropping": replace(parts.dropping, **said), "device": device}
    return _train(task, out, images, output, of_method.of(name, parts.method), settings, options)


@verb("copra-lab prompt digits --penalty pun --out digits-pun")
def prompt(
    task: TaskName,
    out: arguments.Out,
    *,
    vectors: Vectors,
    cost: Penalty,
    adapter: Annotated[
        str | None, Option(help="An adapter that the CLIP has while the prompt is learned.")
    ] = None,
    settings: PromptSettings,
    device: Device = "auto",
    images: TrainingImages,
    output: Output,
) -> Report:
    """Learn a soft prompt: CoOp's or VPT's vectors, with a penalty on their norms (Nemesis)."""
    from copra_lab.models.loading import load_clip
    from copra_lab.prompts.soft_prompt import FILE

    method, penalty = vectors.method(), cost.nemesis()
    arguments.check_free(out, output.overwrite, FILE)
    worn = arguments.load_adapter(adapter, load_clip(output.clip)) if adapter else None
    options = {"penalty": penalty, "adapter": worn, "device": device}
    return _train(task, out, images, output, method, settings, options)


# --- training and measuring ----------------------------------------------------------------------


def _train(
    name: str,
    out: Path,
    images: TrainingImages,
    output: Output,
    method: Any,
    settings: FitSettings | PromptSettings,
    options: dict[str, Any],
) -> Report:
    """Train, save, then measure on the test images beside what was there before."""
    from copra_lab.adapters.adapter import Adapter
    from copra_lab.adapters.peft_folder import save_adapter
    from copra_lab.models.loading import load_clip
    from copra_lab.tasks.task import load_task
    from copra_lab.training.fitting import fit as train
    from copra_lab.training.settings import TrainingSettings
    from copra_lab.utils.devices import this_process

    clip = load_clip(output.clip)
    task = load_task(name, clip, shots=images.shots, seed=images.task_seed, **images.options)
    chosen = TrainingSettings(**asdict(settings))
    total = chosen.resolve(method).steps
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
        settings=chosen,
        validate_every=output.validate_every or (max(1, total // 20) if output.figure else 0),
        checkpoint=out / "fit.part",
        on_step=on_step,
        progress=sys.stderr.isatty(),
    )
    seconds = time.perf_counter() - begun
    if not first:
        raise Exit
    save_adapter(result, out) if isinstance(result, Adapter) else result.save(out)
    if output.figure:
        arguments.save_figure(_curve(steps), output.figure)
    before, after = _accuracies(clip, task, result, options.get("adapter"))
    curve = [{"step": s.step, "validation": s.validation} for s in _validated(steps)]
    document = {
        "folder": str(out),
        "hash": result.hash,
        "base": result.base,
        "task": task.name,
        "test": arguments.numbers(after),
        "before": arguments.numbers(before),
        "notes": list(task.notes),
        "seconds": round(seconds, 2),
        "provenance": dict(result.provenance),
        "curve": curve,
    }
    what = "adapter" if isinstance(result, Adapter) else "prompt"
    table = arguments.columns([(f"without the {what}", before), (f"with the {what}", after)])
    return Report(document, f"{table}\n{what} saved in {out} ({seconds:.0f} s)")


def _announce(task: "Task", steps: int, adapter: "Adapter | None") -> None:
    """Say what is about to be trained on what."""
    from copra_lab.tasks.task import task_names

    arguments.note(f"{task.title}: {task.counts}; {steps} steps")
    trained_on = adapter.provenance.get("task", task.name) if adapter else task.name
    if trained_on != task.name:
        arguments.note(f"the adapter that the CLIP has was trained on {trained_on}")
    if task.name not in task_names():
        arguments.note(task.about)


def _accuracies(
    clip: "Clip", task: "Task", result: Any, adapter: "Adapter | None"
) -> "tuple[Accuracy, Accuracy]":
    """Accuracy on the test images without and with what was learned."""
    from copra_lab.adapters.adapter import NONE, Adapter
    from copra_lab.bench.bench import Bench

    bench, worn = Bench(clip, task), adapter or NONE
    with_it = (result,) if isinstance(result, Adapter) else (worn, result)
    return bench.accuracy(worn), bench.accuracy(*with_it)


def _validated(steps: "Sequence[Step]") -> "list[Step]":
    """Those after which the validation images were measured."""
    return [s for s in steps if s.validation is not None]


def _curve(steps: "Sequence[Step]") -> "Picture":
    """Loss and validation accuracy against the steps."""
    from copra_lab import plots

    measured = _validated(steps)
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
