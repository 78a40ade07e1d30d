"""The rows of ``results.json`` as a table. It imports nothing heavy, as the README uses it too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.json"

HEAD = (
    "| what | ours | theirs | theirs / ours (lowest to highest) | precision |",
    "|---|---|---|---|---|",
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    return "\n".join([*HEAD, *map(line, rows)])


def line(row: dict[str, Any]) -> str:
    theirs = "" if row["theirs"] is None else number(row["theirs"], row["unit"])
    ratio = (
        ""
        if row["ratio"] is None
        else f"{row['ratio']:.2f}"
        + (f" ({row['low']:.2f} to {row['high']:.2f})" if row["low"] else "")
    )
    ours = number(row["ours"], row["unit"])
    return f"| {row['what']} | {ours} | {theirs} | {ratio} | {row['precision']} |"


def number(x: float, unit: str) -> str:
    return f"{x:.0f} {unit}" if unit != "s" else f"{x:.2f} s" if x >= 1 else f"{1000 * x:.3g} ms"
