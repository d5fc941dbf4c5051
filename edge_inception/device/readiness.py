"""Whether this device can build and run the bundle: findings, each with its fix.

This file travels to devices: Python 3.6 syntax, standard library.
"""

import importlib
from typing import Any, Callable, List, NamedTuple

if __package__:
    from edge_inception.device import jetson_board as board_files
    from edge_inception.device import manifest
    from edge_inception.device.errors import Refusal
else:
    import jetson_board as board_files  # type: ignore[import-not-found,no-redef]
    import manifest  # type: ignore[import-not-found,no-redef]
    from errors import Refusal  # type: ignore[import-not-found,no-redef]

OK, WARNING, FAILED, UNREAD = "ok", "warning", "failed", "not read"
_MIB_PER_GB = 1000 * 1000 * 1000 / (1 << 20)
_LEAST_SHARE = 0.8  # of the nominal memory; carve-outs of the firmware take up to a tenth
_BUILD_MIB = 1500  # of free memory and swap: CUDA's own 0.3 to 0.6 GB, then the builder's tactics
_ENGINE_TIMES = 4  # engine, its temporary copy and FP32 weights, over the graph's size
_RESOURCES_MIB = 2048  # builder resources: docs/hardware.md, "JetPack releases"
_RESOURCES_FROM = (10, 16)
_PILLOW_LEAST = (8,)
_RENAMED = {"10.1": "11.0"}  # Thor before CUDA 13: docs/hardware.md, "Jetson modules"


class Finding(NamedTuple):
    """One line of ``check``; ``code`` is the exit code where it failed."""

    what: str
    status: str
    detail: str
    fix: str = ""
    code: int = 3


def examine(bundle: Any, way: Any, board: board_files.Board) -> List[Finding]:
    """Everything that ``check`` says, in the order of a person's interest."""
    looks: List[Callable[[Any, Any, Any], Finding]] = [
        _device, _library, _processor, _memory, _disk, _python, _numpy, _pillow,
    ]  # fmt: skip
    if way.name != "openvino":
        looks += [_cuda, _power, _clocks]
    return [look(bundle, way, board) for look in looks]


