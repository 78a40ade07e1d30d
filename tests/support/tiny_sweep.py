"""Sweeps of seconds: a tiny CLIP and a folder of images, on which runs are done, and workers that
are killed.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from tiny import save_clip, save_images

from copra_lab.methods import LoRA
from copra_lab.models import load_clip
from copra_lab.sweeps import Run, runner
from copra_lab.training import PLAIN, CopRA


def make_home(folder: Path) -> SimpleNamespace:
    """A CLIP and a task, which every process can load."""
    save_clip(folder / "clip")
    save_images(folder / "colours")
    return SimpleNamespace(folder=folder, clip=str(folder / "clip"), task=str(folder / "colours"))


def runs(home: SimpleNamespace, steps: int = 2, seeds: int = 2, **more: object) -> tuple[Run, ...]:
    quick = {"method": LoRA(2), "steps": steps, "lr": 1e-2, "batch": 16, **more}
    return tuple(
        Run.of(home.task, s, dropping=d, **quick) for s in range(seeds) for d in (PLAIN, CopRA())
    )


def sweep(
    todo: Sequence[Run], home: SimpleNamespace, work: Path, jobs: int = 1, **more: object
) -> dict[Run, dict]:
    """The row of each run."""
    options = {"clip_name": home.clip, "jobs": jobs, "progress": False, **more}
    rows = {r["key"]: r for r in runner.run_all(todo, work, **options)}
    return {r: rows[r.folder(load_clip(home.clip), work).name] for r in todo}


class Killer(threading.Thread):
    """Kills the worker of a run, also where it is in a group, once it has written a checkpoint.

    Args:
        run: The name of the run's folder.
        work: The folder that holds the runs' folders.
        times: How often.
    """

    def __init__(self, run: str, work: Path, times: int):
        super().__init__(daemon=True)
        self.victim, self.work, self.times = run, work, times
        self.killed: list[tuple[int, int]] = []  # process, runs of its group

    def run(self) -> None:
        deadline = time.monotonic() + 200
        while len(self.killed) < self.times and time.monotonic() < deadline:
            for folder, members in self._places().items():
                with suppress(OSError, ValueError):
                    pid = json.loads((folder / "started.json").read_text())["pid"]
                    if pid not in dict(self.killed) and (folder / "fit.part").exists():
                        os.kill(pid, signal.SIGKILL)
                        self.killed.append((pid, members))
            time.sleep(0.005)

    def _places(self) -> dict[Path, int]:
        """Where the victim may be trained, and how many runs there are."""
        places = {self.work / self.victim: 1}
        for plan in self.work.glob("groups/*/group.json"):
            with suppress(OSError, ValueError):
                keys = json.loads(plan.read_text())["runs"]
                if self.victim in keys:
                    places[plan.parent] = len(keys)
        return places
