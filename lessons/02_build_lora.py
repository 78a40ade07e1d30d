# ---
# jupyter:
#   copra_lab:
#     question: How can a few thousand numbers change a model of millions?
#     assets: [clip, adapters]
# ---

# %% [markdown]
# # 2. Build LoRA by hand
#
# LoRA leaves every weight of a model as it is and adds to some of them a product of two thin
# matrices. That is all of it, and twenty lines of PyTorch hold it. You write them, train them, and
# watch your losses come out the same as the library's.
#
# - **You will learn** where attention keeps its weights, what *low rank* buys and costs, why
#   training starts exactly at the base, what the scale has to do with the rank, and why merging is
#   easy and unmerging is not.
# - **You need** some PyTorch: `nn.Module`, a training loop.
# - **It takes** three quarters of an hour of yours, and {{time}} of two CPU cores.

# %% [markdown]
# Set up first. On Colab this installs the package; where it is installed, it does nothing.

# %% tags=["setup"]
try:
    import copra_lab as cl
    from copra_lab.plots.widgets import live
except ImportError:  # the package, or what its lessons need beside it
    # %pip install --quiet "copra-lab[lessons]==0.1.0"
    import copra_lab as cl
    from copra_lab.plots.widgets import live

import copy
import math

import ipywidgets as w
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch import nn
from torch.nn.utils import parametrize

from copra_lab import plots
from copra_lab.adapters import LowRank
from copra_lab.exercises import build_lora as check
from copra_lab.merging import truncate, weighted_sum
from copra_lab.models import hf_name
from copra_lab.utils.rng import generator
from copra_lab.utils.statistics import Accuracy, bootstrap_interval
from copra_lab.zoo import shipped

# %% [markdown]
# **What you will have at the end**: a CLIP that was never shown handwriting and now reads it, and
# in your hand the small thing that made the difference. First without it, then with it. The images
# are the first five of the test set in a shuffled order.

# %%
clip = cl.load_clip()
task = cl.load_task("digits")
bench = cl.Bench(clip, task, precision="float32")  # the test images, in a fixed shuffled order

adapter = next(s for s in shipped("digits") if s.label == "LoRA, seed 0").load(clip)
first_five, truth = bench.split.images[bench.order[:5]], bench.labels[:5].tolist()
plots.answers(first_five, bench.logits(stop=5).softmax(-1), task.classes, truth)

# %%
plots.answers(first_five, bench.logits(adapter, stop=5).softmax(-1), task.classes, truth)

# %% tags=["prose"]
before, after = bench.accuracy(), bench.accuracy(adapter)
total = sum(p.numel() for p in clip.model.parameters())
Markdown(f"""
On all test images: {before} without, {after} with the adapter. The model has {total:,} weights and all of them are as
before; the adapter is {adapter.parameters:,} numbers, {100 * adapter.parameters / total:.1f} % of that.
""")

# %% [markdown]
# ## Where attention keeps its weights
#
# LoRA is usually put on the projections of attention that make queries, keys and values. In a
# textbook these are three matrices. In CLIP they are one:

# %%
block = clip.model.visual.transformer.resblocks[3]
d = block.attn.embed_dim
print("in_proj_weight", tuple(block.attn.in_proj_weight.shape), "for a width of", d)
print("in_proj_bias  ", tuple(block.attn.in_proj_bias.shape))

# %% [markdown]
# Three times as many rows as columns: q, k and v are stacked, so that one matrix product gives all
# three. Which third is which? Do attention by hand and see if it comes out the same. `tokens` are
# what really enters this layer.


# %%
def enters(layer, images):
    """The tokens (n, t, d) that enter the attention of a block, after its normalisation."""
    seen = []
    norm = clip.model.visual.transformer.resblocks[layer].ln_1
    hook = norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        clip.model.encode_image(clip.pixels(images))
    hook.remove()
    return seen[0]


def attention(x, attn):
    heads = attn.num_heads
    qkv = x @ attn.in_proj_weight.T + attn.in_proj_bias
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return attn.out_proj((weights @ v).transpose(1, 2).flatten(2))