def _device(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    del way
    found = board.model or board.cpu or board.machine
    jetpack = ", JetPack {} (L4T {})".format(board.jetpack, board.l4t) if board.l4t else ""
    return Finding("device", OK, "{}{}; bundle for {}".format(found, jetpack, bundle.target.name))


def _library(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    try:
        version = way.version()
    except Refusal as error:
        installed = board.tensorrt
        note = "; libnvinfer {} is installed".format(installed) if installed else ""
        return Finding(way.name, FAILED, "{}{}".format(error, note), error.fix, error.code)
    made = bundle.record.made_with.get(way.name)
    note = "; validated with {}".format(made) if made and made.split("-")[0] != version else ""
    return Finding(way.name, OK, version.partition("-")[0] + note)


def _processor(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    """The compute capability where the target has one."""
    wanted = bundle.target.compute_capabilities
    if not wanted or way.name == "openvino":
        return Finding("processor", OK, "{} cores, {}".format(board.num_cores, board.machine))
    try:
        identity = way.identity()
    except Refusal as error:
        return Finding("GPU", FAILED, str(error), error.fix, error.code)
    if identity.sm is None:
        return Finding("GPU", UNREAD, "its compute capability: trtexec does not tell it")
    text = "{}, compute capability {}".format(identity.device, identity.sm)
    if _RENAMED.get(identity.sm, identity.sm) in wanted:
        return Finding("GPU", OK, text)
    return Finding(
        "GPU",
        FAILED,
        "{}; the bundle is for {}".format(text, ", ".join(wanted)),
        "make a bundle for this device: edge-inception bundle --target NAME",
    )


def _memory(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    total, free, swap = board.mem_total_mib, board.mem_free_mib, board.swap_mib
    if total is None or free is None:
        return Finding("memory", UNREAD, "/proc/meminfo tells no MemTotal or MemAvailable")
    text = "{} MiB, {} free, {} swap".format(total, free, swap or 0)
    nominal = bundle.target.memory_gb
    if nominal and total < _LEAST_SHARE * nominal * _MIB_PER_GB:
        return Finding(
            "memory",
            WARNING,
            "{}; {} has {} GB: is this the device?".format(text, bundle.target.name, nominal),
            "make a bundle for this device: edge-inception targets",
        )
    workspace = bundle.record.build.workspace_mib or 0
    needed = _BUILD_MIB + workspace if way.name != "openvino" else 0
    if free + (swap or 0) < needed:
        return Finding(
            "memory",
            WARNING,
            "{}; a build may need {} MiB".format(text, needed),
            "stop the desktop (sudo init 3), add swap, or lower --workspace of the bundle",
        )
    return Finding("memory", OK, text)


def _disk(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    free = board.disk_free_mib
    if free is None:
        return Finding("disk", UNREAD, "the file system does not tell its free space")
    graphs = [bundle.record.files[graph.file].bytes for graph in bundle.record.graphs]
    needed = 64 + _ENGINE_TIMES * max(graphs) // (1 << 20)
    if way.name == "tensorrt" and _has_resources(way, board):
        needed += _RESOURCES_MIB
    text = "{} MiB free, a build needs {}".format(free, needed)
    if free < needed:
        return Finding("disk", FAILED, text, "free space, or copy the bundle to a larger disk")
    return Finding("disk", OK, text)


def _has_resources(way: Any, board: board_files.Board) -> bool:
    """Whether TensorRT unpacks builder resources of its own: JetPack 7.2 and later."""
    try:
        version = way.version()
    except Refusal:
        version = board.tensorrt or "0"
    return manifest.numbers(version) >= _RESOURCES_FROM


def _python(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    del bundle, way
    return Finding("Python", OK, str(board.python))


def _numpy(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    del bundle, way, board
    return Finding("numpy", OK, str(importlib.import_module("numpy").__version__))


def _pillow(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    del bundle, way, board
    fix = "pip3 install 'Pillow>=8'; only verify --images and classify need it"
    try:
        version = str(importlib.import_module("PIL").__version__)
    except ImportError as error:
        return Finding("Pillow", WARNING, str(error), fix)
    if manifest.numbers(version) < _PILLOW_LEAST:
        return Finding("Pillow", WARNING, "{}, wanted 8 or later".format(version), fix)
    return Finding("Pillow", OK, version)


def _cuda(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    del bundle, way
    if board.cuda is None:
        return Finding("CUDA", UNREAD, "/usr/local/cuda tells no version")
    return Finding("CUDA", OK, str(board.cuda))


def _power(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    del bundle, way
    mode, modes = board.power_mode, board.power_modes or {}
    if mode is None:
        return Finding("power mode", UNREAD, "neither nvpmodel nor /var/lib/nvpmodel tells it")
    text = "{} (id {})".format(mode.name, mode.id)
    best = board_files.highest_mode(modes)
    if best is None or best == mode.id:
        return Finding("power mode", OK, text)
    return Finding(
        "power mode",
        WARNING,
        "{}; the board also has {}".format(text, modes[best]),
        "sudo nvpmodel -m {} (may ask to reboot), then sudo jetson_clocks".format(best),
    )


def _clocks(bundle: Any, way: Any, board: board_files.Board) -> Finding:
    del bundle, way
    locked = board.clocks_locked
    if locked is None:
        return Finding("clocks", UNREAD, "no frequency limits in /sys/devices and /sys/class")
    text = "GPU {} of {} MHz".format(board.gpu_mhz, board.gpu_max_mhz)
    if locked:
        return Finding("clocks", OK, "locked, {}".format(text))
    return Finding("clocks", WARNING, "not locked, {}".format(text), "sudo jetson_clocks")
