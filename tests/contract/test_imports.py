"""Zones: which module may be imported where. Each runs in a fresh interpreter."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_inception

PACKAGE = Path(edge_inception.__file__).parent
ALL = sorted(m.name for m in pkgutil.walk_packages([str(PACKAGE)], prefix="edge_inception."))
# Right of the graph and what it stands on: a device has neither torch nor onnx.
ROOMS = (
    "data",
    "device",
    "engines",
    "hardware",
    "latency",
    "metrics",
    "recipe",
    "report",
    "validate",
)
FILES = {"spec", "errors", "artifact", "stage", "registry", "inference"}
FILES |= {f"{room}.options" for room in ("baseline", "export", "graph", "quant", "search")}
DEVICE = [n for n in ALL if n.split(".")[1] in ROOMS or n.removeprefix("edge_inception.") in FILES]
WORDS = [
    "_version",
    "errors",
    "records",
    "spec",
    "sidecar",
    "artifact",
    "stage",
    "registry",
    "data.imageset",
]
WORDS += ["baseline.options", "export.options", "graph.options", "quant.options", "search.options"]
WORDS += ["recipe.reader", "hardware.targets", "hardware.feasibility"]
LEFT_OF_GRAPH = ["torch", "onnx", "onnx_ir", "onnxruntime", "onnxsim", "onnxscript", "safetensors"]
THIRD_PARTIES = [*LEFT_OF_GRAPH, "numpy", "PIL", "rich", "openvino", "tensorrt", "pycuda"]
VENDORS = ["openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "onnxruntime", "pycuda"]


def python(code, *, without=()):
    """Run ``code`` where the modules ``without`` cannot be imported; its stdout."""
    banned = f"import sys; sys.modules.update(dict.fromkeys({list(without)!r}))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", banned + code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def import_all(names):
    return f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"


def loaded_by(code):
    """Top-level modules that ``code`` loads, start-up hooks and banned modules (None) left out."""
    show = (
        "\nimport json; "
        "print(json.dumps([k.partition('.')[0] for k, m in sys.modules.items() if m]))"
    )
    return set(json.loads(python(code + show))) - set(json.loads(python(show)))


def test_the_ban_bites():
    """A module set to None cannot be imported: the other tests here can fail."""
    with pytest.raises(AssertionError, match="torch"):
        python(import_all(["edge_inception.models._blocks"]), without=["torch"])


def test_device_zone_without_torch_and_onnx():
    """Every module of the device zone imports where torch, onnx and onnxruntime are missing."""
    assert {"edge_inception.engines.openvino", "edge_inception.validate.accuracy"} <= set(DEVICE)
    python(import_all(DEVICE), without=[*LEFT_OF_GRAPH, *VENDORS])


def test_device_zone_imports_none_of_them_where_they_are_installed():
    """Nor does it import them when it could."""
    assert not loaded_by(import_all(DEVICE)) & {*LEFT_OF_GRAPH, *VENDORS}


def test_models_are_listed_without_torch():
    """The table of models, with sizes and checkpoints, needs no torch and no numpy."""
    code = (
        "from edge_inception import registry\n"
        "for spec in registry.models().values(): print(spec.name, spec.gmacs, spec.families)"
    )
    assert "inception_v4" in python(code, without=THIRD_PARTIES)


def test_the_stages_of_a_model_are_shown_without_torch():
    """`models NAME` follows every layer's shape where none of the libraries is: published size."""
    code = "from edge_inception.cli import main\nsys.exit(main.run(['models', 'inception_v4']))"
    total = python(code, without=THIRD_PARTIES).splitlines()[-1].split()
    assert total == ["total", "42,679,816", "12,254.0"]


def test_backends_load_without_their_libraries():
    """A backend's record loads where its library is missing, and says what is missing."""
    code = (
        "import json\nfrom edge_inception.engines import _registry as backends\n"
        "found = {n: backends.backend(n).availability() for n in backends.backend_names()}\n"
        "print(json.dumps({n: [a.can_compile, a.why_not, a.remedy] for n, a in found.items()}))"
    )
    found = json.loads(python(code, without=VENDORS))
    assert len(found) >= 2
    for name, (can_compile, why_not, remedy) in found.items():
        assert not can_compile, name
        assert why_not, name
        assert remedy, name


@pytest.mark.parametrize("name", WORDS)
def test_words_import_the_standard_library_only(name):
    """A word imports msgspec and no other third party, not even numpy; tomli is 3.10's tomllib."""
    strangers = loaded_by(f"import edge_inception.{name}") - set(sys.stdlib_module_names)
    assert strangers <= {"edge_inception", "msgspec", "tomli", "typing_extensions"}


@pytest.mark.slow
def test_every_module_imports():
    """No module is broken: each imports on a machine that has everything."""
    names = [name for name in ALL if not name.endswith((".__main__", "pytest_plugin"))]
    python(import_all(names))


def test_help_reads_no_record():
    """--help needs no record of a file, and msgspec takes a tenth of its time."""
    assert "msgspec" not in loaded_by("from edge_inception.cli import main")


def test_the_precisions_of_estimate():
    """Its choices are written out, since ``spec`` imports msgspec: all that there are."""
    from edge_inception.cli import estimate
    from edge_inception.spec import Precision

    assert [precision.value for precision in Precision] == list(estimate.PRECISIONS)
