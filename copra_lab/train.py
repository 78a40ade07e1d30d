"""fit(): one short loop that fine-tunes a CLIP on a task and returns an Adapter."""

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn.utils import parametrize
from tqdm.auto import tqdm

from copra_lab.clip import Clip
from copra_lab.lora import Adapter, Attached, LoRA
from copra_lab.storage import write_atomically
from copra_lab.tasks import Task


@dataclass(frozen=True)
class Step:
    """What `fit` reports after a step: its number from 1, of how many, the batch's loss, and, where it was measured,
    the accuracy on the validation images (0…1)."""

    step: int
    steps: int
    loss: float
    validation: float | None = None


def fit(
    clip: Clip,
    task: Task,
    lora: LoRA = LoRA(),  # noqa: B008 (frozen)
    *,
    seed: int = 0,
    steps: int = 150,
    lr: float = 1e-3,
    batch: int = 32,
    weight_decay: float = 1e-2,
    validate_every: int = 0,
    checkpoint: "str | Path | None" = None,
    checkpoint_every: int = 50,
    progress: bool = True,
    on_step: Callable[[Step], None] | None = None,
) -> Adapter:
    """Fine-tune `clip` on the training images of `task` with LoRA; `clip` itself is not changed.

    Cross-entropy over the class prompts, AdamW (β .9, .999), cosine decay of `lr` to 0, augmented batches. The same
    arguments on the same machine and number of threads give the same bytes.

    ``validate_every``: measure the validation accuracy every so many steps, for `on_step`; 0 never.
    ``checkpoint``: a file to go on from after an interruption; written every `checkpoint_every` steps, removed at the
    end. A resumed run ends with the same numbers as an unbroken one.

    Raises ValueError for settings that make no sense, for a checkpoint of another run or one that is damaged, and if
    the training diverges.
    """
    if steps < 1 or batch < 1 or not lr > 0:
        raise ValueError(f"steps and batch must be at least 1 and lr positive, got steps={steps}, batch={batch}, lr={lr}")
    recipe = {
        "method": "lora", "clip": clip.name, "task": task.name, "classes": len(task.classes), "shots": task.shots,
        "task seed": task.seed, "seed": seed, "steps": steps, "lr": lr, "batch": batch, "weight decay": weight_decay,
        "lora": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(lora).items()},
    }  # fmt: skip
    run = _Run(clip, task, lora, seed, lr, steps, weight_decay)
    path, identity = (Path(checkpoint) if checkpoint else None), _identity(clip, task, recipe)
    start = run.resume(path, identity) if path else 0
    for step in tqdm(range(start, steps), desc=f"fit {task.name}", initial=start, total=steps, disable=not progress, leave=False):
        loss = run.step(step, batch)
        if not math.isfinite(loss):
            raise ValueError(f"the loss became {loss} at step {step + 1}; lower the learning rate (now {lr:g})")
        if path and (step + 1) % checkpoint_every == 0 and step + 1 < steps:
            run.save(path, identity, step + 1)
        if on_step:
            measured = run.validate() if validate_every and ((step + 1) % validate_every == 0 or step + 1 == steps) else None
            on_step(Step(step + 1, steps, loss, measured))
    adapter = run.attached.adapter(clip.hash, {**recipe, "validation accuracy": round(run.validate(), 4)})
    if path:
        path.unlink(missing_ok=True)
    return adapter


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


class _Run:
    """The state of a training: a private copy of the model with LoRA on it, and its optimiser."""

    def __init__(self, clip: Clip, task: Task, lora: LoRA, seed: int, lr: float, steps: int, weight_decay: float):
        self.clip, self.task, self.seed, self.lr, self.steps = clip, task, seed, lr, steps
        self.model = copy.deepcopy(clip.model)
        self.attached = Attached(self.model, lora, generator(seed, 0, "init"))
        self.optimiser = torch.optim.AdamW(self.attached.parameters(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.999))
        self.text_moves = "text" in lora.towers
        self.tokens = clip.tokenizer(list(task.prompts))
        self.text = clip.text_features(task.prompts).clone()

    def logits(self, x: Tensor) -> Tensor:
        """Scaled cosine similarities (n, classes) for normalised pixels (n, 3, side, side)."""
        text = F.normalize(self.model.encode_text(self.tokens), dim=-1) if self.text_moves else self.text
        return self.clip.logit_scale * F.normalize(self.model.encode_image(x), dim=-1) @ text.T

    def step(self, step: int, batch: int) -> float:
        g = generator(self.seed, step, "batch")
        train = self.task.train
        # Every image once before any comes twice, also where a batch is larger than the training set.
        rows = torch.cat([torch.randperm(len(train.labels), generator=g) for _ in range(-(-batch // len(train.labels)))])[:batch]
        x = self.task.augment(train.images[rows], g)
        x = self.clip.pixels(x) if x.dtype == torch.uint8 else self.clip.normalise(x.permute(0, 3, 1, 2))
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        self.attached.draw_dropout(g)
        with parametrize.cached():
            loss = F.cross_entropy(self.logits(x), train.labels[rows])
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
        self.optimiser.step()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> float:
        """Accuracy on the validation images, 0…1, with nothing dropped."""
        self.attached.draw_dropout(None)
        val = self.task.val
        with parametrize.cached():
            hits = [(self.logits(self.clip.pixels(x)).argmax(-1) == y) for x, y in zip(val.images.split(100), val.labels.split(100), strict=True)]
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
