"""Scores of typed graphs against onnxruntime, which runs them one image at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
import sidecars
from msgspec import structs
from onnx import numpy_helper

from edge_inception import artifact
from edge_inception.artifact import SimplifiedGraph
from edge_inception.cli import main
from edge_inception.data import images
from edge_inception.errors import InputError
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import FloatRest, QuantizeOptions
from edge_inception.search import scoring
from edge_inception.search.options import SearchOptions
from edge_inception.spec import Budget, Precision

pytestmark = pytest.mark.cpu_isa

# An int8 kernel and float arithmetic on Q/DQ differ where a value lies next to half a step.
ROUNDING = 0.02
CLASSES = ("a", "b", "c", "d")
INT8 = QuantizeOptions(
    precision=Precision.INT8,
    float_rest=FloatRest.FP32,
    fold_zero_points=False,
    bias_correction=False,
)


@pytest.fixture
def subject(model, save, photos, options, tmp_path):
    """Graph, table, labelled photos, options; clipped so hard that int8 changes top-1 classes."""
    details = {"preprocess": options.preprocess, "classes": CLASSES}
    graph = save(model, num_classes=len(CLASSES), **details)
    how = dataclasses.replace(options, calibrator="percentile:70")
    table = calibrate(graph, photos, how, tmp_path / "r.json")
    items = tuple(
        dataclasses.replace(item, label=index % len(CLASSES))
        for index, item in enumerate(photos.items)
    )
    labelled = dataclasses.replace(photos, classes=CLASSES, items=items)
    wanted = SearchOptions(budget=Budget(max_drop_pp=0.0), quantize=INT8, batch=4, threads=1)
    return graph, table, labelled, wanted


def logits_of(path, items, preprocess):
    """float64 [N, classes] of onnxruntime without optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batches = (images.load_image(item.path, preprocess)[None] for item in items)
    return np.array([session.run(None, {"input": batch})[0][0] for batch in batches], np.float64)


@dataclasses.dataclass(frozen=True)
class ByHand:
    """One value for each image, of the smallest hash first; logits less their mean."""

    noise: np.ndarray
    signal: np.ndarray
    labels: np.ndarray
    exact: np.ndarray
    found: np.ndarray

    @property
    def ratio(self):
        return self.noise / self.signal


def by_hand(subject, folder, keep=()):
    graph, table, labelled, _ = subject
    items = sorted(labelled.items, key=lambda item: item.sha256)
    options = dataclasses.replace(INT8, keep=tuple(sorted(keep)))
    typed = quantize(graph, table, options, folder / "by_hand.onnx")
    preprocess = graph.details.preprocess
    exact, found = (logits_of(path, items, preprocess) for path in (graph.path, typed.path))
    noise, signal = [], []
    for one, other in zip(exact, found, strict=True):
        plain, changed = one - sum(one) / len(one), other - sum(other) / len(other)
        noise.append(sum((plain - changed) ** 2))
        signal.append(sum(plain**2))
    labels = np.array([item.label for item in items])
    return ByHand(np.array(noise), np.array(signal), labels, exact.argmax(1), found.argmax(1))


@pytest.mark.parametrize("keep", [(), ("stem", "flat")])
def test_a_score_is_what_onnxruntime_finds(subject, tmp_path, keep):
    """Error of the logits image by image, and which images only one of the graphs has right."""
    wanted = by_hand(subject, tmp_path, keep)
    with scoring.open_scorer(*subject) as score:
        found = score(frozenset(keep), None)
        few = score(frozenset(keep), (7, 0, 9))
    np.testing.assert_allclose(found.noise, wanted.noise, rtol=ROUNDING)
    np.testing.assert_allclose(found.signal, wanted.signal, rtol=1e-5)
    is_right = [wanted.found == wanted.labels, wanted.exact == wanted.labels]
    change = is_right[0].astype(int) - is_right[1].astype(int)
    assert change.any()
    np.testing.assert_array_equal(found.change, change)
    np.testing.assert_allclose(few.noise, wanted.noise[[7, 0, 9]], rtol=ROUNDING)
    np.testing.assert_array_equal(few.change, change[[7, 0, 9]])
    assert score.top1 == np.mean(wanted.exact == wanted.labels)
    assert score.metric == "top-1 drop"


@pytest.mark.parametrize("classes", [(), CLASSES[::-1]])
def test_without_the_labels_of_the_network_fp32_is_right(subject, tmp_path, classes):
    """Images without labels, and labels whose order is another: what counts is disagreement."""
    graph, table, labelled, options = subject
    items = labelled.items
    if not classes:
        items = tuple(dataclasses.replace(item, label=None) for item in items)
    other = dataclasses.replace(labelled, classes=classes, items=items)
    wanted = by_hand(subject, tmp_path)
    with scoring.open_scorer(graph, table, other, options) as score:
        found = score(frozenset(), None)
    assert (score.top1, score.metric) == (1.0, "disagreement with FP32")
    assert (wanted.exact != wanted.found).any()
    np.testing.assert_array_equal(found.change, -(wanted.exact != wanted.found).astype(int))


