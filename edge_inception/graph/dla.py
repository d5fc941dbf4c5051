"""A plan, made without a device, of the nodes and subgraphs of a graph that run on NVIDIA's DLA."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from edge_inception.errors import InputError
from edge_inception.graph.check import constants, image_inputs, shape_of
from edge_inception.graph.dla_rules import ORIN, XAVIER, GraphView, judge
from edge_inception.graph.passes import head_to_convolution, inclusive_average_pool, remove_unused
from edge_inception.graph.passes._contract import run_passes
from edge_inception.graph.support_checks import label

PASSES = (
    head_to_convolution.PASS,
    inclusive_average_pool.PASS,
    remove_unused.PASS,
)
"""Rewrites of ops that DLA lacks into ops that it has, for simplified graphs with fixed sizes.

DLA takes neither GlobalAveragePool nor Flatten before a Gemm, and its average pool always counts
the padding. A tensor that keeps its name keeps its values.
Source: "Working with DLA", TensorRT docs; operators/README.md of
NVIDIA/Deep-Learning-Accelerator-SW.
"""

MAX_SUBGRAPHS = 16
"""Maximum number of loadables (compiled subgraphs) that one DLA core holds at once.

Source: DLA Supported Layers and Restrictions, TensorRT docs.
"""

LOCAL_DRAM_BYTES, GLOBAL_DRAM_BYTES = 1 << 30, 512 << 20
"""TensorRT's default limits (MemoryPoolType) of a subgraph's inner tensors and of its weights."""

_ELEMENT_BYTES = 2  # of float16, the widest type on DLA; int8 takes half


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Where one node runs: on the DLA when ``reason`` is empty, else on the GPU for that reason.

    ``source`` names the document of the rule. ``subgraph`` is an index from 0, None on the GPU.
    """

    name: str
    op: str
    reason: str
    source: str
    subgraph: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgraph:
    """One loadable of the DLA; bytes are those of float16, int8 takes half.

    ``peak_bytes`` is the maximum of the bytes of tensors in use at once, in graph order;
    ``weight_bytes`` are the bytes of all constants.
    """

    num_layers: int
    peak_bytes: int
    weight_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Verdicts on the nodes in graph order, and the subgraphs of the nodes that run on the DLA."""

    generation: str
    verdicts: tuple[Verdict, ...]
    subgraphs: tuple[Subgraph, ...]

    @property
    def gpu_layers(self) -> tuple[Verdict, ...]:
        """Verdicts of the nodes that run on the GPU."""
        return tuple(verdict for verdict in self.verdicts if verdict.reason)

    @property
    def broken_limits(self) -> tuple[str, ...]:
        """The limits of the DLA that the plan exceeds, one line each."""
        return tuple(_broken_limits(self.subgraphs))


def _broken_limits(subgraphs: Sequence[Subgraph]) -> Iterator[str]:
    if len(subgraphs) > MAX_SUBGRAPHS:
        yield f"{len(subgraphs)} subgraphs, one core holds {MAX_SUBGRAPHS}"
    for index, subgraph in enumerate(subgraphs):
        if subgraph.peak_bytes > LOCAL_DRAM_BYTES:
            size = subgraph.peak_bytes >> 20
            yield f"subgraph {index} keeps {size} MiB of tensors, the pool has 1024 MiB"
        if subgraph.weight_bytes > GLOBAL_DRAM_BYTES:
            size = subgraph.weight_bytes >> 20
            yield f"subgraph {index} holds {size} MiB of weights, the pool has 512 MiB"


def plan(model: onnx.ModelProto, generation: str) -> Plan:
    """Where TensorRT would put each node of ``model``, for a DLA of generation XAVIER or ORIN.

    Neighbouring DLA layers are joined into one subgraph, in graph order, until no two can be
    joined; a join is allowed if no path leaves the subgraph and comes back. TensorRT's builder may
    split a subgraph to save memory; its log (``{ForeignNode[...]}``) shows the real subgraphs.

    Raises:
        InputError: A size of the input is free.
    """
    assert generation in {XAVIER, ORIN}, generation
    _require_fixed_sizes(model)
    shaped = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = shaped.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    sizes = {value.name: _fixed_sizes(shape_of(value)) for value in values}
    view = GraphView(sizes=sizes, constants=constants(shaped), generation=generation)
    nodes = [node for node in graph.node if view.computed(node)]
    judged = [judge(node, view) for node in nodes]
    members = _subgraphs(nodes, [not reason for reason, _ in judged])
    subgraph_of = {index: k for k, group in enumerate(members) for index in group}
    return Plan(
        generation=generation,
        verdicts=tuple(
            Verdict(
                name=label(node),
                op=node.op_type,
                reason=reason,
                source=source,
                subgraph=subgraph_of.get(index),
            )
            for index, (node, (reason, source)) in enumerate(zip(nodes, judged, strict=True))
        ),
        subgraphs=tuple(_measure_subgraph([nodes[i] for i in group], view) for group in members),
    )


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` with ``PASSES`` applied, for DLA.

    Raises:
        InputError: A size of the input is free.
    """
    _require_fixed_sizes(model)
    copy = onnx.shape_inference.infer_shapes(model, data_prop=True)
    run_passes(PASSES, copy)
    return copy


