# ---
# jupyter:
#   copra_lab:
#     question: Do two models of the same task meet in the middle?
#     assets: [clip, adapters]
# ---

# %% [markdown]
# # 3. Walk the line between two fine-tuned models
#
# Fine-tune a model twice, with two seeds, and stand halfway between the two results. Nobody trained
# that model. Is it as good as its parents, or ruined? For LoRA the answer depends on *what you
# average*, and in this lesson you find out why, down to a formula that you can check on one
# adapter.
#
# - **You will learn** what a barrier is, why averaging A and B is not averaging ΔW, what a rotation
#   that changes nothing can ruin, and how much of all that is mere shrinking.
# - **You need** to know what LoRA is: W' = W + s·B·A. Lesson 2 builds it.
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

import math
from dataclasses import replace

import ipywidgets as w
import torch
import torch.nn.functional as F
from IPython.display import Markdown

from copra_lab import plots
from copra_lab.adapters import LowRank
from copra_lab.exercises import walk_line as check
from copra_lab.merging import (
    average_factors,
    barrier,
    interpolate,
    interpolate_factors,
    weighted_sum,
)
from copra_lab.utils.statistics import Accuracy, bootstrap_interval
from copra_lab.zoo import shipped

# %% [markdown]
# **What you will have at the end**: this picture, and a reason for it. Two adapters were trained to
# read handwritten digits; λ = 0 is the one, λ = 1 the other. Two lines lead from the one to the
# other. They have the same ends.

# %%
clip = cl.load_clip()


def bench_of(name, most=480):
    """The test images of a task; of a larger one, 480 drawn at random, to save time."""
    task = cl.load_task(name)
    drawn = torch.randperm(len(task.test), generator=torch.Generator().manual_seed(0))[:most]
    return cl.Bench(
        clip, replace(task, test=task.test.pick(drawn.tolist())), precision="float32"
    )


def pair(name, method):
    """The adapters of a task that were trained with two seeds."""
    return [s.load(clip) for s in shipped(name) if s.label.startswith(method + ",")]


bench = bench_of("digits")
one, two = pair("digits", "LoRA")
LINE = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
lines = {
    "line in ΔW": bench.path(one, two, LINE, space="delta"),
    "line in A and B": bench.path(one, two, LINE, space="factors"),
}
plots.curve(LINE, {name: path.accuracies for name, path in lines.items()}, "λ", chance=0.1)

# %% tags=["prose"]
straight, bent = lines.values()
middle = LINE.index(0.5)
Markdown(f"""
In the middle: {straight.accuracies[middle]} on the one line and {bent.accuracies[middle]} on the other. To save
time the lesson looks at {len(bench)} of the {len(cl.load_task("digits").test)} test images, drawn at random.
""")

# %% [markdown]
# ## Two adapters, one task
#
# Same base, same training images, same settings. The seed chose three things: how A was drawn, the
# order of the images and their crops. *Guess before you look: how similar are the two results, as
# answers and as numbers?*


# %%
def flat(adapter, part):
    return torch.cat([part(delta).flatten() for delta in adapter.deltas.values()])


def cosine(x, y, part):
    return F.cosine_similarity(flat(x, part), flat(y, part), dim=0).item()


PARTS = {"A": lambda d: d.A, "B": lambda d: d.B, "ΔW": lambda d: d.delta()}
answers = [bench.predictions(adapter) for adapter in (one, two)]
agree = (answers[0] == answers[1]).float().mean().item()
cosines = {name: cosine(one, two, part) for name, part in PARTS.items()}

print("seed 0:", bench.accuracy(one), " seed 1:", bench.accuracy(two))
print(f"same answer on {agree:.0%} of the images")
print("cosines:", ", ".join(f"{name} {value:.2f}" for name, value in cosines.items()))

# %% tags=["prose"]
factor = max(cosines["A"], cosines["B"])
unrelated = "as good as unrelated" if factor < 0.1 else "not quite unrelated"
more = ", far more than the factors" if cosines["ΔW"] > 0.1 + factor else ""
Markdown(f"""
As functions they agree on {100 * agree:.0f} % of the images. As numbers their A's and B's have a cosine of {cosines["A"]:.2f} and
{cosines["B"]:.2f}, {unrelated}: A begins at random, and training does not bring the two together. Their products
have {cosines["ΔW"]:.2f}{more}. Keep that in mind.
""")

