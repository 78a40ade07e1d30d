"""Measures of features: linear probes, and zero-shot accuracy where n counts drawings.

Augmented copies of a drawing do not count separately.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from copra_lab.models import Clip
from copra_lab.tasks import Split, Task
from copra_lab.utils.statistics import Accuracy, bootstrap_interval

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)


def features(clip: Clip, split: Split) -> np.ndarray:
    return clip.image_features(split.images).numpy()


def raw_pixels(split: Split, side: int = 16) -> np.ndarray:
    """Images as plain numbers, shrunk to `side` pixels: a baseline without a network."""
    x = F.interpolate(
        split.images.permute(0, 3, 1, 2).float() / 255, size=(side, side), mode="area"
    )
    return x.flatten(1).numpy()


def linear_probe(task: Task, of) -> Accuracy:
    """Logistic regression on features `of` (Split → (n, d)) of the training images.

    Its strength is chosen on validation images, its accuracy measured on test images.
    """
    scaler = StandardScaler().fit(of(task.train))
    train, val, test = (scaler.transform(of(s)) for s in (task.train, task.val, task.test))
    models = [
        LogisticRegression(C=c, max_iter=2000).fit(train, task.train.labels.numpy())
        for c in STRENGTHS
    ]
    best = max(models, key=lambda m: m.score(val, task.val.labels.numpy()))
    hits = best.predict(test) == task.test.labels.numpy()
    return Accuracy(int(hits.sum()), len(hits))


def zero_shot(
    clip: Clip, images: torch.Tensor, labels: torch.Tensor, prompts: list[str], sources: list[str]
) -> tuple[float, tuple[float, float], int]:
    """Accuracy, its bootstrap interval over sources, and the number of sources."""
    hits = (clip.image_features(images) @ clip.text_features(prompts).T).argmax(-1) == labels
    return (
        hits.float().mean().item(),
        bootstrap_interval(hits.numpy().astype(float), sources),
        len(set(sources)),
    )
