# ---
# jupyter:
#   copra_lab:
#     question: What changes when layers learn to do without each other?
#     assets: [clip, adapters]
# ---

# %% [markdown]
# # 4. Drop layers while training
#
# Train LoRA on twelve layers and each of them learns in the company of the eleven others. Nobody
# asks it to work alone. **CopRA** does: in each training step it leaves a random set of layers out,
# at first nearly all, towards the end none. In this lesson you build that training, watch what it
# does to the layers, and measure what it is worth on a small CLIP.
#
# - **You will learn** how layers are dropped and when they learn, why "no gradient" is not the same
#   as "a gradient of zero", what an adapter loses with half of its layers, and what CopRA has to do
#   with Shapley values.
# - **You need** PyTorch, and to have met LoRA: a weight $W$ becomes $W + s\,BA$ (lesson 2).
# - **It takes** an hour of yours, and {{time}} of two CPU cores.

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
import time
from dataclasses import replace

import ipywidgets as w
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch.nn.utils import parametrize

from copra_lab import plots
from copra_lab.adapters import NONE
from copra_lab.exercises import drop_layers as check
from copra_lab.merging import interpolate_factors
from copra_lab.methods import Attached
from copra_lab.pruning import keep
from copra_lab.shapley import Curve
from copra_lab.training import drawn, group, masks
from copra_lab.utils.rng import generator
from copra_lab.utils.statistics import Accuracy, bootstrap_interval
from copra_lab.zoo import shipped

# %% [markdown]
# **What you will have at the end**: this picture, and the training that bends it. Two adapters of
# each kind have learned handwritten digits. Here only *k* of their twelve layers stay on, chosen at
# random; the others show the base. Each small mark is one choice of layers, each line the mean over
# all choices and both seeds, on the same test images; bands are 95 % intervals over images.

# %%
clip = cl.load_clip()
digits = cl.load_task("digits", clip)
sixth = digits.test.pick(range(0, len(digits.test), 6))  # every sixth test image
small = cl.Bench(clip, replace(digits, test=sixth))
trained = {s.label: s.load(clip) for s in shipped("digits")}

g = torch.Generator().manual_seed(0)
orders = [torch.randperm(12, generator=g).tolist() for _ in range(3)]
orders += [order[::-1] for order in orders]  # and back: no layer mostly comes late
chosen = {k: [order[:k] for order in orders] for k in range(13)}
chosen[0], chosen[12] = [[]], [list(range(12))]  # one way only to choose none or all


def with_random_layers(method):
    """Each image's mean with k layers on, (13, images); k and accuracy of each choice."""
    seeds = [a for label, a in trained.items() if label.startswith(method)]
    parts = [keep(a, on) for a in seeds for k in chosen for on in chosen[k]]
    sizes = torch.tensor([k for _ in seeds for k in chosen for _ in chosen[k]])
    hits = small.outcomes(parts)
    by_k = torch.stack([hits[sizes == k].mean(0) for k in chosen])
    return by_k, (sizes.tolist(), hits.mean(1).tolist())


found = {method: with_random_layers(method) for method in ("LoRA", "CopRA")}


def estimate(x, sources):
    """A mean over images, or of a paired difference, with its 95 % interval."""
    return float(x.mean()), bootstrap_interval(x.numpy(), sources)


lines, single = {}, {}
for method, (by_k, each) in found.items():
    lines[method] = list(chosen), [estimate(h, small.sources) for h in by_k]
    single[method] = each
plots.bands(lines, f"layers on, of 12 (n = {len(small)})", chance=0.1, points=single)

# %% tags=["prose"]
lora_hits, copra_hits = (hits for hits, _ in found.values())
gaps = [estimate(gap, small.sources) for gap in copra_hits - lora_hits]


def points(estimate, places=0):
    """A difference of shares as words: +12 points (8 to 16)."""
    value, (low, high) = estimate
    told = f"{100 * value:+.{places}f} points ({100 * low:+.{places}f} to {100 * high:+.{places}f})"
    return told.replace("-", "−")


widest = max(range(13), key=lambda k: gaps[k][0])
Markdown(f"""
With all layers on, CopRA − LoRA is {points(gaps[12])}; the widest gap is {points(gaps[widest])}, at {widest} layers,
and being the widest of thirteen it flatters.
The intervals are of the images alone: the choices of layers are few, the seeds are two, and `digits` is a task on which
this effect is large. Further down you see others.
""")

