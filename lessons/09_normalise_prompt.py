# ---
# jupyter:
#   copra_lab:
#     question: Should a long vector cost something?
#     assets: [clip]
# ---

# %% [markdown]
# # 9. Normalise a prompt
#
# In lesson 8 a learned prompt sometimes got better when one of its vectors was made shorter. If so,
# why not let training find the lengths, by making length cost something? That is Nemesis. It has
# two forms: one makes all vectors pay, the other only those whose shortening helps.
#
# - **You will learn** what a penalty on a norm does that weight decay does not, how PUN and PAN are
#   computed, how they change the lengths and the accuracy of a prompt while it is trained, and how
#   to ask whether it was the length.
# - **You need** lesson 8: CoOp, RESCALE, a paired comparison.
# - **It takes** half an hour of yours, and {{time}} of two CPU cores.

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
from copra_lab.engine import Encoder
from copra_lab.exercises import normalise_prompt as check
from copra_lab.prompts import omega, pan, pun, rescale
from copra_lab.utils.statistics import bootstrap_interval, paired_bootstrap

# %% [markdown]
# **What you will have at the end**: the same prompt trained three times, without a penalty, with
# PUN and with PAN, and the mean length of its vectors after each step. First the training, which
# takes seconds; every step is kept, so that you can go back to it.

# %%
clip = cl.load_clip()
task = cl.load_task("digits")
bench = cl.Bench(clip, task)

WORDS = cl.CoOp(words="a drawing of a")
PENALTIES = {  # settings that do well on three tasks, this one among them: `experiments/README.md`
    "CoOp": None,
    "PUN": cl.Nemesis(beta=1.0, weight=0.3),
    "PAN": cl.Nemesis(beta=0.0, weight=2.0),
}


def learned(task, penalty, seed=0, **more):
    """The prompt and what was recorded after each step."""
    steps = []
    settings = {"lr": 0.01, "steps": 200, "views": 2, "progress": False, **more}
    prompt = cl.fit(
        clip, task, WORDS, penalty=penalty, seed=seed, on_step=steps.append, **settings
    )
    return prompt, steps


trained = {name: learned(task, penalty) for name, penalty in PENALTIES.items()}
means = {
    name: [sum(s.norms) / len(s.norms) for s in steps] for name, (_, steps) in trained.items()
}
plots.lines(range(1, 201), {"mean length of the vectors": means}, "step", marks=False)

# %% [markdown]
# ## PUN: every vector pays
#
# *Position-uniform normalisation* ([Fu et al. 2024](https://arxiv.org/abs/2408.13979)) adds the
# mean norm of the M vectors to the loss, A times:
#
# $$\mathcal{L}_{\text{PUN}} = \frac{A}{M} \sum_{i=1}^{M} \lVert v_i \rVert_p$$
#
# It looks like weight decay, and is not. Weight decay is the square, $\lambda \lVert v \rVert_2^2 /
# 2$: it pulls in proportion to length, hard at long vectors and hardly at short ones. The gradient
# of a norm has the same size whatever the length.
#
# *Guess before you look: which of the two can bring a vector to exactly zero?*

# %%
lengths = [0.1, 0.5, 1.0, 2.0, 4.0]
direction = F.normalize(torch.randn(128, generator=torch.Generator().manual_seed(0)), dim=0)


def pull(loss, length):
    """How strongly the gradient of `loss` pulls at a vector of this length."""
    v = (length * direction).requires_grad_()
    return torch.autograd.grad(loss(v), v)[0].norm().item()


pulls = {
    "norm (PUN with A = 1, M = 1)": [pull(lambda v: pun(v[None]), x) for x in lengths],
    "half the square (weight decay 1)": [
        pull(lambda v: v.square().sum() / 2, x) for x in lengths
    ],
}
plots.lines(lengths, {"size of the gradient": pulls}, "length of the vector")

# %% [markdown]
# ## Exercise: the penalty
#
# Difficulty ●●○○○ · importance ●●●●○ · 8 minutes
#
# Write PUN for a context that all classes share, (M, d), and for one where each class has its own
# vectors, (classes, M, d): there the norm at a position is the mean over classes. `p` is 1, 2 or
# infinity. (The paper's code *sums* over classes; then a task with more classes would be punished
# more.)
#
# <details><summary>A hint</summary>
#
# `torch.linalg.vector_norm(context, ord=p, dim=-1)` gives a norm for each vector, of either shape;
# the mean of all of them is the mean over positions of the means over classes.
#
# </details>


