"""From words on the command line to the library's values, and back to words and numbers."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

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
    if file is not None and file.suffix.lower() not in FIGURES:
        raise typer.BadParameter(
            f"a figure is a file that ends in {', '.join(FIGURES)}, got {file.name!r}"
        )
    if file is not None:  # said before the work, not after it
        from copra_lab.utils.extras import MissingExtra, needs

        try:
            with needs("plots"):
                import matplotlib  # noqa: F401
        except MissingExtra as e:
            raise typer.BadParameter(str(e)) from None
    return file


AdapterName = Annotated[
    str,
    typer.Argument(
        help="An adapter: its folder or file, hf-hub:owner/name, or one that ships, such as "
        "digits/lora-seed-0."
    ),
]
ClipName = Annotated[
    str | None,
    typer.Option(
        "--clip",
        help="The CLIP: a folder or name that load_clip takes.",
        show_default="the bundled one",
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="A task or a folder of images.",
        show_default="what the adapter was trained on",
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        help="Of a folder of images: the prompt, with {} for a class's name.",
        show_default="a photo of a {}",
    ),
]
Splits = Annotated[
    bool,
    typer.Option(
        "--splits/--no-splits",
        help="Of a folder of images: folders called train, val and test are a split; or they are "
        "classes.",
    ),
]
Shots = Annotated[int, typer.Option(min=1, help="Training and validation images a class, at most.")]
TaskSeed = Annotated[int, typer.Option(help="Chooses the training images.")]
Split = Annotated[Literal["test", "val", "train"], typer.Option(help="The images to measure on.")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="Arithmetic of the bench.")
]
Figure = Annotated[
    Path | None, typer.Option(help="Save a figure: .png, .svg or .pdf.", callback=_figure_file)
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")]


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

    if name.startswith(PREFIX) or os.path.exists(
        name
    ):  # unlike Path.exists, False for names too long
        return read(name, clip)
    if (
        (FOLDER / name).is_dir()
        and (FOLDER / name).resolve().is_relative_to(FOLDER.resolve())
        and name.count("/") == 1
    ):
        return read(FOLDER / name, clip)
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


def images(template: str | None, splits: bool) -> dict[str, Any]:
    """What was said about a folder of images, as `load_task` takes it."""
    return ({"template": template} if template is not None else {}) | (
        {} if splits else {"splits": False}
    )


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


@dataclass(frozen=True)
class Measurement:
    """What to measure adapters on, as the options say."""

    task: str | None
    images: dict[str, Any]
    split: str
    precision: str

    def bench(self, clip: "Clip", adapters: Sequence["Adapter"]) -> "Bench":
        """A bench on the task, or on what the adapters were trained on."""
        return load_bench(clip, adapters, self.task, self.split, self.precision, self.images)

    def document(self, bench: "Bench") -> dict[str, Any]:
        """What JSON says of it."""
        return {"task": bench.task.name, "split": self.split, "n": len(bench)}


def measurement(
    task: TaskName = None,
    template: Template = None,
    splits: Splits = True,
    split: Split = "test",
    precision: Precision = "auto",
) -> Measurement:
    """The options of a verb that measures adapters."""
    return Measurement(task, images(template, splits), split, precision)


def measurement_on_test(
    task: TaskName = None,
    template: Template = None,
    splits: Splits = True,
    precision: Precision = "auto",
) -> Measurement:
    """The options of a verb that measures adapters on test images alone."""
    return Measurement(task, images(template, splits), "test", precision)


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
    if name is None and not trained:
        raise typer.BadParameter(
            "this adapter does not say what it was trained on; name a task or a folder of images",
            param_hint="--task",
        )
    if name is None and (
        other := next((p["task"] for p in trained if p["task"] != trained[0]["task"]), None)
    ):
        raise typer.BadParameter(
            f"one adapter was trained on {trained[0]['task']}, another on {other}; say which to "
            "measure on",
            param_hint="--task",
        )
    name = name or str(trained[0]["task"])
    # Test images depend on neither; an adapter sees its training images again.
    seen = [_drawn(p) for p in trained if p["task"] == name] or [(16, 0)]
    (shots, seed), different = (
        seen[0],
        len(set(seen) if split == "train" else {s for s, _ in seen}) > 1,
    )
    if split != "test" and different:
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


def _drawn(about: Mapping[str, Any]) -> tuple[int, int]:
    """Shots and seed of the training images."""
    return int(about.get("shots", 16)), int(about.get("task seed", 0))


def recorded(task: str, adapters: Sequence["Adapter"], images: Mapping[str, Any]) -> dict[str, Any]:
    """The `images` options, completed by those that the adapters saw `task` with in training."""
    seen = [
        dict(a.provenance.get("task options", {}))
        for a in adapters
        if a.provenance.get("task") == task
    ]
    if "template" not in images and any(options != seen[0] for options in seen):
        ways = " and ".join(
            dict.fromkeys(str(options.get("template", "the usual one")) for options in seen)
        )
        note(
            f"warning: these adapters were trained with different prompts on {task}, {ways}; here "
            "is the first one's, or set --template"
        )
    return {**(seen[0] if seen else {}), **images}


def check_known(choice: str, known: Collection[str], options: Mapping[str, object]) -> None:
    """Refuse an option that `choice` would ignore.

    Args:
        choice: What was chosen, in words.
        known: The options that it has.
        options: By name, the values of options; None where nothing was said.

    Raises:
        typer.BadParameter: For an option that has a value and is not known.
    """
    for name, value in options.items():
        if value is not None and name not in known:
            raise typer.BadParameter(
                f"{choice} has no such setting", param_hint="--" + name.replace("_", "-")
            )


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
