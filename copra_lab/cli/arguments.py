"""From words on the command line to the library's values, and back to words and numbers."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, BadParameter, Option

if TYPE_CHECKING:
    from copra_lab.adapters.adapter import Adapter
    from copra_lab.bench.bench import Bench
    from copra_lab.models.clip import Clip
    from copra_lab.plots import Picture
    from copra_lab.tasks.task import Task
    from copra_lab.utils.statistics import Accuracy

PARTS = {"test": "test", "val": "validation", "train": "training"}
"""What the images of a split are called."""

FIGURES = (".png", ".svg", ".pdf")


def _figure_file(file: Path | None) -> Path | None:
    """Refuse a figure that could not be saved: before the work, not after it."""
    if file is None:
        return None
    if file.suffix.lower() not in FIGURES:
        raise BadParameter(
            f"a figure is a file that ends in {', '.join(FIGURES)}, got {file.name!r}"
        )
    from copra_lab.utils.extras import MissingExtra, needs

    try:
        with needs("plots"):
            import matplotlib  # noqa: F401
    except MissingExtra as e:
        raise BadParameter(str(e)) from None
    return file


AdapterName = Annotated[
    str,
    Argument(
        help="An adapter: its folder or file, hf-hub:owner/name, or one that ships, such as "
        "digits/lora-seed-0."
    ),
]
ClipName = Annotated[
    str | None,
    Option(help="The CLIP: a folder or name that load_clip takes.", show_default="the bundled one"),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], Option(help="Arithmetic of the bench.")
]
Figure = Annotated[
    Path | None, Option(help="Save a figure: .png, .svg or .pdf.", callback=_figure_file)
]
Out = Annotated[Path, Option("--out", "-o", help="The folder to write.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace what is in the folder.")]


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """How a folder of images is read.

    Args:
        template: Of a folder of images: the prompt, with {} for a class's name.
        splits: Of a folder of images: folders called train, val and test are a split; or they are
            classes.
    """

    template: Annotated[str | None, Option(show_default="a photo of a {}")] = None
    splits: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """What was said, as `load_task` takes it."""
        said = {"template": self.template, "splits": None if self.splits else False}
        return {k: v for k, v in said.items() if v is not None}


@dataclass(frozen=True)
class MeasurementOnTest(ImageFolder):
    """What to measure adapters on: test images.

    Args:
        task: A task or a folder of images.
        precision: Arithmetic of the bench.
    """

    task: Annotated[str | None, Option(show_default="what the adapter was trained on")] = None
    precision: Precision = "auto"
    split = "test"

    def bench(self, clip: "Clip", adapters: Sequence["Adapter"]) -> "Bench":
        """A bench on the task, or on what the adapters were trained on."""
        return load_bench(clip, adapters, self.task, self.split, self.precision, self.options)


@dataclass(frozen=True)
class Measurement(MeasurementOnTest):
    """What to measure adapters on.

    Args:
        split: The images to measure on.
    """

    split: Literal["test", "val", "train"] = "test"

    def document(self, bench: "Bench") -> dict[str, Any]:
        """What JSON says of it."""
        return {"task": bench.task.name, "split": self.split, "n": len(bench)}


def load_adapter(name: str, clip: "Clip") -> "Adapter":
    """An adapter from a folder, a file, the hub, or one that ships, checked against `clip`.

    Raises:
        AdapterError: If there is none, or it does not fit.
        OSError: Where the hub cannot be reached.
    """
    from copra_lab.adapters.factor_pairs import AdapterError
    from copra_lab.adapters.loading import load_adapter as read
    from copra_lab.models.hub_download import PREFIX
    from copra_lab.zoo import FOLDER

    # unlike Path.exists, this is False for names too long
    if name.startswith(PREFIX) or os.path.exists(name):
        return read(name, clip)
    folder = FOLDER / name
    inside = name.count("/") == 1 and folder.resolve().is_relative_to(FOLDER.resolve())
    if inside and folder.is_dir():
        return read(folder, clip)
    raise AdapterError(
        f"no adapter at {name}: there is no such file or folder; give one, hf-hub:owner/name, or "
        "one that ships, such as digits/lora-seed-0"
    )


def load_adapters(names: Sequence[str], clip: "Clip") -> "list[Adapter]":
    """Several adapters, each checked against `clip`.

    Of those that peft wrote only the name of their base is known: a note says where names differ.
    """
    adapters = [load_adapter(name, clip) for name in names]
    bases = {
        str(a.provenance["clip"]): n
        for n, a in zip(names, adapters, strict=True)
        if not a.base and a.provenance.get("clip")
    }
    if len(bases) > 1:
        (one, a), (two, b), *_ = bases.items()
        note(
            f"warning: {a} says that it was trained on {one}, and {b} on {two}; here both are put "
            f"on {clip.name}"
        )
    return adapters


def load_bench(
    clip: "Clip",
    adapters: Sequence["Adapter"],
    task: str | None,
    split: str = "test",
    precision: str = "auto",
    images: Mapping[str, Any] | None = None,
) -> "Bench":
    """A bench on `task`, or on what the adapters were trained on, with that training's shots.

    Raises:
        typer.BadParameter: Where that is unknown, or not the same for all.
    """
    from copra_lab.bench.bench import Bench

    bench = Bench(clip, load_task(clip, task, adapters, split, images), split, precision)
    trained = sorted({str(a.provenance["task"]) for a in adapters if "task" in a.provenance})
    if set(trained) - {bench.task.name}:
        note(f"measured on {bench.task.name}, and trained on {', '.join(trained)}")
    return bench


def measured_on(bench: "Bench", split: str = "test") -> str:
    """What numbers are about, in words."""
    return f"measured on {len(bench):,} {PARTS[split]} images of {bench.task.name}"


def load_task(
    clip: "Clip",
    name: str | None,
    adapters: Sequence["Adapter"] = (),
    split: str = "test",
    images: Mapping[str, Any] | None = None,
) -> "Task":
    """A task by its name, or what the adapters were trained on; prints the task's notes.

    Args:
        clip: The model.
        name: The task; None for what the adapters were trained on.
        adapters: The adapters.
        split: Which images are asked for.
        images: Options of a folder of images; what is missing is taken from the training.

    Raises:
        typer.BadParameter: Where the task is unknown, or not the same for all adapters.
    """
    from copra_lab.tasks import task as tasks

    trained = [a.provenance for a in adapters if "task" in a.provenance]
    names = list(dict.fromkeys(str(p["task"]) for p in trained))
    if name is None and len(names) != 1:
        raise BadParameter(
            f"one adapter was trained on {names[0]}, another on {names[1]}; say which to measure on"
            if names
            else "this adapter does not say what it was trained on; name a task or a folder of "
            "images",
            param_hint="--task",
        )
    name = name or names[0]
    # Test images depend on neither; an adapter sees its training images again.
    seen = [
        (int(p.get("shots", 16)), int(p.get("task seed", 0))) for p in trained if p["task"] == name
    ]
    shots, seed = seen[0] if seen else (16, 0)
    matter: dict[str, list[Any]] = {"test": [], "val": [n for n, _ in seen], "train": seen}
    if len(set(matter[split])) > 1:
        note(
            f"warning: the adapters were trained with different {PARTS[split]} images; here are "
            f"the first one's, {shots} a class, task seed {seed}"
        )
    task = tasks.load_task(
        name, clip, shots=shots, seed=seed, **recorded(name, adapters, images or {})
    )
    for sentence in task.notes:
        note(sentence)
    return task


def recorded(task: str, adapters: Sequence["Adapter"], images: Mapping[str, Any]) -> dict[str, Any]:
    """The `images` options, completed by those that the adapters saw `task` with in training."""
    trained = [a.provenance for a in adapters if a.provenance.get("task") == task]
    seen = [dict(p.get("task options", {})) for p in trained]
    if "template" not in images and any(options != seen[0] for options in seen):
        prompts = dict.fromkeys(str(options.get("template", "the usual one")) for options in seen)
        note(
            f"warning: these adapters were trained with different prompts on {task}, "
            f"{' and '.join(prompts)}; here is the first one's, or set --template"
        )
    return {**(seen[0] if seen else {}), **images}


def said(choice: str, known: Collection[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a value: those that are not None.

    Args:
        choice: What was chosen, in words.
        known: The options that it has.
        options: By name, the values of options; None where nothing was said.

    Raises:
        typer.BadParameter: For an option that has a value and is not known, so that `choice` would
            ignore it.
    """
    values = {name: value for name, value in options.items() if value is not None}
    if unknown := [name for name in values if name not in known]:
        hint = "--" + unknown[0].replace("_", "-")
        raise BadParameter(f"{choice} has no such setting", param_hint=hint)
    return values