# %% [markdown]
# ## The line in ΔW
#
# What the model computes depends on A and B only through $\Delta W = s\,BA$. So one honest line
# between two adapters is
#
# $$\Delta W(\lambda) = (1-\lambda)\,\Delta W_1 + \lambda\,\Delta W_2 .$$
#
# A sum of two matrices of rank 4 has rank 8, so it does not fit into factors of rank 4. But it fits
# exactly into factors of rank 8, without ever making ΔW: stack them.
#
# $$\big[\,(1-\lambda)B_1 \;\big|\; \lambda B_2\,\big] \begin{bmatrix} A_1 \\ A_2 \end{bmatrix} =
# (1-\lambda)B_1A_1 + \lambda B_2A_2$$

# %%
site = list(one.deltas)[9]  # any site will do
d1, d2 = one.deltas[site], two.deltas[site]

by_hand = 0.7 * d1.delta() + 0.3 * d2.delta()
library = interpolate(one, two, 0.3).deltas[site]
print(site)
print(f"rank {library.rank}: B {tuple(library.B.shape)}, A {tuple(library.A.shape)}")
print(f"largest difference: {(by_hand - library.delta()).abs().max():.1e}")
assert torch.allclose(by_hand, library.delta(), atol=1e-6)

# %% [markdown]
# ## Exercise: a point on the line
#
# Difficulty ●○○○○ · importance ●●●●○ · 5 minutes
#
# Write it for one site, in factors of rank 2r. Scales are 1. Let the weights stand in B, and leave
# A unweighted.
#
# <details><summary>A hint</summary>
#
# A's stand one below the other (`torch.cat(…, dim=0)`), B's side by side (`dim=1`). At λ = 0 the
# result must be the first adapter.
#
# </details>


# %% tags=["exercise"]
def on_line(A1, B1, A2, B2, lam):
    """A (r, in) and B (out, r) of two adapters → A (2r, in) and B (out, 2r) of the point λ."""
    # BLANK: stack the A's; weigh the B's and set them side by side
    A = torch.cat([A1, A2], dim=0)
    B = torch.cat([(1 - lam) * B1, lam * B2], dim=1)
    return A, B
    # END


# %% tags=["check"]
check.on_line(on_line)

# %% [markdown]
# ## How deep is a hole?
#
# If accuracy fell in a straight line from the one end to the other, nothing would be wrong with the
# way between. The **barrier** says how far a path sinks below that. [Frankle et al.
# 2019](https://arxiv.org/abs/1912.05671) ask it of whole networks and call two *linearly mode
# connected* where there is none; they compare with the mean of the ends, [Entezari et al.
# 2021](https://arxiv.org/abs/2110.06296) with the straight line, as here:
#
# $$\max_{0 \le \lambda \le 1}\;(1-\lambda)\,v(0) + \lambda\,v(1) - v(\lambda)$$

# %%
for name, path in lines.items():
    values = [a.value for a in path.accuracies]
    print(f"{name:16} barrier {100 * barrier(LINE, values):4.1f} points")

# %% [markdown]
# It is never negative, for the ends themselves give 0; and since it takes the worst of several
# noisy numbers, it is a little above 0 even where there is no hole. To tell a hole from luck,
# compare the middle with the mean of the two ends *on the same images*:


# %%
def to_ends(bench, first, second, inside):
    """By image, and as a mean with its interval: the point between, less the mean of the ends."""
    ends = bench.outcomes([first, second]).mean(0)
    less = bench.outcomes([inside])[0] - ends
    return less, (float(less.mean()), bootstrap_interval(less.numpy(), bench.sources))


def told(found):
    value, (low, high) = found
    return f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})".replace(
        "-", "−"
    )


middles = {"ΔW": interpolate(one, two, 0.5), "A and B": interpolate_factors(one, two, 0.5)}
found = {name: to_ends(bench, one, two, inside)[1] for name, inside in middles.items()}
print("the middle, to the mean of the ends")
print("\n".join(f"{name:8} {told(difference)}" for name, difference in found.items()))

