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
# # 4 · Knowledge amalgamation: one student, many teachers, no labels
#
# **The claim.** Trained networks that each know a few tasks can be merged into one student that knows exactly the tasks
# somebody wants, without a single label: first the networks that share a task are merged into a *component*, then the
# components into the *target*. Each image is learned from the one network that is surest of it (Shen et al.,
# *Customizing Student Networks From Heterogeneous Teachers via Adaptive Knowledge Amalgamation*, ICCV 2019). "The
# release" below is the authors' code.
#
# **What we found** at `classroom`, on cartoon faces:
# * A network is less sure where it is wrong: the two sources of bangs have a mean entropy of 0.09 and 0.10 nats where
#   they are right, and of 0.43 and 0.47 where they are wrong.
# * Even so, to learn each image from the surest source is not shown to be better than from a random one: over three
#   seeds 91.8 ± 1.7 % and 92.1 ± 2.0 %, the mean of four attributes, and 93.8 ± 1.0 % and 94.3 ± 1.5 % in more steps.
#   Always giving the more frequent answer is right in 81.2 % of the cases.
# * Plain distillation of the sources' averaged logits, also without labels, reaches 95.6 ± 0.6 %. Training with labels
#   reaches the same mean.
#
# **You will be able to** compute the entropy of a prediction and choose a teacher by it; carry a feature through a
# bridge and its loss by hand; say what the row norm is for; and choose the controls that such a method has to beat.
#
# | preset | time on two cores | data |
# |---|---|---|
# | `smoke` | two minutes | 200 faces, 2 epochs: nothing to learn from |
# | `classroom` | a quarter of an hour | 1,000 faces of 32 pixels, narrow ResNet-8, 6 epochs, 3 seeds |
# | `reduced` | hours, estimated first | 10,000 photographs of CelebA, 64 pixels, narrow ResNet-18, 3 seeds |
# | `reduced`, `GROUP=classes` | likewise | 50 classes of CIFAR-100, two halves; ResNet-8 of quarter width, 3 seeds |
# | `paper` | days; take a GPU | CelebA, ResNet-18, 224 pixels, 50 epochs, 5 seeds |

# %% tags=["parameters"]
PRESET: str = "classroom"  # smoke, classroom, reduced or paper
DATA: str = ""  # images with attributes: "faces", "celeba-10k" or "celeba"; empty takes the preset's own
GROUP: str = "hair"  # what is wanted: hair, eye or face; or classes, of images without attributes
SEEDS: int = 0  # trainings per arm; 0 takes the preset's own number
WIDTH: float = 0.0  # width of every hidden layer of sources and components, as a factor; 0 takes the preset's own
WIDE: float = 0.0  # the same of the target; 0 takes the paper's, 90/64 of WIDTH
EPOCHS: int = 0  # epochs of every training; 0 takes the preset's own
ZOOM: float = 1.0  # size of the figures: 1 fits a laptop, 1.5 a projector
RULE: str = "entropy"  # explorers: entropy, batch, random, oracle or average
TEMPERATURE: float = 1.0  # explorers: what the first source's logits are divided by, 0.1 to 10
NORM: float = 1.0  # explorers: weight of the row norm; 0, 1, or 6 as released for classes
SCALE: bool = True  # explorers: a learned factor on the student's logits
TAPS: int = 5  # explorers: at how many places features are compared, 1 to 5
COMMON: float = 0.5  # explorers: width of the common space, as a factor on the student's; 0.25, 0.5 or 1
JOINT: bool = False  # explorers: the student runs once on the images of all sources
FREEZE: bool = False  # explorers: batch norms stand still from the second epoch on, as released
SCHEDULE: str = "steps"  # explorers: steps, or iterations as released

# %%
# %matplotlib inline
from dataclasses import asdict, dataclass
from math import exp, log
from typing import Literal

import torch
from IPython.display import display
from torch.utils.flop_counter import FlopCounterMode

