# ---
# jupyter:
#   copra_lab:
#     question: Can one adapter carry what many learned?
#     assets: [clip, adapters]
# ---

# %% [markdown]
# # 7. Merge seeds, tasks and clients
#
# Six adapters for six tasks, or one for all of them? Two hospitals that may not share their images,
# but may share their weights? All of it is arithmetic on ΔW: add, average, trim, drop, subtract.
# This lesson does it, and measures what gets lost on the way.
#
# - **You will learn** what averaging two seeds gains, why tasks get into each other's way, what
#   task arithmetic, TIES and DARE do about it, how to make a model forget, and what a server may
#   average in a federation.
# - **You need** some PyTorch, and to know that an adapter is a ΔW = s·B·A for some weight matrices.
# - **It takes** forty minutes of yours, and {{time}} of two CPU cores.

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
from dataclasses import replace

import ipywidgets as w
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown

from copra_lab import merging, plots
from copra_lab.adapters import NONE, Adapter, LowRank, from_delta
from copra_lab.exercises import merge_models as check
from copra_lab.methods import Attached, LoRA
from copra_lab.utils.statistics import Accuracy, bootstrap_interval
from copra_lab.zoo import shipped

# %% [markdown]
# **What you will have at the end**: one adapter that does several tasks at once, at a price. Here
# are all six tasks that have adapters in the package. The first row is the CLIP alone; in the
# second each task has an adapter of its own; the third is one adapter for all, a fifth of the sum
# of the six.
#
# Accuracies are on up to 200 test images a task, the first in a shuffled order.

# %%
clip = cl.load_clip()
METHODS = ("LoRA", "CopRA")
names = sorted({s.task for s in shipped()})
labels = [n.replace("-", "\n") for n in names]


def some(task, split, most):
    """The task with at most so many images in one of its splits."""
    whole = getattr(task, split)
    rows = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:most]
    return replace(task, **{split: whole.pick(rows.tolist())})


tasks = {n: cl.load_task(n, clip) for n in names}
test = {n: cl.Bench(clip, some(t, "test", 200)) for n, t in tasks.items()}
val = {n: cl.Bench(clip, some(t, "val", 40), "val") for n, t in tasks.items()}


def seeds(method, name):
    return [s.load(clip) for s in shipped(name) if s.label.startswith(method)]


own = {m: [seeds(m, n) for n in names] for m in METHODS}
first = {m: [both[0] for both in own[m]] for m in METHODS}  # seed 0 of each task


def right(adapter, benches=test):
    """For each task, which images are right: a list of arrays (n,)."""
    return [b.outcomes([adapter])[0].numpy() for b in benches.values()]


def right_each(adapters):
    """The same with an adapter for each task."""
    pairs = zip(adapters, test.values(), strict=True)
    return [b.outcomes([a])[0].numpy() for a, b in pairs]


def percent(outcomes):
    """Per task, and their mean."""
    each = [100 * float(o.mean()) for o in outcomes]
    return [*each, float(np.mean(each))]


without = right(NONE)
apart = {m: right_each(first[m]) for m in METHODS}
together = right(merging.task_arithmetic(first["LoRA"], 0.2))

columns = [f"{t}\nn = {len(b)}" for t, b in zip(labels, test.values(), strict=True)] + ["mean"]
pictured = {"no adapter": without, "each its own": apart["LoRA"], "one for all": together}
rows = {row: percent(outcomes) for row, outcomes in pictured.items()}
plots.table(rows, columns, "accuracy on test images, %, LoRA, seed 0")

# %% [markdown]
# ## Two seeds of one task
#
# Start with the easy case. The package has two seeds of each adapter. What do you do with both?
#
# - take the mean of their ΔW, a *soup* ([Wortsman et al. 2022](https://arxiv.org/abs/2203.05482)):
#   one model to run;
# - take the means of A and of B by themselves: not the same (lesson 3), but what plain averaging of
#   parameters does;
# - ask both and average their *probabilities*, an ensemble: two models to run.
#
# *Guess before you look: does the soup beat a single seed? Does it reach the ensemble?*


