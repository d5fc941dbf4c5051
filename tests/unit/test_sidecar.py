"""Sidecars read back what was written, and refuse what nobody wrote."""

from __future__ import annotations

import json

import pytest
import sidecars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from edge_inception import artifact
from edge_inception.artifact import (
    Artifact,
    EngineFile,
    Graph,
    RangeTable,
    SimplifiedGraph,
    TypedGraph,
)
from edge_inception.errors import InputError
from edge_inception.sidecar import (
    Provenance,
    RangeTableDetails,
    StreamEngine,
    TriedGraph,
    TypedDetails,
)
from edge_inception.spec import Preprocess, ShapeProfile

ORIGIN = Provenance(stage="export", parents={}, options={}, tools={}, source="s")
TEXT = st.text(st.characters(exclude_categories=("Cs",)))
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
SIZE = st.integers(1, 2**31)
SHARE = st.floats(0, 1)
PREPROCESS = st.builds(
    Preprocess,
    input_size=st.tuples(SIZE, SIZE),
    crop_fraction=SHARE,
    interpolation=st.sampled_from(("nearest", "bilinear", "bicubic", "lanczos")),
    mean=st.tuples(FLOAT, FLOAT, FLOAT),
    element=st.sampled_from(("float32", "uint8")),
)
OF_A_GRAPH = {
    "model": TEXT,
    "classes": st.lists(TEXT).map(tuple),
    "preprocess": PREPROCESS,
    "profile": st.builds(ShapeProfile, min=SIZE, opt=SIZE, max=SIZE),
    "head_text": st.sampled_from(("logits", "softmax", "embedding", "topk:5")),
    "input_shape": st.tuples(SIZE | TEXT, SIZE, SIZE, SIZE),
    "model_options": st.dictionaries(TEXT, st.booleans() | FLOAT | TEXT | st.integers(0, 99)),
    "checkpoint_notes": st.lists(TEXT).map(tuple),
    "error_of_pytorchs": st.none() | FLOAT,
    "cut_head": st.none() | st.just(""),
}
TRIED = st.builds(
    TriedGraph,
    calibrator=TEXT,
    placement=TEXT,
    fold_zero_points=st.booleans(),
    bias_correction=st.booleans(),
    float_share=FLOAT,
    num_images=SIZE,
    sqnr_db=FLOAT,
    median_sqnr_db=FLOAT,
)
DETAILS = st.one_of(
    st.builds(lambda **facts: (Graph, sidecars.graph(**facts)), **OF_A_GRAPH),
    st.builds(
        lambda **facts: (TypedGraph, sidecars.typed(**facts)),
        **OF_A_GRAPH,
        simplify_difference=FLOAT,
        float_layers=st.lists(TEXT).map(tuple),
    ),
    st.builds(
        lambda **facts: (EngineFile, sidecars.plan(**facts)),
        dla_core=st.none() | st.integers(0, 1),
        compute_capabilities=st.just("library default") | st.just(("8.6", "8.9")),
        layers=st.dictionaries(TEXT, st.dictionaries(TEXT, SIZE)),
        activation_bytes=st.integers(-(2**40), 2**40),
    ),
    st.builds(lambda **facts: (EngineFile, sidecars.blob(**facts)), kernels=st.just({"a": 1})),
    st.builds(
        lambda **facts: (RangeTable, RangeTableDetails(**facts)),
        tried=st.lists(TRIED).map(tuple),
        chosen=st.none() | TRIED,
        num_rounded=SIZE,
        engine=st.none() | st.builds(StreamEngine, precision=TEXT, threads=SIZE),
        not_in_graph=st.none() | st.lists(TEXT).map(tuple),
    ),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=DETAILS)
def test_details_read_back_equal(tmp_path, made):
    """Whatever a stage says, later stages read, and any kind can be asked for."""
    kind, details = made
    path = tmp_path / "file"
    published = artifact.publish(kind, path, b"x", provenance=ORIGIN, details=details)
    assert published.details == details
    assert type(published.details) is type(details)
    before = artifact.sidecar_path(path).read_bytes()
    assert artifact.load(Artifact, path) == artifact.load(kind, path) == published
    artifact.publish(kind, path, b"x", provenance=ORIGIN, details=published.details)
    assert artifact.sidecar_path(path).read_bytes() == before


