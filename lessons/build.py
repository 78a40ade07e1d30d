"""Make the notebooks from the lessons' sources: ``python lessons/build.py``.

``--check`` checks that they are up to date. A source ``NN_name.py`` (percent format) becomes
``NN_name.ipynb``, solved and executed, and ``exercises/NN_name.ipynb``, with blanks to fill and no
outputs. It never goes the other way. ``lessons/README.md`` explains what a source can contain.
"""

import argparse
import base64
import hashlib
import io
import json
import math
import os
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path

os.environ.pop("MPLBACKEND", None)  # the kernel inherits it and shall draw inline
os.environ.update(
    PYDEVD_DISABLE_FILE_VALIDATION="1", OMP_NUM_THREADS="2", OMP_WAIT_POLICY="PASSIVE"
)  # threads that spin starve a busy machine

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode
from tqdm import tqdm

LESSONS = Path(__file__).parent
ROOT = LESSONS.parent
ASSETS = ROOT / "copra_lab" / "assets"
PACKAGES = ("copra-lab", "torch", "open_clip_torch", "matplotlib", "scikit-learn")
BLANK = re.compile(r"^( *)# BLANK(?:: *(.*))?\n(?:.*\n)*?\1# END\n?", re.MULTILINE)
MARKS = re.compile(r"^ *# (?:BLANK\b.*|END)\n?", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"
TABLE = re.compile(r"(<!-- lessons -->\n).*?(<!-- /lessons -->)", re.DOTALL)


class BuildError(Exception):
    """A lesson could not be made; the message is one line that says which and why."""


# --- from a source to two notebooks without outputs


def read(source: Path) -> NotebookNode:
    """The source as a notebook: numbered cells, and its header in ``metadata["copra_lab"]``."""
    try:
        nb = jupytext.read(source, fmt="py:percent")
    except yaml.YAMLError as e:
        raise BuildError(
            f"{source.name}: its header cannot be read, {getattr(e, 'problem', e)}"
        ) from e
    for i, cell in enumerate(nb.cells):
        cell.id = f"cell-{i:02d}"
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k == "tags"})
        blanks, ends = (
            len(re.findall(rf"^ *# {mark}\b", cell.source, re.MULTILINE))
            for mark in ("BLANK", "END")
        )
        whole = len(BLANK.findall(cell.source + "\n"))
        if not blanks == ends == whole or bool(whole) != ("exercise" in tags(cell)):
            raise BuildError(
                f"{source.name}, cell {i}: cells tagged exercise, and no others, need pairs of "
                "# BLANK and # END with equal indentation"
            )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb.metadata = NotebookNode(kernelspec=kernel, copra_lab=nb.metadata.get("copra_lab", {}))
    return nb


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def solved(source: Path, seconds: float = 0) -> NotebookNode:
    """The notebook to read, with solutions folded."""
    nb = read(source)
    for cell in nb.cells:
        if "exercise" in tags(cell):
            cell.source = MARKS.sub("", cell.source).rstrip("\n")
            _fold(cell)
    return _opened(
        nb,
        f"Solved. To do the exercises yourself, open [the sheet](exercises/{source.stem}.ipynb).",
        seconds,
    )


def sheet(source: Path, seconds: float) -> NotebookNode:
    """The notebook to work in, with blanks instead of solutions."""
    nb = read(source)
    nb.cells = [cell for cell in nb.cells if "solution" not in tags(cell)]
    for cell in nb.cells:
        if "exercise" in tags(cell):
            cell.source = BLANK.sub(_blank, cell.source + "\n").rstrip("\n")
    text = (
        "Exercise sheet: your code goes where a cell raises `NotImplementedError`. Every cell but "
        f"the exercises runs without them. [Solutions](../{source.stem}.ipynb)."
    )
    return _opened(nb, text, seconds)


def _fold(cell: NotebookNode) -> None:
    """JupyterLab folds cells by the setting, a rendered site by the tag."""
    cell.metadata |= {"jupyter": {"source_hidden": True}, "tags": [*tags(cell), "hide-input"]}


def _blank(found: re.Match) -> str:
    indent, hint = found.groups()
    return f"{indent}# {hint or 'your code here'}\n{indent}raise NotImplementedError\n"


def _opened(nb: NotebookNode, text: str, seconds: float) -> NotebookNode:
    nb.cells[0].source += f"\n\n*{text}*"
    told = f"{5 * math.ceil(max(seconds, 1) / 5)} seconds"
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("{{time}}", told)
        if "prose" in tags(cell):
            _fold(cell)
    return nb


# --- what made a notebook


