"""Fine-tuning in int8: the typed graph's pairs, a gain where ranges are bad, the same graph."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from msgspec import structs
from onnx import numpy_helper
from PIL import Image

from edge_inception import artifact
from edge_inception.artifact import RangeTable, SimplifiedGraph
from edge_inception.cli import main
from edge_inception.data import imageset
from edge_inception.device.outputs import sqnr_db
from edge_inception.errors import GateFailed, InputError
from edge_inception.graph.parity import run
from edge_inception.quant import ranges as range_tables
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import (
    CalibrateOptions,
    Effort,
    FloatRest,
    QuantizeOptions,
    policy_of,
)
from edge_inception.quant.placement import place_pairs
from edge_inception.quant.policies import POLICIES
from edge_inception.spec import Precision, Preprocess
from edge_inception.training import qat as subject
from edge_inception.training.augment import load_augmented
from edge_inception.training.graph_module import GraphModule, Quantization
from edge_inception.training.options import TrainOptions

SIDE = 16
HOW = Preprocess(input_size=(SIDE, SIDE))
STRONG = QuantizeOptions(
    precision=Precision.INT8,
    float_rest=FloatRest.FP32,
    fold_zero_points=False,
    bias_correction=False,
)
COLOURS = {
    "blue": (70, 90, 190),
    "green": (80, 180, 90),
    "grey": (120, 120, 120),
    "red": (190, 80, 80),
}
QUICK = subject.QatOptions(epochs=4, batch=8, learning_rate=3e-3, distillation=0.5, threads=1)


def paint(folder, per_class, seed):
    """Noisy photos of four colours in class folders."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            noise = rng.normal(0, 25, (SIDE, SIDE, 3)) + rng.normal(0, 8, 3) + colour
            pixels = np.clip(noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return imageset.open_set(folder)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """64 photos to train on and 48 held out."""
    folder = tmp_path_factory.mktemp("photos")
    return paint(folder / "train", 16, seed=1), paint(folder / "held", 12, seed=2)


def pixels_of(images):
    from edge_inception.data.images import load_image

    return np.stack([load_image(item.path, HOW) for item in images.items])


def fitted(model, images):
    """The model with a head that ridge regression fits to the images: right in float.

    The ridge keeps its weights small, or rounding would be magnified.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.node[-1], bare.graph.output[:]
    bare.graph.output.append(onnx.helper.make_tensor_value_info("flat", 1, None))
    flat = np.concatenate([run(bare, one[None]) for one in pixels_of(images)])
    wanted = 4 * np.eye(len(COLOURS))[[item.label for item in images.items]] - 1
    rows = np.c_[flat, np.ones(len(flat))]
    found = np.linalg.solve(rows.T @ rows + 0.05 * np.eye(rows.shape[1]), rows.T @ wanted)
    head = {"head.w": found[:-1].T, "head.b": found[-1]}
    for tensor in model.graph.initializer:
        if tensor.name in head:
            values = head[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


@pytest.fixture
def graph(model, save, sets):
    details = {"num_classes": 4, "classes": tuple(COLOURS), "preprocess": HOW}
    return save(fitted(model, sets[0]), **details)


@pytest.fixture
def table(graph, sets, tmp_path):
    options = CalibrateOptions(preprocess=HOW, calibrator="max", effort=Effort.QUICK, threads=1)
    return calibrate(graph, sets[0], options, tmp_path / "ranges.json")


def narrowed(table, share):
    """The table with every amax at a share of itself: values above are clipped."""
    content = range_tables.read_table(table)
    tensors = {
        name: structs.replace(tensor, amax=share * tensor.amax)
        for name, tensor in content.tensors.items()
    }
    text = range_tables.table_text(structs.replace(content, tensors=tensors))
    return artifact.publish(
        RangeTable,
        table.path,
        text.encode(),
        provenance=table.provenance,
        counts=table.counts,
        details=table.details,
    )


def rounded(model, typed, choices):
    """The module that rounds where ``choices`` place pairs, with the scales of the typed graph."""
    placement = place_pairs(model, policy_of(choices), choices.keep)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in typed.graph.initializer}
    roots = set(placement.group_of.values())
    scale_of = {root: stored[f"{root}.scale"].item() for root in roots}
    return GraphModule(model, Quantization(placement=placement, scale_of=scale_of))


def arrays_of(path):
    tensors = onnx.load(str(path)).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def answers(model, images):
    """onnxruntime's logits."""
    return np.concatenate([run(model, one[None]) for one in images])


def centred_sqnr(wanted, found):
    return sqnr_db(*(v - v.mean(1, keepdims=True) for v in (wanted, found)))


def record_of(out):
    return json.loads((out / "qat.json").read_text(encoding="utf-8"))


# network, how it is placed, share of every amax that is left
PLACED = [
    ("model", STRONG, 1.0),
    ("model", STRONG, 0.5),
    ("model", dataclasses.replace(STRONG, keep=("joined", "stem")), 0.5),
    *(("residual", dataclasses.replace(STRONG, placement=one.name), 0.5) for one in POLICIES),
]


@pytest.mark.parametrize(
    "case", PLACED, ids=lambda case: f"{case[0]}-{case[1].placement}-{len(case[1].keep)}-{case[2]}"
)
def test_module_is_the_typed_graph(case, request, save, sets, tmp_path):
    """Rounded, the module answers as onnxruntime does on the strong graph with a float32 rest."""
    network, choices, share = case
    made = request.getfixturevalue(network)
    saved = save(made if network == "model" else made(), preprocess=HOW)
    options = CalibrateOptions(preprocess=HOW, calibrator="max", effort=Effort.QUICK, threads=1)
    found = narrowed(calibrate(saved, sets[1], options, tmp_path / "ranges.json"), share)
    typed = onnx.load(str(quantize(saved, found, choices, tmp_path / "typed.onnx").path))
    images = pixels_of(sets[0])
    wanted = answers(typed, images)
    with torch.inference_mode():
        float_graph = onnx.load(str(saved.path))
        got = rounded(float_graph, typed, choices)(torch.from_numpy(images)).numpy()
        plain_logits = GraphModule(float_graph)(torch.from_numpy(images)).numpy()
    error = np.abs(got - wanted).max(axis=1) / np.abs(wanted).max()
    # Sums in another order turn a value on the edge of a step into the next step now and then.
    assert np.mean(error < 1e-5) > 0.9
    assert error.max() < 0.02
    assert np.abs(plain_logits - wanted).max() > 1e-3 * np.abs(wanted).max()  # rounding is seen


def test_gains_where_ranges_are_bad(graph, table, sets, tmp_path):
    """With ranges that clip three quarters of every tensor, training wins the accuracy back.

    The typed graph of the result, computed by onnxruntime, is as accurate as is reported.
    """
    bad = narrowed(table, 0.25)
    trained, bound = subject.fine_tune(graph, bad, sets, QUICK, tmp_path / "out")
    record = record_of(tmp_path / "out")
    assert record["float32"]["accuracy"] > 0.9
    assert record["before"]["accuracy"] < 0.6
    assert record["after"]["accuracy"] > 0.8
    assert record["after"]["sqnr_db"] > record["before"]["sqnr_db"] + 3
    for given, found, when in ((graph, bad, "before"), (trained, bound, "after")):
        path = tmp_path / f"{when}.onnx"
        typed = onnx.load(str(quantize(given, found, STRONG, path).path))
        logits = answers(typed, pixels_of(sets[1]))
        truth = [item.label for item in sets[1].items]
        # one image of 48 may fall to the other side where sums are added in another order
        assert abs(np.mean(logits.argmax(1) == truth) - record[when]["accuracy"]) < 1.5 / 48


KEPT = dataclasses.replace(QUICK, epochs=1, is_kept_when_worse=True)
STILL = dataclasses.replace(KEPT, batch=64, learning_rate=0.0)  # one step that moves no weight


def test_loss_is_noise_and_cross_entropy(graph, table, sets, tmp_path):
    """One end is 1 / SQNR of the centred logits, the other -log of the label's probability."""
    losses = {}
    for share in (1.0, 0.5, 0.0):
        out = tmp_path / str(share)
        options = dataclasses.replace(STILL, distillation=share)
        trained, bound = subject.fine_tune(graph, table, sets, options, out)
        losses[share] = record_of(out)["history"][0]["loss"]
    typed = onnx.load(str(quantize(trained, bound, STRONG, tmp_path / "typed.onnx").path))
    modules = (
        GraphModule(onnx.load(str(graph.path))),
        rounded(onnx.load(str(trained.path)), typed, STRONG),
    )
    drawn = TrainOptions(model="any", num_classes=4, preprocess=HOW, seed=STILL.seed)
    pixels = [
        load_augmented(item, index=index, options=drawn, size=SIDE, epoch=0)
        for index, item in enumerate(sets[0].items)
    ]
    with torch.inference_mode():
        batch = torch.from_numpy(np.stack(pixels)).to(memory_format=torch.channels_last)
        wanted, found = (module(batch).double().numpy() for module in modules)
    sqnr = centred_sqnr(wanted, found)
    assert abs(sqnr - sqnr_db(wanted, found)) > 0.01  # a shift of all classes is no noise
    assert -10 * np.log10(losses[1.0]) == pytest.approx(sqnr, abs=1e-3)
    exact = np.exp(found)
    shares = exact[np.arange(64), [item.label for item in sets[0].items]] / exact.sum(1)
    assert losses[0.0] == pytest.approx(-np.log(shares).mean(), rel=1e-5)
    assert losses[0.5] == pytest.approx((losses[1.0] + losses[0.0]) / 2, rel=1e-5)


@pytest.mark.parametrize(
    "placed", [{}, {"keep": ("joined", "stem")}, {"placement": "weighted-only"}], ids=str
)
def test_starts_with_corrected_biases(placed, graph, table, sets, tmp_path):
    """Before the first step it is the typed graph that quantize makes, biases corrected."""
    options = dataclasses.replace(STILL, **placed)
    trained, bound = subject.fine_tune(graph, table, sets, options, tmp_path / "out")
    record = record_of(tmp_path / "out")
    bare = dataclasses.replace(STRONG, **placed)
    corrected = dataclasses.replace(bare, bias_correction=None)  # what a trial found decides
    images = pixels_of(sets[1])
    exact = answers(onnx.load(str(graph.path)), images)
    wanted, found, biased = (
        answers(onnx.load(str(quantize(*given, tmp_path / f"{index}.onnx").path)), images)
        for index, given in enumerate(
            [(graph, table, corrected), (trained, bound, bare), (graph, table, bare)]
        )
    )
    errors = [
        np.abs(one - wanted).max(axis=1) / np.abs(wanted).max() for one in (found, exact, biased)
    ]
    assert np.mean(errors[0] < 1e-5) > 0.9
    assert np.median(errors[1]) > 1e-3
    assert np.median(errors[2]) > 1e-3
    assert record["before"] == record["after"]  # of the average, too, which no step moved
    assert record["before"]["sqnr_db"] == pytest.approx(centred_sqnr(exact, wanted), abs=0.1)
    before, after = (arrays_of(path) for path in (graph.path, trained.path))
    moved = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    assert "head.b" in moved
    assert all(name.endswith(".b") for name in moved)


def structure(path):
    model = onnx.load(str(path))
    shapes = [(t.name, t.data_type, tuple(t.dims)) for t in model.graph.initializer]
    return list(model.graph.node), shapes, list(model.graph.input), list(model.graph.output)


def test_same_graph_other_weights(graph, table, sets, tmp_path):
    """Simplified and typed graph keep nodes, names, shapes and activation scales."""
    trained, bound = subject.fine_tune(graph, table, sets, KEPT, tmp_path / "out")
    assert structure(trained.path) == structure(graph.path)
    assert trained.sha256 != graph.sha256
    pair = [
        quantize(given, found, STRONG, tmp_path / f"{index}.onnx").path
        for index, (given, found) in enumerate([(graph, table), (trained, bound)])
    ]
    assert structure(pair[0]) == structure(pair[1])
    scales = [
        {
            tensor.name: numpy_helper.to_array(tensor).item()
            for tensor in onnx.load(str(path)).graph.initializer
            if tensor.name.endswith(".scale") and not tensor.dims
        }
        for path in pair
    ]
    assert scales[0] == scales[1]
    assert len(scales[0]) == 6
    corrected = dataclasses.replace(STRONG, bias_correction=True)
    with pytest.raises(InputError, match="no channel means"):
        quantize(trained, bound, corrected, tmp_path / "twice.onnx")
    assert artifact.load(SimplifiedGraph, tmp_path / "out" / "model.simplified.onnx") == trained
    assert artifact.load(RangeTable, tmp_path / "out" / "model.ranges.json") == bound


def test_resumes_to_the_bit(graph, table, sets, tmp_path):
    """Cut off after its first epoch and run again, it ends with the weights of a whole run.

    A run of other options, placement among them, does not take its state up.
    """
    options = dataclasses.replace(KEPT, epochs=2)
    whole, _ = subject.fine_tune(graph, table, sets, options, tmp_path / "whole")

    def stop(done, _):
        if done == 9:  # in the second epoch of 8 steps
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subject.fine_tune(graph, table, sets, options, tmp_path / "cut", progress=stop)
    steps = []
    again, _ = subject.fine_tune(
        graph, table, sets, options, tmp_path / "cut", progress=lambda *step: steps.append(step)
    )
    assert steps[0] == (9, 16)
    assert again.sha256 == whole.sha256
    for changes in ({"distillation": 0.0}, {"placement": "weighted-only"}):
        other = dataclasses.replace(options, **changes)
        with pytest.raises(InputError, match="other options"):
            subject.fine_tune(graph, table, sets, other, tmp_path / "cut")


class TestRefused:
    def test_worse(self, graph, table, sets, tmp_path):
        """A run that makes int8 worse is a failed gate: the record is written, the graph is not."""
        wild = dataclasses.replace(QUICK, epochs=1, learning_rate=1.0)
        with pytest.raises(
            GateFailed, match=r"int8 got worse: top-1 .* no graph was written"
        ) as caught:
            subject.fine_tune(graph, table, sets, wild, tmp_path / "out")
        assert "--keep-failed" in caught.value.hint
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"state.pt", "qat.json"}
        kept = dataclasses.replace(wild, is_kept_when_worse=True)
        trained, _ = subject.fine_tune(graph, table, sets, kept, tmp_path / "out")
        figures = trained.details.qat
        assert figures.after.accuracy < figures.before.accuracy

    def test_weights_that_outgrow_every_scale(self, graph, table, sets, tmp_path):
        """A step of 1e9 is an error of the learning rate, named before any loss is known."""
        wild = dataclasses.replace(QUICK, epochs=1, learning_rate=1e9)
        with pytest.raises(InputError, match="weights without a scale") as caught:
            subject.fine_tune(graph, table, sets, wild, tmp_path / "out")
        assert caught.value.hint == "lower --learning-rate"

    def test_ranges_of_another_graph(self, graph, table, sets, tmp_path):
        """Ranges of another graph are refused by both hashes."""
        other = artifact.publish(
            SimplifiedGraph,
            tmp_path / "other.onnx",
            graph.path.read_bytes() + b"\x32\x00",  # the same model, an empty doc string more
            provenance=graph.provenance,
            details=graph.details,
        )
        with pytest.raises(InputError, match=f"{graph.sha256[:12]}.*{other.sha256[:12]}"):
            subject.fine_tune(other, table, sets, QUICK, tmp_path / "out")

    @pytest.mark.parametrize(
        ("details", "message"),
        [
            ({"preprocess": structs.replace(HOW, element="uint8")}, "uint8 pixels"),
            ({"num_classes": 0}, "gives embeddings"),
            ({"num_classes": 5, "classes": ()}, "has 4 classes, the model 5"),
            ({"classes": ("grey", "green", "blue", "red")}, "has grey, green, blue, red"),
        ],
    )
    def test_graphs(self, graph, table, sets, tmp_path, details, message):
        """A graph whose images or answers do not fit the training images is refused."""
        odd = dataclasses.replace(graph, details=structs.replace(graph.details, **details))
        with pytest.raises(InputError, match=message):
            subject.fine_tune(odd, table, sets, QUICK, tmp_path / "out")

    def test_folder_of_the_graph(self, graph, table, sets):
        """The graph that is trained is not written over."""
        own = dataclasses.replace(graph, path=graph.path.with_name("model.simplified.onnx"))
        with pytest.raises(InputError, match="holds the graph to be trained"):
            subject.fine_tune(own, table, sets, QUICK, own.path.parent)

    def test_images(self, graph, table, sets, tmp_path):
        """Unlabelled images, none at all, and held out images that are trained on are refused."""
        items = (dataclasses.replace(sets[0].items[0], label=None), *sets[0].items[1:])
        for train, held, message in (
            (dataclasses.replace(sets[0], items=items), sets[1], "without a label"),
            (dataclasses.replace(sets[0], items=()), sets[1], "no images to train on"),
            (sets[0], sets[0], "also trained on"),
        ):
            with pytest.raises(InputError, match=message):
                subject.fine_tune(graph, table, (train, held), QUICK, tmp_path / "out")

    def test_a_module_that_is_another_graph(self, graph, table, sets, tmp_path, monkeypatch):
        """One scale that is not the typed graph's is noticed before the first step."""

        def coarse(model, rounding=None):
            if rounding:
                scale_of = {**rounding.scale_of, "last": 1.0}
                rounding = dataclasses.replace(rounding, scale_of=scale_of)
            return GraphModule(model, rounding)

        monkeypatch.setattr(subject, "GraphModule", coarse)
        steps = []
        with pytest.raises(InputError, match="differs from the typed graph by"):
            subject.fine_tune(
                graph,
                table,
                sets,
                QUICK,
                tmp_path / "out",
                progress=lambda *step: steps.append(step),
            )
        assert steps == []


