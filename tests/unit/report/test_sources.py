"""Which files belong together."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_inception import records
from edge_inception.errors import InputError
from edge_inception.report.noise_record import NoiseRecord, NoisyLayer
from edge_inception.report.sources import read_sources


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
    found = read_sources([second, noise, first])
    assert [one.noise is not None for one in found] == [False, True]
    assert read_sources([second, noise])[0].noise is not None


def test_noise_of_no_report_is_refused(files):
    """Given with reports of other folders it is an input error that names the folder."""
    first, _, noise = files
    record = json.loads(noise.read_text())
    noise.write_text(json.dumps({**record, "graphs": ["/elsewhere/model.onnx"]}))
    with pytest.raises(InputError, match="/elsewhere"):
        read_sources([first, files[1], noise])
    with pytest.raises(InputError):
        read_sources([noise])


LAYER = {
    "name": "a", "op": "Conv", "tensor": "x", "sqnr_db": 20.0, "input_sqnr_db": 30.0,
    "read_sqnr_db": 30.0, "noisiest_input": "y", "is_jump": True, "is_scale_to_blame": False,
    "worst_image": "a.png",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": [LAYER | {"sqnr_db": "loud"}]}, "at layers[0].sqnr_db: got str, wanted float"),
        ({"layers": [LAYER | {"sqnr_db": math.nan}]}, "NaN is not a finite number"),
        ({"layers": [LAYER | {"colour": 1}]}, "at layers[0]: object contains unknown field"),
        ({"layers": "x"}, "at layers: got str, wanted array"),
        ({"graphs": [3]}, "at graphs[0]: got int, wanted str"),
        ({"jump": {}}, "at jump: object missing required field"),
        ({"version": 1}, "object contains unknown field 'version'"),
    ],
)
def test_a_damaged_record_of_noise_is_refused(files, change, says):
    """The file and the place in it are named; exit code 3."""
    first, _, path = files
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_sources([first, path])
    assert says in str(caught.value)
    assert "noise.json" in str(caught.value)
    assert caught.value.exit_code == 3


@given(
    st.builds(
        NoiseRecord,
        graphs=st.just(("a",)),
        images=st.lists(st.text("ab")).map(tuple),
        layers=st.lists(st.floats(-300, 300), max_size=3).map(
            lambda values: tuple(NoisyLayer(**LAYER | {"sqnr_db": one}) for one in values)
        ),
        left_out=st.just(()),
        jump=st.none() | st.just(NoisyLayer(**LAYER)),
    )
)
def test_a_record_of_noise_is_read_as_it_was_written(record):
    """A round trip through JSON."""
    value = records.parse(records.to_json(record), where="", hint="")
    assert records.convert(NoiseRecord, value, where="", hint="") == record
