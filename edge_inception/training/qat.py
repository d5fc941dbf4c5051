"""Quantization-aware fine-tuning of a graph with the pairs of its typed graph: the stage ``qat``.

A typed graph is an ONNX graph that states its precision, here by Q/DQ pairs. Fine-tuning is the
last resort, for networks that lose accuracy in int8 with any ranges: the weights adapt to the
rounding. The ranges stay, so that the new graph has the same pairs with the same scales and names
as the old graph; only weights and biases differ.

The loss compares the logits with those of the float graph, with the labels, or with both, by
``QatOptions.distillation``. A network that has learnt its training images gains nothing more from
their labels, and the labels of few images spoil it: in 24 steps the SQNR of the solar network's
logits fell from 26 dB to 19 dB with equal shares of both, and to 24 dB with the float logits alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from msgspec import structs
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from edge_inception import artifact, records, stage
from edge_inception.artifact import RangeTable, SimplifiedGraph
from edge_inception.data.images import load_image
from edge_inception.data.imageset import ImageSet
from edge_inception.device.outputs import centred, sqnr_db
from edge_inception.errors import GateFailed, InputError
from edge_inception.graph import check, parity
from edge_inception.quant import insert_qdq, ranges
from edge_inception.quant import options as quant_options
from edge_inception.quant.options import FloatRest, QuantizeOptions, policy_of
from edge_inception.quant.placement import WEIGHTED_OPS, place_pairs
from edge_inception.quant.policies import default_policy
from edge_inception.sidecar import Provenance, QatDetails, QatFigures
from edge_inception.spec import Precision, Preprocess, Progress, no_progress
from edge_inception.training import evaluate
from edge_inception.training import run as training_run
from edge_inception.training.graph_module import GraphModule, Rounding
from edge_inception.training.options import QAT, TrainOptions
from edge_inception.training.run import Run, TrainingModel

GRAPH_FILE, RANGES_FILE, RECORD_FILE = "model.simplified.onnx", "model.ranges.json", "qat.json"
MAX_SHARE_OF_NOISE = 0.5
"""Largest difference allowed between the logits of the module and those of the typed graph in
onnxruntime, as a share of the int8 noise of the logits.

