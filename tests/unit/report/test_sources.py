"""Which files belong together."""

from __future__ import annotations

import json

import pytest

from edge_inception.errors import InputError
from edge_inception.report.sources import with_noise


@pytest.fixture
def files(report, tmp_path):
    """Two folders with a report each, and a record of compare-layers on the graphs of the first."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report), encoding="utf-8")
    noise = {
        "graphs": [str(tmp_path / "a" / "model.onnx")], "images": [], "layers": [],
        "left_out": [], "jump": None,
    }  # fmt: skip
    (tmp_path / "noise.json").write_text(json.dumps(noise), encoding="utf-8")
    return tmp_path / "a", tmp_path / "b", tmp_path / "noise.json"


def test_noise_goes_to_the_report_beside_its_graphs(files):
    """Of two reports the one in the folder of the graphs has it; alone, a copied report does."""
    first, second, noise = files
    found = with_noise([second, noise, first])
    assert [one.noise is not None for one in found] == [False, True]
    assert with_noise([second, noise])[0].noise is not None


def test_noise_of_no_report_is_refused(files):
    """Given with reports of other folders it is an input error that names the folder."""
    first, _, noise = files
    record = json.loads(noise.read_text())
    noise.write_text(json.dumps({**record, "graphs": ["/elsewhere/model.onnx"]}))
    with pytest.raises(InputError, match="/elsewhere"):
        with_noise([first, files[1], noise])
    with pytest.raises(InputError):
        with_noise([noise])
