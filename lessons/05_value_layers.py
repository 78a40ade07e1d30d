# ---
# jupyter:
#   copra_lab:
#     question: "Twelve layers share the credit: who earned what?"
#     assets: [clip, adapters]
# ---

# %% [markdown]
# # 5. Ask what a layer is worth
#
# An adapter sits on twelve layers, and with it the model reads digits that it could not read
# before. How much of that did layer 3 earn? Switch it off, you may say, and see what is lost. That
# answer can mislead badly. You will meet a better one, and ask it of an adapter trained with LoRA
# and of one trained with CopRA.
#
# - **You will learn** what a Shapley value is, why it is the one fair way to share, how to compute
#   it exactly for twelve layers and from samples for more, and what CopRA's ramp has to do with it.
# - **You need** some NumPy and PyTorch, and to know that an adapter adds a ΔW to the weights of
#   each layer.
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
import time
from dataclasses import replace
from itertools import combinations, permutations
from math import comb, factorial

import ipywidgets as w
import numpy as np
import torch
from IPython.display import Markdown

from copra_lab import plots
from copra_lab import shapley as sh
from copra_lab.exercises import value_layers as check
from copra_lab.shapley import LayerGame
from copra_lab.utils.statistics import Accuracy, bootstrap_interval
from copra_lab.zoo import shipped

# %% [markdown]
# **What you will have at the end**: the share of each layer in what an adapter reaches, for LoRA
# and for CopRA. Here it is as a first guess from a hundred looks at each model. The bars are 95 %
# intervals of the sampling alone. At the end there will be none left of those, and another kind
# instead.
#
# The adapters come with the package: seed 0 of each method, trained on handwritten digits. The
# images are the first 50 of the test set in a shuffled order.

# %%
clip = cl.load_clip()
task = cl.load_task("digits", clip)
some = torch.randperm(len(task.test), generator=torch.Generator().manual_seed(0))[:50].tolist()
bench = cl.Bench(clip, replace(task, test=task.test.pick(some)))

adapters = {
    s.label.split(",")[0]: s.load(clip) for s in shipped("digits") if "seed 0" in s.label
}
games = {name: LayerGame(bench, adapter) for name, adapter in adapters.items()}
layers = [str(i) for i in range(12)]


def points(x, digits=0):
    """A share as points, with its sign."""
    return f"{round(100 * x, digits) + 0.0:+.{digits}f}".replace("-", "−")


def pictured(estimate):
    """Points of accuracy and their intervals, of an estimate."""
    v, e = 100 * estimate.values, 100 * 1.96 * estimate.errors
    e = np.minimum(e, 100)  # infinite after a single sample
    return v, list(zip(v - e, v + e, strict=True))


rough = {name: pictured(sh.estimate(game, 12, budget=120)) for name, game in games.items()}
plots.estimates(layers, {"worth, points": rough}, "layer")

# %% [markdown]
# ## Three players
#
# First a game small enough for paper. Ada has a left glove, Ben and Cleo have a right glove each. A
# pair sells for 1, a single glove for nothing. All three sell together. How much of the 1 is Ada's?
#
# A *game* says what each coalition S of players is worth: v(S). Here v is 1 for a coalition that
# has Ada and at least one of the others, else 0. Shapley's idea: let the players enter a room one
# by one, and pay each what it *adds* on entering. That depends on who was there before, so average
# over all orders.
#
# *Guess before you look: what is Ada's share? What is Ben's?*

# %%
players = ["Ada", "Ben", "Cleo"]


def gloves(coalitions):
    """A game: coalitions (m, n), True where a player is in → their values (m,)."""
    return (coalitions[:, 0] & coalitions[:, 1:3].any(1)).astype(float)


def told(shares):
    return "  ".join(f"{name} {share:.3g}" for name, share in zip(players, shares, strict=True))


gains = []
for order in permutations(range(3)):
    room = np.zeros((4, 3), bool)  # nobody, the first, the first two, all
    for k, player in enumerate(order):
        room[k + 1 :, player] = True
    added = np.diff(gloves(room))
    gains.append([added[order.index(player)] for player in range(3)])
    print(f"{', '.join(players[i] for i in order):16}", told(gains[-1]))