from hetlib import amalgamation, lab
from hetlib.amalgamation import Amalgamation, Bridge, ByResolution, Source, Teacher, choose_teacher, softmax_entropy
from hetlib.amalgamation.taps import tapped, taps
from hetlib.chain import chain
from hetlib.data import sample
from hetlib.experiments import amalgamation as experiments
from hetlib.experiments import amalgamation_figures as pictures
from hetlib.lab import figures

run = lab.start("04_amalgamation", PRESET, DATA or None, SEEDS or None, zoom=ZOOM)
plan = experiments.jobs(run.preset, run.seeds, DATA, GROUP, WIDTH, EPOCHS, WIDE)
chosen = experiments.setting(run.preset, DATA, GROUP, WIDTH, EPOCHS, WIDE)
known, wanted = amalgamation.sources_of(GROUP), chosen.wanted
first = plan["amalgamation", run.seeds[0]]
train, test = first.load("train"), first.load("test")
of_task = lambda images, name: amalgamation.labelled(images, name, images.tasks[name])

# %% [markdown]
# ## The problem in one picture
#
# Every face has 31 attributes, yes or no, drawn with dependences like those of real faces. Nine networks, the
# *sources*, were trained by others, each on a few attributes; we have the networks and unlabelled images. Wanted is one
# network for the four coloured attributes and for nothing else. The names above a face are those of the four that it
# has. Here we trained the sources ourselves, with labels and on the same faces; from then on labels only score. All are
# narrow ResNet-8, though teachers may have any architecture: their features are resized to the student's.

# %%
print(f"{len(train)} training images, {len(test)} test images, {len(wanted)} wanted tasks")
display(pictures.examples(train))
pictures.pool(known, wanted)

# %% [markdown]
# Two sources or more know each wanted attribute. They differ in what else they had to learn, and so in what they see.

# %%
results = dict(zip(plan, lab.train_all(list(plan.values()), run.cache, run.device), strict=True))
seed = run.seeds[0]
task = wanted[-1]
tested = of_task(test, task)


def source(number):
    job = experiments.source_jobs(chosen, seed)[number]
    return Source(f"source {number}", lab.train(job, run.cache, run.device).model, job.load("test").tasks)


sources = [source(number) for number in known if task in known[number]]
logits, answers = amalgamation.task_logits(sources, task, tested), tested.labels

# %% [markdown]
# ## Round 1: how sure is a network?
#
# A network answers with two logits, for no and for yes. Softmax makes probabilities of them, $p_c = e^{z_c} / \sum_k
# e^{z_k}$, and their entropy $H = -\sum_c p_c \ln p_c$ says how undecided they are: 0 for a certain answer, $\ln 2
# \approx 0.69$ for half and half.


# %%
def plain_entropy(z):
    powers = [exp(value - max(z)) for value in z]
    shares = [power / sum(powers) for power in powers]
    return -sum(share * log(share) for share in shares if share > 0)


for pair in logits[0][:20].double():
    assert abs(plain_entropy(pair.tolist()) - float(softmax_entropy(pair))) < 1e-9
print(f"logits (0, 2): H = {plain_entropy([0.0, 2.0]):.3f}; logits (0, 1): H = {plain_entropy([0.0, 1.0]):.3f}")

# %%
entropies = softmax_entropy(logits)
right = logits.argmax(2) == answers
shown = {each.name: (entropies[n][right[n]], entropies[n][~right[n]]) for n, each in enumerate(sources)}
pictures.certainty(shown, logits.shape[2])

# %% [markdown]
# **What to notice.** Blue piles up at 0: where a network is right it is mostly sure. Orange leans to the right end, but
# not all of it: some wrong answers have an entropy below 0.1. So little entropy is a sign of being right, not a proof.
# The paper's supplement shows the same picture for CelebA.

# %% [markdown]
# ## Round 2: who teaches which image
#
# Each image is learned from the source of least entropy. The choice is made once, before training; of equal entropies
# the first source wins.


# %%
def plain_choice(per_source):
    return min(range(len(per_source)), key=lambda k: plain_entropy(per_source[k]))


picked = choose_teacher(logits)
for n in range(50):
    assert plain_choice(logits[:, n].tolist()) == int(picked[n])