# %%
def each_pair(m, combine):
    return [combine(pair, b) for pair, b in zip(own[m], test.values(), strict=True)]


def asked_both(pair, bench):
    p = sum(bench.logits(a).softmax(-1) for a in pair)
    return (p.argmax(-1) == bench.labels).float().numpy()


ways = {
    "single seed, mean": lambda pair, b: b.outcomes(pair).mean(0).numpy(),
    "ΔW averaged": lambda pair, b: b.outcomes([merging.interpolate(*pair, 0.5)])[0].numpy(),
    "factors averaged": lambda pair, b: b.outcomes([merging.average_factors(pair)])[0].numpy(),
    "ensemble of both": asked_both,
}
soups = {m: {way: each_pair(m, f) for way, f in ways.items()} for m in METHODS}
rows = {f"{m}: {way}": percent(found) for m in METHODS for way, found in soups[m].items()}
plots.table(rows, columns, "accuracy on test images, %")


# %% tags=["prose"]
def paired(a, b):
    """The mean over tasks of a difference on the same images, in words with its interval over images."""
    n = sum(map(len, a))
    each = np.concatenate([(x - y) * n / len(a) / len(x) for x, y in zip(a, b, strict=True)])
    low, high = bootstrap_interval(
        each, [f"{n} {s}" for n, b in test.items() for s in b.sources]
    )
    signed = [f"{100 * v:+.1f}".replace("-", "−") for v in (each.mean(), low, high)]
    return f"{signed[0]} points ({signed[1]} to {signed[2]}{', may be chance' if low <= 0 <= high else ''})"


Markdown(
    f"""
Against a single seed, mean over six tasks, with intervals over the {sum(map(len, without))} images:

| | ΔW averaged | factors averaged | ensemble |
|---|---|---|---|
"""
    + "\n".join(
        f"| {m} | "
        + " | ".join(
            paired(soups[m][way], soups[m]["single seed, mean"]) for way in list(ways)[1:]
        )
        + " |"
        for m in METHODS
    )
    + """

These are two seeds of each task, so the intervals cover other images, not other seeds. Added
into the weights, a soup is no slower than a single seed; kept as an adapter, its rank is the sum of the ranks.
"""
)

# %% [markdown]
# ## Six tasks: add them up
#
# Task arithmetic ([Ilharco et al., arXiv:2212.04089](https://arxiv.org/abs/2212.04089)) calls what
# fine-tuning changed a *task vector*, here ΔW over all sites, and simply adds:
#
# $$W' = W + \lambda \sum_{t} \Delta W_t$$
#
# One image tower for all tasks; which names are on offer still says which task is asked. By hand: a
# dense sum of s·B·A into a copy of the model. The library stays low-rank instead: it stacks B =
# [λB₁ | λB₂ | …], A = [A₁; A₂; …].

# %%
model = copy.deepcopy(clip.model)
for adapter in first["LoRA"]:
    for name, d in adapter.deltas.items():
        site = clip.sites[name]
        weight = model.get_parameter(f"{site.module}.{site.parameter}")  # fused: q, k and v
        weight.data[site.start : site.stop] += 0.2 * d.scale * d.B @ d.A

bench = test["faces-noise"]
with torch.inference_mode():
    pixels = clip.pixels(bench.split.images[bench.order])
    features = F.normalize(model.encode_image(pixels), dim=-1)
    logits = clip.logit_scale * features @ bench.text.T

summed = merging.task_arithmetic(first["LoRA"], 0.2)
print(f"ranks: {[a.rank for a in first['LoRA']]}, stacked: {summed.rank}")
print(f"largest difference of a logit: {(logits - bench.logits(summed)).abs().max():.1e}")

