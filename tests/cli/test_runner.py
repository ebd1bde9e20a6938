"""The runner on tiny notebooks: what it refuses, what it notices, what it leaves behind."""

import sys
import threading
import time
from io import StringIO

import pytest
from rich.console import Console

from hetlib import clone
from hetlib.cli import runner
from hetlib.cli.follow import follow
from hetlib.cli.turns import WAITING, alone
from hetlib.lab import notebooks, records
from tests.conftest import RECORD


def run(where, **parameters):
    task = runner.plan("7", "smoke", parameters, where.parent / "runs", where)
    steps = []
    [outcome] = runner.run([task], on_step=steps.append)
    return outcome, steps


def test_a_run_gets_its_parameters_and_this_python(tiny):
    where = tiny("import sys, os\nprint(sys.executable, os.environ['OMP_NUM_THREADS'], os.environ['HETLIB_HEADLESS'])")
    outcome, steps = run(where, A="0.2", N=5, FLIP="false")
    assert outcome.error is None
    assert outcome.seconds > 0
    assert outcome.task.folder.parent == where.parent / "runs"
    assert outcome.task.folder.name.startswith("07_tiny-smoke-")
    ran = notebooks.read(outcome.task.output)
    assert ran.cells[4].outputs[0].text == f"{sys.executable} 1 1\n"
    assert ran.cells[5].outputs[0].text == "0.2 5 False\n"
    assert [step.doing for step in steps][:1] + [step.doing for step in steps][-1:] == ["Tiny", "The middle"]
    assert [(step.index, step.total) for step in steps][-1] == (6, 6)


