"""Numerics on plain tensors, one file per kernel; the ones that are asked for by name are here."""

from hetlib.kernels.cka import linear_cka as linear_cka
from hetlib.kernels.entropy import filter_entropy as filter_entropy
from hetlib.kernels.entropy import weight_entropy as weight_entropy
from hetlib.kernels.transport import transport_plan as transport_plan
