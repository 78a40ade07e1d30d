# ---
# jupyter:
#   copra_lab:
#     question: Can a prompt get better when a part of it gets weaker?
#     assets: [clip, prompts]
# ---

# %% [markdown]
# # 8. Tune a prompt and bend it
#
# Lesson 1 tried templates by hand: `a drawing of a …`, `a photo of a …`. A template is a row of
# word vectors, and a vector can be *learned*. That is CoOp. In this lesson you learn a prompt, and
# then you damage it on purpose, vector by vector, and find that some damage helps.
#
# - **You will learn** how a text tower can be fed with vectors that are no words, what four of them
#   can do and what they cost on names they have not met, and how to tell a rise in accuracy from
#   luck when you try many things.
# - **You need** lesson 1: the two towers, cosines, intervals.
# - **It takes** three quarters of an hour of yours, and {{time}} of two CPU cores.

# %% tags=["setup"]
try:
    import copra_lab as cl
    from copra_lab.plots.widgets import live
except ImportError:  # the package, or what its lessons need beside it
    # %pip install --quiet "copra-lab[lessons]==0.1.0"
    import copra_lab as cl
    from copra_lab.plots.widgets import live

import ipywidgets as w
import torch
import torch.nn.functional as F
from IPython.display import Markdown

from copra_lab import plots
from copra_lab.bench import occurrences, survey
from copra_lab.engine import Encoder
from copra_lab.exercises import bend_prompt as check
from copra_lab.prompts import replace, rescale, word_norm
from copra_lab.utils.statistics import paired_bootstrap
from copra_lab.zoo import shipped_prompts

# %% [markdown]
# **What you will have at the end**: a survey of a learned prompt. Each row is one of its vectors,
# each column a length to which that one vector is bent while the others stay; the number is what
# this does to accuracy on all test images, in points. A frame marks what is beyond chance.

# %%
TAUS = (0.001, 0.1, 0.5, 0.9, 1.1, 1.5, 2.0)


def drawn(found):
    """The RESCALE part of a survey as a table."""
    cells = {(c.position, c.factor): c for c in found if c.kind == "rescale"}
    rows, taus = (sorted({key[i] for key in cells}) for i in (0, 1))
    return plots.changes(
        [[cells[i, t].delta for t in taus] for i in rows],
        [f"vector {i + 1}" for i in rows],
        [f"× {t:g}" for t in taus],
        sure=[[cells[i, t].p < 0.05 for t in taus] for i in rows],
    )


clip = cl.load_clip()
opening = cl.Bench(clip, cl.load_task("things-blur"))
drawn(survey(opening, shipped_prompts("things-blur")[0].load(clip), TAUS))

# %% [markdown]
# ## A prompt is a row of vectors
#
# The tokenizer turns a text into numbers, an embedding turns each number into a vector, and from
# there on the text tower knows nothing of words. Feed it the vectors yourself and it must say the
# same.

# %%
model = clip.model
start, stop = clip.tokenizer.sot_token_id, clip.tokenizer.eot_token_id


def encode(embedded, ends):
    """Vectors (texts, length, d), and the place of each text's last → features (texts, e)."""
    x = embedded + model.positional_embedding[: embedded.shape[1]]
    mask = model.attn_mask[: embedded.shape[1], : embedded.shape[1]]  # none looks ahead
    x = model.ln_final(model.transformer(x, attn_mask=mask))
    return F.normalize(x[torch.arange(len(x)), ends] @ model.text_projection, dim=-1)


numbers = torch.tensor([[start, *clip.tokenizer.encode("a drawing of a tiger"), stop]])
vectors = model.token_embedding(numbers)  # (1, tokens, d)
ours = encode(vectors, [numbers.shape[1] - 1])
theirs = clip.text_features(["a drawing of a tiger"])
print("vectors            ", tuple(vectors.shape))
print("largest difference ", f"{(ours - theirs).abs().max().item():.1e}")

# %% [markdown]
# How long are such vectors? Remember the answer: the second half of this lesson is about lengths.

# %%
words = [clip.tokenizer.decode([n]).strip() for n in numbers[0].tolist()]
for word, norm in zip(words, vectors[0].norm(dim=-1).tolist(), strict=True):
    print(f"{word:22} {norm:.2f}")

