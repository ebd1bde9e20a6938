# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 0 · Start here
#
# **The claim of this collection.** Neural networks learn the same things in different shapes, and what one has learned
# can be moved into another of a different depth, width, kernel size or topology. Five papers say how, each in its own
# words. Here they speak one grammar, stand side by side, and can be tried.
#
# **You will be able to** say what each of the five papers moves and how; read any network as a chain of layers; use
# the controls, checks and tables of the other notebooks; and run your first transfer in three lines.
#
# | preset | time on two cores | data |
# |---|---|---|
# | `smoke`, `classroom` and `paper` | under half a minute | rendered here; nothing is downloaded, nothing is trained |

# %% tags=["parameters"]
PRESET: str = "classroom"  # smoke, classroom or paper: this notebook is the same in all three
NETWORK: str = "resnet20"  # explorer: the network that is drawn first
WIDTH: float = 1.0  # explorer: its width, 0.25 to 2

# %%
# %matplotlib inline
from dataclasses import dataclass
from typing import Literal

import matplotlib.pyplot as plt
import torch

from hetlib import data, hmt, lab, zoo
from hetlib.chain import chain, convolutions
from hetlib.lab.figures import PALETTE

run = lab.start("00_start_here", PRESET, seeds=1, network=NETWORK, width=WIDTH)

# %% [markdown]
# ## The problem in one picture
#
# Suppose you have trained VGG11 and now want a ResNet-8: smaller, faster, with shortcuts. PyTorch's own way of moving
# weights is a dictionary of names and shapes, and it refuses, as it must:

# %%
torch.manual_seed(0)
source, target = zoo.build("vgg11"), zoo.build("resnet8")
try:
    target.load_state_dict(source.state_dict())
except RuntimeError as error:
    print(str(error)[:200], "...")


# %%
def silhouette(ax, model, colour):
    widths = [layer.out_channels for _, layer in convolutions(model)]
    ax.barh(range(len(widths)), widths, left=[-w / 2 for w in widths], color=colour, edgecolor="white")
    ax.set(xlim=(-280, 280), ylim=(8, -1), xticks=[], yticks=range(len(widths)), ylabel="convolution")
    ax.grid(visible=False)


fig, axes = plt.subplots(1, 2, figsize=(7, 3))
for ax, model, name, colour in zip(axes, (source, target), ("VGG11", "ResNet-8"), ("blue", "orange"), strict=True):
    silhouette(ax, model, PALETTE[colour])
    ax.set_title(f"{name}: width of each layer")

# %% [markdown]
# **What to notice.** Only the first bar on the left has a partner of its own size at the same height on the right. For
# the rest there is no obvious answer to "which layer goes where, and how do I make it fit", and that is exactly what
# the papers answer.

# %% [markdown]
# ## Five papers, one grammar
#
# Every method in this collection is a sentence with five words:
#
# `chain(model)` → `match(source, target)` → `resize(weight, shape)` → place or blend → train
#
# | paper | claims, in one sentence | in this release |
# |---|---|---|
# | **HMT** | weights put into another shape, layer after layer, help a network learn from few images | notebook 01 |
# | **CLAFusion** | two networks of different depth can be aligned, balanced and fused into one | not yet |
# | **Filter grafting** | networks trained side by side gain by grafting weights into one another | not yet |
# | **Knowledge amalgamation** | one student can be customised from many teachers without any labels | not yet |
# | **TLV** | filters worth moving are found by their variance; features can be crossed over | not yet |

# %%
WORDS = ["chain", "match", "resize", "place or blend", "in training"]
SENTENCES = {
    "HMT": ["convolutions", "first with first", "bilinear, cyclic", "overwrite", "-"],
    "TLV": ["all layers", "by index ratio", "by variance", "overwrite", "crossover"],
    "CLAFusion": ["units", "least layer cost", "identity layers", "average", "finetune"],
    "grafting": ["same network", "ring neighbour", "-", "entropy-weighted", "every epoch"],
    "amalgamation": ["five taps", "tap by tap", "learned bridges", "-", "teacher per image"],
}
fig, ax = plt.subplots(figsize=(7.4, 2.8))
for y, (paper, words) in enumerate(SENTENCES.items()):
    ax.text(-0.6, y, paper, ha="right", va="center", weight="bold", size=9)
    for x, word in enumerate(words):
        box = {"boxstyle": "round,pad=0.3", "fc": "#F4F4F4" if word == "-" else "#DCECF7", "ec": "none"}
        ax.text(x, y, word, ha="center", va="center", size=8, bbox=box)
