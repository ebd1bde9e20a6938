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
# # 1 · HMT: weights that move into another shape
#
# **The claim.** The convolutions of a trained network can be placed, one after another, into a
# network of different depth, width and kernel size, and that network then learns better from few
# images (Wang, Lai, Liang and Wang, *Heterogeneous Model Transfer between Different Neural
# Networks*, 2020; "the release" below is the authors' code).
#
# **We know no accuracy of this paper.** It was withdrawn, its released code prints none, and no
# page we found has any. Every number below is ours.
#
# **You will be able to** resize a 3x3 kernel to 5x5 and say what that does to its response; stack
# channels cyclically; predict which filters of a widened network training will hardly separate;
# and judge a transfer by differences over seeds instead of by one lucky run.
#
# | preset | time on two cores | data |
# |---|---|---|
# | `smoke` | under a minute | rendered shapes, far too little of them to learn much |
# | `classroom` | six minutes after notebook 00, ten without | 960 rendered images, small networks, 20 epochs, 3 seeds |
# | `reduced` | hours, estimated first | 1,000 images of CIFAR-100, 50 epochs, 3 seeds |
# | `paper` | hours; take a GPU | 1,000 images of CIFAR-100, 350 epochs, 5 seeds |

# %% tags=["parameters"]
PRESET: str = "classroom"  # smoke, classroom, reduced or paper
DATA: str = ""  # training set of the targets, as "sub-cifar100"; empty takes the preset's own
SEEDS: int = 0  # trainings per curve; 0 takes the preset's own number
WIDTH: float = 0.0  # width of every hidden layer, as a factor; 0 takes the preset's own
EPOCHS: int = 0  # epochs of the targets; 0 takes the preset's own
ZOOM: float = 1.0  # size of the figures: 1 fits a laptop, 1.5 a projector
TARGET: str = "plainnet5"  # explorers: plainnet5 or resnet8
ORDER: str = "chain"  # explorers: chain, shuffle or interval
SIZE: int = 5  # explorers: resize 3x3 kernels to this size; 1, 3, 5 or 7
RESIZER: str = "bilinear"  # explorers: bilinear, nearest or zero
ALIGN_CORNERS: bool = False  # explorers: pin the corner taps when resizing
ANTIALIAS: bool = False  # explorers: average over what shrinks
COMPARE: str = "orders"  # explorers: orders or variants
MEASURE: str = "top1"  # explorers: top1, top5 or test_loss
START: str = "interval"  # explorers: none, chain, shuffle, interval or "zero padding"
LR: float = 0.1  # explorers: highest learning rate; 0.1, 0.03 or 0.01

# %%
# %matplotlib inline
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from IPython.display import Markdown, display
from matplotlib import pyplot as plt

from hetlib import clone, hmt, lab, zoo
from hetlib.chain import chain, convolutions
from hetlib.experiments import hmt as experiments
from hetlib.experiments import hmt_figures as pictures
from hetlib.lab import figures, records
from hetlib.lab.statistics import Table, difference
from hetlib.lab.train import start
from hetlib.training import evaluate

run = lab.start("01_hmt", PRESET, DATA or None, SEEDS or None, zoom=ZOOM)
plan = experiments.jobs(run.preset, run.seeds, DATA, WIDTH, EPOCHS)
wide = experiments.widening(run.preset)
lab.estimate(list(plan.values()), run)  # hours and memory, at presets "reduced" and "paper"

# %% tags=["hide-input"]
# Trained on the first run, and kept. A training is described by a `Job`.
trained = lab.train_all([*plan.values(), *wide.values()], run.cache, run.device)
results = dict(zip((*plan, *wide), trained, strict=True))
ORDERS = list(experiments.ARMS)[:4]
seed = run.seeds[0]
first = plan["plainnet5", "chain", seed]
few, test = first.load("train"), first.load("test")
chance = 100 / few.num_classes


def scores(name, way):
    return [results[name, way, each].history.final for each in run.seeds]


def gain(name, way, baseline="none"):
    return ", ".join(difference(scores(name, way), scores(name, baseline)))


