"""Calibration caches as range tables: a round trip to the byte, filled gaps, and refusals."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from edge_inception import artifact
from edge_inception.artifact import RangeTable
from edge_inception.errors import InputError
from edge_inception.quant import ranges
from edge_inception.quant.calibration_cache import write_cache
from edge_inception.quant.import_cache import fill_ranges, import_cache, read_cache
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import CacheOptions, FloatRest, QuantizeOptions, Typing
from edge_inception.spec import Precision

IMPLICIT = QuantizeOptions(precision=Precision.INT8, typing=Typing.IMPLICIT)
TYPED = QuantizeOptions(precision=Precision.INT8, float_rest=FloatRest.FP32)
ORIN = CacheOptions(tensorrt="8.5.2")
PROFILE = {"min": 1, "opt": 1, "max": 1}


def cache_of(graph, table, folder, name):
    implicit = quantize(graph, table, IMPLICIT, folder / f"{name}.onnx")
    return write_cache(implicit, table, ORIN, folder / f"{name}.cache").path


def write(path, scales, header="TRT-100300-EntropyCalibration2"):
    """A cache as TensorRT writes it: hex without leading zeros."""
    lines = [f"{name}: {struct.unpack('>I', struct.pack('>f', s))[0]:x}" for name, s in scales]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture
def networks(model, residual):
    return {"block": model, "residual": residual()}


@pytest.mark.parametrize("name", ["block", "residual"])
def test_a_cache_goes_in_and_out_without_a_bit_changed(
    networks, name, save, photos, options, tmp_path
):
    """Table -> cache -> table -> cache: the same text, in a plain Inception and a residual one."""
    graph = save(networks[name], profile=PROFILE)
    table = calibrate(graph, photos, options, tmp_path / "r.json")
    first = cache_of(graph, table, tmp_path, "first")
    back = import_cache(graph, first, None, options, tmp_path / "back.json")
    assert cache_of(graph, back, tmp_path, "second").read_bytes() == first.read_bytes()
    assert artifact.load(RangeTable, back.path) == back


def test_amax_is_127_scales_of_any_float32(model, save, options, tmp_path):
    """A cache by TensorRT, names that are not ours among its own; the table holds 127 * scale."""
    scales = {"input": 0.0078740157, "stem": 0.1, "mean": 0.05, "left": 0.02, "right": 0.3}
    rest = {"last": 1.5e-39 + 0.07, "(Unnamed Layer* 3) [Convolution]_output": 1.0, "logits": 9.0}
    path = write(tmp_path / "trt.cache", [*scales.items(), *rest.items()])
    found = import_cache(save(model), path, None, options, tmp_path / "r.json")
    table = ranges.read_table(found)
    for name, scale in {**scales, "last": rest["last"]}.items():
        if name in table.tensors:
            assert table.tensors[name].amax == 127 * float(np.float32(scale))
    # The Concat has the largest of its inputs, the MaxPool its input, the mean of `last` its own.
    assert table.tensors["joined"].amax == 127 * float(np.float32(0.3))
    assert table.tensors["pooled"].amax == table.tensors["stem"].amax
    assert table.tensors["flat"].amax == table.tensors["last"].amax
    assert table.calibrator == "EntropyCalibration2"
    assert found.details.not_in_graph == ("(Unnamed Layer* 3) [Convolution]_output",)


def test_what_is_given_stays_and_outputs_give_nothing(model):
    """A gap is filled from either side, a given amax is not touched, logits are left alone."""
    amax = fill_ranges(
        model, {"pooled": 2.0, "stem": 3.0, "joined": 5.0, "left": 4.0, "logits": 9.0}
    )
    assert amax["stem"] == 3.0
    assert "stem.c" not in amax  # what a ReLU cuts off is unknown
    assert amax["pooled"] == amax["mean"] == 2.0
    assert (amax["left"], amax["right"]) == (4.0, 5.0)
    assert "logits" not in amax
    assert "flat" not in amax


def test_an_output_of_the_graph_is_never_filled(model):
    """A pool that the graph returns gets no scale, and gives none to what it pools."""
    model.graph.output.add().name = "flat"
    assert "flat" not in fill_ranges(model, {"last": 1.0})
    assert "last" not in fill_ranges(model, {"flat": 1.0})


def test_a_missing_tensor_is_refused_with_what_is_not_ours(model, save, options, tmp_path):
    """Both lists are named: often it is one tensor under two names."""
    path = write(tmp_path / "c", [("input", 1.0), ("stem", 1.0), ("joined:0", 1.0)])
    with pytest.raises(
        InputError, match=r"no scale for 3 tensors.*: joined, last, flat;"
    ) as caught:
        import_cache(save(model), path, None, options, tmp_path / "r.json")
    assert "1 of its names are not in the graph: joined:0" in str(caught.value)
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "first line is ''"),
        ("input: 3f800000\n", "no calibration cache"),
        ("TRT-8502-EntropyCalibration2\ninput 3f800000\n", "line 2: 'input 3f800000'"),
        ("TRT-8502-EntropyCalibration2\ninput: 0\n", "line 2"),
        ("TRT-8502-EntropyCalibration2\ninput: 7f800000\n", "line 2"),
        ("TRT-8502-EntropyCalibration2\ninput: bf800000\n", "line 2"),
        ("TRT-8502-EntropyCalibration2\ninput: xyz\n", "line 2"),
        ("TRT-8502-EntropyCalibration2\na: 3f800000\na: 3f800000\n", "line 3"),
    ],
)
def test_what_is_no_cache_is_refused(tmp_path, text, reason):
    """The line and what was wanted there."""
    path = tmp_path / "c"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_cache(path)


def test_a_name_with_a_colon_is_read_whole(tmp_path):
    """The last ': ' ends the name."""
    path = write(tmp_path / "c", [("a: b", 1.0)])
    assert read_cache(path) == ("EntropyCalibration2", {"a: b": 1.0})


def test_bias_correction_needs_images(model, save, photos, options, tmp_path):
    """Without images there are no means, which the typed graph asks for; with them there are."""
    graph = save(model)
    table = calibrate(graph, photos, options, tmp_path / "r.json")
    record = json.loads(table.path.read_text())["tensors"]
    path = write(tmp_path / "c", [(name, one["amax"] / 127) for name, one in record.items()])
    bare = import_cache(graph, path, None, options, tmp_path / "bare.json")
    with pytest.raises(InputError, match="has no channel means"):
        quantize(graph, bare, TYPED, tmp_path / "q.onnx")
    with pytest.raises(InputError, match="has no histograms"):
        ranges.read_histograms(bare)
    whole = import_cache(graph, path, photos, options, tmp_path / "whole.json")
    assert quantize(graph, whole, TYPED, tmp_path / "q.onnx").counts["biases_corrected"] == 5
