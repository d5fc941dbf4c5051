"""Every format of a file has a strict reader: what nobody wrote is our error, never a traceback.

A line of the journal that is no record is dropped instead, with what follows it: a search scores
those sets again.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import hostile
import msgspec
import pytest
import sidecars
from msgspec import structs

from edge_inception import artifact, records
from edge_inception.artifact import EngineFile, RangeTable
from edge_inception.data.imageset import open_set
from edge_inception.device import jetson_board, manifest, measure, store, verify
from edge_inception.device import records as device_records
from edge_inception.device.errors import Refusal
from edge_inception.errors import InputError
from edge_inception.latency import record as bench
from edge_inception.quant import ranges, search_record
from edge_inception.quant.search_record import RankedGroup, ScoredSet, SearchOutcome, SearchRecord
from edge_inception.recipe.reader import load_recipe
from edge_inception.report import noise_record
from edge_inception.report.noise_record import NoiseRecord, NoisyLayer
from edge_inception.search.journal import Figures, Journal
from edge_inception.sidecar import Provenance
from edge_inception.spec import Preprocess
from edge_inception.validate import report_record

UNIT = Path(__file__).parents[1] / "unit"
ORIGIN = Provenance(stage="s", parents={"graph": "ab"}, options={}, tools={"a": "1"}, source="s")


PREPROCESS = tuple(
    f"*preprocess.{name}" for name in Preprocess.__struct_fields__ if name != "input_size"
)
"""Those that a default is right for."""


class Dropped(Exception):
    """A journal has none of its scores."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file as JSON values and what reads its text.

    Places are spelt like "runs.arm", "*" stands for any. ``lacks``: keys that may be missing, of a
    mapping, with a default, or of older files. ``takes``: objects that may hold other keys.
    ``free``: values that may be anything. ``has_nan``: a figure may be NaN,
    or ``nan_in`` those places alone.
    """

    sample: Any
    read: Callable[[bytes], Any]
    dump: Callable[[Any], str] = json.dumps
    lacks: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    has_nan: bool = False
    nan_in: tuple[str, ...] = ()

    def refuses(self, value: Any) -> bool:
        """Whether the reader refuses a value; another exception escapes."""
        return refuses(self.read, self.dump(value).encode("utf-8", "surrogatepass"))


def refuses(read: Callable[[bytes], Any], text: bytes) -> bool:
    try:
        read(text)
    except InputError as error:
        return error.exit_code == 3 and bool(error.hint) and bool(str(error))
    except Refusal as error:
        return bool(str(error))
    except Dropped:
        return True
    return False


def spelt(place: hostile.Place) -> str:
    return ".".join(step for step in place if isinstance(step, str))


def assert_like(found: set[str], patterns: tuple[str, ...]) -> None:
    """Each place is of a pattern, and each pattern is of a place."""
    of = {one: [place for place in found if fnmatch.fnmatch(place, one)] for one in patterns}
    assert not found - {place for places in of.values() for place in places}
    assert not [pattern for pattern, places in of.items() if not places]


def through(path: Path, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """A reader of texts by way of a file."""

    def whole(text: bytes) -> Any:
        path.write_bytes(text)
        return read(path)

    return whole


def sidecar(folder: Path) -> Format:
    path = folder / "e.engine"
    details = sidecars.plan(
        tied_to={"gpu": "sm_89"}, layers={"Conv": {"Int8": 1}}, compute_capabilities=("8.9",)
    )
    artifact.publish(EngineFile, path, b"x", provenance=ORIGIN, counts={"a": 1}, details=details)
    beside = artifact.sidecar_path(path)
    return Format(
        sample=json.loads(beside.read_bytes()),
        read=through(beside, lambda _: artifact.load(EngineFile, path)),
        lacks=(
            *("parents.*", "tools.*", "counts.*", "details.tied_to.*", "details.layers.*"),
            *("details.checkpoint_notes", "details.profile.*", "details.batch.*", *PREPROCESS),
        ),
        takes=("options",),
    )


def range_table(folder: Path) -> Format:
    table = ranges.Table(
        schema=2,
        graph="a" * 64,
        set="photos",
        set_sha256="b" * 64,
        num_images=3,
        calibrator="mse",
        preprocess=Preprocess(input_size=(8, 8)),
        tensors={"z": ranges.TensorRange(amax=0.1, observed_amax=0.5, scale_of="z")},
    )
    text = ranges.table_text(table)
    details = sidecars.of(RangeTable)
    made = artifact.publish(
        RangeTable, folder / "r.json", text.encode(), provenance=ORIGIN, details=details
    )
    return Format(
        sample=json.loads(text),
        read=through(made.path, lambda _: ranges.read_table(made)),
        lacks=("shard", "tensors.*", *PREPROCESS),
        has_nan=True,  # in the preprocessing: it is then another than the graph's
    )


POINT = ScoredSet(
    keep=("a",), drop_pp=0.4, noise_to_signal=0.1, worst_tenth_noise_to_signal=0.2,
    float_share_of_macs=0,
)  # fmt: skip
OUTCOME = SearchOutcome(
    metric="top-1 drop", num_images=64, fp32_top1=None, max_drop_pp=0.5, drop_type="absolute",
    allowed_pp=0.5, is_met=True, why="the fewest", chosen=POINT, kept={"a": ("conv",)},
    front=(POINT,),
)  # fmt: skip


def search(folder: Path) -> Format:
    group = RankedGroup(
        group="a", layers=("conv",), free_noise_to_signal=0.1, harm=None, lost_pp=0.5,
        float_share_of_macs=0.25,
    )  # fmt: skip
    text = search_record.to_json(
        SearchRecord(schema=1, outcome=OUTCOME, points=(POINT,), ranking=(group,))
    )
    return Format(
        sample=json.loads(text),
        read=through(folder / "s.json", search_record.read),
        lacks=("outcome.kept.*",),
        has_nan=True,
    )


def report(folder: Path) -> Format:
    sample = json.loads((UNIT / "report" / "records" / "report-1.json").read_bytes())
    choice = {"target": "cpu", "row": "INT8", "sentence": "s", "failed": ["INT8"]}
    return Format(
        sample=sample | {"search": records.plain(OUTCOME), "choices": [choice]},
        read=through(folder / "report.json", report_record.read),
        lacks=(
            *("choices", "choices.failed", "search", "search.kept.*", "context.engines.*"),
            *(
                "data.num_left_out",
                "verdict.warnings",
                "latency_options.*",
                "rows.accuracy.changed",
            ),
            *("rows.accuracy.terms", "rows.executed_layers.*", "rows.latency.info.*"),
            "rows.latency.samples_ms",
        ),
        takes=("rows.latency.info", "rows.latency.info.library"),
        free=("rows.latency.info.*",),  # what a backend tells of itself
        has_nan=True,
    )


ONE_SIDED = (
    *("device.*", "tool.*", "model.onnx_sha256", "runs.block", "runs.gpu_median", "runs.slot"),
    *(f"engines.*.{name}" for name in ("build_id", "build_s", "int8_layers", "key", "plan_trt")),
    *(f"protocol.{name}" for name in ("calls", "k", "most_s", "order", "seconds", "spin_wait")),
    *("engines.*.sm", "protocol.transfers", "protocol.warmup_*"),
)
"""What only a device tells, or only a host."""
DEVICE_1 = UNIT / "latency" / "records" / "device-1.json"


def compared(folder: Path) -> Format:
    one = bench.read_record(DEVICE_1)
    result = bench.ResultRecord(
        ratio=1.0, ci95=(0.9, 1.1), method="m", delta=0.05, k=5, verdict=bench.Verdict.PASS,
        reasons=("r",), sentence="s", spread=0.1, pairs_needed=3,
    )  # fmt: skip
    two = structs.replace(
        one,
        kind="ab",
        engines={"A": one.engine, "B": one.engine},
        runs=(*one.runs, structs.replace(one.runs[0], side="B")),
        result=result,
        layers=(bench.Layer(name="n", kind="k", kernel="k", ms=0.1),),
        against=bench.Against(file="f", created_utc="t"),
        accuracy=bench.AccuracyRecord(
            verdict=bench.Verdict.PASS,
            sentence="s",
            drop_pp=bench.Drop(value=0.0, lower=-1.0, upper=1.0),
            num_images=9,
        ),
    )
    return Format(
        sample=json.loads(bench.to_json(two)),
        read=through(folder / "b.json", bench.read_records),
        lacks=(*ONE_SIDED, "accuracy", "against", "bundle", "layers", "result.*"),
        has_nan=True,
    )


def compared_1(folder: Path) -> Format:
    return Format(
        sample=json.loads(DEVICE_1.read_bytes()),
        read=through(folder / "b.json", bench.read_records),
        lacks=(*ONE_SIDED, "runs.open_s"),
        has_nan=True,
    )


def of_device(read: Callable[[Any, str, str], Any]) -> Callable[[bytes], Any]:
    return lambda text: read(device_records.parse(text, "file", "fix"), "file", "fix")


IDENTITY = manifest.Identity("tiny", "0123456789ab")


def bench_of_device(_: Path) -> Format:
    sample = json.loads(DEVICE_1.read_bytes())
    sample["protocol"]["cuda_graph"] = False
    return Format(
        sample=sample,
        read=of_device(measure.read_bench),
        lacks=(
            *("kind", "tool.*", "runs.arm", "runs.block", "runs.open_s", "runs.slot"),
            *(f"protocol.{name}" for name in ("k", "order", "streams", "transfers")),
        ),
    )


def verification(_: Path) -> Format:
    known = {"machine": "x", "system": "x", "python": "x", "container": "x", "hostname_hash": "x"}
    board = jetson_board.Board(
        **dict.fromkeys(jetson_board.Board._fields)
        | known
        | {"power_modes": {0: "15W"}, "temperatures_c": {"cpu": 41.0}, "unread": ["fan"]}
    )
    engine = store.EngineFacts(
        key="k", file="f", bundle="b", backend="openvino", graph="g", graph_sha256="a",
        precision="int8", typing="strong", dla_core=None, sha256="b", bytes=1, build_s=0.5,
        created_utc="t", layers={"Conv": {"Int8": 1}},
    )  # fmt: skip
    made = verify.Verification(
        status="PASSED",
        created_utc="t",
        bundle=IDENTITY,
        engine=engine,
        checks=[verify.Check(name="n", status="PASSED", got=40.0, wanted=30.0, sentence="s")],
        num_images=0,
        board=board,
    )
    return Format(
        sample=json.loads(device_records.to_json(made)),
        read=of_device(verify.read_verification),
        lacks=("board.*.*", "engine.layers*", "engine.schema"),
    )


def sealed(value: Any) -> str:
    """A manifest as its maker would have written it."""
    if isinstance(value, dict):
        named = {**value, "version": manifest.compute_version(value)}
        value = {**named, "sha256": manifest.compute_digest(named)}
    return json.dumps(value)


def of_bundle(folder: Path) -> Format:
    files = {"g.onnx": manifest.File("a" * 64, 1)}
    graph = manifest.Graph(
        file="g.onnx", tensorrt=("8.2", "8.6"), typing="weak", precision="int8", float_rest="fp32",
        input="i", output="o", input_shape=["N", 3, 8, 8], profile=manifest.Profile(1, 1, 4),
        float_layers=["conv"],
    )  # fmt: skip
    target = manifest.Target(
        name="nano", title="Nano", backend="tensorrt", compute_capabilities=["5.3"],
        tensorrt=("8.2", "8.2"), memory_gb=4.0, num_dla_cores=0,
    )  # fmt: skip
    made = manifest.Manifest(
        name="tiny",
        made_with={"edge-inception": "1"},
        model="tiny",
        precision="int8",
        head="logits",
        num_classes=5,
        preprocess=manifest.Preprocess((8, 8)),
        target=target,
        graphs=[graph],
        build=manifest.BuildOptions(
            256, None, allow_gpu_fallback=True, builder_optimization_level=3
        ),
        gates=manifest.Gates(max_drop_pp=1.0),
        verdict="PASSED",
        golden=manifest.Golden(2, manifest.Tolerance(30.0, 20.0, 0.9, 1.0)),
        files=files,
    )
    return Format(
        sample=device_records.plain(manifest.seal(made)),
        read=through(folder / manifest.FILE, lambda path: manifest.read_manifest(str(path))),
        dump=sealed,  # anew after each change, so these two are always right
        lacks=("version", "sha256", "made_with.*", "gates.*", "graphs.float_layers", *PREPROCESS),
        free=("version", "sha256"),
    )


def image_set(folder: Path) -> Format:
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(b"a")
    image = {
        "id": "a.png", "sha256": hashlib.sha256(b"a").hexdigest(), "split": "train", "label": 0,
        "weight": 0.5,
    }  # fmt: skip
    sample = {
        "schema": 1,
        "name": "pets",
        "classes": ["cat", "dog"],
        "source": {"folder": "photos", "module": None, "distribution": "pets==1"},
        "images": [image],
    }
    return Format(
        sample=sample,
        read=through(folder / "set.json", lambda path: open_set(path, split="train")),
        lacks=("images.weight", "source.module", "source.distribution"),
        takes=("", "images", "source"),  # of people
    )


def journal(folder: Path) -> Format:
    path = folder / "s.journal"
    with Journal(path, "key") as made:
        made.add(frozenset("a"), "all", Figures(drop_pp=0.5, noise=0.1, tail=0.2, worst=(1, 0)))
    head, line = path.read_text(encoding="utf-8").splitlines()

    def read(text: bytes) -> None:
        path.write_bytes(head.encode() + b"\n" + text + b"\n")
        with Journal(path, "key") as found:
            if not found.num_known:
                raise Dropped

    return Format(sample=json.loads(line), read=read, has_nan=True)


def noise(folder: Path) -> Format:
    layer = NoisyLayer(
        name="conv", op="Conv", tensor="t", sqnr_db=30.0, input_sqnr_db=40.0, read_sqnr_db=35.0,
        noisiest_input="i", is_jump=True, is_scale_to_blame=False, worst_image="a.png",
    )  # fmt: skip
    made = NoiseRecord(
        graphs=("a.onnx", "b.onnx"), images=("a.png",), layers=(layer,), left_out=("x",), jump=layer
    )
    return Format(
        sample=records.plain(made),
        read=through(folder / "n.json", noise_record.read),
    )


def toml(value: Any) -> str:
    """JSON values as TOML; null, which TOML lacks, as a date, which no key takes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return "2026-11-30" if value is None else json.dumps(value)


