"""The command line: `hetlib run | reproduce | verify | report | graft | amalgamate | data | cache | doctor`."""

from hetlib.cli.commands import app, main

__all__ = ["app", "main"]
