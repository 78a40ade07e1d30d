"""Lesson 8's checks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from copra_lab.exercises import Exercise, Mistake
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.tasks.task import load_task

# --- vectors in a prompt's place


def _put_in_place(
    clip: Clip, context: Tensor, names: Sequence[str], *,
    begins: bool = True, stops: bool = True, dot: bool = True, front: bool = False, shifted: bool = False, written: bool = True, ends: str = "own",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Vectors (k, longest, d) and the places of the stop tokens (k,); each switch is a way to err."""
    t, m = clip.tokenizer, len(context)
    rows, where = [], []
    for name in names:
        before, after = (
            [t.sot_token_id] * begins,
            [*t.encode(name), *(t.encode(".") if dot else []), *[t.eot_token_id] * stops],
        )
        own = len(t.encode(name)) if front else 0
        where.append(max(0, len(before) + own - shifted))
        rows.append([*before, *after[:own], *[0] * m, *after[own:]])
    longest = max(map(len, rows))
    last = {
        "own": [len(r) - 1 for r in rows],
        "row": [longest - 1] * len(rows),
        "count": [len(r) for r in rows],
    }[ends]
    embedded = clip.model.token_embedding(
        torch.tensor([r + [0] * (longest - len(r)) for r in rows])
    ).clone()
    if written:
        for row, at in zip(embedded, where, strict=True):
            row[at : at + m] = context
    return embedded, torch.tensor(last)


def _context() -> tuple[Clip, Tensor, tuple[str, ...]]:
    clip = load_clip()
    return (
        clip,
        0.3
        * torch.randn(
            3,
            clip.model.token_embedding.weight.shape[1],
            generator=torch.Generator().manual_seed(0),
        ),
        NAMES,
    )


NAMES = ("fire engine", "owl", "slice of pizza")


def _praise_place(attempt: Callable) -> str:
    from copra_lab.engine.text_encoder import Encoder

    clip, context, names = _context()
    embedded, ends = attempt(clip, context, names)
    m = clip.model
    t = embedded.shape[1]
    x = m.ln_final(
        m.transformer(embedded + m.positional_embedding[:t], attn_mask=m.attn_mask[:t, :t])
    )
    own = torch.nn.functional.normalize(x[torch.arange(len(x)), ends] @ m.text_projection, dim=-1)
    far = (own - Encoder(clip, names, len(context), "end")(context[None])[0]).abs().max().item()
    return f"The features of your rows and those of the library's own differ by {far:.0e} at most."


put_in_place = Exercise(
    parts=("vectors", "places of the stop tokens"),
    solution=_put_in_place,
    arguments=_context,
    praise=_praise_place,
    mistakes={
        "no start": Mistake({"begins": False}, "The rows have no start token: the model has never seen a text without one."),
        "no stop": Mistake({"stops": False}, "The rows have no stop token, and there the text's feature is read."),
        "no full stop": Mistake({"dot": False}, "The full stop after the name is missing."),
        "name first": Mistake({"front": True}, "The names stand before the vectors: they should come after."),
        "over the start": Mistake({"shifted": True}, "The vectors begin at column 0, over the start token: they should begin after it."),
        "not written": Mistake({"written": False}, "The context is not in the rows: where its vectors should be there are those of token 0."),
        "last column": Mistake({"ends": "row"}, "Every text is read in the last column, but short rows end before it."),
        "counted": Mistake({"ends": "count"}, "The places are one too far: they count tokens, but places are numbered from 0."),
    },
)  # fmt: skip

# --- a paired bootstrap


