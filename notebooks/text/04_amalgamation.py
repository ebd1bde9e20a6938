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
# * TO FILL
#
# **You will be able to** compute the entropy of a prediction and choose a teacher by it; carry a feature through a
# bridge and its loss by hand; say what the row norm is for; and choose the controls that such a method has to beat.
#
# | preset | time on two cores | data |
# |---|---|---|
# | `smoke` | under a minute | 400 faces, 2 epochs: nothing to learn from |
# | `classroom` | minutes | 1,500 faces, 32 pixels, 3 seeds |
# | `reduced` | hours, estimated first | first 10,000 photographs of CelebA, 64 pixels, ResNet-18 of quarter width, 3 seeds |
# | `paper` | days; take a GPU | CelebA, ResNet-18, 224 pixels, 50 epochs, 5 seeds |

# %% tags=["parameters"]
PRESET: str = "classroom"  # smoke, classroom, reduced or paper
DATA: str = ""  # images with attributes: "faces", "celeba-10k" or "celeba"; empty takes the preset's own
GROUP: str = "hair"  # what is wanted: hair, eye or face
SEEDS: int = 0  # trainings per arm; 0 takes the preset's own number
WIDTH: float = 0.0  # width of every hidden layer, as a factor; 0 takes the preset's own
EPOCHS: int = 0  # epochs of every training; 0 takes the preset's own
ZOOM: float = 1.0  # size of the figures: 1 fits a laptop, 1.5 a projector
RULE: str = "entropy"  # explorers: entropy, random, average or oracle
TEMPERATURE: float = 1.0  # explorers: what the first source's logits are divided by, 0.1 to 10
NORM: float = 1.0  # explorers: weight of the row norm; the release has 6 for classes
SCALE: bool = True  # explorers: a learned factor on the student's logits
COMMON: float = 0.5  # explorers: width of the common space, as a factor on the student's
FREEZE: bool = False  # explorers: batch norms stand still from the second epoch on, as released

# %%
# %matplotlib inline
from dataclasses import asdict, dataclass
from math import exp, log
from typing import Literal

import torch
from IPython.display import display

from hetlib import amalgamation, lab
from hetlib.amalgamation import Bridge, Source, choose_teacher, softmax_entropy, task_logits
from hetlib.experiments import amalgamation as experiments
from hetlib.experiments import amalgamation_figures as pictures
from hetlib.lab import figures

run = lab.start("04_amalgamation", PRESET, DATA or None, SEEDS or None, zoom=ZOOM)
plan = experiments.jobs(run.preset, run.seeds, DATA, GROUP, WIDTH, EPOCHS)
chosen = experiments.setting(run.preset, DATA, WIDTH, EPOCHS)
known, wanted = amalgamation.sources_of(GROUP), tuple(amalgamation.GROUPS[GROUP])
first = plan["amalgamation", run.seeds[0]]
train, test = first.load("train"), first.load("test")

# %% [markdown]
# ## The problem in one picture
#
# Every face has 31 attributes, yes or no. Nine networks were trained by others, each on a few attributes; we have the
# networks, not their labels. Wanted is one network for the four coloured attributes and for nothing else.

# %%
print(f"{len(train)} training images, {len(test)} test images, {len(wanted)} wanted attributes")
display(pictures.examples(train.images, train.labels, wanted))
pictures.pool(known, wanted)

# %% [markdown]
# Two sources or more know each wanted attribute. They differ in what else they had to learn, and so in what they see.

# %%
results = dict(zip(plan, lab.train_all(list(plan.values()), run.cache, run.device), strict=True))
seed = run.seeds[0]
task = wanted[-1]
jobs = {n: job for n, job in experiments.source_jobs(chosen, GROUP, seed).items() if task in known[n]}
sources = [Source(f"source {n}", lab.train(job, run.cache, run.device).model, known[n]) for n, job in jobs.items()]
logits, answers = task_logits(sources, task, test), test.task(task).labels

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
pictures.certainty(shown)

# %% [markdown]
# **What to notice.** TO FILL

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

