"""Processes that die at a chosen moment."""

import os
import pkgutil
import signal


def kill_after(where: str, calls: int) -> None:
    """Kill this process once the function of this full name is called more than `calls` times."""
    path, _, name = where.rpartition(".")
    owner = pkgutil.resolve_name(path)
    real, left = getattr(owner, name), iter([True] * calls)

    def counted(*args, **options):
        if not next(left, False):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    setattr(owner, name, counted)
