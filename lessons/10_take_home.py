# ---
# jupyter:
#   copra_lab:
#     question: Does it work on my images, with my CLIP, in my training?
#     assets: [clip, adapters]
# ---

# %% [markdown]
# # 10. Take it home
#
# Nine lessons on a small CLIP and its drawings. Now your own: your images, your CLIP, your training
# loop, your tools. Nothing here is a new idea. It is the way from a folder of pictures to an
# adapter that others can load, a step at a time.
#
# - **You will learn** how a folder becomes a task, which CLIPs can be loaded and how, what to check
#   after a short training, how an adapter goes to peft and back, how CopRA runs in transformers'
#   `Trainer`, and how to publish.
# - **You need** to know what LoRA and CopRA are (lessons 2 and 4), and what it means to average two
#   adapters (lesson 3).
# - **It takes** half an hour of yours, and {{time}} of two CPU cores. Nothing is downloaded and
#   nothing is uploaded.

# %% tags=["setup"]
try:
    import copra_lab as cl
    from copra_lab.plots.widgets import live
except ImportError:  # the package, or what its lessons need beside it
    # %pip install --quiet "copra-lab[lessons]==0.1.0"
    import copra_lab as cl
    from copra_lab.plots.widgets import live

from collections import Counter
from dataclasses import replace
from pathlib import Path

import ipywidgets as w
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import CLIPModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from copra_lab import plots
from copra_lab.adapters import NONE, model_card
from copra_lab.exercises import take_home as check
from copra_lab.merging import average_factors, interpolate
from copra_lab.pruning import keep
from copra_lab.sweeps import read_grid
from copra_lab.tasks import image_folder
from copra_lab.utils.statistics import bootstrap_interval

# %% [markdown]
# ## Three lines to change
#
# As it stands, the lesson runs on drawings that the package can render, and on the bundled CLIP,
# both without a network. **Put your folder, your CLIP and your words here** and run it again: every
# cell below follows.

# %%
# Your images: a folder that holds one folder of images a class, named like the class.
FOLDER = Path("take_home/out_of_focus")
# Nothing is the bundled CLIP; or "ViT-B-32:laion2b_s34b_b79k", "hf-hub:owner/name", a folder.
MODEL = None
# How a caption would say it; {} is the class.
TEMPLATE = "a drawing of a {}"

# %% [markdown]
# Pictures to begin with: drawings from a camera that never found its focus, of the fourteen kinds
# of things that have most. By one artist only ([OpenMoji](https://openmoji.org), CC BY-SA 4.0), and
# one file a drawing.

# %%
drawn = cl.load_task("things-blur", shots=99)
pictures = []
for part in (drawn.train, drawn.val, drawn.test):
    for image, label, source in zip(part.images, part.labels, part.sources, strict=True):
        artist, name = source.split(":")
        if artist == "openmoji":
            pictures.append((drawn.classes[label], name, image.numpy()))

