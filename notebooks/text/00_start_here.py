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
# # 0 · Start here: what a network has learned, in another shape
#
# **The claim of this collection.** What one neural network has learned can be of use to another
# of a different depth, width, kernel size or topology. Five papers say how, each in its own
# words. Here all five are written in one mechanism, stand side by side, and can be tried.
#
# **You will be able to** move a trained network into another shape in three lines, and say
# what that was worth; read a difference between trainings with its interval; exchange a step
# of one paper for a step of another; and say which channels of a network belong together.
#
# ## Three ways in
#
# * **You explore on your own.** Read on as far as *What it is worth*, which is a quarter of an
#   hour. Then open this page in JupyterLab (`make lab`) and try the one explorer, under
#   *Exchange one step*. The next notebook is [01 · HMT](01_hmt.ipynb).
# * **You teach.** A class should know what a convolution, a batch norm and an epoch are, and
#   read Python. A plan for 90 minutes stands at the end of this page. `make exercises` writes
#   all notebooks without their solutions, and `ZOOM = 1.5` makes figures fit a projector.
# * **You run it unattended.** `make reproduce` trains whatever is missing and runs every
#   notebook. Exit code 0 means that all of them ran to their end; otherwise the ones that
#   failed are named. Each run leaves a folder in `runs/` with the executed notebook and a
#   `record.json`; `runs/report.html` shows them all. The table has the times.
#
# | notebook | the question it asks | first run, two cores |
# |---|---|---|
# | 00 · this one | what is there, and is it worth anything? | 7 minutes |
# | [01 · HMT](01_hmt.ipynb) | do a VGG's convolutions help a network of another shape? | 6 minutes |
# | [02 · CLAFusion](02_clafusion.ipynb) | can two networks of different depth become one? | 3 minutes |
# | [03 · Grafting](03_grafting.ipynb) | do networks improve by exchanging weights while they train? | 6 minutes |
# | [04 · Amalgamation](04_amalgamation.ipynb) | can one student learn from many teachers, unlabelled? | 15 minutes |
# | [05 · TLV](05_tlv.ipynb) | is variance a good way to choose filters? | 3 minutes |

# %% [markdown]
# ## How to read a page here
#
# * **You can read the page without running Python.** Pictures and numbers are outputs of the
#   cells above them. Code that only draws is folded in JupyterLab; click on its three dots.
# * **An `assert` is a promise.** It stands where you would otherwise have to believe us. If
#   one fails, the notebook stops.
# * **± is a 95 % interval** of a mean, by Student's t over *n* seeds. A seed is one repetition
#   with other random numbers. Two ways of training are compared by their *difference on the
#   same seed*. "Better" means that the interval of this difference excludes 0; otherwise we
#   write "no difference shown", which is not the same as "no difference".
# * **`PRESET`** sets how big everything is. `smoke` proves that it runs, `classroom` fits a
#   lesson and is what you see here, `reduced` and `paper` use the paper's data. This notebook
#   is at most as big as `classroom`.
# * **Trained networks are kept.** Each is stored with all the settings and code it depends on.
#   Run a notebook again and it is found; change one setting and only what that touches is
#   trained anew.

# %% tags=["parameters"]
PRESET: str = "classroom"  # smoke, classroom, reduced or paper; the last two are as classroom here
SEEDS: int = 0  # trainings per arm; 0 takes the preset's own number
ZOOM: float = 1.0  # size of the figures: 1 fits a laptop, 1.5 a projector
MATCH: str = "by ratio"  # explorer: in order, shuffled, every second or by ratio
FIT: str = "cyclic"  # explorer: cyclic or by variance

# %%
# %matplotlib inline
from dataclasses import dataclass
from typing import Literal

import torch
from IPython.display import Markdown, display
from matplotlib import pyplot as plt

from hetlib import data, hmt, lab, match, tlv, zoo
from hetlib.chain import chain, convolutions
from hetlib.experiments import hmt_figures as pictures
from hetlib.experiments import mixed
from hetlib.lab import figures
from hetlib.lab.statistics import difference
from hetlib.transfer import Transfer

run = lab.start("00_start_here", PRESET, seeds=SEEDS or None, zoom=ZOOM)
plan = mixed.jobs(PRESET, run.seeds)
first = plan["HMT", run.seeds[0]]

