"""One line of progress per notebook."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hetlib.lab import records
from hetlib.lab.journal import Journal
from hetlib.lab.runner import Outcome, Step, Task, run


def follow(tasks: Sequence[Task], jobs: int, console: Console, journal: Journal | None = None) -> list[Outcome]:
    """Run notebooks and show, for each, cell i/n, what it is doing, elapsed and expected time.

    Parameters
    ----------
    tasks : sequence of Task
        What to run.
    jobs : int
        How many at a time.
    console : Console
        Where to draw; a file or a pipe gets one line per finished notebook and nothing that moves.
    journal : Journal, optional
        Names the notebooks that are left out because an interrupted run finished them, and gets those of this one.

    Returns
    -------
    list of Outcome
        Of those that ran, in order of completion.
    """
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[expected]}  {task.fields[doing]}"),
    )
    kept = [task for task in tasks if journal and journal.done(task)]
    for task in kept:
        console.print(f"{'[green]kept[/]':15} {task.folder.name}  (finished by the interrupted run)", highlight=False)
    tasks = [task for task in tasks if task not in kept]
    outcomes: list[Outcome] = []
    estimated = set()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
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
            if journal and not outcome.error:
                journal.add(outcome.task)
            mark = "[red]failed[/]" if outcome.error else "[green]ok[/]"
            line = f"{mark:15} {outcome.task.folder.name}  {clock(outcome.seconds)}  {expected[outcome.task]}"
            line += _reuse(outcome)
            console.print(line, highlight=False, soft_wrap=True)
    if journal:
        journal.close()
    return outcomes


def _reuse(outcome: Outcome) -> str:
    if outcome.error:
        return ""
    cache = records.read(records.path(outcome.task.folder)).facts.get("cache", {"computed": (), "reused": ()})
    return f"  computed {len(cache['computed'])}, reused {len(cache['reused'])}" if any(cache.values()) else ""


def _expected(task: Task) -> str:
    try:
        return f"({clock(records.read(records.path(task.folder)).seconds)} last time)"
    except (FileNotFoundError, ValueError):
        return ""


def clock(seconds: float) -> str:
    """Minutes and seconds, as "2:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