kinds = [kind for kind, _ in Counter(kind for kind, *_ in pictures).most_common(14)]
for kind, name, image in pictures:
    if kind in kinds:
        file = Path("take_home/out_of_focus", kind.replace(" ", "_"), f"{name}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)

# %% [markdown]
# **What you will have at the end**: this. Two seeds of LoRA and two of CopRA, trained on at most
# sixteen images a class of that folder, and their averages, measured on images that none of them
# saw. One cell does it all; the rest of the lesson takes it apart and carries it further.

# %%
clip = cl.load_clip(MODEL)
task = image_folder(FOLDER, side=clip.side, template=TEMPLATE, shots=16)
bench = cl.Bench(clip, task)

SHORT = {"steps": 120, "batch": 8, "lr": 4e-3}  # a ViT-B-32: lr 2e-4
METHODS = {"LoRA": (), "CopRA": (cl.CopRA(),)}
jobs = [
    cl.Job.of(task, cl.LoRA(rank=4), *dropping, seed=seed, **SHORT)
    for dropping in METHODS.values()
    for seed in (0, 1)
]
trained = iter(cl.fit_many(clip, jobs, progress=False))  # all four side by side
own = {name: [next(trained), next(trained)] for name in METHODS}

adapters = {"the CLIP alone": NONE}
for name, (a, b) in own.items():
    adapters |= {
        f"{name}, seed 0": a,
        f"{name}, seed 1": b,
        f"{name}, both averaged": interpolate(a, b, 0.5),
    }
scores = dict(zip(adapters, bench.accuracies(list(adapters.values())), strict=True))
plots.accuracies(scores, chance=1 / len(task.classes))

# %% [markdown]
# ## Your images
#
# A folder is a task when it holds a folder of images for each class. The folders' names are the
# classes' names, and go into the template; an underscore becomes a space. Images may have any size:
# their middle square is what the CLIP sees.
#
# Which files train, validate and test is decided by hashing their content: the same on every
# machine, and whatever you do with seeds or shots, the test images stay the same.

# %%
for part in ("train", "val", "test"):
    each = Counter(getattr(task, part).labels.tolist()).values()
    print(f"{part:6} {sum(each):5} images, {min(each)} to {max(each)} of a class")

labels = task.test.labels.tolist()
firsts = [labels.index(c) for c in range(len(task.classes))][:14]  # of each class the first
plots.grid(task.test.images[firsts], [task.classes[labels[i]] for i in firsts], columns=7)

# %% [markdown]
# ## Exercise: deal a folder
#
# Difficulty ●●○○○ · importance ●●●●● · 10 minutes
#
# Real folders hold copies: a picture saved twice, a burst of the same second. A copy on either side
# of the split is an exam that was handed out before. `content` says which picture a file holds:
# equal numbers, equal pictures. Deal each class by itself: order its *different* pictures by their
# random number `u[content]`, smallest first, and let the first ones test, with all their files. How
# many: `share` of the class's different pictures, rounded, but one at least.
#
# <details><summary>A hint</summary>
#
# `content[mine].unique()` are the class's different pictures. `torch.isin(content, chosen)` finds
# all files of the chosen.
#
# </details>


# %% tags=["exercise"]
def deal(labels, content, u, share):
    """labels, content (n,), u a number for each picture → 1 where a file tests, else 0: (n,)."""
    test = torch.zeros(len(labels))
    for label in labels.unique():
        mine = labels == label
        # BLANK: order the class's different pictures by u; the first ones test, with their files
        own = content[mine].unique()
        first = own[u[own].argsort()][: max(1, round(share * len(own)))]
        test[mine & torch.isin(content, first)] = 1
        # END
    return test


# %% tags=["check"]
check.deal(deal)

# %% [markdown]
# The library keeps files together that are equal to the byte. It cannot know that two are of the
# same burst, the same patient, the same street. You can: leave one of each, or give it a Hugging
# Face `DatasetDict` with a split of your own.
#
# ## Your CLIP
#
# `cl.load_clip` takes any CLIP or SigLIP whose image tower is a ViT. The line at the top becomes
# one of these:
#
# | `MODEL = …` | what it is |
# |---|---|
# | `None` | the bundled one |
# | `"ViT-B-32:laion2b_s34b_b79k"` | open_clip's architecture and tag, downloaded once |
# | `"ViT-B-32:path/to/epoch_32.pt"` | the same architecture with a checkpoint of yours |
# | `"openai:path/to/ViT-B-32.safetensors"` | weights that OpenAI's code saved |
# | `"hf-hub:openai/clip-vit-base-patch32"` | a repository on the hub |
# | `"path/to/folder"` | a folder as transformers or open_clip save it |
#
# Files are read as tensors and never unpickled. Whichever it is, the adapter remembers the hash of
# the weights that it was made for, and other weights refuse it.

# %%
print(
    f"{clip.name}: {clip.layers} layers, {clip.side} × {clip.side} pixels, weights {clip.hash}"
)
print(f"it reads: {task.prompts[0]!r}, {task.prompts[1]!r}, …")

# %% [markdown]
# Before you train, ask what it knows. Words cost nothing; choose them on *validation* images.
#
# *Guess before you look: how much does the wording matter here?*

# %%
templates = [TEMPLATE, "a blurred drawing of a {}", "a photo of a {}", "{}"]
asked = {
    f"“{t}”": cl.Bench(clip, replace(task, template=t), "val").accuracy()
    for t in dict.fromkeys(templates)
}
plots.accuracies(asked, chance=1 / len(task.classes))

# %% tags=["prose"]
low, high = scores["the CLIP alone"].interval
best = max(asked, key=lambda t: float(asked[t]))
undecided = all(a.interval[1] >= asked[best].interval[0] for a in asked.values())
guess = 1 / len(task.classes)
Markdown(
    f"""
The best wording on these {asked[best].n} images is {best}{", but all intervals overlap: so few images cannot choose" if undecided else ""}.
Zero-shot on the test images, with your template: {scores["the CLIP alone"]}. Guessing would be right in {100 * guess:.0f} %. """
    + (
        "So this CLIP does not read these pictures at all: whatever comes now is learned from your folder."
        if low <= 1.5 * guess
        else "So there is something to build on: the bundled CLIP, say, saw these drawings in pretraining, but only sharp ones."
    )
)

# %% [markdown]
# ## What did it learn?
#
# A number hides what happened. Here are the first eight test images, in a shuffled order, whose
# answer the average of two LoRAs changes. Under each: what it is, and the answer before and after.

# %%
base, after = (bench.predictions(a).tolist() for a in (NONE, adapters["LoRA, both averaged"]))
rows = [i for i in range(len(bench)) if base[i] != after[i]] or list(range(len(bench)))
rows = rows[:8]  # where no answer changed, the first images
truth = bench.labels.tolist()
names = task.classes
plots.grid(
    task.test.images[bench.order[rows]],
    [f"{names[truth[i]]}\n{names[base[i]]} → {names[after[i]]}" for i in rows],
    columns=4,
)

# %% [markdown]
# ## Two seeds, and what to do with both
#
# A seed chooses the first A, the order of the images and, for CopRA, the layers that are off. Train
# two, always: their difference is the noise that any claim of yours must beat. Then average them
# (lesson 3): in ΔW, exactly, or factor by factor, as a plain average of parameters would. And see
# what is left with every other layer removed (lessons 4 and 6).
#
# *Guess before you look: which averages help, which hurt, and does it matter how the two were
# trained?*

# %%
SEED, DW, AB, HALF = (
    "a single seed, mean of two",
    "both averaged, in ΔW",
    "both averaged, in A and B",
    "every other layer removed",
)


def tried(a, b):
    """Which images are right, (n,), for each of the four."""
    middle = [interpolate(a, b, 0.5), average_factors([a, b])]
    hits = bench.outcomes([a, b, *middle, keep(a, "even"), keep(b, "even")]).double().numpy()
    return {SEED: hits[:2].mean(0), DW: hits[2], AB: hits[3], HALF: hits[4:].mean(0)}


def estimate(gap):
    """A mean over images with its 95 % interval."""
    return float(gap.mean()), bootstrap_interval(gap, bench.sources)


lora, copra = (tried(*pair) for pair in own.values())
plots.differences(
    {
        "LoRA less its seeds": {
            row: estimate(h - lora[SEED]) for row, h in lora.items() if row != SEED
        },
        "CopRA less its seeds": {
            row: estimate(h - copra[SEED]) for row, h in copra.items() if row != SEED
        },
        "CopRA less LoRA": {row: estimate(h - lora[row]) for row, h in copra.items()},
    },
    f"points, on the same {len(bench)} test images",
)


# %% tags=["prose"]
def points(gap):
    value, (low, high) = estimate(gap)
    told = f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})".replace(
        "-", "−"
    )
    return told + (", which may be chance" if low <= 0 <= high else "")


