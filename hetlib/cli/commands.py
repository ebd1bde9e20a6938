"""The commands of `hetlib`; what takes long to import is imported by the command that needs it."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hetlib import __version__, clone
from hetlib.cli import amalgamate, data_sets, graft
from hetlib.errors import unknown
from hetlib.parameters import PRESETS

app = typer.Typer(
    help="Teach, try and reproduce five papers on moving knowledge between networks of different shape.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="See and clean what runs keep for the next: trained networks.", no_args_is_help=True)
for name, part in {"data": data_sets.app, "cache": cache_app, "amalgamate": amalgamate.app}.items():
    app.add_typer(part, name=name)
app.command(help=graft.EXAMPLES)(graft.graft)
console = Console()

HELP = "smoke (seconds), classroom (minutes, a laptop), reduced (hours, no GPU) or paper (hours, a GPU)."
Preset = Annotated[str, typer.Option(help=HELP)]
Jobs = Annotated[int, typer.Option(min=1, help="How many notebooks run at a time.")]
Runs = Annotated[Path, typer.Option(help="Folder that gets one folder per run.")]
Names = Annotated[list[str] | None, typer.Option("--notebook", "-n", help="Only this one; may be given often.")]


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Teach, try and reproduce five papers on moving knowledge between networks of different shape."""
    if show:
        console.print(f"hetlib {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="Number or name of a notebook, or the path of one.")],
    preset: Preset = "classroom",
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME VALUE",
            help="May be given often. The notebook's first code cell explains them; a wrong name lists them.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Add the record, with this command, to results/; clean checkouts only.")
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Run one notebook: hetlib run 01 --preset smoke -p SEEDS 2"""
    source = clone.find(notebook)  # what does not exist is told before anything that takes long is imported
    from hetlib.cli import results, runner

    task = runner.plan(source, preset, _pairs(parameter), runs)
    if keep:
        results.require_clean()
    _run([task], 1)
    if keep:
        console.print(f"kept as {results.add(task, clone.folder().parent / 'results')}", soft_wrap=True)


def _pairs(parameters: list[str] | None) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in parameters or ()]
    for name, equals, _ in pairs:
        if not equals:
            raise ValueError(f"parameter {name} has no value: write -p {name} VALUE")
    found = {name: value for name, _, value in pairs}
    if len(found) < len(pairs):
        raise ValueError(f"a parameter is given twice: {' '.join(parameters or ())}")
    return found


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A record, as results/01_hmt-classroom-....json")],
    seeds: Annotated[int | None, typer.Option(min=1, help="Run only so many of the record's seeds.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Run a record's command again and compare the results, metric by metric; status 1 if they differ."""
    from hetlib.cli.results import command_of, compare
    from hetlib.lab import records

    record = records.read(file)
    task = planned(command_of(record), {"SEEDS": str(seeds)} if seeds else {}, runs)
    _run([task], 1)
    compared = compare(record, records.read(records.path(task.folder)))
    table = Table("metric", "committed", "now", "", box=None)
    for each in compared:
        numbers = [", ".join(f"{value:.6g}" for value in values or ()) for values in (each.committed, each.found)]
        table.add_row(escape(each.metric), *numbers, f"[{'green' if each.ok else 'red'}]{each.says}[/]")
    console.print(table)
    raise typer.Exit(not all(each.ok for each in compared))


def planned(command: str, parameters: dict[str, str] | None = None, runs: Path = Path("runs")) -> Any:
    """The task of a ``hetlib run`` command line, some parameters changed; a ValueError if there is no such task."""
    from hetlib.cli import runner

    words = shlex.split(command)
    if words[:2] != ["hetlib", "run"]:
        raise ValueError(f"no command of `hetlib run`: {command}")
    parser = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    given = parser.make_context("run", _joined(words[2:])).params
    return runner.plan(given["notebook"], given["preset"], _pairs(given["parameter"]) | (parameters or {}), runs)


@app.command()
def reproduce(preset: Preset = "classroom", jobs: Jobs = 1, notebook: Names = None, runs: Runs = Path("runs")) -> None:
    """Run all notebooks, or those named, and say what failed; an interrupted run goes on where it stopped."""
    sources = _sources(notebook)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    from hetlib.cli.turns import WAITING, alone

    with alone(runs, lambda: console.print(WAITING)):
        if not notebook:
            _train_first(preset)
        tasks = _plan(sources, preset, runs)
        for task in [task for task in tasks if task.done]:
            again = f"nothing it depends on has changed; {task.command} runs it again"
            console.print(f"{'[green]kept[/]':15} {task.folder.name}  ({again})", highlight=False, soft_wrap=True)
            tasks.remove(task)
        _run(tasks, jobs)


def _train_first(preset: str) -> None:
    """Train what the experiments need at a preset, each training once, before any notebook runs."""
    from importlib import import_module
    from pkgutil import iter_modules

    import torch

    from hetlib import experiments, lab

    modules = [import_module(f"{experiments.__name__}.{found.name}") for found in iter_modules(experiments.__path__)]
    if jobs := [job for module in modules if hasattr(module, "jobs") for job in module.jobs(preset).values()]:
        lab.train_missing(jobs, lab.Cache(), "cuda" if torch.cuda.is_available() else "cpu")