by_orders = np.mean(gains, axis=0)
print(f"{'mean':16}", told(by_orders))

# %% [markdown]
# Ada adds the 1 unless she enters first. Ben adds it in one order only: when Ada is in and Cleo is
# not.
#
# The orders in which player i finds exactly the coalition S in the room are |S|! for those before
# it times (n − |S| − 1)! for those after. So the mean over n! orders is a weighted sum over the
# coalitions without i (Shapley 1953):
#
# $$\varphi_i = \sum_{S \subseteq N \setminus \{i\}} \frac{|S|!\,(n-|S|-1)!}{n!}\,\bigl(v(S \cup
# \{i\}) - v(S)\bigr)$$
#
# That needs 2ⁿ values of v, not n! orders: 4,096 instead of 479,001,600 for twelve players. The
# library does it so.

# %%
solved = sh.exact(gloves, 3)
print(told(solved.values))
print("largest difference to the mean over orders:", abs(solved.values - by_orders).max())

# %% [markdown]
# ## Exercise: Shapley's value from its definition
#
# Difficulty ●●●○○ · importance ●●●●● · 10 minutes
#
# Write the formula. `v` takes a set of player numbers and gives a number: `v({0, 2})`, `v(())`. The
# players are 0 to n − 1. The check plays a real game: the four quarters of an adapter.
#
# <details><summary>A hint</summary>
#
# Three loops: over the player i, over the size of S from 0 to n − 1, and over
# `combinations(others, size)`. Before you run the check, think of what the weights must sum to for
# one player.
#
# </details>


# %% tags=["exercise"]
def shapley(v, n):
    """A game, a function of a set of players 0 … n − 1 → the value of each, a tensor (n,)."""
    # BLANK: for each player, the weighted sum over the coalitions without it
    values = []
    for i in range(n):
        others, value = [j for j in range(n) if j != i], 0.0
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for s in combinations(others, size):
                value += weight * (v({*s, i}) - v(s))
        values.append(value)
    return torch.tensor(values)
    # END


# %% tags=["check"]
check.shapley(shapley)

# %% [markdown]
# ## Four rules, and only one way to keep them
#
# Why this rule and not another? Shapley asked for four things, the *axioms*:
#
# 1. **Efficiency**: the shares sum to v(N) − v(∅). Nothing is left over.
# 2. **Symmetry**: players that add the same to every coalition get the same.
# 3. **Null player**: who adds nothing to any coalition gets nothing.
# 4. **Additivity**: the shares in the sum of two games are the sums of the shares.
#
# Exactly one rule keeps all four. See it keep them: Dan comes with an umbrella that nobody wants,
# and in a second game the four sell lemonade, where all that counts is how many they are.


# %%
def lemonade(coalitions):
    return coalitions.sum(1) ** 2 / 16


with_dan = sh.exact(gloves, 4).values
stand = sh.exact(lemonade, 4).values
both = sh.exact(lambda c: gloves(c) + lemonade(c), 4).values

print("gloves   ", with_dan.round(3), "sum", with_dan.sum().round(3))
print("lemonade ", stand.round(3), "sum", stand.sum().round(3))
print("both     ", both.round(3), "sum", both.sum().round(3))
assert np.isclose(with_dan.sum(), 1)
assert np.isclose(stand.sum(), 1)
assert np.isclose(with_dan[1], with_dan[2])
assert np.allclose(stand, stand[0])
assert np.isclose(with_dan[3], 0)
assert np.allclose(with_dan[:3], solved.values)
assert np.allclose(both, with_dan + stand)  # additivity

