"""Lesson 3's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    ("[(1 - lam) * B1, lam * B2]", "[lam * B1, (1 - lam) * B2]", "wrong way round"),
    ("[(1 - lam) * B1, lam * B2]", "[B1, B2]", "weights are missing"),
    ("[(1 - lam) * B1, lam * B2]", "[lam * B2, (1 - lam) * B1]", "different order"),
    ("A = torch.cat([A1, A2], dim=0)", "A = torch.cat([(1 - lam) * A1, lam * A2], dim=0)", "A carries weights"),
    ("lam * B2], dim=1)", "lam * B2], dim=0)", "stacked vertically"),
    (
        "A = torch.cat([A1, A2], dim=0)\n    B = torch.cat([(1 - lam) * B1, lam * B2], dim=1)",
        "A = (1 - lam) * A1 + lam * A2\n    B = (1 - lam) * B1 + lam * B2",
        "nothing is stacked",
    ),
    ("between = (lam >= 0) & (lam <= 1)", "between = lam == lam", "beyond the two ends"),
    ("(1 - lam) * start + lam * end", "lam * start + (1 - lam) * end", "wrong end"),
    ("(1 - lam) * start + lam * end", "(start + end) / 2", "mean of the two ends"),
    ("(chord - values)[between].max()", "(values - chord)[between].max()", "sign is wrong"),
    ("(chord - values)[between].max()", "(chord - values)[between].mean()", "average gap"),
    ("(chord - values)[between].max()", "(chord - values)[lam == 0.5][0]", "in the middle"),
    ("(1 - lam) ** 2 * (B1 @ A1) + lam**2 * (B2 @ A2)", "(1 - lam) * (B1 @ A1) + lam * (B2 @ A2)", "weights of the line in ΔW"),
    ("(1 - lam) ** 2 * (B1 @ A1) + lam**2 * (B2 @ A2)", "lam**2 * (B1 @ A1) + (1 - lam) ** 2 * (B2 @ A2)", "wrong way round"),
    ("B1 @ A2 + B2 @ A1", "B1 @ A2", "One cross term is missing"),
    ("lam * (1 - lam) * (B1", "2 * lam * (1 - lam) * (B1", "twice too large"),
    ("lam * (1 - lam) * (B1", "(B1", "full size"),
    ("return own, cross", "return cross, own", "other order"),
    ("return own, cross", "return own + cross", "2 tensors"),
]  # fmt: skip