def test_a_table_of_another_graph_ranks_nothing(subject, save, model):
    """The estimate reads the table and runs nothing, and still wants the table of this graph."""
    graph, table, _, options = subject
    assert scoring.groups_of(graph, table, options.quantize)
    model.graph.name = "another"
    other = save(model, **structs.asdict(graph.details))
    with pytest.raises(InputError, match="is of another graph"):
        scoring.groups_of(other, table, options.quantize)


def test_harm_is_the_error_on_the_worst_images_with_one_group_in_int8(subject, tmp_path):
    """The worst are those of plain int8, eight of eleven; ranked by it, and the drop is of all."""
    found = scoring.sensitivity(*subject)
    plain, ranking = found.plain, found.ranking
    assert (found.metric, found.num_images) == ("top-1 drop", 11)
    wanted = by_hand(subject, tmp_path)
    worst = np.argsort(-wanted.ratio)
    assert plain.worst_tenth_noise_to_signal == pytest.approx(wanted.ratio.max(), rel=ROUNDING)
    right = [np.mean(one == wanted.labels) for one in (wanted.exact, wanted.found)]
    assert plain.drop_pp == pytest.approx(100 * (right[0] - right[1]))
    harms = {one.group: one.harm for one in ranking if one.harm is not None}
    order = [(max(one.lost_pp, 0.0), one.harm) for one in ranking if one.harm is not None]
    assert order == sorted(order, reverse=True)
    lost = {one.group: one.lost_pp for one in ranking}
    names = [one.group for one in ranking]
    chosen = worst[:8]
    for name, harm in harms.items():
        if name == "last":  # only a pool reads it: what plain int8 has more than without it
            without = by_hand(subject, tmp_path, {name})
            more = wanted.noise[chosen].sum() - without.noise[chosen].sum()
            assert harm == pytest.approx(
                max(more / wanted.signal[chosen].sum(), 0.0), rel=ROUNDING, abs=1e-6
            )
            right = [(one.found == wanted.labels)[chosen].mean() for one in (without, wanted)]
            assert lost[name] == pytest.approx(100 * (right[0] - right[1]))
            continue
        alone = by_hand(subject, tmp_path, set(names) - {name})
        expected = alone.noise[chosen].sum() / alone.signal[chosen].sum()
        assert harm == pytest.approx(expected, rel=ROUNDING), name
        right = [(one == wanted.labels)[chosen].mean() for one in (wanted.exact, alone.found)]
        assert lost[name] == pytest.approx(100 * (right[0] - right[1])), name
    assert set(names) == set(harms)


def test_embeddings_have_no_class_to_lose(subject):
    """Their largest element is no class: groups are ranked by the error alone."""
    graph, table, labelled, options = subject
    found = scoring.sensitivity(
        dataclasses.replace(graph, details=structs.replace(graph.details, head_text="embedding")),
        table,
        labelled,
        options,
    )
    assert found.metric == ""
    assert {one.lost_pp for one in found.ranking} == {None}
    harms = [one.harm for one in found.ranking if one.harm is not None]
    assert harms == sorted(harms, reverse=True)
    with scoring.open_scorer(*subject) as score:
        assert score(frozenset(), None).change.any()


def test_sensitivity_ranks_the_graph_of_the_build_float_rest_included(
    model, save, photos, options, tmp_path, capsys
):
    """Its bias is beyond float16: the build was made with --float-rest fp32, and is ranked so."""
    tensor = next(one for one in model.graph.initializer if one.name == "head.b")
    tensor.CopyFrom(numpy_helper.from_array(np.full(4, 7e4, np.float32), "head.b"))
    source = save(model)
    graph = artifact.publish(
        SimplifiedGraph,
        tmp_path / "out" / "model.simplified.onnx",
        source.path.read_bytes(),
        provenance=source.provenance,
        details=sidecars.simplified(preprocess=options.preprocess, num_classes=4),
    )
    table = calibrate(graph, photos, options, tmp_path / "out" / "model.ranges.json")
    quantize(graph, table, INT8, tmp_path / "out" / "model.int8.onnx")
    pictures = str(photos.items[0].path.parent)
    arguments = ["sensitivity", str(tmp_path / "out"), "--images", pictures, "--threads", "1"]
    assert main.run(arguments) == 0
    assert "as in" in capsys.readouterr().out
    assert main.run([*arguments, "--float-rest", "fp16"]) == 3
    assert "--float-rest fp32" in capsys.readouterr().err