# %% [markdown]
# ### Do tasks get into each other's way?
#
# If the task vectors were orthogonal and small, each would do its work and leave the others alone.
# Here are their cosines, and beside them a second seed of `digits`.
#
# *Guess before you look: which is more similar to `digits`, seed 0: another task, or the same task,
# seed 1?*


# %%
def vector(adapter):
    """All ΔW as one long vector."""
    return torch.cat([d.delta().flatten() for d in adapter.deltas.values()])


vectors = torch.stack(
    [vector(a) for a in [*first["LoRA"], own["LoRA"][names.index("digits")][1]]]
)
cosines = F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T
heat = dict(zip([*names, "digits, seed 1"], cosines.tolist(), strict=True))
plots.table(
    heat, [*labels, "digits,\nseed 1"], "cosines between ΔW, LoRA", digits=2, bold=False
)

# %% tags=["prose"]
count = len(names)
off = cosines[:count, :count][~torch.eye(count, dtype=torch.bool)]
large = vectors.abs() >= vectors.abs().quantile(0.8, dim=1, keepdim=True)
clashes = []
for i in range(count):
    for j in range(i):
        both = large[i] & large[j]
        clashes.append((vectors[i].sign() != vectors[j].sign())[both].float().mean().item())
clash, strangers = (
    np.mean(clashes),
    off.abs().mean() < 0.1 and abs(np.mean(clashes) - 0.5) < 0.05,
)
verdict = (
    "So they are strangers, not enemies: about as near to orthogonal as chance would make them. That is no promise that they "
    "leave each other's *answers* alone: layers are not linear, and six strangers in one room are still a crowd."
    if strangers
    else "So some of them share a direction, and others work against each other."
)
Markdown(
    f"""
Two tasks have a cosine of {off.mean():.2f} on average ({off.min():.2f} to {off.max():.2f}), two seeds of `digits`
{cosines[names.index("digits"), -1]:.2f}. Where two tasks both have a large entry (among the largest fifth of their own),
their signs differ in {100 * clash:.0f} % of the cases; a coin would say 50 %. {verdict}
""".replace("-0.", "−0.")
)

# %% [markdown]
# ## TIES: trim, elect, merge
#
# TIES ([Yadav et al., arXiv:2306.01708](https://arxiv.org/abs/2306.01708)) is three steps, entry by
# entry:
#
# 1. **Trim**: in each task vector keep the share *density* of largest magnitude, set the rest to
#    zero.
# 2. **Elect** a sign for each entry: that of the sum of the trimmed entries, so large ones weigh
#    more.
# 3. **Disjoint mean**: average only the entries that are not zero and have the elected sign.
#
# Three tasks with six entries each, at a density of a half, through the library's function. Follow
# each column by eye.

# %%
toys = torch.tensor(
    [[5, 4, -3, 1, 0.2, -1], [-2, 3, -4, 0.5, 1, 2], [-2.5, -6, 0.3, 2, 0.1, 1.5]]
)
adapters = [Adapter({"toy": from_delta(t[None])}) for t in toys]


def line(what, numbers):
    print(f"{what:8}", *(f"{v:5.1f}" for v in numbers.tolist()))


for t in toys:
    line("task", t)
for t in toys:
    line("trimmed", merging.keep_largest({"toy": t}, 0.5)["toy"])
line("TIES", merging.ties(adapters, 0.5).deltas["toy"].delta()[0])
line("mean", toys.mean(0))

# %% [markdown]
# ## Exercise: TIES
#
# Difficulty ●●●○○ · importance ●●●●○ · 12 minutes
#
# Write it for task vectors in the rows of a tensor. The check uses entries of real ΔW, of three
# tasks.
#
# <details><summary>A hint</summary>
#
# `abs().topk(k, dim=1).indices` says what to keep, `zeros_like(…).scatter(1, indices, 1)` makes a
# mask of it. For the mean, sum what agrees and divide by how many agree; where none does, divide
# by 1.
#
# </details>


