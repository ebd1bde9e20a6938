"""Which published network can do what: `python -m tests.sweep [NAME ...]` measures it and writes docs/networks.md.

Weights and statistics are drawn anew, in double precision, so that nothing is hidden by what training made small.
"""

import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import astuple, dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from hetlib.chain import chain, eval_mode, layer_outputs, neurons
from hetlib.clafusion import fuse
from hetlib.files import write
from hetlib.merging import update_bn
from tests.chain.networks import torchvision_model
from tests.conftest import redraw

TORCHVISION = (
    "alexnet", "vgg11", "vgg11_bn", "vgg16_bn", "resnet18", "resnet34", "resnet50", "wide_resnet50_2",
    "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0",
    "efficientnet_b1", "efficientnet_v2_s", "mnasnet0_5", "mnasnet1_0", "squeezenet1_0", "squeezenet1_1", "googlenet",
    "inception_v3", "densenet121", "densenet169", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "regnet_x_400mf",
    "regnet_x_800mf", "regnet_y_400mf", "regnet_y_800mf", "convnext_tiny", "convnext_small", "maxvit_t", "vit_b_16",
)  # fmt: skip
TIMM = (
    "resnet10t", "resnet50d", "skresnet18", "ecaresnet26t", "resnext50_32x4d", "seresnext26t_32x4d", "resnetv2_50",
    "resnetv2_50d_gn", "resnetblur18", "resnetaa34d", "gcresnet33ts", "resnest14d", "res2net50_26w_4s", "dpn48b",
    "densenet121", "densenetblur121d", "dla34", "dla46x_c", "dla60_res2net", "vovnet39a", "ese_vovnet19b_dw",
    "cspresnet50", "cspdarknet53", "ghostnetv2_100", "repvgg_a0", "repghostnet_050", "repvit_m0_9", "mobileone_s0",
    "mixnet_s", "efficientnet_lite0", "tf_efficientnetv2_b0", "fbnetc_100", "mobilenetv3_small_050",
    "mobilenetv4_conv_small", "semnasnet_075", "spnasnet_100", "lcnet_050", "tinynet_e", "rexnet_100",
    "hardcorenas_a", "dm_nfnet_f0", "nf_resnet50", "eca_nfnet_l0", "regnety_002", "regnetz_005", "regnetv_040",
    "convnext_atto", "convnextv2_atto", "edgenext_xx_small", "fasternet_t0", "hgnetv2_b0", "hrnet_w18_small",
    "selecsls42", "tresnet_m", "xception65p", "inception_v4", "inception_next_atto", "poolformer_s12", "starnet_s1",
    "cs3darknet_s",
)  # fmt: skip
NAMES = (*TORCHVISION, *(f"timm/{name}" for name in TIMM))
SIZES = {"inception_v3": 299, "timm/inception_v4": 96, "maxvit_t": 224, "vit_b_16": 224}
TABLE = Path(__file__).parents[1] / "docs" / "networks.md"
HEAD = """# Which network can do what

torchvision's and timm's networks with drawn weights, by `python -m tests.sweep`. *Read*: every convolution and linear
layer that runs is in the chain, in order. *Unchanged*: reading leaves parameters and buffers as they are. *Free*: the
share of channels between input and output that can be moved. *Exact*: the largest relative error of the outputs after
all free channels were permuted; *rounding*: the same after the images were changed by one part in 10^15, as some of
these networks make rounding large. *Fused*: `clafusion.fuse` of the network and its permuted twin; it should give the
network, with statistics of its batch norms taken anew: the largest relative error, or the refusal. Where it is not,
the neurons are counted that were averaged with another than their twin. Neurons that put out one number on all images,
most often 0, cannot be told apart by what they put out, and two that are averaged may differ elsewhere.

| network | read | unchanged | free | exact | rounding | fused |
| --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Row:
    """What was found of one network."""

    network: str
    read: str
    unchanged: str
    free: str
    exact: str
    rounding: str
    fused: str


def measure(name: str) -> Row:
    """Build a network, draw its weights, and try everything."""
    model = redraw(build(name).double(), torch.Generator().manual_seed(0)).eval()
    size = SIZES.get(name, 64)
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ran = layers_that_run(model, images)
    before = deepcopy(model.train().state_dict())
    chain(model, images)
    unchanged = all(torch.equal(value, before[key]) for key, value in model.eval().state_dict().items())
    found = chain(model, images)
    read = [layer.name for layer in found.layers] == ran
    inner = [group for group in found.axes if group.fixed not in ("network input", "network output")]
    free = [group for group in inner if not group.fixed]
    share = sum(group.size for group in free) / max(1, sum(group.size for group in inner))
    twin = permuted(model, free)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        exact, rounding = (
            relative(found, model(images)) for found in (twin(images), model(images * (1 + 1e-15 * noise)))
        )
    return Row(name, yes(read), yes(unchanged), f"{100 * share:.0f} %", exact, rounding, fused(model, twin, images))


def build(name: str) -> nn.Module:
    """A network of ten classes; a VGG with a small classifier."""
    if name.startswith("timm/"):
        return import_module("timm").create_model(name.removeprefix("timm/"), num_classes=10)
    if name.startswith("vgg"):
        return torchvision_model(name)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, num_classes=10, **options)


def yes(right: bool) -> str:
    """A word for a truth."""
    return "yes" if right else "NO"


def layers_that_run(model: nn.Module, images: torch.Tensor) -> list[str]:
    """Convolutions and linear layers in the order of their first calls."""
    seen: dict[str, None] = {}
    hooks = [
        module.register_forward_hook(lambda *_, name=name: seen.setdefault(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad(), eval_mode(model):
        model(images)
    for hook in hooks:
        hook.remove()
    return list(seen)


def permuted(model: nn.Module, free: list) -> nn.Module:
    """A twin of the network that computes the same: every free group of its channels was permuted at random."""
    twin, state = deepcopy(model), model.state_dict()
    generator = torch.Generator().manual_seed(3)
    for group in free:
        group.permute_(state, torch.randperm(group.size, generator=generator))
    twin.load_state_dict(state)
    return twin


@torch.no_grad()
def fused(model: nn.Module, twin: nn.Module, images: torch.Tensor) -> str:
    """The relative error of a network fused with its twin, or why it cannot be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fuse([model, twin], images)
    except ValueError as error:
        return f"refused: {error}"
    expected = deepcopy(model)
    update_bn(expected, images)
    error = relative(found.eval()(images), expected.eval()(images))
    return error if float(error) < 1e-9 else f"{error}; {exchanged(found, twin, images)}"


