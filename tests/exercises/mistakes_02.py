"""Lesson 2's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    ("delta_q = s * (B_q @ A_q)\n    delta_v = s * (B_v @ A_v)", "delta_q = B_q @ A_q\n    delta_v = B_v @ A_v", "scale is missing"),
    ("delta_q = s * (B_q @ A_q)\n    delta_v = s * (B_v @ A_v)", "delta_q = (s * B_q) @ (s * A_q)\n    delta_v = (s * B_v) @ (s * A_v)", "went in twice"),
    ("delta_q = s * (B_q @ A_q)\n    delta_v = s * (B_v @ A_v)", "delta_q = s * (A_q.T @ B_q.T)\n    delta_v = s * (A_v.T @ B_v.T)", "transposed"),
    ("[delta_q, torch.zeros_like(delta_q), delta_v]", "[delta_q, delta_v, torch.zeros_like(delta_q)]", "in the rows of k"),
    ("[delta_q, torch.zeros_like(delta_q), delta_v]", "[delta_q, delta_v]", "expected the shape"),
    ("[delta_q, torch.zeros_like(delta_q), delta_v], dim=0", "[delta_q, torch.zeros_like(delta_q), delta_v], dim=1", "side by side"),
    ("return frozen + s * low", "return frozen + low", "scale was left out"),
    ("return frozen + s * low", "return s * (frozen + low)", "too, which should not change"),
    ("return frozen + s * low", "return s * low", "frozen projection of x is missing.*bias is missing|bias is missing.*frozen projection of x is missing"),
    ("x @ W.T + bias", "x @ W.T", "bias is missing"),
    ("x @ W.T + bias", "x @ W + bias", "needs? its transpose"),
    ("(x @ A.T) @ B.T", "(x @ B) @ A", "B first"),
    ("(x @ A.T) @ B.T", "x @ (B @ A)", "B first"),
    ("(U[:, :k] * S[:k]) @ Vh[:k]", "U[:, :k] @ Vh[:k]", "singular values are missing"),
    ("(U[:, :k] * S[:k]) @ Vh[:k]", "(U[:, :k] * S[:k]) @ Vh.T[:k]", "once too often"),
    ("(U[:, :k] * S[:k]) @ Vh[:k]", "(U[:, -k:] * S[-k:]) @ Vh[-k:]", "smallest"),
    ("S[k:].square().sum() / S.square().sum()", "S[:k].square().sum() / S.square().sum()", "was kept"),
    ("S[k:].square().sum() / S.square().sum()", "S[k:].sum() / S.sum()", "sum of their squares"),
    ("S[k:].square().sum() / S.square().sum()", "S[k:].square().sum()", "what share"),
    ("return approximation, lost", "return approximation", "2 tensors"),
]  # fmt: skip
