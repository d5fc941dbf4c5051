"""Writing of a bundle: a folder with the files that build and verify an engine on a device.

The same content gives the same bytes: names are sorted, no file holds the time of packing, and the
members of the archive have no owner and the date 1970. A bundle is written beside its final path
and renamed when it is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_inception import artifact, stage
from edge_inception._version import __version__
from edge_inception.artifact import Baseline, EngineFile, Report, TypedGraph
from edge_inception.bundle import archive, build_script, serving, signing
from edge_inception.bundle.golden import GoldenSet, record_golden, spread_evenly
from edge_inception.bundle.licences import licence_texts
from edge_inception.bundle.serving.served_model import served_model
from edge_inception.data.imageset import ImageSet
from edge_inception.device import manifest, recorded, records
from edge_inception.errors import InputError
from edge_inception.hardware import targets
from edge_inception.hardware.target import Target
from edge_inception.validate import report_record
from edge_inception.validate.accuracy import BaselineArrays, load_baseline

_PACKAGE = Path(__file__).parent.parent
DEVICE_FILES = tuple(
    f"device/{file.name}" for file in sorted((_PACKAGE / "device").glob("[!_]*.py"))
)
SHARED_FILES = ("data/batches.py", "data/pixels.py", "hardware/cores.py")
"""Files from other folders of this package that every bundle carries, besides ``device/``."""
LIBRARY_FILES: Mapping[str, tuple[str, ...]] = {
    "openvino": ("engines/_openvino.py", "engines/_openvino_unsigned.py"),
    "tensorrt": tuple(
        f"engines/{name}.py" for name in ("_nvinfer", "_cuda", "_plan", "_inspection")
    ),
}
"""Backend -> more files of this package that a bundle for it carries."""

# Typing of a graph (how it states precision) -> the first TensorRT version that can build it, and
# the first later version that cannot; "" means that all later versions can.
_TENSORRT_VERSIONS: Mapping[str, tuple[str, str]] = {
    "strong": ("10.0", ""),
    "weak": ("8.2", "10.0"),
    "implicit": ("8.2", "10.8"),
    "cpu": ("", ""),  # for OpenVINO alone
}
_STRONG_DLA = ("11.4.1", "")  # a strongly typed graph on DLA: docs/dla.md, "Versions with DLA"
_RECORDED_TOOLS = ("numpy", "Pillow", "onnx", "openvino", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildArtifacts:
    """Artifacts of one build, from which a bundle is made.

    ``graphs`` are variants of one typed graph (each tensor's precision is explicit). ``engine`` is
    compiled from the strongly typed variant, was validated in ``report`` and runs on this machine;
    ``validated_engines`` are all engines of ``report``. ``images`` are validation images; those
    that ``baseline`` lacks are left out. ``calibration_cache`` is TensorRT's file of scales for the
    graph whose typing is ``implicit``.
    """

    graphs: tuple[TypedGraph, ...]
    engine: EngineFile
    validated_engines: tuple[EngineFile, ...]
    baseline: Baseline
    report: Report
    images: ImageSet
    calibration_cache: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOptions:
    """Options of one bundle.

    An empty ``name`` stands for the model's name. ``tensorrt`` is (oldest, newest) version; None
    means the target's whole range. The bundle has at most ``num_golden`` golden images and
    ``num_baseline`` rows of the baseline. ``key`` is an Ed25519 private key in a PEM file.
    ``keep_failed`` allows a build that missed its gates, and ``force`` replaces another bundle of
    that name. ``workspace_mib``, ``dla_core``, ``allow_gpu_fallback`` and
    ``builder_optimization_level`` are settings of TensorRT's build.
    """

    target: str
    name: str = ""
    tensorrt: tuple[str, str] | None = None
    num_golden: int = 8
    num_baseline: int = 1000
    workspace_mib: int | None = None
    dla_core: int | None = None
    allow_gpu_fallback: bool = True
    builder_optimization_level: int | None = None
    key: Path | None = None
    keep_failed: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleResult:
    """Paths and version of a bundle, its number of golden images, and whether the folder is new."""

    folder: Path
    archive: Path
    version: str
    num_golden: int
    is_new: bool


def make_bundle(artifacts: BuildArtifacts, options: BundleOptions, out: Path) -> BundleResult:
    """Write ``out/NAME-TARGET`` and ``out/NAME-TARGET.tar.gz``.

    Raises:
        InputError: The report has FAILED, the artifacts are not of one build, no image is in the
            baseline, another bundle has that name, or the disk is full or read-only.
        BackendMissing: Signing needs ``cryptography``, or the engine needs OpenVINO.
    """
    target = targets.target(options.target)
    _require_one_build(artifacts, options)
    key = signing.read_key(options.key) if options.key else None
    content = _Content(artifacts, options, target)
    folder = out / f"{content.name}-{target.name}"
    packed = out / f"{folder.name}.tar.gz"
    with artifact.translate_disk_errors(folder), archive.temporary_beside(folder) as temporary:
        content.write(temporary)
        record = content.manifest(temporary)
        text = records.to_json(record)
        (temporary / manifest.FILE).write_text(text, encoding="utf-8")
        if key is not None:
            signed = signing.sign(text.encode(), key, f"{folder.name} {record.version}")
            (temporary / manifest.SIGNATURE).write_text(signed, encoding="ascii")
        is_new = archive.publish_folder(temporary, folder, force=options.force)
        if key is not None:
            signing.write_public_key(key, out / f"{folder.name}.pub")
        artifact.replace_file(packed, lambda path: archive.write_archive(folder, path))
    return BundleResult(
        folder=folder,
        archive=packed,
        version=record.version,
        num_golden=len(content.golden.items),
        is_new=is_new,
    )


def _require_one_build(artifacts: BuildArtifacts, options: BundleOptions) -> None:
    """Refuse artifacts of different builds, and a build that failed.

    Raises:
        InputError: The report has FAILED, or judged another artifact than the one given.
    """
    status = artifacts.report.details.status
    if status == "FAILED" and not options.keep_failed:
        raise InputError(
            f"{artifacts.report.path} has the status FAILED: a bundle ships only what was "
            "validated",
            hint="meet the gates, or give --keep-failed",
        )
    context = report_record.read(artifacts.report.path).context
    judged = {engine.sha256 for engine in context.engines.values()}
    if artifacts.engine.sha256 not in judged:
        raise InputError(
            f"{artifacts.engine.path} is not an engine that {artifacts.report.path} judged",
            hint="build again, so that engine and report are of one run",
        )
    if context.baseline_sha256 != artifacts.baseline.sha256:
        raise InputError(
            f"{artifacts.baseline.path} is not the baseline of {artifacts.report.path}",
            hint="build again, so that baseline and report are of one run",
        )
    validated_graphs = {
        engine.provenance.parents.get("typed graph")
        for engine in (artifacts.engine, *artifacts.validated_engines)
        if engine.sha256 in judged
    }
    for graph in artifacts.graphs:
        if graph.details.typing != "implicit" and graph.sha256 not in validated_graphs:
            raise InputError(
                f"no engine that {artifacts.report.path} judged was compiled from {graph.path}",
                hint=f"run edge-inception build --target {options.target}, then bundle that build",
            )


def _graph_file(graph: TypedGraph) -> str:
    return f"graphs/{graph.details.typing}.onnx"


def _write_baseline(path: Path, arrays: BaselineArrays, max_rows: int) -> None:
    """Write at most ``max_rows`` rows of the baseline to ``path``, spread evenly over all rows."""
    rows = spread_evenly(list(range(len(arrays.labels))), max_rows)
    chosen = recorded.Baseline(
        logits=arrays.logits[rows],
        labels=arrays.labels[rows],
        sha256=np.array([arrays.sha256[row] for row in rows]),
    )
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **chosen._asdict())


class _Content:
    """The files of one bundle, and their manifest."""

    def __init__(self, artifacts: BuildArtifacts, options: BundleOptions, target: Target) -> None:
        self._artifacts, self._options, self._target = artifacts, options, target
        self._details = artifacts.engine.details
        self._is_openvino = target.backend == "openvino"
        self.name = options.name or self._details.model
        self._serving = served_model(
            artifacts.graphs[0].details, target, name=self.name, dla_core=options.dla_core
        )
        self._graphs = [self._graph_record(graph) for graph in artifacts.graphs]
        self._arrays = load_baseline(artifacts.baseline)
        self.golden: GoldenSet = record_golden(
            artifacts.engine, self._arrays, artifacts.images, options.num_golden
        )

    def write(self, folder: Path) -> None:
        """Write every file but the manifest into an empty folder."""
        backend = "openvino" if self._is_openvino else "tensorrt"
        for name in (*DEVICE_FILES, *SHARED_FILES, *LIBRARY_FILES[backend]):
            shutil.copyfile(_PACKAGE / name, folder / Path(name).name)
        (folder / "graphs").mkdir()
        for graph in self._artifacts.graphs:
            shutil.copyfile(graph.path, folder / _graph_file(graph))
        if self._artifacts.calibration_cache is not None:
            shutil.copyfile(self._artifacts.calibration_cache, folder / "calibration.cache")
        self.golden.write(folder)
        _write_baseline(folder / recorded.BASELINE, self._arrays, self._options.num_baseline)
        shutil.copyfile(self._artifacts.report.path, folder / "report.json")
        for name, text in self._texts().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def _texts(self) -> dict[str, str]:
        texts = {f"licences/{k}": v for k, v in licence_texts(self._details).items()}
        texts |= {f"serving/{k}": v for k, v in serving.render_all(self._serving).items()}
        labels = self._details.classes
        if labels:
            texts["labels.txt"] = "\n".join(labels) + "\n"
        if not self._is_openvino:
            texts["build.sh"] = build_script.render(self._graphs, self._build_options())
        return texts

    def _graph_record(self, graph: TypedGraph) -> manifest.Graph:
        is_dla = self._options.dla_core is not None and graph.details.typing == "strong"
        return manifest.Graph(
            file=_graph_file(graph),
            tensorrt=_STRONG_DLA if is_dla else _TENSORRT_VERSIONS[graph.details.typing],
            float_rest=graph.details.float_rest,
            profile=manifest.Profile(**stage.plain(graph.details.profile)),
            float_layers=list(graph.details.float_layers) or None,
            typing=graph.details.typing,
            precision=graph.details.precision.value,
            input=graph.details.input,
            output=graph.details.output,
            input_shape=list(graph.details.input_shape),
        )

    def _build_options(self) -> manifest.BuildOptions:
        return manifest.BuildOptions(
            workspace_mib=self._options.workspace_mib,
            dla_core=self._options.dla_core,
            allow_gpu_fallback=self._options.allow_gpu_fallback,
            builder_optimization_level=self._options.builder_optimization_level,
            float_precision=self._details.float_precision if self._is_openvino else None,
        )

    def manifest(self, folder: Path) -> manifest.Manifest:
        """The manifest of the files in ``folder``."""
        files = {
            path.relative_to(folder).as_posix(): manifest.File(
                artifact.file_sha256(path), path.stat().st_size
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        verdict = report_record.read(self._artifacts.report.path).verdict
        details = self._details
        return manifest.seal(
            manifest.Manifest(
                name=self.name,
                made_with={"edge-inception": __version__}
                | {tool: stage.tool_version(tool) for tool in _RECORDED_TOOLS},
                model=details.model,
                precision=details.precision.value,
                head=details.head_text,
                num_classes=details.num_classes,
                preprocess=manifest.Preprocess(**stage.plain(details.preprocess)),
                target=_target_record(self._target, self._options.tensorrt),
                graphs=self._graphs,
                build=self._build_options(),
                gates=manifest.Gates(**{check.name: check.wanted for check in verdict.checks}),
                verdict=verdict.status.value,
                golden=manifest.Golden(len(self.golden.items), self.golden.tolerance),
                files=files,
            )
        )


def _target_record(target: Target, tensorrt: tuple[str, str] | None) -> manifest.Target:
    return manifest.Target(
        name=target.name,
        title=target.title,
        backend=target.backend,
        compute_capabilities=list(target.compute_capabilities),
        tensorrt=tensorrt or target.tensorrt,
        memory_gb=target.memory_gb,
        num_dla_cores=target.num_dla_cores,
    )
