"""The explorer: one path from a change to the picture, whoever makes it, and no error unseen."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import nbformat
import pytest
from matplotlib import pyplot
from nbclient import NotebookClient

from hetlib import lab
from hetlib.cli import runner
from hetlib.lab import Explorer, Job, figures, panel, slider
from hetlib.lab.panel import Panel
from hetlib.lab.train import Stopped
from hetlib.training import Recipe


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
    monkeypatch.setattr(panel, "headless", lambda: False)
    return show(Explorer(view, Toggles()))


def show(explorer):
    explorer.panel = Panel(explorer)
    return explorer


def test_the_first_result_is_there_before_any_widget():
    made = Explorer(lambda s: s.depth, Toggles())
    assert made.result == 2
    assert made.panel is None
    with pytest.raises(RuntimeError, match="deep"):
        Explorer(view, Toggles(depth=8))


def test_settings_can_be_checked_before_anything_is_shown():
    assert lab.checked(Toggles(noise=0.5)) == Toggles(noise=0.5)
    with pytest.raises(ValueError, match=r"noise must be a number from 0.0 to 0.5, got 0.6"):
        lab.checked(Toggles(noise=0.6))


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
    kinds = {name: type(control).__name__ for name, control in opened.panel.controls.items()}
    assert kinds == {
        "order": "Dropdown",
        "align_corners": "Checkbox",
        "noise": "FloatSlider",
        "depth": "IntSlider",
        "reset": "Button",
    }
    noise = opened.panel.controls["noise"]
    assert (noise.min, noise.max, noise.step, noise.continuous_update, noise.readout_format) == (
        0,
        0.5,
        0.05,
        False,
        ".2f",
    )
    assert opened.panel.controls["align_corners"].description == "align corners"
    assert noise.tooltip == "standard deviation of the noise"


def test_a_click_takes_the_same_path_as_set(opened):
    opened.panel.controls["order"].value = "shuffle"
    assert opened.settings.order == "shuffle"
    assert opened.result.axes[0].get_title("center") == "shuffle"
    opened.set(depth=5)
    assert opened.panel.controls["depth"].value == 5
    opened.panel.controls["reset"].click()
    assert opened.settings == Toggles()
    assert opened.panel.controls["order"].value == "chain"


def test_an_error_after_a_click_is_red_and_the_controls_say_what_the_picture_shows(opened):
    opened.panel.controls["depth"].value = 8
    message = opened.panel.message.value
    assert "RuntimeError: too &lt;deep&gt;" in message
    assert "role='alert'" in message
    assert "where it happened" in message
    assert opened.settings == Toggles()
    assert opened.panel.controls["depth"].value == 2
    opened.panel.controls["depth"].value = 3
    assert opened.panel.message.value == ""


def test_an_error_after_a_click_is_raised_when_nobody_looks(opened, monkeypatch):
    monkeypatch.setattr(panel, "headless", lambda: True)
    with pytest.raises(RuntimeError, match="deep"):
        opened.panel.controls["depth"].value = 8
    with pytest.raises(RuntimeError, match="deep"):
        opened.set(depth=8)


NOTEBOOK = """# %% tags=["parameters"]
PRESET: str = "classroom"
SEEDS: int = 0
DATA: str = ""
ORDER: str = "chain"
ALIGN_CORNERS: bool = False
NOISE: float = 0.0
DEPTH: int = 2
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of a notebook that declares the toggles as parameters."""
    text = tmp_path / "notebooks" / "text" / "07_tiny.py"
    text.parent.mkdir(parents=True)
    text.write_text(NOTEBOOK)
    monkeypatch.chdir(tmp_path)
    return lab.start("07_tiny", "smoke", data="digits", seeds=2, cache=tmp_path / "cache", depth=2)


def test_the_command_names_what_differs_and_gives_these_settings(run):
    made = Explorer(view, Toggles(), run)
    assert made.command == "hetlib run 07_tiny --preset smoke -p DATA digits -p SEEDS 2"
    made.set(order="shuffle", align_corners=True, noise=0.25)
    words = made.command.split()
    pairs = dict(zip(words[6::3], words[7::3], strict=True))
    assert words[:5] + words[5::3] == ["hetlib", "run", "07_tiny", "--preset", "smoke"] + ["-p"] * len(pairs)
    task = runner.plan(words[2], words[4], pairs)
    assert task.parameters == {
        "PRESET": "smoke",
        "DATA": "digits",
        "SEEDS": 2,
        "ORDER": "shuffle",
        "ALIGN_CORNERS": True,
        "NOISE": 0.25,
    }
    with pytest.raises(TypeError, match="without a run"):
        _ = Explorer(view, Toggles()).command


def test_the_copy_button_holds_the_command(run, monkeypatch):
    made = show(Explorer(view, Toggles(), run))
    assert f'data-command="{made.command}"' in made.panel.controls["copy"].value
    made.panel.controls["order"].value = "shuffle"
    assert "-p ORDER shuffle" in made.panel.controls["copy"].value
    assert "copy" not in show(Explorer(view, Toggles())).panel.controls
    monkeypatch.setattr("hetlib.lab.explorer.find", lambda name: Path("nowhere").read_text())
    assert "copy" not in show(Explorer(view, Toggles(), run)).panel.controls, "hetlib runs notebooks in a clone only"


@dataclass(frozen=True)
class Button:
    reset: bool = True


@dataclass(frozen=True)
class Quarter:
    q: float = slider(0.25, 0, 1, 0.25)


def test_names_of_buttons_are_taken_and_steps_are_readable():
    with pytest.raises(TypeError, match="toggles cannot be called reset"):
        Explorer(lambda s: s, Button())
    assert Panel(Explorer(lambda s: s, Quarter())).controls["q"].readout_format == ".2f"


def test_a_view_that_raises_leaves_no_figure_open():
    def half(settings):
        pyplot.figure()
        if settings.reset_all:
            raise RuntimeError("half drawn")
        return pyplot.gcf()

    made = Explorer(half, Half())
    before = pyplot.get_fignums()
    with pytest.raises(RuntimeError, match="half drawn"):
        made.set(reset_all=True)
    assert pyplot.get_fignums() == before
    pyplot.close("all")


@dataclass(frozen=True)
class Half:
    reset_all: bool = False


@dataclass(frozen=True)
class Trial:
    lr: Literal[0.1, 0.01, -1.0] = 0.1


def trial(choice):
    recipe = Recipe(epochs=3, lr=choice.lr, precision="fp32", augment=False, batch_size=256)
    return Job(model="plainnet5", data="digits", recipe=recipe, options={"width": 0.125, "kernel_size": 3})


def epochs(choice, history):
    return 0 if history is None else history.epochs


@pytest.fixture
def trainer(run, monkeypatch):
    monkeypatch.setattr(panel, "headless", lambda: False)
    return show(Explorer(epochs, Trial(), run, trial))


def click(explorer, name):
    explorer.panel.controls[name].click()
    explorer.panel.thread.join(600)
    assert not explorer.panel.thread.is_alive()


def test_run_trains_once_and_then_it_is_kept(trainer, monkeypatch):
    assert trainer.result == 0
    assert trainer.panel.controls["stop"].disabled
    click(trainer, "run")
    assert trainer.result == 3
    assert len(trainer.run.cache.computed) == 1
    assert (trainer.panel.bar.value, trainer.panel.bar.max) == (3, 3)
    assert trainer.set(lr=0.01) == 0
    assert trainer.set(lr=0.1) == 3, "a view finds what was trained, and trains nothing itself"
    click(trainer, "run")
    assert trainer.panel.message.value == "nothing to train: this result was kept"
    assert len(trainer.run.cache.computed) == 1
    assert Explorer(epochs, Trial(), trainer.run, trial).result == 3


def test_the_picture_moves_while_training_and_the_controls_wait(trainer, monkeypatch):
    seen = []

    def watched(choice, history):
        if history is not None:
            controls = trainer.panel.controls
            message = trainer.panel.message.value
            seen.append((history.epochs, controls["lr"].disabled, controls["stop"].disabled, message))
        return epochs(choice, history)

    monkeypatch.setattr("hetlib.lab.explorer.REDRAW", 0)
    trainer.view = watched
    click(trainer, "run")
    assert [(epoch, waits, stops) for epoch, waits, stops, _ in seen] == [(n, True, False) for n in (1, 2, 3, 3)]
    assert seen[0][3].startswith("plainnet5 on digits, seed 0: epoch 1 of 3, training loss")
    assert seen[1][3].startswith("plainnet5 on digits, seed 0: epoch 2 of 3, 0:0")
    assert not trainer.panel.controls["lr"].disabled
    assert trainer.panel.bar.layout.display == "none"


def test_stop_keeps_what_there_is_and_run_goes_on(trainer):
    trainer.stop_at = 1
    original = trainer.panel.explorer.train

    def train(tell):
        def stopping(history, job):
            tell(history, job)
            if history.epochs == trainer.stop_at:
                trainer.panel.controls["stop"].click()

        return original(stopping)

    trainer.train = train
    click(trainer, "run")
    assert trainer.panel.message.value.endswith("stopped after 1 of 3 epochs; Run goes on from there")
    assert trainer.set(lr=0.1) == 0, "half a training is no result"
    trainer.stop_at = None
    click(trainer, "run")
    assert trainer.result == 3


def test_an_error_while_training_is_red_and_the_controls_come_back(trainer):
    with pytest.raises(ValueError, match="lr must be a finite number above 0"):
        trainer.set(lr=-1.0)

    def broken(choice, history):
        raise RuntimeError("cannot draw")

    trainer.view = broken
    click(trainer, "run")
    assert "RuntimeError: cannot draw" in trainer.panel.message.value
    assert not trainer.panel.controls["run"].disabled


def test_a_second_click_on_run_starts_no_second_training(trainer):
    trainer.panel._start()
    first = trainer.panel.thread
    trainer.panel._start()
    assert trainer.panel.thread is first
    first.join(600)
    assert trainer.result == 3


def copied(source, target, images, seed):
    target.load_state_dict(source.state_dict())


def test_the_source_is_told_of_and_can_be_stopped(run):
    heir = lambda choice: replace(trial(choice), seed=1, sources=[trial(choice)], transfer=copied)
    made = Explorer(epochs, Trial(), run, heir)
    heard = []

    def listen(history, job):
        heard.append((job.seed, history.epochs))
        if len(heard) == 1:
            made.stop()

    with pytest.raises(Stopped, match="seed 0: stopped after 1 of 3"):
        made.train(listen)
    assert made.train(listen) == 3
    assert heard == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]


def test_who_moves_on_is_not_pulled_back(run, monkeypatch):
    monkeypatch.setattr("hetlib.lab.explorer.REDRAW", 0)
    made = Explorer(epochs, Trial(), run, trial)
    assert made.train(lambda history, job: made.set(lr=0.01)) == 0
    assert made.settings == Trial(lr=0.01)
    assert made.set(lr=0.1) == 3


def test_in_python_train_is_a_call(run):
    made = Explorer(epochs, Trial(), run, trial)
    told = []
    assert made.train(lambda history, job: told.append((history.epochs, job.recipe.epochs))) == 3
    assert told == [(1, 3), (2, 3), (3, 3)]
    made.set(lr=0.01)
    with pytest.raises(Stopped):
        made.train(lambda history, job: made.stop())
    with pytest.raises(TypeError, match="no job to train"):
        Explorer(view, Toggles()).train()
    with pytest.raises(TypeError, match="uses the cache and device of a run"):
        Explorer(epochs, Trial(), job=trial)


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
from pathlib import Path
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
    NotebookClient(notebook, timeout=600, startup_timeout=600, kernel_name="python3", allow_errors=True).execute()
    shown, changed, failed = (cell.outputs for cell in notebook.cells)
    assert [list(output.data) for output in shown] == [["image/png", "text/plain"]]
    assert shown[0].data["text/plain"] == "[shuffle]", "the picture is replaced in place"
    assert changed == []
    assert "unknown value of order 'lost'" in failed[0].evalue
    assert "widgets" not in notebook.metadata


def test_a_command_that_would_not_give_these_settings_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="07_tiny has no parameter for lr"):
        _ = Explorer(epochs, Trial(), run, trial).command
    odd = lab.start("07_tiny", "smoke", seeds=[5], cache=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"seeds \(5,\) cannot be asked for"):
        _ = Explorer(view, Toggles(), odd).command
    assert "copy" not in show(Explorer(view, Toggles(), odd)).panel.controls


def test_after_stop_the_picture_is_the_last_epoch(run):
    made = Explorer(epochs, Trial(), run, trial)
    with pytest.raises(Stopped):
        made.train(lambda history, job: made.stop() if history.epochs == 2 else None)
    assert made.result == 2
