"""What it takes two ranks to have each other's network: over gloo, and through files without the release's waits."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.harness import Bar, faster, milliseconds
from hetlib import zoo
from hetlib.grafting.checks import tensors_of
from hetlib.grafting.exchange import Exchange, joined
from hetlib.grafting.processes import start

BARS = {"resnet32": 10.0, "resnet18": 2.0}


def run() -> Iterator[Bar]:
    """Measure the bars: at least 10 times at 0.47 million parameters, at least twice at 11 million."""
    for name, bar in BARS.items():
        with TemporaryDirectory() as folder:
            start(measure, 2, name, folder)
            ours, files = json.loads((Path(folder) / "times.json").read_text())
        what = f"exchange of {name} between two ranks, CPU time of one"
        yield faster(what, "gloo, one buffer", "torch.save, torch.load", ours, files, bar)


def measure(name: str, folder: str, device: str = "cpu") -> None:
    """Be one of the two ranks; the first leaves the times. All files are there before any is read."""
    torch.set_num_threads(1)
    with joined() as exchange:
        torch.manual_seed(exchange.rank)
        model = zoo.build(name).to(device)
        donor = deepcopy(model)
        by_files(model, donor, exchange, folder)
        for key, value in tensors_of(exchange.donor(model, 0)).items():
            assert torch.equal(value, donor.state_dict()[key]), f"{key} came in another way"
        exchanged, filed = milliseconds(
            lambda: exchange.donor(model, 0), lambda: by_files(model, donor, exchange, folder), repeats=15
        )
        if exchange.rank == 0:
            (Path(folder) / "times.json").write_text(json.dumps([exchanged, filed]))


def by_files(model: nn.Module, donor: nn.Module, exchange: Exchange, folder: str) -> None:
    """Write a network to a file and read the other's, as the released code does, with a barrier in place of waits."""
    device = next(donor.parameters()).device
    own, other = (Path(folder) / f"{rank}.t7" for rank in (exchange.rank, 1 - exchange.rank))
    torch.save({"net": model.state_dict()}, own)
    torch.distributed.barrier()
    donor.load_state_dict(torch.load(other, map_location=device, weights_only=True)["net"])
    torch.distributed.barrier()
