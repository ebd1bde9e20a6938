"""The script for a machine with a GPU, tried without one: small sizes, Triton's kernels interpreted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

ABSENT = ("ot", "scipy", "sklearn", "matplotlib", "rich", "typer", "papermill", "ipywidgets", "filelock", "pytest")
ABSENT += ("nbformat", "jinja2")
"""Packages that a machine with a GPU may lack; None in their place makes an import fail."""
PROGRAM = f"""
import sys
sys.modules |= dict.fromkeys({ABSENT!r})
from benchmarks.gpu import main
sys.exit(main(toy=True, budget=float("inf")))
"""


def rows_of(text):
    """What the lines of JSON say; a line to read stands before each."""
    lines = text.splitlines()
    found = [number for number, line in enumerate(lines) if line.startswith("{")]
    for number in found:
        row = json.loads(lines[number])
        assert row["part"] in lines[number - 1]
        assert row["what"] in lines[number - 1]
        yield row


def test_a_dry_run_measures_every_part():
    pytest.importorskip("triton")
    root = Path(gpu.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(rows_of(done.stdout))
    parts = ("fill", "sinkhorn", "graft", "mmd", "choice", "cka", "training", "stage 2", "costs")
    checks = [row for row in rows if "right" in row]
    assert {row["part"] for row in checks} == set(parts)
    assert all(row["right"] for row in checks)
    for part in parts:
        kinds = ["right" if "right" in row else "time" for row in rows if row["part"] == part]
        assert "time" in kinds
        assert part == "training" or kinds[0] == "right", "what is wrong is not timed"
    assert [row["what"] for row in rows if row["part"] == "seconds"] == [name for name, _, _ in gpu.parts()]
    assert rows[-1]["holds"]


def test_what_there_is_no_time_for_is_named(capsys, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # so that what the dry run sets here is undone
    assert gpu.main(toy=True, budget=0) == 0
    rows = list(rows_of(capsys.readouterr().out))
    assert [row["part"] for row in rows] == ["machine", *["not run"] * len(gpu.parts()), "end"]


def test_a_part_that_fails_is_named_and_the_others_run(capsys, monkeypatch):
    def broken(report):
        raise RuntimeError("no kernel image")

    def sound(report):
        report.say("costs", "measured")

    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(gpu, "parts", lambda: [("first", 0.1, broken), ("second", 0.1, sound)])
    assert gpu.main(toy=True) == 1
    rows = list(rows_of(capsys.readouterr().out))
    assert [row["part"] for row in rows] == ["machine", "failed", "seconds", "costs", "seconds", "end"]
    assert "no kernel image" in rows[1]["error"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main() == 2
    assert "--toy" in capsys.readouterr().err
