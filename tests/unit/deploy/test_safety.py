"""Nothing a user or a bundle writes is run by a shell or leaves its folder; over a real sshd."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest
from loopback import (
    HOME,
    make_archive,
    version_of,
    write_bundle,
    write_manifest,
)

from edge_inception.bundle import signing
from edge_inception.cli import main
from edge_inception.deploy.address import parse_address
from edge_inception.errors import InputError

CANARY = "edge-inception-canary"  # a command would make it where a login starts


@pytest.mark.parametrize(
    "name",
    ["with space", "it's", 'a"b\\', f"a;touch {CANARY};b", f"$(touch {CANARY})`touch {CANARY}`"],
)
def test_a_remote_folder_is_only_a_name(deploy, bundle, name):
    """Spaces, quotes, semicolons and substitutions are part of the folder's name."""
    device = deploy.device / name
    assert deploy(bundle, "--remote-dir", str(device)) == 0, deploy.err
    assert str((device / "solar-cpu" / "current").readlink()) == version_of(bundle)
    assert [path.name for path in deploy.device.iterdir()] == [name]
    assert not (HOME / CANARY).exists()


def test_a_python_is_only_a_word(deploy, bundle):
    """A command behind --python is not run, nor an option of ssh or of the shell there."""
    canary = deploy.here / "canary"
    assert deploy(bundle, "--python", f"python3 -c 1; touch {canary}; python3") == 7
    assert deploy(bundle, f"--python=-oProxyCommand=touch {canary}") == 3
    assert not canary.exists()


@pytest.mark.parametrize(
    "host",
    [
        "a;b",
        "user@$(id)",
        "-oProxyCommand=id",
        "a b",
        "u@h:0",
        "u@h:99999",
        "u@h:x",
        "",
        "u@",
        "u;@h",
    ],
)
def test_a_host_is_only_an_address(host):
    """What is no address is refused before anything is opened."""
    with pytest.raises(InputError, match="address"):
        parse_address(host)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nano@10.0.0.5", ("nano", "10.0.0.5", None)),
        ("my_nano:2222", (None, "my_nano", 2222)),
        ("nano@orin-1.local:2222", ("nano", "orin-1.local", 2222)),
        ("u@[fe80::1%eth0]:22", ("u", "fe80::1%eth0", 22)),
        ("u@[::1]", ("u", "::1", None)),
    ],
)
def test_addresses(text, wanted):
    """User, host and port of every form; IPv6 in brackets."""
    found = parse_address(text)
    assert (found.user, found.host, found.port) == wanted
    assert parse_address(str(found)) == found


@pytest.mark.parametrize("remote_dir", ["relative", "~user/x", "/a/../b", "/a\nb", ""])
def test_a_remote_folder_is_absolute(deploy, bundle, remote_dir):
    """A relative folder, one that goes up and one with control characters are refused."""
    assert deploy(bundle, "--remote-dir", remote_dir) == 3
    assert not list(deploy.device.iterdir())


def test_a_manifest_cannot_name_what_lies_outside(deploy, bundle, tmp_path):
    """A path that leaves the bundle is refused here, whatever its sha256."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    record = json.loads((bundle / "manifest.json").read_text())
    digest = hashlib.sha256(b"x").hexdigest()
    write_manifest(bundle, {**record["files"], "../secret": {"sha256": digest, "bytes": 1}})
    assert deploy(bundle) == 3
    assert "outside" in deploy.err
    assert not list(deploy.device.iterdir())


@pytest.mark.parametrize("name", ["a;touch x", "../x", ".hidden", ""])
def test_a_bundle_is_named_plainly(deploy, bundle, name):
    """A name that could not be a folder's is refused."""
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    write_manifest(bundle, files, name=name)
    assert deploy(bundle) == 3


def test_a_changed_bundle_is_refused_here(deploy, bundle):
    """A file that is not what the manifest says is not sent."""
    (bundle / "device.py").write_text("print('other')")
    assert deploy(bundle) == 3
    assert "device.py" in deploy.err
    assert not list(deploy.device.iterdir())


