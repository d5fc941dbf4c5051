"""The refusal table: what cannot be built, one row per fact with its source; and what can."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from edge_inception.errors import EdgeInceptionError, InputError
from edge_inception.hardware import feasibility, targets
from edge_inception.hardware.feasibility import (
    RULES,
    MemoryNeed,
    Request,
    require,
    tensorrt_versions,
)
from edge_inception.spec import Precision

FP32, FP16, INT8 = Precision.FP32, Precision.FP16, Precision.INT8
GIB = 2**30

# Words of the sources, which end a reason in brackets.
JETSON = "docs/hardware.md"
DLA = "support matrix"
DLA_LIMITS = "DLA supported layers"
MATRIX = "support matrix"
API = "tags of NVIDIA/TensorRT"
ENUMS = 'docs/tensorrt.md, "Names"'
PARSERS = "onnx-tensorrt"
NO_DLA = f"it has no DLA | {JETSON}"
GAP = f"no DLA | 10.7 | 11.4.1 | AGX Orin | {DLA}"
NO_QDQ = f"no Q/DQ | calibration cache | {DLA_LIMITS}"
GPU = "GPU alone"

ORIN_NANO_BRINGS = "8.5.2, 8.6.2, 10.3.0.30, 10.7.0.23, 10.16.2.10"
AGX_BRINGS = f"{ORIN_NANO_BRINGS}, 11.4.1"

# target, what is asked, words of each reason, words of the hint: see the fixture ``lacking``
REFUSED = [
    # 1.1: no fast INT8
    (
        "nano-4gb",
        Request(precision=INT8),
        f"no fast int8 | SM 5.3 | {JETSON}",
        "another precision | edge-inception targets nano-4gb",
    ),
    (
        "tx2-8gb",
        Request(precision=INT8),
        f"no fast int8 | SM 6.2 | {JETSON}",
        "another precision | edge-inception targets tx2-8gb",
    ),
    # 1.1: no DLA hardware
    *(
        (name, Request(precision=FP16, dla=True), NO_DLA, GPU)
        for name in ("nano-4gb", "tx2-8gb", "thor-t5000", "thor-t4000", "l4", "rtx", "cpu")
    ),
    *(
        (f"orin-nano-{size}", Request(precision=INT8, dla=True), NO_DLA, GPU)
        for size in ("4gb", "8gb", "4gb-super", "8gb-super")
    ),
    # 3.1: DLA comes and goes with TensorRT
    *(
        (
            "agx-orin-64gb",
            Request(precision=INT8, dla=True, tensorrt=version),
            f"TensorRT {version} | {GAP}",
            GPU,
        )
        for version in ("10.8", "10.13.3", "10.16.2.10", "11.0", "11.3", "11.4.0")
    ),
    *(
        (
            name,
            Request(precision=INT8, dla=True, jetpack="7.2"),
            f"TensorRT 10.16.2.10 | {GAP}",
            GPU,
        )
        for name in ("orin-nx-8gb", "orin-nx-16gb", "agx-orin-32gb")
    ),
    (
        "orin-nx-16gb",
        Request(precision=INT8, dla=True, tensorrt="11.4.1"),
        f"TensorRT 11.4.1 | DLA of AGX Orin alone | {DLA}",
        GPU,
    ),
    # 3.2: what DLA computes
    (
        "agx-orin-64gb",
        Request(precision=FP32, dla=True),
        f"DLA | not in fp32 | {DLA_LIMITS}",
        "--precision | int8 | fp16",
    ),
    (
        "xavier-nx-8gb",
        Request(precision=INT8, dla=True, batch=8, is_dynamic=True),
        f"DLA | no dynamic batch | {DLA_LIMITS}",
        "static batch",
    ),
    (
        "agx-orin-64gb",
        Request(precision=INT8, dla=True, batch=4097),
        f"DLA | batch | 4096 at most | 4097 | {DLA_LIMITS}",
        "smaller --batch",
    ),
    *(
        (
            "agx-orin-64gb",
            Request(precision=INT8, dla=True, typing=typing, tensorrt=version),
            f"DLA of TensorRT {version} | {NO_QDQ}",
            "--quantization implicit",
        )
        for typing, version in (("weak", "8.5.2"), ("weak", "8.6.2"), ("strong", "10.7.0.23"))
    ),
    # 1.2: TensorRT 11 and JetPack
    *(
        (
            name,
            Request(precision=FP16, tensorrt=version),
            f"TensorRT {version} | no JetPack | 11.4.1 is the first | {MATRIX}",
            f"JetPacks bring | {brings}",
        )
        for name, version, brings in (
            ("orin-nano-8gb", "11.0", ORIN_NANO_BRINGS),
            ("agx-orin-64gb", "11.3", AGX_BRINGS),
            ("thor-t5000", "11.1", "10.13.3.9, 10.16.2.10, 11.4.1"),
        )
    ),
    (
        "agx-orin-64gb",
        Request(precision=INT8, dla=True, typing="strong", tensorrt="11.4.1", jetpack="7.2"),
        f"none of its JetPacks | TensorRT 11.4.1 | {JETSON}",
        "bring 10.16.2.10",
    ),
    (
        "orin-nano-8gb",
        Request(precision=FP16, tensorrt="11.4.1"),
        f"none of its JetPacks | TensorRT 11.4.1 | {JETSON}",
        f"bring {ORIN_NANO_BRINGS}",
    ),
    # 1.2: versions that no JetPack of the device ships
    (
        "nano-4gb",
        Request(precision=FP16, tensorrt="8.5.2"),
        f"none of its JetPacks | TensorRT 8.5.2 | {JETSON}",
        "bring 8.2.1",
    ),
    (
        "agx-xavier-32gb",
        Request(precision=INT8, tensorrt="10.3"),
        f"none of its JetPacks | TensorRT 10.3 | {JETSON}",
        "bring 8.2.1, 8.4.1, 8.5.2",
    ),
    (
        "thor-t5000",
        Request(precision=INT8, tensorrt="10.3"),
        f"none of its JetPacks | TensorRT 10.3 | {JETSON}",
        "bring 10.13.3.9, 10.16.2.10, 11.4.1",
    ),
    (
        "orin-nano-8gb-super",
        Request(precision=INT8, tensorrt="8.6.2"),
        f"none of its JetPacks | TensorRT 8.6.2 | {JETSON}",
        "bring 10.3.0.30, 10.7.0.23, 10.16.2.10",
    ),
    (
        "nano-4gb",
        Request(precision=FP16, jetpack="4.6"),
        "TensorRT 8.0.1 | older than 8.2",
        "update | JetPack",
    ),
    (
        "orin-nano-8gb",
        Request(precision=INT8, jetpack="7.1"),
        f"JetPack 7.1 | not support | {JETSON}",
        "5.1.1 to 5.1.6 | 6.0 | 6.1 | 6.2 to 6.2.2 | 7.2 to 7.2.2",
    ),
    (
        "l4",
        Request(precision=INT8, jetpack="6.2"),
        f"no Jetson | JetPack 6.2 | {JETSON}",
        "JetPack | leave",
    ),
    *(
        (
            name,
            Request(precision=INT8, tensorrt="10.3"),
            f"by {backend} | not by TensorRT 10.3 | targets",
            "TensorRT | leave",
        )
        for name, backend in (("cpu", "openvino"), ("rtx-4090", "tensorrt_rtx"))
    ),
    # 2.1, 2.2: how precision is said
    (
        "l4",
        Request(precision=INT8, typing="weak", tensorrt="11.0"),
        f"TensorRT 11.0 | no weak typing | calibrators | {API}",
        "strongly typed graph",
    ),
    (
        "agx-orin-64gb",
        Request(precision=INT8, typing="implicit", tensorrt="11.4.1"),
        f"TensorRT 11.4.1 | no implicit typing | calibrators | {API}",
        "strongly typed graph",
    ),
    *(
        (
            name,
            Request(precision=FP16, typing="strong", tensorrt=version),
            f"TensorRT {version} | no strongly typed | {ENUMS}",
            "weakly typed graph",
        )
        for name, version in (
            ("nano-4gb", "8.2.1"),
            ("agx-orin-32gb", "8.4.1"),
            ("xavier-nx-16gb", "8.5.2"),
            ("orin-nano-8gb", "8.6.2"),
        )
    ),
    # 2.2: DataType.UINT8 came with 8.5
    *(
        (
            name,
            Request(precision=FP16, element="uint8", tensorrt=version),
            f"TensorRT {version} | no uint8 | 8.5 is the first | {ENUMS}",
            "--fold-preprocessing | float32",
        )
        for name, version in (("nano-4gb", "8.2.1"), ("agx-xavier-32gb", "8.4.1"))
    ),
    # 1.3: what the parser reads
    *(
        (
            name,
            Request(precision=FP16, tensorrt=version, opset=opset),
            f"TensorRT {version} | opset {opset - 1} at most | graph has {opset} | {PARSERS}",
            "lower opset | 13",
        )
        for name, version, opset in (
            ("nano-4gb", "8.2.1", 14),
            ("orin-nano-8gb", "8.5.2", 18),
            ("orin-nano-8gb", "8.6.2", 18),
            ("orin-nano-8gb", "10.3.0.30", 21),
            ("thor-t5000", "10.13.3.9", 25),
            ("l4", "11.0", 26),
        )
    ),
    # 1.1: memory
    (
        "nano-4gb",
        Request(
            precision=FP16,
            batch=64,
            memory=MemoryNeed(weights=GIB // 4, activations=3 * GIB, workspace=GIB),
        ),
        (
            "batch 64 | 4,352 MiB | weights 256 | activations 3,072 | workspace 1,024 | "
            f"memory is 4 GiB | {JETSON}"
        ),
        # (4 - 1/4 - 1) GiB of the 3 GiB that 64 images take: 58.67
        "batch 58 | largest",
    ),
    # no version of TensorRT is named, and each has its own reason
    (
        "orin-nx-16gb",
        Request(precision=INT8, dla=True, typing="strong"),
        (
            f"TensorRT 8.6.2 | no strongly typed | {ENUMS}; DLA of TensorRT 10.7.0.23 | {NO_QDQ}; "
            f"TensorRT 10.16.2.10 | {GAP}"
        ),
        "weakly typed graph",
    ),
    (
        "nano-4gb",
        Request(precision=FP16, opset=17),
        f"TensorRT 8.2.1 | opset 13 at most | graph has 17 | {PARSERS}",
        "lower opset | 13",
    ),
    (
        "agx-xavier-64gb",
        Request(precision=INT8, typing="strong"),
        f"TensorRT 8.5.2 | no strongly typed | {ENUMS}",
        "weakly typed graph",
    ),
]

# target, what is asked, versions of TensorRT that can
POSSIBLE = [
    ("nano-4gb", Request(precision=FP16, typing="weak", opset=13), "8.2.1"),
    ("nano-4gb", Request(precision=FP32), "8.2.1"),
    ("xavier-nx-8gb", Request(precision=INT8, element="uint8"), "8.5.2"),
    ("rtx-4090", Request(precision=FP16, element="uint8"), ""),
    ("tx2-8gb", Request(precision=FP16, tensorrt="8.2.1"), "8.2.1"),
    (
        "xavier-nx-8gb",
        Request(precision=INT8, typing="implicit", dla=True, opset=13),
        "8.2.1 8.4.1 8.5.2",
    ),
    ("agx-xavier-32gb", Request(precision=FP16, typing="weak", dla=True, jetpack="5.1.3"), "8.5.2"),
    ("orin-nano-8gb", Request(precision=INT8, typing="strong"), "10.3.0.30 10.7.0.23 10.16.2.10"),
    ("orin-nano-8gb", Request(precision=INT8, typing="weak", jetpack="6.0"), "8.6.2"),
    ("orin-nano-4gb", Request(precision=INT8, opset=19), "10.3.0.30 10.7.0.23 10.16.2.10"),
    ("orin-nx-8gb", Request(precision=INT8, typing="implicit", dla=True, tensorrt="10.3"), "10.3"),
    (
        "orin-nx-16gb",
        Request(precision=INT8, dla=True),
        "8.5.2 8.6.2 10.3.0.30 10.7.0.23",
    ),
    ("agx-orin-64gb", Request(precision=INT8, dla=True, tensorrt="10.7.0.23"), "10.7.0.23"),
    ("agx-orin-64gb", Request(precision=INT8, dla=True, batch=4096, tensorrt="10.7"), "10.7"),
    (
        "agx-orin-64gb",
        Request(precision=INT8, typing="strong", dla=True, tensorrt="11.4.1", jetpack="7.2.2"),
        "11.4.1",
    ),
    ("agx-orin-32gb", Request(precision=INT8, typing="strong", dla=True), "11.4.1"),
    (
        "agx-orin-32gb",
        Request(precision=INT8, typing="strong", jetpack="7.2.2"),
        "10.16.2.10 11.4.1",
    ),
    ("thor-t5000", Request(precision=INT8, typing="strong", opset=24, jetpack="7.0"), "10.13.3.9"),
    ("thor-t4000", Request(precision=INT8, tensorrt="11.4.1"), "11.4.1"),
    ("t4", Request(precision=INT8, typing="strong", tensorrt="11.0"), "11.0"),
    ("h200", Request(precision=INT8, typing="weak", tensorrt="10.13", opset=24), "10.13"),
    ("rtx-5090", Request(precision=INT8, typing="strong", is_dynamic=True, batch=8), ""),
    ("cpu", Request(precision=FP16, opset=21), ""),
    (
        "nano-4gb",
        Request(precision=FP16, memory=MemoryNeed(weights=GIB, activations=3 * GIB)),
        "8.2.1",
    ),
]


def named(row):
    asked = row[1]
    words = [row[0], asked.precision.value, asked.typing, asked.tensorrt, asked.jetpack]
    words += ["dla" if asked.dla else None, asked.opset and f"opset{asked.opset}"]
    words += [asked.element if asked.element != "float32" else None]
    return "-".join(word for word in words if word)


def refused(target, asked):
    """The error that asking for it ends in."""
    with pytest.raises(EdgeInceptionError) as caught:
        require(target, asked)
    error = caught.value
    assert (type(error), error.exit_code) == (InputError, 3)
    return error


@pytest.mark.parametrize(
    ("name", "asked", "message", "hint"), [pytest.param(*row, id=named(row)) for row in REFUSED]
)
def test_refusal_table(lacking, name, asked, message, hint):
    """Each impossible request is refused with its reason, its source and what to do."""
    error = refused(targets.target(name), asked)
    start, _, reasons = str(error).partition(": ")
    assert start == name
    said = re.split(r"(?<=\)); ", reasons)
    for reason, words in zip(said, message.split("; "), strict=True):
        assert lacking(reason, words) == []
        assert re.search(r"\([^()]+\)$", reason)  # the source
    assert lacking(error.hint, hint) == []


@pytest.mark.parametrize(
    ("name", "asked", "versions"), [pytest.param(*row, id=named(row)) for row in POSSIBLE]
)
def test_what_is_possible_is_not_refused(name, asked, versions):
    """The nearest possible request to each fact passes, with the versions that can."""
    require(targets.target(name), asked)
    assert tensorrt_versions(targets.target(name), asked) == tuple(versions.split())


def test_every_rule_has_a_row(monkeypatch):
    """Without any one rule, a request of the table is refused for another reason or not at all."""

    def answer(name, asked):
        try:
            return require(targets.target(name), asked)
        except InputError as error:
            return str(error)

    def answers():
        return [answer(name, asked) for name, asked, *_ in REFUSED]

    with_all = answers()
    assert None not in with_all
    for rule in RULES:
        monkeypatch.setattr(feasibility, "RULES", tuple(r for r in RULES if r is not rule))
        assert answers() != with_all, rule.reason


def test_absent_fp16_is_refused_like_int8(lacking):
    """A GPU whose row says that FP16 is slow, as before SM 5.3, is refused for FP16."""
    row = replace(targets.target("l4"), slow={"fp16": "SM 6.1, TensorRT support matrix"})
    error = refused(row, Request(precision=FP16))
    assert lacking(str(error), "l4 | no fast fp16 | (SM 6.1, TensorRT support matrix)") == []
    require(row, Request(precision=INT8))


def test_a_batch_that_exactly_fits_is_accepted(lacking):
    """Memory is a limit, not one byte less; without activations no batch is named."""
    row = targets.target("orin-nano-4gb")
    fits = MemoryNeed(weights=GIB, activations=2 * GIB, workspace=GIB)
    require(row, Request(precision=INT8, memory=fits))
    error = refused(row, Request(precision=INT8, memory=replace(fits, weights=GIB + 1)))
    assert lacking(str(error), "needs | memory | 4 GiB") == []
    too_heavy = MemoryNeed(weights=5 * GIB, activations=GIB)
    error = refused(row, Request(precision=INT8, memory=too_heavy))
    assert lacking(error.hint, "no batch fits") == []


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("10", "'10' | minor version"),
        ("10.x", "'10.x' | no version"),
        ("", "'' | no version"),
    ],
)
def test_versions_are_read_strictly(lacking, version, line):
    """A version is numbers with at least a minor one."""
    error = refused(targets.target("agx-orin-64gb"), Request(precision=INT8, tensorrt=version))
    assert lacking(str(error), line) == []
