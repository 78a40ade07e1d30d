"""Lesson 7's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    ("trimmed = vectors * kept", "trimmed = vectors", "Nothing was trimmed"),
    ("vectors.abs().topk(k, dim=1)", "vectors.topk(k, dim=1)", "every negative entry"),
    ("trimmed.sum(0).sign()", "trimmed.sign().sum(0).sign()", "counting heads"),
    ("trimmed.sum(0).sign()", "vectors.sum(0).sign()", "before the trimming"),
    ("(trimmed.sign() == elected) & (trimmed != 0)", "trimmed != 0", "both signs"),
    ("agrees.sum(0).clamp_min(1)", "len(vectors)", "number of tasks"),
    (" / agrees.sum(0).clamp_min(1)", "", "This is a sum"),
    (" / (1 - rate)", "", "too small"),
    ("/ (1 - rate)", "/ rate", "rate of dropping"),
    ("/ (1 - rate)", "* (1 - rate)", "stand in"),
    ("/ (1 - rate)", "/ (noise >= rate).float().mean()", "happened to keep"),
    ("noise >= rate", "noise < rate", "kept what should go"),
    ("noise >= rate", "noise >= 1 - rate", "one minus"),
    ("(images / images.sum())", "torch.full((len(images),), 1 / len(images))", "weighs the same"),
    ("(images / images.sum())", "images.float()", "sum to 1"),
    ("return deltas, factors", "return deltas, deltas", "twice"),
    ("return deltas, factors", "return factors, factors", "client by client"),
    ("return deltas, factors", "return factors", "2 tensors"),
]
