"""CLAFusion against the vectors of the released code."""

import pytest
import torch
from torch import nn

from hetlib import zoo
from hetlib.chain import chain
from hetlib.clafusion import add_layers, fuse, fuse_weights, map_layers, merge_layers, neuron_plans


@pytest.fixture(scope="module")
def case(vectors):
    def load(name):
        path = vectors / "clafusion" / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"{path.name} is not among the vectors")
        import numpy as np

        with np.load(path, allow_pickle=False) as file:
            return {key: torch.from_numpy(file[key]) if file[key].dtype.kind in "fib" else file[key] for key in file}

    return load


def stack(found, key):
    values = []
    while f"{key}_{len(values)}" in found:
        values.append(found[f"{key}_{len(values)}"])
    return values


def as_mlp(weights):
    model = zoo.build(
        "mlp", len(weights[-1]), 1, hidden=[len(w) for w in weights[:-1]], in_features=weights[0].shape[1], bias=False
    ).to(weights[0].dtype)
    for module, weight in zip(linears(model), weights, strict=True):
        module.weight.data.copy_(weight)
    return model


def linears(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def weights(model):
    return [layer.module.weight.detach() for layer in chain(model).layers]


def close(mine, released):
    for i, (a, b) in enumerate(zip(mine, released, strict=True)):
        torch.testing.assert_close(a, b.to(a), rtol=1e-3, atol=1e-5, msg=lambda text, i=i: f"layer {i}: {text}")


@pytest.mark.parametrize("name", ["mlp_same", "mlp_same_step0.3", "mlp_same_skiplast"])
def test_weights_fuse_as_released(case, name):
    found = case(name)
    step = 0.3 if "0.3" in name else 0.5
    plans = stack(found, "plan")
    close(fuse_weights(stack(found, "W0"), stack(found, "W1"), plans, step), stack(found, "fused"))
    if aligned := stack(found, "aligned"):
        close(fuse_weights(stack(found, "W0"), stack(found, "W1"), plans, 0.0), aligned)


@pytest.mark.parametrize("name", ["mlp_same", "mlp_same_step0.3", "mlp_same_skiplast"])
def test_networks_of_equal_depth_fuse_as_released(case, name):
    found = case(name)
    step = 0.3 if "0.3" in name else 0.5
    models = [as_mlp(stack(found, key)) for key in ("W0", "W1")]
    fused = fuse(models, found["X"].to(weights(models[0])[0]), step=step, last="skiplast" not in name)
    close(weights(fused), stack(found, "fused"))


@pytest.mark.parametrize(("measure", "name"), [("neurons", "mlp_depth_add_neuron"), ("cka", "mlp_depth_add_cka")])
def test_added_layers_as_released(case, measure, name):
    found = case(name)
    deep, shallow = (as_mlp(stack(found, key)) for key in ("W0", "W1"))
    images = found["X"].to(weights(deep)[0])
    plan = map_layers(deep, shallow, images, measure=measure)
    assert [pick + 1 for pick in plan.alignments[0].picks] == found["A"].tolist()
    balanced = add_layers(plan)
    close(weights(balanced), stack(found, "balanced"))
    close(neuron_plans(deep, balanced, images, last=True), stack(found, "plan"))
    close(weights(fuse([deep, shallow], images, measure=measure, last=True)), stack(found, "fused"))
    assert (balanced(images) - shallow(images)).abs().max() == 0


def test_merged_layers_as_released(case):
    found = case("mlp_depth_merge_sum")
    deep, shallow = (as_mlp(stack(found, key)) for key in ("W0", "W1"))
    images = found["X"].to(weights(deep)[0])
    options = {"mapping": [i - 1 for i in found["A"].tolist()]}
    close(weights(merge_layers(map_layers(deep, shallow, images, **options), images)), stack(found, "balanced"))
    close(weights(fuse([deep, shallow], images, balance="merge", last=True, **options)), stack(found, "fused"))


def test_residual_networks_as_released(case):
    found = case("resnet_same_width")
    deep, shallow = (zoo.build(name, 10, width=1 / 32, bn=False, bias=False) for name in ("resnet34", "resnet18"))
    for model, key in ((deep, "W0"), (shallow, "W1")):
        model.to(found["X"].dtype)
        for layer, weight in zip(chain(model).layers, stack(found, key), strict=True):
            layer.module.weight.data.copy_(weight)
    images = found["X"]
    with torch.no_grad():
        torch.testing.assert_close(deep(images), found["out0"])
        torch.testing.assert_close(shallow(images), found["out1"])
    plan = map_layers(deep, shallow, images)
    assert plan.legal == 1
    numbers = {layer.name: i for i, layer in enumerate(chain(deep).layers)}
    assert [numbers[name] + 1 for name in numbers if name in plan.pairs][: len(found["A"])] == found["A"].tolist()
    balanced = add_layers(plan)
    close(weights(balanced), stack(found, "balanced"))
    with torch.no_grad():
        assert (balanced(images) - shallow(images)).abs().max() == 0
    released = fuse_weights(stack(found, "W0"), stack(found, "balanced"), stack(found, "plan"))
    close(released, stack(found, "fused"))
    given = fuse_weights(weights(deep), weights(balanced), stack(found, "plan"), feeds=chain(deep).feeds())
    close(given, stack(found, "fused"))
    with torch.no_grad():
        torch.testing.assert_close(
            fuse([deep, shallow], images, last=True)(images), found["out_fused"], rtol=1e-3, atol=1e-5
        )
