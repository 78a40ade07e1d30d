"""Make a pretrained model the bundled one: ``python recipes/export_clip.py --work …``.

It writes half-precision weights, configuration and vocabulary into ``copra_lab/assets/clip``.
Everything made from the old weights is then out of date: run ``python recipes/rebuild.py``.
"""

import argparse
import json
import shutil
from pathlib import Path

from pretraining_data import MEAN, STD
from safetensors.torch import load_file, save_file
from student import config, tokenizer

from copra_lab.utils.files import written_aside

ASSETS = Path(__file__).parents[1] / "copra_lab" / "assets" / "clip"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--work", type=Path, default=Path.home() / ".cache" / "copra-lab-pretrain")
    p.add_argument("--to", type=Path, default=ASSETS)
    a = p.parse_args()
    weights = load_file(a.work / "clip.safetensors")
    both = {
        "model_cfg": config(tokenizer(a.work).vocab_size),
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }
    with written_aside(a.to) as aside:
        save_file(
            {k: v.half().contiguous() for k, v in weights.items()},
            aside / "open_clip_model.safetensors",
        )
        shutil.copyfile(a.work / "merges.txt.gz", aside / "merges.txt.gz")
        (aside / "open_clip_config.json").write_text(
            json.dumps(both, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
