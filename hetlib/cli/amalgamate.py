"""`hetlib amalgamate`: the sources of a group of attributes, and the network that is customised from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

    from hetlib.amalgamation import Source
    from hetlib.training import Recipe

SOURCES = """Train source networks: each learns, with labels, the attribute that is wanted of it and some others.

[bold]Examples[/]

One source of the paper, from CelebA's own files (see `hetlib data list`):

    hetlib amalgamate sources --attribute Black_Hair --source 1

All nine of the group hair, on faces that are drawn here, in a few minutes:

    hetlib amalgamate sources --target hair --data faces --width 0.25 --epochs 8 --lr 0.05

The same command resumes an interrupted run. The release's names of options work too, such as --target_attribute.
"""
TRAIN = """Customise a network: choose a source for every image, merge sources in components, components in the target.

[bold]Examples[/]

    hetlib amalgamate train --target hair

    hetlib amalgamate train --target hair --data faces --width 0.25 --source-epochs 8 --source-lr 0.05 --lr 0.003

Sources that are not there yet are trained first. The same command resumes an interrupted run, between or inside stages.
No label is used after the sources. The release's names of options work too, such as --sorce_saveEpoch. There it takes
sources and components at these epochs; here both are trained for so long.
"""

app = typer.Typer(help="Customise a network from several that know attributes of faces.", no_args_is_help=True)

Data = Annotated[str, typer.Option(help="celeba, celeba-10k or faces.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", "--data_root", help="Folder of the data; default $HETLIB_DATA, else data.")
]
Width = Annotated[float, typer.Option(help="Factor on every layer's number of channels.")]
Seed = Annotated[int, typer.Option(help="Of weights, order and augmentation.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto.")]
SourcesRoot = Annotated[
    Path, typer.Option("--sourcenets-root", "--sourcenets_root", help="Folder of the trained sources.")
]


@app.command(help=SOURCES)
def sources(
    attribute: Annotated[
        str | None,
        typer.Option(
            "--attribute", "--target-attribute", "--target_attribute", help="Only sources that it is wanted of."
        ),
    ] = None,
    source: Annotated[
        int | None,
        typer.Option("--source", "--source-id", "--source_id", help="Only this one, by its number in the paper."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Group: hair, eye or face.")] = None,
    data: Data = "celeba",
    data_root: DataRoot = None,
    width: Width = 1.0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 50,
    batch_size: Annotated[int, typer.Option("--batch-size", "--batch_size", min=1, help="Images a step.")] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate; it is halved after 5, 10, 15, 20 and 25 epochs.")] = 1e-4,
    seed: Seed = 3256,
    sourcenets_root: SourcesRoot = Path("runs/amalgamate/sources"),
    device: Device = "auto",
) -> None:
    """Run `hetlib amalgamate sources`; see `SOURCES`, which is its help."""
    from rich.console import Console

    from hetlib.amalgamation import SOURCE, accuracy

    plan = Plan(data, data_root, width, device)
    recipe = SOURCE.changed(epochs=epochs, batch_size=batch_size, lr=lr)
    wanted = chosen(attribute, source, target)
    console = Console()
    for group, number in wanted:
        made = plan.source(group, number, recipe, seed, sourcenets_root)
        scores = (
            f"{task} {accuracy(made.network, made.head(task), plan.images('test').task(task)):.2f} %"
            for task in made.tasks
        )
        console.print(f"source {made.name}, accuracy on the test images: {', '.join(scores)}", highlight=False)


@app.command(help=TRAIN)
def train(
    target: Annotated[
        str, typer.Option("--target", "--target-attribute", "--target_attribute", help="Group: hair, eye or face.")
    ],
    data: Data = "celeba",
    data_root: DataRoot = None,
    width: Width = 1.0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "--batch_size", min=1, help="Images a step, of the largest subset.")
    ] = 64,
    source_epochs: Annotated[
        int, typer.Option("--source-epochs", "--sorce-saveEpoch", "--sorce_saveEpoch", min=1, help="Of every source.")
    ] = 50,
    component_epochs: Annotated[
        int,
        typer.Option(
            "--component-epochs", "--component-saveEpoch", "--component_saveEpoch", min=1, help="Of components."
        ),
    ] = 50,
    target_epochs: Annotated[
        int, typer.Option("--target-epochs", "--target-epoch", "--target_epoch", min=1, help="Of the target.")
    ] = 50,
    lr: Annotated[float, typer.Option(help="Learning rate of components and target.")] = 1e-4,
    source_lr: Annotated[float, typer.Option(help="Learning rate of the sources.")] = 1e-4,
    method: Annotated[
        str, typer.Option(help="amalgamation, direct, or a peer; a wrong name lists them.")
    ] = "amalgamation",
    rule: Annotated[str, typer.Option(help="How sources are chosen; a wrong name lists the rules.")] = "entropy",
    released: Annotated[bool, typer.Option("--released", help="All that the released code does by accident.")] = False,
    seed: Seed = 3256,
    save_root: Annotated[
        Path, typer.Option("--save-root", "--save_root", help="Folder for all that has no folder of its own.")
    ] = Path("runs/amalgamate"),
    sourcenets_root: Annotated[
        Path | None, typer.Option("--sourcenets-root", "--sourcenets_root", help="Folder of the sources.")
    ] = None,
    sourcedata_txtroot: Annotated[
        Path | None,
        typer.Option(
            "--sourcedata-txtroot", "--sourcedata_txtroot", help="Folder of which source teaches which image."
        ),
    ] = None,
    componentnets_root: Annotated[
        Path | None, typer.Option("--componentnets-root", "--componentnets_root", help="Folder of the components.")
    ] = None,
    target_root: Annotated[
        Path | None, typer.Option("--target-root", "--target_root", help="Folder of the target.")
    ] = None,
    log_dir: Annotated[Path | None, typer.Option("--log-dir", "--log_dir", help="Folder of results.json.")] = None,
    device: Device = "auto",
) -> None:
    """Run `hetlib amalgamate train`; see `TRAIN`, which is its help."""
    from hetlib.amalgamation import GROUPS, RECIPE, RELEASED_ATTRIBUTES, SOURCE, Settings, customise
    from hetlib.cli.amalgamated import report

    plan = Plan(data, data_root, width, device)
    wanted, recipe = chosen(None, None, target), SOURCE.changed(epochs=source_epochs, lr=source_lr)
    pool = [plan.source(*each, recipe, seed, sourcenets_root or save_root / "sources") for each in wanted]
    recipe = RECIPE.changed(batch_size=batch_size, lr=lr)
    last = recipe.changed(epochs=target_epochs)
    if released:  # components' rates fall by steps, not by epochs; the target's never do
        recipe, last = recipe.changed(schedule="iterations"), last.changed(schedule="constant")
    made = customise(
        pool,
        tuple(GROUPS[target]),
        plan.images("train"),
        plan.images("test"),
        method=method,
        component=plan.network(1.0),
        target=plan.network(90 / 64),
        recipe=recipe.changed(epochs=component_epochs),
        target_recipe=last,
        settings=RELEASED_ATTRIBUTES if released else Settings(),
        rule=rule,
        seed=seed,
        folder={
            "choice": sourcedata_txtroot or save_root / target,
            "component": componentnets_root or save_root / target,
            "target": target_root or save_root / target,
        },
        progress=True,
    )
    report(made, log_dir or save_root / target, {"target": target, "data": data, "method": method, "seed": seed})


def chosen(attribute: str | None, source: int | None, target: str | None) -> list[tuple[str, int]]:
    """The sources that a command line asks for, as groups and numbers.

    Raises
    ------
    ValueError
        For an unknown group or attribute, or a number that no such source has; the right ones are named.
    """
    from hetlib.amalgamation import GROUPS, sources_of
    from hetlib.errors import unknown

    if target is not None and target not in GROUPS:
        raise unknown("group of attributes", target, GROUPS)
    groups = GROUPS if target is None else {target: GROUPS[target]}
    attributes = [name for group in groups.values() for name in group]
    if attribute is not None and attribute not in attributes:
        raise unknown("wanted attribute", attribute, attributes)
    if attribute is None and target is None:
        raise ValueError("say which sources: --target hair, eye or face, or --attribute NAME, or both")
    known = [
        (group, number)
        for group in groups
        for number, names in sources_of(group).items()
        if attribute in (None, names[0])
    ]
    numbers = [number for _, number in known]
    if source is not None and source not in numbers:
        raise ValueError(
            f"there is no source {source} for {attribute or target}: there are {', '.join(map(str, numbers))}"
        )
    return [(group, number) for group, number in known if source in (None, number)]


@dataclass(frozen=True)
class Plan:
    """What both commands are told of data and networks."""

    data: str
    root: Path | None
    width: float
    device: str

    def images(self, split: str) -> Any:
        """The images of a split; ValueError if they have no attributes."""
        from hetlib.data import AttributeImages, load

        found = load(self.data, split, self.root)
        if not isinstance(found, AttributeImages):
            raise ValueError(f"{self.data} has no attributes: take celeba, celeba-10k or faces")
        return found

    def network(self, factor: float) -> "Callable[[int], nn.Module]":
        """Makes a ResNet-18, so many times as wide as the sources: torchvision's for photographs, ours for faces."""
        from hetlib import zoo

        name = "resnet18" if self.data == "faces" else "torchvision/resnet18"
        return partial(zoo.build, name, width=self.width * factor)

    def source(self, group: str, number: int, recipe: "Recipe", seed: int, folder: Path) -> "Source":
        """A source of a group, trained now or found in the folder."""
        import torch

        from hetlib.amalgamation import sources_of, train_source
        from hetlib.cli.ring import device_of

        names, title = sources_of(group)[number], f"{group} {number}"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed + number)
            network = self.network(1.0)(2 * len(names)).to(device_of(self.device))
        where: Mapping[str, Any] = {
            "checkpoint": folder / f"{group}-{number}.safetensors",
            "progress": f"source {title}: {', '.join(names)}",
        }
        return train_source(title, network, names, self.images("train"), recipe, seed=seed, **where)
