"""The clone of the project: where its notebooks stand, and how they are found."""

from pathlib import Path

from hetlib.errors import unknown


def folder(start: Path | None = None) -> Path:
    """The project's `notebooks/`: of the current folder, of one above it, or of the clone hetlib was installed from.

    Outside a clone it is a FileNotFoundError.
    """
    here = (start or Path.cwd()).resolve()
    for root in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (root / "notebooks" / "text").is_dir():
            return root / "notebooks"
    raise FileNotFoundError(f"no notebooks/text in {here} or above it: run hetlib inside a clone of the project")


def names(where: Path | None = None) -> list[str]:
    """Names of all notebooks that have a text twin, in order of number."""
    return sorted(path.stem for path in ((where or folder()) / "text").glob("*.py"))


def find(name: str | Path, where: Path | None = None) -> Path:
    """The source of a notebook, by number ("3", "03"), by name with or without it, or by the path of a file.

    If nothing is called so, a ValueError names the nearest.
    """
    if Path(name).suffix in (".py", ".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    where, wanted = where or folder(), Path(name).stem
    for full in names(where):
        number, _, rest = full.partition("_")
        if wanted in (full, rest) or (wanted.isdigit() and number.isdigit() and int(wanted) == int(number)):
            return where / "text" / f"{full}.py"
    raise unknown("notebook", str(name), names(where))