for x, word in enumerate(WORDS):
    ax.text(x, -0.9, word, ha="center", va="center", weight="bold", color=PALETTE["blue"], size=9)
ax.set(xlim=(-1.7, 4.6), ylim=(4.6, -1.4), title="One grammar, five sentences")
ax.axis("off")
# %% [markdown]
# **What to notice.** Read a column from top to bottom and you see the alternatives for one step. Because each step
# has one signature here, a step of one paper can stand in for the same step of another: HMT's order with TLV's
# resize, say. Read a row and you see what a paper leaves out. Grafting never resizes; amalgamation never places a
# weight at all.
#
# A word on what the papers do *not* share. HMT and TLV start a network and then leave it alone. CLAFusion needs two
# trained networks and ends with one. Grafting changes weights while they are being trained, and amalgamation never
# touches a weight of a teacher: it lets the student imitate features. "Transfer" is a family name, not a method, and
# two numbers from two of these papers can hardly ever be compared directly. That is why each notebook repeats its
# paper's own comparison first, with its own baselines, before anything is mixed.

# %% [markdown]
# ## The zoo
#
# The networks of the five papers, made for small images, are built by name. Sizes are part of a name's meaning:
# `resnet18` here is the CIFAR variant with a 3x3 stem; torchvision's is `torchvision/resnet18`.

# %%
print(", ".join(zoo.names()))
small = zoo.build("vgg11", num_classes=100, width=0.25)
print("a quarter as wide:", [layer.out_channels for _, layer in convolutions(small)])

# %%
shown = [
    "plainnet5",
    "vgg8",
    "vgg11",
    "vgg16",
    "resnet8",
    "resnet20",
    "resnet56",
    "resnet18",
    "resnet34",
    "mobilenetv2",
]
fig, ax = plt.subplots(figsize=(7.4, 4.4))
for y, name in enumerate(shown):
    model, x = zoo.build(name), 0
    for _, layer in convolutions(model):
        high = 0.12 + 0.8 * (layer.out_channels / 1280) ** 0.5
        ax.add_patch(plt.Rectangle((x, y - high / 2), 0.8, high, color=PALETTE["blue"], alpha=0.7))
        x += 1
    million = sum(p.numel() for p in model.parameters()) / 1e6
    ax.text(x + 0.5, y, f"{million:.2f} M", va="center", size=8)
ax.set(xlim=(0, 64), ylim=(len(shown) - 0.4, -0.7), xlabel="convolution, in order", title="The zoo, drawn to scale")
ax.set_yticks(range(len(shown)), shown)
ax.grid(visible=False)

# %% [markdown]
# **What to notice.** One bar is one convolution of the main path, as high as the root of its channels. Depth and
# size are different things: ResNet-56 is among the longest rows and one of the lightest networks, VGG11 is short and
# heavy. A method that moves weights along these rows has to cope with both.

# %% [markdown]
# ## A network as a chain
#
# `chain(model)` reads a network's own graph. It finds layers in the order in which data meets them, says which sit on
# a shortcut, where the resolution changes (a *stage*), and which residual block a layer belongs to.

# %%
read = chain(zoo.build("resnet8"))
for layer in read.layers:
    print(f"{layer.name:24} {layer.kind:10} stage {layer.stage}   block {layer.block}   norm {layer.norm}")

# %% [markdown]
# The last column names the batch norm behind each layer, which some transfers move along. Linear layers are read too.
# A network of your own works as well, as long as `torch.fx` can trace it; if not, the error names the module and the
# line at which reading stopped, and what to pass instead.
#
# The chain also knows which channels belong together. Swap two filters of one layer and the next layer has to swap its
# inputs, the batch norm its statistics, and everything that is added to it must follow. Permuting a whole group
# changes nothing, and you can watch that here as an invariant:

# %%
torch.manual_seed(0)
model = zoo.build("resnet8", width=0.25).double().eval()
pixels = torch.randn(4, 3, 32, 32, dtype=torch.float64)
before, state = model(pixels), model.state_dict()
for group in chain(model).axes:
    if not group.fixed:
        group.permute_(state, torch.randperm(group.size))
