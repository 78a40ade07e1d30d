"""Doors for the files of other tools: Hugging Face's CLIP folders, checkpoints in containers,
adapters of CLIP-LoRA, kohya and diffusers, folders with a split of their own, and peft's folders
with every beginning and every bias.

Whatever is read must make sense; all else is refused in a sentence.
"""

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fuzzing.damage import (
    Bomb,
    Case,
    bytes_damaged,
    dumped,
    folder_damaged,
    hostile_picture,
    json_damaged,
    may,
    pictures,
    tensors_damaged,
    value,
)

WORDS = ("a photo of a cat", "seven green boats")
"""Two texts that no tokenizer may take for the same."""


def tried(open_: Callable[[], object]) -> None:
    try:
        open_()
    except Exception as e:
        may(e)


def hugging_face(home: Path) -> Case:
    """`load_clip` of a Hugging Face folder, any of whose files is missing, damaged or says
    something else.
    """
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from copra_lab.models import loading as clips

    made, sizes = (
        home / "hf",
        {
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "hidden_size": 32,
        },
    )
    config = CLIPConfig(
        text_config={
            **sizes,
            "vocab_size": 49408,
            "max_position_embeddings": 16,
            "eos_token_id": 49407,
            "bos_token_id": 49406,
            "pad_token_id": 1,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(made)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(made)
    tokenizer_of_clip(made)
    settings = ("image_mean", "image_std", "size", "crop_size", "resample", "do_resize", "do_rescale", "do_normalize", "rescale_factor", "do_center_crop",
                "do_convert_rgb", "image_processor_type", "model_type", "architectures", "quick_gelu", "tokenizer_class", "add_prefix_space", "auto_map")  # fmt: skip

    def case(r: random.Random) -> None:
        folder = home / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
        for _ in range(r.choice((0, 1, 1, 2))):
            with suppress(ValueError, OSError, SafetensorError):  # what is damaged already
                change(folder, r)

        def open_() -> None:
            clips._loaded.clear()  # a name is loaded once, and every case has the same
            clip = clips.load_clip(folder)
            one, two = (
                clip.tokenize([w])[0].tolist()
                if hasattr(clip, "tokenize")
                else clip.tokenizer([w])[0].tolist()
                for w in WORDS
            )
            assert one != two, "two texts became the same tokens"
            assert torch.isfinite(
                clip.pixels(torch.zeros(1, clip.side, clip.side, 3, dtype=torch.uint8))
            ).all(), "pixels are not finite"

        tried(open_)

    def change(folder: Path, r: random.Random) -> None:
        file = r.choice(sorted(f for f in folder.iterdir() if f.is_file()))
        way = r.random()
        if way < 0.25:
            file.unlink()
        elif way < 0.5 and file.suffix == ".json":
            held = json.loads(file.read_bytes())
            file.write_bytes(
                dumped(
                    {**held, r.choice(settings): sensible(r) if r.random() < 0.6 else value(r)}
                    if isinstance(held, dict)
                    else held
                )
            )
        elif way < 0.75:
            folder_damaged(folder, r, home / "owned")
        elif file.name == "preprocessor_config.json":  # as newer ones write it
            inner = json.loads(file.read_bytes())
            (folder / "processor_config.json").write_bytes(
                dumped(
                    json_damaged({"image_processor": inner, "processor_class": "CLIPProcessor"}, r)
                )
            )
            if r.random() < 0.5:
                file.unlink()

    return case


def sensible(r: random.Random) -> Any:
    """What a setting may well say."""
    sizes: tuple[Any, ...] = (
        32,
        24,
        {"shortest_edge": 40},
        {"height": 32, "width": 32},
        {"height": 32, "width": 48},
        {"longest_edge": 32},
    )
    return r.choice(
        (
            *sizes,
            True,
            False,
            0,
            1,
            2,
            3,
            1 / 255,
            1 / 127.5,
            [0.5] * 3,
            [0.0] * 3,
            [1.0],
            0.5,
            "CLIPImageProcessor",
            "SiglipImageProcessor",
        )
    )


def tokenizer_of_clip(folder: Path) -> None:
    """OpenAI's tokenizer in the files of Hugging Face, from the vocabulary that open_clip brings."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    vocabulary = {
        t: i for t, i in tokenizer.encoder.items() if t not in ("<start_of_text>", "<end_of_text>")
    } | {
        "<|startoftext|>": 49406,
        "<|endoftext|>": 49407,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(m) for m in merges), encoding="utf-8"
    )
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, **special}),
        encoding="utf-8",
    )


def checkpoint(home: Path) -> Case:
    """`load_clip` of ``architecture:file``: state dicts in whatever trainers wrap them in, and what
    is none.
    """
    import numpy as np
    import torch
    from open_clip.factory import add_model_config
    from tiny import save_clip

    from copra_lab.models import loading as clips

    clip = save_clip(home / "clip", layers=1)
    config = json.loads((home / "clip" / "open_clip_config.json").read_bytes())["model_cfg"]
    (home / "Tiny-Fuzz.json").write_text(json.dumps(config), encoding="utf-8")
    add_model_config(home / "Tiny-Fuzz.json")
    state = {k: v.clone() for k, v in clip.model.state_dict().items()}

    def case(r: random.Random) -> None:
        given: Any = dict(state)
        for _ in range(r.choice((0, 0, 1, 2))):
            key, way = r.choice(list(given)), r.randrange(6)
            if way == 0:
                del given[key]
            elif way == 1:
                given[key] = given[key][..., :1].clone() if given[key].ndim else given[key]
            elif way == 2:
                given[key] = r.choice(
                    (
                        given[key].half(),
                        given[key].double(),
                        given[key] * float("nan"),
                        given[key].to(torch.int64),
                        np.float32(1),
                        None,
                        "x",
                    )
                )
            elif way == 3:
                given[
                    r.choice(
                        (
                            "logit_bias",
                            "input_resolution",
                            "context_length",
                            "vocab_size",
                            "epoch",
                            "x.weight",
                            key + ".x",
                        )
                    )
                ] = torch.tensor(1.0)
            else:
                given[key.replace("weight", "wheight")] = given.pop(key)
        prefix = r.choice(
            ("", "", "module.", "_orig_mod.", "module._orig_mod.", "model.", "clip.", "x.")
        )
        given = {f"{prefix}{k}": v for k, v in given.items()}
        for _ in range(r.choice((0, 1, 1, 2))):
            beside = r.choice(
                (
                    {},
                    {"epoch": 3},
                    {"loss": np.float64(0.5)},
                    {"args": {"lr": 1e-3}},
                    {"optimizer": {"state": {}}},
                    {"bomb": Bomb(home / "owned")},
                )
            )
            given = {
                r.choice(
                    ("state_dict", "model_state_dict", "model", "module", "weights", "ema", "x")
                ): given,
                **beside,
            }
        if r.random() < 0.06:
            given = r.choice(([given], None, 3, torch.zeros(3), {"state_dict": None}, {}))
        file = home / "case.pt"
        torch.save(given, file, _use_new_zipfile_serialization=r.random() < 0.9)
        if r.random() < 0.2:
            file.write_bytes(bytes_damaged(file.read_bytes(), r, home / "owned"))
        clips._loaded.clear()
        tried(
            lambda: clips.load_clip(
                r.choice((f"Tiny-Fuzz:{file}", f"Tiny-Fuzz:{file}", f"openai:{file}", str(file)))
            )
        )

    return case


def foreign(home: Path) -> Case:
    """`Adapter.load` of what CLIP-LoRA (.pt), kohya and diffusers (.safetensors) write, whole or
    damaged.
    """
    import torch
    from safetensors.torch import save_file
    from tiny import tiny_clip

    from copra_lab.adapters import Adapter, load_adapter

    clip = tiny_clip(layers=2)
    text, vision = 32, 64

    def clip_lora(r: random.Random, rank: int) -> Any:
        kinds = r.sample(("q_proj", "k_proj", "v_proj", "proj"), r.choice((1, 2, 3, 4)))
        encoder = r.choice(("vision", "text", "both"))
        widths = [text] * 2 * (encoder != "vision") + [vision] * 2 * (encoder != "text")
        weights = {
            f"layer_{i}": {
                k: {"w_lora_A": torch.randn(rank, w), "w_lora_B": torch.randn(w, rank)}
                for k in kinds
            }
            for i, w in enumerate(widths)
        }
        metadata = {
            "r": rank,
            "alpha": 1,
            "encoder": encoder,
            "params": [k[0] for k in kinds],
            "position": "all",
        }
        found: Any = {"weights": weights, "metadata": metadata}
        if r.random() < 0.5:
            way = r.randrange(5)
            if way == 0:
                metadata[r.choice(list(metadata))] = value(r, 1)
            elif way == 1:
                del (metadata if r.random() < 0.5 else found)[
                    r.choice(list(metadata)) if r.random() < 0.9 else "r"
                ]
            elif way == 2:
                layer = r.choice(list(weights))
                weights[layer][r.choice(kinds)]["w_lora_A"] = r.choice(
                    (
                        torch.zeros(0),
                        torch.full((rank, 5), float("nan")),
                        torch.zeros(rank + 1, vision),
                    )
                )
            elif way == 3:
                weights[r.choice(("layer_99", "x", "layer_-1"))] = weights.popitem()[1]
            else:
                found = r.choice(
                    (
                        {},
                        [],
                        None,
                        {"weights": None},
                        {"weights": {}, "metadata": {}},
                        Bomb(home / "owned"),
                    )
                )
        return found

    def named(r: random.Random, rank: int) -> dict[str, torch.Tensor]:
        style, out = r.choice(("kohya", "diffusers", "old diffusers", "mixed")), {}
        for layer in range(2):
            for kind in ("q_proj", "v_proj"):
                path, s = (
                    f"text_model.encoder.layers.{layer}.self_attn.{kind}",
                    r.choice(("kohya", "diffusers")) if style == "mixed" else style,
                )
                a, b = torch.randn(rank, text), torch.randn(text, rank)
                if s == "kohya":
                    name = f"{r.choice(('lora_te', 'lora_te', 'lora_te1', 'lora_unet'))}_{path.replace('.', '_')}"
                    out |= {
                        f"{name}.lora_down.weight": a,
                        f"{name}.lora_up.weight": b,
                        f"{name}.alpha": torch.tensor(float(r.choice((1, rank, 0)))),
                    }
                elif s == "diffusers":
                    out |= {
                        f"text_encoder.{path}.lora_A.weight": a,
                        f"text_encoder.{path}.lora_B.weight": b,
                    }
                else:
                    out |= {
                        f"text_encoder.{path}.lora_linear_layer.down.weight": a,
                        f"text_encoder.{path}.lora_linear_layer.up.weight": b,
                    }
        return out

    def case(r: random.Random) -> None:
        rank = r.choice((1, 2, 4))
        if r.random() < 0.5:
            file = home / "case.pt"
            try:
                torch.save(clip_lora(r, rank), file)
            except (KeyError, RecursionError):
                return  # nothing was made
        else:
            file = home / "case.safetensors"
            save_file(named(r, rank), file)
            if r.random() < 0.5:
                tensors_damaged(file, r)
        if r.random() < 0.2:
            file.write_bytes(bytes_damaged(file.read_bytes(), r, home / "owned"))
        tried(lambda: check(load_adapter(file, r.choice((None, clip, clip)))))

    def check(found: Adapter) -> None:
        assert found.deltas and all(
            torch.isfinite(d.delta()).all() for d in found.deltas.values()
        ), "an adapter of nothing, or of no numbers"

    return case


def split(home: Path) -> Case:
    """`load_task` and `zip_task` of images that bring their own split, of 8, 16 and 32 bits, and
    whatever lies beside.
    """
    from tiny import tiny_clip

    from copra_lab.tasks import load_task
    from copra_lab.tasks.zip_upload import zip_task

    clip = tiny_clip()
    parts = (
        "train",
        "val",
        "test",
        "Train",
        "TEST",
        "valid",
        "validation",
        "training",
        "testing",
        "eval",
        "dev",
        "images",
        "extra",
    )

    def case(r: random.Random) -> None:
        folder = home / "photos"
        shutil.rmtree(folder, ignore_errors=True)
        kinds = [
            r.choice((f"kind {i}", f"Kind_{i}", f"{i:02}")) for i in range(r.choice((1, 2, 3)))
        ]
        for part in r.sample(parts, r.choice((0, 1, 2, 2, 3))) or [""]:
            for kind in [
                *(k for k in kinds if r.random() < 0.95),
                *(["odd one"] if r.random() < 0.05 else []),
            ]:
                (folder / part / kind).mkdir(parents=True, exist_ok=True)
                for i in range(r.choice((0, 3, 6, 6))):
                    name = f"{i}{r.choice(('.png', '.png', '.tif', '.jpg', '.jfif', '.ppm', '.avif', '.JPE', '.txt', '.webp', ''))}"
                    (folder / part / kind / name).write_bytes(
                        pictures(r) if r.random() < 0.95 else hostile_picture(r, home / "owned")
                    )
        if not folder.exists():
            folder.mkdir()
        if r.random() < 0.1:
            (folder / r.choice(("README.md", "labels.csv", "train.png", "test"))).write_bytes(
                b"x"
            ) if not (folder / "test").exists() else None

        def of_folder() -> None:
            task = load_task(folder, clip, shots=r.choice((1, 2, 16)))
            found = [set(s.sources) for s in (task.train, task.val, task.test)]
            assert not (found[0] & found[2] or found[1] & found[2] or found[0] & found[1]), (
                "one image is in two parts"
            )
            for s in (task.train, task.val, task.test):
                assert len(s.images) == len(s.labels) == len(s.sources)
                assert not len(s.labels) or 0 <= int(s.labels.min()) <= int(s.labels.max()) < len(
                    task.classes
                )

        def of_zip() -> None:
            data = io.BytesIO()
            with zipfile.ZipFile(data, "w") as z:
                for file in sorted(f for f in folder.rglob("*") if f.is_file()):
                    z.write(file, file.relative_to(folder))
            task = zip_task(data.getvalue(), 32)
            assert 0 < len(task.test.images) == len(task.test.labels) <= 500
            assert len(task.classes) >= 2

        tried(r.choice((of_folder, of_folder, of_zip)))

    return case


def peft(home: Path) -> Case:
    """`PeftAdapter.load` and what is done with it: folders of peft's with every beginning and every
    bias, whole or damaged.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from tiny_peft import ATTENTION, bert

    from copra_lab.adapters import load_adapter
    from copra_lab.peft_models import PeftAdapter, average, keep

    begun: tuple[Any, ...] = (
        True,
        False,
        "gaussian",
        "pissa",
        "pissa_niter_2",
        "olora",
        "orthogonal",
    )
    made: list[Path] = []
    for n, (init, bias, whole) in enumerate(
        [(i, b, w) for i in begun for b in ("none", "all", "lora_only") for w in (False, True)]
    ):
        torch.manual_seed(n)
        options = {"task_type": "SEQ_CLS"} if whole else {}
        model = get_peft_model(
            bert(2),
            LoraConfig(
                r=2,
                init_lora_weights=init,
                bias=bias,
                target_modules=ATTENTION,
                use_rslora=n % 5 == 0,
                **options,
            ),
        )
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(0.1 * torch.randn_like(p))
        model.save_pretrained(home / f"made {n}")
        made.append(home / f"made {n}")

    def use(folder: Path, r: random.Random) -> None:
        if r.random() < 0.2:
            load_adapter(folder)
            return
        found = PeftAdapter.load(folder)
        way = r.randrange(4)
        if way == 0:
            found = average(
                [found, found],
                [r.choice((0.5, 1, 1, -1)), r.choice((0.5, 1, -1, 0))],
                r.choice(("delta", "parameters")),
            )
        elif way == 1:
            found = keep(found, r.choice(("even", "odd", "low", list(found.blocks())[:1])))
        elif way == 2:
            found = found.with_deltas(found.deltas)
        found.save(home / "out")
        PeftAdapter.load(home / "out")

    def case(r: random.Random) -> None:
        folder = home / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(r.choice(made), folder)
        if r.random() < 0.6:
            folder_damaged(folder, r, home / "owned")
        tried(lambda: use(folder, r))

    return case


READERS: dict[str, tuple[Callable[[Path], Case], int]] = {
    "hugging-face": (hugging_face, 300),
    "checkpoint": (checkpoint, 300),
    "foreign": (foreign, 400),
    "split": (split, 300),
    "peft": (peft, 200),
}
