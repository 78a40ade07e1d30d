"""The bundled CLIP's architecture and how it is trained: threads for gradients, Muon and AdamW."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from muon import Muon
from safetensors.torch import save_file
from teachers import precision
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

WIDTH, LAYERS, HEADS, EMBED, CONTEXT, SIDE = 128, 12, 4, 128, 32, 64


def config(vocab_size: int) -> dict:
    """The model's configuration in open_clip's terms."""
    return {
        "embed_dim": EMBED,
        "vision_cfg": {
            "image_size": SIDE,
            "patch_size": 16,
            "width": WIDTH,
            "layers": LAYERS,
            "head_width": WIDTH // HEADS,
            "mlp_ratio": 3.0,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocab_size,
            "width": WIDTH,
            "heads": HEADS,
            "layers": 4,
        },
    }


def build(vocab_size: int, dropped: float = 0.0) -> nn.Module:
    """A model with random weights.

    ``dropped`` is the share of image tokens left out in training (FLIP, arXiv:2212.00794).
    """
    from open_clip.model import CLIP

    torch.manual_seed(0)
    cfg = config(vocab_size)
    return CLIP(**cfg | {"vision_cfg": {**cfg["vision_cfg"], "patch_dropout": dropped}})


def tokenizer(work: Path):
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(work / "merges.txt.gz"), context_length=CONTEXT)


class Student(nn.Module):
    """The image tower, a head for the image teacher's features, and the scale of the logits."""

    def __init__(self, visual: nn.Module, teacher: int):
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(EMBED, teacher)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (n, 3, 64, 64) → normalised features (n, EMBED), the head's, and the scale."""
        f = self.visual(x)
        return (
            F.normalize(f.float(), dim=-1),
            F.normalize(self.head(f).float(), dim=-1),
            self.scale.float().exp().clamp(max=100),
        )


class Replicas:
    """Gradients of a batch, split into as many parts as there are threads.

    They are computed in bfloat16 if the device supports it; the weights are float32.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], threads: int, device: str):
        self.params, self.threads, self.device = (
            list(named.values()),
            threads,
            torch.device(device).type,
        )
        self.half = precision(device) == torch.bfloat16
        self.pool = ThreadPoolExecutor(threads)

    def gradients(
        self, loss_of: Callable[[int], tuple[Tensor, dict[str, float]]]
    ) -> dict[str, float]:
        """Set ``.grad`` of every parameter.

        `loss_of(i)` gives the loss of part i and numbers to report; their means are returned.
        """

        def part(i: int) -> tuple[tuple[Tensor, ...], dict[str, float]]:
            # On a CPU the fused kernel's backward pass is several times slower than plain products.
            plain = sdpa_kernel(SDPBackend.MATH) if self.device == "cpu" else nullcontext()
            with plain:
                with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
                    loss, numbers = loss_of(i)
                return torch.autograd.grad(loss, self.params), numbers

        grads, numbers = zip(*self.pool.map(part, range(self.threads)), strict=True)
        for p, *parts in zip(self.params, *grads, strict=True):
            p.grad = sum(parts[1:], parts[0]) / self.threads
        return {k: sum(n[k] for n in numbers) / self.threads for k in numbers[0]}


def optimisers(named: Mapping[str, nn.Parameter], lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for the rest."""
    inside = {n: p for n, p in named.items() if p.ndim == 2 and "resblocks" in n}
    matrices = [p for n, p in named.items() if n not in inside and p.ndim >= 2]
    vectors = [p for n, p in named.items() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return [Muon(inside.values(), lr), torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))]


def atomic(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write safetensors atomically."""
    part = path.with_suffix(".part")
    save_file(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part, metadata
    )
    part.replace(path)
