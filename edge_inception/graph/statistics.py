"""Costs of an ONNX graph: parameters, multiply-adds, activation memory, layer by layer.

Sizes come from ONNX's shape inference. Where inference does not know a size, the layer is listed as
unknown, and sums leave the unknown cost out.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, inliner

from edge_inception.errors import InputError
from edge_inception.graph.check import constants, image_inputs, node_counts, shape_of
from edge_inception.graph.macs import OWN_DOMAINS, Sizes, Tensor, element_of, macs_of
from edge_inception.graph.support_checks import label, opset_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Number and bytes of the parameters of one element type, by numpy's name of the type."""

    element: str
    count: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Costs of a node that depends on the graph's input, for the whole batch; None if unknown.

    ``macs`` are multiply-adds. ``num_read`` and ``num_written`` count elements of activations; a
    tensor that is read twice counts once. ``sizes`` are those of the first output.
    ``num_parameters`` leaves out weights that an earlier layer reads too.
    """

    name: str
    op: str
    sizes: Sizes
    num_parameters: int
    macs: int | None
    num_read: int | None
    num_written: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Everything ``inspect`` shows. Sums leave out what is listed as unknown.

    ``activation_bytes`` are the bytes of the inputs and of all layer outputs. ``peak_bytes`` is the
    maximum of bytes in use at once, reached at node ``peak_at``, when nodes run in graph order,
    every output has its own buffer, and a buffer is freed after its last reader. An optional output
    that nothing reads, such as the mask of a Dropout, does not count. Engines fuse layers and reuse
    buffers, and need less. ``num_constant_nodes`` counts nodes that do not depend on the input.
    """

    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    ops: Mapping[str, int]
    parameters: tuple[Parameters, ...]
    macs: int
    activation_bytes: int
    peak_bytes: int
    peak_at: str
    layers: tuple[Layer, ...]
    num_constant_nodes: int
    unknown_shapes: tuple[str, ...]
    unknown_macs: Mapping[str, int]


def statistics(model: onnx.ModelProto, *, batch: int | None = None) -> Statistics:
    """The costs of ``model``, for ``batch`` images where its batch is dynamic (None: one image).

    Only the shapes of external weights are read, so their files may be missing. A parameter is an
    element of a float or quantized weight that a layer reads, directly or through nodes that
    compute constants. Batch norm's stored mean and variance are parameters; scales, zero points,
    limits and shapes are not. A shared weight counts once, at its first reader. A multiply-add is
    one product in a Conv, ConvTranspose, Gemm or MatMul; products with padding count too. Functions
    inside the model count as the nodes of their bodies.

    Raises:
        InputError: ``batch`` contradicts a fixed batch, nodes are out of order, or shape inference
            refuses the graph.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    shaped = _inferred(model, batch)
    tensors = _tensors(shaped)
    _require_order(shaped)
    nodes, owned, num_constant_nodes = _layers_and_weights(shaped, tensors)
    inputs = tuple(tensors[value.name] for value in image_inputs(shaped))
    written = _outputs_written(shaped, nodes, tensors)
    read = _activations_read(nodes, inputs, tensors)
    layers = tuple(
        _layer(node, tensors, owned=weights, moved=moved)
        for node, weights, *moved in zip(nodes, owned, read, written, strict=True)
    )
    live = _live_bytes(nodes, inputs, {value.name for value in shaped.graph.output}, written)
    peak = max(range(len(live)), key=live.__getitem__, default=None)
    activations = [*inputs, *(tensor for group in written for tensor in group)]
    unknown = Counter(layer.op for layer in layers if layer.macs is None)
    return Statistics(
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=inputs,
        outputs=tuple(tensors[value.name] for value in shaped.graph.output),
        ops=node_counts(model),
        parameters=_parameters(weight for group in owned for weight in group),
        macs=sum(layer.macs or 0 for layer in layers),
        activation_bytes=sum(tensor.num_bytes or 0 for tensor in activations),
        peak_bytes=0 if peak is None else live[peak],
        peak_at="" if peak is None else label(nodes[peak]),
        layers=layers,
        num_constant_nodes=num_constant_nodes,
        unknown_shapes=tuple(
            label(node)
            for node, group in zip(nodes, written, strict=True)
            if any(tensor.count is None for tensor in group)
        ),
        unknown_macs=dict(sorted(unknown.items())),
    )


_MAX_READ = 1024
"""Maximum number of elements of a constant that shape inference reads: axes, a Resize's scales."""


