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
# # 5 · TLV: filters chosen by their variance
#
# **The claim.** A convolution of any shape can be filled from a trained one by choosing filters by their variance.
# With linear layers drawn from the source's statistics, and with features of the pretrained network mixed in while
# the target trains, the target ends higher than from He initialisation (Duong et al., *Heterogeneous Transfer
# Learning Using Variance-based Mapping and Pre-trained Feature Crossover*, AICI 2024).
#
# **You will be able to** pair the layers of any two networks by ratio; fit a weight into another width in all eight
# cases; say what a shuffle leaves of a layer and what it destroys; and take a method of three parts apart, so that
# each part has to show what it is worth.
#
# | preset | time on two cores | data |
# |---|---|---|
# | `smoke` | under a minute | rendered shapes, far too little of them to learn much |
# | `classroom` | about three minutes | rendered shapes |
# | `paper` | days; take a GPU | CIFAR-100 or CIFAR-10, 40,000 images to train on, 10,000 to choose the epoch by |
#
# The chapter's text is not available to us. What we know is the released code and the two tables of its README, from
# a single seed, where the whole method gains about one point on CIFAR. "The release" below is that code.

# %% tags=["parameters"]
PRESET: str = "classroom"  # smoke, classroom, reduced or paper
DATA: str = ""  # training set of the targets: "cifar10-40k" or "cifar100-40k"; empty takes the preset's own
SEEDS: int = 0  # trainings per curve; 0 takes the preset's own number
WIDTH: float = 0.0  # width of every hidden layer of the source, as a factor; 0 takes the preset's own
EPOCHS: int = 0  # epochs of the targets; 0 takes the preset's own
ZOOM: float = 1.0  # size of the figures: 1 fits a laptop, 1.5 a projector
N_SOURCE: int = 13  # explorers: layers of the source, 1 to 24
N_TARGET: int = 20  # explorers: layers of the target, 1 to 24
HOW: str = "interleaved"  # explorers: interleaved, max, min, two_tailed or random
N: int = 32  # explorers: filters chosen, 1 to 64
SIDE: str = "keep"  # explorers: keep filters of the source, or drop filters of the target
CASE: str = "more of both"  # explorers: one of the eight cases of width, as "fewer filters"
DROP: str = "random"  # explorers: which of the target's own are replaced; min, max, interleaved or random
SHUFFLE: str = "both"  # explorers: both, filters, inputs or off
COMPARE: str = "peers"  # explorers: parts, peers, choice, shuffle, probability or replacement
MEASURE: str = "top1"  # explorers: top1, top5 or test_loss
P: float = 0.1  # explorers: probability of the crossover; 0, 0.05, 0.1, 0.2 or 0.5
MASK: str = "batch"  # explorers: batch or image
MIXED: str = "features"  # explorers: features, mean or zeros

# %%
# %matplotlib inline
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Literal

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display

from hetlib import clone, lab, match, tlv, zoo
from hetlib.experiments import hmt_figures, tlv_figures
from hetlib.experiments import tlv as experiments
from hetlib.lab import figures, records
from hetlib.lab.statistics import Table, difference
from hetlib.training import evaluate

run = lab.start("05_tlv", PRESET, DATA or None, SEEDS or None, zoom=ZOOM)
setting = {"data": DATA, "width": WIDTH, "epochs": EPOCHS}
teacher = experiments.source(run.preset, DATA, WIDTH)
recipe, ARMS = experiments.recipe(run.preset, EPOCHS), experiments.ARMS
plan = experiments.jobs(run.preset, run.seeds, **setting)
lab.estimate(list(plan.values()), run)  # hours and memory, at presets "reduced" and "paper"

# %% tags=["hide-input"]
# Trained on the first run, and kept. A training is described by a `Job`.
learned, *trainings = lab.train_all([teacher, *plan.values()], run.cache, run.device)
results = dict(zip(plan, trainings, strict=True))
first = plan["he", run.seeds[0]]
many, few, test = teacher.load("train"), first.load("train"), first.load("test")
chance = 100 / few.num_classes


