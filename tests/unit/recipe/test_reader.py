"""The strict recipe reader: every key arrives where it belongs, every mistake is named."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_inception.cli._options import recipe_overrides
from edge_inception.errors import InputError
from edge_inception.recipe.reader import Source, find_recipe, load_recipe
from edge_inception.recipe.template import STARTER
from edge_inception.spec import Budget, DropType, Gates, Head, Precision, ShapeProfile

FULL = """\
schema = 1
[model]
name = "inception_v4"
checkpoint = "weights/a b.safetensors"
checkpoint_format = "slim"
num_classes = 7
options = { width = 0.25 }
head = "topk:5"
fold_preprocessing = "uint8-nhwc"
[preprocess]
input_size = [128, 160]
crop = "before_resize"
channel_order = "BGR"
crop_fraction = 0.9
interpolation = "lanczos"
mean = [0.1, 0.2, 0.3]
std = [1, 0.5, 0.25]
[data]
calibration = "photos"
calibration_split = "c"
validation = "/abs/labelled"
validation_split = "v"
labels = "names.txt"
skip_bad_images = true
[build]
precision = "fp16"
targets = ["cpu", "rtx"]
dynamic_batch = "1:4:8"
threads = 2
out = "here/out"
compute_capabilities = ["8.9"]
[calibrate]
calibrator = "percentile:99.9"
max_images = 11
batch = 3
seed = 5
[quantize]
float_rest = "fp32"
placement = "tied-concat"
keep_float = ["b", "a", "b"]
[latency]
rounds = 6
calls_per_block = 9
[gates]
max_drop_pp = 1
min_agreement = 0.5
min_sqnr_db = -3.5
min_speedup = 1.25
"""
MINIMAL = 'schema = 1\n[model]\nname = "m"\ncheckpoint = "c"\n'


def _read(tmp_path: Path, text: str, overrides=None):
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def test_every_key_arrives(tmp_path):
    """Each key of a full recipe is a field; paths are relative to the recipe, out is not."""
    recipe = _read(tmp_path, FULL)
    here = tmp_path.resolve()
    assert recipe.model == "inception_v4"
    assert recipe.checkpoint == here / "weights/a b.safetensors"
    assert (recipe.num_classes, recipe.model_options) == (7, {"width": 0.25})
    assert recipe.checkpoint_format == "slim"
    assert recipe.preprocess == {
        "input_size": (128, 160),
        "crop_fraction": 0.9,
        "interpolation": "lanczos",
        "mean": (0.1, 0.2, 0.3),
        "std": (1.0, 0.5, 0.25),
        "crop": "before_resize",
        "channel_order": "BGR",
    }
    assert recipe.fold == {"element": "uint8", "layout": "NHWC"}
    assert recipe.head == Head(kind="topk", k=5)
    assert recipe.calibration == Source(location=here / "photos", split="c")
    assert recipe.validation == Source(location=Path("/abs/labelled"), split="v")
    assert (recipe.labels, recipe.skip_bad_images) == (here / "names.txt", True)
    assert (recipe.precision, recipe.targets) == (Precision.FP16, ("cpu", "rtx"))
    assert recipe.profile == ShapeProfile(min=1, opt=4, max=8)
    assert (recipe.threads, recipe.out) == (2, Path("here/out"))
    assert recipe.compute_capabilities == ("8.9",)
    assert recipe.calibrator == "percentile:99.9"
    assert (recipe.calibration_images, recipe.calibration_batch, recipe.seed) == (11, 3, 5)
    assert recipe.float_rest == "fp32"
    assert (recipe.placement, recipe.keep_float) == ("tied-concat", ("a", "b"))
    assert (recipe.latency_rounds, recipe.latency_calls) == (6, 9)
    assert recipe.gates == Gates(
        max_drop_pp=1, min_agreement=0.5, min_sqnr_db=-3.5, min_speedup=1.25
    )


def test_a_key_that_is_absent_changes_nothing(tmp_path):
    """Preprocessing that the recipe does not set is left to the checkpoint's family."""
    assert _read(tmp_path, MINIMAL).preprocess == {}
    assert _read(tmp_path, MINIMAL).fold == {}
    assert _read(tmp_path, MINIMAL).head == Head(kind="logits")
    assert _read(tmp_path, MINIMAL).checkpoint_format == "auto"
    changed = _read(tmp_path, MINIMAL + "[preprocess]\ninput_size = 75\n")
    assert changed.preprocess == {"input_size": (75, 75)}


