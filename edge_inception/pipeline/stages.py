"""Each stage of a build: the options the recipe gives it, its file, and the call.

Stages import their libraries when they run, so that a reused one imports none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from edge_inception import artifact, stage
from edge_inception.artifact import (
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
from edge_inception.baseline.options import (
    BaselineOptions,
    OnnxBaselineOptions,
    baseline_provenance,
    onnx_baseline_provenance,
)
from edge_inception.data.images import preprocess_of
from edge_inception.data.imageset import ImageSet
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions
from edge_inception.errors import member
from edge_inception.export.options import (
    EndsOptions,
    ExportOptions,
    ends_provenance,
    export_provenance,
)
from edge_inception.graph.options import ImportOptions, SimplifyOptions, simplify_provenance
from edge_inception.hardware import targets
from edge_inception.pipeline import inputs
from edge_inception.pipeline.runner import Runner
from edge_inception.quant.calibrators import AUTO, trial_in_words
from edge_inception.quant.options import (
    CacheOptions,
    CalibrateOptions,
    FloatRest,
    QuantizeOptions,
    Typing,
    cache_provenance,
    calibrate_provenance,
    quantize_provenance,
)
from edge_inception.recipe.reader import Recipe
from edge_inception.search.options import SearchOptions, search_provenance
from edge_inception.spec import Precision, Progress
from edge_inception.validate import gate, report_record, search_record
from edge_inception.validate.options import EngineEntry, validate_provenance
from edge_inception.validate.search_record import SearchOutcome

REPORT = "report.json"
SEARCH = "model.search.json"
REPORT_MARKDOWN = "report.md"


class Variant(NamedTuple):
    """One way to write a precision into the graph: name in files, typing, name in reports."""

    suffix: str
    typing: Typing
    says: str = ""
    is_for_dla: bool = False

    def kind(self, precision: Precision) -> str:
        """Middle of a file's name, such as ``int8`` or ``int8.weak``."""
        return f"{precision.value}.{self.suffix}" if self.suffix else precision.value


