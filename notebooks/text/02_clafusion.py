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
# # 2 · CLAFusion: networks of different depth, fused
#
# **The claim.** Two trained networks of different depth can be made one: align their layers in order, give the
# shallow one layers that do nothing, move neurons onto neurons by optimal transport, and average. Trained on, the
# result is better than either (Nguyen et al., *On Cross-Layer Alignment for Model Fusion of Heterogeneous Neural
# Networks*, ICASSP 2023).
#
# **You will be able to** say which layers of two networks correspond, and when that question has only one answer;
# make a network deeper without changing what it computes; undo a permutation of neurons; explain why an average of
# two good networks is often a bad one; and judge a fused network against its parents and their ensemble.
#
# | preset | time on two cores | data |
# |---|---|---|
# | `smoke` | under a minute | handwritten digits, rendered shapes; far too little training |
# | `classroom` | about three minutes | the same |
# | `paper` | MNIST about an hour; take a GPU for the rest | MNIST, CIFAR-10 or CIFAR-100 (`EXPERIMENT`) |
#
# The README of the released code gives accuracies *before* fusion only, and the paper's own tables were not available
# to us: every fused number here is ours, with nothing to be compared with.

# %% tags=["parameters"]
PRESET: str = "classroom"  # smoke, classroom, reduced or paper
DATA: str = ""  # "digits" or "mnist" for the fully connected networks; empty takes the preset's own
EXPERIMENT: str = "vgg-student"  # convolutional networks: resnet-cifar10, vgg-student, ... or none
SEEDS: int = 0  # trainings per curve; 0 takes the preset's own number
WIDTH: float = 0.0  # width of convolutional networks at preset reduced, as a factor; 0 takes an eighth
EPOCHS: int = 0  # epochs of the parents at preset reduced, and half as many to train on; 0 takes 6
ZOOM: float = 1.0  # size of the figures: 1 fits a laptop, 1.5 a projector
MEASURE: str = "cka"  # explorers: cka, debiased, neurons, wasserstein, cca or index
FIRST: int = 1  # explorers: layers pinned at the beginning, 0 to 2
LAST: int = 1  # explorers: layers pinned at the end, 0 or 1
MAP: int = 2  # explorers: which of the ten maps, 0 to 9
BALANCE: str = "add"  # explorers: add or merge
RELU: str = "sum"  # explorers: sum, majority or average
LAYER: int = 3  # explorers: hidden layer whose neurons are shown, 1 to 3
BY: str = "activations"  # explorers: activations or weights
METRIC: str = "euclidean"  # explorers: euclidean, squared, cosine or correlation
AFTER_RELU: bool = False  # explorers: compare activations after the ReLU
ENTROPY: float = 0.0  # explorers: weight of the entropy; 0, 0.01, 0.1 or 1.0; 0 is the exact plan
SCORE: str = "top1"  # explorers: top1 or loss
SAMPLES: int = 200  # explorers: images that neurons are compared on, 25 to 400
STEP: float = 0.5  # explorers: weight of the shallow network, 0 to 1
MATCH_LAST: bool = False  # explorers: let the classes be matched too
SIDE: str = "columns"  # explorers: columns or rows
MEND: bool = False  # explorers: REPAIR after the average

# %%
# %matplotlib inline
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal

import torch
from IPython.display import Markdown, display

from hetlib import clafusion, clone, data, kernels, lab, match, zoo
from hetlib.chain import chain
from hetlib.lab import figures, records
from hetlib.lab.statistics import Table, difference
from hetlib.experiments import clafusion as experiments
from hetlib.experiments import clafusion_perceptrons as perceptrons
from hetlib.experiments import clafusion_figures as pictures
from hetlib.experiments import clafusion_one_shot as one_shot
from hetlib.merging import Ensemble, interpolate, match_weights, repair, variances
from hetlib.training import evaluate

run = lab.start("02_clafusion", PRESET, DATA or None, SEEDS or None, zoom=ZOOM, EXPERIMENT=EXPERIMENT)
aligned, balanced = (MEASURE, FIRST, LAST), (BALANCE, RELU)
moved_by, averaged = (BY, METRIC, AFTER_RELU, ENTROPY, SAMPLES), (STEP, MATCH_LAST, SIDE, MEND)
settings = lab.checked(
    one_shot.Switches(*aligned, *balanced, *moved_by, *averaged)
)  # a mistake is told before training
experiment = experiments.at_preset(EXPERIMENT, run.preset, WIDTH, EPOCHS)

