"""The checks of lesson 8."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from copra_lab.exercises import NONE, Exercise, Mistakes
from copra_lab.exercises.material import largest_gap, seeded
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.tasks.task import load_task

NAMES = ("fire engine", "owl", "slice of pizza")

# --- context vectors in the prompt


def _put_in_place(
    clip: Clip, context: Tensor, names: Sequence[str], made: Mistakes = NONE
) -> tuple[Tensor, Tensor]:
    """Vectors (k, longest, d) and positions of the stop tokens (k,)."""
    t, m = clip.tokenizer, len(context)
    first = made.pick([t.sot_token_id], no_start=[])
    last = [*made.pick(t.encode("."), no_dot=[]), *made.pick([t.eot_token_id], no_stop=[])]
    rows, starts = [], []
    for name in names:
        before, after = first, [*t.encode(name), *last]
        if "names_first" in made:
            before, after = [*first, *t.encode(name)], last
        starts.append(max(0, len(before) - ("column_0" in made)))
        rows.append([*before, *[0] * m, *after])
    longest = max(map(len, rows))
    padded = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
    embedded = clip.model.token_embedding(padded).clone()
    if "not_written" not in made:
        for row, at in zip(embedded, starts, strict=True):
            row[at : at + m] = context
    ends = torch.tensor([len(r) - 1 for r in rows])
    return embedded, made.pick(ends, last_column=ends * 0 + longest - 1, one_too_far=ends + 1)


def _context() -> tuple[Clip, Tensor, tuple[str, ...]]:
    clip = load_clip()
    width = clip.model.token_embedding.weight.shape[1]
    return clip, 0.3 * torch.randn(3, width, generator=seeded(0)), NAMES


def _praise_place(attempt: Callable) -> str:
    from copra_lab.engine.text_encoder import Encoder

    clip, context, names = _context()
    embedded, ends = attempt(clip, context, names)
    m, t = clip.model, embedded.shape[1]
    x = embedded + m.positional_embedding[:t]
    x = m.ln_final(m.transformer(x, attn_mask=m.attn_mask[:t, :t]))
    own = torch.nn.functional.normalize(x[torch.arange(len(x)), ends] @ m.text_projection, dim=-1)
    gap = largest_gap(own, Encoder(clip, names, len(context), "end")(context[None])[0])
    return f"The features of your rows differ from the library's by at most {gap}."


put_in_place = Exercise(
    parts=("vectors", "positions of the stop tokens"),
    solution=_put_in_place,
    arguments=_context,
    praise=_praise_place,
    mistakes={
        "no_start": "The rows have no start token: the model has never seen a text without one.",
        "no_stop": "The rows have no stop token, which is where the text's feature is read.",
        "no_dot": "The full stop after the name is missing.",
        "names_first": "The names come before the vectors: they should come after.",
        "column_0": "The vectors begin at column 0, over the start token: begin after it.",
        "not_written": "The context is not in the rows: they still hold the embedding of token 0.",
        "last_column": "Every text is read in the last column, but short rows end before it.",
        "one_too_far": "The positions are one too far: positions start at 0, counts at 1.",
    },
)

# --- a paired bootstrap


def _paired_p(
    before: Tensor, after: Tensor, draws: Tensor, made: Mistakes = NONE
) -> tuple[Tensor, Tensor]:
    """The difference () and its p ()."""
    b, a = before.double(), after.double()
    gain = a - b
    means = gain[draws].mean(1)
    if "unpaired" in made:
        means = a[draws].mean(1) - b[draws.roll(1, 0)].mean(1)
    if "sign" in made:
        gain, means = -gain, -means
    border = made.pick(0, around_gain=gain.mean())
    low, high = means <= border, means >= border
    if "no_ties" in made:
        low, high = means < border, means > border
    p = made.pick(2, one_sided=1) * torch.minimum(low.double().mean(), high.double().mean())
    return gain.mean(), p.clamp(max=1)


def _outcomes() -> tuple[Tensor, Tensor, Tensor]:
    """Made-up results on the digits' validation images, of which nine change.

    They are so few that many draws have a difference of exactly 0.
    """
    g = seeded(1)
    n = len(load_task("digits").val)
    before = (torch.rand(n, generator=g) < 0.6).int()
    after = before.clone()
    changed = torch.randperm(n, generator=g)[:9]
    after[changed] = 1 - after[changed]
    return before, after, torch.randint(n, (999, n), generator=g)


def _praise_p(attempt: Callable) -> str:
    before, after, draws = _outcomes()
    difference, p = map(float, attempt(before, after, draws))
    points = f"{100 * difference:+.1f}".replace("-", "−")
    return (
        f"A difference of {points} points with p = {p:.2f}: nine images changed, and the "
        f"difference rests on those alone, not on all {len(before)}."
    )


paired_p = Exercise(
    parts=("difference", "p"),
    solution=_paired_p,
    arguments=_outcomes,
    praise=_praise_p,
    atol=1e-6,
    mistakes={
        "unpaired": "Before and after were drawn separately: draw the same images for both, or the "
        "noise of each drowns the difference.",
        "sign": "The sign is wrong: the difference is after minus before.",
        "one_sided": "This p is one-sided: it looks for a change in one direction only and is half "
        "of what it should be.",
        "no_ties": "Draws with a difference of exactly 0 belong in both shares (≤ and ≥).",
        "around_gain": "The draws were compared with the observed difference, not with 0: that "
        "makes p always about 1.",
    },
)

# --- the effect


def _shows_effect(bent: Tensor, learned: Tensor, taus: Tensor, made: Mistakes = NONE) -> Tensor:
    """Whether each position shows the effect, bool (positions,)."""
    short, long = bent[:, taus < 1], bent[:, taus > 1]
    if "swapped" in made:
        short, long = long, short
    up = made.pick(short > learned, ties=short >= learned)
    down = made.pick(long < learned, ties=long <= learned)
    over = made.pick(torch.any, all_columns=torch.all)
    rise, fall = over(up, 1), over(down, 1)
    return made.pick(rise & fall, rises_alone=rise, either=rise | fall)


def _table() -> tuple[Tensor, Tensor, Tensor]:
    """Accuracies in counts of 100 images, so that ties are exact."""
    rows = [
        [51, 52, 50, 49, 48],
        [49, 50, 50, 50, 48],
        [52, 53, 51, 52, 53],
        [48, 49, 49, 50, 52],
        [50, 50, 50, 50, 50],
        [48, 51, 49, 51, 49],
        [51, 51, 52, 48, 47],
    ]
    taus = torch.tensor([0.1, 0.5, 0.9, 1.5, 2.0])
    return torch.tensor(rows) / 100, torch.tensor(50) / 100, taus


def _praise_effect(attempt: Callable) -> str:
    found = attempt(*_table())
    return (
        f"{int(found.sum())} of {len(found)} positions of the worked table show the effect. "
        "It takes a rise and a fall, and a tie is neither."
    )


shows_effect = Exercise(
    parts=("whether each position shows it",),
    solution=_shows_effect,
    arguments=_table,
    praise=_praise_effect,
    mistakes={
        "ties": "An equal accuracy was taken for a rise or a fall: it is neither.",
        "either": "You accepted either one: a position needs both the rise and the fall.",
        "rises_alone": "You counted rises alone: a longer vector must also lower accuracy.",
        "swapped": "Short and long are swapped: τ below 1 makes a vector shorter.",
        "all_columns": "You asked for the effect in all columns: one shorter and one longer column "
        "are enough.",
    },
)