# %% tags=["hide-input"]
kept = [
    each
    for each in records.read_all(clone.folder().parent / "results")
    if (each.notebook, each.preset, each.data["name"]) == ("01_hmt", "paper", "sub-cifar100")
]
real = {name: found["values"] for each in kept for name, found in each.metrics.items()}


def real_gain(name, way, baseline="none"):
    found, other = (real[f"{name}/{each}/final"] for each in (way, baseline))
    return ", ".join(difference(found, other))


Markdown(f"""**What we found**, as mean differences on the same seed (± is their 95 % interval):
* At `{PRESET}`, on {len(few)} rendered images, HMT against random weights: in PlainNet5
  {gain("plainnet5", "chain")}; in ResNet-8 {gain("resnet8", "chain")}. The same source in shuffled
  order: {gain("plainnet5", "shuffle")}; {gain("resnet8", "shuffle")}.
* On 1,000 photographs of CIFAR-100, at the release's size: {real_gain("plainnet5", "chain")} and
  {real_gain("resnet8", "chain")}; shuffled {real_gain("plainnet5", "shuffle")} and
  {real_gain("resnet8", "shuffle")}.
* Where HMT makes a layer wider it copies filters, and copies stay within 1 % of one another in
  training (one training at a rate of 0.01), in all layers but the last.""")

# %% [markdown]
# ## The problem in one picture
#
# VGG11 has eight convolutions with 3x3 kernels, PlainNet5 four with 5x5 kernels, ResNet-8 seven
# on its main path (and three 1x1 ones on its shortcuts, which HMT leaves alone). Hardly a layer of
# one has the shape of a layer of another. So what VGG11 knows is usually thrown away. These are the
# networks of this run:

# %%
source = lab.train(first.sources[0], run.cache, run.device)
target = first.build()
resnet = plan["resnet8", "none", seed].build()
pictures.silhouettes({"VGG11": source.model, "PlainNet5": target, "ResNet-8": resnet})

# %% [markdown]
# The source learns one task from many images. The targets get few images of another task, whose
# classes the source has never seen:

# %%
many = first.sources[0].load("train")
right = f"it gets {source.history.final:.0f} % of its test images right"
print(f"source: {len(many):,} images of {many.num_classes} classes; {right}")
print(f"targets: {len(few):,} images of {few.num_classes} others, {len(test):,} to test on")
print(f"guessing is right {chance:.1f} % of the time")
pictures.tasks({"source": many, "target": few})

# %% [markdown]
# hetlib writes each of its five papers as a match of layers and a fit of tensors; HMT is
# `Transfer(ByPosition("chain"), (Cyclic(),))`. The *match* pairs convolutions in order. The *fit*
# resizes kernels bilinearly and channels cyclically. A layer that receives source weights keeps
# nothing of its own. Then the target is trained.


# %% tags=["picture", "hide-input"]
@dataclass(frozen=True)
class Pairing:
    target: Literal["plainnet5", "resnet8"] = TARGET
    order: Literal["chain", "shuffle", "interval"] = ORDER


def pairing(choice):
    report = hmt.transfer(source.model, plan[choice.target, "none", seed].build(), choice.order)
    fed = f"{len(report.matched)} of VGG11's eight convolutions"
    return report.plot(f"{choice.target}, {choice.order}: {fed} find a place")


lab.Explorer(pairing, Pairing(), run)

# %% [markdown]
# **What to notice.** Shapes are outputs x inputs x height x width. The arrows stop where the shorter
# chain ends, so half of VGG11 is never used.
# Every arrow changes the kernel size, and every arrow crops outputs, inputs or both. All networks
# are a quarter as wide as the release's, whose shapes differ in the same way. The next rounds build
# what happens on one arrow; *try* the other target and the orders of round 1.

# %% [markdown]
# ## Round 1: which layers, and in which order
#
# The abstract speaks of the *longest chain* of a network. The release takes something simpler:
# every 2-D convolution in the order in which modules were registered, that is, assigned in the
# network's `__init__`, except those under a module called `downsample`. There torchvision keeps its
# projection shortcuts, 1x1 convolutions beside a block.