# %% [markdown]
# ## Exercise: the barrier
#
# Difficulty ●●○○○ · importance ●●●○○ · 5 minutes
#
# Write it for a path that was measured at the places `lam`, in any order, 0 and 1 among them.
# Places beyond the two ends do not count.
#
# <details><summary>A hint</summary>
#
# The chord at each λ runs from v(0) to v(1): `values[lam == 0]` and `values[lam == 1]` are its
# ends. Then a mask for what lies between, and the largest gap.
#
# </details>


# %% tags=["exercise"]
def barrier_of(lam, values):
    """Places (m,) and accuracies there (m,) → the barrier, a tensor without dimensions."""
    # BLANK: the chord between the two ends; how far below it is each point between?
    start, end = values[lam == 0], values[lam == 1]
    chord = (1 - lam) * start + lam * end
    between = (lam >= 0) & (lam <= 1)
    return (chord - values)[between].max()
    # END


# %% tags=["check"]
check.barrier_of(barrier_of)

# %% [markdown]
# ## The line in A and B
#
# The other thing people call "averaging two LoRAs" is to average A with A and B with B. It is what
# you get when you average checkpoints parameter by parameter, as federated learning does. But a
# product of means is not a mean of products:
#
# $$\tfrac{B_1+B_2}{2}\cdot\tfrac{A_1+A_2}{2} \;=\; \tfrac12\cdot\underbrace{\tfrac{B_1A_1 +
# B_2A_2}{2}}_{\text{middle in }\Delta W} \;+\; \tfrac14\,\underbrace{(B_1A_2 +
# B_2A_1)}_{\text{cross terms}}$$
#
# Two things happen at once. The part that you want comes out at **half** of its size, and beside it
# come **cross terms**, the B of one adapter reading through the A of the other. Check it:

# %%
own = (d1.B @ d1.A + d2.B @ d2.A) / 4
cross = (d1.B @ d2.A + d2.B @ d1.A) / 4
library = average_factors([one, two]).deltas[site].delta()
print(f"largest difference: {(own + cross - library).abs().max():.1e}")
assert torch.allclose(own + cross, library, atol=1e-6)
print(f"own {own.norm():.3f}, cross {cross.norm():.3f}, the middle in ΔW {2 * own.norm():.3f}")

# %% [markdown]
# ## Exercise: what a point on this line is made of
#
# Difficulty ●●●○○ · importance ●●●●● · 10 minutes
#
# Do the same for any λ: multiply out $\big((1-\lambda)B_1 + \lambda B_2\big)\big((1-\lambda)A_1 +
# \lambda A_2\big)$ and return the two parts, own and cross.
#
# <details><summary>A hint</summary>
#
# Four products. Each carries one weight from its B and one from its A: which two are they for B₁A₁,
# and which for B₁A₂?
#
# </details>


# %% tags=["exercise"]
def parts_of(A1, B1, A2, B2, lam):
    """→ what the adapters' own products bring (out, in), and what the cross terms bring."""
    # BLANK: the two products of one adapter with itself; the two of one with the other
    own = (1 - lam) ** 2 * (B1 @ A1) + lam**2 * (B2 @ A2)
    cross = lam * (1 - lam) * (B1 @ A2 + B2 @ A1)
    return own, cross
    # END


# %% tags=["check"]
check.parts_of(parts_of)

# %% [markdown]
# ## A copy that changes nothing and ruins the average
#
# Where does the hole come from, then? The smallest example has only *one* adapter in it. Put any
# invertible matrix P and its inverse between the two factors:
#
# $$B\,A = (B P)(P^{-1} A)$$
#
# Same ΔW, same model, other factors. Take for P a rotation by an angle θ. What is halfway between
# an adapter and its own rotated copy? In ΔW, itself. In the factors,
#
# $$\tfrac{B + BP}{2}\cdot\tfrac{A + P^{-1}A}{2} = B\,\frac{2I + P + P^{-1}}{4}\,A =
# \frac{1+\cos\theta}{2}\;BA = \cos^2\!\tfrac{\theta}{2}\;BA ,$$
#
# since $P + P^{-1} = 2\cos\theta\, I$ for a rotation in planes. *Guess before you look: what is
# left at 90°? And at 180°?*


