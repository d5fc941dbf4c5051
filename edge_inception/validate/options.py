"""Options of validate, and what a run with them is recorded as; imports no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_inception import records, stage
from edge_inception.artifact import Baseline, EngineFile
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError
from edge_inception.latency import machine
from edge_inception.quant.search_record import SearchOutcome
from edge_inception.sidecar import Provenance
from edge_inception.spec import Gates, Head, Preprocess
from edge_inception.stage import Stage

VALIDATE = Stage(
    name="validate",
    tools=("numpy", "Pillow", "torch"),
    # The checkpoint's model is timed in a worker, beside the engines.
    sources=(
        *("validate", "latency", "metrics", "data", "inference.py", "engines", "device"),
        *("baseline", "checkpoints", "models", "quant/search_record.py"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """An engine to show in the report; ``is_subject``: of the precision that was asked for.

    ``is_searched``: of the very graph in which a search chose what stays float, so that its budget
    is a gate of this engine; other spellings of that graph were not scored.
    """

    engine: EngineFile
    target: str
    precision: str
    float_precision: str
    is_subject: bool
    is_searched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the engines are compared with: its row's name, and how a worker opens it.

    ``arguments`` are those of ``factory`` less ``threads``.
    """

    name: str = "PyTorch FP32"
    library: str = "torch"
    factory: str = "edge_inception.baseline.pytorch:open_session"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateOptions:
    """Choices of one validation.

    ``baseline`` is what the baseline was recorded with, to be timed beside the engines.
    ``batch`` is the number of images of one latency call. ``cuda_graph``: engines on a GPU launch
    captured work, where the driver can. ``is_best``: the subjects of one target compete, and the
    one that is chosen is judged. ``search``: what the search for groups in float chose on the
    calibration images, and why; None without one.
    """

    model: str
    preprocess: Preprocess
    gates: Gates
    threads: int = 0
    cuda_graph: bool = True
    batch: int = 1
    rounds: int = 10
    calls_per_block: int = 20
    is_best: bool = False
    search: SearchOutcome | None = None
    baseline: Reference = field(default_factory=Reference)


def require_gates(gates: Gates, head: Head, model: str) -> None:
    """Refuse gates that what the graph answers cannot be judged by.

    Raises:
        InputError: A top-1 drop of embeddings.
    """
    if head.kind == "embedding" and gates.max_drop_pp is not None:
        raise InputError(
            f"gate max_drop_pp needs classes, {model} gives embeddings",
            hint="leave --max-drop out; --min-agreement and --min-sqnr judge embeddings",
        )


def validate_provenance(
    baseline: Baseline, entries: Sequence[EngineEntry], images: ImageSet, options: ValidateOptions
) -> Provenance:
    """What ``validate`` with these inputs is recorded as."""
    engines = {
        f"{entry.precision} {entry.target} {entry.float_precision}": entry.engine
        for entry in entries
    }
    parents: stage.Parents = {"baseline": baseline, "images": images.sha256, **engines}
    # The baseline's hash stands for the checkpoint, wherever its file lies; latency belongs to this
    # machine, so a folder that is carried to another one is measured again there.
    reference = options.baseline
    arguments = {k: v for k, v in reference.arguments.items() if k not in {"checkpoint", "graph"}}
    here = machine.describe()
    choices = {
        **stage.plain(options),
        "search": records.plain(options.search) or {},
        "baseline": {**stage.plain(reference), "arguments": stage.plain(arguments)},
        "machine": [here.cpu, list(here.instruction_sets), list(here.affinity)],
    }
    return stage.provenance(VALIDATE, parents=parents, options=choices)
