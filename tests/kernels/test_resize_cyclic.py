"""The resize kernel against a plain loop, the released code's outputs, and its own laws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.kernels.resize_cyclic import resize
from tests import oracles

sizes = st.integers(1, 9)
kernels = st.sampled_from([1, 2, 3, 5, 7])
odd = st.sampled_from([1, 3, 5, 7])
HOWS = [{}, {"align_corners": True}, {"antialias": True}, {"resizer": "nearest"}, {"resizer": "zero"}]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(sizes, sizes, kernels, sizes, sizes, kernels, st.booleans())
def test_equals_the_plain_loop(o, i, k, out, inp, size, align):
    weight = draw(o, i, k, k, seed=o * 100 + i)
    expected = oracles.resize(weight, (out, inp, size, size), align)
    torch.testing.assert_close(resize(weight, (out, inp, size, size), align), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", HOWS)
@given(st.tuples(sizes, sizes, odd, odd), st.tuples(sizes, sizes, odd, odd))
def test_both_axes_of_a_kernel_are_resampled(how, source, shape):
    """Odd lengths alone, since between those no tap lies half way between two: "nearest" has no ties to break."""
    weight = draw(*source, seed=sum(source))
    expected = oracles.resize(weight, shape, **how)
    torch.testing.assert_close(resize(weight, shape, **how), expected, rtol=1e-12, atol=1e-12)


@given(st.tuples(sizes, sizes, kernels, kernels), st.tuples(sizes, sizes, kernels, kernels), st.booleans())
def test_even_lengths_are_interpolated_likewise(source, shape, align):
    weight = draw(*source, seed=sum(source))
    expected = oracles.resize(weight, shape, align)
    torch.testing.assert_close(resize(weight, shape, align), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", HOWS)
@given(st.tuples(kernels, kernels), st.tuples(kernels, kernels))
def test_rows_and_columns_are_alike(how, kernel, size):
    weight = draw(3, 2, *kernel)
    across = resize(weight.mT, (3, 2, *size[::-1]), **how)
    torch.testing.assert_close(resize(weight, (3, 2, *size), **how), across.mT, rtol=1e-12, atol=1e-12)


def test_a_row_of_taps_becomes_a_column_and_a_square():
    """A 1x7 kernel has one tap down: it is repeated down by interpolation, and stands between zeros by padding."""
    row = torch.arange(1.0, 8).view(1, 1, 1, 7)
    assert torch.equal(resize(row, (1, 1, 7, 1)).flatten(), torch.full((7,), 4.0))
    torch.testing.assert_close(resize(row, (1, 1, 7, 7))[0, 0], row[0, 0].expand(7, 7))
    assert torch.equal(resize(row, (1, 1, 7, 1), resizer="zero").flatten(), torch.tensor([0.0, 0, 0, 4, 0, 0, 0]))
    padded = resize(row, (1, 1, 3, 9), resizer="zero")[0, 0]
    assert torch.equal(padded[1], torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 0]))
    assert not padded[[0, 2]].any()


@pytest.mark.parametrize("resizer", ["bilinear", "nearest", "zero"])
def test_an_odd_axis_that_becomes_one_tap_keeps_its_middle_to_the_bit(resizer):
    """Also where its neighbours are not finite, which a weight of 0 would not keep out."""
    weight = draw(2, 3, 5, 3, dtype=torch.float32)
    weight[:, :, :, [0, 2]] = torch.inf
    assert torch.equal(resize(weight, (2, 3, 5, 1), resizer=resizer), weight[:, :, :, 1:2])
    assert resize(weight, (2, 3, 3, 1), resizer=resizer).isfinite().all()


@given(sizes, sizes, sizes, sizes, kernels)
def test_equal_kernels_are_stacked_to_the_bit(o, i, out, inp, k):
    weight = draw(o, i, k, k)
    expected = weight[torch.arange(out) % o][:, torch.arange(inp) % i]
    assert torch.equal(resize(weight, (out, inp, k, k)), expected)


@pytest.mark.parametrize("case", ["c1_up_all", "c2_down_all", "c3_k1_to_k3", "c7_k2_to_k3"])
@pytest.mark.parametrize(("key", "align"), [("out_tip", False), ("out_initial_align", True)])
def test_agrees_with_the_released_code_to_the_bit(vectors, case, key, align):
    with np.load(vectors / "hmt.npz") as file:
        source, expected = (torch.from_numpy(file[f"hmt/{case}/{name}"]) for name in ("src", key))
    assert torch.equal(resize(source, expected.shape, align), expected)


def test_agrees_with_the_released_code_on_linear_layers(vectors):
    with np.load(vectors / "hmt.npz") as file:
        for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
            source, expected = (torch.from_numpy(file[f"hmt_cla/mlp/{side}/{name}"]) for side in ("src", "tgt_after"))
            assert torch.equal(resize(source, expected.shape), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_keeps_type_and_leaves_the_source_alone(dtype):
    weight = draw(3, 2, 3, 3, dtype=torch.float32).to(dtype)
    before = weight.clone()
    result = resize(weight, (5, 4, 5, 5))
    assert result.dtype == dtype
    assert torch.equal(weight, before)
    expected = oracles.resize(weight, (5, 4, 5, 5))
    torch.testing.assert_close(
        result.double(), expected, rtol=torch.finfo(dtype).eps * 4, atol=torch.finfo(dtype).eps * 4
    )


@given(sizes, sizes, sizes, sizes)
def test_out_may_have_any_layout(o, i, out, inp):
    weight = draw(o, i, 3, 3, dtype=torch.float32)
    place = torch.full((out, inp, 5, 5), float("nan")).contiguous(memory_format=torch.channels_last)
    assert resize(weight, place.shape, out=place) is place
    assert torch.equal(place, resize(weight, place.shape))


def test_zero_padding_keeps_the_kernel_in_the_middle_and_back():
    weight = draw(2, 2, 3, 3)
    padded = resize(weight, (2, 2, 5, 5), resizer="zero")
    assert torch.equal(padded[..., 1:4, 1:4], weight)
    assert padded.abs().sum() == pytest.approx(weight.abs().sum().item())
    assert torch.equal(resize(padded, (2, 2, 3, 3), resizer="zero"), weight)


def test_nearest_only_repeats_taps():
    weight = draw(1, 1, 3, 3)
    assert set(resize(weight, (1, 1, 5, 5), resizer="nearest").flatten().tolist()) <= set(weight.flatten().tolist())


def test_antialiasing_reads_every_tap_and_point_sampling_does_not():
    reads = {}
    for antialias in (False, True):
        taps = torch.eye(49, dtype=torch.float64).view(49, 1, 7, 7)
        reads[antialias] = int((resize(taps, (49, 1, 3, 3), antialias=antialias).abs().sum((1, 2, 3)) > 0).sum())
    assert reads == {False: 25, True: 49}


@pytest.mark.parametrize(
    ("source", "shape", "message"),
    [
        ((2, 2, 3, 3), (2, 2), "same 1, 2 or 4 axes"),
        ((2, 2, 3), (2, 2, 5), "same 1, 2 or 4 axes"),
        ((2, 2, 3, 3, 3), (2, 2, 5, 5, 5), "same 1, 2 or 4 axes"),
        ((2, 0, 3, 3), (2, 2, 3, 3), "at least one entry"),
        ((2, 2, 3, 3), (2, 0, 3, 3), "at least one entry"),
        ((2, 2, 3, 3), (2, 2, 1, 0), "at least one entry"),
    ],
)
def test_errors_name_both_shapes(source, shape, message):
    with pytest.raises(ValueError, match=message) as caught:
        resize(torch.zeros(source), shape)
    assert str(tuple(shape)) in str(caught.value)


def test_unknown_resizer_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'bilinear'"):
        resize(torch.zeros(1, 1, 3, 3), (1, 1, 5, 5), resizer="bilinar")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("how", [{}, {"align_corners": True}, {"antialias": True}, {"resizer": "nearest"}])
@given(sizes, st.integers(1, 70), st.tuples(kernels, kernels), sizes, st.integers(1, 70), st.tuples(kernels, kernels))
def test_what_is_cropped_away_changes_no_bit_of_the_rest(how, dtype, layout, o, i, kernel, out, inp, size):
    weight = draw(o, i, *kernel, dtype=dtype).contiguous(memory_format=layout)
    whole = resize(weight, (o, i, *size), **how)  # no channel is cropped here
    assert torch.equal(resize(weight, (out, inp, *size), **how), resize(whole, (out, inp, *size)))
