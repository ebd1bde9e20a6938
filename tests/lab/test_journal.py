"""The journal: a killed `reproduce` goes on, and nothing that changed is believed to be done."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hetlib.lab import journal, progress, records, runner
from hetlib.lab.journal import Journal
from tests.conftest import RECORD

KILLED = """
import sys
from pathlib import Path
from rich.console import Console
from hetlib.lab import progress, runner
from hetlib.lab.journal import Journal

if __name__ == "__main__":
    where = Path(sys.argv[1])
    tasks = [runner.plan(number, "smoke", runs=where.parent / "runs", where=where) for number in "78"]
    progress.follow(tasks, 1, Console(), Journal(tasks, where.parent / "runs"))
"""


@pytest.fixture
def planned(tiny):
    where = tiny("pass")
    tiny("pass", name="08_other")
    return [runner.plan(number, "smoke", runs=where.parent / "runs", where=where) for number in "78"]


def finish(task):
    task.folder.mkdir(parents=True)
    task.output.write_text("{}")
    records.path(task.folder).write_text(RECORD)


def test_what_is_done_is_remembered_until_all_is(planned, tmp_path):
    for task in planned:
        finish(task)
    Journal(planned, tmp_path).add(planned[0])
    again = Journal(planned, tmp_path)
    assert [again.done(task) for task in planned] == [True, False]
    assert not Journal(planned[:1], tmp_path).done(planned[0]), "another list of notebooks is another run"
    again.close()
    assert not Journal(planned, tmp_path).done(planned[0])
    assert list(tmp_path.glob("unfinished-*")) == []


@pytest.mark.parametrize("change", ["record", "damaged record", "output", "source", "journal", "code"])
def test_nothing_that_changed_is_believed(planned, tmp_path, change, monkeypatch):
    task = planned[0]
    finish(task)
    Journal(planned, tmp_path).add(task)
    if change == "record":
        records.path(task.folder).unlink()
    elif change == "damaged record":
        records.path(task.folder).write_text(RECORD[:40])
    elif change == "output":
        task.output.unlink()
    elif change == "source":
        task.source.write_text(task.source.read_text() + "\n# %%\n1\n")
    elif change == "journal":
        Journal(planned, tmp_path).path.write_text("[")
    else:
        monkeypatch.setattr(journal, "hetlib", progress)
    assert not Journal(planned, tmp_path).done(task)


def test_a_killed_run_goes_on_with_what_is_left(tiny, tmp_path):
    where = tiny("open(os.environ['HETLIB_RUN_DIR'] + '/ran', 'a').write('x')".join(["import os\n", ""]))
    tiny("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)", name="08_slow")
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, str(script), str(where)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        pid = tmp_path / "notebooks" / "pid"
        while not (list((tmp_path / "runs").glob("unfinished-*")) and pid.exists() and pid.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    while Path(f"/proc/{pid.read_text()}").exists():
        assert time.monotonic() < deadline, "a kernel outlived the run"
        time.sleep(0.1)
    tiny("pass", name="08_slow")
    tasks = [runner.plan(number, "smoke", runs=tmp_path / "runs", where=where) for number in "78"]
    console = Console(file=StringIO(), width=200)
    outcomes = progress.follow(tasks, 1, console, Journal(tasks, tmp_path / "runs"))
    assert [outcome.task for outcome in outcomes] == tasks[1:]
    assert console.file.getvalue().startswith("kept")
    assert (tasks[0].folder / "ran").read_text() == "x"
    assert list((tmp_path / "runs").glob("unfinished-*")) == []


def test_what_was_edited_while_it_ran_is_run_again(planned, tmp_path):
    running = Journal(planned, tmp_path)
    finish(planned[0])
    planned[0].source.write_text(planned[0].source.read_text() + "\n# %%\n1\n")
    running.add(planned[0])
    assert not Journal(planned, tmp_path).done(planned[0])
