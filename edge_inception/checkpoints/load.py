"""A checkpoint file -> a model with exactly its weights, or an error that names what does not fit.

Whose checkpoint it is decides the model's options, the preprocessing and the names of the tensors:
see ``checkpoint_family.py``.
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
from edge_inception.checkpoints.family import AUTO, Evidence, Fit, candidates, choose, fit
from edge_inception.checkpoints.keymaps._keymap import Layout
from edge_inception.checkpoints.read import Checkpoint, read_checkpoint, type_name
from edge_inception.errors import InputError, listed
from edge_inception.spec import ModelSpec, Preprocess

_LOG = logging.getLogger(__name__)
_HEAD = re.compile(r"(?:fc|head|classifier|last_linear|classif|logits)\.(?:.+\.)?(?:weight|bias)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model with a checkpoint's weights, and what was decided on the way.

    ``family`` names who published such a checkpoint; ``options`` are the family's with the asked
    ones on top, ``preprocess`` is the family's. ``notes`` say in words what was chosen, unwrapped
    or left out; ``classes`` and ``stored`` are the checkpoint's.
    """

    model: nn.Module
    family: str
    options: Mapping[str, Any]
    preprocess: Preprocess
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    stored: Mapping[str, int]


def load_model(
    name: str,
    checkpoint: Path,
    *,
    checkpoint_format: str = AUTO,
    num_classes: int | None = None,
    **options: Any,
) -> nn.Module:
    """The model called ``name`` with the weights of ``checkpoint``, float32, in eval mode.

    Args:
        name: A name in ``registry.models()``.
        checkpoint: safetensors, a file of ``torch.save``, or an npz dump of TensorFlow's or Keras's
            variables.
        checkpoint_format: Its family, see ``load``.
        num_classes: Rows the head must have; None takes what the checkpoint has.
        **options: Of the model's builder, such as ``width``.

    Raises:
        InputError: Unknown model or option, unreadable file, a pickle with code, NaN or infinite
            weights, or any key that is missing, unexpected or of another shape.
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
) -> Loaded:
    """The model called ``name`` with the weights of ``path``, and how it came about.

    Args:
        name: A name in ``registry.models()``.
        path: Checkpoint file.
        family: A name in ``ModelSpec.families``, ``native`` for our own names, or ``auto`` to
            recognise it.
        num_classes: Rows the head must have; None takes what the checkpoint has, less the row for
            background where the family's ImageNet heads have one.
        options: Of the model's builder, on top of the family's.

    Raises:
        InputError: As ``load_model``, and a family that is unknown or cannot be told.
    """
    spec = registry.model(name)
    families = candidates(spec, family)
    asked = registry.options(spec, options or {})
    checkpoint = read_checkpoint(path)
    shapes = {key: tuple(tensor.shape) for key, tensor in checkpoint.state.items()}
    evidence = Evidence(
        sha256=checkpoint.sha256, shapes=shapes, is_trained_here=bool(checkpoint.classes)
    )
    fits = []
    for item in families:
        chosen = {**item.options, **asked}
        expected = _skeleton(spec, spec.num_classes, chosen).state_dict()
        fits.append(fit(item, keymaps.key_map(item.name, name), chosen, shapes, expected))
    if all(item.num_wrong for item in fits):
        _refuse_other_head(path, spec, fits, shapes)
        _refuse_other_model(path, spec, shapes)
    found, how = choose(path, spec, fits, evidence)
    notes = [*checkpoint.notes, how, *found.notes]
    model = _filled(spec, checkpoint, found, num_classes, notes)
    for note in notes:
        _LOG.info("%s: %s", path, note)
    return Loaded(
        model=model.eval(),
        family=found.family.name,
        options=found.options,
        preprocess=found.family.preprocess,
        notes=tuple(notes),
        classes=checkpoint.classes,
        stored=checkpoint.stored,
    )


def num_classes_of(model: nn.Module) -> int:
    """Rows of the last linear layer."""
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return heads[-1].out_features


def _filled(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    found: Fit,
    num_classes: int | None,
    notes: list[str],
) -> nn.Module:
    """The model with the tensors of ``found``; adds to ``notes`` what was left out or made up."""
    ranks = {key: t.ndim for key, t in _skeleton(spec, 1, found.options).state_dict().items()}
    state = {
        ours: _travelling_module(checkpoint.state[key], found.key_map.layout(name), ranks[ours])
        for ours, (name, key) in found.found.items()
    }
    head = _head_keys(spec, found.options)
    dropped = found.family.num_background
    rows = _head_rows(state, head)
    if dropped and rows == spec.num_classes + dropped and num_classes != rows:
        state |= {key: state[key][dropped:] for key in head}
        rows = spec.num_classes
        notes.append("dropped row 0 of the head, which is the background")
    if found.left_out:
        names = sorted({key.partition(".")[0] for key in found.left_out})
        notes.append(f"left out {len(found.left_out)} tensors of heads: {', '.join(names)}")
    model = _skeleton(spec, num_classes or rows or spec.num_classes, found.options)
    expected = model.state_dict()
    if num_classes is not None and rows not in {None, num_classes}:
        raise InputError(
            f"{checkpoint.path} has a head of {rows} classes, wanted {num_classes}",
            hint=f"use --num-classes {rows}, or leave it out",
        )
    state = _completed(state, expected, notes)
    _require_same_tensors(spec, checkpoint, state, expected)
    model.load_state_dict(state, strict=True, assign=True)
    return model


def _travelling_module(tensor: Tensor, layout: Layout, rank: int) -> Tensor:
    """The tensor in our order of axes and, where only axes of length 1 are in the way, our rank."""
    if layout is Layout.DEPTHWISE and tensor.ndim == 4:  # noqa: PLR2004 -- a kernel
        rows, columns, channels, multiplier = tensor.shape
        kernels = tensor.permute(2, 3, 0, 1)
        return kernels.reshape(channels * multiplier, 1, rows, columns).contiguous()
    if layout is Layout.CHANNELS_LAST and tensor.ndim > 1:
        tensor = tensor.permute(tensor.ndim - 1, tensor.ndim - 2, *range(tensor.ndim - 2))
    if tensor.ndim > rank:  # a head stored as a 1x1 kernel, Caffe's batch norms of [1, C]
        is_vector = rank == 1 and max(tensor.shape) == tensor.numel()
        is_matrix = rank == 2 and tensor.shape[2:].numel() == 1  # noqa: PLR2004 -- out, in
        tensor = tensor.flatten() if is_vector else tensor.flatten(1) if is_matrix else tensor
    return tensor.contiguous()


def _completed(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], notes: list[str]
) -> dict[str, Tensor]:
    """State with what files may lack: batch counters, which inference ignores, and factors of 1."""
    missing = [key for key in expected if key not in state]
    factors = [key for key in missing if expected[key].is_floating_point()]
    if factors:
        notes.append(f"set {len(factors)} batch-norm factors to 1: stored without them")
    made = {
        key: torch.ones(expected[key].shape) if key in factors else torch.tensor(0)
        for key in missing
    }
    return {**state, **made}


def _skeleton(spec: ModelSpec, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model without memory for its weights."""
    with torch.device("meta"):
        model: nn.Module = registry.build(spec, num_classes, options)
    return model