# %% [markdown]
# ## Take every other layer away
#
# Start with the trouble. An adapter is a value in this library: `adapter.deltas` holds a pair $A,
# B$ for each matrix, and leaving a layer out is leaving its entries out. What is not there shows
# the base.
#
# *Guess before you look: plain LoRA, all twelve layers trained together, every other one removed.
# How much of what it gained is left?*

# %%
bench = cl.Bench(clip, digits)  # all test images
lora = trained["LoRA, seed 0"]


def only(adapter, layers):
    """The adapter with the deltas of these layers, by hand: the names hold the layer's number."""
    number = {name: int(name.split("layers.")[1].split(".")[0]) for name in adapter.deltas}
    kept = {name: d for name, d in adapter.deltas.items() if number[name] in layers}
    return cl.Adapter(kept, adapter.base)


assert only(lora, range(0, 12, 2)) == keep(lora, "even")  # the library's way

rows = {
    "all twelve layers": lora,
    "0, 2, 4, 6, 8, 10": only(lora, range(0, 12, 2)),
    "1, 3, 5, 7, 9, 11": only(lora, range(1, 12, 2)),
    "none: the base": NONE,
}
hits = dict(zip(rows, bench.outcomes(list(rows.values())), strict=True))
whole = hits["all twelve layers"]
plots.accuracies(
    {label: Accuracy(int(h.sum()), len(h)) for label, h in hits.items()},
    chance=0.1,
    differences={
        x: estimate(h - whole, bench.sources) for x, h in hits.items() if h is not whole
    },
    than="all twelve",
)

# %% tags=["prose"]
base_rate, all_rate = hits["none: the base"].mean(), whole.mean()
halves = [hits[label].mean() for label in list(rows)[1:3]]
shares = [float((h - base_rate) / (all_rate - base_rate)) for h in halves]
Markdown(f"""
LoRA took the base from {100 * base_rate:.0f} % to {100 * all_rate:.0f} %. The one half of the layers holds
{100 * shares[0]:.0f} % of that gain, the other {100 * shares[1]:.0f} %. The two need not add up to 100: what a layer
adds depends on who else is there. Layer 5 was trained on what layer 4 hands it, and now gets something else.
""")

# %% [markdown]
# ## The recipe
#
# Give each layer $i$ a switch $\delta_i$. In step $t$ of $T$ it is drawn anew, independently of the
# other layers ([CopRA, arXiv:2410.22911](https://arxiv.org/abs/2410.22911); its successor is [CoTo,
# arXiv:2506.05713](https://arxiv.org/abs/2506.05713)):
#
# $$W_i' = W_i + \delta_i\, s\, B_i A_i, \qquad \delta_i \sim \mathrm{Bernoulli}\big(p(t)\big),
# \qquad p(t) = \min\Big(1, \frac{t}{\tfrac34 T}\Big).$$
#
# So *p* rises in a straight line for three quarters of the training and stays at 1 for the last.
# One switch serves q, k and v of a layer. What is off is the pure base, and what is on is not
# scaled up: this is not dropout.

# %%
T, g = 1200, torch.Generator().manual_seed(1)
for t in (0, 150, 450, 750, 899, 1199):
    p = min(1, t / (0.75 * T))
    on = torch.rand(12, generator=g) < p  # the draw: one number a layer
    print(f"step {t:4}   p = {p:.2f}   {''.join('■' if o else '□' for o in on)}")

# %% [markdown]
# ## Exercise: the schedule
#
# Difficulty ●○○○○ · importance ●●●○○ · 5 minutes
#
# The authors' released code starts at p = 0.1 rather than 0. Write the schedule with two options:
# `start`, what p is in step 0, and `ramp`, the share of the steps over which it rises, in a
# straight line, to 1. `step` is a tensor of step numbers.
#
# <details><summary>A hint</summary>
#
# First x, which runs from 0 to 1 over the ramp and then stays (`.clamp(max=1)`); then the line that
# has the value `start` at x = 0 and 1 at x = 1.
#
# </details>


