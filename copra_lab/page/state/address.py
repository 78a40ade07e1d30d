"""What a visitor has set, as an address to share, and back.

For example ``?view=prune&task=digits&adapter=copra-seed-0&off=0,q,v7&sparsity=80``. What is as the
view opens with it is left out. An address may be anything: its values are checked one by one, and
the default takes the place of what cannot be used.
"""

from typing import Any
from urllib.parse import parse_qsl, urlencode

from copra_lab.page.state.lab import Lab, trained
from copra_lab.page.state.schemas import STATES
from copra_lab.page.state.schemas.reading import read_address, schema, words
from copra_lab.page.state.session import History

LONGEST = 2000
"""Characters that are read of an address."""


def write(lab: Lab, state: Any) -> str:
    """The address of a state, from its ``?`` on."""
    kind = type(state)
    first, _ = read_address(kind, lab, {})
    usual, _ = read_address(kind, lab, {"task": state.task})
    default = words(usual, lab) | {"task": first.task}
    said = {name: text for name, text in words(state, lab).items() if text != default.get(name)}
    return "?" + urlencode({"view": state.view} | said, safe=",/")


def read(lab: Lab, view: str, query: Any) -> tuple[Any, list[str]]:
    """The state that an address asks `view` for, and a sentence for each value refused.

    None if it says nothing of the view; an address that names the view says all of it, the default
    where it is silent.
    """
    kind = STATES[view]
    try:
        said = _pairs(query)
    except ValueError:
        return None, [f"an address has at most {LONGEST:,} characters"]
    if (named := said.pop("view", None)) not in (None, view):
        return None, [f"there is no view {named!r:.40}"]
    if named is None and not any(f.address in said for f in schema(kind).values()):
        return None, []
    return read_address(kind, lab, said)


def adopt(history: History, query: Any) -> History:
    """`history`, with what a visitor trained and the address names.

    Whoever knows a key that cannot be guessed was given it.
    """
    try:
        found = [
            own
            for key in _pairs(query).values()
            if (own := trained(key)) and own not in history.own
        ]
    except ValueError:
        return history
    return history.keep(*dict.fromkeys(found)) if found else history


def _pairs(query: Any) -> dict[str, str]:
    """Raises ValueError for what is too long."""
    if not isinstance(query, str) or len(query) > LONGEST:
        raise ValueError("too long")
    return dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True))
