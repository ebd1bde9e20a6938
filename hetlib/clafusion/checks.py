"""What `fuse` and `transfer` refuse before they begin: settings that are none, and networks that cannot be fused."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from hetlib.chain import Chain, Network, evaluating
from hetlib.checks import check_images, check_network, taking
from hetlib.clafusion.merge_layers import RELUS
from hetlib.clafusion.transport import Transport
from hetlib.clafusion.weights import SIDES
from hetlib.errors import finite, known

BALANCES = ("add", "merge")
SCHEMES = ("many-to-one", "iterative", "naive")
MAP_OPTIONS = ("mapping", "measure", "pins", "seed")
FUSE_OPTIONS = ("step", "scheme", "balance", "relu", *MAP_OPTIONS, *(each.name for each in fields(Transport)))
STACK_OPTIONS = ("order", "seed")


def check_settings(
    count: int, step: float, scheme: str, balance: str, relu: str, input_side: str, plans: dict[str, Any]
) -> None:
    """Raise ValueError for settings of `fuse` that are none, or exclude one another; `count` networks are given."""
    choices = {"scheme": (scheme, SCHEMES), "balance": (balance, BALANCES)}
    choices |= {"ReLU approximation": (relu, RELUS), "side": (input_side, SIDES)}
    for kind, (given, valid) in choices.items():
        known(kind, given, valid)
    finite("step, the weight of the shallow network,", step, 0, 1)
    if (reg := plans.get("reg")) is not None:
        finite("reg", reg, above=0)
    if balance == "merge" and count > 2:
        raise ValueError(f"{count} networks are balanced by adding layers")
    if scheme == "naive" and plans:
        raise ValueError(f"an average without transport takes no {', '.join(plans)}")


def check_options(what: str, options: Mapping[str, Any], valid: Sequence[str]) -> None:
    """Raise ValueError for an option that is none, with the nearest ones."""
    for name in options:
        known(f"option of {what}", name, valid)


def check_networks(networks: Sequence[Network], images: Tensor) -> None:
    """Raise ValueError unless all are finite, of one dtype, take the images and give logits."""
    models = [each.model if isinstance(each, Chain) else each for each in networks]
    for place, model in enumerate(models, 1):
        check_network(f"network {place}", model, values=True)
    check_images("images", images)
    dtypes = [parameter.dtype for model in models for parameter in model.parameters()]
    for place, model in enumerate(models, 1):
        for name, tensor in model.state_dict().items():
            if isinstance(tensor, Tensor) and not tensor.isfinite().all():
                raise ValueError(f"{name} of network {place} holds NaN or infinity")
        for name, parameter in model.named_parameters():
            if parameter.dtype != dtypes[0]:
                raise ValueError(f"{name} of network {place} is {parameter.dtype}, unlike the first network's")
        with taking(f"network {place}", images), evaluating(model):
            given = model(images[:1])
        if not isinstance(given, Tensor):
            kind = f"{type(model).__name__}, gives a {type(given).__name__}"
            raise ValueError(f"network {place}, a {kind}, not logits: wrap it in a network that does")