def scores(arm):
    histories = [results[arm, seed].history for seed in run.seeds]
    return [history.selected if history.validation else history.final for history in histories]


def gain(arm, baseline="he"):
    return ", ".join(difference(scores(arm), scores(baseline)))


kept = records.read_all(clone.folder().parent / "results")
kept = [each for each in kept if (each.notebook, each.preset) == ("05_tlv", "paper")]
real = {name: found["values"] for each in kept for name, found in each.metrics.items()}


def real_gain(arm, data="cifar100", baseline="he"):
    found, other = (real[f"{data}/resnet18/{each}/top1"] for each in (arm, baseline))
    return ", ".join(difference(found, other))


# %% tags=["hide-input"]
Markdown(f"""**What we found**, as mean differences on the same seed (± is their 95 % interval):
* On photographs, after 4 epochs of 200, convolutions by variance against He initialisation: on
  CIFAR-100 {real_gain("base")}; on CIFAR-10 {real_gain("base", "cifar10")}. The whole method:
  {real_gain("full")}; {real_gain("full", "cifar10")}.
* At `{PRESET}`, on {len(few)} rendered images: convolutions by variance {gain("base")}; without
  their shuffle {gain("base_unshuffled")}; the whole method {gain("full")}.
* Filters kept at random, in place of those chosen by variance: {gain("keep random", "base")}.""")

# %% [markdown]
# ## The problem in one picture
#
# VGG16 has 13 convolutions, ResNet-18 has 20, projection shortcuts included. TLV wants *every*
# layer of the target to receive weights, so target layer $i$ takes source layer
# $\mathrm{round}(i\,n_s / n_t)$, halves to the even side, and never more than the last. In the
# mechanism that all five papers share, `Transfer(ByRatio(), (ByVariance(), LinearStatistics()))`:
# the *match* pairs every convolution, as registered, by ratio; the *fit* pools or pads kernels,
# chooses filters by variance and **shuffles** them. Then the target is trained, with feature
# crossover.


# %% tags=["picture", "hide-input"]
@dataclass(frozen=True)
class Pairing:
    n_source: int = lab.slider(N_SOURCE, 1, 24, 1, "layers of the source")
    n_target: int = lab.slider(N_TARGET, 1, 24, 1, "layers of the target")


def pairing(choice):
    ax, taken = figures.axes(7, 3), match.by_ratio(choice.n_source, choice.n_target)
    exact = [i * choice.n_source / choice.n_target for i in range(choice.n_target)]
    for place, j in zip(exact, taken, strict=True):
        colour = "vermilion" if place % 1 == 0.5 else "blue"
        ax.plot((place, j), (0, 1), color=figures.PALETTE[colour], linewidth=1.4)
    for height, places in ((0, exact), (1, range(choice.n_source))):
        for number, place in enumerate(places):
            colour = "black" if height == 0 or number in taken else "#AAAAAA"
            ax.text(place, 1.3 * height - 0.15, number, ha="center", va="center", size=8, color=colour)
    unused = choice.n_source - len(set(taken))
    ax.set(yticks=(0, 1), yticklabels=("target", "source"), ylim=(-0.3, 1.3), xlabel="place in the source")
    ax.set_title(f"{choice.n_source} layers feed {choice.n_target}: targets round their place, {unused} never used")
    return ax.figure


lab.Explorer(pairing, Pairing(), run)


# %% [markdown]
# **What to notice.** A target layer stands where its ratio says and leans to the nearest source layer. An orange-red
# line is an exact half, where "to the even side" decides. With 13 into 20 each source layer is used once or twice.
# Set the sliders to 8 and 4: the list is 0, 2, 4, 6, which notebook 01 calls *interval*. With a source much deeper
# than its target, the last source layers are never used.
#
# The table below shows the bookkeeping of one transfer, between two untrained networks. Every *convolution* is fed;
# linear layers are drawn (round 4); batch norms keep what they have.


# %%
def plain_ratio(n_source, n_target):
    return [min(round(i * n_source / n_target), n_source - 1) for i in range(n_target)]