# %%
def plain_chain(model):
    names = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and "downsample" not in name.split("."):
            names.append(name)
    return names


for name in ("vgg11", "plainnet5", "resnet8", "torchvision/squeezenet1_1"):
    model = zoo.build(name)
    assert plain_chain(model) == [layer for layer, _ in convolutions(model)]
    longest = len(chain(model).longest())
    print(f"{name:25} HMT's chain {len(convolutions(model)):2}, longest path {longest:2}")

# %% [markdown]
# hetlib also reads the graph itself and computes the longest path that data can take. For plain
# and residual networks the two views agree. SqueezeNet branches without calling anything
# `downsample`: HMT places its parallel convolutions one after another.
#
# Two ablations of the release change the source's chain before it is matched. *Interval* takes
# every second layer. *Shuffle* is one fixed order, 3 1 0 7 4 6 2, counted from 0.

# %% tags=["hide-input"]
MATCHES = {way: hmt.ByPosition(way) for way in ORDERS[1:]}
numbers = {name: number for number, (name, _) in enumerate(convolutions(source.model))}


def feeding(order, model):
    rows = hmt.transfer(source.model, model.build(), order).matched
    return [numbers[row.source] for row in rows]


shown = {"PlainNet5": plan["plainnet5", "none", seed], "ResNet-8": plan["resnet8", "none", seed]}
pairs = {name: {way: feeding(way, job) for way in ORDERS[1:]} for name, job in shown.items()}
pictures.orders(pairs, sources=8)

# %% [markdown]
# **What to notice.** An order also decides *which* layers arrive. Into PlainNet5, shuffle brings
# layers 3, 1, 0, 7 instead of 0, 1, 2, 3: another order and another layer. It also has to repeat
# channels, which the chain never does here: layer 0, made for three colours, fills a layer of 16
# inputs. Into ResNet-8 shuffle brings layer 7 but not layer 5; the other six are those of the chain.
# Interval has only four layers to give, so three of ResNet-8 are not fed.

# %% [markdown]
# ## Round 2: one kernel in another size
#
# A kernel is read as a small image and resampled along both axes, $R = M\,W\,M^{\top}$, with a
# matrix $M$ of interpolation weights. The release changed its convention two days after it came
# out. Now it samples at pixel centres. At first it pinned the corner taps of the new kernel to
# those of the old (`align_corners=True`). Which of the two the authors measured is unknown.


# %%
def interpolation(size, target, align_corners):
    M = torch.zeros(target, size)
    for row in range(target):
        pinned, centred = row * (size - 1) / max(target - 1, 1), (row + 0.5) * size / target - 0.5
        at = min(max(pinned if align_corners else centred, 0.0), size - 1.0)
        low = min(int(at), size - 2)
        M[row, low] += 1 - (at - low)
        M[row, low + 1] += at - low
    return M


kernel = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(3))
for align in (False, True):
    for size in (1, 5, 7):
        M = interpolation(3, size, align)
        ours = hmt.resize(kernel, (1, 1, size, size), align)
        torch.testing.assert_close(M @ kernel[0, 0] @ M.T, ours[0, 0])

# %% tags=["hide-input"]
WAYS = {
    "pixel centres": {},
    "pinned corners": {"align_corners": True},
    "nearest": {"resizer": "nearest"},
    "zero padding": {"resizer": "zero"},
}
kernels = torch.randn(5, 1, 3, 3, generator=torch.Generator().manual_seed(3))
rows = {name: hmt.resize(kernels, (5, 1, 5, 5), **how)[:, 0] for name, how in WAYS.items()}
figures.kernel_strip({"3x3": kernels[:, 0], **rows}, "Five kernels, and four ways to make them 5x5")

# %%
flat, peak = torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
peak[..., 1, 1] = 1
for name, how in WAYS.items():
    sums = [float(hmt.resize(one, (1, 1, 5, 5), **how).sum()) for one in (flat, peak)]
    print(f"{name:15} sum of a constant kernel 9 -> {sums[0]:5.2f}, of a central tap 1 -> {sums[1]:4.2f}")

