"""Name nodes and tensors after the PyTorch module that they were exported from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import onnx

from edge_inception.graph.check import constants, rename_tensors
from edge_inception.graph.passes._contract import Pass
from edge_inception.spec import HEAD_OUTPUTS, INPUT_NAME, OUTPUT_NAME

_WEIGHT = ".weight"
_CONV_UNIT = ".conv"  # dropped: a convolution in a conv-norm-ReLU unit is named after the unit
_NUM_NAMED_INPUTS = 2  # x and w; the third input is a bias


def name_tensors(model: onnx.ModelProto) -> bool:
    """Before: getitem_3 = Conv "node_Conv_2097". After: features.1/conv = Conv "features.1/conv".

    A node is named ``path/op``. The module path is taken from the name of the weight of a Conv or
    Gemm, else from the node's own name before its last slash, else from the node that writes its
    first input; equal names are numbered. A tensor has the name of the node that writes it, and the
    suffix ``:i`` if it is output i > 0. The graph's input and output are named ``input`` and
    ``logits``; outputs of another head keep their names. A bias is named after its weight.
    """
    is_modified = _name_nodes(model)
    renamed = _tensor_names(model)
    rename_tensors(model, renamed)
    return is_modified or any(old != new for old, new in renamed.items())


def _name_nodes(model: onnx.ModelProto) -> bool:
    known = constants(model)
    scopes: dict[str, str] = {}
    seen: Counter[str] = Counter()
    is_modified = False
    for node in model.graph.node:
        scope = _scope(node, known, scopes)
        scopes.update(dict.fromkeys(node.output, scope))
        name = f"{scope}/{_snake(node.op_type)}" if scope else _snake(node.op_type)
        seen[name] += 1
        name += f"_{seen[name] - 1}" if seen[name] > 1 else ""
        is_modified |= node.name != name
        node.name = name
    return is_modified


def _scope(node: onnx.NodeProto, known: Mapping[str, object], scopes: Mapping[str, str]) -> str:
    if len(node.input) >= _NUM_NAMED_INPUTS and node.input[1] in known:
        path = str(node.input[1])
        if path.endswith(_WEIGHT):
            return path.removesuffix(_WEIGHT).removesuffix(_CONV_UNIT)
    scope, slash, _ = node.name.rpartition("/")
    is_top = re.fullmatch(rf"{_snake(node.op_type)}(_\d+)?", node.name)
    if slash or is_top:
        return str(scope)
    return scopes.get(node.input[0] if node.input else "", "")


def _snake(op: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", op).lower()


def _tensor_names(model: onnx.ModelProto) -> dict[str, str]:
    """Old name -> new name of the tensors that this pass names."""
    graph = model.graph
    outputs = tuple(value.name for value in graph.output)
    if outputs not in HEAD_OUTPUTS.values():
        outputs = (OUTPUT_NAME,)
    renamed = {graph.input[0].name: INPUT_NAME}
    renamed |= {value.name: name for value, name in zip(graph.output, outputs, strict=True)}
    known = constants(model)
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name:
                renamed.setdefault(name, node.name if index == 0 else f"{node.name}:{index}")
        bias = node.input[2] if len(node.input) > _NUM_NAMED_INPUTS else ""
        if bias in known and node.input[1].endswith(_WEIGHT):
            renamed.setdefault(bias, node.input[1].removesuffix(_WEIGHT) + ".bias")
    return renamed


PASS = Pass(name="name_tensors", call=name_tensors)
