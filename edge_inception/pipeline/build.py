"""The stages of a recipe in order, from checkpoint to report and bundle.

The output folder gets these files, each artifact with <file>.json, its sidecar, beside it:

- model.onnx (for an imported graph also model.imported.onnx), model.simplified.onnx;
- baseline.npz, model.ranges.json, and with [search] model.search.json and its journal;
- model.<precision>.onnx, model.<precision>.<target><suffix>, report.json and report.md;
- model.<precision>.weak.onnx, and model.<precision>.implicit.onnx with its .cache, if the TensorRT
  of hardware that compiles for itself needs them;
- with ``--bundle``, bundles/NAME-TARGET and its .tar.gz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_inception import artifact, registry, stage
from edge_inception.artifact import EngineFile, RangeTable, Report, SimplifiedGraph
from edge_inception.bundle import make
from edge_inception.bundle.make import BundleOptions
from edge_inception.data import imageset
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import EdgeInceptionError, InputError
from edge_inception.pipeline import devices, inputs, outputs
from edge_inception.pipeline.listener import Listener, Silent
from edge_inception.pipeline.runner import Runner, WouldRun
from edge_inception.pipeline.stages import DLA, IMPLICIT, WEAK, BuildStages
from edge_inception.quant import calibrators, policies
from edge_inception.quant.options import AUTO
from edge_inception.recipe.reader import Recipe
from edge_inception.spec import Precision
from edge_inception.validate import report_record
from edge_inception.validate.options import require_gates
from edge_inception.validate.report_record import ReportRecord, Status

BUNDLES = "bundles"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """Result of a build.

    ``report`` is the record in report.json, ``status`` its verdict in one word. ``engines`` are the
    engine files that ship, ``written`` all files that were made or reused and still exist.
    """

    report: ReportRecord
    status: str
    engines: tuple[Path, ...]
    written: tuple[Path, ...]


def build(
    recipe: Recipe,
    *,
    force: bool = False,
    keep_failed: bool = False,
    listener: Listener | None = None,
) -> BuildResult:
    """Run every stage of ``recipe``, reusing those whose inputs, options and tools are unchanged.

    Args:
        recipe: Model, data and options of the build.
        force: Reuse nothing.
        keep_failed: Keep the engines although a gate failed.
        listener: Receiver of progress; None for none.

    Raises:
        EdgeInceptionError: A stage failed; errors.py lists the classes. A missed gate raises
            nothing, since ``status`` has it.
    """
    with stage.lock(recipe.out):
        runner = Runner(listener or Silent(), force=force)
        return _Build(recipe, runner).run(keep_failed=keep_failed)


def plan(recipe: Recipe, *, force: bool = False) -> list[str]:
    """Lines of text on what ``build`` would reuse, and which stage it would run first and why.

    Raises:
        InputError: Inputs are missing or do not fit together.
    """
    runner = Runner(Silent(), force=force, is_dry=True)
    dry = _Build(recipe, runner)
    try:
        dry.run_stages()
    except WouldRun:
        runner.lines.append("later stages depend on it and are decided then")
    return runner.lines


class _Build:
    """One build: run the stages in order, then ship or withhold the engines."""

    def __init__(self, recipe: Recipe, runner: Runner) -> None:
        self._recipe, self._runner, self._listener = recipe, runner, runner.listener
        if not recipe.is_imported:
            registry.model(recipe.model)  # refuses a misspelt name before any work
        self._devices = devices.self_compiling_devices(recipe)
        self._hosts = devices.host_targets(recipe)
        self._bundled = devices.devices_to_bundle(recipe, self._devices, self._hosts)
        calibrators.require_known(recipe.calibrator)
        if recipe.placement:
            policies.policy(recipe.placement)
        inputs.require_threads(recipe.threads)
        validation = inputs.open_image_set(recipe.validation, "validation", recipe, self._listener)
        self._validation = validation
        calibration = _calibration_set(recipe, validation, self._listener)
        typing = devices.int8_typing(recipe, self._hosts, self._devices)
        self._stages = BuildStages(recipe, validation, calibration, runner, typing=typing)
        _note_classes(validation, self._listener)

    def run(self, *, keep_failed: bool) -> BuildResult:
        """Run all stages, then ship or withhold the engines."""
        report, judged = self.run_stages(keep_failed=keep_failed)
        record = report_record.read(report.path)
        status, choices = record.status, record.choices
        # with --precision best, one engine is chosen for each target
        shipped = _engines_of(judged, record, [one.row for one in choices]) if choices else judged
        failed = _engines_of(judged, record, [row for one in choices for row in one.failed])
        if status == "FAILED" and not keep_failed:
            self._withhold(judged, "gate failed")
            if advice := _advice(self._recipe, record):
                self._listener.note(advice)
            shipped = []
        elif failed and not keep_failed:
            self._withhold(failed, "not chosen, gate failed")
        if shipped:
            self._pack()
        engines = tuple(engine.path for engine in shipped)
        written = tuple(path for path in self._runner.written if path.exists())
        return BuildResult(report=record, status=status, engines=engines, written=written)

    def run_stages(self, *, keep_failed: bool = False) -> tuple[Report, list[EngineFile]]:
        """Run all stages; the result is the report and the engines that may ship."""
        stages, precision = self._stages, self._recipe.precision
        graph, plain = stages.unsimplified()
        require_gates(self._recipe.gates, graph.details.head, self._recipe.model)
        simplified = stages.simplify(graph)
        baseline = stages.baseline(plain)
        typed = {Precision.FP32: stages.quantize(simplified, None, Precision.FP32)}
        ranges = stages.calibrate(simplified)
        self._search(simplified, ranges)
        for wanted in self._recipe.precisions:
            if wanted is not Precision.FP32:
                typed[wanted] = stages.quantize(simplified, ranges, wanted)
        entries = [entry for name in self._hosts for entry in stages.compile(name, typed)]
        if any(device.needs_weak_typing for device in self._devices):
            weak = stages.quantize(simplified, ranges, precision, WEAK)
            entries.append(stages.compile_for_validation(weak, WEAK))
        if any(device.dla_tensorrt for device in self._devices):
            dla = stages.quantize(simplified, ranges, precision, DLA)
            entries.append(stages.compile_for_validation(dla, DLA))
        versions = dict.fromkeys(device.implicit_tensorrt for device in self._devices)
        for version in filter(None, versions):
            self._make_implicit(simplified, ranges, version)
        shipped = [entry.engine for entry in entries if entry.is_subject]
        try:
            report = stages.validate(baseline, entries)
        except EdgeInceptionError:
            if not keep_failed:
                self._withhold(shipped, "not validated")
            raise
        return report, shipped

    def _search(self, graph: SimplifiedGraph, ranges: RangeTable | None) -> None:
        """Find the layer groups that int8 graphs keep in float; a DLA needs all of them in int8."""
        if ranges is not None and (self._recipe.budget or not self._recipe.dla):
            self._stages.search(graph, ranges)

    def _pack(self) -> None:
        """Make a bundle for each device; its graphs have been judged."""
        for device in self._bundled:
            options = BundleOptions(
                target=device.target.name,
                tensorrt=device.tensorrt_range,
                dla_core=device.dla_core,
                keep_failed=True,  # engines that missed a gate get here only with --keep-failed
                force=True,  # an earlier bundle of the same build is replaced
            )
            artifacts = outputs.artifacts_for_bundle(self._recipe.out, device, self._validation)
            bundle = make.make_bundle(artifacts, options, self._recipe.out / BUNDLES)
            self._runner.written += [bundle.folder, bundle.archive]
            self._listener.note(f"bundle {device.target.name:<16}  version {bundle.version}")

    def _make_implicit(
        self, simplified: SimplifiedGraph, ranges: RangeTable | None, tensorrt: str
    ) -> None:
        """Write the graph without Q/DQ that a DLA takes and, for int8, the cache of its scales."""
        implicit = self._stages.quantize(simplified, ranges, self._recipe.precision, IMPLICIT)
        if ranges is not None:
            self._stages.calibration_cache(implicit, ranges, tensorrt)

    def _withhold(self, engines: list[EngineFile], why: str) -> None:
        """Delete engines that must not ship."""
        for engine in engines:
            engine.path.unlink()
            artifact.sidecar_path(engine.path).unlink()
        self._listener.note(f"{why}: engines withheld (--keep-failed keeps them)")


def _engines_of(
    engines: list[EngineFile], report: ReportRecord, rows: Sequence[str]
) -> list[EngineFile]:
    """The engines whose rows in the report have the names ``rows``."""
    hashes = {report.file_of(row).sha256 for row in rows}
    return [engine for engine in engines if engine.sha256 in hashes]


_ACCURACY_GATES = frozenset(("max_drop_pp", "min_agreement", "min_sqnr_db"))


def _advice(recipe: Recipe, report: ReportRecord) -> str:
    """Advice for an int8 graph that missed an accuracy gate; empty if there is none."""
    missed = {check.name for check in report.verdict.checks if check.status is Status.FAILED}
    judged = {row.precision for row in report.subjects}
    if judged != {Precision.INT8.value} or not missed & {*_ACCURACY_GATES, "search"}:
        return ""
    if missed & _ACCURACY_GATES and recipe.calibrator != AUTO:
        return "--calibrator auto, the default, may help; so may more calibration images"
    if recipe.dla:
        return ""  # a DLA needs all groups in int8
    return (
        f"`edge-inception sensitivity {recipe.out}` ranks the groups for --keep-float; more "
        "calibration images or --effort max may help"
    )


def _calibration_set(recipe: Recipe, validation: ImageSet, listener: Listener) -> ImageSet | None:
    if recipe.precision is not Precision.INT8:
        return None
    calibration = inputs.open_image_set(recipe.calibration, "calibration", recipe, listener)
    shared = imageset.overlap(calibration, validation)
    if shared:
        raise InputError(
            f"{len(shared)} calibration images are also validation images, first {shared[0]}",
            hint="accuracy on images that set the scales proves nothing; use others",
        )
    return calibration.subset(recipe.calibration_images)


def _note_classes(images: ImageSet, listener: Listener) -> None:
    if classes := images.classes:
        pairs = ", ".join(f"{index} {name}" for index, name in enumerate(classes[:10]))
        more = f", ... {len(classes)} in all" if len(classes) > len(classes[:10]) else ""
        listener.note(f"classes: {pairs}{more}")
