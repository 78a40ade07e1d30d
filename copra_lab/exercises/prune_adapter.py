"""The checks of lesson 6."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from copra_lab.exercises import NONE, Exercise, Mistakes
from copra_lab.exercises.material import adapters, seeded
from copra_lab.merging.sparse import keep_largest

# --- entries by magnitude


def _prune(
    matrices: Sequence[Tensor], sparsity: float, made: Mistakes = NONE
) -> tuple[Tensor, ...]:
    """The largest share 1 − sparsity of all entries, the rest zero."""
    share = made.pick(1 - sparsity, share_removed=sparsity)
    size = [made.pick(m.abs(), smallest=-m.abs(), values=m) for m in matrices]
    groups = [s.flatten() for s in size]
    if "apart" not in made:
        groups = [torch.cat(groups)] * len(size)
    last = [g.topk(round(share * g.numel())).values[-1] for g in groups]
    masks = [made.pick(s >= t, one_too_few=s > t) for s, t in zip(size, last, strict=True)]
    if "masks" in made:
        return tuple(m.float() for m in masks)
    by_share = made.pick(1, rescaled=share)
    return tuple(x * m / by_share for x, m in zip(matrices, masks, strict=True))


def _matrices() -> tuple[list[Tensor], float]:
    deltas = list(adapters()[0].deltas.values())
    return [deltas[0].A, deltas[17].B.T.contiguous(), deltas[34].A[:, :96].contiguous()], 0.75


def _praise_prune(attempt: Callable) -> str:
    named = {n: d.B for n, d in adapters()[0].deltas.items()}
    theirs, mine = keep_largest(named, 0.1), attempt(list(named.values()), 0.9)
    off = max(float((a - b).abs().max()) for a, b in zip(theirs.values(), mine, strict=True))
    kept = [int((m != 0).sum()) for m in mine]
    return (
        f"That is global magnitude pruning. With 90 % removed from all {len(mine)} matrices B of "
        f"an adapter, it differs from the library's by {off:.0g}; of the {mine[0].numel()} entries "
        f"of a matrix it keeps {min(kept)} to {max(kept)}."
    )


prune = Exercise(
    parts=("the first matrix", "the second matrix", "the third matrix"),
    solution=_prune,
    arguments=_matrices,
    praise=_praise_prune,
    mistakes={
        "apart": "Each matrix lost the same share: you ranked entries in each matrix separately, "
        "not across all of them.",
        "smallest": "You kept the entries closest to zero: the largest should stay.",
        "values": "Large negative entries are gone: compare magnitudes, not values.",
        "share_removed": "Too much is left: `sparsity` is the share to remove.",
        "one_too_few": "One entry too few is left: the last one to keep was removed as well.",
        "masks": "These are masks: return the matrices with the other entries set to zero.",
        "rescaled": "The remaining entries have grown, as in DARE: here they stay as they are.",
    },
)


# --- bytes


def _size(
    out: Tensor, width: Tensor, rank: Tensor, sparsity: Tensor, made: Mistakes = NONE
) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes of the factors and of a sparse ΔW, and the sparsity at which they are equal."""
    numbers = made.pick(rank * (out + width), product=rank * out * width, one_factor=rank * out)
    entry = made.pick(8, no_positions=4)
    sparse = entry * made.pick(1 - sparsity, zeros=sparsity) * out * width
    density = 4 * numbers / (entry * out * width)
    return 4 * numbers, sparse, made.pick(1 - density, density=density)


def _shapes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The bundled CLIP's attention, a ViT-B/16's, and its MLP."""
    out, width = torch.tensor([128.0, 768, 3072]), torch.tensor([128.0, 768, 768])
    return out, width, torch.tensor([4.0, 2, 8]), torch.tensor([0.9, 0.95, 0.99])


def _praise_size(attempt: Callable) -> str:
    _, _, even = attempt(*_shapes())
    shares = ", ".join(f"{100 * e:.1f} %" for e in even.tolist())
    return (
        "Right. As a sparse matrix ΔW is smaller than its two factors only beyond "
        f"{shares} zeros (for the three shapes of the check)."
    )


size = Exercise(
    parts=("bytes of the factors", "bytes of the sparse ΔW", "break-even sparsity"),
    solution=_size,
    arguments=_shapes,
    praise=_praise_size,
    mistakes={
        "product": "The factors came out larger than ΔW: A and B are two thin matrices, not r full "
        "ones.",
        "one_factor": "Only one of the two factors was counted.",
        "no_positions": "The sparse ΔW cannot be read back: each kept entry needs its position.",
        "zeros": "You counted the entries that are zero: a sparse matrix stores the others.",
        "density": "This is the share of entries kept at which the two are equal: the sparsity is "
        "the share removed.",
    },
)


# --- an honest choice


def _choose(
    kept: Tensor, val: Tensor, test: Tensor, made: Mistakes = NONE
) -> tuple[Tensor, Tensor]:
    """Which candidate, and the accuracy to report for it."""
    score = made.pick(val, on_test=test, on_both=torch.cat([val, test], 1)).mean(1)
    best = (score == score.max()).nonzero().flatten()
    i = best[made.pick(kept[best].argmin(), first=0, most=kept[best].argmax())]
    accuracy = made.pick(test[i].mean(), another=test.mean(1).max(), optimistic=val[i].mean())
    return i, accuracy


def _candidates() -> tuple[Tensor, Tensor, Tensor]:
    """A small worked example: nine prunings, sixteen validation and 25 test images."""
    kept = torch.tensor([12, 8, 6, 10, 9, 4, 11, 5, 3])
    val = torch.tensor([11, 12, 9, 13, 14, 14, 14, 8, 7])
    test = torch.tensor([18, 17, 13, 22, 16, 19, 18, 23, 9])
    right = [(torch.arange(n) < c[:, None]).float().flip(1) for n, c in ((16, val), (25, test))]
    return kept, right[0], right[1]


def _praise_choose(attempt: Callable) -> str:
    g = seeded(0)
    val, test = ((torch.rand(200, n, generator=g) < 0.7).float() for n in (40, 1000))
    i, reported = attempt(torch.full((200,), 6), val, test)
    return (
        "That is an honest choice. Of 200 made-up candidates that all have a true accuracy of "
        f"70 %, it picks one that scores {100 * val[i].mean():.0f} % on 40 validation images, and "
        f"reports {100 * reported:.0f} %."
    )


choose = Exercise(
    parts=("which", "accuracy"),
    solution=_choose,
    arguments=_candidates,
    praise=_praise_choose,
    mistakes={
        "another": "You report the accuracy of another candidate, the best on the test images.",
        "on_test": "You chose on the test images, so they cannot tell how good the choice is.",
        "on_both": "The test images influenced the choice: keep them out of it.",
        "first": "Several are equally good on the validation images, and you took the first, which "
        "is not the smallest.",
        "most": "Of those equally good on validation you took the one that keeps most layers.",
        "optimistic": "You report the accuracy that you chose by, which is too optimistic: the "
        "candidate was chosen because it is high.",
    },
)
