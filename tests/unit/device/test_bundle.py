"""What a bundle promises on the host: its bytes, its place, its signature, its golden images."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from edge_inception import inference
from edge_inception.bundle import archive, golden
from edge_inception.bundle.make import BundleOptions, make_bundle
from edge_inception.data import images
from edge_inception.device import device, errors, manifest, signature
from edge_inception.errors import InputError
from edge_inception.validate.accuracy import load_baseline

CPU = BundleOptions(target="cpu", num_golden=3)
# Counts how often the manifest is opened, by Python's own audit events.
COUNT = """
import atexit, runpy, sys
opened = []
sys.addaudithook(lambda event, words: opened.append(words[0]) if event == "open" else None)
atexit.register(lambda: print(sum(str(name).endswith("manifest.json") for name in opened)))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def strong(artifacts):
    return dataclasses.replace(artifacts, graphs=artifacts.graphs[:1])


def test_same_content_same_bytes(strong, tmp_path):
    """Two bundles of one build are equal, archive and all, wherever and whenever they are made."""
    first, second = (make_bundle(strong, CPU, tmp_path / name) for name in "ab")
    assert first.archive.read_bytes() == second.archive.read_bytes()
    assert first.version == second.version
    with tarfile.open(first.archive) as packed:
        members = packed.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in members} == {(0, 0, 0, 0o644, "")}
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {m.name for m in members} == {
        f"tiny-cpu/{p.relative_to(first.folder).as_posix()}"
        for p in first.folder.rglob("*")
        if p.is_file()
    }


def test_again_is_unchanged_and_another_needs_force(strong, tmp_path):
    """The same one again is said to be there; another of the name is refused, or replaces it."""
    assert make_bundle(strong, CPU, tmp_path).is_new
    assert not make_bundle(strong, CPU, tmp_path).is_new
    other = dataclasses.replace(CPU, num_golden=2)
    with pytest.raises(InputError, match="is another bundle") as caught:
        make_bundle(strong, other, tmp_path)
    assert "--force" in caught.value.hint
    assert manifest.open_bundle(str(tmp_path / "tiny-cpu")).record.golden.count == 3
    assert make_bundle(strong, dataclasses.replace(other, force=True), tmp_path).is_new
    assert manifest.open_bundle(str(tmp_path / "tiny-cpu")).record.golden.count == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny-cpu", "tiny-cpu.tar.gz"]


def test_what_the_device_built_stays_out(strong, tmp_path):
    """Engines and records in the folder are no part of the bundle, nor of its archive."""
    made = make_bundle(strong, CPU, tmp_path)
    before = made.archive.read_bytes()
    assert device.main(["build", "--bundle", str(made.folder), "--threads", "1"]) == 0
    assert (made.folder / "engine").is_dir()
    (made.folder / "results").mkdir()
    (made.folder / "results/bench.json").write_text("{}", encoding="utf-8")
    assert not make_bundle(strong, CPU, tmp_path).is_new
    assert made.archive.read_bytes() == before


def test_another_choice_is_another_version(artifacts, tmp_path):
    """Versions lie beside each other on a device: one that builds otherwise is not the same."""
    options = BundleOptions(target="orin-nano-8gb", num_golden=3)
    other = dataclasses.replace(options, tensorrt=("10.3.0", "10.3.0"))
    first, second = (
        make_bundle(artifacts, each, tmp_path / name)
        for each, name in ((options, "a"), (other, "b"))
    )
    assert first.version != second.version


def test_the_longest_name_fits_the_archive(strong, tmp_path, unpack):
    """100 characters, which a unit's file name makes longer."""
    made = make_bundle(strong, dataclasses.replace(CPU, name="n" * 100), tmp_path)
    unpack(made.archive, tmp_path / "there")
    manifest.open_bundle(str(tmp_path / "there" / made.folder.name))


