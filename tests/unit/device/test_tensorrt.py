"""The program on TensorRT, through the recorded surface of each release that an Orin meets.

No Jetson and no TensorRT were at hand: the library is the fake of tests/contract, no wider than the
release, whose network answers j + 1 times the sum of an image in class j.
"""

from __future__ import annotations

import functools
import json
import sys

import fake_cuda
import fake_tensorrt
import fake_tensorrt_run
import numpy as np
import pytest
from msgspec import structs

from edge_inception.device import device, errors, jetson_board, manifest
from edge_inception.engines import _cuda, _inspection

SIDE, CLASSES = 8, 5
RELEASES = ("8.5", "8.6", "10.0", "10.3", "10.7", "10.13", "10.16")


@pytest.fixture
def summing(jetson, reseal):
    """A Jetson's bundle whose golden answers are those of the fake's network."""
    with np.load(jetson / "golden.npz") as archive:
        golden = dict(archive)
    sums = golden["images"].sum(axis=(1, 2, 3))
    golden["validated"] = np.outer(sums, np.arange(1, CLASSES + 1)).astype(np.float32)
    golden["baseline"] = golden["validated"]
    np.savez(jetson / "golden.npz", **golden)
    reseal(jetson)
    return jetson


@pytest.fixture
def orin(monkeypatch):
    """``orin(release)``: this process has an Orin's driver and that release of TensorRT."""

    def make(release, **facts):
        facts = {"shape": (1, 3, SIDE, SIDE), "kernel": "INT8", **facts}
        trt, world = fake_tensorrt.tensorrt(release, fake_tensorrt_run.ACTS, **facts)
        fake_cuda.install(monkeypatch, world)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setattr(_cuda, "driver_version", lambda: 12060)
        monkeypatch.setattr(_cuda, "compute_capability", lambda: "8.7")
        monkeypatch.setattr(_cuda, "gpu_name", lambda: "Orin")
        return world

    return make


def run(bundle, *arguments):
    return device.main([arguments[0], "--bundle", str(bundle), *arguments[1:]])


def said(capsys):
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("release", RELEASES)
def test_every_command_on_every_release(summing, orin, release, capsys):
    """check, build, build again, verify, bench and classify: exit 0 and what each is for."""
    world = orin(release)
    assert run(summing, "check", "--json") == 0
    assert said(capsys)["status"] == "PASSED"
    assert run(summing, "build", "--json") == 0
    built = said(capsys)
    assert built["built"]
    assert built["typing"] == ("weak" if release.startswith("8") else "strong")
    assert (built["tensorrt"], built["sm"], built["device"]) == (
        fake_tensorrt.surface(release)["version"], "8.7", "Orin",
    )  # fmt: skip
    num_builds = world.names().count("Builder.build_serialized_network")
    assert run(summing, "build", "--json") == 0
    assert not said(capsys)["built"]
    assert world.names().count("Builder.build_serialized_network") == num_builds
    assert run(summing, "verify", "--json") == 0
    assert {check["status"] for check in said(capsys)["checks"]} == {"PASSED"}
    short = ("--seconds", "0", "--warmup", "0", "--calls", "60")
    assert run(summing, "bench", *short, "--json") == 0
    (timed,) = said(capsys)["runs"]
    assert (timed["n"], timed["gpu_median"]) == (60, 1.5)  # the fake's events are 1.5 ms apart
    assert run(summing, "classify", str(summing / "golden/000.png"), "--json") == 0
    assert said(capsys)["top"][0]["class"] in {"class 0", "class 4"}  # the sign of the sum


def test_wrong_answers_fail(jetson, orin, capsys):
    """An engine that computes something else: exit 6, the figure, and the line that says so."""
    orin("10.3")
    assert run(jetson, "build") == 0
    assert run(jetson, "verify") == errors.GATE_FAILED
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAILED: SQNR ")


@pytest.mark.parametrize("command", ["check", "build", "verify", "bench"])
def test_a_wrong_version_in_the_manifest_is_refused(summing, orin, reseal, command, capsys):
    """The bundle says 8.5.2 to 8.6.2, the device has 10.3: both are said, and what to do."""
    orin("10.3")
    record = json.loads((summing / manifest.FILE).read_text(encoding="utf-8"))
    reseal(summing, target={**record["target"], "tensorrt": ["8.5.2", "8.6.2"]})
    assert run(summing, command) == errors.BAD_INPUT
    text = "".join(capsys.readouterr())
    assert "this bundle is for TensorRT 8.5.2 to 8.6.2, here is 10.3" in text
    assert "fix: make a bundle for this device" in text


