"""Networks of one shape: averaged, interpolated, repaired, reordered, and voting."""

from hetlib.merging.average import average, update_bn
from hetlib.merging.ensemble import Ensemble
from hetlib.merging.git_rebasin import Matching, match_weights
from hetlib.merging.interpolate import barrier, between, check_alike, check_sharing, curve
from hetlib.merging.repair import repair, variances

__all__ = [
    "Ensemble",
    "Matching",
    "average",
    "barrier",
    "between",
    "check_alike",
    "check_sharing",
    "curve",
    "match_weights",
    "repair",
    "update_bn",
    "variances",
]
