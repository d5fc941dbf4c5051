"""The engine that a device builds: one file and its facts, kept until a dependency changes.

``engine/model.engine`` (or ``.blob``) lies beside ``engine/model.engine.json``. The name is fixed,
so that a server can be configured before the engine is built. The key in the facts is a digest of
the graph, the manifest's choices, the library and the processor: an engine with another key is
not opened, and the next build replaces it. Every function that asks a runtime also raises its
refusals (``runtimes``).
This file travels to devices: Python 3.6 syntax, standard library.
"""

import errno
import hashlib
import json
import os
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from edge_inception.device import errors, manifest, records
from edge_inception.device.errors import Refusal

SCHEMA = "edge-inception/device-engine"
_DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KEY_DIGITS = 12
_NAME = "model"


class EngineFacts(NamedTuple):
    """The content of ``model.engine.json``: facts about the build, and the library's counts.

    ``sm`` is None where trtexec built the engine, which reports no compute capability; ``runner``
    is then "trtexec". The counts are those of ``_inspection.describe_layers``.
    """

    key: str
    file: str
    bundle: str
    backend: str
    graph: str
    graph_sha256: str
    precision: str
    typing: str
    dla_core: Optional[int]
    sha256: str
    bytes: int
    build_s: float
    created_utc: str
    schema: str = SCHEMA
    openvino: Optional[str] = None
    machine: Optional[str] = None
    float_precision: Optional[str] = None
    weighted_layers: Optional[int] = None
    tensorrt: Optional[str] = None
    sm: Optional[str] = None
    device: Optional[str] = None
    runner: Optional[str] = None
    layers: Optional[Dict[str, Dict[str, int]]] = None
    precisions: Optional[Dict[str, int]] = None
    int8_layers: Optional[int] = None
    convolutions: Optional[Dict[str, int]] = None
    float_kernels: Optional[List[str]] = None
    reformat_layers: Optional[int] = None
    num_kernels: Optional[int] = None
    activation_bytes: Optional[int] = None
    dla_islands: Optional[int] = None
    weight_bytes: Optional[Dict[str, int]] = None
    total_weight_bytes: Optional[int] = None
    padding_bytes: Optional[int] = None
    warnings: Optional[List[str]] = None

    def nulls(self) -> Tuple[str, ...]:
        """Fields that are written even if None: ``sm`` of a TensorRT engine."""
        return ("sm",) if self.tensorrt else ()


class Engine(NamedTuple):
    """An engine of this device: its path and the facts beside it."""

    path: str
    facts: EngineFacts


def engine_key(runtime: Any, bundle: Any, graph: manifest.Graph) -> str:
    """Digest of everything that an engine of this device depends on.

    The digest covers library, processor, graph, batch sizes and the manifest's choices.
    """
    parts = [
        runtime.name,
        runtime.identity()._asdict(),
        bundle.sha256(graph.file),
        records.plain(graph.profile),
        records.plain(bundle.record.build),
    ]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def find(bundle: Any, runtime: Any) -> Optional[Engine]:
    """The engine that was built here for this device; None if it is absent or damaged."""
    key, path = engine_key(runtime, bundle, runtime.graph()), _path(bundle, runtime)
    facts = _read_facts(path)
    if facts is None or facts.key != key:
        return None
    try:
        is_intact = manifest.file_sha256(path) == facts.sha256
    except OSError:
        is_intact = False
    return Engine(path, facts) if is_intact else None


def require(bundle: Any, runtime: Any) -> Engine:
    """The engine that was built here for this device; refused if it is absent or damaged."""
    engine = find(bundle, runtime)
    if engine is None:
        raise Refusal(
            "no engine for this device in {}".format(os.path.join(bundle.root, manifest.ENGINES)),
            "build it first: python3 device.py build",
        )
    return engine


def load(runtime: Any, engine: Engine) -> Any:
    """An open engine: an object with ``run(images) -> dict of arrays`` and ``close()``."""
    with open(engine.path, "rb") as stream:
        return runtime.load(stream.read(), engine.facts)


def build(bundle: Any, runtime: Any) -> Engine:
    """Build the engine, and replace the old engine and its facts.

    Raises:
        Refusal: The library refuses, the disk is full, or the folder cannot be written.
    """
    graph = runtime.graph()
    key, path = engine_key(runtime, bundle, graph), _path(bundle, runtime)
    _write(path + ".probe", b"")  # a build takes minutes: try the folder first
    os.remove(path + ".probe")
    started = time.time()
    content, counts = runtime.compile(bundle.path(graph.file), graph)
    facts = EngineFacts(
        key=key,
        file=os.path.basename(path),
        bundle=bundle.record.version,
        backend=runtime.name,
        graph=graph.file,
        graph_sha256=bundle.sha256(graph.file),
        precision=graph.precision,
        typing=graph.typing,
        dla_core=bundle.record.build.dla_core,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        build_s=round(time.time() - started, 1),
        created_utc=utc_now(),
        **runtime.identity()._asdict(),
        **counts,
    )
    _write(path, content)
    write_result(path + ".json", facts)
    return Engine(path, facts)


def utc_now() -> str:
    """The present time in UTC to the second, in the format of JSON records."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_result(path: str, record: Any) -> None:
    """Write a record as JSON; a failure leaves the old file unchanged.

    Raises:
        Refusal: The disk is full, or the folder cannot be written.
    """
    _write(path, records.to_json(record).encode())


def _path(bundle: Any, runtime: Any) -> str:
    return os.path.join(bundle.root, manifest.ENGINES, _NAME + str(runtime.suffix))


def _read_facts(path: str) -> Optional[EngineFacts]:
    try:
        with open(path + ".json", "rb") as stream:
            facts = records.read(EngineFacts, stream.read(), path, "")
    except (OSError, Refusal):
        return None
    return facts if facts.schema == SCHEMA else None


def _write(path: str, content: bytes) -> None:
    temporary = path + ".partial"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        is_full = error.errno in _DISK_FULL_ERRORS
        raise Refusal(
            "{} while writing {}".format("disk full" if is_full else str(error.strerror), path),
            "free space on the device"
            if is_full
            else "copy the bundle to a folder that you may write, or check its permissions",
            errors.BAD_INPUT,
        ) from error