def test_overrides_win_and_are_relative_to_the_working_folder(tmp_path):
    """A flag replaces its key; its path is not anchored at the recipe."""
    recipe = _read(tmp_path, FULL, {"model.checkpoint": "x.pt", "build.precision": "int8"})
    assert recipe.checkpoint == Path("x.pt")
    assert recipe.precision is Precision.INT8
    alone = load_recipe(None, {"model.name": "m", "model.checkpoint": "c"})
    assert (alone.model, alone.origin) == ("m", "command line")


ERRORS = [
    ("", "schema is None"),
    ("schema = 2\n", "schema is 2"),
    ("schema = 1\n", "no model name"),
    ('schema = 1\n[model]\nname = "m"\n', "no model checkpoint"),
    ("schema = = 1", "not valid TOML"),
    (MINIMAL + "[biuld]\n", "did you mean 'build'"),
    (MINIMAL + "[build]\nprecison = 'int8'\n", "did you mean 'precision'"),
    ("schema = 1\nmodel = 'm'\n", "'model' is not a section"),
    (MINIMAL + "[build]\nprecision = 'int9'\n", "did you mean 'int8'"),
    (MINIMAL + "[build]\nbatch = 0\n", "build.batch is 0"),
    (MINIMAL + "[build]\nthreads = -1\n", "build.threads is -1"),
    (MINIMAL + "[build]\nbatch = 2\ndynamic_batch = '1:2:3'\n", "both a static batch"),
    (MINIMAL + "[build]\ndynamic_batch = '3:2:1'\n", "MIN:OPT:MAX"),
    (MINIMAL + "[build]\ndynamic_batch = '0:2:3'\n", "MIN:OPT:MAX"),
    (MINIMAL + "[build]\ndynamic_batch = '1:2'\n", "MIN:OPT:MAX"),
    (MINIMAL + "[calibrate]\nmax_images = 0\n", "max_images is 0"),
    (MINIMAL + "[calibrate]\nbatch = 0\n", "calibrate.batch is 0"),
    (MINIMAL + "[calibrate]\nseed = -1\n", "seed is -1"),
    (MINIMAL + "[quantize]\nfloat_rest = 'fp8'\n", "no float rest named 'fp8'"),
    (MINIMAL + "[latency]\nrounds = 2\n", "at least 3"),
    (MINIMAL + "[latency]\ncalls_per_block = 0\n", "at least 1"),
    (MINIMAL + "[preprocess]\ninput_size = [1, 2, 3]\n", "input_size is [1, 2, 3]"),
    (MINIMAL + "[preprocess]\ninput_size = -5\n", "input_size is -5"),
    (MINIMAL + "[preprocess]\ncrop_fraction = 0\n", "crop_fraction is 0"),
    (MINIMAL + "[preprocess]\ncrop_fraction = 1.5\n", "crop_fraction is 1.5"),
    (MINIMAL + "[preprocess]\ninterpolation = 'bicubik'\n", "did you mean 'bicubic'"),
    (MINIMAL + "[preprocess]\nmean = [1, 2]\n", "three numbers"),
    (MINIMAL + "[preprocess]\nmean = [nan, 0, 0]\n", "three numbers"),
    (MINIMAL + "[preprocess]\nstd = [1, 0, 1]\n", "three numbers"),
    (MINIMAL + "[preprocess]\nstd = nan\n", "one number, or three"),
    (MINIMAL + "[preprocess]\nmean = [123.7, 116.3, 103.5]\n", "divide values for 0..255 by 255"),
    (MINIMAL + "[preprocess]\nmean = 127.5\n", "divide values for 0..255 by 255"),
    (MINIMAL + "[preprocess]\nstd = [58.4, 57.1, 57.4]\n", "divide values for 0..255 by 255"),
    (MINIMAL + "[preprocess]\ncrop = 'before'\n", "no crop named 'before'"),
    (MINIMAL + "[preprocess]\nchannel_order = 'BRG'\n", "no channel order named 'BRG'"),
    (MINIMAL + "head = 'softmx'\n", "did you mean 'softmax'"),
    (MINIMAL + "head = 'topk'\n", "head 'topk' says no number of classes"),
    (MINIMAL + "head = 'topk:0'\n", "wanted topk:K, such as topk:5"),
    (MINIMAL + "head = 'topk:-1'\n", "head 'topk:-1' says"),
    (MINIMAL + "head = 'embedding'\n", "no head named 'embedding'"),
    (MINIMAL + "fold_preprocessing = 'unit8'\n", "did you mean 'uint8'"),
    (MINIMAL + "[gates]\nmin_agreement = 98\n", "from 0 to 1"),
    (MINIMAL + "[gates]\nmax_drop_pp = -1\n", "from 0 to 100"),
    (MINIMAL + "[gates]\nmin_sqnr_db = nan\n", "finite"),
    (MINIMAL + "[gates]\nmin_speedup = -0.5\n", "at least 0"),
    (MINIMAL + "[gates]\nmin_speedup = inf\n", "finite"),
]


