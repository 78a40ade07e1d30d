"""Lesson 5's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    (
        "factorial(size) * factorial(n - size - 1) / factorial(n)",
        "1 / 2 ** (n - 1)",
        "the same weight",
    ),
    ("factorial(size) * factorial(n - size - 1) / factorial(n)", "1", "not means"),
    (
        "factorial(size) * factorial(n - size - 1) / factorial(n)",
        "factorial(size) * factorial(n - size - 1)",
        "too large",
    ),
    ("for size in range(n):", "for size in [n - 1]:", None),
    ("v({*s, i}) - v(s)", "v({*s, i})", "not subtracted"),
    ("v({*s, i}) - v(s)", "v(s) - v({*s, i})", "sign"),
    ("return torch.tensor(values)", "return values", "Return one tensor"),
    ("out[order] = gains\n    return out", "return gains", "wrong places"),
    ("out[order] = gains\n    return out", "return gains[order]", "wrong way round"),
    ("worth = v(joined)", "worth = v(joined)\n    worth[0] = 0", "first to join"),
    ("gains = worth.diff()", "gains = worth[1:]", "credited with all"),
    (
        "joined[k + 1 :, player] = True",
        "joined[k + 1, player] = True",
        "shape|alone|not in a way|nobody",
    ),
    ("comb(n, k) * ", "", "single coalition"),
    ("p**k * (1 - p) ** (n - k)", "(1 - p) ** k * p ** (n - k)", "backwards"),
    ("n * by_size.diff()", "by_size.diff()", "too small"),
    ("by_size.mean()", "torch.trapezoid(by_size) / n", "straight lines"),
    ("by_size.mean()", "by_size.sum()", "larger than any"),
]
