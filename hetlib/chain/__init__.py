"""Networks read as ordered chains of layers: their graph, their coupled channels, and what their layers put out."""

from hetlib.chain.channels import Group, Member
from hetlib.chain.inherited import is_leaf
from hetlib.chain.layers import Chain, Layer, convolutions, main_path
from hetlib.chain.origins import Value
from hetlib.chain.outputs import (
    Network,
    eval_chain,
    eval_mode,
    evaluating,
    full_precision,
    layer_outputs,
    neurons,
    reading,
)
from hetlib.chain.read import chain
from hetlib.chain.residuals import Shortcut
from hetlib.chain.resized import resized, set_sizes_
from hetlib.chain.trace import Call

__all__ = [
    "Call",
    "Chain",
    "Group",
    "Layer",
    "Member",
    "Network",
    "Shortcut",
    "Value",
    "chain",
    "convolutions",
    "eval_chain",
    "eval_mode",
    "evaluating",
    "full_precision",
    "is_leaf",
    "layer_outputs",
    "main_path",
    "neurons",
    "reading",
    "resized",
    "set_sizes_",
]
