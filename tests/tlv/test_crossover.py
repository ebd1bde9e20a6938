"""Crossover: channels of a support network's features in place of the target's own, while it trains."""

import pytest
import torch
import torchvision
from torch import nn

from hetlib import tlv, zoo
from hetlib.data import Images, load, normalise
from hetlib.tlv import support_features
from hetlib.training import Recipe, fit


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(8)


class TestCrossover:
    def test_replaced_channels_pass_no_gradient(self):
        features = draw(4, 6).requires_grad_()
        mixed = tlv.crossover(features, draw(4, 5, seed=1), 0.5, torch.tensor([0.1, 0.9, 0.1, 0.9, 0.4]))
        mixed.sum().backward()
        assert features.grad.sum(0).tolist() == [0, 4, 0, 4, 0, 4]

    def test_every_image_by_itself(self):
        uniform = torch.tensor([[0.0, 0.9], [0.9, 0.0]])
        mixed = tlv.crossover(torch.zeros(2, 2), torch.ones(2, 2), 0.5, uniform)
        assert mixed.tolist() == [[1, 0], [0, 1]]

    @pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
    def test_the_share_of_replaced_channels_is_p(self, p):
        torch.manual_seed(0)
        mixed = tlv.crossover(torch.zeros(1, 20_000), torch.ones(1, 20_000), p)
        assert float(mixed.mean()) == pytest.approx(p, abs=0.01)

    @pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
    def test_p_is_a_probability(self, p):
        with pytest.raises(ValueError, match="the probability p must"):
            tlv.crossover(draw(2, 3), draw(2, 3), p)

    def test_shapes_are_named(self):
        with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 3\)"):
            tlv.crossover(draw(2, 3), draw(3, 3), 0.1)
        with pytest.raises(ValueError, match=r"uniform must be \(3,\) or \(2, 3\), got \(4,\)"):
            tlv.crossover(draw(2, 3), draw(2, 4), 0.1, torch.rand(4))