def _paired_p(
    before: Tensor, after: Tensor, draws: Tensor, *, paired: bool = True, sign: int = 1, sides: int = 2, strict: bool = False, clamp: bool = True,
    whole: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The difference () and its p (); each switch is a way to err."""
    b, a = before.double(), after.double()
    means = sign * (
        (a - b)[draws].mean(1) if paired else a[draws].mean(1) - b[draws.roll(1, 0)].mean(1)
    )
    low, high = (
        ((means < 0, means > 0) if strict else (means <= 0, means >= 0))
        if not whole
        else (means <= (a - b).mean(), means >= (a - b).mean())
    )
    p = sides * torch.minimum(low.double().mean(), high.double().mean())
    return sign * (a - b).mean(), p.clamp(max=1) if clamp else p


def _outcomes() -> tuple[Tensor, Tensor, Tensor]:
    """Outcomes of as many images as the digits have for validation, nine of which change sides: so few that many draws have a difference of 0."""
    g = torch.Generator().manual_seed(1)
    n = len(load_task("digits").val)
    before = (torch.rand(n, generator=g) < 0.6).int()
    after = before.clone()
    turned = torch.randperm(n, generator=g)[:9]
    after[turned] = 1 - after[turned]
    return before, after, torch.randint(n, (999, n), generator=g)


def _praise_p(attempt: Callable) -> str:
    before, after, draws = _outcomes()
    difference, p = map(float, attempt(before, after, draws))
    points = f"{100 * difference:+.1f}".replace("-", "−")
    return (
        f"A difference of {points} points with p = {p:.2f}: nine images changed sides, and that is all that "
        f"this difference rests on, not the {len(before)} there are."
    )


paired_p = Exercise(
    parts=("difference", "p"),
    solution=_paired_p,
    arguments=_outcomes,
    praise=_praise_p,
    atol=1e-6,
    mistakes={
        "not paired": Mistake({"paired": False}, "Before and after were drawn apart: the same images must be drawn for both, or the noise of either drowns the difference."),
        "the other way round": Mistake({"sign": -1}, "The sign is wrong: the difference is after minus before."),
        "one-sided": Mistake({"sides": 1}, "This p is one-sided: it looks for a change on one side only, and is half of what is asked."),
        "ties left out": Mistake({"strict": True}, "Draws with no difference at all were left out of both shares: they belong to both (≤ and ≥)."),
        "around the difference": Mistake({"whole": True}, "The draws were compared with the observed difference, not with 0: that p is always near 1."),
    },
)  # fmt: skip

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
    """Whether each position shows the effect, bool (positions,); each switch is a way to err."""
    short, long = (
        (bent[:, taus > 1], bent[:, taus < 1])
        if swapped
        else (bent[:, taus < 1], bent[:, taus > 1])
    )
    up, down = (short > learned, long < learned) if strict else (short >= learned, long <= learned)
    over = torch.all if every else torch.any
    rise, fall = over(up, 1), over(down, 1)
    return (rise & fall if both else rise | fall) if falls else rise


def _table() -> tuple[Tensor, Tensor, Tensor]:
    """Accuracies in counts of 100 images, so that ties are ties."""
    rows = [
        [51, 52, 50, 49, 48],
        [49, 50, 50, 50, 48],
        [52, 53, 51, 52, 53],
        [48, 49, 49, 50, 52],
        [50, 50, 50, 50, 50],
        [48, 51, 49, 51, 49],
        [51, 51, 52, 48, 47],
    ]
    return torch.tensor(rows) / 100, torch.tensor(50) / 100, torch.tensor([0.1, 0.5, 0.9, 1.5, 2.0])  # fmt: skip


def _praise_effect(attempt: Callable) -> str:
    found = attempt(*_table())
    return f"{int(found.sum())} of {len(found)} positions of the worked table show the effect. It takes a rise and a fall, and a tie is neither."


shows_effect = Exercise(
    parts=("whether each position shows it",),
    solution=_shows_effect,
    arguments=_table,
    praise=_praise_effect,
    mistakes={
        "ties": Mistake({"strict": False}, "An equal accuracy was taken for a rise or a fall: it is neither."),
        "either": Mistake({"both": False}, "One of the two was enough for you: a position needs the rise and the fall."),
        "rises alone": Mistake({"falls": False}, "You counted rises alone: a longer vector must also lower accuracy."),
        "swapped": Mistake({"swapped": True}, "Short and long are swapped: τ below 1 makes a vector shorter."),
        "all": Mistake({"every": True}, "You asked that all columns do so: one shorter and one longer column are enough."),
    },
)  # fmt: skip
