"""The loop learns, repeats itself to the bit, and survives being killed at any moment."""

import math
import multiprocessing
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetlib import data, zoo
from hetlib.data import few_shot, load
from hetlib.files import DamagedFile, load_tensors
from hetlib.training import History, Recipe, cross_entropy, evaluate, fit, use_bf16
from hetlib.training.loop import Loop, shuffled
from tests.killing import kill_after

QUICK = Recipe(epochs=3, lr=0.05, augment=False, precision="fp32")


@pytest.fixture(scope="module")
def digits():
    return few_shot(load("digits"), 20), load("digits", "test")


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return zoo.build("plainnet5", in_channels=1, width=0.125, kernel_size=3)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_learns_real_digits(digits):
    model = net()
    untrained = evaluate(model, digits[1])["top1"]
    history = fit(model, *digits, QUICK, epochs=15, batch_size=32, schedule="one-cycle")
    assert untrained < 30
    assert history.final > 85
    assert history.best >= history.final
    assert history.epochs == len(history.loss) == 15
    assert history.evaluated == list(range(1, 16))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(digits):
    runs = []
    for seed in (0, 0, 1):
        model = net()
        runs.append((model, fit(model, *digits, QUICK, seed=seed, augment=True)))
    assert runs[0][1] == runs[1][1]
    assert same(runs[0][0], runs[1][0])
    assert not same(runs[0][0], runs[2][0])


def test_global_generators_are_left_alone(digits):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(net(), *digits, QUICK, epochs=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "changes", [{}, {"optimiser": "adamw", "lr": 1e-3}, {"precision": "bf16"}, {"schedule": "one-cycle"}], ids=str
)
def test_an_interrupted_run_ends_in_the_same_bits(digits, tmp_path, changes):
    whole, broken = net(), net()
    expected = fit(whole, *digits, QUICK, epochs=4, augment=True, **changes)
    path = tmp_path / "run.safetensors"
    stop = fit(
        broken, *digits, QUICK, epochs=4, augment=True, checkpoint=path, on_epoch=lambda h: h.epochs == 2, **changes
    )
    assert stop.epochs == 2
    resumed = net()
    assert fit(resumed, *digits, QUICK, epochs=4, augment=True, checkpoint=path, **changes) == expected
    assert same(resumed, whole)


class Counting(nn.Module):
    """Its extra state decides what it puts out in training."""

    def __init__(self):
        super().__init__()
        self.steps, self.mean = 0, torch.zeros(16)

    def forward(self, x):
        if self.training:
            self.steps += 1
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return (x - self.mean) / (1 + 0.1 * self.steps)

    def get_extra_state(self):
        return {"steps": self.steps, "mean": self.mean, "shape": (16,)}

    def set_extra_state(self, state):
        assert state["shape"] == (16,)
        self.steps, self.mean = state["steps"], state["mean"]


