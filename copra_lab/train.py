"""fit(): one short loop that fine-tunes a CLIP on a task and returns an Adapter."""

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn.utils import parametrize
from tqdm.auto import tqdm

from copra_lab.clip import Clip
from copra_lab.copra import PLAIN, Draw, Dropping, group
from copra_lab.lora import Adapter, Attached, LoRA, check_fits
from copra_lab.storage import write_atomically
from copra_lab.tasks import Task
from copra_lab.tower import CHUNK, Tower, embed, plain_tower


@dataclass(frozen=True)
class Step:
    """What `fit` reports after a step: its number from 1, of how many, the batch's loss (None where nothing was switched
    on, so nothing was learnt), the `units` that were on (see `copra.group`), and, where it was measured, the accuracy on
    the validation images (0…1)."""

    step: int
    steps: int
    loss: float | None
    units: dict[str, bool]
    validation: float | None = None


def fit(
    clip: Clip,
    task: Task,
    lora: LoRA = LoRA(),  # noqa: B008 (frozen)
    dropping: Dropping = PLAIN,
    *,
    seed: int = 0,
    steps: int = 1200,
    lr: float = 2e-3,
    batch: int = 8,
    weight_decay: float = 1e-2,
    schedule: str = "cooldown",
    views: int = 0,
    precision: str = "float32",
    start_from: Adapter | None = None,
    validate_every: int = 0,
    checkpoint: "str | Path | None" = None,
    checkpoint_every: int = 50,
    progress: bool = True,
    on_step: Callable[[Step], None] | None = None,
) -> Adapter:
    """Fine-tune `clip` on the training images of `task` with LoRA; `clip` itself is not changed.

    Cross-entropy over the class prompts, AdamW (β .9, .999), `lr` falling to 0 by `schedule`, augmented batches. The same
    arguments on the same machine and number of threads give the same bytes. The defaults are those of everything that ships; of
    four rates the default did best for plain LoRA, 4e-3 for CopRA (``experiments/regimes.py``). A quick look at LoRA needs half of
    the time (``steps=300, batch=16, lr=4e-3, schedule="cosine"``); CopRA, whose layers train in five of eight steps, needs it all.

    ``dropping``: `copra.CopRA()` or one of its baselines; plain LoRA by default.
    ``schedule``: "cooldown", which keeps `lr` for three quarters of the steps and then lets it fall to 0 in a straight line, or
    "cosine". CopRA's layers are mostly off while a cosine is high; with a cooldown the rate falls when all are on.
    ``views``: how many augmented copies of each image to draw once and keep, 0 for new ones in every step. Of copies
    that are kept, what lies below the lowest active layer is computed once (up to 1 GiB of it is kept).
    ``precision``: "float32", or "bfloat16" for the products with frozen weights; it needs a plain ViT and LoRA on the
    image tower alone.
    ``start_from``: the adapter to begin with, of the same sites, rank and scale, in place of a new one.
    ``validate_every``: measure the validation accuracy every so many steps, for `on_step`; 0 never.
    ``checkpoint``: a file to go on from after an interruption; written every `checkpoint_every` steps, removed at the
    end. A resumed run ends with the same numbers as an unbroken one.

    Raises ValueError for settings that make no sense, for a checkpoint of another run or one that is damaged, and if
    the training diverges.
    """
    if steps < 1 or batch < 1 or not lr > 0 or views < 0:
        raise ValueError(
            f"steps and batch must be at least 1, lr positive, views 0 or more; got steps={steps}, batch={batch}, lr={lr}, views={views}"
        )
    recipe = {
        "method": dropping.method, "clip": clip.name, "task": task.name, "classes": len(task.classes), "shots": task.shots,
        "task seed": task.seed, "seed": seed, "steps": steps, "lr": lr, "batch": batch, "weight decay": weight_decay,
        "schedule": schedule, "views": views, "precision": precision, "lora": _words(lora), "dropping": _words(dropping),
    }  # fmt: skip
    run = _Run(clip, task, lora, dropping, seed, lr, steps, weight_decay, views, precision, schedule)
    if start_from:
        check_fits(start_from, clip.sites, clip.hash)
        run.attached.load(start_from)
        recipe["start from"] = start_from.hash
    path, identity = (Path(checkpoint) if checkpoint else None), _identity(clip, task, recipe)
    start = run.resume(path, identity) if path else 0
    for step in tqdm(range(start, steps), desc=f"{dropping.method} {task.name}", initial=start, total=steps, disable=not progress, leave=False):
        loss = run.step(step, batch)
        if loss is not None and not math.isfinite(loss):
            raise ValueError(f"the loss became {loss} at step {step + 1}; lower the learning rate (now {lr:g})")
        if path and (step + 1) % checkpoint_every == 0 and step + 1 < steps:
            run.save(path, identity, step + 1)
        if on_step:
            measured = run.validate() if validate_every and ((step + 1) % validate_every == 0 or step + 1 == steps) else None
            on_step(Step(step + 1, steps, loss, dict(zip(run.units, run.drawn.on, strict=True)), measured))
    adapter = run.attached.adapter(clip.hash, {**recipe, "validation accuracy": round(run.validate(), 4)})
    if path:
        path.unlink(missing_ok=True)
    return adapter


