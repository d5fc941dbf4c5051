"""Blocks of a network, and what each layer costs and is."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_inception import records
from edge_inception.graph import topology


def test_cuts_are_what_every_path_passes():
    """On random networks: a layer is a cut where removing it leaves no path to the last one."""
    random = np.random.default_rng(0)
    for _ in range(200):
        count = int(random.integers(1, 9))
        inputs = [
            sorted({int(one) for one in random.integers(-1, index, size=random.integers(1, 4))})
            if index
            else [-1]
            for index in range(count)
        ]
        graph = nx.DiGraph([(s, layer) for layer, ss in enumerate(inputs) for s in ss])
        last = count - 1
        if not all(nx.has_path(graph, layer, last) for layer in range(count)):
            continue  # a layer that nothing reads is no part of the network
        wanted = [
            layer
            for layer in range(count)
            if layer == last or not nx.has_path(nx.restricted_view(graph, [layer], []), -1, last)
        ]
        assert topology.cuts(inputs) == wanted, inputs


def _module():
    """Image, a stem convolution, a block of two branches and a shortcut, a dense layer."""

    def weight(name, *sizes):
        return numpy_helper.from_array(np.ones(sizes, np.float32), name)

    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["a"], "stem/conv", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "stem/relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "mix.left/conv", kernel_shape=[1, 1]),
        helper.make_node(
            "Conv", ["b", "w2"], ["d"], "mix.right/conv", kernel_shape=[3, 3], pads=[1] * 4
        ),
        helper.make_node("Concat", ["c", "d", "b"], ["e"], "mix/concat", axis=1),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], "pool/mean"),
        helper.make_node("Flatten", ["f"], ["g"], "pool/flatten"),
        helper.make_node("Gemm", ["g", "w3"], ["logits"], "last/gemm"),
    ]
    weights = [weight("w0", 4, 3, 1, 1), weight("w1", 2, 4, 1, 1), weight("w2", 5, 4, 3, 3)]
    graph = helper.make_graph(
        nodes,
        "module",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [*weights, weight("w3", 11, 10)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def test_a_module_is_a_stem_a_block_and_a_head():
    """Branches and shortcut are one block; activations and reshapes belong to what is before."""
    model = _module()
    onnx.checker.check_model(model)
    record = topology.describe(model)
    value = json.loads(records.to_json(record))
    assert records.convert(topology.Topology, value, where="", hint="") == record
    names = [layer.name for layer in record.layers]
    assert names == [
        "stem/conv", "mix.left/conv", "mix.right/conv", "mix/concat", "pool/mean", "last/gemm"
    ]  # fmt: skip
    inputs = [layer.inputs for layer in record.layers]
    assert inputs == [(-1,), (0,), (0,), (1, 2, 0), (3,), (4,)]
    assert [(block.name, block.entry, block.layers) for block in record.blocks] == [
        ("stem", -1, (0,)), ("mix", 0, (1, 2, 3)), ("pool to last", 3, (4, 5)),
    ]  # fmt: skip
    right = record.layers[2]
    assert right.label == "conv 3x3"
    assert right.sizes == (1, 5, 8, 8)
    assert right.macs == 5 * 4 * 9 * 64  # outputs x inputs x taps x positions


@pytest.mark.parametrize("quantized", [True, False])
def test_precision_is_that_of_the_typed_graph(quantized):
    """A layer that reads a DequantizeLinear is int8, the same without is float."""
    model, typed = _module(), _module()
    if quantized:
        scale = numpy_helper.from_array(np.array(0.1, np.float32), "scale")
        typed.graph.initializer.append(scale)
        pair = [
            helper.make_node("QuantizeLinear", ["b", "scale"], ["q"], "q"),
            helper.make_node("DequantizeLinear", ["q", "scale"], ["dq"], "dq"),
        ]
        nodes = list(typed.graph.node)
        nodes[2].input[0] = "dq"
        del typed.graph.node[:]
        typed.graph.node.extend([*nodes[:2], *pair, *nodes[2:]])
    layers = topology.describe(model, typed).layers
    wanted = "int8" if quantized else "float"
    assert [layer.precision for layer in layers[:3]] == ["float", wanted, "float"]
