"""What all objectives of this package share: frozen teachers, a student, their taps, and the losses term by term."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from hetlib.amalgamation.taps import ByResolution, tapped
from hetlib.chain import chain, eval_chain, evaluating
from hetlib.checks import check_images, check_network, check_sequence
from hetlib.errors import finite, of_kind
from hetlib.training import Frozen
from hetlib.transfer import Context, Pair
from hetlib.transfer.transfer import Match


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network that teaches a student one task.

    Attributes
    ----------
    name : str
        For messages and curves.
    network : nn.Module
        A frozen copy of it is kept.
    says, answers : slice
        Which of the teacher's logits are the task's, and which of the student's.
    weight : float
        Of all that this teacher asks of the student.
    """

    name: str
    network: nn.Module = field(repr=False)
    says: slice = field(default_factory=lambda: slice(None))
    answers: slice = field(default_factory=lambda: slice(None))
    weight: float = 1.0

    def __post_init__(self):
        check_network("network", self.network)
        finite("weight", self.weight, 0)


class Taught(nn.Module):
    """An objective that compares a student with several frozen teachers.

    Parameters
    ----------
    student : nn.Module
        Of it only names of layers and shapes are kept; training hands the network itself to `forward`.
    teachers : sequence of Teacher
        Of any architecture.
    images : Tensor of shape (N, channels, height, width)
        Normalised, two at least: every network is run on them once, in evaluation mode, for the shapes of its features.
    match : callable
        Pairs of taps of the student (target) and of a teacher (source); pairs of no layers leave only the logits.
    inputs : bool
        Compare what the paired layers take in, not what they put out.
    epochs, steps : int
        Of the training, in order to keep each term's mean over every epoch; 0 epochs keep none.

    Attributes
    ----------
    student_shapes, teacher_shapes : list of list of torch.Size
        For every teacher the shapes of the student's features that it is compared with, and of its own.
    curves : Tensor of shape (epochs, ...)
        The mean of every term over each epoch, not weighted; a buffer.

    Raises
    ------
    ValueError
        If there is no teacher, a network cannot be read, or the match finds no pairs for two networks.
    """

    curves: Tensor

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[Teacher],
        images: Tensor,
        match: Match | None = None,
        inputs: bool = False,
        epochs: int = 0,
        steps: int = 1,
    ):
        super().__init__()
        check_sequence("teachers", teachers, "Teachers")
        for teacher in teachers:
            of_kind("each teacher", teacher, Teacher)
        if not teachers:
            raise ValueError("a student needs one teacher or more")
        check_network("student", student, values=True)
        check_images("images", images)
        here = eval_chain(student)
        self.names = [teacher.name for teacher in teachers]
        self.says, self.answers = ([getattr(teacher, way) for teacher in teachers] for way in ("says", "answers"))
        self.weights, self.inputs, self.steps, self._step = [teacher.weight for teacher in teachers], inputs, steps, 0
        networks, self.pairs = [], list[list[Pair]]()
        for teacher in teachers:
            there = eval_chain(teacher.network)
            pairs = list((match or ByResolution())(Context.of(there, here, images, 0)))
            self.pairs.append(pairs)
            networks.append(tapped(there, **self._ways([pair.source for pair in pairs])))
        self.taps = list(dict.fromkeys(pair.target for pairs in self.pairs for pair in pairs))
        self.teacher_shapes = [_shapes(network, images) for network in networks]
        own = _shapes(tapped(here, **self._ways(self.taps)), images)
        self.student_shapes = [[own[self.taps.index(pair.target)] for pair in pairs] for pairs in self.pairs]
        self.teachers = nn.ModuleList(map(Frozen, networks))
        self.epochs = epochs
        self._seen: tuple[nn.Module, fx.GraphModule] | None = None

    def _ways(self, names: list[str]) -> dict[str, list[str]]:
        return {"inputs" if self.inputs else "outputs": names}

    def keep_curves(self, *terms: int) -> None:
        """Make room for terms of this shape."""
        self.register_buffer("curves", torch.zeros(self.epochs, *terms))

    def run(self, model: nn.Module, images: Tensor) -> tuple[list[list[Tensor]], Tensor]:
        """The student's features, for every teacher those that it is compared with, and its logits."""
        if self._seen is None or self._seen[0] is not model:
            self._seen = model, tapped(chain(model), **self._ways(self.taps))
        features, logits = self._seen[1](images)
        return [[features[self.taps.index(pair.target)] for pair in pairs] for pairs in self.pairs], logits

    def note(self, terms: Tensor) -> None:
        """Keep what the terms of a step were; nothing waits for it."""
        if self.epochs:
            epoch = min(self._step // self.steps, self.epochs - 1)
            self.curves[epoch] += terms.detach() / self.steps
        self._step += 1

    def get_extra_state(self) -> Tensor:
        """How many steps were taken."""
        return torch.tensor(self._step)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from there."""
        self._step = int(state)

    def extra_repr(self) -> str:
        """What tells one objective from another beside its modules."""
        parts = zip(self.names, self.says, self.answers, self.weights, self.pairs, strict=True)
        return "\n".join(
            f"{name}: {says} -> {answers}, {weight}, {pairs}" for name, says, answers, weight, pairs in parts
        )


def _shapes(network: nn.Module, images: Tensor) -> list[torch.Size]:
    device = next((parameter.device for parameter in network.parameters()), images.device)
    with evaluating(network):
        features, _ = network(images.to(device))
    return [feature.shape for feature in features]