# %% tags=["picture"]
oracle = right.any(0).double().mean()
best = {each.name: 100 * float(right[n].double().mean()) for n, each in enumerate(sources)}
best |= {"the surest": 100 * float(right.gather(0, picked[None])[0].double().mean())}
best |= {"average of logits": 100 * float((logits.mean(0).argmax(1) == answers).double().mean())}
best |= {"any of them right": 100 * float(oracle)}
print({name: f"{value:.1f} %" for name, value in best.items()})
differ = right.any(0) & ~right.all(0)
there = 100 * float(right.gather(0, picked[None])[0][differ].double().mean())
print(f"they disagree on {int(differ.sum())} of {len(tested)} images; of these the surest is right on {there:.0f} %")
pictures.won(tested.images, entropies, [each.name for each in sources])

# %% [markdown]
# **What to notice.** Each row has the first seven faces that a source wins, its *share*; above each face stand the
# entropies of sources 8 and 9. Mostly both are near 0 and the difference says little; it is large for few faces, such
# as the dark and the blurred ones in the second row. So there is not much to win: the surest source is right on 96.9 %
# of the faces, source 8 alone on 96.5 %, the average of both logits on 96.9 %, and somebody who always picked a right
# source would reach 98.4 %. They disagree on few faces (printed above); where they agree, the choice decides only whose
# features and how large logits are imitated. *Try* a temperature of 5 for source 8: it then wins 2 % of the faces,
# though none of its answers has changed.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Choice:
    rule: Literal["entropy", "batch", "random", "oracle", "average"] = RULE
    temperature: float = lab.slider(TEMPERATURE, 0.1, 10.0, 0.1, "what the first source's logits are divided by")


def choice_of(settings):
    heat = [settings.temperature, *[1.0] * (len(sources) - 1)]
    how = {"temperatures": heat, "labels": answers, "batch_size": 64}
    teaches = amalgamation.subsets(logits, settings.rule, **how).T.double()
    wins = {each.name: [100 * float(teaches[n].mean())] for n, each in enumerate(sources)}
    wins["its teacher is right"] = [100 * float((teaches * right).sum() / teaches.sum())]
    ax = figures.axes(6, 2.2)
    return figures.bars_with_intervals(ax, wins, xlabel="test images (%)", title=f"Who teaches, by {settings.rule}")


lab.Explorer(choice_of, Choice(), run)

# %% [markdown]
# ## Round 3: a bridge, by hand
#
# Student and source have different features. A *bridge* brings both into a common space with two learned matrices (1x1
# convolutions with a bias; no ReLU, no norm), $S$ for the student and $T$ for the source, and compares them there. Take
# one pixel, two channels each, and a common space of one channel.


# %%
f_student, f_source = (1.0, 2.0), (2.0, 0.0)
S, T = (1.0, 0.5), (0.6, 0.8)


def plain_bridge(s, t):
    difference = sum(a * b for a, b in zip(s, f_student, strict=True)) - sum(
        a * b for a, b in zip(t, f_source, strict=True)
    )
    return difference**2, (sum(b * b for b in t) - 1) ** 2


bridge = Bridge([2], [2], [1], scale=False)
pixel = lambda values: torch.tensor(values).view(1, 2, 1, 1)
for s, t in ((S, T), ((0.0, 0.0), (0.0, 0.0))):
    with torch.no_grad():
        for side, row in ((bridge.ours, s), (bridge.theirs, t)):
            side[0].weight.copy_(torch.tensor(row).view(1, 2, 1, 1))
            side[0].bias.zero_()
        nothing = torch.zeros(1, 2)
        found = bridge([pixel(f_student)], [pixel(f_source)], nothing, nothing)
    assert torch.allclose(found[[0, 2]], torch.tensor(plain_bridge(s, t)))
    print(f"S = {s}, T = {t}: feature term {found[0]:.2f}, row norm {found[2]:.2f}")

