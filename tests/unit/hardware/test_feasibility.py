"""The refusal table: what cannot be built, one row per fact with its source; and what can."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_inception.errors import InputError
from edge_inception.hardware import targets
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

DEVICES = '(docs/hardware.md, "Jetson modules")'
JETPACKS = '(docs/hardware.md, "JetPack releases")'
DLA = '(TensorRT 11.4.1 release notes and support matrix, docs/dla.md, "Versions with DLA")'
DLA_LIMITS = '(TensorRT, DLA supported layers and restrictions, docs/dla.md, "Limits")'
MATRIX = '(TensorRT 11.4.1 support matrix, docs/hardware.md, "JetPack releases")'
API = '(tags of NVIDIA/TensorRT, docs/tensorrt.md, "Versions")'
ENUMS = '(tags of NVIDIA/TensorRT, docs/tensorrt.md, "Names")'
PARSERS = '(operators.md per branch of onnx/onnx-tensorrt, docs/tensorrt.md, "Opsets")'
NO_DLA = f"it has no DLA {DEVICES}"
GAP = "has no DLA: 10.7 had, 11.4.1 has again, on AGX Orin"
NO_QDQ = "takes no Q/DQ nodes, but a calibration cache"

ORIN_NANO_BRINGS = "8.5.2, 8.6.2, 10.3.0.30, 10.7.0.23, 10.16.2.10"
AGX_BRINGS = f"{ORIN_NANO_BRINGS}, 11.4.1"

# target, what is asked, the message behind "TARGET: ", the hint
REFUSED = [
    # 1.1: no fast INT8
    (
        "nano-4gb",
        Request(precision=INT8),
        "its GPU has no fast int8 instructions (no fast INT8 at SM 5.3, " + DEVICES[1:],
        "build another precision; `edge-inception targets nano-4gb` shows its peaks",
    ),
    (
        "tx2-8gb",
        Request(precision=INT8),
        (
            "its GPU has no fast int8 instructions (SM 6.2 is not in TensorRT's list of fast INT8, "
            'docs/hardware.md, "Jetson modules", recalled)'
        ),
        "build another precision; `edge-inception targets tx2-8gb` shows its peaks",
    ),
    # 1.1: no DLA hardware
    *(
        (name, Request(precision=FP16, dla=True), NO_DLA, "build for the GPU alone")
        for name in ("nano-4gb", "tx2-8gb", "thor-t5000", "thor-t4000", "l4", "rtx", "cpu")
    ),
    *(
        (f"orin-nano-{size}", Request(precision=INT8, dla=True), NO_DLA, "build for the GPU alone")
        for size in ("4gb", "8gb", "4gb-super", "8gb-super")
    ),
    # 3.1: DLA comes and goes with TensorRT
    *(
        (
            "agx-orin-64gb",
            Request(precision=INT8, dla=True, tensorrt=version),
            f"TensorRT {version} {GAP} {DLA}",
            "build for the GPU alone",
        )
        for version in ("10.8", "10.13.3", "10.16.2.10", "11.0", "11.3", "11.4.0")
    ),
    *(
        (
            name,
            Request(precision=INT8, dla=True, jetpack="7.2"),
            f"TensorRT 10.16.2.10 {GAP} {DLA}",
            "build for the GPU alone",
        )
        for name in ("orin-nx-8gb", "orin-nx-16gb", "agx-orin-32gb")
    ),
    (
        "orin-nx-16gb",
        Request(precision=INT8, dla=True, tensorrt="11.4.1"),
        f"TensorRT 11.4.1 knows the DLA of AGX Orin alone {DLA}",
        "build for the GPU alone",
    ),
    # 3.2: what DLA computes
    (
        "agx-orin-64gb",
        Request(precision=FP32, dla=True),
        f"DLA computes in fp16 and int8, not in fp32 {DLA_LIMITS}",
        "--precision int8 or fp16",
    ),
    (
        "xavier-nx-8gb",
        Request(precision=INT8, dla=True, batch=8, is_dynamic=True),
        f"DLA takes no dynamic batch: min, opt and max must be equal {DLA_LIMITS}",
        "export with a static batch",
    ),
    (
        "agx-orin-64gb",
        Request(precision=INT8, dla=True, batch=4097),
        f"DLA takes a batch of 4096 at most, asked for 4097 {DLA_LIMITS}",
        "a smaller --batch",
    ),
    *(
        (
            "agx-orin-64gb",
            Request(precision=INT8, dla=True, typing=typing, tensorrt=version),
            f"DLA of TensorRT {version} {NO_QDQ} {DLA_LIMITS}",
            "--quantization implicit",
        )
        for typing, version in (("weak", "8.5.2"), ("weak", "8.6.2"), ("strong", "10.7.0.23"))
    ),
    # 1.2: TensorRT 11 and JetPack
    *(
        (
            name,
            Request(precision=FP16, tensorrt=version),
            f"TensorRT {version} runs on no JetPack; 11.4.1 is the first of 11 that does {MATRIX}",
            f"its JetPacks bring {brings}",
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
        f"none of its JetPacks brings TensorRT 11.4.1 {JETPACKS}",
        "they bring 10.16.2.10",
    ),
    (
        "orin-nano-8gb",
        Request(precision=FP16, tensorrt="11.4.1"),
        f"none of its JetPacks brings TensorRT 11.4.1 {JETPACKS}",
        f"they bring {ORIN_NANO_BRINGS}",
    ),
    # 1.2: versions that no JetPack of the device ships
    (
        "nano-4gb",
        Request(precision=FP16, tensorrt="8.5.2"),
        f"none of its JetPacks brings TensorRT 8.5.2 {JETPACKS}",
        "they bring 8.2.1",
    ),
    (
        "agx-xavier-32gb",
        Request(precision=INT8, tensorrt="10.3"),
        f"none of its JetPacks brings TensorRT 10.3 {JETPACKS}",
        "they bring 8.2.1, 8.4.1, 8.5.2",
    ),
    (
        "thor-t5000",
        Request(precision=INT8, tensorrt="10.3"),
        f"none of its JetPacks brings TensorRT 10.3 {JETPACKS}",
        "they bring 10.13.3.9, 10.16.2.10, 11.4.1",
    ),
    (
        "orin-nano-8gb-super",
        Request(precision=INT8, tensorrt="8.6.2"),
        f"none of its JetPacks brings TensorRT 8.6.2 {JETPACKS}",
        "they bring 10.3.0.30, 10.7.0.23, 10.16.2.10",
    ),
    (
        "nano-4gb",
        Request(precision=FP16, jetpack="4.6"),
        (
            "TensorRT 8.0.1 is older than 8.2, the oldest this project builds for "
            '(docs/architecture.md, "One typed graph")'
        ),
        "update the JetPack",
    ),
    (
        "orin-nano-8gb",
        Request(precision=INT8, jetpack="7.1"),
        f"JetPack 7.1 does not support it {JETPACKS}",
        "known: 5.1.1 to 5.1.6, 6.0, 6.1, 6.2 to 6.2.2, 7.2 to 7.2.2",
    ),
    (
        "l4",
        Request(precision=INT8, jetpack="6.2"),
        f"it is no Jetson and has no JetPack 6.2 {JETPACKS}",
        "leave the JetPack version out",
    ),
    *(
        (
            name,
            Request(precision=INT8, tensorrt="10.3"),
            f"it is compiled by {backend}, not by TensorRT 10.3 (targets.py)",
            "leave the TensorRT version out",
        )
        for name, backend in (("cpu", "openvino"), ("rtx-4090", "tensorrt_rtx"))
    ),
    # 2.1, 2.2: how precision is said
    (
        "l4",
        Request(precision=INT8, typing="weak", tensorrt="11.0"),
        f"TensorRT 11.0 has no weak typing: 11 removed its flags and calibrators {API}",
        "the strongly typed graph",
    ),
    (
        "agx-orin-64gb",
        Request(precision=INT8, typing="implicit", tensorrt="11.4.1"),
        f"TensorRT 11.4.1 has no implicit typing: 11 removed its flags and calibrators {API}",
        "the strongly typed graph",
    ),
    *(
        (
            name,
            Request(precision=FP16, typing="strong", tensorrt=version),
            f"TensorRT {version} has no strongly typed networks {ENUMS}",
            "the weakly typed graph",
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
            f"TensorRT {version} takes no uint8 input, 8.5 is the first that does {ENUMS}",
            "export without --fold-preprocessing, so that the input is float32",
        )
        for name, version in (("nano-4gb", "8.2.1"), ("agx-xavier-32gb", "8.4.1"))
    ),
    # 1.3: what the parser reads
    *(
        (
            name,
            Request(precision=FP16, tensorrt=version, opset=opset),
            (
                f"TensorRT {version} parses ONNX opset {opset - 1} at most, the graph has {opset} "
                f"{PARSERS}"
            ),
            "export with a lower opset; 13 is parsed by all",
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
            "batch 64 needs at least 4,352 MiB (weights 256, activations 3,072, workspace 1,024), "
            f"its memory is 4 GiB {DEVICES}"
        ),
        # (4 - 1/4 - 1) GiB of the 3 GiB that 64 images take: 58.67
        "batch 58 is the largest that could fit; the system needs some too",
    ),
    # no version of TensorRT is named, and each has its own reason
    (
        "orin-nx-16gb",
        Request(precision=INT8, dla=True, typing="strong"),
        (
            f"TensorRT 8.6.2 has no strongly typed networks {ENUMS}; "
            f"DLA of TensorRT 10.7.0.23 {NO_QDQ} {DLA_LIMITS}; TensorRT 10.16.2.10 {GAP} {DLA}"
        ),
        "the weakly typed graph",
    ),
    (
        "nano-4gb",
        Request(precision=FP16, opset=17),
        f"TensorRT 8.2.1 parses ONNX opset 13 at most, the graph has 17 {PARSERS}",
        "export with a lower opset; 13 is parsed by all",
    ),
    (
        "agx-xavier-64gb",
        Request(precision=INT8, typing="strong"),
        f"TensorRT 8.5.2 has no strongly typed networks {ENUMS}",
        "the weakly typed graph",
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


@pytest.mark.parametrize(
    ("name", "asked", "message", "hint"), [pytest.param(*row, id=named(row)) for row in REFUSED]
)
def test_refusal_table(name, asked, message, hint):
    """Each impossible request is refused with exactly its reason, its source and what to do."""
    with pytest.raises(InputError) as caught:
        require(targets.target(name), asked)
    assert str(caught.value) == f"{name}: {message}"
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("name", "asked", "versions"), [pytest.param(*row, id=named(row)) for row in POSSIBLE]
)
def test_what_is_possible_is_not_refused(name, asked, versions):
    """The nearest possible request to each fact passes, with the versions that can."""
    require(targets.target(name), asked)
    assert tensorrt_versions(targets.target(name), asked) == tuple(versions.split())


def test_every_rule_has_a_row():
    """No rule is without a request that it alone decides."""
    said = [message for _, _, message, _ in REFUSED]
    for rule in RULES:
        words = rule.reason.rpartition("}")[2].strip()
        assert any(words in message for message in said), rule.reason


def test_absent_fp16_is_refused_like_int8():
    """A GPU whose row says that FP16 is slow, as before SM 5.3, is refused for FP16."""
    row = replace(targets.target("l4"), slow={"fp16": "SM 6.1, TensorRT support matrix"})
    with pytest.raises(InputError) as caught:
        require(row, Request(precision=FP16))
    assert str(caught.value) == (
        "l4: its GPU has no fast fp16 instructions (SM 6.1, TensorRT support matrix)"
    )
    require(row, Request(precision=INT8))


def test_a_batch_that_exactly_fits_is_accepted():
    """Memory is a limit, not one byte less; without activations no batch is named."""
    row = targets.target("orin-nano-4gb")
    fits = MemoryNeed(weights=GIB, activations=2 * GIB, workspace=GIB)
    require(row, Request(precision=INT8, memory=fits))
    with pytest.raises(InputError, match="needs at least"):
        require(row, Request(precision=INT8, memory=replace(fits, weights=GIB + 1)))
    too_heavy = MemoryNeed(weights=5 * GIB, activations=GIB)
    with pytest.raises(InputError) as caught:
        require(row, Request(precision=INT8, memory=too_heavy))
    assert caught.value.hint == "no batch fits; the system needs some too"


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("10", "TensorRT '10' leaves the minor version open"),
        ("10.x", "'10.x' is no version"),
        ("", "'' is no version"),
    ],
)
def test_versions_are_read_strictly(version, line):
    """A version is numbers with at least a minor one."""
    with pytest.raises(InputError) as caught:
        require(targets.target("agx-orin-64gb"), Request(precision=INT8, tensorrt=version))
    assert str(caught.value) == line
