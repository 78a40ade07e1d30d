"""The pictures of the architecture, made from the code: ``python recipes/architecture.py`` writes
``docs/architecture.svg`` (the packages) and ``docs/architecture_page.svg`` (the page's rooms);
``--check`` writes nothing and fails where they differ.

Rows are the layers of the import contracts in ``pyproject.toml``, arrows the imports that grimp
finds (import-linter brings it). An arrow that others imply is left out: with cli → page → shapley
there is no need to draw cli → shapley.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import grimp

from copra_lab.utils.files import write_atomically

ROOT = Path(__file__).parents[1]
PACKAGES, ROOMS = ROOT / "docs" / "architecture.svg", ROOT / "docs" / "architecture_page.svg"

CAPTIONS = {
    "cli": "copra-lab VERB",
    "page": "the views in a browser",
    "exercises": "the lessons' checks",
    "sweeps": "many trainings",
    "shapley": "values of layers",
    "peft_models": "any model of peft",
    "bench": "Bench: measures",
    "training": "fit, CopRA",
    "zoo": "what ships",
    "pruning": "an adapter, smaller",
    "prompts": "soft prompts, Nemesis",
    "methods": "LoRA",
    "merging": "several to one",
    "engine": "fast forward passes",
    "adapters": "Adapter: a value",
    "tasks": "Task: images, labels",
    "plots": "pictures for notebooks",
    "models": "Clip: any CLIP, SigLIP",
    "utils": "files, statistics, rng",
}
ROOM_CAPTIONS = {
    "serve": "starts the server",
    "app": "puts the page together",
    "api": "endpoints, MCP tools",
    "views": "",  # its packages are named instead
    "components": "charts, sketch pad, live loop",
    "state": "address, session, Lab",
    "server": "queue, limits, guard",
}
TINTS = ("#e3effb", "#e6f4ec", "#fdf3d8", "#fbe6df", "#efefef")
"""From the top rows to the bottom ones."""

WIDTH, HEIGHT, ACROSS, DOWN, EDGE = 164, 46, 26, 40, 22
"""Of a box, between two in a row, between two rows, and around everything; in pixels."""


@dataclass
class Node:
    """A box, or (without a name) the place where a long arrow passes through a row."""

    name: str
    row: int
    caption: str = ""
    x: float = 0.0

    @property
    def width(self) -> float:
        return max(WIDTH, 24 + 6 * len(self.caption)) if self.name else 0.0


def layers(container: str) -> list[list[str]]:
    """The rows of the contract on `container`, from the top."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    for contract in contracts["importlinter"]["contracts"]:
        if contract["type"] == "layers" and contract["containers"] == [container]:
            return [re.split(r" [|:] ", row) for row in contract["layers"]]
    raise ValueError(f"pyproject.toml has no contract of layers on {container}")


def imports(container: str) -> set[tuple[str, str]]:
    """Who imports whom among the children of `container`."""
    graph = grimp.build_graph("copra_lab")
    children = sorted(graph.find_children(container))
    return {
        (a.rpartition(".")[2], b.rpartition(".")[2])
        for a in children
        for b in children
        if a != b and graph.direct_import_exists(importer=a, imported=b, as_packages=True)
    }