# %% [markdown]
# $S f = 1 \cdot 1 + 0.5 \cdot 2 = 2$ and $T g = 0.6 \cdot 2 = 1.2$, so the term is $0.8^2 = 0.64$. With both matrices 0
# it would be 0, and nothing would be learned: that is what the *row norm* $(\sum_i t_i^2 - 1)^2$ forbids. It is 0 for
# $T$, whose row has length 1, and 1 for a row of zeros.

# %% [markdown]
# Now a bridge between real features: what a component and its first source put out at the end of their last stage,
# averaged over the image. Both networks stand still; only $S$ and $T$ learn, once with the row norm and once without.
# The common space has two channels, so that it can be drawn.

# %%
component = lab.train(
    experiments.component(chosen, task, experiments.ARMS["amalgamation"], seed), run.cache, run.device
)


def last_tap(network):
    found = chain(network.eval())
    with torch.no_grad():
        features, _ = tapped(found, taps(found)[-1:])(sample(tested, 200))
    return features[0].mean((2, 3), keepdim=True)


here, there = last_tap(component.model), last_tap(sources[0].network)


def learned_bridge(norm, steps=2000):
    torch.manual_seed(0)
    bridge, none, rows = Bridge([here.shape[1]], [there.shape[1]], [2], scale=False), torch.zeros(1, 2), []
    optimiser = torch.optim.Adam(bridge.parameters(), lr=0.01)
    for _ in range(steps):
        term, _, away = bridge([here], [there], none, none)
        optimiser.zero_grad()
        (term + norm * away).backward()
        optimiser.step()
        rows.append(float(bridge.theirs[0].weight.detach().flatten(1).norm(dim=1).mean()))
    spaces = [side[0](each).flatten(1).detach() for side, each in ((bridge.ours, here), (bridge.theirs, there))]
    return rows, *spaces


pictures.common_space({"with row norm": learned_bridge(1.0), "without": learned_bridge(0.0)})

# %% [markdown]
# **What to notice.** With the row norm the rows of $T$ soon have length 1 (left). Without it they shrink, and so do
# both clouds (right, on the same axes): the bridge makes the features equal by making them small. Only $T$ is held: as
# long as the source's side keeps its length, the component's side has to follow.

# %% [markdown]
# ## Round 4: stage 1, sources into a component
#
# A component has one task. In every step it sees images of each of its sources: 32 of the largest share, and of the
# others in proportion. With its features $f_l$ at the *taps* $l$ (the end of each resolution, before its ReLU: four in
# a ResNet-8, five in the paper's ResNet-18), those of source $k$, $g_{kl}$, and logits $z$ and $z_k$, its loss is
#
# $$
# L = \sum_k \Big[ \sum_l \overline{(S_{kl} f_l - T_{kl}\, g_{kl})^2} + \overline{(m_k z - z_k)^2}
# + \sum_l \overline{(\lVert t_{kl} \rVert^2 - 1)^2} \Big]
# $$
#
# Bars are means: over images, channels and pixels, and in the last term over the rows $t$ of $T$. The number $m_k$ is
# learned and starts at 1. Adam trains $f$, $S$, $T$ and $m$ together, at a rate of 0.005, halved after 1, 2 and 3
# epochs.

# %%
taught = of_task(train, task)
shares = amalgamation.subsets(amalgamation.task_logits(sources, task, taught), "entropy").sum(0).tolist()
sizes, _ = amalgamation.batch_sizes(shares, chosen.recipe.batch_size)
steps = amalgamation.OfEachSubset(tuple(sizes)).steps(shares, len(taught))
print(f"of {len(taught)} images the sources win {shares}; a step takes {sizes} of them, an epoch has {steps} steps")

# %%
loose = lab.train(experiments.component(chosen, task, experiments.ARMS["bridges free"], seed), run.cache, run.device)
curves = {"with row norm": torch.tensor(component.curves), "without": torch.tensor(loose.curves)}
pictures.terms(curves, curves["without"].shape[2] - 2)

# %% [markdown]
# **What to notice.** Without the row norm every tap's term ends lower, at a quarter to little more than a third of what
# it is with it, while the rows move away from length 1 (light dotted line: the penalty, summed over taps; it rises). So
# part of that agreement can be shrinking. With it the rows come nearer to length 1, but in 108 steps not near. Of the
# terms in the loss the logits' is the largest.

