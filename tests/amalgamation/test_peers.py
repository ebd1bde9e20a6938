"""The peers: their losses are the released ones, and each is an objective like amalgamation's."""

import numpy as np
import pytest
import torch

from hetlib.amalgamation import AverageDistillation, ByResolution, CommonFeatures, LayerWise, Teacher
from hetlib.amalgamation.peers import CommonBlock, LayerWiseBlock, divergence
from hetlib.training import Recipe, fit
from hetlib.transfer import Pair
from tests.amalgamation.cast import images, net, pool, same

HEADS = (slice(0, 2), slice(2, 4))
RECIPE = Recipe(epochs=3, batch_size=16, optimiser="adamw", lr=3e-3, weight_decay=0.0, augment=False, precision="fp32")
KINDS = (AverageDistillation, LayerWise, CommonFeatures)


@pytest.fixture(scope="module")
def released(vectors):
    found = np.load(vectors / "amalgamation_peers.npz")
    return lambda name: torch.from_numpy(np.asarray(found[name]))


def load(module, released, prefix):
    for name, value in module.named_parameters():
        value.data.copy_(released(f"{prefix}/param/{name}"))
    return module


def teachers():
    """Two for the first head, two for the second; one network is a teacher of both."""
    return [
        Teacher(f"{source.name}, {task}", source.network, source.head(task), head)
        for task, head in zip(("Bangs", "Young"), HEADS, strict=True)
        for source in pool()
        if task in source.tasks
    ]


def make(kind, student, cast=None, **how):
    if kind is LayerWise:
        how = {"match": ByResolution(4), **how}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind(student, cast or teachers(), torch.randn(2, 3, 8, 8), **how)


def test_distillation_is_the_released_one(released):
    teacher = torch.cat([released("kd/t1"), released("kd/t2")], 1)
    assert float(divergence(released("kd/student"), teacher)) == pytest.approx(float(released("kd/loss")), rel=1e-6)


def test_layer_wise_amalgamation_is_the_released_one(released):
    block = load(LayerWiseBlock(6, [5, 4]), released, "lw")
    found = block(released("lw/fs"), [released("lw/ft0"), released("lw/ft1")])
    expected = [float(released(f"lw/loss_{name}")) for name in ("amal", "recons")]
    assert [float(each.detach()) for each in found] == pytest.approx(expected, rel=1e-6)


def test_common_features_are_the_released_ones(released):
    block = load(CommonBlock(8, [8, 6]), released, "cfl")
    student, theirs = released("cfl/fs"), [released("cfl/ft0"), released("cfl/ft1")]
    torch.testing.assert_close(block.extractor(block.align_s(student)), released("cfl/hs"))
    discrepancy, apart = (float(each.detach()) for each in block(student, theirs))
    assert apart == pytest.approx(float(released("cfl/recons")), rel=1e-6)
    # The narrowest kernel amplifies the rounding of the released distances.
    assert discrepancy == pytest.approx(float(released("cfl/mmd")), rel=1e-3)


def test_a_head_learns_from_the_average_of_its_teachers():
    student, cast, x = net(4), teachers(), torch.randn(6, 3, 8, 8)
    loss = make(AverageDistillation, student)(student.eval(), x, None)
    said = [teacher.network.eval()(x)[:, teacher.says] for teacher in cast]
    expected = 0.0
    for head, first in zip(HEADS, (0, 2), strict=True):
        q = ((said[first] + said[first + 1]) / 2).softmax(1)
        p = student(x)[:, head].softmax(1)
        expected += float((q * (q / p).log()).sum(1).mean().detach())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_terms_have_their_weights_and_gradients_reach_student_and_blocks(kind):
    student, x = net(4), torch.randn(6, 3, 8, 8)
    objective = make(kind, student)
    alone = [
        make(kind, student, weights=[float(k == number) for k in range(kind.terms)])(student.eval(), x, None)
        for number in range(kind.terms)
    ]
    loss = objective(student, x, None)
    released_weights = {AverageDistillation: (1,), LayerWise: (1, 1, 1), CommonFeatures: (1, 10, 10)}[kind]
    torch.testing.assert_close(loss, sum(w * each for w, each in zip(released_weights, alone, strict=True)))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (*student.parameters(), *objective.parameters()))


def test_the_code_is_not_drawn_to_the_student():
    """The distance from the code teaches the student alone; the encoder learns from what is decoded."""
    block = LayerWiseBlock(4, [3, 2])
    student, theirs = torch.randn(2, 4, 3, 3), [torch.randn(2, 3, 3, 3), torch.randn(2, 2, 6, 6)]
    near, _ = block(student, theirs)
    near.backward()
    assert block.enc.weight.grad is None
    assert block.fam.weight.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_trained_and_resumed_to_the_bit(kind, tmp_path):
    def run(path=None, stop=None):
        student = net(4)
        objective = make(kind, student, epochs=3, steps=3)
        how = {"checkpoint": path, "on_epoch": lambda history: history.epochs == stop}
        history = fit(student, images().task("Bangs"), recipe=RECIPE, objective=objective, **how)
        return student, objective, history

    student, objective, history = run()
    assert history.loss[-1] < history.loss[0]
    weights = torch.tensor(objective.factors)
    torch.testing.assert_close(objective.curves @ weights, torch.tensor(history.loss), rtol=1e-4, atol=1e-6)
    run(tmp_path / "run", 1)
    again, bridges, resumed = run(tmp_path / "run")
    assert resumed == history
    assert same(again, student)
    assert same(bridges, objective)


def test_a_teacher_of_another_architecture_teaches_too():
    cast = [Teacher("vgg", net(2, 1, "vgg8", 0.125)), Teacher("resnet8", net(2, 2, "resnet8", 0.125))]
    x = torch.randn(4, 3, 32, 32)
    for kind in (LayerWise, CommonFeatures):
        how = {"match": ByResolution(4)} if kind is LayerWise else {}
        loss = kind(net(2), cast, x[:2], **how)(net(2), x, None)
        assert loss.isfinite()


def test_bad_input_is_named():
    student = net(4)
    with pytest.raises(ValueError, match="LayerWise has 3 terms, got the weights"):
        make(LayerWise, student, weights=(1.0,))
    other = lambda context: [Pair("conv1" if context.source is cast[0].network else "layer1.0.conv1", "conv1")]
    cast = teachers()
    with pytest.raises(ValueError, match="at the same taps of the student"):
        make(LayerWise, student, cast, match=other)
    flat = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8), torch.nn.Flatten())
    with pytest.raises(ValueError, match="has no linear layer"):
        make(CommonFeatures, student, [Teacher("flat", flat)])