model.load_state_dict(state)
torch.testing.assert_close(model(pixels), before)
print("every free group of channels permuted; the function is the same")

# %% [markdown]
# ## The explorer
#
# Notebooks here have controls. The picture below is an ordinary output, so it is there on a static page too; in
# JupyterLab, the controls under it redraw it. Every toggle is also a parameter of the notebook.


# %%
@dataclass(frozen=True)
class Look:
    network: Literal["plainnet5", "vgg11", "resnet8", "resnet20", "resnet18", "mobilenetv2"] = NETWORK
    width: float = lab.slider(WIDTH, 0.25, 2.0, 0.25)


def look(settings):
    model = zoo.build(settings.network, width=settings.width)
    layers = convolutions(model)
    fig, ax = plt.subplots(figsize=(7, 2.8))
    ax.bar(range(len(layers)), [layer.weight.numel() / 1e3 for _, layer in layers], color=PALETTE["green"])
    total = sum(p.numel() for p in model.parameters()) / 1e6
    title = f"{settings.network} at width {settings.width:g}: {total:.2f} M parameters, most of them late"
    ax.set(xlabel="convolution, in order", ylabel="weights (thousands)", title=title)
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    return fig


explorer = lab.Explorer(look, Look())
explorer

# %% [markdown]
# **What to notice.** Weights pile up at the end, where channels are many. Doubling the width multiplies nearly every
# bar by four, which is why a "slightly wider" network is so much more to fill. The count can be checked in code:

# %%
counts = [sum(p.numel() for p in zoo.build(NETWORK, width=w).parameters()) for w in (0.5, 1.0)]
print(f"twice as wide: {counts[1] / counts[0]:.2f} times the parameters")
assert 3 < counts[1] / counts[0] < 4.2

# %% [markdown]
# ## The data
#
# No download is needed. `shapes-source` and `shapes-target` are rendered here: textured shapes on clutter, 32x32
# pixels, a class being a texture on a shape. The two sets share neither shapes nor textures, so a network can only
# carry over what it has learned about edges, curves and patterns. `digits`, real handwritten ones, serve the fully
# connected networks.

# %%
fig, axes = plt.subplots(2, 12, figsize=(7.6, 1.9))
for row, name in zip(axes, ("shapes-source", "shapes-target"), strict=True):
    images = data.load(name, count=120)
    for label, ax in enumerate(row):
        first = int((images.labels == label).nonzero()[0])
        ax.imshow(images.images[first].permute(1, 2, 0))
        ax.set(xticks=[], yticks=[], frame_on=False)
    row[0].set_ylabel(name.removeprefix("shapes-"))
fig.suptitle("One image of every class", x=0.01, ha="left", weight="bold")
# %%
source_images, target_images = data.load("shapes-source", count=240), data.load("shapes-target", count=240)
assert not set(source_images.classes) & set(target_images.classes)
print(source_images, "\n" + ", ".join(source_images.classes[:4]), "...")
print(target_images, "\n" + ", ".join(target_images.classes[:4]), "...")

# %% [markdown]
# Real data is one word away. `-p DATA sub-cifar100` runs a notebook on CIFAR-100 if its files are in `$HETLIB_DATA` or
# `data/`; `hetlib data get cifar100` fetches them. What is missing is named, with the ways to get it:

# %%
try:
    data.load("cifar10", root="an-empty-folder")
except data.DataMissing as error:
    print(error)

# %% [markdown]
# Images stay whole numbers, and a batch is cropped and mirrored in one step. Same generator, same crops: nothing here
# depends on a hidden global seed.