# %% [markdown]
# ## Round 5: stage 2, components into the target
#
# The target has a head for each wanted attribute and learns from all components on all images. The release runs it once
# for each component. Running it once is enough: the loss is the same, as asserted below. With
# bridges $G_j$ from its features to those of component $j$, $c_{jl}$, and the logits $z^{(j)}$ of its head $j$,
# the loss is
#
# $$L = \sum_j \Big[ \sum_l \overline{(G_{jl} f_l - c_{jl})^2} + \overline{(m_j z^{(j)} - z_j)^2} \Big]$$

# %%
plain = experiments.ARMS["amalgamation"]
members = [lab.train(experiments.component(chosen, each, plain, seed), run.cache, run.device) for each in wanted]
together = results["amalgamation", seed].model
heads = [Source("target", together, test.tasks).head(name) for name in wanted]
parts = [Teacher(name, each.model, answers=head) for name, each, head in zip(wanted, members, heads, strict=True)]
pixels, losses = sample(train, 20), []
for joint in (True, False):
    torch.manual_seed(0)
    losses.append(Amalgamation(together, parts, pixels[:2], common=None, joint=joint)(together, pixels, None))
assert torch.allclose(*losses)
print(f"loss of the trained target with new bridges: {losses[0]:.3f} either way")

# %% [markdown]
# There is no choice in stage 2: each task has one component, so each image has one teacher a task. Nor is there a row
# norm: the component's features are taken as they are, so they cannot shrink, and only the target's side has a bridge.

# %%
one = sample(test, 1)
networks = {"a source": sources[0].network, "a component": component.model, "the target": together}
for title, network in networks.items():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(one)
    count = sum(weight.numel() for weight in network.parameters())
    print(f"{title:12} {count:9,} parameters {counter.get_total_flops() // 2:12,} multiplications an image")

# %% [markdown]
# **What to notice.** The target has half the parameters of its four components together, 39,326 and 79,080, and costs
# less than half their multiplications. Its layers are 90/64 times as wide as theirs, in the paper's proportion.

# %% [markdown]
# ## The experiment
#
# | arm | teachers | each image from | features | labels |
# |---|---|---|---|---|
# | **amalgamation** | sources, then components | the surest | ✓ | |
# | random teacher | sources, then components | one at random | ✓ | |
# | every teacher | sources, then components | all | ✓ | |
# | surest, more steps | sources, then components | the surest | ✓ | |
# | random, more steps | sources, then components | one at random | ✓ | |
# | surest by labels | sources, then components | the one that is most right | ✓ | to choose |
# | without components | sources | the surest of each task | ✓ | |
# | distillation | sources | all, logits averaged | | |
# | layer-wise | sources | all | ✓ | |
# | common features | sources | all | last ones | |
# | labels | none | | | ✓ |
#
# *Layer-wise* joins the features of all sources by a learned layer and lets the student imitate what comes out; *common
# features* brings all networks into one space and compares how their features are distributed there. Both, like
# *distillation*, also imitate the average of the logits.

# %%
lab.estimate(list(plan.values()), run)  # hours and memory, where they matter: at presets "reduced" and "paper"
MAIN = [arm for arm in dict.fromkeys(arm for arm, _ in plan) if arm not in experiments.ABLATIONS]
scores = lambda arm: [results[arm, each].history.final for each in run.seeds]
values = {arm: scores(arm) for arm in MAIN}
metrics = {f"{chosen.data}/{GROUP}/{arm}": {"unit": "%", "values": found} for arm, found in values.items()}
record = run.record(metrics, (train, test), recipe=asdict(chosen.recipe), width=chosen.width)
counts = {name: of_task(test, name).labels.bincount() for name in wanted}
majority = {name: 100 * int(each.max()) / int(each.sum()) for name, each in counts.items()}
pictures.accuracies(values, sum(majority.values()) / len(majority), "Mean over the wanted tasks (%)")

