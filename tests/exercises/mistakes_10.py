"""Lesson 10's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    ("round(share * len(own))", "round(share * int(mine.sum()))", "copies counted"),
    ("own[u[own].argsort()]", "own[u[own].argsort(descending=True)]", "largest numbers"),
    ("max(1, round(share * len(own)))", "round(share * len(own))", "rounded to nothing"),
    ("mine = labels == label", "mine = labels >= 0", "whole folder"),
    ("        test[mine & torch.isin(content, first)] = 1",
     "        rows = mine.nonzero()[:, 0]\n        test[rows[u[rows].argsort()][: max(1, round(share * len(rows)))]] = 1", "both sides"),
    ("torch.isin(content, first)", "torch.isin(content, first.flip(0)[:1])", None),
    ("torch.cat(list(A))", "(weights[:, None, None] * A).sum(0)", "product of averages"),
    ("torch.cat([w * s * b for w, s, b in zip(weights, scales, B, strict=True)], dim=1)",
     "(weights[:, None, None] * scales[:, None, None] * B).reshape(B.shape[1], -1)", "instead of being put side by side"),
    ("w * s * b for", "w * b for", "scales are missing"),
    ("w * s * b for", "s * b for", "weights are missing"),
    ("torch.cat(list(A))", "torch.cat(list(weights[:, None, None] * A))", "squares"),
    ("u[step] <", "u[batches] <", "its own draw"),
    ("p = step / (0.75 * steps)", "p = batches / (0.75 * steps)", "rises with the batches"),
    ("p = step / (0.75 * steps)", "p = batches / (0.75 * steps * accumulate)", None),
    ("p = step / (0.75 * steps)", "p = step / steps", "three quarters"),
    ("u[step] <", "u[step] >=", "wrong way round"),
]  # fmt: skip
