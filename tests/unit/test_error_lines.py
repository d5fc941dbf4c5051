"""What people give and cannot be used: what the error line and the hint name, exit code 3, no file.

Each is one command line. The wording itself is free, but for the errors in errors.golden.txt.
Refusals of ONNX graphs are in graph/test_refusals.py, of recipe keys in test_recipe.py.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sidecars
import torch
from PIL import Image
from safetensors.torch import save_file

from edge_inception import artifact, registry
from edge_inception.artifact import Baseline, Provenance
from edge_inception.cli import main
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions

State = dict[str, torch.Tensor]
Write = Callable[[Path, State], object]
KEY, SHAPE = "last_linear.weight", (5, 32)


@pytest.fixture
def state(tiny_weights) -> State:
    return {key: tensor.clone() for key, tensor in tiny_weights.state_dict().items()}


@pytest.fixture
def export(refusal, state):
    """``export(*flags)``: the refusal of exporting good weights, or another file."""

    def run(*flags: str, checkpoint: str = "w.st", model: str = "tiny_inception"):
        if not Path(checkpoint).exists():
            save_file(state, checkpoint)
        named = ["--model", model, "--checkpoint", checkpoint]
        return refusal("export", *named, "--out", "graph.onnx", *flags)

    return run


def raw(content: bytes) -> Write:
    return lambda path, _: path.write_bytes(content)


def saved(change: Callable[[State], Any], *, is_zip: bool = True) -> Write:
    """A file of torch.save."""
    return lambda path, state: torch.save(
        change(state), path, _use_new_zipfile_serialization=is_zip
    )


def tensors(change: Callable[[State], State], **metadata: str) -> Write:
    """A safetensors file."""
    return lambda path, state: save_file(change(state), path, metadata=metadata or None)


def spoilt(**changes: Any) -> Write:
    """A safetensors file in which some tensors are others; ``__`` stands for a dot."""
    found = {key.replace("__", "."): tensor for key, tensor in changes.items()}
    return tensors(lambda state: {**state, **found})


def arrays(**found: np.ndarray) -> Write:
    def write(path: Path, _: State) -> None:
        with path.open("wb") as stream:
            np.savez(stream, **found)

    return write


def half(write: Write) -> Write:
    """The first half of what ``write`` writes."""

    def cut(path: Path, state: State) -> None:
        write(path, state)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut


def keras(path: Path, _: State) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"")


def with_head(*layers: tuple[int, int]) -> Write:
    """Linear layers (outputs, inputs) with ReLUs between in the place of the head."""

    def change(state: State) -> State:
        kept = {key: tensor for key, tensor in state.items() if not key.startswith("last_linear")}
        for index, shape in enumerate(layers):
            kept[f"last_linear.{2 * index}.weight"] = torch.ones(shape)
            kept[f"last_linear.{2 * index}.bias"] = torch.ones(shape[0])
        return kept

    return tensors(change)


def renamed(state: State) -> State:
    key = "features.2.branch1.0.conv.weight"
    return {("extra" if name == key else name): tensor for name, tensor in state.items()}


def with_prefix(*prefixes: str) -> Write:
    return saved(lambda state: {p + key: t for p in prefixes for key, t in state.items()})


class Code:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


# Words of a line or a hint stand between bars, see ``lacking``: the offending value first.
FORMATS = "safetensors | torch.save | npz | slim"
KERAS = "npz | keras"
AGAIN = "download | TorchScript"
TRUSTED = "safetensors | trust"
ALONE = "model.state_dict()"
MEANT = "the one | meant"
FLOATS = "float weights"
DAMAGED = "diverged | damaged"
NUMBERS = "float arrays | objects"
OPTIONS = "--option | width=1.0 | dropout=0.2"
OTHER_OPTIONS = f"trained with | {OPTIONS}"
LABELS = "--labels | logit"

# What is in the file -> how it is written, words of the line, words of the hint; the file is the
# first of the words.
CHECKPOINTS: dict[str, tuple[Write, str, str]] = {
    "nothing": (raw(b""), "w.pt | not a checkpoint | empty | 0 bytes", FORMATS),
    "something": (
        raw(b"\x08\x0a\x12\x07pytorch"),
        r"w.pt | not a checkpoint | starts with | b'\x08\n\x12\x07pyto'",
        FORMATS,
    ),
    "Git LFS": (
        raw(b"version https://git-lfs.github.com/spec/v1\noid"),
        "w.pt | not a checkpoint | Git LFS pointer",
        "git lfs pull",
    ),
    "HDF5": (raw(b"\x89HDF\r\n" + bytes(60)), "w.h5 | not a checkpoint | HDF5 | Keras", KERAS),
    ".keras": (keras, "w.keras | not a checkpoint | .keras", KERAS),
    "web page": (
        raw(b"<!DOCTYPE html><html>"),
        "w.pt | not a checkpoint | web page",
        "download",
    ),
    "half of safetensors": (half(tensors(dict)), "w.st | truncated", "download"),
    "half of torch.save": (half(saved(dict)), "w.pt | truncated | torch.save", AGAIN),
    "half of an old torch.save": (
        half(saved(dict, is_zip=False)),
        "w.pt | truncated | torch.save",
        AGAIN,
    ),
    "half of an npz": (
        half(arrays(weights=np.zeros(1000))),
        "w.npz | truncated | not a zip file",
        "copy | dump",
    ),
    "npz of objects": (
        arrays(thing=np.array([{"a": 1}], dtype=object)),
        "w.npz | 'thing' | numbers | Object arrays",
        NUMBERS,
    ),
    "npz of text": (
        arrays(thing=np.array(["a"])),
        "w.npz | 'thing' | numbers | can't convert",
        NUMBERS,
    ),
    "code": (raw(pickle.dumps(Code())), "w.pt | pickle | not opened", TRUSTED),
    "a number": (saved(lambda _: 3), "w.pt | int | wanted tensors", ALONE),
    "a tensor": (saved(lambda _: torch.ones(2)), "w.pt | Tensor | wanted tensors", ALONE),
    "no entry": (saved(lambda _: {}), "w.pt | dict | without entries | wanted tensors", ALONE),
    "no weights": (
        saved(lambda _: {"epoch": 3, "loss": {"train": 1.0}}),
        "w.pt | epoch | loss | not tensors",
        ALONE,
    ),
    "two models": (
        saved(lambda state: {"model": state, "net": state}),
        "w.pt | several entries | 'model' | 'net'",
        MEANT,
    ),
    "two averages": (
        saved(lambda state: {"ema": state, "state_dict_ema": state}),
        "w.pt | several entries | 'state_dict_ema' | 'ema'",
        MEANT,
    ),
    "two prefixes": (
        with_prefix("net.", "model."),
        "w.pt | several prefixes | 'model.' | 'net.'",
        MEANT,
    ),
    "NaN": (
        spoilt(last_linear__weight=torch.full(SHAPE, torch.nan)),
        f"w.st | '{KEY}' | 160 of 160 | NaN",
        DAMAGED,
    ),
    "beyond float32": (
        spoilt(last_linear__bias=torch.tensor([0, 0, 0, 0, 1e300], dtype=torch.float64)),
        "w.st | 'last_linear.bias' | 1 of 5 | beyond float32",
        DAMAGED,
    ),
    "float8": (
        spoilt(last_linear__weight=torch.ones(SHAPE).to(torch.float8_e4m3fn)),
        f"w.st | '{KEY}' | float8_e4m3fn | wanted float32 | bfloat16",
        FLOATS,
    ),
    "integers": (
        spoilt(last_linear__weight=torch.ones(SHAPE, dtype=torch.int8)),
        f"w.st | '{KEY}' | int8 | wanted float32",
        FLOATS,
    ),
    "sparse": (
        saved(lambda state: {**state, KEY: state[KEY].to_sparse()}),
        f"w.pt | '{KEY}' | sparse | wanted dense",
        FLOATS,
    ),
    "other keys": (
        tensors(renamed),
        (
            "w.st | tiny_inception | timm | 1 of 74 | missing | features.2.branch1.0.conv.weight"
            " | 1 unexpected | extra"
        ),
        "timm | native",
    ),
    "another kernel": (
        spoilt(features__0__conv__weight=torch.zeros(8, 3, 5, 5)),
        (
            "w.st | tiny_inception | 1 of 74 | shape | features.0.conv.weight | [8, 3, 5, 5]"
            " | wanted [8, 3, 3, 3]"
        ),
        OTHER_OPTIONS,
    ),
    "head of two layers": (
        with_head((64, 32), (5, 64)),
        (
            "w.st | tiny_inception | but for its head | last_linear.0.bias | last_linear.2.bias"
            " | 1 more | wanted last_linear.weight"
        ),
        "--option | head_hidden=64",
    ),
    "head of three layers": (
        with_head((64, 32), (64, 64), (5, 64)),
        (
            "w.st | tiny_inception | but for its head | last_linear.0.bias | last_linear.2.bias"
            " | 3 more | wanted last_linear.weight"
        ),
        "--option | head_hidden=N",
    ),
    "no head": (
        with_head(),
        "w.st | tiny_inception | timm | 2 of 74 | missing | last_linear.weight | last_linear.bias",
        "timm | native",
    ),
    "three class names": (
        tensors(dict, classes=json.dumps(["a", "b", "c"])),
        "w.st | 3 class names | head of 5",
        LABELS,
    ),
    "zeros": (
        spoilt(last_linear__weight=torch.zeros(SHAPE), last_linear__bias=torch.zeros(5)),
        "w.st | logits | all 0",
        "not trained",
    ),
    "overflow": (
        spoilt(features__0__bn__weight=torch.full((8,), 3e38)),
        "w.st | logits | NaN or infinite | PyTorch",
        "overflow float32",
    ),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_checkpoint_is_refused_for_what_is_in_it(export, tells, state, what):
    """Not weights, damaged weights, or those of another network; code in it does not run."""
    write, line, hint = CHECKPOINTS[what]
    path = Path(line.partition(" ")[0])
    write(path, state)
    tells(export(checkpoint=str(path)), line, hint)
    assert not Path("ran").exists()


CHANNELS = "three numbers | channel | 0 to 1"
PATTERN = "MIN:OPT:MAX"
K = "topk:K"
FLAGS = [
    ("--checkpoint absent.pt", "absent.pt | cannot read | No such file", "path"),
    ("--checkpoint .", "cannot read . | directory", "path"),
    (
        "--checkpoint-format tim",
        "'tim' | checkpoint format",
        (
            "did you mean 'timm' | auto | cadene | facenet | keras | native | slim | torchvision"
            " | torchvision_v2"
        ),
    ),
    (
        "--checkpoint-format keras",
        "'keras' | tiny_inception | family",
        "known: native, timm",
    ),
    ("--model tiny_incepton", "'tiny_incepton' | model", "did you mean 'tiny_inception'"),
    (
        "--model inception_v4",
        "w.st | does not fit inception_v4 | those of tiny_inception",
        "--model tiny_inception",
    ),
    ("--num-classes 3", "w.st | head of 5 | wanted 3", "--num-classes 5"),
    ("--num-classes 0", "command line | model.num_classes is 0", "at least 1"),
    (
        "--option widht=1",
        "'widht' | option | tiny_inception",
        "did you mean 'width' | dropout",
    ),
    ("--option width", "--option | 'width' | no value", "KEY=VALUE"),
    (
        "--option width=wide",
        'option width | tiny_inception | "wide" | wanted a number',
        "--option width=1.0",
    ),
    (
        "--option width=true",
        "option width | tiny_inception | true | wanted a number",
        "--option width=1.0",
    ),
    (
        "--option width=0",
        "option width | tiny_inception | is 0 | above 0",
        "--option width=1.0",
    ),
    (
        "--option width=NaN",
        "option width | tiny_inception | NaN | at least 0",
        "--option width=1.0",
    ),
    (
        "--option dropout=-1",
        "option dropout | tiny_inception | -1 | at least 0",
        "--option dropout=0.2",
    ),
    ("--option dropout=2", "tiny_inception | cannot build | 'dropout': 2", OPTIONS),
    (
        "--option width=1e9",
        "tiny_inception | cannot build | 'width': 1000000000.0",
        OPTIONS,
    ),
    (
        "--option width=2",
        (
            "w.st | tiny_inception | 61 of 74 | shape | features.0.conv.weight is [8, 3, 3, 3]"
            " | wanted [16, 3, 3, 3] | features.0.bn.bias is [8] | wanted [16] | 58 more"
        ),
        OTHER_OPTIONS,
    ),
    ("--head topk:9", "topk:9 | 9 classes | model has 5", "topk:1 | topk:5"),
    ("--head topk", "'topk' | number of classes", K),
    ("--head topk:0", "'topk:0' | number of classes", K),
    ("--head softmx", "'softmx' | head", "did you mean 'softmax'"),
    ("--head embedding", "'embedding' | head", "known: logits, softmax, topk:K"),
    (
        "--fold-preprocessing uint16",
        "'uint16' | folded preprocessing",
        "did you mean 'uint8' | none | uint8-nhwc",
    ),
    ("--mean 0.5,0.5", "command line | preprocess.mean | [0.5, 0.5]", CHANNELS),
    ("--mean nan,0,0", "command line | preprocess.mean | [nan, 0.0, 0.0]", CHANNELS),
    ("--mean a,b,c", "'a,b,c' | numbers", "0.485,0.456,0.406"),
    (
        "--std 1,0,1",
        "command line | preprocess.std | [1.0, 0.0, 1.0]",
        f"{CHANNELS} | at least 1e-06",
    ),
    (
        "--fold-preprocessing uint8 --std 1e-45,1,1",
        "command line | preprocess.std | [1e-45, 1.0, 1.0]",
        f"{CHANNELS} | at least 1e-06",
    ),
    ("--mean 0,1e39,0", "command line | preprocess.mean | [0.0, 1e+39, 0.0]", CHANNELS),
    (
        "--crop before",
        "'before' | crop",
        "did you mean 'before_resize' | after_resize",
    ),
    (
        "--interpolation bicubik",
        "'bicubik' | interpolation",
        "did you mean 'bicubic' | bilinear | lanczos | nearest",
    ),
    ("--channel-order BRG", "'BRG' | channel order", "did you mean 'RGB' | BGR"),
    (
        "--crop-fraction 0",
        "command line | preprocess.crop_fraction | 0.0",
        "above 0 | at most 1",
    ),
    ("--input-size 0", "command line | preprocess.input_size is 0", "299 | [299, 299]"),
    (
        "--input-size 3",
        "tiny_inception | 3 x 3 | input size: (8x1x1)",
        "larger --input-size",
    ),
    ("--dynamic-batch 2:1", "command line | dynamic batch | '2:1'", PATTERN),
    ("--labels absent", "absent | labels | No such file", "one class"),
    (
        "--onnx m.onnx",
        "command line | both | ONNX | model name",
        "--onnx | --model | --checkpoint",
    ),
]


@pytest.mark.parametrize(("flags", "line", "hint"), FLAGS, ids=[flags for flags, _, _ in FLAGS])
def test_a_flag_is_refused(export, tells, flags, line, hint):
    """What a flag says cannot be, is unknown, or does not fit the checkpoint."""
    tells(export(*flags.split()), line, hint)


NAMES = "one class name per line"
LISTS = [
    (b"a\nb\n", "2 class names | head of 5 | w.st", LABELS),
    (b"a\n\nb\n", "labels.txt | no class name | line 2", "logit index | empty"),
    (b"a\nb\na\n", "labels.txt | 'a' | twice", NAMES),
    (b"\xff\xfe", "labels.txt | not UTF-8", f"{NAMES} | UTF-8"),
    (
        b"b\na\nc\nd\ne\n",
        "w.st | another order | b, a, c, d, e against a, b, c, d, e",
        "--labels | order",
    ),
]


@pytest.mark.parametrize(("content", "line", "hint"), LISTS, ids=[line for _, line, _ in LISTS])
def test_labels_are_refused(export, tells, state, content, line, hint):
    """Another number of names than logits, another order than in training, or no list at all."""
    Path("labels.txt").write_bytes(content)
    save_file(state, "w.st", metadata={"classes": json.dumps(list("abcde"))})
    tells(export("--labels", "labels.txt"), line, hint)


def test_a_folder_is_no_file_to_write(refusal, tells):
    """A folder that is named as the output, also the working folder, is left alone."""
    tells(refusal("init", ".", "--force"), "cannot write . | directory", "another --out")


@pytest.fixture
def embedding(tmp_path, tiny_typed) -> Path:
    """An engine whose sidecar says that it gives embeddings."""
    engine = tmp_path / "engine.onnx"
    backends.backend("onnxruntime").compile(tiny_typed("fp32"), CompileOptions(), engine)
    sidecar = tmp_path / "engine.onnx.json"
    record = json.loads(sidecar.read_text(encoding="utf-8"))
    record["details"]["head"] = "embedding"
    sidecar.write_text(json.dumps(record), encoding="utf-8")
    return Path(engine.name)


@pytest.fixture
def photos(tmp_path) -> str:
    """Six class folders of one image."""
    for name in "abcdef":
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 32), (ord(name), 90, 200)).save(folder / "photo.png")
    return "photos"


def test_classify_needs_classes(refusal, tells, embedding):
    """Vectors name no class."""
    tells(
        refusal("classify", "--engine", str(embedding), "photo.png"),
        "engine.onnx | embeddings | no class",
        "edge_inception.open_engine",
    )


NAMED = ("--model", "inception_resnet_v1", "--checkpoint", "w.st")


def test_a_drop_of_embeddings_is_no_gate(refusal, tells, embedding, photos):
    """Who is right is not known of vectors."""
    origin = Provenance(stage="baseline", parents={}, options={}, tools={}, source="")
    artifact.publish(Baseline, Path("b.npz"), b"", provenance=origin, details=sidecars.of(Baseline))
    judged = ["validate", str(embedding), "--baseline", "b.npz", *NAMED, "--validation", photos]
    tells(
        refusal(*judged, "--max-drop", "1", "--out", "report.json"),
        "max_drop_pp | inception_resnet_v1 | embeddings",
        "--max-drop | --min-agreement | --min-sqnr",
    )


def test_an_embedding_takes_no_head(refusal, tells):
    """FaceNet's network without its classifier has nothing to take a softmax of."""
    spec, options = registry.model("inception_resnet_v1"), {"tail": "facenet", "width": 0.05}
    save_file(spec.build(num_classes=1, **options).state_dict(), "w.st")
    narrow = ["--option", "width=0.05", "--checkpoint-format", "facenet"]
    tells(
        refusal("export", *NAMED, *narrow, "--head", "softmax", "--out", "graph.onnx"),
        "head softmax | needs classes | inception_resnet_v1 | embeddings",
        "--head | --option tail=facenet-classifier | --checkpoint-format facenet",
    )