# %% tags=["exercise"]
def schedule(step, steps, start=0.0, ramp=0.75):
    """p for each of the step numbers `step` (n,), counted from 0, of `steps`."""
    # BLANK: how much of the ramp is done? then p
    x = (step / (ramp * steps)).clamp(max=1)
    return start + (1 - start) * x
    # END


# %% tags=["check"]
check.schedule(schedule)

# %% [markdown]
# ## A whole training at a glance
#
# `cl.CopRA()` is that recipe as a value, and `masks` tells what it will switch on, without training
# anything. A column is a step, a dark cell a layer that is on.
#
# *Guess before you look: in what share of all steps does a layer learn?*

# %%
copra = cl.CopRA()
plan = masks(copra, 12, 300)
plots.masks(plan, [copra.probability(t, 300) for t in range(300)])

# %% tags=["prose"]
long = np.array(masks(copra, 12, 1200))
Markdown(f"""
The mean of p is ½ · ¾ + 1 · ¼ = ⅝. Over the 1,200 steps that trained the shipped adapters a layer was on in
{100 * long.mean():.1f} % of the steps, from {long.sum(0).min()} to {long.sum(0).max()} of them by layer. In
{int((~long.any(1)).sum())} steps the draw was *empty*: nothing on, nothing to learn. The library counts such a step and
does nothing. A layer that learns in five of eight steps has learned less after the same number of steps; keep that in
mind when you compare.
""")

# %% [markdown]
# ## Exercise: the draw, and what to do when it is empty
#
# Difficulty ●●○○○ · importance ●●●○○ · 10 minutes
#
# The authors' code draws again until at least one layer is on. Write that draw for any least
# number. So that the check can follow you, the random numbers are given: for each step many rows of
# twelve numbers, uniform in 0…1. Use a step's first row; where it leaves too few layers on, its
# second; and so on.
#
# <details><summary>A hint</summary>
#
# A number from 0…1 is below p with probability p. Go through the rows and leave at the first that
# will do. Return numbers (1 for on, 0 for off), a row a step.
#
# </details>


# %% tags=["exercise"]
def draw(p, least, u):
    """p (steps,) and numbers u (steps, tries, 12) → 1 where a layer is on, else 0: (steps, 12)."""
    masks = []
    for p_now, rows in zip(p, u, strict=True):
        # BLANK: find the first row with enough layers on, and append it to masks
        for row in rows:
            on = row < p_now
            if on.sum() >= least:
                break
        masks.append(on.float())
        # END
    return torch.stack(masks)


# %% tags=["check"]
check.draw(draw)

# %% [markdown]
# ## Off means no gradient, not a gradient of zero
#
# A layer that is off must stay as it is. With AdamW that is easy to get wrong. Here is one weight,
# pulled in one direction for five steps. In the sixth it is off, in three ways: its gradient is
# `None`; its gradient is a tensor of zeros (what you get by multiplying the layer with 0); or the
# fifth step's gradient was never cleared.
#
# *Guess before you look: which of the three leave the weight alone?*


# %%
def sixth_step(gradient):
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimiser = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.01)
    for _ in range(5):
        weight.grad = torch.tensor([1.0])
        optimiser.step()
    before = weight.item()
    weight.grad = gradient
    optimiser.step()
    return weight.item() - before, (before - 1) / 5


moves = {
    "None": sixth_step(None)[0],
    "zeros": sixth_step(torch.tensor([0.0]))[0],
    "not cleared": sixth_step(torch.tensor([1.0]))[0],
}
for how, moved in moves.items():
    print(f"{how:12} the weight moves by {moved:+.5f}")

layer = torch.nn.Parameter(torch.ones(3))
(0 * layer).sum().backward()
print("\nmultiplied by 0, its gradient is", layer.grad)

# %% tags=["prose"]
usual = sixth_step(None)[1]
Markdown(f"""
Only `None` means "not in this step": the optimiser passes the weight by, and leaves its momentum alone too. With zeros it
still moves by {100 * moves["zeros"] / usual:.0f} % of a usual step: momentum carries it on, and weight decay pulls it to 0. So in this library a switch
that is off takes the layer's delta out of the computation altogether, and `zero_grad(set_to_none=True)` (PyTorch's
default) clears what the last step left.
""")

