"""Files that are either whole or absent: written beside, flushed, renamed; read only when their checksum holds.

Values that are no tensors, such as the extra state of a module, are kept as the tensors in them and as JSON.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn.parameter import is_lazy

from hetlib.errors import of_kind

DEEPEST = 100
"""How deep the lists and objects of a JSON text may stand in one another."""
MOST = 100_000
"""How many tensors a file may hold."""


class DamagedFile(OSError):
    """A file exists but is truncated, altered, or not what its name says."""


def write(path: str | os.PathLike, content: str | bytes) -> Path:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part.

    Parameters
    ----------
    path : path-like
        Where the file shall be; missing folders are made.
    content : str or bytes
        The whole content; text is encoded as UTF-8.

    Returns
    -------
    Path
        The path written.

    Raises
    ------
    OSError
        If the disk is full or read-only. The message names the file; what stood there before is intact.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(
                error.errno, f"could not write {path} ({error.strerror}); what was there is unchanged"
            ) from error
        raise
    return path


def parse(text: str) -> Any:
    """The value of a JSON text; a ValueError if it is none, is nested too deep, or holds half a character."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(f"nested more than {DEEPEST} deep") from error
    level, depth = [value], 0
    while level:
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level, depth = [each for some in inner for each in some], depth + 1
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    return value


def read(path: str | os.PathLike, largest: int) -> str:
    """The text of a file, which others may have put there: a pipe or a device is not opened, a huge file not read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no regular file, has more bytes than `largest`, or is no UTF-8; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        kind = ValueError if path.exists() else FileNotFoundError
        raise kind(f"{path} is no file" if path.exists() else f"no file at {path}")
    if (size := path.stat().st_size) > largest:
        raise ValueError(f"{path} has {size:,} bytes, and {largest:,} are the most")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}") from error


def save_tensors(path: str | os.PathLike, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
    """Write tensors and JSON-able facts about them as one safetensors file with a checksum.

    What stands under several names is written once.

    Parameters
    ----------
    path : path-like
        Where the file shall be.
    tensors : mapping of str to Tensor
        What to keep; moved to the CPU and made contiguous. Numbers, text, None, and lists, tuples and dicts of these
        and of tensors are kept as well.
    meta : mapping
        Plain facts stored in the file's header as JSON.

    Raises
    ------
    ValueError
        If something is of another kind; it is named.
    OSError
        As `write`.
    """
    of_kind("path", path, str, os.PathLike)
    flat, coded = as_tensors(tensors)
    first: dict[tuple, str] = {}
    owner = {name: first.setdefault(_memory(name, tensor), name) for name, tensor in flat.items()}
    plain = {name: _plain(flat[name]) for name in first.values()}
    try:
        text = json.dumps(dict(meta), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta holds what JSON cannot: {error}") from error
    header, same = {"meta": text}, {name: other for name, other in owner.items() if name != other}
    if coded or same:
        header["form"] = json.dumps({"coded": coded, "same": same})
    whole = {name: plain[other] for name, other in owner.items()}
    return write(path, to_bytes(plain, header | {"sha256": _digest(whole, text + header.get("form", ""))}))


def _memory(name: str, tensor: Tensor) -> tuple:
    """Equal for tensors that are the same memory, read in the same way."""
    if not tensor.numel():
        return (name,)
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride()


def _plain(tensor: Tensor) -> Tensor:
    held = tensor.detach().cpu().contiguous()
    # safetensors takes no views of one storage.
    return held if held.untyped_storage().nbytes() == held.nbytes else held.clone()


def as_tensors(values: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Values as tensors alone, and the names of those that were none: JSON's bytes, and what tensors are in them.

    Raises
    ------
    ValueError
        If a value is neither a tensor nor JSON's, nor made of these; it is named.
    """
    tensors: dict[str, Tensor] = {}
    coded = [name for name, value in values.items() if not isinstance(value, Tensor)]
    for name, value in values.items():
        if isinstance(value, Tensor):
            if is_lazy(value) or value.is_meta:
                raise ValueError(f"{name} has no values yet: it is lazy, or on meta")
            tensors[name] = value
            continue
        inner: list[Tensor] = []
        text = json.dumps(_coded(name, value, inner)).encode()
        tensors[name] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        tensors |= {f"{name}[{number}]": tensor for number, tensor in enumerate(inner)}
    return tensors, coded


def _coded(name: str, value: Any, tensors: list[Tensor]) -> Any:
    """A value as JSON has it, each list, tuple, dict and tensor told by its kind; the tensors are put aside."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, dict) and type(value) in (dict, OrderedDict) and all(type(key) is str for key in value):
        return {"dict": {key: _coded(f"{name}[{key!r}]", each, tensors) for key, each in value.items()}}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_coded(f"{name}[{i}]", each, tensors) for i, each in enumerate(value)]}
    if value is None or type(value) in (bool, int, float, str):
        return value
    kept = "tensors, numbers, text, None, and lists, tuples and dicts (with text for keys) of these"
    raise ValueError(f"{name} is a {type(value).__name__}, which no file keeps: only {kept}")


def _decoded(value: Any, tensors: list[Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {key: _decoded(each, tensors) for key, each in held.items()}
    return {"list": list, "tuple": tuple}[kind](_decoded(each, tensors) for each in held)


def load_tensors(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `save_tensors` wrote, after checking that every byte is the one written.

    Returns
    -------
    tuple of dict
        The tensors by name, as one where they were one, and the facts.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DamagedFile
        If the file is truncated or altered; the message names it.
    """
    meta, header = _header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        form = parse(header.get("form", '{"coded": [], "same": {}}'))
        tensors |= {name: tensors[other] for name, other in form["same"].items()}
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{path} is truncated or was not written by hetlib ({error})") from error
    if header.get("sha256") != _digest(tensors, header["meta"] + header.get("form", "")):
        raise DamagedFile(f"{path} was altered: its checksum does not match its content")
    for name in form["coded"]:
        count = sum(other.startswith(f"{name}[") for other in tensors)
        inner = [tensors.pop(f"{name}[{number}]") for number in range(count)]
        tensors[name] = _decoded(json.loads(tensors[name].numpy().tobytes()), inner)
    return tensors, meta


def load_meta(path: str | os.PathLike) -> dict[str, Any]:
    """The facts alone of what `save_tensors` wrote, unchecked; errors as in `load_tensors`."""
    return _header(path)[0]


def _header(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """The facts, and the header that they stand in as text."""
    of_kind("path", path, str, os.PathLike)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}")
    if not path.is_file():  # a pipe would be waited for
        raise DamagedFile(f"{path} is no file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if (names := len(file.keys())) > MOST:
                raise ValueError(f"{names:,} tensors, and {MOST:,} are the most")
        meta = parse(header["meta"])
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedFile(f"{path} is truncated or was not written by hetlib ({error})") from error
    if not isinstance(meta, dict):
        raise DamagedFile(f"{path} was not written by hetlib: its facts are no object")
    return meta, header


def checksum(tensors: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of `tensors`, in order of name; what no file keeps, by its `repr`."""
    held: dict[str, Any] = {}
    text = ""
    for name in sorted(tensors):
        try:
            held |= as_tensors({name: tensors[name]})[0]
        except ValueError:
            text += f"{name} {tensors[name]!r}"
    return _digest(held, text)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
