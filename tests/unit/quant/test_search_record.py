"""The record of a search as a file."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_inception.errors import InputError
from edge_inception.quant import search_record
from edge_inception.quant.search_record import RankedGroup, ScoredSet, SearchOutcome, SearchRecord

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
NUMBER = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)
SCORED = st.builds(
    ScoredSet,
    keep=TEXTS,
    drop_pp=NUMBER,
    noise_to_signal=NUMBER,
    worst_tenth_noise_to_signal=NUMBER,
    float_share_of_macs=NUMBER,
)
OUTCOME = st.builds(
    SearchOutcome,
    metric=TEXT,
    num_images=st.integers(0, 2**53),
    fp32_top1=st.none() | NUMBER,
    max_drop_pp=NUMBER,
    drop_type=TEXT,
    allowed_pp=NUMBER,
    is_met=st.booleans(),
    why=TEXT,
    chosen=SCORED,
    kept=st.dictionaries(TEXT, TEXTS, max_size=2),
    front=st.lists(SCORED, max_size=2).map(tuple),
)
RANKED = st.builds(
    RankedGroup,
    group=TEXT,
    layers=TEXTS,
    free_noise_to_signal=NUMBER,
    harm=st.none() | NUMBER,
    lost_pp=st.none() | NUMBER,
    float_share_of_macs=NUMBER,
)
RECORDS = st.builds(
    SearchRecord,
    schema=st.just(search_record.SCHEMA),
    outcome=OUTCOME,
    points=st.lists(SCORED, max_size=2).map(tuple),
    ranking=st.lists(RANKED, max_size=2).map(tuple),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECORDS)
def test_round_trip(tmp_path, record):
    """What a search writes is read back equal; a whole number stays one: the bytes are the same."""
    path = tmp_path / "model.search.json"
    path.write_bytes(search_record.to_json(record))
    found = search_record.read(path)
    assert found == record
    assert search_record.to_json(found) == path.read_bytes()


def test_another_schema_is_refused(tmp_path):
    """A record of a later version is none of ours."""
    path = tmp_path / "model.search.json"
    path.write_text('{"schema": 2, "outcome": {}, "points": [], "ranking": []}', encoding="utf-8")
    with pytest.raises(InputError, match="at schema: ") as caught:
        search_record.read(path)
    assert caught.value.hint == "search again"