def exchanged(found: nn.Module, twin: nn.Module, images: torch.Tensor) -> str:
    """How many neurons of a fused network are not those of the twin, and how many of these are constant on the images.

    A layer that an exchanged neuron feeds has no row that is right, and is not counted.
    """
    wrong, constant = 0, 0
    with eval_mode(twin):
        for layer, value in layer_outputs(chain(twin, images), images):
            differ = found.get_submodule(layer.name).weight - layer.module.weight
            rows = differ.flatten(1).abs().amax(1) > 1e-6
            if not rows.all():
                outputs = neurons(value)
                spread = (outputs - outputs[:, :1]).abs().amax(1)[rows]
                wrong += int(rows.sum())
                constant += int((spread < 1e-12 * outputs.abs().median()).sum())
    return f"{constant} of {wrong} neurons that were exchanged are constant"


def relative(found: torch.Tensor, expected: torch.Tensor) -> str:
    """The largest difference as a part of the largest value."""
    return f"{(found - expected).abs().max().item() / expected.abs().max().item():.0e}"


def main(names: list[str]) -> None:
    """Print a row for each network, measured by a process for each core; with all of them, write the table."""
    lines = []
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for row in pool.map(measure, names or NAMES):
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in astuple(row))} |\n")
            print(lines[-1], end="", flush=True)
    if not names:
        write(TABLE, HEAD + "".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
