"""What two papers need of training, at toy size: networks in lock step, and an objective with parameters of its own."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hetlib import zoo
from hetlib.data import few_shot, load, normalise
from hetlib.files import load_tensors
from hetlib.training import Frozen, Lockstep, Loop, Recipe, fit

RECIPE = Recipe(epochs=4, lr=0.05, precision="fp32", batch_size=64, schedule="one-cycle")


@pytest.fixture(scope="module")
def digits():
    return few_shot(load("digits"), 20), load("digits", "test")


def net(seed=0, width=0.125):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inner = zoo.build("plainnet5", in_channels=1, width=width, kernel_size=3)
        return nn.Sequential(nn.Dropout(0.1), inner)


@torch.no_grad()
def mix(ring):
    """Every network goes half of the way to the mean of all; counts its calls."""
    ring.memory["calls"] = ring.memory.get("calls", torch.tensor(0)) + 1
    for values in zip(*(loop.model.parameters() for loop in ring.loops), strict=True):
        mean = torch.stack(values).mean(0)
        for value in values:
            value.lerp_(mean, 0.5)
    return {"epoch": ring.epochs, "accuracy": [history.top1[-1] for history in ring.histories]}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class TestLockStep:
    """Grafting trains several networks side by side, which take from each other after every epoch."""

    def loops(self, digits, seeds=(0, 1, 2)):
        return [Loop(net(seed), *digits, RECIPE.changed(lr=0.05 / (1 + seed)), seed=seed) for seed in seeds]

    def ring(self, digits, graft=True, seeds=(0, 1, 2)):
        return Lockstep(self.loops(digits, seeds), mix if graft else None)

    def test_an_interrupted_ring_ends_in_the_same_bits(self, digits, tmp_path):
        whole, path = self.ring(digits), tmp_path / "ring"
        whole.run()
        self.ring(digits).run(path, on_epoch=lambda ring: ring.epochs == 2)
        resumed = self.ring(digits)
        resumed.run(path)
        assert resumed.histories == whole.histories
        assert resumed.facts == whole.facts
        assert torch.equal(resumed.memory["calls"], torch.tensor(4))
        assert all(same(a.model, b.model) for a, b in zip(resumed.loops, whole.loops, strict=True))
        assert resumed.finished

    def test_without_a_step_between_each_comes_to_what_it_comes_to_alone(self, digits):
        together = self.ring(digits, graft=False)
        together.run()
        for seed, loop in enumerate(together.loops):
            alone = net(seed)
            assert fit(alone, *digits, loop.recipe, seed=seed) == loop.history
            assert same(alone, loop.model)
        grafted = self.ring(digits)
        grafted.run()
        assert not same(grafted.loops[0].model, together.loops[0].model)

    def test_the_generators_outside_are_left_alone(self, digits):
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        self.ring(digits).epoch()
        assert torch.equal(torch.rand(3), expected)

    def test_a_checkpoint_of_something_else_changes_nothing(self, digits, tmp_path):
        self.ring(digits).run(tmp_path / "ring", on_epoch=lambda ring: True)
        for other, message in (
            (self.ring(digits, graft=False), "something else between epochs"),
            (self.ring(digits, seeds=(0, 1)), "holds 3 trainings, not 2"),
            (self.ring(digits, seeds=(0, 1, 3)), "started from other weights"),
        ):
            before = deepcopy(other.loops[0].model)
            with pytest.raises(ValueError, match=message):
                other.run(tmp_path / "ring")
            assert same(other.loops[0].model, before)
            assert other.epochs == 0

    def test_a_damaged_checkpoint_is_named_and_not_used(self, digits, tmp_path):
        ring = self.ring(digits)
        ring.run(tmp_path / "ring", on_epoch=lambda ring: True)
        content = (tmp_path / "ring").read_bytes()
        (tmp_path / "ring").write_bytes(content[:-9])
        again = self.ring(digits)
        with pytest.warns(UserWarning, match="starts again from its first epoch"):
            again.resume(tmp_path / "ring")
        assert again.epochs == 0

    def test_unequal_epochs_are_refused(self, digits):
        loops = [Loop(net(), *digits, RECIPE.changed(epochs=epochs)) for epochs in (2, 3)]
        with pytest.raises(ValueError, match=r"as many epochs each, got \[2, 3\]"):
            Lockstep(loops)

    def test_a_network_that_diverges_is_named(self, digits):
        ring = self.ring(digits)
        with torch.no_grad():
            next(ring.loops[1].model.parameters()).fill_(torch.nan)
        with pytest.raises(FloatingPointError, match="network 1 has diverged: its loss in epoch 1 is nan"):
            ring.epoch()

    def test_another_trainings_state_changes_nothing(self, digits):
        one, other = self.loops(digits, (0, 1))
        one.epoch()
        before = deepcopy(other.model)
        with pytest.raises(ValueError, match="checkpoint of one started from other weights"):
            other.restore(*one.state(), "of one")
        assert same(other.model, before)
        assert other.history.epochs == 0

    def test_an_evaluation_needs_test_images(self, digits):
        loop = Loop(net(), digits[0], recipe=RECIPE)
        loop.epoch()
        assert not loop.due
        with pytest.raises(ValueError, match="no test images"):
            loop.evaluate()


def taps(model, images, names):
    """Outputs of some layers, and the logits."""
    seen = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda module, inputs, out, name=name: seen.update({name: out}))
        for name in names
    ]
    logits = model(images)
    for hook in hooks:
        hook.remove()
    return [seen[name] for name in names], logits


class Bridged(nn.Module):
    """A student's features and a teacher's, compared where learned 1x1 convolutions bring them; logits as they are."""

    names = ("1.features.4", "1.features.8")

    def __init__(self, student, teachers, width=4):
        super().__init__()
        self.teachers = nn.ModuleList(map(Frozen, teachers))
        self.ours, self.theirs = (
            nn.ModuleList(self.bridges(net, width) for net in nets) for nets in ([student] * len(teachers), teachers)
        )

    def bridges(self, model, width):
        return nn.ModuleList(nn.Conv2d(model.get_submodule(name).out_channels, width, 1) for name in self.names)

    def forward(self, model, images, labels, chosen):
        loss = images.new_zeros(())
        for k, teacher in enumerate(self.teachers):
            batch = images[chosen == k]
            with torch.no_grad():
                theirs, wanted = taps(teacher.network, batch, self.names)
            ours, given = taps(model, batch, self.names)
            loss = loss + F.mse_loss(given, wanted)
            for own, other, u, v in zip(self.ours[k], self.theirs[k], ours, theirs, strict=True):
                loss = (
                    loss + F.mse_loss(own(u), other(v)) + (other.weight.flatten(1).square().sum(1) - 1).square().mean()
                )
        return loss


@dataclass(frozen=True)
class OneOfEach:
    """Every step takes a batch of each teacher's images, in proportion to how many it has."""

    steps: int

    def __call__(self, loop):
        (chosen,) = loop.rows
        parts = []
        for k in chosen.unique():
            own = torch.nonzero(chosen == k)[:, 0]
            parts.append(own[torch.randperm(len(own), generator=loop.generator)].tensor_split(self.steps))
        return [torch.cat(batch) for batch in zip(*parts, strict=True)]