assert all(plain_ratio(s, t) == match.by_ratio(s, t) for s in range(1, 40) for t in range(1, 40))
torch.manual_seed(0)
tlv.transfer(zoo.build("vgg11", width=0.25), zoo.build("resnet8", width=0.25))

# %% [markdown]
# ## Round 1: filters ranked by variance
#
# Each filter $f$ gets a number, the population variance of its $k$ weights, $v_f = \frac{1}{k}\sum_x (w_{f,x} - \bar
# w_f)^2$. Sort them in ascending order, count ranks from 0, and take $n$ of the $N$: the most varied (*max*), the
# least (*min*), half from either end (*two-tailed*), at random, or, the default, *interleaved*: ranks $1, 1+s, 1+2s,
# \dots$ with $s = \lfloor N/n \rfloor$. Where the target is narrower, the source's filters are chosen to be **kept**;
# where it is wider, the target's own random ones are chosen to be **dropped**, by default at random.


# %%
def plain_choice(variance, n, how):
    order = sorted(range(len(variance)), key=lambda f: variance[f].item())
    step, first = len(order) // n, int(n < len(order))
    return {"max": order[-n:], "min": order[:n], "interleaved": order[first::step][:n]}[how]


variance = torch.rand(11, generator=torch.Generator().manual_seed(0))
for how in ("max", "min", "interleaved"):
    assert all(plain_choice(variance, n, how) == tlv.pick(variance, n, how).tolist() for n in range(1, 12))

# %% [markdown]
# To look at real variances we need a network that has learned something: at `smoke` and `classroom` the source of
# notebook 01, trained on other shapes and other textures than the target will see; on CIFAR a VGG16 trained on
# CIFAR-100.

# %%
trained = [layer.weight.detach() for layer in learned.model.modules() if isinstance(layer, torch.nn.Conv2d)]
print(f"source: {len(many):,} images; it gets {learned.history.final:.1f} % of its own test images right")
print(f"targets: {len(few):,} images of {few.num_classes} other classes; guessing is right {chance:.1f} % of the time")
hmt_figures.tasks({"source": many, "target": few})


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Choice:
    how: Literal["interleaved", "max", "min", "two_tailed", "random"] = HOW
    n: int = lab.slider(N, 1, 64, 1, "filters chosen")
    side: Literal["keep", "drop"] = SIDE


def choosing(choice):
    layer = next(layer for layer in trained if len(layer) >= 64)
    weight = layer if choice.side == "keep" else torch.nn.init.kaiming_normal_(torch.empty_like(layer))
    spread, generator = weight.flatten(1).var(1, correction=0), torch.Generator().manual_seed(0)
    chosen = torch.zeros(len(spread), dtype=torch.bool)
    chosen[tlv.pick(spread, choice.n, choice.how, generator=generator)] = True
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.2), width_ratios=[3, 2])
    names = ("kept", "not kept") if choice.side == "keep" else ("overwritten", "left as drawn")
    groups = [(spread[where] * 1e3).tolist() for where in (chosen, ~chosen)]
    left.hist(groups, bins=16, stacked=True, label=names, color=(figures.PALETTE["blue"], "#CCCCCC"))
    left.set(xlabel="variance of a filter (1/1000)", ylabel="filters", title=f"{choice.how}: {chosen.sum()} chosen")
    left.legend()
    wide = torch.arange(65, 513)
    right.plot(wide / 64, torch.full((448,), 100), label="without repetition")
    right.plot(wide / 64, (wide - 1) * (1 - (1 - 1 / (wide - 1)) ** 64) / 0.64, "--", label="with repetition")
    right.set(xlabel="target's width / source's", ylabel="filters that survive (%)", title="drawn at random")
    right.legend(loc="lower right")
    plt.close(figure)
    return figure


lab.Explorer(choosing, Choice(), run)

