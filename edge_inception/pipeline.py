"""The recipe run in order, checkpoint to report: wiring only.

Files in the output folder: model.onnx, model.simplified.onnx, baseline.npz, model.ranges.json,
model.<precision>.onnx, model.<precision>.<target><suffix>, report.json and report.md; each artifact
with its sidecar <file>.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edge_inception import artifact, imageset, ingredients, options, registry, stage, targets
from edge_inception.artifact import (
    Artifact,
    Baseline,
    EngineFile,
    Graph,
    Provenance,
    RangeTable,
    Report,
    SimplifiedGraph,
    TypedGraph,
)
from edge_inception.engines._backend import CompileOptions
from edge_inception.errors import EdgeInceptionError, InputError
from edge_inception.imageset import ImageSet
from edge_inception.ingredients import Listener, Silent
from edge_inception.options import BaselineOptions, ExportOptions, SimplifyOptions
from edge_inception.quant import calibrators
from edge_inception.quant.options import (
    CalibrateOptions,
    FloatRest,
    QuantizeOptions,
    calibrate_provenance,
    quantize_provenance,
)
from edge_inception.recipe import Recipe
from edge_inception.registry import member
from edge_inception.spec import Precision, Progress
from edge_inception.terminal import told
from edge_inception.validate.options import EngineEntry, validate_provenance

A = TypeVar("A", bound=Artifact)

REPORT = "report.json"
REPORT_MARKDOWN = "report.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """``report`` as in report.json, its ``status``, the shipped engines and all files written."""

    report: Mapping[str, Any]
    status: str
    engines: tuple[Path, ...]
    written: tuple[Path, ...]


class _WouldRun(Exception):
    """A dry run met a stage that has to run."""


def build(
    recipe: Recipe,
    *,
    force: bool = False,
    keep_failed: bool = False,
    listener: Listener | None = None,
) -> BuildResult:
    """Run every stage of ``recipe``, reusing those whose inputs, options and tools are unchanged.

    Args:
        recipe: What to build.
        force: Reuse nothing.
        keep_failed: Keep the engine although a gate failed.
        listener: Told what happens; None says nothing.

    Raises:
        EdgeInceptionError: See errors.py; a missed gate is not raised but is in the result.
    """
    with stage.lock(recipe.out):
        return _Build(recipe, listener or Silent(), force=force).run(keep_failed=keep_failed)


def plan(recipe: Recipe, *, force: bool = False) -> list[str]:
    """What ``build`` would reuse, and the first stage it would run with the reason.

    Raises:
        InputError: Inputs are missing or do not fit together.
    """
    dry = _Build(recipe, Silent(), force=force, is_dry=True)
    try:
        dry.stages()
    except _WouldRun:
        dry.lines.append("later stages depend on it and are decided then")
    return dry.lines


class _Build:
    """One run: the recipe, its images, and the stages in order."""

    def __init__(
        self, recipe: Recipe, listener: Listener, *, force: bool, is_dry: bool = False
    ) -> None:
        self._recipe, self._listener = recipe, listener
        self._force, self._is_dry = force, is_dry
        self._how = ingredients.preprocessing(recipe)
        self._out = recipe.out
        self._targets = ingredients.usable_targets(recipe)
        calibrators.calibrator(recipe.calibrator)  # a misspelt name is refused before any work
        ingredients.require_threads(recipe.threads)
        self._validation = ingredients.open_source(
            recipe.validation, "validation", recipe, listener
        )
        self._calibration = self._calibration_set()
        self.lines: list[str] = []
        self.written: list[Path] = []
        self._say_classes()

    def _calibration_set(self) -> ImageSet | None:
        recipe = self._recipe
        if recipe.precision is not Precision.INT8:
            return None
        found = ingredients.open_source(recipe.calibration, "calibration", recipe, self._listener)
        shared = imageset.overlap(found, self._validation)
        if shared:
            raise InputError(
                f"{len(shared)} calibration images are also validation images, first {shared[0]}",
                hint="accuracy on images that set the scales proves nothing; use others",
            )
        return found.subset(recipe.calibration_images)

    def _say_classes(self) -> None:
        classes = self._validation.classes
        if classes:
            pairs = ", ".join(f"{index} {name}" for index, name in enumerate(classes[:10]))
            more = f", ... {len(classes)} in all" if len(classes) > len(classes[:10]) else ""
            self._listener.note(f"classes: {pairs}{more}")

    def run(self, *, keep_failed: bool) -> BuildResult:
        """All stages, then ship or withhold the engines."""
        import json

        report, shipped = self.stages(keep_failed=keep_failed)

        record = json.loads(report.path.read_text(encoding="utf-8"))
        status = record["verdict"]["status"]
        if status == "FAILED" and not keep_failed:
            self._withhold(shipped, "gate failed")
            if self._recipe.precision is Precision.INT8:
                self._listener.note("more calibration images or --calibrator max may help")
            shipped = []
        engines = tuple(engine.path for engine in shipped)
        written = tuple(path for path in self.written if path.exists())
        return BuildResult(report=record, status=status, engines=engines, written=written)

    def _withhold(self, engines: list[EngineFile], why: str) -> None:
        """Delete engines that must not ship."""
        for engine in engines:
            engine.path.unlink()
            artifact.sidecar_path(engine.path).unlink()
        self._listener.note(f"{why}: engines withheld (--keep-failed keeps them)")

    def stages(self, *, keep_failed: bool = False) -> tuple[Report, list[EngineFile]]:
        """Checkpoint to report; the second value is the engines of the asked precision."""
        graph = self._export()
        simplified = self._simplify(graph)
        baseline = self._baseline(graph)
        precision = self._recipe.precision
        typed = {Precision.FP32: self._quantize(simplified, None, Precision.FP32)}
        if precision is not Precision.FP32:
            ranges = self._calibrate(simplified)
            typed[precision] = self._quantize(simplified, ranges, precision)
        entries = [entry for name in self._targets for entry in self._compile(name, typed)]
        shipped = [entry.engine for entry in entries if entry.is_subject]
        try:
            report = self._validate(baseline, entries)
        except EdgeInceptionError:
            if not keep_failed:
                self._withhold(shipped, "not validated")
            raise
        return report, shipped

    def _export(self) -> Graph:
        recipe = self._recipe
        choices = ExportOptions(
            model=recipe.model,
            preprocess=self._how,
            model_options=recipe.model_options,
            num_classes=recipe.num_classes,
            classes=self._validation.classes,
            profile=recipe.profile,
        )
        path = self._out / "model.onnx"

        def run(_: Progress) -> Graph:
            from edge_inception.export import export

            return export(recipe.checkpoint, choices, path)

        expected = options.export_provenance(recipe.checkpoint, choices)
        return self._step("export", Graph, path, expected, run)

    def _simplify(self, graph: Graph) -> SimplifiedGraph:
        path = self._out / "model.simplified.onnx"
        choices = SimplifyOptions()

        def run(_: Progress) -> SimplifiedGraph:
            from edge_inception.graph.simplify import simplify

            return simplify(graph, choices, path)

        expected = options.simplify_provenance(graph, choices)
        return self._step("simplify", SimplifiedGraph, path, expected, run)

    def _baseline(self, graph: Graph) -> Baseline:
        recipe = self._recipe
        num_classes = int(graph.details["num_classes"])
        if self._validation.is_labelled and len(self._validation.classes) != num_classes:
            raise InputError(
                f"{self._validation.name} has {len(self._validation.classes)} classes, "
                f"{recipe.checkpoint} has {num_classes}",
                hint="give --labels with one class name per logit, in logit order",
            )
        choices = BaselineOptions(
            model=recipe.model,
            preprocess=self._how,
            model_options=recipe.model_options,
            num_classes=recipe.num_classes,
            threads=recipe.threads,
        )
        path = self._out / "baseline.npz"

        def run(progress: Progress) -> Baseline:
            from edge_inception.baseline import record_baseline

            return record_baseline(
                recipe.checkpoint, self._validation, choices, path, progress=progress
            )

        expected = options.baseline_provenance(recipe.checkpoint, self._validation, choices)
        return self._step("baseline", Baseline, path, expected, run)

    def _calibrate(self, graph: SimplifiedGraph) -> RangeTable | None:
        recipe, images = self._recipe, self._calibration
        if images is None:
            return None
        choices = CalibrateOptions(
            preprocess=self._how,
            calibrator=recipe.calibrator,
            batch=recipe.calibration_batch,
            threads=recipe.threads,
            seed=recipe.seed,
        )
        path = self._out / "model.ranges.json"

        def run(progress: Progress) -> RangeTable:
            from edge_inception.quant.observe import calibrate

            return calibrate(graph, images, choices, path, progress=progress)

        expected = calibrate_provenance(graph, images, choices)
        return self._step("calibrate", RangeTable, path, expected, run)

    def _quantize(
        self, graph: SimplifiedGraph, ranges: RangeTable | None, precision: Precision
    ) -> TypedGraph:
        choices = QuantizeOptions(
            precision=precision,
            float_rest=member(FloatRest, "float rest", self._recipe.float_rest),
        )
        path = self._out / f"model.{precision.value}.onnx"

        def run(_: Progress) -> TypedGraph:
            from edge_inception.quant.insert import quantize

            return quantize(graph, ranges, choices, path)

        expected = quantize_provenance(graph, ranges, choices)
        return self._step(f"quantize {precision.value}", TypedGraph, path, expected, run)

    def _compile(self, name: str, typed: Mapping[Precision, TypedGraph]) -> Iterator[EngineEntry]:
        """Engines of one target: FP32 to compare with, then the asked precision."""
        target = targets.target(name)
        executable = registry.backend(target.backend).availability().float_precisions
        for precision, graph in typed.items():
            is_subject = precision is self._recipe.precision
            yield self._engine(target, graph, precision, "f32", is_subject=is_subject)
            if precision is Precision.FP32 and "bf16" in executable:
                yield self._engine(target, graph, precision, "bf16", is_subject=False)

    def _engine(
        self,
        target: targets.Target,
        graph: TypedGraph,
        precision: Precision,
        float_precision: str,
        *,
        is_subject: bool,
    ) -> EngineEntry:
        backend = registry.backend(target.backend)
        chosen = targets.compute_capabilities(target, self._recipe.compute_capabilities)
        choices = CompileOptions(
            profile=self._recipe.profile,
            float_precision=float_precision,
            compute_capabilities=chosen,
        )
        variant = "" if float_precision == "f32" else f".{float_precision}"
        path = self._out / f"model.{precision.value}.{target.name}{variant}{backend.suffix}"
        expected = stage.provenance(
            f"compile:{backend.name}", parents={"typed graph": graph.sha256}, options=choices
        )
        label = f"compile {precision.value} {target.name}{variant}"
        run = lambda _: backend.compile(graph, choices, path)  # noqa: E731 -- closes over all three
        engine = self._step(label, EngineFile, path, expected, run)
        return EngineEntry(
            engine=engine,
            target=target.name,
            precision=precision.value,
            float_precision=float_precision,
            is_subject=is_subject,
        )

    def _validate(self, baseline: Baseline, entries: list[EngineEntry]) -> Report:
        recipe = self._recipe
        choices = ingredients.validate_options(recipe, self._validation, self._listener)
        path = self._out / REPORT

        def run(progress: Progress) -> Report:
            from edge_inception.validate.run import validate

            return validate(baseline, entries, self._validation, choices, path, progress=progress)

        expected = validate_provenance(baseline, entries, self._validation, choices)
        report = self._step("validate", Report, path, expected, run)
        if not self._is_dry:
            self._write_markdown(report)
        return report

    def _write_markdown(self, report: Report) -> None:
        import json

        from edge_inception.report.markdown import to_markdown

        text = to_markdown(json.loads(report.path.read_text(encoding="utf-8")))
        path = self._out / REPORT_MARKDOWN
        artifact.replace_file(path, lambda temporary: _write_text(temporary, text))
        self.written.append(path)

    def _step(
        self,
        label: str,
        kind: type[A],
        path: Path,
        expected: Provenance,
        run: Callable[[Progress], A],
    ) -> A:
        """Reuse or run one stage, and say which."""
        found, reason = stage.reusable(kind, path, expected)
        if self._force:
            found, reason = None, "forced"
        if self._is_dry and found is None:
            self.lines.append(f"{label:<22} run: {reason}")
            raise _WouldRun
        self.written.append(path)
        if found is not None:
            self.lines.append(f"{label:<22} reuse {path}")
            self._listener.note(f"{label:<23}  reused")
            return found
        if path.exists() and not self._force:
            self._listener.note(f"{label:<23}  again: {reason}")
        started = time.monotonic()
        with self._listener.working(label) as progress:
            made = run(progress)
        seconds = time.monotonic() - started
        self._listener.note(f"{label:<23}{seconds:6.1f} s  {told(made.counts)}")
        self._listener.detail(f"  counted: {told(made.counts, is_full=True)}")
        return made


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
