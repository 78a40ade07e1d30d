"""The report's section on soft prompts, from ``nemesis*.csv`` and ``lownorm.csv``."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from cells import NAMES, Cells, Save, against, gather, mean, table
from common import RESULTS, read
from matplotlib.figure import Figure

from copra_lab.bench import Corruption, occurrences

COLOURS = {"coop": "#D55E00", "pun": "#0072B2", "pan": "#009E73", "pun+pan": "#CC79A7"}
PAPER = {
    "coop": (59.2, 62.2, 66.3, 69.8, 73.2),
    "pun": (59.8, 64.0, 67.9, 71.1, 74.0),
    "pan": (59.8, 63.1, 67.4, 71.6, 74.6),
}
"""Means over eleven data sets at 1 to 16 shots, read off the paper's figure (ResNet-50)."""


def few_shot(save: Save) -> str:
    cells, shots = gather(read("nemesis.csv")), ["1", "2", "4", "8", "16"]
    fig = Figure(figsize=(6.5, 4), layout="constrained")
    ax = fig.subplots()
    for m, colour in COLOURS.items():
        if (m, "1") in cells:
            ax.plot(
                shots, [100 * mean(cells[m, s]) for s in shots], "o-", color=colour, label=NAMES[m]
            )
    zero = 100 * mean(cells["zero-shot", "0"])
    ax.axhline(zero, color="black", ls=":", lw=1, label="plain words")
    ax.set(xlabel="shots", ylabel="accuracy on test images, %\n(mean over tasks and seeds)")
    ax.legend(frameon=False)
    ax.grid(alpha=0.25)
    paper = "; ".join(f"{NAMES[m]} {' '.join(map(str, v))}" for m, v in PAPER.items())
    tasks, titles = len(cells["coop", "1"]), [f"{s} shot{'s' * (s != '1')}" for s in shots]
    return (
        f"## Soft prompts and Nemesis\n\n{tasks} tasks, three seeds (a seed also chooses the "
        "shots), four learned vectors before the class name, initialised as `a drawing of a`. A "
        "task with fewer drawings of a class than shots uses what it has. Plain words: "
        f"{zero:.1f}.\n\n{table(cells, shots, titles, against('coop'))}\n\n"
        f"The paper's means over eleven data sets: {paper}.\n\n{save('nemesis', fig)}\n\n"
        + by_task(cells)
    )


def by_task(cells: Cells) -> str:
    """Each task at sixteen shots; ``style-shift`` trains and tests on different drawing styles."""
    methods = [m for m in COLOURS if (m, "16") in cells]
    lines = [
        "| sixteen shots, % | plain words | " + " | ".join(NAMES[m] for m in methods) + " |",
        "|---" * (len(methods) + 2) + "|",
    ]
    lines += [
        f"| {t} | {100 * np.mean(zero):.1f} | "
        + " | ".join(
            f"{v.mean():.1f} ± {v.std(ddof=1):.1f}"
            for v in (100 * np.array(cells[m, "16"][t]) for m in methods)
        )
        + " |"
        for t, zero in cells["zero-shot", "0"].items()
    ]
    return "\n".join(lines)


def noise() -> str:
    cells, words = gather(read("nemesis_noise.csv")), gather(read("nemesis.csv"))
    both = {
        (m, kind): own[m, "16"]
        for m in COLOURS
        for kind, own in (("noise", cells), ("words", words))
        if (m, "16") in own
    }
    return (
        "### Sixteen vectors initialised as noise\n\nAs in the papers (sixteen shots), at the "
        "rate of 0.01, which is also the best for CoOp there on the development tasks; penalties "
        "as chosen for words. For comparison, four vectors initialised as words.\n\n"
        + table(both, ["words", "noise"], ["four, words", "sixteen, noise"], against("coop"))
    )


def new_classes() -> str:
    return (
        "### New classes\n\nTrained on the first half of the classes, sixteen shots.\n\n"
        + table(
            gather(read("nemesis_new.csv")),
            ["base", "new", "harmonic"],
            ["base", "new", "harmonic mean"],
            against("coop"),
        )
    )


def epochs(save: Save) -> str:
    rows = read("nemesis_epochs.csv")
    fig = Figure(figsize=(10, 3.8), layout="constrained")
    for ax, column, words in zip(
        fig.subplots(1, 2),
        ("accuracy", "norm"),
        ("accuracy on test images, %", "mean norm of the vectors"),
        strict=True,
    ):
        for m, colour in COLOURS.items():
            by: dict[int, list[float]] = defaultdict(list)
            for r in rows:
                if r["method"] == m:
                    by[int(r["setting"])].append(
                        float(r[column]) * (100 if column == "accuracy" else 1)
                    )
            if by:
                ax.plot(
                    sorted(by), [np.mean(by[s]) for s in sorted(by)], color=colour, label=NAMES[m]
                )
        ax.set(xlabel="step", ylabel=words)
        ax.grid(alpha=0.25)
    fig.axes[0].legend(frameon=False)
    about = "### During training\n\nSixteen shots, means over tasks and seeds."
    return f"{about}\n\n{save('nemesis_epochs', fig)}"