# %% [markdown]
# **What to notice.** If $n < N$, *interleaved* never takes the filter of least variance, and beyond a half its step
# is 1: then it is "all but the least, up to $n$", and no longer spread out. Switch to *drop* to see what a random
# layer offers: He initialisation gives all filters nearly one variance, so *which* of them is overwritten hardly
# matters.
#
# The right panel shows a bug of the released code. Until August 2023 its random choice drew without repetition; then
# NumPy was replaced by PyTorch, and now a place can be drawn twice, and the filter written first is lost. (One place
# can never be drawn at all.) hetlib draws without repetition; `legacy_random=True` gives the released behaviour, to
# the last draw.

# %% [markdown]
# ## Round 2: eight cases of width
#
# Filters and inputs can each be fewer, more, or equal. Shrinking keeps source filters (and, *within each filter by
# itself*, input slices); growing overwrites chosen places of the target and leaves the rest as drawn. One case as a
# plain loop, more of both:


# %%
def plain_grow(weight, target):
    out = target.clone()
    rows = plain_choice(target.flatten(1).var(1, correction=0), len(weight), "min")
    for f, row in enumerate(rows):
        slots = plain_choice(target[row].flatten(1).var(1, correction=0), weight.shape[1], "min")
        for i, slot in enumerate(slots):
            out[row, slot] = weight[f, i]
    return out


generator = torch.Generator().manual_seed(1)
small, large = torch.randn(4, 3, 3, 3, generator=generator), torch.randn(7, 6, 3, 3, generator=generator)
assert torch.equal(plain_grow(small, large), tlv.resize_width(small, large, drop="min"))

# %%
CASES = {"fewer filters": (8, 4, 5, 4), "fewer inputs": (5, 7, 5, 4), "fewer of both": (8, 7, 5, 4)}
CASES |= {"more filters": (4, 4, 7, 4), "more inputs": (5, 3, 5, 6), "more of both": (4, 3, 7, 6)}
CASES |= {"fewer filters, more inputs": (8, 3, 5, 6), "more filters, fewer inputs": (4, 6, 7, 4)}


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Width:
    case: Literal[tuple(CASES)] = CASE
    drop: Literal["min", "max", "interleaved", "random"] = DROP


def blocks(choice):
    outputs, inputs, wanted, slots = CASES[choice.case]
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, 3, 3, generator=generator)
    weight, own = draw(outputs, inputs), draw(wanted, slots)
    out = tlv.resize_width(weight, own, drop=choice.drop, base=draw(wanted, inputs), generator=generator)
    same = (out.flatten(2).unsqueeze(2) == weight.flatten(0, 1).flatten(1)).all(3)  # which source slice is where
    result = torch.where(same.any(2), same.int().argmax(2), -1)
    grids = {"source": torch.arange(outputs * inputs).view(outputs, inputs), "target": -torch.ones(wanted, slots).int()}
    return tlv_figures.numbered(grids | {"result": result}, inputs)


lab.Explorer(blocks, Width(), run)

# %% [markdown]
# **What to notice.** One colour is one source filter, one number one of its slices; grey are the
# target's own random weights. Source filter $f$ goes to the $f$-th *chosen* place. Places are drawn
# at random here; with *min* or *max* they come in order of variance. Hence the disorder, though
# nothing is shuffled yet. Slices are placed by each filter for itself: a column of the result does
# not hold one and the same input channel. But in a convolution, column $i$ of *every* filter reads
# the same channel, so where a layer changes width this already takes the wiring apart. *Try* the
# other cases; in *more filters, fewer inputs* the grey is a fresh draw.
#
# Kernels come first: a larger one is average-pooled with stride 1, a smaller one padded with zeros, so 3x3 → 1x1 is
# the mean of nine taps. A 1x1 slice has no variance at all; ties keep their order, because hetlib's sort is stable.

# %% [markdown]
# ## Round 3: the shuffle, shown honestly
#
# Before it writes, the released code permutes the filters, and then permutes the input slices **of every filter
# separately**, always, even where the shapes are equal. The multiset of 3x3 slices of a filter survives; which
# channel a slice reads does not.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Order:
    shuffle: Literal["both", "filters", "inputs", "off"] = SHUFFLE


MODES = {"both": True, "filters": "filters", "inputs": "inputs", "off": False}


