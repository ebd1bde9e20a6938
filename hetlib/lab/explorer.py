"""Controls over a view: toggles built from a dataclass, one path from a change to the picture, no swallowed errors."""

import base64
import io
import math
import traceback
from collections.abc import Callable
from dataclasses import field, fields, replace
from html import escape
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hetlib.errors import unknown
from hetlib.lab.machine import headless


def slider(default: float, low: float, high: float, step: float, help: str = "") -> Any:
    """A number among the toggles: the field's default, its range (both ends included) and the slider's step."""
    return field(default=default, metadata={"range": (low, high, step), "help": help})


class Explorer:
    """A view with controls for its settings; the last line of a cell shows it.

    The picture is a plain output of the cell, and a change replaces it in place (`update_display` of the Jupyter
    protocol). So a static page and an executed notebook hold an ordinary PNG, JupyterLab shows one picture and not
    two, and no picture hides in the state of widgets, which only a live kernel can draw. The controls are a second
    output, left out where nobody can click (``$HETLIB_HEADLESS``, set by the runner: papermill's kernel looks like
    any other).

    Parameters
    ----------
    view : callable
        Takes the settings; gives a figure, or a list of things to display, as many for all settings. Pure and quick.
    toggles : frozen dataclass
        The default settings. A field typed as `Literal` becomes a dropdown, `bool` a checkbox, `int` or `float` made
        by `slider` a slider. Metadata "label" replaces the field's name and "help" is its tooltip.

    Attributes
    ----------
    settings : dataclass
        What the picture shows.
    result : Any
        What the view gave for it.

    Raises
    ------
    TypeError
        If `toggles` is no frozen dataclass instance, or a field has a type that makes no control.
    ValueError
        If a default is not among its own choices.
    Exception
        Whatever the view raises: the first result is computed here, outside any widget.
    """

    def __init__(self, view: Callable[[Any], Any], toggles: Any):
        made = getattr(toggles, "__dataclass_params__", None)
        if isinstance(toggles, type) or made is None or not made.frozen:
            raise TypeError(f"toggles must be an instance of a frozen dataclass, got {toggles!r}")
        self.view = view
        self.toggles = {name: _Toggle(toggles, name) for name in (f.name for f in fields(toggles))}
        for name, toggle in self.toggles.items():
            toggle.check(getattr(toggles, name))
        self.settings = self._default = toggles
        self.result = view(toggles)
        self.controls: dict[str, Any] = {}
        self._handles: list[Any] = []
        self._message: Any = None
        self._syncing = False

    def set(self, **changes: Any) -> Any:
        """Change settings and redraw: the one path that clicks, tests and parameters take.

        Returns
        -------
        Any
            What the view gave.

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
        result = self.view(settings)
        pictures = _pictures(result)
        if self._handles and len(pictures) != len(self._handles):
            raise ValueError(f"the view gave {len(pictures)} things to display, and {len(self._handles)} before")
        for handle, (data, metadata) in zip(self._handles, pictures, strict=False):
            handle.update(data, metadata=metadata, raw=True)
        self.settings, self.result = settings, result
        self._sync()
        return result

    def reset(self) -> Any:
        """Go back to the default settings; returns what the view gives for them."""
        return self.set(**{name: getattr(self._default, name) for name in self.toggles})

    def panel(self) -> Any:
        """The controls, a Reset button and a line for errors, as one widget.

        Returns
        -------
        ipywidgets.VBox
            `controls` then holds the single widgets by name, "reset" among them.
        """
        import ipywidgets as widgets

        longest = max((len(toggle.label) for toggle in self.toggles.values()), default=0)
        self.controls = {
            name: toggle.widget(getattr(self.settings, name), f"{0.55 * longest + 1:.1f}em")
            for name, toggle in self.toggles.items()
        }
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._clicked(lambda: self.set(**{name: change["new"]})), "value")
        reset = widgets.Button(description="Reset", tooltip="Back to the first settings", layout={"width": "auto"})
        reset.on_click(lambda _: self._clicked(self.reset))
        self._message = widgets.HTML()
        flow = widgets.Box([*self.controls.values(), reset], layout={"flex_flow": "row wrap", "align_items": "center"})
        self.controls["reset"] = reset
        return widgets.VBox([flow, self._message])

    def _ipython_display_(self) -> None:
        from IPython.display import display

        pictures = _pictures(self.result)
        self._handles = [display(data, metadata=meta, raw=True, display_id=True) for data, meta in pictures]
        if not headless():
            display(self.panel())

    def _clicked(self, action: Callable[[], Any]) -> None:
        if self._syncing:
            return
        try:
            action()
            self._message.value = ""
        except Exception as error:
            # A widget's callback has no cell to fail in: the front end would drop the error unseen.
            self._sync()
            if headless():
                raise
            self._message.value = _red(error)

    def _sync(self) -> None:
        self._syncing = True
        try:
            for name in self.toggles.keys() & self.controls.keys():
                self.controls[name].value = getattr(self.settings, name)
        finally:
            self._syncing = False


class _Toggle:
    """One field of the settings: what it may be, and which control shows it."""

    def __init__(self, toggles: Any, name: str):
        self.name, self.type = name, get_type_hints(type(toggles))[name]
        metadata = next(f.metadata for f in fields(toggles) if f.name == name)
        self.label, self.help = metadata.get("label", name.replace("_", " ")), metadata.get("help", "")
        self.range: Any = metadata.get("range")
        self.choices = get_args(self.type) if get_origin(self.type) is Literal else ()
        if not (self.choices or self.type is bool or (self.type in (int, float) and self.range)):
            raise TypeError(
                f"toggle {name!r}: {self.type} makes no control; use Literal, bool, or a number with `slider`"
            )

    def check(self, value: Any) -> None:
        """Raise a ValueError that names the toggle unless it can take `value`."""
        if self.choices:
            # 1 == True, so equality alone would let one pass for the other.
            if not any(value == choice and type(value) is type(choice) for choice in self.choices):
                raise unknown(f"value of {self.name}", value, map(repr, self.choices))
        elif self.type is bool:
            if not isinstance(value, bool):
                raise unknown(f"value of {self.name}", value, ("False", "True"))
        else:
            low, high, _ = self.range
            kinds = (int,) if self.type is int else (int, float)
            if type(value) not in kinds or not low <= value <= high:
                raise ValueError(f"{self.name} must be {_kind(self.type)} from {low} to {high}, got {value!r}")

    def widget(self, value: Any, width: str) -> Any:
        """The control, with a label `width` wide."""
        import ipywidgets as widgets

        common = {"value": value, "description": self.label, "tooltip": self.help or self.label}
        layout = {"margin": "2px 1.5em 2px 0", "width": "max-content"}
        if self.type is bool:
            return widgets.Checkbox(**common, indent=False, layout=layout)
        common["style"] = {"description_width": width}
        if self.choices:
            return widgets.Dropdown(**common, options=list(self.choices), layout=layout)
        low, high, step = self.range
        layout["width"] = f"calc({width} + 18em)"
        common |= {"min": low, "max": high, "step": step, "continuous_update": False, "layout": layout}
        if self.type is int:
            return widgets.IntSlider(**common)
        places = max(0, -math.floor(math.log10(step)))
        return widgets.FloatSlider(**common, readout_format=f".{places}f")


def _kind(number: type) -> str:
    return "a whole number" if number is int else "a number"


def _pictures(result: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [_picture(item) for item in (result if isinstance(result, list | tuple) else [result])]


def _picture(item: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a front end needs to show `item`: data by MIME type, and their metadata."""
    if hasattr(item, "savefig"):
        return _png(item), {}
    from IPython.core.formatters import format_display_data

    return format_display_data(item)


def _png(figure: Any) -> dict[str, Any]:
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    pyplot.close(figure)  # or the inline backend would show it a second time
    titles = [title for ax in figure.axes if (title := ax.get_title() or ax.get_title("left"))]
    text = "; ".join(titles) or "figure"
    return {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": f"[{text}]"}


def _red(error: Exception) -> str:
    trace = "".join(traceback.format_exception(error))
    return (
        "<div role='alert' style='color:#B00020;line-height:1.4'>"
        f"<b>{escape(type(error).__name__)}: {escape(str(error))}</b> (the picture still shows the settings above)"
        f"<details><summary>where it happened</summary><pre>{escape(trace)}</pre></details></div>"
    )
