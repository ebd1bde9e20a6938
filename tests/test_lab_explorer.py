"""The explorer: one path from a change to the picture, whoever makes it, and no error unseen."""

from dataclasses import dataclass
from typing import Literal

import nbformat
import pytest
from nbclient import NotebookClient

from hetlib.lab import Explorer, explorer, figures, slider


@dataclass(frozen=True)
class Toggles:
    order: Literal["chain", "shuffle", 3] = "chain"
    align_corners: bool = False
    noise: float = slider(0.0, 0.0, 0.5, 0.05, help="standard deviation of the noise")
    depth: int = slider(2, 1, 8, 1)


def view(settings):
    if settings.depth == 8:
        raise RuntimeError("too <deep>")
    figure = figures.axes().figure
    figure.axes[0].set_title(str(settings.order), loc="center")
    return figure


@pytest.fixture
def opened(monkeypatch):
    monkeypatch.setattr(explorer, "headless", lambda: False)
    made = Explorer(view, Toggles())
    made.box = made.panel()
    return made


def test_the_first_result_is_there_before_any_widget():
    made = Explorer(lambda s: s.depth, Toggles())
    assert made.result == 2
    assert made.controls == {}
    with pytest.raises(RuntimeError, match="deep"):
        Explorer(view, Toggles(depth=8))


def test_set_computes_and_reset_goes_back():
    made = Explorer(lambda s: (s.order, s.noise), Toggles(order="shuffle"))
    assert made.set(order=3, noise=0.25) == (3, 0.25)
    assert made.settings == Toggles(order=3, noise=0.25)
    assert made.reset() == ("shuffle", 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ordr": "chain"}, "unknown toggle 'ordr': did you mean 'order'"),
        ({"order": "chian"}, "unknown value of order 'chian': did you mean"),
        ({"order": 3.0}, "unknown value of order"),
        ({"align_corners": 1}, "unknown value of align_corners"),
        ({"noise": 0.6}, "noise must be a number from 0.0 to 0.5, got 0.6"),
        ({"noise": "0.1"}, "noise must be"),
        ({"depth": 2.0}, "depth must be a whole number from 1 to 8"),
        ({"depth": True}, "depth must be"),
    ],
)
def test_what_cannot_be_set_is_named_and_changes_nothing(change, message):
    made = Explorer(lambda s: s, Toggles())
    with pytest.raises(ValueError, match=message):
        made.set(**change)
    assert made.settings == made.result == Toggles()
    with pytest.raises(ValueError, match=r"must be|unknown"):
        Explorer(lambda s: s, Toggles(**change)) if "ordr" not in change else made.set(**change)


@dataclass(frozen=True)
class Text:
    name: str = "a"


@dataclass(frozen=True)
class Boundless:
    noise: float = 0.1


@dataclass
class Loose:
    on: bool = True


@pytest.mark.parametrize("toggles", [Text(), Boundless(), Loose(), Toggles, {"on": True}])
def test_what_makes_no_controls_is_refused(toggles):
    with pytest.raises(TypeError, match=r"frozen dataclass|makes no control"):
        Explorer(lambda s: s, toggles)


def test_each_kind_of_field_has_its_control(opened):
    kinds = {name: type(control).__name__ for name, control in opened.controls.items()}
    assert kinds == {
        "order": "Dropdown",
        "align_corners": "Checkbox",
        "noise": "FloatSlider",
        "depth": "IntSlider",
        "reset": "Button",
    }
    noise = opened.controls["noise"]
    assert (noise.min, noise.max, noise.step, noise.continuous_update, noise.readout_format) == (
        0,
        0.5,
        0.05,
        False,
        ".2f",
    )
    assert opened.controls["align_corners"].description == "align corners"
    assert noise.tooltip == "standard deviation of the noise"


def test_a_click_takes_the_same_path_as_set(opened):
    opened.controls["order"].value = "shuffle"
    assert opened.settings.order == "shuffle"
    assert opened.result.axes[0].get_title("center") == "shuffle"
    opened.set(depth=5)
    assert opened.controls["depth"].value == 5
    opened.controls["reset"].click()
    assert opened.settings == Toggles()
    assert opened.controls["order"].value == "chain"


def test_an_error_after_a_click_is_red_and_the_controls_say_what_the_picture_shows(opened):
    opened.controls["depth"].value = 8
    message = opened.box.children[-1].value
    assert "RuntimeError: too &lt;deep&gt;" in message
    assert "role='alert'" in message
    assert "where it happened" in message
    assert opened.settings == Toggles()
    assert opened.controls["depth"].value == 2
    opened.controls["depth"].value = 3
    assert opened.box.children[-1].value == ""


def test_an_error_after_a_click_is_raised_when_nobody_looks(opened, monkeypatch):
    monkeypatch.setattr(explorer, "headless", lambda: True)
    with pytest.raises(RuntimeError, match="deep"):
        opened.controls["depth"].value = 8
    with pytest.raises(RuntimeError, match="deep"):
        opened.set(depth=8)


def test_views_may_give_several_things_but_always_as_many():
    made = Explorer(lambda s: ["text"] * s.depth, Toggles())
    made._handles = [Slot(), Slot()]
    with pytest.raises(ValueError, match="gave 3 things to display, and 2 before"):
        made.set(depth=3)
    made.set(noise=0.1)
    assert [slot.shown["text/plain"] for slot in made._handles] == ["'text'", "'text'"]


class Slot:
    def update(self, data, metadata, raw):
        self.shown = data


CODE = """
from dataclasses import dataclass
from typing import Literal
%matplotlib inline
from matplotlib import pyplot
from hetlib.lab import Explorer

@dataclass(frozen=True)
class Toggles:
    order: Literal["chain", "shuffle"] = "chain"

def view(settings):
    figure, ax = pyplot.subplots(figsize=(2, 1))
    ax.set_title(settings.order)
    return figure

made = Explorer(view, Toggles())
made
"""


@pytest.mark.notebook
def test_an_executed_notebook_holds_one_plain_picture_no_widget_and_every_error(monkeypatch):
    monkeypatch.setenv("HETLIB_HEADLESS", "1")
    cells = [CODE, "made.set(order='shuffle');", "made.set(order='lost')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True).execute()
    shown, changed, failed = (cell.outputs for cell in notebook.cells)
    assert [list(output.data) for output in shown] == [["image/png", "text/plain"]]
    assert shown[0].data["text/plain"] == "[shuffle]", "the picture is replaced in place"
    assert changed == []
    assert "unknown value of order 'lost'" in failed[0].evalue
    assert "widgets" not in notebook.metadata