tokens = enters(3, first_five)
with torch.inference_mode():
    by_hand = attention(tokens, block.attn)
    by_torch = block.attn(tokens, tokens, tokens, need_weights=False)[0]
print("tokens            ", tuple(tokens.shape))
print("largest difference", f"{(by_hand - by_torch).abs().max():.1e}")
assert torch.allclose(by_hand, by_torch, atol=1e-4)

# %% [markdown]
# So rows 0 to d are q, then k, then v. To adapt q and v alone, a change must reach the first and
# the last third and leave the middle one. The library calls each third a *site*, and names it as
# Hugging Face's CLIP does, where the three are apart:

# %%
for site in list(clip.sites.values())[18:21]:
    print(f"{site.name:52} rows {site.start:3} to {site.stop:3} of {site.parameter}")

# %% [markdown]
# ## A change of low rank
#
# Fine-tuning finds a change $\Delta W$ of each matrix. LoRA ([Hu et al.
# 2021](https://arxiv.org/abs/2106.09685), equation 3) bets that a change of low rank will do, and
# writes it as a product of two thin matrices:
#
# $$h = W_0 x + \Delta W x = W_0 x + s\,B A x, \qquad A \in \mathbb{R}^{r \times d_{in}},\; B \in
# \mathbb{R}^{d_{out} \times r}$$
#
# $W_0$ is frozen; only $A$ and $B$ learn. $A$ squeezes a token to $r$ numbers, $B$ spreads them out
# again, and $s$ is a fixed scale. What does it save?

