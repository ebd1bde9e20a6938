"""The zoo: published sizes, published weights, shapes, and what it says when it is asked for something else."""

import copy
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from hetlib import zoo
from hetlib.zoo import plain

DATA = Path(os.environ.get("HETLIB_DATA", "data"))
BARE = {"bn": False, "bias": False}
CONVOLUTIONAL = [name for name in zoo.names() if name != "mlp"]


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def convolutions(model, shortcuts=True):
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and (shortcuts or "downsample" not in name.split("."))
    ]


def filters(model, shortcuts=True):
    return sum(conv.out_channels for conv in convolutions(model, shortcuts))


def needs(*path):
    """The file under the data folder, or a skip."""
    file = DATA.joinpath(*path)
    if not file.exists():
        pytest.skip(f"no {file}")
    return file


def test_names_are_the_models_that_can_be_built():
    sizes = {"vgg": (8, 11, 13, 16, 19), "resnet": (8, 20, 32, 44, 56, 110, 18, 34)}
    numbered = {f"{family}{size}" for family, all_sizes in sizes.items() for size in all_sizes}
    assert set(zoo.names()) == {"mlp", "plainnet5", "mobilenetv2"} | numbered


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("vgg13", {"widths": plain.VGG13_DOUB, **BARE}, 32_815_808),
        ("vgg11", {"widths": plain.VGG11_HALF, **BARE}, 2_919_104),
        ("vgg13", {"widths": plain.VGG13_STUDENT, **BARE}, 2_992_832),
        ("resnet34", BARE, 21_265_088),
        ("resnet18", BARE, 11_164_352),
        ("resnet18", {"width": 0.5, **BARE}, 2_792_800),
        ("resnet34", {"width": 0.5, **BARE}, 5_317_984),
        ("mlp", {"hidden": (400, 200, 100, 50, 25), "in_features": 784, "bias": False}, 420_100),
        ("mlp", {"hidden": (400, 200, 100), "in_features": 784, "bias": False}, 414_600),
        ("mlp", {"hidden": (400, 200, 100, 50), "in_features": 784, "bias": False}, 419_100),
    ],
)
def test_parameter_counts_of_clafusion(name, options, count):
    with torch.device("meta"):
        assert parameters(zoo.build(name, **options)) == count


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet32", 0.46), ("resnet56", 0.85), ("resnet110", 1.73), ("mobilenetv2", 2.30), ("vgg16", 14.7)],
)
def test_parameter_counts_of_grafting(name, millions):
    with torch.device("meta"):
        digits = 1 if name == "vgg16" else 2
        assert round(parameters(zoo.build(name)) / 1e6, digits) == millions


def test_filter_counts_of_grafting():
    with torch.device("meta"):
        assert filters(zoo.build("resnet32")) == 1136
        assert filters(zoo.build("mobilenetv2"), shortcuts=False) == 17_088


@pytest.mark.parametrize(
    ("name", "chain", "shortcuts"),
    [
        ("plainnet5", 4, 0),
        ("vgg8", 5, 0),
        ("vgg11", 8, 0),
        ("vgg13", 10, 0),
        ("vgg16", 13, 0),
        ("vgg19", 16, 0),
        ("resnet8", 7, 3),
        ("resnet20", 19, 0),
        ("resnet110", 109, 0),
        ("resnet18", 17, 3),
        ("resnet34", 33, 3),
        ("mobilenetv2", 53, 4),
    ],
)
def test_number_of_convolutions(name, chain, shortcuts):
    with torch.device("meta"):
        model = zoo.build(name)
    assert len(convolutions(model, shortcuts=False)) == chain
    assert len(convolutions(model)) == chain + shortcuts


def test_reference_nets_of_hmt():
    plainnet = convolutions(zoo.build("plainnet5", width=0.25))
    assert [tuple(conv.weight.shape) for conv in plainnet] == [
        (8, 3, 5, 5),
        (16, 8, 5, 5),
        (32, 16, 5, 5),
        (64, 32, 5, 5),
    ]
    assert convolutions(zoo.build("plainnet5", kernel_size=3))[0].kernel_size == (3, 3)
    strides = [conv.stride[0] for conv in convolutions(zoo.build("resnet8"))]
    assert strides == [1, 2, 1, 2, 2, 1, 2, 2, 1, 2]


@pytest.mark.parametrize("width", [0.1, 0.25, 1.5])
@pytest.mark.parametrize("name", zoo.names())
def test_shapes_at_several_widths(name, width):
    if name == "resnet110" or width > 1:
        with torch.device("meta"):
            model, images = zoo.build(name, 7, 2, width), torch.zeros(1, 2, 32, 32)
    else:
        model, images = zoo.build(name, 7, 2, width), torch.zeros(2, 2, 32, 32)
    assert model.eval()(images).shape == (len(images), 7)


