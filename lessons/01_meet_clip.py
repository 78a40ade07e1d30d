# ---
# jupyter:
#   copra_lab:
#     question: What does a CLIP know before it is taught anything?
#     assets: [clip]
# ---

# %% [markdown]
# # 1. Meet a CLIP
#
# A CLIP scores how well a text fits an image. Hand it a list of names and it is a classifier for
# exactly those names, without a single training image: *zero-shot*. In this lesson you take a small
# one apart, use it, and find out where it stops.
#
# - **You will learn** what the two towers compute, how a cosine becomes a probability, what the
#   wording of a prompt is worth, and how to tell a difference from luck.
# - **You need** some PyTorch: tensors, shapes, `nn.Module`.
# - **It takes** half an hour of yours, and {{time}} of two CPU cores.

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

import ipywidgets as w
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from copra_lab import plots
from copra_lab.exercises import meet_clip as check
from copra_lab.utils.statistics import Accuracy, bootstrap_interval

# %% [markdown]
# **What you will have at the end**: a function that gives any image a probability for each name on
# any list. Here it tells the kind of thing a drawing shows. No drawing here was in its pretraining,
# nor was any image with one of these things' names. They are the first five of the test set in a
# shuffled order, not the five that look best.

# %%
clip = cl.load_clip()
task = cl.load_task("novel-kinds")

some = torch.randperm(len(task.test), generator=torch.Generator().manual_seed(0))[:5]
images, truth = task.test.images[some], task.test.labels[some].tolist()
plots.answers(images, clip.probabilities(images, task.prompts), task.classes, truth)

# %% [markdown]
# ## Two towers, one space
#
# A CLIP is two transformers that never look at each other. The **image tower** cuts an image into
# patches, the **text tower** cuts a text into tokens; each ends in one vector, and the two vectors
# have the same length. Pretraining pulled the vectors of an image and its caption together and
# pushed those of strangers apart, and that is all that makes them comparable ([Radford et al.
# 2021](https://arxiv.org/abs/2103.00020), section 2.3).
#
# `clip.model` is an ordinary `open_clip` model, so its parts can be called one by one. First, one
# image:

# %%
known = cl.load_task("same-drawings")  # drawings that pretraining saw
tiger = known.train.pick([known.train.labels.tolist().index(known.classes.index("tiger"))])

with torch.inference_mode():
    visual = clip.model.visual
    pixels = clip.pixels(tiger.images)  # (1, 3, 64, 64): resized, normalised
    patches = visual.conv1(pixels)  # a vector for each patch
    image_vector = clip.model.encode_image(pixels)

tokens = 1 + patches[0, 0].numel()
print("pixels       ", tuple(pixels.shape))
print("patches      ", tuple(patches.shape))
print("tokens       ", (1, tokens, patches.shape[1]), "with one class token in front")
print(
    "blocks       ",
    len(visual.transformer.resblocks),
    "of attention and MLP, which keep that shape",
)
print("image vector ", tuple(image_vector.shape), "the class token, projected")

# %% [markdown]
# And one text. The tokenizer pads to a fixed length; the text's vector is read at its last real
# token.

# %%
with torch.inference_mode():
    tokens = clip.tokenizer(["a drawing of a tiger"])
    text_vector = clip.model.encode_text(tokens)

print("tokens       ", tuple(tokens.shape), tokens[0, :9].tolist(), "…")
print("blocks       ", len(clip.model.transformer.resblocks))
print("text vector  ", tuple(text_vector.shape))
print("lengths      ", f"{image_vector.norm():.2f} (image), {text_vector.norm():.2f} (text)")
print("cosine       ", f"{F.cosine_similarity(image_vector, text_vector).item():.3f}")

# %% [markdown]
# Same shape, so a dot product is possible; but their lengths differ and mean nothing here. CLIP
# compares *directions*: scale both vectors to length 1, and the dot product is the cosine of the
# angle between them.
#
# ## From cosines to probabilities
#
# Eight images against eight names. `clip.image_features` and `clip.text_features` are the towers
# with the normalisation included, so one matrix product gives all 64 cosines. A frame marks the
# pair that belongs together, bold print the best text of each row.
#
# *Guess before you look: how large is the cosine of a pair that belongs together? How far below is
# the rest?*

# %%
few = known.with_classes(range(5, 100, 12))  # every twelfth class
first = [few.train.labels.tolist().index(c) for c in range(len(few.classes))]
few_images = few.train.images[first]

