"""The calibrator `auto` against onnxruntime on the int8 graphs of the calibrators it tries."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from msgspec import structs

from edge_inception import artifact
from edge_inception.cli import main
from edge_inception.data import images
from edge_inception.quant import calibrators, channel_means, ranges, trial
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.merge import merge
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import FloatRest, QuantizeOptions
from edge_inception.sidecar import TrialDetails
from edge_inception.spec import Precision

INT8 = QuantizeOptions(precision=Precision.INT8, float_rest=FloatRest.FP32, bias_correction=False)
TRIED = ("mse", "mse-max", "max")


def logits(path, photos, options):
    """Of every photo, less their mean over the classes; the library moves no Q/DQ."""
    how = onnxruntime.SessionOptions()
    how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), how, providers=["CPUExecutionProvider"])
    inputs = [images.load_image(item.path, options.preprocess)[None] for item in photos.items]
    found = np.concatenate([session.run(None, {"input": one})[0] for one in inputs])
    return found - found.mean(axis=1, keepdims=True)


def noisy(graph, photos, options, folder):
    """SQNR in dB of the published int8 graph of every calibrator, and the table it came of."""
    exact = logits(graph.path, photos, options)
    found = {}
    for name in TRIED:
        table = calibrate(graph, photos, replace(options, calibrator=name), folder / f"{name}.json")
        typed = quantize(graph, table, INT8, folder / f"{name}.onnx")
        noise = logits(typed.path, photos, options) - exact
        found[name] = 10 * np.log10(np.square(exact).sum() / np.square(noise).sum()), table
    return found


@pytest.fixture
def graph(model, save):
    return save(model)


@pytest.fixture(params=["inception", "residual"])
def either(request, model, residual, save):
    return save(model if request.param == "inception" else residual())


def test_the_table_is_that_of_the_calibrator_with_the_least_error(
    either, photos, options, tmp_path
):
    """Which one that is, onnxruntime says; the error is recorded for each."""
    graph = either
    wanted = noisy(graph, photos, options, tmp_path)
    found = calibrate(graph, photos, replace(options, calibrator="auto"), tmp_path / "auto.json")
    recorded = found.details.tried_sqnr_db
    assert set(recorded) == set(TRIED)
    for name, (sqnr_db, _) in wanted.items():
        # 0.1 dB is what is recorded; a value on the edge of a step may round differently there.
        assert recorded[name] == pytest.approx(sqnr_db, abs=0.3), name
    best = max(TRIED, key=lambda name: wanted[name][0])
    assert ranges.read_table(found).calibrator == best
    assert found.path.read_bytes() == wanted[best][1].path.read_bytes()


def test_the_placement_of_the_trial_is_that_of_the_graph(graph, photos, options, tmp_path):
    """What stays float changes the error, and onnxruntime finds the same one."""
    how = replace(options, calibrator="auto", placement="float-ends")
    found = calibrate(graph, photos, how, tmp_path / "auto.json")
    best = ranges.read_table(found).calibrator
    typed = quantize(
        graph, found, replace(INT8, placement="float-ends"), tmp_path / "float-ends.onnx"
    )
    exact = logits(graph.path, photos, options)
    noise = logits(typed.path, photos, options) - exact
    sqnr_db = 10 * np.log10(np.square(exact).sum() / np.square(noise).sum())
    assert found.details.tried_sqnr_db[best] == pytest.approx(sqnr_db, abs=0.3)
    plain = calibrate(graph, photos, replace(how, placement=""), tmp_path / "plain.json")
    assert plain.details.tried_sqnr_db != found.details.tried_sqnr_db


def unseen(photos, num_means):
    """The photos that the means are not made of."""
    return replace(
        photos, items=tuple(sorted(photos.items, key=lambda one: one.sha256))[num_means:]
    )


def test_biases_are_corrected_where_that_helps(either, photos, options, tmp_path, monkeypatch):
    """onnxruntime finds the error with and without, on the eight photos that the means miss."""
    monkeypatch.setattr(channel_means, "NUM_IMAGES", 3)
    table = calibrate(either, photos, replace(options, calibrator="auto"), tmp_path / "auto.json")
    best = ranges.read_table(table).calibrator
    plain = calibrate(either, photos, replace(options, calibrator=best), tmp_path / "plain.json")
    others, found = unseen(photos, 3), {}
    exact = logits(either.path, others, options)
    for is_corrected in (False, True):
        how = replace(INT8, bias_correction=is_corrected)
        typed = quantize(either, plain, how, tmp_path / f"{is_corrected}.onnx")
        noise = logits(typed.path, others, options) - exact
        found[is_corrected] = 10 * np.log10(np.square(exact).sum() / np.square(noise).sum())
    assert table.details.bias_images == 8
    assert table.details.corrected_sqnr_db == pytest.approx(found[True], abs=0.3)
    assert table.details.uncorrected_sqnr_db == pytest.approx(found[False], abs=0.3)
    helps = table.details.corrected_sqnr_db > table.details.uncorrected_sqnr_db
    assert table.details.bias_correction_helps == helps
    typed = quantize(either, table, replace(INT8, bias_correction=None), tmp_path / "auto.onnx")
    assert typed.path.read_bytes() == (tmp_path / f"{helps}.onnx").read_bytes()


@pytest.mark.parametrize("num_means", [4, 16])
def test_correction_is_not_judged_on_the_photos_it_was_made_of(
    graph, photos, options, tmp_path, monkeypatch, num_means
):
    """Seven photos or none beside those of the means: nothing is decided, said, and it stays on."""
    monkeypatch.setattr(channel_means, "NUM_IMAGES", num_means)
    table = calibrate(graph, photos, replace(options, calibrator="auto"), tmp_path / "auto.json")
    num_left = max(0, 11 - num_means)
    assert table.details.bias_images == num_left
    assert table.details.bias_correction_helps is table.details.corrected_sqnr_db is None
    told = calibrators.describe_trial(table.details)
    left = f"{num_left} images beside those of its means are too few"
    assert told.endswith(f"bias correction was not tried, {left}")
    how = replace(INT8, bias_correction=None)
    assert quantize(graph, table, how, tmp_path / "a.onnx").counts["biases_corrected"] > 0


def test_a_correction_that_does_harm_is_left_out(graph, photos, options, tmp_path):
    """As a table says that was tried; one that was not is corrected; what is asked for wins."""
    table = calibrate(graph, photos, options, tmp_path / "r.json")
    tables = {"untried": table}
    for helps in (True, False):
        details = structs.replace(table.details, bias_correction_helps=helps)
        tables[f"tried {helps}"] = replace(table, details=details)
    numbers = {
        (name, asked): quantize(
            graph, found, replace(INT8, bias_correction=asked), tmp_path / "q.onnx"
        ).counts.get("biases_corrected", 0)
        for name, found in tables.items()
        for asked in (None, True, False)
    }
    corrected = {case for case, number in numbers.items() if number}
    assert corrected == {
        ("untried", None),
        ("untried", True),
        ("tried True", None),
        ("tried True", True),
        ("tried False", True),
    }


@pytest.mark.parametrize(
    ("flags", "is_corrected"),
    [([], False), (["--bias-correction"], True), (["--no-bias-correction"], False)],
)
def test_a_flag_wins_over_the_trial(graph, photos, options, tmp_path, flags, is_corrected):
    """The sidecar says that correction does not help: only the flag corrects."""
    table = calibrate(graph, photos, options, tmp_path / "r.json")
    sidecar = artifact.sidecar_path(table.path)
    record = json.loads(sidecar.read_text())
    record["details"]["bias_correction_helps"] = False
    sidecar.write_text(json.dumps(record))
    out = tmp_path / "q.onnx"
    words = ["quantize", str(graph.path), "--ranges", str(table.path), "--out", str(out), *flags]
    assert main.run(words) == 0
    counts = json.loads(artifact.sidecar_path(out).read_text())["counts"]
    assert ("biases_corrected" in counts) == is_corrected


@pytest.mark.parametrize(("corrected", "words"), [(28.5, "helps"), (26.0, "does not help")])
def test_the_note_says_what_correction_does_and_not_what_is_done(corrected, words):
    """A flag may decide otherwise, so it claims nothing of the biases of a graph."""
    details = TrialDetails(
        tried_sqnr_db={"mse": 24.0, "max": 27.0},
        bias_images=20,
        uncorrected_sqnr_db=27.5,
        corrected_sqnr_db=corrected,
        bias_correction_helps=corrected > 27.5,
    )
    told = calibrators.describe_trial(details)
    assert told.endswith(f"bias correction {words}, {corrected} dB with it, 27.5 dB without")
    elder = structs.replace(details, bias_images=None, uncorrected_sqnr_db=None)
    told = calibrators.describe_trial(elder)
    assert told.endswith(f"bias correction {words}, {corrected} dB with it")


def test_the_trial_is_made_on_a_few_images(graph, photos, options, tmp_path, monkeypatch):
    """Those with the largest hashes: others, given in any order, change nothing."""
    monkeypatch.setattr(trial, "NUM_IMAGES", 5)
    last = sorted(photos.items, key=lambda item: item.sha256)[-5:]
    table = ranges.read_table(calibrate(graph, photos, options, tmp_path / "all.json"))
    found = [
        trial.Trial(graph.path, items, options, lambda *_: None).noise(table.tensors)
        for items in (photos.items, last[::-1])
    ]
    assert found[0].tolist() == found[1].tolist()
    assert found[0].shape == (5,)


def test_shards_choose_nothing_and_their_merger_chooses_as_one_run(
    graph, photos, options, tmp_path
):
    """The same bytes; the table of a shard tells no trial."""
    how = replace(options, calibrator="auto")
    whole = calibrate(graph, photos, how, tmp_path / "whole.json")
    shards = [
        calibrate(graph, photos, replace(how, shard=(i, 2)), tmp_path / f"{i}.json") for i in (1, 2)
    ]
    assert not any(shard.details.tried_sqnr_db for shard in shards)
    merged = merge(graph, photos, how, shards, tmp_path / "merged.json")
    assert merged.path.read_bytes() == whole.path.read_bytes()
    assert merged.details.tried_sqnr_db == whole.details.tried_sqnr_db


def test_a_head_does_not_choose(residual, save, photos, options, tmp_path):
    """The best scores say nothing of whose they are: the trial sees the logits all the same."""
    told = []
    for head in ("logits", "softmax", "topk"):
        graph = save(residual(head=head))
        table = calibrate(
            graph, photos, replace(options, calibrator="auto"), tmp_path / f"{head}.json"
        )
        told.append((table.details.tried_sqnr_db, ranges.read_table(table).calibrator))
    assert told[0] == told[1] == told[2]