PyTorch sums in another order, so that some values are rounded to the next step: the share is 0.1 on
an Inception-v4 of width 0.25. Tests check on small networks that every single pair is in its place.
"""
_SMALLEST_POWER = 1e-12  # instead of 0, the power of logits that are the same for every class
_CHECKED_IMAGES = 4  # images on which the module is compared with the typed graph


@dataclass(frozen=True, slots=True, kw_only=True)
class QatOptions:
    """Choices of one fine-tuning.

    ``distillation`` is the share of the loss, 0..1, that compares the logits with those of the
    float graph; the rest is cross entropy with the labels. ``learning_rate`` is the rate of the
    first step, which decays to 0 along half a cosine. ``device`` is ``cpu`` or ``cuda``;
    ``threads`` 0 leaves PyTorch's own number of CPU threads. ``placement`` and ``keep`` are the
    options that ``quantize`` will get. ``is_kept_when_worse`` writes the graph even if int8 got
    worse.
    """

    epochs: int = 3
    batch: int = 32
    learning_rate: float = 5e-5
    distillation: float = 1.0
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    placement: str = ""
    keep: tuple[str, ...] = ()
    is_kept_when_worse: bool = False


def qat_provenance(
    graph: SimplifiedGraph,
    table: RangeTable,
    sets: tuple[ImageSet, ImageSet],
    options: QatOptions,
) -> Provenance:
    """The provenance that ``fine_tune`` records for these inputs."""
    parents: stage.Parents = {
        "graph": graph,
        "ranges": table,
        "images": sets[0].sha256,
        "monitored images": sets[1].sha256,
    }
    return stage.provenance(QAT, parents=parents, options=options)


def fine_tune(
    graph: SimplifiedGraph,
    table: RangeTable,
    sets: tuple[ImageSet, ImageSet],
    options: QatOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> tuple[SimplifiedGraph, RangeTable]:
    """The graph with trained weights and its range table, both ready for ``quantize``.

    ``out/qat.json`` holds the accuracy before and after; it is written even if the graph is not.
    The new table has the old amax of every tensor and no channel means: training starts with
    corrected biases, so ``quantize`` must not correct them again.

    Args:
        graph: The simplified graph, which takes float32 images.
        table: The range table of this very graph.
        sets: Labelled images to train on, and labelled held out images to judge int8 on.
        options: The run; a state file of other options is refused.
        out: Folder; an unfinished run found there is resumed.
        progress: Called with the number of steps done and of all steps.

    Raises:
        InputError: The table is of another graph; the graph takes raw pixels, computes embeddings
            or holds an op that cannot be trained; images are unlabelled, damaged, missing, of other
            classes or in both sets; the state file is of another run; or a loss is not finite.
        GateFailed: int8 got worse on the held out images, and ``is_kept_when_worse`` is not set.
    """
    if (out / GRAPH_FILE).resolve() == graph.path.resolve():
        raise InputError(f"{out} holds the graph to be trained", hint="choose another --out")
    training, choices = _training(graph, sets, options), _choices(graph, table, options)
    teacher, module, average = _modules(graph, table, choices, sets[1], training, out)
    exact = evaluate.logits_of(teacher, sets[1], training)
    before = _figures(average, exact, sets[1], training)
    trained = TrainingModel(
        model=module,
        average=average,
        losses=partial(_losses, teacher=teacher, share=options.distillation),
        identity=(graph.sha256, table.sha256, str(options.distillation), repr(choices)),
        is_half=False,
    )
    run = Run(trained, *sets, training, out)
    run.train(progress)
    details = QatDetails(
        float32=QatFigures(**evaluate.figures(*exact, training)),
        before=before,
        after=_figures(average, exact, sets[1], training),
    )
    record = {
        "schema": 1,
        **run.record(QAT),
        "distillation": options.distillation,
        **records.plain(details),
        "history": run.history,
    }
    text = json.dumps(record, indent=1) + "\n"
    artifact.replace_file(out / RECORD_FILE, text.encode())
    if not options.is_kept_when_worse:
        _require_no_worse(details)
    origin = qat_provenance(graph, table, sets, options)
    return _publish(graph, table, average, details, out, origin)


def _training(
    graph: SimplifiedGraph, sets: tuple[ImageSet, ImageSet], options: QatOptions
) -> TrainOptions:
    """Options of the training run: images of the final size, no warm-up, no weight decay.

    Weight decay was meant for the original weights; batch norm is folded into the weights here.
    """
    facts = graph.details
    preprocess, classes = facts.preprocess, facts.classes
    if preprocess.element != "float32":
        raise InputError(
            f"{graph.path} takes {preprocess.element} pixels, wanted float32 images",
            hint="fine-tune the graph that is exported without --fold-preprocessing",
        )
    if not 0 <= options.distillation <= 1:
        raise InputError(f"distillation is {options.distillation}", hint="wanted 0 to 1")
    if not facts.num_classes:
        raise InputError(f"{graph.path} gives embeddings", hint="only a classifier has labels")
    if not sets[0].items or not sets[1].items:
        raise InputError("no images to train on, or none held out", hint="both sets need images")
    if classes and classes != sets[0].classes:
        raise InputError(
            f"{sets[0].name} has classes {', '.join(sets[0].classes)}; {graph.path} has "
            f"{', '.join(classes)}",
            hint="the order of the logits is that of the graph",
        )
    training = TrainOptions(
        model=facts.model,
        num_classes=facts.num_classes,
        preprocess=preprocess,
        start_size=preprocess.input_size[0],
        weight_decay=0.0,
        warmup_epochs=0,
        **{name: getattr(options, name) for name in _SHARED},
    )
    training_run.require_options(training)
    training_run.require_sets(*sets, training)
    return training


_SHARED = ("epochs", "batch", "learning_rate", "seed", "device", "threads")


def _choices(graph: SimplifiedGraph, table: RangeTable, options: QatOptions) -> QuantizeOptions:
    """Options of the typed graph that training starts from.

    If the table has channel means and every layer has a bias of its own, the biases are corrected.
    Training changes the weights, so that they round to nearest, and its scales are symmetric.
    """
    biases = list(_biases(check.load_graph(graph.path)).values())
    are_own = all(biases) and len(set(biases)) == len(biases)
    is_possible = are_own and bool(ranges.read_means(table))
    return QuantizeOptions(
        precision=Precision.INT8,
        float_rest=FloatRest.FP32,
        placement=options.placement or default_policy("gpu").name,
        keep=options.keep,
        rounding=quant_options.Rounding.NEAREST,
        fold_zero_points=False,
        bias_correction=is_possible,
    )


def _modules(
    graph: SimplifiedGraph,
    table: RangeTable,
    choices: QuantizeOptions,
    monitored: ImageSet,
    training: TrainOptions,
    out: Path,
) -> tuple[GraphModule, GraphModule, GraphModule]:
    """The float graph as teacher, the module to train, and the module of the averaged weights."""
    typed = _typed(graph, table, choices, out)
    bare = check.without_head(check.load_graph(graph.path))
    rounding = _rounding(bare, typed, choices)
    teacher, corrected = GraphModule(bare), _with_biases(bare, typed)
    module, average = (GraphModule(corrected, rounding) for _ in range(2))
    _require_same(module, teacher, typed, monitored, training.preprocess)
    for each in (teacher, module, average):
        each.to(training.device)
    return teacher, module, average


def _typed(
    graph: SimplifiedGraph, table: RangeTable, options: QuantizeOptions, out: Path
) -> onnx.ModelProto:
    """The typed graph that ``quantize`` makes, without its head; bad inputs are refused there."""
    path = out / "before.int8.onnx"
    try:
        insert_qdq.quantize(graph, table, options, path)
        return check.without_head(check.load_graph(path))
    finally:
        path.unlink(missing_ok=True)
        artifact.sidecar_path(path).unlink(missing_ok=True)


def _rounding(model: onnx.ModelProto, typed: onnx.ModelProto, options: QuantizeOptions) -> Rounding:
    """The placement that ``quantize`` chose, with the scales that it wrote into ``typed``."""
    placement, stored = place_pairs(model, policy_of(options), options.keep), check.constants(typed)
    roots = dict.fromkeys(placement.group_of.values())
    scale_of = {root: numpy_helper.to_array(stored[f"{root}.scale"]).item() for root in roots}
    return Rounding(placement=placement, scale_of=scale_of)


def _biases(model: onnx.ModelProto) -> dict[str, str]:
    """Output of every Conv and Gemm -> the initializer that is its bias, "" if it has none."""
    stored = check.constants(model)
    third = {
        n.output[0]: "".join(n.input[2:]) for n in model.graph.node if n.op_type in WEIGHTED_OPS
    }
    return {layer: name if name in stored else "" for layer, name in third.items()}


def _with_biases(model: onnx.ModelProto, typed: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the float graph with the corrected biases of its typed graph."""
    stored, corrected = check.constants(typed), _biases(typed)
    copied = copy.deepcopy(model)
    biases = {name: corrected[layer] for layer, name in _biases(model).items() if name}
    _set_values(copied, {n: numpy_helper.to_array(stored[bias]) for n, bias in biases.items()})
    return copied