cosines = (
    clip.image_features(few_images) @ clip.text_features(few.prompts).T
)  # (8 images, 8 texts)
probabilities = (clip.logit_scale * cosines).softmax(dim=-1)
panels = {"cosine": cosines, "probability (softmax of each row)": probabilities}
plots.matrices(few_images, few.classes, panels)

# %% tags=["prose"]
own, others = cosines.diagonal(), cosines[~torch.eye(len(cosines), dtype=torch.bool)]
Markdown(f"""
A drawing and its own name have a cosine of {own.mean():.2f} on average, a drawing and another name
{others.mean():.2f}. A softmax of such small numbers would be nearly flat: the largest probability in the table
would be {cosines.softmax(-1).max():.2f}. So CLIP learns a *logit scale*, an inverse temperature that multiplies the
cosines first. It is {clip.logit_scale:.1f} here (OpenAI's models ended at 100, the highest they allow), and makes
probabilities of up to {probabilities.max():.2f} of the same cosines.
""")

# %% [markdown]
# Note what a row of the right table is: *given that one of these eight texts fits*, how likely is
# each? The names on the list compete. Take a name off and all others rise; leave the right one off
# and a wrong one wins.
#
# ## Exercise: implement zero-shot classification
#
# Difficulty ●●○○○ · importance ●●●●● · 10 minutes
#
# Write the whole way from images and names to probabilities and predictions, with no help from
# `clip.image_features`, `clip.text_features` or `clip.probabilities`. You have met all the parts:
# `clip.model.encode_image`, `clip.pixels`, `clip.model.encode_text`, `clip.tokenizer` (which takes
# a list of texts) and `clip.logit_scale`.
#
# <details><summary>A hint</summary>
#
# Five steps: put each name into the template (`template.format(name)`), encode both sides, scale
# each *row* to length 1 (`F.normalize(…, dim=-1)`), multiply into a table with a row an image, and
# decide over what the softmax runs: for whom do the probabilities sum to 1?
#
# </details>


# %% tags=["exercise"]
def zero_shot(clip, images, names, template):
    """uint8 images (n, h, w, 3) and k names → probabilities (n, k) and predictions (n,)."""
    # BLANK: images → features; names → texts → features; cosines; probabilities; predictions
    texts = [template.format(name) for name in names]
    with torch.inference_mode():
        image_features = F.normalize(clip.model.encode_image(clip.pixels(images)), dim=-1)
        text_features = F.normalize(clip.model.encode_text(clip.tokenizer(texts)), dim=-1)
    probabilities = (clip.logit_scale * image_features @ text_features.T).softmax(dim=-1)
    return probabilities, probabilities.argmax(dim=-1)
    # END


# %% tags=["check"]
check.zero_shot(zero_shot)

# %% [markdown]
# ## Classify a real task
#
# Now the whole test set. An accuracy without its uncertainty is half a number: `Accuracy` carries
# Wilson's 95 % interval, which stays honest for small *n* and near 0 and 1.

# %%
test = task.test
features = clip.image_features(test.images)  # once: no wording of the names can change them


def hits(text_features, image_features=features, labels=test.labels):
    """For each image, 1 where the most similar text is the right one, else 0."""
    return ((image_features @ text_features.T).argmax(-1) == labels).int()


def accuracy(right):
    return Accuracy(int(right.sum()), len(right))


zero_shot_accuracy = accuracy(hits(clip.text_features(task.prompts)))
print(zero_shot_accuracy)

# %% tags=["prose"]
Markdown(f"""
That is the accuracy on *{task.title}* with its interval: {len(task.classes)} classes, each of the {len(test)}
images another drawing. Guessing would give {100 / len(task.classes):.1f} %.
""")

# %% [markdown]
# ## Ask in other words
#
# `task.prompts` are not bare names: they read `a drawing of a …`. Captions are sentences, and the
# text tower has learned from captions, so a template may help. How much?
#
# *Guess before you look: what does it cost to ask for a photo when all images are drawings? And to
# ask for what it is **not**?*
#
# All templates see the same images, and most images are easy or hard whatever the wording. So
# compare image by image: the right panel shows the *paired* difference to the bare name. Its
# interval (bootstrap over images) is narrower than two overlapping intervals on the left would make
# you think.