# %% tags=["hide-input"]
# Trained on the first run, and kept. A training is described by a `Job`; `results` has all.
trained = lab.train_all(list(plan.values()), run.cache, run.device)
results = dict(zip(plan, trained, strict=True))


def history(arm):
    return [results[arm, seed].history for seed in run.seeds]


def final(arm):
    return [each.final for each in history(arm)]


def gain(arm, baseline="HMT"):
    return ", ".join(difference(final(arm), final(baseline)))


# %% tags=["hide-input"]
few, test = first.load("train"), first.load("test")
chance, n = 100 / few.num_classes, len(run.seeds)
none, fed = (sum(final(arm)) / n for arm in ("none", "HMT"))
task = f"{len(few)} rendered images of {few.num_classes} classes"
Markdown(f"""**What we found** at `{PRESET}`, on {task}, {n} trainings each:
* From random weights a ResNet-8 gets **{none:.1f} %** of the test images right. From the weights
  of a trained VGG11, moved by HMT, it gets **{fed:.1f} %**. Guessing gives {chance:.1f} %. The
  difference on the same seed is {gain("HMT", "none")}.
* TLV's way to fit layers in place of HMT's: {gain("HMT's match, TLV's fit")}. TLV's way to match
  layers in place of HMT's: {gain("TLV's match, HMT's fit")}.
* Renumbering the channels of a trained ResNet-8 changes none of its {len(test):,} answers.""")

# %% [markdown]
# ## The problem in one picture
#
# We have a VGG11 that somebody trained, and want a ResNet-8: narrower, with fewer layers one
# after another, and with shortcuts. (Both are a quarter as wide as usual, to train fast.) PyTorch
# moves weights by name, so the first attempt ends with a list of names. Real messages are
# longer; we cut every line.

# %%
source, target = zoo.build("vgg11", num_classes=12, width=0.25), first.build()
try:
    target.load_state_dict(source.state_dict())
except RuntimeError as error:
    print("\n".join(line[:88] + " ..." for line in str(error).splitlines()))

# %% [markdown]
# Names are only names. So we ignore them and look at the shapes of the convolutions, first
# beside first, second beside second:

# %%
pairs = list(zip(convolutions(source), convolutions(target), strict=False))
for number, ((_, ours), (_, theirs)) in enumerate(pairs, 1):
    same = "fits" if ours.weight.shape == theirs.weight.shape else "does not fit"
    print(number, tuple(ours.weight.shape), tuple(theirs.weight.shape), same)


# %% tags=["hide-input"]
pictures.silhouettes({"VGG11: what we have": source, "ResNet-8: what we want": target})

# %% [markdown]
# **What to notice.** One network is longer and wider than the other, and only the first layers
# have the same shape. Even bars of equal length need not fit, for a convolution has inputs, too.
# (ResNet-8 has three more convolutions, on its shortcuts, which are not drawn.) *Which layer
# goes where, and how is it made to fit?* Each of the five papers has an answer, or a way round.

# %% [markdown]
# ## The two tasks
#
# No download is needed: images are rendered here. A class is a texture on a shape; place,
# size, rotation, colours, clutter and noise vary. The source was trained on plenty of images
# of one set, the target gets few of the other. No shape and no texture occurs in both sets. What
# can be carried over is what images have in common: edges, curves, patterns, colours, noise.

# %%
many = first.sources[0].load("train")
assert not set(many.classes) & set(few.classes)
print(f"source: {len(many):,} images of {many.num_classes} classes")
print(f"target: {len(few):,} images of {few.num_classes} others, {len(test):,} to test on")
print(f"guessing is right {chance:.1f} % of the time")

# %% tags=["hide-input"]
pictures.tasks({"source": many, "target": few})

# %% [markdown]
# ## A transfer in three lines
#
# Now with the *trained* VGG11. `hmt.transfer` changes its target in place and reports what it did
# with every layer. It is HMT, the method of notebook 01 (Wang et al., *Heterogeneous Model
# Transfer*): convolutions go in order; a kernel of another size is resized like an image;
# channels are repeated where the target is wider and cropped where it is narrower. Biases, batch
# norms, shortcuts and the classifier of the target stay as they are.

# %%
source = lab.train(first.sources[0], run.cache, run.device).model
target = first.build()
report = hmt.transfer(source, target)
report