# %%
print(
    f"{'rank':>16} {'numbers a matrix':>17} {'q, k, v of all layers':>22} {'of the CLIP':>12}"
)
for r in (1, 4, 16, d // 2, d):
    one, sites = r * (d + d), 3 * clip.layers
    print(f"{r:>16} {one:>17,} {one * sites:>22,} {one * sites / total:>12.1%}")
print(
    f"{'the full matrix':>16} {d * d:>17,} {d * d * sites:>22,} {d * d * sites / total:>12.1%}"
)

# %% [markdown]
# Half of the width is where the saving ends. In a model of width 4,096, rank 4 is 1/512 of a
# matrix: the larger the model, the better the bargain.
#
# ## Exercise: the change of a fused weight
#
# Difficulty ●○○○○ · importance ●●●●○ · 5 minutes
#
# Given the factors for q and for v, write the change of the whole `in_proj_weight`, (3d, d). LoRA
# sits on q and v here, so k must not move.
#
# <details><summary>A hint</summary>
#
# Two products with the scale, a block of zeros (`torch.zeros_like`), and `torch.cat` along the
# rows, in the order that you found above.
#
# </details>


# %% tags=["exercise"]
def fused_delta(A_q, B_q, A_v, B_v, s):
    """A (r, d) and B (d, r) of q and v, and the scale → the change of the whole, (3d, d)."""
    # BLANK: two low-rank changes; nothing for k; stack them
    delta_q = s * (B_q @ A_q)
    delta_v = s * (B_v @ A_v)
    return torch.cat([delta_q, torch.zeros_like(delta_q), delta_v], dim=0)
    # END


# %% tags=["check"]
check.fused_delta(fused_delta)

# %% [markdown]
# ## Build it
#
# `parametrize` is PyTorch's way to say: whenever somebody reads this weight, give them this
# function of it. So the attention's own code stays as it is, and never learns that its weight is a
# sum now. One module holds A and B for all three thirds.
#
# How they begin matters. B = 0, so $\Delta W = 0$ and training starts at the base. A is random:
# "Kaiming-uniform" in the authors' code and here, which for these shapes means uniform between $\pm
# 1/\sqrt{d}$. (The paper says Gaussian.)


# %%
class ByHand(nn.Module):
    def __init__(self, d, r, s, g):
        super().__init__()
        self.s = s
        drawn = [(2 * torch.rand(r, d, generator=g) - 1) / math.sqrt(d) for _ in "qkv"]
        self.A = nn.ParameterList(drawn)
        self.B = nn.ParameterList([torch.zeros(d, r) for _ in "qkv"])

    def forward(self, weight):  # W' = W + s·B·A, a third at a time
        return weight + torch.cat(
            [self.s * (b @ a) for a, b in zip(self.A, self.B, strict=True)]
        )


def put_on(layers, r=4, s=1.0, g=None):
    """A copy of the model with a fresh change on each of these layers, and those changes."""
    model = copy.deepcopy(clip.model).requires_grad_(False)
    g = g or generator(0, 0, "init")
    changes = {}
    for layer in layers:
        attn = model.visual.transformer.resblocks[layer].attn
        changes[layer] = ByHand(d, r, s, g)
        parametrize.register_parametrization(attn, "in_proj_weight", changes[layer])
    return model, changes


text = clip.text_features(task.prompts).clone()


def logits(model, pixels):
    return clip.logit_scale * F.normalize(model.encode_image(pixels), dim=-1) @ text.T


pixels = clip.pixels(first_five)
model, changes = put_on([3])
with torch.no_grad():
    fresh, base = logits(model, pixels), logits(clip.model, pixels)
    print("fresh, equal to the bit:", torch.equal(fresh, base))

# %% [markdown]
# Not *almost* equal: adding zero changes no bit. Now give it the numbers of the trained adapter at
# this layer, and hold it against the library, which has the same three sites and nothing else.

# %%
sites = [hf_name("vision", 3, kind) for kind in "qkv"]
with torch.no_grad():
    for i, name in enumerate(sites):
        changes[3].A[i].copy_(adapter.deltas[name].A)
        changes[3].B[i].copy_(adapter.deltas[name].B)
    mine = logits(model, pixels)

library = bench.logits(adapter.keep(sites), stop=5)
print("moved the logits by up to", f"{(mine - bench.logits(stop=5)).abs().max():.2f}")
print("differs from the library by", f"{(mine - library).abs().max():.1e}")
assert torch.allclose(mine, library, atol=1e-3)

# %% [markdown]
# ## Exercise: without ever making ΔW
#
# Difficulty ●●○○○ · importance ●●●●● · 10 minutes
#
# $B A x$ can be read in two ways. Multiply $B A$ first and you have a matrix as large as $W$;
# multiply $A x$ first and nothing large ever exists. Servers that keep one base model for many
# users' adapters compute it in the second way. Write the second for a whole projection, bias and
# all. Tokens stand in *rows* here, so each product turns around: $Wx$ becomes `x @ W.T`.
#
# <details><summary>A hint</summary>
#
# Follow the last axis: d → r by `A.T`, r → d by `B.T`. What does the scale belong to, the whole
# output or only the new part of it?
#
# </details>


# %% tags=["exercise"]
def adapted(x, W, bias, A, B, s):
    """Tokens x (n, t, in), W (out, in), bias (out,), A (r, in), B (out, r) → (n, t, out)."""
    # BLANK: the frozen projection, plus the low-rank one; no matrix as large as W may be made
    frozen = x @ W.T + bias
    low = (x @ A.T) @ B.T
    return frozen + s * low
    # END


# %% tags=["check"]
check.adapted(adapted)

# %% [markdown]
# ## Train it
#
# An ordinary loop. Of everything in the model only A and B of twelve layers have gradients. *Guess
# before you look: B is zero and A is not. Which of the two gets a gradient in the very first step?*

# %%
STEPS, BATCH, RATE = 80, 16, 4e-3

model, changes = put_on(range(clip.layers), r=4)
parameters = [p for change in changes.values() for p in change.parameters()]
optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-2)
labels, my_losses, first = task.train.labels, [], {}

for step in range(STEPS):
    g = generator(
        0, step, "batch"
    )  # the library's own randomness, so that we see the same images
    rows = torch.randperm(len(labels), generator=g)[:BATCH]
    pixels = task.augment(clip.pixels(task.train.images[rows]), g)
    optimiser.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
    with parametrize.cached():  # W + s·B·A once a step, however often it is read
        loss = F.cross_entropy(logits(model, pixels), labels[rows])
        optimiser.zero_grad()
        loss.backward()
    first = first or {n: sum(p.grad.norm() for p in getattr(changes[3], n)) for n in "AB"}
    optimiser.step()
    my_losses.append(loss.item())

