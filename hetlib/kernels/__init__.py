"""Numerics on plain tensors, one file per kernel; the ones that are asked for by name are here."""

from hetlib.kernels.cka import linear_cka as linear_cka
from hetlib.kernels.transport import transport_plan as transport_plan