def recipe_text(value: Any) -> str:
    if not isinstance(value, dict):
        return toml(value)
    return "".join(f"{json.dumps(key)} = {toml(one)}\n" for key, one in value.items())


def recipe(folder: Path) -> Format:
    sample = {
        "schema": 1,
        "model": {
            "name": "tiny", "checkpoint": "t.pt", "num_classes": 7, "options": {"width": 0.25},
            "head": "topk:5",
        },
        "preprocess": {"input_size": [128, 160], "crop_fraction": 0.9, "std": [1, 0.5, 0.25]},
        "data": {"calibration": "photos", "skip_bad_images": True},
        "build": {"precision": "int8", "targets": ["cpu"], "threads": 2, "batch": 4},
        "calibrate": {"max_images": 11, "seed": 5},
        "quantize": {"keep_float": ["a"], "bias_correction": False},
        "search": {"max_drop_pp": 0.5, "max_groups": 3},
        "latency": {"rounds": 6},
        "gates": {"min_sqnr_db": 20, "min_agreement": 0.9},
    }  # fmt: skip
    return Format(
        sample=sample,
        read=through(folder / "r.toml", load_recipe),
        lacks=(
            *("model.num_classes", "model.options*", "model.head", "preprocess*", "data*"),
            *("build*", "calibrate*", "quantize*", "search*", "latency*", "gates*"),
        ),
        nan_in=("model.options.width",),  # the registry refuses it there, and names the option
        dump=recipe_text,
    )


