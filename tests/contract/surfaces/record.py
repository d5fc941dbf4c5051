"""Record what one release of NVIDIA's Python bindings offers: names, and no text of theirs.

The wheels with the bindings are public, the libraries they load are not needed: pybind11 registers
every class on import, before any library function is called. So empty stand-ins with the libraries'
names are enough to import the module and to ask it for its names. Run with a Python that the wheel
is made for, with a C compiler at hand:

    python3.11 tests/contract/surfaces/record.py 10.3 tensorrt-cu12-bindings==10.3.0
    python3.10 tests/contract/surfaces/record.py 8.5 tensorrt==8.5.2.2
    python3.11 tests/contract/surfaces/record.py rtx tensorrt_rtx_bindings    (as installed)

No public wheel has 8.2: that file was written after NVIDIA's open-source bindings, see its origin.

In the files ``name`` is a property to read, ``name=`` one to write too, and ``name(a,b=)`` a
method, where ``b`` may be left out; ``|`` stands between overloads.
"""

from __future__ import annotations

import datetime as dt
import importlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
CLASSES = (
    "Builder", "Dims", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IErrorRecorder",
    "IExecutionContext", "IHostMemory", "IInt8Calibrator", "IInt8EntropyCalibrator2", "ILayer",
    "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProfiler", "IProgressMonitor",
    "IRuntimeCache", "IRuntimeConfig", "ITensor", "ITimingCache", "Logger", "OnnxParser",
    "OnnxParserRefitter", "ParserError", "Refitter", "Runtime",
)  # fmt: skip
ENUMS = (
    "BuilderFlag", "CalibrationAlgoType", "ComputeCapability", "CudaGraphStrategy", "DataType",
    "DeviceType", "DynamicShapesKernelSpecializationStrategy", "EngineCapability", "ErrorCode",
    "ExecutionContextAllocationStrategy", "HardwareCompatibilityLevel", "LayerInformationFormat",
    "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParserFlag", "PreviewFeature",
    "ProfilingVerbosity", "QuantizationFlag", "RuntimePlatform", "TacticSource", "TensorIOMode",
    "TensorLocation",
)  # fmt: skip
_SPECIAL = ("__getitem__", "__init__", "__len__")
_FUNCTIONS = ("createInfer", "NvOnnx", "PluginRegistry", "initLibNv", "nvuff", "nvcaffe")
# Bindings of layers and plugins, which this project leaves to the ONNX parser.
_SKIPPED = re.compile(
    r"Layer$|Plugin|^add_(?!identity$|input$|optimization_profile$)|^I?Algorithm|^I?Uff|^I?Caffe"
)


def surface(module):
    """Classes with their members, enums with their values, and names of an imported module."""
    names = sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and type(value).__name__ != "module"
    )
    return {
        "classes": {
            name: members(getattr(module, name)) for name in CLASSES if hasattr(module, name)
        },
        "enums": {name: values(getattr(module, name)) for name in ENUMS if hasattr(module, name)}
        | {"ILogger.Severity": values(module.ILogger.Severity)},
        "module": [name for name in names if not _SKIPPED.search(name) or name == "ILayer"],
    }


def values(enum):
    """Members of a pybind11 enum with their numbers."""
    return {name: int(member) for name, member in sorted(enum.__members__.items())}


def members(kind):
    """Spelled members of a class, inherited ones too, in the notation of the module's text."""
    names = [name for name in dir(kind) if not name.startswith("_") or name in _SPECIAL]
    spelled = [member(kind, name) for name in names if not _SKIPPED.search(name)]
    return [text for text in spelled if text not in _SPECIAL]  # a class without a constructor


def member(kind, name):
    """One member: property, property to write, or method with its parameters."""
    value = next(vars(base)[name] for base in kind.__mro__ if name in vars(base))
    if isinstance(value, property):
        return name if value.fset is None else f"{name}="
    pattern = rf"^(?:\d+\. )?{name}\((?!\*args)(.*?)\)(?: ->|$)"
    found = re.findall(pattern, value.__doc__ or "", re.MULTILINE)
    return name + "|".join(f"({parameters(text)})" for text in found)


def parameters(text):
    """Names of the parameters in a pybind11 signature, without self; ``a=`` may be left out."""
    text = re.sub(r"<.*?>|\(.*?\)", "", text)
    while "[" in text:
        text = re.sub(r"\[[^\[\]]*\]", "", text)
    words = [part.strip() for part in text.split(",")]
    return ",".join(
        re.sub(r"\W.*", "", word) + ("=" if "=" in word else "")
        for word in words
        if word and not word.startswith("self:")
    )


def unpack(requirement, folder):
    """Download a wheel; the unpacked library with its bindings."""
    options = ("--no-deps", "--only-binary", ":all:", "--quiet", "--dest", folder)
    subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
    with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
        found = [
            name for name in wheel.namelist() if re.fullmatch(r"\w+/(.*\.py|tensorrt.*\.so)", name)
        ]
        wheel.extractall(folder, found)
    return next(Path(folder).glob("*/tensorrt*.so"))


def stand_ins(bindings, folder):
    """Empty libraries with the names and the functions that the bindings want."""
    missing = output("nm", "--dynamic", "--undefined-only", bindings)
    wanted = rf" U (\w*(?:{'|'.join(_FUNCTIONS)})\w*)$"
    names = re.findall(wanted, missing, re.MULTILINE)
    source = Path(folder) / "stand_in.c"
    source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names))
    needed = output("readelf", "--dynamic", bindings)
    for name in re.findall(r"\[(libnv(?:infer|onnx|parsers)\S*)\]", needed):
        output("cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", f"{folder}/{name}", source)


def output(*command):
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(arguments):
    """Record one release, or, as the child with the stand-ins on its path, print a surface."""
    if arguments[0] == "--child":
        sys.path.insert(0, arguments[1])
        module = importlib.import_module(arguments[2])
        found = {"version": module.__version__, **surface(module)}
        sys.stdout.write(json.dumps(found))
        return
    version, requirement = arguments
    if "==" not in requirement:
        module = importlib.import_module(requirement)
        found = {"version": module.__version__, **surface(module)}
        write(HERE / f"{version}.json", found, origin=f"installed module {requirement}, imported")
        return
    with tempfile.TemporaryDirectory() as folder:
        bindings = unpack(requirement, folder)
        stand_ins(bindings, folder)
        child = subprocess.run(
            [sys.executable, __file__, "--child", folder, bindings.parent.name],
            check=True,
            capture_output=True,
            env={"LD_LIBRARY_PATH": folder},
        )
    found = json.loads(child.stdout)
    write(HERE / f"{version}.json", found, origin=f"PyPI wheel {requirement}, imported")


def write(path, found, *, origin):
    """The file of one release, one class a line."""
    head = {
        "version": found["version"],
        "origin": origin,
        "recorded": dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for part in ("classes", "enums"):
        rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in found[part].items()]
        lines.append(f'"{part}": {{\n' + ",\n".join(rows) + "\n}")
    lines.append('"module": ' + json.dumps(found["module"]))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
