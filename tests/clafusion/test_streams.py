"""Layers whose channels meet move by one plan: a network moved onto another of its widths is still itself."""

import copy

import pytest
import torch
from torch import nn

from hetlib.chain import eval_chain
from hetlib.clafusion import neuron_plans, transport_neurons
from hetlib.clafusion.streams import streams
from hetlib.merging import update_bn
from tests.clafusion.networks import gap, pictures, plain


class Net(nn.Module):
    """Two convolutions, and a rule that says what is done with them."""

    def __init__(self, rule, norm=None, tied=False):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.c, self.fc, self.rule = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4), rule
        if tied:
            self.c.weight, self.c.bias = self.b.weight, self.b.bias
        if norm is not None:
            self.n = norm
            nn.init.normal_(self.n.weight, 1, 0.5)
            nn.init.normal_(self.n.bias)

    def forward(self, x):
        return self.fc(self.rule(self, x).mean((2, 3)))


def gate(m, x):
    h = m.a(x).relu()
    return m.c(h * m.b(h.mean((2, 3), keepdim=True)).sigmoid()).relu()


RULES = {
    "a convolution called twice": lambda m, x: m.c(m.b(m.b(m.a(x).relu()).relu()).relu()).relu(),
    "one called twice, from elsewhere": lambda m, x: m.b(m.c(m.b(m.a(x).relu()).relu()).relu()).relu(),
    "a batch norm called twice": lambda m, x: m.c(m.n(m.b(m.n(m.a(x)).relu())).relu()).relu(),
    "a gate": gate,
    "equal branches": lambda m, x: (lambda h: m.b(h).relu() + m.c(h).relu())(m.a(x).relu()),
    "a product of equal branches": lambda m, x: (lambda h: m.b(h) * m.c(h))(m.a(x).relu()),
    "a tied weight": lambda m, x: m.c(m.b(m.a(x).relu()).relu()).relu(),
}


def pair(kind):
    torch.manual_seed(0)
    made = (
        Net(RULES[kind], nn.BatchNorm2d(6) if "norm" in kind else None, tied="tied" in kind).eval() for _ in range(2)
    )
    return (*made, pictures(40, 3, 8, 8))


@pytest.mark.parametrize("options", [{}, {"tie": True}, {"by": "weights"}], ids=str)
@pytest.mark.parametrize("kind", RULES)
def test_a_moved_network_computes_what_it_did(kind, options):
    a, b, images = pair(kind)
    wanted = copy.deepcopy(a)
    update_bn(wanted, images)
    moved = transport_neurons(a, b, images, **options)
    assert gap(moved, wanted, images) < 1e-5
    assert not all(map(torch.equal, moved.parameters(), a.parameters()))


def test_a_tensor_that_one_of_the_two_networks_shares_is_moved_by_one_plan():
    a, b, images = pair("a tied weight")
    apart = copy.deepcopy(a)
    apart.c.weight, apart.c.bias = (nn.Parameter(each.detach().clone()) for each in (a.c.weight, a.c.bias))
    for source, target in ((apart, b), (a, apart)):
        assert gap(transport_neurons(source, target, images), source, images) < 1e-5


def test_layers_that_meet_at_shortcuts_alone_have_plans_of_their_own():
    found = eval_chain(plain("resnet20"))
    blocks = streams(found, found, tie=False)
    keys = [{block.key for block in own} for own in blocks]
    assert len(set().union(*keys)) == sum(map(len, keys))  # no two layers share one


def test_norms_that_keep_statistics_of_single_images_are_named():
    layers = nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True, track_running_stats=True), nn.ReLU()
    model, images = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)), pictures(8, 3, 8, 8)
    with pytest.raises(ValueError, match=r"^1 \(InstanceNorm2d\) keeps running statistics"):
        neuron_plans(model, copy.deepcopy(model), images)
    plain_norms = copy.deepcopy(model)
    plain_norms[1] = nn.InstanceNorm2d(6, affine=True)
    other = copy.deepcopy(plain_norms)
    nn.init.normal_(other[0].weight)
    assert gap(transport_neurons(plain_norms, other, images), plain_norms, images) < 1e-5
