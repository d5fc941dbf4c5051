"""Promises of the OpenVINO backend, against onnxruntime and the library's own read-back."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import onnx
import openvino
import pytest
from msgspec import structs
from openvino import opset13

from edge_inception import artifact
from edge_inception.artifact import EngineFile
from edge_inception.engines import _openvino
from edge_inception.engines import openvino as backend
from edge_inception.engines._backend import CompileOptions, SessionOptions
from edge_inception.errors import BackendMissing, CompileFailed, InputError
from edge_inception.spec import ShapeProfile
from edge_inception.stage import plain

pytestmark = pytest.mark.cpu_isa

BACKEND = backend.BACKEND
ONE = SessionOptions(threads=1)


def compiled(typed, options=None):
    path = typed.path.with_suffix(BACKEND.suffix)
    return BACKEND.compile(typed, options or CompileOptions(), path)


# One step of the Gemm's int8 input, 3/127, times the largest row sum of |weights| (under 12): what
# a different rounding of one hidden value can move a logit by.
STEP = 12 * 3 / 127
# float16 keeps 11 bits; three layers deep, logits below 4.
HALF = 4 * 3 * 2**-10


@pytest.mark.parametrize(
    ("spelling", "tolerance"),
    [("fp32", 1e-5), ("fp16", HALF), ("strong", STEP), ("strong_fp32", STEP), ("weak", STEP)],
)
def test_logits_equal_onnxruntime(tiny_typed, tiny_images, reference_logits, spelling, tolerance):
    """Every spelling gives the logits that the ONNX operators mean."""
    typed, images = tiny_typed(spelling, batch=4), tiny_images(4)
    engine = compiled(typed, CompileOptions(profile=ShapeProfile(min=4, opt=4, max=4)))
    with BACKEND.open(engine, ONE) as session:
        logits = session.run(images)
    expected = reference_logits(typed.path, images)
    assert logits.dtype == np.float32
    assert np.ptp(expected) > 10 * tolerance
    np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("spelling", ["strong", "strong_fp32", "weak"])
def test_int8_is_executed(tiny_typed, spelling):
    """Convolution and Gemm of a quantized graph run in int8, in the engine that was opened."""
    engine = compiled(tiny_typed(spelling))
    with BACKEND.open(engine, ONE) as session:
        info = session.info
    for facts in (plain(engine.details), info):
        assert facts["int8_layers"] == facts["weighted_layers"] == 2
        assert set(facts["executed_layers"]["Convolution"]) <= {"i8", "u8"}


@pytest.mark.parametrize("spelling", ["fp32", "fp16"])
def test_float_graph_has_no_int8(tiny_typed, spelling):
    """A float graph is counted as zero int8 layers of two."""
    counts = compiled(tiny_typed(spelling)).counts
    assert counts == {"weighted_layers": 2, "int8_layers": 0}


def test_precision_and_threads_survive_import(tiny_typed):
    """The opened engine computes at f32 on one thread, though the library's default is bf16."""
    with BACKEND.open(compiled(tiny_typed("fp32")), ONE) as session:
        assert session.info["float_precision"] == "f32"
        assert session.info["threads"] == 1
        assert session.info["executed_layers"]["Convolution"] == {"f32": 1}


def test_bf16_is_executed_or_refused(tiny_typed):
    """bf16 runs convolutions in bf16 where the CPU has it, and is refused elsewhere, naming f32."""
    import openvino

    asked = CompileOptions(float_precision="bf16")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(InputError) as caught:
            compiled(tiny_typed("fp32"), asked)
        assert "f32" in caught.value.hint
        return
    with BACKEND.open(compiled(tiny_typed("fp32"), asked), ONE) as session:
        assert session.info["float_precision"] == "bf16"
        assert session.info["executed_layers"]["Convolution"] == {"bf16": 1}


def test_missing_arithmetic_is_refused(tiny_typed, monkeypatch):
    """A float precision that the CPU does not report is refused and f32 is named."""
    monkeypatch.setattr(_openvino, "CAPABILITIES", {"f32": "FP32", "bf16": "NOT-IN-ANY-CPU"})
    with pytest.raises(InputError, match="no bf16 arithmetic") as caught:
        compiled(tiny_typed("fp32"), CompileOptions(float_precision="bf16"))
    assert "f32" in caught.value.hint


