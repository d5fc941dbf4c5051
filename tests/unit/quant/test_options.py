"""Options and provenance are words: a reused stage loads no heavy library."""

from __future__ import annotations

import subprocess
import sys

from edge_inception.quant.calibrators import calibrator, require_known
from edge_inception.quant.options import CalibrateOptions
from edge_inception.quant.trial import CALIBRATORS
from edge_inception.spec import Preprocess


def test_options_import_no_array_or_graph_library():
    """After the import none of the libraries of calibrate and quantize is loaded."""
    heavy = ("numpy", "onnx", "openvino", "onnxruntime", "torch", "PIL")
    program = (
        "import sys, edge_inception.quant.options; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


def test_the_default_calibrator_exists():
    """The default is spelled as the registry of calibrators spells it."""
    options = CalibrateOptions(preprocess=Preprocess(input_size=(8, 8)))
    require_known(options.calibrator)
    assert all(callable(calibrator(name)) for name in CALIBRATORS)