class TestObjective:
    @pytest.fixture
    def pair(self):
        torch.manual_seed(0)
        return zoo.build("resnet8", width=0.5).train(), zoo.build("vgg8", width=0.25).eval()

    def head_inputs(self, model):
        seen = []
        heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
        heads[-1].register_forward_hook(lambda head, inputs, output: seen.append(inputs[0].detach()))
        return seen

    @pytest.mark.parametrize(("mask", "rows"), [("batch", 1), ("image", 8)])
    def test_channels_come_from_the_support(self, pair, mask, rows):
        target, support = pair
        objective, seen = tlv.Crossover(support, p=0.5, mask=mask), self.head_inputs(target)
        images = draw(8, 3, 32, 32)
        objective(target, images, LABELS)
        pretrained = tlv.pooled_features(support, images)
        replaced = seen[-1] == pretrained[:, : seen[-1].shape[1]]
        assert 0.2 < replaced.float().mean() < 0.8
        assert len(replaced.unique(dim=0)) == rows

    def test_afterwards_the_network_is_as_it_was_and_the_support_was_never_trained(self, pair):
        target, support = pair
        objective = tlv.Crossover(support)
        images = draw(2, 3, 32, 32)
        before = target.eval()(images)
        assert set(objective.state_dict()) == {"_extra_state"}
        assert not list(objective.parameters())
        objective(target, images, LABELS[:2]).backward()
        assert torch.equal(target(images), before)
        assert all(parameter.requires_grad for parameter in support.parameters()), (
            "the copy is frozen, not what was given"
        )
        assert all(parameter.grad is None for parameter in support.parameters())
        assert all(parameter.grad is not None for parameter in target.parameters())

    def test_controls_replace_by_nothing_of_the_image(self, pair):
        target, support = pair
        images = draw(8, 3, 32, 32)
        objective, seen = tlv.Crossover(support, p=1, source="zeros"), self.head_inputs(target)
        objective(target, images, LABELS)
        assert seen[-1][:, : tlv.pooled_features(support, images).shape[1]].count_nonzero() == 0

    def test_features_given_are_features_of_the_support(self, pair):
        target, support = pair
        pixels = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = Images("toy", "train", pixels, LABELS, tuple("abcdefgh"), (0.5,) * 3, (0.2,) * 3)
        batch, seen = normalise(pixels, images.mean, images.std), self.head_inputs(target)
        features = support_features(support, images, batch_size=3, precision="fp32")
        for objective, rows in ((tlv.Crossover(support, p=0.5), ()), (tlv.Crossover(None, p=0.5), (features,))):
            torch.manual_seed(1)
            objective(target.eval(), batch, LABELS, *rows)
        torch.testing.assert_close(*(inputs for inputs in seen if len(inputs) == 8), atol=1e-5, rtol=1e-5)

    def test_what_is_left_of_the_rows_is_for_the_objective_inside(self, pair):
        target, support = pair
        images, seen = draw(8, 3, 32, 32), []

        def inner(model, images, labels, *rows):
            seen.append(rows)
            return model(images).sum()

        tlv.Crossover(support, inner=inner)(target, images, LABELS, LABELS + 1)
        tlv.Crossover(None, inner=inner)(target, images, LABELS, tlv.pooled_features(support, images), LABELS + 1)
        assert all(torch.equal(row, LABELS + 1) for (row,) in seen)

    @pytest.mark.parametrize(
        ("schedule", "expected"), [("constant", [0.4] * 3), ("falling", [0.4, 0.2, 0.0]), ("rising", [0.0, 0.2, 0.4])]
    )
    def test_schedule_goes_by_batches_of_training(self, pair, schedule, expected):
        target, support = pair
        objective, images = tlv.Crossover(support, p=0.4, schedule=schedule, steps=2), draw(2, 3, 32, 32)
        found = []
        for _ in range(3):
            found.append(objective.probability)
            objective(target, images, LABELS[:2])
            target(images)
        assert found == pytest.approx(expected)

    @pytest.mark.parametrize("cached", [False, True])
    def test_interrupted_training_ends_in_the_same_numbers(self, pair, tmp_path, cached):
        images = load("shapes-target", count=64)
        recipe = Recipe(epochs=3, batch_size=16, augment=not cached, precision="fp32")
        rows = [support_features(pair[1], images)] if cached else []

        def train(path, epochs):
            torch.manual_seed(0)
            model = zoo.build("resnet8", 12, width=0.25)
            objective = tlv.Crossover(None if cached else pair[1], p=0.3, schedule="falling", steps=12)
            how = {"objective": objective, "rows": rows, "checkpoint": tmp_path / path}
            fit(model, images, None, recipe, on_epoch=lambda history: history.epochs == epochs, **how)
            return model.state_dict() | objective.state_dict()

        train("cut", 1)
        whole, resumed = train("whole", 3), train("cut", 3)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        assert int(whole["_extra_state"]) == 12

    def test_a_failed_batch_leaves_the_network_as_it_was(self, pair):
        target, images = pair[0].eval(), draw(2, 3, 32, 32)
        before = target(images)
        with pytest.raises(ValueError, match="resnet8 takes images of 3 channels"):
            tlv.Crossover(None, p=1.0)(target, draw(2, 4, 32, 32), LABELS[:2], draw(2, 8))
        assert torch.equal(target(images), before)

    def test_half_precision_support(self, pair):
        target, support = pair
        images, labels = draw(4, 3, 32, 32), LABELS[:4]
        with torch.autocast("cpu", torch.bfloat16):
            assert tlv.Crossover(support, p=0.5)(target, images, labels).isfinite()
        double = tlv.Crossover(support, p=0.5).double()
        assert next(support.parameters()).dtype == torch.float32, "a copy was converted"
        assert double(target.double(), images.double(), labels).dtype == torch.float64

    def test_bad_settings_are_named(self, pair):
        target, support = pair
        for how, says in (
            ({"p": 2}, "p must be"),
            ({"mask": "img"}, "unknown mask"),
            ({"source": "x"}, "unknown source"),
            ({"schedule": "up"}, "unknown schedule"),
            ({"schedule": "rising"}, "the steps of the training"),
        ):
            with pytest.raises(ValueError, match=says):
                tlv.Crossover(support, **how)
        with pytest.raises(ValueError, match="Conv2d has no linear layer"):
            tlv.Crossover(support)(nn.Conv2d(3, 3, 1), draw(2, 3, 32, 32), LABELS[:2])
        with pytest.raises(ValueError, match="without a support network needs its features"):
            tlv.Crossover(None)(target, draw(2, 3, 32, 32), LABELS[:2])
        with pytest.raises(ValueError, match="no operation of Linear gives a feature map"):
            tlv.pooled_features(nn.Linear(4, 2), draw(1, 4))

    def test_pools_before_the_classifier_do_not_count(self):
        model, images = torchvision.models.vgg11().eval(), draw(2, 3, 96, 96)
        torch.testing.assert_close(tlv.pooled_features(model, images), model.features(images).mean((2, 3)))

    def test_the_supports_own_mode_is_restored(self, pair):
        support = pair[1].train()
        support_features(support, load("shapes-target", count=12))
        assert all(module.training for module in support.modules())

    @pytest.mark.parametrize(
        ("name", "width"), [("vgg11", 512), ("resnet18", 512), ("mobilenet_v2", 1280), ("densenet121", 1024)]
    )
    def test_features_of_torchvisions_networks(self, name, width):
        model = getattr(torchvision.models, name)().eval()
        assert tlv.pooled_features(model, draw(2, 3, 64, 64)).shape == (2, width)


class Unused(nn.Module):
    """A network whose last registered linear layer is never run."""

    def __init__(self, net):
        super().__init__()
        self.net, self.spare = net, nn.Linear(4, 4)

    def forward(self, images):
        return self.net(images)