def _words(settings: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}


def _identity(clip: Clip, task: Task, recipe: dict) -> str:
    """Names a run: a checkpoint of another one must not be continued."""
    h = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8)
    h.update(clip.hash.encode())
    h.update(task.train.images.numpy().tobytes())
    return h.hexdigest()


def generator(seed: int, step: int, use: str) -> torch.Generator:
    """Randomness for one step of one run: it depends on nothing that an interruption could lose."""
    words = hashlib.blake2b(f"{use} {seed} {step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(words, "little") >> 1)


def drawn(dropping: Dropping, units: int, seed: int, step: int, steps: int) -> Draw:
    """What `fit` switches on in one step: the same whoever asks."""
    return dropping.draw(units, step, steps, generator(seed, step, "layers"))


def masks(dropping: Dropping, units: int, steps: int, seed: int = 0) -> list[tuple[bool, ...]]:
    """Which of so many units `fit` has on in each step, without training: (steps, units)."""
    return [drawn(dropping, units, seed, step, steps).on for step in range(steps)]


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    "cooldown": lambda x: min(1.0, 4 * (1 - x)),
}
"""What is left of the learning rate when the share x of all steps is done."""


class _Run:
    """The state of a training: a private copy of the model with LoRA on it, and its optimiser."""

    def __init__(
        self,
        clip: Clip,
        task: Task,
        lora: LoRA,
        dropping: Dropping,
        seed: int,
        lr: float,
        steps: int,
        weight_decay: float,
        views: int,
        precision: str,
        schedule: str,
    ):
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
        self.rates = SCHEDULES[schedule]
        self.clip, self.task, self.dropping, self.seed, self.lr, self.steps = clip, task, dropping, seed, lr, steps
        self.model = copy.deepcopy(clip.model)
        self.attached = Attached(self.model, lora, generator(seed, 0, "init"))
        self.units = group(self.attached.sites, dropping.unit)
        self.drawn = Draw((True,) * len(self.units))
        self.optimiser = torch.optim.AdamW(self.attached.parameters(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.999), fused=True)
        self.text_moves = "text" in lora.towers
        self.tokens = clip.tokenizer(list(task.prompts))
        self.text = clip.text_features(task.prompts).clone()
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {precision!r}")
        self.tower = None if self.text_moves else plain_tower(clip.model.visual, getattr(torch, precision))
        if self.tower is None and precision == "bfloat16":
            raise ValueError("bfloat16 training needs a plain ViT and LoRA on the image tower alone; choose precision='float32'")
        copies = [task.augment(clip.pixels(task.train.images), generator(seed, v, "view")) for v in range(views)]
        self.copies = views
        self.prefixes = _Prefixes(clip, self.tower, torch.cat(copies)) if self.tower and copies else None
        self.views = torch.stack(copies) if copies and not self.prefixes else None

    def features(self, x: Tensor) -> Tensor:
        """Normalised features of normalised pixels (n, 3, side, side), with the sites that are on."""
        if self.tower is None:
            return F.normalize(self.model.encode_image(x), dim=-1)
        return self.tower.features(embed(self.clip.model.visual, x), factors=self.attached.factors())

    def logits(self, features: Tensor) -> Tensor:
        """Scaled cosine similarities (n, classes)."""
        text = F.normalize(self.model.encode_text(self.tokens), dim=-1) if self.text_moves else self.text
        return self.clip.logit_scale * features @ text.T

    def batch_features(self, rows: Tensor, g: torch.Generator) -> Tensor:
        """Features of augmented training images."""
        if self.copies:
            view = torch.randint(self.copies, (len(rows),), generator=g)
            if self.views is not None:
                return self.features(self.views[view, rows])
            assert self.prefixes and self.tower
            factors = self.attached.factors()
            return self.tower.features(self.prefixes(view * len(self.task.train) + rows, min(factors)), min(factors), factors)
        return self.features(self.task.augment(self.clip.pixels(self.task.train.images[rows]), g))

    def step(self, step: int, batch: int) -> float | None:
        g = generator(self.seed, step, "batch")
        labels = self.task.train.labels
        # Every image once before any comes twice, also where a batch is larger than the training set.
        rows = torch.cat([torch.randperm(len(labels), generator=g) for _ in range(-(-batch // len(labels)))])[:batch]
        self.drawn = drawn(self.dropping, len(self.units), self.seed, step, self.steps)
        if not any(self.drawn.on):
            return None  # nothing has a gradient
        for p in self.optimiser.param_groups:
            p["lr"] = self.lr * self.rates(step / self.steps)
        self.attached.activate([s for sites, on in zip(self.units.values(), self.drawn.on, strict=True) if on for s in sites])
        self.attached.drop_inputs(self.drawn.dropout, g)
        with parametrize.cached():
            loss = F.cross_entropy(self.logits(self.batch_features(rows, g)), labels[rows])
            self.optimiser.zero_grad(set_to_none=True)  # None, not zeros: AdamW shall leave alone what was off
            loss.backward()
        self.optimiser.step()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> float:
        """Accuracy on the validation images, 0…1, with everything on."""
        val = self.task.val
        with self.attached.whole(), parametrize.cached():
            hits = [
                self.logits(self.features(self.clip.pixels(x))).argmax(-1) == y
                for x, y in zip(val.images.split(100), val.labels.split(100), strict=True)
            ]
        return torch.cat(hits).float().mean().item()

    def save(self, path: Path, identity: str, step: int) -> None:
        tensors = {f"p{i}": p.detach() for i, p in enumerate(self.attached.parameters())}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"o{i}.{k}": v for k, v in state.items()}
        write_atomically(path, to_bytes(tensors, {"fit": json.dumps({"identity": identity, "step": step})}))

    def resume(self, path: Path, identity: str) -> int:
        if not path.exists():
            return 0
        try:
            with safe_open(path, "pt") as f:
                about = json.loads((f.metadata() or {})["fit"])
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, KeyError, ValueError) as e:
            raise ValueError(f"{path} is not a checkpoint of fit ({e}); remove it to start afresh") from e
        if about["identity"] != identity:
            raise ValueError(f"{path} belongs to a run with other settings; remove it or give another file")
        params = self.attached.parameters()
        with torch.no_grad():
            for i, p in enumerate(params):
                p.copy_(tensors[f"p{i}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key[0] == "o":
                i, name = key[1:].split(".")
                state.setdefault(int(i), {})[name] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        return int(about["step"])


class _Prefixes:
    """What kept images look like before each block of the frozen tower, computed when it is first asked for."""

    MOST = 2**30
    """Bytes; beyond, only what enters the first block is kept."""

    def __init__(self, clip: Clip, tower: Tower, pixels: Tensor):
        self.tower = tower
        with torch.no_grad():
            first = torch.cat([embed(clip.model.visual, x) for x in pixels.split(CHUNK)])
        self.kept = len(tower.blocks) if first.nbytes * len(tower.blocks) <= self.MOST else 1
        self.tokens = first.new_empty((self.kept, *first.shape))
        self.tokens[0] = first
        self.depth = torch.zeros(len(first), dtype=torch.int64)

    @torch.no_grad()
    def __call__(self, rows: Tensor, layer: int) -> Tensor:
        """Tokens of these images before block `layer`."""
        if self.kept == 1:
            return self.tower.through(self.tokens[0, rows], 0, layer)
        for depth in range(layer):
            behind = rows[self.depth[rows] == depth].unique()
            if len(behind):
                self.tokens[depth + 1, behind] = self.tower.through(self.tokens[depth, behind], depth, depth + 1)
                self.depth[behind] = depth + 1
        return self.tokens[layer, rows]
