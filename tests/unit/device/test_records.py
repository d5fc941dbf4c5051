"""Records of the device: what is written is read again, and whatever else is a refusal."""

from __future__ import annotations

import contextlib
import copy
import json
import typing

import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_inception.cli import main
from edge_inception.device import device, manifest, measure, records, store, verify
from edge_inception.device.errors import Refusal

WHOLE = st.integers(-(2**53), 2**53)
SCALARS = {
    str: st.text(max_size=8), int: WHOLE, bool: st.booleans(), type(None): st.none(),
    float: st.floats(allow_nan=False, allow_infinity=False) | WHOLE,
}  # fmt: skip


def values_of(kind):
    """Values of a record's type."""
    if kind in SCALARS:
        return SCALARS[kind]
    if hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{name: values_of(one) for name, one in hints.items()})
    origin, inner = typing.get_origin(kind), [values_of(one) for one in typing.get_args(kind)]
    if origin is dict:
        names = st.integers(0, 99) if typing.get_args(kind)[0] is int else inner[0]
        return st.dictionaries(names, inner[1], max_size=2)
    if origin is list:
        return st.lists(inner[0], max_size=2)
    return st.tuples(*inner) if origin is tuple else st.one_of(inner)


@pytest.mark.parametrize(
    "kind", [manifest.Manifest, verify.Verification, measure.Bench, store.EngineFacts]
)
def test_what_is_written_is_read(kind):
    """A record, its file and the record again; the file is the same a second time."""

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(values_of(kind))
    def check(record):
        text = records.to_json(record)
        found = records.read(kind, text.encode(), "file", "fix")
        assert found == record
        assert records.to_json(found) == text

    check()


@pytest.mark.parametrize("content", hostile.TEXTS.values(), ids=hostile.TEXTS)
def test_what_is_no_record(content, copied, capsys):
    """The program ends with its exit code and two lines; so does what reads its records here."""
    for kind in (manifest.Manifest, verify.Verification, measure.Bench, store.EngineFacts):
        with pytest.raises(Refusal, match=r"^file"):
            records.read(kind, content, "file", "fix")
    (copied / manifest.FILE).write_bytes(content)
    assert device.main(["check", "--bundle", str(copied)]) == 3
    assert [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "error", "fix",
    ]  # fmt: skip


REMOVE, ADD = object(), object()
CHANGES = (*hostile.VALUES, REMOVE, ADD)


def changed(value, path, change):
    """A copy with ``change`` at a place; None where it cannot be made there."""
    if not path:
        return copy.deepcopy(change) if change not in (REMOVE, ADD) else None
    made = copy.deepcopy(value)
    inner = made
    for step in path[:-1]:
        inner = inner[step]
    if change is REMOVE:
        del inner[path[-1]]
    elif change is not ADD:
        inner[path[-1]] = copy.deepcopy(change)
    elif isinstance(inner, dict):
        inner["unknown"] = 1
    return made


def every_change(value):
    for path in hostile.places(value):
        for change in CHANGES:
            made = changed(value, path, change)
            if made is not None and made != value:
                yield made


def changes_of(value, most):
    """About so many changes of a value, spread evenly over all of them."""
    found = list(every_change(value))
    return found[:: max(len(found) // most, 1)]


@pytest.fixture
def proved(copied, tmp_path):
    """A bundle with its engine, and what verify and bench say of it."""
    common = ("--bundle", str(copied), "--threads", "1", "--out")
    assert device.main(["build", *common[:-1]]) == 0
    assert device.main(["verify", *common, str(tmp_path / "verify.json")]) == 0
    short = ("--calls", "3", "--seconds", "0", "--warmup", "0")
    assert device.main(["bench", *common, str(tmp_path / "bench.json"), *short]) == 0
    return copied


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def sealed(record):
    if not isinstance(record, dict):
        return record
    named = {**record, "version": manifest.compute_version(record)}
    return {**named, "sha256": manifest.compute_digest(named)}


FEW_OR_ALL = pytest.mark.parametrize("most", [100, pytest.param(10**6, marks=pytest.mark.slow)])


@FEW_OR_ALL
def test_no_manifest_ends_in_a_traceback(proved, capsys, monkeypatch, most):
    """Each value of a real manifest changed, and sealed again as a maker would: refused, or run."""
    path = proved / manifest.FILE
    good = read_json(path)
    monkeypatch.setattr(manifest, "file_sha256", functools_cache(manifest.file_sha256))
    codes = []
    for made in changes_of(good, most):
        path.write_text(json.dumps(sealed(made)), encoding="utf-8")
        for command in COMMANDS:
            code = device.main([*command, "--bundle", str(proved), "--threads", "1"])
            out, err = capsys.readouterr()
            codes.append(code)
            assert code in {0, 3, 4, 5, 6}, made
            assert code == 0 or "error: " in err or "FAILED" in out, made
            if err.startswith("error: manifest.json"):
                break  # every command opens the bundle in the same way
    assert {0, 3} <= set(codes)


COMMANDS = (
    ["check"],
    ["verify"],
    ["bench", "--calls", "1", "--seconds", "0", "--warmup", "0"],
    ["classify", "golden/000.png"],
)


def functools_cache(function):
    """Digests of files that this test does not change, each computed once."""
    known: dict[str, str] = {}
    return lambda path: known.setdefault(path, function(path)) if "\0" not in path else ""


@FEW_OR_ALL
def test_no_facts_of_an_engine_end_in_a_traceback(proved, capsys, most):
    """Damaged facts are no engine: verify asks for a build, or runs what is whole."""
    path = proved / "engine/model.blob.json"
    for made in changes_of(read_json(path), most):
        path.write_text(json.dumps(made), encoding="utf-8")
        code = device.main(["verify", "--bundle", str(proved), "--threads", "1"])
        assert code in {0, 3, 6}, made
        capsys.readouterr()


def holds(record, made):
    """Whether all that was made is in the record.

    A key that is missing may have a default, and one that is null may be left out.
    """
    if isinstance(made, dict):
        return all(holds(record.get(key), made[key]) for key in made)
    if isinstance(made, list) and isinstance(record, list):
        return len(record) == len(made) and all(map(holds, record, made))
    return record == made


@FEW_OR_ALL
@pytest.mark.usefixtures("proved")
def test_no_record_of_a_device_ends_in_a_traceback(tmp_path, capsys, most):
    """verify's and bench's records here: a verdict, or exit 3 that names the file."""
    path = tmp_path / "verify.json"
    for made in changes_of(read_json(path), most):
        path.write_text(json.dumps(made), encoding="utf-8")
        code = main.run(["report", str(path)])
        err = capsys.readouterr().err
        assert code in {0, 6} or (code == 3 and "error: " in err), made
    for made in changes_of(read_json(tmp_path / "bench.json"), most):
        with contextlib.suppress(Refusal):
            record = records.plain(measure.read_bench(made, "bench.json", "fix"))
            assert holds(record, made), made