# %% tags=["exercise"]
def pun_loss(context, weight, p):
    """context (M, d) or (classes, M, d) → a scalar."""
    # BLANK: a norm for each vector; their mean; times the weight
    return weight * torch.linalg.vector_norm(context, ord=p, dim=-1).mean()
    # END


# %% tags=["check"]
check.pun_loss(pun_loss)

# %% [markdown]
# ## ω: strong at first, gone at the end
#
# The penalty is weighted by the epoch $E$ of $E_{\max}$, so that training ends on the cross-entropy
# alone:
#
# $$\omega(E) = 1 - \frac{1}{1 + \exp(-0.2\,(E - E_{\max}/2))}$$
#
# *Guess before you look: the slope 0.2 is fixed. What does that mean for a short training?*
#
# ## Exercise: the ramp
#
# Difficulty ●○○○○ · importance ●●○○○ · 5 minutes
#
# <details><summary>A hint</summary>
#
# Check the ends: for a long training the value should be near 1 at epoch 0, exactly ½ in the
# middle, near 0 at the end.
#
# </details>


# %% tags=["exercise"]
def ramp(epochs, total):
    """epochs (n,) of `total` → ω of each, (n,)."""
    # BLANK: the equation, with torch.exp
    return 1 - 1 / (1 + torch.exp(-0.2 * (epochs - total / 2)))
    # END


# %% tags=["check"]
check.ramp(ramp)

# %%
share = [i / 20 for i in range(21)]
ramps = {f"{total} epochs": [omega(s * total, total) for s in share] for total in (10, 50, 200)}
plots.lines(share, {"ω": ramps}, "share of the training", marks=False)

# %% tags=["prose"]
epochs = 200 * 32 / len(task.train)
Markdown(f"""
In a training of ten epochs ω goes from {omega(0, 10):.2f} to {omega(10, 10):.2f} only, in one of two hundred it is a switch in the middle. The training
above has {epochs:.0f} epochs ({len(task.train)} images, 200 steps of 32), so its penalty fades from {omega(0, epochs):.2f} to {omega(epochs, epochs):.2f}.
""")

# %% [markdown]
# ## PAN: only who is too long pays
#
# *Position-aware normalisation* asks before it punishes. In each step it samples N positions and,
# without gradients, classifies the batch once more for each, that one vector multiplied by τ. Where
# more images are then right, the vector is too long and must pay:
#
# $$\mathcal{L}_{\text{PAN}} = \frac{\sum_i \alpha_i \lVert v_i \rVert}{\#\{i : \alpha_i \neq 0\}}
# \qquad \alpha_i = \begin{cases} A & \text{if shortening } v_i \text{ gets more of the batch right}
# \\ 0 & \text{otherwise} \end{cases}$$
#
# ## Exercise: who pays
#
# Difficulty ●●●○○ · importance ●●●●○ · 10 minutes
#
# `norms` (N,) are the lengths of the sampled vectors, `now` the number of images right as things
# are, `shortened` (N,) the numbers with each of them shortened. Give the α and the loss. An equal
# number is no improvement. Where nobody pays, the loss is 0.
#
# <details><summary>A hint</summary>
#
# The count of non-zero α can be zero, and 0/0 is not a number: `.clamp(min=1)`.
#
# </details>


# %% tags=["exercise"]
def pan_loss(norms, now, shortened, weight):
    """norms (N,), now (), shortened (N,) → α (N,), loss ()."""
    # BLANK: α where it helps; the weighted sum; divided by how many pay
    alpha = weight * (shortened > now).float()
    paying = alpha.count_nonzero().clamp(min=1)
    return alpha, (alpha * norms).sum() / paying
    # END


# %% tags=["check"]
check.pan_loss(pan_loss)

# %% [markdown]
# ## Train with it by hand
#
# The loop of lesson 8, with the full batch, and two lines more.

# %%
features = clip.image_features(task.train.images).clone()
labels = task.train.labels
classes = Encoder(clip, task.classes, length=4, position="end")
embedding = clip.model.token_embedding.weight.detach()


def right(contexts):
    """contexts (m, 4, d) → how many training images each gets right, (m,)."""
    with torch.no_grad():
        return ((features @ classes(contexts).transpose(1, 2)).argmax(-1) == labels).sum(-1)


