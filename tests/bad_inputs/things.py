"""Data sets, files, networks by name, chains, and the lab's jobs."""

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from math import nan
from pathlib import Path

import torch
from torch import nn

from hetlib import data, files, zoo
from hetlib.chain import chain
from hetlib.lab import Cache, Job, train
from hetlib.training import Recipe, fit
from hetlib.transfer import Copy, SameName, Transfer
from tests.bad_inputs.world import (
    COUNTS,
    NAMES,
    NETWORKS,
    NOT_NEGATIVE,
    POSITIVE,
    SEEDS,
    SHARES,
    Case,
    but,
    each,
    one,
    w,
)

FOLDER = Path(tempfile.mkdtemp(prefix="bad-inputs-"))
"""Files that are bad; no case may change them."""


def of_data() -> Iterator[Case]:
    yield from each("load name", "data set", data.load, ["digit", "", None, 3, ["digits"], nan])
    yield from each("load split", "split", lambda v: data.load("digits", v), [*NAMES[:4], "validation", ["train"]])
    yield from each("load per_class", "per_class", lambda v: data.load("digits", per_class=v), [*COUNTS, 10**6])
    yield from each("load draw", "draw", lambda v: data.load("digits", per_class=1, draw=v), SEEDS)
    for option, bad in (("count", COUNTS), ("seed", SEEDS), ("noise", NOT_NEGATIVE)):
        yield from each(f"load shapes {option}", option, lambda v, o=option: data.load("shapes-source", **{o: v}), bad)
    yield from each(
        "load faces count",
        "count",
        lambda v: data.load("faces", count=v),
        [v for v in COUNTS if not isinstance(v, list | torch.Tensor)],
    )
    yield from each(
        "load faces size", "size", lambda v: data.load("faces", count=1, size=v), [0, -1, 1.5, "3", None, True]
    )
    yield one("load option", "per_clas per_class", lambda: data.load("digits", per_clas=1))
    yield one("load attribute", "attribute Bangz", lambda: data.load("faces:Bangz", count=1))
    yield from each("load task", "task", lambda v: data.load(v), ["digits:main", "digits:main 3/2"])
    yield one("load task of no classes", "parts", lambda: data.load("digits:main 1/99"))
    yield from each("load folder", "folder", lambda v: data.load(v), ["imagefolder:/no/such", "imagefolder:"])
    yield from each("load root", "root", lambda v: data.load("cifar10", root=v), [3, ["x"], 1.5])
    yield one("load missing", "cifar-10", lambda: data.load("cifar10", root=FOLDER / "none"))
    yield from each("few_shot per_class", "per_class", lambda v: data.few_shot(w.train, v), COUNTS)
    yield from each("few_shot seed", "seed", lambda v: data.few_shot(w.train, 1, v), [*SEEDS, None])
    yield from each("few_shot data", "data", lambda v: data.few_shot(v, 1), [None, "digits", 3, w.images])
    yield from each("sample count", "count", lambda v: data.sample(w.train, v), COUNTS)
    yield from each("sample seed", "seed", lambda v: data.sample(w.train, 2, v), [*SEEDS, None])
    yield from each("sample data", "data", lambda v: data.sample(v, 1), [None, "digits", 3, w.images])
    groups = [[[9]], [[0], [0]], [[-1]], [[0.5]], [["a"]], [[True]], 3, None, [3], [None]]
    yield from each("class_split groups", "classes", lambda v: data.class_split(w.train, v), groups)
    labels = [-1, 9, 1.5, "1", None, nan, True, torch.ones(2)]
    yield from each("skill_split label", "label", lambda v: data.skill_split(w.train, v), labels)
    yield from each("skill_split share", "share", lambda v: data.skill_split(w.train, 1, v), SHARES)
    yield from each("skill_split seed", "seed", lambda v: data.skill_split(w.train, 1, seed=v), SEEDS)
    indices = [[99], [-1], [0.5], ["a"], None, [[0]], torch.ones(3, dtype=torch.bool), 3, [True]]
    yield from each("subset indices", "indices", lambda v: w.train.subset(v), indices[:6] + indices[7:8])
    yield from each("subset mask", "mask", lambda v: w.train.subset(v), [indices[6], indices[8]])
    generator = torch.Generator()
    yield from each("augment pad", "pad", lambda v: data.augment(w.train.images, generator, v), but(COUNTS, 0))
    yield from each("augment images", "images", lambda v: data.augment(v, generator), [None, 3, torch.ones(3), "x"])
    yield from each(
        "normalise mean",
        "mean",
        lambda v: data.normalise(w.train.images, v, (1.0,)),
        [(1.0, 2.0), ("a",), None, (nan,)],
    )
    yield from each(
        "normalise std",
        "std",
        lambda v: data.normalise(w.train.images, (0.0,), v),
        [(1.0, 2.0), ("a",), None, (0.0,), (nan,)],
    )
    fields = {
        "images": [None, "x", torch.zeros(16, 8, 8, dtype=torch.uint8), torch.zeros(16, 1, 8, 8)],
        "labels": [None, "x", torch.zeros(3, dtype=torch.int64), torch.zeros(16), torch.zeros(16, dtype=torch.bool)],
        "classes": [None, 3, "abcd", [1, 2, 3, 4]],
        "mean": [None, (), (0.5, 0.5), ("a",), (nan,)],
        "std": [None, (), (0.5, 0.5), ("a",), (nan,), (0.0,)],
    }
    for field, bad in fields.items():
        yield from each(f"Images {field}", field, lambda v, f=field: replace(w.train, **{f: v}), bad)


