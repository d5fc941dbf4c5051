"""Records of bench and compare, shown again."""

from __future__ import annotations

import json

import pytest

from edge_inception import cli


@pytest.fixture
def shown(tmp_path, capsys):
    """(record, flags) -> exit code and what was printed."""

    def show(record, *flags):
        path = tmp_path / "record.json"
        path.write_text(json.dumps(record), encoding="utf-8")
        code = cli.run(["report", str(path), *flags])
        return code, capsys.readouterr()

    return show


def test_a_comparison_ends_with_its_verdict(compared, shown):
    """The exit code is that of compare, of the worse of latency and accuracy."""
    code, said = shown(compared)
    assert code == 6
    assert said.out.splitlines()[-1] == "FAILED: fail, B is 10.0 % slower than A, limit +3 %"
    compared["result"]["verdict"] = "improved"
    compared["accuracy"] = {
        "verdict": "inconclusive", "sentence": "drop 1.00 pp", "num_images": 100,
        "drop_pp": {"value": 1.0, "lower": -1.0, "upper": 3.0},
    }  # fmt: skip
    assert shown(compared)[0] == 8


def test_several_batches_are_all_shown(single, shown):
    """A list, as bench writes of several batches: each with its figures; exit 0."""
    four = {**single, "protocol": {**single["protocol"], "batch": 4}}
    code, said = shown([single, four])
    assert code == 0
    assert "batch 1, 1 streams" in said.out
    assert "batch 4, 1 streams" in said.out


def test_a_damaged_record_is_an_input_error(single, shown):
    """The place is named, and nothing is shown."""
    del single["runs"][0]["p90"]
    code, said = shown(single)
    assert code == 3
    assert "runs[0].p90 is missing" in said.err
    assert not said.out
