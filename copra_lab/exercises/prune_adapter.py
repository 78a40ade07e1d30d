"""Lesson 6's checks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.exercises import Exercise, Mistake
from copra_lab.merging.sparse import keep_largest
from copra_lab.models.loading import load_clip
from copra_lab.zoo import shipped


def _lora() -> Adapter:
    return shipped("digits")[0].load(load_clip())


# --- entries by magnitude


def _prune(matrices: Sequence[Tensor], sparsity: float, *, rank: str = "together", by: str = "size", keep: float | None = None, end: str = "with",
           give: str = "values") -> tuple[Tensor, ...]:  # fmt: skip
    """The largest share 1 − sparsity of all entries, the others zero; each switch is a way to err."""
    share = 1 - sparsity if keep is None else keep
    size = [{"size": m.abs(), "smallness": -m.abs(), "value": m}[by] for m in matrices]
    groups = (
        [torch.cat([s.flatten() for s in size])] * len(size)
        if rank == "together"
        else [s.flatten() for s in size]
    )
    last = [g.topk(round(share * g.numel())).values[-1] for g in groups]
    masks = [s >= t if end == "with" else s > t for s, t in zip(size, last, strict=True)]
    if give == "masks":
        return tuple(m.float() for m in masks)
    return tuple(
        x * m / (share if give == "rescaled" else 1) for x, m in zip(matrices, masks, strict=True)
    )


def _matrices() -> tuple[list[Tensor], float]:
    deltas = list(_lora().deltas.values())
    return [deltas[0].A, deltas[17].B.T.contiguous(), deltas[34].A[:, :96].contiguous()], 0.75


def _praise_prune(attempt: Callable) -> str:
    named = {n: d.B for n, d in _lora().deltas.items()}
    theirs, mine = keep_largest(named, 0.1), attempt(list(named.values()), 0.9)
    off = max(float((a - b).abs().max()) for a, b in zip(theirs.values(), mine, strict=True))
    kept = [int((m != 0).sum()) for m in mine]
    return (
        f"That is global magnitude pruning. On all {len(mine)} matrices B of an adapter, 90 % removed, it differs from the library's by {off:.0g}; "
        f"of the {mine[0].numel()} entries of a matrix it keeps from {min(kept)} to {max(kept)}."
    )


prune = Exercise(
    parts=("the first matrix", "the second matrix", "the third matrix"),
    solution=_prune,
    arguments=_matrices,
    praise=_praise_prune,
    mistakes={
        "each by itself": Mistake({"rank": "apart"}, "Each matrix lost the same share: the entries were ranked in each by itself, not over all of them together."),
        "smallest kept": Mistake({"by": "smallness"}, "What is left is what is closest to zero: the largest entries should stay."),
        "signed": Mistake({"by": "value"}, "Large negative entries are gone: you compared values, not magnitudes."),
        "sparsity kept": Mistake({"keep": 0.75}, "Too much is left: `sparsity` is the share that goes."),
        "one too few": Mistake({"end": "without"}, "One entry too few is left: the last one to keep is itself removed."),
        "masks": Mistake({"give": "masks"}, "These are masks: return the matrices with the other entries set to zero."),
        "rescaled": Mistake({"give": "rescaled"}, "What is left has grown: that is DARE's rescaling, and here the largest entries stay as they are."),
    },
)  # fmt: skip


# --- bytes


def _size(out: Tensor, width: Tensor, rank: Tensor, sparsity: Tensor, *, factors: str = "sum", positions: bool = True, left: str = "kept",
          even: str = "share") -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Bytes of the factors, of a sparse ΔW, and the sparsity at which the two are equal; each switch is a way to err."""
    numbers = {"sum": rank * (out + width), "product": rank * out * width, "one": rank * out}[
        factors
    ]
    entry = 8 if positions else 4
    sparse = entry * ((1 - sparsity) if left == "kept" else sparsity) * out * width
    share = 4 * numbers / (entry * out * width)
    return 4 * numbers, sparse, {"share": 1 - share, "density": share}[even]


