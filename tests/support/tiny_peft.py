"""Small random models of Hugging Face's real architectures, and adapters of every method of peft's
that has layers, with random numbers that do something.
"""

import copy
from functools import cache

import peft
import torch
from torch import nn

VOCABULARY, CLASSES = 50, 3
ATTENTION = ["query", "value"]


@cache
def _bert(layers: int, inner: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": inner,
        "max_position_embeddings": 32,
    }
    return BertForSequenceClassification(
        BertConfig(vocab_size=VOCABULARY, num_hidden_layers=layers, num_labels=CLASSES, **sizes)
    ).eval()


def bert(layers: int = 4, inner: int = 32) -> nn.Module:
    """A fresh text classifier, in evaluation mode, its feed-forward layers `inner` wide."""
    return copy.deepcopy(_bert(layers, inner))


METHODS: dict[str, peft.PeftConfig] = {
    "LoRA": peft.LoraConfig(r=2, lora_alpha=3, target_modules=ATTENTION),
    "rsLoRA, ranks by layer": peft.LoraConfig(
        r=4,
        lora_alpha=3,
        use_rslora=True,
        target_modules=ATTENTION,
        rank_pattern={"layer.1.attention.self.query": 2},
    ),
    "LoRA and a head": peft.LoraConfig(r=2, target_modules=ATTENTION, task_type="SEQ_CLS"),
    "DoRA": peft.LoraConfig(r=2, use_dora=True, target_modules=ATTENTION),
    "LoHa": peft.LoHaConfig(r=2, target_modules=ATTENTION),
    "LoKr": peft.LoKrConfig(r=2, target_modules=ATTENTION),
    "VeRA": peft.VeraConfig(r=4, target_modules=ATTENTION),
    "RandLoRA": peft.RandLoraConfig(r=4, target_modules=ATTENTION),
    "IA3": peft.IA3Config(
        target_modules=["value", "intermediate.dense"], feedforward_modules=["intermediate.dense"]
    ),
    "OFT": peft.OFTConfig(r=0, oft_block_size=8, target_modules=ATTENTION),
    "HRA": peft.HRAConfig(r=2, target_modules=ATTENTION),
    "FourierFT": peft.FourierFTConfig(n_frequency=20, target_modules=ATTENTION),
    "VB-LoRA": peft.VBLoRAConfig(
        r=2, num_vectors=16, vector_length=4, topk=2, target_modules=ATTENTION
    ),
    "LayerNorm": peft.LNTuningConfig(target_modules=["attention.output.LayerNorm"]),
}


def adapted(method: str, seed: int = 0, layers: int = 4) -> peft.PeftModel:
    """A classifier with random, non-zero adapters, in evaluation mode. The base is the same for
    every seed.
    """
    base = bert(layers)
    torch.manual_seed(0)  # what a method draws once for good is the same for every seed
    model = peft.get_peft_model(base, copy.deepcopy(METHODS[method]))
    return moved(model, seed)


def moved(model: nn.Module, seed: int = 0, size: float = 0.3) -> nn.Module:
    """The model, in evaluation mode, with noise on whatever would be trained."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(size * torch.randn(p.shape, generator=g))
    return model.eval()


def tokens(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (n, 8), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: nn.Module, x: torch.Tensor | None = None) -> torch.Tensor:
    return model(input_ids=tokens() if x is None else x).logits
