"""The wheel and a bundle in an emulated arm64 Debian answer as they do on x86-64.

`make test-arm64`, as root. qemu runs the real aarch64 wheels, instruction by instruction: it proves
code and packages, and nothing about speed. It is not a Jetson.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from edge_inception import inference
from edge_inception.cli import main

pytestmark = pytest.mark.arm64

HERE = Path(__file__).parents[2]
CACHE = HERE / "build" / "arm64"
ROOT = CACHE / "root"
QEMU = "/usr/bin/qemu-aarch64-static"  # in the root
PYTHON = "/usr/bin/python3"  # of Debian 12: 3.11
PACKAGES = ROOT / "usr" / "local" / "lib" / "python3.11" / "dist-packages"
WORK = "opt/work"
CLASSES = ("bright", "dark")
# Of probabilities. fp32 differs by the order of sums (2e-7 measured). OpenVINO for aarch64 computes
# the Gemm in int8 and each Conv in floats between its Q/DQ, so a tie may round the other way:
# 0.019 measured, where int8 itself is 0.15 from fp32.
ATOL = {"fp32": 1e-4, "int8": 0.05}
ABSENT = ("torch", "onnx", "onnxruntime", "onnxscript", "onnxsim", "safetensors")
# Debian 12 has glibc 2.36; pip takes only the tags that it is given.
TAGS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64", "manylinux_2_35_aarch64")
# No binfmt is registered: qemu is named, and nothing inside can start an arm64 program itself.
# OpenVINO waits for ever where /proc and /sys are empty.
ENTER = """
set -e
for name in proc sys dev; do mount --rbind "/$name" "$0/$name"; done
exec chroot "$0" "$@"
"""
FACTS = f"""
import importlib.util, json, platform, numpy, openvino
print(json.dumps({{
    "machine": platform.machine(),
    "python": platform.python_version(),
    "numpy": numpy.__version__,
    "openvino": openvino.__version__,
    "present": [name for name in {ABSENT} if importlib.util.find_spec(name)],
}}))
"""

Say = Callable[[str], None]


def _call(*command: object, timeout_s: int = 600) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True, text=True, check=False, timeout=timeout_s, cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"},
    )  # fmt: skip
    sys.stdout.write(done.stdout + done.stderr)  # pytest shows it of a test that fails
    done.check_returncode()
    return done.stdout


def _require_tools() -> None:
    tools = ("debootstrap", "dpkg-deb", "unshare", "qemu-aarch64-static")
    if missing := [tool for tool in tools if not shutil.which(tool)]:
        pytest.fail(f"no {', '.join(missing)}: apt-get install debootstrap qemu-user-static")
    if os.geteuid():
        pytest.fail("chroot and mount need root: sudo make test-arm64")


def _make_root() -> None:
    """Debian 12 with python3, unpacked and not configured: that would need binfmt."""
    ready = CACHE / "root.ready"
    if ready.exists():
        return
    shutil.rmtree(ROOT, ignore_errors=True)
    debs = CACHE / "debs"  # what an interrupted run has downloaded
    debs.mkdir(parents=True, exist_ok=True)
    _call(
        *("debootstrap", "--foreign", "--variant=minbase", "--arch=arm64", "--include=python3"),
        *(f"--cache-dir={debs}", "bookworm", ROOT, "http://deb.debian.org/debian"),
    )
    for deb in sorted(debs.glob("*.deb")):
        _call("dpkg-deb", "--extract", deb, ROOT)
    ready.touch()


def _install(wheel: Path) -> None:
    """The wheel and what it asks for, as pip finds it for aarch64; no torch."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    _call(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"),
        *("--target", PACKAGES, "--only-binary=:all:", "--python-version", "3.11"),
        *(f"--platform={tag}" for tag in TAGS),
        *("--constraint", HERE / ".ci" / "constraints.txt", f"{wheel}[cpu]"),
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The empty folder /opt/work of the arm64 root, with this checkout's wheel installed there."""
    _require_tools()
    _make_root()
    shutil.copy(str(shutil.which("qemu-aarch64-static")), ROOT / QEMU[1:])
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, HERE)
    _call(*build)
    (wheel,) = folder.glob("*.whl")
    _install(wheel)
    made = ROOT / WORK
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    return made


def inside(*arguments: object) -> str:
    """What python3 of the arm64 root prints; CalledProcessError where it does not exit 0."""
    return _call("unshare", "--mount", "sh", "-c", ENTER, ROOT, QEMU, PYTHON, *arguments)


@pytest.fixture
def say(capsys) -> Say:
    """Print a line that is seen although the test passes."""

    def line(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}")

    return line


