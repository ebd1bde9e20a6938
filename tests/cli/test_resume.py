"""A killed `reproduce` goes on where it stopped, and nothing that changed is taken for done."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

import hetlib
from hetlib.cli import runner
from hetlib.lab import records
from tests.conftest import RECORD

KILLED = """
import sys
from pathlib import Path
from rich.console import Console
from hetlib.cli.follow import follow
from hetlib.cli import runner

if __name__ == "__main__":
    where = Path(sys.argv[1])
    tasks = [runner.plan(number, "smoke", runs=where.parent / "runs", where=where) for number in "78"]
    follow(tasks, 1, Console())
"""


@pytest.fixture
def planned(tiny):
    where = tiny("pass")
    return lambda: runner.plan("7", "smoke", runs=where.parent / "runs", where=where)


def finish(task):
    task.folder.mkdir(parents=True, exist_ok=True)
    task.output.write_text("{}")
    record = replace(records.Record(**json.loads(RECORD)), key=task.key)
    records.path(task.folder).write_text(record.to_json())


def test_a_run_that_ended_well_is_done(planned):
    assert not planned().done
    finish(planned())
    assert planned().done


@pytest.mark.parametrize("change", ["record", "damaged record", "output", "source", "failed", "code"])
def test_nothing_that_changed_is_taken_for_done(planned, change, monkeypatch):
    task = planned()
    finish(task)
    if change == "record":
        records.path(task.folder).unlink()
    elif change == "damaged record":
        records.path(task.folder).write_text(RECORD[:40])
    elif change == "output":
        task.output.unlink()
    elif change == "source":
        task.source.write_text(task.source.read_text() + "\n# %%\n1\n")
    elif change == "failed":
        records.path(task.folder).write_text(RECORD)  # what a notebook writes; the runner had no reason to sign it
    else:
        monkeypatch.setattr(runner, "hetlib", hetlib.errors)
    assert not planned().done


def test_a_killed_run_goes_on_with_what_is_left(tiny, tmp_path):
    where = tiny("pass")
    tiny("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)", name="08_slow")
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, str(script), str(where)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 600
        pid = tmp_path / "notebooks" / "pid"
        while not (pid.exists() and pid.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    while Path(f"/proc/{pid.read_text()}").exists():
        assert time.monotonic() < deadline, "a kernel outlived the run"
        time.sleep(0.1)
    tiny("pass", name="08_slow")
    tasks = [runner.plan(number, "smoke", runs=tmp_path / "runs", where=where) for number in "78"]
    assert [task.done for task in tasks] == [True, False]


def test_what_was_edited_while_it_ran_is_run_again(planned):
    running = planned()
    running.source.write_text(running.source.read_text() + "\n# %%\n1\n")
    finish(running)
    assert not planned().done
