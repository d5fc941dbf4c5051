"""What a build left is held to the device that it is packed for."""

from __future__ import annotations

import json

import pytest
import reports
import sidecars
from msgspec import structs

from edge_inception import artifact
from edge_inception.artifact import (
    Baseline,
    EngineFile,
    Provenance,
    Report,
    TypedGraph,
    file_sha256,
)
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError
from edge_inception.hardware import targets
from edge_inception.pipeline import devices, outputs
from edge_inception.recipe.reader import load_recipe
from edge_inception.sidecar import ReportDetails
from edge_inception.spec import Precision, Preprocess, ShapeProfile
from edge_inception.validate.report_record import EngineFileRef, to_json

NO_IMAGES = ImageSet(name="none", items=(), classes=())


def device(name, *versions):
    return devices.Device(target=targets.target(name), tensorrt=versions)


def publish(kind, path, content, details):
    origin = Provenance(stage="test", parents={}, options={}, tools={}, source="")
    return artifact.publish(kind, path, content, provenance=origin, details=details)


@pytest.fixture
def packed(tmp_path, tiny_typed):
    """``packed(device, **details)``: artifacts of a build whose graphs say so of themselves."""

    def pack(device, batch=1, **details):
        for suffix, typing in (("", "fp16"), (".weak", "fp32")):
            typed = tiny_typed(typing, batch=batch)
            said = structs.replace(typed.details, precision=Precision.FP16, **details)
            path = tmp_path / f"model.fp16{suffix}.onnx"
            publish(TypedGraph, path, typed.path.read_bytes(), said)
        engine = sidecars.blob(precision=Precision.FP16)
        publish(EngineFile, tmp_path / "e.blob", b"engine", engine)
        publish(Baseline, tmp_path / "baseline.npz", b"baseline", sidecars.baseline())
        files = {
            "FP16 (cpu)": EngineFileRef(file="e.blob", sha256=file_sha256(tmp_path / "e.blob"))
        }
        record = reports.report(reports.row("FP16 (cpu)", precision="fp16"), engines=files)
        passed = ReportDetails(status="PASSED")
        publish(Report, tmp_path / "report.json", json.dumps(to_json(record)).encode(), passed)
        return outputs.artifacts_for_bundle(tmp_path, device, NO_IMAGES)

    return pack


def test_graph_that_every_version_takes(packed):
    """A small float graph is packed for any device, and for what has no JetPack."""
    for one, name in (
        (device("agx-xavier-32gb", "8.2.1", "8.5.2"), "model.fp16.weak.onnx"),
        (device("cpu"), "model.fp16.onnx"),
    ):
        assert [graph.path.name for graph in packed(one).graphs] == [name]


def test_pixels_need_a_tensorrt_that_takes_them(packed):
    """One of the versions that takes no uint8 is enough to refuse; without it nothing is."""
    pixels = Preprocess(input_size=(8, 8), element="uint8")
    with pytest.raises(InputError, match=r"TensorRT 8\.4\.1 takes no uint8 input"):
        packed(device("agx-xavier-32gb", "8.4.1", "8.5.2"), preprocess=pixels)
    assert packed(device("agx-xavier-32gb", "8.5.2"), preprocess=pixels).graphs


def test_batch_that_cannot_fit(packed):
    """A batch whose largest layer alone is larger than the memory: 4 GiB take no 40 million."""
    profile = ShapeProfile(min=1, opt=1, max=40_000_000)
    with pytest.raises(InputError, match="its memory is 4 GiB") as caught:
        packed(device("nano-4gb", "8.2.1"), batch=None, profile=profile)
    assert "is the largest that could fit" in caught.value.hint


def test_folded_pixels_narrow_the_versions_of_a_device():
    """A recipe with uint8 inputs leaves out the JetPacks whose TensorRT takes none."""
    overrides = {
        "model.name": "inception_v4",
        "model.checkpoint": "x.pth",
        "build.targets": ["agx-xavier-32gb"],
    }
    for fold, versions in (("none", ("8.2.1", "8.4.1", "8.5.2")), ("uint8", ("8.5.2",))):
        recipe = load_recipe(None, {**overrides, "model.fold_preprocessing": fold})
        assert devices.device_for(recipe, "agx-xavier-32gb").tensorrt == versions


def test_a_graph_for_cpus_is_packed_for_no_gpu(packed):
    """Its activations are uint8 with zero points, which TensorRT refuses."""
    assert packed(device("cpu"), typing="cpu").graphs[0].details.typing == "cpu"
    with pytest.raises(InputError, match="is for CPUs") as caught:
        packed(device("orin-nx-16gb", "10.3.0"), typing="cpu")
    assert "--typing strong" in caught.value.hint