def shuffled(choice):
    front, generator = trained[0][:12], torch.Generator().manual_seed(0)
    after = tlv.fill(front, torch.zeros_like(front), shuffle=MODES[choice.shuffle], generator=generator)
    return figures.kernel_strip({"before": front, "after": after}, f"first layer; shuffle: {choice.shuffle}")


lab.Explorer(shuffled, Order(), run)

# %%
exam = teacher.load("test")
for name, mode in MODES.items():
    twin = deepcopy(learned.model)
    tlv.transfer(learned.model, twin, linear=False, shuffle=mode)
    print(f"shuffle {name:8} a copy of the source, fed from the source, scores {evaluate(twin, exam)['top1']:5.1f} %")
    assert mode or all(torch.equal(a, b) for a, b in zip(twin.parameters(), learned.model.parameters(), strict=True))

# %% [markdown]
# **What to notice.** With the released shuffle, *both*, filters have changed places and their
# red, green and blue are exchanged. (*Try* inputs alone: every filter stays in its place.) With
# the shuffle off, transfer between equal networks is the identity, and the copy knows what the
# source knows. With any shuffle the copy guesses: one in twelve classes is 8.3 %. Even *filters*
# alone is enough for that, because nobody tells the next layer, or the batch norm, who moved
# where. What TLV moves with its shuffle is the slices, without their wiring. Without it, layers
# of equal size stay whole, in our experiment the first one, which meets the pixels.

# %% [markdown]
# ## Round 4: linear layers from statistics
#
# No weight of a linear layer is copied. Over the source's linear layers take the mean $m$ of the means and the mean
# $s$ of the standard deviations; a target with $L$ linear layers draws each from a normal distribution with mean
# $m/L$ and standard deviation $s/L$; biases are zero.


# %%
def plain_statistics(weights):
    return tuple(float(sum(map(number, weights)) / len(weights)) for number in (torch.mean, torch.std))


heads = [layer.weight.detach() for layer in learned.model.modules() if isinstance(layer, torch.nn.Linear)]
torch.testing.assert_close(plain_statistics(heads), tlv.statistics(heads), atol=1e-6, rtol=1e-5)
torch.manual_seed(0)
drawn = torch.nn.Linear(64, 12).weight.std()
print(f"{len(heads)} linear layer: deviation {tlv.statistics(heads)[1]:.3f}; as PyTorch draws 64 to 12: {drawn:.3f}")

# %% [markdown]
# **What to notice.** Two numbers pass from one classifier to the other, and all they can do is set the scale of the
# first logits. This trained classifier's weights are about twice as large as a new one's. The arm *statistics* of the
# experiment tells what that is worth.

# %% [markdown]
# ## Round 5: feature crossover
#
# While the target trains, the frozen source sees the same batch. Immediately before the last linear layer, channel
# $c$ of the target's features is replaced by channel $c$ of the source's if $u_c < p$, one draw $u$ for the whole
# batch, $p = 0.1$. The pairing by number is arbitrary, and what one of the two has more channels of is left alone. A
# replaced channel passes no gradient to the target's convolutions. Tests see the target alone.


# %%
def plain_crossover(features, pretrained, p, uniform):
    out = features.clone()
    for channel, u in enumerate(uniform):
        if u < p:
            out[:, channel] = pretrained[:, channel]
    return out


generator = torch.Generator().manual_seed(0)
ours, theirs, uniform = (torch.rand(*shape, generator=generator) for shape in ((5, 8), (5, 6), (6,)))
assert torch.equal(plain_crossover(ours, theirs, 0.4, uniform), tlv.crossover(ours, theirs, 0.4, uniform))


# %%
def frame(number, mask):
    replaced = torch.rand(1 if mask == "batch" else 12, 48, generator=torch.Generator().manual_seed(number)) < 0.1
    ax = figures.axes(7, 2.2)
    ax.imshow(replaced.expand(12, 48), cmap="Blues", aspect="auto", vmin=0, vmax=1.4)
    ax.set(xlabel="channel", ylabel="image", title=f"mask per {mask}, batch {number + 1}: blue comes from the source")
    ax.grid(visible=False)
    return ax.figure


