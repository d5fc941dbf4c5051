"""An engine file with its preprocessed images, ready to be timed in a worker process."""

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

_MIN_IMAGES = 16  # timed calls cycle through so many, or through one batch if it is larger
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Hash of the preprocessed images that an engine is fed, and a description of them."""

    sha256: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUnderTest:
    """An engine to be timed.

    ``contender`` tells a worker process how to open the engine. ``facts``, ``model`` and ``feed``
    describe the engine, its model and its images in a record.
    """

    engine: EngineFile
    contender: Contender
    facts: EngineFacts
    model: Model
    feed: Feed


def prepare_engine(
    path: Path, batch: int, image_set: ImageSet | None, folder: Path
) -> EngineUnderTest:
    """Prepare an engine for timing: check that it runs here, and write images to ``folder``.

    Args:
        path: Engine file with its sidecar, a .json file, beside it.
        batch: Number of images of one call.
        image_set: Photos to feed; None feeds noise, on which convolutions take the same time.
        folder: Folder that the .npy file of preprocessed images is written to.

    Raises:
        InputError: The file is not an engine, the engine does not accept this batch size, or a
            photo cannot be read.
        BackendMissing: The engine's library cannot execute here.
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
    images_path = folder / f"{engine.sha256[:12]}.npy"
    feed = _write_feed(images_path, engine.details.preprocess, batch, image_set)
    return EngineUnderTest(
        engine=engine,
        contender=Contender(
            name=path.name,
            factory="edge_inception.inference:open_engine",
            arguments={"path": str(path.resolve())},
            images=images_path,
        ),
        facts=_facts(engine, path),
        model=Model(name=engine.details.model, input=engine.details.input_shape),
        feed=feed,
    )


def _write_feed(path: Path, preprocess: Preprocess, batch: int, image_set: ImageSet | None) -> Feed:
    count = max(_MIN_IMAGES, batch)
    array: NDArray[Any]
    if image_set is not None:
        array = preprocessed_photos(image_set, preprocess, batch)
        description = f"{min(count, len(image_set.items))} images of {image_set.name}"
    else:
        random, shape = np.random.default_rng(_SEED), (count, *preprocess.image_shape)
        if preprocess.element == "uint8":
            array = random.integers(0, 256, shape, dtype=np.uint8)
        else:
            array = random.standard_normal(shape, dtype=np.float32)
        description = f"noise, seed {_SEED}"
    np.save(path, array)
    return Feed(sha256=hashlib.sha256(array.tobytes()).hexdigest(), description=description)


def preprocessed_photos(image_set: ImageSet, preprocess: Preprocess, batch: int) -> NDArray[Any]:
    """Preprocessed images for timed calls: sixteen, or one batch if a batch is larger.

    The images are spread evenly over the set, and repeated if the set has too few.
    """
    count = max(_MIN_IMAGES, batch)
    spread = image_set.subset(count).items
    repeated = [spread[i % len(spread)] for i in range(count)]
    return np.concatenate([one.images for one in images.batches(repeated, preprocess, batch)])


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