# %% [markdown]
# ## Learn the words away
#
# CoOp ([Zhou et al. 2021](https://arxiv.org/abs/2109.01134)) keeps the class name and replaces the
# template by vectors $v_1 \ldots v_M$ that all classes share:
#
# $$t_c = [\text{start}]\; v_1 \cdots v_M\; [\text{name}_c]\,.\,[\text{stop}] \qquad
# p(y = c \mid x) = \frac{\exp(s \cos(f(x), g(t_c)))}{\sum_j \exp(s \cos(f(x), g(t_j)))}$$
#
# Both towers stay as they are. The loss is the cross-entropy of $p$ on a few labelled images, and
# its gradient passes through the whole text tower, down to the vectors.
#
# ## Exercise: put vectors in a prompt's place
#
# Difficulty ●●●○○ · importance ●●●●● · 12 minutes
#
# Build the rows that go into `encode`: for each name the start token, the M vectors of `context`,
# the name's tokens, a full stop, the stop token. Rows of short names are filled up with token
# number 0 to the length of the longest; also return at which place each row's stop token stands.
# `clip.tokenizer.encode(text)` gives the numbers of a text's tokens,
# `clip.model.token_embedding(numbers)` their vectors.
#
# <details><summary>A hint</summary>
#
# Make rows of *numbers* first, with any number where the vectors will stand, pad them and embed
# them all at once. Then write `context` into columns 1 to M of every row: the vectors come at the
# same places for all names.
#
# </details>


# %% tags=["exercise"]
def put_in_place(clip, context, names):
    """context (M, d), k names → vectors (k, longest, d), places of the stop tokens (k,)."""
    # BLANK: rows of numbers; pad; embed; write the context; remember the ends
    encode, m = clip.tokenizer.encode, len(context)
    first, last = clip.tokenizer.sot_token_id, clip.tokenizer.eot_token_id
    rows = [[first, *[0] * m, *encode(name), *encode("."), last] for name in names]
    ends = torch.tensor([len(row) - 1 for row in rows])
    longest = max(len(row) for row in rows)
    numbers = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    embedded = clip.model.token_embedding(numbers).clone()
    embedded[:, 1 : 1 + m] = context
    return embedded, ends
    # END


# %% tags=["check"]
check.put_in_place(put_in_place)

# %% [markdown]
# ## Train it by hand
#
# Handwritten digits: the hardest task of lesson 1, where no template was above guessing. The image
# tower is frozen, so every image needs to pass through it once; a step then costs one pass of ten
# texts. We begin at the vectors of `a drawing of a`.
#
# The library's own way to put vectors in place is `Encoder`; it does what you wrote, and gives
# features at once.
#
# *Guess before you look: how far do four vectors get, with both towers frozen?*

# %%
task = cl.load_task("digits")
train_features = clip.image_features(
    task.train.images
).clone()  # a copy may take part in gradients
classes = Encoder(clip, task.classes, length=4, position="end")

context = model.token_embedding(numbers)[0, 1:5].clone().requires_grad_()
optimiser = torch.optim.SGD([context], lr=0.01, momentum=0.9)
losses = []
for _ in range(200):
    text_features = classes(context[None])[0]
    loss = F.cross_entropy(
        clip.logit_scale * train_features @ text_features.T, task.train.labels
    )
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())

print(f"loss  {losses[0]:.2f} → {losses[-1]:.2f}")

# %% [markdown]
# `cl.fit` does the same, on augmented images and with a rate that falls. What comes out is a
# `SoftPrompt`, a value like an `Adapter`; a bench measures it.

# %%
bench = cl.Bench(clip, task)
by_hand = cl.SoftPrompt(context.detach(), classes=task.classes)
settings = {"lr": 0.01, "steps": 400, "views": 4, "progress": False}
four = cl.fit(clip, task, cl.CoOp(words="a drawing of a"), **settings)
sixteen = cl.fit(clip, task, cl.CoOp(16), **settings)

