"""Facts of a latency record about the engine, the machine and the protocol.

A field that only a device or only a host records is UNSET in the records of the other.
"""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from edge_inception.records import Count, Positive, Record

_Text = str | UnsetType | None
_Whole = int | UnsetType | None


class Model(Record, frozen=True, kw_only=True):
    """The model of the engines; ``input`` is the shape of their input."""

    name: str | None
    input: tuple[int | str | None, ...] | None
    onnx_sha256: str | UnsetType = UNSET


class Batches(Record, frozen=True, kw_only=True):
    """Images of one call: minimum, the number that the engine is optimized for, and maximum."""

    min: Positive
    opt: Positive
    max: Positive


class EngineFacts(Record, frozen=True, kw_only=True):
    """An engine file; only a device records the last six fields.

    ``tied_to`` has the names and versions of what the engine needs to run, such as its library.
    """

    path: str
    sha256: str
    bytes: Count
    backend: str
    precision: str | None
    float_precision: str | None
    typed: str | None
    batch: Batches | Positive
    dla_core: Count | None
    tied_to: dict[str, str]
    graph_sha256: str | None
    build_id: _Text = UNSET
    build_s: float | UnsetType | None = UNSET
    int8_layers: _Whole = UNSET
    key: _Text = UNSET
    plan_trt: _Text = UNSET
    sm: _Text = UNSET


class PowerMode(Record, frozen=True, kw_only=True):
    """Power mode of a Jetson, as nvpmodel names it."""

    name: str
    id: int | UnsetType = UNSET


class DeviceFacts(Record, frozen=True, kw_only=True):
    """The machine as ``machine.describe`` describes a host, or ``device.py`` a device."""

    cpu: _Text = UNSET
    architecture: _Text = UNSET
    instruction_sets: tuple[str, ...] | UnsetType = UNSET
    num_cores: _Whole = UNSET
    affinity: tuple[Count, ...] | UnsetType = UNSET
    governor: _Text = UNSET
    system: _Text = UNSET
    python: _Text = UNSET
    libraries: dict[str, str] | UnsetType = UNSET
    load_average: float | UnsetType = UNSET
    clocks_locked: bool | UnsetType | None = UNSET
    compatible: tuple[str, ...] | UnsetType | None = UNSET
    container: _Text = UNSET
    cuda: _Text = UNSET
    emc_mhz: _Whole = UNSET
    fan_pwm: _Whole = UNSET
    gpu: _Text = UNSET
    gpu_max_mhz: _Whole = UNSET
    gpu_mhz: _Whole = UNSET
    hostname_hash: _Text = UNSET
    jetpack: _Text = UNSET
    l4t: _Text = UNSET
    library: _Text = UNSET
    machine: _Text = UNSET
    mem_mib: _Whole = UNSET
    model: _Text = UNSET
    power_mode: PowerMode | UnsetType | None = UNSET
    sm: _Text = UNSET
    trt: _Text = UNSET


class UsedProtocol(Record, frozen=True, kw_only=True):
    """The protocol that was used, ``bench.Protocol`` with its defaults resolved, and the images.

    Only a device records the last two fields.
    """

    threads: Count | None
    batch: Positive
    streams: Positive
    warmup_calls: Count | UnsetType = UNSET
    warmup_s: float | UnsetType = UNSET
    calls: Count | UnsetType = UNSET
    seconds: float | UnsetType = UNSET
    stable: float | UnsetType | None = UNSET
    most_s: float | UnsetType = UNSET
    block_calls: Count | UnsetType = UNSET
    block_s: float | UnsetType = UNSET
    discard_calls: Count | UnsetType = UNSET
    settle_s: float | UnsetType = UNSET
    timeout_s: float | UnsetType = UNSET
    runner: str
    order: str | UnsetType = UNSET
    transfers: bool | UnsetType = UNSET
    spin_wait: bool | UnsetType = UNSET
    metric: str
    input_sha256: str
    input: str
    affinity: tuple[Count, ...] | UnsetType = UNSET
    k: Count | UnsetType = UNSET
    cuda_graph: bool | UnsetType = UNSET
