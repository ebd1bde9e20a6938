"""What amalgamation is compared with: objectives in which every teacher looks at every image.

All three teach the student's heads by the averaged logits of the teachers of each head. The two that also compare
features follow the released code of zju-vipa/KamalEngine: layer-wise amalgamation (Shen et al., *Amalgamating Knowledge
towards Comprehensive Classification*, AAAI 2019) and common feature learning (Luo et al., *Knowledge Amalgamation from
Heterogeneous Networks by Common Feature Learning*, IJCAI 2019).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetlib.amalgamation.bridges import resized
from hetlib.amalgamation.teachers import Taught, Teacher
from hetlib.chain import eval_chain
from hetlib.errors import finite_numbers
from hetlib.kernels.mmd import mmd
from hetlib.transfer import Context, Pair


class AverageDistillation(Taught):
    """Distillation from averaged logits: the Kullback-Leibler divergence of every head of the student.

    Parameters
    ----------
    student, teachers, images
        As for `Taught`. Teachers with the same `answers` share a head, for which their logits are averaged; it has
        the weight of the first of them.
    weights : tuple of float
        Of the divergence, and of the terms that subclasses add.
    **taught
        `match`, `epochs` and `steps`, as for `Taught`.

    Raises
    ------
    ValueError
        As `Taught`, or if the teachers of a head give different numbers of logits.
    """

    terms = 1

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[Teacher],
        images: Tensor,
        *,
        weights: Sequence[float] = (1.0,),
        **taught: Any,
    ):
        weights = finite_numbers("weights", weights)
        super().__init__(student, teachers, images, **{"match": logits_only, **taught})
        if len(weights) != self.terms:
            raise ValueError(f"{type(self).__name__} has {self.terms} terms, got the weights {tuple(weights)}")
        self.factors = tuple(weights)
        self.keep_curves(self.terms)

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor, *rows: Tensor) -> Tensor:
        """The loss of a student on normalised images (B, channels, height, width)."""
        features, logits = self.run(model, images)
        taught = [teacher(images) for teacher in self.teachers]
        said = [wanted[:, says] for (_, wanted), says in zip(taught, self.says, strict=True)]
        terms = [self.divergence(logits, said), *self.compare(features, [theirs for theirs, _ in taught])]
        self.note(torch.stack(terms))
        return torch.stack([factor * term for factor, term in zip(self.factors, terms, strict=True)]).sum()

    def divergence(self, logits: Tensor, said: Sequence[Tensor]) -> Tensor:
        """The weighted sum over heads of KL(teachers || student) in nats, a mean over images; the temperature is 1."""
        total = logits.new_zeros(())
        bounds = [(head.start, head.stop) for head in self.answers]
        for start, stop in dict.fromkeys(bounds):
            own = [k for k, head in enumerate(bounds) if head == (start, stop)]
            average = torch.stack([said[k] for k in own]).mean(0)
            total = total + self.weights[own[0]] * divergence(logits[:, start:stop], average)
        return total

    def compare(self, student: list[list[Tensor]], teachers: list[list[Tensor]]) -> list[Tensor]:
        """The terms of the features; `student` and `teachers` have for each teacher the features at its taps."""
        return []

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}\nweights={self.factors}"


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax of the teacher's logits || the student's), in nats, the mean over images: (B, classes) twice -> ()."""
    log_q = teacher.detach().log_softmax(1)
    return F.kl_div(student.log_softmax(1), log_q, reduction="batchmean", log_target=True)


def logits_only(context: Context) -> list[Pair]:
    """A match of no layers."""
    return []


class LayerWise(AverageDistillation):
    """Layer-wise amalgamation: at every tap the teachers' features are encoded into one, which the student learns.

    The terms beside the divergence: the student's squared distance from the code, and the teachers' from what is
    decoded from the code; sums over taps. All layers are learned at once. By default taps are those of `ByResolution`;
    the released code takes every convolution's output.

    Parameters
    ----------
    student, teachers, images, weights, **taught
        As for `AverageDistillation`; all teachers are compared at the same taps of the student.
    """

    terms = 3

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[Teacher],
        images: Tensor,
        *,
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        match: Any = None,
        **taught: Any,
    ):
        super().__init__(student, teachers, images, weights=weights, match=match, **taught)
        if len({tuple(pair.target for pair in pairs) for pairs in self.pairs}) > 1:
            raise ValueError("layer-wise amalgamation compares all teachers at the same taps of the student")
        widths = [[shape[1] for shape in shapes] for shapes in zip(*self.teacher_shapes, strict=True)]
        own = [shape[1] for shape in self.student_shapes[0]]
        self.blocks = nn.ModuleList(LayerWiseBlock(here, there) for here, there in zip(own, widths, strict=True))

    def compare(self, student: list[list[Tensor]], teachers: list[list[Tensor]]) -> list[Tensor]:
        """The distances from the code and of what is decoded, each a sum over taps."""
        per_tap = [
            torch.stack(block(mine, list(yours)))
            for block, mine, yours in zip(self.blocks, student[0], zip(*teachers, strict=True), strict=True)
        ]
        return list(torch.stack(per_tap).sum(0).unbind())


