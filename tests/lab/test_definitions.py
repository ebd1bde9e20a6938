"""Steps that a notebook or script defines: part of the key with all that they use, and at hand in other processes."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from hetlib.lab.cache import Cache
from hetlib.lab.definitions import named, portable, script
from hetlib.lab.job import Job, asked, uses
from hetlib.lab.train import train_all
from hetlib.training import Recipe

IMPORTS = """
import sys, json, warnings, torch
from dataclasses import dataclass
from hetlib import hmt
from hetlib.lab import Cache, Job
from hetlib.lab.job import asked
from hetlib.lab.train import train_all
from hetlib.training import Recipe
from hetlib.transfer import Transfer
"""
STEP = """
SHARE = 0.25
images = object()  # what no text can tell, and no step uses

def some(value, share=SHARE):
    return value * share

@dataclass(frozen=True)
class Scaled:
    power: int = 1

    def __call__(self, context, pairs):
        images = context.images
        for fill in hmt.Cyclic()(context, pairs):
            with torch.no_grad():
                yield type(fill)(fill.layer, fill.out, some(fill.weight), source=fill.source, resample=fill.resample)
"""
JOBS = """
recipe = Recipe(epochs=1, lr=0.05, precision="fp32", augment=False, batch_size=256)
how = {"model": "plainnet5", "data": "digits", "recipe": recipe, "options": {"width": 0.125, "kernel_size": 3}}
source = Job(**how)
sentence = Transfer(hmt.ByPosition(), [Scaled()])
jobs = [Job(**how, seed=seed, sources=[source], transfer=sentence) for seed in (1, 2)]
key = lambda: Cache().key(*asked(jobs[0]))
"""
TRAIN = """
cache = Cache(sys.argv[1])
found = [train_all(jobs, Cache(sys.argv[1] + name), processes=n) for name, n in (("a", 1), ("b", 2))]
one, two = ([each.history.loss + each.history.test_loss for each in trained] for trained in found)
reused = Cache(sys.argv[1] + "b")
train_all(jobs, reused, processes=2)
print(json.dumps({"one": one, "two": two, "computed": reused.computed}))
"""
CHANGES = """
keys = {"start": key()}
cell(STEP.replace("# what no", "# another remark, what no"))
cell(JOBS); keys["remark"] = key()
cell(STEP.replace("object()", "3"))
cell(JOBS); keys["unused"] = key()
cell(STEP.replace("0.25", "0.5"))
cell(JOBS); keys["constant"] = key()
cell(STEP.replace("value * share", "value + share"))
cell(JOBS); keys["function"] = key()
cell(STEP.replace("context.images", "None"))
cell(JOBS); keys["step"] = key()
cell(STEP)
cell(JOBS); keys["back"] = key()
from hetlib.lab.job import uses
alone = Job(**how, sources=[source], transfer=Scaled())  # no sentence that names HMT
assert {"hetlib.hmt", "hetlib.kernels.resize_cyclic"} <= {getattr(part, "__name__", "") for part in uses(alone)}
assert not {"hetlib.tlv"} & {getattr(part, "__name__", "") for part in uses(alone)}
print(json.dumps(keys))
"""
UNTOLD = """
lock = __import__("threading").Lock()
def guarded(source, target, images, seed):
    with lock:
        pass
job = Job(**how, sources=[source], transfer=guarded)
def maker(count):
    def inner(source, target, images, seed):
        return count
    return inner
said = {}
for name, step in (("value", guarded), ("closure", maker(3))):
    try:
        asked(Job(**how, sources=[source], transfer=step))
    except TypeError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
NOTEBOOK = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def cell(text):
    shell.run_cell(text).raise_error()