FORMATS: dict[str, Callable[[Path], Format]] = {
    "sidecar": sidecar,
    "range table": range_table,
    "search record": search,
    "report": report,
    "comparison": compared,
    "bench record, version 1": compared_1,
    "bench record on a device": bench_of_device,
    "verify record": verification,
    "manifest": of_bundle,
    "set file": image_set,
    "journal": journal,
    "layer noise": noise,
    "recipe": recipe,
}
TEXTS_OF_TOML = {
    "deep list": b"schema = " + b"[" * 100_000,
    "deep object": b"schema = " + b"{a = " * 100_000,
    "NaN": b"schema = nan",
    "infinity": b"schema = inf",
    "huge": b"schema = " + b"9" * 5000,
    "twice": b"schema = 1\nschema = 1",
}


@pytest.fixture(params=FORMATS.values(), ids=FORMATS)
def form(request, tmp_path):
    """A format with its valid sample."""
    return request.param(tmp_path)


def test_the_sample_is_one(form):
    """What each is spoilt from is read."""
    assert not form.refuses(form.sample)


@pytest.mark.parametrize("name", hostile.TEXTS)
def test_what_is_no_record(form, name):
    """Nesting without end, no number, an endless one, a key twice, no text, nothing: refused."""
    text = hostile.TEXTS[name]
    if form.dump is recipe_text:
        text = TEXTS_OF_TOML.get(name, text)
    assert refuses(form.read, text)