# %% [markdown]
# **What to notice.** Three of the ways stretch the pattern; zero padding keeps it small, with a
# ring of zeros. Stretching changes the *sum* of a kernel, its response to a constant image: it
# grows 25/9 times for a constant kernel, and for other patterns by other factors. Nothing in HMT
# rescales. A batch norm hides the change; a network without one must live with it.
#
# *Try* size 1 with pinned corners: a single tap cannot be pinned to two corners, and by torch's
# convention it takes the first one, top left.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Resizing:
    size: Literal[1, 3, 5, 7] = SIZE
    resizer: Literal["bilinear", "nearest", "zero"] = RESIZER
    align_corners: bool = ALIGN_CORNERS
    antialias: bool = ANTIALIAS


def resizing(choice):
    shape = choice.size, choice.size
    how = {"resizer": choice.resizer, "antialias": choice.antialias}
    result = hmt.resize(kernels, (5, 1, *shape), choice.align_corners, **how)
    constant = hmt.resize(flat, (1, 1, *shape), choice.align_corners, **how).sum() / 9
    rows = {"3x3": kernels[:, 0], f"{choice.size}x{choice.size}": result[:, 0]}
    title = f"{choice.resizer}: a constant kernel's response grows {constant:.2f} times"
    return figures.kernel_strip(rows, title)


lab.Explorer(resizing, Resizing(), run)

# %% [markdown]
# ## Round 3: more channels, or fewer
#
# Width comes after size. Target entry $(o, i)$ takes the resized kernel at
# $(o \bmod O_s,\; i \bmod I_s)$, where the source has $O_s$ outputs and $I_s$ inputs: a wider target
# wraps round and starts again, a narrower one keeps the leading channels. The release writes one
# kernel at a time:


# %%
def plain_stack(weight, shape):
    out = torch.empty(shape)
    for o in range(shape[0]):
        for i in range(shape[1]):
            out[o, i] = weight[o % weight.shape[0], i % weight.shape[1]]
    return out


weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
shape = (14, 9, 3, 3)
assert torch.equal(plain_stack(weight, shape), hmt.resize(weight, shape))

# %% tags=["hide-input"]
index = torch.arange(24.0).view(6, 4)
grids = {"source 6 x 4": index, "target 14 x 9": hmt.resize(index, (14, 9))}
fig, axes = plt.subplots(1, 2, figsize=(7, 3.6), width_ratios=[4, 9])
for ax, (name, grid) in zip(axes, grids.items(), strict=True):
    ax.imshow(grid, cmap="viridis", aspect="auto")
    for row, column in torch.cartesian_prod(*map(torch.arange, grid.shape)).tolist():
        ink = "black" if grid[row, column] > 11 else "white"
        text = str(int(grid[row, column]))
        ax.text(column, row, text, ha="center", va="center", color=ink, size=8)
    ax.set(title=name, xlabel="input channel", ylabel="output channel", xticks=range(grid.shape[1]))
    ax.grid(visible=False)

# %% [markdown]
# **What to notice.** Each number is one kernel of the source. Rows 6 to 11 repeat rows 0 to 5 to the
# last digit: keep that in mind for round 5. Repeated inputs also multiply the responses, here by
# 9/4 on average, until something divides them again.

# %% [markdown]
# ## Round 4: the whole transfer, and what it leaves alone
#
# Biases, batch norms, projection shortcuts and the classifier of the target keep their initial
# values. So even between equal architectures the *function* is not preserved: HMT moves the
# convolutions and nothing else. We move all convolutions of the trained VGG11 into a new one, whose
# classifier is still random:

# %%
untouched = first.build().state_dict()
report = hmt.transfer(source.model, target)
fed = {f"{row.target}.weight" for row in report.matched}
for name, value in target.state_dict().items():
    assert name in fed or torch.equal(value, untouched[name])
display(report)