# %%
templates = [
    "{}",
    "a drawing of a {}",
    "a picture of a {}",
    "an emoji of a {}",
    "a photo of a {}",
    "it was a dark and stormy night, {}",
    "this is not a {}",
]
texts = {t: clip.text_features([t.format(name) for name in task.classes]) for t in templates}
texts["the first five, averaged"] = F.normalize(sum(texts[t] for t in templates[:5]), dim=-1)


def paired(a, b, sources=test.sources):
    """The difference of two accuracies on the same images, with its 95 % interval."""
    difference = (a - b).numpy()
    return float(difference.mean()), bootstrap_interval(difference, sources)


right = {t: hits(x) for t, x in texts.items()}
differences = {t: paired(r, right["{}"]) for t, r in right.items() if t != "{}"}
plots.accuracies(
    {t: accuracy(r) for t, r in right.items()},
    chance=1 / len(task.classes),
    differences=differences,
    than="the bare name",
)


# %% tags=["prose"]
def told(template):
    value, (low, high) = differences[template]
    return f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})".replace(
        "-", "−"
    )


bare, negated = accuracy(right["{}"]), accuracy(right["this is not a {}"])
understood = (
    "It hears the name and misses the *not*, a known weakness of large CLIPs too."
    if negated.value > bare.value / 2
    else "It notices the *not*, at least as a disturbance, more than many a large CLIP does."
)
clear = [f"“{t}”" for t, (_, (low, high)) in differences.items() if not low <= 0 <= high]
Markdown(f"""
- **A template or the bare name.** Of {len(differences)} differences {len(clear) or "none"} can be told from zero
  {"(" + ", ".join(clear) + ")" if clear else ""}. Of the others we cannot say whether they help or harm. (Each
  interval errs one time in twenty, so among {len(differences)} a false alarm is no great surprise.)
- **An ensemble**: the average of the text features of five templates, scaled back to length 1, is one classifier
  and costs no more at test time. To the bare name it makes {told("the first five, averaged")}. Its charm is that
  you need not choose a template; choosing the best one *on the test images* would flatter you.
- **“Not”.** Whoever understood “this is not a …” and still took the *most* similar text would fall below guessing,
  {100 / len(task.classes):.1f} %. This one scores {negated}, {told("this is not a {}")} to the bare name. {understood}
""")

# %% [markdown]
# For comparison, on ImageNet with its 50,000 test photos: `A photo of a {}.` gained OpenAI's CLIP
# 1.3 points over the bare name, and an ensemble of 80 templates another 3.5 (section 3.1.4). It
# takes that many images to see so little. Lesson 8 stops guessing and *learns* the prompt.
#
# ## What it can do, and what it cannot
#
# The same model, six questions from near to far. Three ask for names: of a hundred things whose
# drawings pretraining showed with their names, of the same partly covered, and of *held-out*
# things. Of those the image tower saw nothing at all; the text tower has read their names, so it
# can know what a name is close to.
#
# *Guess before you look: where does it fall to guessing?*

# %%
novel = cl.load_task("novel-names")
digits, count = cl.load_task("digits"), cl.load_task("count")


def score(task, *splits):
    images, labels = (
        torch.cat([s.images for s in splits]),
        torch.cat([s.labels for s in splits]),
    )
    return accuracy(hits(clip.text_features(task.prompts), clip.image_features(images), labels))


results = {
    "100 seen names": (known, known.test),
    "the same, partly covered": (known, cl.load_task("same-drawings-occluded").test),
    f"{len(novel.classes)} held-out names": (novel, novel.train, novel.test),
    f"{len(task.classes)} kinds of held-out things": (task, test),
    "how many? one to five": (count, count.test),
    "handwritten digits": (digits, digits.test),
}
scores = {label: score(*asked) for label, asked in results.items()}
guessing = {label: 1 / len(asked[0].classes) for label, asked in results.items()}
plots.accuracies(scores, chance=guessing)

# %% tags=["prose"]
seen, held = scores["100 seen names"], scores[f"{len(novel.classes)} held-out names"]
lost = [label for label, a in scores.items() if a.interval[0] <= guessing[label]]
Markdown(f"""
- **A name it was shown**: {seen}. Memory as much as sight: pretraining used these very drawings, though never quite
  so placed and coloured.
- **A name it was never shown**: {held}, where guessing gives {100 * guessing[f"{len(novel.classes)} held-out names"]:.0f} %. What is
  above that comes from names being close to seen ones.
- **Not above guessing**, as far as these intervals can tell: {", ".join(lost) or "none of the six"}. Pretraining never
  asked how many, and never for handwriting. OpenAI's CLIP is weak there as well: on handwritten digits it lost to
  logistic regression on raw pixels (section 6 of the paper), and counting is among its weak points.
""")

