"""Checks whether this device can build and run the bundle; a finding may state its fix.

This file travels to devices: Python 3.6 syntax, standard library and numpy.
"""

import importlib
from typing import Any, List, NamedTuple

import numpy as np

from edge_inception.device import jetson_board, manifest, verify
from edge_inception.device.errors import Refusal

OK, WARNING, FAILED, UNREAD = "ok", "warning", "failed", "not read"
_MIB_PER_GB = 1000 * 1000 * 1000 / (1 << 20)
_MIN_MEMORY_SHARE = 0.8  # of the nominal memory; firmware reserves up to 0.1, the rest is a margin
_BUILD_MIB = 1500  # free memory and swap: 0.3 to 0.6 GB for CUDA, the rest for kernels it times
_ENGINE_SIZE_FACTOR = 4  # engine, temporary copy and FP32 weights, relative to the graph's size
_RESOURCES_MIB = 2048  # disk space of builder resources: docs/hardware.md, "JetPack releases"
_MIN_RESOURCES_VERSION = (10, 16)
# What Thor reported before CUDA 13: docs/hardware.md, "Jetson modules"
_RENAMED_CAPABILITIES = {"10.1": "11.0"}


class Finding(NamedTuple):
    """One line of ``check``; ``code`` is the exit code if the finding failed."""

    what: str
    status: str
    detail: str
    fix: str = ""
    code: int = 3


def check_device(bundle: Any, runtime: Any, board: jetson_board.Board) -> List[Finding]:
    """All findings of ``check``, in the order of printing."""
    findings = [
        _device(bundle, board),
        _library(bundle, runtime, board),
        _processor(bundle, runtime, board),
        _memory(bundle, runtime, board),
        _disk(bundle, runtime, board),
        Finding("Python", OK, board.python),
        Finding("numpy", OK, np.__version__),
        _pillow(),
    ]
    if runtime.name != "openvino":
        findings += [_cuda(board), _power(board), _clocks(board)]
    return findings


def _device(bundle: Any, board: jetson_board.Board) -> Finding:
    model = board.model or board.cpu or board.machine
    jetpack = ", JetPack {} (L4T {})".format(board.jetpack, board.l4t) if board.l4t else ""
    return Finding("device", OK, "{}{}; bundle for {}".format(model, jetpack, bundle.target.name))


def _library(bundle: Any, runtime: Any, board: jetson_board.Board) -> Finding:
    try:
        version = runtime.version()
    except Refusal as error:
        installed = board.tensorrt
        note = "; libnvinfer {} is installed".format(installed) if installed else ""
        return Finding(runtime.name, FAILED, "{}{}".format(error, note), error.fix, error.code)
    validated = bundle.record.made_with.get(runtime.name)
    is_other = validated and validated.split("-")[0] != version
    note = "; validated with {}".format(validated) if is_other else ""
    return Finding(runtime.name, OK, version.partition("-")[0] + note)


def _processor(bundle: Any, runtime: Any, board: jetson_board.Board) -> Finding:
    """The finding on the GPU's compute capability, or on the CPU if the target is a CPU."""
    wanted = bundle.target.compute_capabilities
    if not wanted or runtime.name == "openvino":
        return Finding("processor", OK, "{} cores, {}".format(board.num_cores, board.machine))
    try:
        identity = runtime.identity()
    except Refusal as error:
        return Finding("GPU", FAILED, str(error), error.fix, error.code)
    if identity.sm is None:
        return Finding("GPU", UNREAD, "its compute capability: trtexec does not report it")
    text = "{}, compute capability {}".format(identity.device, identity.sm)
    if _RENAMED_CAPABILITIES.get(identity.sm, identity.sm) in wanted:
        return Finding("GPU", OK, text)
    return Finding(
        "GPU",
        FAILED,
        "{}; the bundle is for {}".format(text, ", ".join(wanted)),
        "make a bundle for this device: edge-inception bundle --target NAME",
    )


