"""What ``pip install copra-lab`` alone is for: ``python base_alone.py`` takes a model of peft's
through all of it.
"""

import tempfile
from pathlib import Path

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import copra_lab as cl
from copra_lab.merging import ties, truncate, weighted_sum
from copra_lab.peft_models import average, keep
from copra_lab.shapley import SwitchGame, exact

TEXTS = torch.arange(24).view(3, 8)


def model() -> peft.PeftModel:
    """A small language model with fresh LoRA, of fixed seeds."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=24, num_hidden_layers=3, **sizes))
    return peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))


def loss(of: torch.nn.Module) -> torch.Tensor:
    return of(input_ids=TEXTS, labels=TEXTS).loss


def trained(seed: int) -> peft.PeftModel:
    """Sixteen steps of CopRA."""
    made = model()
    optimiser = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-2)
    drops = cl.Progressive(made, steps=16, seed=seed)
    for step in range(16):
        with drops.step(step):
            loss(made).backward()
            optimiser.step()
        optimiser.zero_grad()
    return made


learned, other = trained(0), trained(1)
with torch.no_grad():
    assert loss(learned) < loss(model())

one, two = cl.PeftAdapter.of(learned), cl.PeftAdapter.of(other)
blocks = ["model.layers.0", "model.layers.2"]
with tempfile.TemporaryDirectory() as folder:
    for adapter in (average([one, two]), keep(one, blocks)):
        adapter.save(Path(folder, "adapter"))
        peft.PeftModel.from_pretrained(model().get_base_model(), Path(folder, "adapter"))

deltas = [one.deltas, two.deltas]
for merged in (weighted_sum(deltas, [0.5, 0.5]), ties(deltas), truncate(deltas[0], 1)):
    assert one.with_deltas(merged).tensors

game = SwitchGame(learned, lambda m: -loss(m).item())
values = exact(game, game.n_players)
print("values of the layers:", *(f"{v:.3f}" for v in values.values))
