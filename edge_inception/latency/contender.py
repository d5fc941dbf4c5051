"""An engine file as one side of a latency session: how to open it, what it is, what it is fed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inception import artifact
from edge_inception.artifact import EngineFile
from edge_inception.data import images
from edge_inception.data.imageset import ImageSet
from edge_inception.engines import _registry as backends
from edge_inception.errors import BackendMissing, InputError
from edge_inception.latency.facts import Batches, EngineFacts, Model
from edge_inception.latency.measure import Contender
from edge_inception.sidecar import PlanDetails
from edge_inception.spec import Preprocess

_NUM_IMAGES = 16
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What is fed: a hash of the preprocessed images, and in words what they are."""

    sha256: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUnderTest:
    """``contender`` opens it, ``facts`` and ``model`` are for the record, ``feed`` is its input."""

    engine: EngineFile
    contender: Contender
    facts: EngineFacts
    model: Model
    feed: Feed


def prepare_engine(
    path: Path, batch: int, image_set: ImageSet | None, folder: Path
) -> EngineUnderTest:
    """An engine that this machine can execute, with its images in ``folder``.

    Args:
        path: Engine file, its sidecar beside it.
        batch: Images of one call.
        image_set: Photos to feed; None feeds noise, which convolutions take as long for.
        folder: Where the preprocessed images go.

    Raises:
        InputError: Not an engine, or the batch is not among those that it takes.
        BackendMissing: Its library cannot execute here.
    """
    engine = artifact.load(EngineFile, path)
    backend = backends.backend(engine.details.backend)
    available = backend.availability()
    if not available.can_execute:
        raise BackendMissing(
            f"{path} is an engine of {backend.name}, which cannot run here: {available.why_not}",
            hint=available.remedy or "bench it on the machine it was compiled for",
        )
    profile = engine.details.batch
    if not profile.min <= batch <= profile.max:
        raise InputError(
            f"{path} takes batches of {profile.min} to {profile.max}, asked for {batch}",
            hint="--batch, or build with --dynamic-batch MIN:OPT:MAX",
        )
    fed = folder / f"{engine.sha256[:12]}.npy"
    feed = _write(fed, engine, batch, image_set)
    return EngineUnderTest(
        engine=engine,
        contender=Contender(
            name=path.name,
            factory="edge_inception.inference:open_engine",
            arguments={"path": str(path.resolve())},
            images=fed,
        ),
        facts=_facts(engine, path),
        model=Model(name=engine.details.model, input=engine.details.input_shape),
        feed=feed,
    )


def _write(path: Path, engine: EngineFile, batch: int, image_set: ImageSet | None) -> Feed:
    how = engine.details.preprocess
    count = max(_NUM_IMAGES, batch)
    if image_set is None:
        random = np.random.default_rng(_SEED)
        shape = (count, *how.image_shape)
        found: NDArray[Any]
        if how.element == "uint8":
            found = random.integers(0, 256, shape, dtype=np.uint8)
        else:
            found = random.standard_normal(shape, dtype=np.float32)
        what = f"noise, seed {_SEED}"
    else:
        found = photos(image_set, how, batch)
        what = f"{min(count, len(image_set.items))} images of {image_set.name}"
    np.save(path, found)
    return Feed(sha256=hashlib.sha256(found.tobytes()).hexdigest(), description=what)


def photos(image_set: ImageSet, how: Preprocess, batch: int) -> NDArray[Any]:
    """Images for timed calls, one batch or sixteen: spread over the set, repeated if it is small.

    Calls cycle through them, so that no call meets the data of the last one.
    """
    count = max(_NUM_IMAGES, batch)
    spread = image_set.subset(count).items
    repeated = [spread[i % len(spread)] for i in range(count)]
    return np.concatenate([one.images for one in images.batches(repeated, how, batch)])


def _facts(engine: EngineFile, path: Path) -> EngineFacts:
    details = engine.details
    return EngineFacts(
        path=str(path),
        sha256=engine.sha256,
        bytes=path.stat().st_size,
        backend=details.backend,
        precision=details.precision.value,
        float_precision=details.float_precision,
        typed=details.typing,
        batch=Batches(min=details.batch.min, opt=details.batch.opt, max=details.batch.max),
        dla_core=details.dla_core if isinstance(details, PlanDetails) else None,
        tied_to=dict(details.tied_to),
        graph_sha256=engine.provenance.parents.get("typed graph"),
    )
