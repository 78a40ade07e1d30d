"""Lesson 8's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    ("[first, *[0] * m", "[*[0] * m", "expected the shape"),
    (", last] for name in names]", "] for name in names]", "no stop token"),
    ('*encode(name), *encode("."), last', "*encode(name), last", "full stop"),
    ("embedded[:, 1 : 1 + m] = context", "embedded[:, :m] = context", "over the start token"),
    ("embedded[:, 1 : 1 + m] = context", "pass", "not in the rows"),
    ("len(row) - 1 for row in rows", "len(row) for row in rows", "one too far"),
    ("[len(row) - 1 for row in rows]", "[max(map(len, rows)) - 1] * len(rows)", "last column"),
    ("after.double() - before.double()", "before.double() - after.double()", "after minus before"),
    ("(2 * torch.minimum(low, high))", "torch.minimum(low, high)", "one-sided"),
    ("(means >= 0)", "(means > 0)", None),
    ("torch.minimum(low, high)", "torch.maximum(low, high)", None),
    ("rises & falls", "rises | falls", "accepted either one"),
    ("return rises & falls", "return rises", "rises alone"),
    ("bent[:, taus < 1] > learned", "bent[:, taus < 1] >= learned", None),
    ("(bent[:, taus < 1] > learned).any(1)", "(bent[:, taus < 1] > learned).any()", "shape|wrong"),
]  # fmt: skip
