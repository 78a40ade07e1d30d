"""Optional dependencies: an error that names the extra to install.

``pip install copra-lab`` brings what you need to train, merge and explain adapters of any model.
What else a part of the package needs is in an extra, and is imported inside `needs`.
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
"""Extra → what needs it. The extras for working on copra-lab itself (test, docs) are not here."""


class MissingExtra(ImportError):
    """A package of an extra is not installed; the message says how to install it."""


@contextmanager
def needs(extra: str, instead: str = "") -> Iterator[None]:
    """Turn a failed import in its block into a sentence that names the extra.

    An ``import`` stays an ``import``, so readers and type checkers see it. Errors other than a
    missing package pass through.

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