def test_another_release_builds_anew_in_its_place(summing, orin):
    """An engine of another TensorRT is not opened; the new one has the name that servers know.

    Timings of kernels are kept for each TensorRT, which refuses those of another.
    """
    orin("10.3")
    assert run(summing, "build") == 0
    plan = summing / "engine/model.engine"
    first = plan.read_bytes()
    orin("10.13")
    assert run(summing, "verify") == errors.BAD_INPUT  # nothing built for this one yet
    assert run(summing, "build") == 0
    assert plan.read_bytes() != first
    assert [path.name for path in sorted((summing / "engine").glob("*.engine*"))] == [
        "model.engine", "model.engine.json",
    ]  # fmt: skip
    readme = (summing / "serving/README.md").read_text(encoding="utf-8")
    assert readme.count("cp engine/model.engine ") == 1
    caches = {path.name for path in plan.parent.glob("timing.cache-*") if path.suffix != ".lock"}
    assert caches == {"timing.cache-Orin-8.7-10.3.0", "timing.cache-Orin-8.7-10.13.3.9"}


def test_an_engine_that_fails_to_run_is_two_lines(summing, orin, capsys):
    """What goes wrong while it runs, such as a lack of memory, is said like any other refusal."""
    orin("10.3")
    assert run(summing, "build") == 0
    orin("10.3", executes=False)
    for command in ("verify", "bench"):
        assert run(summing, command) == errors.BAD_INPUT
        error, fix = capsys.readouterr().err.splitlines()[-2:]
        assert error.startswith("error: TensorRT cannot run the plan: ")
        assert "illegal memory access" in error
        assert fix.startswith("fix: ")


def test_a_damaged_engine_is_built_again(summing, orin, capsys):
    """A plan that does not match its facts is no engine: verify says build, build builds."""
    orin("10.3")
    assert run(summing, "build") == 0
    (plan,) = (summing / "engine").glob("*.engine")
    plan.write_bytes(plan.read_bytes()[:-1])
    assert run(summing, "verify") == errors.BAD_INPUT
    assert "python3 device.py build" in capsys.readouterr().err
    assert run(summing, "build") == 0
    assert run(summing, "verify") == 0


def test_an_int8_engine_without_int8_is_refused(summing, orin, capsys):
    """The fake's only layer is float: exit 5 and no engine; with --accept-float a warning."""
    orin("10.3", kernel="FP32")
    assert run(summing, "build") == errors.BUILD_FAILED
    error, fix = capsys.readouterr().err.splitlines()[-2:]
    assert "none of the layers that TensorRT lists multiplies in int8" in error
    assert "--accept-float" in fix
    assert not (summing / "engine/model.engine").exists()
    assert run(summing, "build", "--accept-float") == 0
    assert "warning: int8 was asked for: none of the layers" in capsys.readouterr().out
    assert run(summing, "build") == 0  # what was accepted once is there
    assert capsys.readouterr().out.startswith("unchanged ")


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        ({"parses": False}, errors.BUILD_FAILED, "TensorRT refused"),
        ({"problem": "Error Code 2: OutOfMemory (no memory for tactic)"}, errors.BUILD_FAILED,
         "fix: free memory"),
    ],
    ids=["parser", "memory"],
)  # fmt: skip
def test_a_refused_build_is_two_lines(summing, orin, facts, code, words, capsys):
    """The library's reason and a fix; nothing is left that looks like an engine."""
    orin("10.3", **facts)
    assert run(summing, "build") == code
    assert words in capsys.readouterr().err
    assert not list((summing / "engine").glob("*.engine*"))


def test_no_driver_is_said(summing, orin, monkeypatch, capsys):
    """In a container without the runtime: exit 4 and the flag that is missing."""
    orin("10.3")
    monkeypatch.setattr(_cuda, "driver_version", lambda: 0)
    assert run(summing, "build") == errors.LIBRARY_MISSING
    assert "--runtime nvidia" in capsys.readouterr().err


