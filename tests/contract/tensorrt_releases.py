"""The releases of TensorRT with a recorded surface, and what tests of them share."""

from __future__ import annotations

import functools

import fake_tensorrt
import fake_tensorrt_run
import pytest

from edge_inception.engines import _nvinfer

RELEASES = ("8.2", "8.5", "8.6", "10.0", "10.3", "10.7", "10.13", "10.16", "11.0", "11.4")
WEAK = RELEASES[:8]
STRONG = RELEASES[3:]
BUILD = "Builder.build_serialized_network"

Settings = functools.partial(_nvinfer.BuildSettings, min_batch=1, opt_batch=2, max_batch=4)
each = functools.partial(pytest.mark.parametrize, "release")


def open_release(release, **facts):
    return fake_tensorrt.tensorrt(release, fake_tensorrt_run.ACTS, **facts)


def typing_of(release):
    return "strong" if release in STRONG else "weak"


def assert_order(world, *names):
    """Each name was called, and for the first time after the one before it."""
    places = [world.names().index(name) for name in names]
    assert places == sorted(places), dict(zip(names, places, strict=True))