tlv_figures.animation([frame(number, mask) for mask in ("batch", "image") for number in range(6)])

# %% [markdown]
# **What to notice.** Drawn once per batch, the mask makes columns: for a whole step the classifier must do without
# the same channels. Drawn per image it is the kind of noise dropout makes. And that is the question to ask of it: if
# zeros in the same channels, a dropout without rescaling, do as well, the *pretrained* features have contributed
# nothing.

# %% [markdown]
# ## The experiment
#
# The README's rows are He initialisation, DPIAT, *base*, *cross* and *full*, none of them defined. We read them as in
# this table. An *arm* is one way of starting and training; ✓ marks what it has.
#
# | arm | filters chosen | shuffled | linear layers from statistics | mixed in while training |
# |---|---|---|---|---|
# | he | | | | |
# | **base** | interleaved | ✓ | | |
# | base_unshuffled | interleaved | | | |
# | keep max, min, random | the most or least varied, or at random | ✓ | | |
# | shuffle filters, inputs | interleaved | in part | | |
# | statistics | | | ✓ | |
# | base_statistics | interleaved | ✓ | ✓ | |
# | crossover | | | | source's features |
# | **cross** | interleaved | ✓ | | source's features |
# | **full** | interleaved | ✓ | ✓ | source's features |
# | unshuffled | interleaved | | ✓ | source's features |
# | dropout | interleaved | ✓ | ✓ | zeros |
# | per image, mean, zeros | | | | one mask an image; the batch's mean; zeros |
# | hmt, dpiat, tli | other methods | | | |
#
# HMT is notebook 01's. DPIAT matches blocks by likeness of shape and crops to the middle; TLI-style does so layer by
# layer. A seed draws the images' order, the target's weights and the method's own draws; all have the same source and,
# of the same classes, the same images. Arms are compared *on the same seed*; *better* and *worse* mean that the 95 %
# interval of that difference (Student's t) excludes zero. With so many comparisons, one or two may do so by chance.

# %%
task, network = first.data, first.model
place = f"{task.removesuffix('-40k')}/{network.removeprefix('torchvision/')}"
metrics = {f"{place}/{arm}/top1": {"unit": "%", "values": scores(arm)} for arm in ARMS}
record = run.record(metrics, (few, test), source=learned.history.final, recipe=asdict(recipe))

# %%
GROUPS = {
    "parts": ["he", "base", "statistics", "crossover", "base_statistics", "cross", "full", "dropout"],
    "peers": ["he", "base", "base_unshuffled", "hmt", "dpiat", "tli"],
    "choice": ["he", "base", "keep max", "keep min", "keep random"],
    "shuffle": ["he", "base", "shuffle filters", "shuffle inputs", "base_unshuffled"],
    "probability": ["he", "p = 0.05", "crossover", "p = 0.2", "p = 0.5"],
    "replacement": ["he", "crossover", "per image", "mean", "zeros"],
}
for name in ("parts", "peers", "probability"):
    display(lab.paired_differences({arm: scores(arm) for arm in GROUPS[name]}, baseline="he", title=name))

# %% tags=["hide-input"]
shown = ("he", "base", "statistics", "full", "unshuffled", "base_unshuffled", "hmt", "dpiat", "tli")
hmt_figures.accuracies({f"{teacher.model} into {network}": {arm: scores(arm) for arm in shown}}, chance)

# %% [markdown]
# **What to notice.** At `classroom`, arms with convolutions by variance end about 4 points above He initialisation,
# on three seeds not always by more than chance. *Statistics* and *crossover*, each alone, show no difference. Without
# its shuffle the same mapping gains 10 ± 7 points, about as much as HMT: here the shuffle throws away most of what
# was chosen.
#
# ### The same on photographs
#
# Half-width VGG16, trained on CIFAR-100, into a full ResNet-18, with the release's split (40,000 images to train on,
# 10,000 to choose the epoch, 10,000 to test) and optimiser, but 4 epochs instead of 200. Guessing is right 1 % of the
# time on CIFAR-100 and 10 % on CIFAR-10. The README's differences, after 200 epochs and from one seed each, are beside
# the claims in [papers.md](../papers.md).