twin = first.sources[0].build()
assert {row.done for row in hmt.transfer(source.model, twin).matched} == {"copied"}
theirs = first.sources[0].load("test")
for name, model in {"VGG11": source.model, "a VGG11 with all its convolutions": twin}.items():
    print(f"{name} gets {evaluate(model, theirs, precision=run.precision)['top1']:.0f} % right")

# %% [markdown]
# ## Round 5: filters that training hardly separates
#
# Make a network wider, and HMT fills the new filters with copies. Two copies see the same input. The
# next layer weighs both equally, so they receive the same gradient, too. Their biases
# differ, but the batch norm behind subtracts any bias again, and batch norms start equal. Only the
# last convolution escapes, because the classifier behind it starts at random.
#
# We train a small PlainNet5, widen it to twice the channels, train again, and look at the distance
# between every two filters of a layer. The control adds noise to the copies before training. Rate
# and arithmetic (0.01, float32) are chosen so that rounding does not hide that copies stay equal.


# %%
def filters(model):
    return {name: layer.weight.detach().flatten(1) for name, layer in convolutions(model)}


pictures.alike(filters(results[0.0].model))


# %%
def gap(rows):
    half = len(rows) // 2
    return float(((rows[:half] - rows[half:]).norm(dim=1) / rows[:half].norm(dim=1)).max())


ends = [filters(results[level].model) for level in wide]
starts = [filters(start(job, run.cache)) for job in wide.values()]
gaps = {name: [gap(layers[name]) for layers in ends] for name in ends[0]}
assert run.preset == "smoke" or [each[0] < 1e-2 for each in gaps.values()] == [True] * 3 + [False]
before = [max(map(gap, layers.values())) for layers in starts]
pictures.apart(gaps | {"before training": before}, list(wide))

# %% [markdown]
# **What to notice.** In the first picture, without noise, the two black diagonals beside the main one
# are pairs of copies. *Rank*, the number of singular values above 1 % of the largest, counts the
# directions that filters span: in the first three layers as many as the narrow network had. Twice the
# width, and no more capacity there. In the last layer, whose diagonals look as dark, copies are a
# tenth apart, as the second picture shows, and the rank has grown.
#
# The second picture also says what noise does: copies end about as far apart as noise put them
# (grey), so training did not separate them; but a tenth is enough to count as a direction.
# In exact arithmetic copies without noise would be equal for ever; float32 rounds two sums in
# different order differently. In chain order no layer below is widened, so this concerns targets that
# are wider than their source.

# %% [markdown]
# ## The experiment
#
# Both experiments of the release, VGG11 into PlainNet5 and into ResNet-8, and variants that the
# release does not have. An *arm* is one way of starting:
#
# | arm | layers | order | kernels | outputs and inputs | batch norms |
# |---|---|---|---|---|---|
# | none | | | | | |
# | **chain** (HMT) | the first ones | kept | stretched | ✓ | |
# | shuffle | others | shuffled | stretched | ✓ | |
# | interval | every second | kept | stretched | ✓ | |
# | corners | the first ones | kept | stretched, corners pinned | ✓ | |
# | zero padding | the first ones | kept | padded with zeros | ✓ | |
# | gain corrected | the first ones | kept | stretched, times old inputs x taps / new ones | ✓ | |
# | batch norms too | the first ones | kept | stretched | ✓ | ✓ |
#
# Variants run in PlainNet5 only. A seed draws the source's training, the images, the target's
# first weights, the order of the images and their augmentation. Every start is compared with
# another *on the same seed*. We call it better or worse where the 95 % interval of that difference
# (Student's t) leaves out 0. With a dozen comparisons one may do so by chance.

# %%
TARGETS = {"plainnet5": "VGG11 into PlainNet5", "resnet8": "VGG11 into ResNet-8"}
main = {title: {way: scores(name, way) for way in ORDERS} for name, title in TARGETS.items()}
pictures.accuracies(main, chance)

# %%
for title, found in main.items():
    display(lab.paired_differences(found, baseline="none", title=title))
for name, title in TARGETS.items():
    for other in ("shuffle", "interval"):
        print(f"{title}: chain minus {other}: {gain(name, 'chain', other)}")

