"""Fused networks written into a target, and the report of it."""

import copy

import pytest
import torch

from hetlib import data, zoo
from hetlib.clafusion import (
    fuse,
    transfer,
)
from hetlib.data import load
from tests.clafusion.networks import build, digits, gap, mlp


def test_a_target_of_another_shape():
    data = load("digits")
    models = [build("mlp", i, in_channels=1, in_features=64, hidden=h) for i, h in enumerate([(12, 9, 7), (8, 6)])]
    wide = build("mlp", 2, in_channels=1, in_features=64, hidden=(8, 8, 7))
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    with pytest.raises(ValueError, match=r"fc3.weight: the result has \(6, 8\), the target \(7, 8\)"):
        transfer(models, wide, data, samples=20)
    assert all(torch.equal(tensor, before[name]) for name, tensor in wide.state_dict().items())


def test_reports_name_where_layers_come_from():
    images = data.load("digits").subset(range(40))
    make = lambda hidden: zoo.build("mlp", 10, 1, hidden=hidden, in_features=64, bias=False)
    source, target = make((9, 8, 7)), make((9, 9, 8, 8, 7))
    report = transfer([source], target, images, samples=20, mapping=(0, 2, 4))
    assert {row.target: row.source for row in report if row.source} == {
        "fc1": "fc1",
        "fc3": "fc2",
        "fc5": "fc3",
        "fc6": "fc4",
    }
    deep = make((9, 9, 8, 8, 7))
    with pytest.warns(UserWarning, match="the deepest is taken for the first"):
        report = transfer([source, deep], make((9, 9, 8, 8, 7)), images, samples=20, mapping=(0, 2, 4))
    assert [row.source for row in report] == [f"fc{i}" for i in range(1, 7)]
    report = transfer([deep, source], make((9, 8, 7)), images, samples=20, balance="merge", mapping=(0, 2, 4))
    assert not report.matched
    with pytest.raises(ValueError, match=r"fc1.weight: the result has \(9, 64\), the target \(5, 64\)"):
        transfer([deep, source], make((5, 9, 8, 8, 7)), images, samples=20, mapping=(0, 2, 4))
    small = [zoo.build(name, 12, width=1 / 32, bn=False, bias=False) for name in ("resnet34", "resnet18", "resnet34")]
    shapes = data.load("shapes-target", count=48)
    report = transfer(small[:2], small[2], shapes, samples=4, hmt="only", order="chain")
    assert len(report.matched) == 17
    assert report.method == "HMT, only"


def test_a_refused_target_stays_as_it_was():
    train = data.load("shapes-source", count=60)
    sources = [zoo.build(name, train.num_classes, width=1 / 8) for name in ("resnet32", "resnet20")]
    for options in ({"bias": False}, {"shortcut": "B"}):
        target = zoo.build("resnet32", train.num_classes, width=1 / 8, **options)
        before = copy.deepcopy(target.state_dict())
        with pytest.raises(ValueError, match=r": the result has .*nothing"):
            transfer(sources, target, train, samples=20)
        assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_target_that_shares_a_tensor():
    def net(seed, tied):
        model = mlp(8, 8, 8, seed=seed)
        if tied:
            model.fc3.weight = model.fc2.weight
        return model

    target, before = net(0, True), copy.deepcopy(net(0, True).state_dict())
    with pytest.raises(ValueError, match=r"^fc2\.weight and fc3\.weight are one tensor in one network"):
        transfer([net(1, False), net(2, False)], target, digits())
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    sources = [net(1, True), net(2, True)]
    report = transfer(sources, target, digits())
    fused = fuse(sources, digits())
    assert gap(target, fused, digits()) == 0
    assert target.fc2.weight is target.fc3.weight
    assert len({row.source for row in report if row.target in ("fc2", "fc3")}) == 1


def test_one_network_is_checked_like_many():
    train, target = data.load("shapes-source", count=60), zoo.build("resnet32", width=1 / 8)
    with pytest.raises(ValueError, match="differ in classes"):
        transfer([zoo.build("resnet20", train.num_classes + 1, width=1 / 8)], target, train, samples=20)
    with pytest.raises(ValueError, match="3 networks: HMT stacks one onto another"):
        transfer([target] * 3, target, train, samples=20, hmt="only")
