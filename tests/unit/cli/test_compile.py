"""Promises of the command compile: its choices reach the backend or are refused before work."""

from __future__ import annotations

import pytest
from msgspec import structs

from edge_inception import artifact
from edge_inception.artifact import TypedGraph
from edge_inception.cli import main
from edge_inception.engines import _cuda
from edge_inception.spec import Precision, Preprocess


def compiled(typed, *flags):
    return main.run(["compile", str(typed.path), "--out", str(typed.path) + ".engine", *flags])


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--use-dla-core", "0"], "'openvino' has no option dla core, got 0"),
        (["--useDLACore", "0"], "'openvino' has no option dla core, got 0"),
        (["--version-compatible"], "'openvino' has no option version compatible"),
        (["--calib", "c.cache"], "'openvino' has no option calibration cache"),
        (["--mem-pool-size", "workspace:64"], "'openvino' has no option memory pools"),
        (["--mem-pool-size", "workspace"], "wanted POOL:MIB"),
        (["--mem-pool-size", "workspace:-1"], "wanted POOL:MIB"),
        (["--target", "rtx", "--refit"], "'tensorrt_rtx' has no option refit"),
        (["--compute-capability", "8.9"], "'cpu' leaves no choice"),
        (["--target", "rtx-4090", "--compute-capability", "7.5"], "'rtx-4090' leaves no choice"),
    ],
)
def test_choice_that_cannot_be_honoured(tiny_typed, capsys, flags, reason):
    """Exit code 3 and one line that names the option; no engine is written."""
    typed = tiny_typed("strong")
    assert compiled(typed, *flags) == 3
    assert reason in capsys.readouterr().err
    assert not typed.path.with_name(typed.path.name + ".engine").exists()


def test_compile_tells_the_engine(tiny_typed, capsys):
    """The path goes to stdout; with --verbose the same build by NVIDIA's tool is told."""
    typed = tiny_typed("strong")
    assert compiled(typed, "--target", "rtx", "--workspace", "64", "--verbose") == 0
    out, err = capsys.readouterr()
    assert out.strip() == f"{typed.path}.engine"
    assert f"tensorrt_rtx --onnx={typed.path}" in err
    assert "--memPoolSize=workspace:64" in err
    assert "--computeCapabilities" not in err
    asked = ("--compute-capability", "8.0", "--compute-capability", "8.9")
    assert compiled(typed, "--target", "rtx", *asked, "--verbose") == 0
    assert "--computeCapabilities=80,89" in capsys.readouterr().err


def test_device_is_compiled_for_on_the_device_alone(tiny_typed, capsys, monkeypatch):
    """A Jetson's engine is refused elsewhere; on an Orin the request reaches TensorRT, and what no
    Orin Nano can do is refused before that."""
    typed = tiny_typed("strong")
    assert compiled(typed, "--target", "orin-nano-8gb") == 3
    assert "compiled on the device" in capsys.readouterr().err
    monkeypatch.setattr(_cuda, "compute_capability", lambda: "8.7")
    assert compiled(typed, "--target", "orin-nano-8gb") == 4
    assert "JetPack" in capsys.readouterr().err
    level = ("--hardware-compatibility-level", "ampere+")
    assert compiled(typed, "--target", "orin-nano-8gb", *level) == 3
    assert "is a Jetson" in capsys.readouterr().err
    assert compiled(typed, "--target", "orin-nano-8gb", "--use-dla-core", "0") == 3
    assert "DLA" in capsys.readouterr().err


def test_pixels_and_opsets_that_a_device_cannot_parse(tiny_typed, capsys, monkeypatch):
    """What the typed graph's sidecar says of its input and opset is held to the device."""
    monkeypatch.setattr(_cuda, "compute_capability", lambda: "5.3")
    typed = tiny_typed("weak")
    for facts, reason in (
        ({"preprocess": Preprocess(input_size=(8, 8), element="uint8")}, "takes no uint8 input"),
        ({"opset": 14}, "parses ONNX opset 13 at most, the graph has 14"),
        ({"opset": 13}, "JetPack"),
    ):
        artifact.publish(
            TypedGraph,
            typed.path,
            typed.path.read_bytes(),
            provenance=typed.provenance,
            details=structs.replace(typed.details, precision=Precision.FP16, **facts),
        )
        assert compiled(typed, "--target", "nano-4gb") == (4 if reason == "JetPack" else 3)
        assert reason in capsys.readouterr().err