@app.command("notebooks")
def update(jobs: Jobs = 1, notebook: Names = None, runs: Runs = Path("runs")) -> None:
    """For authors: run the text of the notebooks and write them, with their outputs, to notebooks/."""
    sources = _sources(notebook)
    from hetlib.cli import authors
    from hetlib.cli.outputs import picture
    from hetlib.files import write
    from hetlib.lab import notebooks

    tasks = _plan(sources, None, runs)
    _run(tasks, jobs)
    for task in tasks:
        done = authors.publish(notebooks.read(task.source), notebooks.read(task.output))
        path = notebooks.save(clone.folder() / task.output.name, done)
        if image := picture(done):
            write(path.parents[1] / "docs" / f"{path.stem}.png", image)
        for complaint in authors.check(task.source, path):
            console.print(f"[yellow]{path.name}:[/] {escape(complaint)}")


@app.command()
def exercises(to: Annotated[Path, typer.Option(help="Folder that gets exercises/ and solutions/.")] = Path("build")):
    """Write every notebook with its solutions taken out, and once more with them."""
    from hetlib.cli.authors import write_exercises

    for path in write_exercises(to):
        console.print(str(path))


@app.command()
def report(
    runs: Runs = Path("runs"),
    results: Annotated[Path, typer.Option(help="Folder of committed records.")] = Path("results"),
    papers: Annotated[Path, typer.Option(help="File whose tables are brought up to date.")] = Path("papers.md"),
    force: Annotated[bool, typer.Option("--force", help="Also where numbers in the tables get lost.")] = False,
) -> None:
    """Build runs/report.html, and the tables of papers.md from results/ alone."""
    from hetlib.cli.report import update_tables, write_page

    tell = lambda problem: console.print(f"[yellow]left out:[/] {escape(problem)}", highlight=False, soft_wrap=True)
    console.print(f"wrote {write_page(runs, results, tell)}")
    if update_tables(papers, results, force):
        console.print(f"updated {papers}")


@app.command("doctor")
def examine() -> None:
    """Say what this machine has, what it lacks, and how to get it."""
    from hetlib.cli import doctor

    table = Table("", "what", "found", "to get it", box=None)
    findings = [*doctor.examine(), *doctor.data_sets()]
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]missing[/]" if finding.needed else "[yellow]without[/]"
        table.add_row(mark, escape(finding.what), escape(finding.found), "" if finding.ok else escape(finding.remedy))
    console.print(table)
    raise typer.Exit(any(finding.needed and not finding.ok for finding in findings))


@cache_app.command("ls")
def list_cache() -> None:
    """List what is kept, what was of use most recently first."""
    from hetlib.cli.cache_files import kept
    from hetlib.lab.cache import Cache

    _show(kept(Cache()), f"kept in {Cache().root}")


@cache_app.command()
def gc(
    days: Annotated[float, typer.Option(min=0, help="Remove what was not used for so many days; 0 removes all.")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove what is old or damaged; what is in use at the moment stays."""
    from hetlib.cli.cache_files import clean
    from hetlib.lab.cache import Cache

    _show(clean(Cache(), days, dry_run), "would go" if dry_run else "removed")


def _show(things: list, what: str) -> None:
    table = Table("key", "what", "MiB", "last used", box=None)
    for thing in things:
        age = "today" if thing.days < 1 else f"{thing.days:.0f} days ago"
        table.add_row(thing.key[:8], escape(thing.label), f"{thing.mib:.1f}", age)
    if things:
        console.print(table)
    console.print(f"{len(things)} things, {sum(thing.mib for thing in things):.1f} MiB {what}", highlight=False)


def _sources(names: list[str] | None) -> list[Path]:
    """The notebooks that are named, each once, or all; one that does not exist is told at once."""
    return list(dict.fromkeys(map(clone.find, names or clone.names())))


def _plan(sources: list[Path], preset: str | None, runs: Path) -> list:
    from hetlib.cli import runner

    return [runner.plan(source, preset, runs=runs) for source in sources]


def _run(tasks: list, jobs: int) -> None:
    """Run notebooks with a line of progress each; leave with status 1 if one fails."""
    from hetlib.cli.follow import follow

    failed = [outcome for outcome in follow(tasks, jobs, console) if outcome.error]
    for outcome in failed:
        console.rule(f"[red]{outcome.task.source.stem} failed")
        console.print(escape(str(outcome.error)), highlight=False)
        console.print(f"notebook as far as it got: {outcome.task.output}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _joined(arguments: list[str]) -> list[str]:
    """Read `-p NAME VALUE`, which typer cannot, as `-p NAME=VALUE`."""
    rest, joined = list(arguments), []
    while rest:
        joined.append(rest.pop(0))
        if joined[-1] in ("-p", "--parameter") and len(rest) > 1 and "=" not in rest[0]:
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
    return joined


def main(arguments: list[str] | None = None) -> None:
    """Entry point: what the user got wrong is one line and status 2; a failed run is status 1."""
    try:
        app(_joined(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError, FloatingPointError) as error:
        file = getattr(error, "filename", None)
        line = str(error) if file is None else f"{file}: {error.strerror}"  # type: ignore[union-attr]
        Console(stderr=True).print(f"[red]hetlib:[/] {escape(line)}", highlight=False, soft_wrap=True)
        sys.exit(1 if isinstance(error, ConnectionError | ChildProcessError | FloatingPointError) else 2)