# %% tags=["hide-input"]
kept = records.read_all(clone.folder().parent / "results")
kept = [each for each in kept if (each.notebook, each.preset) == ("02_clafusion", "paper")]
real = {name: found["values"] for each in kept for name, found in each.metrics.items()}


def gain(ours, theirs):
    return ", ".join(difference(real[f"{ours}/top1"], real[f"{theirs}/top1"]))


RESNETS, VGG, MLP = "resnet-cifar10", "vgg-student", "mlp/ablation"
tuned = f"{RESNETS}/fused/finetuned"
Markdown(f"""**What we found**, as mean differences on the same seed (± is their 95 % interval):
* On CIFAR-10, with networks an eighth as wide and few epochs, ResNet-34 and ResNet-18 fused and
  finetuned, against ResNet-34 finetuned for as long: {gain(tuned, f"{RESNETS}/deep/finetuned")};
  against both networks' averaged predictions: {gain(tuned, f"{RESNETS}/ensemble")}.
* Before any finetuning, fused against plainly averaged:
  {gain(f"{RESNETS}/fused/one-shot", f"{RESNETS}/naive/one-shot")}.
* On MNIST, at the paper's size, perceptrons fused by merging with *sum*, without finetuning, against
  the ensemble: {gain(f"{MLP}/merged_sum", f"{MLP}/ensemble")}; against fused by adding:
  {gain(f"{MLP}/merged_sum", f"{MLP}/added")}.""")

# %% [markdown]
# ## The problem in one picture
#
# Two multilayer perceptrons, one with five hidden layers and one with three. Their weights cannot be averaged: there
# is nothing for two of the five to be averaged with. In the mechanism that all five papers share, the *match* pairs
# layers by dynamic programming over their costs (`Align`); identity layers, or merged ones, make the two networks
# equally deep; the *fit* moves neurons by optimal transport (`Transport`); the *blend* averages; then the result is
# finetuned.

# %% tags=["hide-input"]
plan = perceptrons.perceptrons(run.preset, run.seeds, DATA)
task = plan["deep", run.seeds[0]].data
inputs, DEEP, SHALLOW = perceptrons.PIXELS[task], perceptrons.DEEP, perceptrons.SHALLOW
MAPS = list(combinations(range(5), 3))  # every way to keep three of five layers in order


@dataclass(frozen=True)
class Bridge:
    map: int = lab.slider(MAP, 0, 9, 1, "which of the ten maps")
    balance: Literal["add", "merge"] = BALANCE


def bridge(choice):
    return pictures.bridge(DEEP, SHALLOW, MAPS[choice.map], inputs, choice.balance)


lab.Explorer(bridge, Bridge(), run)

# %% [markdown]
# **What to notice.** A map says which deep layer stands beside each shallow one; maps never cross. *Adding* makes the
# shallow network as deep as the deep one, at its own widths. *Merging* makes the deep one shallower. With ten maps
# and two ways, which should it be? What is fused is measured against both networks and against their *ensemble*, the
# average of their predictions.
#
# First, two networks that have learned something. Both are without biases, as in all of the paper's experiments.

# %%
nets = {key: found.model for key, found in zip(plan, lab.train_all(list(plan.values()), run.cache), strict=True)}

school, exam = data.load(task), data.load(task, "test")
images = data.sample(school, 200)
top1 = lambda model, images=exam: evaluate(model, images, precision="fp32")["top1"]
mean = lambda values: sum(values) / len(values)
deep, shallow = nets["deep", 0], nets["shallow", 0]
print(f"{task}: five hidden layers {top1(deep):.1f} %, three {top1(shallow):.1f} % of the test images right")

# %% [markdown]
# ## Round 1: how alike are two layers?
#
# Two layers are alike if they find the same pairs of images alike. Let $X$ hold one row per image, centred, and $K =
# XX^\top$; let $L$ be the same of the other layer. Linear CKA is the cosine between the two,
#
# $$\mathrm{CKA} = \frac{\langle K, L\rangle_F}{\lVert K\rVert_F\,\lVert L\rVert_F}, \qquad C_{ij} = 1 -
# \mathrm{CKA}(X_i, Y_j).$$


# %%
def plain_cka(x, y):
    gram = lambda z: (z - z.mean(0)) @ (z - z.mean(0)).T
    one, other = gram(x), gram(y)
    return (one * other).sum() / (one.norm() * other.norm())


