"""Fill the tables of README, of ``docs`` and of the model card: ``python recipes/tables.py``.

They come from the results, or from the code; each table is between two comments.
"""

import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "experiments"), str(ROOT / "benchmarks")]

from rows import RESULTS, table  # noqa: E402 (after the path)

from copra_lab.merging.registry import MERGES  # noqa: E402
from copra_lab.tasks import TASK_GROUPS, TASKS, task_names  # noqa: E402
from copra_lab.tasks.task import class_names  # noqa: E402
from copra_lab.utils.files import write_atomically  # noqa: E402


def tasks_table() -> str:
    with open(ROOT / "experiments" / "results" / "tasks.csv", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))

    def percent(x: str) -> str:
        return f"{100 * float(x):.1f}"

    lines = [
        "| task | group | classes | n | zero-shot (95 % interval) | linear probe | LoRA, 3 seeds "
        "(mean ± sd) | seconds to fit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        low, high = percent(r["zero_shot_low"]), percent(r["zero_shot_high"])
        zero = f"{percent(r['zero_shot'])} ({low} to {high})"
        lora = f"{percent(r['lora_mean'])} ± {percent(r['lora_sd'])}"
        lines.append(
            f"| {r['task']} | {TASKS[r['task']].group} | {r['classes']} | {r['n']} | {zero} | {percent(r['probe'])} | "
            f"{lora} | {float(r['seconds']):.0f} |"
        )
    return "\n".join(lines)


def suite_table() -> str:
    lines = ["| task | group | classes | what it asks |", "|---|---|---|---|"]
    for group in TASK_GROUPS:
        for name in task_names(group):
            asked = TASKS[name].about
            lines.append(f"| {name} | {group} | {len(class_names(name))} | {asked} |")
    return "\n".join(lines)


def headline_table() -> str:
    import cells
    import report

    found = {k: v for k, v in report.headline().items() if k[0] in ("lora", "copra")}
    return cells.table(found, report.measured(found, HEADLINE))


HEADLINE = (
    "alone",
    "middle, factors",
    "middle, aligned factors",
    "middle, ΔW",
    "every other layer removed",
    "80 % sparse",
    "90 %",
)


def card_table() -> str:
    card = json.loads(
        (ROOT / "copra_lab" / "assets" / "clip" / "card.json").read_text(encoding="utf-8")
    )
    lines = ["| measure | accuracy | 95 % interval | n |", "|---|---|---|---|"]
    lines += [
        f"| {r['what']} | {100 * r['value']:.1f} | "
        f"{100 * r['low']:.1f} to {100 * r['high']:.1f} | {r['n']:,} |"
        for r in card["rows"]
    ]
    lines += [
        "",
        "| two cores with | precision | 400 images | predictions equal to float32's |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {s['processor']} | {s['precision']} | {s['ms for 400 images']:.0f} ms | "
        f"{100 * s['agreement with float32']:.1f} % |"
        for s in card["speed"]
    ]
    return "\n".join(lines)


SPEED = (
    "exact Shapley values, 12 layers, 16 images, against shapiq's ExactComputer on full forwards",
    "256 random coalitions, 100 images, against full forwards",
    "path of 21 points, 400 images, against peft's add_weighted_adapter on transformers",
    "accuracy of an adapter, 400 images, against open_clip with merged weights",
    "a training step of 8 images, LoRA, against peft and transformers",
    "a training step of 8 images, CopRA, against plain LoRA, fresh views",
    "ViT-B-32: accuracy of an adapter, 400 images, against peft",
    "ViT-B-32: a training step of 8 images, LoRA, against peft",
    "ViT-B-32: a training step of 8 images, CopRA, against LoRA by peft",
    "ViT-B-32: memory at most, accuracy of an adapter, 400 images, against peft",
    "ViT-B-32: memory at most, LoRA steps of 8 images, against peft",
)
"""Rows of the benchmarks' table that ``docs/results.md`` shows."""


def speed_table() -> str:
    """Raises ValueError for a row that was not measured."""
    measured = {
        r["what"]: r
        for r in (
            json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else ()
        )
    }
    if absent := [what for what in SPEED if what not in measured]:
        raise ValueError(
            f"benchmarks/{RESULTS.name} has no row {absent[0]!r}: run benchmarks/run.py, or change "
            "SPEED in recipes/tables.py"
        )
    return table([measured[what] for what in SPEED])


NEEDS = {"grams": "Grams of inputs", "squared_gradients": "squared gradients"}


def merges_table() -> str:
    lines = [
        "| `--how` | what it does | source | parameters | rank | one adapter stays, if | T copies | "
        "one more without size | depends on |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    copies = {"itself": "like one", "sum": "T times one", "other": "neither"}
    zeros = {"neutral": "changes nothing", "shrinks": "× T/(T + 1)", "other": "changes it"}
    for name, m in MERGES.items():
        function = m.function.partition(":")[2]
        source = f"[{m.paper}](https://arxiv.org/abs/{m.paper})" if m.paper else ""
        if m.alone is None:
            alone = "never"
        else:
            alone = ", ".join(f"{p} {v:g}" for p, v in m.alone.items()) or "always"
        depends = [
            *(["order"] if not m.order_free else []),
            *(["gauge"] if not m.gauge_free else []),
            *([NEEDS[m.needs]] if m.needs else []),
        ]
        parameters = ", ".join(
            p if v.default is None else f"{p} {json.dumps(v.default)}"
            for p, v in m.parameters.items()
        )
        lines.append(
            f"| [`{name}`](#copra_lab.merging.{function}) | {m.about} | {source} | {parameters} | "
            f"{'full' if m.dense else 'sum'} | {'at an end' if m.pair else alone} | "
            f"{copies[m.copies]} | {zeros[m.zeros]} | {', '.join(depends)} |"
        )
    return "\n".join(lines)


TABLES = {
    "suite": suite_table,
    "tasks": tasks_table,
    "headline": headline_table,
    "speed": speed_table,
    "card": card_table,
    "merges": merges_table,
}


def filled(text: str) -> str:
    """`text` with every ``<!-- table:name -->…<!-- end -->`` filled again."""
    return re.sub(
        r"<!-- table:(\w+) -->.*?<!-- end -->",
        lambda m: f"<!-- table:{m[1]} -->\n{TABLES[m[1]]()}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "tasks.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "methods" / "merging.md",
)
CARD = ROOT / "copra_lab" / "assets" / "clip" / "README.md"


def main() -> None:
    for file in (*PAGES, CARD):
        if file.exists():
            try:
                write_atomically(file, filled(file.read_text(encoding="utf-8")).encode())
            except ValueError as e:
                sys.exit(f"{file.relative_to(ROOT)}: {e}")


if __name__ == "__main__":
    main()
