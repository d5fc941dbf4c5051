"""check: unreadable files are named, and the list of portable ops is true of ONNX itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph import check


def make(nodes, shapes=None, opset=18, **weights):
    shapes = shapes or {}
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes.get("x", [1, 3, 8, 8]))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes.get("y", None))
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", [source], [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv_model():
    weight = np.ones((2, 3, 3, 3), np.float32)
    return make([helper.make_node("Conv", ["x", "w"], ["y"], name="c")], w=weight)


def test_a_good_file_is_read_back(tmp_path):
    """What was written is what is loaded."""
    model = conv_model()
    onnx.save(model, tmp_path / "m.onnx")
    assert check.load_graph(tmp_path / "m.onnx") == model


def test_missing_file_is_named(tmp_path):
    """The path is in the message."""
    with pytest.raises(InputError, match=r"cannot read graph .*nothing\.onnx"):
        check.load_graph(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("content", [b"", b"hello, this is no graph", b"\x89PNG\r\n\x1a\n"])
def test_other_files_are_refused(tmp_path, content):
    """An empty file, text and a picture are not ONNX."""
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not an ONNX"):
        check.load_graph(path)


def test_no_truncation_goes_unnoticed(tmp_path):
    """A file cut anywhere is refused; it never becomes a smaller graph or a traceback."""
    whole = conv_model().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            check.load_graph(path)


def test_weight_with_too_few_bytes_is_named(tmp_path):
    """A tensor whose data does not fill its shape is refused by name."""
    model = conv_model()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="weight 'w' is truncated"):
        check.load_graph(path)


def test_external_weights_load_and_their_absence_is_named(tmp_path):
    """Weights in a second file are read; without that file its name is in the error."""
    path = tmp_path / "m.onnx"
    onnx.save(conv_model(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    loaded = check.load_graph(path)
    assert np.array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), np.ones((2, 3, 3, 3)))
    (tmp_path / "m.bin").unlink()
    with pytest.raises(InputError, match=r"1 weights in 'm\.bin'"):
        check.load_graph(path)


def test_node_counts_are_sorted_by_name():
    """Nodes by op, in an order that does not depend on the graph's."""
    nodes = [helper.make_node(op, ["x"], ["y"]) for op in ("Relu", "Neg", "Relu")]
    assert list(check.node_counts(make(nodes)).items()) == [("Neg", 1), ("Relu", 2)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weight_that_is_no_number_is_named(value):
    """One NaN or infinity is found."""
    weight = np.ones((2, 3, 3, 3), np.float32)
    weight[1, 2, 0, 1] = value
    model = make([helper.make_node("Conv", ["x", "w"], ["y"])], w=weight)
    with pytest.raises(InputError, match="weight 'w' has 1 of 54 values"):
        check.require_finite(model)


def test_finite_weights_pass():
    """Large values are finite."""
    check.require_finite(
        make([helper.make_node("Relu", ["x"], ["y"])], w=np.full(3, 3e38, np.float32))
    )


@pytest.mark.parametrize(
    ("x", "y"), [([1, 3, 8], [1, 5]), ([1, 3, 8, 8], [1, 5, 1, 1]), ([1, 3, 8, 8], [5])]
)
def test_other_signatures_are_refused(x, y):
    """Ranks other than 4 in and 2 out are no image classifier."""
    model = make([helper.make_node("Relu", ["x"], ["y"])], {"x": x, "y": y})
    with pytest.raises(InputError, match="wanted one float32"):
        check.require_image_classifier(model)


def test_classifier_signature_passes():
    """A dynamic batch and weights listed as inputs do not disturb."""
    model = make([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 3, 8, 8], "y": ["n", 5]})
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    check.require_image_classifier(model)


def test_custom_operators_are_refused():
    """Another operator set cannot be read by engines."""
    model = conv_model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(InputError, match=r"ai\.onnx, com\.microsoft"):
        check.require_plain_opset(model)