def _require_fixed_sizes(model: onnx.ModelProto) -> None:
    sizes = (size for value in image_inputs(model) for size in shape_of(value))
    free = [size for size in sizes if isinstance(size, str)]
    if free:
        raise InputError(
            f"the input has free sizes {', '.join(free)}; DLA takes fixed ones only",
            hint="give --batch, or export with a static batch",
        )


def _fixed_sizes(sizes: Sequence[int | str]) -> tuple[int, ...]:
    """The sizes as a tuple; empty where one is free."""
    known = tuple(size for size in sizes if isinstance(size, int))
    return known if len(known) == len(sizes) else ()


def _subgraphs(nodes: Sequence[onnx.NodeProto], on_dla: Sequence[bool]) -> list[list[int]]:
    """Indices of the nodes of every subgraph, in graph order.

    A set of nodes is an integer in which bit i stands for node i.
    """
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    before = [sorted({maker[name] for name in node.input if name in maker}) for node in nodes]
    ancestors: list[int] = []
    for sources in before:
        direct = sum(1 << i for i in sources)
        ancestors.append(direct | _ancestors_of(direct, ancestors))
    group = [1 << index if is_in else 0 for index, is_in in enumerate(on_dla)]
    edges = [(i, index) for index, sources in enumerate(before) for i in sources]
    edges = [(i, j) for i, j in edges if on_dla[i] and on_dla[j]]
    is_stable = False
    while not is_stable:
        is_stable = True
        for i, j in edges:
            union = group[i] | group[j]
            if group[i] != group[j] and not _has_way_back(union, ancestors, group):
                is_stable = False
                for member in _bits(union):
                    group[member] = union
    return [_bits(members) for members in sorted(set(group) - {0}, key=_bits)]


def _has_way_back(members: int, ancestors: Sequence[int], group: Sequence[int]) -> bool:
    """Whether a path leaves the set ``members`` and comes back, if other groups run undivided."""
    seen, reached = 0, _ancestors_of(members, ancestors) & ~members
    while reached != seen:
        seen = reached
        whole = functools.reduce(operator.or_, (group[i] for i in _bits(seen)), seen)
        reached = whole | _ancestors_of(whole, ancestors)
        if _ancestors_of(whole, ancestors) & members:
            return True
    return False


def _ancestors_of(members: int, ancestors: Sequence[int]) -> int:
    return functools.reduce(operator.or_, (ancestors[i] for i in _bits(members)), 0)


def _bits(members: int) -> list[int]:
    return [i for i in range(members.bit_length()) if members >> i & 1]


def _measure_subgraph(nodes: Sequence[onnx.NodeProto], view: GraphView) -> Subgraph:
    last = {name: index for index, node in enumerate(nodes) for name in node.input}
    alive: dict[str, int] = {}
    peak = 0
    for index, node in enumerate(nodes):
        names = (*view.computed(node), *(name for name in node.output if name))
        alive.update((name, math.prod(view.sizes_of(name))) for name in names)
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, index) > index}
    read = {name for node in nodes for name in node.input if name in view.constants}
    weights = sum(math.prod(view.constants[name].dims) for name in read)
    return Subgraph(
        num_layers=len(nodes),
        peak_bytes=peak * _ELEMENT_BYTES,
        weight_bytes=weights * _ELEMENT_BYTES,
    )
