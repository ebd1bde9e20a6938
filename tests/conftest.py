"""Shared by all tests: one torch thread, the folder that golden tests read, and a tiny notebook to run."""

import os
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

from hetlib.lab import records

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


def redraw(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give a network drawn weights and statistics, no two of a tensor alike; whole numbers stay."""
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if value.dim() > 1:
            value.normal_(generator=generator).mul_((2 / value[0].numel()) ** 0.5)
        elif value.dim() == 1 and not key.endswith("mean"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.dim() == 1:
            value.normal_(generator=generator).mul_(0.1)
    return model


HEAD = """
# %% [markdown]
# # Tiny

# %% tags=["parameters"]
PRESET = "smoke"
A = 0.4
N = 3
FLIP = True

# %% [markdown]
# ## The middle

# %%
"""
RECORD = records.Record(
    notebook="07_tiny",
    preset="smoke",
    parameters={},
    seeds=[],
    metrics={},
    data={"name": "shapes", "checksum": "none", "train": 0, "test": 0},
    device="cpu",
    precision="fp32",
    threads=1,
    seconds=75.0,
    peak_mib=1.0,
    commit="0123456789abcdef",
    dirty=False,
).to_json()
TAIL = f"""

# %%
import os, pathlib
pathlib.Path(os.environ["HETLIB_RUN_DIR"], "record.json").write_text({RECORD!r})
print(A, N, FLIP)
"""


@pytest.fixture
def tiny(tmp_path):
    """Write a notebook around a cell of code; it leaves a record unless told not to."""

    def write(code, record=True, name="07_tiny"):
        text = tmp_path / "notebooks" / "text" / f"{name}.py"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(HEAD.lstrip() + textwrap.dedent(code).strip() + (TAIL if record else "\n"))
        return tmp_path / "notebooks"

    return write