# %% [markdown]
# ## Exercise: a training in which layers may be off
#
# Difficulty ●●●○○ · importance ●●●●● · 15 minutes
#
# Write the loop's body for a small model on real image features: a row of layers that each stretch
# the features a little. `loss_of(parts)` gives the loss with one entry a layer, the layer itself or
# `None` where it is off. A row of `masks` may be all off.
#
# <details><summary>A hint</summary>
#
# Three things can go wrong: gradients of the last step are still there; a layer that is off takes
# part after all; and `backward` fails where nothing is on, since then nothing has a gradient.
#
# </details>


# %% tags=["exercise"]
def train(start, masks, loss_of, lr=0.02):
    """start (layers, width), masks (steps, layers) → the layers afterwards, (layers, width)."""
    layers = [torch.nn.Parameter(x.clone()) for x in start]
    optimiser = torch.optim.AdamW(layers, lr=lr, weight_decay=0.1)
    for on in masks:
        # BLANK: one step, in which the layers that are off neither act nor move
        if not on.any():
            continue
        optimiser.zero_grad()
        parts = [layer if is_on else None for layer, is_on in zip(layers, on, strict=True)]
        loss_of(parts).backward()
        optimiser.step()
        # END
    return torch.stack([layer.detach() for layer in layers])


# %% tags=["check"]
check.train(train)

# %% [markdown]
# ## The loop, on a CLIP
#
# Now the real thing. `Attached` puts LoRA on a copy of the model and gives every matrix a gate;
# `activate` opens exactly those it is told. The rest is plain PyTorch. The random numbers are taken
# as the library's `fit` takes them, so the two can be held against each other: not only is the idea
# the same, the numbers are.


# %%
def train_by_hand(task, dropping, steps, lr, batch=8, seed=0):
    model = copy.deepcopy(clip.model)
    attached = Attached(model, cl.LoRA(rank=4), generator(seed, 0, "init"))
    units = list(group(attached.sites).values())  # for each layer the names of its q, k, v
    optimiser = torch.optim.AdamW(attached.parameters(), lr=lr, weight_decay=0.01)
    text = clip.text_features(task.prompts).clone()
    for t in range(steps):
        on = drawn(dropping, len(units), seed, t, steps).on
        if not any(on):
            continue  # an empty draw
        attached.activate([n for names, o in zip(units, on, strict=True) if o for n in names])
        optimiser.param_groups[0]["lr"] = lr * min(1, 4 * (1 - t / steps))  # falls at the end
        g = generator(seed, t, "batch")
        rows = torch.randperm(len(task.train), generator=g)[:batch]
        pixels = task.augment(clip.pixels(task.train.images[rows]), g)
        with parametrize.cached():  # W + s·BA is computed once a step
            features = F.normalize(model.encode_image(pixels), dim=-1)
            loss = F.cross_entropy(
                clip.logit_scale * features @ text.T, task.train.labels[rows]
            )
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
    return attached.adapter(clip.hash)


mine = train_by_hand(digits, copra, steps=16, lr=4e-3)
theirs = cl.fit(clip, digits, cl.LoRA(rank=4), copra, steps=16, lr=4e-3, progress=False)
a, b = (torch.stack([x.deltas[n].delta() for n in theirs.deltas]) for x in (mine, theirs))
print(f"after 16 steps the largest entry of all ΔW is {b.abs().max():.0e},")
print(f"and the largest difference between the two ways {(a - b).abs().max():.0e}")

# %% [markdown]
# Two things the loop does without fuss. It never evaluates in the middle of a training; who does
# must open all gates first and then put them back (`with attached.whole():`), or measures a random
# part of the adapter. And its adapter holds *all* layers, also those that were off in the last
# step: dropping belongs to training alone.
#
# ## Train both, briefly
#
# 240 steps each, with the library, whose way through the tower is faster than the model's own. Each
# at the rate that serves it best here: 2e-3 for LoRA, 4e-3 for CopRA ([how they were
# found](../experiments/README.md)).
#
# *Guess before you look: after so short a training, which is better with all its layers? And with
# half of them?*

# %%
lengths = {}  # seconds a step, and the lowest layer that was on
last = None


