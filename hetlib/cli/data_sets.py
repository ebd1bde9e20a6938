"""`hetlib data`: get, list and find data sets."""

from typing import Annotated

import typer
from rich.console import Console

from hetlib.errors import unknown

app = typer.Typer(help="Get, list and find data sets.", no_args_is_help=True)
console = Console()


@app.command("list")
def list_data() -> None:
    """Name the data sets, and say which are here and whole."""
    from hetlib.cli import doctor

    for finding in doctor.data_sets():
        console.print(
            f"{finding.what:14} {finding.found if finding.ok else 'missing: ' + finding.remedy}", highlight=False
        )


@app.command()
def get(name: Annotated[str, typer.Argument(help="Name of a data set: see `hetlib data list`.")]) -> None:
    """Download a data set, unless it is here."""
    from hetlib import data

    for split in data.splits(name):
        console.print(f"{name} {split}: {len(data.load(name, split, download=True)):,} images", highlight=False)


@app.command()
def path(name: Annotated[str, typer.Argument(help="Name of a data set.")]) -> None:
    """Print the folder a data set is read from, in torchvision's layout: $HETLIB_DATA, else data."""
    from hetlib import data

    if name not in data.names():
        raise unknown("data set", name, data.names())
    typer.echo(data.folder().resolve())