# %% [markdown]
# The last one sounds like bookkeeping. It will give us intervals for free, further down.
#
# ## Twelve layers
#
# Now the players are the layers of an adapter. A coalition S has its ΔW added to the weights, the
# other layers show the base. Its value is the accuracy on our 50 images:
#
# $$v(S) = \text{accuracy of the CLIP with } W_\ell + \mathbb{1}[\ell \in S]\,\Delta W_\ell \text{
# in each layer } \ell$$
#
# So v(∅) is the base, v(N) the whole adapter. By hand it takes a copy of the model and a loop over
# the sites (the q, k and v of each layer, which share one fused weight):


# %%
def by_hand(adapter, coalition):
    """The accuracy with the ΔW of these layers only, in plain torch."""
    model = copy.deepcopy(clip.model)
    for name, low_rank in adapter.deltas.items():
        site = clip.sites[name]
        if site.layer in coalition:
            weight = model.get_parameter(f"{site.module}.{site.parameter}")
            rows = slice(site.start, site.stop)  # q, k or v of the fused weight
            weight.data[rows] += low_rank.scale * low_rank.B @ low_rank.A
    with torch.inference_mode():
        features = model.encode_image(clip.pixels(bench.split.images))
        said = (features @ clip.text_features(task.prompts).T).argmax(-1)
    return (said == bench.split.labels).double().mean().item()


for coalition in [(), range(12), (0, 1, 2, 3), (8, 9, 10, 11), (5,)]:
    mask = np.isin(np.arange(12), coalition)
    one, two = by_hand(adapters["LoRA"], coalition), games["LoRA"](mask)[0]
    print(f"{list(coalition)!s:40} {one:.2f} by hand, {two:.2f} from the game")
    assert abs(one - two) < 0.021  # one image may stand so near a border that rounding decides

# %% [markdown]
# ### All 4,096 of them
#
# Each coalition is another model, and each model means twelve transformer blocks for every image.
# But coalitions that agree on the layers 0 to k share everything up to the output of block k. Put
# them in order, like the words in a dictionary, and compute each beginning once:

# %%
every = sh.all_coalitions(12)
beginnings = {tuple(c[: k + 1]) for c in every.tolist() for k in range(12)}
print(f"one by one: {len(every) * 12:,} passes through a block; as a tree: {len(beginnings):,}")

# %% [markdown]
# This cell takes most of the notebook's time. It keeps what each coalition makes of each *image*
# (right or wrong), not only the mean.


# %%
def play(game):
    """(4096, images): 1 where a coalition is right."""
    return np.concatenate([game.outcomes(part) for part in np.array_split(every, 4)])


start = time.perf_counter()
outcomes = {name: play(game) for name, game in games.items()}
together = (time.perf_counter() - start) / len(outcomes)

exact = {name: sh.Exact(o.mean(1)) for name, o in outcomes.items()}
start = time.perf_counter()
for c in np.random.default_rng(0).permutation(every)[:8]:
    bench.outcomes([games["LoRA"].adapter_of(c)])
alone = (time.perf_counter() - start) / 8 * len(every)
print(f"a game as a tree: {together:.0f} s; one by one it would take {alone:.0f} s")

# %% [markdown]
# Now look at the game itself, before any formula. Switch layers on and off. A circle says what
# *that* layer adds to the others that are on right now; a square is its mean over all coalitions,
# Shapley's value. Things to try: all off (what does each add to the base?), all on (what would be
# lost without it?), only the upper half.

# %%
power = 2 ** np.arange(11, -1, -1)  # the row of a coalition in `every`


def look(method, **on):
    here, worth = np.array(list(on.values())), exact[method].worth
    each = np.eye(12, dtype=bool)
    adds = worth[(here | each) @ power] - worth[(here & ~each) @ power]
    series = {
        "adds to the layers now on": (100 * adds, None),
        "mean over all coalitions": (100 * exact[method].values, None),
    }
    right = Accuracy(round(worth[here @ power] * len(bench)), len(bench))
    names = [f"{i}\n{'on' if x else 'off'}" for i, x in enumerate(here)]
    return plots.estimates(names, {"points": series}, "layer", f"now: {right}", ylim=(-15, 45))


def switch(i):
    on = i in (0, 1, 2, 3, 8, 9)
    return w.ToggleButton(on, description=str(i), layout=w.Layout(width="3em"))