x, y = torch.randn(2, 50, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
torch.testing.assert_close(plain_cka(x, y), kernels.linear_cka([x], [y])[0, 0])

# %% [markdown]
# ## Round 2: the cheapest map in order
#
# With $G_{kl}$ the least cost of the first $k$ shallow layers within the first $l$ deep ones,
#
# $$G_{kl} = \min\bigl(G_{k,l-1},\; G_{k-1,l-1} + C_{lk}\bigr).$$
#
# with $m$ deep and $n$ shallow layers, $G_{0l} = 0$, and $G_{kl} = \infty$ for $k > l$. The table has $mn$ entries,
# and the path back through it is the map. The released code *pins* the first and the last pair, `pins=(1, 1)`.


# %%
def plain_map(cost):
    m, n = cost.shape
    total = lambda rows: sum(float(cost[i, k]) for k, i in enumerate(rows))
    return min(combinations(range(m), n), key=lambda rows: (total(rows), rows[::-1]))


cost = torch.rand(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
assert list(plain_map(cost)) == match.align(cost, pins=(0, 0))


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Alignment:
    measure: Literal["cka", "debiased", "neurons", "wasserstein", "cca", "index"] = MEASURE
    first: int = lab.slider(FIRST, 0, 2, 1, "layers pinned at the beginning")
    last: int = lab.slider(LAST, 0, 1, 1, "layers pinned at the end")


def alignment(choice):
    (costs,) = clafusion.layer_costs(deep, shallow, images, choice.measure)
    pins = (choice.first, choice.last)
    taken, legal = match.align(costs, pins), match.legal_maps(5, 3, pins)
    return pictures.alignment(costs, taken, pins, f"{choice.measure}: the best of {legal} maps with these pins")


lab.Explorer(alignment, Alignment(), run)

# %% [markdown]
# **What to notice.** Yellow is the map. On the right, blank cells are impossible: as many shallow layers do not fit,
# or a pin forbids it; the corner holds what the map costs. In the live notebook, set the last pin to 0: another map
# is cheaper. Change the measure: *neurons* is the squared difference of the widths, *index* that of the places,
# *wasserstein* the cost of moving the neurons of one layer onto those of the other, *cca* compares the spaces that
# the layers span. Of this pair five of the six choose the same map whatever is pinned, and only *cca* another: the
# pins decide more than the measure. *debiased* costs are larger by less than 0.01 here; the biased estimate takes
# layers of more values than images for alike, 0.67 for unrelated Gaussian activations of 400 values on 200 images
# (the table before the ablations).
#
# How much freedom is there in the paper's convolutional networks, whose layers are aligned between two pools, or
# block by block within a stage, and in a pair that the paper does not fuse, ResNet-56 with ResNet-20?

# %%
thin = {"bn": False, "bias": False, "width": 1 / 16}
for names in (("vgg13", "vgg11"), ("resnet34", "resnet18"), ("resnet56", "resnet20")):
    pair = [zoo.build(name, **thin) for name in names]
    counts = [clafusion.map_layers(*pair, torch.randn(4, 3, 32, 32), pins=p).legal for p in ((1, 1), (1, 0))]
    print(f"{' and '.join(names):22} maps that keep the released pins: {counts[0]:4,}; the first alone: {counts[1]:6,}")

# %% [markdown]
# **What to notice.** For ResNet-34 with ResNet-18, and for VGG13 with VGG11, the pins leave a single map. In the
# paper's convolutional experiments neither CKA nor the dynamic programme decides anything; of its networks, only the
# perceptrons are free.

# %% [markdown]
# ## Round 3: as deep as the other, and still the same
#
# What comes out of a ReLU is not negative, so $\mathrm{ReLU}(I h) = h$: an identity matrix (in a convolution, a
# kernel with a one in its middle) changes nothing. In a residual network the inserted block has zeros for weights and
# is its own shortcut.


# %%
with torch.no_grad():
    for taken in MAPS:
        found = clafusion.map_layers(deep, shallow, images, mapping=taken, pins=(0, 0))
        off = (clafusion.add_layers(found)(images) - shallow(images)).abs().max()
        print(f"map {tuple(i + 1 for i in taken)}: max |difference| = {off:.1f}")
        assert off == 0 or taken[0] > 0

# %%
APPROXIMATIONS = ("sum", "majority", "average")
print(f"map         {'  '.join(f'{relu:>8}' for relu in APPROXIMATIONS)}   (deep network: {top1(deep):.1f} %)")
for taken in (MAPS[0], MAPS[2], MAPS[5], MAPS[9]):
    found = clafusion.map_layers(deep, shallow, images, mapping=taken, pins=(0, 0))
    scores = (top1(clafusion.merge_layers(found, images, relu)) for relu in APPROXIMATIONS)
    print(f"{tuple(i + 1 for i in taken)}   {'  '.join(f'{score:6.1f} %' for score in scores)}")

# %% [markdown]
# **What to notice.** Adding is exact for every map that keeps the first layer. The others put an identity before it,
# and its ReLU clips pixels below zero. Merging multiplies two layers with no ReLU between them and is in general not
# exact. A diagonal matrix stands in for the ReLU, *sum*: 1 where a neuron's activations sum to 0 or more; *majority*:
# 1 where it is active on half of the images; *average*: the part of the images on which it is. *Average* is best
# here, on MNIST *sum* is ([papers.md](../papers.md)). The map (3, 4, 5), which merges the first layers away, costs
# most.

# %% [markdown]
# ## Round 4: neurons onto neurons
#
# Neurons have no order. Move those of layer $\ell$ by a plan $P$, the cheapest way to carry $n$ equal heaps onto $m$,
#
# $$P = \arg\min_{P \ge 0} \langle P, M\rangle, \quad P\mathbf 1 = \tfrac1n\mathbf 1, \quad P^\top\mathbf 1 =
# \tfrac1m\mathbf 1, \qquad M_{ij} = \lVert a_i - b_j\rVert_2,$$
#
# where $a_i$ is what neuron $i$ has before its ReLU on the 200 images. The weights follow: $\hat W_\ell = T_\ell^\top
# W_\ell T_{\ell-1}$, $T$ being $P$ with columns that sum to 1.


# %%
def plain_move(weights, plans):
    moved, before = [], torch.eye(weights[0].shape[1], dtype=weights[0].dtype)
    for weight, plan in zip(weights, [*plans, torch.eye(len(weights[-1]))], strict=True):
        transport = plan / plan.sum(0)
        moved.append(transport.T.to(weight) @ weight @ before.to(weight))
        before = transport
    return moved


other = nets["shallow", 1]
ours, theirs = ([layer.module.weight.detach() for layer in chain(net).layers] for net in (other, shallow))
plans = clafusion.neuron_plans(other, shallow, images)
for plain, ready in zip(plain_move(ours, plans), clafusion.fuse_weights(ours, theirs, plans, step=0.0), strict=True):
    torch.testing.assert_close(plain, ready, rtol=1e-4, atol=1e-5)


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Neurons:
    layer: int = lab.slider(LAYER, 1, 3, 1, "hidden layer")
    by: Literal["activations", "weights"] = BY
    metric: Literal["euclidean", "squared", "cosine", "correlation"] = METRIC
    after_relu: bool = AFTER_RELU
    entropy: Literal[0.0, 0.01, 0.1, 1.0] = ENTROPY


def neurons(choice):
    how = {"by": choice.by, "metric": choice.metric, "after_relu": choice.after_relu, "reg": choice.entropy or None}
    plan = clafusion.neuron_plans(other, shallow, images, **how)[choice.layer - 1]
    with torch.no_grad():
        codes = [net[: 2 * choice.layer](images) for net in (other, shallow)]
    return pictures.neurons(*codes, plan, f"Layer {choice.layer}: as trained, and sorted by the plan")


lab.Explorer(neurons, Neurons(), run)

# %% [markdown]
# **What to notice.** Left, two networks trained from different initial weights have neurons in unrelated orders.
# Right, a faint diagonal: neuron by neuron, the other network's are about half as far apart, and far from equal. With
# entropy, plans are soft and a neuron becomes a mixture of several.
#
# If the other network is a permuted copy, transport undoes the permutation:

# %%
twin, state = plan["shallow", run.seeds[0]].build(), shallow.state_dict()
for number, group in enumerate(group for group in chain(shallow).axes if not group.fixed):
    group.permute_(state, torch.randperm(group.size, generator=torch.Generator().manual_seed(number)))
twin.load_state_dict(state)
plain, fused = (top1(clafusion.fuse([twin, shallow], images, scheme=how)) for how in ("naive", "many-to-one"))
print(f"itself {top1(shallow):.1f} %, averaged with its permuted copy {plain:.1f} %, fused with it {fused:.1f} %")
assert fused == top1(shallow)

# %% [markdown]
# ## Round 5: the average, and what it loses
#
# Walk in a straight line from one network to the other of the same shape. The *barrier* is how far the loss rises
# above the line between the ends, in nats, the unit of the cross-entropy. Four ways to prepare the first: not at all,
# transport, Git Re-Basin (which permutes by the weights alone), and transport with REPAIR: every neuron of the
# average gets back the spread that it had in the two.

# %%
moved, scored = (
    clafusion.transport_neurons(other, shallow, images),
    lambda model: evaluate(model, exam, precision="fp32"),
)
LINES = {"as trained": other, "transport": moved, "re-basin": match_weights(other, shallow).model}
paths = {name: interpolate.curve(start, shallow, scored, one_shot.STEPS) for name, start in LINES.items()}
paths["transport + REPAIR"] = [
    scored(repair(interpolate.between(moved, shallow, step), [moved, shallow], images, (1 - step, step)))
    for step in one_shot.STEPS
]
for name, path in paths.items():
    print(f"{name:20} barrier {interpolate.barrier([point['loss'] for point in path]):5.2f} nats")


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Path:
    score: Literal["top1", "loss"] = SCORE


def path(choice):
    half = interpolate.between(moved, shallow, 0.5)
    own = [variances(net, images).values() for net in (moved, shallow)]
    spreads = {"transport": half, "transport + REPAIR": repair(half, [moved, shallow], images)}
    for name, net in spreads.items():
        spreads[name] = [2 * v / (a + b) for v, a, b in zip(variances(net, images).values(), *own, strict=True)]
    unit = "top-1 accuracy (%)" if choice.score == "top1" else "test loss (nats)"
    lines = {name: [point[choice.score] for point in points] for name, points in paths.items()}
    return pictures.paths(lines, one_shot.STEPS, unit, spreads)


lab.Explorer(path, Path(), run)

# %% [markdown]
# **What to notice.** Unprepared, accuracy dips to 95 % halfway. Transport and Git Re-Basin both remove the barrier of
# this pair, and Git Re-Basin looks at no image (one test image is 0.28 points). Right: two neurons that are not quite
# the same cancel when averaged, and after transport the third layer varies by about 40 % less than in the two networks.
# REPAIR restores it; with no barrier left, accuracy gains little from that here.

# %% [markdown]
# ## The experiment: every map, both ways
#
# One-shot accuracy: no finetuning. The deep network is moved onto the balanced shallow one and averaged with it, so
# the result has the shallow one's widths. Each is measured for every map, for both ways of balancing, and for several
# draws of the 200 images. Parents of one seed start from the same numbers where their layers agree; *strangers* start
# from different ones.

# %%
draws = range({"smoke": 1, "classroom": 3}.get(run.preset, 5))
couples = {s: (nets["deep", s], nets["shallow", s]) for s in run.seeds}
shot = {s: one_shot.every_map(*couples[s], school, top1, draws) for s in run.seeds}
dots = {way: {t: [score for s in run.seeds for score in shot[s][way, t]] for t in MAPS} for way in one_shot.WAYS}
pictures.dots(dots, "One-shot fusion, all seeds and draws of images")

# %% [markdown]
# **What to notice.** One dot is one seed and one draw of images. For adding, what matters most is whether the map
# keeps the first layer: about 96 % if it does, 63 to 87 % if not. For merging, the map and the stand-in matter, and
# *majority* falls from about 96 to 30 %. Within one map, dots differ by up to 33 points between seeds and draws, so a
# single number for a map says little.

# %%
chosen = MAPS[2]  # layers 1, 2 and 5, as numbers of neurons choose with the last pair pinned
apart = {s: clafusion.fuse((nets["deep", s], nets["shallow", s + 1]), images, mapping=chosen) for s in run.seeds}
bars = {name: [top1(nets[name, s]) for s in run.seeds] for name in ("deep", "shallow")}
bars["ensemble"] = [top1(Ensemble(couples[s])) for s in run.seeds]
bars |= {f"fused: {way}": [mean(shot[s][way, chosen]) for s in run.seeds] for way in one_shot.WAYS}
bars["fused: add, strangers"] = [top1(net) for net in apart.values()]
figures.bars_with_intervals(None, bars, title=f"{task}: parents, ensemble, one-shot fusion")

# %% [markdown]
# **What to notice.** Fused by adding, or by merging with *average*, one network is about 1 point worse than either of
# its two parents; with *sum* 4 points and with *majority* 10. The ensemble is hardly better than the parents here.
# For strangers, three seeds show no difference.
#
# On MNIST with the paper's recipe, five seeds and the same map: parents 97.1 and 97.7 %, ensemble 97.7 %, fused 93.2
# ± 1.1 % by adding and 94.6 ± 0.7 % by merging with *sum* (preset `paper`, on record in [papers.md](../papers.md)).
# The paper's claim is about what comes after finetuning.

# %% [markdown]
# At preset `paper` the two networks that OTFusion's authors released are fused as well. They have equal shapes, so
# they have a plain average: 73.8 %, from parents of 97.7 and 97.8 %. Moved first, it is 96.4 ± 0.2 %.

# %%
place = "mlp" if task == "mnist" else task
names = dict(zip(("parent_a", "parent_b", "ensemble", "added"), bars, strict=False))
names |= {"merged": "fused: merge, average", "merged_sum": "fused: merge, sum", "strangers": "fused: add, strangers"}
values = {f"{place}/ablation/{name}": bars[bar] for name, bar in names.items()}
if task == "mnist" and (pair := one_shot.released_pair()):
    made = {f"parent_{name}": [net] * len(run.seeds) for name, net in zip("ab", pair, strict=True)}
    made["average"] = [clafusion.fuse(pair, images, scheme="naive")] * len(run.seeds)
    made["fused"] = [clafusion.fuse(pair, data.sample(school, 200, s)) for s in run.seeds]
    values |= {f"otfusion/mlp/{name}": [top1(net) for net in found] for name, found in made.items()}
    print({name: round(mean(values[f"otfusion/mlp/{name}"]), 2) for name in made})

# %% [markdown]
# ## Skill transfer
#
# A *special* network has seen all fours and a tenth of the other digits, a *general* one, a layer deeper, the other
# nine tenths and no four. Can their weights be averaged into a network that knows both, without any training? With
# the last pair pinned, numbers of neurons map layers 1, 2, 3 to 1, 2, 4. `weight` is that of the special network, for
# ensemble and fusion alike.

# %%
TEACHERS = {s: (nets["general", s], nets["special", s]) for s in run.seeds}
seen = [data.sample(data.load(f"{task}-special"), 400, draw) for draw in draws]
found = [one_shot.skills(*TEACHERS[s], seen, top1) for s in run.seeds]
sweeps = {name: [one[name] for one in found] for name in found[0]}
figures.curves(None, sweeps, one_shot.STEPS, "weight of the special network", title=f"{task}: two skills, one network")

# %%
fours = exam.subset((exam.labels == 4).nonzero().flatten())
for weight in (0.0, 0.3, 0.5, 0.7, 1.0):
    mixed = [interpolate.between(*one_shot.skilled(*TEACHERS[s], seen[0]), weight) for s in run.seeds]
    known = [mean([top1(model, part) for model in mixed]) for part in (exam, fours)]
    print(f"weight {weight:.1f}: {known[0]:5.1f} % of all test images, {known[1]:5.1f} % of fours")
parts = {s: (plan["general", s], plan["special", s]) for s in run.seeds}
mixture = one_shot.released_mixture(parts, top1, draws, run.cache) if task == "mnist" else {}
values |= {f"{place}/skill/{name}": [top1(nets[name, s]) for s in run.seeds] for name in perceptrons.SKILLS}
for name, way in one_shot.HALVES.items():
    values[f"{place}/skill/{name}"] = [curve[one_shot.STEPS.index(0.5)] for curve in sweeps[way]]

# %% [markdown]
# **What to notice.** By adding, the ends are the two networks; by merging only the right one is. From one half to 0.7
# the average of the weights is below both; at 0.8 seeds disagree too much to say (a wide band); at 0.9 it is near the
# special network. It knows no four up to weight 0.5. The average of the predictions is above both from 0.5 to 0.9, at
# best 94.5 % at 0.7. On MNIST it is the same: fused at most 91.8 %, at weight 0.9, from a special network of 91.3 %;
# the ensemble 94.7 %. For these networks, skill transfer by fusion is not shown.

# %% [markdown]
# ## Convolutions, and what finetuning adds
#
# Now a teacher and a student: VGG13 of double width and VGG11 of half width (at `classroom` both an eighth of that,
# on rendered shapes, and with batch norm, without which so few epochs teach them nothing). The fused network has the
# student's widths. All arms are then trained on for equally long; *aligned* is the student with layers added and
# nothing fused. *distilled* learns from the teacher's logits as well, softened by a temperature T and weighted by
# alpha, from scratch, from the student, or from the fused network.

# %%
arms = experiments.all_arms(experiment, run.preset, run.seeds)
lab.estimate([job for found in arms.values() for job in found.values()], run)  # hours and memory, where they matter

# %%
if experiment:
    before, after = experiments.outcomes(experiment, arms, run.cache, run.device)
    title = f"{EXPERIMENT}, then {experiment.finetune.epochs} more epochs"
    names = {"parent_a": "deep", "parent_b": "shallow"}
    bars = {names.get(name, name.replace("/", ", ")): scores for name, scores in before.items()}
    bars |= {name if "distilled" in name else f"{name}, trained on": scores for name, scores in after.items()}
    display(figures.bars_with_intervals(figures.axes(7, 5.6), bars, title=title))
    display(lab.paired_differences(after, baseline="aligned", title="start of the finetuning"))
    where = EXPERIMENT if run.preset in ("reduced", "paper") else f"shapes/{EXPERIMENT}"
    outcomes = before | {f"{name}/finetuned": scores for name, scores in after.items()}
    values |= {f"{where}/{name}": scores for name, scores in outcomes.items()}

# %% [markdown]
# **What to notice.** *deep* is the teacher, *shallow* the student. At once (*one-shot*) the fused network is worse
# than the student. Trained on, it ends on average 4.8 points above *aligned*, which had as much training and the same
# shape and knows nothing of the teacher; but three seeds disagree, and the interval, ± 11, includes zero. It stays
# below the teacher and the ensemble before any further training; its advantage is its size. Distillation, with one
# alpha and one temperature, gained nothing in so few epochs. What came out on CIFAR-10 is in
# [papers.md](../papers.md).
#
# The table compares what was measured on the paper's own data, and the CKA of unrelated activations, which takes
# none.

# %%
metrics = {f"{name}/top1": {"unit": "%", "values": numbers} for name, numbers in values.items()}
metrics |= {name: {"unit": "", "values": numbers} for name, numbers in one_shot.unrelated(run.seeds).items()}
per_draw = {f"{way} {t}": [shot[s][way, t] for s in run.seeds] for way, t in shot[run.seeds[0]]}
facts = {"one_shot_per_draw": per_draw, "skills_per_step": sweeps, "skills_per_step_raw": mixture}
record = run.record(metrics, (school, exam), experiment=EXPERIMENT, **facts)
lab.beside_published(record)

# %% [markdown]
# ## Ablations: one fusion, every switch
#
# Seed 0, one-shot: *balanced* is the network with layers added or merged, *moved* the deep one on the other's
# neurons. In the live notebook, everything is computed anew when you touch a control. Try an entropy of 1, weights
# instead of activations, or balance by *merge* and then *majority*: `relu` is for *merge* alone. `side` is which sums
# of a plan are scaled to 1 before the next layer takes it in (the second of the three questions), `mend` is REPAIR.


# %% tags=["hide-input"]
def switches(choice):
    made, found = one_shot.switched(deep, shallow, school, choice)
    shown = {name: [top1(net)] for name, net in ({"deep": deep, "shallow": shallow} | made).items()}
    title = f"map {tuple(i + 1 for i in found.alignments[0].picks)}, one of {found.legal}"
    return figures.bars_with_intervals(None, shown, title=title)


lab.Explorer(switches, settings, run)

# %% [markdown]
# ## Claim, what we saw, verdict
#
# The paper's claim is about networks that are finetuned after fusion, on CIFAR and Tiny-ImageNet. What ran there is
# reduced: an eighth of the width, 4 or 6 epochs for the parents and 2 or 3 to train on, three seeds.

# %% tags=["hide-input"]
rows = [
    ("the paper", "what we saw", "verdict"),
    ("layers can be added without a change", "exact for every map that keeps the first layer", "seen"),
    ("fused, then finetuned, is better", gain(tuned, f"{RESNETS}/deep/finetuned"), "not shown, reduced"),
    ("(needed) the averaging is worth it", gain(tuned, f"{RESNETS}/naive/finetuned"), "not shown, reduced"),
    ("transport beats plain averaging", gain(f"{RESNETS}/fused/one-shot", f"{RESNETS}/naive/one-shot"), "seen at once"),
    ("a student gains from its teacher", gain(f"{VGG}/fused/finetuned", f"{VGG}/shallow/finetuned"), "seen, reduced"),
    ("(needed) more than added layers do", gain(f"{VGG}/fused/finetuned", f"{VGG}/aligned/finetuned"), "not shown"),
    ("skills can be joined", gain("mlp/skill/fused", "mlp/skill/ensemble"), "not seen, half and half"),
    ("CIFAR-100, Tiny-ImageNet, full width", "not run", "not run"),
]
Table(tuple(rows))

# %% [markdown]
# **Known deviations.** The images that layers and neurons are compared on are drawn without augmentation. The last
# layer is not matched unless asked. The released code normalises columns with a small constant added; we divide
# exactly. Zero blocks of inserted layers keep their neurons in place, where the release takes whatever plan the
# solver returns. Skill transfer trains and measures on normalised images; the release trains on raw pixels.
# `classroom` replaces data, networks and schedules.

# %% [markdown]
# ## Exercises
#
# Write each function; `check` compares it with another solution on fresh random inputs. Solutions are shown here;
# `make exercises` writes the notebook without them to `build/exercises`.
#
# **1.** `identity_kernel(width, side)`: the weight of a convolution that passes every channel on.


# %%
delta = lambda width, side: torch.nn.init.dirac_(torch.empty(width, width, side, side))
odd = lambda generator: (2 * torch.randint(4, (2,), generator=generator) + 1).tolist()
lab.exercise("identity_kernel", delta, odd, "torch.eye, at the middle of a tensor of zeros")


# %% tags=["solution"]
def identity_kernel(width, side):
    weight = torch.zeros(width, width, side, side)
    weight[:, :, side // 2, side // 2] = torch.eye(width)
    return weight


# %%
lab.check("identity_kernel", identity_kernel)

# %% [markdown]
# **2.** `maps(m, n, first, last)`: how many maps of `n` layers into `m` are there with the first `first` and the last
# `last` pairs pinned?


# %%
counted = lambda m, n, first, last: match.legal_maps(m, n, (first, last))
SIZES = ((5, 3, 1, 1), (7, 4, 2, 1), (6, 2, 0, 1), (8, 5, 1, 0), (4, 4, 0, 0), (9, 3, 2, 1))
sizes = lambda generator: SIZES[int(torch.randint(len(SIZES), (), generator=generator))]
lab.exercise("maps", counted, sizes, "what is pinned is out of the game: math.comb of the rest")

# %% tags=["solution"]


def maps(m, n, first, last):
    return comb(m - first - last, n - first - last)


# %%
lab.check("maps", maps)

# %% [markdown]
# ## Three questions
#
# <details><summary>Why does an inserted identity need a ReLU before it, and a zero block does not?</summary>
#
# The identity layer is followed by its own ReLU, which changes nothing only if nothing negative comes in. The zero
# block adds 0 to its shortcut, so without a ReLU behind the sum it is exact for any input; in a ResNet the ReLU
# behind it does no harm, because what comes in has been through one already.
# </details>
#
# <details><summary>Two neurons are merged into one. Should their outputs be averaged or summed?</summary>
#
# If they are equal, the next layer got both: it must get twice the mean, the sum, to compute the same (`rows`). The
# released code averages (`columns`), which halves its share in the average of the two networks.
# </details>
#
# <details><summary>In a ResNet, why should all layers that write into one residual stream share a plan?</summary>
#
# Their outputs are added channel by channel. If each moves its channels its own way, the sum mixes channels that do
# not belong together; `tie=True` gives a stream one plan.
# </details>

# %% [markdown]
# ## References and what to read next
#
# * Nguyen et al.: *On Cross-Layer Alignment for Model Fusion of Heterogeneous Neural Networks*, ICASSP 2023, arXiv
#   2110.15538; released code hsgser/clafusion.
# * Singh and Jaggi: *Model Fusion via Optimal Transport*, NeurIPS 2020. Kornblith et al.: *Similarity of Neural
#   Network Representations Revisited*, ICML 2019. Ainsworth et al.: *Git Re-Basin*, ICLR 2023. Jordan et al.:
#   *REPAIR*, ICLR 2023. Stoica et al.: *ZipIt!*, ICLR 2024.
# * All runs on record: [papers.md](../papers.md). Weights copied without alignment: [01 · HMT](01_hmt.ipynb).