hits = bench.hits([by_hand, four, sixteen]).numpy().astype(float)
told = {"four vectors, by hand": 0, "four vectors, cl.fit": 1, "sixteen, begun as noise": 2}
scores = {"the task's own words": bench.accuracy()}
scores |= {
    name: bench.accuracy(prompt=p)
    for name, p in zip(told, (by_hand, four, sixteen), strict=True)
}
plots.accuracies(scores, chance=1 / len(task.classes))

# %% tags=["prose"]
plain, best = scores["the task's own words"], max(scores.values(), key=float)
delta, p = paired_bootstrap(hits[2:3], hits[1], bench.sources)
more, less = ("Sixteen vectors", "four") if delta[0] > 0 else ("Four vectors", "sixteen")
Markdown(f"""
From {plain} to {best}, and not a weight of the CLIP has changed: {4 * context.shape[1]:,} numbers (or
{16 * context.shape[1]:,}) say it. {more} do {100 * abs(delta[0]):.1f} points better than {less} on this task
({"beyond chance" if p[0] < 0.05 else "within chance"}, one training each). Do not take that for a rule: on tasks whose names the CLIP knows,
sixteen vectors that begin as noise can end *below* the plain words (`experiments/README.md` has the tables): few images
say little about so many numbers.
""")

# %% [markdown]
# ## What did it learn to say?
#
# Nothing you can read. For each vector the nearest words of the vocabulary by cosine, as the paper
# does (its section 4 warns of the same):

# %%
vocabulary = F.normalize(model.token_embedding.weight.detach(), dim=-1)
for i, v in enumerate(four.context):
    near = (vocabulary @ F.normalize(v, dim=0)).topk(4)
    said = ", ".join(
        f"{clip.tokenizer.decode([n]).strip()} {c:.2f}"
        for n, c in zip(near.indices.tolist(), near.values.tolist(), strict=True)
    )
    print(f"vector {i + 1}, length {v.norm():.2f}:  {said}")

# %% [markdown]
# ## What it costs: names it has not met
#
# The vectors are shared by all classes, so the prompt goes with any name. But it was shaped by
# those it saw. Train on half of the names, test on either half; the *harmonic mean* of the two
# punishes whoever buys one with the other. On drawings this time, whose names the CLIP knows.
#
# *Guess before you look: on the unseen half, does a learned prompt beat the plain words?*

# %%
groups = cl.load_task("known-groups")
base, new = groups.base_and_new()
words_only = cl.CoOp(words="a drawing of a")
narrow = cl.fit(clip, base, words_only, lr=0.01, views=4, progress=False)

halves = {}
for half, name in ((base, "seen"), (new, "unseen")):
    b = cl.Bench(clip, half)
    halves[f"{name} names, plain words"] = b.accuracy()
    halves[f"{name} names, learned"] = b.accuracy(prompt=narrow)
plots.accuracies(halves)


# %% tags=["prose"]
def harmonic(a, b):
    return 2 * float(a) * float(b) / (float(a) + float(b))


h = {
    k: harmonic(halves[f"seen names, {k}"], halves[f"unseen names, {k}"])
    for k in ("plain words", "learned")
}
Markdown(f"""
Harmonic means: {100 * h["plain words"]:.1f} with plain words, {100 * h["learned"]:.1f} with the learned prompt. (Each half is a task of its own,
so compare within a half.) That a prompt learned on some classes may lose on others is what CoCoOp
([arXiv:2203.05557](https://arxiv.org/abs/2203.05557)) set out to mend.
""")

# %% [markdown]
# ## Bend it
#
# The Nemesis paper ([Fu et al. 2024](https://arxiv.org/abs/2408.13979)) asked what becomes of a
# learned prompt when *one* of its vectors is corrupted, in two ways:
#
# $$\text{REPLACE: } v_i \leftarrow \mathcal{N}(0, \sigma^2 I) \qquad\qquad \text{RESCALE: } v_i
# \leftarrow \tau\, v_i$$
#
# REPLACE throws away direction and length. RESCALE keeps the direction. With σ = 0 or τ = 0 both
# leave a zero.
#
# *Guess before you look: what does it cost to erase one of four learned vectors?*