def test_class_names_of_an_embedding_are_said_to_be_unused(tmp_path, monkeypatch, capsys, lacking):
    """Nothing that is asked for goes by in silence."""
    monkeypatch.chdir(tmp_path)
    spec, options = registry.model("inception_resnet_v1"), {"tail": "facenet", "width": 0.05}
    save_file(spec.build(num_classes=1, **options).state_dict(), "w.st")
    Path("names.txt").write_text("a\nb\n")
    small = ["--option", "width=0.05", "--checkpoint-format", "facenet", "--input-size", "96"]
    assert main.run(["export", *NAMED, *small, "--labels", "names.txt", "--out", "graph.onnx"]) == 0
    said = capsys.readouterr().err.splitlines()
    words = "2 class names | not used | embedding"
    assert [line for line in said if not lacking(line, words)], said


def test_a_label_beyond_the_head_is_named(refusal, tells, state, photos):
    """The first image whose class no logit stands for."""
    save_file(state, "w.st")
    named = ["--model", "tiny_inception", "--checkpoint", "w.st"]
    tells(
        refusal("baseline", *named, "--validation", photos, "--out", "b.npz"),
        "photos/f/photo.png | label 5 | head has 5",
        LABELS,
    )


STARTER = "edge-inception init | recipe"
COMMANDS = [
    ("export --out x", "no recipe | --model | --checkpoint | --onnx", STARTER),
    (
        "export --model inception_v4 --out x",
        "command line | no model checkpoint",
        "[model] checkpoint | --checkpoint",
    ),
    (
        "export --checkpoint w.st --out x",
        "command line | no model name",
        "[model] name | --model",
    ),
    (
        "validate e.blob --baseline b.npz --onnx m.onnx --out r.json",
        "validate | --model | --checkpoint | not --onnx",
        "build --onnx | report.json",
    ),
    (
        "baseline --model inception_v4 --checkpoint w.st --out b.npz",
        "no validation images",
        "[data] validation | --validation",
    ),
    ("models inception_v5", "'inception_v5' | model", "did you mean 'inception_v4'"),
    ("models --option width=1", "options | one model", "models NAME"),
    (
        "models resnet50 --option width=wide",
        'option width | resnet50 | "wide" | wanted a number',
        "--option width=1.0",
    ),
    (
        "models resnet50 --option head_hidden=1.5",
        "option head_hidden | resnet50 | 1.5 | whole number",
        "--option head_hidden=0",
    ),
    (
        "models googlenet --option aux=1",
        "option aux | googlenet | is 1 | true or false",
        "--option aux=false",
    ),
    (
        "models resnet50 --option stride_in=2x2",
        "resnet50 | cannot build | stride_in | '2x2' | wanted | '1x1' | '3x3'",
        '--option | width=1.0 | dropout=0.0 | head_hidden=0 | stride_in="3x3"',
    ),
    (
        "models inception_v4 --input-size 50",
        "inception_v4 | 50 x 50 | layer features.18",
        "larger --input-size",
    ),
    ("inspect m.onnx", "m.onnx | cannot read | graph | No such file", "path"),
]


@pytest.mark.parametrize(("words", "line", "hint"), COMMANDS, ids=[words for words, *_ in COMMANDS])
def test_a_command_is_refused(refusal, tells, words, line, hint):
    """Something is missing, or makes no sense for this command."""
    tells(refusal(*words.split()), line, hint)


GRAPHS = [
    (
        "g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }",
        ["--batch", "4"],
        "batch is 2 | wanted 4",
        "--batch | dynamic batch",
    ),
    (
        "g (float[2,3] x) => (float[2,3] y) { y = Relu(a) a = Neg(x) }",
        [],
        "'-> y' | reads 'a' | before",
        "order | export",
    ),
]


@pytest.mark.parametrize(("text", "flags", "line", "hint"), GRAPHS)
def test_inspect_refuses(refusal, tells, text, flags, line, hint):
    """A graph that cannot be shown as asked."""
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'), "m.onnx")
    tells(refusal("inspect", "m.onnx", *flags), line, hint)
