"""How the weights of one network get into another, and the report of it."""

from hetlib.transfer.report import Row, TransferReport

__all__ = ["Row", "TransferReport"]