promised = [estimate(copra[row] - lora[row])[1] for row in (AB, HALF)]
ahead, behind = sum(low > 0 for low, _ in promised), sum(high < 0 for _, high in promised)
reading = (
    "Both show, even in so short a run."
    if ahead == 2
    else "One of the two shows, the other does not."
    if ahead
    else "**Here it is the other way round**, at least in one of them."
    if behind
    else f"**Neither shows here.** So short a run, and {len(bench)} test images, cannot say more."
)
Markdown(f"""
- **Alone** CopRA less LoRA is {points(copra[SEED] - lora[SEED])}.
- **Averaged in ΔW**, two LoRAs change by {points(lora[DW] - lora[SEED])}, two CopRAs by {points(copra[DW] - copra[SEED])}.
- **CopRA's promise** is to take harder treatment better. CopRA less LoRA with A and B averaged: {points(copra[AB] - lora[AB])}; without every
  other layer: {points(copra[HALF] - lora[HALF])}. {reading}
- **How short it is**: {SHORT["steps"]} steps of {SHORT["batch"]} images, of which CopRA's layers learn in five of eight; the adapters that come with the package had
  1,200. These pictures were chosen because they are learned fast: on handwriting the same few
  steps leave CopRA far behind LoRA. The intervals are of images: two seeds say little about seeds. Tables with more seeds and tasks are in `experiments/README.md`.
""")

