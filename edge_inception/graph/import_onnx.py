"""The stage ``import``: a float ONNX classifier of another exporter becomes a graph of ours."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import helper, inliner
from onnx.external_data_helper import uses_external_data

from edge_inception import artifact, stage
from edge_inception.artifact import Graph, file_sha256
from edge_inception.errors import InputError
from edge_inception.graph import check, opsets, parity, support_checks
from edge_inception.graph.batch import DYNAMIC_BATCH, set_batch
from edge_inception.graph.check import shape_of
from edge_inception.graph.float32 import to_float32
from edge_inception.graph.opsets import OPSET
from edge_inception.graph.options import IMPORT, ImportOptions
from edge_inception.graph.passes import lift_constants, plain_reshape
from edge_inception.sidecar import GraphDetails, Provenance
from edge_inception.spec import (
    HEAD_SCOPE,
    INPUT_NAME,
    OUTPUT_NAME,
    PREPROCESS_SCOPE,
    Head,
    Preprocess,
)

__all__ = ["ImportOptions", "import_graph", "import_provenance"]

TOLERANCE = 1e-5
"""Largest accepted difference of a logit, as a share of the largest logit.

It can be small, since opset conversion and another batch size change no weight and few kernels. A
larger one is accepted only where ``parity.MAX_ROUNDING`` explains it by rounding.
"""
_PASS_THROUGH = frozenset(("Identity", "Flatten", "Reshape", "Squeeze"))  # may follow the Softmax
_NUM_COMPARED = 2  # number of images; a wrong graph is wrong on any image
_CLASSES_AXES = {2: (1, -1), 4: (1, -3)}  # rank of the Softmax -> its axis of the classes
_CONVERTED_SINCE = 13  # before opset 13, Softmax normalises over all axes from ``axis`` on
_DEFAULTS = {"crop_fraction": 0.875, "interpolation": "bilinear"}  # a note tells the user


def import_provenance(source: Path, options: ImportOptions) -> Provenance:
    """The provenance that ``import_graph`` records for these inputs.

    Raises:
        InputError: The file, or a file with its external weights, cannot be read.
    """
    parents = {"onnx": file_sha256(source)}
    for name in _external_files(source):
        parents[f"weights {name}"] = file_sha256(source.parent / name)
    return stage.provenance(IMPORT, parents=parents, options=options)


def import_graph(source: Path, options: ImportOptions, out: Path) -> Graph:
    """The classifier in ``source`` as a graph: ``input`` [N, 3, H, W] -> ``logits`` [N, classes].

    Opsets 7 to 24 are converted to 18; functions are inlined; initialisers are taken off the list
    of inputs; float16, bfloat16 and double weights become float32. A Softmax at the end is cut off,
    so that later stages compare logits; the sidecar, the .json file beside ``out``, records it.
    External weights lie beside ``source``; those of ``out`` are inside it.

    Raises:
        InputError: A node cannot be handled (the message names its op and the reason), mean or std
            is not given, class names or sizes do not fit, or onnxruntime's logits of the graph
            are not those of ``source``.
    """
    provenance = import_provenance(source, options)
    model = check.load_graph(source)
    opset = support_checks.opset_of(model)
    notes = _normalise(model, source)
    preprocess = _preprocessing(model, options, source, notes)
    support_checks.require_class_output(model, source)
    is_cut = _cut_softmax(model)
    if is_cut:
        notes.append("its Softmax is cut off, the engine answers logits; --head softmax keeps it")
    original = copy.deepcopy(model)
    _convert_opset(model, source)
    batch = DYNAMIC_BATCH if options.profile.is_dynamic else options.profile.max
    _fix_image_size(model, preprocess)
    set_batch(model, batch, source)
    _rename_input_and_output(model, source)
    num_classes = _require_same_logits(original, model, preprocess, source)
    _require_classes(options, num_classes, source)
    content: bytes = model.SerializeToString(deterministic=True)
    return artifact.publish(
        Graph,
        out,
        content,
        provenance=provenance,
        counts=check.node_counts(model),
        details=GraphDetails(
            model=source.stem,
            model_options={},
            num_classes=num_classes,
            classes=options.classes,
            preprocess=preprocess,
            profile=options.profile,
            input=INPUT_NAME,
            output=OUTPUT_NAME,
            input_shape=(batch, 3, *preprocess.input_size),
            opset=support_checks.opset_of(model),
            source_opset=opset,
            head_text=str(Head()),
            cut_head="softmax" if is_cut else "",
            checkpoint_notes=tuple(notes),
        ),
    )


def _external_files(source: Path) -> list[str]:
    """Names of the files beside ``source`` that hold its weights."""
    try:
        model = onnx.load(str(source), format="protobuf", load_external_data=False)
    except DecodeError:  # load_graph refuses the file and says why
        return []
    external = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    pairs = (entry for tensor in external for entry in tensor.external_data)
    names = {entry.value for entry in pairs if entry.key == "location"}
    return sorted(name for name in names if (source.parent / name).is_file())


def _normalise(model: onnx.ModelProto, source: Path) -> list[str]:
    """Inline functions, make floats float32 and take initialisers off the inputs; notes on it."""
    notes = []
    if model.functions:
        notes.append(f"{len(model.functions)} functions inlined")
        model.CopyFrom(inliner.inline_local_functions(model))
    support_checks.require_supported(model, source)
    widened = to_float32(model)
    if widened:
        kinds = ", ".join(f"{count} of {name}" for name, count in widened.items())
        notes.append(f"weights made float32: {kinds}")
    check.replace_items(model.graph.input, check.image_inputs(model))
    check.set_opset(model, support_checks.opset_of(model))
    model.ir_version = helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    model.ir_version = max(model.ir_version, 4)  # below 4, initialisers must be inputs
    lift_constants.PASS.call(model)  # without the check of order, which the graph need not keep
    plain_reshape.PASS.call(model)
    _name_modules(model)
    return notes


def _name_modules(model: onnx.ModelProto) -> None:
    """Name nodes after the modules that torch recorded, but not ``head/`` and ``preprocess/``.

    These are the names of what we add, so a module that has such a name is renamed.
    """
    taken = re.compile(rf"({HEAD_SCOPE}|{PREPROCESS_SCOPE}|(head|preprocess)\.weight$)")
    for node in model.graph.node:
        path = check.module_path(node)
        node.name = f"{path}/{node.op_type}" if path else node.name
        if taken.match(node.name):
            node.name = f"model.{node.name}"
    check.make_names_unique(model)
    weights = [name for name in check.constants(model) if taken.match(name)]
    check.rename_tensors(model, {name: f"model.{name}" for name in weights})


def _preprocessing(
    model: onnx.ModelProto, options: ImportOptions, source: Path, notes: list[str]
) -> Preprocess:
    """The user's preprocessing, completed with the graph's image size and our defaults."""
    fields = dict(options.preprocess)
    missing = [key for key in ("mean", "std") if key not in fields]
    if missing:
        raise InputError(
            f"{source} does not say how images become its input: no {' and no '.join(missing)}",
            hint="ImageNet: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; -1..1: --mean "
            "0.5,0.5,0.5 --std 0.5,0.5,0.5; Caffe, 0..255: --channel-order BGR --mean "
            "0.408,0.459,0.482 --std 0.00392,0.00392,0.00392",
        )
    entry = support_checks.require_image_input(model, source)
    sides = shape_of(entry)[2:]
    size = fields.setdefault("input_size", tuple(sides))
    if not all(isinstance(side, int) for side in size):
        raise InputError(
            f"{source}: input '{entry.name}' is {shape_of(entry)}, its sides are dynamic",
            hint="pass --input-size",
        )
    if any(isinstance(side, int) and side != want for side, want in zip(sides, size, strict=True)):
        raise InputError(
            f"{source} takes images of {sides[0]} x {sides[1]}, {size[0]} x {size[1]} asked for",
            hint="leave --input-size out: the size is in the graph",
        )
    for key, value in _DEFAULTS.items():
        if key not in fields:
            fields[key] = value
            notes.append(f"{key} {value} is assumed; --{key.replace('_', '-')} changes it")
    return Preprocess(**fields)


def _cut_softmax(model: onnx.ModelProto) -> bool:
    """Remove a Softmax over the classes at the end of the graph; return whether it was there."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _PASS_THROUGH:
        node = makers.get(node.input[0])
    if node is None or node.op_type != "Softmax" or not _is_over_classes(node, model):
        return False
    (inner,), (outer,) = node.input, node.output
    graph.node.remove(node)
    for reader in graph.node:
        reader.input[:] = [inner if name == outer else name for name in reader.input]
    if graph.output[0].name == outer:
        graph.output[0].name = inner
    return True


