"""Nothing leaves the machine, and nothing is left on it outside of ``--out``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STRACE = shutil.which("strace")  # sees the lookups of libraries that are not Python; CI installs it
# Python runs this at the start of every process, workers too. Libraries swallow errors: so a file.
FORBID = """
import os, sys
def forbid(event, words):
    if event == "socket.__new__" and words[1] not in (2, 10):  # AF_INET, AF_INET6
        return
    if event in ("socket.__new__", "socket.getaddrinfo", "socket.gethostbyname"):
        os.write(log, f"{event} {words} {sys.argv}\\n".encode())
        raise OSError("no network in this test")
log = os.open(os.environ["LOOKUPS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(forbid)
"""


@pytest.fixture
def closed(tmp_path):
    """``closed(words, path)``: the stdout of a Python whose home, temporary and current folder are
    empty; it must exit 0, look up nothing and leave nothing in those folders."""
    for name in ("home", "tmp", "here", "hook"):
        (tmp_path / name).mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(FORBID, encoding="utf-8")
    trace, lookups = tmp_path / "trace", tmp_path / "lookups"
    watch = ["-f", "-qq", "--seccomp-bpf", "-e", "trace=socket", "-e", "signal=none", "-o", trace]

    def run(*words: object, path: Path) -> str:
        done = subprocess.run(
            [*map(str, [STRACE, *watch] if STRACE else []), sys.executable, *map(str, words)],
            cwd=tmp_path / "here",
            env={
                **{k: v for k, v in os.environ.items() if k != "CI"},  # CI switches reports off
                "HOME": str(tmp_path / "home"),
                "TMPDIR": str(tmp_path / "tmp"),
                "LOOKUPS": str(lookups),
                "PYTHONPATH": f"{tmp_path / 'hook'}{os.pathsep}{path}",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not lookups.read_text(encoding="utf-8")
        assert not STRACE or "AF_INET" not in trace.read_text(encoding="utf-8")
        left = [each for name in ("home", "tmp", "here") for each in (tmp_path / name).rglob("*")]
        assert not left
        return done.stdout

    return run


@pytest.mark.slow
def test_no_command_calls_home(closed, workshop, tmp_path):
    """build with its workers, compile, classify, and the program of the bundle."""
    out, ours = tmp_path / "out", ("-m", "edge_inception")
    flags = ("--recipe", workshop.recipe, "--effort", "quick", "--bundle")
    closed(*ours, "build", *flags, "--out", out, path=ROOT)
    blob, photo = tmp_path / "again.blob", next((workshop.validation / "dark").iterdir())
    graph = next(out.glob("model.int8*.onnx"))
    closed(*ours, "compile", graph, "--target", "cpu", "--out", blob, path=ROOT)
    assert "dark" in closed(*ours, "classify", "--engine", blob, photo, path=ROOT)
    program = out / "bundles/inception_v4-cpu/device.py"
    for words in (["build"], ["verify"], ["classify", photo]):
        closed(program, *words, path=tmp_path / "nothing")


@pytest.mark.slow
def test_the_check_bites(closed):
    """A lookup by Python fails the test above, also one whose error is swallowed."""
    swallowed = "import contextlib, socket\nwith contextlib.suppress(OSError):\n "
    with pytest.raises(AssertionError, match="getaddrinfo"):
        closed("-c", swallowed + "socket.getaddrinfo('localhost', 80)", path=ROOT)
