"""Shared by all tests: one torch thread, and the folders that golden and real-data tests read."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("hetlib", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("hetlib")


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Folder with inputs and outputs of the papers' released code."""
    folder = os.environ.get("HETLIB_VECTORS")
    if not folder:
        pytest.skip("$HETLIB_VECTORS is not set: no vectors of the released code to compare with")
    assert Path(folder).is_dir(), f"$HETLIB_VECTORS names {folder}, which is no folder"
    return Path(folder)
