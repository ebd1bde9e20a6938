"""Distillation: the loss is the released one, the teacher is left alone, and a resumed run ends in the same bits."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetlib import zoo
from hetlib.data import few_shot, load
from hetlib.merging import Ensemble
from hetlib.tlv import Crossover, support_features
from hetlib.training import Distillation, Recipe, cross_entropy, distillation_loss, evaluate, fit

QUICK = Recipe(epochs=3, lr=0.05, precision="fp32", batch_size=64)


@pytest.fixture(scope="module")
def digits():
    return few_shot(load("digits"), 20), load("digits", "test")


def net(seed=0, width=0.125):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return zoo.build("plainnet5", in_channels=1, width=width, kernel_size=3)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class TestLoss:
    def test_it_is_the_released_one(self, vectors):
        given = dict(np.load(vectors / "clafusion" / "kd_loss.npz"))
        student, teacher = (torch.from_numpy(given.pop(f"{who}_logits")) for who in ("student", "teacher"))
        labels = torch.from_numpy(given.pop("labels"))
        assert len(given) == 9
        for name, expected in given.items():
            alpha, temperature = (float(part[1:]) for part in name.split("_")[1:])
            found = distillation_loss(student, teacher, labels, alpha, temperature)
            assert float(found) == pytest.approx(float(expected), rel=1e-6)

    @given(st.integers(1, 6), st.integers(2, 9), st.floats(0, 1), st.floats(0.5, 20))
    def test_it_is_the_plain_loop(self, batch, classes, alpha, temperature):
        student, teacher = draw(batch, classes).double(), draw(batch, classes, seed=1).double()
        labels = torch.arange(batch) % classes
        total = 0.0
        for s, t, label in zip(student, teacher, labels, strict=True):
            p, q = (s / temperature).softmax(0), (t / temperature).softmax(0)
            for c in range(classes):
                total += float(alpha * temperature**2 * q[c] * (q[c] / p[c]).log()) / classes
            total -= float((1 - alpha) * s.softmax(0)[label].log())
        found = distillation_loss(student, teacher, labels, alpha, temperature)
        assert float(found) == pytest.approx(total / batch, rel=1e-9)

    def test_the_usual_divergence_is_as_many_times_larger_as_there_are_classes(self):
        student, teacher = draw(6, 10), draw(6, 10, seed=1)
        usual = F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean")
        found = distillation_loss(student, teacher, torch.zeros(6, dtype=torch.long), 1.0, 1.0)
        torch.testing.assert_close(10 * found, usual)

    def test_its_ends_are_cross_entropy_and_nothing_where_both_agree(self):
        student, labels = draw(6, 10), torch.arange(6)
        assert torch.equal(distillation_loss(student, draw(6, 10), labels, 0.0, 4.0), F.cross_entropy(student, labels))
        assert float(distillation_loss(student, student, labels, 1.0, 4.0)) == pytest.approx(0, abs=1e-7)

    def test_no_gradient_reaches_the_teacher(self):
        student, teacher = draw(6, 10).requires_grad_(), draw(6, 10, seed=1).requires_grad_()
        distillation_loss(student, teacher, torch.arange(6), 0.5, 4.0).backward()
        assert student.grad.count_nonzero() == 60
        assert teacher.grad is None

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_float32(self, dtype):
        student, teacher, labels = draw(6, 10).to(dtype), draw(6, 10, seed=1).to(dtype), torch.arange(6)
        found = distillation_loss(student, teacher, labels, 0.9, 20.0)
        assert found.dtype == torch.float32
        assert torch.equal(found, distillation_loss(student.float(), teacher.float(), labels, 0.9, 20.0))

    def test_extreme_logits_stay_finite(self):
        student, teacher = torch.tensor([[0.0, 300.0]]), torch.tensor([[300.0, 0.0]])
        assert distillation_loss(student, teacher, torch.tensor([0]), 0.5, 1.0).isfinite()

    @pytest.mark.parametrize(
        ("alpha", "temperature", "message"),
        [
            (1.1, 4, "alpha must be a finite number from 0 to 1, got 1.1"),
            (float("nan"), 4, "alpha must be"),
            (0.5, 0, "temperature must be a finite number above 0, got 0"),
            (0.5, float("inf"), "temperature must be"),
        ],
    )
    def test_bad_settings_are_named(self, alpha, temperature, message):
        with pytest.raises(ValueError, match=message):
            distillation_loss(draw(2, 3), draw(2, 3), torch.zeros(2, dtype=torch.long), alpha, temperature)
        with pytest.raises(ValueError, match=message):
            Distillation(net(1), alpha, temperature)

    def test_logits_of_other_shapes_are_named(self):
        with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
            distillation_loss(draw(2, 3), draw(2, 4), torch.zeros(2, dtype=torch.long), 0.5, 4)


class TestDistillation:
    def test_it_has_nothing_to_train_and_nothing_to_save(self, digits):
        objective = Distillation(net(1, 0.25), 0.5, 4)
        assert not list(objective.parameters())
        assert not objective.state_dict()

    def test_the_teacher_sees_the_same_images_and_stays_as_it_is(self, digits):
        seen = {"student": [], "teacher": []}
        student, teacher = net(), nn.Sequential(nn.Dropout(), net(1, 0.25)).train()
        for name, each in (("student", student), ("teacher", teacher)):
            each.register_forward_pre_hook(lambda module, inputs, name=name: seen[name].append(inputs[0].clone()))
        before = deepcopy(teacher)
        objective = Distillation(teacher, 0.5, 4)
        fit(student, digits[0], recipe=QUICK, epochs=1, objective=objective)  # the teacher's copy has the same hook
        copy = objective.teacher.network
        assert len(seen["student"]) == 4
        assert all(map(torch.equal, seen["student"], seen["teacher"]))
        assert not any(module.training for module in copy.modules())
        assert same(copy, before)
        assert same(teacher, before)
        assert teacher.training
        assert all(parameter.requires_grad for parameter in teacher.parameters())
        assert all(parameter.grad is None for parameter in copy.parameters())

    def test_without_a_teachers_weight_it_trains_to_the_same_bits(self, digits):
        plain, taught = net(), net()
        history = fit(plain, *digits, QUICK)
        assert fit(taught, *digits, QUICK, objective=Distillation(net(1), 0.0, 4)) == history
        assert same(plain, taught)

    def test_the_student_learns_from_the_teacher_alone(self, digits):
        teacher, student = net(1, 0.25), net()
        fit(teacher, *digits, QUICK, epochs=20, augment=False, schedule="one-cycle")
        blind = replace(digits[0], labels=torch.zeros_like(digits[0].labels))
        fit(student, blind, recipe=QUICK, objective=Distillation(teacher, 1.0, 4.0), epochs=30, augment=False, lr=0.5)
        assert evaluate(student, digits[1])["top1"] > 80

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_an_interrupted_run_ends_in_the_same_bits(self, digits, tmp_path, precision):
        def run(path, epochs=None):
            student, objective = net(), Distillation(net(1, 0.25), 0.7, 4)
            how = {"objective": objective, "precision": precision, "checkpoint": tmp_path / path}
            return student, fit(student, *digits, QUICK, on_epoch=lambda history: history.epochs == epochs, **how)

        whole, expected = run("whole")
        run("cut", 1)
        resumed, history = run("cut")
        assert history == expected
        assert same(whole, resumed)

    @pytest.mark.parametrize("change", ["alpha", "temperature", "weights", "votes", "none", "same"])
    def test_a_checkpoint_of_another_objective_is_refused(self, digits, tmp_path, change):
        teacher, path = Ensemble([net(1), net(2)]), tmp_path / "run"
        how = {"recipe": QUICK, "checkpoint": path, "on_epoch": lambda _: True}
        fit(net(), digits[0], objective=Distillation(teacher, 0.5, 4.0), **how)
        others = {
            "alpha": Distillation(teacher, 0.6, 4.0),
            "temperature": Distillation(teacher, 0.5, 5.0),
            "weights": Distillation(Ensemble([net(1), net(3)]), 0.5, 4.0),
            "votes": Distillation(Ensemble([net(1), net(2)], [1, 2]), 0.5, 4.0),
            "none": None,
            "same": Distillation(deepcopy(teacher), 0.5, 4.0),
        }
        refused = nullcontext() if change == "same" else pytest.raises(ValueError, match="minimised another objective")
        with refused:
            fit(net(), digits[0], objective=others[change], **how)

    def test_a_student_that_is_its_own_teacher_stays_trainable(self, digits):
        student = net()
        fit(student, digits[0], recipe=QUICK, epochs=1, objective=Distillation(student, 0.5, 4))
        assert not same(student, net())

    @pytest.mark.parametrize("cached", [False, True])
    def test_a_student_in_crossover_is_taught_too(self, digits, cached):
        recipe, support = QUICK.changed(augment=False), net(2, 0.25)
        rows = [support_features(support, digits[0], precision="fp32")] if cached else []
        taught = Distillation(net(1), 0.5, 4)
        ends = []
        for inner in (taught, cross_entropy):
            student, objective = net(), Crossover(None if cached else support, 0.3, inner=inner)
            history = fit(student, *digits, recipe, objective=objective, rows=rows)
            assert history.top1[-1] == evaluate(student, digits[1], precision="fp32")["top1"]
            ends.append(student)
        fit(alone := net(), *digits, recipe, objective=taught)
        assert not any(same(a, b) for a, b in combinations([*ends, alone], 2))

    def test_the_teacher_follows_the_objective_to_another_type(self):
        teacher = net(1)
        objective = Distillation(teacher, 0.5, 4).double()
        loss = objective(net().double(), draw(2, 1, 8, 8).double(), torch.tensor([0, 1]))
        assert loss.dtype == torch.float64
        assert next(teacher.parameters()).dtype == torch.float32


class TestEnsemble:
    def test_it_averages_logits(self):
        models, images = [net(seed).eval() for seed in range(3)], draw(4, 1, 8, 8)
        logits = torch.stack([model(images) for model in models])
        torch.testing.assert_close(Ensemble(models)(images), logits.mean(0))
        weighted = 0.5 * logits[0] + 0.125 * logits[1] + 0.375 * logits[2]
        torch.testing.assert_close(Ensemble(models, [4, 1, 3])(images), weighted)

    def test_one_network_is_itself(self):
        model, images = net().eval(), draw(4, 1, 8, 8)
        assert torch.equal(Ensemble([model])(images), model(images))

    def test_its_members_keep_their_mode(self, digits):
        for training in (False, True):
            models = [net(seed).train(training) for seed in range(2)]
            evaluate(Ensemble(models), digits[1])
            assert all(module.training is training for model in models for module in model.modules())

    @pytest.mark.parametrize(
        ("count", "weights", "message"),
        [
            (0, None, "an ensemble needs one network"),
            (2, [1.0], "weights: 2 numbers are needed, got 1"),
            (2, [1.0, -1.0], "weights: finite numbers of at least 0"),
            (2, [0.0, 0.0], "not all 0"),
            (2, [1.0, float("nan")], "finite"),
        ],
    )
    def test_bad_weights_are_named(self, count, weights, message):
        with pytest.raises(ValueError, match=message):
            Ensemble([net() for _ in range(count)], weights)