@settings(max_examples=25)
@given(
    name=st.sampled_from(["plainnet5", "vgg8", "resnet8", "resnet20", "resnet18", "mobilenetv2"]),
    classes=st.integers(1, 12),
    channels=st.integers(1, 4),
    size=st.tuples(st.integers(32, 37), st.integers(32, 37)),
    width=st.floats(0.05, 0.3),
)
def test_any_image_of_32_pixels_or_more_fits(name, classes, channels, size, width):
    with torch.device("meta"):
        model = zoo.build(name, classes, channels, width)
        assert model(torch.zeros(2, channels, *size)).shape == (2, classes)


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet18", "mobilenetv2"])
def test_residual_networks_take_a_single_pixel(name):
    assert zoo.build(name, width=0.1).eval()(torch.zeros(1, 3, 1, 1)).shape == (1, 10)


@pytest.mark.parametrize("name", zoo.names())
def test_fx_traces_every_network_to_the_same_function(name):
    model = zoo.build(name, width=0.1).eval()
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(fx.symbolic_trace(model)(images), model(images))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutions_are_registered_in_order_of_execution(name):
    model = zoo.build(name, width=0.1)
    traced = fx.symbolic_trace(model)
    ran = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    registered = [key for key, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert [key for key in ran if key in registered] == registered


@pytest.mark.parametrize("name", ["plainnet5", "vgg11", "resnet8", "resnet20", "resnet18"])
def test_bn_and_bias_can_be_left_out(name):
    assert all(parameter.dim() > 1 for parameter in zoo.build(name, width=0.1, **BARE).parameters())
    without_bn = zoo.build(name, width=0.1, bn=False)
    assert all(conv.bias is not None for conv in convolutions(without_bn))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in without_bn.modules())


def test_biases_before_a_batchnorm_follow_torchvision():
    assert all(conv.bias is not None for conv in convolutions(zoo.build("vgg11", width=0.1)))
    assert all(conv.bias is None for conv in convolutions(zoo.build("resnet18", width=0.1)))


def test_features_of_torchvision_vgg_load_unchanged():
    with torch.device("meta"):
        theirs, ours = zoo.build("torchvision/vgg11_bn").features, zoo.build("vgg11").features
    assert {key: value.shape for key, value in theirs.state_dict().items()} == {
        key: value.shape for key, value in ours.state_dict().items()
    }


def test_shortcuts_of_type_a_pad_with_zeros_and_b_project():
    images = torch.randn(2, 16, 6, 6)
    padded = zoo.build("resnet20").layer2[0].downsample(images)
    assert padded.shape == (2, 32, 3, 3)
    assert torch.equal(padded[:, 8:24], images[:, :, ::2, ::2])
    assert not padded[:, :8].any()
    assert not padded[:, 24:].any()
    assert len(convolutions(zoo.build("resnet20", shortcut="B"))) == 21


def test_kaiming_initialisation_of_cifar_resnets():
    weight = zoo.build("resnet20").layer3[2].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_pools_that_small_images_cannot_take_are_left_out_and_named():
    with pytest.warns(UserWarning, match=r"8 x 8 .* left out pools 4, 5 of 5"):
        model = zoo.build("vgg8", width=0.1, image_size=8)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    assert model.state_dict().keys() == zoo.build("vgg8").state_dict().keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.build("vgg8", width=0.1, image_size=64)


def test_guards_name_network_given_and_wanted():
    vgg = zoo.build("vgg8", width=0.1)
    with pytest.raises(ValueError, match=r"vgg8 takes images of 32 x 32 pixels or more; got 40 x 28"):
        vgg(torch.zeros(1, 3, 40, 28))
    with pytest.raises(ValueError, match=r"vgg8 takes images of 3 channels.*got shape \(1, 1, 32, 32\)"):
        vgg(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match=r"got shape \(3, 32, 32\)"):
        vgg(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"mlp takes 784 numbers an image; got 64.*in_features=64"):
        zoo.build("mlp", in_features=784)(torch.zeros(1, 1, 8, 8))