@pytest.mark.parametrize("spelling", ["strong", "fp32"])
def test_layers_have_the_names_of_the_graphs_nodes(tiny_typed, tiny_images, spelling):
    """The graph's convolution is timed once, under its own name."""
    typed = tiny_typed(spelling)
    engine, batches = compiled(typed), [tiny_images(1)] * 4
    found = BACKEND.layer_times(engine, ONE, batches)
    convolutions = [
        node.name for node in onnx.load(typed.path).graph.node if node.op_type == "Conv"
    ]
    assert [one.name for one in found if one.kind == "Convolution"] == convolutions
    assert sum(one.ms for one in found) > 0
    engine.path.write_bytes(b"no blob")
    with pytest.raises(InputError, match="cannot load"):
        BACKEND.layer_times(engine, ONE, batches)


def timed_by_counters(monkeypatch, counted):
    """layer_times of four calls, where OpenVINO counted so many us in each, by name and kernel."""
    calls = []

    class Request:
        def infer(self, inputs):
            calls.append(inputs)

        @property
        def profiling_info(self):
            for (name, kernel), us in counted.items():
                mean = timedelta(microseconds=sum(us[: len(calls)]) // len(calls))
                yield SimpleNamespace(
                    node_name=name,
                    node_type="Convolution",
                    exec_type=kernel,
                    real_time=mean,
                    status=f"Status.{'EXECUTED' if mean else 'NOT_RUN'}",
                )

    core = MagicMock()
    core.get_property.return_value = ["FP32"]
    core.import_model.return_value.create_infer_request.return_value = Request()
    monkeypatch.setattr(_openvino, "library", lambda: MagicMock(Core=lambda: core))
    found = _openvino.layer_times(b"", [None] * 4, name="it", precision="f32", threads=1)
    return [(one.name, pytest.approx(one.ms)) for one in found]


def test_layer_times_leave_the_warm_up_out(monkeypatch):
    """Counters that hold the mean of all calls, as OpenVINO's do: 900 us, then 30, 60 and 90."""
    counted = {
        ("conv/WithoutBiases", "jit_avx2_I8"): [900, 30, 60, 90],
        ("sum", "jit_avx2_I8"): [900, 0, 0, 0],
    }
    assert timed_by_counters(monkeypatch, counted) == [("conv", 0.06), ("sum", 0.0)]


def test_a_layer_of_under_a_microsecond_is_listed(monkeypatch):
    """What the fastest CPU runs in no whole microsecond is listed; what no kernel ran is not."""
    counted = {
        ("fast", "brgconv_avx512_1x1_I8"): [0, 0, 0, 0],
        ("once", "brgconv_avx512_1x1_I8"): [3, 0, 0, 0],
        ("fused", "undef"): [0, 0, 0, 0],
        ("in place", "unknown_I8"): [0, 0, 0, 0],
        ("copied", "unknown_I8"): [40, 4, 4, 4],
    }
    assert timed_by_counters(monkeypatch, counted) == [
        ("fast", 0.0),
        ("once", 0.0),
        ("copied", 0.004),
    ]


def test_openvinos_counters_hold_the_mean_of_all_calls():
    """What layer_times reckons with: one row's product alone takes a small part of 4,096 rows',
    whose time still weighs on the counter.
    """
    rows = opset13.parameter([-1, 256], np.float32)
    product = opset13.matmul(
        rows, np.ones((256, 256), np.float32), transpose_a=False, transpose_b=False
    )
    model = openvino.Model([product], [rows])
    request = openvino.compile_model(model, "CPU", {"PERF_COUNT": True}).create_infer_request()
    first, second = (_longest_us(request, np.ones((count, 256), np.float32)) for count in (4096, 1))
    assert first > 100
    assert 2 * (second + 1) >= first  # whole microseconds, rounded down


def _longest_us(request, rows):
    request.infer({0: rows})
    return max(one.real_time.total_seconds() for one in request.profiling_info) * 1e6


def test_unknown_float_precision_is_refused(tiny_typed):
    """A mistyped float precision gets the nearest known name."""
    with pytest.raises(InputError) as caught:
        compiled(tiny_typed("fp32"), CompileOptions(float_precision="b16"))
    assert "did you mean" in caught.value.hint


def test_threads_that_cannot_be_had_are_refused(tiny_typed):
    """OpenVINO lowers a too large thread count silently; we do not."""
    with pytest.raises(InputError, match="threads 9999"):
        BACKEND.open(compiled(tiny_typed("fp32")), SessionOptions(threads=9999))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_any_number_of_images(tiny_typed, tiny_images, reference_logits, count):
    """A static engine of batch 4 takes any number of images, in order."""
    typed, images = tiny_typed("fp32", batch=4), tiny_images(count)
    engine = compiled(typed, CompileOptions(profile=ShapeProfile(min=4, opt=4, max=4)))
    free = tiny_typed("fp32", batch=None)
    with BACKEND.open(engine, ONE) as session:
        logits = session.run(images)
    np.testing.assert_allclose(logits, reference_logits(free.path, images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_dynamic_batch(tiny_typed, tiny_images, reference_logits, count):
    """An engine of profile 2:2:4 takes any number of images, padding below and splitting above."""
    typed, images = tiny_typed("fp32", batch=None), tiny_images(count)
    engine = compiled(typed, CompileOptions(profile=ShapeProfile(min=2, opt=2, max=4)))
    with BACKEND.open(engine, ONE) as session:
        logits = session.run(images)
    np.testing.assert_allclose(logits, reference_logits(typed.path, images), atol=1e-5, rtol=0)


def test_static_graph_refuses_another_batch(tiny_typed):
    """A graph exported with batch 1 is not silently reshaped to batch 4."""
    with pytest.raises(InputError, match="static batch 1"):
        compiled(tiny_typed(), CompileOptions(profile=ShapeProfile(min=1, opt=2, max=4)))


def test_each_run_returns_its_own_array(tiny_typed, tiny_images):
    """A second run does not overwrite the logits of the first."""
    first_image, second_image = np.split(tiny_images(2), 2)
    with BACKEND.open(compiled(tiny_typed("fp32")), ONE) as session:
        first = session.run(first_image)
        kept = first.copy()
        second = session.run(second_image)
    assert not np.array_equal(kept, second)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 9, 8), np.float32),
        np.zeros((0, 3, 8, 8), np.float32),
        np.zeros((3, 8, 8), np.float32),
        np.zeros((1, 3, 8, 8), np.float64),
    ],
    ids=["size", "empty", "rank", "float64"],
)
def test_wrong_images_are_refused(tiny_typed, images):
    """Images of another shape or type are an input error that says what is wanted."""
    with (
        BACKEND.open(compiled(tiny_typed("fp32")), ONE) as session,
        pytest.raises(InputError, match=r"takes float32 \[N, 3, 8, 8\]"),
    ):
        session.run(images)


