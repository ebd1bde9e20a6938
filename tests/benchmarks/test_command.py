"""`python -m benchmarks`: what it refuses, and how a benchmark that fails is told."""

import sys

import pytest

from benchmarks import __main__ as command


def test_unknown_names_end_it_with_status_2(capsys, monkeypatch):
    for words, says in ((["ckaa"], "did you mean 'cka'"), (["cka", "--toy"], "--toy is an option of gpu")):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
        with pytest.raises(SystemExit) as ended:
            command.arguments()
        assert ended.value.code == 2
        assert says in capsys.readouterr().err


def test_a_benchmark_that_fails_is_told_in_words():
    [told] = command.measured("absent")
    assert "No module named 'benchmarks.absent'" in told