@pytest.fixture(scope="module")
def photos(workshop, work) -> list[Path]:
    """Five photos of each class, and copies in the root."""
    folders = [workshop.validation / name for name in CLASSES]
    chosen = [path for folder in folders for path in sorted(folder.iterdir())[:5]]
    (work / "photos").mkdir()
    for path in chosen:
        shutil.copy(path, work / "photos")
    return chosen


@pytest.fixture
def compare(photos, built, say) -> Callable[[str, str, str, float], None]:
    """``compare(what, printed, engine, atol)``: lines of JSON against that engine here."""

    def check(what: str, printed: str, engine: str, atol: float) -> None:
        found = _tops(printed)
        wanted = [dict(one.top) for one in inference.classify(built / engine, photos)]
        worst = _farthest(found, wanted)
        say(f"{what}: {len(found)} photos, probabilities within {worst:.2g} of x86-64's")
        assert [_best(one) for one in found] == [_best(one) for one in wanted]
        assert worst <= atol

    return check


def _names(photos: Iterable[Path]) -> list[str]:
    return [f"/{WORK}/photos/{path.name}" for path in photos]


def _tops(printed: str) -> list[dict[str, float]]:
    """Probability by class of each photo, from lines of JSON."""
    records = [json.loads(line) for line in printed.splitlines()]
    return [{entry["class"]: entry["score"] for entry in record["top"]} for record in records]


def _best(probabilities: dict[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


def _farthest(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> float:
    pairs = zip(found, wanted, strict=True)
    return max(abs(one[name] - other[name]) for one, other in pairs for name in CLASSES)


@pytest.mark.usefixtures("work")
def test_the_root_is_arm64_and_bare(say):
    """An aarch64 Python with the wheel and OpenVINO; nothing of torch or onnx can be imported."""
    facts = json.loads(inside("-c", FACTS))
    qemu = _call("qemu-aarch64-static", "--version").splitlines()[0]
    say(f"{qemu} on {os.uname().machine}: {facts}")
    assert facts["machine"] == "aarch64"
    assert facts["present"] == []


def test_a_bundle_builds_and_proves_itself(work, built, workshop, photos, tmp_path, compare):
    """check, build, verify and classify of the bundle's own program, from the typed graph on."""
    made = ["bundle", "--from", str(built), "--recipe", str(workshop.recipe), "--golden", "4"]
    assert main.run([*made, "--target", "cpu", "--out", str(tmp_path)]) == 0
    _call("tar", "xzf", tmp_path / "inception_v4-cpu.tar.gz", "-C", work)
    device = f"/{WORK}/inception_v4-cpu/device.py"
    assert inside(device, "check").splitlines()[-1] == "PASSED: ready to build"
    said = inside(device, "build")
    assert said.startswith("built ")
    record = json.loads(inside(device, "verify", "--json"))
    assert record["status"] == "PASSED"
    assert {check["status"] for check in record["checks"]} == {"PASSED"}
    printed = inside(device, "classify", *_names(photos), "--json")
    compare(f"device.py, {said.strip()}", printed, "model.int8.cpu.blob", ATOL["int8"])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_package_compiles_and_classifies(work, built, photos, compare, precision):
    """``edge-inception compile`` and ``classify`` there, from the same typed graph."""
    for name in (f"model.{precision}.onnx", f"model.{precision}.onnx.json"):
        shutil.copy(built / name, work)
    graph, engine = f"/{WORK}/model.{precision}.onnx", f"/{WORK}/{precision}.blob"
    command = ("-m", "edge_inception")
    inside(*command, "compile", graph, "--target", "cpu", "--out", engine)
    printed = inside(*command, "classify", "--engine", engine, *_names(photos), "--json")
    what = f"edge-inception classify {precision}"
    compare(what, printed, f"model.{precision}.cpu.blob", ATOL[precision])


def test_an_engine_of_another_machine_is_refused(work, built, photos):
    """A blob compiled on x86-64 does not load there: one error line, and the command to run."""
    for name in ("model.fp32.cpu.blob", "model.fp32.cpu.blob.json"):
        shutil.copy(built / name, work)
    command = ("-m", "edge_inception", "classify", "--engine", f"/{WORK}/model.fp32.cpu.blob")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        inside(*command, *_names(photos[:1]))
    assert refused.value.returncode == 3
    assert "x86_64" in refused.value.stderr
    assert "edge-inception compile" in refused.value.stderr


def test_int8_and_fp32_are_farther_apart_than_the_tolerance(built, photos):
    """What ATOL calls the same would tell the int8 graph from the fp32 graph."""
    found, wanted = (
        [dict(one.top) for one in inference.classify(built / f"model.{name}.cpu.blob", photos)]
        for name in ("int8", "fp32")
    )
    assert _farthest(found, wanted) > ATOL["int8"]