def _shapes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The bundled CLIP's attention, a ViT-B/16's, and its MLP."""
    return (
        torch.tensor([128.0, 768, 3072]),
        torch.tensor([128.0, 768, 768]),
        torch.tensor([4.0, 2, 8]),
        torch.tensor([0.9, 0.95, 0.99]),
    )


def _praise_size(attempt: Callable) -> str:
    _, _, even = attempt(*_shapes())
    told = ", ".join(f"{100 * e:.1f} %" for e in even.tolist())
    return f"Right. As a sparse matrix ΔW is smaller than its two factors only beyond {told} of zeros (the three shapes of the check)."


size = Exercise(
    parts=("bytes of the factors", "bytes of the sparse ΔW", "break-even sparsity"),
    solution=_size,
    arguments=_shapes,
    praise=_praise_size,
    mistakes={
        "factors as a product": Mistake({"factors": "product"}, "The factors came out larger than ΔW itself: A and B are two thin matrices, not r whole ones."),
        "one factor": Mistake({"factors": "one"}, "Only one of the two factors was counted."),
        "no positions": Mistake({"positions": False}, "The sparse ΔW cannot be read back: each entry that is kept needs its position as well."),
        "zeros stored": Mistake({"left": "zeros"}, "You counted the entries that are zero: a sparse matrix stores the others."),
        "density": Mistake({"even": "density"}, "That is the share of entries kept at which the two are equal: the sparsity is the share that is gone."),
    },
)  # fmt: skip


# --- an honest choice


def _choose(
    kept: Tensor,
    val: Tensor,
    test: Tensor,
    *,
    on: str = "val",
    ties: str = "fewest",
    report: str = "test",
) -> tuple[Tensor, Tensor]:
    """Which candidate, and its accuracy to report; each switch is a way to err."""
    score = {"val": val.mean(1), "test": test.mean(1), "both": torch.cat([val, test], 1).mean(1)}[
        on
    ]
    best = (score == score.max()).nonzero().flatten()
    i = {"fewest": best[kept[best].argmin()], "first": best[0], "most": best[kept[best].argmax()]}[
        ties
    ]
    return i, {"test": test[i].mean(), "val": val[i].mean(), "best": test.mean(1).max()}[report]


def _candidates() -> tuple[Tensor, Tensor, Tensor]:
    """A worked small game: nine prunings, sixteen validation images, twenty-five test images."""
    kept = torch.tensor([12, 8, 6, 10, 9, 4, 11, 5, 3])
    val = torch.tensor([11, 12, 9, 13, 14, 14, 14, 8, 7])
    test = torch.tensor([18, 17, 13, 22, 16, 19, 18, 23, 9])
    return (
        kept,
        (torch.arange(16) < val[:, None]).float().flip(1),
        (torch.arange(25) < test[:, None]).float().flip(1),
    )


def _praise_choose(attempt: Callable) -> str:
    g = torch.Generator().manual_seed(0)
    val, test = ((torch.rand(200, n, generator=g) < 0.7).float() for n in (40, 1000))
    i, reported = attempt(torch.full((200,), 6), val, test)
    return (
        f"That is an honest choice. Of 200 made-up candidates that are all right on 70 % of images, it takes one that "
        f"scores {100 * val[i].mean():.0f} % on 40 validation images, and reports {100 * reported:.0f} %."
    )


choose = Exercise(
    parts=("which", "accuracy"),
    solution=_choose,
    arguments=_candidates,
    praise=_praise_choose,
    mistakes={
        "best reported": Mistake({"report": "best"}, "The accuracy that you report belongs to another candidate, the best one on the test images."),
        "on test": Mistake({"on": "test"}, "The choice was made on the test images: then they can no longer tell how good it is."),
        "on both": Mistake({"on": "both"}, "The test images had a say in the choice: keep them out of it."),
        "the first of equals": Mistake({"ties": "first"}, "Several are equally good on the validation images, and you took the first of them, which is not the smallest."),
        "the largest of equals": Mistake({"ties": "most"}, "Of those equally good on the validation images you took the one that keeps most layers."),
        "validation reported": Mistake({"report": "val"}, "You report the accuracy that you chose by, which flatters: the choice was made because it is high."),
    },
)  # fmt: skip