# %%
for data in ("cifar100", "cifar10"):
    prefix = f"{data}/resnet18/"
    found = {name.removeprefix(prefix).removesuffix("/top1"): value for name, value in real.items() if prefix in name}
    found = {arm: value for arm, value in found.items() if arm in ARMS}
    display(lab.paired_differences({"he": found["he"], **found}, baseline="he", title=f"ResNet-18, {data}"))
print(*dict.fromkeys(each.command or "made by a script" for each in kept), sep="\n")

# %% [markdown]
# **What to notice.** There the shuffle does no harm that shows, so the gain may come from the slices or only from their
# scale. Unlike at `classroom`, the statistics cost the whole gain. All seeds share one source.

# %% [markdown]
# ## Ablations over time
#
# `probability` runs $p$ through 0 (*he*), 0.05, 0.1 (*crossover*), 0.2 and 0.5; `replacement` sets the crossover
# beside its controls: one mask per image, the batch's mean features, which say nothing of the single image, and
# zeros; `choice` puts other filters in place of the interleaved ones.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Comparison:
    compare: Literal[tuple(GROUPS)] = COMPARE
    measure: Literal["top1", "top5", "test_loss"] = MEASURE


def comparison(choice):
    arms = GROUPS[choice.compare]
    lines = {arm: [getattr(results[arm, seed].history, choice.measure) for seed in run.seeds] for arm in arms}
    epochs, unit = results["he", run.seeds[0]].history.evaluated, "nats" if "loss" in choice.measure else "%"
    labels = {
        "ylabel": f"{choice.measure} on test images ({unit})",
        "title": f"{choice.compare}: {teacher.model} into {network}",
    }
    return figures.curves(None, lines, epochs, **labels)


lab.Explorer(comparison, Comparison(), run)

# %%
for name, baseline in {"choice": "keep random", "shuffle": "base_unshuffled", "replacement": "zeros"}.items():
    display(lab.paired_differences({arm: scores(arm) for arm in GROUPS[name]}, baseline=baseline, title=name))

# %% [markdown]
# **What to notice.** The part in the title: filters kept at random do as well as interleaved ones, and as the most
# and the least varied. The gain over *he* is not owed to the variance. Filters alone, inputs alone or both: each
# shuffle costs 5 to 6 points here, for inputs alone not shown on three seeds. Set beside zeros, neither the
# pretrained features nor their mean show a difference, and in the table above no probability is better than none. If
# the source's features carry something, this experiment does not show it.

# %% [markdown]
# ## Train one yourself
#
# Crossover on top of unshuffled convolutions, without statistics, is not among the arms. Choose its probability, mask
# and what is mixed in, and press *Run*; the grey curves are seed 0 of the experiment.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Trial:
    p: Literal[0.0, 0.05, 0.1, 0.2, 0.5] = P
    mask: Literal["batch", "image"] = MASK
    mixed: Literal["features", "mean", "zeros"] = MIXED


def trial(choice):
    crossing = {"p": choice.p, "mask": choice.mask, "source": choice.mixed}
    arm = experiments.Arm(ARMS["base_unshuffled"].transfer, crossing)
    return experiments.job(run.preset, arm, run.seeds[0], **setting)


def learning(choice, history):
    known = {arm: results[arm, run.seeds[0]].history for arm in ("he", "base_unshuffled")}
    return figures.learning(known, f"{choice.mixed}, p = {choice.p} per {choice.mask}", history)


lab.Explorer(learning, Trial(), run, trial)

# %% [markdown]
# ## Claim, what we saw, verdict
#
# The chapter's text is not available to us; the claims are those of its README and its code.

