"""The trial of whole int8 graphs, against onnxruntime on the graph that quantize then writes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from msgspec import structs

from edge_inception.cli import main
from edge_inception.data import images
from edge_inception.errors import InputError
from edge_inception.quant import ranges, rounding, trial
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.merge import merge
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import (
    AUTO,
    CalibrateOptions,
    Effort,
    FloatRest,
    QuantizeOptions,
    Rounding,
    Typing,
    resolve,
)
from edge_inception.quant.trial_table import describe_tried_graphs, repeat_flags
from edge_inception.spec import Precision

INT8 = QuantizeOptions(precision=Precision.INT8, float_rest=FloatRest.FP32)


@pytest.fixture
def unasked(options):
    """The options of a calibration without flags."""
    return CalibrateOptions(preprocess=options.preprocess, batch=4, threads=1)


def logits(path, items, options):
    """Of every photo, less their mean over the classes; the library moves no Q/DQ."""
    how = onnxruntime.SessionOptions()
    how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), how, providers=["CPUExecutionProvider"])
    inputs = [images.load_image(item.path, options.preprocess)[None] for item in items]
    found = np.concatenate([session.run(None, {"input": one})[0] for one in inputs])
    return found - found.mean(axis=1, keepdims=True)


def figures(graph, typed, items, options):
    """SQNR in dB over all photos, and the median over single ones."""
    exact = logits(graph.path, items, options)
    noise = np.square(logits(typed.path, items, options) - exact).sum(axis=1)
    signal = np.square(exact).sum(axis=1)
    return 10 * np.log10(signal.sum() / noise.sum()), 10 * np.log10(np.median(signal / noise))


@pytest.fixture(params=["inception", "residual"])
def graph(request, model, residual, save):
    return save(model if request.param == "inception" else residual())


def test_the_chosen_graph_is_as_accurate_as_the_trial_says(graph, photos, unasked, tmp_path):
    """The final is over all photos of so small a set; quantize writes its winner without a flag."""
    table = calibrate(graph, photos, unasked, tmp_path / "r.json")
    chosen = table.details.chosen
    typed = quantize(graph, table, INT8, tmp_path / "q.onnx")
    sqnr_db, median_db = figures(graph, typed, photos.items, unasked)
    assert chosen.num_images == len(photos.items)
    # 0.1 dB is what is recorded; a value on the edge of a step may round differently there.
    assert chosen.sqnr_db == pytest.approx(sqnr_db, abs=0.4)
    assert chosen.median_sqnr_db == pytest.approx(median_db, abs=0.4)
    assert typed.provenance.options["placement"] == chosen.placement
    assert ranges.read_table(table).calibrator == chosen.calibrator


def test_unasked_beats_the_old_default(graph, photos, unasked, options, tmp_path):
    """Against `mse`, rounding to nearest, in a sandwich, by onnxruntime."""
    table = calibrate(graph, photos, unasked, tmp_path / "r.json")
    best = quantize(graph, table, INT8, tmp_path / "q.onnx")
    plain = calibrate(graph, photos, options, tmp_path / "plain.json")
    old = replace(INT8, placement="sandwich", fold_zero_points=False)
    typed = quantize(graph, plain, old, tmp_path / "old.onnx")
    gain = [sum(figures(graph, one, photos.items, options)) / 2 for one in (best, typed)]
    assert gain[0] > gain[1] + 3.0


def test_no_finalist_is_clearly_better(graph, photos, unasked, tmp_path):
    """Every calibrator is tried, with every placement that fits, and the final decides.

    Beyond 42 dB, or within 1 dB, less float counts for more.
    """
    details = calibrate(graph, photos, unasked, tmp_path / "r.json").details
    assert {one.calibrator for one in details.tried} == set(trial.CALIBRATORS)
    assert {one.placement for one in details.tried} == set(trial.PLACEMENTS[Typing.STRONG])
    final = [one for one in details.tried if one.num_images == len(photos.items)]
    merits = [(one.sqnr_db + one.median_sqnr_db) / 2 for one in final]
    chosen = (details.chosen.sqnr_db + details.chosen.median_sqnr_db) / 2
    assert chosen >= min(max(merits) - 1.0, 42.0)
    assert details.chosen.float_share == min(
        one.float_share
        for one, merit in zip(final, merits, strict=True)
        if merit >= min(max(merits) - 1.0, 42.0)
    )


def test_images_that_judge_are_not_learned_from(photos):
    learning, judging = trial.split_images(photos.items)
    assert len(judging) == 3
    assert not {one.sha256 for one in learning} & {one.sha256 for one in judging}
    assert len(learning) + len(judging) == len(photos.items)
    only = photos.items[:1]
    assert trial.split_images(only) == (list(only), list(only))


def test_few_images_choose_but_learn_nothing(model, save, photos, unasked, tmp_path):
    """Seven photos: no weight is rounded by them, no bias corrected."""
    few = replace(photos, items=photos.items[: rounding.MIN_IMAGES - 1])
    table = calibrate(save(model), few, unasked, tmp_path / "r.json")
    assert table.details.num_rounded == 0
    assert not any(one.bias_correction for one in table.details.tried)
    assert ranges.read_fitted(table) == ranges.FittedParameters()


def test_flags_settle_a_choice(model, save, photos, unasked, tmp_path):
    """One calibrator, one placement: nothing else is tried, and quantize follows."""
    graph = save(model)
    how = replace(unasked, calibrator="max", placement="sandwich")
    table = calibrate(graph, photos, how, tmp_path / "r.json")
    assert {one.calibrator for one in table.details.tried} == {"max"}
    assert {one.placement for one in table.details.tried} == {"sandwich"}
    assert resolve(INT8, table).placement == "sandwich"
    asked = replace(INT8, placement="float-ends", rounding=Rounding.NEAREST, fold_zero_points=False)
    assert resolve(asked, table) == asked


def test_max_tries_every_combination(model, save, photos, unasked, tmp_path):
    how = replace(unasked, effort=Effort.MAX, calibrator="mse")
    details = calibrate(save(model), photos, how, tmp_path / "r.json").details
    few = {
        (one.placement, one.fold_zero_points, one.bias_correction)
        for one in details.tried
        if one.num_images < len(photos.items)
    }
    assert few == {
        (name, folds, corrects)
        for name in trial.PLACEMENTS[Typing.STRONG]
        for folds in (True, False)
        for corrects in (True, False)
    }


def test_quick_tries_nothing(model, save, photos, unasked, tmp_path):
    table = calibrate(
        save(model), photos, replace(unasked, effort=Effort.QUICK), tmp_path / "r.json"
    )
    assert (table.details.tried, table.details.chosen) == ((), None)
    assert ranges.read_table(table).calibrator == "mse"
    assert describe_tried_graphs(table.details) == []


def test_corrections_hold_for_the_chosen_graph_alone(model, save, photos, unasked, tmp_path):
    """Another placement gets none of them unasked, and those of channel means if asked."""
    graph = save(model)
    table = calibrate(graph, photos, unasked, tmp_path / "r.json")
    chosen = table.details.chosen
    counts = {
        (placement, asked): quantize(
            graph,
            table,
            replace(INT8, placement=placement, bias_correction=asked),
            tmp_path / "q.onnx",
        ).counts.get("biases_corrected", 0)
        for placement in (chosen.placement, "pool-inputs")
        for asked in (None, True, False)
    }
    assert counts["pool-inputs", None] == 0
    assert counts["pool-inputs", True] > 0
    assert not any(counts[name, False] for name in (chosen.placement, "pool-inputs"))
    assert bool(counts[chosen.placement, None]) == chosen.bias_correction


def test_weights_that_were_not_rounded_cannot_be_asked_for(model, save, photos, options, tmp_path):
    graph = save(model)
    table = calibrate(graph, photos, options, tmp_path / "r.json")
    with pytest.raises(InputError, match="no weights rounded by second order"):
        quantize(graph, table, replace(INT8, rounding=Rounding.SECOND_ORDER), tmp_path / "q.onnx")


def test_shards_choose_nothing_and_their_merger_chooses_as_one_run(
    model, save, photos, unasked, tmp_path
):
    """The same bytes; the table of a shard tells no trial."""
    graph = save(model)
    whole = calibrate(graph, photos, unasked, tmp_path / "whole.json")
    shards = [
        calibrate(graph, photos, replace(unasked, shard=(i, 2)), tmp_path / f"{i}.json")
        for i in (1, 2)
    ]
    assert not any(shard.details.tried for shard in shards)
    merged = merge(graph, photos, unasked, shards, tmp_path / "merged.json")
    assert merged.path.read_bytes() == whole.path.read_bytes()
    statistics = [one.path.with_suffix(".npz").read_bytes() for one in (merged, whole)]
    assert statistics[0] == statistics[1]
    assert merged.details.tried == whole.details.tried


def test_a_head_does_not_choose(residual, save, photos, unasked, tmp_path):
    """The best scores say nothing of whose they are: the trial sees the logits all the same."""
    tried = [
        calibrate(
            save(residual(head=head)), photos, unasked, tmp_path / f"{head}.json"
        ).details.tried
        for head in ("logits", "topk")
    ]
    assert tried[0] == tried[1]


def test_the_table_marks_the_choice_and_its_flags_repeat_it(model, save, photos, unasked, tmp_path):
    """By the command line: the same graph, byte for byte."""
    graph = save(model)
    table = calibrate(graph, photos, unasked, tmp_path / "r.json")
    lines = describe_tried_graphs(table.details)
    (marked,) = [line for line in lines if line.startswith("  >")]
    assert table.details.chosen.calibrator in marked
    assert lines[-1].endswith(repeat_flags(table.details.chosen))
    unasked_graph, asked_graph = tmp_path / "a.onnx", tmp_path / "b.onnx"
    words = ["quantize", str(graph.path), "--ranges", str(table.path), "--out"]
    flags = repeat_flags(table.details.chosen).split()[2:]  # quantize has no --calibrator
    assert main.run([*words, str(unasked_graph)]) == 0
    assert main.run([*words, str(asked_graph), *flags]) == 0
    assert asked_graph.read_bytes() == unasked_graph.read_bytes()


def test_a_table_of_a_cache_folds_nothing(model, save, photos, options, tmp_path):
    """Its ranges hold for symmetric scales; so do those of QAT."""
    table = calibrate(save(model), photos, options, tmp_path / "r.json")
    for stage in ("import_ranges", "qat"):
        origin = structs.replace(table.provenance, stage=stage)
        found = resolve(INT8, replace(table, provenance=origin))
        assert (found.fold_zero_points, found.rounding) == (False, Rounding.NEAREST)
    assert resolve(INT8, table).fold_zero_points
    assert CalibrateOptions(preprocess=options.preprocess).calibrator == AUTO
