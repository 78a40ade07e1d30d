"""What the page and the bench should say, worked out by nothing of `copra_lab.merging.linear`,
`copra_lab.pruning` and `copra_lab.bench.bench`.
"""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from copra_lab.adapters import Adapter, LowRank
from copra_lab.adapters.adapter import merged_weights


def independent(clip, task, *parts: tuple[Adapter, float]) -> int:
    """Right answers of the model with Σ share·ΔW of its adapters, by the model's own code: nothing
    of `merge` and `bench`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # several wait for each other rather than work, on a machine that the app keeps busy
    weights = {k: v.clone() for k, v in clip.model.state_dict().items()}
    for adapter, share in parts:
        for name, merged in merged_weights(clip.model, adapter).items():
            weights[name] += share * (merged - clip.model.state_dict()[name])
    model = copy.deepcopy(clip.model)
    model.load_state_dict(weights)
    with torch.inference_mode():
        image = torch.cat([model.encode_image(clip.pixels(x)) for x in task.test.images.split(100)])
        text = model.encode_text(clip.tokenizer(task.prompts))
        correct = (F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T).argmax(
            -1
        ) == task.test.labels
    torch.set_num_threads(threads)
    return int(correct.sum())


def cut(adapter: Adapter, layers=None, kinds=None, percent: int = 0) -> Adapter:
    """The pruned adapter, by nothing of `copra_lab.pruning`: sites by their names, entries ranked
    by numpy.
    """

    def stays(name: str) -> bool:
        layer, part = re.search(r"layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)", name).groups()
        return (layers is None or int(layer) in layers) and (
            kinds is None or part.removesuffix("_proj") in kinds
        )

    kept, halves = {n: d for n, d in adapter.deltas.items() if stays(n)}, []
    for half in "AB":
        arrays = {n: getattr(d, half).numpy().copy() for n, d in kept.items()}
        sizes = (
            np.sort(np.abs(np.concatenate([a.ravel() for a in arrays.values()])))
            if arrays
            else np.zeros(0)
        )
        gone = len(sizes) - round(len(sizes) * (1 - percent / 100))
        halves.append(
            {
                n: torch.from_numpy(np.where(np.abs(a) <= (sizes[gone - 1] if gone else -1), 0, a))
                for n, a in arrays.items()
            }
        )
    return Adapter(
        {n: LowRank(*(h[n] for h in halves), d.scale) for n, d in kept.items()}, adapter.base
    )


def close_to(correct: int):
    """Sums in another order may decide a tie the other way."""
    return pytest.approx(correct, abs=1)
