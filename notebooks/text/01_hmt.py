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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# **The claim.** The convolutions of a trained network can be placed, one after another, into a network of different
# depth, width and kernel size, and that network then learns better from few images (Wang, Lai, Liang and Wang,
# *Heterogeneous Model Transfer between Different Neural Networks*, 2020).
#
# **You will be able to** resize a 3x3 kernel to 5x5 and say what it does to the response; stack channels cyclically;
# predict which filters of a widened network can never become different; and tell from intervals, not from single
# runs, whether a transfer helped.
#
# | preset | time on two cores | data |
# |---|---|---|
# | `smoke` | under a minute | rendered shapes |
# | `classroom` | about three minutes | rendered shapes |
# | `paper` | hours; a GPU is welcome | CIFAR-10, then 1,000 images of CIFAR-100 |
#
# One thing first: **no accuracy of this paper is known to us.** It was withdrawn, its released code prints none, and
# we have found none anywhere. Every number below is ours.

# %% tags=["parameters"]
PRESET: str = "classroom"  # smoke, classroom or paper
DATA: str = ""  # data set of the target; empty takes the preset's own
SEEDS: int = 0  # runs per curve; 0 takes the preset's own number
ORDER: str = "chain"  # explorer: chain, shuffle or interval
RESIZER: str = "bilinear"  # explorer: bilinear, nearest or zero
ALIGN_CORNERS: bool = False  # explorer: pin the corner taps when resizing
NOISE: float = 0.0  # explorer: noise on repeated filters, in standard deviations

# %%
# %matplotlib inline
from dataclasses import dataclass, field
from typing import Literal

import matplotlib.pyplot as plt
import torch

from hetlib import hmt, lab, zoo
from hetlib.chain import chain, convolutions
from hetlib.lab import figures

run = lab.start("01_hmt", PRESET, data=DATA, seeds=SEEDS)

# %% [markdown]
# ## The problem in one picture
#
# VGG11 has eight convolutions with 3x3 kernels. PlainNet5 has four with 5x5 kernels, and no two of its layers have
# the shape of any layer of VGG11. Copying is impossible, so usually everything VGG11 knows is thrown away.

# %%
torch.manual_seed(0)
source, target = zoo.build("vgg11"), zoo.build("plainnet5")
figures.zoo_to_scale({"VGG11": source, "PlainNet5": target})
