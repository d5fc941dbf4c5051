"""The artifacts for a bundle, taken from the folder of a finished build.

Only graphs that the report judged are taken, so that the variant that ships is the variant that was
validated. The one exception is a graph without Q/DQ nodes, which only TensorRT can execute in int8;
a graph that has the same scales in Q/DQ nodes was judged instead.
"""

from __future__ import annotations

from pathlib import Path

from edge_inception import artifact
from edge_inception.artifact import Baseline, CalibrationCache, EngineFile, Report, TypedGraph
from edge_inception.bundle.make import BuildArtifacts
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError
from edge_inception.estimate import roofline
from edge_inception.graph.check import load_graph
from edge_inception.graph.statistics import statistics
from edge_inception.hardware import feasibility
from edge_inception.pipeline.devices import Device
from edge_inception.validate import report_record

REPORT = "report.json"


def artifacts_for_bundle(folder: Path, device: Device, images: ImageSet) -> BuildArtifacts:
    """The artifacts: graphs in the typings that ``device`` needs, engines, and baseline.

    Args:
        folder: Output folder of a build.
        device: Hardware that the bundle is for, with its TensorRT versions.
        images: The build's validation images.

    Raises:
        InputError: The folder holds no finished build, a build for other hardware, or one whose
            engines cannot run on a CPU; or ``device`` lacks the memory for it, or has a TensorRT
            that does not take its uint8 input.
    """
    report = artifact.load(Report, folder / REPORT)
    engines = _judged_engines(folder, report)
    precision = engines[0].details.precision.value
    graphs = tuple(_graph(folder, precision, typing, device) for typing in device.typings)
    _require_possible(device, graphs[0])
    return BuildArtifacts(
        graphs=graphs,
        engine=engines[0],
        validated_engines=engines,
        baseline=artifact.load(Baseline, folder / "baseline.npz"),
        report=report,
        images=images,
        calibration_cache=_cache(folder, precision, device),
    )


def _judged_engines(folder: Path, report: Report) -> tuple[EngineFile, ...]:
    """Engines that the report judged; they must be OpenVINO's, which run on any machine.

    Raises:
        InputError: The engines are another library's, so their outputs cannot be recorded here.
    """
    record = report_record.read(report.path)
    backend = record.subjects[0].backend
    if backend != "openvino":
        raise InputError(
            f"{report.path} judged an engine of {backend}, whose outputs cannot be "
            "recorded on a CPU",
            hint="build with --target cpu: such a build gives the bundles for every target",
        )
    files = (record.file_of(row.name) for row in record.subjects)
    return tuple(artifact.load(EngineFile, folder / engine.file) for engine in files)


def _graph(folder: Path, precision: str, typing: str, device: Device) -> TypedGraph:
    suffix = f".{typing}"
    if typing == "strong":
        suffix = ".dla" if device.is_typed_dla else ""
    name = f"model.{precision}{suffix}.onnx"
    if not (folder / name).exists():
        raise InputError(
            f"{folder} has no graph of {typing} typing, which {device.target.name} needs",
            hint=f"edge-inception build --target {device.target.name} --bundle makes and judges it",
        )
    graph = artifact.load(TypedGraph, folder / name)
    if graph.details.typing == "cpu" and device.target.backend != "openvino":
        raise InputError(
            f"{folder / name} is for CPUs, and {device.target.name} takes no uint8 activations",
            hint=f"build it for --target {device.target.name}, or with --typing strong",
        )
    return graph


def _require_possible(device: Device, graph: TypedGraph) -> None:
    """Refuse a graph that is too large, or whose input a TensorRT version cannot take.

    ``graph`` stands for the graphs in all typings, which have the same sizes and input.

    Raises:
        InputError: A version of ``device`` cannot take the graph.
    """
    precision, batch = graph.details.precision, graph.details.profile.max
    figures = statistics(load_graph(graph.path), batch=batch)
    for version in device.tensorrt or (None,):
        request = feasibility.Request(
            precision=precision,
            tensorrt=version,
            batch=batch,
            element=graph.details.preprocess.element,
            memory=roofline.memory_need(figures, precision),
        )
        feasibility.require(device.target, request)


def _cache(folder: Path, precision: str, device: Device) -> Path | None:
    path = folder / f"model.{precision}.implicit.cache"
    if not device.implicit_tensorrt or precision != "int8":
        return None
    return artifact.load(CalibrationCache, path).path
