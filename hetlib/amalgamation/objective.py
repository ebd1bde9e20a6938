"""Knowledge amalgamation as objectives: sources teach a component, components teach a target."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hetlib.amalgamation.bridges import Bridge
from hetlib.amalgamation.teachers import Taught, Teacher
from hetlib.errors import finite, whole_numbers


class Amalgamation(Taught):
    """The objective of both stages of adaptive knowledge amalgamation; labels are never looked at.

    The loss is the sum over teachers of their weight times the squared differences at all taps and of the logits, and
    `row_norm` of the teacher's bridge; see `Bridge`.

    Parameters
    ----------
    student, teachers, images
        As for `Taught`.
    common : float or sequence of int, optional
        Channels of the space of each tap in which both networks are compared, or as a factor on the student's. The
        paper's stage 1 has half of them. None: the student is brought to the teacher's widths, as in stage 2.
    sizes : sequence of int, optional
        How many images of a batch belong to each teacher, one after the other. None: all teachers look at all images,
        as in stage 2.
    joint : bool, optional
        Run the student once on the whole batch, not once for every teacher. By default it is run once where all
        teachers look at the same images, which gives the same loss and gradients; where each has its own, batch norm
        sees them apart, as released.
    scale : bool
        Multiply the student's logits by a learned number for each teacher.
    features, logits, norm : float
        Weights of the features' terms, of the logits' and of `row_norm`. Released for classes: norm 6, by accident.
    freeze_norms : bool
        From the second epoch on keep the student in evaluation mode, as the released code does by accident.
    **taught
        `match`, `epochs` and `steps`, as for `Taught`.

    Raises
    ------
    ValueError
        As `Taught`; if sizes and teachers differ in number, the networks disagree about a task's classes, or a
        teacher's part of a batch is a single image with a feature map of one pixel, of which batch norm knows no
        variance.

    References
    ----------
    Shen et al., *Customizing Student Networks From Heterogeneous Teachers via Adaptive Knowledge Amalgamation*, ICCV
    2019; the sums after its released code.
    """

    factors: Tensor

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[Teacher],
        images: Tensor,
        *,
        common: float | Sequence[int] | None = 0.5,
        sizes: Sequence[int] | None = None,
        joint: bool | None = None,
        scale: bool = True,
        features: float = 1.0,
        logits: float = 1.0,
        norm: float = 1.0,
        freeze_norms: bool = False,
        **taught: Any,
    ):
        for name, weight in (("features", features), ("logits", logits), ("norm", norm)):
            finite(name, weight, 0)
        if common is not None:
            check_common(common)
        super().__init__(student, teachers, images, **taught)
        self.sizes = None if sizes is None else whole_numbers("sizes", sizes, 1)
        self.joint, self.freeze_norms = sizes is None if joint is None else joint, freeze_norms
        self.parts = (features, logits, norm)
        self._check()
        count = len(self.pairs[0])
        factors = [[features * weight] * count + [logits * weight, norm] for weight in self.weights]
        self.register_buffer("factors", torch.tensor(factors), persistent=False)
        self.bridges = nn.ModuleList(
            Bridge([shape[1] for shape in here], [shape[1] for shape in there], _common(common, here), scale)
            for here, there in zip(self.student_shapes, self.teacher_shapes, strict=True)
        )
        self.keep_curves(len(teachers), count + 2)

    def _check(self) -> None:
        if len({len(pairs) for pairs in self.pairs}) > 1:
            counts = ", ".join(f"{name} {len(pairs)}" for name, pairs in zip(self.names, self.pairs, strict=True))
            raise ValueError(f"all teachers need equally many taps, the match finds: {counts}")
        if self.sizes is None:
            return
        if len(self.sizes) != len(self.names):
            raise ValueError(f"{len(self.sizes)} sizes of batches for {len(self.names)} teachers")
        for name, size, shapes in zip(self.names, self.sizes, self.student_shapes, strict=True):
            if size == 1 and not self.joint and any(shape[2:].numel() == 1 for shape in shapes):
                raise ValueError(
                    f"{name} has one image a step, of which batch norm knows no variance where feature maps have one "
                    "pixel: take joint=True, or larger batches"
                )

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor, *rows: Tensor) -> Tensor:
        """The loss of a student on normalised images (B, channels, height, width)."""
        if self.freeze_norms and self._step >= self.steps:
            model.eval()
        terms = self.terms(model, images)
        self.note(terms)
        return (terms * self.factors).sum()

    def terms(self, model: nn.Module, images: Tensor) -> Tensor:
        """Every term of the loss, (teachers, taps + 2): at each tap, of the logits, and `row_norm`, none weighted."""
        count = len(self.names)
        parts = [images] * count if self.sizes is None else images.split(self.sizes)
        found = []
        for k, (student, logits) in enumerate(self._students(model, images, parts)):
            teacher, wanted = self.teachers[k](parts[k])
            found.append(self.bridges[k](student, teacher, logits[:, self.answers[k]], wanted[:, self.says[k]]))
        return torch.stack(found)

    def _students(
        self, model: nn.Module, images: Tensor, parts: Sequence[Tensor]
    ) -> "list[tuple[list[Tensor], Tensor]]":
        """For every teacher the student's features and logits on this teacher's images."""
        if not self.joint:
            runs = [self.run(model, part) for part in parts]
            return [(features[k], logits) for k, (features, logits) in enumerate(runs)]
        features, logits = self.run(model, images)
        if self.sizes is None:
            return [(each, logits) for each in features]
        return [
            ([feature.split(self.sizes)[k] for feature in each], logits.split(self.sizes)[k])
            for k, each in enumerate(features)
        ]

    @property
    def rates(self) -> tuple[tuple[str, float], ...]:
        """The released factors on the learning rate, for `hetlib.training.Recipe`: a tenth for the third of five taps,
        a hundredth for the scale of the logits.
        """
        found = []
        for k, bridge in enumerate(cast(list[Bridge], self.bridges)):
            if len(bridge.ours) == 5:
                sides = ("ours", "theirs") if bridge.theirs else ("ours",)
                found += [(f"objective.bridges.{k}.{side}.2.", 0.1) for side in sides]
            if bridge.m is not None:
                found.append((f"objective.bridges.{k}.m", 0.01))
        return tuple(found)

    def extra_repr(self) -> str:
        """All settings: they tell one training from another."""
        settings = f"sizes={self.sizes}, joint={self.joint}, parts={self.parts}, freeze_norms={self.freeze_norms}"
        return f"{super().extra_repr()}\n{settings}"


def check_common(common: float | Sequence[int]) -> None:
    """Refuse widths of a common space that are neither a factor above 0 nor whole numbers of at least 1."""
    if isinstance(common, Iterable):
        whole_numbers("common", common, 1)
    else:
        finite("common", common, above=0)


def _common(common: float | Sequence[int] | None, shapes: Sequence[torch.Size]) -> list[int] | None:
    if common is None or not isinstance(common, int | float):
        return None if common is None else list(common)
    return [max(1, round(common * shape[1])) for shape in shapes]