def test_a_key_twice(form):
    """The one that is read last does not win in silence."""
    text = form.dump(form.sample)
    first = next(iter(form.sample))
    again = f'"{first}" = 1\n{text}' if form.dump is recipe_text else f'{{"{first}": 1, {text[1:]}'
    assert refuses(form.read, again.encode())


def test_cut_off(form):
    """A file that was cut off, within any text, is none."""
    text = form.dump(form.sample)
    opening = [index for index, char in enumerate(text) if char == '"'][::2]
    for index in opening[:: max(1, len(opening) // 100)]:
        assert refuses(form.read, text[: index + 1].encode()), text[: index + 1]


def test_not_utf_8(form):
    """A byte that is no character, within any text."""
    text = form.dump(form.sample).encode()
    for number, part in enumerate(text.split(b'"')[1::2]):
        if number < 40:
            assert refuses(form.read, text.replace(part, part + b"\xff", 1)), part


def test_another_value_in_each_place(form):
    """Ours is the only error; each place refuses some, but for those that are free by intent."""
    free = set()
    everywhere = list(hostile.places(form.sample))
    values = hostile.VALUES[:: 1 + len(everywhere) // 100]  # of a long record each place takes some
    for place in everywhere:
        here = hostile.at(form.sample, place)
        others = [one for one in values if type(one) is not type(here) or one != here]
        refused = [form.refuses(hostile.put(form.sample, place, other)) for other in others]
        if not any(refused):
            free.add(spelt(place))
    assert_like(free, form.free)


def test_nan_in_each_place(form):
    """Refused, but for figures of formats that hold what a measurement could not tell."""
    for place in hostile.places(form.sample):
        for value in (math.nan, math.inf, -math.inf):
            is_refused = form.refuses(hostile.put(form.sample, place, value))
            may_be = form.has_nan or spelt(place) in (*form.free, *form.nan_in)
            assert is_refused or may_be, place


def test_a_key_missing(form):
    """Each object needs each of its keys, but for those that are known to have a default."""
    keyed = [place for place in hostile.places(form.sample) if place]
    named = [place for place in keyed if isinstance(place[-1], str)]
    lacks = {spelt(one) for one in named if not form.refuses(hostile.cut(form.sample, one))}
    assert_like(lacks, form.lacks)


def test_an_unknown_key(form):
    """No object takes a key that its format does not know, but for those that are known to."""
    sample = form.sample
    objects = [one for one in hostile.places(sample) if isinstance(hostile.at(sample, one), dict)]
    grown = {one: hostile.put(sample, (*one, "unknown"), [{}]) for one in objects}
    takes = {spelt(one) for one, value in grown.items() if not form.refuses(value)}
    assert_like(takes, form.takes)


def parts(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield kind
    for inner in get_args(kind):
        yield from parts(inner)


def is_dangerous(kind: Any) -> bool:
    """Whether msgspec 0.23.0 may end the process: a bounded number beside a fixed length."""
    choices = get_args(kind) if get_origin(kind) in {Union, UnionType} else ()
    tuples = [get_args(one) for one in choices if get_origin(one) is tuple]
    is_fixed = any(Ellipsis not in inner for inner in tuples)
    return is_fixed and any(get_origin(one) is Annotated for one in choices)


def records_of(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from records_of(inner)


def test_no_record_ends_the_process():
    """The pair that msgspec does not survive is nowhere, also not within another type."""
    assert is_dangerous(Annotated[int, msgspec.Meta(ge=1)] | tuple[int, int])
    kinds = [kind for kind in records_of(msgspec.Struct) if kind.__module__.startswith("edge_")]
    assert len(kinds) > 50
    for kind in kinds:
        for name, hint in get_type_hints(kind, include_extras=True).items():
            assert not any(map(is_dangerous, parts(hint))), (kind, name)