# %% tags=["picture"]
report.plot("Seven of VGG11's eight convolutions find a place in ResNet-8")

# %% [markdown]
# **What to notice.** The first seven convolutions of VGG11 go into the seven of ResNet-8's main
# path, and the eighth is left over. Nearly all are *cropped*: ResNet-8 is narrower, and what
# VGG11 knew in the other filters is lost. What is grey is not used, or keeps its random initial
# weights. The report can be checked against the weights themselves:

# %%
row = report.rows[1]
given = source.get_submodule(row.source).weight
placed = target.get_submodule(row.target).weight
assert torch.equal(placed, given[: len(placed)])
print(f"{row.source} {row.source_shape} -> {row.target} {row.target_shape}: {row.done}")

# %% [markdown]
# ## What it is worth
#
# That a transfer runs does not mean that it helps. So ResNet-8 was trained on its few images
# twice, from random weights and from the transferred ones, and this pair was repeated with other
# seeds. A seed draws everything but the test images: the training of the source, the images to
# learn from, the target's random weights and the order of its images.

# %% tags=["hide-input"]
lines = {"random weights": history("none"), "weights of VGG11, by HMT": history("HMT")}
curves = {name: [each.top1 for each in found] for name, found in lines.items()}
finding = "After 20 epochs the transferred start is ahead"
pictures.over_time(curves, history("none")[0].evaluated, chance, finding)

# %% [markdown]
# **What to notice.** Bands are 95 % intervals over seeds, measured every five epochs. Early on they
# overlap, because the seeds still differ widely; after the last epoch they are apart. Both
# curves still rise, so this is a statement about 20 epochs. These images are made for a lesson
# and say nothing about photographs; what came out there is in [papers.md](../papers.md). Whether
# any trained weights would do as well, in any order, is what notebook 01 asks next.

# %% [markdown]
# ## Five papers, one mechanism
#
# Every method of this collection is a sentence with three parts. A **match** says which layer
# of the source feeds which layer of the target. A **fit** says what each tensor of the target
# becomes. A **blend** says how much the target keeps of its own values. Before it, layers are
# read from the networks; after it, the target is trained.
#
# | paper | claims, in one sentence | notebook |
# |---|---|---|
# | **HMT** | convolutions, put in order into another shape, are a better start than random weights | 01 |
# | **CLAFusion** | two trained networks of different depth can be brought to one depth and averaged | 02 |
# | **Grafting** | networks trained side by side improve when each takes up weights of its neighbour | 03 |
# | **Amalgamation** | one student can be customised from several teachers without any human label | 04 |
# | **TLV** | filters are best chosen by their variance, and features crossed over in training | 05 |
#
# These are *their* claims. Which of them could be confirmed, and which could not, is in
# [papers.md](../papers.md), with titles and authors. The picture names the parts of each method;
# the notebooks explain them.

# %% tags=["hide-input"]
WORDS = ["read", "match", "fit", "blend", "train"]
SENTENCES = {
    "HMT": "convolutions|in order|kernels bilinear,\nwidth cyclic|overwrite|",
    "CLAFusion": "layer groups|least layer cost|insert or merge\nlayers|align, then\naverage|finetune",
    "grafting": "same network|neighbour\nin a ring||average, weighted\nby entropy|anew each\nepoch",
    "amalgamation": "features at\nfive depths|by resolution|learned 1x1\nbridges||one teacher\nper image",
    "TLV": "convolutions|by index ratio|rank by variance,\npad or pool|overwrite|feature\ncrossover",
}
fig, ax = plt.subplots(figsize=(7.6, 3.6))
for y, (paper, words) in enumerate(SENTENCES.items()):
    ax.text(-0.6, y, paper, ha="right", va="center", weight="bold", size=10)
    for x, word in enumerate(words.split("|")):
        if word:
            box = {"boxstyle": "round,pad=0.35", "fc": "#BFDDF0", "ec": figures.PALETTE["blue"]}
            ax.text(x, y, word, ha="center", va="center", size=8.5, bbox=box)
for x, word in enumerate(WORDS):
    look = {"ha": "center", "weight": "bold", "color": figures.PALETTE["blue"]}
    ax.text(x, -0.8, f"{word}  →" if x < 4 else word, **look)
