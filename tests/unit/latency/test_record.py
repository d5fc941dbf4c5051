"""Records of bench and compare, whatever version wrote them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest

from edge_inception.errors import InputError
from edge_inception.latency import record
from edge_inception.latency.record import read_record, read_records

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
    assert found["schema_version"] == 2
    run, before = found["runs"][0], old["runs"][0]
    assert run["p95"] == pytest.approx(np.percentile(before["samples_ms"], 95))
    assert run["throughput"] == pytest.approx(1000 / np.mean(before["samples_ms"]), rel=1e-4)
    assert run["median"] == before["median"]
    assert run["p99"] is None  # of 20 calls
    assert run["first_ms"] is run["peak_mib"] is run["foreign_cores"] is None
    assert found["device"]["architecture"] == "x86_64"
    assert found["protocol"]["threads"] is None


def test_the_shape_is_the_documented_one():
    """Every key that readers rely on is in the text."""
    text = record.__doc__
    for start, keys in (
        ("- ``engines`` by arm", record.SHAPE["engines"]["A"]),
        ("- ``runs``, one for each process:", record.SHAPE["runs"][0]),
        ("- ``result``, of", record._RESULT),
        ("- ``accuracy``, where", record._ACCURACY),
    ):
        words = text[text.index(start) + len(start) :].split(";\n- ``")[0]
        assert keys.keys() - set(re.findall(r"\w+", words)) == set(), start
    for key in record.SHAPE.keys() - {"schema", "schema_version"}:
        assert f"``{key}``" in text


def test_several_batches_are_several_records(old, written):
    """A list is read as it was written; where one is wanted it is refused with their number."""
    path = written([old, old])
    assert len(read_records(path)) == 2
    with pytest.raises(InputError, match="holds 2 records"):
        read_record(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: found.update(schema_version=3), "of version 3, this reads 1 to 2"),
        (lambda found: found.update(runs=[]), r"bench\.runs of each engine is missing"),
        (lambda found: found["runs"][0].update(mean="fast"), r"runs\[0\]\.mean is missing or"),
        (lambda found: found["runs"][0].update(mean=10**400), r"runs\[0\]\.mean is missing or"),
        (lambda found: found["runs"][0].pop("median"), r"runs\[0\]\.median is missing or"),
        (lambda found: found["device"].pop("power_mode"), r"device\.power_mode is missing or"),
        (lambda found: found["engines"].clear(), r"engines\.A is missing or"),
        (lambda found: found.update(schema="edge-inception/report"), "edge-inception/report"),
    ],
    ids=["later", "no-runs", "text", "huge", "no-median", "no-mode", "no-engine", "other"],
)
def test_what_is_no_whole_record_is_refused(change, told, old, written):
    """The place that is wrong is named."""
    change(old)
    with pytest.raises(InputError, match=told):
        read_record(written(old))


def test_a_comparison_needs_its_verdict(written):
    """A record of two engines without B, a result or a verdict that is one is damaged."""
    found = {**read_record(DEVICE_1), "kind": "ab"}
    with pytest.raises(InputError, match=r"bench\.result is missing"):
        read_record(written(found))
    with pytest.raises(InputError, match=r"engines\.B"):
        read_record(written({**found, "result": {}}))
    found["engines"]["B"] = copy.deepcopy(found["engines"]["A"])
    found["runs"].append({**found["runs"][0], "arm": "B"})
    result = {
        "ratio": None, "ci95": None, "method": None, "delta": 0.03, "k": 0, "verdict": "pass",
        "reasons": [], "sentence": "",
    }  # fmt: skip
    assert read_record(written({**found, "result": result}))["kind"] == "ab"
    with pytest.raises(InputError, match=r"result\.verdict"):
        read_record(written({**found, "result": {**result, "verdict": "fine"}}))