# %%
CONTROLS = {
    "who teaches": ["random teacher", "every teacher", "surest by labels", "surest, more steps", "random, more steps"],
    "other ways": ["without components", "distillation", "layer-wise", "common features", "labels"],
}
for title, arms in CONTROLS.items():
    shown = {arm: values[arm] for arm in ["amalgamation", *arms] if arm in values}
    display(lab.paired_differences(shown, baseline="amalgamation", title=title))

# %% [markdown]
# Differences are taken seed by seed to *amalgamation*; ± is the half width of the 95 % interval over seeds by Student's
# t; *better* or *worse* means that the interval excludes zero. A seed draws everything but the images: the sources'
# training, the student's weights and the order. All arms of a seed learn from the same nine sources.
#
# **What to notice.** Between the choice by entropy, at random and by the true label no difference is shown. *Every
# teacher* is better, but its components see each image from each source, in 32 steps an epoch, where those of
# *amalgamation* take 12 to 27 and those of *random teacher* 11 to 17. With 32 for them as well, the rows *more steps*,
# both come to within a point of it. So what helps is mostly the number of steps, and again no gain of the surest over a
# random source is seen. Targets of all arms take 32. *Distillation* has the highest mean, the same as *labels*. *Common
# features* hardly leaves the grey line.

# %% [markdown]
# ## Task by task
#
# What the best source of each task knows, the component, the target, and a network of the target's size that had labels
# (seed 0).


# %%
def knows(network, head, name):
    return amalgamation.accuracy(network, head, of_task(test, name), run.precision)


pool = [source(number) for number in known]
best_of = lambda name: max(knows(each.network, each.head(name), name) for each in pool if name in each.tasks)
labelled = results["labels", seed].model
by_task = {"best source": {name: best_of(name) for name in wanted}}
by_task["component"] = {name: knows(each.model, slice(None), name) for name, each in zip(wanted, members, strict=True)}
for title, network in (("target", together), ("labels", labelled)):
    by_task[title] = {name: knows(network, head, name) for name, head in zip(wanted, heads, strict=True)}
pictures.by_task(by_task, majority)

# %% [markdown]
# **What to notice.** Amalgamation loses most in *Brown Hair*, where component and target are about 3 points and 1 point
# above the black line, though a source has 95 %. (Bars do not start at 0.) That task has three sources, so each share
# is about a third of the images, and an epoch, one pass over the largest share, has 12 steps. In *Bangs* the component
# is good and the target loses most of 6 points to it, so stage 2 costs as well. At this seed the target is below the
# best source in every task. The best source is picked on the test set.

# %% [markdown]
# ## Are the sources as sure as they should be?
#
# A network is *calibrated* if, of the answers that it gives with 90 % confidence, 90 % are right. Least entropy
# compares confidences of different networks, so it needs networks that are equally well calibrated: one that is too
# sure of itself teaches images that others know better. Dividing logits by a *temperature* changes the confidence and
# no answer; the best temperature is the one with the least cross-entropy on held-out images.

# %%
found = {each.name: (logits[n].softmax(1).max(1).values, right[n]) for n, each in enumerate(sources)}
heat = {each.name: amalgamation.calibrate(logits[n], answers) for n, each in enumerate(sources)}
print({name: f"temperature {value:.2f}" for name, value in heat.items()})
cooled = choose_teacher(logits, temperatures=list(heat.values()))
print(f"calibrated, {100 * float((cooled != picked).double().mean()):.1f} % of the images get another teacher")
pictures.reliability(found, 1 / logits.shape[2])

# %% [markdown]
# **What to notice.** Where most answers lie, above 80 %, both curves follow the grey line; further left bins hold few
# faces and jump. Both temperatures are close to 1, and calibrating changes the teacher of few faces. So of these two
# sources, at least, confidences can be compared. The temperatures are fitted on the test labels, for this picture
# alone.

