"""The objective of both stages: it is the plain loop over teachers, in every variant, and it learns without labels."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from hetlib.amalgamation import Amalgamation, ByResolution, OfEachSubset, Teacher, taps
from hetlib.amalgamation.taps import tapped
from hetlib.chain import chain
from hetlib.data import normalise
from hetlib.training import fit
from hetlib.transfer import Pair
from tests.amalgamation import cast
from tests.amalgamation.cast import images, net, pool, same

MATCH = ByResolution(4)
RECIPE = cast.RECIPE.changed(batch_size=8, lr=1e-3)


def pixels(count=12, seed=0):
    data = images(count, seed=seed)
    return normalise(data.images, data.mean, data.std)


def teachers(task="Bangs", answers=slice(None)):
    return [Teacher(s.name, s.network, s.head(task), answers) for s in pool() if task in s.tasks]


def make(student, cast, **how):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Amalgamation(student, cast, pixels(2), match=MATCH, **how)


def plain(student, cast, objective, batches, weights=(1.0, 1.0, 1.0)):
    """One forward of the student for each teacher, and a sum of squares written out."""
    total = 0.0
    run = lambda network, x: tapped(chain(network), taps(chain(network), 4))(x)
    for teacher, bridge, x in zip(cast, objective.bridges, batches, strict=True):
        with torch.no_grad():
            theirs, wanted = run(deepcopy(teacher.network).eval(), x)
        ours, said = run(student, x)
        for tap, (u, v) in enumerate(zip(ours, theirs, strict=True)):
            there = bridge.theirs[tap](v) if bridge.theirs else v
            total = total + weights[0] * (bridge.ours[tap](u) - there).square().mean()
        scale = 1.0 if bridge.m is None else bridge.m
        answer = scale * said[:, teacher.answers]
        total = total + weights[1] * (answer - wanted[:, teacher.says]).square().mean()
        for other in bridge.theirs:
            total = total + weights[2] * ((other.weight.flatten(1) ** 2).sum(1) - 1).square().mean()
    return total


def gradients(loss, *modules):
    loss.backward()
    return [p.grad for module in modules for p in module.parameters()]


def assert_equal(found, expected, rtol=1e-4):
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("parts", [(1.0, 1.0, 1.0), (0.5, 2.0, 6.0)])
def test_stage_1_is_the_plain_loop_over_sources(scale, parts):
    cast, student, x = teachers(), net(2), pixels()
    ways = dict(zip(("features", "logits", "norm"), parts, strict=True))
    objective = make(student, cast, sizes=[8, 4], scale=scale, **ways)
    copies = deepcopy(student), deepcopy(objective)
    loss = objective(student, x, None)
    expected = plain(copies[0], cast, copies[1], x.split([8, 4]), parts)
    torch.testing.assert_close(loss, expected)
    assert_equal(gradients(loss, student, objective), gradients(expected, *copies))
    assert same(student, copies[0])  # batch norm saw the same batches


@pytest.mark.parametrize("one_forward", [True, False])
def test_stage_2_is_the_plain_loop_over_components_however_often_the_target_runs(one_forward):
    cast = [Teacher(f"component {k}", net(2, 5 + k), answers=slice(2 * k, 2 * k + 2)) for k in range(3)]
    student, x = net(6, width=0.5), pixels()
    objective = make(student, cast, common=None, joint=one_forward)
    assert not any(bridge.theirs for bridge in objective.bridges)
    copies = deepcopy(student), deepcopy(objective)
    calls = []
    student.conv1.register_forward_hook(lambda *_: calls.append(1))
    loss = objective(student, x, None)
    assert len(calls) == (1 if one_forward else 3)
    expected = plain(copies[0], cast, copies[1], [x] * 3)
    torch.testing.assert_close(loss, expected)
    assert_equal(gradients(loss, student, objective), gradients(expected, *copies), rtol=1e-3)


def test_a_joint_forward_lets_batch_norm_see_all_images():
    cast, x = teachers(), pixels()
    student = net(2)
    losses = [make(student, cast, sizes=[8, 4], joint=joint)(deepcopy(student), x, None) for joint in (True, False)]
    assert float(losses[0].detach()) != float(losses[1].detach())
    still = deepcopy(student).eval()
    losses = [make(student, cast, sizes=[8, 4], joint=joint)(still, x, None) for joint in (True, False)]
    torch.testing.assert_close(*losses)


def test_a_teacher_has_the_weight_it_is_given():
    cast, student, x = teachers(), net(2), pixels()
    terms = make(student, cast, sizes=[8, 4]).terms(deepcopy(student), x)
    heavy = [Teacher(cast[0].name, cast[0].network, cast[0].says, weight=3.0), cast[1]]
    loss = make(student, heavy, sizes=[8, 4])(deepcopy(student), x, None)
    torch.testing.assert_close(loss, terms.sum() + 2 * terms[0, :-1].sum())


def test_a_teacher_of_another_architecture_teaches_too():
    cast = [Teacher("vgg", net(2, 1, "vgg8", 0.125)), Teacher("resnet8", net(2, 2, "resnet8", 0.125))]
    student, x = net(2, name="resnet20"), torch.randn(6, 3, 32, 32)
    objective = Amalgamation(student, cast, x[:2], match=ByResolution(4), sizes=[4, 2])
    assert [s[1] for s in objective.student_shapes[0]] != [s[1] for s in objective.teacher_shapes[0]]
    assert any(a[2:] != b[2:] for a, b in zip(objective.student_shapes[1], objective.teacher_shapes[1], strict=True))
    loss = objective(student, x, None)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def run(member, sizes, path=None, stop=None, student=None, **how):
    student = student or net(2)
    objective = make(student, teachers(), sizes=sizes, epochs=3, steps=6, **how)
    history = fit(
        student,
        images().task("Bangs"),
        recipe=RECIPE.changed(epochs=3, rates=objective.rates),
        objective=objective,
        rows=member,
        batches=OfEachSubset(tuple(sizes)),
        checkpoint=path,
        on_epoch=lambda history: history.epochs == stop,
    )
    return student, objective, history


@pytest.fixture(scope="module")
def member():
    first = torch.arange(48) < 32
    return torch.stack([first, ~first], 1)


def test_it_is_trained_and_resumed_to_the_bit(member, tmp_path):
    student, objective, history = run(member, [6, 3])
    assert history.loss[-1] < 0.95 * history.loss[0]
    run(member, [6, 3], tmp_path / "run", stop=2)
    again, bridges, resumed = run(member, [6, 3], tmp_path / "run")
    assert resumed == history
    assert same(again, student)
    assert same(bridges, objective)
    with pytest.raises(ValueError, match="minimised another objective"):
        run(member, [6, 3], tmp_path / "run", norm=6.0)


def test_curves_are_the_terms_of_every_epoch(member):
    _, objective, history = run(member, [6, 3])
    assert objective.curves.shape == (3, 2, 6)
    torch.testing.assert_close(objective.curves.sum((1, 2)), torch.tensor(history.loss), rtol=1e-5, atol=0)


def test_labels_do_not_matter(member):
    student, objective = net(2), make(net(2), teachers(), sizes=[6, 3])
    other = net(2)
    for network, labels in ((student, torch.zeros(9)), (other, torch.full((9,), float("nan")))):
        deepcopy(objective)(network, pixels(9), labels).backward()
    assert_equal([p.grad for p in student.parameters()], [p.grad for p in other.parameters()], rtol=0)


def test_frozen_norms_learn_their_statistics_in_the_first_epoch_only(member):
    ends = {}
    for epochs in (1, 3):
        student = net(2)
        objective = make(student, teachers(), sizes=[6, 3], epochs=3, steps=6, freeze_norms=True)
        how = {"objective": objective, "rows": member, "batches": OfEachSubset((6, 3))}
        fit(
            student,
            images().task("Bangs"),
            recipe=RECIPE.changed(epochs=3),
            on_epoch=lambda h, last=epochs: h.epochs == last,
            **how,
        )
        ends[epochs] = student
    for (name, one), three in zip(ends[1].named_buffers(), ends[3].buffers(), strict=True):
        assert torch.equal(one, three), name
    assert not same(ends[1], ends[3])
    free, *_ = run(member, [6, 3])
    assert not torch.equal(free.bn1.running_mean, ends[3].bn1.running_mean)


def test_without_the_norm_both_bridges_can_vanish():
    """The trivial solution: what both networks say is multiplied by 0."""
    student, cast = net(2), teachers()[:1]
    objective = make(student, cast, sizes=[12])
    for bridge in objective.bridges:
        for conv in (*bridge.ours, *bridge.theirs):
            conv.weight.data.zero_()
            conv.bias.data.zero_()
    terms = objective.terms(student, pixels())
    assert terms[0, :4].tolist() == [0.0] * 4
    assert float(terms[0, -1].detach()) == pytest.approx(4)  # one for each tap


def test_rates_are_the_released_ones_where_there_are_five_taps():
    student, cast = net(2, name="resnet18", width=0.125), [Teacher("a", net(2, 1, "resnet18", 0.125))]
    objective = Amalgamation(student, cast, torch.randn(2, 3, 16, 16), sizes=[2])
    assert objective.rates == (
        ("objective.bridges.0.ours.2.", 0.1),
        ("objective.bridges.0.theirs.2.", 0.1),
        ("objective.bridges.0.m", 0.01),
    )
    names = dict(objective.named_parameters())
    for start, _ in objective.rates:
        assert any(f"objective.{name}".startswith(start) for name in names)


def test_bad_input_is_named():
    student, cast = net(2), teachers()
    with pytest.raises(ValueError, match="3 sizes of batches for 2 teachers"):
        make(student, cast, sizes=[4, 4, 4])
    with pytest.raises(ValueError, match="one teacher or more"):
        make(student, [])
    one_tap = lambda context: [Pair("conv1", "conv1")] * (1 + (context.source is cast[0].network))
    with pytest.raises(ValueError, match="equally many taps, the match finds: first 2, second 1"):
        Amalgamation(student, cast, pixels(2), match=one_tap, sizes=[4, 4])
    with pytest.raises(ValueError, match="first has one image a step"):
        Amalgamation(student, cast, torch.randn(2, 3, 4, 4), match=MATCH, sizes=[1, 4])
    Amalgamation(student, cast, torch.randn(2, 3, 4, 4), match=MATCH, sizes=[1, 4], joint=True)


def test_a_whole_step_is_the_released_form():
    """Adam with a rate of its own for the third bridge and the scale, as in the released code."""
    student = net(2, name="resnet18", width=0.125)
    cast = [Teacher(f"s{k}", net(6 - 2 * k, 1 + k, "resnet18", 0.125), slice(0, 2)) for k in range(2)]
    data = images(6, 16).task("Bangs")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = Amalgamation(student, cast, torch.randn(2, 3, 16, 16), sizes=[4, 2])
    plain_student, plain_objective = deepcopy(student), deepcopy(objective)
    member = torch.zeros(6, 2, dtype=torch.bool)
    member[:4, 0] = member[4:, 1] = True
    recipe = RECIPE.changed(epochs=1, lr=1e-4, rates=objective.rates)
    fit(student, data, recipe=recipe, objective=objective, rows=member, batches=OfEachSubset((4, 2)))
    groups = [{"params": list(plain_student.parameters()), "lr": 1e-4}]
    for bridge in plain_objective.bridges:
        slow = [*bridge.ours[2].parameters(), *bridge.theirs[2].parameters()]
        rest = [p for p in (*bridge.ours.parameters(), *bridge.theirs.parameters()) if not any(p is q for q in slow)]
        groups += [{"params": rest, "lr": 1e-4}, {"params": slow, "lr": 1e-5}, {"params": [bridge.m], "lr": 1e-6}]
    optimiser = torch.optim.Adam(groups)
    x = normalise(data.images, data.mean, data.std)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randperm(n, generator=generator) for n in (4, 2))
    loss = 0.0
    for k, part in enumerate((x[first], x[4 + second])):
        network = deepcopy(cast[k].network).eval()
        with torch.no_grad():
            theirs, wanted = tapped(chain(network), taps(chain(network)))(part)
        ours, said = tapped(chain(plain_student), taps(chain(plain_student)))(part)
        bridge = plain_objective.bridges[k]
        for own, other, u, v in zip(bridge.ours, bridge.theirs, ours, theirs, strict=True):
            loss = loss + F.mse_loss(own(u), other(v)) + ((other.weight**2).sum((1, 2, 3)) - 1).square().mean()
        loss = loss + F.mse_loss(bridge.m * said, wanted[:, :2])
    loss.backward()
    optimiser.step()
    for own, other in zip(
        (*student.parameters(), *objective.parameters()),
        (*plain_student.parameters(), *plain_objective.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=2e-5)