def test_no_bindings_and_no_trtexec(summing, monkeypatch, capsys):
    """Neither: exit 4, and the package that has the bindings."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert run(summing, "build") == errors.LIBRARY_MISSING
    assert "python3-libnvinfer" in capsys.readouterr().err


def test_the_cache_gets_the_header_of_the_library(artifacts, orin, tmp_path, capsys):
    """Implicit int8: TensorRT reads the bundle's scales under the first line it accepts."""
    import dataclasses

    from edge_inception.bundle.make import BundleOptions, make_bundle

    plain = dataclasses.replace(
        artifacts.graphs[1], details=structs.replace(artifacts.graphs[1].details, typing="implicit")
    )
    cache = tmp_path / "calibration.cache"
    cache.write_text("TRT-8502-EntropyCalibration2\ninput: 3d010204\n", encoding="ascii")
    made = make_bundle(
        dataclasses.replace(artifacts, graphs=(plain,), calibration_cache=cache),
        BundleOptions(target="orin-nx-16gb", dla_core=1),
        tmp_path,
    )
    world = orin("10.3", num_dla_cores=2)
    assert run(made.folder, "build") == 0
    release = fake_tensorrt.surface("10.3")["version"]
    wanted = f"{_inspection.cache_header(release)}\ninput: 3d010204\n"
    assert world.values("the builder reads the cache") == [(wanted.encode(),)]
    assert world.values("IBuilderConfig.DLA_core=") == [(1,)]
    assert "warning: a DLA core was asked for, and no part of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "header"),
    [("8.2.1.8", "8201"), ("8.5.2", "8502"), ("8.6.2.3", "8602"), ("10.3.0.30", "100300")],
)
def test_headers_of_published_caches(version, header):
    """NV_TENSORRT_VERSION as NVIDIA's own caches carry it."""
    assert _inspection.cache_header(version) == f"TRT-{header}-EntropyCalibration2"


FAKE_TRTEXEC = """#!/bin/sh
echo "$@" >> "$LOG"
for word; do case $word in
  --saveEngine=*) echo plan > "${word#*=}" ;;
  --exportTimes=*) cat "$TIMES" > "${word#*=}" ;;
  --fail) exit 1 ;;
esac; done
"""


@pytest.fixture
def trtexec(tmp_path, monkeypatch):
    """A shell script for trtexec on a board with TensorRT 8.5.2 and no Python bindings."""
    tool = tmp_path / "trtexec"
    tool.write_text(FAKE_TRTEXEC, encoding="utf-8")
    tool.chmod(0o755)
    times = [{"latencyMs": value, "computeMs": value / 2} for value in (2.0, 4.0, 3.0)]
    (tmp_path / "times.json").write_text(json.dumps(times), encoding="utf-8")
    for name, value in (("TRTEXEC", tool), ("LOG", tmp_path / "log")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TIMES", str(tmp_path / "times.json"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    read = functools.partial(jetson_board.read_board)
    monkeypatch.setattr(
        jetson_board, "read_board", lambda folder: read(folder)._replace(tensorrt="8.5.2")
    )
    return tmp_path / "log"


def test_trtexec_builds_and_benches(summing, trtexec, capsys):
    """Without bindings build.sh runs with the flags of 8.5, and its times become the record."""
    assert run(summing, "build") == 0
    assert "using" in capsys.readouterr().err
    (line,) = trtexec.read_text(encoding="utf-8").splitlines()
    assert f"--onnx={summing}/graphs/weak.onnx" in line
    assert "--int8" in line
    assert "--memPoolSize=workspace:256" in line
    assert "--stronglyTyped" not in line
    assert run(summing, "bench", "--json", "--calls", "50", "--warmup", "0.5") == 0
    record = said(capsys)
    line = trtexec.read_text(encoding="utf-8").splitlines()[-1]
    for flag in ("--warmUp=500", "--duration=5", "--iterations=50", "--useSpinWait"):
        assert flag in line.split()
    how = record["protocol"]
    assert (how["runner"], how["metric"]) == ("trtexec", "h2d_compute_d2h_ms")
    assert (how["spin_wait"], how["cuda_graph"], how["calls"]) == (True, False, 50)
    assert record["runs"][0]["median"] == 3.0
    assert record["runs"][0]["gpu_median"] == 1.5


def test_a_failing_trtexec_names_a_whole_command(summing, trtexec, capsys):
    """The fix is a command that build.sh takes as it stands."""
    tool = trtexec.parent / "trtexec"
    tool.write_text("#!/bin/sh\necho '[E] no such tactic' >&2; exit 1\n", encoding="utf-8")
    assert run(summing, "build") == errors.BUILD_FAILED
    error, fix = capsys.readouterr().err.splitlines()[-2:]
    assert "no such tactic" in error
    words = fix.partition(": sh ")[2].split()
    assert words == ["build.sh", "build", str(summing / "graphs/weak.onnx"), "my.engine"]


@pytest.mark.usefixtures("trtexec")
def test_trtexec_gives_no_answers(summing, capsys):
    """verify says that it needs the bindings, and how to get them."""
    assert run(summing, "build") == 0
    capsys.readouterr()
    assert run(summing, "verify") == errors.LIBRARY_MISSING
    assert "python3-libnvinfer" in capsys.readouterr().err
