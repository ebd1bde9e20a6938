"""Knowledge amalgamation: the choice of teachers, and a training step of either stage."""

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Bar, faster, milliseconds, within
from hetlib import zoo
from hetlib.amalgamation import Amalgamation, Teacher, choose_teacher

SIZE = 32
"""Height and width of the images: the zoo's ResNet-18 has in its stages what the paper's has of 128 pixels."""


def run() -> Iterator[Bar]:
    """Measure a choice between two teachers, a step with two sources, and one with four components."""
    torch.manual_seed(0)
    yield from _choice()
    yield _stage_1()
    yield _stage_2()


def _choice() -> Iterator[Bar]:
    """A hundred batches of 64 images: at once, as `customise` chooses before it trains, and one after the other."""
    logits = torch.randn(2, 6400, 2)
    batches = logits.split(64, 1)
    loop = lambda: [least_entropy([logits[0, image], logits[1, image]]) for image in range(6400)]
    single = lambda: [choose_teacher(batch) for batch in batches]
    assert choose_teacher(logits).tolist() == torch.cat(single()).tolist() == loop()
    ours, each, slow = milliseconds(lambda: choose_teacher(logits), single, loop)
    name = "choice between 2 teachers for 6,400 images"
    yield faster(name, "choose_teacher", "image by image", ours, slow, at_least=50)
    yield faster(name, "choose_teacher, 64 images at a time", "image by image", each, slow, at_least=50)


def least_entropy(rows: list[Tensor]) -> int:
    """The teacher of one image: each teacher's softmax and entropy, one operation of torch after the other."""
    entropies = []
    for row in rows:
        shares = row.exp() / row.exp().sum()
        entropies.append(float(-(shares * shares.log()).sum()))
    return entropies.index(min(entropies))


def _stage_1() -> Bar:
    """Two sources of four and three tasks, four images each."""
    student, teachers, x = _net(2), [Teacher("a", _net(8), slice(0, 2)), Teacher("b", _net(6), slice(0, 2))], _images(8)
    objective = Amalgamation(student, teachers, x[:2], sizes=[4, 4]).to(memory_format=torch.channels_last)
    found, expected = objective.terms(deepcopy(student), x), _plain_terms(deepcopy(student), teachers, objective, x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    alone, labels = deepcopy(student), torch.zeros(8, dtype=torch.long)
    ours, plain, theirs = milliseconds(
        adam_step([student, objective], lambda: objective(student, x, labels)),
        adam_step([alone], lambda: F.cross_entropy(alone(x), labels)),
        lambda: [_frozen(teacher.network, part) for teacher, part in zip(teachers, x.split(4), strict=True)],
    )
    name = f"stage 1: a step of ResNet-18 with 2 sources, 4 images of {SIZE} pixels each"
    return within(name, "Amalgamation", "plain step, and the sources' forwards", ours, plain + theirs, at_most=1.4)


def _stage_2() -> Bar:
    """Four components that look at the same four images."""
    ways = both_ways()
    losses = [loss() for _, loss in ways]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    for loss in losses:
        loss.backward()
    for own, other in zip(*(gradients(modules) for modules, _ in ways), strict=True):
        assert (own - other).norm() <= 1e-4 * other.norm()
    ours, others = milliseconds(*(adam_step(modules, loss) for modules, loss in ways))
    name = f"stage 2: a step of a 90-wide ResNet-18 with 4 components, 4 images of {SIZE} pixels"
    return faster(name, "one forward of the target", "one for every component", ours, others, at_least=2.3)


def both_ways(
    images: int = 4, width: float = 1.0, device: torch.device | str = "cpu"
) -> list[tuple[list[nn.Module], Callable[[], Tensor]]]:
    """Stage 2 with four components: what is trained, and the loss, by one forward of the target and by one for each."""
    teachers = [Teacher(f"component {k}", _net(2, width).to(device), answers=slice(2 * k, 2 * k + 2)) for k in range(4)]
    target, x = _net(8, width * 90 / 64).to(device), _images(images).to(device)
    objective = Amalgamation(target, teachers, x[:2], common=None).to(device, memory_format=torch.channels_last)
    again, slow = deepcopy(target), deepcopy(objective)
    slow.joint = False
    labels = torch.zeros(images, dtype=torch.long, device=device)
    return [
        ([target, objective], lambda: objective(target, x, labels)),
        ([again, slow], lambda: slow(again, x, labels)),
    ]


def gradients(modules: list[nn.Module]) -> list[Tensor]:
    """Those of all parameters of some modules."""
    return [parameter.grad for module in modules for parameter in module.parameters() if parameter.grad is not None]


def _plain_terms(student: nn.Module, teachers: list[Teacher], objective: Amalgamation, x: Tensor) -> Tensor:
    """The terms of stage 1 by hooks on the networks, teacher by teacher and tap by tap."""
    rows = []
    for teacher, bridge, part in zip(teachers, objective.bridges, x.split(4), strict=True):
        (ours, said), (theirs, wanted) = _hooked(student, part), _hooked(deepcopy(teacher.network).eval(), part)
        taps = zip(bridge.ours, bridge.theirs, ours, theirs, strict=True)
        squares = [(own(u) - other(v)).square().mean() for own, other, u, v in taps]
        answer = (bridge.m * said - wanted[:, teacher.says]).square().mean()
        norm = sum(((other.weight**2).sum((1, 2, 3)) - 1).square().mean() for other in bridge.theirs)
        rows.append(torch.stack([*squares, answer, norm]))
    return torch.stack(rows)


def _hooked(network: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """What the first convolution puts out, and what goes into the last ReLU of each stage; and the logits."""
    seen: list[Tensor] = []
    hooks = [network.conv1.register_forward_hook(lambda module, given, out: seen.append(out))]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        hooks.append(stage[-1].relu2.register_forward_pre_hook(lambda module, given: seen.append(given[0])))
    logits = network(x)
    for hook in hooks:
        hook.remove()
    return seen, logits


def _net(outputs: int, width: float = 1.0) -> nn.Module:
    return zoo.build("resnet18", outputs, width=width).to(memory_format=torch.channels_last)


def _images(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE).to(memory_format=torch.channels_last)


@torch.no_grad()
def _frozen(network: nn.Module, x: Tensor) -> Tensor:
    return network.eval()(x)


def adam_step(trained: list[nn.Module], loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step of Adam on all parameters of some modules."""
    parameters = [parameter for module in trained for parameter in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, 1e-4, weight_decay=0.0, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step
