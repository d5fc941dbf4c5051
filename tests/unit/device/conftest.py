"""A tiny build, and bundles of it: folders to copy, open, run and damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import reports
import sidecars
from PIL import Image

from edge_inception import artifact
from edge_inception.artifact import Baseline, EngineFile, Provenance, Report
from edge_inception.bundle.make import BuildArtifacts, BundleOptions, make_bundle
from edge_inception.data import images, imageset
from edge_inception.device import manifest
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions, SessionOptions
from edge_inception.sidecar import ReportDetails
from edge_inception.validate.report_record import (
    EngineFileRef,
    Status,
    to_json,
)

ORIGIN = Provenance(stage="test", parents={}, options={}, tools={}, source="test")


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A dozen photos of 12 x 10 pixels, of very different colours."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for index in range(12):
        level = rng.uniform(0, 255, 3)
        noise = rng.normal(level, 40, (10, 12, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{index:02}.png")
    return folder


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory, publish_tiny, photos) -> BuildArtifacts:
    """Both spellings of the tiny int8 graph, its engine, and a baseline of the float graph."""
    folder = tmp_path_factory.mktemp("build")
    strong, weak = publish_tiny(folder, "strong"), publish_tiny(folder, "weak")
    backend = backends.backend("openvino")
    engine = backend.compile(strong, CompileOptions(), folder / "model.int8.cpu.blob")
    proof = backend.compile(weak, CompileOptions(), folder / "model.int8.weak.cpu.blob")
    plain = backend.compile(publish_tiny(folder, "fp32"), CompileOptions(), folder / "fp32.blob")
    found = imageset.open_set(photos)
    arrays = np.concatenate(
        [b.images for b in images.batches(found.items, engine.details.preprocess, 4)]
    )
    with backend.open(plain, SessionOptions(threads=1)) as session:
        logits = session.run(arrays)
    baseline = _publish_npz(
        folder / "baseline.npz",
        logits=logits,
        labels=logits.argmax(axis=1).astype(np.int64),
        sha256=np.array([item.sha256 for item in found.items]),
    )
    return BuildArtifacts(
        graphs=(strong, weak),
        engine=engine,
        validated_engines=(engine, proof),
        baseline=baseline,
        report=_publish_report(folder / "report.json", (engine, proof), baseline),
        images=found,
    )


def _publish_npz(path: Path, **arrays: np.ndarray) -> Baseline:
    with path.with_suffix(".tmp").open("wb") as stream:
        np.savez(stream, **arrays)
    content = path.with_suffix(".tmp").read_bytes()
    return artifact.publish(
        Baseline, path, content, provenance=ORIGIN, details=sidecars.of(Baseline)
    )


def _publish_report(
    path: Path, engines: tuple[EngineFile, ...], baseline: Baseline, status: str = "PASSED"
) -> Report:
    """A report on these engines, of that verdict."""
    record = reports.report(
        *(reports.row(e.path.name) for e in engines),
        checks=(reports.check("min_sqnr_db"),),
        status=Status(status),
        engines={e.path.name: EngineFileRef(file=e.path.name, sha256=e.sha256) for e in engines},
        baseline_sha256=baseline.sha256,
    )
    content = json.dumps(to_json(record)).encode()
    return artifact.publish(
        Report, path, content, provenance=ORIGIN, details=ReportDetails(status=status)
    )


@pytest.fixture(scope="session")
def cpu_bundle(artifacts, tmp_path_factory) -> Path:
    """A bundle for the CPU; copy it before changing anything."""
    import dataclasses

    strong = dataclasses.replace(artifacts, graphs=artifacts.graphs[:1])
    options = BundleOptions(target="cpu", num_golden=3)
    return make_bundle(strong, options, tmp_path_factory.mktemp("bundles")).folder


@pytest.fixture(scope="session")
def jetson_bundle(artifacts, tmp_path_factory) -> Path:
    """A bundle for a Jetson; copy it before changing anything."""
    options = BundleOptions(target="orin-nano-8gb", num_golden=3, workspace_mib=256)
    return make_bundle(artifacts, options, tmp_path_factory.mktemp("bundles")).folder


@pytest.fixture
def copied(cpu_bundle, tmp_path) -> Path:
    """A copy of the CPU's bundle."""
    return Path(shutil.copytree(cpu_bundle, tmp_path / "bundle"))


@pytest.fixture
def jetson(jetson_bundle, tmp_path) -> Path:
    """A copy of the Jetson's bundle."""
    return Path(shutil.copytree(jetson_bundle, tmp_path / "bundle"))


def _reseal(bundle: Path, **values) -> None:
    """Change top-level values of the manifest, and make every digest right again."""
    path = bundle / manifest.FILE
    record = {**json.loads(path.read_text(encoding="utf-8")), **values}
    for name, entry in record["files"].items():
        entry["sha256"] = artifact.file_sha256(bundle / name)
        entry["bytes"] = (bundle / name).stat().st_size
    record["version"] = manifest.compute_version(record)
    record["sha256"] = manifest.compute_digest(record)
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def reseal():
    """``reseal(bundle, **values)``: a changed bundle as its maker would have made it."""
    return _reseal


@pytest.fixture(scope="session")
def publish_report():
    """``publish_report(path, engines, baseline, status)``: a report of that verdict."""
    return _publish_report
