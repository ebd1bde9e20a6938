"""Filter grafting's arithmetic: entropies of weights and of filters, and a whole graft of two networks."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Bar, faster, milliseconds, without_bar
from hetlib import zoo
from hetlib.grafting import Grafting
from hetlib.kernels import filter_entropy, weight_entropy
from hetlib.kernels.fill import Fill
from hetlib.kernels.graft import entropy_coefficients
from hetlib.kernels.write import write
from tests import oracles

State = dict[str, Tensor]


def run() -> Iterator[Bar]:
    """Measure the entropies of a ResNet-56's layers and filters, and a graft of two ResNet-32."""
    torch.manual_seed(0)
    weights = [m.weight.detach() for m in zoo.build("resnet56").modules() if isinstance(m, nn.Conv2d)]
    yield from _layers(weights)
    yield from _filters(weights)
    yield from _grafts()


def _layers(weights: list[Tensor]) -> list[Bar]:
    loop = lambda: torch.stack([oracles.plain_entropy(weight) for weight in weights])
    histograms = lambda: [
        _of_shares(torch.from_numpy(np.histogram(weight.numpy(), 10)[0] / weight.numel())) for weight in weights
    ]
    _assert_close(weight_entropy(weights), loop())
    ours, slow, others = milliseconds(lambda: weight_entropy(weights), loop, histograms)
    name = f"entropy of a ResNet-56's {len(weights)} layers"
    return [
        faster(name, "weight_entropy", "plain loop over bins", ours, slow, at_least=8),
        faster(name, "weight_entropy", "np.histogram", ours, others, at_least=2),
    ]


def _filters(weights: list[Tensor]) -> list[Bar]:
    loop = lambda chosen: [torch.stack([oracles.plain_entropy(values) for values in weight]) for weight in chosen]
    histograms = lambda: [
        [_of_shares(torch.histc(values, 10) / values.numel()) for values in weight] for weight in weights
    ]
    work = lambda: [filter_entropy(weight) for weight in weights]
    for found, expected in zip(work(), loop(weights), strict=True):
        _assert_close(found, expected)
    ours, others = milliseconds(work, histograms)
    (slow,) = milliseconds(lambda: loop(weights), repeats=1)
    name = f"entropy of a ResNet-56's {sum(map(len, weights))} filters"
    return [
        faster(name, "filter_entropy", "plain loop over filters and bins", ours, slow, at_least=50),
        faster(name, "filter_entropy", "torch.histc for each filter", ours, others, at_least=5),
    ]


def _grafts() -> list[Bar]:
    states = [_drawn(seed) for seed in range(2)]
    loop = lambda: oracles.plain_graft(states)
    places = [{key: value.clone() for key, value in state.items()} for state in states]
    step = lambda: _step(places)
    whole = lambda: Grafting()(places)
    for work in (step, whole):
        _put_back(places, states)
        work()
        for found, wanted in zip(places, loop(), strict=True):
            assert all(torch.equal(found[key], value) for key, value in wanted.items())
    bare, ours, slow = milliseconds(step, whole, loop)
    name = "graft of two ResNet-32"
    return [
        faster(name, "entropies, coefficients, blend", "plain loop", bare, slow, at_least=5),
        without_bar(name, "Grafting: planned, checked, written", "entropies, coefficients, blend", ours, bare),
    ]


def _step(states: list[State]) -> None:
    """All of a graft's arithmetic, in place: what follows a convolution takes the convolution's coefficient."""
    own, donor = (
        [value for state in turn for key, value in state.items() if "conv" in key] for turn in (states, states[::-1])
    )
    coming, fills = iter(entropy_coefficients(own, donor).tolist()), []
    for k, state in enumerate(states):
        for key, value in state.items():
            if "conv" in key:
                share = next(coming)
            fills.append(Fill(key, value, states[k - 1][key], alpha=share))
    write(fills)


def _put_back(places: list[State], states: list[State]) -> None:
    for place, state in zip(places, states, strict=True):
        torch._foreach_copy_(list(place.values()), list(state.values()))


def _drawn(seed: int) -> State:
    """The floating-point tensors of a ResNet-32 at random; counters stay out, which a graft keeps."""
    torch.manual_seed(seed)
    state = zoo.build("resnet32").state_dict()
    return {key: value.clone() for key, value in state.items() if value.is_floating_point()}


def _of_shares(shares: Tensor) -> Tensor:
    shares = shares[shares > 0]
    return -(shares * shares.log()).sum()


def _assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
