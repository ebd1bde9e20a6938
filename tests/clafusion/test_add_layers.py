"""Layers that are added change nothing, and those that would are refused."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from hetlib import zoo
from hetlib.chain import chain
from hetlib.clafusion import (
    add_layers,
    fuse,
    map_layers,
    merge_layers,
    transport_neurons,
)
from hetlib.clafusion.hmt_variants import stack
from hetlib.merging import update_bn
from tests.clafusion.networks import build, digits, gap, mlp, pictures, plain, run, settled


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("picks", [p for p in itertools.combinations(range(5), 3) if p[0] == 0])
def test_layers_added_to_a_perceptron_change_nothing(bias, picks):
    deep, shallow = mlp(12, 9, 8, 7, 6, bias=bias), mlp(11, 9, 5, seed=1, bias=bias)
    balanced = add_layers(map_layers(deep, shallow, digits(), mapping=picks))
    assert gap(balanced, shallow, digits()) == 0
    widths = [layer.module.weight.shape[0] for layer in chain(balanced).layers]
    assert len(widths) == 6
    assert [widths[i] for i in picks] == [11, 9, 5]


@pytest.mark.parametrize("bias", [False, True])
def test_layers_added_to_a_vgg_change_nothing(bias):
    deep, shallow, images = plain("vgg13", bias=bias), plain("vgg11", 1, bias=bias), pictures(8, 3, 32, 32)
    balanced = add_layers(map_layers(deep, shallow, images))
    assert gap(balanced, shallow, images) == 0
    assert len(chain(balanced).layers) == len(chain(deep).layers)


STUDENT = [64, 64, "M", 64, 64, "M", 128, 128, "M", 256, 256, "M", 256, 512, "M"]


def test_widths_of_the_balanced_vgg_are_the_papers():
    half = [64, "M", 64, "M", 128, 128, "M", 256, 256, "M", 256, 512, "M"]
    shallow = zoo.build("vgg11", 10, widths=half, bn=False, bias=False)
    images = pictures(2, 3, 32, 32)
    balanced = add_layers(map_layers(zoo.build("vgg13", 10, bn=False, bias=False), shallow, images))
    widths = [layer.module.weight.shape[0] for layer in chain(balanced).layers[:-1]]
    assert widths == [width for width in STUDENT if width != "M"]
    assert gap(balanced, shallow, images) == 0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [1 / 16, 1 / 8])
def test_blocks_added_to_a_resnet_change_nothing(bias, width):
    deep, shallow = plain("resnet34", bias=bias), plain("resnet18", 1, width=width, bias=bias)
    images = pictures(8, 3, 16, 16)
    assert gap(add_layers(map_layers(deep, shallow, images)), shallow, images) == 0


@pytest.mark.parametrize(
    ("names", "options", "size"),
    [
        (("resnet34", "resnet18"), {"width": 1 / 16}, 16),
        (("vgg13", "vgg11"), {"width": 1 / 16}, 32),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_layers_with_batch_norm_change_nothing_but_rounding(names, options, size):
    deep, shallow = (build(name, i, **options).eval() for i, name in enumerate(names))
    images = pictures(4, 3, size, size)
    balanced = add_layers(map_layers(deep, shallow, images))
    torch.testing.assert_close(run(balanced, images), run(shallow, images), rtol=1e-5, atol=1e-5)


def test_layers_of_two_networks_stay_apart():
    """The balanced network shares no tensor with those it was made of."""
    deep, shallow = mlp(12, 9, 8), mlp(11, 5, seed=1)
    balanced = add_layers(map_layers(deep, shallow, digits()))
    owned = {parameter.data_ptr() for model in (deep, shallow) for parameter in model.parameters()}
    assert not owned & {parameter.data_ptr() for parameter in balanced.parameters()}


def test_layers_that_cannot_be_idle():
    strided = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 2, padding="same"), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)),
    )
    shallow = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    images = pictures(2, 3, 8, 8)
    with pytest.raises(ValueError, match="2 has no partner and cannot be the identity"):
        fuse([strided, shallow], images)
    smooth = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 4, 3, padding=1), nn.GELU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)),
    )
    shallow[1] = nn.GELU()
    with pytest.raises(ValueError, match=r"2 has no partner, and .* stands before it: an identity needs a ReLU there"):
        fuse([smooth, shallow], images)


def test_an_inserted_batch_norm_stays_an_identity_when_statistics_are_renewed():
    torch.manual_seed(0)
    deep, shallow = (zoo.build(name, 10, width=1 / 8) for name in ("vgg13", "vgg11"))
    images = torch.randn(32, 3, 32, 32)
    for model in (deep, shallow):
        update_bn(model, images)
        model.eval()
    balanced = add_layers(map_layers(deep, shallow, images), images).eval()
    with torch.no_grad():
        torch.testing.assert_close(balanced(images), shallow(images), rtol=1e-3, atol=1e-4)
        update_bn(balanced, images)
        # Batches are normalised by variances over n, running ones are over n - 1: with 128 values 0.4 % remain.
        torch.testing.assert_close(balanced(images), shallow(images), rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(
            fuse([deep, shallow], images, step=1.0)(images), shallow(images), rtol=1e-2, atol=1e-3
        )


def test_an_inserted_batch_norm_is_an_identity_for_the_statistics_that_fusing_takes():
    """Those that the networks come with may be of other images: here they are the initial ones, of none."""
    torch.manual_seed(0)
    deep, shallow = (zoo.build(name, 10, width=1 / 8).double().eval() for name in ("vgg13", "vgg11"))
    images = pictures(16, 3, 32, 32).double()
    anew = copy.deepcopy(shallow)
    update_bn(anew, images)
    size = run(anew, images).abs().max().item()
    assert gap(anew, shallow, images) > 0.1 * size
    assert gap(add_layers(map_layers(deep, shallow, images), images), shallow, images) < 1e-12 * size
    # Each of the two inserted norms leaves 1/2n, n being 16384 and 4096.
    assert gap(fuse([deep, shallow], images, step=1.0), anew, images) < 1e-3 * size


@pytest.mark.parametrize("options", [{}, {"bn": False, "bias": False}])
def test_padded_shortcuts_follow_the_widths(options):
    deep, shallow = settled("resnet32", width=1 / 4, **options), settled("resnet20", 1, **options)
    balanced = add_layers(map_layers(deep, shallow, pictures(20, 3, 16, 16)), pictures(20, 3, 16, 16))
    with torch.no_grad():
        most = shallow(pictures(20, 3, 16, 16)).abs().max().item()
    assert gap(balanced, shallow, pictures(20, 3, 16, 16)) <= (1e-5 * most if options == {} else 0)
    assert fuse([deep, shallow], pictures(20, 3, 16, 16))(pictures(20, 3, 16, 16)).shape == (20, 10)


def test_stacked_and_added_norms_have_the_statistics_of_what_reaches_them():
    deep, shallow = settled("vgg13"), settled("vgg11", 1)
    images = pictures(40, 3, 32, 32)
    fed = stack(deep, shallow, images, "add")
    found = map_layers(deep, shallow, images)
    inserted = [layer.norm for layer in found.deep.layers if layer.name not in found.pairs]
    assert inserted
    for norm in map(fed.get_submodule, inserted):
        torch.testing.assert_close(norm.weight, (norm.running_var + norm.eps).sqrt())
        torch.testing.assert_close(norm.bias, norm.running_mean)
        assert norm.running_mean.any()


def test_blocks_that_pad_cannot_be_idle():
    deep, shallow = settled("resnet32"), settled("resnet20", 1)
    found = map_layers(deep, shallow, pictures(20, 3, 16, 16))
    stage = found.alignments[2]
    moved = replace(stage, picks=(1, *stage.picks[1:]))
    with pytest.raises(ValueError, match=r"layer2\.0 has no partner, but a shortcut that pads or pools"):
        add_layers(replace(found, alignments=(*found.alignments[:2], moved, *found.alignments[3:])))


def test_an_identity_on_the_input_is_not_held_against_the_map():
    deep, shallow = mlp(9, 8, 7), mlp(8, 7, seed=1)
    balanced = add_layers(map_layers(deep, shallow, digits(30), mapping=[1, 2]), digits(30))
    assert gap(balanced, shallow, digits(30)) > 1e-3


def test_balancing_refuses_images_that_hold_nothing():
    found = map_layers(mlp(9, 8, 7), mlp(8, 7, seed=1), digits(30))
    with pytest.raises(ValueError, match="the shallow network puts out NaN or infinity"):
        add_layers(found, digits(30) * torch.nan)


@pytest.mark.parametrize("how", [{"momentum": 0.3, "eps": 0.01}, {"bias": False}])
def test_an_inserted_norm_has_the_attributes_of_the_one_it_copies(how):
    def net(count):
        layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, **how), nn.ReLU()]
        for _ in range(count):
            layers += [nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, **how), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()

    torch.manual_seed(0)
    deep, shallow, images = net(3), net(1), pictures(40, 3, 8, 8)
    deep.double(), shallow.double()
    for module in deep.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.flavour = "own"
    found = map_layers(deep, shallow, images.double())
    balanced = add_layers(found)
    assert gap(balanced, shallow, images.double()) < 1e-6
    inserted = [layer.norm for layer in found.deep.layers if layer.name not in found.pairs]
    assert len(inserted) == 2
    for name in inserted:
        made, own = balanced.get_submodule(name), deep.get_submodule(name)
        assert (made.flavour, made.eps, made.momentum) == ("own", own.eps, own.momentum)
        assert made.state_dict().keys() == own.state_dict().keys()
        assert made.running_var.dtype == torch.float64
        assert not made.num_batches_tracked
    if "bias" in how:  # what it takes from the images it cannot give back
        with pytest.raises(ValueError, match=r"^\d+ \(BatchNorm2d\(6, .*\)\) has no gain or no shift"):
            fuse([deep, shallow], images.double())
        assert fuse([deep, net(3).double()], images.double())(images.double()).shape == (40, 4)


def repeated(count, *, seed=0):
    """A perceptron whose last two hidden layers are one module, under two names."""
    torch.manual_seed(seed)
    layers = [nn.Linear(16, 8), *[nn.Linear(8, 8) for _ in range(count)]]
    hidden = [each for layer in (*layers, layers[-1]) for each in (layer, nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, 10))


def test_a_module_under_several_names_is_balanced_under_each():
    deep, shallow = repeated(4), repeated(2, seed=1)
    found = map_layers(deep, shallow, digits())
    balanced = add_layers(found, digits())
    assert gap(balanced, shallow, digits()) == 0
    assert balanced[9] is balanced[11]
    moved = transport_neurons(deep, balanced, digits(), 0.0)
    assert gap(moved, deep, digits()) < 1e-5
    with pytest.raises(ValueError, match=r"^9 run more than once"):
        merge_layers(found, digits())
    with pytest.raises(ValueError, match=r"^5 run more than once"):
        merge_layers(map_layers(mlp(8, 8, 8, 8, 8), shallow, digits()), digits())


def test_a_network_that_gives_no_tensor_is_named():
    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = repeated(2)

        def forward(self, x):
            return {"logits": self.net(x)}

    with pytest.raises(ValueError, match=r"^Given gives a dict, not logits"):
        add_layers(map_layers(Given(), Given(), digits()), digits())
    with pytest.raises(ValueError, match=r"^network 1, a Given, gives a dict, not logits"):
        fuse([Given(), Given()], digits())
