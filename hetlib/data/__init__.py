"""Data sets as tensors: some rendered, one that comes with scikit-learn, the published ones read from files."""

from hetlib.data.images import AttributeImages, Images, augment, normalise, sample
from hetlib.data.load import folder, load, names, splits
from hetlib.data.published import DataMissing
from hetlib.data.subsets import class_split, few_shot, skill_split

__all__ = [
    "AttributeImages",
    "DataMissing",
    "Images",
    "augment",
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
