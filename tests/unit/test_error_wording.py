"""The wording of the twenty errors that newcomers meet first, as errors.golden.txt holds it.

The twenty: each input of a first build missing or mistaken (recipe, model, checkpoint, images,
labels), a wrong word in a recipe or flag, and what a machine lacks (a library, threads, disk). All
other tests of errors leave the wording free. To renew the file after a rewording, and read the
difference before it is committed:

    EDGE_INCEPTION_WRITE_GOLDEN=1 .venv/bin/python -m pytest tests/unit/test_error_wording.py
"""

from __future__ import annotations

import difflib
import fcntl
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
import sidecars
from onnx import helper
from PIL import Image

from edge_inception import artifact, registry
from edge_inception.artifact import Provenance, TypedGraph
from edge_inception.cli import main

GOLDEN = Path(__file__).with_name("errors.golden.txt")
TINY = "tiny_inception"
WRITE = "EDGE_INCEPTION_WRITE_GOLDEN"


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond a kilobyte: a write fails as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def folder_in_use() -> Iterator[None]:
    """Another build holds the output folder."""
    out = Path("build")
    out.mkdir(exist_ok=True)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4242")
        lock.flush()
        yield


@contextmanager
def without(library: str) -> Iterator[None]:
    """As on a machine on which ``library`` is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, library, None)
        yield


@contextmanager
def two_cores() -> Iterator[None]:
    """This process may use two cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        yield


EXPORT = f"export --model {TINY} --out graph.onnx"
BUILD = f"build --model {TINY} --checkpoint w.st --target cpu --out build"
# What went wrong -> the command line, and around it what makes it go wrong where files do not.
TWENTY: dict[str, tuple[str, AbstractContextManager[None]]] = {
    "no recipe": ("build", nullcontext()),
    "a misspelt key": ("build --recipe misspelt.toml", nullcontext()),
    "a value of another type": ("build --recipe type.toml", nullcontext()),
    "a misspelt model": ("export --model inception_v5 --checkpoint w.st --out x", nullcontext()),
    "a misspelt option": (f"{EXPORT} --checkpoint w.st --option widht=0.5", nullcontext()),
    "a checkpoint that is not there": (f"{EXPORT} --checkpoint absent.pt", nullcontext()),
    "a Git LFS pointer": (f"{EXPORT} --checkpoint pointer.pt", nullcontext()),
    "the checkpoint of another model": (
        "export --model inception_v4 --checkpoint w.st --out graph.onnx",
        nullcontext(),
    ),
    "another number of classes": (f"{EXPORT} --checkpoint w.st --num-classes 3", nullcontext()),
    "labels of another number": (f"{EXPORT} --checkpoint w.st --labels two.txt", nullcontext()),
    "a folder without images": (f"{BUILD} --validation empty", nullcontext()),
    "an image that is none": (
        f"baseline --model {TINY} --checkpoint w.st --validation damaged --out b.npz",
        nullcontext(),
    ),
    "images in both sets": (
        f"{BUILD} --precision int8 --calibration photos --validation photos",
        nullcontext(),
    ),
    "an operator that nothing runs": (
        "export --onnx loop.onnx --mean 0,0,0 --std 1,1,1 --out graph.onnx",
        nullcontext(),
    ),
    "a file that its sidecar does not know": (
        "compile changed.onnx --target cpu --out engine.blob",
        nullcontext(),
    ),
    "what a target cannot": (
        f"{BUILD} --validation photos --precision int8 --calibration other --target nano-4gb",
        nullcontext(),
    ),
    "more threads than cores": (f"{BUILD} --validation photos --threads 64", two_cores()),
    "a library that is not installed": (f"{EXPORT} --checkpoint w.st", without("torch")),
    "a folder in use": (f"{BUILD} --validation photos", folder_in_use()),
    "a full disk": ("init", full_disk()),
}


def photos(folder: str, seed: int) -> None:
    """Five class folders of one photo."""
    rng = np.random.default_rng(seed)
    for name in "abcde":
        path = Path(folder) / name / "photo.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def workplace(tmp_path, monkeypatch, tiny_checkpoint, foreign_classifier) -> None:
    """A folder with all that the twenty command lines name, but for what is not there.

    Three models are known, so that a new one does not change what is said of a misspelt one.
    """
    known = {name: registry.models()[name] for name in ("inception_v3", "inception_v4", TINY)}
    monkeypatch.setattr(registry, "models", lambda: known)
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_checkpoint, "w.st")
    Path("misspelt.toml").write_text('schema = 1\n[model]\nname = "inception_v4"\nchekpoint = "w"')
    Path("type.toml").write_text('schema = 1\n[build]\nthreads = "two"')
    Path("pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid")
    Path("two.txt").write_text("a\nb\n")
    Path("empty").mkdir()
    photos("photos", 1)
    photos("other", 2)
    photos("damaged", 3)
    Path("damaged/c/photo.png").write_text("hello")
    body = helper.make_graph([], "body", [], [])
    loop = helper.make_node("Loop", ["logits_", ""], ["out"], "loop", body=body)
    onnx.save(
        foreign_classifier(13, ending="logits", are_weights_inputs=False, extra=[loop]), "loop.onnx"
    )
    origin = Provenance(stage="quantize", parents={}, options={}, tools={}, source="")
    details = sidecars.typed()
    artifact.publish(
        TypedGraph, Path("changed.onnx"), b"before", provenance=origin, details=details
    )
    Path("changed.onnx").write_bytes(b"after")


@pytest.mark.usefixtures("workplace")
def test_wording(capsys):
    """Command line, exit code and what is said of each, byte by byte."""
    told = []
    for what, (words, around) in TWENTY.items():
        with around:
            code = main.run(words.split())
        said = capsys.readouterr()
        assert said.out == "", what
        lines = [line for line in said.err.splitlines() if line.startswith(("error: ", "hint: "))]
        told += [f"# {what}", f"$ edge-inception {words}", *lines, f"exit {code}", ""]
    assert len(TWENTY) == 20
    text = "\n".join(told)
    if os.environ.get(WRITE):
        GOLDEN.write_text(text, encoding="utf-8")
    kept = GOLDEN.read_text(encoding="utf-8")
    difference = difflib.unified_diff(
        kept.splitlines(), text.splitlines(), GOLDEN.name, "said now", n=4, lineterm=""
    )
    assert text == kept, f"{WRITE}=1 renews the file:\n" + "\n".join(difference)