def test_guards_survive_copies_and_leave_the_state_alone():
    model = zoo.build("plainnet5", width=0.1)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match="plainnet5 takes images of 8 x 8"):
            twin(torch.zeros(1, 3, 4, 4))
        assert twin.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet21", {}, "unknown model 'resnet21': did you mean .*'resnet20'"),
        ("torchvision/resnet19", {}, "unknown torchvision model 'resnet19': did you mean .*'resnet18'"),
        ("torchvision/resnet18", {"in_channels": 1}, "in_channels=3 and width=1.0 only"),
        ("torchvision/resnet50", {"width": 0.5}, "in_channels=3 and width=1.0 only"),
        ("torchvision/resnet18", {"width": 0.001}, "leaves none of a layer's"),
        ("torchvision/resnet18", {"wdth": 2}, "does not take these options: wdth"),
        ("vgg8", {"with_bn": True}, "unknown option of vgg8 'with_bn'.*widths, image_size, bn, bias"),
        ("mlp", {"hiden": (3,)}, "did you mean 'hidden'"),
        ("mobilenetv2", {"bn": False}, "unknown option of mobilenetv2 'bn'"),
        ("resnet20", {"shortcut": "C"}, "unknown shortcut 'C'.*A, B"),
        ("resnet20", {"blocks": 3}, "unknown option of resnet20 'blocks'"),
        ("resnet20", {"width": 0}, "width must be a finite number above 0, got 0"),
        ("resnet20", {"width": float("nan")}, "width must be a finite number above 0"),
        ("resnet20", {"width": 0.01}, "needs a width of at least 1/32"),
        ("resnet20", {"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ("resnet20", {"in_channels": 1.5}, "in_channels must be a whole number of at least 1"),
        ("plainnet5", {"kernel_size": 4}, "kernel_size must be odd"),
        ("vgg8", {"widths": (8, "P")}, "widths: whole numbers of at least 1 are needed, got 'P'"),
        ("vgg8", {"image_size": 0}, "image_size must be a whole number of at least 1"),
        ("mlp", {"hidden": (0,)}, "hidden: whole numbers of at least 1 are needed, got 0"),
    ],
)
def test_what_cannot_be_built_is_said(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.build(name, **arguments)


def test_the_smallest_width_is_the_one_the_error_names():
    model = zoo.build("resnet20", width=1 / 32)
    assert model.conv1.out_channels == 1
    assert zoo.build("mlp", hidden=(np.int64(5),), width=0.5).fc1.out_features == 3


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/resnet34"])
def test_torchvision_s_resnets_of_basic_blocks_are_made_narrower(name):
    whole, narrow = zoo.build(name, 7), zoo.build(name, 7, width=0.25).eval()
    scaled = lambda size: size // 4 if size >= 64 else size
    for (key, ours), theirs in zip(narrow.state_dict().items(), whole.state_dict().values(), strict=True):
        assert list(ours.shape) == [scaled(size) for size in theirs.shape], key
    assert narrow(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    torch.manual_seed(3)
    drawn = zoo.build(name, 7, width=0.25).conv1.weight
    torch.manual_seed(3)
    assert torch.equal(zoo.build(name, 7, width=0.25).conv1.weight, drawn)


def test_torchvision_is_reached_with_fresh_weights_and_our_classes():
    model = zoo.build("torchvision/squeezenet1_1", num_classes=4, dropout=0.1).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.data
def test_published_resnet20_scores_what_was_published():
    state = torch.load(needs("weights", "cifar10_resnet20.pt"), weights_only=True)
    with needs("cifar-10-batches-py", "test_batch").open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    model = zoo.build("resnet20").eval()
    model.load_state_dict(state, strict=True)
    images = torch.from_numpy(np.asarray(batch[b"data"])).view(-1, 3, 32, 32).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        guesses = torch.cat([model(part).argmax(1) for part in ((images - mean) / std).split(500)])
    assert (guesses == torch.tensor(batch[b"labels"])).sum() == 9173


@pytest.mark.data
def test_published_resnet32_loads_unchanged():
    state = torch.load(needs("weights", "cifar10_resnet32.pt"), weights_only=True)
    zoo.build("resnet32").load_state_dict(state, strict=True)


@pytest.mark.data
@pytest.mark.parametrize(("number", "correct"), [(0, 9772), (1, 9775)])
def test_published_mlps_score_what_was_published(number, correct):
    state = torch.load(needs("weights", f"mnist_mlp_{number}.pt"), weights_only=True)
    raw = needs("MNIST", "raw")
    pixels = np.fromfile(raw / "t10k-images-idx3-ubyte", np.uint8, offset=16).astype(np.float32)
    labels = np.fromfile(raw / "t10k-labels-idx1-ubyte", np.uint8, offset=8)
    model = zoo.build("mlp", in_features=784, bias=False)
    model.load_state_dict(state, strict=True)
    images = (torch.from_numpy(pixels).view(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081
    with torch.inference_mode():
        assert (model(images).argmax(1) == torch.from_numpy(labels)).sum() == correct