method = w.ToggleButtons(options=list(exact), description="trained by")
live(look, method=method, **{f"layer{i}": switch(i) for i in range(12)})

# %% tags=["prose"]
cube = exact["LoRA"].worth.reshape((2,) * 12)
gained = [
    cube.take(1, i) - cube.take(0, i) for i in range(12)
]  # in the 2,048 coalitions of the others
wide = max(range(12), key=lambda i: gained[i].std())
Markdown(f"""
What a layer adds depends on who is there. LoRA's layer {wide} adds anything from {points(gained[wide].min())} to
{points(gained[wide].max())} points. (One image is {100 / len(bench):.0f} points, so part of that is chance.) Averaged over layers, in
{100 * np.mean([(x < 0).mean() for x in gained]):.0f} % of the cases the layer that joins makes things worse.
""")

# %% [markdown]
# ## LoRA and CopRA
#
# Here are the values: 2,048 gains a layer, weighted as in the formula. They are exact for these 50
# images. But would fifty other digits tell the same? Now additivity pays: accuracy is a mean over
# images, so each image is a game of its own, and the values are the mean of the images' values.
# Resample the images, and you have an interval, with no new look at the model.
#
# *Guess before you look: which layers earn most on handwriting that the CLIP never saw, low or high
# ones? And does CopRA, which trained every layer to do without any other, share more evenly?*

# %%
per_image = {
    name: np.array([sh.Exact(hit).values for hit in o.T]) for name, o in outcomes.items()
}
for name, x in per_image.items():  # additivity, on real games
    print(name, "largest difference:", abs(x.mean(0) - exact[name].values).max())

sources = bench.sources


def resampled(x):
    """Means over images in points (layers,), and their 95 % intervals."""
    return 100 * x.mean(0), [tuple(100 * np.array(bootstrap_interval(v, sources))) for v in x.T]


difference = per_image["CopRA"] - per_image["LoRA"]  # image by image
panels = {
    "worth, points": {name: resampled(x) for name, x in per_image.items()},
    "CopRA − LoRA,\npoints": {"paired": resampled(difference)},
}
plots.estimates(layers, panels, "layer")

# %% tags=["prose"]
values = {name: 100 * x.values for name, x in exact.items()}
top = {name: np.argsort(-v)[:4].tolist() for name, v in values.items()}
share = {name: np.sort(v)[-4:].sum() / v.sum() for name, v in values.items()}
spread = {name: bootstrap_interval(100 * x.sum(1), sources) for name, x in per_image.items()}
clear = [i for i, (low, high) in enumerate(resampled(difference)[1]) if not low <= 0 <= high]
halves = [np.corrcoef(x[::2].mean(0), x[1::2].mean(0))[0, 1] for x in per_image.values()]
even = share["LoRA"] - share["CopRA"]
more_even = (
    "about as evenly as LoRA"
    if abs(even) < 0.03
    else "more evenly"
    if even > 0
    else "less evenly, not more"
)
Markdown(f"""
- **Who earned most?** The four best layers are {", ".join(map(str, sorted(top["LoRA"])))} for LoRA and
  {", ".join(map(str, sorted(top["CopRA"])))} for CopRA. They hold {100 * share["LoRA"]:.0f} % and
  {100 * share["CopRA"]:.0f} % of the sum (33 % would be even): this CopRA shares {more_even}.
- **The sums** are v(N) − v(∅): {values["LoRA"].sum():.0f} points for LoRA ({spread["LoRA"][0]:.0f} to
  {spread["LoRA"][1]:.0f}), {values["CopRA"].sum():.0f} for CopRA ({spread["CopRA"][0]:.0f} to {spread["CopRA"][1]:.0f}).
- **Layer by layer**, {len(clear) or "none"} of twelve differences can be told from zero
  {"(layer " + ", ".join(map(str, clear)) + ")" if clear else ""}. With twelve looks, one false alarm is no great surprise.
- **Other images**: the values from one half of the images and those from the other half correlate by {halves[0]:.2f}
  (LoRA) and {halves[1]:.2f} (CopRA). The values are exact for these images; of digits in general they say only so much.
- **Other seeds**: this is one adapter of each method. Another seed is another game, so none of this is yet a
  statement about the methods.
""")

