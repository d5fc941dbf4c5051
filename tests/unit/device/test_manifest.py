"""A bundle that is not what was made is refused: any file, the manifest, code that was added."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_inception.device import device, errors, manifest
from edge_inception.device.errors import Refusal


def every_file(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_whole_bundle_opens(cpu_bundle):
    """Untouched, it opens, and its manifest lists every file but itself."""
    bundle = manifest.open_bundle(str(cpu_bundle))
    assert {*bundle.record.files, manifest.FILE} == {*every_file(cpu_bundle)}


def test_any_changed_file_is_refused_by_name(copied):
    """One bit of any file, also of the manifest: refused, the file named, the fix said."""
    names = every_file(copied)
    assert len(names) > 25
    for name in names:
        path = copied / name
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(Refusal) as caught:
            manifest.open_bundle(str(copied))
        assert name in str(caught.value), name
        assert "edge-inception bundle" in caught.value.fix
        path.write_bytes(content)
    manifest.open_bundle(str(copied))


@pytest.mark.parametrize("name", ["graphs/strong.onnx", "device.py", "golden/000.png"])
def test_a_missing_or_cut_file_is_refused(copied, name):
    """A copy that broke off: the file is named, with its size or that it is not there."""
    path = copied / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(Refusal, match=f"{name} was changed: .* bytes, the manifest lists"):
        manifest.open_bundle(str(copied))
    path.unlink()
    with pytest.raises(Refusal, match=f"{name} of the bundle cannot be read: No such file"):
        manifest.open_bundle(str(copied))


def test_what_is_no_bundle_is_refused(tmp_path, copied):
    """No manifest, no JSON, another file's JSON, a later schema: a line for each."""
    with pytest.raises(Refusal, match="cannot read") as caught:
        manifest.open_bundle(str(tmp_path / "absent"))
    assert "tar xzf" in caught.value.fix
    path = copied / manifest.FILE
    for text, words in (
        ("{", "is not JSON"),
        ("[]", "not the manifest of a bundle"),
        ('{"schema": "edge-inception/bundle", "schema_version": 2}', "schema version 2"),
        ('{"schema": "edge-inception/bundle", "schema_version": 1}', "lacks build, files"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(Refusal, match=words):
            manifest.open_bundle(str(copied))


@pytest.mark.parametrize(
    ("version", "typing"),
    [("8.5.2.2", "weak"), ("8.6.2", "weak"), ("10.3.0.30", "strong"), ("10.16.2.10", "strong")],
)
def test_the_graph_follows_the_version(jetson_bundle, version, typing):
    """Weak typing for TensorRT 8, strong from 10 on."""
    bundle = manifest.open_bundle(str(jetson_bundle))
    assert manifest.require_graph(bundle, version).typing == typing


@pytest.mark.parametrize("version", ["8.2.1.8", "8.5.1", "10.16.3", "11.0.0"])
def test_a_version_out_of_range_is_refused(jetson_bundle, version):
    """Older than the oldest JetPack of the device, or newer than the newest."""
    bundle = manifest.open_bundle(str(jetson_bundle))
    with pytest.raises(Refusal, match=r"for TensorRT 8\.5\.2 to 10\.16\.2") as caught:
        manifest.require_tensorrt(bundle, version)
    assert version in str(caught.value)
    assert "--target NAME" in caught.value.fix


@pytest.mark.parametrize(
    ("version", "oldest", "newest", "is_in"),
    [
        ("10.3.0.30", "10.3", "10.3", True),
        ("10.3.0.30", "10.3.1", "", False),
        ("8.6", "8.5.2", "8.6.2", True),
        ("10.10.1", "10.3", "10.9", False),
        ("11.4.1", "11.4.1", "", True),
    ],
)
def test_versions_compare_as_numbers(version, oldest, newest, is_in):
    """Not as text: 10.10 is later than 10.9; bounds count to their own number of places."""
    assert manifest.is_version_within(version, oldest, newest) is is_in


def test_errors_of_the_program_are_two_lines(copied, capsys):
    """A damaged bundle: exit 3, one line of error, one of fix; as JSON on stdout too."""
    (copied / "labels.txt").write_text("x", encoding="utf-8")
    assert device.main(["verify", "--json", "--bundle", str(copied)]) == errors.BAD_INPUT
    out, err = capsys.readouterr()
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error", "fix"]
    assert json.loads(out)["status"] == "ERROR"


def test_no_command_is_usage(capsys):
    """Without a command the program says what there is, with the exit code of usage."""
    assert device.main([]) == 2
    assert "verify" in capsys.readouterr().out


def test_an_unknown_library_is_refused(copied, reseal, capsys):
    """A manifest of a later edge-inception may name a library that this program lacks."""
    record = json.loads((copied / manifest.FILE).read_text(encoding="utf-8"))
    reseal(copied, target={**record["target"], "backend": "hailo"})
    assert device.main(["check", "--bundle", str(copied)]) == errors.BAD_INPUT
    assert "engine library 'hailo'" in capsys.readouterr().err


def test_an_archive_that_broke_off_cannot_pass(cpu_bundle, tmp_path, unpack):
    """A cut .tar.gz does not unpack whole, and what it left is no bundle."""
    archive = cpu_bundle.with_name(cpu_bundle.name + ".tar.gz")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(subprocess.CalledProcessError):
        unpack(cut, tmp_path)
    with pytest.raises(Refusal):
        manifest.open_bundle(str(tmp_path / cpu_bundle.name))
    shutil.rmtree(tmp_path / cpu_bundle.name)
    unpack(archive, tmp_path)
    manifest.open_bundle(str(tmp_path / cpu_bundle.name))