# %%
def rotated(adapter, degrees):
    """The same ΔW from other factors: B·P and P⁻¹·A, P a rotation of the ranks in pairs."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[c, -s], [s, c]])
    deltas = {}
    for name, d in adapter.deltas.items():
        P = torch.block_diag(*[turn] * (d.rank // 2))
        # The inverse of a rotation is its transpose.
        deltas[name] = LowRank(P.T @ d.A, d.B @ P, d.scale)
    return cl.Adapter(deltas, adapter.base)


copy = rotated(one, 90)
print("cosine of A with its copy's:", f"{cosine(one, copy, PARTS['A']):.2f}")
off = max((copy.deltas[n].delta() - one.deltas[n].delta()).abs().max() for n in one.deltas)
print(f"ΔW differs by at most      : {off:.1e}")

halfway = average_factors([one, copy]).deltas[site].delta()
print(f"halfway, left of ΔW at 90° : {halfway.norm() / d1.delta().norm():.3f}")
assert torch.allclose(halfway, d1.delta() / 2, atol=1e-5)

# %%
ANGLES = (0, 45, 90, 135, 180)
copies = [rotated(one, angle) for angle in ANGLES]
turned = {
    "middle in ΔW": bench.accuracies([interpolate(one, c, 0.5) for c in copies]),
    "middle in A and B": bench.accuracies([average_factors([one, c]) for c in copies]),
}
plots.curve(ANGLES, turned, "rotation of the copy, degrees", chance=0.1)

# %% tags=["prose"]
by_angle, base = turned["middle in A and B"], bench.accuracy()
same = abs(by_angle[-1].correct - base.correct) <= 1
Markdown(f"""
Five pairs of models that answer alike, and their average in A and B goes from {100 * by_angle[0].value:.0f} % to
{100 * by_angle[-1].value:.0f} %. At 180° P is −1 and each factor meets its own negative: the average is {"the base exactly" if same else "close to the base"},
{100 * base.value:.0f} % here. Nothing was wrong with any of the models. Averaging factors asks *where a model
lies in its parameters*, and the same model lies in many places.
""")

# %% [markdown]
# ## Two real seeds
#
# Two seeds of LoRA are not rotated copies, but their factors are as unrelated as at 90°: what is
# theirs comes out at half size. On top come the cross terms. Which of the two makes the hole? Take
# them apart: the middle in ΔW at half size has no cross terms in it; twice the factor middle has
# its size back, and twice the cross terms.
#
# *Guess before you look: do the cross terms do harm, or is it the size?*

# %%
mean = interpolate(one, two, 0.5)
factors = average_factors([one, two])
made = {
    "middle in ΔW": mean,
    "middle in A and B": factors,
    "½ × middle in ΔW": weighted_sum([mean], [0.5]),
    "2 × middle in A and B": weighted_sum([factors], [2.0]),
}
hits = dict(zip(made, bench.outcomes(list(made.values())), strict=True))
reference = hits["middle in A and B"]


def paired(h):
    """The difference to the factor middle on the same images, with its 95 % interval."""
    less = h - reference
    return less.mean().item(), bootstrap_interval(less.numpy(), bench.sources)


compared = {name: paired(h) for name, h in hits.items() if h is not reference}
plots.accuracies(
    {name: Accuracy(int(h.sum()), len(h)) for name, h in hits.items()},
    chance=0.1,
    differences=compared,
    than="middle in A and B",
)

# %% tags=["prose"]
shrunk, doubled = compared["½ × middle in ΔW"], compared["2 × middle in A and B"]
missing = compared["middle in ΔW"][0]
low, high = shrunk[1]
size = (
    f"cannot be told from the factor middle ({told(shrunk)}): **coming out small is enough to make this hole**"
    if low <= 0 <= high
    else f"differs from the factor middle by {told(shrunk)}, of {100 * missing:.1f} that are missing"
)
harm = (
    "the cross terms grow with it, and at full size they do the harm instead. So neither part is harmless"
    if doubled[0] < 0.75 * missing
    else "what is left are the cross terms, which grow with it"
)
Markdown(f"""
The ΔW middle at half size, with no cross terms in it, {size}. Giving the factor middle its size back
wins {told(doubled)} of the {100 * missing:.1f} that are missing: {harm}. (One pair of seeds, one task, n = {len(bench)}.)
""")

# %% [markdown]
# ### Beyond the ends
#
# The same two parts explain the cliffs outside of 0 and 1. Multiply out at λ = −0.5: the first
# adapter's own product carries $(1-\lambda)^2 = 2.25$ where the line in ΔW has 1.5, and the cross
# terms carry $\lambda(1-\lambda) = -0.75$, three times what they have in the middle.

# %% tags=["prose"]
far = {
    name: (path.accuracies[0].value, path.accuracies[-1].value) for name, path in lines.items()
}
Markdown(f"""
At λ = −0.5 and 1.5 the line in ΔW is at {100 * far["line in ΔW"][0]:.0f} and {100 * far["line in ΔW"][1]:.0f} %, that in A and B at
{100 * far["line in A and B"][0]:.0f} and {100 * far["line in A and B"][1]:.0f} %.
""")

# %% [markdown]
# ### Six tasks
#
# The halving is a prediction as well. If it is what hurts, the hole must depend on **how much of
# its ΔW a task needs**: a task on which half of the change does as well as the whole should show no
# hole. Here are all six tasks that come with adapters, LoRA's and CopRA's, none left out.

# %%
rows, lost = {}, {}
for name in dict.fromkeys(s.task for s in shipped()):
    here = bench if name == "digits" else bench_of(name)
    for method in ("LoRA", "CopRA"):
        a, b = pair(name, method)
        middle_of = interpolate(a, b, 0.5)
        points = [a, b, middle_of, average_factors([a, b]), weighted_sum([middle_of], [0.5])]
        out = here.outcomes(points)
        ends, (in_delta, in_factors, at_half) = out[:2].mean(0), out[2:]
        rows[f"{name}, {method} ({len(here)})"] = {
            "mean of the ends": ends.mean().item(),
            "middle in ΔW": in_delta.mean().item(),
            "middle in A and B": in_factors.mean().item(),
            "½ × middle in ΔW": at_half.mean().item(),
        }
        for space, gap in (
            ("ΔW", in_delta - ends),
            ("factors", in_factors - ends),
            ("half", in_factors - at_half),
        ):
            gap = gap.numpy()
            lost[name, method, space] = gap.mean(), bootstrap_interval(gap, here.sources)
plots.dots(rows)

# %% tags=["prose"]
deltas = [value for (_, _, space), (value, _) in lost.items() if space == "ΔW"]
looked = {k: v for k, v in lost.items() if k[2] != "half"}
holes = {k: v for k, v in looked.items() if v[1][1] < 0}
deep = "; ".join(
    f"{name}, {method}, in {'A and B' if space == 'factors' else 'ΔW'}: {told(v)}"
    for (name, method, space), v in holes.items()
)
ensemble = (
    ": two seeds averaged are a small ensemble in a single model" if sum(deltas) > 0 else ""
)
at_half = [v for (_, _, space), v in lost.items() if space == "half"]
apart = sum(not low <= 0 <= high for _, (low, high) in at_half)
near = [abs(r["middle in A and B"] - r["½ × middle in ΔW"]) for r in rows.values()]
Markdown(f"""
- **In ΔW** the middle lies above the mean of its ends in {sum(v > 0 for v in deltas)} of {len(deltas)} pairs, by
  {100 * sum(deltas) / len(deltas):.1f} points on average{ensemble}.
