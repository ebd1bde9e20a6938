"""What a click, a notebook run by the runner, and a report of many records cost."""

import ast
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, within
from hetlib import clone
from hetlib.cli import runner
from hetlib.cli.report import write_page
from hetlib.lab import Explorer, notebooks, records
from hetlib.lab.tables import published

RECORDS = 200
TINY = """\
# %% tags=["parameters"]
PRESET: str = "smoke"

# %%
import os
from pathlib import Path

# %%
Path(os.environ["HETLIB_RUN_DIR"], "record.json").write_text({record!r});
"""


def run() -> Iterator[Bar]:
    """Measure the three bars: 300 ms a toggle, 1 s a notebook, 5 s a report."""
    with tempfile.TemporaryDirectory() as folder:
        for measured in (toggles, overhead, report):
            yield measured(Path(folder))


def toggles(folder: Path) -> Bar:
    """The median time from a change to the new picture, over every choice of every toggle of notebook 01."""
    os.environ |= {
        "HETLIB_CACHE": str(folder / "cache"),
        "HETLIB_RUN_DIR": str(folder / "run"),
        "HETLIB_PROCESSES": "1",
    }
    explorers = list(executed(notebooks.read(clone.find("01")), {"PRESET": "smoke"}))
    assert len(explorers) >= 4
    times = [seconds(partial(made.set, **change)) for made in explorers for change in changes(made)]
    name = f"a toggle, median of {len(times)} in notebook 01"
    bar = within(name, "Explorer.set, picture included", "the bar", 1e3 * statistics.median(times), 300, at_most=1)
    return replace(bar, other=f"the bar; slowest {1e3 * max(times):.0f} ms")


def executed(notebook: Any, parameters: dict[str, Any]) -> Iterator[Explorer]:
    """Run a notebook's cells here, as a kernel does, and give the explorers that end a cell."""
    space: dict[str, Any] = {"__name__": "notebook"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source.replace("%matplotlib inline", ""))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "notebook", "exec"), space)
        shown = None if last is None else eval(compile(ast.Expression(last.value), "notebook", "eval"), space)
        if "parameters" in cell.metadata.get("tags", ()):
            space |= parameters
        if isinstance(shown, Explorer):
            yield shown


def changes(explorer: Explorer) -> Iterator[dict[str, Any]]:
    """Every choice of every toggle, one after the other; sliders go to both ends."""
    for name, toggle in explorer.toggles.items():
        for value in toggle.choices or (toggle.range[:2] if toggle.range else (True, False)):
            yield {name: value}


def overhead(folder: Path) -> Bar:
    """The runner's time for one small notebook, beside papermill's for the same one."""
    text = folder / "notebooks" / "text" / "09_tiny.py"
    text.parent.mkdir(parents=True)
    text.write_text(TINY.format(record=records()[0].to_json()))
    task = runner.plan("9", runs=folder / "runs", where=folder / "notebooks")
    ours, bare = [], []
    for _ in range(4):
        ours.append(seconds(lambda: assert_ran(task)))
        bare.append(seconds(lambda: papermill(task)))
    first, second = (1e3 * statistics.median(times[1:]) for times in (ours, bare))
    return within("one notebook of 3 cells", "hetlib's runner", "papermill", first, second, at_most=1, plus=1000)


def assert_ran(task: runner.Task) -> None:
    """Run a task in the runner and make sure that it ended well."""
    [outcome] = runner.run([task])
    assert outcome.error is None, outcome.error


def papermill(task: runner.Task) -> None:
    """Run the same notebook by papermill alone."""
    import papermill

    path = notebooks.save(task.folder / "bare.ipynb", notebooks.read(task.source))
    os.environ["HETLIB_RUN_DIR"] = str(task.folder)
    papermill.execute_notebook(path, task.folder / "out.ipynb", kernel_name="python3", progress_bar=False)


def report(folder: Path) -> Bar:
    """The report over many records, half of them runs with a notebook of figures."""
    published_notebook = (clone.folder() / "01_hmt.ipynb").read_text(encoding="utf-8")
    for number, record in enumerate(records()):
        if number % 2:
            records.write(record, folder / "results")
        else:
            own = folder / "many" / f"{number}"
            own.mkdir(parents=True)
            records.path(own).write_text(record.to_json())
            (own / "01_hmt.ipynb").write_text(published_notebook)
    taken = 1e3 * seconds(lambda: write_page(folder / "many", folder / "results"))
    text = (folder / "many" / "report.html").read_text(encoding="utf-8")
    assert text.count("<details><summary>01_hmt, paper preset") == RECORDS
    return within(f"report of {RECORDS} records, half with figures", "write_page", "the bar", taken, 5000, at_most=1)


def records() -> list[records.Record]:
    """Records that answer every row of notebook 01, five seeds each."""
    values = {"unit": "%", "values": [20.0, 21.0, 22.0, 20.5, 21.5]}
    metrics = {row["metric"]: values for row in published()["01_hmt"]["rows"]}
    data = {"name": "sub-cifar100", "checksum": "0", "train": 1000, "test": 10000}
    common = {"notebook": "01_hmt", "preset": "paper", "parameters": {}, "seeds": [0, 1, 2, 3, 4], "metrics": metrics}
    machine = {"device": "cpu", "precision": "fp32", "threads": 1, "seconds": 1.0, "peak_mib": 1.0}
    dates = [f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}+00:00" for number in range(RECORDS)]
    return [records.Record(**common, data=data, **machine, versions={}, date=date) for date in dates]


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call: what a person waits."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