context = embedding[clip.tokenizer.encode("a drawing of a")].clone().requires_grad_()
optimiser = torch.optim.SGD([context], lr=0.01, momentum=0.9)
g = torch.Generator().manual_seed(0)
paid = torch.zeros(4)
for step in range(100):
    logits = clip.logit_scale * features @ classes(context[None])[0].T
    loss = F.cross_entropy(logits, labels)

    i = torch.randint(4, (1,), generator=g)  # N = 1
    shorter = context.detach().clone()
    shorter[i] *= 0.5  # τ
    alpha = 2.0 * (right(shorter[None]) > right(context.detach()[None])).float()
    loss = loss + omega(step, 100) * pan(context, i, alpha)  # one epoch is one step here

    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    paid[i] += alpha > 0

print("steps in which each vector paid:", paid.int().tolist(), "of", 100)
print("accuracy:", bench.accuracy(prompt=cl.SoftPrompt(context.detach(), classes=task.classes)))

# %% [markdown]
# ## What it does to accuracy
#
# Three prompts for each of three lengths of training, on the test images. The rate falls to 0 in
# each of them, so a short one is no piece of a long one.
#
# *Guess before you look: which learns faster, which ends higher?*

# %%
STEPS = (50, 100, 200)

kept = {}
for name, penalty in PENALTIES.items():
    at = []
    for steps in STEPS[:-1]:
        at.append(learned(task, penalty, steps=steps)[0])
    kept[name] = [*at, trained[name][0]]
plots.curve(
    STEPS,
    {name: [bench.accuracy(prompt=p) for p in line] for name, line in kept.items()},
    "steps of a whole training",
    chance=1 / len(task.classes),
)

# %% [markdown]
# One task and one seed say little. Three small tasks, two seeds each; a seed chooses the training
# images too. Each row is *paired* with CoOp of the same seed on the same test images.

# %%
TASKS = ("people-occluded", "symbols-waves", "travel-solarised")

before, after, sources, lengths = (
    {"PUN": [], "PAN": []},
    {"PUN": [], "PAN": []},
    [],
    {n: [] for n in PENALTIES},
)
for name in TASKS:
    test = cl.Bench(clip, cl.load_task(name))
    for seed in range(2):
        some = cl.load_task(name, seed=seed)
        prompts = [learned(some, penalty, seed, steps=100)[0] for penalty in PENALTIES.values()]
        for label, prompt in zip(PENALTIES, prompts, strict=True):
            lengths[label].append(prompt.norms().mean().item())
        coop, *others = test.hits(prompts).double()
        for label, hits in zip(("PUN", "PAN"), others, strict=True):
            before[label].append(coop)
            after[label].append(hits)
        sources += test.sources

gains = {}
for label in ("PUN", "PAN"):
    gain = (torch.cat(after[label]) - torch.cat(before[label])).numpy()
    gains[label] = (float(gain.mean()), bootstrap_interval(gain, sources))
plots.differences({f"{len(TASKS)} tasks, two seeds": gains}, "points more than CoOp")

# %% tags=["prose"]
mean = {n: sum(v) / len(v) for n, v in lengths.items()}


def points(x):
    return f"{100 * x:+.1f}".replace("-", "−")


sentences = [
    f"{label} changes accuracy by {points(v)} points ({points(low)} to {points(high)}) and "
    f"the vectors are {mean[label]:.2f} long instead of {mean['CoOp']:.2f}."
    for label, (v, (low, high)) in gains.items()
]
Markdown(f"""
Over {len(TASKS)} tasks and two seeds, {len(sources) // 2} test images: {" ".join(sentences)} The bootstrap draws whole drawings, so that the
two seeds of one drawing never count as two. What all thirteen tasks say, with settings chosen on others, stands in
`experiments/README.md`.
""")

# %% [markdown]
# ## Was it the length?
#
# A penalty changes the whole training, not only where it ends. To ask whether *length* is what
# matters, take CoOp's finished vectors and give them the lengths that PUN found, and the other way
# round. Directions of the one, lengths of the other.
#
# *Guess before you look: which will matter more?*

# %%
coop, short = trained["CoOp"][0], trained["PUN"][0]
ratio = short.norms() / coop.norms()
swapped = {
    "CoOp": coop,
    "CoOp's directions, PUN's lengths": rescale(coop, range(4), ratio.tolist()),
    "PUN's directions, CoOp's lengths": rescale(short, range(4), (1 / ratio).tolist()),
    "PUN": short,
    "CoOp at five times the rate": learned(task, None, lr=0.05)[0],
}
hits = bench.hits(list(swapped.values())).numpy().astype(float)
delta, p = paired_bootstrap(hits[1:], hits[0], bench.sources)
plots.accuracies({name: bench.accuracy(prompt=q) for name, q in swapped.items()}, chance=0.1)