def _head_keys(spec: ModelSpec, options: Mapping[str, Any]) -> list[str]:
    """Keys whose first axis is the class: those that change shape with ``num_classes``."""
    one, two = (_skeleton(spec, count, options).state_dict() for count in (1, 2))
    return [key for key, tensor in one.items() if tensor.shape != two[key].shape]


def _head_rows(state: Mapping[str, Tensor], head: Iterable[str]) -> int | None:
    """Classes of the checkpoint; None when it has no such head."""
    rows = {state[key].shape[0] for key in head if key in state and state[key].ndim}
    return rows.pop() if len(rows) == 1 else None


def _refuse_other_head(
    path: Path, spec: ModelSpec, fits: Iterable[Fit], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Only the head differs: name the options that declare one of two layers."""
    for item in fits:
        wrong = (*item.missing, *item.unexpected)
        linear = [key for key in item.unexpected if len(shapes[key]) == 2]  # noqa: PLR2004 -- out, in
        if not item.unexpected or not linear or not all(map(_HEAD.fullmatch, wrong)):
            continue
        hidden = shapes[linear[0]][0] if len(linear) == 2 else "N"  # noqa: PLR2004 -- layers
        raise InputError(
            f"{path} fits {spec.name} but for its head: {listed(item.unexpected)}; wanted "
            f"{listed(item.missing)}",
            hint="wanted one linear layer, or two with a ReLU between and --option "
            f"head_hidden={hidden}",
        )


def _refuse_other_model(path: Path, spec: ModelSpec, shapes: Mapping[str, Any]) -> None:
    for other in registry.models().values():
        for family in other.families if other.name != spec.name else ():
            expected = _skeleton(other, other.num_classes, family.options).state_dict()
            key_map = keymaps.key_map(family.name, other.name)
            if not fit(family, key_map, family.options, shapes, expected).num_wrong:
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
                hint="publish the float weights",
            )
    wrong = [key for key, tensor in expected.items() if state[key].shape != tensor.shape]
    if not wrong:
        return
    shapes = [
        f"{key} is {list(state[key].shape)}, wanted {list(expected[key].shape)}" for key in wrong
    ]
    raise InputError(
        f"{checkpoint.path} does not fit {spec.name}: {len(wrong)} of {len(expected)} tensors have "
        f"another shape ({listed(shapes, '; ')})",
        hint=f"set the options it was trained with; {registry.option_hint(spec)}",
    )
