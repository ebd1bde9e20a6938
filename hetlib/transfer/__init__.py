"""How the weights of one network get into another: a sentence of a match, fits and a blend, and the report of it."""

from hetlib.kernels.fill import Fill, keep
from hetlib.transfer.fits import Copy, Cyclic
from hetlib.transfer.matches import ByBlocks, ByScore, SameName, unpaired
from hetlib.transfer.overlay import Overlay
from hetlib.transfer.report import Row, TransferReport
from hetlib.transfer.transfer import Context, Pair, Transfer

__all__ = [
    "ByBlocks",
    "ByScore",
    "Context",
    "Copy",
    "Cyclic",
    "Fill",
    "Overlay",
    "Pair",
    "Row",
    "SameName",
    "Transfer",
    "TransferReport",
    "keep",
    "unpaired",
]