ax.set(xlim=(-1.75, 4.55), ylim=(4.5, -1.2), title="One mechanism, five sentences")
ax.axis("off")
ax.grid(visible=False)

# %% [markdown]
# **What to notice.** A column lists the alternatives for one step; where a cell is empty, the paper
# has no such step. The rows differ in kind as well. HMT and TLV write a network's first weights.
# CLAFusion makes one trained network of two. Grafting changes weights while they are trained.
# In amalgamation no weight moves: a student imitates features. So the numbers of two papers can
# hardly ever be compared directly, and each notebook repeats its own paper's comparison first.

# %% [markdown]
# ## Exchange one step
#
# HMT and TLV differ in both steps, and any match goes with any fit. HMT matches convolutions in
# order and repeats or crops channels. TLV (Duong et al., *Variance-based Mapping*) matches by
# ratio: every layer of the target takes the source layer at the same share of the depth. It
# ranks filters by their variance, keeps some of the most and some of the least varied, and
# shuffles them. (Feature crossover, TLV's third part, is left out here.) This is TLV's match with
# HMT's fit, in one line:

# %%
mix = Transfer(tlv.ByRatio(), (hmt.Cyclic(),))
assert mix == mixed.ARMS["TLV's match, HMT's fit"]
print(str(mix(source, first.build())).partition("\n")[0])

# %% tags=["hide-input"]
found = {arm: final(arm) for arm in mixed.ARMS}
ax = figures.axes(height=3.4)
ax.axvline(chance, color="grey", linestyle=":")
ax.text(chance + 0.5, 0.5, "guessing", va="center", size=8, color="grey")
figures.bars_with_intervals(ax, found, title="Both fits help here; HMT's helps more")

# %%
display(lab.paired_differences(found, baseline="HMT"))
Markdown(f"""With TLV's match, HMT's fit in place of TLV's gives
{gain("TLV's match, HMT's fit", "TLV")}. With TLV's fit, TLV's match in place of HMT's gives
{gain("TLV", "HMT's match, TLV's fit")}.""")

# %% [markdown]
# **What to notice.** Bars are means, brackets 95 % intervals, dots seeds. *TLV's match, HMT's fit*
# differs from HMT in the match alone, *HMT's match, TLV's fit* in the fit alone. With either
# match the fit makes a difference; for the match none is shown, though by ratio all ten
# convolutions are fed and in order only seven. A reason may be that TLV's fit shuffles filters
# and their inputs, so that a filter no longer meets the inputs for which it was trained;
# notebook 05 tests that. *Try* other pairs below: a click draws which layer feeds which, and
# trains nothing.


# %% tags=["hide-input"]
MATCHES = {
    "in order": hmt.ByPosition(),
    "shuffled": hmt.ByPosition("shuffle"),
    "every second": hmt.ByPosition("interval"),
    "by ratio": tlv.ByRatio(),
}
FITS = {"cyclic": hmt.Cyclic(), "by variance": tlv.ByVariance()}


@dataclass(frozen=True)
class Sentence:
    match: Literal["in order", "shuffled", "every second", "by ratio"] = MATCH
    fit: Literal["cyclic", "by variance"] = FIT


def sentence(choice):
    made = Transfer(MATCHES[choice.match], (FITS[choice.fit],))
    report = made(source, first.build())
    fed = sum(row.fed for row in report.rows)
    return report.plot(f"Matched {choice.match}, fitted {choice.fit}: {fed} layers fed")


lab.Explorer(sentence, Sentence(), run)

# %% [markdown]
# **What to notice.** By ratio, every convolution of ResNet-8 is fed, those on its shortcuts
# included, and some layers of VGG11 feed two. The fit moves no arrow; it decides what arrives. In
# JupyterLab, *Copy as command* gives the line that runs this notebook with the settings you see.

# %% [markdown]
# ## A network as a chain
#
# To match layers one has to know their order. `chain(model)` reads a network's own graph. It
# finds the layers in the order in which data meets them and says which of them sit on a
# shortcut, at which resolution they work (a *stage*), and in which residual block.

# %%
read = chain(target)
for layer in read.layers:
    block = "-" if layer.block is None else layer.block
    place = f"stage {layer.stage}  block {block}  batch norm {layer.norm or '-'}"
    print(f"{layer.name:22} {layer.kind:9} {place}")