def test_only_a_bundle_of_that_maker(deploy, bundle, tmp_path):
    """--public-key is checked here, by a program that did not come with the bundle."""
    pem = tmp_path / "key.pem"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    key = signing.read_key(pem)
    signing.write_public_key(key, tmp_path / "key.pub")
    flags = ("--public-key", str(tmp_path / "key.pub"))
    assert deploy(bundle, *flags) == 3
    assert "the bundle is not signed" in deploy.err
    manifest = bundle / "manifest.json"
    (bundle / "manifest.json.sig").write_text(signing.sign(manifest.read_bytes(), key, "solar"))
    assert deploy(bundle, *flags) == 0
    assert (deploy.root / version_of(bundle) / "manifest.json.sig").exists()
    (bundle / "manifest.json.sig").write_text(signing.sign(b"other", key, "solar"))
    assert deploy(bundle, *flags) == 3
    assert "not what this key signed" in deploy.err


@pytest.mark.parametrize("kind", ["up", "absolute", "link", "garbage", "cut", "damaged"])
def test_an_archive_cannot_leave_its_folder(deploy, bundle, tmp_path, kind):
    """Members that go up, are absolute or are links are refused; so is what is no archive."""
    path = make_archive(bundle, tmp_path / "b.tar.gz")
    outside = tmp_path / "outside"
    content = path.read_bytes()
    broken = {
        "garbage": b"garbage",
        "cut": content[:5000],
        "damaged": content[:9000] + bytes(9000) + content[18000:],
    }
    if kind in broken:
        path.write_bytes(broken[kind])
    else:
        with tarfile.open(path, "w:gz") as archive:
            names = {"up": "../outside", "absolute": str(outside), "link": "bundle/link"}
            member = tarfile.TarInfo(names[kind])
            member.size = 1
            if kind == "link":
                member.type, member.linkname, member.size = tarfile.SYMTYPE, str(outside), 0
            archive.addfile(member, io.BytesIO(b"x"))
    assert deploy(path) == 3
    assert not outside.exists()
    assert deploy.err.count("error: ") == 1


@pytest.fixture
def small_disk(deploy):
    """The device's folder on a disk of its own."""

    def make(mib):
        command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(deploy.device)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    yield make
    subprocess.run(["/bin/umount", "--lazy", str(deploy.device)], check=False, capture_output=True)


def test_a_full_disk_is_known_before_the_copy(deploy, bundle, small_disk):
    """A bundle that does not fit is refused with both sizes, and nothing of it is written."""
    small_disk(2)
    assert deploy(bundle) == 7
    assert "disk full" in deploy.err
    assert "2 MiB are free" in deploy.err
    assert not list(deploy.root.glob("*/*"))


def test_a_disk_that_fills_up_meanwhile(deploy, tmp_path, small_disk, monkeypatch):
    """Full in the middle of the copy is an error with the file's name, not a traceback."""
    from edge_inception.deploy import transfer

    monkeypatch.setattr(transfer, "_SPARE_BYTES", -(1 << 30))
    small_disk(1)
    bundle = write_bundle(tmp_path / "large", weight=os.urandom(3 << 20))
    assert deploy(bundle) == 7
    assert "strong.onnx.part" in deploy.err
    assert "free space" in deploy.err


def test_a_folder_that_is_not_ours(deploy, bundle):
    """Where the login may not write, the error names the folder."""
    assert deploy(bundle, "--remote-dir", "/proc/here") == 7
    assert "/proc/here" in deploy.err


def test_it_says_what_is_missing(monkeypatch, capsys, bundle):
    """Without ssh the command names its package."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert main.run(["deploy", "u@h", "--bundle", str(bundle)]) == 4
    assert "openssh-client" in capsys.readouterr().err


@pytest.mark.parametrize("name", ['a"b', "a\\b", "${HOME}", "100 %h"])
def test_a_key_file_is_only_a_name(deploy, bundle, name):
    """A name that ssh would take apart is refused, or is given to it as it is."""
    key = deploy.here / name
    shutil.copy(deploy.sshd.identity, key)
    assert deploy(bundle, "--dry-run", "--identity", str(key)) == (0 if "%" in name else 3)
