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
# words. Here all five are written in one mechanism, stand side by side, and can be tried.
#
# **You will be able to** say what each of the five papers moves and how; read any network as a chain of layers; use
# the controls, checks and tables of the other notebooks; and run your first transfer in three lines.
#
# | preset | time on two cores | data |
# |---|---|---|
# | `smoke`, `classroom` and `paper` | under half a minute | rendered here; nothing is downloaded, nothing is trained |

# %% tags=["parameters"]
PRESET: str = "classroom"  # smoke, classroom or paper: this notebook is the same in all three
ZOOM: float = 1.0  # size of the figures: 1 fits a laptop, 1.5 a projector
NETWORK: str = "resnet20"  # explorer: plainnet5, vgg11, resnet8, resnet20, resnet18 or mobilenetv2
WIDTH: float = 1.0  # explorer: factor on every hidden width, 0.25 to 2 in steps of 0.25

# %%
# %matplotlib inline
from dataclasses import dataclass
from typing import Literal

import matplotlib.pyplot as plt
import torch

from hetlib import data, hmt, lab, zoo
from hetlib.chain import chain, convolutions
from hetlib.lab.figures import PALETTE

run = lab.start("00_start_here", PRESET, seeds=1, zoom=ZOOM)

# %% [markdown]
# ## The problem in one picture
#
# Suppose you have trained a VGG11, half as wide as usual, and now want a ResNet-8: shorter, and with shortcuts.
# PyTorch moves weights by name, so the first attempt ends with a list of names that do not exist. (Real messages are
# longer; we cut every line.)

# %%
torch.manual_seed(0)
source, target = zoo.build("vgg11", width=0.5), zoo.build("resnet8")
try:
    target.load_state_dict(source.state_dict())
except RuntimeError as error:
    print("\n".join(line[:88] + " ..." for line in str(error).splitlines()))

# %% [markdown]
# Names are only names. So we ignore them and copy the first convolution into the first, the second into the second,
# until something stops us. It is the very first:

# %%
pairs = list(zip(convolutions(source), convolutions(target), strict=False))
try:
    for (_, ours), (_, theirs) in pairs:
        theirs.weight.data.copy_(ours.weight)
except RuntimeError as error:
    print(error)
equal = [ours.weight.shape == theirs.weight.shape for (_, ours), (_, theirs) in pairs]
print(f"{sum(equal)} of {len(pairs)} pairs have equal shapes")


# %%
def silhouette(ax, model, colour):
    widths = [layer.out_channels for _, layer in convolutions(model)]
    places = range(1, len(widths) + 1)
    ax.barh(places, widths, left=[-width / 2 for width in widths], color=colour)
    for place, width in zip(places, widths, strict=True):
        ax.text(140, place, width, va="center", size=9)
    ax.set(xlim=(-135, 175), ylim=(8.6, 0.4), xticks=[], yticks=places, ylabel="convolution")


fig, axes = plt.subplots(1, 2, figsize=(7, 3))
for ax, model, name, colour in zip(
    axes, (source, target), ("VGG11, half as wide", "ResNet-8"), ("blue", "orange"), strict=True
):
    silhouette(ax, model, PALETTE[colour])
    ax.set(title=name, xlabel="output channels")
    ax.grid(visible=False)

# %% [markdown]
# **What to notice.** The two networks differ in length, and in three of the first seven widths. Even bars of equal
# length do not fit: the second convolutions both have 64 outputs, but 32 inputs here and 64 there. "Which layer goes
# where, and how do I make it fit?" has no obvious answer. It is the question that all five papers answer.

# %% [markdown]
# ## Five papers, one mechanism
#
# Every method of this collection is a sentence with three parts. A **match** says which layer of the source feeds which
# layer of the target. A **fit** says what each tensor of the target becomes. A **blend** says how much the target keeps
# of its own values. Then the target is trained.
#
# | paper | claims, in one sentence | in this release |
# |---|---|---|
# | **HMT** | convolutions, put in order into another shape, are a better start than random weights | notebook 01 |
# | **TLV** | filters are best chosen by their variance, and features crossed over in training | notebook 05 |
# | **CLAFusion** | two trained networks of different depth can be aligned, balanced, averaged into one | notebook 02 |
# | **Grafting** | networks trained side by side improve when each takes up weights of its neighbour | notebook 03 |
# | **Amalgamation** | one student can be customised from several teachers without any human label | notebook 04 |
#
# These are *their* claims. What of them could be confirmed, and what could not, is in [papers.md](../papers.md).

