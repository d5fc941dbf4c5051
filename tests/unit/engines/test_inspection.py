"""Promises of what is read from the library's log and from EngineInspector."""

from __future__ import annotations

import json
import types

import pytest

from edge_inception.engines import _inspection, _nvidia


def tensor(name, dims, kind):
    return (
        f"{{ Name: {name}, Dimensions: [{dims}], Strides: [1], StrideOrder: [0], "
        f"Datatype: {kind}, Format: (Linear) Row major linear format }}"
    )


def line(kind, inputs, constants):
    return (
        f"Name: some/layer_0, LayerType: {kind}, Inputs: [ {', '.join(inputs)}], "
        f"Constants: [ {', '.join(constants)}], Outputs: [ {tensor('out', '1,8', 'Float')}], "
        "TacticName: t, StreamId: 0, Metadata: [ONNX Layer: /a/Conv]"
    )


KERNEL, SCALE = tensor("w", "8,4,3,3", "Int8"), tensor("s", "1,8,1,1", "Float")
CONV = line("correlation", [tensor("x", "1,4,9,9", "Int8")], [KERNEL, SCALE])


def test_weight_bytes_by_hand():
    """Bytes are elements times element size, by type, and int8 convolutions are counted."""
    found = _inspection.describe_layers(_inspection.logged_layers(["noise", "Layers:\n" + CONV]))
    assert found["weight_bytes"] == {"Int8": 8 * 4 * 9, "Float": 8 * 4}
    assert found["total_weight_bytes"] == 8 * 4 * 9 + 8 * 4
    assert found["layers"] == {"correlation": {"Int8": 1}}
    assert found["int8_layers"] == 1


def test_activation_traffic_by_hand():
    """A layer moves what it reads and what it writes, 4 bytes a float, and constants are apart."""
    found = _inspection.describe_layers(_inspection.logged_layers([f"Layers:\n{CONV}\n{CONV}"]))
    assert found["activation_bytes"] == 2 * (4 * 9 * 9 + 8 * 4)
    assert found["num_kernels"] == 2


def test_dynamic_batch_counts_as_one_image():
    """A library lists a dynamic batch as -1; activations and weights are never negative."""
    conv = line("correlation", [tensor("x", "-1,4,9,9", "Int8")], [KERNEL, SCALE])
    described = _inspection.describe_layers(_inspection.logged_layers([f"Layers:\n{conv}"]))
    fixed = _inspection.describe_layers(_inspection.logged_layers([f"Layers:\n{CONV}"]))
    assert described["activation_bytes"] == fixed["activation_bytes"] > 0
    assert described["total_weight_bytes"] == fixed["total_weight_bytes"]


def test_shared_constant_counts_once():
    """Two layers that read one constant hold one copy of its bytes."""
    found = _inspection.describe_layers(_inspection.logged_layers([f"Layers:\n{CONV}\n{CONV}"]))
    assert found["weight_bytes"]["Int8"] == 8 * 4 * 9
    assert found["int8_layers"] == 2


def test_input_padding_is_no_weight():
    """A plane as large as the image it is joined to is padding; a kernel of that size is not."""
    plane = tensor("p", "1,1,9,9", "Int8")
    pad = line("kgen", [tensor("x", "1,3,9,9", "Float")], [plane])
    wide = line("correlation", [tensor("y", "1,4,3,3", "Int8")], [KERNEL])
    found = _inspection.describe_layers(_inspection.logged_layers([f"Layers:\n{pad}\n{wide}"]))
    assert found["padding_bytes"] == 81
    assert found["weight_bytes"] == {"Int8": 8 * 4 * 9}


def test_generated_code_multiplies_no_matrix():
    """Code that moves int8 data next to an int8 constant is no int8 layer; a gemm is one."""
    data, table = tensor("x", "1,6", "Int8"), tensor("p", "1,2", "Int8")
    both = f"Layers:\n{line('kgen', [data], [table])}\n{line('gemm', [data], [table])}"
    assert _inspection.describe_layers(_inspection.logged_layers([both]))["int8_layers"] == 1


def test_synchronisation_is_no_layer():
    """Signals and waits between streams are not counted as layers."""
    wait = (
        "Name: w, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , EventId: 1"
    )
    assert (
        _inspection.describe_layers(_inspection.logged_layers([f"Layers:\n{wait}"]))["layers"] == {}
    )


