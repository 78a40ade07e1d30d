"""Publishing to the hub and fetching from it, by huggingface_hub's own client against a small hub
on this computer.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from small_hub import TOKEN, SmallHub
from tiny import random_adapter, save_siglip, tiny_clip

from copra_lab.adapters import Adapter, LowRank, load_adapter, model_card, push_to_hub, save_adapter
from copra_lab.models import load_clip

MADE = {
    "clip": "somebody/some-clip", "task": "digits", "classes": 10, "shots": 16, "method": "copra", "steps": 1200, "lr": 0.002,
    "dropping": {"start": 0.0, "shape": "linear"}, "validation accuracy": 0.8125, "notes": "a | b",
}  # fmt: skip


def described(**changes) -> Adapter:
    adapter = random_adapter(tiny_clip(), kinds=("q", "v"))
    return Adapter(
        adapter.deltas, adapter.base, {k: v for k, v in (MADE | changes).items() if v is not None}
    )


def test_a_model_card_says_what_the_provenance_says():
    adapter = described()
    card = ModelCard(model_card(adapter, "me/digits-copra"))
    assert card.data.base_model == "somebody/some-clip"
    assert card.data.library_name == "peft"
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert {
        "copra",
        "lora",
        "copra-lab",
    } <= set(card.data.tags)
    assert card.data.license is None  # nobody said
    for words in (
        "# digits-copra", adapter.base, f"{adapter.parameters:,} numbers", "q, v", "3 of the vision tower; 2 of the text tower", "| shots | 16 |",
        "| dropping | start 0.0; shape linear |", "| validation accuracy | 0.8125 |", "a \\| b", 'load_adapter("hf-hub:me/digits-copra", clip)',
        'from_pretrained(model, "me/digits-copra")',
    ):  # fmt: skip
        assert words in card.text, words


@pytest.mark.parametrize("clip", ["emoji-clip", "ViT-B-32:laion2b_s34b_b79k", "/folder/clip", None])
def test_a_base_that_is_not_on_the_hub_is_not_claimed_to_be(clip):
    card = ModelCard(model_card(described(clip=clip), "me/x"))
    assert card.data.base_model is None
    assert clip is None or f"`{clip}`" in card.text


def test_what_is_not_recorded_is_not_made_up():
    card = ModelCard(
        model_card(
            Adapter(
                {
                    "vision_model.encoder.layers.0.self_attn.q_proj": LowRank(
                        torch.ones(1, 4), torch.ones(4, 1)
                    )
                }
            ),
            "me/x",
        )
    )
    assert "Nothing is recorded about that." in card.text
    assert "not recorded" in card.text
    assert "|---|" not in card.text


@pytest.mark.parametrize(
    "use", [lambda: push_to_hub(described(), "me/x"), lambda: load_adapter("hf-hub:me/x")]
)
def test_without_a_network_one_sentence_says_what_to_do(use):
    with pytest.raises(
        ConnectionError,
        match=r"'me/x' needs the Hugging Face hub.* or give ",
    ) as e:
        use()
    assert "\n" not in str(e.value)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match="write it as owner/name"):
        load_adapter("hf-hub:me/x/y")


CLIENT = """
import json, os, sys
from pathlib import Path
import huggingface_hub.constants as constants
from copra_lab.adapters import load_adapter, push_to_hub
from copra_lab.models import load_clip, loading

def refused(what, *args, **more):
    try:
        what(*args, **more)
    except Exception as e:
        return [type(e).__name__, str(e)]

base, adapter = load_clip(sys.argv[1]), load_adapter(sys.argv[2])
said = {"no token": refused(push_to_hub, adapter, "me/adapter", token=False)}
said["url"] = push_to_hub(adapter, "me/adapter", token=sys.argv[3])
said["same"] = load_adapter("hf-hub:me/adapter", base) == adapter
said["again"] = push_to_hub(adapter, "me/adapter", token=sys.argv[3])
names = ["hf-hub:me/siglip", "me/siglip", "hf-hub:me/open-clip"]
said["hashes"] = [load_clip(n).hash for n in names]
said["names"] = [load_clip(n).name for n in names]
said["nowhere"] = refused(load_clip, "hf-hub:me/nowhere")
said["nothing"] = refused(load_clip, "hf-hub:me/nothing")
said["fetched"] = sorted(p.name for p in Path(os.environ["HF_HOME"]).glob("hub/models--me--open-clip/snapshots/*/*"))
constants.HF_HUB_OFFLINE = True
loading._loaded.clear()
said["offline"] = [load_clip(n).hash for n in names]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_what_is_published_can_be_fetched(tmp_path):
    save_siglip(tmp_path / "siglip")
    siglip = load_clip(tmp_path / "siglip")
    adapter = random_adapter(siglip, rank=2)
    save_adapter(adapter, tmp_path / "adapter")
    import io
    from importlib.resources import files

    from safetensors.torch import load_file

    folder = files("copra_lab") / "assets" / "clip"
    pickled = io.BytesIO()
    torch.save(
        {k: v.clone() for k, v in load_file(folder / "open_clip_model.safetensors").items()},
        pickled,
    )
    hub = SmallHub()
    try:
        hub.repos["me/siglip"] = {f.name: f.read_bytes() for f in (tmp_path / "siglip").iterdir()}
        hub.repos["me/open-clip"] = {
            "open_clip_config.json": (folder / "open_clip_config.json").read_bytes(),
            "merges.txt.gz": (folder / "merges.txt.gz").read_bytes(),
            "open_clip_pytorch_model.bin": pickled.getvalue(),
            "another_format.msgpack": b"not wanted",
        }
        hub.repos["me/nothing"] = {"README.md": b"nothing"}
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env |= {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        command = [
            sys.executable,
            "-c",
            CLIENT,
            str(tmp_path / "siglip"),
            str(tmp_path / "adapter"),
            TOKEN,
        ]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    finally:
        hub.close()
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["same"]
    assert said["url"].startswith(hub.url)
    assert said["again"]
    assert set(hub.repos["me/adapter"]) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    assert said["no token"][0] == "PermissionError"
    assert "hf auth login" in said["no token"][1]
    assert said["hashes"] == [siglip.hash, siglip.hash, load_clip().hash] == said["offline"]
    assert said["names"] == ["me/siglip", "me/siglip", "me/open-clip"]
    assert said["fetched"] == [
        "merges.txt.gz",
        "open_clip_config.json",
        "open_clip_pytorch_model.bin",
    ]
    assert said["nowhere"][0] == "FileNotFoundError"
    assert "shows no repository 'me/nowhere'" in said["nowhere"][1]
    assert said["nothing"][0] == "FileNotFoundError"
    assert "holds no CLIP" in said["nothing"][1]
    assert not any("\n" in said[k][1] for k in ("no token", "nowhere", "nothing"))
