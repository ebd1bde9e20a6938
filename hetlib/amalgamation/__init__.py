"""Knowledge amalgamation: one student, customised from many teachers that know different tasks, without labels.

>>> pool = [Source("hair 1", first, ["Black_Hair", "Blurry"]), Source("hair 2", second, ["Bangs", "Young"])]
>>> made = customise(pool, ["Black_Hair", "Bangs"], images, test)
>>> made.metrics["target"]

Shen et al., *Customizing Student Networks From Heterogeneous Teachers via Adaptive Knowledge Amalgamation*, ICCV 2019
(arXiv 1908.07121), after its released code, zju-vipa/KamalEngine.
"""

from hetlib.amalgamation.batches import OfEachSubset, batch_sizes
from hetlib.amalgamation.bridges import Bridge, row_norm
from hetlib.amalgamation.choosing import subsets, task_logits
from hetlib.amalgamation.customise import METHODS, Customised, customise
from hetlib.amalgamation.from_jobs import AmalgamateFrom, per_attribute, tasks_of
from hetlib.amalgamation.groups import CLASSES, GROUPS, sources_of
from hetlib.amalgamation.objective import Amalgamation
from hetlib.amalgamation.peers import AverageDistillation, CommonFeatures, LayerWise
from hetlib.amalgamation.settings import RECIPE, RELEASED_ATTRIBUTES, RELEASED_CLASSES, SOURCE, Settings
from hetlib.amalgamation.sources import PerTask, Source, accuracy, covering, labelled, train_source
from hetlib.amalgamation.taps import ByResolution, taps
from hetlib.amalgamation.teachers import Teacher
from hetlib.data import class_parts
from hetlib.kernels.choice import calibrate, choose_teacher, softmax_entropy

__all__ = [
    "CLASSES",
    "GROUPS",
    "METHODS",
    "RECIPE",
    "RELEASED_ATTRIBUTES",
    "RELEASED_CLASSES",
    "SOURCE",
    "AmalgamateFrom",
    "Amalgamation",
    "AverageDistillation",
    "Bridge",
    "ByResolution",
    "CommonFeatures",
    "Customised",
    "LayerWise",
    "OfEachSubset",
    "PerTask",
    "Settings",
    "Source",
    "Teacher",
    "accuracy",
    "batch_sizes",
    "calibrate",
    "choose_teacher",
    "class_parts",
    "covering",
    "customise",
    "labelled",
    "per_attribute",
    "row_norm",
    "softmax_entropy",
    "sources_of",
    "subsets",
    "taps",
    "task_logits",
    "tasks_of",
    "train_source",
]
