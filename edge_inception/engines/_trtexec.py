"""trtexec commands for a build, whose flags differ from version to version.

The script ``build.sh`` of a bundle is written from the table of flags below. This file keeps to
Python 3.6 syntax and the standard library, like the files that travel to devices. No trtexec has
been run in this project.

Source: samples/common/sampleOptions.cpp of NVIDIA/TensorRT 8.2.1 to 11.1,
docs/tensorrt.md, "trtexec".
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

Version = Tuple[int, ...]

_END = (99,)  # above every version: the flag still exists
# Setting, flag, first version with the flag, first later version without the flag
_FLAGS = (
    ("workspace", "--workspace={}", (8, 2), (8, 4)),
    ("pools", "--memPoolSize={}", (8, 4), _END),
    ("strong", "--stronglyTyped", (9, 0), (11, 0)),
    ("fp16", "--fp16", (8, 2), (11, 0)),
    ("int8", "--int8", (8, 2), (11, 0)),
    ("calibration_cache", "--calib={}", (8, 2), (11, 0)),
    ("dla_core", "--useDLACore={}", (8, 2), _END),
    ("allow_gpu_fallback", "--allowGPUFallback", (8, 2), _END),
    ("builder_optimization_level", "--builderOptimizationLevel={}", (8, 6), _END),
    ("timing_cache", "--timingCacheFile={}", (8, 2), _END),
    ("version_compatible", "--versionCompatible", (8, 6), _END),
    ("hardware_compatible", "--hardwareCompatibilityLevel={}", (8, 6), _END),
    ("strip_weights", "--stripWeights", (10, 0), _END),
    ("refit", "--refit", (8, 2), _END),
    ("sparsity", "--sparsity=enable", (8, 2), _END),
    ("skip", "--buildOnly", (8, 2), (8, 6)),
    ("skip", "--skipInference", (8, 6), _END),
)


class NoSuchFlag(Exception):
    """This version's trtexec lacks a flag; the message names the flag and versions that have it."""


def command(
    version: Version,
    settings: Any,
    onnx: str,
    engine: str,
    shape: Optional[Tuple[str, Sequence[int]]] = None,
) -> List[str]:
    """The trtexec command that builds ``engine`` from ``onnx``, as a list of words.

    Args:
        version: TensorRT's version, such as (8, 5, 2).
        settings: A ``_nvinfer.BuildSettings``.
        onnx: Path of the graph.
        engine: Path of the plan to write.
        shape: The input's name and the shape of one image, where the graph's batch is dynamic.

    Raises:
        NoSuchFlag: This version lacks a flag that the settings need.
    """
    values = _values(version, settings)
    words = ["trtexec", "--onnx=" + onnx, "--saveEngine=" + engine]
    words += _shapes(settings, shape)
    for name, flag, first, end in _FLAGS:
        if values.get(name) and first <= tuple(version) < end:
            words.append(flag.format(values[name]))
            del values[name]
    missing = sorted(name for name, value in values.items() if value)
    if missing:
        _, flag, first, end = [row for row in _FLAGS if row[0] == missing[0]][-1]
        until = " and later" if end == _END else " up to before " + _dotted(end)
        text = "trtexec {} has no {}; TensorRT {}{} has it"
        raise NoSuchFlag(
            text.format(_dotted(version), flag.partition("=")[0], _dotted(first), until)
        )
    return words


def _values(version: Version, settings: Any) -> Dict[str, str]:
    """The text that fills each flag, by setting; an empty text leaves the flag out."""
    is_weak = settings.typing != "strong"
    is_int8 = is_weak and settings.precision == "int8"
    pools = dict(settings.memory_pools)
    if settings.workspace_mib is not None:
        pools.setdefault("workspace", settings.workspace_mib)
    has_pools = tuple(version) >= (8, 4)
    names = {row[0] for row in _FLAGS}.intersection(settings._fields)
    values = {name: _text(getattr(settings, name)) for name in names}
    values.update(
        # From 11.0 on every network is strongly typed, and trtexec has no flag for that.
        strong="" if is_weak or tuple(version) >= (11, 0) else "yes",
        fp16=_text(is_weak and "fp16" in (settings.precision, is_int8 and settings.float_rest)),
        int8=_text(is_int8),
        calibration_cache=(settings.calibration_cache or "") if is_int8 else "",
        workspace="" if has_pools else _text(pools.pop("workspace", None)),
        pools=",".join("{}:{:g}".format(name, mib) for name, mib in sorted(pools.items())),
        skip="yes",
    )
    return values


def _text(value: Any) -> str:
    return "" if value is None or value is False else str(value)


def _shapes(settings: Any, shape: Optional[Tuple[str, Sequence[int]]]) -> List[str]:
    if shape is None:
        return []
    name, image = shape
    batches = (settings.min_batch, settings.opt_batch, settings.max_batch)
    return [
        "--{}Shapes={}:{}".format(bound, name, "x".join(map(str, (batch, *image))))
        for bound, batch in zip(("min", "opt", "max"), batches)  # noqa: B905 -- Python 3.6
    ]


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)