class LayerWiseBlock(nn.Module):
    """One tap of `LayerWise`.

    Parameters
    ----------
    student : int
        Channels of the student.
    teachers : sequence of int
        Channels of each teacher.
    """

    def __init__(self, student: int, teachers: Sequence[int]):
        super().__init__()
        self.teachers = list(teachers)
        self.enc = nn.Conv2d(sum(teachers), student, 1)
        self.fam = nn.Conv2d(student, student, 1)
        self.dec = nn.Conv2d(student, sum(teachers), 1)

    def forward(self, student: Tensor, teachers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The student's distance from the code, and the sum of the teachers' from what is decoded.

        Parameters
        ----------
        student : Tensor of shape (B, channels, height, width)
        teachers : sequence of Tensor of shape (B, channels, ...)
            Resized to the student's height and width.
        """
        theirs = [resized(each, student) for each in teachers]
        code = self.enc(torch.cat(theirs, 1))
        decoded = self.dec(code).split(self.teachers, 1)
        apart = [F.mse_loss(part, each) for part, each in zip(decoded, theirs, strict=True)]
        return F.mse_loss(self.fam(student), code.detach()), torch.stack(apart).sum()


class CommonFeatures(AverageDistillation):
    """Common feature learning: what goes into the last linear layers is brought into one space and compared there.

    The terms beside the divergence: the sum over teachers of `hetlib.kernels.mmd` between the student's and a teacher's
    common features, and of the squared distance between a teacher's features and what is decoded from the common ones.

    Parameters
    ----------
    student, teachers, images, weights, **taught
        As for `AverageDistillation`; `match` is not taken.

    Raises
    ------
    ValueError
        As `AverageDistillation`, or if a network's last linear layer does not take vectors.
    """

    terms = 3

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[Teacher],
        images: Tensor,
        *,
        weights: Sequence[float] = (1.0, 10.0, 10.0),
        **taught: Any,
    ):
        super().__init__(student, teachers, images, weights=weights, match=last_linears, inputs=True, **taught)
        shapes = [self.student_shapes[0][0], *(shapes[0] for shapes in self.teacher_shapes)]
        for name, shape in zip(("the student", *self.names), shapes, strict=True):
            if len(shape) != 2:
                raise ValueError(f"the last linear layer of {name} takes {tuple(shape)}, not (images, features)")
        self.block = CommonBlock(shapes[0][1], [shape[1] for shape in shapes[1:]])

    def compare(self, student: list[list[Tensor]], teachers: list[list[Tensor]]) -> list[Tensor]:
        """The discrepancies and the distances of what is decoded."""
        return list(self.block(student[0][0], [theirs[0] for theirs in teachers]))


def last_linears(context: Context) -> list[Pair]:
    """The last linear layers of two networks, paired."""
    names = []
    for network in (context.target, context.source):
        linear = [layer.name for layer in eval_chain(network).layers if layer.kind == "linear"]
        if not linear:
            raise ValueError(f"{type(network).__name__} has no linear layer, of which common features are taken")
        names.append(linear[-1])
    return [Pair(*names)]


class CommonBlock(nn.Module):
    """The networks of `CommonFeatures`: what aligns widths, the shared extractor, and decoders.

    Parameters
    ----------
    student : int
        Features of the student; the common space has a quarter of them.
    teachers : sequence of int
        Features of each teacher.
    """

    def __init__(self, student: int, teachers: Sequence[int]):
        super().__init__()
        width = max(1, student // 4)
        aligned = lambda features: nn.Sequential(nn.Linear(features, width), nn.ReLU())
        self.align_s = aligned(student)
        self.align_t = nn.ModuleList(map(aligned, teachers))
        self.extractor = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.dec_t = nn.ModuleList(
            nn.Sequential(nn.Linear(width, features), nn.ReLU(), nn.Linear(features, features)) for features in teachers
        )

    def forward(self, student: Tensor, teachers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The sums over teachers of the discrepancies and of the squared distances of what is decoded.

        Parameters
        ----------
        student : Tensor of shape (B, features)
        teachers : sequence of Tensor of shape (B, features)
        """
        own = self.extractor(self.align_s(student))
        theirs = [self.extractor(align(each)) for align, each in zip(self.align_t, teachers, strict=True)]
        apart = [
            F.mse_loss(decode(common), each) for decode, common, each in zip(self.dec_t, theirs, teachers, strict=True)
        ]
        return mmd([own] * len(theirs), theirs).sum(), torch.stack(apart).sum()


PEERS = {"distillation": AverageDistillation, "layer-wise": LayerWise, "common-features": CommonFeatures}
"""By the name that `customise` knows them by."""