# %% [markdown]
# **What to notice.** Each dot is one seed, each bracket a 95 % interval of the mean; the tables have
# the differences, which are what decides. HMT is better than random weights in ResNet-8; in
# PlainNet5 three seeds do not show it, for they differ widely. Against the shuffled weights HMT is
# better in both. Shuffled weights are trained, too, but each layer meets inputs that it was not
# trained on. More than the order differs between *chain* and *shuffle*, as round 1 showed.

# %% [markdown]
# ### The same on photographs
#
# These images are made for a lesson. The evidence is the run at the release's size: VGG11 of full
# width, trained on CIFAR-10, into targets of full width on 1,000 images of CIFAR-100 for 350 epochs.
# There are 100 classes, so guessing is right 1 % of the time.

# %%
for each in kept:
    made = each.command or "made by a script"
    print(f"seeds {each.seeds}, {each.data['test']:,} test images, {each.date[:10]}: {made}")
for name, title in TARGETS.items():
    values = {way: real[f"{name}/{way}/final"] for way in ORDERS}
    display(lab.paired_differences(values, baseline="none", title=f"{title}, CIFAR-100"))

# %% [markdown]
# **What to notice.** One source, of seed 0, started all of these, and all seeds have the same 1,000
# images; a seed draws the target's first weights and the order and augmentation of its images. So
# the intervals say nothing about other sources or images, and the true ones are wider. Trained
# weights in wrong places are no better than random ones, and in PlainNet5 worse.

# %% [markdown]
# ## Ablations over time
#
# The last epoch is one moment. A transfer may help early and fade, or start badly and recover.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Comparison:
    target: Literal["plainnet5", "resnet8"] = TARGET
    compare: Literal["orders", "variants"] = COMPARE
    measure: Literal["top1", "top5", "test_loss"] = MEASURE


GROUPS = {"orders": ORDERS, "variants": ["none", "chain", *list(experiments.ARMS)[4:]]}


def comparison(choice):
    arms = experiments.TARGETS[choice.target]
    ways = [way for way in GROUPS[choice.compare] if way in arms]
    found = {way: [results[choice.target, way, each].history for each in run.seeds] for way in ways}
    lines = {way: [getattr(one, choice.measure) for one in each] for way, each in found.items()}
    epochs = found["none"][0].evaluated
    if choice.measure == "top1":
        return pictures.over_time(lines, epochs, chance, TARGETS[choice.target])
    unit = "nats" if choice.measure == "test_loss" else "%"
    ylabel = f"{choice.measure} on test images ({unit})"
    return figures.curves(None, lines, epochs, ylabel=ylabel, title=TARGETS[choice.target])


lab.Explorer(comparison, Comparison(), run)

# %% [markdown]
# **What to notice.** Bands are 95 % intervals. In PlainNet5 the means of *chain* and *none* are far
# apart at the first point and close at the last: the transfer bought time, not accuracy. *Try*
# ResNet-8: there the lead stays, as far as these epochs go.
#
# Do the variants differ from plain HMT? That is another baseline, and another table:

# %%
variants = {way: scores("plainnet5", way) for way in GROUPS["variants"][1:]}
lab.paired_differences(variants, baseline="chain")

# %% [markdown]
# The surprise is *gain corrected*. Its weights are those of HMT, divided by the number of entries of
# a filter, inputs times taps, in the target's layer over that in the source's. A batch norm divides
# that away again, so both networks compute the same before they are trained:

# %%
one, other = first.build().train(), first.build().train()
experiments.ARMS["chain"](source.model, one)
experiments.ARMS["gain corrected"](source.model, other)
pixels = few.images[:128].float() / 255
with torch.no_grad():
    torch.testing.assert_close(one(pixels), other(pixels), atol=1e-3, rtol=1e-3)
for (name, large), (_, small) in zip(convolutions(one), convolutions(other), strict=True):
    times = float(large.weight.detach().norm() / small.weight.detach().norm())
    print(f"{name}: divided by {times:.2f}, as if the learning rate were {times**2:.1f} times as high")

