"""The range table as a file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import sidecars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from edge_inception import artifact
from edge_inception.artifact import Provenance, RangeTable
from edge_inception.errors import InputError
from edge_inception.quant import ranges
from edge_inception.quant.ranges import Table, TensorRange
from edge_inception.spec import Preprocess

TABLE = Table(
    schema=2,
    graph="a" * 64,
    set="photos",
    set_sha256="b" * 64,
    num_images=3,
    calibrator="mse",
    preprocess=Preprocess(input_size=(8, 8)),
    tensors={"z": TensorRange(amax=0.1, observed_amax=1 / 3, scale_of="z")},
)


@pytest.fixture
def publish(tmp_path):
    def write(text):
        return artifact.publish(
            RangeTable,
            tmp_path / "ranges.json",
            text.encode(),
            provenance=Provenance(stage="calibrate", parents={}, options={}, tools={}, source=""),
            details=sidecars.of(RangeTable),
        )

    return write


def test_a_table_reads_back_equal(publish):
    """Writing and reading lose no bit of any number."""
    assert ranges.read_table(publish(ranges.table_text(TABLE))) == TABLE


TEXT = st.text(st.characters(exclude_categories=("Cs",)))
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
AMAX = st.floats(0, allow_infinity=False)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
SIZE = st.integers(1, 2**53)
TABLES = st.builds(
    Table,
    schema=st.just(2),
    graph=SHA256,
    set=TEXT,
    set_sha256=SHA256,
    num_images=st.integers(0, 2**53),
    calibrator=TEXT,
    preprocess=st.builds(
        Preprocess, input_size=st.tuples(SIZE, SIZE), std=st.tuples(FLOAT, FLOAT, FLOAT)
    ),
    shard=st.tuples(SIZE, SIZE),
    tensors=st.dictionaries(
        TEXT, st.builds(TensorRange, amax=AMAX, observed_amax=AMAX, scale_of=TEXT), max_size=3
    ),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TABLES)
def test_round_trip(publish, table):
    """Whatever calibrate writes is read back equal, and written again the same."""
    text = ranges.table_text(table)
    found = ranges.read_table(publish(text))
    assert found == table
    assert ranges.table_text(found) == text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 2}'])
def test_what_is_no_table_is_refused(publish, text):
    """Broken JSON, another shape, another schema."""
    with pytest.raises(InputError, match=r"ranges\.json") as caught:
        ranges.read_table(publish(text))
    assert caught.value.hint == "run calibrate again"


def test_a_table_that_is_gone_is_refused(publish):
    """The file may be removed after its sidecar was read."""
    table = publish(ranges.table_text(TABLE))
    table.path.unlink()
    with pytest.raises(InputError, match=r"cannot read .*ranges\.json"):
        ranges.read_table(table)


@pytest.mark.parametrize("amax", ["NaN", "Infinity", "-1.0"])
def test_an_amax_that_is_no_magnitude_is_refused(publish, amax):
    """NaN, infinity and negative numbers name the tensor."""
    record = json.loads(ranges.table_text(TABLE))
    record["tensors"]["z"]["amax"] = float(amax)
    with pytest.raises(InputError, match="tensor 'z' has amax"):
        ranges.read_table(publish(json.dumps(record)))


def test_the_hint_for_a_table_of_a_fine_tuned_graph_trains_again(publish, model, save):
    """Ranges and weights come of one run of train: calibrate would part them."""
    found = publish(ranges.table_text(TABLE))
    tuned = replace(found, provenance=structs.replace(found.provenance, stage="qat"))
    with pytest.raises(InputError, match="of another graph") as caught:
        ranges.table_for(save(model), tuned)
    assert caught.value.hint.startswith("edge-inception train --qat RANGES")
    assert caught.value.hint.endswith(f"--out {found.path.parent}")