# %% [markdown]
# A network of your own works as well, as long as `torch.fx` can trace it. If it cannot, the
# error names the module and the line at which reading stopped, and what to pass instead.
#
# The chain also knows which channels belong together. Renumber the filters of one layer, and
# the next layer has to renumber its inputs. With a permutation matrix $P$ and any activation
# $\sigma$ that works entry by entry:
#
# $$W_2 P^{\top}\,\sigma(P\,W_1\,x) = W_2\,\sigma(W_1\,x)$$
#
# In one loop:

# %%
torch.manual_seed(0)
before, after, x = torch.randn(6, 4), torch.randn(3, 6), torch.randn(4)
moved_before, moved_after = torch.empty_like(before), torch.empty_like(after)
for new, old in enumerate(torch.randperm(6).tolist()):
    moved_before[new] = before[old]
    moved_after[:, new] = after[:, old]
assert not torch.equal(moved_before, before)
moved = moved_after @ torch.relu(moved_before @ x)
torch.testing.assert_close(moved, after @ torch.relu(before @ x))

# %% [markdown]
# In a residual network more channels depend on each other: batch norms, and every layer whose
# output is added to the same sum. `chain(model).axes` lists these groups. We renumber the
# channels of every group at once, in a trained ResNet-8; only the colours of the image and the
# order of the classes have to stay:

# %%
model = lab.train(first, run.cache, run.device).model.double()
pixels = test.images.double() / 255
logits, state = model(pixels).detach(), model.state_dict()
free = [group for group in chain(model).axes if not group.fixed]
for group in free:
    group.permute_(state, torch.randperm(group.size))
model.load_state_dict(state)
torch.testing.assert_close(model(pixels).detach(), logits)
largest = max(free, key=lambda group: len(group.members))
print(f"{len(free)} groups renumbered: the same logits. The largest group stands in")
print(*(f"  {member.name}, axis {member.axis}" for member in largest.members), sep="\n")

# %% [markdown]
# **What to notice.** All these tensors were renumbered together, and `assert_close` found the same
# logits for all test images. Two networks can compute the same function and agree in no filter's
# position. That is why CLAFusion has to align neurons before it averages them.

# %% [markdown]
# ## The zoo
#
# The networks of the five papers, made for small images, are built by name; `width` multiplies
# all hidden channels. `resnet18` here has a 3x3 first convolution; torchvision's own is
# `torchvision/resnet18`.

# %% tags=["hide-input"]
COLOURS = {"conv": "blue", "depthwise": "orange", "shortcut": "vermilion", "linear": "green"}
fig, ax = plt.subplots(figsize=(7.6, 5.8))
for y, name in enumerate(zoo.names()):
    model = zoo.build(name)
    layers = chain(model).layers
    for x, layer in enumerate(layers):
        tall = 0.9 * (len(layer.module.weight) / 1280) ** 0.5
        ax.bar(x, tall, 0.8, y - tall / 2, color=figures.PALETTE[COLOURS[layer.kind]])
    million = sum(p.numel() for p in model.parameters()) / 1e6
    convs = sum(layer.kind != "linear" for layer in layers)
    ax.text(len(layers) + 0.5, y, f"{million:.2f} M, {convs} convolutions", va="center", size=8.5)
for kind, colour in COLOURS.items():
    ax.bar(0, 0, color=figures.PALETTE[colour], label=kind)
ax.set(xlim=(-1, 150), ylim=(15.7, -0.7), xlabel="layer, in the order of the data")
ax.set_yticks(range(len(zoo.names())), zoo.names())
ax.set_title("The zoo: the longest network is not the largest")
ax.legend(loc="upper right")
ax.grid(visible=False)

# %% [markdown]
# **What to notice.** A bar is a layer; its height is the square root of its output channels. The
# label counts parameters in millions, and convolutions with those on shortcuts. All are drawn at
# full width; ResNet-20 to 110 are narrow, and their shortcuts have no weights. Depth and
# size are different things: ResNet-110 has the longest row and 1.7 million parameters, VGG11
# eight convolutions and 9.2 million. MobileNetV2 swings between wide and narrow in every block.