def _is_over_classes(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a Softmax normalises each image separately, over all its classes."""
    if support_checks.opset_of(model) < _CONVERTED_SINCE:
        return check.attribute(node, "axis", 1) == 1
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.output)
    rank = next((len(shape_of(v)) for v in values if v.name == node.output[0]), 2)
    return check.attribute(node, "axis", -1) in _CLASSES_AXES.get(rank, ())


def _convert_opset(model: onnx.ModelProto, source: Path) -> None:
    """Convert a graph to ``OPSET``, in place."""
    try:
        opsets.convert(model, OPSET)
    except InputError as error:
        raise InputError(f"{source}: {error}", hint=error.hint) from error


def _fix_image_size(model: onnx.ModelProto, preprocess: Preprocess) -> None:
    (entry,) = model.graph.input
    for axis, side in zip((2, 3), preprocess.input_size, strict=True):
        entry.type.tensor_type.shape.dim[axis].dim_value = side


def _rename_input_and_output(model: onnx.ModelProto, source: Path) -> None:
    """Name the graph's input ``input`` and its output ``logits`` [N, classes], in place.

    An inner tensor that already has one of these names is renamed.
    """
    graph = model.graph
    output = support_checks.require_class_output(model, source)
    shape = shape_of(output)
    if len(shape) != 2 and shape[2:] != [1, 1]:  # noqa: PLR2004 -- [N, classes]
        raise InputError(
            f"{source}: output '{output.name}' is {shape}, wanted [N, classes]",
            hint="an image classifier maps one [N, 3, H, W] to [N, classes]",
        )
    flat = output.name
    if len(shape) != 2:  # noqa: PLR2004 -- [N, classes]
        flat = f"{output.name}/flat"
        graph.node.append(helper.make_node("Flatten", [output.name], [flat], flat, axis=1))
    names = {graph.input[0].name: INPUT_NAME, flat: OUTPUT_NAME}
    for taken in {INPUT_NAME, OUTPUT_NAME} - names.keys():
        names[taken] = f"{taken}/inner"
    check.rename_tensors(model, names)
    batch = shape_of(graph.input[0])[0]
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, [batch, shape[1]])
    )


def _require_same_logits(
    original: onnx.ModelProto, model: onnx.ModelProto, preprocess: Preprocess, source: Path
) -> int:
    """Check that both graphs compute the same logits; return the number of classes.

    ``original`` runs on one random image at a time, ``model`` on a batch.
    """
    batch = shape_of(model.graph.input[0])[0]
    count = batch if isinstance(batch, int) else _NUM_COMPARED + 1
    rng = np.random.default_rng(0)
    pixels = rng.random((count, 3, *preprocess.input_size), dtype=np.float32)
    mean, std = (
        np.array(values, np.float32).reshape(1, 3, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    images = (pixels - mean) / std
    wanted = np.stack([_logits_of_one(original, image) for image in images[:_NUM_COMPARED]])
    unit = float(np.abs(wanted).max())
    if not np.isfinite(unit) or unit == 0.0:
        raise InputError(
            f"{source}: logits of random images are {'all 0' if unit == 0.0 else 'not finite'}",
            hint="the graph holds no trained weights, or --mean and --std are another network's",
        )
    got = parity.run(model, images)[:_NUM_COMPARED]
    fits = got.shape == wanted.shape
    share = float(np.abs(got - wanted).max()) / unit if fits else np.inf
    if not share <= TOLERANCE and not (
        share <= parity.MAX_ROUNDING * parity.rounding_difference(model, seed=0)
    ):
        raise InputError(
            f"{source}: after import, logits differ by {share:.1e} of the largest, wanted at most "
            f"{TOLERANCE:.0e}",
            hint="export again with opset 18 and the batch size you need",
        )
    return int(wanted.shape[1])


def _logits_of_one(model: onnx.ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits [classes] of one image [3, H, W]; a static batch is filled with copies of it."""
    batch = shape_of(model.graph.input[0])[0]
    copies = np.repeat(image[np.newaxis], batch if isinstance(batch, int) else 1, axis=0)
    logits: NDArray[np.float32] = parity.run(model, copies).reshape(len(copies), -1)[0]
    return logits


def _require_classes(options: ImportOptions, num_classes: int, source: Path) -> None:
    for what, count in (("class names", len(options.classes)), ("classes", options.num_classes)):
        if count and count != num_classes:
            raise InputError(
                f"{count} {what} for {source}, which has {num_classes} logits",
                hint="give --labels with one class name per logit, in logit order",
            )
