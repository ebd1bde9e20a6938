"""Grafting: the released numbers, the ring, the levels and scions, and what is refused."""

from copy import deepcopy
from functools import partial
from math import cos, pi

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import VisionTransformer

from hetlib import grafting, zoo
from hetlib.grafting import ByEntropy, Grafting, coefficient, graft, initial_rates, invalid_filters, recipes
from hetlib.kernels.entropy import weight_entropy
from hetlib.transfer import Copy, SameName, Transfer

SMALL_VIT = partial(VisionTransformer, 32, 16, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
CASES = {"two_A0.4_c500": (0.4, 500.0), "two_A0.4_c1": (0.4, 1.0)}


class Net(nn.Module):
    """The network of the vectors: two convolutions, a shortcut whose name holds no "conv", a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, bias=False, padding=1), nn.BatchNorm2d(6)
        self.shortcut = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + self.shortcut(x))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def stored(archive, prefix):
    return {
        key.removeprefix(prefix): torch.from_numpy(np.array(archive[key])) for key in archive if key.startswith(prefix)
    }


def nets(k, kind=Net, seed=0):
    made = []
    for n in range(k):
        torch.manual_seed(100 * seed + n)
        net = kind()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight), nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
        made.append(net)
    return made


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def archive(vectors):
    return np.load(vectors / "grafting.npz")


class TestVectors:
    @pytest.mark.parametrize("case", CASES)
    def test_a_ring_of_state_dicts(self, archive, case):
        count = sum(f"graft/{case}/net{k}/donor" in archive for k in range(9))
        before = [stored(archive, f"graft/{case}/net{k}/before/") for k in range(count)]
        kept = deepcopy(before)
        after = graft(before, *CASES[case])
        assert all(map(same, before, kept))
        for k, state in enumerate(after):
            assert int(archive[f"graft/{case}/net{k}/donor"]) == (k - 1) % count
            for key, value in stored(archive, f"graft/{case}/net{k}/after/").items():
                torch.testing.assert_close(state[key], value, rtol=0, atol=1e-5)

    def test_networks_by_the_released_rule_are_their_state_dicts(self, archive):
        networks = nets(2)
        for k, net in enumerate(networks):
            net.load_state_dict(stored(archive, f"graft/two_A0.4_c500/net{k}/before/"))
        found = graft(networks, named=True)
        assert all(map(same, found, graft([net.state_dict() for net in networks])))

    def test_noise_and_internal_scions(self, archive):
        net = Net()
        net.load_state_dict(stored(archive, "scion/before/"))
        for scion, name in (("noise", "noise_epoch10_thr0.1_seed123"), ("internal", "inside_thr0.1")):
            (found,) = graft([net], scion=scion, epoch=10, seed=123)
            for key in ("conv1.weight", "conv2.weight"):
                torch.testing.assert_close(found[key], torch.from_numpy(archive[f"scion/{name}/{key}"]))

    def test_every_network_has_noise_of_its_own(self, archive):
        pair = [Net(), Net()]
        for net in pair:
            net.load_state_dict(stored(archive, "scion/before/"))
        first, second = graft(pair, scion="noise", epoch=1, seed=5)
        assert not torch.equal(first["conv1.weight"], second["conv1.weight"])
        (later,) = graft(pair[:1], scion="noise", epoch=1, seed=6)
        assert not torch.equal(second["conv1.weight"], later["conv1.weight"])

    def test_filters_by_the_scale_of_batch_norms(self, archive):
        own, donor = (
            nn.Sequential(
                nn.Sequential(
                    *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
                    *(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                ),
                nn.Linear(5, 3),
            )
            for _ in range(2)
        )
        rename = lambda state: {
            key.replace("features", "0").replace("classifier", "1"): value for key, value in state.items()
        }
        own.load_state_dict(rename(stored(archive, "filterlevel/own/")))
        donor.load_state_dict(rename(stored(archive, "filterlevel/donor/")))
        (found, _) = graft([own, donor], level="filter")
        for key, value in rename(stored(archive, "filterlevel/intended_after/")).items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5)

    def test_invalid_filters(self, archive):
        net = Net()
        net.load_state_dict(stored(archive, "scion/before/"))
        net.conv1.weight.data = torch.from_numpy(archive["invalid/conv1.weight"])
        net.conv2.weight.data = torch.from_numpy(archive["invalid/conv2.weight"])
        small, smaller, total = archive["invalid/count_at_0.1_0.01_total"]
        valid = len(net.shortcut[0].weight)  # the release does not count shortcuts
        net.shortcut[0].weight.data.fill_(1.0)
        assert invalid_filters(net) == (small, total + valid)
        assert invalid_filters(net, 0.01) == (smaller, total + valid)

    def test_rates(self, archive):
        for k in (2, 3, 4):
            assert initial_rates(1.0, k) == pytest.approx(archive[f"lr/loc_K{k}"])
        recipe = recipes("dlr", 2, grafting.RELEASED.changed(epochs=1))[0]
        found = [recipe.lr_at(step, 20) for step in range(20)]
        assert found == pytest.approx(archive["lr/cosine_lr0.05_T20"])


def plain(states, starts, a, c):
    """The release's ring as a loop: every entry, one after the other."""
    found = []
    for k, own in enumerate(states):
        donor, new, share = states[k - 1], {}, None
        for key, value in own.items():
            if key in starts:
                entropies = weight_entropy([value, donor[key]])
                share = round(a / pi * float(torch.atan(c * (entropies[0].double() - entropies[1]))) + 0.5, 2)
            new[key] = share * value + (1 - share) * donor[key] if value.is_floating_point() else value
        found.append(new)
    return found


class TestRing:
    @settings(max_examples=15, deadline=None)
    @given(k=st.integers(2, 4), a=st.floats(0, 1), c=st.floats(0.1, 1000), seed=st.integers(0, 5))
    def test_it_is_the_plain_loop(self, k, a, c, seed):
        networks = nets(k, seed=seed)
        states = [net.state_dict() for net in networks]
        for found, starts in (
            (graft(networks, a, c), {"conv1.weight", "conv2.weight", "shortcut.0.weight"}),
            (graft(states, a, c), {"conv1.weight", "conv2.weight"}),
        ):
            for ours, theirs in zip(found, plain(states, starts, a, c), strict=True):
                for key in theirs:
                    torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-6)

    @settings(max_examples=15, deadline=None)
    @given(a=st.floats(0, 1), c=st.floats(0.1, 1000), seed=st.integers(0, 9))
    def test_two_networks_become_one(self, a, c, seed):
        first, second = graft(nets(2, seed=seed), a, c)
        assert same(first, second)

    def test_plain_averaging_contracts_a_ring_as_predicted(self):
        """The slowest way in which K networks differ shrinks by |cos(pi / K)| a graft."""
        for k in (3, 4, 6, 8):
            turns = torch.arange(k) * 2 * pi / k
            states = [{"conv.weight": torch.full((1, 1, 2, 2), float(turn.cos())).double()} for turn in turns]
            spread = lambda found: float(torch.stack([each["conv.weight"] for each in found]).norm())
            assert spread(graft(states, a=0.0)) / spread(states) == pytest.approx(abs(cos(pi / k)))

    def test_it_is_a_sentence_for_each_network(self):
        networks = nets(3)
        sentence = Transfer(SameName(), (Copy(),), ByEntropy())
        alone = []
        for k, net in enumerate(networks):
            target = deepcopy(net)
            report = sentence(networks[k - 1], target)
            alone.append(target.state_dict())
        assert all(map(same, graft(networks), alone))
        assert "4 of 4 layers fed" in str(report)

    def test_networks_graft_in_place_all_at_once(self):
        networks = nets(3)
        wanted = graft(networks)
        Grafting()(networks)
        assert all(map(same, [net.state_dict() for net in networks], wanted))

    @pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "mobilenet_v2", "convnext_tiny", "densenet121", "vit"])
    def test_any_network_of_torchvision(self, name):
        build = SMALL_VIT if name == "vit" else lambda: zoo.build(f"torchvision/{name}", 3)
        networks = [build() for _ in range(2)]
        found = graft(networks)
        own = {n for n, module in networks[0].named_modules() if isinstance(module, nn.Conv2d)}
        plan = Grafting().plan(networks)
        leading = {fill.layer for fill in plan if fill.kind == "convolution"}
        assert own == leading
        for key, value in networks[0].state_dict().items():
            if not value.is_floating_point():
                assert torch.equal(found[0][key], value)
            elif value.numel() > 1 and not torch.equal(value, networks[1].state_dict()[key]):
                assert not torch.equal(found[0][key], value)

    @pytest.mark.parametrize("criterion", ["l1", "activation", "none"])
    def test_other_criteria(self, criterion):
        networks, images = [net.requires_grad_(False) for net in nets(2)], torch.randn(8, 3, 8, 8)
        plan = Grafting(criterion=criterion).plan(networks, images)
        shares = {float(fill.alpha) for fill in plan}
        assert all(0.3 <= share <= 0.7 for share in shares)
        if criterion == "none":
            assert shares == {0.5}
        if criterion == "l1":
            sums = [net.conv1.weight.abs().sum().double() for net in networks]
            assert float(plan[0].alpha) == pytest.approx(float(coefficient(sums[0], sums[1])))

    def test_the_network_level_is_the_mean_of_all(self):
        networks = nets(3)
        found = graft(networks, level="network")
        mean = torch.stack([net.conv2.weight for net in networks]).mean(0)
        assert all(torch.allclose(state["conv2.weight"], mean) for state in found)

    def test_aligned_donors_compute_what_they_computed(self):
        """A donor that is the network with its channels in another order brings it nothing new."""
        (net,) = nets(1)
        shuffled, order = deepcopy(net), torch.tensor([2, 0, 3, 1])
        with torch.no_grad():
            shuffled.conv1.weight.copy_(net.conv1.weight[order])
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(shuffled.bn1, name).copy_(getattr(net.bn1, name)[order])
            shuffled.conv2.weight.copy_(net.conv2.weight[:, order])
            shuffled.shortcut[0].weight.copy_(net.shortcut[0].weight[:, order])
        found, _ = graft([net, shuffled], align=True)
        for key, value in net.state_dict().items():
            torch.testing.assert_close(found[key], value)