def watch(step):
    global last
    now = time.perf_counter()
    if last is not None and any(step.units.values()):
        lengths.setdefault(list(step.units.values()).index(True), []).append(now - last)
    last = now


brief = {"steps": 240, "progress": False}
short = {
    "LoRA": cl.fit(clip, digits, cl.LoRA(rank=4), lr=2e-3, **brief),
    "CopRA": cl.fit(clip, digits, cl.LoRA(rank=4), copra, lr=4e-3, on_step=watch, **brief),
}
parts = {"all layers": None, "layers 0, 2, …": "even", "layers 1, 3, …": "odd"}
keys = [(method, part) for part in parts for method in short]
right = dict(
    zip(keys, bench.outcomes([keep(short[m], parts[p]) for m, p in keys]), strict=True)
)
rows = {f"{m}, {p}": Accuracy(int(h.sum()), len(h)) for (m, p), h in right.items()}
lead = {p: estimate(right["CopRA", p] - right["LoRA", p], bench.sources) for p in parts}
lead_rows = {f"CopRA, {p}": e for p, e in lead.items()}
plots.accuracies(rows, chance=0.1, differences=lead_rows, than="LoRA with the same")

# %% tags=["prose"]
alone, even, odd = lead.values()
share = {key: h.mean().item() for key, h in right.items()}
every, *half = parts
drops = {m: share[m, every] - np.mean([share[m, p] for p in half]) for m in short}
Markdown(f"""
CopRA − LoRA with all layers: {points(alone)}. With half of them: {points(even)} and {points(odd)}. On average half of the
layers cost LoRA {100 * drops["LoRA"]:.0f} points and CopRA {100 * drops["CopRA"]:.0f}. One seed, one task, a short training: a
CopRA layer has been trained in some {0.625 * 240:.0f} of these 240 steps, many of them with most others missing. That
is why the library trains for 1,200 steps, where the two are about equal with all their layers.
""")

# %% [markdown]
# ### Cheaper steps
#
# One thing comes for free. Below the lowest layer that is on nothing has a gradient, so the
# backward pass can stop there. The seconds of each CopRA step were noted above, with the lowest
# layer that was on.

# %% tags=["prose"]
deep = [x for low, seconds in lengths.items() if low >= 6 for x in seconds]
full = lengths.get(0, [])
ratio = float(np.median(deep) / np.median(full)) if deep and full else float("nan")
lowest = np.where(long.any(1), long.argmax(1), 12)
Markdown(f"""
A step whose lowest layer was 6 or above took {100 * ratio:.0f} % of the time of one that reached down to layer 0 (medians of
{len(deep)} and {len(full)} steps, on a machine that may have had other things to do). Over the whole schedule of 1,200
steps the lowest layer that is on has on average {lowest.mean():.1f} layers below it, so {100 * lowest.mean() / 12:.0f} % of the
backward pass through the blocks falls away. Little, since p soon is so high that one of the lowest few layers is on.
""")

# %% [markdown]
# ## The same after 1,200 steps
#
# The shipped adapters were trained five times as long, two seeds each, on six tasks. Two tests on
# `digits` first. The **factor line**: walk from seed 0 to seed 1 with $A = (1-\lambda)A_0 + \lambda
# A_1$ and likewise $B$. In the middle $BA$ holds cross terms $B_0A_1$ that nobody trained (lesson
# 3), so this line sags where the line between the ΔW does not.
#
# *Guess before you look: whose line sags more?*

# %%
walk = [i / 8 for i in range(9)]
ends = {m: (trained[f"{m}, seed 0"], trained[f"{m}, seed 1"]) for m in ("LoRA", "CopRA")}
paths = {m: bench.path(*pair, walk, space="factors") for m, pair in ends.items()}
lines = {m: path.accuracies for m, path in paths.items()}
plots.curve(walk, lines, "λ, in the factors", chance=0.1)

# %% tags=["prose"]
Markdown(
    "The barrier, how far a line falls below the straight one between its ends: "
    + ", ".join(f"{m} {100 * path.barrier:.0f} points" for m, path in paths.items())
    + ". One pair of seeds each: an example, not a result. So are the two ends, between which a seed can make as "
    "much of a difference as the method."
)