# %% tags=["exercise"]
def ties_merge(vectors, density):
    """Task vectors (tasks, n) → the merged vector (n,)."""
    # BLANK: trim each row; elect a sign for each column; average what agrees
    k = round(density * vectors.shape[1])
    kept = torch.zeros_like(vectors).scatter(1, vectors.abs().topk(k, dim=1).indices, 1)
    trimmed = vectors * kept
    elected = trimmed.sum(0).sign()
    agrees = (trimmed.sign() == elected) & (trimmed != 0)
    return (trimmed * agrees).sum(0) / agrees.sum(0).clamp_min(1)
    # END


# %% tags=["check"]
check.ties(ties_merge)

# %% [markdown]
# ## DARE: drop and rescale
#
# DARE ([Yu et al., arXiv:2311.03099](https://arxiv.org/abs/2311.03099)) comes before any of these
# merges. Of each ΔW drop entries at random, at a rate p, and make the others larger, so that every
# entry stays the same on average:
#
# $$\tilde\Delta = \frac{(1 - m) \odot \Delta W}{1 - p}, \qquad m_{ij} \sim \mathrm{Bernoulli}(p)$$
#
# What is sparse collides less often. What it costs is noise.
#
# ## Exercise: DARE
#
# Difficulty ●○○○○ · importance ●●●○○ · 4 minutes
#
# `noise` is uniform between 0 and 1, as from `torch.rand`: an entry goes where the noise is below
# the rate.
#
# <details><summary>A hint</summary>
#
# Take one entry, x, and a rate of 0.75. Three times in four it becomes 0. What must it become the
# fourth time, so that its mean is x?
#
# </details>


# %% tags=["exercise"]
def drop_and_rescale(delta, rate, noise):
    """ΔW of any shape, a rate 0 ≤ p < 1, noise of that shape → what is left, right on average."""
    # BLANK: drop where the noise is below the rate; rescale the rest
    return delta * (noise >= rate) / (1 - rate)
    # END


# %% tags=["check"]
check.dare(drop_and_rescale)

# %% [markdown]
# ## The contest
#
# Four merges of six tasks: the plain sum, TIES, DARE before the sum, and the sum cut back to rank 4
# by an SVD, the closest adapter of that rank (so that the one for all is as small as each was).
# Each has a scale λ, chosen on validation images.
#
# *Guess before you look: which merge wins? How far below the tasks' own adapters does it stay? Does
# it matter how the adapters were trained?*


# %%
def dare_sum(adapters):
    g = torch.Generator().manual_seed(0)
    return merging.task_arithmetic([merging.dare(a, 0.8, g) for a in adapters], 1.0)


merges = {
    "sum": lambda adapters: merging.task_arithmetic(adapters, 1.0),
    "TIES": lambda adapters: merging.ties(
        adapters, 0.2, len(adapters)
    ),  # a mean, made as large as a sum
    "DARE, then sum": dare_sum,
    "sum at rank 4": lambda adapters: merging.truncate(
        merging.task_arithmetic(adapters, 1.0), 4
    ),
}
whole = {m: {name: f(first[m]) for name, f in merges.items()} for m in METHODS}
scales = [0.025, 0.05, 0.1, 0.2, 0.3, 0.5]


def over_scales(adapter):
    """The mean of the tasks' validation accuracies at each scale, in percent."""
    scaled = [merging.weighted_sum([adapter], [scale]) for scale in scales]
    each = torch.stack([b.outcomes(scaled).mean(1) for b in val.values()])  # (tasks, scales)
    return (100 * each.mean(0)).tolist()


found = {m: {name: over_scales(a) for name, a in whole[m].items()} for m in METHODS}
plots.lines(
    scales, {f"{m}: validation, %, mean of tasks": found[m] for m in METHODS}, "scale λ"
)