# %%
begun = embedding[clip.tokenizer.encode("a drawing of a")]
for name in ("CoOp", "PUN", "CoOp at five times the rate"):
    turned = F.cosine_similarity(swapped[name].context, begun).acos().rad2deg()
    print(f"{name:30} turned by {turned.mean():.0f}° on average")

# %% tags=["prose"]
names = list(swapped)[1:]
told = "; ".join(
    f"{n}, {points(d)} points (p = {q:.2f})" for n, d, q in zip(names, delta, p, strict=True)
)
lengths_do, directions_do = (
    abs(d) > abs(delta[2]) / 2 and q < 0.05 for d, q in zip(delta[:2], p[:2], strict=True)
)
reading = {
    "neither": "Neither alone carries a difference that is beyond chance.",
    "lengths": "The lengths carry the difference, the directions do not.",
    "directions": "The *directions* carry the difference; that of lengths cannot be told from nothing.",
    "both": "Lengths and directions both carry some of it.",
}[
    "both"
    if lengths_do and directions_do
    else "lengths"
    if lengths_do
    else "directions"
    if directions_do
    else "neither"
]
Markdown(f"""
Compared with CoOp: {told}. {reading} (One task, one training each: an anecdote, and a question worth your own seeds.)

How can a penalty on lengths change directions? The first thing a block does with a vector is to normalise it, so much of its length is lost
on the way. But a step of the optimiser of a given size *turns* a short vector further than a long one: kept short, a
vector stays easy to turn. A penalty on the norm is then also a way to keep the learning rate up, and the last row asks whether a higher
rate does the same.
""")

# %% [markdown]
# ## Put your hand in
#
# The prompts trained for 50 to 200 steps, and a factor for all their lengths at once: 1 is as
# trained. Find for each method where accuracy is highest. Has the penalty moved the best factor?


# %%
def stretch(method, steps, factor):
    prompt = kept[method][STEPS.index(steps)]
    rows = {
        "as trained": bench.accuracy(prompt=prompt),
        f"all × {factor:.2f}": bench.accuracy(prompt=rescale(prompt, range(4), factor)),
    }
    return plots.accuracies(rows, chance=0.1)


live(
    stretch,
    method=w.Dropdown(options=list(kept), description="method"),
    steps=w.SelectionSlider(options=STEPS, value=200, description="steps"),
    factor=w.FloatSlider(0.7, min=0, max=2, step=0.05, description="factor"),
)

# %% [markdown]
# ## On your own
#
# - A is the one number that must be chosen. Try 0.05, 0.5, 5 and 50 on the *validation* images
#   (`cl.Bench(clip, task, "val")`), and see what becomes of the lengths.
# - Take the L1 norm (`cl.Nemesis(norm=1)`). Which entries of a vector does it empty?
# - Tokens of the image tower can be learned and punished too:
#   `cl.fit(clip, task, cl.VPT(), penalty=cl.Nemesis())`.
#
# ## In practice
#
# - Give a baseline the same tuning: rates, steps and beginnings move a prompt more than a penalty
#   does.
# - Record the norms while you train (`on_step`): they tell early when a rate is too high.
# - PUN costs nothing. PAN costs passes of the text tower, N a step; images cost nothing, since
#   their features are kept.
#
# **Where this small model differs from the paper's.** The paper trains sixteen vectors on CLIP's
# ResNet-50 over eleven data sets and finds half a point to two points more than CoOp. Here the text
# tower is small, tasks have tens of training images and around a hundred test images, and four
# vectors that begin as words leave less to repair.
#
# ## Further reading
#
# - Fu et al., *Nemesis: Normalizing the Soft-prompt Vectors of Vision-Language Models*, ICLR 2024,
#   [arXiv:2408.13979](https://arxiv.org/abs/2408.13979).
# - Loshchilov and Hutter, *Decoupled Weight Decay Regularization*,
#   [arXiv:1711.05101](https://arxiv.org/abs/1711.05101). What weight decay is and is not.
# - Jia et al., *Visual Prompt Tuning*, [arXiv:2203.12119](https://arxiv.org/abs/2203.12119).
