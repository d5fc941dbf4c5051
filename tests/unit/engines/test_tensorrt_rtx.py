"""Promises of the TensorRT-RTX backend, on the real library, without a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from edge_inception import artifact
from edge_inception.artifact import EngineFile
from edge_inception.engines import _cuda
from edge_inception.engines import tensorrt_rtx as backend
from edge_inception.engines._backend import CompileOptions, SessionOptions
from edge_inception.errors import BackendMissing, CompileFailed, InputError
from edge_inception.spec import ShapeProfile
from edge_inception.stage import plain

BACKEND = backend.BACKEND
trt = pytest.importorskip("tensorrt_rtx_bindings")
without_driver = pytest.mark.skipif(
    bool(_cuda.driver_version()), reason="this machine has an NVIDIA driver"
)


def compiled(typed, options=None):
    path = typed.path.with_suffix(BACKEND.suffix)
    return BACKEND.compile(typed, options or CompileOptions(), path)


@pytest.mark.parametrize("spelling", ["fp32", "fp16", "strong", "strong_fp32", "weak"])
def test_every_spelling_becomes_a_plan(tiny_typed, spelling):
    """NVIDIA's parser and compiler accept every spelling; the plan carries RTX's magic."""
    engine = artifact.load(EngineFile, compiled(tiny_typed(spelling)).path)
    assert engine.path.read_bytes()[:4] == b"vtrt"
    assert engine.details.backend == "tensorrt_rtx"
    assert engine.details.tied_to == {"tensorrt_rtx": trt.__version__}


def test_kernels_of_the_dump_have_the_bytes_of_the_graph(tiny_typed):
    """FP32 weight bytes are 4 per weight and bias of the graph, and two factors of the library."""
    details = compiled(tiny_typed("fp32")).details
    assert details.weight_bytes == {"Float": 4 * (6 * 3 * 9 + 6 + 5 * 6 + 5 + 2)}
    assert details.total_weight_bytes == sum(details.weight_bytes.values())
    assert details.int8_layers == 0


def test_int8_layers_are_counted(tiny_typed):
    """The convolution of an int8 graph multiplies in int8, on int8 weights."""
    details = compiled(tiny_typed("strong")).details
    assert details.int8_layers == 2
    assert details.layers["correlation"] == {"Int8": 1}
    # 3 input channels are padded to 4; int8 kernels take one byte per weight
    assert details.weight_bytes["Int8"] >= 6 * 3 * 9
    assert details.weight_bytes["Int8"] <= 6 * 4 * 9 + 5 * 6 * 2
    assert details.padding_bytes == 8 * 8


def test_details_of_the_graph_travel_with_the_engine(tiny_typed):
    """Class names and preprocessing of the typed graph are in the engine's sidecar."""
    typed = tiny_typed()
    engine = artifact.load(EngineFile, compiled(typed).path)
    assert plain(engine.details).items() >= plain(typed.details).items()
    assert engine.provenance.parents["typed graph"] == typed.sha256
    assert engine.provenance.parents.keys() == {"typed graph", "details of typed graph"}


def test_compute_capabilities_change_the_plan(tiny_typed):
    """A chosen compute capability reaches the builder: the plan for Turing alone differs."""
    typed = tiny_typed("fp16")
    default = compiled(typed).sha256
    chosen = compiled(typed, CompileOptions(compute_capabilities=("7.5",)))
    assert chosen.sha256 != default
    assert chosen.details.compute_capabilities == ("7.5",)


def test_unknown_compute_capability_lists_the_known(tiny_typed):
    """8.7 (Jetson Orin) is no RTX GPU: refused, with the library's own list."""
    with pytest.raises(InputError, match=r"no compute capability named '8\.7'") as caught:
        compiled(tiny_typed(), CompileOptions(compute_capabilities=("8.7",)))
    members = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    assert "8.9" in caught.value.hint
    assert caught.value.hint.partition("known: ")[2].count(".") == len(members)


def test_int8_without_int8_layers_is_refused(tiny_typed):
    """On Turing RTX computes INT8 convolutions in float16, so the engine is not published."""
    typed = tiny_typed("strong")
    with pytest.raises(CompileFailed, match=r"7\.5 computes no convolution of it in int8"):
        compiled(typed, CompileOptions(compute_capabilities=("7.5",)))
    assert not typed.path.with_suffix(BACKEND.suffix).exists()


def test_dynamic_batch_has_a_profile(tiny_typed):
    """A dynamic graph builds with its profile, and the tool's command says the same."""
    typed = tiny_typed("fp32", batch=None)
    engine = compiled(typed, CompileOptions(profile=ShapeProfile(min=1, opt=2, max=4)))
    assert "--optShapes=input:2x3x8x8" in engine.details.equivalent_command
    assert engine.details.batch == ShapeProfile(min=1, opt=2, max=4)


def test_static_graph_refuses_another_batch(tiny_typed):
    """A graph of batch 1 is not compiled for batch 4."""
    with pytest.raises(InputError, match="static batch 1"):
        compiled(tiny_typed(), CompileOptions(profile=ShapeProfile(min=4, opt=4, max=4)))


def test_float_precision_belongs_to_the_graph(tiny_typed):
    """bf16 as an option of the engine is refused: strongly typed engines read the graph."""
    with pytest.raises(InputError, match="from the graph"):
        compiled(tiny_typed(), CompileOptions(float_precision="bf16"))


def broken(tiny_typed, typed_from_model, change):
    import onnx

    model = onnx.load(str(tiny_typed("strong_fp32").path))
    change(model.graph)
    return typed_from_model(model)


