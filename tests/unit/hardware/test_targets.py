"""Promises of the table of targets."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json

import pytest

from edge_inception.cli import main
from edge_inception.engines import _registry as backends
from edge_inception.errors import InputError
from edge_inception.hardware import jetpack, jetsons, target, targets

ROWS = list(targets.TARGETS.values())
JETSONS = [row for row in ROWS if row.is_jetson]
BY_NAME = targets.TARGETS
NUMBERS = ("bandwidth_gb_s", "int8_tops", "fp16_tflops", "fp8_tflops", "module_int8_tops")
PARSER = {"8.2": 13, "8.4": 17, "8.5": 17, "8.6": 17, "10.3": 20}  # onnx-tensorrt operators.md


def facts(row):
    """Every number of a target that is known, by name."""
    found = {name: getattr(row, name) for name in NUMBERS}
    found["dla"] = row.dla.int8_tops if row.dla else None
    return {name: fact for name, fact in found.items() if fact is not None}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_is_usable(row):
    """Each target names an existing backend, its key is its name, and its facts have sources."""
    assert targets.TARGETS[row.name] is row
    assert row.backend in backends.backend_names()
    assert row.sources
    assert all(row.sources)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_number_has_a_source_and_its_certainty(row):
    """No peak, bandwidth or core is without its source and one of four degrees of certainty."""
    for name, fact in facts(row).items():
        assert fact.value > 0, name
        assert fact.sure in target.SURE, name
        assert fact.source, name


@pytest.mark.parametrize("row", JETSONS, ids=lambda row: row.name)
def test_jetson_row_is_complete(row):
    """A Jetson has one compute capability, a JetPack range, a TensorRT range in order, memory."""
    assert len(row.compute_capabilities) == 1
    assert row.memory_gb
    assert row.bandwidth_gb_s
    oldest, newest = map(jetpack.parse_version, row.tensorrt)
    assert oldest <= newest
    assert jetpack.parse_version(row.jetpack[0]) <= jetpack.parse_version(row.jetpack[1])
    minor = ".".join(row.tensorrt[0].split(".")[:2])
    assert row.opset == PARSER.get(minor, 24)  # 24 from 10.13 on


def test_every_device_of_jetpack_is_a_target():
    """A JetPack row names no device that the table lacks; every module is named by one."""
    named = {name for row in jetpack.JETPACKS for name in row.devices}
    assert named == {row.name for row in JETSONS}
    assert {row.name for row in jetsons.MODULES} == named


@pytest.mark.parametrize("row", [row for row in ROWS if row.dla], ids=lambda row: row.name)
def test_module_is_gpu_and_dla_together(row):
    """The peak of the module is that of its GPU and of its DLA cores, within their rounding."""
    parts = row.int8_tops.value + row.num_dla_cores * row.dla.int8_tops.value
    # NVIDIA rounds totals to whole TOPS; Xavier's parts are recalled
    assert parts == pytest.approx(row.module_int8_tops.value, rel=0.02)


@pytest.mark.parametrize(
    ("name", "tops"),
    [
        # tensor cores x multiply-adds each x 2 x GHz
        ("agx-xavier-32gb", 64 * 128 * 2 * 1.377e-3),
        ("thor-t5000", 20 * 8192 * 2 * 1.575e-3),
        # half of NVIDIA's sparse figures
        ("orin-nano-4gb", 20 / 2),
        ("orin-nano-4gb-super", 34 / 2),
        ("orin-nano-8gb", 40 / 2),
        ("orin-nano-8gb-super", 67 / 2),
        ("orin-nx-8gb", 70 / 2 - 10),
        ("orin-nx-16gb", 100 / 2 - 2 * 10),
        ("agx-orin-32gb", 200 / 2 - 2 * 23),
        ("agx-orin-64gb", 275 / 2 - 2 * 26.25),
    ],
)
def test_dense_int8_peak(name, tops):
    """The peak of the GPU follows from its cores and clock, or from the advertised figure."""
    assert BY_NAME[name].int8_tops.value == pytest.approx(tops, rel=0.005)


@pytest.mark.parametrize("row", JETSONS, ids=lambda row: row.name)
def test_no_dla_where_there_is_none(row):
    """Xavier, Orin NX and AGX Orin have DLA cores; Nano, TX2, Orin Nano and Thor have none."""
    wanted = {"orin-nx-8gb": 1}.get(row.name, 2)
    has_none = row.name.startswith(("nano", "tx2", "orin-nano", "thor"))
    assert row.num_dla_cores == (0 if has_none else wanted)


@pytest.mark.parametrize(
    ("name", "releases", "tensorrt", "python"),
    [
        ("nano-4gb", ("4.6.1", "4.6.6"), ("8.2.1", "8.2.1"), "3.6"),
        ("agx-xavier-32gb", ("4.6.1", "5.1.6"), ("8.2.1", "8.5.2"), "3.8"),
        ("orin-nano-8gb", ("5.1.1", "7.2.2"), ("8.5.2", "10.16.2.10"), "3.12"),
        ("orin-nano-8gb-super", ("6.2", "7.2.2"), ("10.3.0.30", "10.16.2.10"), "3.12"),
        ("orin-nx-16gb", ("5.1", "7.2.2"), ("8.5.2", "10.16.2.10"), "3.12"),
        ("agx-orin-32gb", ("5.0.2", "7.2.2"), ("8.4.1", "10.16.2.10"), "3.12"),
        ("thor-t4000", ("7.1", "7.2.2"), ("10.13.3.9", "10.16.2.10"), "3.12"),
        ("l4", ("", ""), ("", ""), ""),
    ],
)
def test_releases_of_a_device(name, releases, tensorrt, python):
    """Oldest and newest release and TensorRT, without TensorRT 8.0 and what comes on top."""
    row = BY_NAME[name]
    assert (row.jetpack, row.tensorrt) == (releases, tensorrt)
    assert (row.releases[-1].python if row.releases else "") == python


@pytest.mark.parametrize(
    ("tensorrt", "opset"),
    [
        ("8.0.1", None),
        ("8.2.1", 13),
        ("8.4.1", 17),
        ("8.5.2", 17),
        ("8.6.2", 17),
        ("9.3", 19),
        ("10.3.0.30", 20),
        ("10.7.0", 20),
        ("10.13.3", 24),
        ("10.16", 24),
        ("11.4.1", 25),
    ],
)
def test_opset_of_a_parser(tensorrt, opset):
    """Ceilings of onnx-tensorrt's parsers; that of TensorRT 8.0 is not known."""
    assert jetpack.max_opset(tensorrt) == opset


