"""Runs a group of trainings step by step: validation, checkpoints, and runs that diverge."""

import hashlib
import json
import math
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from copra_lab.adapters.adapter import Adapter
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.training.base import Group
from copra_lab.training.jobs import Execution, Job, Step
from copra_lab.utils.files import write_atomically

Result = Adapter | SoftPrompt | ValueError
"""What came of a run: what it learned, or why it learned nothing."""


def run_group(
    clip: Clip, group: Group, jobs: Sequence[Job], execution: Execution
) -> Generator[list[Step], None, list[Result]]:
    """Train the runs of a group.

    Args:
        clip: The model.
        group: What advances; its runs are those of `jobs`.
        jobs: What they are.
        execution: How they run.

    Yields:
        The steps of the runs that went on, each time all have done one. The last of a run that
        diverges has its error.

    Returns:
        For each run what it learned, or the error with which it ended.
    """
    recipes = [_begun(clip, group, j, job) for j, job in enumerate(jobs)]
    return _advance(clip, group, jobs, recipes, execution)


def _advance(
    clip: Clip,
    group: Group,
    jobs: Sequence[Job],
    recipes: Sequence[dict[str, Any]],
    execution: Execution,
) -> Generator[list[Step], None, list[Result]]:
    identities = [job.identity(clip, r) for job, r in zip(jobs, recipes, strict=True)]
    checkpoint = _Checkpoint(group, execution.checkpoint, identities)
    steps, every = jobs[0].complete.steps, execution.validate_every
    results: dict[int, Result] = {j: ValueError(words) for j, words in checkpoint.failed.items()}
    for done in range(1 + checkpoint.done, steps + 1):
        losses, going = group.step(done - 1), sorted(group.alive)
        for j in going:
            loss = losses[j]
            if loss is not None and not math.isfinite(loss):
                group.alive.discard(j)
                results[j] = ValueError(
                    f"the loss became {loss} at step {done}; lower the learning rate "
                    f"(now {jobs[j].complete.lr:g})"
                )
        if group.alive and done % execution.checkpoint_every == 0 and done < steps:
            checkpoint.write(done, results)
        measured = every and (done % every == 0 or done == steps)
        yield [
            Step(
                done,
                steps,
                losses[j],
                group.on(j),
                group.validate(j) if measured else None,
                group.norms(j),
                partial(group.result, j, {**recipes[j], "steps done": done}),
                j,
            )
            if j in group.alive
            else Step(done, steps, losses[j], group.on(j), run=j, error=str(results[j]))
            for j in going
        ]
        if not group.alive:
            break
    if execution.keep_checkpoint and checkpoint.done < steps:
        checkpoint.write(steps, results)
    for j in group.alive:
        if len(jobs[j].task.val):
            recipes[j]["validation accuracy"] = round(group.validate(j), 4)
        results[j] = group.result(j, recipes[j])
    if group.alive and not execution.keep_checkpoint:
        checkpoint.remove()
    return [results[j] for j in range(len(jobs))]


def _begun(clip: Clip, group: Group, run: int, job: Job) -> dict[str, Any]:
    """The recipe of a run, which begins where its job says."""
    recipe = job.recipe(clip) | group.recipe(run)
    if job.start_from:
        group.start_from(run, job.start_from)
        recipe["start from"] = job.start_from.hash
    return recipe


class _Checkpoint:
    """The file that a group continues from, read when it is made."""

    def __init__(self, group: Group, path: str | Path | None, identities: Sequence[str]) -> None:
        self.group, self.path = group, Path(path) if path else None
        self.identity = identities[0]
        if len(identities) > 1:
            joined = " ".join(identities).encode()
            self.identity = hashlib.blake2b(joined, digest_size=8).hexdigest()
        self.done, self.failed = 0, dict[int, str]()
        if self.path and self.path.exists():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as f:
                about = json.loads((f.metadata() or {})["fit"])
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, KeyError, ValueError) as e:
            raise ValueError(f"{path} is not a checkpoint of fit ({e}); remove it") from e
        if about["identity"] != self.identity:
            raise ValueError(f"{path} is of a run with other settings; choose another file")
        try:
            self.group.load_state(tensors)
        except (KeyError, RuntimeError) as e:  # such as a file that another version wrote
            raise ValueError(f"{path} does not hold this run ({e}); remove it") from e
        self.done = int(about["step"])
        self.failed = {int(j): words for j, words in about.get("failed", {}).items()}
        self.group.alive -= self.failed.keys()

    def write(self, step: int, results: dict[int, Result]) -> None:
        """Keep what is known after so many steps, and which runs have ended with an error."""
        if self.path and self.group.process.first:
            about: dict[str, Any] = {"identity": self.identity, "step": step}
            if results:
                about["failed"] = {j: str(e) for j, e in results.items()}
            write_atomically(self.path, to_bytes(self.group.state(), {"fit": json.dumps(about)}))

    def remove(self) -> None:
        """The group is done."""
        if self.path and self.group.process.first:
            self.path.unlink(missing_ok=True)