print(f"gradients of layer 3 in the first step: A {first['A']:.2f}, B {first['B']:.2f}")
print(
    f"loss: {my_losses[0]:.2f} at first, {sum(my_losses[-10:]) / 10:.2f} in the last ten steps"
)

# %% [markdown]
# With $G = \partial L / \partial W'$ the chain rule gives $\partial L / \partial B = s\,G A^\top$
# and $\partial L / \partial A = s\,B^\top G$. So while B is zero A stands still: the first step
# only chooses how to use A's random directions. (Were A zero too, both gradients would be, for
# ever.)
#
# Now the library, with the same settings and the same seed.

# %%
losses = []
theirs = cl.fit(
    clip, task, cl.LoRA(rank=4), seed=0, steps=STEPS, batch=BATCH, lr=RATE, schedule="cosine",
    progress=False, on_step=lambda step: losses.append(step.loss),
)  # fmt: skip
pairs = {
    hf_name("vision", layer, kind): LowRank(
        change.A[i].detach(), change.B[i].detach(), change.s
    )
    for layer, change in changes.items()
    for i, kind in enumerate("qkv")
}
mine = cl.Adapter(pairs, clip.hash)  # what you trained, as a value: A and B by site


def smooth(x):
    return [sum(x[i : i + 8]) / 8 for i in range(0, STEPS, 8)]


both = {"by hand": smooth(my_losses), "the library": smooth(losses)}
plots.lines(range(4, STEPS, 8), {"loss": both}, "step (means of eight)")

# %%
gap = max(abs(a - b) for a, b in zip(my_losses, losses, strict=True))
print(f"largest difference of two losses: {gap:.1e}")

SHIPPED = "shipped, 1,200 steps"
rows = {"no adapter": cl.Adapter({}), "by hand": mine, "the library": theirs, SHIPPED: adapter}
hits = dict(zip(rows, bench.outcomes(list(rows.values())), strict=True))
scores = {name: Accuracy(int(h.sum()), len(h)) for name, h in hits.items()}


def paired(a, b):
    """The difference of two accuracies on the same images, with its 95 % interval."""
    return float((a - b).mean()), bootstrap_interval((a - b).numpy(), bench.sources)


library = hits["the library"]
to_library = {name: paired(h, library) for name, h in hits.items() if h is not library}
plots.accuracies(scores, chance=0.1, differences=to_library, than="the library")

# %% tags=["prose"]
same = (
    "the same training to the rounding"
    if gap < 0.01
    else "the same at first, then rounding drives them apart"
)
short = scores["the library"]
longer, (low, high) = to_library[SHIPPED]
worth = (
    f"The shipped adapter, of 1,200 steps of 8 images, is {100 * longer:.0f} points better ({100 * low:.0f} to {100 * high:.0f})."
    if low > 0
    else "The shipped adapter, of 1,200 steps of 8 images, is not clearly better."
)
Markdown(f"""
The two are {same}: the losses differ by at most {gap:.0e}. What you wrote *is* the library's LoRA; what the library adds
is care: shapes, checkpoints, a tower that runs faster. {STEPS} steps of {BATCH} images bring {short}. {worth}
""")

# %% [markdown]
# ## What rank does a change need?
#
# The adapter was trained at rank 4. Does it use all four? A singular value decomposition splits ΔW
# into rank-one pieces, $\Delta W = \sum_i \sigma_i u_i v_i^\top$, in order of their size. Here is
# what each piece holds, on average over the layers, of $\lVert\Delta W\rVert^2 = \sum_i
# \sigma_i^2$.
#
# *Guess before you look: are the four alike?*

# %%
shares = {}
for kind in "qkv":
    pairs = [adapter.deltas[hf_name("vision", layer, kind)] for layer in range(clip.layers)]
    squares = torch.stack([torch.linalg.svdvals(pair.delta())[:5] ** 2 for pair in pairs])
    shares[kind] = (squares / squares.sum(-1, keepdim=True)).mean(0).tolist()
plots.lines(range(1, 6), {"share of ‖ΔW‖²": shares}, "singular value")

