"""What a notebook or script defines itself: as text, which a key can cover and another process can run.

A class of a notebook cannot be imported by another process. So its source is looked up, and that of every function,
class and value of the notebook which it uses; the other process runs these texts, in order, before it needs the class.
"""

import ast
import inspect
import linecache
import pickle
import symtable
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType, ModuleType
from typing import Any

MAIN = {"__main__", "__mp_main__"}
"""What Python calls the notebook or script that runs, in this process and in a worker."""
LARGEST = 1 << 20
"""Bytes up to which a value of a notebook is shipped with what uses it."""
SHIPPED: dict[str, str] = {}
"""What other processes had this one define, by name."""


def inside(value: Any) -> Iterator[Any]:
    """What a value is directly made of: the fields of a dataclass, the items of a collection."""
    if is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, field.name) for field in fields(value))
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


def named(value: Any) -> Iterator[type | FunctionType]:
    """The classes and functions that a value is made of, at every depth."""
    yield value if isinstance(value, type | FunctionType) else type(value)
    for each in inside(value):
        yield from named(each)


def name_of(thing: type | FunctionType) -> str:
    """Module and name of a class or function; the same in a worker as in the notebook that it works for."""
    module = "__main__" if thing.__module__ in MAIN else thing.__module__
    return f"{module}.{thing.__qualname__}"


def portable(value: Any) -> bool:
    """Whether another process can have a value: all its classes and functions stand at the top of their module."""
    return not any("<" in thing.__qualname__ for thing in named(value))


def script(things: Iterable[type | FunctionType]) -> dict[str, str]:
    """Texts by name that define things of this notebook anew, and all that they use, in the order to run them.

    Parameters
    ----------
    things : iterable of classes and functions
        Those that are defined elsewhere are passed over. Of one that is made by a function, this function is taken.

    Raises
    ------
    TypeError
        If a source cannot be read, or one uses a value that cannot be told by a text: both are named.
    """
    texts: dict[str, str] = {}
    for thing in things:
        _check_closure(thing)
        if thing.__module__ in MAIN:
            top = thing.__qualname__.partition(".")[0]
            _add(top, thing if top == thing.__qualname__ else vars(sys.modules["__main__"])[top], texts)
    return texts


def define(texts: Mapping[str, str]) -> None:
    """Run texts of `script`, unless this process has defined the names itself or was given the same texts before."""
    main = vars(sys.modules["__main__"])
    for name, text in texts.items():
        if SHIPPED.get(name) != text and (name in SHIPPED or name not in main):
            exec(text, main)
            SHIPPED[name] = text


def _add(name: str, value: Any, texts: dict[str, str]) -> None:
    """Add the text of a name to `texts`, behind those of all names that it uses."""
    if name in texts:
        return
    texts[name] = ""  # two functions that call each other end here
    text = SHIPPED.get(name) or _text(name, value)
    main = vars(sys.modules["__main__"])
    for thing in named(value):
        if thing.__module__ in MAIN and thing.__qualname__ != name:
            _add(thing.__qualname__, thing, texts)
    for used in sorted(_global_names(text)):
        if used in main:
            try:
                _add(used, main[used], texts)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                reason = f"{name} uses {used} of this notebook ({type(main[used]).__name__})"
                raise TypeError(f"{reason}, which no key can cover: give it to {name} as a field ({error})") from error
    texts[name] = texts.pop(name) or text  # behind all that it uses


def _text(name: str, value: Any) -> str:
    """A statement that gives a name its value: an import, a definition, a literal, or else a pickle."""
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}"
    if hasattr(value, "__qualname__") and value.__module__ in MAIN:
        return ast.unparse(_source(value)) if value.__name__ == name else f"{name} = {value.__name__}"
    if isinstance(value, type | FunctionType) and "." not in value.__qualname__:
        return f"from {value.__module__} import {value.__name__} as {name}"
    if isinstance(value, bool | int | float | str | None):
        return f"{name} = {value!r}"
    content = pickle.dumps(value)
    if len(content) > LARGEST:
        raise TypeError(f"{len(content) / 2**20:.0f} MiB are too many")
    return f"{name} = __import__('pickle').loads({content!r})"


def _source(thing: Any) -> ast.stmt:
    """The statement that defines a class or function. Notebooks keep the text of their cells in `linecache`."""
    functions = vars(thing).values() if isinstance(thing, type) else [inspect.unwrap(thing)]
    files = [each.__code__.co_filename for each in functions if isinstance(each, FunctionType)]
    for file in (*files, *reversed(linecache.cache)):
        try:
            tree = ast.parse("".join(linecache.getlines(file)))
        except SyntaxError:
            continue
        for node in reversed(tree.body):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == thing.__name__:
                return node
    raise TypeError(f"the source of {thing.__qualname__} cannot be read: define it in a cell or file of its own")


def _global_names(text: str) -> set[str]:
    """The names that a text reads from the module that it stands in."""

    # Python's own tables of symbols, one for each scope, say which names are not local to it. In the outermost scope
    # these are the names that are read and never assigned there.
    def read(table: symtable.SymbolTable) -> Iterator[str]:
        for symbol in table.get_symbols():
            outermost = table.get_type() == "module" and not symbol.is_assigned()
            if symbol.is_referenced() and (outermost or symbol.is_global()):
                yield symbol.get_name()
        for child in table.get_children():
            yield from read(child)

    return set(read(symtable.symtable(text, "notebook", "exec")))


def _check_closure(thing: type | FunctionType) -> None:
    """Raise if a function, or a method of a class, reads a variable of the function that it was made in."""
    functions = [thing] if isinstance(thing, FunctionType) else [*vars(thing).values()]
    for each in functions:
        # Methods that `dataclass` makes have closures as well, of its own.
        own = isinstance(each, FunctionType) and each.__code__.co_qualname.startswith(thing.__qualname__)
        if own and (taken := set(each.__code__.co_freevars) - {"__class__"}):
            told = f"{thing.__qualname__} takes {', '.join(sorted(taken))} from the function around it"
            raise TypeError(f"{told}, which no key can cover: make it a field")
