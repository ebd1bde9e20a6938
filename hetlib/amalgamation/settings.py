"""How amalgamation is done: every choice that the paper, its released code or an experiment may make otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hetlib.amalgamation.batches import EPOCHS
from hetlib.amalgamation.choosing import SUBSETS
from hetlib.amalgamation.objective import check_common
from hetlib.amalgamation.taps import ByResolution
from hetlib.errors import check_callable, finite, known, of_kind
from hetlib.training import Recipe
from hetlib.transfer.transfer import Match

VIEWS = ("centre", "augmented")

RECIPE = Recipe(
    epochs=50,
    batch_size=64,
    optimiser="adamw",  # without weight decay it is Adam
    lr=1e-4,
    weight_decay=0.0,
    schedule="steps",
    milestones=(5, 10, 15, 20, 25),
    gamma=0.5,
)
"""How components and target are trained on attributes; factors on the rates of bridges are the objective's."""

SOURCE = Recipe(
    epochs=50,
    batch_size=32,
    optimiser="sgd",
    lr=1e-4,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="steps",
    milestones=(5, 10, 15, 20, 25),
    gamma=0.5,
)
"""How sources are trained on attributes."""


@dataclass(frozen=True)
class Settings:
    """Everything but networks, data and recipes.

    Attributes
    ----------
    rule : str
        How each image's source is chosen: "entropy" and the other rules of `choose_teacher`, or "average", where every
        source teaches every image.
    view : {"centre", "augmented"}
        Choose by images as they are, or by one random augmentation of each, as released.
    temperatures : mapping of str to float
        What the logits of a source, by its name, are divided by before the choice; 1 for others.
    own_images : bool
        Components learn from images of their task's classes only, as released for classes; this looks at labels.
    epoch : {"largest", "shortest", "all", "released"}
        How long an epoch of a component is; see `OfEachSubset`. "released" ends the training after one such epoch, as
        the released code for attributes does by an error.
    match : callable
        Pairs of taps.
    common : float or tuple of int
        Width of the space in which a component and its sources are compared; see `Amalgamation`.
    scale : bool
        Multiply the student's logits by a learned number for each teacher.
    features, logits, norm : float
        Weights of the terms; the released code for classes has norm 6.
    tasks : mapping of str to float
        Weight of each wanted task in the target's loss; 1 for others.
    joint : bool
        A component runs once on the batches of all sources, not once for each of them.
    one_forward : bool
        The target runs once in a step, with the same loss and gradients; released: once for each component.
    freeze_norms : bool
        Students stay in evaluation mode from the second epoch on, as in the released code.

    Raises
    ------
    ValueError
        If a name is unknown.
    """

    rule: str = "entropy"
    view: str = "centre"
    temperatures: Mapping[str, float] = field(default_factory=dict)
    own_images: bool = False
    epoch: str = "largest"
    match: Match = field(default_factory=ByResolution)
    common: float | Sequence[int] = 0.5
    scale: bool = True
    features: float = 1.0
    logits: float = 1.0
    norm: float = 1.0
    tasks: Mapping[str, float] = field(default_factory=dict)
    joint: bool = False
    one_forward: bool = True
    freeze_norms: bool = False

    def __post_init__(self):
        choices = (("rule for choosing teachers", self.rule, SUBSETS), ("view", self.view, VIEWS))
        for kind, name, names in (*choices, ("length of an epoch", self.epoch, EPOCHS)):
            known(kind, name, names)
        check_callable("match", self.match)
        for name in ("features", "logits", "norm"):
            finite(name, getattr(self, name), 0)
        for name, least in (("temperatures", {"above": 0}), ("tasks", {"low": 0})):
            of_kind(name, getattr(self, name), Mapping, words="a mapping of names to numbers")
            for key, value in getattr(self, name).items():
                finite(f"{name}: that of {key!r}", value, **least)
        check_common(self.common)

    def changed(self, **changes: Any) -> "Settings":
        """The same settings with some replaced; an unknown one is named with its nearest neighbours."""
        valid = [each.name for each in fields(self)]
        for name in changes:
            known("setting of amalgamation", name, valid)
        return replace(self, **changes)

    def check(self, sources: Sequence[str], tasks: Sequence[str]) -> None:
        """Refuse a temperature of a source, or a weight of a task, that is not among these; the nearest are named."""
        for kind, given, valid in (
            ("source with a temperature", self.temperatures, sources),
            ("task with a weight", self.tasks, tasks),
        ):
            for name in given:
                known(kind, name, valid)

    @property
    def bridge(self) -> dict[str, Any]:
        """What both stages' objectives are given."""
        names = ("match", "scale", "features", "logits", "norm", "freeze_norms")
        return {name: getattr(self, name) for name in names}


RELEASED_ATTRIBUTES = Settings(view="augmented", epoch="released", one_forward=False, freeze_norms=True)
"""What the released code for attributes does, with ``schedule="iterations"`` for components and "constant" for the
target. Of each group it trains the last component only.
"""
RELEASED_CLASSES = Settings(
    view="augmented", own_images=True, epoch="shortest", scale=False, norm=6.0, one_forward=False, freeze_norms=True
)
"""What the released code for classes does, together with ``schedule="iterations"`` in both stages."""