class TestAmalgamation:
    """Amalgamation learns bridges between networks, has a teacher for each image, and several batches in a step."""

    recipe = RECIPE.changed(
        optimiser="adamw",
        lr=5e-3,
        weight_decay=0.0,
        augment=False,
        schedule="constant",
        rates=(("objective.theirs", 0.1),),
    )

    @pytest.fixture
    def cast(self, digits):
        teachers = [net(1, 0.25), net(2, 0.125)]
        chosen = torch.randint(2, (len(digits[0]),), generator=torch.Generator().manual_seed(0))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return net(), Bridged(net(), teachers), chosen

    def fit(self, digits, cast, **how):
        student, objective, chosen = deepcopy(cast)
        history = fit(
            student, *digits, self.recipe, objective=objective, rows=chosen, batches=OneOfEach(3), seed=5, **how
        )
        return student, objective, history

    def test_bridges_are_trained_and_resumed_with_the_student(self, digits, cast, tmp_path):
        student, objective, history = self.fit(digits, cast, checkpoint=tmp_path / "whole")
        assert history.loss[-1] < 0.8 * history.loss[0]
        assert not any(torch.equal(a, b) for a, b in zip(objective.parameters(), cast[1].parameters(), strict=True))
        self.fit(digits, cast, checkpoint=tmp_path / "cut", on_epoch=lambda history: history.epochs == 2)
        resumed, bridges, again = self.fit(digits, cast, checkpoint=tmp_path / "cut")
        assert again == history
        assert same(resumed, student)
        assert same(bridges, objective)
        tensors, _ = load_tensors(tmp_path / "whole")
        assert {f"objective.{name}" for name in objective.state_dict()} <= tensors.keys()
        assert not any("teachers" in name for name in tensors)

    def test_it_is_the_plain_loop(self, digits, cast):
        student, objective, history = self.fit(digits, cast, epochs=2)
        plain, bridges, chosen = deepcopy(cast)
        plain, bridges = (module.to(memory_format=torch.channels_last) for module in (plain, bridges))
        data, generator = digits[0], torch.Generator().manual_seed(5)
        quick = [*plain.parameters(), *bridges.ours.parameters()]
        groups = [{"params": quick}, {"params": list(bridges.theirs.parameters()), "lr": 5e-4}]
        optimiser = torch.optim.AdamW(groups, lr=5e-3, weight_decay=0.0, fused=True)
        order = [torch.nonzero(chosen == k)[:, 0] for k in (0, 1)]
        losses = []
        with torch.random.fork_rng():
            torch.manual_seed(5)
            for _ in range(2):
                plain.train()
                drawn = [own[torch.randperm(len(own), generator=generator)].tensor_split(3) for own in order]
                for parts in zip(*drawn, strict=True):
                    batch = torch.cat(parts)
                    optimiser.zero_grad()
                    images = normalise(data.images[batch], data.mean, data.std, memory_format=torch.channels_last)
                    loss = bridges(plain, images, data.labels[batch], chosen[batch])
                    loss.backward()
                    optimiser.step()
                    losses.append((loss.item(), len(batch)))
        expected = [sum(a * n for a, n in part) / sum(n for _, n in part) for part in (losses[:3], losses[3:])]
        assert history.loss == pytest.approx(expected, rel=1e-6)
        assert same(student, plain)
        assert same(objective, bridges)

    def test_other_bridges_are_another_training(self, digits, cast, tmp_path):
        self.fit(digits, cast, checkpoint=tmp_path / "run")
        with torch.no_grad():
            cast[1].ours[0][0].weight.add_(1)
        with pytest.raises(ValueError, match="minimised another objective"):
            self.fit(digits, cast, checkpoint=tmp_path / "run")


class WithState(nn.Sequential):
    """Its extra state decides what it puts out."""

    def __init__(self, state):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.state = state

    def forward(self, x):
        if self.training:
            self.state["steps"] += 1
        return super().forward(x) / (1 + 0.1 * self.state["steps"])

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


def test_extra_state_is_kept_of_every_network(digits, tmp_path):
    def ring(**more):
        torch.manual_seed(0)
        return Lockstep([Loop(WithState({"steps": k} | more), *digits, RECIPE, seed=k) for k in range(2)], mix)

    whole, resumed, path = ring(), ring(), tmp_path / "ring"
    whole.run()
    ring().run(path, on_epoch=lambda ring: ring.epochs == 2)
    assert resumed.run(path) == whole.histories
    steps = [loop.model.state["steps"] for loop in resumed.loops]
    assert steps == [loop.model.state["steps"] for loop in whole.loops]
    assert steps[1] == steps[0] + 1
    with pytest.raises(ValueError, match=r"^loop 0\.model\._extra_state\['seen'\] is a set"):
        ring(seen={1}).run(tmp_path / "other")