# %% [markdown]
# ## On photographs
#
# Five arms at preset `reduced`, in six epochs: ResNet-18 of quarter width on the first 10,000 photographs of CelebA, at
# 64 pixels; and, with a narrow ResNet-8, the paper's experiment with classes. There two halves of CIFAR-100's 50
# animals and people are wanted, 25 classes each, and each source knows one half and a quarter of the other 50 classes
# besides. An image is scored among the classes of its own half. Tables are read from the records of the commands below,
# once they have run; nothing is trained here.

# %%
for group, data, command in (("hair", "celeba-10k", ""), ("classes", "cifar100", " -p GROUP classes")):
    tasks = ",".join(amalgamation.GROUPS[group])
    kept = lab.on_record("04_amalgamation", "reduced", f"{data}:{tasks}")
    if kept is None:
        print(f"{data}, {group}: not run: hetlib run 04 --preset reduced{command} --keep")
        continue
    print(f"{kept.command}\n{kept.data['train']} training images, {kept.data['test']} test images")
    photographs = {arm: kept.metrics[f"{data}/{group}/{arm}"]["values"] for arm in experiments.REDUCED}
    display(lab.paired_differences(photographs, baseline="amalgamation", title=f"{data}, {group}"))

# %% [markdown]
# ## Ablations
#
# One seed each at `classroom`, so these bars rank nothing. *Bridges free* has no row norm; *norms frozen* and *steps
# every iteration* are what the release does by accident: its batch norms stand still from the second epoch on, and its
# learning rate is halved after so many iterations, not epochs; here after 1, 2 and 3. *Joint* runs the component once
# on the images of all sources together, so that its batch norms see them as one batch.

# %%
few = {"amalgamation": [results["amalgamation", seed].history.final]}
few |= {arm: [results[arm, seed].history.final] for arm in experiments.ABLATIONS if (arm, seed) in results}
pictures.accuracies(few, sum(majority.values()) / len(majority), f"Seed {seed} only")

# %% [markdown]
# **What to notice.** One seed and differences of up to 1.5 points: nothing is decided. The accuracy does not show the
# collapse that the bridges' terms show; perhaps because the logits teach as well.

# %% [markdown]
# ## Train one yourself
#
# Choose how the component of the last wanted attribute learns and press *Run*; the grey curves are components of the
# experiment, seed 0. At the defaults yours is the component of *amalgamation* itself, and covers its grey curve. Losses
# of other settings have other terms, so compare the accuracies in the legend.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Component:
    rule: Literal["entropy", "batch", "random", "oracle", "average"] = RULE
    norm: Literal[0.0, 1.0, 6.0] = NORM
    scale: bool = SCALE
    taps: Literal[1, 2, 3, 4, 5] = TAPS
    common: Literal[0.25, 0.5, 1.0] = COMMON
    joint: bool = JOINT
    freeze: bool = FREEZE
    schedule: Literal["steps", "iterations"] = SCHEDULE


def component_of(choice):
    how = {"norm": choice.norm, "scale": choice.scale, "common": choice.common, "joint": choice.joint}
    how |= {"rule": choice.rule, "freeze_norms": choice.freeze, "match": ByResolution(choice.taps)}
    arm = experiments.Arm(settings=amalgamation.Settings(**how), schedule=choice.schedule)
    return experiments.component(chosen, task, arm, seed)


def learning(choice, history):
    done = {"with row norm": component.history, "without": loose.history}
    return pictures.losses(done, f"{choice.rule}, row norm {choice.norm:g}", history)


lab.Explorer(learning, Component(), run, component_of)

# %% [markdown]
# ## Claim, what we saw, verdict
#
# | the paper says | what we saw | verdict |
# |---|---|---|
# | right predictions have less entropy than wrong ones | 0.09, 0.10 nats against 0.43, 0.47 | seen, in two sources |
# | the student is better than its teachers | below the best source in each task, one seed | not seen here |
# | (needed) the surest source is the one to learn from | a random one 0.3 ± 0.5 points above | not shown here |
# | (needed) components are worth their training | *without components* 1.3 ± 2.1 points above ours | not shown here |
# | no labels are needed | ours 3.8 ± 2.9 points below labels; distillation level with them | seen for distillation |
# | (needed) the row norm keeps bridges from collapsing | rows shrink without it, networks fixed | seen; no gain shown |
# | one target replaces its components at half the size | 39,326 parameters instead of 79,080 | seen |
# | (on photographs, at the paper's size) | not run | not run |
#
# In two sentences: on this task a prediction of little entropy is more often right, but learning from the surest source
# is not shown to beat learning from a random one, in few steps or in more. Students that imitate averaged logits alone
# do better; whether that holds on photographs and over the paper's 50 epochs is open.

