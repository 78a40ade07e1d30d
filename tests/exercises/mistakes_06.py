"""Lesson 6's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    ("threshold = every.topk(count).values[-1]\n    return [m * (m.abs() >= threshold) for m in matrices]",
     "return [m * (m.abs() >= m.abs().flatten().topk(round((1 - sparsity) * m.numel())).values[-1]) for m in matrices]", "in each matrix separately"),
    ("topk(count)", "topk(every.numel() - round(sparsity * every.numel()) + 1)", None),
    ("m * (m.abs() >= threshold)", "m * (m.abs() > threshold)", "One entry too few"),
    ("torch.cat([m.abs().flatten()", "torch.cat([m.flatten()", None),
    ("round((1 - sparsity) *", "round(sparsity *", "the share to remove"),
    ("m * (m.abs() >= threshold)", "(m.abs() >= threshold).float()", "These are masks"),
    ("m * (m.abs() >= threshold)", "m * (m.abs() >= threshold) / (1 - sparsity)", "DARE"),
    ("rank * (out + width)", "rank * out * width", "two thin matrices"),
    ("rank * (out + width)", "rank * out", "Only one of the two"),
    ("8 * (1 - sparsity)", "4 * (1 - sparsity)", "its position"),
    ("8 * (1 - sparsity)", "8 * sparsity", "entries that are zero"),
    ("1 - factors / (8 * out * width)", "factors / (8 * out * width)", "share of entries kept"),
    ("score = val.mean(1)", "score = test.mean(1)", "on the test images"),
    ("score = val.mean(1)", "score = torch.cat([val, test], 1).mean(1)", "influenced the choice"),
    ("best[kept[best].argmin()]", "best[0]", "took the first"),
    ("best[kept[best].argmin()]", "best[kept[best].argmax()]", "keeps most layers"),
    ("test[which].mean()", "val[which].mean()", "too optimistic"),
    ("test[which].mean()", "test.mean(1).max()", "another candidate"),
]  # fmt: skip
