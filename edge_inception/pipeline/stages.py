"""The stages of a build: each stage's function, its options from the recipe, and its output file.

A ``StageCall`` names its function as text and imports it when the stage runs, so that a reused
stage imports no library.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, ParamSpec, TypeVar

from edge_inception import artifact, stage
from edge_inception.artifact import (
    Artifact,
    Baseline,
    CalibrationCache,
    EngineFile,
    Graph,
    RangeTable,
    Report,
    SearchResult,
    SimplifiedGraph,
    TypedGraph,
)
from edge_inception.baseline.options import baseline_provenance, onnx_baseline_provenance
from edge_inception.data.imageset import ImageSet
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions
from edge_inception.errors import member
from edge_inception.export.options import export_provenance, interface_provenance
from edge_inception.graph.options import SimplifyOptions, simplify_provenance
from edge_inception.hardware import targets
from edge_inception.hardware.target import Target
from edge_inception.pipeline import inputs
from edge_inception.pipeline.runner import Runner
from edge_inception.quant import search_record
from edge_inception.quant.options import (
    CacheOptions,
    CalibrateOptions,
    Effort,
    FloatRest,
    QuantizeOptions,
    Rounding,
    Typing,
    cache_provenance,
    calibrate_provenance,
    quantize_provenance,
)
from edge_inception.quant.search_record import SearchOutcome
from edge_inception.quant.trial_table import describe_tried_graphs
from edge_inception.recipe.reader import Recipe
from edge_inception.search.options import SearchOptions, search_provenance
from edge_inception.sidecar import PlanDetails, Provenance
from edge_inception.spec import Precision, Progress
from edge_inception.validate import gate, report_record
from edge_inception.validate.options import EngineEntry, validate_provenance

_MAX_SEARCH_IMAGES, _MAX_FALLBACK_IMAGES = 512, 128
REPORT = "report.json"
SEARCH = "model.search.json"
REPORT_MARKDOWN = "report.md"
A = TypeVar("A", bound=Artifact)
P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCall(Generic[P, A]):
    """A stage: the class of artifact it makes, and the function that makes it.

    ``function`` is ``module:name``, imported when the stage runs. Its arguments are those of
    ``provenance``, the file to write and, if ``takes_progress``, ``progress``.
    """

    makes: type[A]
    provenance: Callable[P, Provenance]
    function: str
    takes_progress: bool = False

    def run(self, path: Path, progress: Progress, *args: P.args, **kwargs: P.kwargs) -> A:
        """The artifact that the function writes to ``path``."""
        module, _, name = self.function.partition(":")
        function = getattr(importlib.import_module(f"edge_inception.{module}"), name)
        reporting = {"progress": progress} if self.takes_progress else {}
        artifact: A = function(*args, path, **kwargs, **reporting)
        return artifact


EXPORT = StageCall(makes=Graph, provenance=export_provenance, function="export.export:export")
INTERFACE = StageCall(
    makes=Graph, provenance=interface_provenance, function="export.interface:add_interface"
)
SIMPLIFY = StageCall(
    makes=SimplifiedGraph, provenance=simplify_provenance, function="graph.simplify:simplify"
)
BASELINE = StageCall(
    makes=Baseline,
    provenance=baseline_provenance,
    function="baseline.pytorch:record_baseline",
    takes_progress=True,
)
ONNX_BASELINE = StageCall(
    makes=Baseline,
    provenance=onnx_baseline_provenance,
    function="baseline.onnx:record_baseline",
    takes_progress=True,
)
CALIBRATE = StageCall(
    makes=RangeTable,
    provenance=calibrate_provenance,
    function="quant.observe:calibrate",
    takes_progress=True,
)
SEARCH_PRECISION = StageCall(
    makes=SearchResult,
    provenance=search_provenance,
    function="search.scoring:search_precision",
    takes_progress=True,
)
QUANTIZE = StageCall(
    makes=TypedGraph, provenance=quantize_provenance, function="quant.insert_qdq:quantize"
)
CACHE = StageCall(
    makes=CalibrationCache,
    provenance=cache_provenance,
    function="quant.calibration_cache:write_cache",
)
VALIDATE = StageCall(
    makes=Report,
    provenance=validate_provenance,
    function="validate.run:validate",
    takes_progress=True,
)


class GraphVariant(NamedTuple):
    """A variant of the typed graph, an ONNX graph in which the precision of tensors is explicit.

    ``suffix`` names the variant in files, ``title`` in reports; both may be empty. ``typing`` is
    the way in which the precision is written.
    """

    suffix: str
    typing: Typing
    title: str = ""
    is_for_dla: bool = False

    def kind(self, precision: Precision) -> str:
        """Middle of a file's name, such as ``int8`` or ``int8.weak``."""
        return f"{precision.value}.{self.suffix}" if self.suffix else precision.value


