"""Packages that only some users need: where one is missing, a sentence names the extra that brings it.

``pip install copra-lab`` brings what training, merging and explaining adapters of any model takes. What else a part of
the package needs stands in an extra, and is imported under `needs`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["EXTRAS", "MissingExtra", "needs", "sentence"]

EXTRAS = {
    "app": "the page",
    "benchmarks": "a data set in MATLAB files",
    "clip": "a CLIP",
    "dask": "a sweep on a Dask cluster",
    "drawings": "a task of drawings, icons or digits",
    "lessons": "a lesson",
    "mcp": "the page's MCP server",
    "parquet": "a table in Parquet",
    "plots": "a plot",
    "ray": "a sweep on a Ray cluster",
    "sweeps": "a sweep",
}
"""Extra → what needs it. Those of people who work on copra-lab itself (test, docs, recipes) are not asked for by code."""


class MissingExtra(ImportError):
    """A package of an extra is not installed; the message is one sentence that says how to install it."""


@contextmanager
def needs(extra: str, instead: str = "") -> Iterator[None]:
    """Imports under it that fail for want of a package name `extra`, which brings it.

    An ``import`` stays an ``import``, so that readers and type checkers see it. A package that is there and cannot be
    imported for another reason raises what it raises.

    Args:
        extra: One of `EXTRAS`.
        instead: What to do without it, to end the sentence with.

    Raises:
        MissingExtra: A package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as e:
        package = (e.name or "").partition(".")[0]
        if package in ("", "copra_lab"):
            raise
        told = sentence(extra, package) + (f", or {instead}" if instead else "")
        raise MissingExtra(told, name=package) from None


def sentence(extra: str, package: str) -> str:
    """What to say where `package` is not installed, which `extra` brings."""
    what = EXTRAS[extra][0].upper() + EXTRAS[extra][1:]
    return f'{what} needs {package}, which is not installed: pip install "copra-lab[{extra}]"'
