"""The files of a range table: readable JSON, and an .npz of histograms and channel means."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edge_inception import records
from edge_inception.artifact import RangeTable, SimplifiedGraph, file_sha256, write_beside
from edge_inception.errors import InputError
from edge_inception.quant.calibrators import Observation
from edge_inception.quant.scales import LARGEST_SCALE, LEVELS, int8_scale
from edge_inception.records import Count, Positive, Record, Sha256
from edge_inception.spec import Preprocess
from edge_inception.stage import plain, tool_version

SCHEMA: Final = 2
_WEIGHT, _CORRECTION = "weight:", "correction:"  # prefixes of names in the .npz file
_STATISTICS = ".npz"  # suffix of the file of histograms and channel means


class TensorRange(Record, frozen=True, kw_only=True):
    """The range of one tensor.

    ``amax`` decides its scale; ``observed_amax`` is the largest magnitude of all observed values.
    ``scale_of`` names the tensor that this tensor shares its amax with: itself, or for a MaxPool
    output the tensor that was pooled.
    """

    amax: float
    observed_amax: float
    scale_of: str

    def widened(self, other: TensorRange, *, scale_of: str) -> TensorRange:
        """The smallest range that holds the values of both tensors, for the group ``scale_of``."""
        return TensorRange(
            amax=max(self.amax, other.amax),
            observed_amax=max(self.observed_amax, other.observed_amax),
            scale_of=scale_of,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMeans:
    """Means of the channels of one tensor, over the images and all positions.

    ``plain`` [C] has the means of the float tensor, ``quantized`` [C] the means of the tensor
    rounded to multiples of ``scale``; both are float64.
    """

    scale: float
    plain: NDArray[np.float64]
    quantized: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedParameters:
    """Int8 weights and bias corrections that calibration fitted, by the simplified graph's names.

    ``weights`` maps a weight to its int8 values; it lacks weights that are rounded to nearest.
    ``corrections`` maps the output tensor of a layer to the correction [O] of its bias; they hold
    for the graph that the trial chose.
    """

    weights: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)
    corrections: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class Table(Record, frozen=True, kw_only=True):
    """Content of a range table; ``graph`` and ``set_sha256`` are hashes of its graph and image set.

    ``shard`` (i, n): the ranges were observed on the i-th of n shares of the set's images.
    """

    schema: Literal[2]
    graph: Sha256
    set: str
    set_sha256: Sha256
    num_images: Count
    calibrator: str
    preprocess: Preprocess
    shard: tuple[Positive, Positive] = (1, 1)
    tensors: Mapping[str, TensorRange]


def table_text(table: Table) -> str:
    """The table as JSON, tensors in graph order."""
    return json.dumps(records.plain(table), indent=1) + "\n"


def read_table(ranges: RangeTable) -> Table:
    """The table in the file of ``ranges``.

    Raises:
        InputError: The file cannot be read, is malformed or of another schema, or an amax is not a
            finite number >= 0.
    """
    again = "run calibrate again"
    table = records.read(Table, ranges.path, hint=again, allow_nan=True)
    for name, tensor in table.tensors.items():
        for amax in (tensor.amax, tensor.observed_amax):
            if not (math.isfinite(amax) and amax >= 0.0):
                raise InputError(
                    f"{ranges.path}: tensor '{name}' has amax {amax}, wanted a finite number >= 0",
                    hint=again,
                )
    return table


def table_for(graph: SimplifiedGraph, ranges: RangeTable | None) -> Table:
    """The table of ``ranges``, checked to belong to ``graph`` and to this installation.

    Raises:
        InputError: ``ranges`` is None, of another graph or preprocessing, of a single shard, or was
            made with another version of a library; the message names the first difference.
    """
    if ranges is None:
        raise InputError(
            "precision int8 needs a range table, got none", hint="run calibrate and pass its result"
        )
    table = read_table(ranges)
    index, num_shards = table.shard
    if num_shards > 1:
        raise InputError(
            f"range table {ranges.path} is shard {index} of {num_shards} alone",
            hint="calibrate --merge puts the tables of all shards together",
        )
    tools = ranges.provenance.tools
    got = {"graph": table.graph, **_compared_values(table.preprocess, tools)}
    wanted = {
        "graph": graph.sha256,
        **_compared_values(graph.details.preprocess, {n: tool_version(n) for n in tools}),
    }
    for key, value in wanted.items():
        if got.get(key) != value:
            raise InputError(
                f"range table {ranges.path} is of another {key}: "
                f"got {got.get(key)}, wanted {value}",
                hint=f"edge-inception {_recalibrate_command(graph, ranges, table)}",
            )
    return table


def _recalibrate_command(graph: SimplifiedGraph, ranges: RangeTable, table: Table) -> str:
    """The command that makes a new table of ``graph`` with the options of this table.

    The calibrator named in the table is not always the option ``--calibrator``: after ``auto`` it
    is the calibrator that the trial chose, and after an import it is that of TensorRT.
    """
    origin = ranges.provenance
    if origin.stage == "qat":
        out = shlex.quote(str(ranges.path.parent))
        return f"train --qat RANGES --data IMAGES --validation IMAGES --out {out}"
    if origin.stage == "import_ranges":
        flags = [f"--import-cache {shlex.quote(table.set)}"]
        flags += ["--calibration IMAGES"] if "images" in origin.parents else []
    else:
        flags = [f"--calibrator {origin.options['calibrator']}"]
        flags += [f"--placement {name}"] if (name := origin.options.get("placement")) else []
        flags += ["--calibration IMAGES"]
    source, out = shlex.quote(str(graph.path)), shlex.quote(str(ranges.path))
    return f"calibrate {source} {' '.join(flags)} --out {out}"


def _compared_values(preprocess: Preprocess, tools: Mapping[str, str]) -> dict[str, Any]:
    named = {f"preprocess.{key}": value for key, value in plain(preprocess).items()}
    return named | {f"version of {name}": version for name, version in tools.items()}


def group_ranges(
    group_of: Mapping[str, str], observed: Mapping[str, TensorRange]
) -> dict[str, TensorRange]:
    """Group -> the largest range among its tensors, for groups as in a ``Placement``.

    Some tensors of a group may lack a range, such as the inputs of a Concat: the range of another
    tensor of the group, such as the output, then holds for them.

    Raises:
        InputError: No tensor of a group was observed.
    """
    widest: dict[str, TensorRange] = {}
    pairs = ((n, root) for name, root in group_of.items() for n in (name, root))
    for name, root in pairs:
        if name in observed:
            widest[root] = observed[name].widened(widest.get(root, observed[name]), scale_of=root)
    missing = [root for root in dict.fromkeys(group_of.values()) if root not in widest]
    if missing:
        raise InputError(
            f"the range table has no amax for {len(missing)} tensors, first '{missing[0]}'",
            hint="calibrate this graph again",
        )
    return widest


def tensor_scales(amax_of: Mapping[str, float]) -> dict[str, np.float32]:
    """Tensor -> its scale, which ``int8_scale`` computes from its amax.

    Raises:
        InputError: An amax needs a scale beyond float16; the message names the largest.
    """
    largest = max(amax_of, key=lambda name: (amax_of[name], name), default="")
    if largest and amax_of[largest] > LEVELS * LARGEST_SCALE:
        raise InputError(
            f"tensor '{largest}' reaches {amax_of[largest]:g}, whose int8 scale is beyond float16",
            hint="untrained weights give such activations; if yours are trained: --precision fp32",
        )
    return {
        name: np.float32(int8_scale(np.array(amax, np.float32))) for name, amax in amax_of.items()
    }


def write_statistics(
    table: Path,
    observed: Mapping[str, Observation],
    means: Mapping[str, ChannelMeans],
    fitted: FittedParameters,
) -> dict[str, str]:
    """Write histograms, channel means [C] and fitted parameters beside a table to be published.

    Equal content gives equal bytes. The result, suffix -> sha256 of the file, is for the table's
    ``details.beside``.
    """
    tensors, measured = list(observed.values()), list(means.values())
    arrays: dict[str, Any] = {
        "names": np.array(list(observed), dtype=np.str_),
        "amax": np.array([tensor.amax for tensor in tensors], dtype=np.float64),
        "histograms": np.array([tensor.histogram for tensor in tensors], dtype=np.int64),
        "means_names": np.array(list(means), dtype=np.str_),
        "means_sizes": np.array([channels.plain.size for channels in measured], dtype=np.int64),
        "means_scale": np.array([channels.scale for channels in measured], dtype=np.float64),
        "means_plain": np.concatenate([[], *(channels.plain for channels in measured)]),
        "means_quantized": np.concatenate([[], *(channels.quantized for channels in measured)]),
        **{f"{_WEIGHT}{name}": steps for name, steps in fitted.weights.items()},
        **{f"{_CORRECTION}{name}": change for name, change in fitted.corrections.items()},
    }

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    return write_beside(table, _STATISTICS, write)


def read_histograms(ranges: RangeTable) -> dict[str, Observation]:
    """Tensor -> its exact amax and histogram, from the .npz beside a range table.

    Raises:
        InputError: The file beside the table is missing or was not written with it.
    """
    content = _read_statistics(ranges)
    if not content["names"].size:
        raise InputError(
            f"range table {ranges.path} has no histograms: it comes from a calibration cache",
            hint="calibrate with images",
        )
    rows = zip(content["names"], content["amax"], content["histograms"], strict=True)
    return {str(name): Observation(amax=float(amax), histogram=row) for name, amax, row in rows}


def read_means(ranges: RangeTable) -> dict[str, ChannelMeans]:
    """Input tensor of a layer -> its channel means; empty for the table of a single shard.

    Raises:
        InputError: The file beside the table is missing or was not written with it.
    """
    content = _read_statistics(ranges)
    ends = np.cumsum(content["means_sizes"])[:-1]
    plain, quantized = (np.split(content[key], ends) for key in ("means_plain", "means_quantized"))
    rows = zip(content["means_names"], content["means_scale"], plain, quantized, strict=False)
    return {
        str(name): ChannelMeans(scale=float(scale), plain=floats, quantized=rounded)
        for name, scale, floats, rounded in rows
    }


def read_fitted(ranges: RangeTable) -> FittedParameters:
    """Rounded weights and bias corrections, from the .npz beside a range table.

    Raises:
        InputError: The file beside the table is missing or was not written with it.
    """
    content = _read_statistics(ranges)

    def named(prefix: str) -> dict[str, NDArray[Any]]:
        return {k.removeprefix(prefix): v for k, v in content.items() if k.startswith(prefix)}

    return FittedParameters(weights=named(_WEIGHT), corrections=named(_CORRECTION))


def _read_statistics(ranges: RangeTable) -> dict[str, NDArray[Any]]:
    path = ranges.path.with_suffix(_STATISTICS)
    if file_sha256(path) != ranges.details.beside.get(_STATISTICS):
        raise InputError(f"{path} was not written with {ranges.path}", hint="run calibrate again")
    with np.load(path, allow_pickle=False) as content:
        return dict(content)