STRONG = GraphVariant("", Typing.STRONG)
WEAK = GraphVariant("weak", Typing.WEAK, "weak typing")
IMPLICIT = GraphVariant("implicit", Typing.IMPLICIT)
DLA = GraphVariant("dla", Typing.STRONG, "scales of DLA", is_for_dla=True)


class BuildStages:
    """The stages of one build; each public method is a stage.

    ``calibration`` is None if the precision needs no calibration images. ``typing`` is that of the
    int8 graph which all targets of this machine share.
    """

    def __init__(
        self,
        recipe: Recipe,
        validation: ImageSet,
        calibration: ImageSet | None,
        runner: Runner,
        *,
        typing: Typing,
    ) -> None:
        self._recipe, self._out = recipe, recipe.out
        self._validation, self._calibration = validation, calibration
        self._runner = runner
        self._keep = recipe.keep_float
        self._typing = typing
        self._outcome: SearchOutcome | None = None

    def unsimplified(self) -> tuple[Graph, Graph]:
        """The graph to build, and the graph of the baseline: the same unless it was imported."""
        recipe = self._recipe
        if recipe.is_imported:
            imported = self._import()
            interface = inputs.interface_options(recipe)
            return self._run(INTERFACE, "interface", "model.onnx", imported, interface), imported
        options = inputs.export_options(recipe, self._validation.classes)
        graph = self._run(EXPORT, "export", "model.onnx", recipe.checkpoint, options)
        self._note(graph.details.checkpoint_notes or (), "checkpoint: ")
        return graph, graph

    def _run(
        self, call: StageCall[P, A], label: str, file: str, *args: P.args, **kwargs: P.kwargs
    ) -> A:
        """The stage's artifact in the output folder, made now or reused."""
        path, expected = self._out / file, call.provenance(*args, **kwargs)
        return self._runner.run_or_reuse(
            label,
            call.makes,
            path,
            expected,
            lambda progress: call.run(path, progress, *args, **kwargs),
        )

    def _note(self, lines: Iterable[str], prefix: str = "") -> None:
        for line in lines:
            self._runner.listener.note(prefix + line)

    def _import(self) -> Graph:
        from edge_inception.graph.import_onnx import import_graph, import_provenance

        source, path = self._recipe.checkpoint, self._out / inputs.IMPORTED
        options = inputs.import_options(self._recipe, self._validation.classes)
        expected = import_provenance(source, options)  # its hashes include external weight files
        graph = self._runner.run_or_reuse(
            "import", Graph, path, expected, lambda _: import_graph(source, options, path)
        )
        self._note(graph.details.checkpoint_notes or (), "import: ")
        return graph

    def simplify(self, graph: Graph) -> SimplifiedGraph:
        """The simplified graph."""
        return self._run(SIMPLIFY, "simplify", "model.simplified.onnx", graph, SimplifyOptions())

    def baseline(self, graph: Graph) -> Baseline:
        """The baseline: FP32 logits of the validation images."""
        label, file, images = "baseline", "baseline.npz", self._validation
        if self._recipe.is_imported:
            onnx_options = inputs.onnx_baseline_options(self._recipe)
            return self._run(ONNX_BASELINE, label, file, graph, images, onnx_options)
        options = inputs.baseline_options(self._recipe)
        return self._run(BASELINE, label, file, self._recipe.checkpoint, images, options)

    def calibrate(self, graph: SimplifiedGraph) -> RangeTable | None:
        """The range table of the calibration images; None if there are no such images."""
        recipe, images = self._recipe, self._calibration
        if images is None:
            return None
        options = CalibrateOptions(
            preprocess=graph.details.preprocess,
            calibrator=recipe.calibrator,
            batch=recipe.calibration_batch,
            threads=recipe.threads,
            seed=recipe.seed,
            placement=recipe.placement,
            typing=self._typing,
            effort=member(Effort, "effort", recipe.effort),
        )
        table = self._run(CALIBRATE, "calibrate", "model.ranges.json", graph, images, options)
        self._note(describe_tried_graphs(table.details))
        return table

    def search(self, graph: SimplifiedGraph, ranges: RangeTable) -> SearchResult:
        """The groups (tensors that share a scale, with the layers that read them) to keep in float.

        Every int8 graph that is quantized after this stage keeps these groups in float. Without a
        budget in the recipe, they are the fewest that let int8 meet the gates.
        """
        recipe, images = self._recipe, self._calibration
        assert images is not None
        gates = inputs.gates(recipe, self._validation, graph.details.head)
        options = SearchOptions(
            budget=recipe.budget or inputs.fallback_budget(gates),
            max_images=_MAX_SEARCH_IMAGES if recipe.budget else _MAX_FALLBACK_IMAGES,
            quantize=self._quantize_options(Precision.INT8, STRONG),
            threads=recipe.threads,
        )
        result = self._run(SEARCH_PRECISION, "search", SEARCH, graph, ranges, images, options)
        self._keep = tuple(sorted({*recipe.keep_float, *result.details.keep}))
        outcome = search_record.read(result.path).outcome
        if recipe.budget:  # a budget of the user is a gate as well
            self._outcome = outcome
        if recipe.budget or outcome.chosen.keep:
            self._note([f"search: {gate.search_sentence(outcome)}"])
        return result

    def _quantize_options(self, precision: Precision, variant: GraphVariant) -> QuantizeOptions:
        is_int8, is_for_dla = precision is Precision.INT8, variant in {IMPLICIT, DLA}
        rounding = self._recipe.rounding if is_int8 else ""
        return QuantizeOptions(
            precision=precision,
            placement=self._recipe.placement if is_int8 else "",
            keep=self._keep if is_int8 else (),
            rounding=member(Rounding, "rounding", rounding) if rounding else None,
            fold_zero_points=self._recipe.fold_zero_points if is_int8 and not is_for_dla else None,
            bias_correction=self._recipe.bias_correction if is_int8 and not is_for_dla else None,
            typing=self._typing if is_int8 and variant is STRONG else variant.typing,
            batch=self._recipe.profile.max if is_for_dla else None,
            is_for_dla=variant.is_for_dla,
            float_rest=member(FloatRest, "float rest", self._recipe.float_rest),
        )

    def quantize(
        self,
        graph: SimplifiedGraph,
        ranges: RangeTable | None,
        precision: Precision,
        variant: GraphVariant = STRONG,
    ) -> TypedGraph:
        """The typed graph of ``precision`` for a simplified graph; only int8 needs ``ranges``."""
        options = self._quantize_options(precision, variant)
        kind = variant.kind(precision)
        label, file = f"quantize {kind.replace('.', ' ')}", f"model.{kind}.onnx"
        return self._run(QUANTIZE, label, file, graph, ranges, options)

    def calibration_cache(
        self, graph: TypedGraph, ranges: RangeTable, tensorrt: str
    ) -> CalibrationCache:
        """The calibration cache, with the scales that ``tensorrt`` reads for an implicit graph."""
        options = CacheOptions(tensorrt=".".join(tensorrt.split(".")[:3]))
        file = graph.path.with_suffix(".cache").name
        return self._run(CACHE, "calibration cache", file, graph, ranges, options)

    def compile(self, name: str, typed: Mapping[Precision, TypedGraph]) -> Iterator[EngineEntry]:
        """The engines of one target for all typed graphs; speed-ups are over the FP32 engine."""
        target = targets.target(name)
        float_precisions = backends.backend(target.backend).availability().float_precisions
        for precision, graph in typed.items():
            yield self._engine(target, graph, precision)
            if precision is Precision.FP32 and "bf16" in float_precisions:
                yield self._engine(target, graph, precision, float_precision="bf16")

    def compile_for_validation(self, graph: TypedGraph, variant: GraphVariant) -> EngineEntry:
        """A CPU engine to validate a graph that will be compiled on a device."""
        cpu = targets.target("cpu")
        return self._engine(cpu, graph, self._recipe.precision, variant=variant)

    def _engine(
        self,
        target: Target,
        graph: TypedGraph,
        precision: Precision,
        *,
        float_precision: str = "f32",
        variant: GraphVariant = STRONG,
    ) -> EngineEntry:
        backend = backends.backend(target.backend)
        capabilities = targets.compute_capabilities(target, self._recipe.compute_capabilities)
        options = CompileOptions(
            profile=self._recipe.profile,
            float_precision=float_precision,
            compute_capabilities=capabilities,
        )
        floats = "" if float_precision == "f32" else f".{float_precision}"
        kind = variant.kind(precision)
        path = self._out / f"model.{kind}.{target.name}{floats}{backend.suffix}"
        expected = stage.provenance(backend.stage, parents={"typed graph": graph}, options=options)
        label = f"compile {kind.replace('.', ' ')} {target.name}{floats}"

        engine = self._runner.run_or_reuse(
            label,
            EngineFile,
            path,
            expected,
            lambda progress: backend.compile(graph, options, path, progress=progress),
        )
        fallbacks = engine.details.fallbacks if isinstance(engine.details, PlanDetails) else ()
        self._note(fallbacks, f"warning: {label}: ")
        return EngineEntry(
            engine=engine,
            target=f"{target.name}, {variant.title}" if variant.title else target.name,
            precision=precision.value,
            float_precision=float_precision,
            is_subject=self._is_subject(precision, float_precision),
            is_searched=bool(self._outcome) and (precision, variant) == (Precision.INT8, STRONG),
            is_stand_in=variant is not STRONG or not self._is_asked_for(target),
        )

    def _is_asked_for(self, target: Target) -> bool:
        """Whether the engines of the target may ship; else the CPU only executes their graphs."""
        return not self._recipe.targets or target.name in self._recipe.targets

    def _is_subject(self, precision: Precision, float_precision: str) -> bool:
        if float_precision == "f32":
            return precision in self._recipe.precisions
        return self._recipe.is_best  # with --precision best, bfloat16 competes with FP16 and INT8

    def validate(self, baseline: Baseline, entries: list[EngineEntry]) -> Report:
        """The report on the engines; a Markdown version is written beside it."""
        recipe = self._recipe
        options = inputs.validate_options(
            recipe, self._validation, entries[0].engine, self._runner.listener
        )
        options = dataclasses.replace(options, search=self._outcome, calibration=self._calibration)
        judged = (baseline, entries, self._validation, options)
        report = self._run(VALIDATE, "validate", REPORT, *judged)
        if not self._runner.is_dry:
            self._write_markdown(report)
        return report

    def _write_markdown(self, report: Report) -> None:
        from edge_inception.report.markdown import to_markdown

        text = to_markdown(report_record.read(report.path))
        path = self._out / REPORT_MARKDOWN
        artifact.replace_file(path, text.encode())
        self._runner.written.append(path)