@pytest.fixture
def engine(tmp_path):
    """An engine's sidecar as a dictionary, and what refuses it changed."""
    path = tmp_path / "e.engine"
    artifact.publish(EngineFile, path, b"x", provenance=ORIGIN, details=sidecars.plan())
    sidecar = artifact.sidecar_path(path)

    def refused(text):
        sidecar.write_text(text, encoding="utf-8")
        with pytest.raises(InputError) as caught:
            artifact.load(EngineFile, path)
        assert caught.value.exit_code == 3
        assert "again" in caught.value.hint
        return str(caught.value)

    return json.loads(sidecar.read_text(encoding="utf-8")), refused


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("preprocess.mean", [0.5, 0.5], "at preprocess.mean: "),
        ("preprocess.mean", [0.5, 0.5, "half"], "at preprocess.mean[2]: got str, wanted float"),
        ("preprocess.crop", "sometimes", "at preprocess.crop: "),
        ("preprocess.sharpen", True, "at preprocess: object contains unknown field 'sharpen'"),
        ("profile.max", 0, "at profile.max: got 0, wanted int >= 1"),
        ("profile.max", True, "at profile.max: got bool, wanted int"),
        ("head", "topk:0", "at head: "),
        ("input_shape", [1, 3, 8], "at input_shape: "),
        ("num_classes", 10**400, "at num_classes: "),
        ("typing", "loose", "at typing: "),
        ("dla_core", "0", "at dla_core: got str, wanted int"),
        ("layers.Conv", {"Int8": -1}, "at layers[...][...]: "),
        ("tied_to", None, "at tied_to: got null, wanted object"),
        ("colour", "red", "unknown field 'colour'"),
        ("beside", {".npz": "no hash"}, "at beside[...]: "),
    ],
)
def test_a_spoilt_fact_is_named(engine, place, value, message):
    """The place, what stands there and what should; a plan's own facts are held to it too."""
    record, refused = engine
    *inside, name = place.split(".")
    at = record["details"]
    for key in inside:
        at = at[key]
    at[name] = value
    told = refused(json.dumps(record))
    assert "e.engine.json, details of an engine" in told
    assert message in told


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("graph", "missing required field 'graph'"),
        ("preprocess", "missing required field 'preprocess'"),
        ("backend", "unknown field"),  # of no known one, whose own facts nobody knows
    ],
)
def test_a_missing_fact_is_named(engine, name, message):
    """A sidecar without it is no engine's."""
    record, refused = engine
    del record["details"][name]
    assert message in refused(json.dumps(record))


@pytest.mark.parametrize(
    "text",
    [
        '{"details": ' + "[" * 100_000,
        '{"schema": 1, "schema": 1}',
        '{"schema": NaN}',
        '{"schema": 1' + "0" * 5000 + "}",
        '{"kind": "\\ud800"}',
    ],
)
def test_text_that_is_no_json_of_ours(engine, text):
    """Nesting without end, a key twice, no number, an endless number, half a character."""
    assert "is not readable JSON" in engine[1](text)


def test_details_grow_from_those_before():
    """What was known of a graph stays, but for what is said anew."""
    before = sidecars.simplified(model="m", opset=18)
    typed = TypedDetails.of(
        before, opset=19, precision="fp32", typing="strong", float_rest="fp32", output_shape=(1, 5)
    )
    assert (typed.model, typed.opset) == ("m", 19)
    assert structs.asdict(typed).items() >= (structs.asdict(before) | {"opset": 19}).items()


@pytest.mark.parametrize("kind", [Graph, SimplifiedGraph, RangeTable])
def test_details_of_another_kind_are_not_published(tmp_path, kind):
    """An engine's facts are no graph's."""
    with pytest.raises(InputError, match="unknown field"):
        artifact.publish(kind, tmp_path / "file", b"x", provenance=ORIGIN, details=sidecars.plan())
