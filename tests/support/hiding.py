"""Packages that are installed, as if they were not."""

import sys
from collections.abc import Iterable
from typing import Any

_hidden: set[str] = set()


class _Finder:
    """One of Python's own, which no longer finds what is hidden."""

    def __init__(self, inner: Any):
        self.inner = inner

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return (
            None if name.partition(".")[0] in _hidden else self.inner.find_spec(name, path, target)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def hide(modules: Iterable[str]) -> None:
    """From now on exactly these cannot be imported, nor found; what was imported from them is
    forgotten.
    """
    sys.meta_path[:] = [f if isinstance(f, _Finder) else _Finder(f) for f in sys.meta_path]
    _hidden.clear()
    _hidden.update(modules)
    for name in [n for n in sys.modules if n.partition(".")[0] in _hidden]:
        del sys.modules[name]
