"""The checks of lesson 8."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from copra_lab.exercises import Exercise
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.tasks.task import load_task

NAMES = ("fire engine", "owl", "slice of pizza")

# --- context vectors in the prompt


def _put_in_place(
    clip: Clip,
    context: Tensor,
    names: Sequence[str],
    *,
    begins: bool = True,
    stops: bool = True,
    dot: bool = True,
    front: bool = False,
    shifted: bool = False,
    written: bool = True,
    ends: str = "own",
) -> tuple[Tensor, Tensor]:
    """Vectors (k, longest, d) and positions of the stop tokens (k,); each switch is a mistake."""
    t, m = clip.tokenizer, len(context)
    rows, starts = [], []
    for name in names:
        before = [t.sot_token_id] * begins
        after = [*t.encode(name), *(t.encode(".") if dot else []), *[t.eot_token_id] * stops]
        own = len(t.encode(name)) if front else 0
        starts.append(max(0, len(before) + own - shifted))
        rows.append([*before, *after[:own], *[0] * m, *after[own:]])
    longest = max(map(len, rows))
    padded = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
    embedded = clip.model.token_embedding(padded).clone()
    if written:
        for row, at in zip(embedded, starts, strict=True):
            row[at : at + m] = context
    stop = {"own": [len(r) - 1 for r in rows], "row": [longest - 1] * len(rows)}
    return embedded, torch.tensor((stop | {"count": [len(r) for r in rows]})[ends])


def _context() -> tuple[Clip, Tensor, tuple[str, ...]]:
    clip = load_clip()
    width = clip.model.token_embedding.weight.shape[1]
    return clip, 0.3 * torch.randn(3, width, generator=torch.Generator().manual_seed(0)), NAMES


def _praise_place(attempt: Callable) -> str:
    from copra_lab.engine.text_encoder import Encoder

    clip, context, names = _context()
    embedded, ends = attempt(clip, context, names)
    m, t = clip.model, embedded.shape[1]
    x = embedded + m.positional_embedding[:t]
    x = m.ln_final(m.transformer(x, attn_mask=m.attn_mask[:t, :t]))
    own = torch.nn.functional.normalize(x[torch.arange(len(x)), ends] @ m.text_projection, dim=-1)
    off = (own - Encoder(clip, names, len(context), "end")(context[None])[0]).abs().max().item()
    return f"The features of your rows differ from the library's by at most {off:.0e}."


put_in_place = Exercise(
    parts=("vectors", "positions of the stop tokens"),
    solution=_put_in_place,
    arguments=_context,
    praise=_praise_place,
    mistakes={
        "The rows have no start token: the model has never seen a text without one.": {
            "begins": False
        },
        "The rows have no stop token, which is where the text's feature is read.": {"stops": False},
        "The full stop after the name is missing.": {"dot": False},
        "The names come before the vectors: they should come after.": {"front": True},
        "The vectors begin at column 0, over the start token: they should begin after it.": {
            "shifted": True
        },
        "The context is not in the rows: its columns still hold the embedding of token 0.": {
            "written": False
        },
        "Every text is read in the last column, but short rows end before it.": {"ends": "row"},
        "The positions are one too far: you counted tokens, but positions start at 0.": {
            "ends": "count"
        },
    },
)

# --- a paired bootstrap


def _paired_p(
    before: Tensor,
    after: Tensor,
    draws: Tensor,
    *,
    paired: bool = True,
    sign: int = 1,
    sides: int = 2,
    strict: bool = False,
    around: bool = False,
) -> tuple[Tensor, Tensor]:
    """The difference () and its p (); each switch is a mistake."""
    b, a = before.double(), after.double()
    gain = a - b
    means = gain[draws].mean(1) if paired else a[draws].mean(1) - b[draws.roll(1, 0)].mean(1)
    means = sign * means
    border = gain.mean() if around else 0
    low, high = (means < border, means > border) if strict else (means <= border, means >= border)
    p = sides * torch.minimum(low.double().mean(), high.double().mean())
    return sign * gain.mean(), p.clamp(max=1)


def _outcomes() -> tuple[Tensor, Tensor, Tensor]:
    """Made-up results on the digits' validation images, of which nine change.

    They are so few that many draws have a difference of exactly 0.
    """
    g = torch.Generator().manual_seed(1)
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
        "Before and after were drawn separately: draw the same images for both, or the noise of "
        "each drowns the difference.": {"paired": False},
        "The sign is wrong: the difference is after minus before.": {"sign": -1},
        "This p is one-sided: it looks for a change in one direction only and is half of what it "
        "should be.": {"sides": 1},
        "Draws with a difference of exactly 0 were left out of both shares: they belong in both (≤ "
        "and ≥).": {"strict": True},
        "The draws were compared with the observed difference, not with 0: that makes p always "
        "about 1.": {"around": True},
    },
)

# --- the effect


def _shows_effect(
    bent: Tensor,
    learned: Tensor,
    taus: Tensor,
    *,
    strict: bool = True,
    both: bool = True,
    falls: bool = True,
    swapped: bool = False,
    every: bool = False,
) -> Tensor:
    """Whether each position shows the effect, bool (positions,); each switch is a mistake."""
    short, long = bent[:, taus < 1], bent[:, taus > 1]
    if swapped:
        short, long = long, short
    up, down = (short > learned, long < learned) if strict else (short >= learned, long <= learned)
    over = torch.all if every else torch.any
    rise, fall = over(up, 1), over(down, 1)
    return (rise & fall if both else rise | fall) if falls else rise


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
        "An equal accuracy was taken for a rise or a fall: it is neither.": {"strict": False},
        "You accepted either one: a position needs both the rise and the fall.": {"both": False},
        "You counted rises alone: a longer vector must also lower accuracy.": {"falls": False},
        "Short and long are swapped: τ below 1 makes a vector shorter.": {"swapped": True},
        "You asked for the effect in all columns: one shorter and one longer column are enough.": {
            "every": True
        },
    },
)
