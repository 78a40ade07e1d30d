"""Which runs of a sweep are trained side by side, and the folder that a group of them has."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch

from copra_lab.models.clip import Clip
from copra_lab.sweeps.results import kept
from copra_lab.sweeps.runs import CHECKPOINT, Run
from copra_lab.training.grouping import grouped
from copra_lab.utils.files import write_atomically

__all__ = ["Group", "Grouping"]

_GROUPS = "groups"
_PLAN = "group.json"


@dataclass(frozen=True)
class Group:
    """Runs that one worker trains side by side.

    Args:
        runs: The runs, by the names of their folders.
        work: The folder that holds the runs' folders.
    """

    runs: Mapping[str, Run]
    work: Path

    @property
    def folder(self) -> Path:
        """Where its checkpoint is kept: of one run, the run's own folder."""
        if len(self.runs) == 1:
            return self.work / next(iter(self.runs))
        name = blake2b(" ".join(self.runs).encode(), digest_size=6).hexdigest()
        return self.work / _GROUPS / name

    @property
    def started(self) -> Path:
        """The file that says that a worker is at it, and how far."""
        return self.folder / "started.json"

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return (self.folder / CHECKPOINT).exists()

    def singly(self) -> list["Group"]:
        """A group for each of its runs."""
        return [Group({key: run}, self.work) for key, run in self.runs.items()]

    def remove(self) -> None:
        """Forget the group; what its runs have learned stays in their folders."""
        if len(self.runs) > 1:
            shutil.rmtree(self.folder, ignore_errors=True)  # another process may do the same
            with suppress(OSError):  # there are others
                self.folder.parent.rmdir()


@dataclass(frozen=True)
class Grouping:
    """How runs are put into groups.

    Args:
        clip: The model.
        work: The folder that holds the runs' folders.
        workers: How many groups are trained at the same time.
        device: As `fit` has it.
        at_once: How many runs a group has at most; None for as many as is fast.
    """

    clip: Clip
    work: Path
    workers: int
    device: str = "cpu"
    at_once: int | None = None

    def groups(self, waiting: Mapping[str, Run], known: Mapping[str, Run]) -> list[Group]:
        """Every waiting run in one group, those first that have a checkpoint.

        Args:
            waiting: The runs to do, by the names of their folders.
            known: All runs of the sweep, of which some may be done.
        """
        groups = sorted(self._begun(waiting, known), key=lambda group: not group.begun)
        taken = {key for group in groups for key in group.runs}
        rest = [key for key in waiting if key not in taken]
        runs = [waiting[key] for key in rest]
        for members in grouped(self.clip, runs, self._kind(), self.at_once, self.workers):
            group = Group({rest[j]: runs[j] for j in members}, self.work)
            if len(members) > 1:
                plan = {"runs": list(group.runs), **self._as_json()}
                write_atomically(group.folder / _PLAN, json.dumps(plan).encode())
            groups.append(group)
        return groups

    def _kind(self) -> str:
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device.split(":")[0]

    def _as_json(self) -> dict[str, int | None]:
        return {"workers": self.workers, "at_once": self.at_once}

    def _begun(self, waiting: Mapping[str, Run], known: Mapping[str, Run]) -> Iterator[Group]:
        """What an interrupted sweep left, where it is still of use.

        Groups with runs of another sweep are left alone.
        """
        free = set(waiting)
        for file in sorted((self.work / _GROUPS).glob(f"*/{_PLAN}")):
            plan = kept(file) or {}
            keys: list[str] = plan.pop("runs", [])
            if not keys or not known.keys() >= set(keys):
                continue
            group = Group({key: known[key] for key in keys}, self.work)
            small = self.at_once is None or len(keys) <= self.at_once
            mine = waiting.keys() & group.runs.keys()
            useful = small and (group.begun or plan == self._as_json())
            if useful and mine and mine <= free:
                free -= mine
                yield group
            else:
                group.remove()
        for single in Group(waiting, self.work).singly():
            if free >= single.runs.keys() and single.begun:
                yield single
