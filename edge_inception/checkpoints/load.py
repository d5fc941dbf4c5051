"""Loading of a model with exactly the weights of a checkpoint file.

An error names what differs. The checkpoint's family, which is its publisher, decides the model's
options, the preprocessing and the names of the tensors: see ``family.py``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_inception import registry
from edge_inception.checkpoints import keymaps
from edge_inception.checkpoints.family import (
    AUTO,
    Evidence,
    Fit,
    choose_fit,
    fit_keys,
    select_families,
)
from edge_inception.checkpoints.keymaps._keymap import Layout
from edge_inception.checkpoints.read import Checkpoint, read_checkpoint, type_name
from edge_inception.errors import InputError, listed
from edge_inception.spec import ModelSpec, Preprocess

_LOG = logging.getLogger(__name__)
_HEAD = re.compile(r"(?:fc|head|classifier|last_linear|classif|logits)\.(?:.+\.)?(?:weight|bias)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with a checkpoint's weights, and the decisions that led to it.

    ``family`` names the publisher of such checkpoints. ``options`` are the family's, replaced by
    the user's where given; ``preprocess`` is the family's. ``notes`` are sentences on what was
    chosen, unwrapped or left out; ``classes`` and ``stored_types`` are those of ``Checkpoint``.
    """

    model: nn.Module
    family: str
    options: Mapping[str, Any]
    preprocess: Preprocess
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    stored_types: Mapping[str, int]


def load_model(
    name: str,
    checkpoint: Path,
    *,
    checkpoint_format: str = AUTO,
    num_classes: int | None = None,
    **options: Any,
) -> nn.Module:
    """The model that ``load`` returns, float32 and in eval mode; ``options`` are its options.

    Raises:
        InputError: For the same reasons as in ``load``.
    """
    return load(
        name, checkpoint, family=checkpoint_format, num_classes=num_classes, options=options
    ).model


def load(
    name: str,
    path: Path,
    *,
    family: str = AUTO,
    num_classes: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """The model called ``name`` with the weights of ``path``, and the decisions that led to it.

    Args:
        name: A name in ``registry.models()``.
        path: A safetensors file, a file of ``torch.save``, or an npz dump of the variables of
            TensorFlow or Keras.
        family: A name in ``ModelSpec.families``, ``native`` for our own key names, or ``auto`` to
            recognise the family.
        num_classes: Number of classes that the head must have. None takes the checkpoint's number,
            less the row for background where the family's ImageNet heads have such a row.
        options: Options of the model, such as ``width``; they replace the family's.

    Raises:
        InputError: The model, an option or the family is unknown, the family cannot be recognised,
            the file is unreadable or a pickle with code, a weight is NaN or infinite, or a key is
            missing, unexpected or of another shape.
    """
    spec = registry.model(name)
    families = select_families(spec, family)
    user_options = registry.options(spec, options or {})
    checkpoint = read_checkpoint(path)
    shapes = {key: tuple(tensor.shape) for key, tensor in checkpoint.state.items()}
    evidence = Evidence(
        sha256=checkpoint.sha256, shapes=shapes, is_trained_here=bool(checkpoint.classes)
    )
    fits = []
    for each in families:
        chosen = {**each.options, **user_options}
        expected = _meta_model(spec, spec.num_classes, chosen).state_dict()
        fits.append(fit_keys(each, keymaps.key_map(each.name, name), chosen, shapes, expected))
    if all(fit.num_mismatches for fit in fits):
        _refuse_other_head(path, spec, fits, shapes)
        _refuse_other_model(path, spec, shapes)
    chosen_fit, reason = choose_fit(path, spec, fits, evidence)
    notes = [*checkpoint.notes, reason, *chosen_fit.notes]
    model = _load_weights(spec, checkpoint, chosen_fit, num_classes, notes)
    for note in notes:
        _LOG.info("%s: %s", path, note)
    return LoadedModel(
        model=model.eval(),
        family=chosen_fit.family.name,
        options=chosen_fit.options,
        preprocess=chosen_fit.family.preprocess,
        notes=tuple(notes),
        classes=checkpoint.classes,
        stored_types=checkpoint.stored_types,
    )


def num_classes_of(model: nn.Module) -> int:
    """Number of classes of ``model``, which is the number of outputs of its last linear layer."""
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return heads[-1].out_features


def _load_weights(
    spec: ModelSpec, checkpoint: Checkpoint, fit: Fit, num_classes: int | None, notes: list[str]
) -> nn.Module:
    """The model with the tensors of ``fit``; appends what was left out or added to ``notes``."""
    ranks = {key: t.ndim for key, t in _meta_model(spec, 1, fit.options).state_dict().items()}
    state = {
        key: _to_pytorch_layout(checkpoint.state[stored], fit.key_map.layout(name), ranks[key])
        for key, (name, stored) in fit.matches.items()
    }
    head = _head_keys(spec, fit.options)
    num_background = fit.family.num_background
    rows = _head_rows(state, head)
    if num_background and rows == spec.num_classes + num_background and num_classes != rows:
        state |= {key: state[key][num_background:] for key in head}
        rows = spec.num_classes
        notes.append("dropped row 0 of the head, which is the background")
    if fit.left_out:
        names = sorted({key.partition(".")[0] for key in fit.left_out})
        notes.append(f"left out {len(fit.left_out)} tensors of heads: {', '.join(names)}")
    if num_classes is not None and rows not in {None, num_classes}:
        raise InputError(
            f"{checkpoint.path} has a head of {rows} classes, wanted {num_classes}",
            hint=f"use --num-classes {rows}, or leave it out",
        )
    model = _meta_model(spec, num_classes or rows or spec.num_classes, fit.options)
    expected = model.state_dict()
    state = _fill_missing(state, expected, notes)
    _require_same_tensors(spec, checkpoint, state, expected)
    model.load_state_dict(state, strict=True, assign=True)
    return model


def _to_pytorch_layout(tensor: Tensor, layout: Layout, rank: int) -> Tensor:
    """The tensor with ``rank`` axes in PyTorch's order, without the axes of size 1 beyond them."""
    if layout is Layout.DEPTHWISE and tensor.ndim == 4:  # noqa: PLR2004 -- a kernel
        rows, columns, channels, multiplier = tensor.shape
        kernels = tensor.permute(2, 3, 0, 1)
        return kernels.reshape(channels * multiplier, 1, rows, columns).contiguous()
    if layout is Layout.CHANNELS_LAST and tensor.ndim > 1:
        tensor = tensor.permute(tensor.ndim - 1, tensor.ndim - 2, *range(tensor.ndim - 2))
    if tensor.ndim > rank:  # a head stored as 1x1 kernel, or Caffe's batch norm stored as [1, C]
        is_vector = rank == 1 and max(tensor.shape) == tensor.numel()
        is_matrix = rank == 2 and tensor.shape[2:].numel() == 1  # noqa: PLR2004 -- out, in
        tensor = tensor.flatten() if is_vector else tensor.flatten(1) if is_matrix else tensor
    return tensor.contiguous()


def _fill_missing(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], notes: list[str]
) -> dict[str, Tensor]:
    """``state`` with the missing batch-norm factors, which are 1, and the batch counters."""
    missing = {
        key: torch.ones(tensor.shape) if tensor.is_floating_point() else torch.tensor(0)
        for key, tensor in expected.items()
        if key not in state
    }
    num_gammas = sum(tensor.is_floating_point() for tensor in missing.values())
    if num_gammas:
        notes.append(f"set {num_gammas} batch-norm factors to 1: the checkpoint has none")
    return {**state, **missing}