# %% [markdown]
# **What to notice.** The same function, and yet it learns better. Behind a batch norm only the
# direction of a weight counts, and a step turns a small weight further than a large one: dividing a
# weight by *c* acts like a learning rate $c^2$ times as high (van Laarhoven 2017). So a part of what
# stretching seems to cost may be that stretched kernels are large.
#
# *Zero padding* does not make kernels larger, and keeps the three-pixel patterns for which they were
# trained; it is best here. How much of its lead is size and how much is pattern was not tested. The
# other two variants change about a point.

# %% [markdown]
# ### Does the learning rate wash the start away?
#
# All starts are trained with a highest learning rate of 0.1, which may overwrite what was
# transferred. So *none* and *chain* were trained with a tenth of it as well:

# %% tags=["hide-input"]
lines = [("highest rate", "none (%)", "HMT (%)", "HMT minus none, same seed", "verdict")]
for lr in (0.1, 0.01):
    ways = [way if lr == 0.1 else f"{way}, rate {lr}" for way in ("none", "chain")]
    if ("plainnet5", ways[0], seed) in results:
        found = [scores("plainnet5", way) for way in ways]
        means = [f"{sum(each) / len(each):.1f}" for each in found]
        lines.append((str(lr), *means, *difference(found[1], found[0])))
Table(tuple(lines))

# %% [markdown]
# **What to notice.** The suspicion is not confirmed. With a tenth of the rate both learn little in
# these 20 epochs, and HMT falls behind random weights. A reason may be the one above: stretched
# kernels are large, and behind a batch norm a large weight turns slowly. It was not tested.

# %% [markdown]
# ## Train one yourself
#
# Choose a start and a rate and press *Run*. The curve grows while the network learns, *Stop* keeps
# what there is, and what has been trained once is found again. The grey curves are seed 0 of the
# experiment.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Trial:
    start: Literal["none", "chain", "shuffle", "interval", "zero padding"] = START
    lr: Literal[0.1, 0.03, 0.01] = LR


def trial(choice):
    job = plan["plainnet5", choice.start, seed]
    return replace(job, recipe=job.recipe.changed(lr=choice.lr))


def learning(choice, history):
    ways = [way for way in ("none", "chain") if (way, 0.1) != (choice.start, choice.lr)]
    known = {f"{way}, rate 0.1": results["plainnet5", way, seed].history for way in ways}
    return figures.learning(known, f"{choice.start}, rate {choice.lr}", history)


lab.Explorer(learning, Trial(), run, trial)

# %% [markdown]
# ## Claim, what we saw, verdict
#
# The paper's text is known to us by its abstract only. What it says, and what the release's ablations
# are meant to show:

# %% tags=["hide-input"]
metrics = {
    f"{name}/{way}/{which}": {
        "unit": "%",
        "values": [getattr(results[name, way, each].history, which) for each in run.seeds],
    }
    for name, ways in experiments.TARGETS.items()
    for way in ways
    for which in ("final", "best")
}
facts = {"source": source.history.final, "recipe": asdict(first.recipe)}
record = run.record(metrics, (few, test), **facts)

here = " and ".join(gain(name, "chain") for name in TARGETS)


def there(way, other="none"):
    return "on photographs " + " and ".join(real_gain(name, way, other) for name in TARGETS)


rows = [
    ("the paper", "what we saw", "verdict"),
    ("weights can move between unlike networks", "all main paths are fed", "seen"),
    ("the target then learns better", f"{there('chain')}; here {here}", "seen, with our sources"),
    ("order (shuffle)", f"against chain, {there('shuffle', 'chain')}", "seen; other layers, too"),
    ("neighbours (interval)", f"against chain, {there('interval', 'chain')}", "seen; fewer layers"),
    ("the longest chain is used", "the release takes registration order", "not tested"),
    ("it helps in re-identification", "the release has no code for it", "could not be tested"),
]
Table(tuple(rows))

# %% [markdown]
# **Known deviations.** The release starts from an ImageNet VGG11 and trains one seed; we train the
# source ourselves, on CIFAR-10 or on rendered shapes, and give intervals. The release reports the
# best test epoch, which chooses on the test set; we report the last epoch, and the record has the
# best beside it. `classroom` replaces the data, narrows the networks and shortens the schedule.