# %% [markdown]
# ## Too many players: take samples
#
# Count the q, k and v of each layer as players of their own, and there are 36: 2³⁶ coalitions. So
# sample. Draw orders at random, average what each player adds (Castro et al. 2009):
#
# $$\hat\varphi_i = \frac{1}{m} \sum_{t=1}^{m} \bigl( v(\text{before}_i(\pi_t) \cup \{i\}) -
# v(\text{before}_i(\pi_t)) \bigr)$$
#
# One order costs n + 1 values of v (∅ and N need asking only once) and gives a sample for *every*
# player, right on average. You may walk each order backwards as well, so that who came early comes
# late and some of the luck cancels (*antithetic* pairs, [Mitchell et al.
# 2022](https://arxiv.org/abs/2104.12199)). Whether it does, we shall see.
#
# ## Exercise: what each player adds in one order
#
# Difficulty ●●○○○ · importance ●●●●○ · 8 minutes
#
# Write one term of the sum, for all players at once. `v` takes coalitions, a boolean tensor (m, n),
# and gives a tensor (m,); call it once. `order` is a list: `order[0]` enters first.
#
# <details><summary>A hint</summary>
#
# Make a table with n + 1 rows: nobody, the first, the first two, and so on to all. The gains are
# the differences (`.diff()`) of its values. They come in the order of joining; the answer should be
# in the order of the players.
#
# </details>


# %% tags=["exercise"]
def marginals(v, order):
    """What each player adds on joining in this order: a tensor (n,), entry i for player i."""
    # BLANK: a table of growing coalitions; their values; differences; each to its player
    n = len(order)
    joined = torch.zeros(n + 1, n, dtype=torch.bool)
    for k, player in enumerate(order):
        joined[k + 1 :, player] = True
    worth = v(joined)
    gains = worth.diff()
    out = torch.empty_like(gains)
    out[order] = gains
    return out
    # END


# %% tags=["check"]
check.marginals(marginals)

# %% [markdown]
# We know LoRA's whole game, so looking a value up costs nothing, and the samplers can be held
# against the truth. `copra_lab.shapley.values` has permutations (alone or in pairs), Owen's sampler
# (below you will see where it comes from) and one that is stratified by size. Each runs 60 times
# with different seeds; the figure shows the root mean square error of a layer's value.
#
# *Guess before you look: how many more samples halve the error?*


# %%
def known(coalitions):
    """LoRA's game, from the table."""
    return exact["LoRA"].worth[np.atleast_2d(coalitions) @ power]


budgets = [64, 128, 256, 512, 1024, 2048]
samplers = {
    "permutations": lambda rng: sh.permutations(known, 12, rng, antithetic=False),
    "in antithetic pairs": lambda rng: sh.permutations(known, 12, rng),
    "Owen, in pairs": lambda rng: sh.owen(known, 12, rng),
    "stratified by size": lambda rng: sh.stratified(known, 12, rng),
}


def reached(sampler, seed):
    """The last estimate within each of the budgets; None where there was none yet."""
    best = dict.fromkeys(budgets)
    for now in sampler(np.random.default_rng(seed)):
        if now.evaluations > budgets[-1]:
            return list(best.values())
        best |= {b: now for b in budgets if now.evaluations <= b}


runs = {
    name: [reached(sampler, seed) for seed in range(60)] for name, sampler in samplers.items()
}
truth = exact["LoRA"].values


def rms(estimates):
    off = [100 * (e.values - truth) for e in estimates if e is not None]
    return float(np.sqrt(np.mean(np.square(off)))) if off else float("nan")


errors = {
    name: [rms(column) for column in zip(*rows, strict=True)] for name, rows in runs.items()
}
errors["∝ 1/√n"] = [errors["permutations"][0] * (budgets[0] / b) ** 0.5 for b in budgets]
plots.lines(budgets, {"error, points": errors}, "evaluations of the game", log=True)