def special(kind):
    """A perceptron with a shared weight, a module that stands twice, or extra state."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 10)]
    if kind == "weight":
        layers[2].weight = layers[1].weight
    elif kind == "module":
        layers[2] = layers[1]
    else:
        layers.insert(2, Counting())
    return nn.Sequential(nn.Flatten(), *[each for layer in layers[:-1] for each in (layer, nn.ReLU())], layers[-1])


@pytest.mark.parametrize("changes", [{"optimiser": "adamw", "lr": 1e-3}, {}], ids=str)
@pytest.mark.parametrize("kind", ["weight", "module", "extra state"])
def test_what_is_shared_or_extra_state_resumes_to_the_same_bits(tmp_path, kind, changes):
    digits = few_shot(load("digits"), 20), load("digits", "test")
    whole, resumed, path = special(kind), special(kind), tmp_path / "run.safetensors"
    expected = fit(whole, *digits, QUICK, **changes)
    fit(special(kind), *digits, QUICK, checkpoint=path, on_epoch=lambda h: h.epochs == 2, **changes)
    assert fit(resumed, *digits, QUICK, checkpoint=path, **changes) == expected
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        if isinstance(one, dict):
            assert one["steps"] == other["steps"] > 0
            assert torch.equal(one["mean"], other["mean"])
        else:
            assert torch.equal(one, other), name
    if kind == "weight":
        assert resumed[5].weight is resumed[3].weight


def test_another_extra_state_is_another_start(digits, tmp_path):
    fit(special("extra state"), *digits, QUICK, epochs=1, checkpoint=tmp_path / "run")
    other = special("extra state")
    other[5].steps = 3
    with pytest.raises(ValueError, match="started from other weights"):
        fit(other, *digits, QUICK, epochs=1, checkpoint=tmp_path / "run")


def test_extra_state_that_no_file_keeps_is_named_before_the_first_step(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "get_extra_state", lambda self: {"seen": {self.steps}})
    model = special("extra state")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=r"^model\.5\._extra_state\['seen'\] is a set"):
        fit(model, *digits, QUICK, epochs=1, checkpoint=tmp_path / "run")
    assert all(map(torch.equal, before, model.parameters()))
    assert model[5].steps == 0
    assert fit(model, *digits, QUICK, epochs=1).epochs == 1  # without a checkpoint nothing need be kept


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x, y):
        return self.fc((x + y).flatten(1))


class Given(nn.Module):
    """Hands on its logits in some form."""

    def __init__(self, form):
        super().__init__()
        self.fc, self.form = nn.Linear(64, 10), form

    def forward(self, x):
        return self.form(self.fc(x.flatten(1)))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Two(), r"^Two does not take one batch of images alone .*missing 1 .*'y'"),
        (nn.Sequential(Two()), r"^Sequential does not take one batch of images alone .*'y'"),
        (Given(lambda logits: (logits, logits)), "^Given gives a tuple for .* not logits"),
        (Given(lambda logits: {"logits": logits}), "^Given gives a dict for .* not logits"),
        (Given(lambda logits: logits.unsqueeze(1)), r"^Given gives shape \(\d+, 1, 10\) for .* not logits"),
    ],
)
def test_what_a_network_takes_and_gives_is_said_by_fit_and_evaluate(digits, model, says):
    for run in (lambda: fit(model, *digits, QUICK), lambda: evaluate(model, digits[1])):
        with pytest.raises(ValueError, match=says):
            run()


def test_a_type_error_of_a_network_s_own_stays(digits):
    with pytest.raises(TypeError, match="unsupported operand"):
        evaluate(Given(lambda logits: logits + "1"), digits[1])


def test_held_out_images_choose_the_epoch_whose_test_score_counts(digits):
    train, test = digits
    held_out = train.subset(range(50))
    history = fit(net(), train, test, QUICK, validation=held_out)
    assert len(history.validation) == len(history.top1) == 3
    best = max(range(3), key=lambda epoch: history.validation[epoch])
    assert history.selected == history.top1[best]
    assert math.isnan(fit(net(), train, test, QUICK, epochs=1).selected)


def test_held_out_images_are_checked_before_training(digits, tmp_path):
    train, test = digits
    held_out, path = train.subset(range(50)), tmp_path / "run.safetensors"
    with pytest.raises(ValueError, match="needs test images"):
        fit(net(), train, None, QUICK, validation=held_out)
    with pytest.raises(ValueError, match=r"digits \(train\) holds no images to score"):
        fit(net(), train, test, QUICK, validation=train.subset([]))
    fit(net(), train, test, QUICK, checkpoint=path, on_epoch=lambda _: True)
    with pytest.raises(ValueError, match="trained on other data"):
        fit(net(), train, test, QUICK, checkpoint=path, validation=held_out)


def test_rows_reach_the_objective_in_the_order_of_their_images(digits, tmp_path):
    train, path = digits[0], tmp_path / "run.safetensors"
    number, features = torch.arange(len(train)), torch.randn(len(train), 3)

    class Listening(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, model, images, labels, *rows):
            self.seen.append((labels, *rows))
            return cross_entropy(model, images, labels)

    listening = Listening()
    fit(net(), *digits, QUICK, epochs=1, objective=listening, rows=[number, features], checkpoint=path)
    labels, order, given = (torch.cat(each) for each in zip(*listening.seen, strict=True))
    assert torch.equal(order.sort().values, number)
    assert torch.equal(labels, train.labels[order])
    assert torch.equal(given, features[order])
    with pytest.raises(ValueError, match=r"rows: a tensor has 3 rows, digits \(train\) has 200 images"):
        fit(net(), *digits, QUICK, objective=Listening(), rows=number[:3])
    with pytest.raises(ValueError, match="trained on other data"):
        fit(net(), *digits, QUICK, epochs=1, objective=Listening(), rows=[number + 1, features], checkpoint=path)


def doubled(model, images, labels, *rows):
    assert model.training
    assert all(torch.equal(labels, row) for row in rows)
    return 2 * cross_entropy(model, images, labels)


@pytest.mark.parametrize("rows", [False, True])
def test_an_objective_is_what_is_minimised(digits, rows):
    model, plain = net(), net()
    given = {"rows": digits[0].labels} if rows else {}
    own = fit(model, *digits, QUICK, momentum=0, weight_decay=0, objective=doubled, **given)
    usual = fit(plain, *digits, QUICK, momentum=0, weight_decay=0, lr=2 * QUICK.lr)
    assert own.loss == [2 * loss for loss in usual.loss]
    assert (own.top1, own.test_loss) == (usual.top1, usual.test_loss)
    assert same(model, plain)


def test_rates_are_factors_on_the_learning_rate(digits):
    start, model, plain = net(), net(), net()
    last = [name for name, _ in start.named_parameters()][-1]
    rates = (("model.", 0.0), (f"model.{last}", 1.0))
    fit(model, *digits, QUICK, batch_size=500, epochs=1, rates=rates)
    fit(plain, *digits, QUICK, batch_size=500, epochs=1)
    for name, value in model.named_parameters():
        expected = plain if name == last else start
        assert torch.equal(value, expected.get_parameter(name)), name
    with pytest.raises(ValueError, match=r"no parameter .* begins with 'objective.bridge'"):
        fit(net(), *digits, QUICK, rates=[("objective.bridge", 0.1)])


def every_image_twice(loop):
    return [half for batch in shuffled(loop) for half in (batch, batch)]


def test_batches_may_be_made_in_another_way(digits, tmp_path):
    path, model = tmp_path / "run.safetensors", net()
    history = fit(model, *digits, QUICK, schedule="one-cycle", batches=every_image_twice, checkpoint=path)
    assert not same(model, net())
    assert history.lr[-1] == pytest.approx(QUICK.lr * 1.25 / (3 * 4))  # three epochs of four steps
    assert fit(net(), *digits, QUICK, schedule="one-cycle", batches=every_image_twice, checkpoint=path) == history
    with pytest.raises(ValueError, match="took its batches in another way"):
        fit(net(), *digits, QUICK, schedule="one-cycle", checkpoint=path)


def test_dropout_resumes_too(digits, tmp_path):
    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.Dropout(), torch.nn.Linear(32, 10)
            )

    whole, resumed = build(), build()
    fit(whole, *digits, QUICK)
    fit(build(), *digits, QUICK, checkpoint=tmp_path / "a", on_epoch=lambda h: True)
    fit(resumed, *digits, QUICK, checkpoint=tmp_path / "a")
    assert same(whole, resumed)


KILLED_AT = [
    ("hetlib.training.loop.normalise", 1),  # in the first epoch, before there is a checkpoint
    ("hetlib.files.os.fsync", 0),  # while the first checkpoint is written
    ("hetlib.files.os.replace", 1),  # a whole second checkpoint lies beside the first
    ("hetlib.training.loop.normalise", 5),  # in the middle of a later epoch
    ("hetlib.training.loop.evaluate", 2),  # after an epoch that no checkpoint holds yet
    ("hetlib.files.os.fsync", 3),
]
"""What is called when the process is killed, and after how many calls of it; each process goes on from the last."""


def long_training(path, images, test):
    model = net()
    return model, fit(model, images, test, QUICK, epochs=12, checkpoint=path)


def killed_training(path, where, calls):
    """Train until a function is called once more than `calls` times; then this process is killed."""
    kill_after(where, calls)
    long_training(path, few_shot(load("digits"), 20), load("digits", "test"))


def test_killed_at_any_moment_it_ends_in_the_same_numbers(digits, tmp_path):
    expected, history = long_training(None, *digits)
    # One process imports everything, and those that are killed are forked from it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    path, epochs = tmp_path / "run.safetensors", [0]
    for where, calls in KILLED_AT:
        process = context.Process(target=killed_training, args=(path, where, calls))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        epochs.append(len(load_tensors(path)[1]["history"]["loss"]) if path.exists() else 0)
    assert epochs[1:3] == [0, 0]
    assert epochs == sorted(epochs)
    assert 0 < epochs[-1] < 12
    model, resumed = long_training(path, *digits)
    assert resumed == history
    assert same(model, expected)


def test_a_damaged_checkpoint_is_named_and_training_starts_again(digits, tmp_path):
    path, whole = tmp_path / "run.safetensors", net()
    expected = fit(whole, *digits, QUICK, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    again = net()
    with pytest.warns(UserWarning, match=r"run\.safetensors is truncated.*starts again"):
        assert fit(again, *digits, QUICK, checkpoint=path) == expected
    assert same(again, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.1}, "lr was 0.05, is 0.1"),
        ({"seed": 3}, "seed was 0, is 3"),
        ({"epochs": 9}, "epochs was 3, is 9"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(digits, tmp_path, change, message):
    path = tmp_path / "run.safetensors"
    fit(net(), *digits, QUICK, checkpoint=path)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        fit(net(), *digits, QUICK, checkpoint=path, **change)
    with pytest.raises(ValueError, match="started from other weights"):
        fit(net(5), *digits, QUICK, checkpoint=path)
    with pytest.raises(ValueError, match="other data"):
        fit(net(), digits[1], recipe=QUICK, checkpoint=path)
    assert path.read_bytes() == whole


def test_a_checkpoint_that_cannot_be_written_is_an_error(digits, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot be written"):
        fit(net(), *digits, QUICK, checkpoint=tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "unknown training setting 'epoch': did you mean 'epochs'"),
        ({"schedule": "step"}, "did you mean 'steps'"),
        ({"optimiser": "adam"}, "did you mean 'adamw'"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"lr": -1.0}, "lr must be a finite number above 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_named(digits, changes, message):
    with pytest.raises(ValueError, match=message):
        fit(net(), *digits, QUICK, **changes)


def test_empty_data_and_labels_without_output_are_named(digits):
    with pytest.raises(ValueError, match="holds no images"):
        fit(net(), digits[0].subset([]))
    small = zoo.build("plainnet5", num_classes=5, in_channels=1, width=0.125)
    with pytest.raises(ValueError, match=r"label 9.*5 outputs"):
        fit(small, *digits, QUICK)


def test_top_k_against_a_loop(digits):
    model = net().eval()
    test = digits[1]
    with torch.no_grad():
        logits = model(data.normalise(test.images, test.mean, test.std))
    scores = evaluate(model, test, batch_size=77, precision="fp32")
    for k in (1, 5, 10):
        hits = sum(int(label in row.topk(k).indices) for row, label in zip(logits, test.labels.tolist(), strict=True))
        assert scores[f"top{k}"] == pytest.approx(100 * hits / len(test))
    assert scores["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, test.labels).item(), rel=1e-5)


def test_every_attribute_of_every_image_counts():
    faces = data.load("faces:Bangs,Young,Male", "test", count=30)
    model = zoo.build("resnet8", faces.num_classes, width=0.125).eval()
    with torch.no_grad():
        logits = model(data.normalise(faces.images, faces.mean, faces.std))
    right, loss = 0, 0.0
    for row, answers in zip(logits, faces.labels.tolist(), strict=True):
        for number, answer in enumerate(answers):
            pair = row[2 * number : 2 * number + 2]
            right += int(pair.argmax()) == answer
            loss -= float(pair.log_softmax(0)[answer])
    scores = evaluate(model, faces, batch_size=7, precision="fp32")
    assert scores["top1"] == pytest.approx(100 * right / 90)
    assert scores["top5"] == 100
    assert scores["loss"] == pytest.approx(loss / 90, rel=1e-5)


def test_evaluation_restores_the_mode_and_counts_the_last_epoch(digits):
    model = net().train()
    evaluate(model, digits[1])
    assert model.training
    assert fit(net(), *digits, QUICK, epochs=5, evaluate_every=2).evaluated == [2, 4, 5]
    assert math.isnan(fit(net(), digits[0], recipe=QUICK).final)


@given(st.integers(1, 20), st.integers(1, 9), st.floats(0.01, 1))
def test_schedules_stay_within_their_bounds(epochs, per_epoch, lr):
    for schedule in ("steps", "cosine", "one-cycle", "constant"):
        recipe = Recipe(epochs=epochs, lr=lr, schedule=schedule, milestones=(epochs // 2,))
        rates = [recipe.lr_at(step, per_epoch) for step in range(epochs * per_epoch)]
        assert all(0 < rate <= lr * (1 + 1e-9) for rate in rates)


def test_the_released_protocol_drops_at_its_epochs():
    recipe = Recipe(epochs=350, schedule="steps", milestones=(149, 249))
    rates = [recipe.lr_at(epoch * 8, 8) for epoch in range(350)]
    assert [epoch for epoch in range(1, 350) if rates[epoch] != rates[epoch - 1]] == [149, 249]
    assert rates[0] == 0.1
    assert rates[-1] == pytest.approx(0.001)


def test_cosine_is_torchs():
    model = torch.nn.Linear(1, 1)
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
    recipe = Recipe(epochs=4, lr=0.05)
    for step in range(20):
        assert recipe.lr_at(step, 5) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
        optimiser.step()
        peer.step()


def test_bf16_is_only_chosen_where_asked_or_supported():
    assert use_bf16("bf16", "cpu")
    assert not use_bf16("fp32", "cpu")
    assert use_bf16("auto", "cpu") in (True, False)


def test_histories_are_plain():
    assert History(loss=[1.0], lr=[0.1]).epochs == 1


def test_damage_is_an_os_error():
    assert issubclass(DamagedFile, OSError)


def test_batch_norms_that_were_frozen_stay_frozen(digits):
    model = zoo.build("resnet8", in_channels=1, width=0.125)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    mean = norms[0].running_mean.clone()
    evaluate(model, digits[1])
    fit(model, digits[0].subset(range(40)), epochs=2, augment=False)
    assert model.training
    assert not any(norm.training for norm in norms)
    assert torch.equal(norms[0].running_mean, mean)


def test_a_network_in_evaluation_mode_is_trained_whole(digits):
    model = zoo.build("resnet8", in_channels=1, width=0.125).eval()
    fit(model, digits[0].subset(range(40)), epochs=1, augment=False)
    assert all(module.training for module in model.modules())


class Views(torch.nn.Module):
    """The classical view of feature maps as vectors, which channels last forbids."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.Linear(384, 10)

    def forward(self, images):
        found = self.conv(images).relu()
        return self.linear(found.view(found.size(0), -1))


