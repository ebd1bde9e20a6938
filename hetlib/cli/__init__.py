"""The command line: `hetlib run | reproduce | verify | report | graft | data | cache | doctor`, more for authors."""

from hetlib.cli.commands import app, main

__all__ = ["app", "main"]
