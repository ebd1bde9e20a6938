"""How many operations the hot paths dispatch: exact on every machine, where times are noisy."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hetlib import hmt, zoo
from hetlib.data import Images, augment, normalise
from hetlib.training import fit

VIEWS = {"view", "slice", "select", "unfold", "alias", "narrow", "expand", "as_strided", "detach", "t", "unsqueeze"}
SYNC = "_local_scalar_dense"


class Counted(TorchDispatchMode):
    """Counts the operations that do work, by name: each is at least one kernel launch on a GPU."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def repeats(have: int, want: int) -> int:
    """Copies that repeat `have` channels until there are `want`: one of all whole repeats, and one of what is left."""
    times, rest = divmod(want, have)
    return (times > 1) + (rest > 0) if want > have else 0


def pixels(n: int, size: int = 32) -> torch.Tensor:
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("source", "target"), [("vgg16", "resnet18"), ("resnet18", "vgg16"), ("vgg11", "plainnet5")])
def test_transfer_copies_at_most_twice_along_an_axis(source, target):
    source, target = zoo.build(source), zoo.build(target, width=2.0)
    with Counted() as counted:
        report = hmt.transfer(source, target)
    pairs = [(row.source_shape, row.target_shape) for row in report.matched]
    copies = sum(1 + repeats(here[0], there[0]) + repeats(here[1], there[1]) for here, there in pairs)
    resampled = [(here[2:], there[2:]) for here, there in pairs if here[2:] != there[2:]]
    # Each resampled weight is laid out once with its channels last, as torch interpolates; and before anything is
    # written, one slice for each pair of kernel sizes is resampled to see that it comes out at the target's size.
    tried = len(set(resampled))
    expected = {"copy_": copies, "upsample_bilinear2d": len(resampled) + tried, "clone": len(resampled)}
    assert counted.counts == Counter({name: count for name, count in expected.items() if count})


@pytest.mark.parametrize("flip", [True, False])
def test_a_batch_is_augmented_by_one_gather_whatever_its_size(flip):
    generator, found = torch.Generator().manual_seed(0), []
    for n in (1, 16, 128):
        images = pixels(n)
        with Counted() as counted:
            augment(images, generator, flip=flip)
        found.append(counted.counts)
    assert found[0] == found[1] == found[2]
    assert found[0]["index"] + found[0]["gather"] == 1
    assert found[0].total() <= 12
    assert SYNC not in found[0]


def test_normalising_passes_over_the_pixels_three_times():
    images = pixels(16)
    with Counted() as counted:
        normalise(images, (0.5,) * 3, (0.25,) * 3)
    del counted.counts["lift_fresh"]  # the mean and the deviation becoming tensors
    assert counted.counts == {"div": 1, "sub_": 1, "div_": 1}


@pytest.mark.parametrize("batch_size", [4, 8])
def test_training_waits_for_the_device_once_an_epoch(batch_size):
    labels = torch.arange(24) % 10
    data = Images("random", "train", pixels(24, 8), labels, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    model = zoo.build("resnet8")
    with Counted() as before:
        fit(model, data, epochs=1, batch_size=batch_size)
    with Counted() as counted:
        fit(model, data, epochs=3, batch_size=batch_size)
    assert counted.counts[SYNC] - before.counts[SYNC] == 2
    assert counted.counts["_fused_sgd_"] == 3 * 24 // batch_size