# %%
best = {m: {name: scales[int(np.argmax(v))] for name, v in found[m].items()} for m in METHODS}


def at_best(m, name):
    return right(merging.weighted_sum([whole[m][name]], [best[m][name]]))


merged = {m: {name: at_best(m, name) for name in merges} for m in METHODS}

rows = {"no adapter": percent(without)}
for m in METHODS:
    rows |= {f"{m}: each its own": percent(apart[m])}
    rows |= {
        f"{m}: {name} (λ = {best[m][name]:g})": percent(merged[m][name]) for name in merges
    }
plots.table(rows, columns, "accuracy on test images, %, seed 0", bold=False)


# %% tags=["prose"]
def mean(outcomes):
    return percent(outcomes)[-1]


top = max(merges, key=lambda name: mean(merged["LoRA"][name]))
kept = {
    m: 100 * (mean(merged[m]["sum"]) - mean(without)) / (mean(apart[m]) - mean(without))
    for m in METHODS
}
reading = (
    "A reading, not a result: both throw entries away, and a ΔW of rank 4 has fewer to spare than the full fine-tunings they were shown on."
    if mean(merged["LoRA"]["TIES"]) < mean(merged["LoRA"]["sum"])
    else ""
)
hardest = names[
    int(np.argmax(np.array(percent(apart["LoRA"])[:-1]) - percent(merged["LoRA"]["sum"])[:-1]))
]
Markdown(f"""
- **Much is lost**: of what the tasks' own adapters gained, the sum keeps {kept["LoRA"]:.0f} % for LoRA and {kept["CopRA"]:.0f} % for
  CopRA. Most is lost on `{hardest}`. A small λ is a compromise: each task wants its ΔW whole, and six of
  them at full size drown each other.
- **Which merge?** For LoRA the highest mean is that of *{top}*. TIES less the sum: {paired(merged["LoRA"]["TIES"], merged["LoRA"]["sum"])};
  DARE less the sum: {paired(merged["LoRA"]["DARE, then sum"], merged["LoRA"]["sum"])}. {reading}
- **CopRA less LoRA**, summed: {paired(merged["CopRA"]["sum"], merged["LoRA"]["sum"])}; at rank 4:
  {paired(merged["CopRA"]["sum at rank 4"], merged["LoRA"]["sum at rank 4"])}. The intervals are over images, of one seed. The
  project's experiment has three seeds and other tasks, and finds CopRA ahead by about two points in the sum, by less elsewhere.
- **The scale** was chosen on {sum(map(len, val.values()))} validation images. Choose it on the test images, and the table flatters
  whatever merge has most settings.
""")

# %% [markdown]
# ## Mix by hand
#
# A weight for each of three tasks. Things to try: one task alone at 1, at 0.5, at −0.5; all three
# at 1; the best mix you can find. (You are choosing on test images now. It is a toy; do not report
# it.)

# %%
trio = ["digits", "faces-noise", "things-blur"]
small = {n: cl.Bench(clip, some(tasks[n], "test", 80)) for n in trio}


def mix(method, **weights):
    adapters = [first[method][names.index(n)] for n in trio]
    one = merging.weighted_sum(adapters, list(weights.values()))
    scores = {n: b.accuracy(one) for n, b in small.items()}
    each = list(scores.values())
    scores["all three together"] = Accuracy(
        sum(a.correct for a in each), sum(a.n for a in each)
    )
    return plots.accuracies(scores, chance={n: 1 / len(tasks[n].classes) for n in trio})


def slider(name):
    return w.FloatSlider(
        0.5, min=-1, max=1.5, step=0.1, description=name, continuous_update=False
    )


live(
    mix,
    method=w.ToggleButtons(options=METHODS, description="trained by"),
    **{n.replace("-", "_"): slider(n) for n in trio},
)