def test_a_network_that_views_its_maps_is_trained_and_scored(digits):
    torch.manual_seed(0)
    model = Views()
    with torch.no_grad():
        logits = model(data.normalise(digits[1].images, digits[1].mean, digits[1].std))
    right = 100 * float((logits.argmax(1) == digits[1].labels).double().mean())
    assert evaluate(model, digits[1], precision="fp32")["top1"] == pytest.approx(right)
    history = fit(model, *digits, QUICK)
    assert history.loss[-1] < history.loss[0]


@pytest.mark.parametrize(("count", "sizes"), [(33, [16, 17]), (32, [16, 16]), (34, [16, 16, 2]), (1, [1]), (16, [16])])
def test_a_single_image_that_is_left_joins_the_batch_before(digits, count, sizes):
    loop = Loop(net(), digits[0].subset(range(count)), recipe=Recipe(batch_size=16))
    batches = shuffled(loop)
    assert [len(batch) for batch in batches] == sizes
    assert sorted(torch.cat(tuple(batches)).tolist()) == list(range(count))


def test_double_precision_is_kept(digits):
    model = net().double()
    assert evaluate(model, digits[1], precision="fp32")["top1"] >= 0
    fit(model, digits[0], epochs=1, augment=False, precision="fp32")
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())


class Pair(torch.nn.Module):
    """Gives more than logits."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, images):
        return self.net(images), images


class Aside(Pair):
    """Gives more than logits in training alone, as networks with auxiliary heads do."""

    def forward(self, images):
        return (self.net(images), images) if self.training else self.net(images)


class GateLast(torch.nn.Module):
    """Its last registered linear layer is no head."""

    def __init__(self):
        super().__init__()
        self.head, self.gate = torch.nn.Linear(64, 10), torch.nn.Linear(64, 1)

    def forward(self, images):
        pixels = images.flatten(1)
        return self.head(pixels * self.gate(pixels).sigmoid())


def test_what_cannot_be_trained_is_named_before_the_first_step(digits):
    with pytest.raises(ValueError, match="Pair gives a tuple for 1 images, not logits"):
        fit(Pair(), *digits, QUICK)
    with pytest.raises(ValueError, match=r"Aside gives a tuple for .* images, not logits .*aux_logits=False"):
        fit(Aside(), *digits, QUICK)
    with pytest.raises(ValueError, match=r"Pair gives a tuple for .* images, not logits"):
        evaluate(Pair(), digits[1])
    with pytest.raises(ValueError, match=r"digits \(test\) holds no images to score"):
        evaluate(net(), digits[1].subset([]))
    with pytest.raises(ValueError, match=r"all parameters of .* are frozen: there is nothing to train"):
        fit(net().requires_grad_(False), *digits, QUICK)
    with pytest.raises(ValueError, match="Flatten has no parameters"):
        fit(torch.nn.Flatten(), *digits, QUICK)
    assert fit(GateLast(), *digits, QUICK, epochs=1).epochs == 1
