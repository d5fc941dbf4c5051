"""The manifest of a bundle (the folder that ships to a device), and checks of the bundle's files.

``manifest.json`` lists the sha256 of every other file and holds a digest of itself, so that this
program notices a changed file. Whoever changes a file on purpose can change the digests too; only
a signature shows that, checked with a key that did not come with the bundle. So no value in a
manifest is trusted: paths that lead out of the bundle and impossible values are refused here.
This file travels to devices: Python 3.6 syntax, standard library.
"""

import hashlib
import json
import os
import re
import stat
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from edge_inception.device import records
from edge_inception.device.errors import Refusal

SCHEMA = "edge-inception/bundle"
SCHEMA_VERSION = 1
FILE = "manifest.json"
SIGNATURE = "manifest.json.sig"
ENGINES = "engine"  # folder of what the device builds; not part of the bundle
RESULTS = "results"  # folder of what the device measures; not part of the bundle
TIMING_CACHE = "timing.cache"  # in that folder; makes later builds faster
VERSION_DIGITS = 12
_BLOCK_BYTES = 1 << 20
_RESULT = re.compile(RESULTS + r"/[\w-][\w.-]*\.json(\.part(ial)?)?")
_MADE = re.compile(  # what this program itself writes into a bundle
    _RESULT.pattern
    + r"|{}/(model\.(engine|blob)(\.json|\.probe)?(\.partial)?|{}-[\w.-]+)".format(
        ENGINES, re.escape(TIMING_CACHE)
    )
)
_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
_COPY_AGAIN = "copy the bundle to the device again, or make it again: edge-inception bundle"

_SHA256, _VERSION = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{%d}" % VERSION_DIGITS)
_TENSORRT = re.compile(r"|[0-9]{1,9}(\.[0-9]{1,9}){0,5}")
_HEAD = re.compile(r"logits|softmax|embedding|topk:[1-9][0-9]{0,6}")
_MAX_BATCH, _MAX_CLASSES, _MAX_SIDE = 1 << 12, 1 << 24, 1 << 12
_TYPINGS, _PRECISIONS = ("strong", "weak", "implicit", "cpu"), ("fp32", "fp16", "int8")
_MAX_VALUE = 1e6  # products and quotients of two such values fit a float32
_FLOAT_PRECISIONS = (None, "f32", "bf16", "f16")  # OpenVINO's
_MAX_LEVEL = 5  # of TensorRT's builder optimization


class Identity(NamedTuple):
    """Name and version of a bundle."""

    name: str
    version: str


class File(NamedTuple):
    """One file of the bundle."""

    sha256: str
    bytes: int


class Preprocess(NamedTuple):
    """The fields of ``spec.Preprocess``, which explains them and does not travel to devices."""

    input_size: Tuple[int, int]
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    mean: Tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: Tuple[float, float, float] = (0.5, 0.5, 0.5)
    channel_order: str = "RGB"
    crop: str = "after_resize"
    element: str = "float32"
    layout: str = "NCHW"


class Target(NamedTuple):
    """The hardware that a bundle is for.

    ``tensorrt`` is (oldest version, newest version); an empty text is no bound.
    """

    name: str
    title: str
    backend: str
    compute_capabilities: List[str]
    tensorrt: Tuple[str, str]
    memory_gb: Optional[float]
    num_dla_cores: int


class Profile(NamedTuple):
    """Batch sizes of an engine: the smallest, the one it is optimised for, and the largest."""

    min: int
    opt: int
    max: int


class Graph(NamedTuple):
    """A typed graph: an ONNX graph in which every tensor's precision is explicit.

    ``tensorrt`` is (first version that the graph is for, first later version that it is not for).
    ``input_shape`` begins with the batch, which is a name where the batch is dynamic.
    """

    file: str
    tensorrt: Tuple[str, str]
    typing: str
    precision: str
    float_rest: Optional[str]
    input: str
    output: str
    input_shape: List[Union[int, str]]
    profile: Profile
    float_layers: Optional[List[str]] = None


class BuildOptions(NamedTuple):
    """Choices for building an engine; only OpenVINO has ``float_precision``."""

    workspace_mib: Optional[int]
    dla_core: Optional[int]
    allow_gpu_fallback: bool
    builder_optimization_level: Optional[int]
    float_precision: Optional[str] = None


class Gates(NamedTuple):
    """Limits of the checks in the validation report; None is no limit."""

    max_drop_pp: Optional[float] = None
    min_agreement: Optional[float] = None
    min_sqnr_db: Optional[float] = None
    min_speedup: Optional[float] = None
    search: Optional[float] = None