def test_versions_compare_as_numbers():
    """10.3 is newer than 9.3 and is what ships as 10.3.0.30; words are refused."""
    (row,) = [row for row in jetpack.JETPACKS if row.first == "6.1" and row.is_stock]
    assert row.ships("10.3")
    assert row.ships("10.3.0.30")
    assert not row.ships("10.30")
    assert row.includes("6.1")
    assert not row.includes("6.2")
    with pytest.raises(InputError, match=r"'10\.x' is no version"):
        jetpack.parse_version("10.x")


def test_open_row_means_later_ones_too():
    """TensorRT 11.4.1 on top of JetPack 7.2.2 stands for 11.5 as well, not for 11.3 or 12."""
    row = jetpack.JETPACKS[-1]
    assert row.includes("7.3")
    assert not row.includes("7.2")
    assert [row.ships(v) for v in ("11.4", "11.4.1", "11.5", "11.3", "11.4.0", "12.0")] == [
        True,
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("row", JETSONS, ids=lambda row: row.name)
def test_jetson_is_refused_here(row):
    """A Jetson engine is compiled on the device alone: one line says so, the hint what works."""
    with pytest.raises(InputError, match="compiled on the device") as caught:
        targets.require_compilable(row)
    assert row.name in str(caught.value)
    assert "--target cpu" in caught.value.hint


@pytest.mark.parametrize("name", ["cpu", "rtx"])
def test_targets_of_this_machine_are_not_refused(name):
    """cpu and rtx compile on any machine that has their library."""
    targets.require_compilable(targets.target(name))


def test_unknown_target_gets_the_nearest_name():
    """A mistyped target is an input error with a suggestion and the whole list."""
    with pytest.raises(InputError, match="no target named 'orin-nano'") as caught:
        targets.target("orin-nano")
    assert "did you mean 'orin-nano-" in caught.value.hint
    assert all(name in caught.value.hint for name in targets.TARGETS)


@pytest.mark.parametrize(("is_installed", "expected"), [(True, ("cpu", "rtx")), (False, ("cpu",))])
def test_default_targets_follow_the_installed_libraries(monkeypatch, is_installed, expected):
    """rtx is built by default exactly where one of its modules can be found."""
    found = importlib.machinery.ModuleSpec("any", None) if is_installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    assert targets.default_targets() == expected


def test_rtx_table_is_what_the_library_offers():
    """The compute capabilities of the rtx row are those of the installed TensorRT-RTX."""
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    members = [name[2:] for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    offered = {f"{member[:-1]}.{member[-1]}" for member in members}
    assert set(targets.target("rtx").compute_capabilities) == offered


def test_compute_capabilities_reach_only_a_target_that_chooses():
    """What was asked for rtx reaches no other; a card that is compiled here has its own."""
    asked = ("8.6",)
    chosen = {
        name: targets.compute_capabilities(BY_NAME[name], asked)
        for name in ("rtx", "rtx-4090", "cpu", "orin-nano-8gb", "l4")
    }
    assert chosen == {
        "rtx": ("8.6",),
        "rtx-4090": ("8.9",),
        "cpu": (),
        "orin-nano-8gb": (),
        "l4": (),
    }


def test_card_is_refused_without_a_jetpack():
    """A card's engine is compiled where the card is; no JetPack is mentioned."""
    with pytest.raises(InputError, match="by its TensorRT, and not by this machine"):
        targets.require_compilable(BY_NAME["l4"])


@pytest.mark.parametrize("name", targets.TARGETS)
def test_everything_about_a_target_fits_80_columns(name, capsys):
    """NAME shows every number with its certainty, within the width of a terminal."""
    assert main.run(["targets", name]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    row = BY_NAME[name]
    words = " ".join(out.split())
    for fact in facts(row).values():
        assert f"{fact.value:g}" in words
        assert f"[{fact.sure}] {fact.source}" in words
    for release in row.releases:
        assert release.name in out


def test_list_marks_what_is_not_certain(capsys):
    """A figure without a primary source has a tilde, an unknown one a question mark."""
    assert main.run(["targets"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert lines["agx-orin-64gb"][3:8] == ["64", "85", "42.5", "205", "2"]
    assert lines["xavier-nx-8gb"][4] == "~12.3"
    assert lines["thor-t4000"][4] == "?"
    assert lines["agx-xavier-32gb"][6] == "~137"  # 136.5
    assert lines["nano-4gb"][4] == "-"
    assert lines["orin-nano-8gb"][-1] == "8.5-10.16"


def test_targets_as_json(capsys):
    """JSON holds the same: facts with source and certainty, releases with their opset."""
    assert main.run(["targets", "agx-orin-64gb", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["int8_tops"] == {
        "value": 85,
        "sure": "V",
        "source": "NVIDIA datasheet DS-10662-001 v1.6",
    }
    assert record["dla"]["int8_tops"]["value"] == 26.25
    assert record["fp8_tflops"] is None
    assert [row["opset"] for row in record["releases"]] == [17, 17, 20, 20, 20, 24, 25]
    assert main.run(["targets", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(BY_NAME)


def test_unknown_name_in_the_command(capsys):
    """A mistyped NAME is one line, exit 3."""
    assert main.run(["targets", "orin"]) == 3
    assert capsys.readouterr().err.startswith("error: no target named 'orin'\n")