def _inferred(model: onnx.ModelProto, batch: int | None) -> onnx.ModelProto:
    filled = copy.deepcopy(model)
    for tensor in filled.graph.initializer:  # drop large weights: inference takes up to 2 GiB
        if tensor.data_type != TensorProto.INT64 and math.prod(tensor.dims) > _MAX_READ:
            tensor.ClearField("raw_data")
    fill_batch(filled, batch)
    try:
        return onnx.shape_inference.infer_shapes(filled, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise InputError(
            f"shapes of the graph cannot be inferred: {error}", hint="run onnx.checker on it"
        ) from error


def fill_batch(model: onnx.ModelProto, batch: int | None) -> None:
    """Replace the dynamic batch of a graph by ``batch`` (None: 1), in place, wherever it occurs.

    Raises:
        InputError: The batch is fixed at another number.
    """
    dims = (value.type.tensor_type.shape.dim[:1] for value in image_inputs(model))
    first = next((dim for batch_dim in dims for dim in batch_dim), None)
    if first is None:
        return
    if first.HasField("dim_value"):
        if batch not in {None, first.dim_value}:
            raise InputError(
                f"the graph's batch is {first.dim_value}, wanted {batch}",
                hint="leave --batch out, or export with a dynamic batch",
            )
        return
    name = first.dim_param
    graph = model.graph
    named = (
        dim
        for value in (*graph.input, *graph.output, *graph.value_info)
        for dim in value.type.tensor_type.shape.dim
        if name and dim.dim_param == name
    )
    for dim in (first, *named):
        dim.dim_value = batch or 1


def _tensors(model: onnx.ModelProto) -> dict[str, Tensor]:
    graph = model.graph
    tensors = {
        name: Tensor(name=name, element="?", sizes=None)
        for node in graph.node
        for name in node.output
    }
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        sizes = tuple(shape_of(value)) if kind.HasField("shape") else None
        element = element_of(kind.elem_type)
        tensors[value.name] = Tensor(name=value.name, element=element, sizes=sizes)
    stored = [(tensor, tensor.dims) for tensor in graph.initializer]
    stored += [(sparse.values, sparse.dims) for sparse in graph.sparse_initializer]
    for tensor, dims in stored:
        element = element_of(tensor.data_type)
        tensors[tensor.name] = Tensor(name=tensor.name, element=element, sizes=tuple(dims))
    return tensors


def _names_read(node: onnx.NodeProto) -> list[str]:
    """Names of the tensors that a node reads: its inputs, and outer tensors its subgraphs read."""
    names = list(node.input)
    for entry in node.attribute:
        for body in (*([entry.g] if entry.HasField("g") else []), *entry.graphs):
            own = {value.name for value in (*body.input, *body.initializer)}
            own.update(name for inner in body.node for name in inner.output)
            names += [n for inner in body.node for n in _names_read(inner) if n not in own]
    return [name for name in names if name]


def _require_order(model: onnx.ModelProto) -> None:
    graph = model.graph
    known = {value.name for value in (*graph.input, *graph.initializer)}
    known.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        missing = next((name for name in _names_read(node) if name not in known), None)
        if missing is not None:
            raise InputError(
                f"node '{label(node)}' reads '{missing}', which nothing before it makes",
                hint="nodes must stand in the order they run; export the model again",
            )
        known.update(node.output)


_QUANTIZATION = (1, 2)
# Op -> positions of inputs that are settings and not weights: scales, zero points, limits, regions.
_SETTINGS: Mapping[str, tuple[int, ...]] = {
    "QuantizeLinear": _QUANTIZATION,
    "DequantizeLinear": _QUANTIZATION,
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "Clip": (1, 2),
    "Pad": (1, 2, 3),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
_NO_WEIGHTS = frozenset(("int64", "bool", "object", "?"))  # types of shapes, axes and strings
_READ_INT32 = frozenset(("DequantizeLinear", "QLinearConv"))  # int32 is a bias here, else an index


def _layers_and_weights(
    model: onnx.ModelProto, tensors: Mapping[str, Tensor]
) -> tuple[list[onnx.NodeProto], list[list[Tensor]], int]:
    """Nodes that depend on the input, the weights that each reads first, number of other nodes."""
    graph = model.graph
    stored = [*constants(model), *(sparse.values.name for sparse in graph.sparse_initializer)]
    # a constant's name -> the weights it was computed from
    origins = {name: _weight(tensors[name]) for name in stored}
    nodes: list[onnx.NodeProto] = []
    owned: list[list[Tensor]] = []
    claimed: set[str] = set()
    node: onnx.NodeProto
    for node in graph.node:
        weights = {w.name: w for w in _weights_read(node, origins, tensors)}
        if _is_constant(node, origins):
            for name in node.output:
                is_source = node.op_type in {"Constant", "ConstantOfShape"}
                origins[name] = _weight(tensors[name]) if is_source else tuple(weights.values())
            continue
        nodes.append(node)
        owned.append([weight for name, weight in weights.items() if name not in claimed])
        claimed.update(weights)
    return nodes, owned, len(graph.node) - len(nodes)


def _is_constant(node: onnx.NodeProto, known: Mapping[str, object]) -> bool:
    names = _names_read(node)
    return node.op_type == "Constant" or (bool(names) and all(name in known for name in names))


def _weight(tensor: Tensor) -> tuple[Tensor, ...]:
    is_weight = tensor.element not in _NO_WEIGHTS and tensor.count is not None
    return (tensor,) if is_weight else ()


def _weights_read(
    node: onnx.NodeProto,
    origins: Mapping[str, tuple[Tensor, ...]],
    tensors: Mapping[str, Tensor],
) -> Iterator[Tensor]:
    settings = {node.input[i] for i in _SETTINGS.get(node.op_type, ()) if i < len(node.input)}
    for name in _names_read(node):
        is_index = tensors[name].element == "int32" and node.op_type not in _READ_INT32
        if name in origins and name not in settings and not is_index:
            yield from origins[name]


def _parameters(weights: Iterator[Tensor]) -> tuple[Parameters, ...]:
    """Parameters of every element type, sorted by type."""
    groups: dict[str, list[Tensor]] = {}
    for weight in weights:
        groups.setdefault(weight.element, []).append(weight)
    return tuple(
        Parameters(
            element=element,
            count=sum(weight.count or 0 for weight in group),
            num_bytes=sum(weight.num_bytes or 0 for weight in group),
        )
        for element, group in sorted(groups.items())
    )


def _layer(
    node: onnx.NodeProto,
    tensors: Mapping[str, Tensor],
    *,
    owned: list[Tensor],
    moved: Sequence[Sequence[Tensor]],
) -> Layer:
    output = next((name for name in node.output if name), "")
    return Layer(
        name=label(node),
        op=node.op_type if node.domain in OWN_DOMAINS else f"{node.domain}.{node.op_type}",
        sizes=tensors[output].sizes if output else None,
        num_parameters=sum(weight.count or 0 for weight in owned),
        macs=macs_of(node, tensors),
        num_read=_total_count(moved[0]),
        num_written=_total_count(moved[1]),
    )


def _total_count(tensors: Sequence[Tensor]) -> int | None:
    counts = [tensor.count for tensor in tensors]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _activations_read(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]
) -> list[list[Tensor]]:
    """For each node, the tensors that it reads from the graph's inputs and from other nodes."""
    computed = {tensor.name for tensor in inputs}
    computed |= {name for node in nodes for name in node.output}
    return [
        [tensors[n] for n in dict.fromkeys(_names_read(node)) if n in computed] for node in nodes
    ]


def _outputs_written(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], tensors: Mapping[str, Tensor]
) -> list[list[Tensor]]:
    """For each node, its outputs without optional outputs that nothing reads."""
    used = {name for node in model.graph.node for name in _names_read(node)}
    used.update(value.name for value in model.graph.output)
    spared = [_optional_outputs(node, opset_of(model)) - used for node in nodes]
    return [
        [tensors[name] for name in node.output if name and name not in spare]
        for node, spare in zip(nodes, spared, strict=True)
    ]


def _optional_outputs(node: onnx.NodeProto, opset: int) -> set[str]:
    if node.domain not in OWN_DOMAINS or not onnx.defs.has(node.op_type, opset, ""):
        return set()
    formal = onnx.defs.get_schema(node.op_type, opset, "").outputs
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    # not strict: the schema's last output may be variadic and stand for many outputs
    pairs = zip(node.output, formal, strict=False)
    return {name for name, parameter in pairs if parameter.option == optional}


def _live_bytes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Tensor],
    outputs: set[str],
    written: Sequence[Sequence[Tensor]],
) -> list[int]:
    """For each node, bytes of the tensors in memory while it runs, later nodes' inputs included."""
    last = {name: index for index, node in enumerate(nodes) for name in _names_read(node)}
    live = {tensor.name: tensor.num_bytes or 0 for tensor in inputs}
    sums = []
    for index in range(len(nodes)):
        live.update({tensor.name: tensor.num_bytes or 0 for tensor in written[index]})
        sums.append(sum(live.values()))
        live = {n: size for n, size in live.items() if n in outputs or last.get(n, -1) > index}
    return sums