# %% [markdown]
# ## Exercises
#
# Write each function; `check` compares it with a hidden solution on fresh random inputs. Solutions are shown here;
# `make exercises` writes the notebook without them to `build/exercises`.
#
# **1.** `stack(weight, outputs, inputs)`: place a weight of shape (O, I, k, k) cyclically into (outputs, inputs, k, k),
# in one line.


# %%
def stack_inputs(generator):
    source, target = torch.randint(1, 9, (2, 2), generator=generator).tolist()
    return torch.randn(*source, 3, 3, generator=generator), *target


hint = "index each axis with a remainder"
lab.exercise("stack", lambda w, o, i: hmt.resize(w, (o, i, 3, 3)), stack_inputs, hint)


# %% tags=["solution"]
def stack(weight, outputs, inputs):
    return weight[torch.arange(outputs) % weight.shape[0]][:, torch.arange(inputs) % weight.shape[1]]


# %%
lab.check("stack", stack)

# %% [markdown]
# **2.** `gain(size, target)`: by how much does bilinear resizing (half-pixel) multiply the response of a *constant*
# kernel to a constant image?


# %%
def measured_gain(size, target):
    flat = torch.ones(1, 1, size, size)
    return float(hmt.resize(flat, (1, 1, target, target)).sum() / flat.sum())


two_sizes = lambda generator: tuple(torch.randint(1, 9, (2,), generator=generator).tolist())
lab.exercise("gain", measured_gain, two_sizes, "how many taps has each kernel?")


# %% tags=["solution"]
def gain(size, target):
    return (target / size) ** 2


# %%
lab.check("gain", gain)

# %% [markdown]
# **3.** `free(source, target)`: given the output channels of source and target layers of one chain, in order, how many
# *distinct* filters can each target layer have after training without noise? Batch norms are new and only the last
# layer can leave its copies.


# %%
def counted(source, target):
    fed = [hmt.resize(torch.randn(s, 3), (t, 3)) for s, t in zip(source, target, strict=True)]
    return [len(weight.unique(dim=0)) for weight in fed[:-1]] + [target[-1]]


two_chains = lambda generator: tuple(torch.randint(1, 65, (2, 4), generator=generator).tolist())
lab.exercise("free", counted, two_chains, "a copy follows its original for ever; a cropped filter is gone")


# %% tags=["solution"]
def free(source, target):
    return [min(s, t) for s, t in zip(source[:-1], target[:-1], strict=True)] + [target[-1]]


# %%
lab.check("free", free)

# %% [markdown]
# ## Three questions
#
# <details><summary>A 1x1 kernel becomes 3x3 by bilinear resizing. What does it compute then?</summary>
#
# All nine taps take the one value there was: a box filter, nine times as strong. The point-wise layer has become a
# blur.
# </details>
#
# <details><summary>Why does a shuffled source not simply behave like random weights?</summary>
#
# Its filters still have the spread and the smoothness of trained ones, but each layer now meets inputs that it was
# never trained on. A late layer, put first, looks in three colours for combinations of patterns that nobody computed.
# </details>
#
# <details><summary>Would dropout free the tied filters?</summary>
#
# Yes. It silences the two copies at different times, so their gradients differ.
# </details>

# %% [markdown]
# ## References and what to read next
#
# * van Laarhoven: *L2 Regularization versus Batch and Weight Normalization*, 2017.
# * Wang, Lai, Liang, Wang: *Heterogeneous Model Transfer between Different Neural Networks*, withdrawn submission to
#   ICLR 2021, OpenReview 7xArdn_FKtV.
# * Where HMT stands among the five: [00 · Start here](00_start_here.ipynb). Its table with all runs on record:
#   [papers.md](../papers.md).
# * CLAFusion chooses *which* layer feeds which by dynamic programming and keeps both networks; TLV chooses *which
#   filters* by their variance. Both can take HMT's place, step by step.
