"""Every bad input is refused in one line that names the culprit, in no time, and nothing has changed by then."""

import shutil
import time
import warnings
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from hetlib.clafusion import fuse
from tests.bad_inputs import fusions, numerics, things, trainings, transfers
from tests.bad_inputs.things import FOLDER
from tests.bad_inputs.world import Case, changed, state_of, w

SUBJECTS = {"transfers": transfers, "fusions": fusions, "numerics": numerics, "trainings": trainings, "things": things}
CASES = [(subject, case) for subject, module in SUBJECTS.items() for case in module.cases()]
PARTS = [
    pytest.param(list(part), id=f"{subject}-{call}")
    for (subject, call), part in (
        ((subject, call), [case for _, case in found])
        for (subject, call), found in groupby(CASES, lambda each: (each[0], each[1].name.split()[0]))
    )
]
LONGEST = 2.0
"""Seconds of this process's own time, which a busy machine does not change."""
RAW = (
    "not iterable",
    "not supported between",
    "unsupported operand",
    "unhashable",
    "not subscriptable",
    "has no len()",
)
"""What Python says by itself of an object that it can do nothing with."""


@pytest.fixture(scope="module", autouse=True)
def warm() -> Iterator[None]:
    """What is imported when it is first needed is there; the bad files go in the end."""
    import sklearn.model_selection  # noqa: F401
    import torchvision  # noqa: F401

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuse([w.deep, w.shallow], w.pixels)
    yield
    shutil.rmtree(FOLDER)


def files_of(folder: Path) -> dict[str, object]:
    """What lies in a folder: the bytes of its files, and what is none."""
    return {str(path): path.read_bytes() if path.is_file() else path.lstat().st_mode for path in folder.rglob("*")}


@pytest.mark.parametrize("part", PARTS)
def test_bad_inputs_are_refused(part: list[Case]):
    before, kept = state_of(w), files_of(FOLDER)
    wrong = [f"{case.name}: {found}" for case in part if (found := refusal(case))]
    assert not wrong, "\n".join(wrong)
    assert changed(before, state_of(w)) == []
    assert files_of(FOLDER) == kept


def refusal(case: Case) -> str:
    """What is wrong with how a case is refused; nothing if it is refused well."""
    begun = time.process_time()
    try:
        case.call()
    except (ValueError, TypeError, OSError) as error:
        said, spent = str(error), time.process_time() - begun
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return "was not refused"
    if missing := [word for word in case.words if word not in said]:
        return f"{missing} is not named: {said}"
    if "\n" in said or any(words in said for words in RAW):
        return f"is no sentence of ours: {said}"
    return f"took {spent:.1f} s" if spent > LONGEST else ""


def test_the_table_is_as_long_as_it_was():
    assert len(CASES) > 2500
