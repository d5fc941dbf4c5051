"""Time of each layer of an engine, if its library can time layers.

Layers are timed in separate calls, since timing them slows a call down. The times show how a call's
time is divided among the layers, not how long a call takes.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import SessionOptions
from edge_inception.errors import InputError
from edge_inception.latency.bench import Protocol
from edge_inception.latency.contender import EngineUnderTest
from edge_inception.latency.record import Layer

_CALLS = 50  # number of calls that are averaged, after one that warms up


def layer_times(under_test: EngineUnderTest, protocol: Protocol) -> tuple[Layer, ...]:
    """Mean times in ms of the engine's layers in order of execution, the ``layers`` of a record.

    Args:
        under_test: The engine, with its file of images.
        protocol: Protocol of which only ``batch`` and ``threads`` are used.

    Raises:
        InputError: The engine's library does not time layers, or the engine cannot be opened.
        BackendMissing: The engine's library is not installed.
    """
    engine = under_test.engine
    backend = backends.backend(engine.details.backend)
    if backend.layer_times is None:
        raise InputError(
            f"{engine.path} is an engine of {backend.name}, which does not time its layers",
            hint="leave --layers out; engines of openvino have it",
        )
    assert under_test.contender.images is not None
    images = np.load(under_test.contender.images, mmap_mode="r", allow_pickle=False)
    starts = range(0, len(images) - protocol.batch + 1, protocol.batch)
    batches = [np.ascontiguousarray(images[start : start + protocol.batch]) for start in starts]
    calls = [batches[index % len(batches)] for index in range(1 + _CALLS)]
    options = SessionOptions(threads=protocol.threads)
    return tuple(Layer(**asdict(one)) for one in backend.layer_times(engine, options, calls))
