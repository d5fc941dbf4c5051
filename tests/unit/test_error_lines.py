"""What people give and cannot be used: the exact error line, the hint, exit code 3, no file.

Each is one command line. A line or hint that ends in ``...`` goes on in a library's own words.
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


def cut(said: tuple[str, str], *wanted: str) -> tuple[str, ...]:
    """What was said, cut where a wanted text ends in ``...``."""
    pairs = zip(said, wanted, strict=True)
    return tuple(
        f"{text[: len(want) - 3]}..." if want.endswith("...") else text for text, want in pairs
    )


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


WANTED = (
    "wanted safetensors, torch.save or npz; of TensorFlow, dump it to npz as "
    "edge_inception/keymaps/slim.py says"
)
KERAS = "dump it to npz as edge_inception/keymaps/keras.py says"
AGAIN = "copy or download it again; a TorchScript archive holds no state dict"
TRUSTED = "convert it to safetensors where you trust it: safetensors.torch.save_file"
ALONE = "save model.state_dict() alone"
MEANT = "save the one that is meant alone"
FLOATS = "publish the float weights"
DAMAGED = "the training diverged or the file is damaged; use another checkpoint"
NUMBERS = "dump float arrays only; arrays of Python objects are never opened"
OPTIONS = "--option KEY=VALUE, by default width=1.0, dropout=0.2"
OTHER_WORDS = f"set the options it was trained with; {OPTIONS}"
LABELS = "give --labels with one class name per logit, in logit order"

# What is in the file -> how it is written, the error line and the hint; the file is the one named.
CHECKPOINTS: dict[str, tuple[Write, str, str]] = {
    "nothing": (raw(b""), "w.pt is not a checkpoint: it is empty (0 bytes)", WANTED),
    "something": (
        raw(b"\x08\x0a\x12\x07pytorch"),
        r"w.pt is not a checkpoint: it starts with b'\x08\n\x12\x07pyto'",
        WANTED,
    ),
    "Git LFS": (
        raw(b"version https://git-lfs.github.com/spec/v1\noid"),
        "w.pt is not a checkpoint but a Git LFS pointer",
        "run `git lfs pull`",
    ),
    "HDF5": (
        raw(b"\x89HDF\r\n" + bytes(60)),
        "w.h5 is not a checkpoint but an HDF5 file of Keras",
        KERAS,
    ),
    ".keras": (keras, "w.keras is not a checkpoint but a .keras file", KERAS),
    "web page": (
        raw(b"<!DOCTYPE html><html>"),
        "w.pt is not a checkpoint but a web page or XML",
        "download it again",
    ),
    "half of safetensors": (
        half(tensors(dict)),
        "w.st is truncated or damaged: ...",
        "copy or download it again",
    ),
    "half of torch.save": (
        half(saved(dict)),
        "w.pt is truncated or not a torch.save file: ...",
        AGAIN,
    ),
    "half of an old torch.save": (
        half(saved(dict, is_zip=False)),
        "w.pt is truncated or not a torch.save file: ...",
        AGAIN,
    ),
    "half of an npz": (
        half(arrays(weights=np.zeros(1000))),
        "w.npz is truncated or damaged: File is not a zip file",
        "copy it or dump it again",
    ),
    "npz of objects": (
        arrays(thing=np.array([{"a": 1}], dtype=object)),
        "w.npz: array 'thing' is not one of numbers: Object arrays cannot be loaded ...",
        NUMBERS,
    ),
    "npz of text": (
        arrays(thing=np.array(["a"])),
        "w.npz: array 'thing' is not one of numbers: can't convert np.ndarray ...",
        NUMBERS,
    ),
    "code": (
        raw(pickle.dumps(Code())),
        "w.pt is a pickle with more than tensors in it and is not opened: ...",
        TRUSTED,
    ),
    "a number": (saved(lambda _: 3), "w.pt holds a int; wanted tensors by name", ALONE),
    "a tensor": (
        saved(lambda _: torch.ones(2)),
        "w.pt holds a Tensor; wanted tensors by name",
        ALONE,
    ),
    "no entry": (
        saved(lambda _: {}),
        "w.pt holds a dict without entries; wanted tensors by name",
        ALONE,
    ),
    "no weights": (
        saved(lambda _: {"epoch": 3, "loss": {"train": 1.0}}),
        "w.pt holds entries that are not tensors: epoch, loss; wanted tensors by name",
        ALONE,
    ),
    "two models": (
        saved(lambda state: {"model": state, "net": state}),
        "w.pt has weights under several entries: 'model', 'net'",
        MEANT,
    ),
    "two averages": (
        saved(lambda state: {"ema": state, "state_dict_ema": state}),
        "w.pt has weights under several entries: 'state_dict_ema', 'ema'",
        MEANT,
    ),
    "two prefixes": (
        with_prefix("net.", "model."),
        "w.pt has weights under several prefixes: 'model.', 'net.'",
        MEANT,
    ),
    "NaN": (
        spoilt(last_linear__weight=torch.full(SHAPE, torch.nan)),
        f"w.st: tensor '{KEY}' has 160 of 160 values NaN, infinite or beyond float32",
        DAMAGED,
    ),
    "beyond float32": (
        spoilt(last_linear__bias=torch.tensor([0, 0, 0, 0, 1e300], dtype=torch.float64)),
        "w.st: tensor 'last_linear.bias' has 1 of 5 values NaN, infinite or beyond float32",
        DAMAGED,
    ),
    "float8": (
        spoilt(last_linear__weight=torch.ones(SHAPE).to(torch.float8_e4m3fn)),
        f"w.st: tensor '{KEY}' is float8_e4m3fn, wanted float32, float16 or bfloat16",
        FLOATS,
    ),
    "integers": (
        spoilt(last_linear__weight=torch.ones(SHAPE, dtype=torch.int8)),
        f"w.st: tensor '{KEY}' is int8, wanted float32",
        FLOATS,
    ),
    "sparse": (
        saved(lambda state: {**state, KEY: state[KEY].to_sparse()}),
        f"w.pt: tensor '{KEY}' is sparse or quantized, wanted dense float",
        FLOATS,
    ),
    "other keys": (
        tensors(renamed),
        (
            "w.st does not fit tiny_inception: nearest family timm: 1 of 74 keys missing "
            "(features.2.branch1.0.conv.weight); 1 unexpected (extra)"
        ),
        "wanted the names of timm, native",
    ),
    "another kernel": (
        spoilt(features__0__conv__weight=torch.zeros(8, 3, 5, 5)),
        (
            "w.st does not fit tiny_inception: 1 of 74 tensors have another shape "
            "(features.0.conv.weight is [8, 3, 5, 5], wanted [8, 3, 3, 3])"
        ),
        OTHER_WORDS,
    ),
    "head of two layers": (
        with_head((64, 32), (5, 64)),
        (
            "w.st fits tiny_inception but for its head: last_linear.0.bias, "
            "last_linear.0.weight, last_linear.2.bias, and 1 more; wanted last_linear.weight, "
            "last_linear.bias"
        ),
        "wanted one linear layer, or two with a ReLU between and --option head_hidden=64",
    ),
    "head of three layers": (
        with_head((64, 32), (64, 64), (5, 64)),
        (
            "w.st fits tiny_inception but for its head: last_linear.0.bias, "
            "last_linear.0.weight, last_linear.2.bias, and 3 more; wanted last_linear.weight, "
            "last_linear.bias"
        ),
        "wanted one linear layer, or two with a ReLU between and --option head_hidden=N",
    ),
    "no head": (
        with_head(),
        (
            "w.st does not fit tiny_inception: nearest family timm: 2 of 74 keys missing "
            "(last_linear.weight, last_linear.bias)"
        ),
        "wanted the names of timm, native",
    ),
    "three class names": (
        tensors(dict, classes=json.dumps(["a", "b", "c"])),
        "3 class names for a head of 5 classes in w.st",
        LABELS,
    ),
    "zeros": (
        spoilt(last_linear__weight=torch.zeros(SHAPE), last_linear__bias=torch.zeros(5)),
        "w.st: logits of an ordinary image are all 0",
        "the weights are not trained",
    ),
    "overflow": (
        spoilt(features__0__bn__weight=torch.full((8,), 3e38)),
        "w.st: logits of an ordinary image are NaN or infinite in PyTorch",
        "activations overflow float32: the training diverged or the weights are damaged",
    ),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_checkpoint_is_refused_for_what_is_in_it(export, state, what):
    """Not weights, damaged weights, or those of another network; code in it does not run."""
    write, line, hint = CHECKPOINTS[what]
    path = Path(line.partition(" ")[0].removesuffix(":"))
    if not path.suffix:
        path = Path("w.st")
    write(path, state)
    assert cut(export(checkpoint=str(path)), line, hint) == (line, hint)
    assert not Path("ran").exists()


CHANNELS = "wanted three numbers in the channel order, for pixels from 0 to 1"
PATTERN = "wanted MIN:OPT:MAX, such as 1:4:8"
K = "wanted topk:K, such as topk:5"
FLAGS = [
    (
        "--checkpoint absent.pt",
        "cannot read absent.pt: No such file or directory",
        "check the path",
    ),
    ("--checkpoint .", "cannot read .: Is a directory", "check the path"),
    (
        "--checkpoint-format tim",
        "no checkpoint format named 'tim'",
        (
            "did you mean 'timm'? known: auto, cadene, facenet, keras, native, slim, timm, "
            "torchvision, torchvision_v2"
        ),
    ),
    (
        "--checkpoint-format keras",
        "tiny_inception has no checkpoints of the family 'keras'",
        "known: native, timm",
    ),
    (
        "--model tiny_incepton",
        "no model named 'tiny_incepton'",
        "did you mean 'tiny_inception'? ...",
    ),
    (
        "--model inception_v4",
        "w.st does not fit inception_v4: its keys are those of tiny_inception",
        "use --model tiny_inception",
    ),
    (
        "--num-classes 3",
        "w.st has a head of 5 classes, wanted 3",
        "use --num-classes 5, or leave it out",
    ),
    ("--num-classes 0", "command line: model.num_classes is 0", "wanted at least 1"),
    (
        "--option widht=1",
        "no option of tiny_inception named 'widht'",
        "did you mean 'width'? known: dropout, width",
    ),
    ("--option width", "--option 'width' has no value", "write KEY=VALUE, such as width=0.25"),
    (
        "--option width=wide",
        'option width of tiny_inception is "wide", wanted a number',
        "the default is --option width=1.0",
    ),
    (
        "--option width=true",
        "option width of tiny_inception is true, wanted a number",
        "the default is --option width=1.0",
    ),
    (
        "--option width=0",
        "option width of tiny_inception is 0, wanted a number above 0",
        "the default is --option width=1.0",
    ),
    (
        "--option width=NaN",
        "option width of tiny_inception is NaN, wanted a number of at least 0",
        "the default is --option width=1.0",
    ),
    (
        "--option dropout=-1",
        "option dropout of tiny_inception is -1, wanted a number of at least 0",
        "the default is --option dropout=0.2",
    ),
    ("--option dropout=2", "cannot build tiny_inception with {'dropout': 2}: ...", OPTIONS),
    (
        "--option width=1e9",
        "cannot build tiny_inception with {'width': 1000000000.0}: ...",
        OPTIONS,
    ),
    (
        "--option width=2",
        (
            "w.st does not fit tiny_inception: 61 of 74 tensors have another shape "
            "(features.0.conv.weight is [8, 3, 3, 3], wanted [16, 3, 3, 3]; features.0.bn.weight "
            "is [8], wanted [16]; features.0.bn.bias is [8], wanted [16]; and 58 more)"
        ),
        OTHER_WORDS,
    ),
    (
        "--head topk:9",
        "head topk:9 asks for 9 classes, the model has 5",
        "wanted topk:1 to topk:5",
    ),
    ("--head topk", "head 'topk' says no number of classes", K),
    ("--head topk:0", "head 'topk:0' says no number of classes", K),
    ("--head softmx", "no head named 'softmx'", "did you mean 'softmax'? ..."),
    ("--head embedding", "no head named 'embedding'", "known: logits, softmax, topk:K"),
    (
        "--fold-preprocessing uint16",
        "no folded preprocessing named 'uint16'",
        "did you mean 'uint8'? known: none, uint8, uint8-nhwc",
    ),
    ("--mean 0.5,0.5", "command line: preprocess.mean is [0.5, 0.5]", CHANNELS),
    ("--mean nan,0,0", "command line: preprocess.mean is [nan, 0.0, 0.0]", CHANNELS),
    ("--mean a,b,c", "'a,b,c' is not a list of numbers", "write them as 0.485,0.456,0.406"),
    (
        "--std 1,0,1",
        "command line: preprocess.std is [1.0, 0.0, 1.0]",
        f"{CHANNELS}, at least 1e-06",
    ),
    (
        "--fold-preprocessing uint8 --std 1e-45,1,1",
        "command line: preprocess.std is [1e-45, 1.0, 1.0]",
        f"{CHANNELS}, at least 1e-06",
    ),
    ("--mean 0,1e39,0", "command line: preprocess.mean is [0.0, 1e+39, 0.0]", CHANNELS),
    (
        "--crop before",
        "no crop named 'before'",
        "did you mean 'before_resize'? known: after_resize, before_resize",
    ),
    (
        "--interpolation bicubik",
        "no interpolation named 'bicubik'",
        "did you mean 'bicubic'? known: bicubic, bilinear, lanczos, nearest",
    ),
    ("--channel-order BRG", "no channel order named 'BRG'", "did you mean 'RGB'? known: BGR, RGB"),
    (
        "--crop-fraction 0",
        "command line: preprocess.crop_fraction is 0.0",
        "wanted a number above 0 and at most 1",
    ),
    ("--input-size 0", "command line: preprocess.input_size is 0", "wanted 299 or [299, 299]"),
    (
        "--input-size 3",
        "tiny_inception cannot take 3 x 3 images: Given input size: (8x1x1)...",
        "use a larger --input-size; the model was made for the one it publishes",
    ),
    ("--dynamic-batch 2:1", "command line: dynamic batch '2:1'", PATTERN),
    (
        "--labels absent",
        "cannot read labels file absent: No such file or directory",
        "one class ...",
    ),
    (
        "--onnx m.onnx",
        "command line: both an ONNX graph and model name",
        "give --onnx alone, or --model with --checkpoint",
    ),
]


@pytest.mark.parametrize(("flags", "line", "hint"), FLAGS, ids=[flags for flags, _, _ in FLAGS])
def test_a_flag_is_refused(export, flags, line, hint):
    """What a flag says cannot be, is unknown, or does not fit the checkpoint."""
    assert cut(export(*flags.split()), line, hint) == (line, hint)


NAMES = "one class name per line"
LISTS = [
    (b"a\nb\n", "2 class names for a head of 5 classes in w.st", LABELS),
    (
        b"a\n\nb\n",
        "labels.txt has no class name in line 2",
        "the line number is the logit index, so none may be empty",
    ),
    (b"a\nb\na\n", "labels.txt names class 'a' twice", NAMES),
    (b"\xff\xfe", "cannot read labels file labels.txt: it is not UTF-8", f"{NAMES}, in UTF-8"),
    (
        b"b\na\nc\nd\ne\n",
        ("class names are in another order than in w.st: b, a, c, d, e against a, b, c, d, e"),
        "give --labels with the checkpoint's order",
    ),
]


@pytest.mark.parametrize(("content", "line", "hint"), LISTS, ids=[line for _, line, _ in LISTS])
def test_labels_are_refused(export, state, content, line, hint):
    """Another number of names than logits, another order than in training, or no list at all."""
    Path("labels.txt").write_bytes(content)
    save_file(state, "w.st", metadata={"classes": json.dumps(list("abcde"))})
    assert cut(export("--labels", "labels.txt"), line, hint) == (line, hint)


def test_a_folder_is_no_file_to_write(refusal):
    """A folder that is named as the output, also the working folder, is left alone."""
    assert refusal("init", ".", "--force") == (
        "cannot write .: Is a directory",
        "choose another --out",
    )


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


def test_classify_needs_classes(refusal, embedding):
    """Vectors name no class."""
    assert refusal("classify", "--engine", str(embedding), "photo.png") == (
        "engine.onnx gives embeddings, which name no class",
        "edge_inception.open_engine(path).run(images) gives the vectors",
    )


NAMED = ("--model", "inception_resnet_v1", "--checkpoint", "w.st")
NO_DROP = (
    "gate max_drop_pp needs classes, inception_resnet_v1 gives embeddings",
    "leave --max-drop out; --min-agreement and --min-sqnr judge embeddings",
)


def test_a_drop_of_embeddings_is_no_gate(refusal, embedding, photos):
    """Who is right is not known of vectors."""
    origin = Provenance(stage="baseline", parents={}, options={}, tools={}, source="")
    artifact.publish(Baseline, Path("b.npz"), b"", provenance=origin, details=sidecars.of(Baseline))
    judged = ["validate", str(embedding), "--baseline", "b.npz", *NAMED, "--validation", photos]
    assert refusal(*judged, "--max-drop", "1", "--out", "report.json") == NO_DROP


def test_an_embedding_takes_no_head(refusal):
    """FaceNet's network without its classifier has nothing to take a softmax of."""
    spec, options = registry.model("inception_resnet_v1"), {"tail": "facenet", "width": 0.05}
    save_file(spec.build(num_classes=1, **options).state_dict(), "w.st")
    narrow = ["--option", "width=0.05", "--checkpoint-format", "facenet"]
    assert refusal("export", *NAMED, *narrow, "--head", "softmax", "--out", "graph.onnx") == (
        "head softmax needs classes, this inception_resnet_v1 gives embeddings",
        (
            "leave --head out, or give it a classifier: --option tail=facenet-classifier "
            "--checkpoint-format facenet"
        ),
    )


