"""The arithmetic of symmetric INT8 against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from edge_inception.quant import scales


def test_scale_is_amax_over_127_within_float16_rounding():
    """Scales of normal float16 size are off by at most half a unit in the last place, 2^-11."""
    amax = np.geomspace(0.01, 1e6, 500).astype(np.float32)
    error = scales.int8_scale(amax) * 127 / amax - 1
    assert np.abs(error).max() <= 2.0**-11


def test_scale_is_a_float16_number():
    """Writing a scale as float16 loses nothing, whatever the amax."""
    found = scales.int8_scale(np.geomspace(1e-12, 1e6, 500).astype(np.float32))
    assert (found.astype(np.float16).astype(np.float32) == found).all()


@pytest.mark.parametrize("amax", [0.0, 1e-38, 1e-12, 2.0**-24])
def test_tiny_amax_gets_the_smallest_scale(amax):
    """A scale never underflows to 0, which parsers refuse; the smallest is 2^-24."""
    assert scales.int8_scale(np.array(amax, np.float32)) == np.float32(2.0**-24)


def test_scale_never_clips_amax_by_half_a_level():
    """amax rounds to level 127 or less, also among subnormals where rounding down would clip."""
    amax = np.geomspace(127 * 2.0**-24, 127 * 2.0**-13, 4000).astype(np.float32)
    assert (np.rint(amax / scales.int8_scale(amax)) <= 127).all()


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_broken_amax_is_refused(bad):
    """A negative, NaN or infinite amax is a bug upstream."""
    with pytest.raises(ValueError, match="amax must be finite"):
        scales.int8_scale(np.array([1.0, bad], np.float32))


def test_amax_beyond_a_float16_scale_is_refused():
    """65504 is the largest float16; a larger scale would become infinity."""
    with pytest.raises(ValueError, match="above float16"):
        scales.int8_scale(np.array(65504.0 * 128, np.float32))


def test_weights_round_half_to_even():
    """0.5, 1.5 and 2.5 steps become 0, 2 and 2, as ONNX QuantizeLinear says."""
    weight = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    steps, scale = scales.quantize_weight(weight, axis=0)
    assert scale.tolist() == [1.0]
    assert steps.tolist() == [[127, 0, 2, 2, 0, -2]]


@pytest.mark.parametrize("axis", [0, 1])
def test_every_output_channel_has_its_own_scale(axis):
    """A channel a thousand times smaller than its neighbour keeps all its levels."""
    rows = np.array([[1.0, -0.25], [1e-3, 2.5e-4]], np.float32)
    weight = rows if axis == 0 else rows.T
    steps, scale = scales.quantize_weight(weight, axis=axis)
    assert np.abs(steps).max(axis=1 - axis).tolist() == [127, 127]
    back = steps * scales.along(scale, axis=axis, ndim=2)
    # Half a level of the channel's own scale, and float16's rounding of that scale.
    limit = np.abs(weight).max(axis=1 - axis, keepdims=True) * (0.5 / 127 + 2.0**-11)
    assert (np.abs(back - weight) <= limit).all()


def test_small_channels_are_better_off_below_the_smallest_normal_float16():
    """Clamping scales at 2^-14 would cost a channel with amax 1e-4 nearly all its levels."""
    weight = np.random.default_rng(0).normal(0, 3e-5, (1, 500)).astype(np.float32)
    steps, scale = scales.quantize_weight(weight, axis=0)
    ours = np.square(steps * scale[0] - weight).mean()
    clamped = np.square(np.rint(weight / 2.0**-14) * 2.0**-14 - weight).mean()
    assert ours < clamped / 100


def test_weights_never_use_minus_128():
    """The range is -127..127 for every magnitude, down to underflow."""
    for amax in np.geomspace(1e-9, 1e3, 60):
        weight = np.array([[-amax, amax, amax / 3]], np.float32)
        steps, _ = scales.quantize_weight(weight, axis=0)
        assert steps.min() >= -127


def test_an_all_zero_channel_stays_zero():
    """A dead channel gives zeros and a scale that parsers accept."""
    steps, scale = scales.quantize_weight(np.zeros((2, 3), np.float32), axis=0)
    assert not steps.any()
    assert (scale > 0).all()
