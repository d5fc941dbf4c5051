"""Quantization-aware fine-tuning of a graph with the pairs of its typed graph: the stage ``qat``.

A typed graph is an ONNX graph that states its precision, here by Q/DQ pairs. Fine-tuning is the
last resort for networks that lose accuracy in int8 with any ranges: the weights adapt to the
rounding. The ranges and so the scales of activations stay; only weights and biases change.

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
from edge_inception.training.graph_module import GraphModule, Quantization
from edge_inception.training.options import QAT, TrainOptions
from edge_inception.training.run import Run, TrainingModel

GRAPH_FILE, RANGES_FILE, RECORD_FILE = "model.simplified.onnx", "model.ranges.json", "qat.json"
MAX_SHARE_OF_NOISE = 0.5
"""Largest difference allowed between the logits of the module and those of the typed graph in
onnxruntime, as a share of the int8 noise of the logits.

PyTorch sums in another order, so that some values are rounded to the next level: the share is 0.1
on an Inception-v4 of width 0.25. Tests on small networks check the place of every pair.
"""
_MIN_POWER = 1e-12  # in place of 0, the power of logits that are equal for all classes
_NUM_CHECKED_IMAGES = 4  # images on which the module is compared with the typed graph


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
    train_options = _train_options(graph, sets, options)
    quantize_options = _quantize_options(graph, table, options)
    teacher, module, average = _modules(graph, table, quantize_options, sets[1], train_options, out)
    float_logits, labels = evaluate.compute_logits(teacher, sets[1], train_options)
    before = _figures(average, float_logits, sets[1], train_options)
    training_model = TrainingModel(
        model=module,
        average=average,
        losses=partial(_losses, teacher=teacher, distillation=options.distillation),
        identity=(graph.sha256, table.sha256, str(options.distillation), repr(quantize_options)),
        uses_bfloat16=False,
    )
    run = Run(training_model, *sets, train_options, out)
    run.train(progress)
    details = QatDetails(
        float32=QatFigures(**evaluate.classification_metrics(float_logits, labels, train_options)),
        before=before,
        after=_figures(average, float_logits, sets[1], train_options),
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
    parents: stage.Parents = {
        "graph": graph,
        "ranges": table,
        "images": sets[0].sha256,
        "monitored images": sets[1].sha256,
    }
    provenance = stage.provenance(QAT, parents=parents, options=options)
    return _publish(graph, table, average, details, out, provenance)


def _train_options(
    graph: SimplifiedGraph, sets: tuple[ImageSet, ImageSet], options: QatOptions
) -> TrainOptions:
    """Options of the training run: images of the final size, no warm-up, no weight decay.

    Weight decay was meant for the original weights; batch norm is folded into the weights here.
    """
    details = graph.details
    preprocess, classes = details.preprocess, details.classes
    if preprocess.element != "float32":
        raise InputError(
            f"{graph.path} takes {preprocess.element} pixels, wanted float32 images",
            hint="fine-tune the graph that is exported without --fold-preprocessing",
        )
    if not 0 <= options.distillation <= 1:
        raise InputError(f"distillation is {options.distillation}", hint="wanted 0 to 1")
    if not details.num_classes:
        raise InputError(f"{graph.path} gives embeddings", hint="only a classifier has labels")
    if not sets[0].items or not sets[1].items:
        raise InputError("no images to train on, or none held out", hint="both sets need images")
    if classes and classes != sets[0].classes:
        raise InputError(
            f"{sets[0].name} has classes {', '.join(sets[0].classes)}; {graph.path} has "
            f"{', '.join(classes)}",
            hint="the order of the logits is that of the graph",
        )
    train_options = TrainOptions(
        model=details.model,
        num_classes=details.num_classes,
        preprocess=preprocess,
        start_size=preprocess.input_size[0],
        weight_decay=0.0,
        warmup_epochs=0,
        **{name: getattr(options, name) for name in _SHARED_OPTIONS},
    )
    training_run.require_options(train_options)
    training_run.require_sets(*sets, train_options)
    return train_options


_SHARED_OPTIONS = ("epochs", "batch", "learning_rate", "seed", "device", "threads")


def _quantize_options(
    graph: SimplifiedGraph, table: RangeTable, options: QatOptions
) -> QuantizeOptions:
    """Options of the typed graph that training starts from.

    Weights are rounded to nearest, since training changes them, and all scales are symmetric.
    Biases are corrected if the table has channel means and every layer has a bias of its own.
    """
    biases = list(_bias_names(check.load_graph(graph.path)).values())
    is_bias_per_layer = all(biases) and len(set(biases)) == len(biases)
    return QuantizeOptions(
        precision=Precision.INT8,
        float_rest=FloatRest.FP32,
        placement=options.placement or default_policy("gpu").name,
        keep=options.keep,
        rounding=quant_options.Rounding.NEAREST,
        fold_zero_points=False,
        bias_correction=is_bias_per_layer and bool(ranges.read_means(table)),
    )


def _modules(
    graph: SimplifiedGraph,
    table: RangeTable,
    quantize_options: QuantizeOptions,
    monitored: ImageSet,
    train_options: TrainOptions,
    out: Path,
) -> tuple[GraphModule, GraphModule, GraphModule]:
    """The float graph as teacher, the module to train, and the module of the averaged weights."""
    typed = _quantize(graph, table, quantize_options, out)
    model = check.without_head(check.load_graph(graph.path))
    quantization = _read_quantization(model, typed, quantize_options)
    teacher, corrected = GraphModule(model), _with_corrected_biases(model, typed)
    module, average = (GraphModule(corrected, quantization) for _ in range(2))
    _require_same_outputs(module, teacher, typed, monitored, train_options.preprocess)
    for each in (teacher, module, average):
        each.to(train_options.device)
    return teacher, module, average


def _quantize(
    graph: SimplifiedGraph, table: RangeTable, options: QuantizeOptions, out: Path
) -> onnx.ModelProto:
    """The typed graph that the stage ``quantize`` makes, without its head."""
    path = out / "before.int8.onnx"
    try:
        insert_qdq.quantize(graph, table, options, path)
        return check.without_head(check.load_graph(path))
    finally:
        path.unlink(missing_ok=True)
        artifact.sidecar_path(path).unlink(missing_ok=True)


def _read_quantization(
    model: onnx.ModelProto, typed: onnx.ModelProto, options: QuantizeOptions
) -> Quantization:
    """The placement that ``quantize`` chose, with the scales that it wrote into ``typed``."""
    placement = place_pairs(model, policy_of(options), options.keep)
    constants, roots = check.constants(typed), dict.fromkeys(placement.group_of.values())
    scale_of = {root: numpy_helper.to_array(constants[f"{root}.scale"]).item() for root in roots}
    return Quantization(placement=placement, scale_of=scale_of)


def _bias_names(model: onnx.ModelProto) -> dict[str, str]:
    """Output of every Conv and Gemm -> the initializer that is its bias, "" if it has none."""
    constants = check.constants(model)
    layers = (node for node in model.graph.node if node.op_type in WEIGHTED_OPS)
    inputs = {node.output[0]: "".join(node.input[2:]) for node in layers}
    return {layer: name if name in constants else "" for layer, name in inputs.items()}


def _with_corrected_biases(model: onnx.ModelProto, typed: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the float graph with the corrected biases of its typed graph."""
    constants, corrected = check.constants(typed), _bias_names(typed)
    copied = copy.deepcopy(model)
    biases = {name: corrected[layer] for layer, name in _bias_names(model).items() if name}
    values = {name: numpy_helper.to_array(constants[bias]) for name, bias in biases.items()}
    _set_initializers(copied, values)
    return copied