# %% [markdown]
# ### Walk between your two
#
# λ from one seed to the other and a little beyond. In which space, and for which method, is the way
# flat?


# %%
def between(space, weight):
    rows = {}
    for method, (a, b) in own.items():
        if space == "ΔW":
            middle = interpolate(a, b, weight)
        else:
            middle = average_factors([a, b], [1 - weight, weight])
        rows |= {f"{method}, seed 0": a, f"{method}, λ = {weight:.2f}": middle}
        rows |= {f"{method}, seed 1": b}
    told = dict(zip(rows, bench.accuracies(list(rows.values())), strict=True))
    return plots.accuracies(told, chance=1 / len(task.classes))


live(
    between,
    space=w.ToggleButtons(options=["A and B", "ΔW"], description="averaged in"),
    weight=w.FloatSlider(
        0.5, min=-0.5, max=1.5, step=0.05, description="λ", continuous_update=False
    ),
)

# %% [markdown]
# ## To peft, and back
#
# An adapter saves as a folder that [peft](https://huggingface.co/docs/peft) loads:
# `adapter_config.json`, `adapter_model.safetensors`. peft knows matrices by their names in
# transformers' `CLIPModel`, so the same CLIP is needed there: `cl.save_hugging_face` writes it
# under those names, and changes no number.
#
# Do both sides say the same? Hold all logits against each other, for every test image and every
# class.

# %%
both = interpolate(*own["CopRA"], 0.5)
cl.save_adapter(both, "take_home/copra-both")
cl.save_hugging_face(clip, "take_home/clip-hf")

theirs = CLIPModel.from_pretrained("take_home/clip-hf")
theirs = PeftModel.from_pretrained(theirs, "take_home/copra-both").eval()

pixels, texts = clip.pixels(task.test.images[bench.order]), clip.tokenizer(task.prompts)
with torch.inference_mode():
    logits = theirs(input_ids=texts, pixel_values=pixels).logits_per_image
    with theirs.disable_adapter():
        before = theirs(input_ids=texts, pixel_values=pixels).logits_per_image

ours = bench.logits(both)
print(f"logits compared       {logits.numel():,}")
print(
    f"greatest difference   {(logits - ours).abs().max():.1e}, of logits up to {logits.abs().max():.0f}"
)
print(f"what the adapter does {(logits - before).abs().max():.1f} at most")
print(
    f"same answers          {int((logits.argmax(1) == ours.argmax(1)).sum())} of {len(logits)}"
)

# %% [markdown]
# With your CLIP from the hub there is no need to save a twin:
# `CLIPModel.from_pretrained("openai/clip-vit-base-patch32")` is it. The way back is
# `cl.load_adapter("folder", clip)`, which takes what peft wrote. On the command line the two are
# `copra-lab export` and `copra-lab import`.
#
# ## Exercise: many adapters in one folder
#
# Difficulty ●●○○○ · importance ●●●●○ · 8 minutes
#
# You just saved an *average* as one LoRA. How? A sum of products is a product of larger matrices:
# rows of A below each other, columns of B side by side. In peft's file there is one scale for all,
# so each adapter's own scale and its weight go into its **B**.
#
# <details><summary>A hint</summary>
#
# `torch.cat` takes a list; along which of its two dimensions does A grow, and along which B?
#
# </details>


# %% tags=["exercise"]
def stacked(A, B, scales, weights):
    """A (n, r, in), B (n, out, r), scales (n,), weights (n,) → A (n·r, in) and B (out, n·r) of
    one adapter whose B·A is the weighted sum of all s·B·A."""
    # BLANK: A's rows below each other; B's columns side by side, each with its weight and scale
    rows = torch.cat(list(A))
    columns = torch.cat([w * s * b for w, s, b in zip(weights, scales, B, strict=True)], dim=1)
    return rows, columns
    # END


# %% tags=["check"]
check.stacked(stacked)