def digest(*files: Path) -> str:
    h = hashlib.blake2b(digest_size=8)
    for file in files:
        data = file.read_bytes()
        h.update(
            data if b"\0" in data else data.replace(b"\r\n", b"\n")
        )  # as any checkout has it
    return h.hexdigest()


def made_from(source: Path) -> dict:
    """Hashes of the source and of the assets that its header names, by default the bundled CLIP."""
    assets = {}
    for name in read(source).metadata.copra_lab.get("assets", ["clip"]):
        files = sorted(
            f
            for f in (ASSETS / name).rglob("*")
            if f.suffix in (".safetensors", ".gz", ".json")
        )
        if not files:
            raise BuildError(
                f"{source.name}: copra_lab/assets/{name}, named in its header, holds nothing"
            )
        assets[name] = digest(*files)
    return {"source": digest(source), "assets": assets}


# --- building


def execute(nb: NotebookNode, folder: Path, label: str) -> float:
    """Run all cells in a fresh kernel and put the outputs into `nb`; returns the seconds it took.

    Raises BuildError, which names the cell.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    bar = tqdm(
        total=sum(c.cell_type == "code" for c in nb.cells),
        desc=label,
        unit=" cells",
        leave=False,
    )
    client = NotebookClient(
        nb,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=40"],
        on_cell_executed=lambda **_: bar.update(),
    )
    start = time.perf_counter()
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
        last = re.sub(r"\x1b\[[0-9;]*m", "", str(e)).strip().splitlines()[-1]
        raise BuildError(f"{label}: code cell {bar.n} failed: {last}") from e
    finally:
        bar.close()
    return time.perf_counter() - start


def tidy(nb: NotebookNode) -> None:
    """Keep what a page can show: a widget's still image, no live widgets, no progress bars."""
    for cell in nb.cells:
        for out in cell.get("outputs", []):
            live = out.get("data", {}).pop(WIDGET, None)
            out.drop = out.get("name") == "stderr" or (
                live is not None and set(out.data) <= {"text/plain"}
            )
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not o.pop("drop")]
    nb.metadata.pop("widgets", None)


def build(source: Path) -> float:
    """Make both notebooks of `source` and return the seconds it ran, or raise BuildError.

    On an error neither notebook is written.
    """
    nb, made = solved(source), made_from(source)
    seconds = round(execute(nb, source.parent, source.stem), 1)  # what the notebook keeps
    tidy(nb)
    for cell, timed in zip(nb.cells, solved(source, seconds).cells, strict=True):
        cell.source = timed.source
    nb.metadata.copra_lab |= {
        "made_from": made,
        "seconds": seconds,
        "packages": {p: version(p) for p in PACKAGES},
    }
    if picture := first_picture(nb):
        replace(source.parent / picture_of(source), picture)
    write(nb, source.with_suffix(".ipynb"))
    write(
        sheet(source, nb.metadata.copra_lab.seconds),
        source.parent / "exercises" / f"{source.stem}.ipynb",
    )
    return seconds


def picture_of(source: Path) -> str:
    """Where the index finds a lesson's first image, which shows its end result."""
    return f"pictures/{source.stem}.png"


def first_picture(nb: NotebookNode, width: int = 320) -> bytes:
    """The first image among the outputs, small; nothing if there is none."""
    from PIL import Image

    for out in (o for c in nb.cells if c.cell_type == "code" for o in c.outputs):
        if png := out.get("data", {}).get("image/png"):
            image, file = (
                Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"),
                io.BytesIO(),
            )
            image.resize(
                (width, round(width * image.height / image.width)), Image.Resampling.LANCZOS
            ).save(file, "PNG", optimize=True)
            return file.getvalue()
    return b""


def text(nb: NotebookNode) -> str:
    nbformat.validate(nb)
    return nbformat.writes(nb) + "\n"


def write(nb: NotebookNode, path: Path) -> None:
    replace(path, text(nb).encode())


