"""Plug-ins are files: listed without importing them, imported on use, refused with a near name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_inception import registry as subject
from edge_inception.engines import _registry as backends
from edge_inception.errors import InputError

PACKAGE = Path(subject.__file__).parent


def files(folder):
    """Names of the plug-in files, by looking."""
    return sorted(p.stem for p in (PACKAGE / folder).glob("*.py") if not p.name.startswith("_"))


def test_every_file_is_a_backend():
    """Each file in engines/ without a leading underscore is a backend of that name."""
    assert backends.backend_names() == files("engines")
    assert "openvino" in backends.backend_names()
    for name in backends.backend_names():
        assert backends.backend(name).name == name


def test_every_model_comes_from_a_file():
    """Each file in models/ adds its models, under their own names."""
    specs = subject.models()
    assert {name: spec.name for name, spec in specs.items()} == {name: name for name in specs}
    modules = {getattr(spec.describe, "func", spec.describe).__module__ for spec in specs.values()}
    ours = [name for name in modules if name.startswith("edge_inception.")]  # others are a test's
    assert sorted(name.rpartition(".")[2] for name in ours) == files("models")
    assert subject.model("inception_v4") is specs["inception_v4"]


def test_listing_imports_no_backend():
    """Listing backends imports none of them, nor their libraries."""
    code = (
        "import json, sys; from edge_inception.engines import _registry as backends\n"
        "backends.backend_names(); print(json.dumps(sorted(sys.modules)))"
    )
    modules = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert not {"numpy", "openvino", "onnxruntime", "tensorrt_rtx", "torch"} & set(modules)
    found = {name for name in modules if name.startswith("edge_inception.engines.")}
    assert found == {"edge_inception.engines._registry"}


@pytest.mark.parametrize(
    ("look_up", "name", "near"),
    [
        (backends.backend, "openvinoo", "did you mean 'openvino'?"),
        (subject.model, "inceptionv4", "did you mean 'inception_v4'?"),
        (backends.backend, "_backend", "known: "),
        (backends.backend, "../stage", "known: "),
        (subject.model, "", "known: googlenet"),
    ],
)
def test_unknown_name(look_up, name, near):
    """A name that is not known is refused with the nearest one and all that are."""
    with pytest.raises(InputError, match="named") as caught:
        look_up(name)
    assert near in caught.value.hint
    assert f"'{name}'" in str(caught.value)


def test_no_near_name():
    """A name like no other gets the list and no guess."""
    error = subject.unknown("colour", "zzz", ("red", "blue"))
    assert str(error) == "no colour named 'zzz'"
    assert error.hint == "known: blue, red"
