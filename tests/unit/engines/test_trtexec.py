"""Promises of the printed trtexec command; the flags per version: docs/tensorrt.md, "trtexec"."""

from __future__ import annotations

import pytest

from edge_inception.engines._nvinfer import BuildSettings
from edge_inception.engines._trtexec import NoSuchFlag, command

WEAK = BuildSettings(1, 1, 1, workspace_mib=512, typing="weak", precision="int8", float_rest="fp16")
STRONG = BuildSettings(1, 1, 1, workspace_mib=512)
IMPLICIT = BuildSettings(
    1,
    1,
    1,
    typing="implicit",
    precision="int8",
    float_rest="fp16",
    calibration_cache="calibration.cache",
    dla_core=0,
    allow_gpu_fallback=True,
)


def flags(version, settings, shape=None):
    words = command(version, settings, "m.onnx", "m.engine", shape)
    assert words[:3] == ["trtexec", "--onnx=m.onnx", "--saveEngine=m.engine"]
    return words[3:]


@pytest.mark.parametrize(
    ("version", "settings", "wanted"),
    [
        ((8, 2, 1), WEAK, ["--workspace=512", "--fp16", "--int8", "--buildOnly"]),
        ((8, 5, 2), WEAK, ["--memPoolSize=workspace:512", "--fp16", "--int8", "--buildOnly"]),
        ((8, 6, 2), WEAK, ["--memPoolSize=workspace:512", "--fp16", "--int8", "--skipInference"]),
        (
            (10, 3, 0),
            STRONG,
            ["--memPoolSize=workspace:512", "--stronglyTyped", "--skipInference"],
        ),
        ((11, 1, 0), STRONG, ["--memPoolSize=workspace:512", "--skipInference"]),
        (
            (10, 3, 0),
            IMPLICIT,
            [
                "--fp16",
                "--int8",
                "--calib=calibration.cache",
                "--useDLACore=0",
                "--allowGPUFallback",
                "--skipInference",
            ],
        ),
    ],
)
def test_each_version_has_its_spelling(version, settings, wanted):
    """Workspace, typing and build-only are spelled as that version's trtexec reads them."""
    assert flags(version, settings) == wanted


def test_every_choice_has_a_flag():
    """What a build can choose, the command can say."""
    settings = BuildSettings(
        1,
        2,
        4,
        builder_optimization_level=0,
        timing_cache="t.cache",
        version_compatible=True,
        hardware_compatible="ampere+",
        strip_weights=True,
        refit=True,
        sparsity=True,
        memory_pools=(("dlaSRAM", 0.5), ("workspace", 64)),
    )
    assert flags((10, 9, 0), settings, ("input", (3, 299, 299))) == [
        "--minShapes=input:1x3x299x299",
        "--optShapes=input:2x3x299x299",
        "--maxShapes=input:4x3x299x299",
        "--memPoolSize=dlaSRAM:0.5,workspace:64",
        "--stronglyTyped",
        "--builderOptimizationLevel=0",
        "--timingCacheFile=t.cache",
        "--versionCompatible",
        "--hardwareCompatibilityLevel=ampere+",
        "--stripWeights",
        "--refit",
        "--sparsity=enable",
        "--skipInference",
    ]


@pytest.mark.parametrize(
    ("version", "settings", "reason"),
    [
        ((8, 6, 2), STRONG, r"8\.6\.2 has no --stronglyTyped; TensorRT 9\.0 up to before 11\.0"),
        ((11, 1, 0), WEAK, r"11\.1\.0 has no --fp16; TensorRT 8\.2 up to before 11\.0"),
        ((8, 5, 2), STRONG._replace(typing="weak", strip_weights=True), r"10\.0 and later has it"),
        (
            (8, 2, 1),
            WEAK._replace(memory_pools=(("dlaSRAM", 1),)),
            r"no --memPoolSize; TensorRT 8\.4 and later",
        ),
    ],
)
def test_what_a_version_cannot_say_is_refused(version, settings, reason):
    """A flag that this trtexec lacks is an error that names a version that has it."""
    with pytest.raises(NoSuchFlag, match=reason):
        command(version, settings, "m.onnx", "m.engine")