class TestRefusals:
    def test_what_cannot_graft_is_named_and_nothing_changes(self):
        wide = Net()
        wide.conv2 = nn.Conv2d(4, 7, 3)
        broken, endless = Net(), Net()
        broken.bn2.bias.data[1] = torch.nan
        endless.shortcut[0].weight.data[0] = torch.inf
        net = Net()
        for ring, message in (
            ([net], "a ring needs at least 2 networks, got 1"),
            ([net, net], "stands in the ring twice"),
            ([net, wide], r"networks 0 and 1 differ in 'conv2.weight': \(6, 4, 3, 3\) of float32 and \(7, 4, 3, 3\)"),
            ([net, Net().double()], "differ in 'conv1.weight'"),
            ([net, Net(), broken], "network 2: 1 of 6 values of 'bn2.bias' are not finite"),
            ([net, endless], "network 1: 4 of 24 values of 'shortcut.0.weight' are not finite"),
        ):
            before = deepcopy(ring[0].state_dict())
            with pytest.raises(ValueError, match=message):
                Grafting()(ring)
            assert same(ring[0].state_dict(), before)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"a": 1.1}, "a, .* from 0 to 1, got 1.1"),
            ({"a": -0.1}, "a, .* from 0 to 1, got -0.1"),
            ({"a": float("nan")}, "a, .* from 0 to 1, got nan"),
            ({"bins": 0}, "bins must be a whole number of at least 1"),
            ({"scion": "extern"}, "unknown scion 'extern': did you mean 'external'"),
            ({"level": "layers"}, "unknown level 'layers': did you mean 'layer'"),
            ({"criterion": "l2"}, "unknown criterion 'l2'"),
            ({"named": True, "level": "filter"}, "not by level 'filter'"),
            ({"named": True, "criterion": "activation"}, "criterion 'activation'"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            Grafting(**settings)

    def test_state_dicts_without_a_conv_in_their_names(self):
        states = [zoo.build("torchvision/vgg11_bn", 3).state_dict() for _ in range(2)]
        with pytest.raises(ValueError, match="there is none: give the networks themselves"):
            graft(states)
        states = [{"stem.weight": torch.randn(2, 2, 1, 1), "conv.weight": torch.randn(2, 2, 1, 1)} for _ in range(2)]
        with pytest.raises(ValueError, match=r"'stem\.weight' comes before"):
            graft(states)

    def test_state_dicts_where_layers_have_to_be_known(self):
        states = [net.state_dict() for net in nets(2)]
        for asked in ({"level": "filter"}, {"align": True}, {"criterion": "activation"}):
            with pytest.raises((TypeError, ValueError), match="give the networks"):
                graft(states, **asked)

    def test_networks_without_a_convolution_can_only_be_averaged(self):
        networks = [zoo.build("mlp", 3, hidden=(4,), in_channels=1) for _ in range(2)]
        with pytest.raises(ValueError, match="no convolution"):
            graft(networks)
        first, second = graft(networks, criterion="none")
        assert same(first, second)

    def test_no_batch_norm_no_filter_level(self):
        networks = [zoo.build("vgg11", 3, width=0.1, bn=False) for _ in range(2)]
        with pytest.raises(ValueError, match="followed by a batch norm"):
            graft(networks, level="filter")

    def test_no_images_no_activations(self):
        with pytest.raises(ValueError, match="compared on images, and none were given"):
            graft(nets(2), criterion="activation")


def test_a_tensor_that_two_layers_share_is_grafted_once():
    def net(seed, tied):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3))
        model[2].weight = model[1].weight if tied else nn.Parameter(model[1].weight.detach().clone())
        return model

    tied, apart = (graft([net(seed, share) for seed in (0, 1)]) for share in (True, False))
    for one, other in zip(tied, apart, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
