"""One line of progress per notebook."""

from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hetlib.cli.runner import Outcome, Step, Task, run
from hetlib.lab import records


def follow(tasks: Sequence[Task], jobs: int, console: Console) -> list[Outcome]:
    """Run notebooks, `jobs` at a time, and show for each: cell i/n, what it is doing, elapsed and expected time.

    A console that is a file or a pipe gets one line per finished notebook and nothing that moves. Returns the outcomes
    in order of completion.
    """
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    doing = TextColumn("[dim]{task.fields[expected]}  {task.fields[doing]}")
    outcomes: list[Outcome] = []
    estimated = set()
    with Progress(*columns, doing, console=console, transient=True, disable=not console.is_terminal) as bar:
        expected = {task: _expected(task) for task in tasks}
        lines = {
            task: bar.add_task(task.source.stem, start=False, doing="waiting", expected=expected[task])
            for task in tasks
        }

        def show(step: Step) -> None:
            if step.estimate and step.task not in estimated:
                estimated.add(step.task)
                console.print(f"{step.task.source.stem}: {step.estimate}", highlight=False, soft_wrap=True)
            bar.start_task(lines[step.task])
            bar.update(lines[step.task], completed=step.index, total=step.total, doing=escape(step.doing))

        for outcome in run(tasks, jobs, show):
            outcomes.append(outcome)
            bar.remove_task(lines[outcome.task])
            mark = "[red]failed[/]" if outcome.error else "[green]ok[/]"
            taken = timedelta(seconds=round(outcome.seconds))
            line = f"{mark:15} {outcome.task.folder.name}  {taken}  {expected[outcome.task]}"
            console.print(line + _reuse(outcome), highlight=False, soft_wrap=True)
    return outcomes


def _expected(task: Task) -> str:
    try:
        return f"({timedelta(seconds=round(records.read(records.path(task.folder)).seconds))} last time)"
    except (FileNotFoundError, ValueError):
        return ""


def _reuse(outcome: Outcome) -> str:
    if outcome.error:
        return ""
    cache = records.read(records.path(outcome.task.folder)).facts.get("cache", {"computed": (), "reused": ()})
    return f"  computed {len(cache['computed'])}, reused {len(cache['reused'])}" if any(cache.values()) else ""