# %% [markdown]
# **Known deviations.** `classroom` and `reduced` replace data, networks, sizes and schedules, and nothing starts from
# ImageNet, where the paper's sources do. Images are shared out as they are; the release looks at one random
# augmentation of each. An epoch is one pass over the largest share, and shorter ones begin anew; the release for
# attributes stops after two passes over the shortest, by an error. The release trains one component of each group, and
# its target keeps the learning rate that it begins with; ours is halved like a component's. The settings
# `amalgamation.RELEASED_ATTRIBUTES` and `RELEASED_CLASSES` do what the release does.

# %% [markdown]
# ## Exercises
#
# Write each function; `check` compares it with a hidden solution on fresh random inputs. Solutions are shown here;
# `make exercises` writes the notebook without them to `build/exercises`.
#
# **1.** `surest(logits)`: the number of the teacher whose softmax has the least entropy, of logits (teachers, classes).


# %%
def expected_surest(logits):
    shares = logits.softmax(1)
    return int((shares * shares.log()).sum(1).argmax())


some_logits = lambda generator: (3 * torch.randn(4, 5, generator=generator, dtype=torch.float64),)
lab.exercise("surest", expected_surest, some_logits, "softmax each row; of p ln p take minus the sum")


# %% tags=["solution"]
def surest(logits):
    return int(torch.special.entr(logits.softmax(1)).sum(1).argmin())


# %%
lab.check("surest", surest)

# %% [markdown]
# **2.** `sizes(lengths, largest)`: how many images of each source's share a step takes. The longest share gets
# `largest`, and so decides how many whole batches an epoch has; each other is divided by that number, rounded down, but
# has one image at least.


# %%
def expected_sizes(lengths, largest):
    return amalgamation.batch_sizes(lengths, largest)[0]


some_lengths = lambda generator: (torch.randint(100, 5000, (3,), generator=generator).tolist(), 64)
lab.exercise("sizes", expected_sizes, some_lengths, "an epoch has max(lengths) // largest batches")


# %% tags=["solution"]
def sizes(lengths, largest):
    steps = max(1, max(lengths) // largest)
    return [largest if length == max(lengths) else max(1, length // steps) for length in lengths]


# %%
lab.check("sizes", sizes)

# %% [markdown]
# ## Three questions
#
# <details><summary>Multiply all logits of one source by 10. Which images does it teach then?</summary>
#
# Nearly all of them: its answers are the same and its entropies near 0. Only calibration tells a sure network from one
# that shouts.
# </details>
#
# <details><summary>Why does stage 2 need no row norm?</summary>
#
# The component's features are taken as they are, so the common space cannot shrink. Only the target's side is learned.
# </details>
#
# <details><summary>Which control shows that the choice of teachers matters?</summary>
#
# The same two stages with teachers chosen at random, and with every source teaching every image, on the same seeds.
# </details>

# %% [markdown]
# ## References and what to read next
#
# * Shen, Xue, Wang, Song, Sun, Song: *Customizing Student Networks From Heterogeneous Teachers via Adaptive Knowledge
#   Amalgamation*, ICCV 2019, arXiv 1908.07121; released code zju-vipa/KamalEngine.
# * Guo, Pleiss, Sun, Weinberger: *On Calibration of Modern Neural Networks*, ICML 2017.
# * `hetlib amalgamate sources` and `hetlib amalgamate train` take the command lines of the release;
#   `amalgamation.customise(pool, wanted, images)` does both stages for networks of your own.
# * All runs on record: [papers.md](../papers.md). Networks that share weights while they train are in
#   [03 · Filter grafting](03_grafting.ipynb).