def test_details_of_the_graph_travel_with_the_engine(tiny_typed):
    """Class names and preprocessing of the typed graph are in the engine's sidecar."""
    typed = tiny_typed()
    engine = artifact.load(EngineFile, compiled(typed).path)
    assert plain(engine.details).items() >= plain(typed.details).items()
    assert engine.provenance.parents["typed graph"] == typed.sha256
    assert engine.provenance.parents.keys() == {"typed graph", "details of typed graph"}


def test_engine_of_another_version_is_refused(tiny_typed):
    """An engine of another OpenVINO is refused with both versions and the command that cures it."""
    engine = compiled(tiny_typed())
    other = dataclasses.replace(
        engine,
        details=structs.replace(
            engine.details, tied_to={**backend.tied_to(), "openvino": "2020.1"}
        ),
    )
    with pytest.raises(InputError, match=r"2020\.1") as caught:
        BACKEND.open(other, ONE)
    assert "compile" in caught.value.hint


def test_engine_for_other_int8_sums_is_refused(tiny_typed, monkeypatch):
    """Its activations are rewritten for sums that saturate, or for sums that do not."""
    engine = compiled(tiny_typed())
    here = _openvino.saturates()
    assert engine.details.sums_saturate is here
    assert engine.details.offset_activations == (0 if here else 1)
    assert engine.details.split_activations == (1 if here else 0)
    monkeypatch.setattr(_openvino, "saturates", lambda: not here)
    for call in (lambda: BACKEND.open(engine, ONE), lambda: BACKEND.layer_times(engine, ONE, [])):
        with pytest.raises(InputError, match="int8 sums") as caught:
            call()
        assert "compile it again here" in caught.value.hint


