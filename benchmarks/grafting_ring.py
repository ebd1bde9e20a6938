"""Two networks that graft, on two cores: a process each, and one after the other in one process."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.harness import Bar, faster
from hetlib import zoo
from hetlib.data import Images
from hetlib.grafting import AfterEpoch, Grafting
from hetlib.grafting.distributed import over_ranks, train
from hetlib.grafting.exchange import joined
from hetlib.grafting.processes import start
from hetlib.training import Lockstep, Loop, Recipe

EPOCHS = 4
"""The first of them warms up and is not counted."""


def run(images: int = 1280, model: str = "resnet20") -> Iterator[Bar]:
    """Measure the bar: at least 1.8 times the epochs per hour. Wall time: both cores have to be idle."""
    with TemporaryDirectory() as folder:
        start(be_a_rank, 2, images, model, folder)
        apart = json.loads((Path(folder) / "seconds.json").read_text())
    ring = Lockstep([loop(k, images, model) for k in range(2)], AfterEpoch())
    times: list[float] = []
    torch.set_num_threads(1)
    ring.run(on_epoch=lambda ring: times.append(time.perf_counter()))
    assert ring.histories[0].loss == apart["loss"], "the ranks came to other numbers"
    names = [f"{3600 / seconds:.0f} epochs per hour" for seconds in (apart["seconds"], epoch_of(times))]
    what = f"2 x {model} with grafting, {images} images at 32x32, wall time of an epoch"
    ours, other = (f"{kind}: {each}" for kind, each in zip(("two processes", "one"), names, strict=True))
    yield faster(what, ours, other, apart["seconds"] * 1e3, epoch_of(times) * 1e3, 1.8)


def epoch_of(times: list[float]) -> float:
    """Seconds that an epoch takes."""
    return (times[-1] - times[0]) / (len(times) - 1)


def loop(rank: int, images: int, model: str) -> Loop:
    """The training of one network on images of noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (images,), generator=generator)
    data = Images("random", "train", pixels, labels, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    torch.manual_seed(rank)
    return Loop(zoo.build(model), data, recipe=Recipe(epochs=EPOCHS), seed=rank)


def be_a_rank(images: int, model: str, folder: str) -> None:
    """Train one of the two networks; the first rank leaves what an epoch took."""
    torch.set_num_threads(1)
    with joined() as exchange:
        between = AfterEpoch(over_ranks(Grafting(), exchange))
        ring = Lockstep([loop(exchange.rank, images, model)], between, first=exchange.rank)
        times: list[float] = []
        train(ring, exchange, on_epoch=lambda ring: times.append(time.perf_counter()))
        if exchange.rank == 0:
            found = {"seconds": epoch_of(times), "loss": ring.histories[0].loss}
            (Path(folder) / "seconds.json").write_text(json.dumps(found))