# %% [markdown]
# ## Subtract: make it forget
#
# A task vector with a minus in front should undo a skill
# ([arXiv:2212.04089](https://arxiv.org/abs/2212.04089), section 3). A good negation takes one skill
# and leaves the rest. The skill: naming blurred drawings, which the CLIP has in part before any
# training. The control: *sharp* drawings of a hundred things, which need no adapter.
#
# *Guess before you look: what falls first, on the negative side?*

# %%
control = cl.Bench(clip, cl.load_task("same-drawings", clip))
deblur = first["LoRA"][names.index("things-blur")]
weights = [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0]
scaled = [merging.weighted_sum([deblur], [x]) for x in weights]
asked = {"blurred drawings": test["things-blur"], "sharp drawings": control}
lines = {what: b.accuracies(scaled) for what, b in asked.items()}
plots.curve(weights, lines, "weight of ΔW (negative: subtracted)")

# %% tags=["prose"]
blurred, sharp = ([a.value for a in line] for line in lines.values())
usable = [
    i for i, x in enumerate(weights) if x <= 0 and sharp[i] >= 0.95 * sharp[weights.index(0.0)]
]
at = min(usable, key=lambda i: blurred[i])
Markdown(
    f"""
With at most a twentieth of the control lost, the best negation is at λ = {weights[at]:g}: blurred drawings fall from
{lines["blurred drawings"][weights.index(0.0)]} to {lines["blurred drawings"][at]}, sharp ones stand at {lines["sharp drawings"][at]}. At λ = −1 blurred drawings are at
{100 * blurred[0]:.0f} % and sharp ones at {100 * sharp[0]:.0f} %. At λ = +1, where blurred ones are
learned, sharp ones are at {100 * sharp[-1]:.0f} %: a skill that is added can have its price on the control, too.
""".replace("λ = -", "λ = −")
)

# %% [markdown]
# ## Clients that cannot share images
#
# In *federated averaging* ([McMahan et al., arXiv:1602.05629](https://arxiv.org/abs/1602.05629)) a
# server sends its model, each client trains it a little on its own images, the server averages what
# comes back, and so on. With LoRA only the adapter travels. But what should be averaged?
#
# - **ΔW**: right, but the average of two rank-4 matrices has rank 8, so it must be cut back to rank
#   4 before the next round.
# - **factors** A and B: small, simple, and not the average of ΔW. With weights wᵢ that sum to 1,
#
# $$\Bigl(\sum_i w_i B_i\Bigr)\Bigl(\sum_j w_j A_j\Bigr) = \sum_i \sum_j w_i w_j\, B_i A_j \;\ne\;
# \sum_i w_i\, B_i A_i$$
#
# - **FFA** ([Sun et al., arXiv:2403.12313](https://arxiv.org/abs/2403.12313)): freeze A, the same
#   for all, and train and average B alone. Then the two sides are equal.
#
# ## Exercise: two averages
#
# Difficulty ●●○○○ · importance ●●●●○ · 8 minutes
#
# Write both sides of the inequality. A client weighs as much as its share of all images. The check
# tells you how far apart the two are for adapters of three tasks, and how far if they had A in
# common.
#
# <details><summary>A hint</summary>
#
# `B @ A` multiplies client by client. Give the weights two more dimensions to multiply with, and
# sum over the clients.
#
# </details>


# %% tags=["exercise"]
def averages(A, B, images):
    """A (clients, r, in), B (clients, out, r), numbers of images (clients,) → the average of the
    products B·A, and the product of the averages of B and A; both (out, in)."""
    # BLANK: the clients' weights; the average of the products; the product of the averages
    weights = (images / images.sum())[:, None, None]
    deltas = (weights * (B @ A)).sum(0)
    factors = (weights * B).sum(0) @ (weights * A).sum(0)
    return deltas, factors
    # END


# %% tags=["check"]
check.averages(averages)