# %%
oracle = right.any(0).double().mean()
best = {each.name: 100 * float(right[n].double().mean()) for n, each in enumerate(sources)}
best |= {"the surest": 100 * float(right.gather(0, picked[None])[0].double().mean())}
best |= {"average of logits": 100 * float((logits.mean(0).argmax(1) == answers).double().mean())}
best |= {"any of them right": 100 * float(oracle)}
print({name: f"{value:.1f} %" for name, value in best.items()})
pictures.won(test.images, entropies, [each.name for each in sources])

# %% [markdown]
# **What to notice.** TO FILL


# %%
@dataclass(frozen=True)
class Choice:
    rule: Literal["entropy", "random", "oracle"] = RULE
    temperature: float = lab.slider(TEMPERATURE, 0.1, 10.0, 0.1, "what the first source's logits are divided by")


def choice_of(settings):
    heat = [settings.temperature, *[1.0] * (len(sources) - 1)]
    generator = torch.Generator().manual_seed(0)
    found = choose_teacher(logits, settings.rule, temperatures=heat, labels=answers, generator=generator)
    wins = {each.name: [100 * float((found == n).double().mean())] for n, each in enumerate(sources)}
    wins["chosen and right"] = [100 * float(right.gather(0, found[None])[0].double().mean())]
    ax = figures.axes(6, 2.2)
    return figures.bars_with_intervals(ax, wins, title=f"Images won (%), by {settings.rule}")


lab.Explorer(choice_of, Choice(), run)

# %% [markdown]
# ## Round 3: a bridge, by hand
#
# Student and source have different features. A *bridge* brings both into a common space with two learned matrices
# (1x1 convolutions), $S$ for the student and $T$ for the source, and compares them there. Take one pixel, two channels
# each, and a common space of one channel.


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
# ## Round 4: stage 1, sources into a component
#
# A component has one task. In every step it sees images of each of its sources, in proportion to how many these won,
# and its loss is, for each source, the feature terms at the taps, the squared difference of the logits (times a learned
# number) and the row norms.

# %%
arms = {"row norm": "amalgamation", "no row norm": "bridges free"}
components = {
    title: lab.train(experiments.component(chosen, GROUP, task, experiments.ARMS[arm], seed), run.cache, run.device)
    for title, arm in arms.items()
}
curves = {title: torch.tensor(each.curves) for title, each in components.items()}
pictures.terms(curves, curves["row norm"].shape[2] - 2)

# %% [markdown]
# **What to notice.** TO FILL

# %% [markdown]
# ## Round 5: stage 2, components into the target
#
# The target has a head for each wanted attribute and learns from all components on all images. The release runs it once
# for each component; once is enough, with the same loss and the same gradients.

# %%
together = results["amalgamation", seed]
print({name: f"{value:.1f} %" for name, value in zip(("test accuracy",), (together.history.final,), strict=True)})

# %% [markdown]
# ## The experiment
#
# | arm | teachers | each image from | features | labels |
# |---|---|---|---|---|
# | **amalgamation** | sources, then components | the surest | ✓ | |
# | random teacher | sources, then components | one at random | ✓ | |
# | every teacher | sources, then components | all | ✓ | |
# | surest by labels | sources, then components | the one that is most right | ✓ | to choose |
# | without components | sources | the surest of each task | ✓ | |
# | distillation | sources | all, logits averaged | | |
# | layer-wise | sources | all | ✓ | |
# | common features | sources | all | last ones | |
# | labels | none | | | ✓ |

# %%
lab.estimate(list(plan.values()), run)  # hours and memory, where they matter: at presets "reduced" and "paper"
MAIN = [arm for arm in experiments.ARMS if arm not in experiments.ABLATIONS]
scores = lambda arm: [results[arm, each].history.final for each in run.seeds]
values = {arm: scores(arm) for arm in MAIN}
metrics = {f"{chosen.data}/{GROUP}/{arm}": {"unit": "%", "values": found} for arm, found in values.items()}
record = run.record(metrics, (train, test), recipe=asdict(chosen.recipe), width=chosen.width)
share = {
    name: max(float(column.double().mean()), 1 - float(column.double().mean()))
    for name, column in zip(wanted, test.labels.T, strict=True)
}
majority = {name: 100 * value for name, value in share.items()}
pictures.accuracies(values, sum(majority.values()) / len(majority), "Mean over the wanted attributes (%)")

# %%
lab.paired_differences(values, baseline="amalgamation", title="arm")

# %% [markdown]
# **What to notice.** TO FILL