# %% [markdown]
# ### Not named is not the same as not seen
#
# Does a low score mean that the image tower is blind to digits, or only that no text points the
# right way? Fit a *linear probe*: logistic regression on the frozen image features, from 16 images
# a class. Beside it, the paper's "embarrassingly simple baseline": the same on raw pixels.


# %%
def probe(train, test, train_labels, test_labels):
    scaler = StandardScaler().fit(train)
    fitted = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(train), train_labels)
    return accuracy(torch.tensor(fitted.predict(scaler.transform(test))) == test_labels)


def raw(images):
    """Grey pixels, 16 × 16."""
    return F.avg_pool2d(images.float().mean(-1), 4).flatten(1)


def probed(task, see):
    return probe(
        see(task.train.images), see(task.test.images), task.train.labels, task.test.labels
    )


rows = {
    "zero-shot": scores["handwritten digits"],
    "probe on image features": probed(digits, clip.image_features),
    "probe on raw pixels": probed(digits, raw),
}
plots.accuracies(rows, chance=0.1)

# %% tags=["prose"]
prompts, by_features, by_pixels = rows.values()


def against(a, b, better, alike, worse):
    """Which of three sentences holds, as far as two intervals can tell."""
    return (
        better
        if a.interval[0] > b.interval[1]
        else worse
        if a.interval[1] < b.interval[0]
        else alike
    )


named = against(
    by_features, prompts, "more than the prompts can name", "not clearly more", "less"
)
beaten = against(by_features, by_pixels, "less than that", "about as well", "more still")
Markdown(f"""
Prompts find {prompts}; a probe on the very same features finds {by_features}, {named}. A probe on raw pixels does
{beaten}: {by_pixels}. What is missing is *adaptation*: a few examples that teach the model to use, and to sharpen,
what it sees. That is what all other lessons are about.
""")

# %% [markdown]
# ## Look at the mistakes
#
# Numbers say how often, images say why. These are the twelve *most confident* mistakes on the
# kinds: worth a look, since a model that errs with conviction has learned something else than you
# think. Under each image: what the model said and how sure it was, then what it is.

# %%
p = (clip.logit_scale * features @ clip.text_features(task.prompts).T).softmax(-1)
confidence, said = p.max(-1)
wrong = (said != test.labels).nonzero().flatten()
worst = wrong[confidence[wrong].argsort(descending=True)][:12]


def caption(i):
    return f"{task.classes[said[i]]}, {100 * confidence[i]:.0f} %\nis: {task.classes[test.labels[i]]}"


plots.grid(test.images[worst], [caption(i) for i in worst.tolist()])

# %% tags=["prose"]
k = len(task.classes)
pairs = torch.bincount(test.labels[wrong] * k + said[wrong], minlength=k * k)
top = pairs.argsort(descending=True, stable=True)[:3].tolist()
common = "; ".join(
    f"{task.classes[i // k]} called {task.classes[i % k]} ({pairs[i]} times)" for i in top
)
second = (p.argsort(-1, descending=True)[:, 1] == test.labels)[wrong]
Markdown(f"""
{len(wrong)} of {len(test)} drawings are misnamed; the right answer came second in {int(second.sum())} of them. Most
frequent: {common}. Ask of each: is the drawing ambiguous, is the *name* of the class odd, or is the model simply
wrong?
""")

# %% [markdown]
# ## Look inside: when is the answer there?
#
# The class token passes through all blocks of the image tower and is projected into the common
# space after the last. What if you project it earlier? Nothing was trained to be read there, which
# is why this borrowed trick (the *logit lens*, from language models) tells when the answer is in
# the right *place*, not when it is first known.
#
# *Guess before you look: does accuracy grow block by block, or all at once?*


# %%
def by_block(images):
    """Features (n, d) after 0, 1, 2, … blocks, each read by the tower's own last layers."""
    seen = []
    blocks = visual.transformer.resblocks
    hooks = [blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))]
    hooks += [
        b.register_forward_hook(lambda module, inputs, output: seen.append(output))
        for b in blocks
    ]
    try:
        with torch.inference_mode():
            clip.model.encode_image(clip.pixels(images))
            return [F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1) for x in seen]
    finally:
        for hook in hooks:
            hook.remove()