# %% [markdown]
# The fifth is zero, as it must be. `truncate` keeps the first *k* pieces, which is the best one can
# do at rank *k* (Eckart and Young). What is the small rest worth, on test images?

# %%
cut = {f"rank {k}": truncate(adapter, k) for k in (1, 2, 3)} | {"rank 4, as trained": adapter}
hits = dict(zip(cut, bench.outcomes(list(cut.values())), strict=True))
whole = hits["rank 4, as trained"]
plots.accuracies(
    {name: Accuracy(int(h.sum()), len(h)) for name, h in hits.items()},
    chance=0.1,
    differences={name: paired(h, whole) for name, h in hits.items() if h is not whole},
    than="rank 4",
)

# %% tags=["prose"]
lost = {name: paired(h, whole) for name, h in hits.items() if h is not whole}
clear = [name for name, (_, (low, high)) in lost.items() if high < 0]
first_share = sum(x[0] for x in shares.values()) / 3
gained = Accuracy(int(hits["rank 1"].sum()), len(bench)).value - before.value
Markdown(f"""
The first piece holds {100 * first_share:.0f} % of a change on average, and a quarter would be even. Alone it brings
{100 * gained:.0f} of the {100 * (after.value - before.value):.0f} points that the adapter gains. Clearly worse than the
whole: {", ".join(clear) or "none of them"}. This is one adapter on one task. The paper asks in another way, by training
at each rank, and finds that for GPT-3 rank 1 can be enough (section 7.2).
""")

# %% [markdown]
# ## Exercise: the best change of rank k
#
# Difficulty ●●○○○ · importance ●●●●○ · 10 minutes
#
# Full fine-tuning, or a merge of several adapters, leaves a ΔW of higher rank. Find its best
# approximation of rank *k*, and say what is lost: the share of $\lVert\Delta W\rVert^2$ that is no
# longer there.
#
# <details><summary>A hint</summary>
#
# `U, S, Vh = torch.linalg.svd(delta, full_matrices=False)`; note the *h*: V comes transposed
# already. The approximation keeps the first k columns of U, values of S and rows of Vh. The share
# is one of sums of $\sigma^2$, not of $\sigma$.
#
# </details>


# %% tags=["exercise"]
def best_rank(delta, k):
    """delta (out, in) → the closest matrix of rank k, and the share of ‖delta‖² it lacks."""
    # BLANK: SVD; keep the first k; what share of the squares is left out?
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    approximation = (U[:, :k] * S[:k]) @ Vh[:k]
    lost = S[k:].square().sum() / S.square().sum()
    return approximation, lost
    # END


# %% tags=["check"]
check.best_rank(best_rank)

# %% [markdown]
# ## The scale and the rank
#
# The scale is $s = \alpha / r$ in the paper (section 4.1), so that one need not tune everything
# anew for another *r*. [Kalajdzievski 2023](https://arxiv.org/abs/2312.03732) objects that this
# shrinks the change as the rank grows, and proposes $s = \alpha / \sqrt{r}$ (*rsLoRA*; CLIP-LoRA's
# code has it as well). It costs eight very short trainings to see who is right *here*, and
# `cl.fit_many` does them side by side. α is set so that both have s = 1 at rank 4.
#
# *Guess before you look: at the same rate and the same number of steps, does a higher rank move the
# model further?*

# %%
RULES = {"α / r": ("alpha/r", 4.0), "α / √r": ("alpha/sqrt(r)", 2.0)}
RANKS = (1, 4, 16, 64)
SHORT = {"steps": 30, "batch": 8, "lr": RATE, "schedule": "cosine"}


def size(adapter):
    return math.sqrt(
        sum(float(delta.delta().square().sum()) for delta in adapter.deltas.values())
    )


loras = {  # at rank 4 both rules are one
    (rule, r): cl.LoRA(rank=r, alpha=alpha, scaling=scaling)
    for rule, (scaling, alpha) in RULES.items()
    for r in RANKS
}
jobs = [cl.Job.of(task, lora, **SHORT) for lora in loras.values()]
trained = dict(zip(loras, cl.fit_many(clip, jobs, progress=False), strict=True))
sizes = {rule: [size(trained[rule, r]) for r in RANKS] for rule in RULES}
found = {
    rule: [trained[rule, r].provenance["validation accuracy"] for r in RANKS] for rule in RULES
}
plots.lines(RANKS, {"‖ΔW‖ after 30 steps": sizes}, "rank", log=True)