# %%
WORDS = ["read", "match", "fit", "blend", "train"]
SENTENCES = {
    "HMT": ["convolutions", "first with first,\nor shuffled", "kernels bilinear,\nwidth cyclic", "overwrite", ""],
    "TLV": ["convolutions", "by index ratio", "rank by variance,\npad or pool", "overwrite", "feature\ncrossover"],
    "CLAFusion": ["layer groups", "least layer cost", "insert or merge\nlayers", "align, then\naverage", "finetune"],
    "grafting": ["same network", "neighbour\nin a ring", "", "average, weighted\nby entropy", "anew each\nepoch"],
    "amalgamation": ["taps at\nfive depths", "tap with tap", "learned 1x1\nbridges", "", "one teacher\nper image"],
}
fig, ax = plt.subplots(figsize=(7.6, 3.6))
for y, (paper, words) in enumerate(SENTENCES.items()):
    ax.text(-0.6, y, paper, ha="right", va="center", weight="bold", size=10)
    for x, word in enumerate(words):
        if word:
            look = {"boxstyle": "round,pad=0.35", "fc": "#BFDDF0", "ec": PALETTE["blue"]}
            ax.text(x, y, word, ha="center", va="center", size=8.5, bbox=look)
for x, word in enumerate(WORDS):
    ax.text(x, -0.85, word, ha="center", va="center", weight="bold", color=PALETTE["blue"], size=9)
    ax.text(x + 0.49, -0.85, "→" if x < 4 else "", ha="center", va="center", color=PALETTE["blue"])
ax.set(xlim=(-1.75, 4.55), ylim=(4.5, -1.2), title="One mechanism, five sentences")
ax.axis("off")
ax.grid(visible=False)

# %% [markdown]
# **What to notice.** A column lists the alternatives for one step. In hetlib the steps of one column can be exchanged,
# so that a step of one paper can stand in for another paper's. A row shows what a paper leaves out: grafting never
# resizes, amalgamation never places a weight.
#
# The rows also differ in kind. HMT writes a network's first weights and then leaves it alone. CLAFusion needs two
# trained networks and ends with one. Grafting changes weights while they are trained. Amalgamation touches no weight
# of any teacher: its student imitates features. Their numbers answer different questions and can hardly ever be
# compared directly, so a notebook here repeats its paper's own comparison, with its own baselines, before it mixes
# anything.

# %% [markdown]
# ## The zoo
#
# The networks of the five papers, made for small images, are built by name; `width` multiplies all hidden channels.
# A name means the variant for small images: `resnet18` here has a 3x3 stem, torchvision's is `torchvision/resnet18`.

# %%
small = zoo.build("vgg11", num_classes=100, width=0.25)
print("vgg11, a quarter as wide:", [layer.out_channels for _, layer in convolutions(small)])

# %%
COLOURS = {"conv": "blue", "depthwise": "orange", "shortcut": "vermilion", "linear": "green"}
fig, ax = plt.subplots(figsize=(7.6, 5.8))
for y, name in enumerate(zoo.names()):
    model = zoo.build(name)
    layers = chain(model).layers
    for x, layer in enumerate(layers):
        tall = 0.9 * (len(layer.module.weight) / 1280) ** 0.5
        ax.bar(x, tall, 0.8, y - tall / 2, color=PALETTE[COLOURS[layer.kind]])
    million = sum(p.numel() for p in model.parameters()) / 1e6
    convs = sum(layer.kind != "linear" for layer in layers)
    ax.text(len(layers) + 0.5, y, f"{million:.2f} M, {convs} convolutions", va="center", size=8.5)
for kind, colour in COLOURS.items():
    ax.bar(0, 0, color=PALETTE[colour], label=kind)
ax.set(xlim=(-1, 150), ylim=(15.7, -0.7), xlabel="layer, in the order in which data meets it")
ax.set_yticks(range(len(zoo.names())), zoo.names())
ax.set_title("The zoo: the longest network is not the largest")
ax.legend(loc="upper right")
ax.grid(visible=False)