lens = [accuracy(hits(clip.text_features(task.prompts), x)) for x in by_block(test.images)]
plots.curve(range(len(lens)), {task.title: lens}, "blocks passed", chance=1 / len(task.classes))

# %% tags=["prose"]
assert abs(lens[-1].correct - zero_shot_accuracy.correct) <= 1  # the last is the model itself
gains = [b.value - a.value for a, b in zip(lens, lens[1:], strict=False)]
soon = next(
    i for i in range(len(lens)) if all(a.value >= lens[-1].interval[0] for a in lens[i:])
)
Markdown(f"""
Before the first block the class token has not looked at the image: every image gets the same answer, which is right
for {100 * lens[0].value:.0f} %. The largest single step is that of block {1 + gains.index(max(gains))}
({100 * max(gains):+.0f} points), and from block {soon} on the accuracy is within the final one's interval. Tempting
to read a block's worth off its step; but each builds on those below and is read by those above. What a layer is
*worth* needs a fairer question, and lesson 5 asks it.
""")

# %% [markdown]
# ## Put your hand in
#
# Move to another image, type names of your own with commas between them, change the template or the
# scale. Things to try: leave out the right name; add a synonym; write a colour; scale to 1.

# %%
order = torch.randperm(len(test), generator=torch.Generator().manual_seed(1)).tolist()
mammal = next(i for i, row in enumerate(order) if task.classes[test.labels[row]] == "mammal")


def ask(image, names, template, scale):
    names = [name.strip() for name in names.split(",") if name.strip()]
    if not names or "{}" not in template:
        raise ValueError(
            "Write names with commas between them, and a template with {} for a name."
        )
    i = order[image]
    texts = [template.replace("{}", name) for name in names]
    cosines = features[i : i + 1] @ clip.text_features(texts).T
    return plots.answers(test.images[i : i + 1], (scale * cosines).softmax(-1), names, top=8)


offered = "mammal, bird, insect, flower, fruit, land vehicle, clothes, tool"
live(
    ask,
    image=w.IntSlider(mammal, 0, len(test) - 1, description="image"),
    names=w.Text(offered, description="names", layout=w.Layout(width="36em")),
    template=w.Text("a drawing of a {}", description="template"),
    scale=w.FloatLogSlider(clip.logit_scale, min=0, max=2, description="scale"),
)

# %% [markdown]
# ## On your own
#
# - Improve the kinds without touching the model: rename a class (`mammal` → `animal with fur`),
#   describe it, average several descriptions. Judge on `task.val`, look at `task.test` once.
# - Which of the kinds is never predicted? Which is predicted far too often? Subtract each text's
#   mean cosine over the images before the argmax and see what changes.
# - `cl.load_task("path/to/folder")` reads a folder with one folder of images a class. Try your own
#   drawings.
#
# ## In practice
#
# - The cheapest experiment with any CLIP is its list of names: write them as captions of the
#   training data would.
# - Report *n*, an interval, and compare two variants on the same images, pairwise.
# - Choose templates on validation images, never on the test set; or do not choose and ensemble.
# - Zero-shot is a baseline. Where it fails and a probe succeeds, adapt: next lesson, with LoRA.

# %% tags=["prose"]
millions = sum(p.numel() for p in clip.model.parameters()) / 1e6
Markdown(f"""
**Where this small model differs from the paper's.** It has {millions:.1f} million weights, OpenAI's ViT-B/32 has 151
million; it saw some thousand drawings and icons and tens of thousands of small photographs, the other 400 million
captioned images from the web. They share the architecture, the way to classify and the ways to fail, not the breadth:
nothing here says how good *a CLIP* is at anything.
""")

# %% [markdown]
# ## Further reading
#
# - Radford et al., *Learning Transferable Visual Models From Natural Language Supervision* (CLIP),
#   [arXiv:2103.00020](https://arxiv.org/abs/2103.00020). Sections 2.3, 3.1.4 and 6.
# - Zhai et al., *LiT: Zero-Shot Transfer with Locked-image text Tuning*,
#   [arXiv:2111.07991](https://arxiv.org/abs/2111.07991). What if one tower is already good?
# - Zhou et al., *Learning to Prompt for Vision-Language Models* (CoOp),
#   [arXiv:2109.01134](https://arxiv.org/abs/2109.01134). The template, learned: lesson 8.
