"""Checks that a model is the same from every source: ``python benchmarks/equality.py``.

It saves randomly initialised CLIPs of the real architectures in every format, loads them, and
prints how far the outputs are from those of the original libraries: features of images and texts
without an adapter, and logits with random adapters on every site, against peft on transformers.
Each number is the largest difference of any entry.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from others import random_adapter
from peft import PeftModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedTokenizerFast

from copra_lab.adapters import save_adapter
from copra_lab.adapters.adapter import merged_weights
from copra_lab.models import KINDS, TOWERS, Clip, load_clip, save_hugging_face, to_hugging_face

MODELS = ("ViT-B-32", "ViT-B-16", "ViT-B-16-SigLIP")
LIBRARIES = ("torch", "open_clip_torch", "timm", "transformers", "peft")


def saved(name: str, model: nn.Module, folder: Path) -> Iterator[tuple[str, str]]:
    """A format's name, and what `load_clip` is given for it."""
    weights, siglip, cfg = model.state_dict(), "SigLIP" in name, open_clip.get_model_config(name)

    def tokenizer(at: Path) -> None:
        """SigLIP's tokenizer comes from the hub; any that tells words apart works here.

        Both sides get the same numbers.
        """
        if siglip:
            vocabulary = ["<unk>", "</s>", *"a photo of the cat dog red green blue thing".split()]
            words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
            words.pre_tokenizer = pre_tokenizers.Whitespace()
            words.post_processor = processors.TemplateProcessing(
                "$A </s>", special_tokens=[("</s>", 1)]
            )
            PreTrainedTokenizerFast(
                tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
            ).save_pretrained(at)

    def open_clip_folder(at: Path, cfg: dict) -> str:
        at.mkdir()
        (at / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": cfg, "preprocess_cfg": {}})
        )
        save_file(weights, at / "open_clip_model.safetensors")
        tokenizer(at)
        return str(at)

    yield "open_clip folder", open_clip_folder(folder / "own", cfg)
    if not siglip:
        custom = {
            k: {**v, "block_type": "custom"} if k.endswith("_cfg") else v for k, v in cfg.items()
        }
        yield "open_clip folder, its own attention", open_clip_folder(folder / "custom", custom)
    tokenizer(folder)
    torch.save({"state_dict": weights}, folder / "epoch_1.pt")
    yield "architecture and checkpoint (.pt)", f"{name}:{folder / 'epoch_1.pt'}"
    if not siglip:
        sizes = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
        save_file(
            weights | {k: torch.tensor(v) for k, v in sizes.items()}, folder / "openai.safetensors"
        )
        yield "OpenAI's state dict (QuickGELU)", str(folder / "openai.safetensors")
    save_hugging_face(load_clip(folder / "own"), folder / "hf")
    yield "Hugging Face folder", str(folder / "hf")


@torch.no_grad()
def compared(name: str, source: str, clip: Clip, model: nn.Module, folder: Path) -> str:
    """One row: `clip` against open_clip's `model` and the same weights in transformers."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, clip.side, clip.side, generator=g)
    context, words = model.context_length, model.vocab_size
    tokens = torch.randint(2, words - 2, (4, context), generator=g)
    tokens[:, 6:] = 0
    tokens[:, 5] = words - 1
    quick = "QuickGELU" in source
    if quick:
        model = open_clip.create_model(f"{name}-quickgelu").eval()
        model.load_state_dict(clip.model.state_dict())
    images = largest(
        F.normalize(clip.model.encode_image(x), dim=-1), model.encode_image(x, normalize=True)
    )
    texts = largest(
        F.normalize(clip.model.encode_text(tokens), dim=-1),
        model.encode_text(tokens, normalize=True),
    )
    twin = (
        to_hugging_face(clip).eval() if quick else AutoModel.from_pretrained(folder / "hf").eval()
    )
    theirs = twin(pixel_values=x, input_ids=tokens).logits_per_image
    plain = largest(logits(clip.model, x, tokens), theirs)
    adapter = random_adapter(clip, KINDS, TOWERS, 0.05)
    save_adapter(adapter, folder / "adapter")
    theirs = (
        PeftModel.from_pretrained(twin, str(folder / "adapter"))
        .eval()(pixel_values=x, input_ids=tokens)
        .logits_per_image
    )
    base = {k: v.clone() for k, v in clip.model.state_dict().items()}
    clip.model.load_state_dict(base | merged_weights(clip.model, adapter))
    adapted = largest(logits(clip.model, x, tokens), theirs)
    clip.model.load_state_dict(base)
    return f"| {name} | {source} | {images} | {texts} | {plain} | {adapted} |"


def logits(model: nn.Module, x: Tensor, tokens: Tensor) -> Tensor:
    cosines = model.encode_image(x, normalize=True) @ model.encode_text(tokens, normalize=True).T
    return model.logit_scale.exp() * cosines + (0 if model.logit_bias is None else model.logit_bias)


def largest(a: Tensor, b: Tensor) -> str:
    return f"{(a - b).abs().max().item():.1e}"


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "models", nargs="*", default=MODELS, help="open_clip's names of ViTs (default: %(default)s)"
    )
    a = p.parse_args()
    print(", ".join(f"{name} {version(name)}" for name in LIBRARIES), end="\n\n")
    print(
        "| model | source | images, open_clip | texts, open_clip | logits, transformers | logits "
        "with adapters, peft |\n|---|---|---|---|---|---|"
    )
    for name in a.models:
        torch.manual_seed(0)
        model = open_clip.create_model(name, pretrained_text=False).eval().requires_grad_(False)
        with tempfile.TemporaryDirectory() as folder:
            for source, given in list(saved(name, model, Path(folder))):
                print(compared(name, source, load_clip(given), model, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