def check_free(folder: Path, overwrite: bool, *files: str, option: str = "--out") -> None:
    """Refuse to write over what is there.

    Raises:
        ValueError: If any of these files is in `folder`, which `option` names, already.
    """
    if not overwrite and (there := [f for f in files if (folder / f).exists()]):
        raise ValueError(
            f"{folder} holds {there[0]} already; choose another folder with {option}, or replace "
            "it with --overwrite"
        )


def save_figure(picture: "Picture", file: Path) -> None:
    """All at once, in the format that the file's name ends in."""
    import io

    from copra_lab.utils.files import write_atomically

    data = io.BytesIO()
    picture.figure.savefig(data, format=file.suffix[1:].lower(), dpi=150, facecolor="white")
    write_atomically(file, data.getvalue())
    note(f"figure saved in {file}")


def note(words: str) -> None:
    """Say how the work goes: on standard error, and above a progress bar if one is there."""
    from tqdm import tqdm

    tqdm.write(words, file=sys.stderr)


def commas(words: str | None) -> tuple[str, ...]:
    """``q,k, v`` → ("q", "k", "v")."""
    return tuple(w.strip() for w in (words or "").split(",") if w.strip())


def numbers(a: "Accuracy") -> dict[str, Any]:
    """An accuracy as JSON holds it, shares 0…1."""
    low, high = a.interval
    return {"accuracy": a.value, "low": low, "high": high, "correct": a.correct, "n": a.n}


def columns(rows: Sequence[Sequence[object]], head: Sequence[str] = ()) -> str:
    """Rows under one another in columns, the first to the left and the others to the right."""
    cells = [[str(c) for c in row] for row in ([head] if head else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        for first, *rest in cells
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)