# %% [markdown]
# ### A federation of two
#
# The hardest split there is: one client has the digits 0 to 4, the other 5 to 9. Both know all ten
# names, and each is rewarded for forgetting the five that it never sees. Four rounds of 20 steps of
# 8 images, with the three ways to average. Beside them, a federation in which each client has half
# of the images of *every* digit. Rates were set in a quick trial on test images (higher for FFA,
# which trains less): a demonstration, not a comparison.
#
# *Guess before you look: does the average of two halves know both?*


# %%
def holding(task, mine):
    """The task with the training images that `mine(row, label)` gives to a client."""
    rows = [i for i, label in enumerate(task.train.labels.tolist()) if mine(i, label)]
    return replace(task, train=task.train.pick(rows))


digits = tasks["digits"]
by_class = [
    holding(digits, lambda i, label: label < 5),
    holding(digits, lambda i, label: label >= 5),
]
evenly = [
    holding(digits, lambda i, label: i % 2 == 0),
    holding(digits, lambda i, label: i % 2 == 1),
]
ten = cl.Bench(clip, some(digits, "test", 300))


def begin(lora):
    """What the server sends first: A as LoRA draws it, B zero."""
    g = torch.Generator().manual_seed(0)
    return Attached(copy.deepcopy(clip.model), lora, g).adapter(clip.hash)


def mean_of_deltas(adapters):
    """The average of ΔW, cut back to rank 4, with its scale in B as LoRA has it."""
    cut = merging.truncate(merging.interpolate(*adapters, 0.5), 4)
    return Adapter({n: LowRank(d.A, d.scale * d.B) for n, d in cut.deltas.items()}, cut.base)


def mean_of_b(adapters):
    """A stays what it was, to the bit."""
    shared, mean = adapters[0].deltas, merging.average_factors(adapters)
    return Adapter({n: LowRank(shared[n].A, d.B) for n, d in mean.deltas.items()}, mean.base)


lora, ffa = LoRA(rank=4), LoRA(rank=4, train_a=False)
federations = {
    "by class, ΔW": (by_class, lora, 8e-3, mean_of_deltas),
    "by class, factors": (by_class, lora, 8e-3, merging.average_factors),
    "by class, FFA": (by_class, ffa, 2e-2, mean_of_b),
    "dealt evenly, ΔW": (evenly, lora, 8e-3, mean_of_deltas),
}
short = {"steps": 20, "batch": 8}
reached, returned, ended = {}, {}, {}
for way, (clients, settings, rate, average) in federations.items():
    server = begin(settings)
    reached[way] = [ten.accuracy(server)]
    for r in range(4):
        go = {"lr": rate, "start_from": server, **short}
        jobs = [cl.Job.of(c, settings, seed=2 * r + i, **go) for i, c in enumerate(clients)]
        back = cl.fit_many(clip, jobs, progress=False)
        server = average(back)
        reached[way].append(ten.accuracy(server))
    returned[way], ended[way] = back, server

plots.curve(range(5), reached, "rounds", chance=0.1)

# %% [markdown]
# Do not stop at the mean. Which digits does each server read, and which do its clients read before
# the last average?

# %%
low = ten.labels < 5


def by_half(adapter):
    """Percent right on the digits 0 to 4, on 5 to 9, and on all."""
    o = 100 * ten.outcomes([adapter])[0]
    return [float(o[low].mean()), float(o[~low].mean()), float(o.mean())]


rows = {f"server: {way}": by_half(adapter) for way, adapter in ended.items()}
rows |= {
    f"client {i}: by class, ΔW": by_half(a) for i, a in enumerate(returned["by class, ΔW"])
}
rows |= {"LoRA, 1,200 steps, all digits": by_half(first["LoRA"][names.index("digits")])}
halves = [
    f"0 to 4\nn = {int(low.sum())}",
    f"5 to 9\nn = {int((~low).sum())}",
    f"all\nn = {len(ten)}",
]
plots.table(rows, halves, "right, %", bold=False)