# %% [markdown]
# **What to notice.** A bar is a layer; its height is the square root of its output channels, so a bar twice as tall is
# four times as wide a layer. The label counts parameters in millions. Depth and size are different things: ResNet-110
# has the longest row and 1.7 million parameters, VGG11 has eight convolutions and 9.2 million. MobileNetV2 swings
# between wide and narrow in every block. A method that moves weights along these rows has to cope with all of this.

# %% [markdown]
# ## A network as a chain
#
# `chain(model)` reads a network's own graph. It finds the layers in the order in which data meets them and says which
# of them sit on a shortcut, at which resolution they work (a *stage*), and in which residual block.

# %%
read = chain(zoo.build("resnet8"))
for layer in read.layers:
    block = "-" if layer.block is None else layer.block
    print(f"{layer.name:22} {layer.kind:9} stage {layer.stage}  block {block}  batch norm {layer.norm or '-'}")

# %% [markdown]
# A network of your own works as well, as long as `torch.fx` can trace it. If it cannot, the error names the module and
# the line at which reading stopped, and what to pass instead.
#
# The chain also knows which channels belong together. Renumber the filters of one layer, and the next layer has to
# renumber its inputs. With a permutation matrix $P$ and any activation $\sigma$ that works entry by entry:
#
# $$W_2 P^{\top}\,\sigma(P\,W_1\,x) = W_2\,\sigma(W_1\,x)$$
#
# In plain loops:

# %%
torch.manual_seed(0)
first, second, x = torch.randn(6, 4), torch.randn(3, 6), torch.randn(4)
moved_first, moved_second = torch.empty_like(first), torch.empty_like(second)
for new, old in enumerate(torch.randperm(6).tolist()):
    moved_first[new] = first[old]
    moved_second[:, new] = second[:, old]
assert not torch.equal(moved_first, first)
torch.testing.assert_close(moved_second @ torch.relu(moved_first @ x), second @ torch.relu(first @ x))

# %% [markdown]
# In a residual network more hangs together: batch norms, and every layer whose output is added to the same sum.
# `chain(model).axes` lists these groups. We renumber the channels of every group at once; only the colours of the
# image and the order of the classes have to stay:

# %%
model = zoo.build("resnet8", width=0.25).double().eval()
pixels = torch.randn(4, 3, 32, 32, dtype=torch.float64)
before, state = model(pixels).detach(), model.state_dict()
free = [group for group in chain(model).axes if not group.fixed]
for group in free:
    group.permute_(state, torch.randperm(group.size))
model.load_state_dict(state)
torch.testing.assert_close(model(pixels).detach(), before)
largest = max(free, key=lambda group: len(group.members))
print(f"{len(free)} groups renumbered, the largest in {len(largest.members)} places: the same function")

# %% [markdown]
# **What to notice.** Nothing was printed but one line, and yet this is the strongest statement so far: a single wrong
# place would have changed the logits, and the `assert_close` would have stopped the notebook. It is also why matching
# is hard. Two networks can compute the same function and agree in no filter's position.

# %% [markdown]
# ## The explorer
#
# Notebooks here have controls. The picture below is an ordinary output, so it is there on a static page too; in
# JupyterLab the controls under it redraw it. Every toggle is also a parameter of the notebook, so a picture that you
# like can be had again: `hetlib run 00 -p NETWORK mobilenetv2 -p WIDTH 0.5`.


# %%
@dataclass(frozen=True)
class Look:
    network: Literal["plainnet5", "vgg11", "resnet8", "resnet20", "resnet18", "mobilenetv2"] = NETWORK
    width: float = lab.slider(WIDTH, 0.25, 2.0, 0.25)


