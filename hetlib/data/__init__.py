"""Data sets as tensors: some rendered, one that comes with scikit-learn, the published ones read from files."""

from hetlib.data.images import HAS, AttributeImages, Images, augment, normalise, sample
from hetlib.data.load import folder, load, names, splits
from hetlib.data.published import DataMissing
from hetlib.data.subsets import class_split, few_shot, skill_split
from hetlib.data.tasks import class_parts

__all__ = [
    "HAS",
    "AttributeImages",
    "DataMissing",
    "Images",
    "augment",
    "class_parts",
    "class_split",
    "few_shot",
    "folder",
    "load",
    "names",
    "normalise",
    "sample",
    "skill_split",
    "splits",
]