@pytest.mark.parametrize("failing", ["write", "manifest", "publish"])
def test_a_full_disk_leaves_nothing(strong, tmp_path, monkeypatch, failing):
    """No space at any point: exit 3 in our words, and neither folder nor remains."""
    from edge_inception.bundle import make

    def refuse(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    where = {
        "write": (make.shutil, "copyfile"),
        "manifest": (make._Content, "manifest"),
        "publish": (archive, "publish_folder"),
    }[failing]
    monkeypatch.setattr(*where, refuse)
    with pytest.raises(InputError, match=r"disk full while writing .*tiny-cpu"):
        make_bundle(strong, CPU, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_made(strong, tmp_path):
    """A file where the output folder should be: said, not raised as it comes."""
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        make_bundle(strong, CPU, tmp_path / "out")


def test_only_one_build_and_not_a_failed_one(strong, artifacts, tmp_path, publish_report):
    """Engine, baseline, graph and report must be of one run, and its gates met."""
    failed = publish_report(
        tmp_path / "r.json", strong.validated_engines, strong.baseline, "FAILED"
    )
    with pytest.raises(InputError, match="has the status FAILED") as caught:
        make_bundle(dataclasses.replace(strong, report=failed), CPU, tmp_path)
    assert "--keep-failed" in caught.value.hint
    kept = dataclasses.replace(CPU, keep_failed=True)
    made = make_bundle(dataclasses.replace(strong, report=failed), kept, tmp_path)
    assert manifest.open_bundle(str(made.folder)).record.verdict == "FAILED"
    for change, words in (
        ({"engine": dataclasses.replace(strong.engine, sha256="0")}, "is not an engine that"),
        ({"baseline": dataclasses.replace(strong.baseline, sha256="0")}, "not the baseline of"),
        (
            {"graphs": (dataclasses.replace(artifacts.graphs[0], sha256="0"),)},
            "no engine that .* judged",
        ),
    ):
        with pytest.raises(InputError, match=words):
            make_bundle(dataclasses.replace(strong, **change), CPU, tmp_path / "other")


def test_photos_that_the_baseline_does_not_know(strong, tmp_path):
    """Golden images need a baseline: other photos are refused, and --validation is named."""
    items = tuple(dataclasses.replace(i, sha256="0" * 64) for i in strong.images.items)
    others = dataclasses.replace(strong.images, items=items)
    with pytest.raises(InputError, match="none of the 12 images") as caught:
        make_bundle(dataclasses.replace(strong, images=others), CPU, tmp_path)
    assert "--validation" in caught.value.hint


def test_golden_answers_are_the_engines(strong):
    """Recorded are the validated engine's own answers and the baseline's, of sure photos."""
    arrays = load_baseline(strong.baseline)
    made = golden.record_golden(strong.engine, arrays, strong.images, 3)
    preprocess = strong.engine.details.preprocess
    again = np.stack([images.load_image(item.path, preprocess) for item in made.items])
    np.testing.assert_array_equal(made.arrays.images, again)
    with inference.open_engine(strong.engine.path) as session:
        np.testing.assert_array_equal(made.arrays.validated, session.run(again))
    rows = [arrays.sha256.index(item.sha256) for item in made.items]
    np.testing.assert_array_equal(made.arrays.baseline, arrays.logits[rows])
    assert (made.arrays.validated.argmax(1) == made.arrays.baseline.argmax(1)).all()


def test_limits_follow_from_the_build():
    """int8 at 20 dB of the baseline: 20 to the validated engine, 17 to the baseline."""
    exact = np.array([[3.0, -3.0], [4.0, -4.0]], np.float32)
    limits = golden._tolerance(exact, exact * np.float32(0.9), "logits", "int8")
    assert limits.min_sqnr_db == pytest.approx(20, abs=0.01)
    assert limits.min_baseline_sqnr_db == pytest.approx(17, abs=0.01)
    plain = golden._tolerance(exact, exact, "logits", "fp32")
    assert plain.min_sqnr_db == plain.min_baseline_sqnr_db == 40.0


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """An Ed25519 key as openssl makes it."""
    pytest.importorskip("cryptography")
    path = tmp_path_factory.mktemp("key") / "key.pem"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture
def signed(strong, key, tmp_path):
    return make_bundle(strong, dataclasses.replace(CPU, key=key), tmp_path / "out")


def test_a_signature_is_checked_with_the_key(signed, capsys):
    """With the maker's key it is said; without, that nothing was checked."""
    make = manifest.open_bundle(str(signed.folder))
    public = str(signed.folder) + ".pub"
    assert signature.check(make, public) == f"signed by this key: tiny-cpu {signed.version}"
    assert "not checked" in signature.check(make, None)
    assert device.main(["check", "--bundle", str(signed.folder), "--public-key", public]) == 0
    assert "signed by this key" in capsys.readouterr().err


def test_the_manifest_is_read_once(signed):
    """The bytes that name the program's files are those that are parsed, and that are signed."""
    words = ["device.py", "check", "--public-key", str(signed.folder) + ".pub"]
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *words],
        cwd=signed.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "signed by this key" in done.stderr
    assert done.stdout.splitlines()[-2:] == ["PASSED: ready to build", "1"]


def test_changes_under_a_signature_are_refused(signed, strong, tmp_path, capsys):
    """A manifest that was made right again without the key, no signature, one that is none."""
    public = str(signed.folder) + ".pub"
    path = signed.folder / manifest.FILE
    record = json.loads(path.read_text(encoding="utf-8"))
    record["name"] = "mine"
    record["version"] = manifest.compute_version(record)
    record["sha256"] = manifest.compute_digest(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    check = ["check", "--public-key", public, "--bundle"]
    assert device.main([*check, str(signed.folder)]) == errors.BAD_INPUT
    assert "not what this key signed" in capsys.readouterr().err
    unsigned = make_bundle(strong, CPU, tmp_path / "unsigned")
    assert device.main([*check, str(unsigned.folder)]) == errors.BAD_INPUT
    assert "is not signed" in capsys.readouterr().err
    (unsigned.folder / manifest.SIGNATURE).write_text("nonsense", encoding="ascii")
    assert device.main([*check, str(unsigned.folder)]) == errors.BAD_INPUT
    assert "minisign's format" in capsys.readouterr().err


def test_another_makers_key_is_refused(signed, strong, tmp_path):
    """A bundle signed by someone else's key is not this maker's."""
    other = tmp_path / "other.pem"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(other)]
    subprocess.run(command, check=True, capture_output=True)
    theirs = make_bundle(strong, dataclasses.replace(CPU, key=other), tmp_path / "theirs")
    make = manifest.open_bundle(str(theirs.folder))
    with pytest.raises(errors.Refusal, match="signed by another key"):
        signature.check(make, str(signed.folder) + ".pub")


def test_signature_files_are_read_as_strictly_as_minisign(signed):
    """A copied key under another key id, and junk in any line: refused, by minisign too."""
    make, public = manifest.open_bundle(str(signed.folder)), Path(str(signed.folder) + ".pub")
    own, path = public.read_text(encoding="ascii"), signed.folder / manifest.SIGNATURE
    text = path.read_text(encoding="ascii")
    head, key = own.splitlines()
    renamed = base64.b64decode(key)[:2] + bytes(8) + base64.b64decode(key)[10:]
    public.write_text(f"{head}\n{base64.b64encode(renamed).decode()}\n", encoding="ascii")
    with pytest.raises(errors.Refusal, match="key id differs"):
        signature.check(make, str(public))
    public.write_text(own, encoding="ascii")
    first = text.splitlines()[1]
    for before, after in (
        ("trusted comment: tiny", "junk trusted comment: tiny"),
        ("untrusted comment: ", "a comment: "),
        (first, first[:40] + "!" + first[40:]),
    ):
        path.write_text(text.replace(before, after), encoding="ascii")
        with pytest.raises(errors.Refusal, match="minisign's format"):
            signature.check(make, str(public))
        if shutil.which("minisign"):
            command = ["minisign", "-Vqm", signed.folder / manifest.FILE, "-x", path, "-p", public]
            assert subprocess.run(command, capture_output=True, check=False).returncode
    path.write_text(text, encoding="ascii")
    assert "signed by this key" in signature.check(make, str(public))


def test_a_refused_bundle_leaves_the_other_ones_key(signed, strong, tmp_path):
    """Refused because another bundle is there: its public key is still the key that signed it."""
    public, other = Path(str(signed.folder) + ".pub"), tmp_path / "other.pem"
    before = public.read_bytes()
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(other)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(InputError, match="is another bundle"):
        make_bundle(strong, dataclasses.replace(CPU, key=other), signed.folder.parent)
    assert public.read_bytes() == before


def test_a_key_that_cannot_be_used_is_refused(signed, monkeypatch, capsys):
    """Neither library nor tool: who asks for a check never gets a bundle that was not checked."""
    monkeypatch.setattr(signature, "_import_ed25519", lambda: None)
    monkeypatch.setattr(signature.shutil, "which", lambda _: None)
    flags = ["--bundle", str(signed.folder), "--public-key", str(signed.folder) + ".pub"]
    assert device.main(["check", *flags]) == errors.LIBRARY_MISSING
    error, fix = capsys.readouterr().err.splitlines()
    assert "cannot be checked: neither" in error
    assert "minisign -Vm" in fix


@pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not installed")
def test_minisign_agrees(signed, monkeypatch):
    """The tool itself accepts the signature, and refuses a changed manifest."""
    make = manifest.open_bundle(str(signed.folder))
    monkeypatch.setattr(signature, "_import_ed25519", lambda: None)
    assert "minisign" in signature.check(make, str(signed.folder) + ".pub")
    changed = make._replace(content=make.content + b" ")
    with pytest.raises(errors.Refusal, match="not what this key signed"):
        signature.check(changed, str(signed.folder) + ".pub")


def test_a_key_of_another_kind_is_refused(strong, tmp_path):
    """RSA signs no bundle; the command that makes a key is named."""
    pytest.importorskip("cryptography")
    path = tmp_path / "rsa.pem"
    command = ["openssl", "genpkey", "-algorithm", "rsa", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(InputError, match="no Ed25519 key") as caught:
        make_bundle(strong, dataclasses.replace(CPU, key=path), tmp_path)
    assert "openssl genpkey" in caught.value.hint


def test_licences_say_what_is_known(cpu_bundle):
    """Our licence in full, and that the checkpoint's is not ours to give."""
    assert "Apache License" in (cpu_bundle / "licences/edge-inception.txt").read_text()
    assert "whoever trained it" in (cpu_bundle / "licences/checkpoint.txt").read_text()


def test_the_script_has_a_command_for_each_release(jetson_bundle, monkeypatch):
    """build.sh show: the flags of each TensorRT, of docs/tensorrt.md, "trtexec", in one order."""
    script = str(jetson_bundle / "build.sh")
    wanted = {
        "8.2.1": ("weak", "--workspace=256", "--int8", "--buildOnly"),
        "8.5.2": ("weak", "--memPoolSize=workspace:256", "--int8", "--buildOnly"),
        "8.6.2": ("weak", "--memPoolSize=workspace:256", "--int8", "--skipInference"),
        "10.3.0": ("strong", "--stronglyTyped", "--memPoolSize=workspace:256", "--skipInference"),
        "11.4.1": ("strong", "--memPoolSize=workspace:256", "--skipInference"),
    }
    for version, (typing, *flags) in wanted.items():
        monkeypatch.setenv("TENSORRT_VERSION", version)
        done = subprocess.run(
            ["/bin/sh", script, "show"], capture_output=True, text=True, check=True
        )
        build, bench = done.stderr.splitlines()
        words = build.split()[2:]
        assert words[0].endswith(f"graphs/{typing}.onnx")
        assert sorted(words[2:]) == sorted(flags), version
        assert "--exportTimes=times.json" in bench
        assert ("--includeDataTransfers" in bench) == version.startswith("11")