# %%
bent = {
    "as learned": four,
    "vector 2 replaced, σ = 0.01": replace(four, 1, sigma=0.01),
    "vector 2 × 0": rescale(four, 1, 0.0),
    "vector 2 × 0.5": rescale(four, 1, 0.5),
    "vector 2 × 2": rescale(four, 1, 2.0),
    "all × 0.5": rescale(four, range(4), 0.5),
}
plots.accuracies({name: bench.accuracy(prompt=p) for name, p in bent.items()})

# %% [markdown]
# ## Put your hand in
#
# A slider for each vector, from erased (0) to twice as long. Can you beat the prompt as it was
# learned? Note the best you find: in a moment you will learn what to think of it.


# %%
def bend(v1, v2, v3, v4):
    taus = (v1, v2, v3, v4)
    rows = {
        "as learned": bench.accuracy(prompt=four),
        "as bent": bench.accuracy(prompt=rescale(four, range(4), taus)),
    }
    return plots.accuracies(rows, chance=1 / len(task.classes))


def slider(name):
    return w.FloatSlider(1.0, min=0, max=2, step=0.05, description=name, continuous_update=True)


live(bend, **{f"v{i}": slider(f"vector {i}") for i in range(1, 5)})

# %% [markdown]
# ## Survey all of it, with chance in mind
#
# The paper's *Low-Norm Effect*: at some positions a **shorter** vector raises accuracy, and a
# longer one lowers it. To look for it, try every position with every τ. But whoever tries many
# things finds rises by luck, so each difference needs its own test, and the right one is *paired*:
# both prompts see the same images, most of which neither gets wrong differently. The bootstrap
# draws the images again and again, and asks how often the difference loses its sign.
#
# ## Exercise: a paired bootstrap
#
# Difficulty ●●●○○ · importance ●●●●○ · 10 minutes
#
# `before` and `after` say for each of n images whether it was classified rightly (0 or 1); each row
# of `draws` is n image numbers drawn with replacement. Give the difference in accuracy, and its
# two-sided *p*: twice the smaller of the shares of draws whose difference is ≤ 0 and ≥ 0, at
# most 1.
#
# <details><summary>A hint</summary>
#
# The difference of each image first, (n,): after minus before. A draw's difference is the mean of
# the differences of *its* images: `difference[draws]` has a row a draw.
#
# </details>


# %% tags=["exercise"]
def paired_p(before, after, draws):
    """before, after (n,) of 0 and 1; draws (m, n) of image numbers → difference (), p ()."""
    # BLANK: differences; their mean in each draw; both shares; twice the smaller
    difference = after.double() - before.double()
    means = difference[draws].mean(1)
    low = (means <= 0).double().mean()
    high = (means >= 0).double().mean()
    return difference.mean(), (2 * torch.minimum(low, high)).clamp(max=1)
    # END


# %% tags=["check"]
check.paired_p(paired_p)

# %% [markdown]
# Now the prompt you trained, all positions, on all test images. Columns left of × 1 shorten a
# vector, columns right of it lengthen it.

# %%
found = survey(bench, four, TAUS)
drawn(found)

# %% tags=["prose"]
counted = occurrences(found)
longer = [c for c in found if c.kind == "rescale" and c.factor > 1]
Markdown(f"""
Corruptions that shorten one vector (by RESCALE or REPLACE): {counted.of}. Of those, {counted.rose} raise accuracy on these {len(bench)} images, and
{counted.surely} of those beyond chance. At {counted.positions} of {four.length} positions a shorter vector raised accuracy
*and* its counterpart, a longer one, lowered it: that is the Low-Norm Effect as the paper means it. For comparison, making a vector longer raises accuracy in
{sum(c.delta > 0 for c in longer)} of {len(longer)} cases.
""")

# %% [markdown]
# ## Exercise: count the effect
#
# Difficulty ●●○○○ · importance ●●●○○ · 8 minutes
#
# From a table of accuracies of bent prompts, `bent` (positions, taus), and the `learned` accuracy
# (), give for each position whether it shows the effect: some τ < 1 raises accuracy, and some τ > 1
# lowers it. Strictly: an equal accuracy is neither a rise nor a fall.
#
# <details><summary>A hint</summary>
#
# `taus < 1` is a mask over columns. A position counts if *any* of its shorter columns is above
# `learned` and *any* of its longer ones below.
#
# </details>