class Tolerance(NamedTuple):
    """Limits for an engine's outputs for golden images; ``max_pixel_steps`` are 1/255 each."""

    min_sqnr_db: float
    min_baseline_sqnr_db: float
    min_agreement: Optional[float]
    max_pixel_steps: float


class Golden(NamedTuple):
    """Number of golden images, photos that test an engine, and the limits for its outputs."""

    count: int  # type: ignore[assignment]  # a tuple has a method of that name
    tolerance: Tolerance


class Manifest(NamedTuple):
    """The content of ``manifest.json``."""

    name: str
    made_with: Dict[str, str]
    model: str
    precision: str
    head: str
    num_classes: int
    preprocess: Preprocess
    target: Target
    graphs: List[Graph]
    build: BuildOptions
    gates: Gates
    verdict: str
    golden: Golden
    files: Dict[str, File]
    version: str = ""
    sha256: str = ""
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION


class Bundle(NamedTuple):
    """An unpacked bundle whose files were checked against its manifest.

    ``content`` are the bytes of the manifest, which is read once.
    """

    root: str
    record: Manifest
    content: bytes

    def path(self, name: str) -> str:
        """Path of the file of that name in the bundle."""
        return os.path.join(self.root, *name.split("/"))

    def sha256(self, name: str) -> str:
        """The digest of the file of that name.

        Raises:
            Refusal: The manifest lists no such file.
        """
        if name not in self.record.files:
            raise Refusal("{} lists no {}".format(FILE, name), _COPY_AGAIN)
        return self.record.files[name].sha256

    @property
    def target(self) -> Target:
        """The hardware that the bundle is for."""
        return self.record.target

    @property
    def identity(self) -> Identity:
        """Name and version of the bundle."""
        return Identity(self.record.name, self.record.version)


def file_sha256(path: str) -> str:
    """Hex sha256 of a file's bytes; raises the OSError of ``open``."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK_BYTES), b""):
            digest.update(block)
    return digest.hexdigest()


def compute_version(record: Mapping[str, Any]) -> str:
    """The bundle's version: a digest of its manifest, which changes with any file or choice."""
    return compute_digest(record, without=("sha256", "version"))[:VERSION_DIGITS]


def compute_digest(record: Mapping[str, Any], without: Iterable[str] = ("sha256",)) -> str:
    """Hex sha256 of the manifest's JSON with sorted keys, without the keys in ``without``."""
    rest = {name: value for name, value in record.items() if name not in without}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(record: Manifest) -> Manifest:
    """``record`` with its version and its digest filled in."""
    named = record._replace(version=compute_version(records.plain(record)))
    return named._replace(sha256=compute_digest(records.plain(named)))


def open_bundle(root: str, content: Optional[bytes] = None) -> Bundle:
    """The bundle in the folder ``root``; ``content`` is its manifest where that was read already.

    Raises:
        Refusal: The manifest cannot be read, is of another schema, or a file is missing, was
            changed, or is neither listed by the manifest nor written by this program.
    """
    if content is None:
        content = _read_content(os.path.join(root, FILE))
    bundle = Bundle(root, _parse(content), content)
    _require_only_listed(root, bundle.record.files)
    for name, entry in sorted(bundle.record.files.items()):
        _require_unchanged(bundle.path(name), name, entry)
    return bundle


def read_manifest(path: str) -> Manifest:
    """The manifest in a file; the files that it lists are not read.

    Raises:
        Refusal: The file cannot be read, is of another schema, was changed, or breaks a rule.
    """
    return _parse(_read_content(path))


def require_place(bundle: Bundle, out: Optional[str]) -> None:
    """Refuse to write a record where the next command would find a file that is not listed.

    Raises:
        Refusal: ``out`` lies in the bundle, and not in its folder of results.
    """
    inside = os.path.relpath(os.path.realpath(out or os.pardir), os.path.realpath(bundle.root))
    if out and inside.split(os.sep)[0] != os.pardir and not _RESULT.fullmatch(inside):
        raise Refusal(
            "{} lies in the bundle, which holds only what its manifest lists".format(out),
            "write to {}/NAME.json there, or outside of the bundle".format(RESULTS),
        )