class TestCommand:
    def arguments(self, graph, table, sets, out):
        folders = [images.items[0].path.parents[1] for images in sets]
        return [
            *("train", "--qat", str(table.path), "--graph", str(graph.path)),
            *("--data", str(folders[0]), "--validation", str(folders[1])),
            *("--epochs", "1", "--batch", "8", "--threads", "1", "--out", str(out)),
        ]

    def test_trains(self, graph, table, sets, tmp_path, capsys):
        """``train --qat`` tells top-1 and SQNR before and after, and prints what it wrote."""
        bad, out = narrowed(table, 0.25), tmp_path / "out"
        arguments = [*self.arguments(graph, bad, sets, out), "--learning-rate", "3e-3"]
        assert main.run(arguments) == 0
        told = capsys.readouterr()
        assert told.out.split() == [f"{out}/model.simplified.onnx", f"{out}/model.ranges.json"]
        assert "before: top-1 " in told.err
        assert " dB" in told.err

    def test_failed_gate(self, graph, table, sets, tmp_path, capsys):
        """int8 that got worse exits 6 and says how to write it all the same."""
        arguments = self.arguments(graph, table, sets, tmp_path / "out")
        assert main.run([*arguments, "--learning-rate", "1"]) == 6
        assert "--keep-failed" in capsys.readouterr().err
        assert main.run([*arguments, "--learning-rate", "1", "--keep-failed"]) == 0

    @pytest.mark.parametrize("flag", ["--model", "--input-size"])
    def test_flags_of_a_model(self, graph, table, sets, capsys, flag):
        """What the graph decides cannot be given."""
        arguments = self.arguments(graph, table, sets, table.path.parent / "out")
        assert main.run([*arguments, flag, "75"]) == 3
        assert f"{flag} with --qat" in capsys.readouterr().err

    def test_flags_of_a_graph(self, sets, tmp_path, capsys):
        """What only a graph has is refused for a model, and so is neither."""
        folders = [str(images.items[0].path.parents[1]) for images in sets]
        plain_run = ["train", "--data", folders[0], "--validation", folders[1]]
        plain_run += ["--out", str(tmp_path / "out")]
        for share in ("1", "0"):
            assert main.run([*plain_run, "--model", "inception_v4", "--distillation", share]) == 3
            assert "--distillation with --model" in capsys.readouterr().err
        assert main.run(plain_run) == 3
        assert "nothing to train" in capsys.readouterr().err
