"""Time of each layer of an engine, where its library tells.

Counted in calls of their own: counting makes a call slower, so these figures say where the time
goes and not how much of it there is.
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

_CALLS = 50


def layer_times(arm: EngineUnderTest, protocol: Protocol) -> tuple[Layer, ...]:
    """``layers`` of a record, in order of execution.

    Args:
        arm: With its images in place.
        protocol: For its batch and threads.

    Raises:
        InputError: The engine's library does not tell, or the engine cannot be opened.
        BackendMissing: Its library is not installed.
    """
    backend = backends.backend(arm.engine.details.backend)
    if backend.layer_times is None:
        raise InputError(
            f"{arm.engine.path} is an engine of {backend.name}, which is not asked for the time "
            "of its layers",
            hint="leave --layers out; engines of openvino have it",
        )
    assert arm.contender.images is not None
    images = np.load(arm.contender.images, mmap_mode="r", allow_pickle=False)
    batches = len(images) // protocol.batch
    fed = [
        np.ascontiguousarray(images[start : start + protocol.batch])
        for start in range(0, batches * protocol.batch, protocol.batch)
    ]
    calls = [fed[index % batches] for index in range(1 + _CALLS)]
    options = SessionOptions(threads=protocol.threads)
    return tuple(Layer(**asdict(one)) for one in backend.layer_times(arm.engine, options, calls))
