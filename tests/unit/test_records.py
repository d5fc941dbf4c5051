"""Records of files: what is no such record is one kind of error that says where, got and wanted."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_inception import records as subject
from edge_inception.errors import InputError


class Row(subject.Record, frozen=True, kw_only=True):
    name: str
    num_images: subject.Count
    share: subject.Share | None = None
    hashes: dict[str, subject.Sha256] = msgspec.field(default_factory=dict)


class Book(subject.Record, frozen=True, kw_only=True):
    schema: Annotated[int, msgspec.Meta(ge=1, le=2)]
    rows: tuple[Row, ...]


def read(text):
    value = subject.parse(text, where="book.json", hint="write it again")
    return subject.convert(Book, value, where="book.json", hint="write it again")


def row(**changes):
    return json.dumps({"schema": 1, "rows": [{"name": "a", "num_images": 2} | changes]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (row(num_images=-1), "at rows[0].num_images: got -1, wanted int >= 0"),
        (row(num_images="2"), "at rows[0].num_images: got str, wanted int"),
        (row(num_images=True), "at rows[0].num_images: got bool, wanted int"),
        (row(num_images=10**300), "at rows[0].num_images: got 1000"),
        (row(share=10**400), "at rows[0].share"),
        (row(share=1.5), "at rows[0].share: got 1.5, wanted float <= 1"),
        (row(hashes={"model": "zz"}), "at rows[0].hashes[...]"),
        (row(colour=1), "at rows[0]: object contains unknown field 'colour'"),
        ('{"schema": 1, "rows": [{"name": "a"}]}', "missing required field 'num_images'"),
        ('{"schema": 3, "rows": []}', "at schema: got 3, wanted int <= 2"),
        ("[]", "got array, wanted object"),
        ("null", "got null, wanted object"),
        ('{"schema": 1, "schema": 1, "rows": []}', "key 'schema' twice"),
        (row()[:-1], "not readable JSON"),
        (b"\xff\xfe{}", "not readable JSON"),
        (b"", "not readable JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"schema": NaN}', "NaN is not a finite number"),
        ('{"schema": -Infinity}', "-Infinity is not a finite number"),
        ('{"schema": 1e999}', "1e999 is not a finite number"),
        ('{"schema": 1' + "0" * 5000 + "}", "not readable JSON"),
        (row(name="a")[:-3].replace('"a"', '"\\ud800"') + "}]}", "not readable JSON"),
    ],
)
def test_what_is_no_record(text, says):
    """Each says the file, the place in it, what was got and what was wanted; exit code 3."""
    with pytest.raises(InputError) as caught:
        read(text)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith("book.json")
    assert says in str(caught.value)
    assert caught.value.hint == "write it again"


def test_nan_where_it_is_allowed():
    """A format whose figures may be infinite says so."""
    value = subject.parse("[NaN, Infinity, 1e999]", where="x", hint="", allow_nan=True)
    assert [str(one) for one in value] == ["nan", "inf", "inf"]


def test_a_pair_of_surrogates_is_a_character():
    """JSON's two escapes of one character beyond the basic plane are that character."""
    assert subject.parse('"\\ud83d\\ude00"', where="x", hint="") == "\U0001f600"


def test_a_file_that_is_none(tmp_path):
    """A missing file, a folder and one that is too long name themselves."""
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            subject.read(Book, path, hint="")


def test_too_long(tmp_path, monkeypatch):
    """A file beyond the limit is refused before it is read."""
    monkeypatch.setattr(subject, "MAX_BYTES", 3)
    (tmp_path / "long.json").write_text("    ")
    with pytest.raises(InputError, match=r"long\.json is longer than"):
        subject.read_json(tmp_path / "long.json", hint="")


ROWS = st.builds(
    Row,
    name=st.text(st.characters(exclude_categories=["Cs"])),
    num_images=st.integers(0, 2**53),
    share=st.none() | st.floats(0, 1),
    hashes=st.dictionaries(st.text("abc"), st.text("0123456789abcdef", min_size=64, max_size=64)),
)


@given(st.builds(Book, schema=st.integers(1, 2), rows=st.lists(ROWS).map(tuple)))
def test_round_trip(book):
    """What is written is read back equal."""
    assert read(subject.to_json(book)) == book


@given(st.binary() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_anything_else_is_an_input_error(text):
    """No bytes and no JSON value escape as another exception."""
    with pytest.raises(InputError):
        read(text)
