"""A randomly initialised CLIP of the bundled architecture in small, and adapters with random
non-zero A and B.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from copra_lab.adapters import Adapter, LowRank
from copra_lab.models import KINDS, TOWERS, Clip, choose
from copra_lab.tasks import Split, Task

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@cache
def tiny_clip(
    seed: int = 0, layers: int = 3, quick_gelu: bool = False, block_type: str | None = None
) -> Clip:
    from open_clip.model import CLIP
    from open_clip.tokenizer import SimpleTokenizer

    torch.manual_seed(seed)
    tokenizer = SimpleTokenizer(context_length=16)
    vision = {
        "image_size": 32,
        "patch_size": 8,
        "width": 64,
        "layers": layers,
        "head_width": 16,
        "mlp_ratio": 3.0,
    }
    text = {
        "context_length": 16,
        "vocab_size": tokenizer.vocab_size,
        "width": 32,
        "heads": 2,
        "layers": 2,
    }
    if block_type:
        vision["block_type"] = text["block_type"] = block_type
    model = CLIP(32, vision, text, quick_gelu=quick_gelu).requires_grad_(False).eval()
    for p in model.parameters():  # biases and norms too, so that no identity holds by a zero
        p.add_(0.02 * torch.randn_like(p))
    return Clip(model, tokenizer, f"tiny-{seed}", 32, MEAN, STD)


def save_clip(folder: Path, layers: int = 3) -> Clip:
    """`tiny_clip` as a folder that `load_clip` reads, in other processes too."""
    from safetensors.torch import save_file

    clip = tiny_clip(layers=layers)
    folder.mkdir(parents=True)
    save_file(
        {k: v.contiguous() for k, v in clip.model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    vision = {
        "image_size": 32,
        "patch_size": 8,
        "width": 64,
        "layers": layers,
        "head_width": 16,
        "mlp_ratio": 3.0,
    }
    text = {
        "context_length": 16,
        "vocab_size": clip.tokenizer.vocab_size,
        "width": 32,
        "heads": 2,
        "layers": 2,
    }
    config = {
        "model_cfg": {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return clip


def save_images(folder: Path, n: int = 60) -> None:
    """The images of `tiny_task` as a folder with one folder a class."""
    from PIL import Image

    task = tiny_task(n)
    for split in (task.train, task.val, task.test):
        for image, label, source in zip(
            split.images, split.labels.tolist(), split.sources, strict=True
        ):
            file = folder / task.classes[label].replace(" ", "_") / f"{source}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.numpy()).save(file)


def random_adapter(
    clip: Clip,
    rank: int = 3,
    seed: int = 0,
    kinds=KINDS,
    towers=TOWERS,
    size: float = 0.1,
    scale: float = 0.7,
) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    pairs = {
        s.name: LowRank(
            size * torch.randn(rank, s.width, generator=g),
            size * torch.randn(s.shape[0], rank, generator=g),
            scale,
        )
        for s in choose(clip.sites, kinds, towers)
    }
    return Adapter(pairs, clip.hash, {"clip": clip.name})


@cache
def tiny_task(n: int = 60, classes: int = 4, side: int = 32, seed: int = 0) -> Task:
    """Squares of noise whose colour tells the class: learnable in a few steps."""
    g = torch.Generator().manual_seed(seed)

    def split(n: int, name: str) -> Split:
        labels = torch.arange(n) % classes
        colours = torch.tensor([[200, 40, 40], [40, 180, 60], [50, 60, 200], [220, 200, 60]])
        noise = torch.randint(-40, 40, (n, side, side, 3), generator=g)
        images = (colours[labels % 4].view(-1, 1, 1, 3) + noise).clamp(0, 255).to(torch.uint8)
        return Split(images, labels, tuple(f"{name}{i}" for i in range(n)))

    names = ("red thing", "green thing", "blue thing", "yellow thing")[:classes]
    return Task(
        name="colours", title="Colours", about="Noise of four colours.", classes=names, template="a {}", train=split(n, "train"),
        val=split(n // 3, "val"), test=split(2 * n, "test"), shots=n // classes, seed=0, flip=True,
    )  # fmt: skip


def perturb(model: torch.nn.Module, seed: int = 0, size: float = 0.02) -> torch.nn.Module:
    """Every weight moved a little, biases and norms too, so that no identity holds by a zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn(p.shape, generator=g))
    return model.eval().requires_grad_(False)


def siglip_tokenizer():
    """A tokenizer with SigLIP's habits (lower case, an end but no start, padded with the end) for a
    few words.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", *"a red green blue yellow thing cat dog on the mat photo of".split()]
    found = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    found.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("!", "")])
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=found, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )


def clip_tokenizer(context: int = 16, merges: int | None = None):
    """open_clip's tokenizer of CLIP, all of it or with its first so many merges."""
    import gzip
    import tempfile

    from open_clip.tokenizer import SimpleTokenizer, default_bpe

    if merges is None:
        return SimpleTokenizer(context_length=context)
    lines = gzip.open(default_bpe()).read().decode("utf-8").split("\n")[: 1 + merges]
    with tempfile.NamedTemporaryFile(suffix=".gz") as file:
        file.write(gzip.compress("\n".join(lines).encode("utf-8")))
        file.flush()
        return SimpleTokenizer(file.name, context_length=context)


def words_tokenizer(words: list[str], end: str):
    """A tokenizer of transformers for a few words, by their numbers, that ends texts with `end` and
    pads with it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, words[0]))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        f"$A {end}", special_tokens=[(end, words.index(end))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=found, unk_token=words[0], eos_token=end, pad_token=end
    )


def save_siglip(folder, seed: int = 0):
    """A randomly initialised SigLIP in small, written into `folder` by transformers itself; returns
    transformers' model.
    """
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(seed)
    sizes = {"num_attention_heads": 2, "intermediate_size": 80}
    vision = {**sizes, "hidden_size": 48, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    text = {
        **sizes,
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "vocab_size": 20,
        "max_position_embeddings": 12,
        "projection_size": 48,
    }
    model = perturb(SiglipModel(SiglipConfig(vision_config=vision, text_config=text)), seed)
    model.save_pretrained(folder)
    siglip_tokenizer().save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


@contextmanager
def one_thread() -> Iterator[None]:
    """As workers and the page train: on some processors two threads end in other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