def _meta_model(spec: ModelSpec, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model on torch's meta device, which holds shapes but no weights."""
    with torch.device("meta"):
        model: nn.Module = registry.build(spec, num_classes, options)
    return model


def _head_keys(spec: ModelSpec, options: Mapping[str, Any]) -> list[str]:
    """Keys whose first axis is the class: those whose shape changes with the number of classes."""
    one, two = (_meta_model(spec, count, options).state_dict() for count in (1, 2))
    return [key for key, tensor in one.items() if tensor.shape != two[key].shape]


def _head_rows(state: Mapping[str, Tensor], head: Iterable[str]) -> int | None:
    """Number of classes of the checkpoint's head; None where it has no such head."""
    rows = {state[key].shape[0] for key in head if key in state and state[key].ndim}
    return rows.pop() if len(rows) == 1 else None


def _refuse_other_head(
    path: Path, spec: ModelSpec, fits: Iterable[Fit], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a checkpoint that differs in its head alone; the hint names the option to set."""
    for fit in fits:
        linear = [key for key in fit.unexpected if len(shapes[key]) == 2]  # noqa: PLR2004 -- out, in
        if not linear or not all(map(_HEAD.fullmatch, (*fit.missing, *fit.unexpected))):
            continue
        hidden = shapes[linear[0]][0] if len(linear) == 2 else "N"  # noqa: PLR2004 -- layers
        raise InputError(
            f"{path} fits {spec.name} but for its head: {listed(fit.unexpected)}; wanted "
            f"{listed(fit.missing)}",
            hint="wanted one linear layer, or two with a ReLU between and --option "
            f"head_hidden={hidden}",
        )


def _refuse_other_model(path: Path, spec: ModelSpec, shapes: Mapping[str, Any]) -> None:
    for other in registry.models().values():
        for family in other.families if other.name != spec.name else ():
            expected = _meta_model(other, other.num_classes, family.options).state_dict()
            key_map = keymaps.key_map(family.name, other.name)
            fit = fit_keys(family, key_map, family.options, shapes, expected)
            if not fit.num_mismatches:
                raise InputError(
                    f"{path} does not fit {spec.name}: its keys are those of {other.name}",
                    hint=f"use --model {other.name}",
                )


def _require_same_tensors(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> None:
    for key, tensor in expected.items():
        if tensor.is_floating_point() and not state[key].is_floating_point():
            raise InputError(
                f"{checkpoint.path}: tensor '{key}' is {type_name(state[key])}, wanted float32",
                hint="give the checkpoint with float weights",
            )
    mismatches = [
        f"{key} is {list(state[key].shape)}, wanted {list(tensor.shape)}"
        for key, tensor in expected.items()
        if state[key].shape != tensor.shape
    ]
    if mismatches:
        raise InputError(
            f"{checkpoint.path} does not fit {spec.name}: {len(mismatches)} of {len(expected)} "
            f"tensors have another shape ({listed(mismatches, '; ')})",
            hint=f"set the options it was trained with; {registry.option_hint(spec)}",
        )
