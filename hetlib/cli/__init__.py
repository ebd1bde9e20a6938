"""The command line: `hetlib run | reproduce | verify | report | data | cache | doctor`, and what authors need."""

from hetlib.cli.commands import app, main

__all__ = ["app", "main"]