def look(choice):
    model = zoo.build(choice.network, width=choice.width)
    sizes = [layer.weight.numel() / 1e3 for _, layer in convolutions(model)]
    late = sum(sizes[-(len(sizes) // 4) :]) / sum(sizes)
    fig, ax = plt.subplots(figsize=(7, 3))
    ax.bar(range(1, len(sizes) + 1), sizes, color=PALETTE["green"])
    ax.set(xlabel="convolution, in order", ylabel="weights (thousands)")
    ax.set_title(f"{choice.network}, width {choice.width:g}: the last quarter holds {100 * late:.0f} % of the weights")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return fig


lab.Explorer(look, Look(), run)

# %% [markdown]
# **What to notice.** Weights pile up at the end, where channels are many. A convolution has $O \cdot I \cdot k^2$ of
# them, so twice the width makes nearly every bar four times as tall: a "slightly wider" network is a lot more to fill.

# %%
half, whole = (sum(p.numel() for p in zoo.build(NETWORK, width=width).parameters()) for width in (0.5, 1.0))
print(f"{NETWORK}, twice as wide: {whole / half:.2f} times the parameters")
assert 3.5 < whole / half < 4

# %% [markdown]
# ## The data
#
# No download is needed. `shapes-source` and `shapes-target` are rendered here: a class is a texture on a shape, and
# place, size, rotation, colours, clutter and noise vary from image to image. The two sets share neither a shape nor a
# texture, so a network can carry over only what it has learned about edges, curves and patterns.

# %%
sets = {name: data.load(name, "test", count=12, seed=1) for name in ("shapes-source", "shapes-target")}
assert not set(sets["shapes-source"].classes) & set(sets["shapes-target"].classes)
fig, axes = plt.subplots(4, 6, figsize=(7.6, 5.8))
for rows, (name, images) in zip((axes[:2], axes[2:]), sets.items(), strict=True):
    for ax, index in zip(rows.flat, images.labels.argsort(), strict=True):
        ax.imshow(images.images[index].permute(1, 2, 0))
        ax.set_title(images.classes[images.labels[index]], size=9, weight="normal", loc="center")
        ax.set(xticks=[], yticks=[])
    rows[0, 0].set_ylabel(name)
fig.suptitle("One image of every class: no shape and no texture occurs in both sets", x=0.01, ha="left", weight="bold")
print(*sets.values(), sep="\n")

# %% [markdown]
# `digits`, 1,797 real handwritten ones of 8x8 pixels that scikit-learn carries, are for the fully connected networks.

# %%
digits = data.load("digits")
fig, axes = plt.subplots(1, 10, figsize=(7, 1.1))
for label, ax in enumerate(axes):
    ax.imshow(digits.images[digits.labels == label][0, 0], cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(digits.classes[label])
fig.suptitle("The first of each digit", x=0.01, ha="left", weight="bold")
print(digits)

# %% [markdown]
# Real data is one word away: notebooks that train take `-p DATA sub-cifar100` and the like. Files are read from
# `$HETLIB_DATA`, or from `data/`, in torchvision's own layout; `hetlib data get cifar100` fetches them and
# `hetlib data list` says what is there. What is missing is named:

# %%
try:
    data.load("cifar10", root="an-empty-folder")
except data.DataMissing as error:
    print(str(error).partition(".")[0])

# %% [markdown]
# Images stay whole numbers until they enter a network, and a batch is cropped and mirrored in one step. Random numbers
# come from a generator that is handed over, so the same seed gives the same crops and nothing depends on what ran
# before:

# %%
batch = sets["shapes-target"].images[:8]
views = [data.augment(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
assert torch.equal(views[0], views[1])
assert not torch.equal(views[0], views[2])
fig, axes = plt.subplots(3, 8, figsize=(7, 3))
for row, images, name in zip(axes, (batch, views[0], views[2]), ("original", "seed 1", "seed 2"), strict=True):
    for ax, image in zip(row, images, strict=True):
        ax.imshow(image.permute(1, 2, 0))
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
fig.suptitle("Each seed crops and mirrors in its own way", x=0.01, ha="left", weight="bold")
assert batch.dtype == torch.uint8

# %% [markdown]
# ## Your first transfer, in three lines
#
# Back to the pair that did not fit. `transfer` changes its target in place and reports what it did, one row per layer
# of the target.

# %%
source, target = zoo.build("vgg11", width=0.5), zoo.build("resnet8")
report = hmt.transfer(source, target)
report

# %% tags=["picture"]
report.plot("A half-width VGG11 into ResNet-8: seven of its eight convolutions find a place")

# %% [markdown]
# **What to notice.** All seven convolutions of the target are fed, and VGG11's last is left over. Where the target is
# wider, channels are *repeated*; where it is narrower, the rest is *cropped*, and what the source knew in those filters
# is lost. The projection shortcuts of ResNet-8 are not in the table: HMT leaves them as they were. A report can be
# checked against the weights themselves:

# %%
row = report.rows[0]
given, placed = (net.get_submodule(name).weight for net, name in ((source, row.source), (target, row.target)))
assert torch.equal(placed[:32], given)
assert torch.equal(placed[32:], given)
print(f"{row.target}: {row.done}")

# %% [markdown]
# That the transfer runs does not mean that it helps. Whether it does is an empirical question, and
# [notebook 01](01_hmt.ipynb) asks it properly: with trainings over several seeds, with intervals, and against a
# shuffled order that should do worse.

# %% [markdown]
# ## How to read a notebook here
#
# All notebooks have one skeleton: a claim; the parameters in one cell; the problem in one picture; a few rounds of
# *idea, equation, plain loop, the fast function, a figure, what to notice*; then the experiment, the ablations,
# exercises and a quiz. Code that is not the subject lives in the package. Code that *is* the subject appears as the
# plainest loop that could be written, and an assert says that hetlib's function gives the same.
#
# * **An `assert` is a promise.** It stands where you would otherwise have to believe us. If one fails, the notebook
#   stops.
# * **`PRESET`** sets how big everything is. `smoke` proves that it runs, `classroom` fits a lesson, `paper` is the
#   paper's data and protocol as far as they are known, for hours or a GPU. In a shell:
#   `hetlib run 01 --preset smoke -p ORDER shuffle`. A parameter that the notebook does not declare is refused, with the
#   nearest name.
# * **Controls** need a live kernel (`make lab`). A click redraws at once and trains nothing; what has to train has a
#   *Run* button. *Copy as command* gives the line that runs the notebook, unattended, with the settings you see. In
#   front of a class, `ZOOM` 1.5 makes every figure fit a projector.
# * **What takes long is kept.** A trained network is stored under everything it depends on, its code included. Run a
#   notebook again and it is found; change one setting and only what that touches is trained.
# * **Tables** say *paper, released code, ours, verdict*; ours with mean, 95 % interval and number of seeds. Where we
#   know of no published number, the table says *not known*; where we have not run something, *not run*.
# * **Records** of real runs lie in `results/`, one file per run with data, device, versions and every seed's number.
#   [papers.md](../papers.md) takes its tables from them and from nowhere else, and lists where we deviate.

# %% [markdown]
# ## Exercises
#
# Exercises check themselves against a hidden solution on fresh random inputs and explain the first difference. In the
# exercise notebooks (`make exercises`) the solutions are taken out; here they are shown.
#
# **1. A warm-up.** `weights(outputs, inputs, kernel)`: how many weights has a convolution without bias?


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
# **2.** `wrap(n, m)`: HMT fills m places from n filters by going round and round. Which filter lands in each place?
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
# ## Three questions
#
# <details><summary>Why does renumbering the channels of a whole group change nothing?</summary>
#
# Channels have no order that the function could feel: each number is only a name for a feature. As long as everyone
# who uses the name changes it together, the network adds up the same terms in another order.
# </details>
#
# <details><summary>Two networks have equally many parameters. Does a transfer between them lose nothing?</summary>
#
# It may lose a great deal. Shapes decide what fits, not totals: layers can be left over, kernels stretched and filters
# repeated even when the totals agree.
# </details>
#
# <details><summary>Suppose a table shows 25 ± 4 % for one start and 18 ± 4 % for another, three seeds each. Which is
# better?</summary>
#
# The first one, although the intervals overlap. Three seeds and an interval of ± 4 mean a standard error of 0.93 (4 is
# 4.30 times that, Student's t for two degrees of freedom). The difference of the two means is 7, and its standard error
# 0.93 times the square root of 2, which is 1.31. With four degrees of freedom its interval is 2.78 times that: 7 ± 3.7,
# which leaves out 0. Intervals that overlap decide nothing, in either direction; the interval of the difference does.
# If both starts were trained on the same seeds, take the differences seed by seed: they may be far steadier still. And
# where 0 is inside, "no difference shown" is an honest verdict; it is not the same as "no difference".
# </details>

# %%
shown = (data.load("shapes-target", count=240), sets["shapes-target"])
record = run.record({}, shown, networks=len(zoo.names()))

# %% [markdown]
# ## References and what to read next
#
# * The five papers, their claims, everything that was run and every known deviation: [papers.md](../papers.md).
# * Next: [01 · HMT](01_hmt.ipynb), where VGG11 moves into PlainNet5 and ResNet-8, in order, shuffled and not at all,
#   and where some filters turn out to be prisoners of their twins.
