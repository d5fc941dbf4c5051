"""Lines of text that say which layers of a graph run on a DLA, and why the others do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from edge_inception.errors import counted, listed

if TYPE_CHECKING:
    from edge_inception.graph.dla import Plan, Verdict
    from edge_inception.hardware.target import Target

_TITLES: Mapping[str, str] = {"as_it_is": "as it is", "rewritten": "for DLA"}
_BUILDER_DECIDES = (
    "TensorRT's builder on the device has the last word; its log names the layers of each "
    "subgraph as {ForeignNode[...]}. `quantize --typing implicit` writes the graph for DLA."
)
_MIB = 1 << 20


def rows(hardware: Target, plans: Mapping[str, Plan]) -> Iterator[tuple[str, str]]:
    """Title and text of each line: layers on the DLA, layers on the GPU with reasons, limits.

    Args:
        hardware: Target that has a DLA.
        plans: Plans of the graph ``as_it_is`` and ``rewritten`` for DLA.
    """
    assert hardware.dla
    cores = counted(hardware.dla.num_cores, "core")
    yield "dla", f"{cores} of {hardware.dla.generation} in {hardware.name}"
    for name, plan in plans.items():
        yield _TITLES[name], _summarize(plan)
        yield from (("  GPU", text) for text in _reasons(plan.gpu_layers))
        for limit in plan.broken_limits:
            yield "  limit", limit
    yield "not known", _BUILDER_DECIDES


def _summarize(plan: Plan) -> str:
    on_dla, on_gpu = len(plan.verdicts) - len(plan.gpu_layers), len(plan.gpu_layers)
    text = f"{on_dla} layers on DLA in {counted(len(plan.subgraphs), 'subgraph')} "
    text += f"of at most 16, {on_gpu} on the GPU"
    if not plan.subgraphs:
        return text
    tensors, weights = (
        max(getattr(one, name) for one in plan.subgraphs) / _MIB
        for name in ("peak_bytes", "weight_bytes")
    )
    return f"{text}; at most {tensors:.1f} MiB of tensors and {weights:.1f} MiB of weights in one"


def _reasons(layers: tuple[Verdict, ...]) -> Iterator[str]:
    """A line for each reason and its source, in graph order of the first layer."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for layer in layers:
        groups.setdefault((layer.reason, layer.source), []).append(layer)
    for (reason, source), refused in groups.items():
        ops = ", ".join(f"{n} {op}" for op, n in Counter(layer.op for layer in refused).items())
        yield f"{ops}: {reason} ({listed(layer.name for layer in refused)}) [{source}]"
