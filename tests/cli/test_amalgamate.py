"""`hetlib amalgamate`: sources and a target, resumed, also by the release's names of options; and what is refused."""

import json
import shlex

import pytest

import hetlib.data
from hetlib import cli

SMALL = ("--data", "faces", "--width", "0.0625", "--device", "cpu")
EPOCHS = ("--sorce_saveEpoch", "1", "--component_saveEpoch", "1", "--target_epoch", "2", "--source-lr", "0.01")
TRAIN = (
    "train",
    "--target_attribute",
    "face",
    *SMALL,
    *EPOCHS,
    "--batch_size",
    "16",
    "--lr",
    "0.003",
    "--rule",
    "random",
)


@pytest.fixture
def hetlib_(capsys, monkeypatch, tmp_path):
    """Call the command line here, on few faces; gives status, standard output and standard error."""
    real = hetlib.data.load

    def few(name, split="train", root=None):
        assert root is None or str(root) == "elsewhere"
        return real(name, split, count=96 if split == "train" else 40) if name == "faces" else real(name, split)

    monkeypatch.setattr(hetlib.data, "load", few)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["hetlib", "amalgamate", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call


def test_sources_are_trained_and_found_again(hetlib_, tmp_path):
    command = ("sources", "--target_attribute", "Young", "--source_id", "3", *SMALL, "--epochs", "1", "--lr", "0.01")
    code, out, err = hetlib_(*command, "--sourcenets_root", "nets", "--data_root", "elsewhere")
    assert code == 0, err
    assert "source face 3, accuracy on the test images: Young" in out
    assert "Wearing_Lipstick" in out
    written = (tmp_path / "nets" / "face-3.safetensors").read_bytes()
    assert hetlib_(*command, "--sourcenets_root", "nets")[1] == out
    assert (tmp_path / "nets" / "face-3.safetensors").read_bytes() == written


def test_a_target_is_customised_and_the_same_command_goes_on(hetlib_, tmp_path):
    whole = (*TRAIN, "--log_dir", "log", "--sourcedata_txtroot", "lists", "--target_root", "last")
    code, out, err = hetlib_(*whole)
    assert code == 0, err
    told = out[out.index("accuracy on the test") :]
    table = [line.split()[0] for line in told.splitlines()[2:6]]
    assert table == ["Oval_Face", "Young", "Heavy_Makeup", "mean"]
    found = json.loads((tmp_path / "log" / "results.json").read_text())
    assert set(found["metrics"]["components"]) == {"Oval_Face", "Young", "Heavy_Makeup"}
    assert len(found["histories"]["target"]["loss"]) == 2
    assert found["command"] == shlex.join(["hetlib", "amalgamate", *whole])
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors")}
    tasks = ("Oval_Face", "Young", "Heavy_Makeup")
    assert names == {
        *(f"runs/amalgamate/sources/face-{number}.safetensors" for number in range(1, 7)),
        *(f"lists/choice-{task}.safetensors" for task in tasks),
        *(f"runs/amalgamate/face/component-{task}.safetensors" for task in tasks),
        "last/target.safetensors",
    }
    again = hetlib_(*TRAIN, "--log_dir", "log", "--sourcedata_txtroot", "lists", "--target_root", "last")
    assert again[1].endswith(told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sources", "--attribute", "Bang", *SMALL), "unknown wanted attribute 'Bang': did you mean 'Bangs'"),
        (
            ("sources", "--attribute", "Bangs", "--source", "1", *SMALL),
            "there is no source 1 for Bangs: there are 8, 9",
        ),
        (("sources", *SMALL), "say which sources"),
        (("train", "--target", "hare", *SMALL), "unknown group of attributes 'hare': did you mean 'hair'"),
        (("sources", "--attribute", "Bangs", "--data", "digits"), "digits has no attributes: take celeba"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(hetlib_, arguments, message):
    code, _, err = hetlib_(*arguments)
    assert code == 2 or code == 1
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_help_shows_the_paper_s_commands(hetlib_):
    for command, words in (("sources", "--attribute Black_Hair --source 1"), ("train", "--target hair")):
        code, out, _ = hetlib_(command, "--help")
        assert code == 0
        assert words in " ".join(out.split())