# %% [markdown]
# ## CopRA in your own training
#
# Nobody has to train with `cl.fit`. Whatever peft has adapted, text or images, can be trained with
# layers dropped by transformers' `Trainer`: give it a `CopRACallback`. Below is a whole training of
# that kind: peft puts LoRA on the image tower, the `Trainer` trains, and the loss is CLIP's own,
# over the captions of your classes. CopRA is one line: the callback.
#
# `Watch` is there for the picture: it writes down which layers each step had on.

# %%
torch.manual_seed(0)  # of the first A, which peft draws
# One pattern for peft: q, k and v of every layer of the image tower.
config = LoraConfig(r=4, lora_alpha=4, target_modules=r"vision_model\..*\.(q|k|v)_proj")
model = get_peft_model(CLIPModel.from_pretrained("take_home/clip-hf"), config)


def collate(rows):
    images, labels = (torch.stack(x) for x in zip(*rows, strict=True))
    augmented = task.augment(clip.pixels(images), torch.default_generator)
    return {"input_ids": texts, "pixel_values": augmented, "labels": labels}


def loss(out, labels, **_):
    return F.cross_entropy(out.logits_per_image, labels)


class Watch(TrainerCallback):
    def on_step_begin(self, *_, **__):
        on.append(list(dropper.drops.on.values()))


dropper, on = cl.CopRACallback(), []
settings = TrainingArguments(
    "take_home/trainer",
    max_steps=SHORT["steps"],
    per_device_train_batch_size=SHORT["batch"],
    learning_rate=SHORT["lr"],
    remove_unused_columns=False,
    dataloader_pin_memory=False,
    use_cpu=True,
    save_strategy="no",
    logging_strategy="no",
    report_to=[],
    disable_tqdm=True,
)
trainer = Trainer(
    model,
    settings,
    train_dataset=list(zip(task.train.images, task.train.labels, strict=True)),
    data_collator=collate,
    compute_loss_func=loss,
    callbacks=[dropper, Watch()],
)
trainer.remove_callback(PrinterCallback)  # a picture follows
trainer.train()

model.save_pretrained("take_home/from-trainer")
plots.masks(on, [dropper.dropping.probability(t, len(on)) for t in range(len(on))])

# %% [markdown]
# A column is a step, a dark cell a layer that was on; at least one always is, since a loss without
# any gradient is an error elsewhere. What the `Trainer` made is an adapter like any other: load it,
# measure it, halve it, merge it.
#
# *Guess before you look: the same images, rank, rate and steps. Is it as good as what `cl.fit`
# made?*

# %%
trained = cl.load_adapter("take_home/from-trainer", clip)
rows = {
    "the CLIP alone": NONE,
    "cl.fit, CopRA, seed 0": own["CopRA"][0],
    "Trainer, CopRA": trained,
    "Trainer, half of its layers": keep(trained, "even"),
}
told = dict(zip(rows, bench.accuracies(list(rows.values())), strict=True))
plots.accuracies(told, chance=1 / len(task.classes))

# %% tags=["prose"]
after = bench.outcomes([trained, own["CopRA"][0]]).double().numpy()
Markdown(f"""
Trainer less `cl.fit`: {points(after[0] - after[1])}. Not the same training: the order of the images, the first A and the draws differ, the `Trainer`'s rate falls from
the first step on, and it clips gradients. Over its {len(on)} steps a layer was on in {100 * np.mean(on):.0f} % of them.
""")

# %% [markdown]
# ## Exercise: a draw for each step, not for each batch
#
# Difficulty ●●○○○ · importance ●●●○○ · 8 minutes
#
# With `gradient_accumulation_steps=4` the gradients of four batches add up before the optimiser
# steps. Then those four must have the *same* layers on, and p rises with the optimiser's steps.
# Give the switches for the batches numbered `batches`: step number t has its random numbers in
# `u[t]`, a layer is on where its number is below p, and p rises from 0 in a straight line to 1 at
# three quarters of the `steps`.
#
# <details><summary>A hint</summary>
#
# Batches 0, 1, 2, 3 belong to step 0, the next four to step 1: `//`.
#
# </details>


# %% tags=["exercise"]
def switches(batches, accumulate, steps, u):
    """batches (n,) counted from 0, u (rows, layers) → 1 where a layer is on, else 0: (n, layers)."""
    # BLANK: each batch's step; p in that step; compare with that step's numbers
    step = batches // accumulate
    p = step / (0.75 * steps)
    return (u[step] < p[:, None]).float()
    # END


