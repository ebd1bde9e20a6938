"""`hetlib graft`: one process a network comes to what one process for all comes to; results; and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hetlib import cli
from hetlib.cli import ring
from hetlib.grafting import processes

SMALL = ("--model", "plainnet5", "--width", "0.125", "--data", "digits", "--epochs", "2", "--batch-size", "512")
DEADLINE = 600.0


@pytest.fixture
def hetlib(capsys, monkeypatch, tmp_path):
    """Call the command line here, all networks in this process; gives status, standard output and standard error."""
    monkeypatch.setattr(processes, "start", lambda work, size, plan: ring.in_one_process(plan))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            cli.main(["graft", *arguments])
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call


def run(*command):
    """Run a command to its end, in a process of its own."""
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=DEADLINE)


def networks(folder):
    found = json.loads((Path(folder) / "results.json").read_text())
    return found["networks"], found["ensemble"]


def test_ranks_come_to_what_one_process_comes_to(hetlib, tmp_path):
    code, out, err = hetlib("--num", "2", *SMALL, "--device", "cpu", "--s", "one")
    assert code == 0, err
    assert out.count("accuracy before the graft") == 4
    assert "best on test (optimistic)" in out
    words = ("hetlib", "graft", "--num", "2", *SMALL, "--device", "cpu")
    spawned = run(*words, "--s", str(tmp_path / "spawned"))
    assert spawned.returncode == 0, spawned.stderr
    started = run(
        "torch.distributed.run", "--nproc-per-node", "2", "-m", "--", *words, "--s", str(tmp_path / "torchrun")
    )
    assert started.returncode == 0, started.stderr
    for folder in ("spawned", "torchrun"):
        assert networks(folder) == networks("one")
    first, second = networks("one")[0]
    assert [first["recipe"]["lr"], second["recipe"]["lr"]] == pytest.approx([0.05, 0.1])
    assert (first["last"], first["best"]) == (first["history"]["top1"][-1], max(first["history"]["top1"]))


def test_a_command_resumes_and_other_settings_are_refused(hetlib):
    assert hetlib("--num", "2", *SMALL)[0] == 0
    before = networks("runs/graft")
    code, out, _ = hetlib("--num", "2", *SMALL)
    assert code == 0
    assert "epoch " not in out.partition("accuracy on the test images")[0]
    assert networks("runs/graft") == before
    code, _, err = hetlib("--num", "2", *SMALL, "--a", "0")
    assert code == 2
    assert "did something else between epochs" in err
    assert "lr was 0.05, is 0.25" in hetlib("--num", "2", *SMALL, "--lr", "0.5")[2]


@pytest.mark.parametrize(
    ("options", "schedule", "rates", "milestones"),
    [
        ((), "cosine", [0.05, 0.1], [60]),
        (("--no-difflr",), "steps", [0.1, 0.1], [60]),
        (("--no-difflr", "--cos"), "cosine", [0.1, 0.1], [60]),
        (("--difflr", "--steplr"), "steps", [0.05, 0.1], [60]),
    ],
)
def test_rates_and_schedules(hetlib, monkeypatch, options, schedule, rates, milestones):
    plans = []
    monkeypatch.setattr(ring, "in_one_process", plans.append)
    assert hetlib("--num", "2", "--data", "digits", "--model", "plainnet5", "--epochs", "100", *options)[0] == 0
    recipes = [job.recipe for job in plans[0].jobs]
    assert [recipe.lr for recipe in recipes] == pytest.approx(rates)
    assert {recipe.schedule for recipe in recipes} == {schedule}
    assert list(recipes[0].milestones) == milestones


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--num", "1"), "Invalid value for '--num'"),
        ((), "Missing option '--num'"),
        (("--num", "2", "--a", "1.5"), "a, the range of coefficients, must be a finite number from 0 to 1, got 1.5"),
        (("--num", "2", "--scion", "extern"), "unknown scion 'extern': did you mean 'external'"),
        (("--num", "2", "--level", "layers"), "unknown level 'layers': did you mean 'layer'"),
        (("--num", "2", "--every", "0"), "every, the epochs from one graft to the next, must be a whole number"),
        (("--num", "2", "--device", "gpu"), "unknown device 'gpu'"),
        (("--num", "2", "--data", "digit"), "unknown data set 'digit': did you mean 'digits'"),
        (("--num", "2", "--data", "digits", "--model", "resnet21"), "unknown model 'resnet21'"),
        (("--num", "2", "--data", "imagefolder:nowhere"), "nowhere is no ImageFolder: expected train/ and val/"),
    ],
)
def test_what_is_refused_is_named(hetlib, options, says):
    code, _, err = hetlib(*options)
    assert code == 2
    assert says in err
    assert not Path("runs").exists()


def test_help_has_examples_that_can_be_read(hetlib):
    code, out, _ = hetlib("--help")
    assert code == 0
    for words in ("hetlib graft --num 4 --no-difflr --a 0", "torchrun --nproc-per-node 2 -m -- hetlib graft --num 2"):
        assert words in out
