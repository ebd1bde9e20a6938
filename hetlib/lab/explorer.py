"""Controls over a view: toggles built from a dataclass, one path from a change to the picture, no swallowed errors."""

import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cached_property, partial
from typing import Any

from hetlib.clone import find
from hetlib.errors import unknown
from hetlib.lab import notebooks
from hetlib.lab.panel import BUTTONS, Panel
from hetlib.lab.presets import SEEDS, Run, headless
from hetlib.lab.toggles import Toggle, checked
from hetlib.lab.train import Job, Stopped, history_of, train
from hetlib.parameters import check
from hetlib.training import History

REDRAW = 0.5  # seconds between two pictures of a training that runs


class Explorer:
    """A view with controls for its settings; the last line of a cell shows it.

    The picture is a plain output of the cell, which a change replaces in place (`update_display` of the Jupyter
    protocol): a static page holds an ordinary PNG. The controls are a second output, left out where nobody can click.

    Parameters
    ----------
    view : callable
        Takes the settings; gives a figure, or a list of things to display, as many for all settings. Pure and quick.
        With `job` it takes a second argument: the `History` of that training, None where none was finished.
    toggles : frozen dataclass
        The default settings. A field typed as `Literal` becomes a dropdown, `bool` a checkbox, `int` or `float` made
        by `slider` a slider. Metadata "label" replaces the field's name and "help" is its tooltip.
    run : Run, optional
        The notebook's run. With it, the settings can be copied as a command line.
    job : callable, optional
        Takes the settings, gives the `Job` whose history the view draws. It is looked for in the run's cache; a Run
        button starts what is not there, with a live picture, the time left, and a Stop button. Needs `run`.

    `settings` is what the picture shows, `result` what the view gave for it, `panel` the controls once they are shown.

    Raises
    ------
    TypeError
        If `toggles` is no frozen dataclass instance, a field has a type that makes no control, or `job` has no `run`.
    ValueError
        If a default is not among its own choices.
    Exception
        Whatever the view raises: the first result is computed here, outside any widget.
    """

    def __init__(
        self,
        view: Callable[..., Any],
        toggles: Any,
        run: Run | None = None,
        job: Callable[[Any], Job] | None = None,
    ):
        made = getattr(toggles, "__dataclass_params__", None)
        if isinstance(toggles, type) or made is None or not made.frozen:
            raise TypeError(f"toggles must be an instance of a frozen dataclass, got {toggles!r}")
        if job is not None and run is None:
            raise TypeError("an explorer that trains uses the cache and device of a run: Explorer(..., run=run)")
        self.view, self.run, self.job = view, run, job
        self.toggles = {name: Toggle(toggles, name) for name in (f.name for f in fields(toggles))}
        if taken := sorted(self.toggles.keys() & BUTTONS):
            raise TypeError(f"toggles cannot be called {', '.join(taken)}: buttons are")
        self.settings = self.default = checked(toggles)
        self.panel: Panel | None = None
        self._handles: list[Any] | None = None
        self._stop = threading.Event()
        self.result = self._look(toggles, self._found(toggles))

    def set(self, **changes: Any) -> Any:
        """Change settings, redraw, and give what the view gave: the one path that clicks, tests and parameters take.

        Raises
        ------
        ValueError
            If a toggle or a value is unknown; what would have been right is named.
        Exception
            Whatever the view raises. Settings and picture are then what they were.
        """
        for name, value in changes.items():
            if name not in self.toggles:
                raise unknown("toggle", name, self.toggles)
            self.toggles[name].check(value)
        settings = replace(self.settings, **changes)
        return self._show(settings, self._found(settings))

    def reset(self) -> Any:
        """Go back to the default settings; returns what the view gives for them."""
        return self.set(**{name: getattr(self.default, name) for name in self.toggles})

    def train(self, on_epoch: Callable[[History, Job], None] | None = None) -> Any:
        """Run the training of these settings, what it needs first, or find their results, and redraw while it runs.

        `on_epoch` is called after every epoch with the history and the job it belongs to. Gives what the view gives
        afterwards.

        Raises
        ------
        TypeError
            If this explorer has nothing to train.
        Stopped
            If `stop` was called; another call goes on from there.
        """
        if self.job is None or self.run is None:
            raise TypeError("this explorer has no job to train")
        self._stop.clear()
        settings, job = self.settings, self.job(self.settings)
        drawn, latest = time.monotonic(), None

        def live(history: History, of: Job) -> bool:
            nonlocal drawn, latest
            latest = history if of is job else None
            if on_epoch is not None:
                on_epoch(history, of)
            # If the user has changed the settings meanwhile, keep the new picture.
            if of is job and self.settings is settings and time.monotonic() - drawn > REDRAW:
                self._show(settings, history)
                drawn = time.monotonic()
            return self._stop.is_set()

        try:
            for each in (*job.needs, job):
                train(each, self.run.cache, self.run.device, partial(live, of=each))
        except Stopped:
            if latest is not None and self.settings is settings:
                self._show(settings, latest)
            raise
        return self.set()

    def stop(self) -> None:
        """Stop the training that runs after the epoch it is in."""
        self._stop.set()

    @property
    def command(self) -> str:
        """The command line that runs the notebook with these settings: it names what differs from the defaults.

        Without a run it is a TypeError; if the notebook does not declare a toggle, its parameter cannot be so, or the
        run's seeds are not the first ones, a ValueError; outside a clone of the project a FileNotFoundError.
        """
        if self.run is None:
            raise TypeError("an explorer without a run has no command: Explorer(..., run=run)")
        if lacking := [name for name in self.toggles if name.upper() not in self._declared]:
            raise ValueError(f"{self.run.notebook} has no parameter for {', '.join(lacking)}")
        if self.run.seeds != tuple(range(len(self.run.seeds))):
            raise ValueError(f"seeds {self.run.seeds} cannot be asked for by number")
        seeds = len(self.run.seeds) if len(self.run.seeds) != SEEDS[self.run.preset] else 0
        given = {"DATA": self.run.data or "", "SEEDS": seeds} | self.run.parameters
        given |= {name.upper(): getattr(self.settings, name) for name in self.toggles}
        check(self.run.notebook, given | {"PRESET": self.run.preset})
        words = ["hetlib", "run", self.run.notebook, "--preset", self.run.preset]
        for name, value in given.items():
            if self._declared.get(name.upper(), value) != value:
                words += ["-p", name.upper(), str(value)]
        return shlex.join(words)

    @cached_property
    def _declared(self) -> dict[str, Any]:
        """The notebook's own defaults, by parameter."""
        return notebooks.parameters(notebooks.read(find(self.run.notebook))) if self.run else {}

    def _found(self, settings: Any) -> History | None:
        if self.job is None or self.run is None:
            return None
        return history_of(self.job(settings), self.run.cache)

    def _look(self, settings: Any, history: History | None) -> Any:
        from matplotlib import pyplot

        before = pyplot.get_fignums()
        try:
            return self.view(settings) if self.job is None else self.view(settings, history)
        except Exception:
            for number in set(pyplot.get_fignums()).difference(before):
                pyplot.close(number)  # what the view had begun to draw
            raise

    def _show(self, settings: Any, history: History | None) -> Any:
        result = self._look(settings, history)
        pictures = _pictures(result)
        if self._handles is not None:
            if len(pictures) != len(self._handles):
                raise ValueError(f"the view gave {len(pictures)} things to display, and {len(self._handles)} before")
            for handle, (data, metadata) in zip(self._handles, pictures, strict=True):
                handle.update(data, metadata=metadata, raw=True)
        self.settings, self.result = settings, result
        if self.panel is not None:
            self.panel.sync()
        return result

    def _ipython_display_(self) -> None:
        from IPython.display import display

        pictures = _pictures(self.result)
        self._handles = [display(data, metadata=meta, raw=True, display_id=True) for data, meta in pictures]
        if not headless():
            self.panel = Panel(self)
            display(self.panel.box)


def _pictures(result: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What a front end needs to show what a view gave: for each thing its data by MIME type, and their metadata."""
    from IPython.core.formatters import format_display_data

    items = result if isinstance(result, list | tuple) else [result]
    return [(_png(item), {}) if hasattr(item, "savefig") else format_display_data(item) for item in items]


def _png(figure: Any) -> dict[str, Any]:
    from IPython.core.pylabtools import print_figure
    from matplotlib import pyplot

    image = print_figure(figure, base64=True)
    pyplot.close(figure)  # or the inline backend would show it a second time
    titles = [figure.get_suptitle(), *(ax.get_title() or ax.get_title("left") for ax in figure.axes)]
    text = "; ".join(filter(None, titles)) or "figure"
    return {"image/png": image, "text/plain": f"[{text}]"}