# %% tags=["prose"]
by_r, by_root = sizes.values()


def moved(x):
    ratio = x[-1] / x[0]
    word = "shrinks" if ratio < 0.8 else "grows" if ratio > 1.25 else "changes little"
    return f"{word} ({x[0]:.1f} at rank 1, {x[-1]:.1f} at rank 64)"


def power(x, of_scale):
    """p, if ‖BA‖ = ‖ΔW‖ / s grows like r to the power of p."""
    return math.log(x[-1] / x[0]) / math.log(RANKS[-1] / RANKS[0]) + of_scale


steadier = abs(math.log(by_root[-1] / by_root[0])) < abs(math.log(by_r[-1] / by_r[0]))
low, high = Accuracy(round(found["α / r"][0] * len(task.val)), len(task.val)).interval
verdict = (
    "So the square root keeps it steadier, as rsLoRA says."
    if steadier
    else "So here the square root is no steadier."
)
unsure = 50 * (high - low)
named = "; ".join(
    f"{rule} " + ", ".join(f"{100 * v:.0f}" for v in x) + " %" for rule, x in found.items()
)
Markdown(f"""
With α / r the change {moved(by_r)}; with α / √r it {moved(by_root)}. {verdict}
On the {len(task.val)} validation images the ranks {", ".join(map(str, RANKS))} come to: {named}. Each of these numbers
is uncertain by {unsure:.0f} points either way, from one seed, and 30 steps are far too few to rank anything. Take the
sizes from this, not a choice of rank.

Why it shrinks: Adam moves each entry of B by about the rate in each step, however small its gradient. B·A then sums *r*
such contributions, and $s$ must undo how that sum grows. Were the r terms alike, it would grow like r; were they
unrelated, like √r. From rank 1 to 64, ‖BA‖ grew like r to the power of {power(by_r, 1):.2f} under the first rule and of
{power(by_root, 0.5):.2f} under the second.
""")

# %% [markdown]
# ## Merge and unmerge
#
# At test time the sum $W + s\,BA$ can be written into the weight, and LoRA costs nothing from then
# on (section 4.1: no additional inference latency). And then take it away again, for another
# adapter? On paper $W + \Delta - \Delta = W$.
#
# *Guess before you look: after how many rounds of adding and taking away does the base differ from
# itself?*

# %%
W = block.attn.in_proj_weight.detach()
delta = torch.cat([adapter.deltas[name].delta() for name in sites])
print(f"typical entry: of W {W.abs().mean():.3f}, of the change {delta.abs().mean():.3f}")

drift = {}
for dtype in (torch.float32, torch.bfloat16):
    base = W.to(dtype)
    weight, seen = base.clone(), []
    for turn in range(256):
        other = (delta * math.cos(turn)).to(dtype)  # another adapter each time
        weight += other
        weight -= other
        if turn + 1 in (1, 4, 16, 64, 256):
            seen.append(((weight - base).float().norm() / delta.norm()).item())
    drift[str(dtype).removeprefix("torch.")] = seen
    print(f"{dtype}: after 1 round {seen[0]:.1e}, after 256 rounds {seen[-1]:.1e} of ‖ΔW‖")

once = (W.bfloat16() + delta.bfloat16()).float() - W.bfloat16().float()
off = (once - delta).norm() / delta.norm()
print(f"written into bfloat16 once, the change itself is off by {off:.1%}")

# %% tags=["prose"]
half = drift["bfloat16"]
Markdown(f"""
Float32 keeps seven digits, and {drift["float32"][-1]:.0e} of the change is left behind after 256 rounds: too little
to notice. In bfloat16, which keeps two or three, {100 * half[0]:.0f} % of the size of a change stays behind after a single
round and {100 * half[-1]:.0f} % after 256. So keep the base beside the adapter and never unmerge. This library goes further:
an `Adapter` is a value, a `Bench` computes with base + change, and nothing ever writes into a model.
""")

