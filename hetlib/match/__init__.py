"""Which source layer feeds which target layer: by position, by ratio, by likeness, or by alignment."""

from hetlib.match.align import align, least_costs, legal_maps
from hetlib.match.likeness import by_blocks, by_score, likeness, pair_by_score, shape_score
from hetlib.match.position import by_position
from hetlib.match.ratio import by_ratio

__all__ = [
    "align",
    "by_blocks",
    "by_position",
    "by_ratio",
    "by_score",
    "least_costs",
    "legal_maps",
    "likeness",
    "pair_by_score",
    "shape_score",
]
