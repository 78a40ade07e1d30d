"""The learning curve of a pretraining: ``python recipes/curve.py --work …``.

It writes ``recipes/curve.csv`` and ``curve.png`` from what `pretrain.py` noted while it ran: the
zero-shot accuracy on photographs that are never trained on, against the images seen.
"""

import argparse
import csv
import json
from pathlib import Path

import matplotlib.pyplot as plt

from copra_lab.utils.files import csv_bytes, write_atomically

HERE = Path(__file__).parent
COLUMNS = ("images", "photographs", "accuracy")


def noted(log: Path) -> list[dict[str, object]]:
    """Rows of the curve, in the order of the images seen."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [
        {"images": line["images"], "photographs": what, "accuracy": value}
        for line in lines
        for what, value in line.get("choice", {}).items()
    ]


def drawn(table: Path, picture: Path) -> None:
    """The picture of a table."""
    with open(table, encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for what in dict.fromkeys(r["photographs"] for r in rows):
        mine = [r for r in rows if r["photographs"] == what]
        x = [float(r["images"]) / 1e6 for r in mine]
        y = [100 * float(r["accuracy"]) for r in mine]
        axes.plot(x, y, "--" if "held out" in what else "-", label=what)
    axes.set(xlabel="images seen, millions", ylabel="zero-shot accuracy, %", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=150)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--work", type=Path, default=Path.home() / ".cache" / "copra-lab-pretrain")
    a = p.parse_args()
    table = HERE / "curve.csv"
    write_atomically(table, csv_bytes(COLUMNS, noted(a.work / "log.jsonl")))
    drawn(table, HERE / "curve.png")


if __name__ == "__main__":
    main()