# %% tags=["prose"]
at = budgets.index(512)
inside = np.mean(
    [abs(r[at].values - truth) <= 1.96 * r[at].errors for r in runs["permutations"]]
)
gain = (errors["permutations"][at] / errors["in antithetic pairs"][at]) ** 2
Markdown(f"""
The errors fall along 1/√n: half the error costs four times the work. At {budgets[at]} evaluations single orders err by
{errors["permutations"][at]:.2f} points, antithetic pairs by {errors["in antithetic pairs"][at]:.2f}, so an order in a pair is worth
{gain:.1f} times one drawn by itself. Pairs help where a layer's gain falls or rises steadily with the number of layers
before it. A gain that is largest in the middle is as large in the reversed order, and nothing cancels.

An estimate knows its own uncertainty, from the scatter of its samples: of the intervals *estimate ± 1.96 standard
errors* at {budgets[at]} evaluations, {100 * inside:.0f} % hold the exact value.
""")

# %% [markdown]
# Move the budget, and watch the intervals close on the exact values. With another seed they close
# from elsewhere.


# %%
def sharpen(budget, method, seed):
    estimate = sh.estimate(known, 12, method, budget=budget, seed=seed)
    series = {"estimate with 95 % interval": pictured(estimate), "exact": (100 * truth, None)}
    title = f"{estimate.evaluations} evaluations, mean error {rms([estimate]):.1f} points"
    return plots.estimates(layers, {"worth, points": series}, "layer", title, ylim=(-5, 20))


steps = [50, 100, 200, 400, 800, 1600, 3200]
live(
    sharpen,
    budget=w.SelectionSlider(options=steps, value=200, description="budget"),
    method=w.Dropdown(options=list(sh.SAMPLERS), description="sampler"),
    seed=w.IntSlider(0, 0, 9, description="seed"),
)

# %% [markdown]
# ## What CopRA trains
#
# CopRA ([arXiv:2410.22911](https://arxiv.org/abs/2410.22911)) has each layer on with a probability
# p that rises from 0 to 1 during training. Lesson 4 is about how. So at each p it trains the *mean*
# value of a random coalition R that holds every layer with probability p:
#
# $$g(p) = \mathbb{E}\,v(R_p) = \sum_{k=0}^{n} \binom{n}{k} p^k (1-p)^{n-k}\; \bar v_k$$
#
# with v̄ₖ the mean value of the coalitions of size k. This is the *multilinear extension* of the
# game along its diagonal (Owen 1972). Three facts tie it to Shapley's values:
#
# - g(0) = v(∅) and g(1) = v(N): plain LoRA trains g(1) and nothing else.
# - the slope g′(p) is what all players together add to R, and $\varphi_i = \int_0^1 \mathbb{E}[v(R
#   \cup i) - v(R \setminus i)]\,dp$. So g′ integrates to the sum of the values. (Owen's sampler
#   draws p, then R.)
# - the area $\int_0^1 g\,dp$ is the mean of the v̄ₖ. With p rising evenly, it is what CopRA's ramp
#   trains.
#
# A guess that is *not* among the facts: that CopRA must raise every φ, or make them even. The
# values always sum to v(N) − v(∅), whatever lies between.
#
# ## Exercise: the curve, its slope and its area
#
# Difficulty ●●●○○ · importance ●●●●○ · 12 minutes
#
# From the means by size, `by_size` (n + 1,), and points `p` (m,): g(p) and g′(p), both (m,), and
# the area, a single number (a tensor of no dimensions).
#
# <details><summary>A hint</summary>
#
# g is a Bernstein polynomial with coefficients v̄ₖ. Its derivative is one too, of degree n − 1,
# with coefficients n·(v̄ₖ₊₁ − v̄ₖ). Make a table of the basis polynomials at each p, and multiply.
# All n + 1 of them have the same integral.
#
# </details>


