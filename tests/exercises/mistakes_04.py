"""Lesson 4's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    ("step / (ramp * steps)", "step / steps", "`ramp` was not used"),
    ("step / (ramp * steps)", "step / ((1 - ramp) * steps)", "comes \\*after\\*"),
    ("(step / (ramp * steps)).clamp(max=1)", "step / (ramp * steps)", "beyond 1"),
    ("start + (1 - start) * x", "(start + x).clamp(max=1)", "as steeply as from 0"),
    ("start + (1 - start) * x", "x.clamp(min=start)", "waits at `start`"),
    ("start + (1 - start) * x", "x", "whatever `start` says"),
    ("start + (1 - start) * x", "1 - (1 - start) * x", None),
    ("row < p_now", "row > p_now", "probability to be off"),
    ("row < p_now", "row[:1].expand(12) < p_now", "share one number"),
    ("                break\n", "                pass\n", "the last row"),
    (">= least", "> least", "passed over"),
    (">= least", ">= 0", "fewer than `least`"),
    ("masks.append(on.float())", "masks.append(on / p_now)", "1/p"),
    ("layer if is_on else None for", "layer * is_on for", "multiplied by 0"),
    ("        optimiser.zero_grad()\n", "", "still there"),
    ("layer if is_on else None for", "layer for", "masks were not used"),
    (
        "        if not on.any():",
        "        on = ~on\n        if not on.any():",
        "should be off were on",
    ),
    ("            continue\n", "            break\n", "after it"),
]
