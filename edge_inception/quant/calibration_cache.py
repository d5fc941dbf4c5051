"""TensorRT's calibration cache from the scales of a range table: the stage ``calibration_cache``.

The cache is text: a header with the version of the TensorRT that will read it, then one line per
tensor. TensorRT ignores a cache whose header names another version and calibrates again, which
fails here, since it is given no images.

Source: sampleINT8 README and ``readScalesFromCalibrationCache`` of trtexec, NVIDIA/TensorRT;
headers seen in public caches: TRT-7202, TRT-8401, TRT-8502, TRT-100300, TRT-101401.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_inception import artifact
from edge_inception.artifact import CalibrationCache, RangeTable, TypedGraph
from edge_inception.errors import InputError
from edge_inception.graph import check
from edge_inception.quant.implicit import implicit_scales
from edge_inception.quant.options import CacheOptions, cache_provenance
from edge_inception.quant.ranges import read_table
from edge_inception.sidecar import CacheDetails
from edge_inception.spec import Precision

ALGORITHM = "EntropyCalibration2"
"""Name of the class IInt8EntropyCalibrator2 in a header; DLA accepts no other calibrator."""

_OLDEST, _NEWEST = 8, 10  # major versions with calibrators that this project builds for
_TENFOLD = 10  # from this major version on, the number in the header is major * 10000 + ...


def write_cache(
    graph: TypedGraph, ranges: RangeTable, options: CacheOptions, out: Path
) -> CalibrationCache:
    """The calibration cache of an implicit int8 graph: a float graph that TensorRT quantizes.

    ``ranges`` is the table that ``quantize`` made ``graph`` with. The cache's sidecar (the .json
    file beside it) names the tensors without a scale, which DLA computes in float16.

    Raises:
        InputError: The graph has another typing or was made with another table, or this TensorRT
            has no calibrators.
    """
    _require_implicit(graph, ranges)
    first_line = header(options.tensorrt)
    scales = implicit_scales(check.load_graph(graph.path), read_table(ranges).tensors)
    return artifact.publish(
        CalibrationCache,
        out,
        cache_text(scales.scale_of, options.tensorrt).encode(),
        provenance=cache_provenance(graph, ranges, options),
        counts=scales.counts,
        details=CacheDetails(
            tensorrt=options.tensorrt,
            header=first_line,
            unscaled=scales.unscaled,
        ),
    )


def _require_implicit(graph: TypedGraph, ranges: RangeTable) -> None:
    typing, precision = graph.details.typing, graph.details.precision
    if (typing, precision) != ("implicit", Precision.INT8):
        raise InputError(
            f"{graph.path} is a graph of typing {typing} and precision {precision.value}; "
            f"a calibration cache is for implicit int8",
            hint="quantize --typing implicit",
        )
    if graph.provenance.parents.get("ranges") != ranges.sha256:
        raise InputError(
            f"{graph.path} was not made with range table {ranges.path}",
            hint="give the table that quantize was given",
        )


def header(tensorrt: str) -> str:
    """The first line of the cache for a TensorRT version such as ``8.5.2``.

    The number in it is NV_TENSORRT_VERSION of NvInferVersion.h: 8.5.2 is 8502, 10.3.0 is 100300.

    Raises:
        InputError: The version is not three numbers, or that TensorRT has no calibrators.
    """
    parts = tensorrt.split(".")[:3]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):  # noqa: PLR2004
        raise InputError(
            f"TensorRT version '{tensorrt}' is not three numbers", hint="such as 8.5.2 or 10.3.0"
        )
    major, minor, patch = map(int, parts)
    if not _OLDEST <= major <= _NEWEST:
        raise InputError(
            f"TensorRT {tensorrt} reads no calibration cache; versions 8.2 to 10.16 do",
            hint="TensorRT 11 takes the strong graph: quantize --typing strong",
        )
    number = major * (10000 if major >= _TENFOLD else 1000) + minor * 100 + patch
    return f"TRT-{number}-{ALGORITHM}"


def cache_text(scale_of: Mapping[str, np.float32], tensorrt: str) -> str:
    """The text of the cache for scales by tensor and a TensorRT version such as ``8.5.2``.

    Raises:
        InputError: A tensor's name has a line break, or ``header`` refuses the version.
    """
    broken = next((name for name in scale_of if len(name.splitlines()) != 1), None)
    if broken is not None:
        raise InputError(f"tensor name '{broken}' is not one line", hint="export with other names")
    lines = [f"{name}: {_hex(scale)}" for name, scale in scale_of.items()]
    return "\n".join((header(tensorrt), *lines)) + "\n"


def _hex(scale: np.float32) -> str:
    """The bits of a float32 as eight hexadecimal digits, most significant first."""
    return struct.pack(">f", scale).hex()