def _require_same(
    module: GraphModule,
    teacher: GraphModule,
    typed: onnx.ModelProto,
    images: ImageSet,
    preprocess: Preprocess,
) -> None:
    """Check that the module computes what the typed graph computes.

    Raises:
        InputError: The logits of the two differ by more than MAX_SHARE_OF_NOISE.
    """
    batch = check.shape_of(check.image_input(typed))[0]
    copies = batch if isinstance(batch, int) else 1
    items = images.items[:_CHECKED_IMAGES]
    loaded = [load_image(item.path, preprocess)[np.newaxis] for item in items]
    wanted = np.concatenate([parity.run(typed, np.repeat(i, copies, axis=0))[:1] for i in loaded])
    pixels = torch.from_numpy(np.concatenate(loaded))
    with torch.inference_mode():
        difference, noise = (
            float(np.linalg.norm(each(pixels).numpy() - wanted)) for each in (module, teacher)
        )
    if not difference <= MAX_SHARE_OF_NOISE * noise:
        raise InputError(
            f"the graph in PyTorch differs from the typed graph by {difference / noise:.1g} of the "
            f"int8 noise, wanted at most {MAX_SHARE_OF_NOISE}",
            hint="report it with the architecture's name",
        )


def _losses(
    pixels: Tensor, logits: Tensor, labels: Tensor, *, teacher: GraphModule, share: float
) -> Tensor:
    """Loss per image [N].

    The loss is the weighted sum of the cross entropy with the labels and of the noise to signal of
    the centred logits against the teacher's. The noise to signal is 0.01 at an SQNR of 20 dB.
    """
    with torch.no_grad():
        wanted = _centred(teacher(pixels))
    error = (_centred(logits) - wanted).square().sum(1)
    noise = error / wanted.square().sum(1).mean().clamp_min(_SMALLEST_POWER)
    return (1 - share) * functional.cross_entropy(logits, labels, reduction="none") + share * noise


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def _figures(
    module: GraphModule,
    exact: tuple[NDArray[np.float32], NDArray[np.int64]],
    images: ImageSet,
    training: TrainOptions,
) -> QatFigures:
    """Accuracy of the module, and SQNR of its centred logits against the float logits ``exact``."""
    logits, labels = evaluate.logits_of(module, images, training)
    wanted = exact[0].astype(np.float64)
    sqnr = sqnr_db(centred(wanted), centred(logits.astype(np.float64)))
    agreement = float((logits.argmax(1) == wanted.argmax(1)).mean())
    figures = evaluate.figures(logits, labels, training)
    return QatFigures(**figures, agreement=agreement, sqnr_db=sqnr)