def test_class_names_of_an_embedding_are_said_to_be_unused(tmp_path, monkeypatch, capsys):
    """Nothing that is asked for goes by in silence."""
    monkeypatch.chdir(tmp_path)
    spec, options = registry.model("inception_resnet_v1"), {"tail": "facenet", "width": 0.05}
    save_file(spec.build(num_classes=1, **options).state_dict(), "w.st")
    Path("names.txt").write_text("a\nb\n")
    small = ["--option", "width=0.05", "--checkpoint-format", "facenet", "--input-size", "96"]
    assert main.run(["export", *NAMED, *small, "--labels", "names.txt", "--out", "graph.onnx"]) == 0
    note = "checkpoint: 2 class names not used: an embedding has no classes"
    assert note in capsys.readouterr().err.splitlines()


def test_a_label_beyond_the_head_is_named(refusal, state, photos):
    """The first image whose class no logit stands for."""
    save_file(state, "w.st")
    named = ["--model", "tiny_inception", "--checkpoint", "w.st"]
    assert refusal("baseline", *named, "--validation", photos, "--out", "b.npz") == (
        "photos/f/photo.png has label 5, the head has 5 classes",
        "give --labels with one class name per logit, in logit order",
    )


STARTER = "'edge-inception init' writes a starter recipe"
COMMANDS = [
    ("export --out x", "no recipe here, no --model with --checkpoint and no --onnx", STARTER),
    (
        "export --model inception_v4 --out x",
        "command line: no model checkpoint",
        "set [model] checkpoint, or pass --checkpoint",
    ),
    (
        "export --checkpoint w.st --out x",
        "command line: no model name",
        "set [model] name, or pass --model",
    ),
    (
        "validate e.blob --baseline b.npz --onnx m.onnx --out r.json",
        "validate takes --model and --checkpoint, not --onnx",
        "build --onnx validates; report shows its report.json again",
    ),
    (
        "baseline --model inception_v4 --checkpoint w.st --out b.npz",
        "no validation images",
        "set [data] validation, or pass --validation",
    ),
    ("models inception_v5", "no model named 'inception_v5'", "did you mean 'inception_v4'? ..."),
    ("models --option width=1", "these options are about one model", "name it: models NAME"),
    (
        "models resnet50 --option width=wide",
        'option width of resnet50 is "wide", wanted a number',
        "the default is --option width=1.0",
    ),
    (
        "models resnet50 --option head_hidden=1.5",
        "option head_hidden of resnet50 is 1.5, wanted a whole number",
        "the default is --option head_hidden=0",
    ),
    (
        "models googlenet --option aux=1",
        "option aux of googlenet is 1, wanted true or false",
        "the default is --option aux=false",
    ),
    (
        "models resnet50 --option stride_in=2x2",
        (
            "cannot build resnet50 with {'stride_in': '2x2'}: stride_in is '2x2', wanted one of "
            "'1x1', '3x3'"
        ),
        '--option KEY=VALUE, by default width=1.0, dropout=0.0, head_hidden=0, stride_in="3x3"',
    ),
    (
        "models inception_v4 --input-size 50",
        "inception_v4 cannot take 50 x 50 images: layer features.18 has nothing left of them",
        "use a larger --input-size; the model was made for the one it publishes",
    ),
    ("inspect m.onnx", "cannot read graph m.onnx: No such file or directory", "check the path"),
]


@pytest.mark.parametrize(("words", "line", "hint"), COMMANDS, ids=[words for words, *_ in COMMANDS])
def test_a_command_is_refused(refusal, words, line, hint):
    """Something is missing, or makes no sense for this command."""
    assert cut(refusal(*words.split()), line, hint) == (line, hint)


GRAPHS = [
    (
        "g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }",
        ["--batch", "4"],
        "the graph's batch is 2, wanted 4",
        "leave --batch out, or export with a dynamic batch",
    ),
    (
        "g (float[2,3] x) => (float[2,3] y) { y = Relu(a) a = Neg(x) }",
        [],
        "node '-> y' reads 'a', which nothing before it makes",
        "nodes must stand in the order they run; export the model again",
    ),
]


@pytest.mark.parametrize(("text", "flags", "line", "hint"), GRAPHS)
def test_inspect_refuses(refusal, text, flags, line, hint):
    """A graph that cannot be shown as asked."""
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'), "m.onnx")
    assert refusal("inspect", "m.onnx", *flags) == (line, hint)