def _safetensors(header: object, content: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def _hostile() -> dict[str, bytes]:
    deep = "[" * 100_000 + "]" * 100_000
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    many = {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)}
    whole = files.save_tensors(FOLDER / "whole.safetensors", {"a": torch.ones(9)}, {}).read_bytes()
    return {
        "empty": b"",
        "text": b"not a file of tensors",
        "nested": _safetensors({"__metadata__": {"meta": deep}, "a": entry}, b"0000"),
        "declared": _safetensors(
            {"__metadata__": {"meta": "{}"}, "a": entry | {"shape": [2**31], "data_offsets": [0, 2**33]}}, b"0000"
        ),
        "header": _safetensors(b"{}", length=2**33),
        "names": _safetensors({"__metadata__": {"meta": "{}"}} | many),
        "truncated": whole[:-5],
        "altered": whole[:-1] + b"\x01",
        "list": _safetensors({"__metadata__": {"meta": "[]"}, "a": entry}, b"0000"),
        "plain": _safetensors({"a": entry}, b"0000"),
        "pickle": b"\x80\x04N.",
    }


def of_files() -> Iterator[Case]:
    FOLDER.mkdir(exist_ok=True)
    for name, content in _hostile().items():
        (FOLDER / name).write_bytes(content)
        yield one(f"load_tensors {name}", name, lambda p=FOLDER / name: files.load_tensors(p))
    os.mkfifo(FOLDER / "pipe")
    (FOLDER / "loop").symlink_to(FOLDER / "loop")
    (FOLDER / "link").symlink_to(FOLDER / "nowhere")
    (FOLDER / "folder").mkdir()
    for name in ("pipe", "loop", "link", "folder", "none"):
        yield one(f"load_tensors {name}", name, lambda p=FOLDER / name: files.load_tensors(p))
        yield one(f"load_meta {name}", name, lambda p=FOLDER / name: files.load_meta(p))
    yield from each("load_tensors path", "path", files.load_tensors, [None, 3, ["a"], 1.5])
    few = {"epochs": 1, "batch_size": 8, "augment": False}
    yield from each(
        "fit checkpoint", "checkpoint", lambda v: fit(w.a, w.train, checkpoint=v, **few), [3, ["a"], 1.5, True]
    )
    for path in ("/proc/none/x.safetensors", FOLDER / "text" / "x.safetensors", FOLDER / "folder"):
        yield one(f"fit checkpoint {Path(path).name}", str(path), lambda p=path: fit(w.a, w.train, checkpoint=p, **few))
    for name in ("pipe", "loop"):
        yield one(f"fit checkpoint {name}", name, lambda p=FOLDER / name: fit(w.a, w.train, checkpoint=p, **few))
    yield one("save_tensors value", "odd", lambda: files.save_tensors(FOLDER / "new", {"odd": object()}, {}))
    yield one("save_tensors meta", "meta", lambda: files.save_tensors(FOLDER / "new", {}, {"odd": object()}))
    yield one("save_tensors folder", "/proc", lambda: files.save_tensors("/proc/none/x", {}, {}))
    yield one(
        "save_tensors lazy", "weight", lambda: files.save_tensors(FOLDER / "new", {"weight": w.lazy[0].weight}, {})
    )
    yield one(
        "save_tensors meta device",
        "weight",
        lambda: files.save_tensors(FOLDER / "new", {"weight": w.meta_a.conv1.weight}, {}),
    )