# %% [markdown]
# ## Your own data, and real photographs
#
# Notebooks that train take `-p DATA sub-cifar100` and the like. Files are read from
# `$HETLIB_DATA`, or from `data/`, in torchvision's own layout; `hetlib data get cifar100`
# fetches them and `hetlib data list` says what is there. What is missing is named:

# %%
try:
    data.load("cifar10", root="an-empty-folder")
except data.DataMissing as error:
    print(str(error).partition(".")[0])

# %% [markdown]
# Numbers of real runs lie in `results/`, one file per run with its command, data, device,
# versions and every seed's number. [papers.md](../papers.md) takes its tables from them and
# from nowhere else. Its tables say *paper, released code, ours, verdict*. Where we know of no
# published number they say *not known*; where we have not run something, *not run*.

# %% [markdown]
# ## A lesson of 90 minutes
#
# | minutes | what | where |
# |---|---|---|
# | 10 | why names and shapes do not match; the class says what it would try | this page, *The problem* |
# | 10 | a transfer, live; what is cropped, what keeps its random weights | *A transfer in three lines* |
# | 10 | what it is worth; what ± means; why the same seed | *What it is worth* |
# | 25 | one kernel in another size, one layer in another width, by hand | notebook 01, *Round 2*, *Round 3* |
# | 20 | the first two exercises of notebook 01, in pairs | `build/exercises/01_hmt.ipynb` |
# | 10 | which step counts? The class bets, then sees the picture | *Exchange one step* |
# | 5 | the three questions below | |

# %% [markdown]
# ## Exercises
#
# Exercises check themselves against a hidden solution on fresh random inputs and explain the
# first difference. Here the solutions are shown; `make exercises` writes the notebook without
# them to `build/exercises`.
#
# **1.** `by_ratio(n, m)`: TLV's match. Of *m* target layers, counted from 0, layer *j* takes the
# source layer $j\,n/m$, rounded as Python's `round` does, but never one beyond the last of the
# *n*. Return a list of *m* numbers.


# %%
two_numbers = lambda generator: tuple(torch.randint(1, 20, (2,), generator=generator).tolist())
lab.exercise("by_ratio", match.by_ratio, two_numbers, "the lesser of the rounded place and n - 1")


# %% tags=["solution"]
def by_ratio(n, m):
    return [min(round(j * n / m), n - 1) for j in range(m)]


# %%
lab.check("by_ratio", by_ratio)

# %% [markdown]
# **2.** `wrap(n, m)`: HMT's fit. It fills *m* places from *n* filters by going round and round.
# Which filter lands in each place? Return a list of *m* numbers.


# %%
def by_transfer(n, m):
    return hmt.resize(torch.arange(float(n)), (m,)).long().tolist()


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
# Channels have no order that the function could feel: each number is only a name for a feature.
# As long as everyone who uses the name changes it together, the network adds up the same terms
# in another order.
# </details>
#
# <details><summary>Two networks have equally many parameters. Does a transfer between them lose
# nothing?</summary>
#
# It may lose a great deal. Shapes decide what fits, not totals: layers can be left over, kernels
# stretched and filters repeated even when the totals agree.
# </details>
#
# <details><summary>Suppose a table shows 25 ± 4 % for one start and 18 ± 4 % for another, three
# seeds each. Which is better?</summary>
#
# The first one, although the intervals overlap. Three seeds and an interval of ± 4 mean a
# standard error of 0.93 (4 is 4.30 times that, Student's t for two degrees of freedom). The
# difference of the two means is 7, and its standard error 0.93 times the square root of 2,
# which is 1.31. With four degrees of freedom its interval is 2.78 times that: 7 ± 3.7, which
# leaves out 0. Intervals that overlap decide nothing, in either direction; the interval of the
# difference does. If both starts were trained on the same seeds, take the differences seed by
# seed: they may be far steadier still.
# </details>

# %%
metrics = {f"resnet8/{arm}/final": {"unit": "%", "values": final(arm)} for arm in mixed.ARMS}
record = run.record(metrics, (few, test), networks=len(zoo.names()))

# %% [markdown]
# ## References and what to read next
#
# * The five papers, their claims, everything that was run and every known deviation:
#   [papers.md](../papers.md).
# * Next: [01 · HMT](01_hmt.ipynb), where VGG11 moves into PlainNet5 and ResNet-8, in order,
#   shuffled and not at all, and where some filters cannot be told apart from their twins.
