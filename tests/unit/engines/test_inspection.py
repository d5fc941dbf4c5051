"""Promises of what is read from the library's log and from EngineInspector."""

from __future__ import annotations

from edge_inception.engines import _inspection


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