def of_networks() -> Iterator[Case]:
    yield from each("build name", "model", zoo.build, NAMES)
    for option in ("num_classes", "in_channels"):
        yield from each(f"build {option}", option, lambda v, o=option: zoo.build("resnet8", **{o: v}), COUNTS)
    yield from each("build width", "width", lambda v: zoo.build("resnet8", width=v), POSITIVE)
    yield from each(
        "build kernel_size", "kernel_size", lambda v: zoo.build("plainnet5", kernel_size=v), [*COUNTS[:-1], 2]
    )
    yield from each(
        "build hidden", "hidden", lambda v: zoo.build("mlp", hidden=v), [3, None, [0], [1.5], ["a"], [True], "ab"]
    )
    yield from each("build in_features", "in_features", lambda v: zoo.build("mlp", in_features=v), COUNTS[:-1])
    yield from each("build image_size", "image_size", lambda v: zoo.build("vgg8", image_size=v), COUNTS)
    yield from each("build widths", "widths", lambda v: zoo.build("vgg8", widths=v), [3, [], [0], "ab", [1.5], [None]])
    yield from each("build shortcut", "shortcut", lambda v: zoo.build("resnet20", shortcut=v), NAMES)
    yield one("build option", "hiden hidden", lambda: zoo.build("mlp", hiden=(3,)))
    yield one("build torchvision", "resnet18", lambda: zoo.build("torchvision/resnet8"))
    yield from each("chain model", "model", chain, NETWORKS)
    yield from each("chain example", "example", lambda v: chain(w.a, v), ["x", 3, [1.0], w.b])
    yield one("chain lazy", "weights", lambda: chain(w.lazy))
    yield one("chain without layers", "Conv2d", lambda: chain(nn.Sequential(nn.ReLU())))


def of_jobs() -> Iterator[Case]:
    job = lambda **how: Job(**{"model": "resnet8", "data": "digits", "recipe": Recipe(epochs=1)} | how)
    yield from each("Job seed", "seed", lambda v: job(seed=v), [*SEEDS, None])
    yield from each("Job order", "order", lambda v: job(order=v), [[1, 2], "x", 1.5, True, 2**70, torch.ones(2)])
    yield from each("Job recipe", "recipe", lambda v: job(recipe=v), [None, "fast", {"epochs": 1}])
    yield from each("Job model", "model", lambda v: job(model=v), [None, 3, w.a])
    yield from each("Job data", "data", lambda v: job(data=v), [None, 3, w.train])
    yield from each("Job options", "options", lambda v: job(options=v), [None, 3, "x", [1]])
    yield from each("Job data_options", "data_options", lambda v: job(data_options=v), [None, 3, "x", [1]])
    yield from each(
        "Job sources",
        "source",
        lambda v: job(sources=v, transfer=Transfer(SameName(), (Copy(),))),
        [3, None, [3], ["a"], [w.a]],
    )
    yield from each("Job transfer", "transfer", lambda v: job(sources=[job()], transfer=v), [3, "hmt", SameName, None])
    yield from each("Job objective", "objective", lambda v: job(objective=v), [3, "ce"])
    yield one("Job transfer alone", "sources", lambda: job(transfer=Transfer(SameName(), (Copy(),))))
    yield from each("train job", "job", lambda v: train(v, Cache(FOLDER / "cache")), [None, 3, "x"])
    yield from each("train cache", "cache", lambda v: train(job(), v), [None, 3, "x"])
    yield from each("Cache root", "root", Cache, [3, ["a"], 1.5])


def cases() -> Iterator[Case]:
    for part in (of_data, of_files, of_networks, of_jobs):
        yield from part()