def replace(path: Path, content: bytes) -> None:
    """Write all of it or nothing."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


# --- checking, without running anything


def problems(source: Path) -> list[str]:
    """What is wrong with the notebooks of `source`, one line each; empty if they are up to date."""
    name, path, blank = (
        source.stem,
        source.with_suffix(".ipynb"),
        source.parent / "exercises" / f"{source.stem}.ipynb",
    )
    try:
        made, nb = made_from(source), nbformat.read(path, 4)
    except BuildError as e:
        return [str(e)]
    except FileNotFoundError:
        return [f"{name}: {path.name} is missing"]
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, KeyError):
        return [f"{name}: {path.name} is damaged"]
    found, about = [], nb.metadata.get("copra_lab", {})
    was = about.get("made_from", {"source": None, "assets": {}})
    seconds = about.get("seconds", 0)
    if was["source"] != made["source"]:
        found.append(f"{name}: the source has changed since {path.name} was made")
    elif _cells(nb) != _cells(solved(source, seconds)):
        found.append(f"{name}: {path.name} was edited by hand; edit {source.name} instead")
    for asset in made["assets"]:
        if was["assets"].get(asset) != made["assets"][asset]:
            found.append(f"{name}: the outputs are stale, assets/{asset} has changed since")
    code = [c for c in nb.cells if c.cell_type == "code"]
    if any(o.output_type == "error" for c in code for o in c.outputs):
        found.append(f"{name}: {path.name} has an error among its outputs")
    if any(c.execution_count is None for c in code):
        found.append(f"{name}: {path.name} has cells that never ran")
    if not blank.is_file() or blank.read_text(encoding="utf-8") != text(sheet(source, seconds)):
        found.append(f"{name}: exercises/{blank.name} is not what the source makes")
    return found


def _cells(nb: NotebookNode) -> list:
    return [
        (c.id, c.cell_type, c.source, json.dumps(c.metadata, sort_keys=True)) for c in nb.cells
    ]


def strays(folder: Path) -> list[str]:
    notebooks = [*folder.glob("*.ipynb"), *folder.glob("exercises/*.ipynb")]
    return [
        f"{n.relative_to(folder).as_posix()} has no source"
        for n in sorted(notebooks)
        if not (folder / f"{n.stem}.py").is_file()
    ]


def index(folder: Path) -> str:
    """The README with its table of lessons made again."""
    rows = ["| | Lesson | asks | runs in | exercises |", "|---|---|---|---|---|"]
    for source in sources(folder):
        name, nb = source.stem, read(source)
        about = nbformat.read(source.with_suffix(".ipynb"), 4).metadata.get("copra_lab", {})
        title = nb.cells[0].source.splitlines()[0].lstrip("# ")
        count = sum("exercise" in tags(c) for c in nb.cells)
        question, seconds = nb.metadata.copra_lab.get("question", ""), about.get("seconds", 0)
        picture = f"![]({picture_of(source)})" if (folder / picture_of(source)).exists() else ""
        rows.append(
            f"| {picture} | [{title}]({name}.ipynb) | {question} | {seconds:.0f} s | "
            f"[{count}](exercises/{name}.ipynb) |"
        )
    readme = (folder / "README.md").read_text(encoding="utf-8")
    return TABLE.sub(lambda m: m[1] + "\n".join(rows) + "\n" + m[2], readme)


def sources(folder: Path = LESSONS, only: str = "") -> list[Path]:
    return sorted(folder.glob(f"{only or '[0-9][0-9]'}_*.py"))


def check(folder: Path, only: str = "") -> list[str]:
    found = [p for source in sources(folder, only) for p in problems(source)] + strays(folder)
    if (
        not found
        and (folder / "README.md").is_file()
        and index(folder) != (folder / "README.md").read_text(encoding="utf-8")
    ):
        found.append("README.md: its table of lessons is not what the lessons say")
    return found


def main(argv: "list[str] | None" = None, folder: Path = LESSONS) -> int:
    parser = argparse.ArgumentParser(
        description="Make the lessons' notebooks from their sources."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="run nothing; list what is out of date, and fail if anything is",
    )
    parser.add_argument("--stale", action="store_true", help="make only what is out of date")
    parser.add_argument("--only", metavar="NN", default="", help="only this lesson, such as 01")
    args = parser.parse_args(argv)
    if args.only and not sources(folder, args.only):
        parser.error(
            f"no lesson {args.only}; there are {', '.join(s.stem[:2] for s in sources(folder))}"
        )
    if args.check:
        found = check(folder, args.only)
        print(
            "\n".join(
                [*found, "make them again with: python lessons/build.py --stale"]
                if found
                else ["the notebooks are up to date"]
            )
        )
        return int(bool(found))
    chosen, failed = (
        [s for s in sources(folder, args.only) if not args.stale or problems(s)],
        False,
    )
    for source in tqdm(chosen, desc="lessons", unit=" lessons", disable=len(chosen) < 2):
        try:
            tqdm.write(f"{source.stem}: ran in {build(source):.0f} s")
        except BuildError as e:
            failed = True
            tqdm.write(f"{e}; its notebooks are left as they were", file=sys.stderr)
    if (folder / "README.md").is_file() and all(
        s.with_suffix(".ipynb").is_file() for s in sources(folder)
    ):
        replace(folder / "README.md", index(folder).encode())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
