"""Packages for a device without a network; over a real sshd, with a real venv and pip."""

from __future__ import annotations

import zipfile

import pytest
from loopback import version_of, write_bundle

from edge_inception.deploy.payload import read_wheels
from edge_inception.errors import InputError

pytestmark = pytest.mark.slow


def make_wheel(folder, name, *, requires=""):
    folder.mkdir(exist_ok=True)
    facts = f"{name}-1.0.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": "",
        f"{facts}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        f"{facts}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{facts}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{facts}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return folder


def test_wheels_are_copied_and_installed_offline(deploy, tmp_path):
    """The bundle's program finds them; a second deploy makes no second environment."""
    bundle = write_bundle(tmp_path / "bundle", check={"imports": ["tiny_dep"]})
    assert deploy(bundle) == 7
    wheels = make_wheel(tmp_path / "wheels", "tiny_dep")
    assert deploy(bundle, "--wheelhouse", str(wheels)) == 0, deploy.err
    assert deploy.current() == version_of(bundle)
    assert "venv: tiny_dep==1.0" in deploy.err
    assert deploy(bundle, "--wheelhouse", str(wheels)) == 0, deploy.err
    assert "venv: " not in deploy.err


def test_an_incomplete_wheelhouse_says_so(deploy, bundle, tmp_path):
    """pip's own reason, and nothing is switched; nothing is asked of an index."""
    wheels = make_wheel(tmp_path / "wheels", "tiny_dep", requires="tiny-absent")
    assert deploy(bundle, "--wheelhouse", str(wheels)) == 7
    assert "tiny-absent" in deploy.err
    assert "every dependency" in deploy.err
    assert not (deploy.root / "current").is_symlink()


def test_what_is_no_wheelhouse(tmp_path):
    """A folder without wheels, and a file that is not named as one."""
    with pytest.raises(InputError, match="no wheels"):
        read_wheels(tmp_path)
    (tmp_path / "x;touch y.whl").write_bytes(b"")
    with pytest.raises(InputError, match="not named"):
        read_wheels(tmp_path)
