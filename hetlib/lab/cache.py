"""What was expensive to compute, kept under a key made of its configuration and of the code that computes it."""

import ast
import hashlib
import inspect
import json
import os
import shutil
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from hetlib import files
from hetlib.errors import of_kind
from hetlib.lab.definitions import name_of

Result = tuple[dict[str, Tensor], dict[str, Any]]


class Cache:
    """Tensors and facts on disk, shared by notebooks and processes.

    Its folder is `root`, else ``$HETLIB_CACHE``, else ``~/.cache/hetlib``. `reused` and `computed` are the labels of
    what `fetch` found and of what it had to compute, in order.
    """

    def __init__(self, root: str | os.PathLike | None = None):
        if root is not None:
            of_kind("root", root, str, os.PathLike)
        given = Path(root or os.environ.get("HETLIB_CACHE") or Path.home() / ".cache" / "hetlib")
        # Absolute, so that it stays one place wherever a process that is told of it runs.
        self.root = given.expanduser().absolute()
        self.reused: list[str] = []
        self.computed: list[str] = []

    def key(self, config: Mapping[str, Any], uses: Sequence[Any] = ()) -> str:
        """Name a result by all that it depends on: SHA-256 over its configuration, its code and the version of torch.

        Parameters
        ----------
        config : mapping
            The full configuration: anything JSON can hold, and dataclasses. Tuples equal lists.
        uses : sequence of modules, classes, functions and texts
            The code whose change shall make the result new; a package stands for all its modules. Comments,
            docstrings and layout do not count. What this code calls elsewhere has to be listed too.

        Raises
        ------
        TypeError
            If the configuration holds something that has no plain form, or the source of a part cannot be read.
        """
        code = sorted(digest for part in uses for digest in digests(part))
        return hashlib.sha256(canonical([config, code, torch.__version__]).encode()).hexdigest()

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
        """Find a result, or compute and keep it: named tensors on the CPU, and facts as JSON gives them back.

        Of several processes that ask for one key, one computes and the others wait and read. A damaged entry is named
        in a warning and computed anew. A disk that is full or read-only is an OSError that names the file.

        Parameters
        ----------
        config, uses
            As `key`.
        compute : callable
            Called with a path of its own, where it may keep a file or folder to resume from if it is interrupted
            (removed once the result is kept). Returns named tensors, and facts that JSON can hold.
        label : str
            What the result is, for people.
        """
        key = self.key(config, uses)
        found = self._find(key, quiet=True)
        if found is None:
            with self.locked(key):
                found = self._find(key)
                if found is None:
                    self.computed.append(label or key[:8])
                    about = {"key": key, "label": label, "config": json.loads(canonical(config))}
                    return self._compute(key, compute, about)
        self.reused.append(label or key[:8])
        return found

    def _find(self, key: str, quiet: bool = False) -> Result | None:
        try:
            path = self.path(key)
            tensors, meta = files.load_tensors(path)
            if meta.get("key") != key or not isinstance(meta.get("facts"), dict):
                raise files.DamagedFile(f"{path} holds the result of another key")
            with suppress(OSError):
                os.utime(path)  # when it was last used, for `gc`
            return tensors, meta["facts"]
        except FileNotFoundError:
            return None
        except files.DamagedFile as error:
            if not quiet:
                warnings.warn(f"{error}; it is computed anew", stacklevel=4)
            return None

    def _compute(self, key: str, compute: Callable, about: dict[str, Any]) -> Result:
        scratch = self.root / "scratch" / key
        scratch.parent.mkdir(parents=True, exist_ok=True)
        tensors, facts = compute(scratch)
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        facts = json.loads(canonical(facts))
        files.save_tensors(self.path(key), tensors, about | {"facts": facts})
        shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink(missing_ok=True)
        return tensors, facts

    @contextmanager
    def locked(self, key: str, timeout: float = -1) -> Iterator[None]:
        """Hold a key's lock, alone among all processes; `TimeoutError` after `timeout` seconds, if not negative."""
        from filelock import FileLock

        lock = FileLock(self.root / "locks" / key)
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        with lock.acquire(timeout):
            yield


def canonical(value: Any) -> str:
    """A value as JSON, in one form; dataclasses with the names of their types at every depth, functions by name."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, type | FunctionType):
        return {"name": name_of(value)}
    if is_dataclass(value):
        # Values that are dataclasses themselves come here in their turn.
        return {name_of(type(value)): {field.name: getattr(value, field.name) for field in fields(value)}}
    raise TypeError(
        f"{value!r} ({type(value).__name__}) has no plain form: use numbers, text, lists, dicts or dataclasses"
    )


def digests(part: Any) -> Iterator[str]:
    """Of the code of a module, class, function or text, or of a package's modules; comments and docstrings left out."""
    try:
        if isinstance(part, str):
            yield _digest(part)
        elif isinstance(part, ModuleType):
            file = Path(part.__file__ or "")
            for module in sorted(file.parent.rglob("*.py")) if hasattr(part, "__path__") else [file]:
                yield _digest(module.read_text(encoding="utf-8"))
        else:
            yield _digest(textwrap.dedent(inspect.getsource(part)))
    except (AttributeError, OSError, SyntaxError, TypeError, UnicodeError) as error:
        raise TypeError(f"the source of {part!r} cannot be read: pass its module, or a plain function") from error


@lru_cache(maxsize=256)
def _digest(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