@pytest.mark.parametrize(("text", "words"), ERRORS, ids=[words for _, words in ERRORS])
def test_a_mistake_is_named(tmp_path, text, words):
    """Every mistake is an input error whose message or hint names it, and says what to do."""
    with pytest.raises(InputError) as caught:
        _read(tmp_path, text)
    assert words in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint


# Key -> a TOML value of the wrong type.
WRONG = {
    "model.name": "1",
    "model.checkpoint": "['x']",
    "model.checkpoint_format": "1",
    "model.num_classes": "2.5",
    "model.options": "'width=1'",
    "preprocess.input_size": "'299'",
    "model.head": "5",
    "model.fold_preprocessing": "true",
    "preprocess.crop": "1",
    "preprocess.channel_order": "['B']",
    "preprocess.crop_fraction": "true",
    "preprocess.interpolation": "1",
    "preprocess.mean": "'0.5'",
    "preprocess.std": "'x'",
    "data.calibration": "[]",
    "data.calibration_split": "1",
    "data.validation": "1",
    "data.validation_split": "true",
    "data.labels": "['a']",
    "data.skip_bad_images": "1",
    "build.precision": "8",
    "build.targets": "'cpu'",
    "build.batch": "'2'",
    "build.dynamic_batch": "[1, 2, 3]",
    "build.threads": "true",
    "build.out": "1",
    "build.compute_capabilities": "8.9",
    "calibrate.calibrator": "1",
    "calibrate.max_images": "1.5",
    "calibrate.batch": "'1'",
    "calibrate.seed": "0.5",
    "quantize.float_rest": "16",
    "quantize.placement": "1",
    "quantize.keep_float": "'a,b'",
    "latency.rounds": "'3'",
    "latency.calls_per_block": "2.5",
    "gates.max_drop_pp": "'1'",
    "gates.min_agreement": "true",
    "gates.min_sqnr_db": "[20]",
    "gates.min_speedup": "'2x'",
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_type_is_refused(tmp_path, key):
    """The message names the key and its value, the hint the type; true is no number."""
    section, name = key.split(".")
    with pytest.raises(InputError, match=key.replace(".", r"\.")) as caught:
        _read(tmp_path, f"schema = 1\n[{section}]\n{name} = {WRONG[key]}\n")
    assert caught.value.hint.startswith("wanted ")


def test_no_key_escapes_the_type_test():
    """The table above has every key that the full recipe or a static batch can hold."""
    from edge_inception.recipe.reader import tomllib

    full = tomllib.loads(FULL)
    keys = {f"{s}.{k}" for s, table in full.items() if isinstance(table, dict) for k in table}
    assert keys | {"build.batch"} == set(WRONG)


def test_unlimited_gates_are_absent(tmp_path):
    """A recipe without gates gates nothing; that is not the same as a limit of zero."""
    assert _read(tmp_path, MINIMAL).gates == Gates()
    assert _read(tmp_path, MINIMAL + "[gates]\nmin_speedup = 0\n").gates.min_speedup == 0
    assert not math.isnan(_read(tmp_path, FULL).gates.min_sqnr_db or 0.0)


def test_missing_and_binary_files(tmp_path):
    """A recipe that is not there or not text is refused by its name."""
    with pytest.raises(InputError, match=r"cannot read recipe .*absent\.toml"):
        load_recipe(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.toml is not valid TOML"):
        load_recipe(tmp_path / "binary.toml")


def test_where_a_recipe_is_found(tmp_path):
    """edge-inception.toml here; else the one that pyproject.toml names, here or above; or none."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    project = tmp_path / "pyproject.toml"
    project.write_text("[tool.edge-inception]\nrecipe = 'r/x.toml'\n", encoding="utf-8")
    assert find_recipe(inner) == tmp_path / "r" / "x.toml"
    (inner / "pyproject.toml").write_text("[tool.other]\n", encoding="utf-8")
    assert find_recipe(inner) == tmp_path / "r" / "x.toml"
    (inner / "edge-inception.toml").write_text(STARTER, encoding="utf-8")
    assert find_recipe(inner) == inner / "edge-inception.toml"
    project.unlink()
    (inner / "edge-inception.toml").unlink()
    assert find_recipe(inner) is None


def test_a_budget_is_searched_and_gated(tmp_path):
    """[search] is read strictly, and its budget is the gate of the drop unless another is set."""
    recipe = _read(tmp_path, MINIMAL + "[search]\nmax_drop_pp = 0.5\ndrop_type = 'relative'\n")
    assert recipe.budget == Budget(max_drop_pp=0.5, drop_type=DropType.RELATIVE)
    assert recipe.gates == Gates(max_drop_pp=0.5)
    both = "[search]\nmax_drop_pp = 0.5\nmax_groups = 3\n[gates]\nmax_drop_pp = 2\n"
    recipe = _read(tmp_path, MINIMAL + both)
    assert (recipe.budget.max_groups, recipe.gates) == (3, Gates(max_drop_pp=2))
    assert _read(tmp_path, MINIMAL).budget is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_drop_pp = -1", "max_drop_pp is -1"),
        ("max_drop_pp = nan", "max_drop_pp is nan"),
        ("drop_type = 'relative'", "without search.max_drop_pp"),
        ("max_drop_pp = 1\ndrop_type = 'absolut'", "absolut"),
        ("max_drop_pp = 1\nmax_groups = -2", "max_groups -2"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(tmp_path, text, words):
    """One line that names the key."""
    with pytest.raises(InputError, match=words):
        _read(tmp_path, f"{MINIMAL}[search]\n{text}\n")


def test_bias_correction_that_is_not_set_is_left_to_the_trial(tmp_path):
    """Three values: not set, on, off; a flag sets it too."""
    path = tmp_path / "r.toml"
    found = []
    for line in ("", "bias_correction = true", "bias_correction = false"):
        path.write_text(f"{MINIMAL}[quantize]\n{line}\n")
        found.append(load_recipe(path).bias_correction)
    assert found == [None, True, False]
    assert load_recipe(path, {"quantize.bias_correction": True}).bias_correction is True


HUGE = "1" + "0" * 400
HOSTILE = {
    "a key twice": ('name = "n"\n', "not valid TOML"),
    "a section twice": ("[model]\n", "not valid TOML"),
    "brackets": ("options = " + "[" * 100_000, "nested too deep"),
    "braces": ("options = " + "{a=" * 100_000, "nested too deep"),
    "dotted keys": ("options" + ".a" * 5000 + " = 1\n", "model.options is beyond all bounds"),
    "5,000 digits": (f"num_classes = {'9' * 5000}\n", "not valid TOML: Exceeds the limit"),
    "4,000 hex digits": (f"num_classes = 0x{'f' * 4000}\n", "num_classes is beyond all bounds"),
    "int beyond 2**53": (f"num_classes = {2**53 + 1}\n", "wanted at most 9007199254740992"),
    "an option beyond": (f"options = {{ width = {HUGE} }}\n", "model.options is {'width': 1000"),
    "an option of lists": ("options = { width = [1] }\n", "model.options is {'width': [1]}"),
    "an option of dates": ("options = { width = 1979-05-27 }\n", "model.options is {'width': "),
    "a gate beyond": (f"[gates]\nmin_sqnr_db = {HUGE}\n", "wanted a finite number"),
    "a float beyond": ("[gates]\nmax_drop_pp = 1e999\n", "gates.max_drop_pp is inf"),
    "a crop of NaN": ("[preprocess]\ncrop_fraction = nan\n", "crop_fraction is nan"),
    "a mean beyond": (f"[preprocess]\nmean = [{HUGE}, 0, 0]\n", "three numbers"),
    "a side that is true": ("[preprocess]\ninput_size = [true, 3]\n", "input_size is [True, 3]"),
    "a target that is none": ("[build]\ntargets = [5]\n", "build.targets is [5]"),
    "a path with NUL": ('onnx = "a\\u0000b"\n', "wanted a path"),
    "superscripts": ("[build]\ndynamic_batch = '\u00b9:\u00b2:\u00b3'\n", "MIN:OPT:MAX"),
    "a batch of digits": (f"[build]\ndynamic_batch = '1:1:{'9' * 5000}'\n", "MIN:OPT:MAX"),
    "a K of digits": (f"head = 'topk:{'9' * 5000}'\n", "says no number of classes"),
}


@pytest.mark.parametrize(("text", "words"), HOSTILE.values(), ids=list(HOSTILE))
def test_what_is_hostile_is_refused(tmp_path, text, words):
    """It is an input error with a hint, exit code 3, and never a traceback."""
    with pytest.raises(InputError) as caught:
        _read(tmp_path, MINIMAL + text)
    assert words in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "text",
    [
        "tool = 5",
        "[tool]\nedge-inception = []",
        "[tool.edge-inception]\nrecipe = 5",
        "x = " + "[" * 9999,
    ],
    ids=["tool", "ours", "recipe", "deep"],
)
def test_a_project_file_that_says_nothing(tmp_path, text):
    """A pyproject.toml whose table has another form is refused by its name."""
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"pyproject\.toml"):
        find_recipe(tmp_path)


WORDS = st.text("a1.:,\0\u00b2\ud800 ", max_size=6)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**53)
    | st.floats()
    | WORDS
    | st.just(dt.date(1979, 5, 27))
    | st.just(dt.time(1, 2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@example({"model.num_classes": "\ud800"})  # half of a surrogate pair, which has no UTF-8
@given(st.dictionaries(st.sampled_from([*WRONG, "build.batch", "search.max_groups"]), VALUES))
def test_any_value_of_any_key_is_taken_or_refused(values):
    """No value escapes as another exception, and what is taken is what was said."""
    whole = {"model.name": "m", "model.checkpoint": "c", **values}
    try:
        recipe = load_recipe(None, whole)
    except InputError:
        return
    assert recipe.threads == values.get("build.threads", 0)
    assert recipe.seed == values.get("calibrate.seed", 0)


@given(st.text("model=[]{}\"'.,\n #0x1e+-:T\\\0\u00b2"))
def test_any_text_is_taken_or_refused(tmp_path_factory, text):
    """No text escapes as another exception."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError):
        load_recipe(path)


@pytest.mark.parametrize("number", [0.5, 1, 0.25])
def test_one_mean_and_one_std_stand_for_all_channels(tmp_path, number):
    """As a number or, on the command line, as ``--mean 0.5``."""
    text = MINIMAL + f"[preprocess]\nmean = {number}\nstd = {number}\n"
    assert _read(tmp_path, text).preprocess == {"mean": (number,) * 3, "std": (number,) * 3}
    flags = recipe_overrides({"mean": str(number), "std": f"{number},{number},{number}"})
    assert flags == {"preprocess.mean": number, "preprocess.std": [number] * 3}