def _require_same_outputs(
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
    items = images.items[:_NUM_CHECKED_IMAGES]
    inputs = [load_image(item.path, preprocess)[np.newaxis] for item in items]
    wanted = np.concatenate([parity.run(typed, np.repeat(x, copies, axis=0))[:1] for x in inputs])
    pixels = torch.from_numpy(np.concatenate(inputs))
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
    pixels: Tensor, logits: Tensor, labels: Tensor, *, teacher: GraphModule, distillation: float
) -> Tensor:
    """Loss per image [N].

    The loss is the sum of the cross entropy with the labels, weighted by 1 - ``distillation``, and
    of the noise-to-signal ratio of the centred logits against the teacher's, weighted by
    ``distillation``. The ratio is 0.01 at an SQNR of 20 dB.
    """
    with torch.no_grad():
        wanted = _centred(teacher(pixels))
    noise = (_centred(logits) - wanted).square().sum(1)
    ratio = noise / wanted.square().sum(1).mean().clamp_min(_MIN_POWER)
    cross_entropy = functional.cross_entropy(logits, labels, reduction="none")
    return (1 - distillation) * cross_entropy + distillation * ratio


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def _figures(
    module: GraphModule,
    float_logits: NDArray[np.float32],
    images: ImageSet,
    train_options: TrainOptions,
) -> QatFigures:
    """Accuracy of the module, and SQNR of its centred logits against ``float_logits``."""
    logits, labels = evaluate.compute_logits(module, images, train_options)
    wanted = float_logits.astype(np.float64)
    sqnr = sqnr_db(centred(wanted), centred(logits.astype(np.float64)))
    agreement = float((logits.argmax(1) == wanted.argmax(1)).mean())
    metrics = evaluate.classification_metrics(logits, labels, train_options)
    return QatFigures(**metrics, agreement=agreement, sqnr_db=sqnr)


def _require_no_worse(details: QatDetails) -> None:
    """Check that int8 did not get worse in top-1 accuracy, or with equal top-1 in SQNR.

    Raises:
        GateFailed: int8 got worse.
    """
    before, after = (
        (figures.accuracy, figures.sqnr_db or 0.0) for figures in (details.before, details.after)
    )
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
    provenance: Provenance,
) -> tuple[SimplifiedGraph, RangeTable]:
    """Write the graph with the averaged weights, and the range table that belongs to it."""
    model = check.load_graph(graph.path)
    _set_initializers(model, average.arrays())
    trained = artifact.publish(
        SimplifiedGraph,
        out / GRAPH_FILE,
        model.SerializeToString(deterministic=True),
        provenance=provenance,
        counts=graph.counts,
        details=structs.replace(graph.details, qat=details),
    )
    bound = structs.replace(ranges.read_table(table), graph=trained.sha256)
    path = out / RANGES_FILE
    beside = ranges.write_statistics(
        path, ranges.read_histograms(table), {}, ranges.FittedParameters()
    )
    return trained, artifact.publish(
        RangeTable,
        path,
        ranges.table_text(bound).encode(),
        provenance=provenance,
        counts=table.counts,
        details=structs.replace(table.details, beside=beside, tried=(), chosen=None, num_rounded=0),
    )


def _set_initializers(model: onnx.ModelProto, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Replace the values of the named initializers."""
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