def needed(edges: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges that no longer way implies (the transitive reduction), in order."""
    after: dict[str, set[str]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)

    def reached(name: str) -> set[str]:
        nearest = after.get(name, set())
        return nearest.union(*map(reached, nearest))

    return sorted((a, b) for a, b in edges if not any(b in reached(c) for c in after[a] - {b}))


def threads(
    rows: Sequence[Sequence[str]],
    edges: Iterable[tuple[str, str]],
    captions: Mapping[str, str],
) -> tuple[list[list[Node]], list[list[Node]]]:
    """The nodes of each row, and each edge as the nodes that it runs through, a row each."""
    nodes = [[Node(name, i, captions[name]) for name in row] for i, row in enumerate(rows)]
    boxes = {n.name: n for row in nodes for n in row}
    ways = []
    for a, b in edges:
        start, end = boxes[a], boxes[b]
        through = [Node("", i) for i in range(start.row + 1, end.row)]
        for node in through:
            nodes[node.row].append(node)
        ways.append([start, *through, end])
    return nodes, ways


def spread(row: Sequence[Node], wanted: Mapping[int, float]) -> None:
    """Sets x of the nodes, in their order, as near to what is wanted as the gaps between them allow
    (pooled adjacent violators).
    """
    offsets, at = [], 0.0
    for before, node in zip([None, *row], row, strict=False):
        if before is not None:
            at += (before.width + node.width) / 2 + (ACROSS if before.name or node.name else 12)
        offsets.append(at)
    pools: list[list[float]] = []  # sum and number of those that move together
    for node, offset in zip(row, offsets, strict=True):
        weight = 2.0 if node.name else 1.0
        pools.append([weight * (wanted[id(node)] - offset), weight, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, weights, count = pools.pop()
            pools[-1] = [pools[-1][0] + total, pools[-1][1] + weights, pools[-1][2] + count]
    shifts = [total / weights for total, weights, count in pools for _ in range(int(count))]
    for node, offset, shift in zip(row, offsets, shifts, strict=True):
        node.x = offset + shift


def arrange(nodes: list[list[Node]], ways: Sequence[Sequence[Node]]) -> None:
    """Orders each row and sets every x: each node goes between its neighbours in the rows above and
    below, a few times over, and of all arrangements on the way the one with the fewest crossings
    stays.
    """
    near: dict[int, dict[int, list[Node]]] = {id(n): {-1: [], 1: []} for row in nodes for n in row}
    for way in ways:
        for a, b in zip(way, way[1:], strict=False):
            near[id(a)][1].append(b)
            near[id(b)][-1].append(a)
    for row in nodes:
        spread(row, {id(n): WIDTH * (i - len(row) / 2) for i, n in enumerate(row)})

    def settle(row: list[Node], sides: Sequence[int], reorder: bool) -> None:
        wanted = {}
        for n in row:
            around = [m for side in sides for m in near[id(n)][side]]
            # What only passes through is to run straight.
            weights = [1.0 if n.name or m.name else 6.0 for m in around]
            total = sum(w * m.x for w, m in zip(weights, around, strict=True))
            wanted[id(n)] = total / sum(weights) if around else n.x
        if reorder:
            row.sort(key=lambda n: (wanted[id(n)], n.x))
        spread(row, wanted)

    best, kept = float("inf"), [list(row) for row in nodes]
    for turn in range(60):
        for row in nodes if turn % 2 == 0 else reversed(nodes):
            settle(row, ((-1,), (1,), (-1, 1))[turn % 3], reorder=True)
        bends = sum(abs(a.x - b.x) for w in ways for a, b in zip(w, w[1:], strict=False))
        if (cost := 1000 * crossings(ways) + bends) < best:
            best, kept = cost, [list(row) for row in nodes]
    for row, was in zip(nodes, kept, strict=True):
        row[:] = was
    for turn in range(40):
        for row in nodes if turn % 2 == 0 else reversed(nodes):
            settle(row, (-1, 1), reorder=False)


def crossings(ways: Sequence[Sequence[Node]]) -> int:
    pieces = [(a.row, a.x, b.x) for w in ways for a, b in zip(w, w[1:], strict=False)]
    return sum(
        p[0] == q[0] and (p[1] - q[1]) * (p[2] - q[2]) < 0
        for i, p in enumerate(pieces)
        for q in pieces[:i]
    )


def ports(nodes: Iterable[Node], ways: Sequence[Sequence[Node]]) -> dict[tuple[int, int], float]:
    """Where each arrow leaves and reaches its boxes: side by side, in the order of where they come
    from or go. (edge, end) → x.
    """
    out = {}
    for box in (n for n in nodes if n.name):
        for end, step in ((0, 1), (-1, -2)):
            here = sorted(
                (i for i, w in enumerate(ways) if w[end] is box), key=lambda i: ways[i][step].x
            )
            gap = min(26.0, (box.width - 40) / max(1, len(here)))
            for k, i in enumerate(here):
                out[i, end] = box.x + (k - (len(here) - 1) / 2) * gap
    return out


def picture(title: str, container: str, captions: Mapping[str, str]) -> str:
    rows, edges = layers(container), needed(imports(container))
    if unknown := {name for row in rows for name in row} ^ set(captions):
        raise ValueError(f"captions and layers differ: {', '.join(sorted(unknown))}")
    captions = {n: c or ", ".join(children(f"{container}.{n}")) for n, c in captions.items()}
    nodes, ways = threads(rows, edges, captions)
    arrange(nodes, ways)
    every = [n for row in nodes for n in row]
    left = min(n.x - n.width / 2 for n in every) - EDGE
    wide = round(max(n.x + n.width / 2 for n in every) - left + EDGE)
    high = 2 * EDGE + len(rows) * HEIGHT + (len(rows) - 1) * DOWN

    def top(row: int) -> int:
        return EDGE + row * (HEIGHT + DOWN)

    at = ports(every, ways)
    arrows = []
    for i, way in enumerate(ways):
        x, y = at[i, 0] - left, top(way[0].row) + HEIGHT
        path = f"M{x:.0f} {y}"
        for node in way[1:]:
            last = node is way[-1]
            to, until = (at[i, -1] if last else node.x) - left, top(node.row) - (5 if last else 0)
            path += f"C{x:.0f} {y + DOWN * 0.55:.0f} {to:.0f} {until - DOWN * 0.55:.0f} {to:.0f} {until}"
            x, y = to, top(node.row) + HEIGHT
            path += "" if last else f"V{y}"
        names = f"{way[0].name} → {way[-1].name}"
        arrows.append(f'<path d="{path}" marker-end="url(#tip)"><title>{names}</title></path>')
    boxes = []
    for node in (n for n in every if n.name):
        x, y = node.x - left, top(node.row)
        tint = TINTS[node.row * len(TINTS) // len(rows)]
        boxes.append(
            f'<rect x="{x - node.width / 2:.0f}" y="{y}" width="{node.width:.0f}" '
            f'height="{HEIGHT}" rx="8" fill="{tint}"/>'
            f'<text x="{x:.0f}" y="{y + 20}" class="name">{node.name}</text>'
            f'<text x="{x:.0f}" y="{y + 36}">{escape(node.caption)}</text>'
        )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" '
            f'height="{high}" role="img">',
            f"<title>{escape(title)}</title>",
            "<style>text{font:11.5px system-ui,sans-serif;text-anchor:middle;fill:#4a4a4a}"
            ".name{font-size:14px;font-weight:600;fill:#1b1b1b}"
            "rect{stroke:#8a8a8a}path{fill:none;stroke:#6d7480;stroke-width:1.4}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="2" refY="4" markerWidth="6" '
            'markerHeight="6" orient="auto">'
            '<path d="M0 0L8 4L0 8z" style="fill:#6d7480;stroke:none"/></marker></defs>',
            f'<rect width="{wide}" height="{high}" rx="12" fill="#fff" style="stroke:none"/>',
            *arrows,
            *boxes,
            "</svg>\n",
        ]
    )


def children(container: str) -> list[str]:
    found = grimp.build_graph("copra_lab").find_children(container)
    return sorted(m.rpartition(".")[2] for m in found)


def pictures() -> dict[Path, str]:
    return {
        PACKAGES: picture("The packages of copra_lab and what they import", "copra_lab", CAPTIONS),
        ROOMS: picture("The rooms of copra_lab.page", "copra_lab.page", ROOM_CAPTIONS),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--check", action="store_true", help="write nothing; fail where they differ")
    check = p.parse_args().check
    for file, made in pictures().items():
        if not check:
            write_atomically(file, made.encode())
        elif not file.exists() or file.read_text(encoding="utf-8") != made:
            sys.exit(
                f"{file.relative_to(ROOT)} is not what the code says: run recipes/architecture.py"
            )


if __name__ == "__main__":
    main()