# %% [markdown]
# ## Put your hand in
#
# ΔW has a direction and a length, and the length is yours to set: 0 is the base, 1 what training
# found, 2 twice as far. Accuracy is on the first 200 test images. *Guess before you move it: is 1
# the best place? What does the model say at 0.5, where it is half way?*

# %%
SOME = 200


def scaled(scale):
    found = bench.logits(weighted_sum([adapter], [scale]), stop=SOME)
    right = Accuracy(int((found.argmax(-1) == bench.labels[:SOME]).sum()), SOME)
    picture = plots.answers(first_five, found[:5].softmax(-1), task.classes, truth)
    return plots.titled(picture, f"{scale:.1f} × ΔW: {right}")


length = w.FloatSlider(1, min=0, max=2, step=0.1, description="× ΔW", continuous_update=False)
live(scaled, scale=length)

# %%
LENGTHS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2)
longer = [bench.logits(weighted_sum([adapter], [x]), stop=SOME) for x in LENGTHS]
along = [bench.score(found.argmax(-1)) for found in longer]
plots.curve(LENGTHS, {"LoRA, seed 0": along}, "length of ΔW (1 = as trained)", chance=0.1)

# %% tags=["prose"]
best = LENGTHS[max(range(len(along)), key=lambda i: along[i].value)]
smooth_rise = all(
    b.value >= a.value - 0.03 for a, b in zip(along[:5], along[1:5], strict=False)
)
trained_at, most, twice = along[LENGTHS.index(1)], along[LENGTHS.index(best)], along[-1]
Markdown(f"""
As trained it is {100 * trained_at.value:.1f} %. The best of these lengths, {best:g}, is right on
{most.correct - trained_at.correct or "no"} more images of the {SOME}; twice the length comes to {100 * twice.value:.1f} %. The way from the base to the adapter {"rises with no pit on it" if smooth_rise else "has a pit on it"}, though nobody
trained the places between. That changes can be scaled and added like vectors is what the next lesson rests on.
""")

# %% [markdown]
# ## On your own
#
# - `cl.LoRA(sites=("q", "v"))` is what the paper uses most; `("out", "fc1", "fc2")` leaves
#   attention's inputs alone. Same rank, same number of steps: which sites does handwriting need?
#   Judge on `task.val`.
# - Draw B at random and start A at zero instead. Does it train? What does the first step move now?
# - Truncate the adapters of the other tasks (`shipped()` lists them) to rank 1. Where does it cost
#   least?
# - Freeze A (`train_a=False`) and train B alone. How much do you lose, for half of the numbers?
# - `cl.save_adapter(adapter, "folder")` writes a folder that peft loads. Look at its two files.
#
# ## In practice
#
# - Rank is seldom what limits a small task; the rate, the number of steps and the sites matter
#   first.
# - Before you compare two ranks, fix what the scale does. Many a gain of a higher rank is a gain of
#   a longer step.
# - With fused attention, check *which rows* your LoRA reaches. peft's wrapper of
#   `nn.MultiheadAttention` gives q, k and v one common A.
# - Keep adapters apart from the base; merge in float32, and only for good.

# %% tags=["prose"]
Markdown(f"""
**Where this small model differs from the papers'.** Width {d} and not some thousands, so rank 4 is
{100 * 8 / d:.0f} % of a matrix and not a thousandth: the saving is small here, the mechanism is the same. CLIP-LoRA adapts both
towers of ViT-B/16 at rank 2 with a rate of 2e-4; the image tower alone at rank 4 with a rate twenty times as high suits
this one. One task, one seed: what holds on average over seventeen tasks is in `README.md`.
""")

# %% [markdown]
# ## Further reading
#
# - Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*,
#   [arXiv:2106.09685](https://arxiv.org/abs/2106.09685). Sections 4.1 and 7.
# - Zanella and Ben Ayed, *Low-Rank Few-Shot Adaptation of Vision-Language Models* (CLIP-LoRA),
#   [arXiv:2405.18541](https://arxiv.org/abs/2405.18541).
# - Kalajdzievski, *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*,
#   [arXiv:2312.03732](https://arxiv.org/abs/2312.03732).
