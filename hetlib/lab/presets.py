"""How big a run is, on what it runs, and where what it leaves goes."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch

from hetlib import files
from hetlib.data import Images
from hetlib.errors import unknown
from hetlib.lab import figures, records
from hetlib.lab.cache import Cache
from hetlib.parameters import PRESETS, check
from hetlib.training import use_bf16

SEEDS = {"smoke": 1, "classroom": 3, "reduced": 3, "paper": 5}


def unattended() -> bool:
    """Whether the runner said, by ``$HETLIB_HEADLESS``, that it shows the progress itself."""
    return os.environ.get("HETLIB_HEADLESS", "0") != "0"


def headless() -> bool:
    """Whether nobody can click: the runner said so by ``$HETLIB_HEADLESS``, or this is not a notebook's kernel.

    Papermill executes in a kernel like any other, so a kernel alone proves no reader.
    """
    if unattended():
        return True
    from IPython import get_ipython

    return not hasattr(get_ipython(), "kernel")


@dataclass(frozen=True, repr=False)
class Run:
    """One run of a notebook, from `start` to its record, which goes into `folder`.

    `device` is "cuda" where there is one, else "cpu"; `precision` "bf16" where the device has arithmetic for it, else
    "fp32"; `threads` torch's threads within an operation; `begun` the start, in seconds of `time.perf_counter`.
    """

    notebook: str
    preset: str
    data: str | None
    seeds: tuple[int, ...]
    parameters: dict[str, Any]
    device: str
    precision: str
    threads: int
    cache: Cache
    folder: Path
    begun: float = field(default_factory=time.perf_counter)

    def record(
        self, metrics: Mapping[str, Any], data: tuple[Images, Images] | Mapping[str, Any], **facts: Any
    ) -> records.Record:
        """Write what this run found into its folder.

        Parameters
        ----------
        metrics : mapping
            Name to ``{"unit": str, "values": [one number per seed]}``.
        data : pair of Images, or mapping
            Training and test images, or the record's `data` field itself.
        **facts
            Anything else to remember, as JSON can hold it; what the cache gave and what was computed is added.

        Raises
        ------
        ValueError
            If a metric lacks a value per seed, or a field has no plain form; each is named.
        """
        if not isinstance(data, Mapping):
            train, test = data
            data = {"name": train.name, "checksum": train.checksum, "train": len(train), "test": len(test)}
        record = records.Record(
            notebook=self.notebook,
            preset=self.preset,
            parameters=self.parameters,
            seeds=list(self.seeds),
            metrics=dict(metrics),
            data=dict(data),
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            seconds=time.perf_counter() - self.begun,
            peak_mib=records.peak_memory(self.device),
            facts=facts | {"cache": {"computed": self.cache.computed, "reused": self.cache.reused}},
            failure="it has not ended" if unattended() else None,  # the runner says when it has
        )
        files.write(records.path(self.folder), record.to_json())
        return record

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        data = [f"data {self.data}"] if self.data else []
        seeds = f"seeds {', '.join(map(str, self.seeds))}"
        return " · ".join([f"{self.notebook}: {self.preset}", *data, self.device, threads, self.precision, seeds])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p style='border-left:4px solid {figures.PALETTE['blue']};padding:0.2em 0.8em'>{escape(str(self))}</p>"


def start(
    notebook: str,
    preset: str = "classroom",
    data: str | None = None,
    seeds: int | Sequence[int] | None = None,
    cache: Cache | str | os.PathLike | None = None,
    precision: str = "auto",
    zoom: float = 1.0,
    **parameters: Any,
) -> Run:
    """Begin a notebook: set torch's threads and the figures' style, and show one line about the run.

    Parameters
    ----------
    notebook : str
        Its name, as "01_hmt".
    preset : {"smoke", "classroom", "reduced", "paper"}
        How big the run is.
    data : str, optional
        A data set instead of the preset's own.
    seeds : int or sequence of int, optional
        How many seeds, from 0 on, or which; by default 1, 3, 3 and 5 for the four presets.
    cache : Cache or path-like, optional
        Where results are kept; by default as `Cache`.
    precision : {"auto", "fp32", "bf16"}
        "auto" takes bf16 where the device has arithmetic for it.
    zoom : float
        Size of the figures: 1 fits a laptop, 1.5 a projector.
    **parameters
        The notebook's other parameters, for the record.

    Raises
    ------
    ValueError
        If the preset or precision is unknown, there is no seed, the zoom is out of range, or a parameter of the
        notebook is what it cannot be.
    """
    from IPython.display import display

    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    # A mistake in the cell of parameters is told here, before anything is trained.
    check(notebook, vars(sys.modules["__main__"]) | ({"SEEDS": seeds} if isinstance(seeds, int) else {}))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "bf16" if use_bf16(precision, device) else "fp32"
    if seeds is None:
        seeds = SEEDS[preset]
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen:
        raise ValueError(f"a run needs at least one seed, got {seeds!r}")
    if device == "cpu":
        # Small networks gain nothing from more, and parallel trainings would fight for the cores.
        torch.set_num_threads(1)
    figures.style(zoom)
    kept = cache if isinstance(cache, Cache) else Cache(cache)
    folder = Path(os.environ.get("HETLIB_RUN_DIR") or f"runs/{notebook}-{preset}")
    run = Run(notebook, preset, data, chosen, parameters, device, precision, torch.get_num_threads(), kept, folder)
    display(run)
    return run