def test_unknown_operator_is_named(tiny_typed, typed_from_model):
    """The parser's refusal arrives with the node's name and operator, and no engine is left."""

    def change(graph):
        next(node for node in graph.node if node.op_type == "Relu").op_type = "Frobnicate"

    typed = broken(tiny_typed, typed_from_model, change)
    with pytest.raises(CompileFailed, match=r"'r/Relu' \(Frobnicate\)") as caught:
        compiled(typed)
    assert "\n" not in str(caught.value)
    assert not typed.path.with_suffix(BACKEND.suffix).exists()


def test_uint8_zero_point_is_named(tiny_typed, typed_from_model):
    """An asymmetric pair is refused with the name of its QuantizeLinear node."""
    from onnx import numpy_helper

    def change(graph):
        zero = next(entry for entry in graph.initializer if entry.name == "r_zero")
        zero.CopyFrom(numpy_helper.from_array(np.array(128, np.uint8), "r_zero"))

    typed = broken(tiny_typed, typed_from_model, change)
    with pytest.raises(CompileFailed, match=r"'r_q/QuantizeLinear'.*zero point"):
        compiled(typed)


def test_zero_scale_is_named(tiny_typed, typed_from_model):
    """A scale of zero is refused with the name of the node that uses it."""
    from onnx import numpy_helper

    def change(graph):
        scale = next(entry for entry in graph.initializer if entry.name == "g_scale")
        scale.CopyFrom(numpy_helper.from_array(np.array(0, np.float32), "g_scale"))

    typed = broken(tiny_typed, typed_from_model, change)
    with pytest.raises(CompileFailed, match=r"'g_q/QuantizeLinear'.*positive"):
        compiled(typed)


def test_builder_error_names_the_node(tiny_typed):
    """What parses and cannot be built is refused with the operation's name: FP32 Gemm on Turing."""
    with pytest.raises(CompileFailed, match=r"'logits/Gemm'") as caught:
        compiled(tiny_typed("fp32"), CompileOptions(compute_capabilities=("7.5",)))
    assert "\n" not in str(caught.value)


def test_failed_build_leaves_no_trace(tiny_typed):
    """A failed build for Turing does not make the next engine one for Turing."""
    typed = tiny_typed("strong")
    expected = compiled(typed).details.layers
    with pytest.raises(CompileFailed):
        compiled(tiny_typed("fp32"), CompileOptions(compute_capabilities=("7.5",)))
    assert compiled(typed).details.layers == expected


def test_file_that_is_no_onnx_is_refused(tiny_typed):
    """Garbage with a valid sidecar is a compile error of one line."""
    typed = tiny_typed()
    typed.path.write_bytes(b"no onnx at all" * 9)
    with pytest.raises(CompileFailed, match="parse the ONNX model") as caught:
        compiled(typed)
    assert "\n" not in str(caught.value)


@without_driver
def test_open_without_driver_says_what_happened(tiny_typed):
    """Where no driver answers the engine is refused as compiled, not executed here."""
    with pytest.raises(BackendMissing, match="was compiled, and is not executed here") as caught:
        BACKEND.open(compiled(tiny_typed()), SessionOptions())
    assert "NVIDIA GPU" in caught.value.hint


@without_driver
def test_availability_without_driver():
    """Without a driver the backend compiles and does not execute, and says why."""
    found = BACKEND.availability()
    assert (found.can_compile, found.can_execute) == (True, False)
    assert "driver" in found.why_not


def test_foreign_plan_is_refused_by_its_header(tiny_typed):
    """A TensorRT plan, which starts with ftrt, is refused before the library sees it."""
    engine = compiled(tiny_typed("fp32"))
    engine.path.write_bytes(b"ftrt" + engine.path.read_bytes()[4:])
    with pytest.raises(InputError, match="'ftrt', wanted vtrt"):
        BACKEND.open(engine, SessionOptions())


def test_absent_library_names_the_extra(tiny_typed, monkeypatch):
    """Without the library the error and the availability name the command that installs it."""
    for module in ("tensorrt_rtx_bindings", "tensorrt_rtx"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    assert "edge-inception[rtx]" in BACKEND.availability().remedy
    with pytest.raises(BackendMissing) as caught:
        compiled(tiny_typed())
    assert "edge-inception[rtx]" in caught.value.hint


def test_progress_of_a_real_build_rises(tiny_typed):
    """The library reports its phases to the listener, which never goes back and stays within."""
    told = []
    typed = tiny_typed("strong")
    BACKEND.compile(
        typed,
        CompileOptions(),
        typed.path.with_suffix(BACKEND.suffix),
        progress=lambda done, of: told.append(done / of),
    )
    assert len(told) > 10
    assert told == sorted(told)
    assert 0.5 < told[-1] <= 1.0


def test_interrupt_stops_a_real_build(tiny_typed):
    """Ctrl-C during a build ends it, leaves no engine, and the next build is whole."""
    typed = tiny_typed("strong")
    path = typed.path.with_suffix(BACKEND.suffix)

    def interrupt(_done, _of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BACKEND.compile(typed, CompileOptions(), path, progress=interrupt)
    assert not path.exists()
    assert compiled(typed).details.int8_layers == 2


def test_layers_come_from_the_log_without_a_gpu(tiny_typed):
    """A plan cannot be deserialized without a GPU, so the log is the source; the convolution of a
    float graph is counted as float, and its tiny Gemm has become generated code."""
    details = compiled(tiny_typed("strong")).details
    assert details.fallbacks == ()
    if not _cuda.driver_version():
        assert details.layers_from == "log"
    assert compiled(tiny_typed("fp16")).details.float_kernels == 1
