"""The settings of an explorer as controls: one toggle per field of a frozen dataclass."""

from dataclasses import field, fields
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hetlib.errors import one_of, within


def slider(default: float, low: float, high: float, step: float, help: str = "") -> Any:
    """A number among the toggles: the field's default, its range (both ends included) and the slider's step."""
    return field(default=default, metadata={"range": (low, high, step), "help": help})


def checked(toggles: Any) -> Any:
    """Give settings back if every field's value is one that it can take; otherwise raise a ValueError that names it."""
    for f in fields(toggles):
        Toggle(toggles, f.name).check(getattr(toggles, f.name))
    return toggles


class Toggle:
    """One field of the settings: what it may be, and which control shows it."""

    def __init__(self, toggles: Any, name: str):
        self.name, self.type = name, get_type_hints(type(toggles))[name]
        metadata = next(f.metadata for f in fields(toggles) if f.name == name)
        self.label, self.help = metadata.get("label", name.replace("_", " ")), metadata.get("help", "")
        self.range: Any = metadata.get("range")
        self.choices = get_args(self.type) if get_origin(self.type) is Literal else ()
        if self.type is bool:
            self.choices = (False, True)
        if not (self.choices or (self.type in (int, float) and self.range)):
            raise TypeError(
                f"toggle {name!r}: {self.type} makes no control; use Literal, bool, or a number with `slider`"
            )

    def check(self, value: Any) -> None:
        """Raise a ValueError that names the toggle unless it can take `value`."""
        if self.choices:
            one_of(self.name, value, self.choices)
        else:
            low, high, _ = self.range
            within(self.name, value, low, high, whole=self.type is int)

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
        places = max(0, -int(Decimal(str(step)).as_tuple().exponent))
        return widgets.FloatSlider(**common, readout_format=f".{places}f")
