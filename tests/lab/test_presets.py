"""Starting a run: what it decides, what it shows, and the record it leaves."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from hetlib import lab
from hetlib.lab import records


class Pictures(SimpleNamespace):
    """As much of `Images` as a record needs."""

    def __len__(self):
        return self.n


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HETLIB_RUN_DIR", raising=False)
    monkeypatch.setenv("HETLIB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("preset", "seeds"), [("smoke", (0,)), ("classroom", (0, 1, 2)), ("reduced", (0, 1, 2)), ("paper", (0, 1, 2, 3, 4))]
)
def test_presets_have_seeds_and_a_folder(preset, seeds):
    run = lab.start("01_hmt", preset)
    assert run.seeds == seeds
    assert run.folder.name == f"01_hmt-{preset}"


def test_seeds_cache_and_folder_can_be_given(monkeypatch, tmp_path):
    monkeypatch.setenv("HETLIB_RUN_DIR", str(tmp_path / "here"))
    run = lab.start("01_hmt", seeds=2, cache=tmp_path / "elsewhere", ORDER="shuffle")
    assert run.seeds == (0, 1)
    assert run.folder == tmp_path / "here"
    assert run.cache.root == tmp_path / "elsewhere"
    assert run.parameters == {"ORDER": "shuffle"}
    assert not run.folder.exists(), "nothing is written before the record"
    assert lab.start("01_hmt", seeds=[7, 9], cache=run.cache).seeds == (7, 9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "classrom"}, "unknown preset 'classrom': did you mean 'classroom'"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": []}, "at least one seed"),
    ],
)
def test_what_cannot_be_started_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        lab.start("01_hmt", **given)


def test_the_line_shown_is_the_same_every_time(capsys):
    lines = []
    for _ in range(2):
        run = lab.start("01_hmt", "smoke", data="cifar100", precision="fp32")
        lines.append(str(run) + run._repr_html_() + capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"01_hmt: smoke · data cifar100 · {run.device} · ")
    assert "fp32 · seeds 0" in lines[0]
    assert str(run.cache.root) not in lines[0]


def test_threads_are_set_by_start_and_the_import_does_nothing():
    code = (
        "import sys, torch; torch.set_num_threads(2); import hetlib.lab\n"
        "assert torch.get_num_threads() == 2\n"
        "assert not {'matplotlib', 'ipywidgets', 'IPython', 'papermill'} & set(sys.modules)\n"
        "hetlib.lab.start('01_hmt'); assert torch.get_num_threads() == 1 or torch.cuda.is_available()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_record_is_written_and_valid():
    run = lab.start("01_hmt", seeds=2, ORDER="chain")
    metrics = {"HMT": {"unit": "%", "values": [20.5, 21.5]}}
    sets = Pictures(name="shapes", checksum="ab", n=100), Pictures(name="shapes", checksum="cd", n=50)
    run.cache.computed.append("plainnet5")
    written = run.record(metrics, data=sets, epochs=3)
    assert records.read(records.path(run.folder)) == written
    assert written.data == {"name": "shapes", "checksum": "ab", "train": 100, "test": 50}
    assert (written.parameters, written.facts) == (
        {"ORDER": "chain"},
        {"epochs": 3, "cache": {"computed": ["plainnet5"], "reused": []}},
    )
    assert written.seconds >= 0
    assert run.record(metrics, data=written.data).data == written.data


def test_a_record_that_is_not_valid_is_not_written():
    run = lab.start("01_hmt", seeds=2)
    with pytest.raises(ValueError, match="1 values for 2 seeds"):
        run.record(
            {"HMT": {"unit": "%", "values": [1.0]}},
            data={"name": "a", "checksum": "b", "train": 1, "test": 1},
        )
    assert not run.folder.exists()