"""


def run(folder, text):
    """Run a script, and give what its lines of JSON say."""
    path = folder / "script.py"
    path.write_text(text)
    command = [sys.executable, str(path), str(folder / "cache")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """What the cells of one notebook say: `TRAIN`, `UNTOLD` and `CHANGES`."""
    texts = f"{IMPORTS}\ncell = get_ipython().run_cell\nSTEP = {STEP!r}\nJOBS = {JOBS!r}\n"
    cells = "".join(f"cell({text!r})\n" for text in (texts, STEP, JOBS, TRAIN, UNTOLD, CHANGES))
    return run(tmp_path_factory.mktemp("notebook"), NOTEBOOK + cells)


def test_a_step_of_a_notebook_is_at_hand_in_other_processes(notebook):
    found, _, _ = notebook
    assert found["one"] == found["two"]
    assert found["one"][0] != found["one"][1]
    assert found["computed"] == [], "a worker keeps its result under another key than the notebook looks for"


def test_a_step_of_a_script_is_at_hand_in_other_processes(tmp_path):
    guarded = "".join(f"    {line}\n" for line in (JOBS + TRAIN).splitlines())
    (found,) = run(tmp_path, IMPORTS + STEP + "\nif __name__ == '__main__':\n" + guarded)
    assert found["one"] == found["two"]
    assert found["computed"] == []


def test_whatever_a_step_of_a_notebook_uses_is_part_of_the_key(notebook):
    _, _, keys = notebook
    assert keys["start"] == keys["remark"] == keys["unused"] == keys["back"]
    assert len(set(keys.values())) == 4
    assert len({keys[name] for name in ("start", "constant", "function", "step")}) == 4


def test_what_no_key_can_cover_is_refused(notebook):
    _, said, _ = notebook
    assert said["value"].startswith("guarded uses lock of this notebook (lock), which no key can cover: give it to")
    assert said["closure"] == (
        "maker.<locals>.inner takes count from the function around it, which no key can cover: make it a field"
    )


def plain(**fields):
    recipe = Recipe(epochs=1, lr=0.05, precision="fp32", augment=False, batch_size=256)
    return Job(model="plainnet5", data="digits", recipe=recipe, options={"width": 0.125, "kernel_size": 3}, **fields)


def test_a_step_inside_a_function_runs_in_this_process_and_says_so(tmp_path):
    @dataclass(frozen=True)
    class Local:
        def __call__(self, source, target, images, seed):
            target.load_state_dict(source.state_dict())

    jobs = [plain(seed=seed, sources=[plain()], transfer=Local()) for seed in (1, 2)]
    assert not portable(jobs[0])
    cache = Cache(tmp_path)
    with pytest.warns(UserWarning, match="2 trainings run in this process"):
        apart = train_all(jobs, cache, processes=2)
    assert len(cache.computed) == 3
    assert apart[0].history != apart[1].history
    assert any(getattr(module, "__name__", "") == __name__ for module in uses(jobs[0])), "its module's source counts"
    with pytest.raises(TypeError, match="takes jobs from the function around it"):
        uses(plain(sources=[plain()], transfer=lambda *given, seed: jobs))


@dataclass(frozen=True)
class Old:
    """A step that is registered under a name, and replaced later."""

    def __call__(self, source, target, images, seed):
        """Do nothing."""


@dataclass(frozen=True)
class New:
    """Its successor, with the same fields."""

    def __call__(self, source, target, images, seed):
        with torch.no_grad():
            target.get_parameter("linear.weight").zero_()


def test_a_combination_under_an_old_name_never_finds_an_old_result(tmp_path):
    arms, cache = {"mine": Old()}, Cache(tmp_path)
    arm = lambda: plain(seed=1, sources=[plain()], transfer=arms["mine"])
    before = train_all([arm()], cache, processes=1)[0]
    arms["mine"] = New()
    after = train_all([arm()], cache, processes=1)[0]
    assert len(cache.computed) == 3
    assert before.history != after.history
    assert cache.key(*asked(arm())) != cache.key(*asked(plain(seed=1, sources=[plain()], transfer=Old())))


def test_what_a_value_is_made_of_is_named_at_every_depth():
    job = plain(sources=[plain()], transfer=Old(), data_options={"classes": (1, 2)})
    assert {Job, Recipe, Old, int, str} <= set(named(job))
    assert script([Old, Job]) == {}, "what can be imported is not told by a text"
