"""Networks read as ordered chains of layers: their graph, their coupled channels, and what their layers put out."""

from hetlib.chain.channels import Group, Member
from hetlib.chain.outputs import evaluating, full_precision, neurons, read_both, records
from hetlib.chain.read import Chain, Layer, Shortcut, chain, convolutions
from hetlib.chain.trace import Call

__all__ = [
    "Call",
    "Chain",
    "Group",
    "Layer",
    "Member",
    "Shortcut",
    "chain",
    "convolutions",
    "evaluating",
    "full_precision",
    "neurons",
    "read_both",
    "records",
]