class TestMisuse:
    @pytest.fixture
    def pair(self):
        torch.manual_seed(0)
        return zoo.build("resnet8", 12, width=0.25), zoo.build("vgg8", 12, width=0.25).eval()

    @pytest.mark.parametrize("change", [{"p": 0.9}, {"mask": "image"}, {"source": "zeros"}, {"support": 1}])
    def test_a_checkpoint_of_other_settings_is_refused(self, pair, tmp_path, change):
        target, support = pair
        images, recipe = load("shapes-target", count=24), Recipe(epochs=2, batch_size=12, precision="fp32")
        start = {name: value.clone() for name, value in target.state_dict().items()}
        how = {"recipe": recipe, "checkpoint": tmp_path / "run"}
        fit(target, images, objective=tlv.Crossover(support), on_epoch=lambda _: True, **how)
        target.load_state_dict(start)
        other = zoo.build("vgg8", 12, width=0.25) if change.pop("support", None) else support
        with pytest.raises(ValueError, match="minimised another objective"):
            fit(target, images, objective=tlv.Crossover(other, **change), **how)

    def test_a_support_that_is_the_network_itself_leaves_it_trainable(self, pair):
        tlv.Crossover(pair[0])(pair[0], draw(2, 3, 32, 32), LABELS[:2]).backward()
        assert all(parameter.grad is not None for parameter in pair[0].parameters())

    def test_a_layer_that_is_never_run_is_no_head(self, pair):
        bare, images = tlv.Crossover(pair[1], p=1, source="zeros"), draw(2, 3, 32, 32)
        losses = [bare(model.eval(), images, LABELS[:2]) for model in (Unused(pair[0]), pair[0])]
        assert torch.equal(*losses)

    def test_given_features_of_a_wrong_form_are_named(self, pair):
        with pytest.raises(ValueError, match=r"got \(2, 64\) and \(7,\)"):
            tlv.Crossover(None)(pair[0], draw(2, 3, 32, 32), LABELS[:2], draw(7))

    def test_names_are_checked(self, pair):
        with pytest.raises(ValueError, match="unknown precision 'fp61'"):
            support_features(pair[1], load("shapes-target", count=12), precision="fp61")

    def test_the_type_is_that_of_the_features(self):
        mixed = tlv.crossover(draw(2, 3).bfloat16(), draw(2, 3), 0.5)
        assert mixed.dtype == torch.bfloat16


class Gate(nn.Module):
    """Squeeze and excite with linear layers, which take vectors as a classifier does."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Linear(channels, channels // 2), nn.Linear(channels // 2, channels)

    def forward(self, x):
        return x * self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


class Gated(nn.Module):
    """Registers its head first and its gates last."""

    def __init__(self):
        super().__init__()
        self.head, self.first, self.second = nn.Linear(16, 4), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
        self.gates = nn.ModuleList([Gate(8), Gate(16)])

    def features(self, x):
        return self.gates[1](self.second(self.gates[0](self.first(x).relu())).relu())

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class GatedVector(nn.Module):
    """Gates what it has pooled: its head takes more than a pooled map."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        pooled = self.conv(x).mean((2, 3))
        return self.head(pooled * self.gate(pooled).sigmoid())


class TestClassifier:
    def test_gates_inside_a_network_are_no_classifier(self):
        model, images = Gated().eval(), draw(5, 3, 16, 16)
        torch.testing.assert_close(tlv.pooled_features(model, images), model.features(images).mean((2, 3)))

    def test_the_head_is_the_last_linear_layer_that_runs(self):
        target, images = Gated(), draw(6, 3, 16, 16)
        objective = tlv.Crossover(None, p=1, source="zeros", inner=lambda model, images, *_: model(images).sum())
        loss = objective(target, images, LABELS[:6], torch.zeros(6, 16))
        torch.testing.assert_close(loss, 6 * target.head.bias.sum())

    @pytest.mark.parametrize("model", [GatedVector(), torchvision.models.VisionTransformer(32, 16, 1, 2, 32, 64)])
    def test_a_classifier_that_takes_more_than_a_pooled_map_is_refused(self, model):
        with pytest.raises(ValueError, match="takes something else than its last feature map, pooled"):
            tlv.pooled_features(model.eval(), draw(2, 3, 32, 32))

    @pytest.mark.parametrize("training", [False, True])
    def test_auxiliary_heads_are_passed_by(self, training):
        model = torchvision.models.googlenet(num_classes=4, init_weights=False).train(training)
        assert tlv.pooled_features(model, draw(2, 3, 96, 96)).shape == (2, 1024)

    def test_frozen_norms_stay_frozen(self):
        support = zoo.build("resnet8", width=0.25).train()
        support.bn1.eval()
        support_features(support, load("shapes-target", count=12))
        assert (support.training, support.bn1.training) == (True, False)