def test_parameters_decide_the_folder(tiny):
    where = tiny("pass")
    folders = {runner.plan("7", "smoke", {"A": a}, where=where).folder for a in (0.1, 0.2, "0.2")}
    assert len(folders) == 2


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"B": 1}, "unknown parameter 'B'.*Known: PRESET, A, N, FLIP"),
        ({"FLIPS": True}, "did you mean 'FLIP'"),
        ({"N": "many"}, "parameter N takes int .default 3., not 'many'"),
        ({"N": 0.5}, "parameter N takes int"),
        ({"A": "0,2"}, "parameter A takes float"),
        ({"FLIP": 1}, "parameter FLIP takes bool"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(tiny, parameters, says):
    where = tiny("pass")
    with pytest.raises(ValueError, match=says):
        runner.plan("07", "smoke", parameters, where=where)


@pytest.mark.parametrize("name", ["7", "07", "07_tiny", "tiny"])
def test_notebooks_are_found_by_number_and_by_name(tiny, name):
    where = tiny("pass")
    assert clone.find(name, where) == where / "text" / "07_tiny.py"


def test_an_unknown_notebook_names_the_nearest(tiny):
    where = tiny("pass")
    with pytest.raises(ValueError, match="unknown notebook '07_tiney': did you mean '07_tiny'"):
        runner.plan("07_tiney", where=where)


def test_a_failing_cell_is_shown_with_its_source(tiny):
    outcome, _ = run(tiny("divisor = 0\n1 / divisor"))
    assert "divisor = 0\n1 / divisor" in outcome.error
    assert "ZeroDivisionError: division by zero" in outcome.error
    assert "\x1b" not in outcome.error
    assert outcome.task.output.is_file()


def test_a_missing_record_is_a_failure_and_one_of_an_earlier_run_does_not_count(tiny):
    assert run(tiny("pass"))[0].error is None
    assert "it wrote no record" in run(tiny("pass", record=False))[0].error


FAILING = f"""
import os, pathlib
pathlib.Path(os.environ["HETLIB_RUN_DIR"], "record.json").write_text({RECORD!r})
"""


@pytest.mark.parametrize(
    ("code", "says"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("os._exit(1)", "Kernel died")],
)
def test_the_record_of_a_run_that_failed_carries_the_failure(tiny, code, says):
    where = tiny(f"{FAILING}\n{code}", record=False)
    outcome, _ = run(where)
    record = records.read(records.path(outcome.task.folder))
    assert says in record.failure
    assert record.failure == outcome.error
    assert record.key is None
    assert not outcome.task.done


def test_a_run_that_has_not_ended_says_so_until_it_has(tiny):
    code = """
    from hetlib import lab
    from hetlib.lab import records
    run = lab.start("07_tiny", "smoke")
    run.record({}, {"name": "shapes", "checksum": "none", "train": 0, "test": 0})
    print(records.read(records.path(run.folder)).failure)
    """
    outcome, _ = run(tiny(code, record=False))
    assert outcome.error is None
    assert notebooks.read(outcome.task.output).cells[4].outputs[-1].text == "it has not ended\n"
    assert records.read(records.path(outcome.task.folder)).failure is None


def test_an_executed_notebook_has_its_name_once_it_is_whole(tiny):
    code = """
    import os, pathlib
    folder = pathlib.Path(os.environ["HETLIB_RUN_DIR"])
    print(sorted(path.name for path in folder.iterdir()))
    """
    outcome, _ = run(tiny(code))
    assert notebooks.read(outcome.task.output).cells[4].outputs[0].text == "['.lock', '.part']\n"
    assert [*(outcome.task.folder / ".part").iterdir()] == []
    failed, _ = run(tiny("1 / 0"))
    assert "ZeroDivisionError" in failed.task.output.read_text()


def test_a_relative_cache_is_one_place(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HETLIB_CACHE", "kept")
    where = tiny("import os; from hetlib.lab import Cache\nos.chdir('/')\nprint(Cache().root)")
    outcome, _ = run(where)
    assert notebooks.read(outcome.task.output).cells[4].outputs[0].text == f"{tmp_path / 'kept'}\n"


def test_runs_in_one_folder_take_turns(tiny):
    where = tiny("pass")
    task = runner.plan("7", "smoke", runs=where.parent / "runs", where=where)
    steps = []
    with alone(task.folder, pytest.fail):
        (waiting := threading.Thread(target=lambda: steps.extend(ended(task, steps)))).start()
        while not steps:
            time.sleep(0.01)
        assert steps[0].doing == WAITING
        assert not task.output.exists()
    waiting.join()
    assert steps[-1].error is None
    assert task.output.is_file()


def ended(task, steps):
    return [*runner.run([task], on_step=steps.append)]


def test_a_record_with_a_hole_is_a_failure(tiny):
    outcome, _ = run(
        tiny(
            """
        import os, pathlib
        pathlib.Path(os.environ["HETLIB_RUN_DIR"], "record.json").write_text('{"notebook": "07_tiny"}')
    """,
            record=False,
        )
    )
    assert "preset is missing" in outcome.error


def test_an_error_swallowed_by_a_widget_is_found(tiny):
    where = tiny("""
        from ipywidgets import interact
        def view(x=(0, 3)):
            raise KeyError("hidden")
        interact(view);
    """)
    outcome, _ = run(where)
    assert "an error was swallowed in a widget" in outcome.error
    assert "KeyError: 'hidden'" in outcome.error


def test_a_dead_kernel_is_a_failure_of_its_notebook_alone(tiny):
    where = tiny("import os\nos._exit(1)", name="07_dead")
    tiny("pass", name="08_fine")
    tasks = [runner.plan(number, "smoke", runs=where.parent / "runs", where=where) for number in "78"]
    errors = {outcome.task.source.stem: outcome.error for outcome in runner.run(tasks, jobs=2)}
    assert errors["08_fine"] is None
    assert "Kernel died" in errors["07_dead"]


def test_progress_is_one_line_per_notebook(tiny):
    where = tiny("pass")
    tiny("1 / 0", name="08_broken")
    tasks = [runner.plan(number, "smoke", runs=where.parent / "runs", where=where) for number in "78"]
    tasks[0].folder.mkdir(parents=True)
    records.path(tasks[0].folder).write_text(RECORD)
    console = Console(file=StringIO(), width=40)
    follow(tasks, 2, console)
    broken, fine = sorted(console.file.getvalue().splitlines())
    assert broken.startswith("failed")
    assert "08_broken-smoke" in broken
    assert fine.startswith("ok")
    assert fine.endswith("(0:01:15 last time)")


def test_an_estimate_is_printed_while_the_notebook_runs(tiny):
    where = tiny(
        "import os, pathlib\npathlib.Path(os.environ['HETLIB_RUN_DIR'], 'estimate.txt').write_text('about 3 h')"
    )
    console = Console(file=StringIO(), width=80)
    follow([runner.plan("7", "smoke", runs=where.parent / "runs", where=where)], 1, console)
    assert console.file.getvalue().splitlines()[0] == "07_tiny: about 3 h"