STRONG = Variant("", Typing.STRONG)
WEAK = Variant("weak", Typing.WEAK, "weak typing")
IMPLICIT = Variant("implicit", Typing.IMPLICIT)
DLA = Variant("dla", Typing.STRONG, "scales of DLA", is_for_dla=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a build works on, opened and checked; ``calibration`` None: the precision needs none."""

    recipe: Recipe
    validation: ImageSet
    calibration: ImageSet | None


class Steps:
    """The stages of one build; each method is one."""

    def __init__(self, inputs: Inputs, runner: Runner) -> None:
        self._recipe = inputs.recipe
        self._validation, self._calibration = inputs.validation, inputs.calibration
        self._out = inputs.recipe.out
        self._runner = runner
        self._keep = inputs.recipe.keep_float
        self._found: SearchOutcome | None = None

    def source(self) -> tuple[Graph, Graph]:
        """The graph to build, and the one the baseline is of: another only if imported."""
        if not self._recipe.is_foreign:
            graph = self._export()
            return graph, graph
        imported = self._import()
        return self._ends(imported), imported

    def _import(self) -> Graph:
        recipe = self._recipe
        choices = ImportOptions(
            preprocess=recipe.preprocess,
            num_classes=recipe.num_classes,
            classes=self._validation.classes,
            profile=recipe.profile,
        )
        path = self._out / inputs.IMPORTED

        def run(_: Progress) -> Graph:
            from edge_inception.graph.import_onnx import import_graph

            return import_graph(recipe.checkpoint, choices, path)

        from edge_inception.graph.import_onnx import import_provenance  # knows where weights lie

        expected = import_provenance(recipe.checkpoint, choices)
        graph = self._runner.step("import", Graph, path, expected, run)
        for note in graph.details["checkpoint_notes"]:
            self._runner.listener.note(f"import: {note}")
        return graph

    def _ends(self, imported: Graph) -> Graph:
        choices = EndsOptions(head=self._recipe.head, **self._recipe.fold)
        path = self._out / "model.onnx"

        def run(_: Progress) -> Graph:
            from edge_inception.export.ends import give_ends

            return give_ends(imported, choices, path)

        expected = ends_provenance(imported, choices)
        return self._runner.step("ends", Graph, path, expected, run)

    def _export(self) -> Graph:
        recipe = self._recipe
        choices = ExportOptions(
            model=recipe.model,
            preprocess={**recipe.preprocess, **recipe.fold},
            model_options=recipe.model_options,
            checkpoint_format=recipe.checkpoint_format,
            num_classes=recipe.num_classes,
            classes=self._validation.classes,
            profile=recipe.profile,
            head=recipe.head,
        )
        path = self._out / "model.onnx"

        def run(_: Progress) -> Graph:
            from edge_inception.export.export import export

            return export(recipe.checkpoint, choices, path)

        expected = export_provenance(recipe.checkpoint, choices)
        graph = self._runner.step("export", Graph, path, expected, run)
        for note in graph.details["checkpoint_notes"]:
            self._runner.listener.note(f"checkpoint: {note}")
        return graph

    def simplify(self, graph: Graph) -> SimplifiedGraph:
        """Graph to simplified graph."""
        path = self._out / "model.simplified.onnx"
        choices = SimplifyOptions()

        def run(_: Progress) -> SimplifiedGraph:
            from edge_inception.graph.simplify import simplify

            return simplify(graph, choices, path)

        expected = simplify_provenance(graph, choices)
        return self._runner.step("simplify", SimplifiedGraph, path, expected, run)

    def baseline(self, graph: Graph) -> Baseline:
        """FP32 logits of the validation images."""
        recipe = self._recipe
        if recipe.is_foreign:
            return self._onnx_baseline(graph)
        choices = BaselineOptions(
            model=recipe.model,
            preprocess=recipe.preprocess,
            model_options=recipe.model_options,
            checkpoint_format=recipe.checkpoint_format,
            num_classes=recipe.num_classes,
            threads=recipe.threads,
        )
        path = self._out / "baseline.npz"

        def run(progress: Progress) -> Baseline:
            from edge_inception.baseline.pytorch import record_baseline

            return record_baseline(
                recipe.checkpoint, self._validation, choices, path, progress=progress
            )

        expected = baseline_provenance(recipe.checkpoint, self._validation, choices)
        return self._runner.step("baseline", Baseline, path, expected, run)

    def _onnx_baseline(self, graph: Graph) -> Baseline:
        choices = OnnxBaselineOptions(threads=self._recipe.threads)
        path = self._out / "baseline.npz"

        def run(progress: Progress) -> Baseline:
            from edge_inception.baseline.onnx import record_baseline

            return record_baseline(graph, self._validation, choices, path, progress=progress)

        expected = onnx_baseline_provenance(graph, self._validation, choices)
        return self._runner.step("baseline", Baseline, path, expected, run)

    def calibrate(self, graph: SimplifiedGraph) -> RangeTable | None:
        """Range table of the calibration images; None when there are none."""
        recipe, images = self._recipe, self._calibration
        if images is None:
            return None
        choices = CalibrateOptions(
            preprocess=preprocess_of(graph.details),
            calibrator=recipe.calibrator,
            batch=recipe.calibration_batch,
            threads=recipe.threads,
            seed=recipe.seed,
            placement=recipe.placement if recipe.calibrator == AUTO else "",
        )
        path = self._out / "model.ranges.json"

        def run(progress: Progress) -> RangeTable:
            from edge_inception.quant.observe import calibrate

            return calibrate(graph, images, choices, path, progress=progress)

        expected = calibrate_provenance(graph, images, choices)
        made = self._runner.step("calibrate", RangeTable, path, expected, run)
        if tried := trial_in_words(made.details):
            self._runner.listener.note(tried)
        return made

    def search(self, graph: SimplifiedGraph, ranges: RangeTable) -> SearchResult:
        """Which groups stay float in every int8 graph that is quantized from now on."""
        recipe, images = self._recipe, self._calibration
        assert images is not None
        assert recipe.budget is not None
        choices = SearchOptions(
            budget=recipe.budget,
            quantize=self._quantize_options(Precision.INT8, STRONG),
            threads=recipe.threads,
        )
        path = self._out / SEARCH

        def run(progress: Progress) -> SearchResult:
            from edge_inception.search.scoring import search_precision

            return search_precision(graph, ranges, images, choices, path, progress=progress)

        expected = search_provenance(graph, ranges, images, choices)
        result = self._runner.step("search", SearchResult, path, expected, run)
        self._keep = tuple(sorted({*recipe.keep_float, *result.details["keep"]}))
        self._found = search_record.read(path).outcome
        self._runner.listener.note(f"search: {gate.search_sentence(self._found)}")
        return result

    def _quantize_options(self, precision: Precision, variant: Variant) -> QuantizeOptions:
        is_int8, is_for_dla = precision is Precision.INT8, variant in {IMPLICIT, DLA}
        return QuantizeOptions(
            precision=precision,
            placement=self._recipe.placement if is_int8 else "",
            keep=self._keep if is_int8 else (),
            bias_correction=self._recipe.bias_correction if is_int8 and not is_for_dla else None,
            typing=variant.typing,
            batch=self._recipe.profile.max if is_for_dla else None,
            is_for_dla=variant.is_for_dla,
            float_rest=member(FloatRest, "float rest", self._recipe.float_rest),
        )

    def quantize(
        self,
        graph: SimplifiedGraph,
        ranges: RangeTable | None,
        precision: Precision,
        variant: Variant = STRONG,
    ) -> TypedGraph:
        """Simplified graph to typed graph of ``precision``."""
        choices = self._quantize_options(precision, variant)
        kind = variant.kind(precision)
        path = self._out / f"model.{kind}.onnx"

        def run(_: Progress) -> TypedGraph:
            from edge_inception.quant.insert_qdq import quantize

            return quantize(graph, ranges, choices, path)

        expected = quantize_provenance(graph, ranges, choices)
        return self._runner.step(
            f"quantize {kind.replace('.', ' ')}", TypedGraph, path, expected, run
        )

    def calibration_cache(
        self, graph: TypedGraph, ranges: RangeTable, tensorrt: str
    ) -> CalibrationCache:
        """Implicit graph to the scales that its TensorRT reads."""
        choices = CacheOptions(tensorrt=".".join(tensorrt.split(".")[:3]))
        path = graph.path.with_suffix(".cache")

        def run(_: Progress) -> CalibrationCache:
            from edge_inception.quant.calibration_cache import write_cache

            return write_cache(graph, ranges, choices, path)

        expected = cache_provenance(graph, ranges, choices)
        return self._runner.step("calibration cache", CalibrationCache, path, expected, run)

    def compile(self, name: str, typed: Mapping[Precision, TypedGraph]) -> Iterator[EngineEntry]:
        """Engines of one target: FP32 to compare with, then the asked precision."""
        target = targets.target(name)
        executable = backends.backend(target.backend).availability().float_precisions
        for precision, graph in typed.items():
            yield self._engine(target, graph, precision)
            if precision is Precision.FP32 and "bf16" in executable:
                yield self._engine(target, graph, precision, float_precision="bf16")

    def prove(self, graph: TypedGraph, variant: Variant) -> EngineEntry:
        """The engine for the CPU of a graph that only a device compiles for itself."""
        cpu = targets.target("cpu")
        return self._engine(cpu, graph, self._recipe.precision, variant=variant)

    def _engine(
        self,
        target: targets.Target,
        graph: TypedGraph,
        precision: Precision,
        *,
        float_precision: str = "f32",
        variant: Variant = STRONG,
    ) -> EngineEntry:
        backend = backends.backend(target.backend)
        chosen = targets.compute_capabilities(target, self._recipe.compute_capabilities)
        choices = CompileOptions(
            profile=self._recipe.profile,
            float_precision=float_precision,
            compute_capabilities=chosen,
        )
        floats = "" if float_precision == "f32" else f".{float_precision}"
        kind = variant.kind(precision)
        path = self._out / f"model.{kind}.{target.name}{floats}{backend.suffix}"
        expected = stage.provenance(backend.stage, parents={"typed graph": graph}, options=choices)
        label = f"compile {kind.replace('.', ' ')} {target.name}{floats}"

        def run(progress: Progress) -> EngineFile:
            return backend.compile(graph, choices, path, progress=progress)

        engine = self._runner.step(label, EngineFile, path, expected, run)
        for line in engine.details.get("fallbacks", ()):
            self._runner.listener.note(f"warning: {label}: {line}")
        return EngineEntry(
            engine=engine,
            target=f"{target.name}, {variant.says}" if variant.says else target.name,
            precision=precision.value,
            float_precision=float_precision,
            is_subject=self._is_subject(precision, float_precision),
            is_searched=bool(self._found) and (precision, variant) == (Precision.INT8, STRONG),
        )

    def _is_subject(self, precision: Precision, float_precision: str) -> bool:
        if float_precision == "f32":
            return precision in self._recipe.precisions
        return self._recipe.is_best  # bfloat16 is one more way to be faster than float32

    def validate(self, baseline: Baseline, entries: list[EngineEntry]) -> Report:
        """Engines to report, as JSON and as Markdown."""
        recipe = self._recipe
        choices = inputs.validate_options(
            recipe, self._validation, entries[0].engine, self._runner.listener
        )
        choices = dataclasses.replace(choices, search=self._found)
        path = self._out / REPORT

        def run(progress: Progress) -> Report:
            from edge_inception.validate.run import validate

            return validate(baseline, entries, self._validation, choices, path, progress=progress)

        expected = validate_provenance(baseline, entries, self._validation, choices)
        report = self._runner.step("validate", Report, path, expected, run)
        if not self._runner.is_dry:
            self._write_markdown(report)
        return report

    def _write_markdown(self, report: Report) -> None:
        from edge_inception.report.markdown import to_markdown

        text = to_markdown(report_record.read(report.path))
        path = self._out / REPORT_MARKDOWN
        artifact.replace_file(path, text.encode())
        self._runner.written.append(path)