# %%
batch = target_images.images[:8]
views = [data.augment(batch, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
assert torch.equal(views[0], views[1])
assert not torch.equal(views[0], views[2])
fig, axes = plt.subplots(2, 8, figsize=(7, 2))
for row, images, name in zip(axes, (batch, views[0]), ("original", "augmented"), strict=True):
    for ax, image in zip(row, images, strict=True):
        ax.imshow(image.permute(1, 2, 0))
        ax.set(xticks=[], yticks=[], frame_on=False)
    row[0].set_ylabel(name)

# %% [markdown]
# ## Your first transfer, in three lines
#
# `transfer` changes its target in place and reports what it did, one row per layer. The report is a table, and it
# draws itself.

# %%
source, target = zoo.build("vgg11"), zoo.build("resnet8")
report = hmt.transfer(source, target)
report

# %% tags=["picture"]
report.plot("VGG11 into ResNet-8: seven of eight convolutions find a place")

# %% [markdown]
# **What to notice.** Seven layers are fed and one is left over. Several rows say *cropped*: half of the source's
# filters are simply dropped there, and the layer behind them has lost those inputs. Whether the result is any good is
# an empirical question, and notebook 01 answers it with intervals.

# %% [markdown]
# ## How to read a notebook here
#
# All notebooks have one skeleton. A claim; parameters in one cell; the problem in one picture; a few rounds of
# *idea, equation, plain loop, the fast function, a figure, what to notice*; then the experiment, the ablations,
# exercises and a quiz. The code you see is short because what is not the subject lives in the package. What *is* the
# subject appears twice, once as the plainest loop that could be written and once as the function you would really
# call, and an assert says that both give the same.
#
# * **An `assert` is a promise.** It stands where you would otherwise have to believe us. If it ever fails, the notebook
#   stops.
# * **`PRESET`** sets how big everything is: `smoke` proves that it runs, `classroom` fits a lesson, `paper` is the
#   protocol of the paper, for hours or a GPU. In a shell: `hetlib run 01 --preset smoke -p ORDER shuffle`.
# * **What takes long is kept.** A trained network is stored under everything it depends on, its code included. Run a
#   notebook again and it is found; change one setting and only that is trained.
# * **Tables say `paper | released code | ours`**, with a mean, a 95 % interval and the number of seeds. Where a number
#   was never published, the table says *not known*; where we have not run something, *not run*.
# * **Records** of real runs lie in `results/`, and [papers.md](../papers.md) is written from them.

# %% [markdown]
# ## Exercise
#
# Exercises check themselves against a hidden solution on fresh random inputs and explain the first difference.
#
# **1.** `wrap(n, m)`: HMT fills m places from n filters by going round and round. Which filter lands in each place?
# Return a list of m indices.


# %%
def by_transfer(n, m):
    return hmt.resize(torch.arange(float(n)), (m,)).long().tolist()


two_numbers = lambda generator: tuple(torch.randint(1, 20, (2,), generator=generator).tolist())
lab.exercise("wrap", by_transfer, two_numbers, "after the last filter comes the first one again")


# %% tags=["solution"]
def wrap(n, m):
    return [place % n for place in range(m)]


# %%
lab.check("wrap", wrap)

# %% [markdown]
# **2.** `weights(outputs, inputs, kernel)`: how many weights has a convolution without bias?


# %%
def by_counting(outputs, inputs, kernel):
    return torch.nn.Conv2d(inputs, outputs, kernel, bias=False).weight.numel()


three_numbers = lambda generator: tuple(torch.randint(1, 12, (3,), generator=generator).tolist())
lab.exercise("weights", by_counting, three_numbers, "one kernel for every pair of an input and an output")


# %% tags=["solution"]
def weights(outputs, inputs, kernel):
    return outputs * inputs * kernel**2


# %%
lab.check("weights", weights)

# %% [markdown]
# ## Three questions
#
# <details><summary>Why does permuting the channels of a whole group change nothing?</summary>
#
# Channels have no order that the function could feel: each is only a name for a feature. As long as everyone who uses
# the name changes it together, the sums that the network computes are the same sums, in another order.
# </details>
#
# <details><summary>Two networks have equally many parameters. Does a transfer between them lose nothing?</summary>
#
# It may lose a great deal. Shapes decide what fits, not totals: layers can be dropped, kernels stretched and filters
# repeated even when the totals agree.
# </details>
#
# <details><summary>A table shows 24.8 ± 3.1 % and 17.3 ± 4.3 %, three seeds each. Which is better?</summary>
#
# The intervals touch, so look at differences seed by seed, or run more seeds. That is why tables here come with
# intervals and with a verdict that may well be "no difference shown".
# </details>

# %%
images = (target_images, data.load("shapes-target", "test", count=240))
run.record({}, images, networks=len(zoo.names()))

# %% [markdown]
# ## References and what to read next
#
# * The five papers with links, claims and everything that was run: [papers.md](../papers.md).
# * Next: [01 · HMT](01_hmt.ipynb), where VGG11 moves into PlainNet5 and ResNet-8, with and without, in order and
#   shuffled, and where some filters turn out to be prisoners of their twins.