def test_engine_of_before_the_probe_is_opened(tiny_typed, tiny_images, monkeypatch):
    """Its sidecar does not say whether sums saturate: its activations are right on every CPU."""
    with monkeypatch.context() as patch:
        patch.setattr(_openvino, "saturates", lambda: True)
        engine = compiled(tiny_typed())
    details = structs.replace(engine.details, sums_saturate=None)
    with BACKEND.open(dataclasses.replace(engine, details=details), ONE) as session:
        assert session.run(tiny_images(1)).size


def test_blob_of_another_instruction_set_is_refused(tiny_typed):
    """OpenVINO's own refusal of a foreign CPU arrives as one line with a hint."""
    engine = compiled(tiny_typed())
    blob = engine.path.read_bytes()
    assert b";isa=" in blob[:200]
    engine.path.write_bytes(blob.replace(b";isa=", b";isa#", 1))
    with pytest.raises(InputError, match="isa mismatch") as caught:
        BACKEND.open(engine, ONE)
    assert "\n" not in str(caught.value)
    assert "compile" in caught.value.hint


def test_truncated_blob_is_refused(tiny_typed):
    """Half a blob is an input error, not a crash."""
    engine = compiled(tiny_typed())
    blob = engine.path.read_bytes()
    engine.path.write_bytes(blob[: len(blob) // 2])
    with pytest.raises(InputError, match="cannot load"):
        BACKEND.open(engine, ONE)


def test_unknown_operator_is_named(tiny_typed, typed_from_model):
    """An operator that OpenVINO lacks is a compile error that names it, and no engine is left."""
    import onnx

    model = onnx.load(str(tiny_typed("fp32").path))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Frobnicate"
    typed = typed_from_model(model)
    with pytest.raises(CompileFailed, match="Frobnicate") as caught:
        compiled(typed)
    assert "\n" not in str(caught.value)
    assert not typed.path.with_suffix(BACKEND.suffix).exists()


@pytest.mark.parametrize(
    "options",
    [
        CompileOptions(compute_capabilities=("8.9",)),
        CompileOptions(workspace_mib=64),
    ],
)
def test_options_of_other_backends_are_refused(tiny_typed, options):
    """An option this backend cannot honour is refused, not ignored."""
    with pytest.raises(InputError, match="has no option"):
        compiled(tiny_typed(), options)


def test_absent_library_names_the_extra(tiny_typed, monkeypatch):
    """Without OpenVINO the error and the availability name the command that installs it."""
    engine = compiled(tiny_typed())
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    found = BACKEND.availability()
    assert not found.can_compile
    assert "edge-inception[cpu]" in found.remedy
    with pytest.raises(BackendMissing) as caught:
        BACKEND.open(engine, ONE)
    assert "edge-inception[cpu]" in caught.value.hint


def test_weights_of_two_layers_and_signs_are_refused(typed_from_model, monkeypatch):
    """What the respelling cannot split is an input error that names the way out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {"s": np.float32(0.02), "z": np.int8(0)}
    constants["w"] = np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype(np.float32)
    nodes, x = [], "input"
    for index in range(2):
        names = [f"{what}{index}" for what in ("q", "d", "y")]
        nodes.append(helper.make_node("QuantizeLinear", [x, "s", "z"], [names[0]]))
        nodes.append(helper.make_node("DequantizeLinear", [names[0], "s", "z"], [names[1]]))
        nodes.append(helper.make_node("Conv", [names[1], "w"], [names[2]]))
        x = names[2]
    shape = [1, 3, 8, 8]
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model)
    monkeypatch.setattr(_openvino, "saturates", lambda: True)
    with pytest.raises(InputError, match="shares its weights") as caught:
        compiled(typed_from_model(model))
    assert "--precision fp32" in caught.value.hint
