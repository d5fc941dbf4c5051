"""Records of bench and compare, whatever version wrote them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from edge_inception.errors import InputError
from edge_inception.latency import record
from edge_inception.latency.facts import EngineFacts
from edge_inception.latency.record import read_record, read_records, to_json

# what device.py bench wrote when version 1 was new (commit 6b6c488), run on a CPU bundle
DEVICE_1 = Path(__file__).with_name("records") / "device-1.json"


@pytest.fixture
def old():
    return json.loads(DEVICE_1.read_text(encoding="utf-8"))


@pytest.fixture
def written(tmp_path):
    """JSON -> its file."""

    def write(found):
        path = tmp_path / "record.json"
        path.write_text(json.dumps(found), encoding="utf-8")
        return path

    return write


def test_version_1_is_read_as_version_2(old):
    """What follows from the samples is computed, what was never recorded is null."""
    found = read_record(DEVICE_1)
    assert found.schema_version == 2
    run, before = found.runs[0], old["runs"][0]
    assert run.p95 == pytest.approx(np.percentile(before["samples_ms"], 95))
    assert run.throughput == pytest.approx(1000 / np.mean(before["samples_ms"]), rel=1e-4)
    assert run.median == before["median"]
    assert run.p99 is None  # of 20 calls
    assert run.first_ms is run.peak_mib is run.foreign_cores is None
    assert found.device.architecture == "x86_64"
    assert found.protocol.threads is None


def test_what_trtexec_measured_is_read(old, written):
    """It tells neither when it began nor how long it took to open the engine: both are null."""
    run = old["runs"][0]
    del run["open_s"]
    run.update(t0=None, runner="trtexec", metric="h2d_compute_d2h_ms", spin_wait=True)
    found = read_record(written(old)).runs[0]
    assert found.t0 is found.open_s is None
    assert found.runner == "trtexec"


def test_the_shape_is_the_documented_one():
    """Every key that readers rely on is in the text."""
    text = record.__doc__
    for start, kind in (
        ("- ``engines`` by arm", EngineFacts),
        ("- ``runs``, one for each process:", record.RunRecord),
        ("- ``result``, of", record.ResultRecord),
        ("- ``accuracy``, where", record.AccuracyRecord),
        ("- ``layers``, of", record.Layer),
        ("- ``against``, where", record.Against),
        ("- ``bundle``, where", record.Bundle),
    ):
        words = text[text.index(start) + len(start) :].split(";\n- ``")[0]
        optional = len(kind.__struct_defaults__) if kind is not record.ResultRecord else 0
        needed = kind.__struct_encode_fields__[: len(kind.__struct_fields__) - optional]
        assert set(needed) - set(re.findall(r"\w+", words)) == set(), start
    for key in set(record.BenchRecord.__struct_fields__) - {"schema", "schema_version"}:
        assert f"``{key}``" in text


def test_several_batches_are_several_records(old, written):
    """A list is read as it was written; where one is wanted it is refused with their number."""
    path = written([old, old])
    assert len(read_records(path)) == 2
    with pytest.raises(InputError, match="holds 2 records"):
        read_record(path)
    del old["runs"][0]["median"]
    with pytest.raises(InputError, match=r"record\.json, record 1, at runs\[0\]: .*'median'"):
        read_records(written([read_json(DEVICE_1), old]))


def run_with(**changes):
    return lambda found: found["runs"][0].update(changes)


def with_(**changes):
    return lambda found: found.update(changes)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_(schema_version=3), "of version 3, this reads 1 to 2"),
        (with_(schema_version="2"), "at schema_version: got str, wanted int"),
        (with_(schema="edge-inception/report"), "edge-inception/report"),
        (lambda found: found.pop("schema"), "holds schema None"),
        (with_(kind="both"), "at kind: "),
        (with_(runs=[]), "at runs: got those of none, wanted those of A"),
        (run_with(mean="fast"), r"at runs\[0\]\.mean: got str, wanted float"),
        (run_with(mean=10**400), r"at runs\[0\]\.mean: number out of range"),
        (run_with(n=-1), r"at runs\[0\]\.n: got -1, wanted int >= 0"),
        (run_with(n=10**400), r"at runs\[0\]\.n: got 1000"),
        (run_with(arm="B"), "at runs: got those of B, wanted those of A"),
        (run_with(colour=1), r"at runs\[0\]: .*unknown field 'colour'"),
        (lambda found: found["runs"][0].pop("median"), r"at runs\[0\]: .*missing .*'median'"),
        (lambda found: found["engines"].clear(), "at engines: "),
        (lambda found: found["engines"].update(C=found["engines"]["A"]), "at engines"),
        (lambda found: found["protocol"].update(batch=True), r"protocol\.batch: got bool, wanted"),
        (lambda found: found["device"].update(power_mode=15), r"at device\.power_mode: got int"),
    ],
)
def test_what_is_no_whole_record_is_refused(version, change, told, old, written):
    """The file and the place that is wrong are named, with what was got and wanted."""
    found = old if version == 1 else read_json_of(read_record(DEVICE_1))
    change(found)
    path = written(found)
    with pytest.raises(InputError, match=told) as caught:
        read_record(path)
    assert str(caught.value).startswith(str(path))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["device"].pop("power_mode"),
        lambda found: found["runs"][0].update(samples_ms=[]),
        lambda found: found["runs"][0].update(mean=0),
        lambda found: found.pop("bundle"),
    ],
)
def test_what_the_upgrade_needs(change, old, written):
    """Version 1 without what version 2 is computed from is refused before it is."""
    change(old)
    with pytest.raises(
        InputError,
        match=r"at device: .*power_mode|runs\[0\]: got no call that took|at bundle: got none",
    ):
        read_record(written(old))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"schema": 1, "schema": 1}']
)
def test_what_is_no_record_at_all(text, tmp_path):
    """Neither is it taken for one, nor is there a traceback."""
    path = tmp_path / "record.json"
    path.write_bytes(text)
    assert not record.is_record(path)
    with pytest.raises(InputError, match=r"record\.json"):
        read_records(path)


def test_a_comparison_needs_its_verdict(written):
    """A record of two engines without B, a result or a verdict that is one is damaged."""
    found = {**read_json_of(read_record(DEVICE_1)), "kind": "ab"}
    with pytest.raises(InputError, match="at result: got none, wanted that of a comparison"):
        read_record(written(found))
    result = {
        "ratio": None, "ci95": None, "method": None, "delta": 0.03, "k": 0, "verdict": "pass",
        "reasons": [], "sentence": "",
    }  # fmt: skip
    with pytest.raises(InputError, match="at engines: got A, wanted A and B"):
        read_record(written({**found, "result": result}))
    found["engines"]["B"] = copy.deepcopy(found["engines"]["A"])
    found["runs"].append({**found["runs"][0], "arm": "B"})
    assert read_record(written({**found, "result": result})).kind == "ab"
    with pytest.raises(InputError, match=r"at result\.verdict: .*'fine'"):
        read_record(written({**found, "result": {**result, "verdict": "fine"}}))


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_of(found):
    return json.loads(to_json(found))


FIXED = {"schema", "schema_version", "kind", "engines", "runs", "result"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def whole():
    """A comparison, one part of which is any that its type allows."""
    first = read_record(DEVICE_1)
    result = record.ResultRecord(
        ratio=1.0, ci95=(0.9, 1.1), method="t", delta=0.03, k=3, verdict=record.Verdict.PASS,
        reasons=(), sentence="",
    )  # fmt: skip
    base = structs.replace(first, kind="aa", result=result)
    hints = get_type_hints(record.BenchRecord, include_extras=True)
    parts = {name: values_of(hints[name]) for name in hints.keys() - FIXED} | {
        "engines": of(EngineFacts).map(lambda one: {"A": one}),
        "runs": of(record.RunRecord, side=st.just("A")).map(lambda one: (one,)),
        "result": of(record.ResultRecord),
    }
    return st.one_of(
        part.map(lambda value, name=name: structs.replace(base, **{name: value}))
        for name, part in parts.items()
    )


def of(kind, /, **fields):
    """Records of a kind, those inside it too; each optional field there or not."""
    hints = get_type_hints(kind, include_extras=True)
    made = {name: values_of(hints[name]) for name in kind.__struct_fields__}
    return st.builds(kind, **(made | fields))


SCALARS = {
    float: st.floats(allow_nan=False, allow_infinity=False),
    int: st.integers(-(2**53), 2**53),
    str: TEXT,
    msgspec.UnsetType: st.just(msgspec.UNSET),
}


def values_of(hint):
    origin, inner = get_origin(hint), get_args(hint)
    made = {
        Union: lambda: st.one_of(map(values_of, inner)),
        UnionType: lambda: st.one_of(map(values_of, inner)),
        Annotated: lambda: st.integers(1, 2**53),
        tuple: lambda: st.lists(values_of(inner[0]), min_size=2, max_size=2).map(tuple),
        dict: lambda: st.dictionaries(TEXT, values_of(inner[1]), max_size=2),
    }
    if origin in made:
        return made[origin]()
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return of(hint)
    return SCALARS.get(hint, st.from_type(hint))


@settings(deadline=None)  # the machine may be busy
@given(whole())
def test_round_trip(tmp_path_factory, found):
    """What is written is read back equal, and written again the same."""
    path = tmp_path_factory.mktemp("round") / "record.json"
    path.write_bytes(to_json(found))
    again = read_record(path)
    assert again == found
    assert to_json(again) == to_json(found)
