"""The state of the Try view: the task whose names there are to choose from.

A picture is not part of an address.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from copra_lab.page.state.schemas.fields import TaskName


@dataclass(frozen=True)
class TryState:
    """The task whose names a picture is given."""

    view: ClassVar = "try"

    task: Annotated[str, TaskName()]