def _read_content(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise Refusal(
            "cannot read {}: {}".format(path, error.strerror),
            "run device.py of an unpacked bundle: tar xzf BUNDLE.tar.gz",
        ) from error


def _parse(content: bytes) -> Manifest:
    value = records.parse(content, FILE, _COPY_AGAIN)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise Refusal("{} is not the manifest of a bundle".format(FILE), _COPY_AGAIN)
    record: Manifest = records.convert_versioned(Manifest, value, FILE, _COPY_AGAIN)
    if compute_digest(value) != record.sha256 or compute_version(value) != record.version:
        raise Refusal("{} was changed after the bundle was made".format(FILE), _COPY_AGAIN)
    records.require(_rules(record), FILE, _COPY_AGAIN)
    return record


def _rules(record: Manifest) -> Iterator[records.Rule]:
    """The rules of a manifest that its types do not express."""
    for name, entry in record.files.items():
        yield is_safe_path(name), "files", name, "a path that is not outside of the bundle"
        yield bool(_SHA256.fullmatch(entry.sha256)), "files." + name, entry.sha256, "a sha256"
        yield entry.bytes >= 0, "files." + name, entry.bytes, "a size"
    yield bool(_VERSION.fullmatch(record.version)), "version", record.version, "12 hex digits"
    yield bool(_HEAD.fullmatch(record.head)), "head", record.head, "logits, softmax, topk:K, ..."
    yield 0 <= record.num_classes <= _MAX_CLASSES, "num_classes", record.num_classes, "a number"
    yield bool(record.graphs), "graphs", record.graphs, "at least one"
    yield records.one_of("precision", record.precision, _PRECISIONS)
    yield _version_rule("target.tensorrt", record.target.tensorrt)
    yield from _preprocess_rules(record.preprocess)
    yield from _build_rules(record.build)
    for index, graph in enumerate(record.graphs):
        yield from _graph_rules("graphs[{}].".format(index), graph, record.files)


def _preprocess_rules(preprocess: Preprocess) -> Iterator[records.Rule]:
    at, share = "preprocess.", preprocess.crop_fraction
    is_sized = all(1 <= side <= _MAX_SIDE for side in preprocess.input_size)
    yield is_sized, at + "input_size", preprocess.input_size, "1 to {} pixels".format(_MAX_SIDE)
    yield 0 < share <= 1, at + "crop_fraction", share, "above 0, at most 1"
    is_std_ok = all(1 / _MAX_VALUE <= std <= _MAX_VALUE for std in preprocess.std)
    is_mean_ok = all(abs(mean) <= _MAX_VALUE for mean in preprocess.mean)
    yield is_std_ok, at + "std", preprocess.std, "1e-6 to 1e6, of pixels from 0 to 1"
    yield is_mean_ok, at + "mean", preprocess.mean, "at most 1e6 either way, of pixels from 0 to 1"
    yield records.one_of(at + "interpolation", preprocess.interpolation, _FILTERS)
    yield records.one_of(at + "channel_order", preprocess.channel_order, ("RGB", "BGR"))
    yield records.one_of(at + "crop", preprocess.crop, ("after_resize", "before_resize"))
    yield records.one_of(at + "element", preprocess.element, ("float32", "uint8"))
    yield records.one_of(at + "layout", preprocess.layout, ("NCHW", "NHWC"))


def _build_rules(choices: BuildOptions) -> Iterator[records.Rule]:
    at, level = "build.", choices.builder_optimization_level or 0
    for name in ("dla_core", "workspace_mib"):
        value = getattr(choices, name) or 0
        yield value >= 0, at + name, value, "0 or more"
    yield 0 <= level <= _MAX_LEVEL, at + "builder_optimization_level", level, "0 to 5"
    yield records.one_of(at + "float_precision", choices.float_precision, _FLOAT_PRECISIONS)


def _graph_rules(at: str, graph: Graph, files: Mapping[str, File]) -> Iterator[records.Rule]:
    sizes = graph.profile
    is_ordered = 1 <= sizes.min <= sizes.opt <= sizes.max <= _MAX_BATCH
    yield graph.file in files, at + "file", graph.file, "a file that the manifest lists"
    yield _version_rule(at + "tensorrt", graph.tensorrt)
    yield records.one_of(at + "typing", graph.typing, _TYPINGS)
    yield records.one_of(at + "precision", graph.precision, _PRECISIONS)
    yield records.one_of(at + "float_rest", graph.float_rest, (None, "fp16", "fp32"))
    yield is_ordered, at + "profile", tuple(sizes), "1 <= min <= opt <= max <= 4096"


def _version_rule(place: str, got: Tuple[str, str]) -> records.Rule:
    are_versions = all(_TENSORRT.fullmatch(version) for version in got)
    return are_versions, place, got, "two versions such as 8.5.2, or nothing"


def is_safe_path(name: str) -> bool:
    """Whether a path is relative, printable, without ``..`` and without needless parts."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def _require_unchanged(path: str, name: str, entry: File) -> None:
    try:
        size = os.path.getsize(path)
        sha256 = file_sha256(path) if size == entry.bytes else ""
    except OSError as error:
        raise Refusal(
            "{} of the bundle cannot be read: {}".format(name, error.strerror), _COPY_AGAIN
        ) from error
    if size != entry.bytes:
        raise Refusal(
            "{} was changed: {} bytes, the manifest lists {}".format(name, size, entry.bytes),
            _COPY_AGAIN,
        )
    if sha256 != entry.sha256:
        raise Refusal(
            "{} was changed: sha256 {}, the manifest lists {}".format(
                name, sha256[:VERSION_DIGITS], entry.sha256[:VERSION_DIGITS]
            ),
            _COPY_AGAIN,
        )


def _require_only_listed(root: str, files: Mapping[str, Any]) -> None:
    """Refuse links, and what is neither listed nor a file that this program writes: it could run.

    Raises:
        Refusal: There is such an entry, anywhere in the bundle.
    """
    parents = {ENGINES, RESULTS}
    for name in files:
        parts = name.split("/")
        parents.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    for folder, folders, names in os.walk(root):
        for path in (os.path.join(folder, name) for name in sorted(folders + names)):
            inside, mode = os.path.relpath(path, root).replace(os.sep, "/"), os.lstat(path).st_mode
            is_ours = inside in files or inside in (FILE, SIGNATURE) or _MADE.fullmatch(inside)
            if inside in parents if stat.S_ISDIR(mode) else stat.S_ISREG(mode) and is_ours:
                continue
            raise Refusal(
                "{} is {}".format(
                    ascii(inside)[1:-1],
                    "a link" if stat.S_ISLNK(mode) else "not a file that the manifest lists",
                ),
                "move it out of the bundle, a virtual environment too: nothing there may run that "
                "its maker did not pack",
            )


def version_numbers(version: str) -> Tuple[int, ...]:
    """The numbers of a version, comparable as a tuple: (10, 3, 0, 30) for ``"10.3.0.30"``."""
    parts = []
    for part in version.split("."):
        digits = "".join(c for c in part if c in "0123456789")
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def is_version_within(version: str, oldest: Optional[str], newest: Optional[str]) -> bool:
    """Whether oldest <= version <= newest; a bound of n numbers is compared with the first n."""
    here = version_numbers(version)
    low, high = version_numbers(oldest or ""), version_numbers(newest or "")
    return here[: len(low)] >= low and (not high or here[: len(high)] <= high)


def require_tensorrt(bundle: Bundle, version: str) -> None:
    """Refuse a TensorRT version that the bundle is not for.

    Raises:
        Refusal: The version is outside the manifest's range.
    """
    oldest, newest = bundle.target.tensorrt
    if not is_version_within(version, oldest, newest):
        raise Refusal(
            "this bundle is for TensorRT {} to {}, here is {}".format(oldest, newest, version),
            "make a bundle for this device: edge-inception targets shows which, then "
            "edge-inception bundle --target NAME",
        )


def require_graph(bundle: Bundle, version: Optional[str]) -> Graph:
    """The bundle's graph for a TensorRT version; ``version`` None stands for another library.

    Raises:
        Refusal: None of the bundle's graphs is for that version.
    """
    graph = select_graph(bundle.record.graphs, version)
    if graph is None:
        bounds = "; ".join(
            "{} is for {} up to {}".format(
                entry.typing, *(bound or "any" for bound in entry.tensorrt)
            )
            for entry in bundle.record.graphs
        )
        raise Refusal(
            "the bundle has no graph for TensorRT {}: {}".format(version, bounds),
            "make a bundle for this device: edge-inception bundle --target NAME",
        )
    return graph


def select_graph(graphs: Iterable[Graph], version: Optional[str]) -> Optional[Graph]:
    """The first of ``graphs`` that is for TensorRT ``version``; None if no graph is for it."""
    return next((graph for graph in graphs if _is_built_by(graph, version)), None)


def _is_built_by(graph: Graph, version: Optional[str]) -> bool:
    if version is None or graph.typing == "cpu":
        return version is None and graph.typing in {"strong", "cpu"}
    oldest, first_unsupported = graph.tensorrt
    limit = version_numbers(first_unsupported)
    is_old_enough = not limit or version_numbers(version)[: len(limit)] < limit
    return is_old_enough and is_version_within(version, oldest, None)