- **Holes that can be told from luck** (n in brackets; {len(looked)} middles were looked at, so one false alarm would be no
  surprise): {deep or "none"}.
- **The factor middle is where half a ΔW would be**: they differ by {100 * sum(near) / len(near):.1f} points on average
  ({100 * max(near):.1f} at most), and in {apart or "none"} of {len(at_half)} pairs they can be told apart. A task that can live
  on half of its change does not feel the loss; reading digits was learnt from nothing.
""")

# %% [markdown]
# ## LoRA's line and CopRA's
#
# CopRA trains LoRA with layers switched off at random, ever fewer as training goes on ([Zhuang et
# al. 2024](https://arxiv.org/abs/2410.22911)), and its authors report that two seeds of it connect
# where two of LoRA do not. Lesson 4 builds it. Here are both on the line where it matters, on
# digits, on the same images.

# %%
copra = pair("digits", "CopRA")
both = {
    "LoRA, A and B": bent.accuracies,
    "CopRA, A and B": bench.path(*copra, LINE, space="factors").accuracies,
}
plots.curve(LINE, both, "λ", chance=0.1)

# %% tags=["prose"]
lora_less, lora_told = to_ends(bench, one, two, factors)
copra_less, copra_told = to_ends(bench, *copra, average_factors(copra))
gap = copra_less - lora_less
difference = float(gap.mean()), bootstrap_interval(gap.numpy(), bench.sources)
shallower = (
    "CopRA's hole is shallower"
    if difference[1][0] > 0
    else "CopRA's hole is deeper"
    if difference[1][1] < 0
    else "these images cannot tell whose hole is deeper"
)
ends = {
    n: sum(bench.accuracy(a).value for a in p) / 2
    for n, p in (("LoRA", (one, two)), ("CopRA", copra))
}
related = cosine(*copra, PARTS["A"])
together = (
    f"The A's of two CopRA seeds are as unrelated (cosine {related:.2f}), so whatever CopRA may gain, it is not that its seeds meet."
    if related < 0.1
    else f"The A's of two CopRA seeds have a cosine of {related:.2f}."
)
Markdown(f"""
The middle to the mean of the ends: LoRA {told(lora_told)}, CopRA {told(copra_told)}. The difference is
{told(difference)}: {shallower}. Mind the ends: LoRA's are at {100 * ends["LoRA"]:.0f} % on average, CopRA's at
{100 * ends["CopRA"]:.0f} %. {together} And two seeds are two seeds: over five seeds and thirteen tasks CopRA's lead in
the middle of the factors is small but there, and smaller than in the papers (`experiments/README.md`).
""")

# %% [markdown]
# ## From a line to a plane
#
# Three adapters span a plane, $\Delta W_a + x\,(\Delta W_b - \Delta W_a) + y\,(\Delta W_c - \Delta
# W_a)$. Two seeds of LoRA and one of CopRA, on `faces-noise`, which is small enough to measure at
# 63 places. *Guess before you look: three islands, or one hill?*

# %%
faces = bench_of("faces-noise")
a, b = pair("faces-noise", "LoRA")
c = pair("faces-noise", "CopRA")[0]
X, Y = LINE, LINE[1:-1]
corners = {"LoRA 0": (0.0, 0.0), "LoRA 1": (1.0, 0.0), "CopRA 0": (0.0, 1.0)}
plane = faces.landscape(a, b, c, X, Y)
plots.landscape(X, Y, plane, corners)

# %% tags=["prose"]
third = 1 / 3
centre = weighted_sum([a, b, c], [third] * 3)
out = faces.outcomes([a, b, c, centre])
gain = (out[3] - out[:3].mean(0)).numpy()
to_three = gain.mean(), bootstrap_interval(gain, faces.sources)
shape = (
    "One hill, no valley between the three"
    if gain.mean() > -0.02
    else "There is a dip between the three"
)
cells = [cell.value for row in plane for cell in row]
highest, lowest = max(cells), min(cells)
low, high = faces.accuracy(centre).interval
Markdown(f"""
{shape}. The mean of all three scores {faces.accuracy(centre)}, {told(to_three)} to the mean of their scores. With
{len(faces)} images a cell is uncertain by {50 * (high - low):.0f} points either way, so do not pick the highest
({100 * highest:.0f} %) and be proud: it was chosen among {len(X) * len(Y)} on test images. Look at the shape; the lowest,
{100 * lowest:.0f} %, lies outside of the triangle.
""")

# %% [markdown]
# ## Put your hand in
#
# Move λ. Below are images that the line in ΔW gets right and the line in A and B gets wrong at that
# place, with what each says. *Guess before you move it: between 0 and 0.5, where does the factor
# line begin to sink?*

# %%
digits = bench.task.classes
images = bench.split.images[bench.order]


def stand(lam):
    points = {
        "line in ΔW": interpolate(one, two, lam),
        "line in A and B": interpolate_factors(one, two, lam),
    }
    said = {name: bench.predictions(point) for name, point in points.items()}
    here = {name: bench.score(p) for name, p in said.items()}
    in_delta, in_factors = said.values()
    lost = (in_delta == bench.labels) & (in_factors != bench.labels)
    differ = lost.nonzero().flatten()[:6].tolist()
    captions = [f"ΔW: {digits[in_delta[i]]}\nA and B: {digits[in_factors[i]]}" for i in differ]
    curves = {name: path.accuracies for name, path in lines.items()}
    return plots.walk(LINE, curves, lam, here, "λ", images[differ], captions)


place = w.FloatSlider(
    0.5, min=-0.5, max=1.5, step=0.1, description="λ", continuous_update=False
)
live(stand, lam=place)

# %% [markdown]
# ## On your own
#
# - Average an adapter with a copy in which the four ranks are merely *shuffled* (P a permutation).
#   Is the middle still a multiple of ΔW? Which of the formula's steps no longer holds?
# - Mend it: find the rotation P that brings $B_2 P$ closest to $B_1$ (orthogonal Procrustes: the
#   SVD of $B_2^\top B_1$), apply it and its inverse, and average the factors then. How much of the
#   hole is gone? CopRA's authors compare with such an alignment.
# - Interpolate the *probabilities* of the two models instead of their weights. Is the middle in ΔW
#   as good as a true ensemble, which costs twice as much?
# - Walk from the LoRA of seed 0 to the CopRA of seed 0. They began at the same A: are their factors
#   still related?
#
# ## In practice
#
# - Average ΔW, by stacking. It is exact, and `truncate` takes it back to a small rank.
# - If only factors can be averaged (federated learning sends A and B), expect a change of half the
#   size from two unrelated clients, of a quarter from four. Sharing one frozen A avoids it
#   (`LoRA(train_a=False)`).
# - "Linear interpolation of LoRAs" in a paper may mean either line. Ask which.
# - Report the barrier with the number of places and images it was taken from, and compare middles
#   on the same images.
#

# %% tags=["prose"]
broken = [v for (_, _, space), v in lost.items() if space == "ΔW" and v[1][1] < 0]
never = "no line in ΔW breaks" if not broken else f"{len(broken)} lines in ΔW break"
deep = [name for (name, method, space) in holes if method == "LoRA" and space == "factors"]
Markdown(f"""
**Where this small model differs from the papers'.** CopRA's authors merge CLIPs with ViT-B/16 and find LoRA's middle
about five points below its ends and CopRA's less than one. Here {never}, and in A and B
LoRA's hole can be told from luck on {", ".join(deep) or "no task"}, of six: a small CLIP that needs little change has
little to lose. What carries over is the algebra, which holds for any model. Two seeds a method and a few hundred
images a task are a demonstration; `experiments/lines.py` measures more of both.
""")

# %% [markdown]
# ## Further reading
#
# - Frankle et al., *Linear Mode Connectivity and the Lottery Ticket Hypothesis*,
#   [arXiv:1912.05671](https://arxiv.org/abs/1912.05671).
# - Entezari et al., *The Role of Permutation Invariance in Linear Mode Connectivity of Neural
#   Networks*, [arXiv:2110.06296](https://arxiv.org/abs/2110.06296). The same model in many places,
#   for whole networks.
# - Zhuang et al., *CopRA: A Progressive LoRA Training Strategy*,
#   [arXiv:2410.22911](https://arxiv.org/abs/2410.22911).
# - Sun et al., *Improving LoRA in Privacy-preserving Federated Learning* (FFA-LoRA),
#   [arXiv:2403.12313](https://arxiv.org/abs/2403.12313). The cross terms, and one way to be rid of
#   them.
# - Wortsman et al., *Model soups*, [arXiv:2203.05482](https://arxiv.org/abs/2203.05482). Averaging
#   many fine-tuned models, among them CLIPs.
