"""Triton's kernels on a machine without a GPU: their tests run once more in a process where Triton interprets them."""

import os
import subprocess
import sys
from types import ModuleType

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs where Triton's kernels are interpreted")
outer = pytest.mark.skipif(INTERPRETED, reason="the outer one")


def run_launches(path: str) -> None:
    """Run the tests of a file that have "launch" in their names, interpreted."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", path, "-q", "-x", "-p", "no:cacheprovider", "-k", "launch"]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def count_launches(monkeypatch: pytest.MonkeyPatch, dispatch: ModuleType, module: str, kernel: str) -> list[dict]:
    """Send everything to the kernel from now on, and list what is launched, as Triton tells it."""
    compiled = getattr(pytest.importorskip(module), kernel)
    monkeypatch.setattr(dispatch, "_on_gpu", lambda piece: True)
    found: list[dict] = []
    monkeypatch.setattr(compiled, "pre_run_hooks", [lambda *args, **options: found.append(options)])
    return found
