"""JavaScript of the page: files in ``static/``, each one expression or one body of a function."""

from pathlib import Path

STATIC = Path(__file__).parents[1] / "static"

ON_LOAD = ("staleness", "clipboard", "tabs", "tour")
"""Run once when the page is loaded, in this order: the first makes the ``copra`` object that the
others use."""


def script(name: str) -> str:
    """The text of ``static/name.js``."""
    return (STATIC / f"{name}.js").read_text(encoding="utf-8").rstrip()


def on_load() -> str:
    """JavaScript that runs the scripts in `ON_LOAD`."""
    functions = ", ".join(script(name) for name in ON_LOAD)
    return f"() => {{ for (const begin of [{functions}]) begin(); }}"
