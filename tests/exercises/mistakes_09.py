"""Lesson 9's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    ("dim=-1).mean()", "dim=-1).sum()", "over positions and classes"),
    ("dim=-1).mean()", "dim=-1).sum(0).mean()", "summed over classes"),
    ("return weight * torch.linalg", "return torch.linalg", "weight A is missing"),
    ("ord=p, dim=-1)", "ord=p, dim=-1).square()", "squared"),
    ("ord=p, dim=-1)", "dim=-1)", "whatever `p` says"),
    ("1 - 1 / (1 + torch.exp(-0.2", "1 / (1 + torch.exp(-0.2", "rises from 0 to 1"),
    ("-0.2 * (epochs - total / 2)", "0.2 * (epochs - total / 2)", "rises from 0 to 1"),
    ("(epochs - total / 2)", "(epochs - total)", "last epoch"),
    ("-0.2 * (epochs - total / 2)", "-0.2 * (epochs / total - 1 / 2)", "hardly changes"),
    ("-0.2 * (epochs", "-(epochs", "too steeply"),
    ("shortened > now", "shortened >= now", "equal number"),
    ("shortened > now", "shortened < now", "harms"),
    ("/ paying", "/ len(norms)", "how many were sampled"),
    ("/ paying", "", "not divided"),
    ("weight * (shortened", "(shortened", "should be A"),
]  # fmt: skip
