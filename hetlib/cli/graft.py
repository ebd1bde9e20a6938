"""`hetlib graft`: several networks of one architecture, grafted after every epoch, from the command line."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hetlib.training import Recipe

EXAMPLES = """Train K networks of one architecture; after every epoch each grafts the weights of the one before it.

[bold]Examples[/]

Two ResNet-32, different rates, annealed by a cosine (the paper's dlr); each has a process on a CPU:

    hetlib graft --model resnet32 --data cifar10 --num 2

Equal rates in steps (slr), plain averaging, four networks:

    hetlib graft --num 4 --no-difflr --a 0

A network a GPU, and on two machines; the lonely -- keeps torchrun from reading what follows:

    torchrun --nproc-per-node 2 -m -- hetlib graft --num 2

    torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m -- hetlib graft --num 2

ImageNet, or any folder with train/ and val/ that hold a folder for each class:

    hetlib graft --model torchvision/resnet18 --data imagefolder:/data/imagenet --num 2

The same command resumes an interrupted run. In the release, --difflr turns different rates off; here it turns them on.
"""


def graft(
    num: Annotated[int, typer.Option(min=2, help="How many networks.")],
    model: Annotated[str, typer.Option(help="A network of the zoo, or torchvision/NAME.")] = "resnet32",
    data: Annotated[str, typer.Option(help="A data set (`hetlib data list`), or imagefolder:FOLDER.")] = "cifar10",
    width: Annotated[float, typer.Option(help="Factor on every layer's number of channels.")] = 1.0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default 200; 90 for folders.", show_default=False)] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Default 128; 256 for folders.", show_default=False)
    ] = None,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.1,
    difflr: Annotated[
        bool | None,
        typer.Option(
            "--difflr/--no-difflr",
            help="A rate for each network, half a cosine up to --lr; not by default for folders.",
        ),
    ] = None,
    cos: Annotated[
        bool | None,
        typer.Option(
            "--cos/--steplr",
            help="Anneal by a cosine, or divide by 10 every 60 epochs (default with --no-difflr; 30 for folders).",
        ),
    ] = None,
    a: Annotated[float, typer.Option(help="Range of the coefficients, 0 to 1; 0 is plain averaging.")] = 0.4,
    c: Annotated[float, typer.Option(help="Steepness of the coefficients.")] = 500.0,
    rounding: Annotated[bool, typer.Option("--rounding/--no-rounding", help="Coefficients to two decimals.")] = True,
    criterion: Annotated[str, typer.Option(help="entropy, l1, activation or none.")] = "entropy",
    scion: Annotated[str, typer.Option(help="external, noise or internal.")] = "external",
    level: Annotated[str, typer.Option(help="layer, filter or network.")] = "layer",
    every: Annotated[int, typer.Option(help="Epochs from one graft to the next.")] = 1,
    update_bn: Annotated[bool, typer.Option("--update-bn", help="Batch norm statistics anew after grafts.")] = False,
    reset_momentum: Annotated[bool, typer.Option("--reset-momentum", help="Optimisers forget after grafts.")] = False,
    seed: Annotated[int, typer.Option(help="Of the first network; the others have the next ones.")] = 0,
    s: Annotated[Path, typer.Option("--s", help="Folder for checkpoints and results.json.")] = Path("runs/graft"),
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    backend: Annotated[str, typer.Option(help="Between processes: gloo, or nccl between GPUs.")] = "gloo",
    timeout: Annotated[float, typer.Option(help="Seconds that processes wait for one another.")] = 1800.0,
) -> None:
    """Run `hetlib graft`; see `EXAMPLES`, which is its help."""
    from hetlib.cli import ring
    from hetlib.data.folders import PREFIX
    from hetlib.grafting import AfterEpoch, Grafting
    from hetlib.grafting.processes import start
    from hetlib.lab import Job

    members = recipes_of(num, data.startswith(PREFIX), lr, epochs, batch_size, difflr, cos)
    options = {} if width == 1 else {"width": width}
    grafting = Grafting(a, c, 2 if rounding else None, criterion=criterion, scion=scion, level=level)
    plan = ring.Plan(
        jobs=tuple(
            Job(model=model, data=data, recipe=one, seed=seed + k, options=options) for k, one in enumerate(members)
        ),
        after=AfterEpoch(grafting, every, update_bn, reset_momentum),
        folder=s,
        device=ring.device_of(device),
        backend=backend,
        timeout=timeout,
    )
    if "WORLD_SIZE" in os.environ:
        ring.as_rank(plan)
    elif plan.device == "cpu":
        plan.jobs[0].build()  # what cannot start is said once, before any process is started
        start(ring.as_rank, num, plan)
    else:
        ring.in_one_process(plan)


def recipes_of(
    num: int,
    folder: bool,
    lr: float,
    epochs: int | None,
    batch_size: int | None,
    difflr: bool | None,
    cos: bool | None,
) -> "list[Recipe]":
    """How each network is trained; None is as released for CIFAR, or for ImageNet where images are in a folder."""
    from hetlib.grafting import RELEASED, recipes

    difflr = not folder if difflr is None else difflr
    cos = (folder or difflr) if cos is None else cos
    epochs, step = epochs or (90 if folder else 200), 30 if folder else 60
    recipe = RELEASED.changed(
        epochs=epochs,
        batch_size=batch_size or (256 if folder else 128),
        lr=lr,
        weight_decay=1e-4 if folder else 5e-4,
        milestones=tuple(range(step, epochs, step)),
    )
    preset, schedule = "dlr" if difflr else "slr", "cosine" if cos else "steps"
    return [each.changed(schedule=schedule) for each in recipes(preset, num, recipe)]
