"""Options and provenance of the stage ``validate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    # Needed since a worker process times the checkpoint's PyTorch model beside the engines.
    sources=(
        *("validate", "latency", "metrics", "data", "inference.py", "engines", "device"),
        *("baseline", "checkpoints", "models", "quant/search_record.py"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """An engine for the report.

    ``is_subject``: the engine has the precision that was asked for, so it can be judged.
    ``is_searched``: the search for layer groups to leave in float scored this engine's own graph,
    so the search's budget is one of its gates. A search scores no graphs of another typing.
    ``is_stand_in``: the engine is executed in place of hardware elsewhere, whose speed it does not
    tell.
    """

    engine: EngineFile
    target: str
    precision: str
    float_precision: str
    is_subject: bool
    is_searched: bool = False
    is_stand_in: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedBaseline:
    """The FP32 model that is timed beside the engines.

    ``name`` is the name of its row in the report, ``library`` the library that executes it. A
    worker process calls ``factory``, a ``"module:function"``, with ``arguments`` and ``threads``.
    """

    name: str = "PyTorch FP32"
    library: str = "torch"
    factory: str = "edge_inception.baseline.pytorch:open_session"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateOptions:
    """Options of one validation.

    ``threads`` is the number of CPU threads, 0 for all that this process may use. Each engine is
    timed in ``rounds`` blocks of at most ``calls_per_block`` calls, with ``batch`` images per call.
    ``cuda_graph``: engines on a GPU launch a captured CUDA graph where the driver can do so.
    ``engines_compete``: of the engines of one target one is chosen, and only that one is judged.
    ``search`` is the outcome of the search for layer groups to leave in float; None if there was no
    search. ``baseline`` is timed beside the engines. ``calibration`` are the images that set the
    scales of INT8; None if they are unknown.
    """

    model: str
    preprocess: Preprocess
    gates: Gates
    threads: int = 0
    cuda_graph: bool = True
    batch: int = 1
    rounds: int = 10
    calls_per_block: int = 20
    engines_compete: bool = False
    search: SearchOutcome | None = None
    baseline: TimedBaseline = field(default_factory=TimedBaseline)
    calibration: ImageSet | None = None


def require_gates(gates: Gates, head: Head, model: str) -> None:
    """Refuse gates that do not apply to the head of the model.

    Raises:
        InputError: A top-1 drop is limited, but the model gives embeddings.
    """
    if head.kind == "embedding" and gates.max_drop_pp is not None:
        raise InputError(
            f"gate max_drop_pp needs classes, {model} gives embeddings",
            hint="leave --max-drop out; --min-agreement and --min-sqnr judge embeddings",
        )


def validate_provenance(
    baseline: Baseline, entries: Sequence[EngineEntry], images: ImageSet, options: ValidateOptions
) -> Provenance:
    """Provenance of a validation: parents, options, and the machine that it runs on."""
    engines = {
        f"{entry.precision} {entry.target} {entry.float_precision}": entry.engine
        for entry in entries
    }
    parents: stage.Parents = {"baseline": baseline, "images": images.sha256, **engines}
    # The paths of checkpoint and graph are left out, since the baseline's hash identifies both.
    timed = options.baseline
    arguments = {k: v for k, v in timed.arguments.items() if k not in {"checkpoint", "graph"}}
    here = machine.describe()  # a report that is copied to another machine is measured again
    choices = {
        **stage.plain(replace(options, calibration=None)),
        "stand_ins": [entry.target for entry in entries if entry.is_stand_in],
        "calibration": options.calibration.sha256 if options.calibration else None,
        "search": records.plain(options.search) or {},
        "baseline": {**stage.plain(timed), "arguments": stage.plain(arguments)},
        "machine": [here.cpu, list(here.instruction_sets), list(here.affinity)],
    }
    return stage.provenance(VALIDATE, parents=parents, options=choices)
