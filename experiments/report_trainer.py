"""The report's section on transformers' Trainer: a table from ``trainer.csv``."""

from collections import defaultdict

import numpy as np
from cells import NAMES
from common import read

COLUMNS = {
    "alone": ("alone",),
    "middle, ΔW": ("middle, ΔW",),
    "middle, factors": ("middle, factors",),
    "every other layer removed": ("layers even", "layers odd"),
    "best half of the layers by sampled Shapley value": ("best half",),
}


def section() -> str:
    rows = [r for r in read("trainer.csv") if r["split"] == "test"]
    lines = [
        "| task | method | rate | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for task, n in dict.fromkeys((r["task"], r["n"]) for r in rows):
        own = [r for r in rows if r["task"] == task]
        for method in dict.fromkeys(r["method"] for r in own):
            cells, lr = defaultdict(list), ""
            for r in own:
                if r["method"] == method:
                    cells[r["setting"]].append(100 * float(r["accuracy"]))
                    lr = r["lr"]
            values = [
                [x for setting in settings for x in cells[setting]] for settings in COLUMNS.values()
            ]
            words = [
                f"{np.mean(v):.1f}" + (f" ± {np.std(v, ddof=1):.1f}" if len(v) > 1 else "")
                if v
                else ""
                for v in values
            ]
            lines.append(
                f"| {task} (n = {n}) | {NAMES.get(method, method)} | {float(lr):g} | "
                if lr
                else f"| {task} (n = {n}) | {method} | | "
            )
            lines[-1] += " | ".join(words) + " |"
    tried = sorted({float(r["lr"]) for r in read("trainer.csv") if r["split"] == "val"})
    return (
        "## In transformers' Trainer\n\nClassifiers with heads, with peft's LoRA on q, k and v, "
        "trained by the Trainer, CopRA through `CopRACallback`. Layers are removed, averaged and "
        "valued by the tools for any peft adapter. `emoji-groups` trains MiniLM on sixteen names "
        "per group; `digits` trains the bundled CLIP's image tower. Mean ± standard deviation over "
        "three seeds or pairs of seeds; heads start from the same weights and are averaged too. "
        f"Each method's rate is the best of {', '.join(f'{x:g}' for x in tried)} for one seed on "
        "validation data.\n\n" + "\n".join(lines)
    )