# %% tags=["check"]
check.switches(switches)

# %% [markdown]
# The callback does that by itself, and in a resumed training or on several GPUs it draws what an
# unbroken, single one would. For a loop of your own it is `cl.Progressive(model, steps)`, and
# `with drops.step(t):` around a step.
#
# ## Many runs in one line
#
# Two seeds are a beginning. A sweep is a file: methods × tasks × seeds × settings, and a task may
# be your folder. Here is one, read by the library, but not run: that is for a night of yours.

# %%
sweep = f"""\
{f'clip = "{MODEL}"' if MODEL else "# clip = ..., the bundled one"}
methods = ["lora", "copra"]
tasks = ["{FOLDER.as_posix()}"]
seeds = 5

[settings]
steps = 1200
shots = [4, 16]
"""
Path("take_home/sweep.toml").write_text(sweep, encoding="utf-8")
print(sweep)
print(len(read_grid(Path("take_home/sweep.toml")).runs), "runs:")
print("copra-lab sweep take_home/sweep.toml --jobs 2 --table take_home/results.csv")

# %% [markdown]
# Interrupted, the same line goes on where it stopped; a run that fails is a row that says why. On a
# cluster it is the same file, with `--backend ray` or `--backend dask`. A single run is
# `copra-lab fit take_home/out_of_focus --method copra --out mine`.
#
# ## Publish
#
# Where others find it is the hub. `push_to_hub` uploads the folder for peft and a *model card*,
# written from what `cl.fit` noted while it trained: settings, hash of the base, how to load it.
# What nobody noted, a licence say, is not made up. **Nothing is uploaded as long as `REPO` is
# empty.**

# %%
REPO = ""  # "you/your-adapter", after `hf auth login`

if REPO:
    print(cl.push_to_hub(own["CopRA"][0], REPO))
print(model_card(own["CopRA"][0], REPO or "you/your-adapter"))

# %% [markdown]
# Add by hand what only you know: whose images these were, what it must not be used for, and the
# numbers above, with n and interval.
#
# ## The page, on your CLIP
#
# The page on which you drag adapters about (`copra-lab app`, or `python app.py` in a checkout)
# takes another CLIP, too. It knows the tasks of copra-lab, so train on one of those, save as
# `folder/task/label`, and say both:
#
# ```sh
# copra-lab fit digits --clip ViT-B-32:laion2b_s34b_b79k --out mine/digits/lora-seed-0
# copra-lab app --clip ViT-B-32:laion2b_s34b_b79k --adapters mine
# ```
#
# Your folder has its place there too: as a zip, in the view *Try*, every adapter on the shelf is
# asked about it. So it is about a single picture or drawing of yours.
#
# ## On your own
#
# - Change the three lines at the top. Begin with ten images a class and look at *n* first: how wide
#   will the intervals be?
# - Leave `steps` and `batch` out of `SHORT`, so that `cl.fit` trains as long as it does by itself.
#   What becomes of CopRA's promise?
# - Train with the `Trainer` without the callback: a baseline that differs in nothing else. Then
#   average it with the other (`copra_lab.peft_models.average`).
# - A GPU is there? `device="auto"` in `cl.fit`; take `use_cpu` away.
#
# ## In practice
#
# - Look at your test images before you look at your accuracy: some labels are wrong.
# - Keep the test images for the end. What you choose (words, λ, rate, when to stop) you choose on
#   validation images.
# - Two seeds at least, and each comparison on the same images, pairwise.
# - An adapter without its base is a key without a door: publish which weights it fits.
#
# **Where this small model differs from yours.** The bundled CLIP is far smaller than a ViT-B/32 and
# has read little. A large one begins higher, needs a lower rate (try 2e-4) and minutes for what
# took seconds here; the cells stay the same.
#
# ## Further reading
#
# - Zanella and Ben Ayed, *Low-Rank Few-Shot Adaptation of Vision-Language Models* (CLIP-LoRA),
#   [arXiv:2405.18541](https://arxiv.org/abs/2405.18541). Settings for real CLIPs.
# - Mitchell et al., *Model Cards for Model Reporting*,
#   [arXiv:1810.03993](https://arxiv.org/abs/1810.03993).
# - Wortsman et al., *Model soups*, [arXiv:2203.05482](https://arxiv.org/abs/2203.05482). Why
#   average at all.