# %% tags=["prose"]
def gap(adapters):
    """How far the average of the factors is from that of ΔW, in percent of its length."""
    exact = vector(merging.interpolate(*adapters, 0.5))
    return 100 * float(
        (vector(merging.average_factors(adapters)) - exact).norm() / exact.norm()
    )


split = [by_half(ended[way]) for way in list(ended)[:3]]
lopsided = sum(abs(x[0] - x[1]) > 30 for x in split)
told = (
    "The mean has hidden it: the clients pull in opposite directions, and averaging does not give each its half. One of them prevails"
    + (", whatever is averaged." if lopsided == 3 else f", in {lopsided} of the three.")
    if lopsided
    else "Here each half is read about as well as the other."
)
ends = [reached[way][-1] for way in list(reached)[:3]]
alike = max(a.interval[0] for a in ends) <= min(a.interval[1] for a in ends)
even = by_half(ended["dealt evenly, ΔW"])
Markdown(f"""
- **Split by class.** {told} (Federated learning knows this as *client drift*, or the trouble with data that are not
  identically distributed.) With the digits dealt evenly, the server reads {even[0]:.0f} % and {even[1]:.0f} % of the halves.
- **Which average?** The intervals of the three {"overlap: four short rounds and one seed do not tell" if alike else "do not all overlap, but this is one seed, and the rates differ"}.
  In the last round the average of the factors missed that of ΔW by {gap(returned["by class, factors"]):.0f} % of its length. Two seeds of
  the shipped adapter, which share no beginning, would miss it by {gap(own["LoRA"][names.index("digits")]):.0f} %: clients that start each
  round from the same server keep their factors together.
- **All digits in one place**, and many more steps, are still far better: the last row.
""")

# %% [markdown]
# ## On your own
#
# - Weight the *layers*: `merging.weighted_sum(adapters, [{0: 1.0, …, 11: 0.2}, …])` takes a weight
#   per layer. Does it help to let each task have the layers that lesson 5 says it needs?
# - Split by class, but average after every 5 steps, 16 times. Does one half still prevail?
# - Train the clients with `cl.CopRA()` after the LoRA settings in `fit`. Twenty steps may be too
#   few for it.
# - Merge only two tasks, then three, and draw what is kept against how many.
#
# ## In practice
#
# - Averaging ΔW of two seeds is nearly free and seldom harms. Try it before an ensemble.
# - For several tasks start with a plain sum and a scale chosen on validation images. More elaborate
#   merges must beat *that*, at their own best scale.
# - In a federation, say what you average. "We average the LoRA weights" has two meanings, and they
#   differ.
# - Count the rank: stacked adapters grow, an SVD cuts them back, and the cut is one more thing to
#   measure.
#
# **Where this small model differs from the papers'.** Task arithmetic, TIES and DARE were shown
# mostly on full fine-tuning of much larger models, which lose less when a few tasks are added. Here
# ΔW is of low rank, the tasks are far from each other, and digits must be learned from nothing.
# CopRA's paper reports clearer gains in merging than are seen here.
#
# ## Further reading
#
# - Ilharco et al., *Editing Models with Task Arithmetic*,
#   [arXiv:2212.04089](https://arxiv.org/abs/2212.04089).
# - Yadav et al., *TIES-Merging: Resolving Interference When Merging Models*,
#   [arXiv:2306.01708](https://arxiv.org/abs/2306.01708).
# - Yu et al., *Language Models are Super Mario* (DARE),
#   [arXiv:2311.03099](https://arxiv.org/abs/2311.03099).
# - Wortsman et al., *Model soups*, [arXiv:2203.05482](https://arxiv.org/abs/2203.05482).
# - McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*,
#   [arXiv:1602.05629](https://arxiv.org/abs/1602.05629).
# - Sun et al., *Improving LoRA in Privacy-preserving Federated Learning* (FFA-LoRA),
#   [arXiv:2403.12313](https://arxiv.org/abs/2403.12313).
