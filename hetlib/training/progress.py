"""A progress bar for people who wait for a training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hetlib.training.recipe import History


@contextmanager
def progress_bar(label: str, epochs: int) -> Iterator[Callable[[History], None]]:
    """A bar over epochs with the time left, moved by calling what is yielded; without a label there is none."""
    if not label:
        yield lambda history: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(label, total=epochs)
        yield lambda history: bar.update(task, completed=history.epochs)
