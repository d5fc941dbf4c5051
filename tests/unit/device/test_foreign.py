"""What was added to a bundle never runs, and is refused wherever it lies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_inception.device import device, errors, manifest
from edge_inception.device.errors import Refusal

# Says that it ran, and otherwise is as good as an empty module.
PLANT = "open({!r}, 'w').close()\n"


def run(bundle: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The program as users start it, in the bundle's folder and without our package."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=bundle,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "name",
    [
        *("argparse.py", "os.py", "hashlib.py", "importlib/abc.py", "json/__init__.py"),
        *("numpy.py", "cryptography/__init__.py", "PIL/__init__.py", "typing.so"),
        *("edge_inception/__init__.py", "engine/json.py", "records/__init__.py"),
    ],
)
def test_a_planted_module_does_not_run(copied, tmp_path, name):
    """A library's name or our own beside device.py: it is not imported, and its place is said."""
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_text(PLANT.format(str(tmp_path / "ran")), encoding="utf-8")
    done = run(copied, "device.py", "check")
    assert not (tmp_path / "ran").exists()
    assert done.returncode == errors.BAD_INPUT
    error, fix = done.stderr.splitlines()
    place = name if name.startswith("engine/") else name.split("/")[0]
    assert error == f"error: {place} is not a file that the manifest lists"
    assert fix.startswith("fix: move it out of the bundle")


def test_a_link_into_the_engines_does_not_run(copied, tmp_path):
    """PIL in the folder of what the device builds, and a link to it beside device.py."""
    (copied / "engine/PIL").mkdir(parents=True)
    text = PLANT.format(str(tmp_path / "ran"))
    (copied / "engine/PIL/__init__.py").write_text(text, encoding="utf-8")
    (copied / "PIL").symlink_to("engine/PIL")
    done = run(copied, "device.py", "check")
    assert not (tmp_path / "ran").exists()
    assert done.returncode == errors.BAD_INPUT
    assert "error: PIL is a link" in done.stderr


@pytest.mark.parametrize("name", ["records.py", "commands.py", "_openvino.py"])
def test_a_changed_file_of_the_program_does_not_run(copied, tmp_path, name):
    """Each file is run as the bytes whose hash the manifest lists, or not at all."""
    text = (copied / name).read_text(encoding="utf-8")
    (copied / name).write_text(text + PLANT.format(str(tmp_path / "ran")), encoding="utf-8")
    done = run(copied, "device.py", "build")
    assert not (tmp_path / "ran").exists()
    assert done.returncode == errors.BAD_INPUT
    error, fix = done.stderr.splitlines()
    assert error.startswith(f"error: {name} was changed")
    assert fix.startswith("fix: copy the bundle")


def test_bytecode_of_another_file_does_not_run(copied, tmp_path):
    """A planted cache of records.py, which Python would take without a look at the source."""
    text = PLANT.format(str(tmp_path / "ran"))
    (tmp_path / "records.py").write_text(text, encoding="utf-8")
    code = "import py_compile as p; p.compile('records.py', invalidation_mode=p.PycInvalidationMode"
    assert run(tmp_path, "-c", code + ".UNCHECKED_HASH)").returncode == 0
    (tmp_path / "__pycache__").rename(copied / "__pycache__")
    (tmp_path / "records.py").unlink()
    done = run(copied, "device.py", "check")
    assert not (tmp_path / "ran").exists()
    assert "__pycache__ is not a file that the manifest lists" in done.stderr


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": []}', '{"files": {"x": 1}}', "[" * 9999]
)
def test_a_manifest_that_is_none(copied, text):
    """Two lines, from the file that runs before anything else could be trusted."""
    (copied / manifest.FILE).write_text(text, encoding="utf-8")
    done = run(copied, "device.py", "check")
    assert done.returncode == errors.BAD_INPUT
    error, fix = done.stderr.splitlines()
    assert "manifest.json was changed" in error
    assert fix.startswith("fix: copy the bundle")


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "golden/x.png", "engine/other.blob", "engine/model.blob.py", "results/x.py"),
        *("results/a/x.json", "results/.json", "serving/deepstream/model.engine", "engine/x/y"),
    ],
)
def test_what_is_not_listed_is_refused(copied, name):
    """Also data, and also where the device writes: only files that device.py itself names."""
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).touch()
    with pytest.raises(Refusal, match="is not a file that the manifest lists"):
        manifest.open_bundle(str(copied))


@pytest.mark.parametrize(
    "name", ["labels.txt", "manifest.json", "golden", "engine", "engine/model.blob", "results", "x"]
)
def test_links_are_refused(copied, tmp_path, name):
    """Even a link to the very same content, since what it leads to can change after the check."""
    away, place = tmp_path / "away", copied / name
    if place.exists():
        place.rename(away)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(away)
    with pytest.raises(Refusal, match=f"{name} is a link"):
        manifest.open_bundle(str(copied))


@pytest.mark.parametrize("name", ["labels.txt", "engine/model.blob"])
def test_pipes_are_refused(copied, name):
    """A FIFO is not opened, which would wait for ever."""
    (copied / name).unlink(missing_ok=True)
    (copied / name).parent.mkdir(exist_ok=True)
    os.mkfifo(copied / name)
    with pytest.raises(Refusal, match=f"{name} is not a file"):
        manifest.open_bundle(str(copied))


def test_what_the_device_writes_is_accepted(copied, monkeypatch, capsys):
    """An engine, leftovers of a build that was killed, a timing cache, records in results/."""
    flags = ["--bundle", str(copied), "--threads", "1"]
    assert device.main(["build", *flags]) == 0
    for name in ("model.blob.partial", "model.engine.probe", "timing.cache-10.3.0-8.7-Orin.lock"):
        (copied / "engine" / name).touch()
    monkeypatch.chdir(copied)
    assert device.main(["verify", *flags, "--out", "results/verify.json"]) == 0
    assert device.main(["verify", *flags, "--out", "../verify.json"]) == 0
    capsys.readouterr()
    for place in ("verify.json", "engine/model.json", "results/verify.txt"):
        assert device.main(["verify", *flags, "--out", place]) == errors.BAD_INPUT
        assert "results/NAME.json" in capsys.readouterr().err
        assert not Path(place).exists()
    assert device.main(["check", *flags]) == 0


def test_a_bundle_behind_a_link_is_opened(copied, tmp_path):
    """As deploy's link to the newest version: what counts is what lies inside."""
    (tmp_path / "current").symlink_to(copied)
    done = run(tmp_path, "current/device.py", "check")
    assert done.stdout.splitlines()[-1] == "PASSED: ready to build", done.stderr