# %% [markdown]
# Now all six tasks, three tests each: all layers; every other layer removed (the mean of both
# halves); and the middle of the factor line. Each value is a paired difference CopRA − LoRA,
# averaged over the two seeds first, with an interval over the task's test images.
#
# *Guess before you look: on how many of the six is the lead clear? Is it the same everywhere?*

# %%
tests = {"all layers": {}, "every other layer removed": {}, "middle of the factors": {}}
for name in sorted({s.task for s in shipped()}):
    own = bench if name == "digits" else cl.Bench(clip, cl.load_task(name, clip))
    means = {}
    for method in ("LoRA", "CopRA"):
        a, b = (s.load(clip) for s in shipped(name) if s.label.startswith(method))
        halves = [keep(x, half) for x in (a, b) for half in ("even", "odd")]
        h = own.outcomes([a, b, *halves, interpolate_factors(a, b, 0.5)])
        means[method] = h[:2].mean(0), h[2:6].mean(0), h[6]
    for test, lo, co in zip(tests, means["LoRA"], means["CopRA"], strict=True):
        tests[test][f"{name}, n = {len(own)}"] = estimate(co - lo, own.sources)

plots.differences(tests, "CopRA − LoRA, points")


# %% tags=["prose"]
def count(test):
    """How many of the six differences are clear, and either way; their mean."""
    every = list(tests[test].values())
    ahead, behind = (
        sum(low > 0 for _, (low, _) in every),
        sum(high < 0 for _, (_, high) in every),
    )
    mean = f"{100 * np.mean([v for v, _ in every]):+.1f}".replace("-", "−")
    return f"clearly ahead on {ahead}, clearly behind on {behind}, on average {mean} points"


Markdown(f"""
CopRA, over six tasks: {"; ".join(f"**{test}**: {count(test)}" for test in tests)}. The picture differs by task, and the mean
is pulled by the task with the largest effect. A middle of two seeds is one adapter: the interval knows the images, and
nothing of what another pair would have given. The settings were chosen on two of the six (`digits` and `things-mosaic`,
on validation images), and the six were picked to be shipped, so this is no fair sample.
""")

# %% [markdown]
# The fairer numbers are in [the experiments](../experiments/README.md): thirteen tasks on which
# nothing was chosen, five seeds each. There the two are equally accurate alone, and CopRA is ahead
# by about two points with every other layer removed and about two in the middle of the factors. The
# papers find the same direction and more of it. *Why* it comes out smaller here is a reading: LoRA
# has little to lose on most of these tasks, and nothing lost is nothing to win back.
#
# ## What the ramp trains
#
# Think of an adapter's layers as players, and of *v(S)* as the accuracy with the set *S* of layers
# on. Let $R_p$ hold each layer with probability *p*. A CopRA step at time *t* lowers the loss of a
# model with the layers $R_{p(t)}$; so what it trains is
#
# $$g(p) = \mathbb{E}\big[v(R_p)\big] = \sum_{k=0}^{n} \binom{n}{k} p^k (1-p)^{n-k}\; \bar v_k,$$
#
# at every p that the ramp passes, and plain LoRA trains $g(1)$ alone. Here $\bar v_k$ is the mean
# over all sets of *k* layers, which the opening picture estimates. In game theory *g* is the
# multilinear extension on the diagonal (Owen 1972), and its slope holds the Shapley values:
# $g'(p) = \sum_i \mathbb{E}[v(R_p \cup i) - v(R_p \setminus i)]$, whose integral is $\sum_i \phi_i =
# v(N) - v(\varnothing)$ however it was trained. What CopRA can raise is the *area* under g, $\int_0^1
# g\,dp$, which is nothing but the mean of the $\bar v_k$.


# %%
def g_of(p, by_size):
    """g(p) by hand: how likely is each number of layers, and how good is it?"""
    n = len(by_size) - 1
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * v for k, v in enumerate(by_size))


by_size = {method: hits.double().mean(1).numpy() for method, (hits, _) in found.items()}
for method, v in by_size.items():
    assert abs(g_of(0.3, v) - Curve(v)(0.3)) < 1e-9  # the library's
    values = "   ".join(f"g({p}) = {100 * g_of(p, v):.0f} %" for p in (0.25, 0.5, 0.75, 1.0))
    print(f"{method:6} {values}   area {100 * Curve(v).area:.1f} %")

