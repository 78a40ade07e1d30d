"""The other libraries at their best.

They get the same weights in their own modules, inference mode, texts encoded once, pixels prepared
once, and the batch size that is fastest for them.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from race import seconds
from torch import Tensor

from copra_lab.adapters import Adapter, LowRank, save_adapter
from copra_lab.adapters.adapter import merged_weights
from copra_lab.bench import Bench
from copra_lab.models import Clip, choose, to_hugging_face
from copra_lab.pruning import keep, layers_of
from copra_lab.tasks import Task


def first(task: Task, images: int) -> Task:
    """The task with only this many test images, spread evenly over all of them."""
    return replace(task, test=task.test.pick([i * len(task.test) // images for i in range(images)]))


def fastest(images: int, run: Callable[[int], object]) -> int:
    """The batch size, of a few, at which `run` is fastest over this many images."""
    return min(
        {min(b, images) for b in (16, 32, 64, 128, 400)},
        key=lambda b: min(seconds(lambda: run(b)) for _ in range(3)),
    )


class FullForward:
    """The layer game in the obvious way, with open_clip's model.

    For each coalition its layers' weights go into the model, which then runs over all images. Only
    layers that differ from the previous coalition are exchanged.
    """

    def __init__(self, bench: Bench, adapter: Adapter, dtype: torch.dtype = torch.float32):
        clip = bench.clip
        self.model = copy.deepcopy(clip.model).to(dtype)
        self.text, self.labels, self.scale = bench.text.to(dtype), bench.labels, clip.logit_scale
        self.pixels = clip.pixels(bench.split.images[bench.order]).to(dtype)
        params = dict(self.model.named_parameters())
        self.players = []
        for layer in layers_of(adapter):
            merged = merged_weights(clip.model, keep(adapter, [layer]))
            self.players.append(
                [(params[k], params[k].detach().clone(), w.to(dtype)) for k, w in merged.items()]
            )
        self.state = [False] * len(self.players)
        self.batch = fastest(len(self.pixels), self.predict)

    @torch.inference_mode()
    def predict(self, batch: int | None = None) -> Tensor:
        f = torch.cat([self.model.encode_image(x) for x in self.pixels.split(batch or self.batch)])
        return (self.scale * F.normalize(f, dim=-1) @ self.text.T).argmax(-1)

    @torch.inference_mode()
    def put(self, coalition: Sequence[bool]) -> None:
        for i, on in enumerate(coalition):
            if on != self.state[i]:
                for p, off_weight, on_weight in self.players[i]:
                    p.copy_(on_weight if on else off_weight)
                self.state[i] = bool(on)

    def __call__(self, coalitions: np.ndarray) -> np.ndarray:
        out = np.empty(len(coalitions))
        for row, coalition in enumerate(np.atleast_2d(coalitions)):
            self.put(coalition)
            out[row] = (self.predict() == self.labels).float().mean()
        return out


class PeftPath:
    """A line between two adapters with peft's `add_weighted_adapter`, on the Hugging Face model.

    Its "cat" sums ΔW exactly.
    """

    def __init__(self, bench: Bench, a: Adapter, b: Adapter):
        from peft import PeftModel

        clip = bench.clip
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(a, Path(folder) / "a")
            save_adapter(b, Path(folder) / "b")
            self.model = PeftModel.from_pretrained(
                to_hugging_face(clip), str(Path(folder) / "a"), adapter_name="a"
            ).eval()
            self.model.load_adapter(str(Path(folder) / "b"), adapter_name="b")
        self.text, self.scale, self.labels = bench.text, clip.logit_scale, bench.labels
        self.pixels = clip.pixels(bench.split.images[bench.order])
        self.batch = fastest(len(self.pixels), self.accuracy)

    @torch.inference_mode()
    def accuracy(self, batch: int | None = None) -> float:
        clip = self.model.base_model.model
        f = torch.cat(
            [
                clip.get_image_features(pixel_values=x).pooler_output
                for x in self.pixels.split(batch or self.batch)
            ]
        )
        return (
            ((self.scale * F.normalize(f, dim=-1) @ self.text.T).argmax(-1) == self.labels)
            .float()
            .mean()
            .item()
        )

    def look_at(self, bench: Bench) -> "PeftPath":
        """The images of another bench of the same task, at the chosen batch size."""
        self.labels, self.pixels = bench.labels, bench.clip.pixels(bench.split.images[bench.order])
        return self

    def path(self, weights: Sequence[float]) -> list[float]:
        out = []
        for w in weights:
            self.model.add_weighted_adapter(["a", "b"], [1 - w, w], "line", combination_type="cat")
            self.model.set_adapter("line")
            out.append(self.accuracy())
            self.model.set_adapter("a")
            self.model.delete_adapter("line")
        return out


class PeftFit:
    """LoRA of the same rank on the same matrices with peft, on the Hugging Face model.

    It uses the same augmented batches and optimiser, and texts encoded once.
    """

    def __init__(self, clip: Clip, task: Task, batch: int):
        from peft import LoraConfig, get_peft_model

        self.clip, self.task, self.batch = clip, task, batch
        config = LoraConfig(r=4, lora_alpha=4, target_modules=r"vision_model\..*\.(q|k|v)_proj")
        self.model = get_peft_model(to_hugging_face(clip), config).train()
        self.text = clip.text_features(task.prompts).clone()

    def steps(self, steps: int) -> None:
        task, g = self.task, torch.Generator().manual_seed(0)
        clip = self.model.base_model.model
        optimiser = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=2e-3,
            weight_decay=1e-2,
            fused=True,
        )
        for _ in range(steps):
            rows = torch.randperm(len(task.train), generator=g)[: self.batch]
            x = task.augment(self.clip.pixels(task.train.images[rows]), g)
            f = F.normalize(clip.get_image_features(pixel_values=x).pooler_output, dim=-1)
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(
                self.clip.logit_scale * f @ self.text.T, task.train.labels[rows]
            ).backward()
            optimiser.step()


def random_vit_b_32() -> Clip:
    """open_clip's ViT-B-32 with random weights and its own tokenizer: only for its speed."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").requires_grad_(False).eval()
    return Clip(
        model,
        open_clip.get_tokenizer("ViT-B-32"),
        "ViT-B-32, random",
        224,
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )


def random_adapter(
    clip: Clip,
    kinds: Sequence[str] = ("q", "k", "v"),
    towers: Sequence[str] = ("vision",),
    size: float = 0.02,
) -> Adapter:
    """Rank 4 with random A and B on the chosen sites."""
    g = torch.Generator().manual_seed(0)
    pairs = {
        s.name: LowRank(
            torch.randn(4, s.width, generator=g) * size,
            torch.randn(s.shape[0], 4, generator=g) * size,
        )
        for s in choose(clip.sites, kinds, towers)
    }
    return Adapter(pairs, clip.hash)
