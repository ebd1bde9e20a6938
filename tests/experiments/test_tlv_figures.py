"""Pictures of TLV: what they show is what they were given, and they stay small."""

import io

import pytest
import torch
from PIL import Image

from hetlib.experiments import tlv_figures
from hetlib.lab import figures


def size(figure) -> int:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return len(buffer.getvalue())


def test_numbered_tables_show_every_number_and_leave_the_rest_grey():
    figure = tlv_figures.numbered(
        {"source": torch.arange(6).view(2, 3), "result": torch.tensor([[4, -1]])}, per_colour=3
    )
    source, result = figure.axes
    assert [text.get_text() for text in source.texts] == list("012345")
    assert [text.get_text() for text in result.texts] == ["4"]
    assert source.images[0].get_array().tolist() == [[0, 0, 0], [1, 1, 1]]
    assert result.images[0].get_array().mask.tolist() == [[False, True]]
    assert size(figure) < 60_000


def test_an_animation_is_a_small_animated_png():
    frames = [figures.curves(None, {"HMT": [[step, step + 1]]}, title=f"step {step}") for step in range(3)]
    shown = tlv_figures.animation(frames, seconds=0.5)
    with Image.open(io.BytesIO(shown.data)) as picture:
        assert (picture.format, picture.n_frames, picture.info["duration"]) == ("PNG", 3, 500)
    assert len(shown.data) < 60_000
    with pytest.raises(ValueError, match="at least one frame"):
        tlv_figures.animation([])