def test_older_spelling_of_types_is_read():
    """TensorRT 10 writes Format/Datatype where RTX writes Datatype."""
    old = CONV.replace(", Datatype:", ", Format/Datatype:")
    found = _inspection.describe_layers(_inspection.logged_layers(["Layers:\n" + old]))
    assert found["weight_bytes"] == {"Int8": 8 * 4 * 9, "Float": 8 * 4}


def conv(name, element, words, **more):
    """A convolution as EngineInspector writes it; ``words`` spell the type of a tensor."""
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 16, 35, 35], **words}
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [tensor],
        "Outputs": [{**tensor, "Name": "y"}],
        "ParameterType": "Convolution",
        "Weights": {"Type": element, "Count": 2304},
        "Bias": {"Type": "Float", "Count": 16},
        **more,
    }


REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to stem",
    "LayerType": "Reformat",
    "Inputs": [{"Name": "input", "Dimensions": [1, 3, 299, 299]}],
}
OLD = {
    "Layers": [
        {**REFORMAT, "Inputs": [{"Name": "input", "Format/Datatype": "Row major linear FP32"}]},
        conv(
            "stem",
            "Int8",
            {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"},
        ),
        conv("mixed", "Half", {"Format/Datatype": "Channel major FP16 format where channel % 8"}),
        conv("logits", "Float", {"Format/Datatype": "Row major linear FP32"}),
    ],
    "Bindings": ["input", "logits"],
}
NEW = {
    "Layers": [
        {**REFORMAT, "Inputs": [{"Name": "input", "Format": "Row major", "DataType": "Float"}]},
        conv("stem", "Int8", {"Format": "kCHW32", "DataType": "Int8"}),
        conv("mixed", "Half", {"Format": "kHWC8", "Datatype": "Half"}),
        conv("logits", "Float", {"Format": "Row major", "DataType": "Float"}),
    ],
    "I/O Tensors": [{"Name": "input", "IOMode": "Input", "DataType": "Float"}],
}


@pytest.mark.parametrize("record", [OLD, NEW], ids=["up to 10", "from 11"])
def test_both_schemas_give_the_same_counts(record):
    """One INT8, one FP16 and one FP32 convolution and a reformat are seen in either schema."""
    found = _inspection.describe_layers(_inspection.inspected_layers(json.dumps(record)))
    assert found["precisions"] == {"Int8": 1, "Half": 1, "Float": 2}
    assert found["convolutions"] == {"Int8": 1, "Half": 1, "Float": 1}
    assert (found["int8_layers"], found["reformat_layers"], found["dla_islands"]) == (1, 1, 0)
    assert found["weight_bytes"] == {"Int8": 2304, "Half": 2 * 2304, "Float": 4 * (2304 + 3 * 16)}


def test_fallbacks_are_told():
    """INT8 that became float is told with counts and names; a pure int8 engine tells nothing."""
    layers = _inspection.inspected_layers(json.dumps(OLD))
    (told,) = _inspection.fallbacks(_inspection.describe_layers(layers))
    assert told == (
        "int8 was asked for, and 2 of 3 layers with kernels compute in float: mixed, logits"
    )
    assert _inspection.fallbacks(_inspection.describe_layers(layers[:2])) == []
    (unknown,) = _inspection.fallbacks(_inspection.describe_layers([]))
    assert "no layers" in unknown


def test_what_the_graph_leaves_in_float_did_not_fall_back():
    """Only kernels of other layers are told, by the names that both libraries give to a kernel."""
    layers = _inspection.describe_layers(_inspection.inspected_layers(json.dumps(OLD)))
    for kernels, told in (
        (["stem/conv_U0_myl0_1", "stem/conv + stem/relu"], []),
        (["stem/conv2_U0_myl0_1"], ["stem/conv2_U0_myl0_1"]),
        (["stem/conv", "head/gemm"], ["head/gemm"]),
    ):
        described = {**layers, "float_kernels": kernels, "int8_layers": 5}
        lines = _inspection.fallbacks(described, ["stem/conv"])
        assert [line.rpartition(": ")[2] for line in lines] == told


def test_dla_islands_are_counted():
    """Pieces for a DLA core count, by their kind or, without details, by name; Myelin's do not."""
    names = ["{ForeignNode[stem...mixed]}", "Reformatting CopyNode", "{ForeignNode[a...b]}"]
    bare = _inspection.inspected_layers(json.dumps({"Layers": names, "Bindings": []}))
    assert _inspection.describe_layers(bare)["dla_islands"] == 2
    full = [
        {"Name": names[0], "LayerType": "DLA"},
        {"Name": names[2], "LayerType": "Myelin"},
    ]
    found = _inspection.inspected_layers(json.dumps({"Layers": full}))
    assert _inspection.describe_layers(found)["dla_islands"] == 1


def test_share_of_the_dla_is_told():
    """A whole network on the core tells nothing; parts outside, or none on it, are told."""
    piece, rest = {"Name": "{ForeignNode[a...z]}", "LayerType": "DLA"}, REFORMAT
    told = [
        _nvidia.dla_fallbacks(
            _inspection.describe_layers(_inspection.inspected_layers(json.dumps({"Layers": found})))
        )
        for found in ([piece], [piece, rest, rest], [rest])
    ]
    assert told[0] == []
    assert told[1] == ["on the DLA core 1, on the GPU 2 parts of the engine"]
    assert "no part of the engine" in told[2][0]


def fake_library():
    """What the logger and the monitor subclass."""
    return types.SimpleNamespace(
        ILogger=type("ILogger", (), {}), IProgressMonitor=type("IProgressMonitor", (), {})
    )


def test_one_logger_serves_a_process():
    """A library keeps its first logger, so all uses share one, and each starts empty."""
    trt = fake_library()
    logger = _inspection.capturing_logger(trt)
    logger.log(types.SimpleNamespace(name="ERROR"), "first\n  line")
    logger.log(types.SimpleNamespace(name="ERROR"), "first line")
    assert _inspection.logged_errors(logger) == "first line"
    assert _inspection.capturing_logger(trt) is logger
    assert _inspection.logged_errors(logger) == "the library gave no reason"


def test_progress_of_nested_phases_never_goes_back():
    """A phase fills one step of its parent, and two phases of one parent do not add up."""
    told = []
    monitor = _inspection.progress_monitor(fake_library(), lambda done, of: told.append(done / of))
    monitor.phase_start("build", None, 2)
    monitor.phase_start("tactics", "build", 4)
    for step in range(4):
        assert monitor.step_complete("tactics", step)
    monitor.phase_finish("tactics")
    assert monitor.step_complete("build", 0)
    monitor.phase_start("phase without steps", "build", 0)
    monitor.phase_start("serialize", "build", 1)
    assert monitor.step_complete("serialize", 0)
    monitor.phase_finish("serialize")
    assert monitor.step_complete("build", 1)
    assert told == [0.125, 0.25, 0.375, 0.5, 0.5, 1.0, 1.0]


def test_interrupt_stops_the_build():
    """An exception in the listener asks the library to stop and is kept, not thrown through it."""

    def interrupt(_done, _of):
        raise KeyboardInterrupt

    monitor = _inspection.progress_monitor(fake_library(), interrupt)
    monitor.phase_start("build", None, 3)
    assert monitor.step_complete("build", 0) is False
    assert isinstance(monitor.stopped_by[0], KeyboardInterrupt)


# How the library of TensorRT 8.6.0 spells formats, read from the strings in its file, and what each
# holds. TensorRT-RTX 1.7.1 has the same and those of newer types.
FORMATS = {
    "Row major linear FP32 format (kLINEAR)": "Float",
    "Row major linear FP16 format (kLINEAR)": "Half",
    "Row major linear INT8 format (kLINEAR)": "Int8",
    "Row major linear INT32 format (kLINEAR)": "Int32",
    "Row major Int8 format": "Int8",
    "Four wide channel vectorized row major INT8 format (kCHW4)": "Int8",
    "Sixteen wide channel vectorized row major FP16 format (kCHW16)": "Half",
    "Thirty-two wide channel vectorized row major Int8 format": "Int8",
    "Thirty-two wide channel vectorized row major FP32 format (kCHW32)": "Float",
    "Eight channel FP16 format (kHWC8) where C is padded to a multiple of 8": "Half",
    "Row major linear BF16 format (kLINEAR)": "BFloat16",
    "Row major linear UINT8 format (kLINEAR)": "UInt8",
    "Row major linear BOOL format (kLINEAR)": "Bool",
    "Row major linear INT64 format (kLINEAR)": "Int64",
    "Non-vectorized channel-last format": "unknown",
}


@pytest.mark.parametrize(("text", "element"), FORMATS.items())
def test_formats_as_the_library_spells_them(text, element):
    """Each format that the inspector may name gives the element type that it holds."""
    tensor = {"Name": "x", "Dimensions": [1, 3, 4, 4], "Format/Datatype": text}
    layer = {"Name": "c", "LayerType": "CaskConvolution", "Inputs": [tensor]}
    (found,) = _inspection.inspected_layers(json.dumps({"Layers": [layer]}))
    assert found.inputs == [("x", (1, 3, 4, 4), element)]
