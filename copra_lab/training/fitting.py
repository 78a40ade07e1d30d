"""fit(): one short loop that fine-tunes a CLIP on a task: with LoRA, which gives an Adapter, or a soft prompt."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, overload

from tqdm.auto import tqdm

from copra_lab.adapters.adapter import Adapter
from copra_lab.methods.lora import LoRA
from copra_lab.models.clip import Clip
from copra_lab.prompts.nemesis import Nemesis
from copra_lab.prompts.soft_prompt import VPT, CoOp, SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.base import Training
from copra_lab.training.dropping import PLAIN, Dropping
from copra_lab.training.lora import LoRATraining
from copra_lab.training.prompt import PromptTraining, name_of
from copra_lab.utils.devices import find_place

__all__ = ["DEFAULTS", "RATES", "Step", "fit"]


@dataclass(frozen=True)
class Step:
    """What `fit` reports after a step: its number from 1, of how many, the batch's loss (None where nothing was switched
    on, so nothing was learnt), the `units` that were on (see `copra.group`; none of a soft prompt), where it was measured, the
    accuracy on the validation images (0…1), and of a soft prompt the L2 norm of each vector. ``learned()`` is the adapter or
    prompt as it is now, a copy; ask before the next step."""

    step: int
    steps: int
    loss: float | None
    units: dict[str, bool]
    validation: float | None = None
    norms: tuple[float, ...] = ()
    learned: "Callable[[], Adapter | SoftPrompt] | None" = field(
        default=None, repr=False, compare=False
    )


DEFAULTS: dict[type, dict[str, Any]] = {
    LoRA: {"steps": 1200, "lr": 2e-3, "batch": 8, "weight_decay": 1e-2, "schedule": "cooldown"},
    CoOp: {"steps": 200, "lr": 1e-2, "batch": 32, "weight_decay": 5e-4, "schedule": "cosine"},
    VPT: {"steps": 400, "lr": 2e-2, "batch": 16, "weight_decay": 5e-4, "schedule": "cosine"},
}
"""What `fit`, a sweep and the command line take where nothing is said; of LoRA the rate depends on what is dropped, see `RATES`. LoRA's are those
of everything that ships. A prompt's rate suits vectors with a penalty; without one five times as much is a little better
(``experiments/nemesis.py``)."""

RATES = {"lora": DEFAULTS[LoRA]["lr"], "copra": 4e-3}
"""LoRA's learning rate by the `method` of its dropping, that of plain LoRA for any other: of 1e-3, 2e-3, 4e-3 and 8e-3 the one that does best
alone on validation images (``experiments/regimes.py``)."""


@overload
def fit(
    clip: Clip, task: Task, method: LoRA = ..., dropping: Dropping = ..., **settings: Any
) -> Adapter: ...
@overload
def fit(clip: Clip, task: Task, method: CoOp | VPT, **settings: Any) -> SoftPrompt: ...
def fit(  # type: ignore[misc] # the overloads say what comes back, and do not repeat every setting
    clip: Clip,
    task: Task,
    method: LoRA | CoOp | VPT = LoRA(),  # noqa: B008 (frozen)
    dropping: Dropping = PLAIN,
    *,
    penalty: Nemesis | None = None,
    adapter: Adapter | None = None,
    seed: int = 0,
    steps: int | None = None,
    lr: float | None = None,
    batch: int | None = None,
    weight_decay: float | None = None,
    schedule: str | None = None,
    views: int = 0,
    precision: str = "float32",
    start_from: Adapter | SoftPrompt | None = None,
    device: str = "cpu",
    validate_every: int = 0,
    checkpoint: "str | Path | None" = None,
    checkpoint_every: int = 50,
    progress: bool = True,
    on_step: Callable[[Step], None] | None = None,
) -> Adapter | SoftPrompt:
    """Fine-tune `clip` on the training images of `task`, with LoRA to an `Adapter` or with CoOp or VPT to a `SoftPrompt`; `clip`
    itself is not changed.

    Cross-entropy over the class prompts. LoRA: AdamW (β .9, .999) on augmented batches; a quick look at it needs half of
    the time (``steps=300, batch=16, lr=4e-3, schedule="cosine"``); CopRA, whose layers train in five of eight steps, needs it all.
    Prompts: SGD (momentum .9), the images' features computed once. What is not given is taken from `DEFAULTS`, and LoRA's rate from `RATES`:
    CopRA's is twice that of plain LoRA. The same arguments on the same machine and number of threads give the same bytes. Several
    may run in threads of one process: steps of LoRA then take turns.

    ``dropping``: of LoRA, `copra.CopRA()` or one of its baselines; none by default.
    ``penalty``: of a soft prompt, `nemesis.Nemesis`, what its norms cost; nothing by default.
    ``adapter``: for a soft prompt, what the CLIP that it is trained for already wears.
    ``schedule``: "cooldown", which keeps `lr` for three quarters of the steps and then lets it fall to 0 in a straight line, or
    "cosine". CopRA's layers are mostly off while a cosine is high; with a cooldown the rate falls when all are on.
    ``views``: how many augmented copies of each image to draw once and keep. With 0, LoRA and VPT see new ones in every step, and
    CoOp the images as they are. Of copies that are kept, what lies below LoRA's lowest active layer is computed once (up to 1 GiB
    of it is kept).
    ``precision``: "float32", or "bfloat16" for the products with frozen weights; it needs a plain ViT and LoRA on the
    image tower alone.
    ``device``: "cpu", "auto" (a GPU if there is one), or torch's name of one. Only float32 on the processor is exact to the byte. Under
    ``accelerate launch`` all processes share each of LoRA's batches, draw the same layers, and end with the same adapter, that of one
    process up to rounding.
    ``start_from``: the adapter or prompt to begin with, of the same sites, rank and scale, or shape, in place of a new one.
    ``validate_every``: measure the validation accuracy every so many steps, for `on_step`; 0 never. The accuracy at the end stands in the
    provenance, if the task has validation images.
    ``checkpoint``: a file to go on from after an interruption; written every `checkpoint_every` steps, removed at the
    end. A resumed run ends with the same numbers as an unbroken one.

    Raises ValueError for settings that make no sense, for a task without training images, for a checkpoint of another run or one that is
    damaged, and if the training diverges.
    """
    if type(method) not in DEFAULTS:
        raise ValueError(
            f"method must be LoRA(), CoOp() or VPT(), got {method!r:.80}; what is dropped in training goes into dropping="
        )
    if lr is None and isinstance(method, LoRA):
        lr = RATES.get(dropping.method)
    given = {
        "steps": steps,
        "lr": lr,
        "batch": batch,
        "weight_decay": weight_decay,
        "schedule": schedule,
    }
    settings: dict[str, Any] = DEFAULTS[type(method)] | {
        k: v for k, v in given.items() if v is not None
    }
    steps, lr, batch = int(settings["steps"]), float(settings["lr"]), int(settings.pop("batch"))
    place = find_place(device)
    clip = clip.on(place.device)
    if (
        not 1 <= steps <= 10**9
        or not 1 <= batch <= 10**6
        or not 0 < lr < math.inf
        or not 0 <= views <= 10**4
    ):
        raise ValueError(
            f"steps and batch must be at least 1, lr positive, views 0 or more, and none of them endless; got steps={steps}, batch={batch}, lr={lr}, views={views}"
        )
    if checkpoint_every < 1 or validate_every < 0:
        raise ValueError(
            f"checkpoint_every must be at least 1 and validate_every 0 or more, got {checkpoint_every} and {validate_every}"
        )
    if not len(task.train):
        raise ValueError(f"{task.name} has no training images; give a task that has some")
    if validate_every and not len(task.val):
        raise ValueError(f"{task.name} has no validation images; leave out validate_every")
    if batch < place.world:
        raise ValueError(
            f"a batch of {batch} images cannot be shared by {place.world} processes; make it larger"
        )
    recipe: dict[str, Any] = {
        "clip": clip.name, "task": task.name, "classes": len(task.classes), "shots": task.shots, "task seed": task.seed, "seed": seed,
        "steps": steps, "lr": lr, "batch": batch, "weight decay": settings["weight_decay"], "schedule": settings["schedule"], "views": views,
    }  # fmt: skip
    recipe |= {"task options": dict(task.options)} if task.options else {}
    run: Training
    if isinstance(method, LoRA):
        if penalty or adapter:
            raise ValueError(
                "penalty and adapter are for soft prompts; of LoRA, give dropping, and start_from to go on from an adapter"
            )
        recipe |= {
            "method": dropping.method,
            "precision": precision,
            "lora": _words(method),
            "dropping": _words(dropping),
        }
        run = LoRATraining(
            clip,
            task,
            method,
            dropping,
            seed=seed,
            views=views,
            precision=precision,
            place=place,
            **settings,
        )
    else:
        if dropping != PLAIN or precision != "float32":
            raise ValueError(
                "dropping and precision are for LoRA; of a soft prompt, give a penalty"
            )
        recipe |= {
            "method": name_of(method, penalty),
            "prompt": _words(method),
            "penalty": _words(penalty) if penalty else None,
        }
        recipe |= {"adapter": adapter.hash} if adapter else {}
        run = PromptTraining(
            clip, task, method, penalty, adapter, seed=seed, views=views, place=place, **settings
        )
    if start_from:
        run.start_from(start_from)
        recipe["start from"] = start_from.hash
    path, identity = (Path(checkpoint) if checkpoint else None), _identity(clip, task, recipe)
    start = run.resume(path, identity) if path else 0
    quiet = not (progress and place.first)
    for step in tqdm(
        range(start, steps),
        desc=f"{recipe['method']} {task.name}",
        initial=start,
        total=steps,
        disable=quiet,
        leave=False,
    ):
        loss = run.step(step, batch)
        if loss is not None and not math.isfinite(loss):
            raise ValueError(
                f"the loss became {loss} at step {step + 1}; lower the learning rate (now {lr:g})"
            )
        if path and place.first and (step + 1) % checkpoint_every == 0 and step + 1 < steps:
            run.save(path, identity, step + 1)
        if on_step:
            measured = (
                run.validate()
                if validate_every and ((step + 1) % validate_every == 0 or step + 1 == steps)
                else None
            )
            learned = partial(run.result, {**recipe, "steps done": step + 1})
            on_step(Step(step + 1, steps, loss, run.on, measured, run.norms, learned))
    if len(task.val):
        recipe["validation accuracy"] = round(run.validate(), 4)
    result = run.result(recipe)
    if path and place.first:
        path.unlink(missing_ok=True)
    return result


def _words(settings: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}


def _identity(clip: Clip, task: Task, recipe: dict) -> str:
    """Names a run: a checkpoint of another one must not be continued."""
    h = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8)
    h.update(clip.hash.encode())
    h.update(task.train.images.numpy().tobytes())
    return h.hexdigest()