def _memory(bundle: Any, runtime: Any, board: jetson_board.Board) -> Finding:
    total, free, swap = board.mem_total_mib, board.mem_free_mib, board.swap_mib
    if total is None or free is None:
        return Finding("memory", UNREAD, "/proc/meminfo has no MemTotal or MemAvailable")
    text = "{} MiB, {} free, {} swap".format(total, free, swap or 0)
    nominal = bundle.target.memory_gb
    if nominal and total < _MIN_MEMORY_SHARE * nominal * _MIB_PER_GB:
        return Finding(
            "memory",
            WARNING,
            "{}; {} has {} GB: is this the device?".format(text, bundle.target.name, nominal),
            "make a bundle for this device: edge-inception targets shows which",
        )
    workspace = bundle.record.build.workspace_mib or 0
    needed = _BUILD_MIB + workspace if runtime.name != "openvino" else 0
    if free + (swap or 0) < needed:
        return Finding(
            "memory",
            WARNING,
            "{}; a build may need {} MiB".format(text, needed),
            "stop the desktop (sudo init 3), add swap, or lower --workspace of the bundle",
        )
    return Finding("memory", OK, text)


def _disk(bundle: Any, runtime: Any, board: jetson_board.Board) -> Finding:
    free = board.disk_free_mib
    if free is None:
        return Finding("disk", UNREAD, "the file system does not report its free space")
    graphs = [bundle.record.files[graph.file].bytes for graph in bundle.record.graphs]
    needed = 64 + _ENGINE_SIZE_FACTOR * max(graphs) // (1 << 20)
    if runtime.name == "tensorrt" and _unpacks_resources(runtime, board):
        needed += _RESOURCES_MIB
    text = "{} MiB free, a build needs {}".format(free, needed)
    if free < needed:
        return Finding("disk", FAILED, text, "free space, or copy the bundle to a larger disk")
    return Finding("disk", OK, text)


def _unpacks_resources(runtime: Any, board: jetson_board.Board) -> bool:
    """Whether TensorRT unpacks builder resources, as in JetPack 7.2 and later."""
    try:
        version = runtime.version()
    except Refusal:
        version = board.tensorrt or "0"
    return manifest.version_numbers(version) >= _MIN_RESOURCES_VERSION


def _pillow() -> Finding:
    fix = "pip3 install 'Pillow>=8'; only verify --images and classify need it"
    try:
        version = str(importlib.import_module("PIL").__version__)
    except ImportError as error:
        return Finding("Pillow", WARNING, str(error), fix)
    if manifest.version_numbers(version) < verify.MIN_PILLOW:
        return Finding("Pillow", WARNING, "{}, wanted 8 or later".format(version), fix)
    return Finding("Pillow", OK, version)


def _cuda(board: jetson_board.Board) -> Finding:
    if board.cuda is None:
        return Finding("CUDA", UNREAD, "/usr/local/cuda has no version file")
    return Finding("CUDA", OK, str(board.cuda))


def _power(board: jetson_board.Board) -> Finding:
    mode, modes = board.power_mode, board.power_modes or {}
    if mode is None:
        return Finding("power mode", UNREAD, "neither nvpmodel nor /var/lib/nvpmodel reports it")
    text = "{} (id {})".format(mode.name, mode.id)
    best = jetson_board.unlimited_power_mode(modes)
    if best is None or best == mode.id:
        return Finding("power mode", OK, text)
    return Finding(
        "power mode",
        WARNING,
        "{}; the board also has {}".format(text, modes[best]),
        "sudo nvpmodel -m {} (may ask to reboot), then sudo jetson_clocks".format(best),
    )


def _clocks(board: jetson_board.Board) -> Finding:
    locked = board.clocks_locked
    if locked is None:
        return Finding("clocks", UNREAD, "no frequency limits in /sys/devices and /sys/class")
    text = "GPU {} of {} MHz".format(board.gpu_mhz, board.gpu_max_mhz)
    if locked:
        return Finding("clocks", OK, "locked, {}".format(text))
    return Finding("clocks", WARNING, "not locked, {}".format(text), "sudo jetson_clocks")
