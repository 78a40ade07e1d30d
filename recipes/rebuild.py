"""Remake everything that ships and is not up to date with the bundled CLIP, in order: ``python
recipes/rebuild.py``.

``--check`` only says what is stale. Each artefact remembers the hash of the CLIP it was made from.
The CLIP itself is made by ``pretrain.py`` (hours) and adopted by ``export_clip.py``; nothing here
replaces it.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes"), str(ROOT / "experiments")]

import adapters  # noqa: E402 (after the path)
import prompts  # noqa: E402
from adapters import folder_name  # noqa: E402
from common import RESULTS, WRITTEN  # noqa: E402

from copra_lab.models import Clip, load_clip  # noqa: E402
from copra_lab.tasks import task_names  # noqa: E402
from copra_lab.zoo import FOLDER, PROMPTS, Shipped, shipped, shipped_prompts  # noqa: E402

EXPERIMENTS = tuple(
    (name, script) for script, names in WRITTEN.items() for name in names if script != "minilm.py"
)
"""(file of results, the script that writes it), Flower's last; what `minilm.py` writes hangs on no
CLIP.
"""

FEDERATED = "experiments/federated/run.py"


def card_is_stale(clip: Clip) -> str | None:
    file = ROOT / "copra_lab" / "assets" / "clip" / "card.json"
    if not file.exists():
        return "the model card is missing"
    base = json.loads(file.read_text(encoding="utf-8"))["base"]
    return (
        None
        if base == clip.hash
        else f"the model card measures base {base}, the bundled CLIP is {clip.hash}"
    )


def adapters_are_stale(clip: Clip) -> str | None:
    due = [FOLDER / run.task / folder_name(run) for run in adapters.kept()]
    return folders_are_stale(clip, due, shipped())


def prompts_are_stale(clip: Clip) -> str | None:
    due = [PROMPTS / run.task / folder_name(run) for run in prompts.kept()]
    return folders_are_stale(clip, due, shipped_prompts())


def folders_are_stale(clip: Clip, due: Sequence[Path], found: tuple[Shipped, ...]) -> str | None:
    there = {s.folder for s in found}
    if absent := [folder for folder in due if folder not in there]:
        return f"{absent[0].relative_to(ROOT)} is missing"
    for s in found:
        try:
            base = s.read(s.folder).base
        except ValueError as e:  # AdapterError and PromptError are
            return str(e)
        if base != clip.hash:
            return f"{s.folder.relative_to(ROOT)} was made from base {base}, the bundled CLIP is {clip.hash}"
    return None


def table_is_stale(clip: Clip) -> str | None:
    with open(adapters.TABLE, encoding="utf-8") as f:
        there = {r["task"] for r in csv.DictReader(f)}
    if absent := set(task_names()) - there - set(adapters.PENDING):
        return f"tasks.csv has no row of {', '.join(sorted(absent))}"
    return results_are_stale(clip, "tasks.csv")


def results_are_stale(clip: Clip, name: str) -> str | None:
    if not (RESULTS / name).exists():
        return f"{name} is missing"
    with open(RESULTS / name, encoding="utf-8") as f:
        bases = {
            r["base"].rpartition(", ")[2] for r in csv.DictReader(f)
        }  # `trainer.csv` names MiniLM before it
    return (
        None
        if bases == {clip.hash}
        else f"{name} measures base {', '.join(sorted(bases))}, the bundled CLIP is {clip.hash}"
    )


def report_is_stale(clip: Clip) -> str | None:
    import report

    return (
        None
        if report.text() == report.PAGE.read_text(encoding="utf-8")
        else "experiments/README.md differs from the results"
    )


def tables_are_stale(clip: Clip) -> str | None:
    from tables import PAGES, filled

    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    try:
        stale = [page.name for page, text in texts.items() if filled(text) != text]
    except ValueError as e:
        return str(e)
    return f"the tables of {', '.join(stale)} differ from the results" if stale else None


def lessons_are_stale(clip: Clip) -> str | None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "lessons" / "build.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if run.returncode == 0 else (run.stdout + run.stderr).strip().split("\n")[-1]


STEPS: tuple[tuple[str, Callable[[Clip], str | None], str], ...] = (
    ("model card", card_is_stale, "recipes/card.py"),
    ("adapters", adapters_are_stale, "recipes/adapters.py"),
    ("soft prompts", prompts_are_stale, "recipes/prompts.py"),
    ("table of tasks", table_is_stale, "recipes/adapters.py"),
    *(
        (name, partial(results_are_stale, name=name), f"experiments/{script}")
        for name, script in EXPERIMENTS
    ),
    ("the report of the experiments", report_is_stale, "experiments/report.py"),
    ("tables", tables_are_stale, "recipes/tables.py"),
    ("lessons", lessons_are_stale, "lessons/build.py"),
)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument(
        "--check",
        action="store_true",
        help="say what is stale and change nothing; exit code 1 if anything is",
    )
    p.add_argument(
        "card",
        nargs="*",
        metavar="-- OPTION",
        help="what card.py is given, for the rows on photographs",
    )
    a = p.parse_args()
    clip, stale, left = load_clip(), False, False
    for name, why_stale, script in STEPS:
        why = why_stale(clip)
        print(f"{name}: {why or 'up to date'}", flush=True)
        stale = stale or why is not None
        if why and not a.check:
            if script == FEDERATED and not find_spec("flwr"):
                why = f"Flower has an environment of its own: run {script} in it (see the README beside it), and then this again"
                print(f"{name}: {why}", file=sys.stderr)
                left = True
                continue
            extra = a.card if script.endswith("card.py") else []
            if subprocess.run([sys.executable, str(ROOT / script), *extra], check=False).returncode:
                print(f"{name}: {script} failed", file=sys.stderr)
                return 1
            if still := why_stale(clip):
                print(f"{name}: {script} did not mend it: {still}", file=sys.stderr)
                return 1
    return 1 if left or (a.check and stale) else 0


if __name__ == "__main__":
    sys.exit(main())
