"""What `hetlib amalgamate train` tells of the networks that it made."""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hetlib.amalgamation import Customised
from hetlib.files import write


def report(made: Customised, folder: Path, facts: Mapping[str, Any]) -> None:
    """Print the accuracies, and write them with all histories and curves to results.json."""
    metrics, components = made.metrics, made.components
    table = Table("attribute", "sources", "component", "target", box=None)
    for task, score in metrics["target"].items():
        sources = ", ".join(f"{each:.2f}" for each in metrics["sources"][task].values())
        table.add_row(task, sources, f"{metrics['components'][task]:.2f}" if components else "-", f"{score:.2f}")
    mean = sum(metrics["target"].values()) / len(metrics["target"])
    table.add_row("mean", "", "", f"{mean:.2f}")
    console = Console()
    console.print("accuracy on the test images in percent, after the last epoch", highlight=False)
    console.print(table)
    found = {
        "command": shlex.join(["hetlib", *sys.argv[1:]]),
        **facts,
        "metrics": metrics,
        "histories": {name: asdict(history) for name, history in made.histories.items()},
        "curves": {name: curve.tolist() for name, curve in made.curves.items()},
    }
    path = write(folder / "results.json", json.dumps(found, indent=1) + "\n")
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