# %% tags=["hide-input"]
rows = [
    ("the paper", "what we saw", "verdict"),
    (
        "the method beats He initialisation",
        f"{real_gain('full')}; {real_gain('full', 'cifar10')}",
        "not shown",
    ),
    ("its convolutions alone do", f"{real_gain('base')}; {real_gain('base', 'cifar10')}", "seen"),
    ("the method beats DPIAT", real_gain("full", baseline="dpiat"), "not shown"),
    ("variance is a good choice", f"against random, here {gain('base', 'keep random')}", "not shown"),
    ("statistics help", f"with them, {real_gain('base_statistics', baseline='base')}", "not seen"),
    ("pretrained features help", f"against zeros, {real_gain('full', baseline='dropout')}", "not shown"),
    ("200 epochs; Food-101, PetImages; deep targets", "not run", "not run"),
]
Table(tuple(rows))

# %% [markdown]
# **Known deviations.** The release starts from ImageNet's VGG16 and uses it as its support; we train the source
# ourselves. "Base", "cross" and "full" are our reading of undefined names. The release resizes images to two pixels
# more before it crops; we crop from four pixels of padding. Both CIFARs are normalised by one mean and deviation.
# Random choices are without repetition. `classroom` replaces data, networks and schedule, and has no validation
# images: its numbers are those of the last epoch.

# %% [markdown]
# ## Exercises
#
# Write each function; `check` compares it with a hidden solution on fresh random inputs. Solutions are shown here;
# `make exercises` writes the notebook without them to `build/exercises`.
#
# **1.** `survivors(filters, places)`: how many of `filters` source filters are left, on average, if each is written
# to one of `places` places drawn *with* repetition, the later one winning?


# %%
def expected(filters, places):
    return float(sum((1 - 1 / places) ** later for later in range(filters)))


few_and_many = lambda generator: tuple(torch.randint(2, 300, (2,), generator=generator).tolist())
lab.exercise("survivors", expected, few_and_many, "how likely is it that none of n draws hits a given place?")


# %% tags=["solution"]
def survivors(filters, places):
    return places * (1 - (1 - 1 / places) ** filters)


# %%
lab.check("survivors", survivors)

# %% [markdown]
# **2.** `cross(features, pretrained, p, uniform)`: feature crossover without a loop, for `pretrained` with as many
# channels as `features`.


# %%
def three_inputs(generator):
    batch, channels = torch.randint(1, 9, (2,), generator=generator).tolist()
    p, *rows = torch.rand(1 + 2 * batch + 1, channels, generator=generator)
    return torch.stack(rows[:batch]), torch.stack(rows[batch:-1]), float(p[0]), rows[-1]


lab.exercise("cross", tlv.crossover, three_inputs, "torch.where, with a condition that is one row")


# %% tags=["solution"]
def cross(features, pretrained, p, uniform):
    return torch.where(uniform < p, pretrained, features)


# %%
lab.check("cross", cross)

# %% [markdown]
# ## Three questions
#
# <details><summary>Why is variance no guide among the input slices of a 1x1 convolution?</summary>
#
# A slice of one tap has variance zero, so all slices tie, and the order of a tie is the sort's. hetlib's is stable,
# so positions decide; the released one depends on the processor. Whole 1x1 filters do have variance.
# </details>
#
# <details><summary>The shuffle permutes filters and slices. Which permutations would be harmless?</summary>
#
# The same permutation of a layer's filters, of its batch norm, and of the inputs of every filter in the next layer.
# Such a permutation is a symmetry of the network; independent ones are not.
# </details>
#
# <details><summary>A target has 2,048 features, the source 512. What does the crossover do?</summary>
#
# Only the first 512 channels can ever be replaced; three quarters of the features are out of its reach, and its
# effective rate is $p/4$.
# </details>

# %% [markdown]
# ## References and what to read next
#
# * Duong et al.: *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*,
#   AICI 2024, Springer, DOI 10.1007/978-3-031-63929-6_21; released code ThuanNaN/TLVFC.
# * DPIAT, whose toolkit it builds on: KamilPiechowiak/iatransfer. TLI: arXiv 2101.02757.
# * Its table with all runs on record: [papers.md](../papers.md). The other shape of the same question, kernels
#   stretched and channels stacked in order: [01 · HMT](01_hmt.ipynb).
