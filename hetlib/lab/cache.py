"""What was expensive to compute, kept under a key made of its configuration and of the code that computes it."""

import ast
import errno
import hashlib
import inspect
import json
import logging
import os
import shutil
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hetlib import files

Result = tuple[dict[str, Tensor], dict[str, Any]]

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
SHOWN = 2
"""Labels of reused results that are named in one line."""
log = logging.getLogger("hetlib.cache")


class Cache:
    """Tensors and facts on disk, shared by notebooks and processes.

    Parameters
    ----------
    root : path-like, optional
        Folder of the entries; by default ``$HETLIB_CACHE``, else ``~/.cache/hetlib``.

    Attributes
    ----------
    reused, computed : list of str
        Labels of what `fetch` found and of what it had to compute, in order.
    """

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = Path(root or os.environ.get("HETLIB_CACHE") or Path.home() / ".cache" / "hetlib").expanduser()
        self.reused: list[str] = []
        self.computed: list[str] = []
        self._complained = False

    @property
    def hits(self) -> int:
        """How often `fetch` found what it was asked for."""
        return len(self.reused)

    @property
    def misses(self) -> int:
        """How often `fetch` had to compute."""
        return len(self.computed)

    def __str__(self) -> str:
        few, more = ", ".join(self.reused[:SHOWN]), len(self.reused) - SHOWN
        reused = f" from {self.root}: {few}{f' and {more} more' if more > 0 else ''}" if few else ""
        return f"computed {self.misses}, reused {self.hits}{reused}"

    def key(self, config: Mapping[str, Any], uses: Sequence[Any] = ()) -> str:
        """Name a result by all that it depends on.

        Parameters
        ----------
        config : mapping
            The full configuration: anything JSON can hold, and dataclasses. Tuples equal lists.
        uses : sequence of modules, classes and functions
            The code whose change shall make the result new; a package stands for all its modules. Comments,
            docstrings and layout do not count. What this code calls elsewhere has to be listed too.

        Returns
        -------
        str
            SHA-256 in hexadecimal over the configuration, the code and the version of torch.

        Raises
        ------
        TypeError
            If the configuration holds something that has no plain form, or the source of a part cannot be read.
        """
        code = sorted(text for part in uses for text in _sources(part))
        return hashlib.sha256(_canonical([config, code, torch.__version__]).encode()).hexdigest()

    def path(self, key: str) -> Path:
        """Where the entry of a key is, or would be."""
        return self.root / "entries" / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        """Whether there is an entry for a key; it is read, and checked, only by `fetch`."""
        return self.path(key).is_file()

    def find(self, config: Mapping[str, Any], uses: Sequence[Any] = ()) -> Result | None:
        """The result that `fetch` would find, or None where it would have to compute."""
        return self._find(self.key(config, uses), quiet=True)

    def fetch(
        self,
        config: Mapping[str, Any],
        compute: Callable[[Path], tuple[Mapping[str, Tensor], Mapping[str, Any]]],
        uses: Sequence[Any] = (),
        label: str = "",
    ) -> Result:
        """Find a result, or compute and keep it.

        Of several processes that ask for one key, one computes and the others wait and read. A damaged entry is named
        in a warning and computed anew; where nothing can be kept, one warning says so and the result is returned all
        the same.

        Parameters
        ----------
        config, uses
            As `key`.
        compute : callable
            Called with a path of its own, where it may keep a file or folder to resume from if it is interrupted
            (removed once the result is kept). Returns named tensors, and facts that JSON can hold.
        label : str
            What the result is, for people.

        Returns
        -------
        tensors : dict of str to Tensor
            On the CPU.
        facts : dict
            As JSON gives them back (tuples are lists), whether found or computed.
        """
        key = self.key(config, uses)
        found = self._find(key, quiet=True)
        if found is None:
            with self.locked(key):
                found = self._find(key)
                if found is None:
                    self.computed.append(label or key[:8])
                    about = {"key": key, "label": label, "config": json.loads(_canonical(config))}
                    return self._compute(key, compute, about)
        self.reused.append(label or key[:8])
        log.info("reused %s (%s)", label, key[:8])
        return found

    def _find(self, key: str, quiet: bool = False) -> Result | None:
        try:
            path = self.path(key)
            tensors, meta = files.load_tensors(path)
            if meta.get("key") != key:
                raise files.DamagedFile(f"{path} holds the result of another key")
            with suppress(OSError):
                os.utime(path)  # when it was last of use, for `gc`
            return tensors, meta["facts"]
        except FileNotFoundError:
            return None
        except OSError as error:
            if not quiet:
                warnings.warn(f"{error}; it is computed anew", stacklevel=4)
            return None

    def _compute(self, key: str, compute: Callable, about: dict[str, Any]) -> Result:
        scratch = self.root / "scratch" / key
        try:
            scratch.parent.mkdir(parents=True, exist_ok=True)
            tensors, facts = compute(scratch)
        except OSError as error:
            if error.errno not in DISK_TROUBLE and str(self.root) not in str(error):
                raise  # not the cache's disk
            self._complain(error)
            tensors, facts = _elsewhere(scratch, compute)
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        facts = json.loads(_canonical(facts))
        try:
            files.save_tensors(self.path(key), tensors, about | {"facts": facts})
            _remove(scratch)
        except OSError as error:
            self._complain(error)
        return tensors, facts

    @contextmanager
    def locked(self, key: str, timeout: float = -1) -> Iterator[None]:
        """Hold a key's lock, alone among all processes; `TimeoutError` after `timeout` seconds, if not negative."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / "locks" / key)
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout)
        except Timeout:
            raise
        except (OSError, NotImplementedError) as error:
            self._complain(error)
        try:
            yield
        finally:
            lock.release()

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            warnings.warn(
                f"the cache {self.root} cannot be written: results are computed, but not kept ({error})",
                stacklevel=5,
            )


def _elsewhere(scratch: Path, compute: Callable) -> Any:
    with tempfile.TemporaryDirectory(prefix="hetlib-") as folder:
        spare = Path(folder) / "scratch"
        if scratch.is_dir():
            shutil.copytree(scratch, spare)
        elif scratch.is_file():
            shutil.copyfile(scratch, spare)
        return compute(spare)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: asdict(value)}
    raise TypeError(
        f"{value!r} ({type(value).__name__}) has no plain form: use numbers, text, lists, dicts or dataclasses"
    )


def _sources(part: Any) -> Iterator[str]:
    """The code of a module, class or function, or of every module of a package, without comments and docstrings."""
    try:
        if isinstance(part, ModuleType):
            file = Path(part.__file__ or "")
            for module in sorted(file.parent.rglob("*.py")) if hasattr(part, "__path__") else [file]:
                yield _bare(module.read_text(encoding="utf-8"))
        else:
            yield _bare(textwrap.dedent(inspect.getsource(part)))
    except (AttributeError, OSError, SyntaxError, TypeError, UnicodeError) as error:
        raise TypeError(f"the source of {part!r} cannot be read: pass its module, or a plain function") from error


@lru_cache(maxsize=256)
def _bare(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)
