"""Give nodes and tensors the name of the module they came from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import onnx

from edge_inception.graph.check import constants
from edge_inception.graph.passes._contract import Pass, topological_order
from edge_inception.spec import HEAD_OUTPUTS, INPUT_NAME, OUTPUT_NAME

_WEIGHT = ".weight"
_CONV_UNIT = ".conv"  # the convolution inside a conv-norm-ReLU unit; the unit is what people name
_NUM_NAMED_INPUTS = 2  # x and w; what follows is a bias


def name_tensors(model: onnx.ModelProto) -> bool:
    """Before: getitem_3 = Conv "node_Conv_2097". After: features.1/conv = Conv "features.1/conv".

    A node's module path is that of the weight of a Conv or Gemm, else the part of the node's own
    name before its last slash, else the path of the node that writes its first input. A tensor has
    the name of the node that writes it, with ``:i`` behind it from its second output on; a number
    tells equal names apart. The graph's input and output are ``input`` and ``logits``; outputs of
    another head keep their names. A bias is named after its weight. Nothing else changes.
    """
    is_modified = _name_nodes(model)
    renamed = _tensor_names(model)
    _apply(model, renamed)
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
    """Old name -> new name of every tensor that is renamed."""
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


def _apply(model: onnx.ModelProto, renamed: Mapping[str, str]) -> None:
    graph = model.graph
    for node in graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = renamed.get(name, name)
    for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.name = renamed.get(item.name, item.name)


PASS = Pass(name="name_tensors", call=name_tensors, ensures=topological_order)