def _require_no_worse(details: QatDetails) -> None:
    """Check that int8 did not get worse in top-1 accuracy, or with equal top-1 in SQNR.

    Raises:
        GateFailed: int8 got worse.
    """
    figures = (details.before, details.after)
    before, after = ((each.accuracy, each.sqnr_db or 0.0) for each in figures)
    if after < before:
        raise GateFailed(
            f"int8 got worse: top-1 {100 * before[0]:.2f} % and {before[1]:.1f} dB before, "
            f"{100 * after[0]:.2f} % and {after[1]:.1f} dB after; no graph was written",
            hint="lower --learning-rate, train on more images, or write it with --keep-failed",
        )


def _publish(
    graph: SimplifiedGraph,
    table: RangeTable,
    average: GraphModule,
    details: QatDetails,
    out: Path,
    origin: Provenance,
) -> tuple[SimplifiedGraph, RangeTable]:
    """Write the graph with the averaged weights, and the range table that belongs to it."""
    model = check.load_graph(graph.path)
    _set_values(model, average.arrays())
    trained = artifact.publish(
        SimplifiedGraph,
        out / GRAPH_FILE,
        model.SerializeToString(deterministic=True),
        provenance=origin,
        counts=graph.counts,
        details=structs.replace(graph.details, qat=details),
    )
    bound = structs.replace(ranges.read_table(table), graph=trained.sha256)
    path = out / RANGES_FILE
    beside = ranges.write_statistics(path, ranges.read_histograms(table), {}, ranges.Learned())
    return trained, artifact.publish(
        RangeTable,
        path,
        ranges.table_text(bound).encode(),
        provenance=origin,
        counts=table.counts,
        details=structs.replace(table.details, beside=beside, tried=(), chosen=None, num_rounded=0),
    )


def _set_values(model: onnx.ModelProto, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Replace the values of the named initializers."""
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