# %% tags=["prose"]
area = estimate((copra_hits - lora_hits).mean(0), small.sources)
Markdown(f"""
The area under g: CopRA − LoRA {points(area, 1)}, of the same {len(small)} images and the same choices of layers. *Which*
layers carry it, and whether CopRA spreads the worth more evenly, g cannot say: that takes the single $\phi_i$, in
lesson 5. Options that look harmless change what is trained: with `start` above 0 the smallest p are never seen, and with
`min_active` the sets are no longer those of $R_p$.
""")

# %% [markdown]
# ## Put your hand in
#
# Choose p, and draw layers with it as often as you like. Both adapters (seed 0) get exactly the
# same layers, and the same images. Things to try: p = 0.5 ten times; the smallest p at which LoRA
# works at all; two draws with as many layers on and very different accuracy.


# %%
def dropped(p, draw_number):
    u = torch.rand(12, generator=torch.Generator().manual_seed(draw_number))
    on = (u < p).nonzero().flatten().tolist()
    adapters = {m: keep(trained[f"{m}, seed 0"], on) for m in ("LoRA", "CopRA")}
    lo, co = small.outcomes(list(adapters.values()))
    drawn_as = "".join("■" if i in on else "□" for i in range(12))
    rows = {f"LoRA  {drawn_as}": lo, f"CopRA  {drawn_as}": co}
    rows = {label: Accuracy(int(h.sum()), len(h)) for label, h in rows.items()}
    difference = {f"CopRA  {drawn_as}": estimate(co - lo, small.sources)}
    return plots.accuracies(rows, chance=0.1, differences=difference, than="LoRA")


live(
    dropped,
    p=w.FloatSlider(0.5, min=0, max=1, step=0.05, description="p"),
    draw_number=w.IntSlider(0, 0, 50, description="draw"),
)

# %% [markdown]
# ## On your own
#
# - `cl.StochasticDepth()` (in `copra_lab.training.dropping`) drops half of the layers until the
#   end. Train it for 1,200 steps and put it into the pictures above: in the experiments it is as
#   robust as CopRA or more, and seems a little less accurate alone.
# - Let p rise until the very end, `cl.CopRA(ramp=1.0)`. What does the last quarter at p = 1 buy?
# - Drop matrices rather than layers, `cl.CopRA(unit="module")`. How do you test it fairly?
# - Give LoRA CopRA's rate of 4e-3. How much of the lead is the rate?
#
# ## In practice
#
# - Dropping layers is worth trying when an adapter will be *merged* or *pruned*. For use as it is,
#   LoRA is simpler, and trains faster to the same accuracy.
# - Give CopRA more steps, and a rate that is still high when all layers are on. A cosine is low by
#   then.
# - In your own loop: `None` for what is off; nothing on, no step; everything on in evaluation, and
#   the gates back afterwards. With data-parallel training, parameters without a gradient have to be
#   allowed.
# - Compare trained seeds, not one against one. Two, as here, show a direction at best.
#
# **Where this small model differs from the papers.** They adapt ViT-B/16 with rank 2, on eleven
# data sets; here it is a tower of width 128 with rank 4, and drawings. They report that CopRA is a
# little better alone, and four to eight points ahead after merging or pruning. Here only the
# direction is the same, and not on every task. Whether their middle of two seeds is that of the
# factors or of ΔW they do not say, and it matters: between the ΔW, plain LoRA loses nothing here.
#
# ## Further reading
#
# - Zhuang et al., *CopRA: A Progressive LoRA Training Strategy*,
#   [arXiv:2410.22911](https://arxiv.org/abs/2410.22911).
# - Zhuang et al., *Come Together, But Not Right Now* (CoTo),
#   [arXiv:2506.05713](https://arxiv.org/abs/2506.05713). The same idea, further: more models,
#   merging, pruning.
# - Huang et al., *Deep Networks with Stochastic Depth*,
#   [arXiv:1603.09382](https://arxiv.org/abs/1603.09382). Where dropping layers began.
# - Fan et al., *Reducing Transformer Depth on Demand with Structured Dropout*,
#   [arXiv:1909.11556](https://arxiv.org/abs/1909.11556). LayerDrop: train once, take layers out
#   later.