def low_norm() -> str:
    """Counts as in the paper, and how many are beyond chance."""
    found: dict[tuple[str, str, str, str], list[Corruption]] = defaultdict(list)
    for r in read("lownorm.csv"):
        shots = f"{r['shots']} shots" + ("" if r["begins"] == "words" else ", noise")
        numbers = (float(r[c]) for c in ("factor", "norm", "delta", "p"))
        corruption = Corruption(r["kind"], int(r["position"]), *numbers)
        found[r["split"], r["task"], shots, r["seed"]].append(corruption)
    counts = {key: occurrences(c) for key, c in found.items()}
    shots = list(dict.fromkeys(k[2] for k in counts))
    tasks = list(dict.fromkeys(k[1] for k in counts))
    words = [s for s in shots if "noise" not in s]
    of = {s: next(c.of for k, c in counts.items() if k[2] == s) for s in shots}
    lines = [
        "| task | " + " | ".join(shots) + " | beyond chance | positions |",
        "|---" * (len(shots) + 3) + "|",
    ]

    def average(what: str, **key: str) -> float:
        every = [
            (s, getattr(c, what))
            for (split, task, s, _), c in counts.items()
            if split == "test" and key.items() <= {"task": task, "shots": s}.items()
        ]
        return float(np.mean([x for s, x in every if "shots" in key or s in words]))

    for t in tasks:
        cells = [f"{average('rose', task=t, shots=s):.0f}" for s in shots]
        lines.append(
            f"| {t} | "
            + " | ".join(cells)
            + f" | {average('surely', task=t):.1f} | {average('positions', task=t):.1f} |"
        )
    total = [f"{average('rose', shots=s):.0f}" for s in shots]
    lines.append(
        "| mean | "
        + " | ".join(total)
        + f" | {average('surely'):.1f} | {average('positions'):.1f} |"
    )
    tested = [
        c for (split, _, s, _), own in found.items() if split == "test" and s in words for c in own
    ]
    shorter = [c for c in tested if c.lowers]
    longer = [c for c in tested if c.kind == "rescale" and c.factor > 1]
    moved = {
        w: 100 * float(np.mean([c.delta for c in own]))
        for w, own in (("shorter", shorter), ("longer", longer))
    }
    fell = 100 * float(np.mean([c.delta < 0 and c.p < 0.05 for c in shorter]))
    return (
        "### The Low-Norm Effect\n\nEach vector of CoOp's prompts is made shorter in turn, in "
        f"{of[words[0]]} ways in all ({of[shots[-1]]} for sixteen initialised as noise). The table "
        "counts how many of them raise accuracy on test images (means over seeds). For the four "
        "initialised as words it also counts how many do so beyond chance (p < 0.05, paired "
        f"bootstrap over drawings; chance alone gives one in forty, {of[words[0]] / 40:.1f}), "
        "and at how many positions a shorter vector raised accuracy and one twice as long "
        f"lowered it. A shorter vector changes accuracy by {moved['shorter']:+.2f} points on "
        f"average and lowers it beyond chance in {fell:.0f} % of cases; one twice as long changes "
        f"it by {moved['longer']:+.2f}.\n\n".replace("-0", "−0")
        + "\n".join(lines)
        + "\n\nThe paper counts 25 to 53 on Oxford Pets and 0 to 2 on Flowers (from its figure): "
        "counts vary as widely there."
    )


def visual() -> str:
    return (
        "### Tokens of the image tower\n\nFour learned tokens next to the patches (VPT), the same "
        "penalties, sixteen shots, four tasks.\n\n"
        + table(gather(read("nemesis_visual.csv")), ["16"], ["accuracy"], against("vpt"))
    )


def tuning() -> str:
    """The settings, with the best of each method and initialisation in bold."""
    keys = ("method", "begins", "lr", "steps", "beta", "weight", "tau", "samples")
    cells: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for r in read("nemesis_tuning.csv"):
        cells[tuple(r[k] for k in keys)].append(100 * float(r["accuracy"]))
    means = {key: float(np.mean(v)) for key, v in cells.items()}
    best = {key[:2]: max(m for other, m in means.items() if other[:2] == key[:2]) for key in means}
    lines = [
        "| method | initialised as | rate | steps | β | A | τ | N | mean accuracy, % |",
        "|---" * 9 + "|",
    ]
    for key, m in means.items():
        figure = f"**{m:.1f}**" if m == best[key[:2]] else f"{m:.1f}"
        lines.append(f"| {' | '.join((NAMES[key[0]], *key[1:]))} | {figure} |")
    return (
        "### How the settings were chosen\n\nOn validation images of the development tasks, with 4 "
        "and 16 shots and two seeds: first six settings of each method, then four around the best "
        "of them.\n\n" + "\n".join(lines)
    )


def sections(save: Save) -> list[str]:
    parts: list[tuple[str, Callable[[], str]]] = [
        ("nemesis.csv", lambda: few_shot(save)),
        ("nemesis_noise.csv", noise),
        ("nemesis_new.csv", new_classes),
        ("nemesis_epochs.csv", lambda: epochs(save)),
        ("lownorm.csv", low_norm),
        ("nemesis_visual.csv", visual),
        ("nemesis_tuning.csv", tuning),
    ]
    return [part() for name, part in parts if (RESULTS / name).exists()]
