"""Tables and figures from the tidy files under ``results/``.

``python experiments/report.py`` writes ``experiments/README.md`` and ``results/*.png``. It trains
nothing; results that are missing are left out.
"""

import io
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import report_nemesis
import report_trainer
from cells import NAMES, Cells, Save, gather, mean, table
from common import ALL_TASKS, LOST, RESULTS, WRITTEN, read
from matplotlib.figure import Figure

from copra_lab.shapley import Curve
from copra_lab.utils.files import write_atomically

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
COLOURS = {
    "lora": "#D55E00",
    "copra": "#0072B2",
    "dropout": "#E69F00",
    "progressive-dropout": "#CC79A7",
    "stochastic-depth": "#009E73",
}


def by_task(
    cells: Cells, columns: Sequence[str], methods: Sequence[str] = ("lora", "copra")
) -> str:
    """One row per task and method: mean ± standard deviation over seeds."""
    lines = [
        "| " + " | ".join(("task", "method", *columns)) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    tasks = list(next(iter(cells.values())))
    for t in tasks:
        for m in methods:
            values = [np.array(cells[m, c][t]) * 100 for c in columns]
            shown = [f"{v.mean():.1f} ± {v.std(ddof=1) if len(v) > 1 else 0:.1f}" for v in values]
            lines.append(f"| {t} | {NAMES[m]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def headline() -> Cells:
    """The cells of the main table: alone, middles of the lines, pruned."""
    ends = {"0.0": "alone"}
    middles = {
        "delta": "middle, ΔW",
        "factors": "middle, factors",
        "aligned": "middle, aligned factors",
    }
    cells = gather(
        read("lines.csv"), lambda r: ends.get(r["setting"]) if r["space"] == "delta" else None
    )
    cells |= gather(
        read("lines.csv"), lambda r: middles.get(r["space"]) if r["setting"] == "0.5" else None
    )
    cells |= gather(
        read("structured.csv"),
        lambda r: (
            "every other layer removed" if r["setting"] in ("layers even", "layers odd") else None
        ),
    )
    sparse = {"0.5": "50 % sparse", "0.8": "80 % sparse", "0.9": "90 %", "0.95": "95 %"}
    cells |= gather(
        read("unstructured.csv"),
        lambda r: sparse.get(r["setting"]) if r["entries"] == "factors" else None,
    )
    return cells


HEADLINE = (
    "alone",
    "middle, ΔW",
    "middle, factors",
    "middle, aligned factors",
    "every other layer removed",
    "50 % sparse",
    "80 % sparse",
    "90 %",
    "95 %",
)
STRUCTURED = (
    "all",
    "layers even",
    "layers odd",
    "layers low",
    "layers middle",
    "layers high",
    "only q",
    "only k",
    "only v",
    "none",
)

SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95)

PAPER = """For comparison, the papers' values (ViT-B/16, rank 2, 16 shots; DTD / UCF101, from the
figures of arXiv:2410.22911 and arXiv:2506.05713): alone LoRA 71.6 / 86.2, CopRA 72.7 / 87.2; the
middle of two seeds LoRA 65.6 / 81.5, CopRA 72.0 / 86.7; every other layer removed LoRA 63.3 / 79.3,
CopRA 71.1 / 85.4, stochastic depth 70.1 / 84.1. The papers do not name the space of their middle.
By all evidence it is that of the factors, an inference from [three
signs](../docs/methods/merging.md)."""

PAPER_STRUCTURED = """The papers' means over eleven data sets, CopRA / LoRA: all 83.4 / 82.9; every
other 81.3 / 76.9; keep only low 75.8 / 72.0, middle 76.8 / 70.9, high 78.4 / 73.1; keep only query
77.0 / 69.9, key 76.5 / 69.3, value 80.9 / 77.3."""


def measured(cells: Cells, columns: Sequence[str]) -> list[str]:
    """Those of the columns that the results have: a result file may be older than a column."""
    return [c for c in columns if ("lora", c) in cells]


LOST_IN = {
    ("lines.csv", "delta", "0.5"): "middle, ΔW",
    ("lines.csv", "factors", "0.5"): "middle, factors",
    ("lines.csv", "aligned", "0.5"): "middle, aligned factors",
    ("lines.csv", "control", "half of the middle"): "half of the middle",
    ("lines.csv", "control", "half of one"): "half of one",
    ("lines.csv", "control", "tuned middle"): "c · middle",
    ("structured.csv", "", "every other layer removed"): "every other layer removed",
    ("unstructured.csv", "factors", "0.8"): "80 % sparse",
}
"""(file, space or entries, setting) → the column that it is in the table of what is lost."""


def controls_section() -> str:
    """The middles beside what merely makes ΔW smaller, and the share of the gain that each loses.

    Empty for results without them.
    """
    control = gather(read("lines.csv"), lambda r: r["setting"] if r["space"] == "control" else None)
    if not control:
        return ""
    shares: dict[tuple[str, str], str] = {}
    for name in dict.fromkeys(file for file, *_ in LOST_IN):
        for r in read(name):
            column = LOST_IN.get((name, r.get("space") or r.get("entries") or "", r["setting"]))
            if r["task"] == ALL_TASKS and column and r["lost"]:
                lost, low, high = (round(100 * float(r[x])) for x in LOST)
                cell = f"{lost} ({low} to {high})".replace("-", "−")
                shares[r["method"], column] = cell
    columns = list(LOST_IN.values())
    lines = [
        "| % of the gain | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    lines += [
        f"| {NAMES[m]} | " + " | ".join(shares.get((m, c), "") for c in columns) + " |"
        for m in NAMES
        if any((m, c) in shares for c in columns)
    ]
    return (
        "## What a middle loses\n\nControls of the middles: half of ΔW of one adapter, half of the "
        "middle of ΔW, and that middle times a number chosen on validation images.\n\n"
        f"{table(control, list(dict.fromkeys(c for _, c in control)))}\n\n"
        "The share of what adapters gain over the base that is lost again, over all tasks (95 % "
        "interval over drawings and seeds).\n\n" + "\n".join(lines)
    )


LINES = {"delta": ("-", "ΔW"), "factors": ("--", "factors"), "aligned": (":", "aligned factors")}
"""Space → its line in a figure, and its name."""


def lines_figure() -> Figure:
    rows = [
        r
        for r in read("lines.csv")
        if r["method"] in ("lora", "copra") and r["space"] in LINES and r["task"] != ALL_TASKS
    ]
    spaces = [s for s in LINES if any(r["space"] == s for r in rows)]
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    across = 4
    fig = Figure(figsize=(3 * across, 2.5 * -(-len(tasks) // across)), layout="constrained")
    axes = list(fig.subplots(-(-len(tasks) // across), across, squeeze=False).flat)
    for ax, t in zip(axes, tasks, strict=False):
        for method in ("lora", "copra"):
            for space in spaces:
                style, words = LINES[space]
                values = defaultdict(list)
                for r in rows:
                    if (r["task"], r["method"], r["space"]) == (t, method, space):
                        values[float(r["setting"])].append(100 * float(r["accuracy"]))
                x = sorted(values)
                y, sd = (np.array([f(values[w]) for w in x]) for f in (np.mean, np.std))
                ax.plot(
                    x,
                    y,
                    style,
                    color=COLOURS[method],
                    label=f"{NAMES[method]}, {words}",
                )
                ax.fill_between(x, y - sd, y + sd, color=COLOURS[method], alpha=0.12, lw=0)
        n = next(r["n"] for r in rows if r["task"] == t)
        ax.set_title(f"{t} (n = {n})", fontsize=10)
        ax.grid(alpha=0.25)
    for ax in axes[len(tasks) :]:
        ax.set_visible(False)
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    fig.supxlabel("λ from one seed to another", fontsize=10)
    fig.supylabel(
        "accuracy on test images, % (mean and standard deviation over pairs of seeds)", fontsize=10
    )
    return fig


def curves(cells: Cells, columns: Sequence[str], labels: Sequence[str], xlabel: str) -> Figure:
    """One line per method over `columns`, mean over tasks."""
    fig = Figure(figsize=(6.5, 4), layout="constrained")
    ax = fig.subplots()
    for m in NAMES:
        if (m, columns[0]) in cells:
            ax.plot(
                labels,
                [100 * mean(cells[m, c]) for c in columns],
                "o-",
                color=COLOURS[m],
                label=NAMES[m],
            )
    ax.set(xlabel=xlabel, ylabel="accuracy on test images, %\n(mean over tasks and seeds)")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return fig


def rates_section(save: Save) -> str:
    rows = read("rates.csv")
    rates = sorted({float(r["lr"]) for r in rows})
    fig = Figure(figsize=(11, 3.6), layout="constrained")
    for ax, setting in zip(
        fig.subplots(1, 3, sharey=True),
        ("alone", "middle of the deltas", "middle of the factors"),
        strict=True,
    ):
        for m in ("lora", "copra"):
            cells = gather((r for r in rows if r["setting"] == setting), _by_rate)
            ax.plot(
                rates,
                [100 * mean(cells[m, f"{x:g}"]) for x in rates],
                "o-",
                color=COLOURS[m],
                label=NAMES[m],
            )
        ax.set(xscale="log", xlabel="learning rate", title=setting)
        ax.set_xticks(rates, [f"{x:g}" for x in rates])
        ax.minorticks_off()
        ax.grid(alpha=0.25)
    fig.axes[0].set_ylabel("accuracy, % (mean over tasks)")
    fig.axes[0].legend(frameon=False)
    front = Figure(figsize=(11, 3.6), layout="constrained")
    names = {
        "middle of the factors": "middle of the factors",
        "layers": "every other layer removed",
        "80 % sparse": "80 % sparse",
    }
    for ax, (setting, words) in zip(front.subplots(1, 3), names.items(), strict=True):
        for m in ("lora", "copra"):
            both = (
                gather((r for r in rows if r["setting"].startswith(s)), _by_rate)
                for s in ("alone", setting)
            )
            x, y = ([100 * mean(cells[m, f"{lr:g}"]) for lr in rates] for cells in both)
            ax.plot(x, y, "o-", color=COLOURS[m], label=NAMES[m])
            for lr, at in zip(rates, zip(x, y, strict=True), strict=True):
                ax.annotate(
                    f"{lr:g}",
                    at,
                    xytext=(4, -9),
                    textcoords="offset points",
                    fontsize=7,
                    color=COLOURS[m],
                )
        ax.set(xlabel="accuracy alone, %", title=words)
        ax.grid(alpha=0.25)
    front.axes[0].set_ylabel("accuracy, % (mean over tasks)")
    front.axes[0].legend(frameon=False)
    points = read("rates_tsne.csv")
    tasks = list(dict.fromkeys(p["task"] for p in points))
    map_ = Figure(figsize=(3.8 * len(tasks), 3.8), layout="constrained")
    for ax, t in zip(map_.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for m, mark in (("lora", "o"), ("copra", "^")):
            own = [p for p in points if p["task"] == t and p["method"] == m]
            size = [12 + 14 * rates.index(float(p["lr"])) for p in own]
            ax.scatter(
                [float(p["x"]) for p in own],
                [float(p["y"]) for p in own],
                s=size,
                c=[f"C{p['seed']}" for p in own],
                marker=mark,
                alpha=0.7,
            )
        ax.set(title=t, xticks=[], yticks=[])
    map_.supxlabel("● LoRA, ▲ CopRA; colour: seed; size: learning rate", fontsize=10)
    return (
        "## Learning rates\n\nThree tasks (settings were chosen on `digits`; here are its test "
        "images), three seeds. The middle is halfway between two seeds.\n\n"
        f"{save('rates', fig)}\n\nWhat an adapter keeps, against its accuracy alone. Each point is "
        "a learning rate; where CopRA's line is above LoRA's, it keeps more at equal accuracy.\n\n"
        f"{save('rates_front', front)}\n\nA map of the adapters (t-SNE of A and B, cosine "
        "distance). Adapters group by seed far more than by method or rate.\n\n"
        + save("rates_tsne", map_)
    )


def _by_rate(row: dict[str, str]) -> str:
    return f"{float(row['lr']):g}"


def regimes_section() -> str:
    sizes = ", ".join(
        f"{t}, n = {n}" for t, n in dict.fromkeys((r["task"], r["n"]) for r in read("regimes.csv"))
    )
    cells = defaultdict(lambda: defaultdict(list))
    for r in read("regimes.csv"):
        shape, steps, batch = r["shape"], int(r["steps"]), int(r["batch"])
        key = (shape, r["schedule"], steps, batch, float(r["lr"]), r["method"])
        cells[key][r["setting"]].append(100 * float(r["accuracy"]))
    settings = list(next(iter(cells.values())))
    lines = [
        "| LoRA | schedule | steps × batch | rate | method | " + " | ".join(settings) + " |",
        "|---" * (len(settings) + 5) + "|",
    ]
    for key, cell in sorted(
        cells.items(), key=lambda c: (c[0][0] != "rank 4", c[0][1] != "cosine", c[0])
    ):
        shape, schedule, steps, batch, lr, m = key
        lines.append(
            f"| {shape} | {schedule} | {steps} × {batch} | {lr:g} | {NAMES[m]} | "
            + " | ".join(f"{np.mean(cell[s]):.1f}" for s in settings)
            + " |"
        )
    return (
        "## The map of regimes\n\nMeans over the development tasks, on validation images "
        f"({sizes}), with two seeds. The middles are halfway between these two seeds.\n\n"
        + "\n".join(lines)
    )


def federated_section(save: Save) -> str:
    """Accuracy by round, one panel for each task and way of splitting it among clients."""
    rows = read("federated.csv")
    settings = list(
        dict.fromkeys((r["task"], r["split"], r["clients"]) for r in rows if r["clients"] != "1")
    )
    fig = Figure(figsize=(3.4 * len(settings), 3.6), layout="constrained")
    styles = {"delta": "-", "factors": "--", "aligned": "-.", "ffa": ":"}
    words = {
        "delta": "ΔW averaged",
        "factors": "factors averaged",
        "aligned": "aligned factors averaged",
        "ffa": "A frozen (FFA-LoRA)",
    }
    for ax, (task, split, clients) in zip(
        fig.subplots(1, len(settings), squeeze=False)[0], settings, strict=True
    ):
        for (m, aggregation), own in _grouped(rows, task, split, clients).items():
            x = sorted(own)
            ax.plot(
                x,
                [100 * np.mean(own[r]) for r in x],
                styles[aggregation],
                color=COLOURS[m],
                label=f"{NAMES[m]}, {words[aggregation]}",
            )
        ax.set(title=f"{task}\n{clients} clients by {split}", xlabel="round")
        ax.grid(alpha=0.25)
    fig.axes[0].set_ylabel("accuracy, % (mean over seeds)")
    fig.legend(
        *fig.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    last = max(int(r["round"]) for r in rows)
    lines = [
        "| task | clients | split | method | averaged | after the last round |",
        "|---|---|---|---|---|---|",
    ]
    for task, split, clients in dict.fromkeys((r["task"], r["split"], r["clients"]) for r in rows):
        for (m, aggregation), own in _grouped(rows, task, split, clients).items():
            v = 100 * np.array(own[last])
            lines.append(
                f"| {task} | {clients} | {split} | {NAMES[m]} | {words[aggregation]} | "
                f"{v.mean():.1f} ± {v.std(ddof=1):.1f} |"
            )
    return (
        "## Federated averaging\n\nMean ± standard deviation over seeds.\n\n"
        + save("federated", fig)
        + "\n\n"
        + "\n".join(lines)
    )


def _grouped(
    rows: list[dict[str, str]], task: str, split: str, clients: str
) -> dict[tuple[str, str], dict[int, list[float]]]:
    out: dict = defaultdict(lambda: defaultdict(list))
    for r in rows:
        if (r["task"], r["split"], r["clients"]) == (task, split, clients):
            out[r["method"], r["setting"]][int(r["round"])].append(float(r["accuracy"]))
    return out


LEAST_GAIN = 0.1
"""Accuracy that a task's layers must add together for their shares to mean something."""


def shapley_section(save: Save) -> str:
    """The papers' Figure 2: how the value is spread over layers, and the curve g(p).

    g(p) is the accuracy with each layer on with probability p.
    """
    phi, sizes = _by_run(read("shapley.csv")), _by_run(read("sizes.csv"))
    tasks = list(dict.fromkeys(task for task, *_ in phi))
    moved = [
        t
        for t in tasks
        if all(
            np.mean([v.sum() for (u, m, _), v in phi.items() if (u, m) == (t, w)]) >= LEAST_GAIN
            for w in ("lora", "copra")
        )
    ]
    fig = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    top: Cells = defaultdict(lambda: defaultdict(list))
    p = np.linspace(0, 1, 101)
    for i, m in enumerate(("lora", "copra")):
        shares = np.array(
            [
                np.mean([v / v.sum() for (u, w, _), v in phi.items() if (u, w) == (t, m)], axis=0)
                for t in moved
            ]
        )
        x = np.arange(shares.shape[1])
        left.bar(
            x + 0.4 * i - 0.2,
            100 * shares.mean(0),
            0.38,
            yerr=100 * shares.std(0),
            color=COLOURS[m],
            label=NAMES[m],
            ecolor="#555555",
            capsize=2,
        )
        curves = [
            np.mean([Curve(v)(p) for (u, w, _), v in sizes.items() if (u, w) == (t, m)], axis=0)
            for t in tasks
        ]
        right.plot(p, 100 * np.mean(curves, axis=0), color=COLOURS[m], label=NAMES[m])
        for (t, w, _), v in phi.items():
            if w == m and t in moved:
                top[m, "share of the best four layers"][t].append(np.sort(v)[-4:].sum() / v.sum())
                top[m, "largest distance of a layer from 1/12"][t].append(
                    np.abs(v / v.sum() - 1 / len(v)).max()
                )
        for (t, w, _), v in sizes.items():
            if w == m:
                top[m, "area under g, % accuracy"][t].append(Curve(v).area)
                top[m, "all on, % accuracy"][t].append(v[-1])
    left.axhline(100 / 12, color="black", lw=0.8, ls=":", label="even")
    left.set(
        xlabel="layer",
        ylabel="share of the value, %\n(mean and standard deviation over tasks)",
        xticks=range(12),
    )
    right.set(
        xlabel="p, the probability of each layer to be on",
        ylabel="g(p): accuracy, % (mean over tasks)",
    )
    for ax in (left, right):
        ax.legend(frameon=False)
        ax.grid(alpha=0.25)
    cells = gather(read("ranked.csv"), lambda r: f"{r['layers']} {r['setting']}")
    ranked = [
        "| what stays | 3 layers: LoRA | CopRA | 6 layers: LoRA | CopRA | 9 layers: LoRA | CopRA |",
        "|---" * 7 + "|",
    ]
    for name in ("best by Shapley value", "largest", "highest", "lowest", "worst by Shapley value"):
        ranked.append(
            f"| {name} | "
            + " | ".join(
                f"{100 * mean(cells[m, f'{k} {name}']):.1f}"
                for k in (3, 6, 9)
                for m in ("lora", "copra")
            )
            + " |"
        )
    return (
        "## What each layer contributes\n\nExact Shapley values of the layers, from all 4,096 "
        "coalitions. The value of a coalition is its accuracy on validation images. The adapters "
        "are those that ship: two seeds each on six tasks. Shares are of the "
        f"{len(moved)} of {len(tasks)} tasks where all layers together add at least "
        f"{100 * LEAST_GAIN:.0f} points with both methods.\n\n"
        f"{save('shapley', fig)}\n\n{table(top, list(dict.fromkeys(c for _, c in top)))}\n\n"
        "The papers report 69 % in the best four layers for LoRA, and CopRA within 8 % of even."
        "\n\n**Pruning by Shapley value**: accuracy on test images when only some layers are kept, "
        "chosen on validation images (mean over tasks and seeds, %).\n\n" + "\n".join(ranked)
    )


def _by_run(rows: list[dict[str, str]]) -> dict[tuple[str, str, str], np.ndarray]:
    """(task, method, seed) → values in the order of the file."""
    out: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for r in rows:
        out[r["task"], r["method"], r["seed"]].append(float(r["value"]))
    return {k: np.array(v) for k, v in out.items()}


def minilm_section() -> str:
    rows = [r for r in read("minilm.csv") if r["split"] == "test"]
    none = next(r for r in rows if r["method"] == "none")
    lines = [
        "| method | rate | "
        + " | ".join(columns := [c for c in dict.fromkeys(r["setting"] for r in rows)])
        + " |"
    ]
    lines.append("|---" * (len(columns) + 2) + "|")
    for m, lr in dict.fromkeys((r["method"], r["lr"]) for r in rows if r["method"] != "none"):
        values = [
            [
                100 * float(r["accuracy"])
                for r in rows
                if (r["method"], r["lr"], r["setting"]) == (m, lr, c)
            ]
            for c in columns
        ]
        lines.append(
            f"| {NAMES[m]} | {float(lr):g} | "
            + " | ".join(f"{np.mean(v):.1f} ± {np.std(v, ddof=1):.1f}" if v else "" for v in values)
            + " |"
        )
    return (
        "## MiniLM\n\nThe task is to tell the kind of an emoji from its name, learned from five "
        f"names per kind. Without an adapter {100 * float(none['accuracy']):.1f} % are right (n = "
        f"{none['n']}). Mean ± standard deviation over seeds or pairs of seeds: five for LoRA and "
        "CopRA at 5e-3, else three.\n\n" + "\n".join(lines)
    )


def simple(name: str, title: str, about: str) -> str:
    cells = gather(read(name))
    columns = list(dict.fromkeys(c for _, c in cells))
    return f"## {title}\n\n{about}\n\n{table(cells, columns)}"


def shown(name: str, figure: Figure) -> str:
    return f"![{name}](results/{name}.png)"


def saved(name: str, figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    write_atomically(RESULTS / f"{name}.png", data.getvalue())
    return shown(name, figure)


def absent(script: str) -> list[str]:
    """Result files that `script` has not written yet."""
    return [n for n in WRITTEN[script] if not (RESULTS / n).exists()]


def sections(save: Save) -> list[str]:
    def have(*scripts: str) -> bool:
        return not any(absent(s) for s in scripts)

    out = []
    if have("lines.py", "pruning.py"):
        cells = headline()
        columns = measured(cells, HEADLINE)
        out.append(
            f"## The main table\n\n{table(cells, columns)}\n\n{PAPER}\n\n### By task\n\n"
            f"Mean ± standard deviation over seeds.\n\n{by_task(cells, columns)}"
        )
        out += filter(None, [controls_section()])
        out.append(f"## Lines between seeds\n\n{save('lines', lines_figure())}")
        structured = gather(read("structured.csv"))
        out.append(
            "## Structured pruning\n\nEach column names what is kept.\n\n"
            f"{table(structured, STRUCTURED)}\n\n{PAPER_STRUCTURED}"
        )
        sparse = gather(read("unstructured.csv"), lambda r: f"{r['entries']} {r['setting']}")
        for of, words in (("factors", "A and B"), ("delta", "ΔW")):
            columns = [f"{of} {s}" for s in SPARSITIES]
            labels = [f"{100 * s:.0f} %" for s in SPARSITIES]
            figure = curves(sparse, columns, labels, f"entries of {words} set to zero")
            out.append(f"## Sparsity of {words}\n\n{save(f'sparse_{of}', figure)}")
    if have("rates.py"):
        out.append(rates_section(save))
    if have("shapley.py"):
        out.append(shapley_section(save))
    if have("multitask.py"):
        out.append(
            simple(
                "multitask.csv",
                "Six tasks in one adapter",
                "Three seeds. The scale of each merge was chosen on validation images.",
            )
        )
    if have("generalisation.py"):
        out.append(
            simple(
                "generalisation.csv",
                "Beyond the training distribution",
                "Trained on the first half of the classes and tested on both halves, and on "
                "corrupted images. Three seeds.",
            )
        )
    if have("federated/run.py"):
        out.append(federated_section(save))
    if have("minilm.py"):
        out.append(minilm_section())
    if have("trainer.py"):
        out.append(report_trainer.section())
    out += report_nemesis.sections(save)
    if have("regimes.py"):
        out.append(regimes_section())
    return out


def missing() -> str:
    names = [f"`{n}`" for script in WRITTEN for n in absent(script)]
    return f"**Not run yet with the current model**: {', '.join(names)}." if names else ""


def text(save: Save = shown) -> str:
    """The page, from the results as they are."""
    head = (HERE / "head.md").read_text(encoding="utf-8").strip()
    written = "\n\n".join(filter(None, [missing(), *sections(save)]))
    return head + "\n\n" + "\n".join(map(_wrapped, written.split("\n"))) + "\n"


def _wrapped(line: str) -> str:
    """A line of prose at 100 columns; tables, headings and pictures as they are."""
    if line.startswith(("|", "#", "!", "<", " ")):
        return line
    return textwrap.fill(line, 100, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    write_atomically(PAGE, text(saved).encode())


if __name__ == "__main__":
    main()