# %% tags=["exercise"]
def multilinear(by_size, p):
    """Means by size (n + 1,) and p (m,) → g(p) (m,), g′(p) (m,), area ()."""
    # BLANK: the basis polynomials; the curve, its slope, its area
    n = len(by_size) - 1
    basis = torch.stack([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
    lower = torch.stack([comb(n - 1, k) * p**k * (1 - p) ** (n - 1 - k) for k in range(n)])
    return by_size @ basis, n * by_size.diff() @ lower, by_size.mean()
    # END


# %% tags=["check"]
check.multilinear(multilinear)

# %% [markdown]
# Both curves, from the same 50 images. And a check by brute force: at p = 0.5, the mean value of
# 2,000 random coalitions.
#
# *Guess before you look: where do the two curves lie apart, where do they meet?*

# %%
p = np.linspace(0, 1, 21)
curves = {name: x.curve for name, x in exact.items()}
drawn = np.random.default_rng(0).random((2000, 12)) < 0.5
print(f"LoRA at p = 0.5: {curves['LoRA'](0.5):.3f}, by brute force {known(drawn).mean():.3f}")

panels = {
    "g(p), % right": {name: 100 * g(p) for name, g in curves.items()},
    "slope g′(p), points": {name: 100 * g.slope(p) for name, g in curves.items()},
}
plots.lines(p, panels, "p, each layer's chance to be on")

# %% [markdown]
# One pair of adapters is one pair. The area is a mean over sizes, so for the other pair of seeds a
# sample will do: eight random coalitions of each size, the same ones for both methods.

# %%
rng = np.random.default_rng(1)
drawn = np.array([rng.permutation(12) < k for k in range(13) for _ in range(8)])
others = {s.label.split(",")[0]: s.load(clip) for s in shipped("digits") if "seed 1" in s.label}
areas = {name: LayerGame(bench, adapter)(drawn).mean() for name, adapter in others.items()}
print("area, seed 1:", ", ".join(f"{name} {100 * a:.1f} %" for name, a in areas.items()))

# %% tags=["prose"]
sizes = every.sum(1)
by_image = {
    name: np.array([o[sizes == k].mean(0) for k in range(13)]) for name, o in outcomes.items()
}  # (13, images)
change = by_image["CopRA"] - by_image["LoRA"]


def paired(change):
    low, high = bootstrap_interval(change, sources)
    chance = ", so it may be chance" if low <= 0 <= high else ""
    return f"{points(change.mean(), 1)} points ({points(low, 1)} to {points(high, 1)}{chance})"


Markdown(f"""
- **The area** is {100 * curves["LoRA"].area:.1f} % under LoRA's curve and {100 * curves["CopRA"].area:.1f} % under CopRA's:
  image by image, {paired(change.mean(0))}. With the other seeds it is {100 * areas["LoRA"]:.0f} % and
  {100 * areas["CopRA"]:.0f} %. Two pairs are not many.
- **Six layers of twelve on**, CopRA less LoRA: {paired(change[6])}. **All on**: {paired(change[12])}. What half of the
  layers can do is what the ramp trains; what all can do together is what both train.
- **The slope** integrates to {100 * np.trapezoid(curves["LoRA"].slope(p), p):.1f} points for LoRA, on this grid; the values
  sum to {100 * truth.sum():.1f}.
""")

# %% [markdown]
# ## Two shortcuts, and how they fail
#
# Shapley's value averages over coalitions of all sizes. The two ends are cheaper, n + 1 evaluations
# each:
#
# - **first in**: v({i}) − v(∅), what a layer does alone. Summed over layers it is the slope at the
#   left end, g′(0).
# - **leave one out**: v(N) − v(N∖i), what is lost without it. Summed, it is the slope at the right
#   end, g′(1).
#
# Take two players that back each other up: either alone does the whole job. First in pays both in
# full, leave one out pays neither, and might tell you to remove both.

# %%
backup = sh.exact(lambda c: c.any(1).astype(float), 2)
print("Shapley      ", backup.values)
print("first in     ", backup.worth[[2, 1]])
print("leave one out", 1 - backup.worth[[1, 2]])


def ends(x):
    """First in and leave one out of a solved game."""
    worth, ones = x.worth, power
    return worth[ones] - worth[0], worth[-1] - worth[len(worth) - 1 - ones]


first, last = ends(exact["LoRA"])
assert np.allclose([first.sum(), last.sum()], curves["LoRA"].slope(np.array([0.0, 1.0])))
series = {
    "first in": (100 * first, None),
    "Shapley": (100 * truth, None),
    "leave one out": (100 * last, None),
}
plots.estimates(layers, {"LoRA, points": series}, "layer")

# %% tags=["prose"]
total = truth.sum()
pairs = exact["LoRA"].interactions
i, j = np.unravel_index(pairs.argmin(), pairs.shape)
lost = exact["LoRA"].worth[-1] - exact["LoRA"].worth[len(every) - 1 - power[i] - power[j]]
zero = [str(k) for k in range(12) if abs(last[k]) < 1e-9]
missed = f" Without layer {' or '.join(zero)}, accuracy stays what it was." if zero else ""
low, high = (100 * x.sum() for x in ends(exact["CopRA"]))
Markdown(f"""
LoRA's values sum to {100 * total:.0f} points; what its layers do alone sums to {100 * first.sum():.0f}, and what is lost by leaving
each out to {100 * last.sum():.0f}.{missed} (For CopRA: {100 * exact["CopRA"].values.sum():.0f}, {low:.0f} and {high:.0f}.) Where the slope is
steep in the middle and flat at its ends, both shortcuts look exactly where least happens.

`Exact.interactions` tells which pairs back each other up: how much more two layers add together than each by itself,
averaged over coalitions of the others (negative: they do the same job). For LoRA the most redundant pair is {i} and {j},
{points(pairs[i, j], 1)} points. Take one of them from the whole adapter, and accuracy changes by {points(-last[i])} or
{points(-last[j])} points; take both, and it changes by {points(-lost)}.
""")

# %% [markdown]
# ## On your own
#
# - Play `things-blur` in place of `digits`. Which layers undo a blur, and are they those that read
#   digits?
# - `LayerGame(bench, adapter, "module")` makes each q, k and v a player. Estimate their values with
#   a budget of 500. Is v worth more than k?
# - Repeat with seed 1 of both methods. Which of the sentences above survive?
# - `LayerGame(…, value="margin")` asks by how much the right class leads. It moves smoothly, so its
#   intervals are tighter. Does it rank the layers as accuracy does?
#
# ## In practice
#
# - Up to a dozen players, be exact. Beyond, sample permutations, report the standard error, and try
#   whether pairs help.
# - Two uncertainties are never one: that of the sampling, which more evaluations remove, and that
#   of the images, which only more images remove.
# - A leave-one-out table is a statement about the whole model. Do not remove two layers on its
#   word.
# - If you choose layers by their value, compute the values on validation images and report on test
#   images. Lesson 6 does.

# %% [markdown]
# **Where this small model differs from the papers'.** CopRA's paper shows *approximated* values of
# the layers of a ViT-B/16; here they are exact, of a far smaller CLIP, on one task and fifty
# images. Their adapters' accuracy falls by five to eight points when every other layer is removed;
# those of this CLIP fall less on most tasks, and digits, which it must learn from nothing, is where
# it has most to lose.
#
# ## Further reading
#
# - Shapley, *A Value for n-Person Games*, 1953. Short and readable.
# - Owen, *Multilinear Extensions of Games*, 1972. The curve g, and the integral.
# - Castro, Gómez and Tejada, *Polynomial calculation of the Shapley value based on sampling*, 2009.
# - Mitchell et al., *Sampling Permutations for Shapley Value Estimation*,
#   [arXiv:2104.12199](https://arxiv.org/abs/2104.12199).
# - Zhuang et al., *CopRA: A Progressive LoRA Training Strategy*,
#   [arXiv:2410.22911](https://arxiv.org/abs/2410.22911), and its successor CoTo,
#   [arXiv:2506.05713](https://arxiv.org/abs/2506.05713).
