"""The controls of an explorer, as widgets: toggles, Reset, Copy, Run and Stop, and a line that no error escapes."""

import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from html import escape
from typing import Any

from hetlib.lab.presets import headless
from hetlib.lab.train import Job, Stopped
from hetlib.training import History

# A page that is not served from this machine nor by https has no clipboard; a prompt shows the text, selected.
COPY = (
    "const text = this.dataset.command, done = () => this.textContent = 'Copied';"
    "if (navigator.clipboard) navigator.clipboard.writeText(text).then(done); else prompt('Copy:', text)"
)
BUTTONS = frozenset({"reset", "copy", "run", "stop"})

# JupyterLab takes arrow keys and Enter for itself wherever the cursor is not in a text, so that no dropdown and no
# slider could be moved by keyboard. It leaves alone an element with this attribute, and widgets cannot set one.
KEYS = """<img alt="" src="data:," onerror="
(function mark(image) {
  const panel = image.closest('.hetlib-panel');
  const claim = event => event.target.setAttribute('data-lm-suppress-shortcuts', 'true');
  if (panel) panel.addEventListener('focusin', claim); else setTimeout(() => mark(image), 50);
})(this)">"""


class Panel:
    """Widgets that drive an explorer, all of them in `box`.

    `controls` holds the toggles by name and "reset"; "copy" if there is a command to copy; "run" and "stop" if there is
    something to train. `message` says what went wrong, or how far the training in `thread` is.
    """

    def __init__(self, explorer: Any):
        import ipywidgets as widgets

        self.explorer, self._syncing = explorer, False
        self.thread: threading.Thread | None = None
        longest = max((len(toggle.label) for toggle in explorer.toggles.values()), default=0)
        self.controls: dict[str, Any] = {
            name: toggle.widget(getattr(explorer.settings, name), f"{0.55 * longest + 1:.1f}em")
            for name, toggle in explorer.toggles.items()
        }
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._do(lambda: explorer.set(**{name: change["new"]})), "value")
        self._button("reset", "Back to the first settings", explorer.reset)
        if copy := self._copy_button():
            self.controls["copy"] = widgets.HTML(copy)
        self.bar = widgets.IntProgress(bar_style="info", layout={"width": "12em", "display": "none"})
        if explorer.job is not None:
            self._button("run", "Train with these settings", self._start)
            self._button("stop", "Stop after this epoch; Run goes on from there", explorer.stop).disabled = True
        self.message = widgets.HTML()
        flow = {"flex_flow": "row wrap", "align_items": "center"}
        controls = widgets.Box([*self.controls.values()], layout=flow)
        keys = widgets.HTML(KEYS, layout={"display": "none"})
        self.box = widgets.VBox([controls, widgets.HBox([self.bar, self.message], layout=flow), keys])
        self.box.add_class("hetlib-panel")
        self.sync()

    def sync(self) -> None:
        """Make the controls say what the picture shows."""
        self._syncing = True
        try:
            for name in self.explorer.toggles:
                self.controls[name].value = getattr(self.explorer.settings, name)
            if "copy" in self.controls:
                self.controls["copy"].value = self._copy_button()
        finally:
            self._syncing = False

    def _copy_button(self) -> str:
        try:
            text = escape(self.explorer.command)
        except (TypeError, ValueError, FileNotFoundError):  # no run, no such parameter, no clone
            return ""
        return (
            f"<button type='button' class='jupyter-widgets jupyter-button widget-button' style='width:auto' "
            f'title="{text}" data-command="{text}" onclick="{escape(COPY)}">Copy as command</button>'
        )

    def _button(self, name: str, tooltip: str, action: Callable[[], Any]) -> Any:
        import ipywidgets as widgets

        button = widgets.Button(description=name.title(), tooltip=tooltip, layout={"width": "auto"})
        button.on_click(lambda _: self._do(action))
        self.controls[name] = button
        return button

    def _do(self, action: Callable[[], Any]) -> None:
        if self._syncing:
            return
        try:
            action()
            if not self._busy():
                self.message.value = ""
        except Exception as error:
            # A widget's callback has no cell to fail in: the front end would drop the error unseen.
            self.sync()
            if headless():
                raise
            self.message.value = _red(error)

    def _busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def _start(self) -> None:
        if self._busy():
            return
        # A thread, because clicks on Stop are heard only while the kernel's own thread is free.
        self.thread = thread = threading.Thread(target=self._train, daemon=True)
        self._enable(training=True)
        self.message.value = "preparing ..."
        thread.start()

    def _train(self) -> None:
        told: dict[str, tuple[float, int]] = {}  # of each training when it was heard of first, and at which epoch

        def tell(history: History, job: Job) -> None:
            epochs = job.recipe.epochs
            begun, first = told.setdefault(job.label, (time.monotonic(), history.epochs))
            self.bar.max, self.bar.value = epochs, history.epochs
            done, left = history.epochs - first, epochs - history.epochs
            eta = f", {timedelta(seconds=round((time.monotonic() - begun) / done * left))} left" if done else ""
            state = f"epoch {history.epochs} of {epochs}{eta}, training loss {history.loss[-1]:.3f}"
            self.message.value = f"{escape(job.label)}: {state}"

        try:
            self.explorer.train(tell)
            self.message.value = "" if told else "nothing to train: this result was kept"
        except Stopped as stopped:
            self.message.value = f"{escape(str(stopped))}; Run goes on from there"
        except Exception as error:
            self.message.value = _red(error)
        finally:
            self._enable(training=False)

    def _enable(self, training: bool) -> None:
        for name, control in self.controls.items():
            control.disabled = training != (name == "stop")
        self.bar.layout.display = "" if training else "none"


def _red(error: Exception) -> str:
    trace = "".join(traceback.format_exception(error))
    return (
        "<div role='alert' style='color:#B00020;line-height:1.4'>"
        f"<b>{escape(type(error).__name__)}: {escape(str(error))}</b> (the picture still shows the settings above)"
        f"<details><summary>where it happened</summary><pre>{escape(trace)}</pre></details></div>"
    )