# %% tags=["exercise"]
def shows_effect(bent, learned, taus):
    """bent (positions, taus), learned (), taus (taus,) → bool (positions,)."""
    # BLANK: rises among the shorter, falls among the longer, both
    rises = (bent[:, taus < 1] > learned).any(1)
    falls = (bent[:, taus > 1] < learned).any(1)
    return rises & falls
    # END


# %% tags=["check"]
check.shows_effect(shows_effect)

# %% [markdown]
# ## Is it an effect, or is it what we looked at?
#
# An honest test of a rise: *choose* the best corruption on validation images, then measure that one
# on test images. What was luck stays behind. Six tasks, each with its shipped CoOp prompt.
#
# *Guess before you look: how much of the gain survives?*

# %%
before, chosen, kept = {}, {}, []
for s in [s for s in shipped_prompts() if s.label.startswith("CoOp")]:
    prompt, about = s.load(clip), cl.load_task(s.task)
    val, test = cl.Bench(clip, about, "val"), cl.Bench(clip, about)
    shorter = [c for c in survey(val, prompt, (0.001, 0.1, 0.5, 0.9), ()) if c.lowers]
    best_cut = max(shorter, key=lambda c: c.delta)
    a, b = (
        test.hits([prompt, rescale(prompt, best_cut.position, best_cut.factor)])
        .numpy()
        .astype(float)
    )
    delta, p = paired_bootstrap(b[None], a, test.sources)
    before[s.task], chosen[s.task] = test.accuracy(prompt=prompt), best_cut
    kept.append([best_cut.delta, float(delta[0])])

plots.changes(
    kept,
    [f"{t}: vector {c.position + 1} × {c.factor:g}" for t, c in chosen.items()],
    ["validation", "test"],
)

# %% tags=["prose"]
on_val, on_test = (100 * sum(k[i] for k in kept) / len(kept) for i in (0, 1))
Markdown(
    f"""
Chosen as the best of all that shorten one vector, the corruption raises accuracy by {on_val:+.1f} points on average on the validation images that chose
it, and by {on_test:+.1f} on test images. The first number is made by choosing, the more so the fewer images there are; only the second is an effect, and with
one prompt a task it is {"worth a look, no more" if on_test > 1 else "not to be told from nothing"}.
""".replace("+-", "−").replace("-0.0", "0.0")
)

# %% [markdown]
# ## On your own
#
# - Learn the same prompt with another seed. Is it the same vector that wants to be shorter?
# - Put the name first: `cl.CoOp(4, position="front")`. With a causal text tower, what can the
#   vectors still know of the name, and what can the name know of them?
# - Let each class have its own vectors (`class_specific=True`), and try it on the unseen names.
#   What does the library say?
#
# ## In practice
#
# - Begin at words. It costs nothing, and with few images it is worth more than the number of
#   vectors.
# - A prompt belongs to the model it was learned on: learn it again after you fine-tuned a tower
#   (`fit(…, adapter=…)`).
# - Whoever tries many variants must keep images aside for the one that is chosen.

# %% tags=["prose"]
Markdown(f"""
**Where this small model differs from the papers'.** They use CLIP's ResNet-50 and ViT-B/16, sixteen vectors, eleven data sets of thousands of
test images, where CoOp gains 14 points from 1 to 16 shots. This text tower has read few sentences and its words are
{word_norm(clip):.2f} long on average; the task with most test images has {len(bench)}. The paper counts a rise of any size; how many of its
rises are beyond chance is not in its table.
""")

# %% [markdown]
# ## Further reading
#
# - Zhou et al., *Learning to Prompt for Vision-Language Models* (CoOp),
#   [arXiv:2109.01134](https://arxiv.org/abs/2109.01134).
# - Zhou et al., *Conditional Prompt Learning for Vision-Language Models* (CoCoOp),
#   [arXiv:2203.05557](https://arxiv.org/abs/2203.05557). Unseen names.
# - Fu et al., *Nemesis: Normalizing the Soft-prompt Vectors of Vision-Language Models*,
#   [arXiv:2408.13979](https://arxiv.org/abs/2408.13979). Lesson 9 is about what it does with the
#   effect.
