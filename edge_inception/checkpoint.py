"""A checkpoint file -> a model with exactly its weights, or an error that names what does not fit.

Reading never runs code from the file: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edge_inception import registry
from edge_inception.artifact import file_sha256
from edge_inception.errors import InputError
from edge_inception.spec import ModelSpec, Preprocess

_LOG = logging.getLogger(__name__)
_NAMED = 3  # names listed in an error before "and N more"
_COUNTER_SUFFIX = ".num_batches_tracked"
_FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
_REFUSED = "unsupported"  # what torch's safe unpickler says of anything but tensors
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
    b"\x89HDF": "an HDF5 file (Keras); only PyTorch checkpoints are read",
    b"<": "a web page or XML, not weights; download it again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint as read: tensors by name, all float ones float32 and finite.

    ``stored`` counts float tensors by the type they had in the file, such as ``{"float16": 447}``.
    ``classes`` are the class names its metadata carries, empty when it has none.
    """

    path: Path
    sha256: str
    state: Mapping[str, Tensor]
    stored: Mapping[str, int]
    classes: tuple[str, ...] = ()


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
    name: str, checkpoint: Path, *, num_classes: int | None = None, **options: Any
) -> nn.Module:
    """The model called ``name`` with the weights of ``checkpoint``, float32, in eval mode.

    Args:
        name: A name in ``registry.models()``.
        checkpoint: safetensors file, or one written by ``torch.save(model.state_dict(), ...)``.
        num_classes: Rows the head must have; None takes what the checkpoint has.
        **options: Of the model's builder, such as ``width``.

    Raises:
        InputError: Unknown model or option, unreadable file, a pickle with code, NaN or infinite
            weights, or any key that is missing, unexpected or of another shape.
    """
    return load(name, checkpoint, num_classes=num_classes, options=options).model


def read_checkpoint(path: Path) -> Checkpoint:
    """Tensors and metadata of a checkpoint file.

    Raises:
        InputError: Missing, truncated, of another format, a pickle with code, not a flat mapping
            of names to tensors, or a value that is NaN or infinite.
    """
    sha256 = file_sha256(path)
    with path.open("rb") as stream:
        head = stream.read(64)
    if head[8:9] == b"{":
        raw, metadata = _read_safetensors(path)
    elif head.startswith((_ZIP, _PICKLE)):
        raw, metadata = _read_torch(path), {}
    else:
        raise _not_a_checkpoint(path, head)
    stored = Counter(_type_name(tensor) for tensor in raw.values() if tensor.is_floating_point())
    state = {key: _as_float32(path, key, tensor) for key, tensor in raw.items()}
    converted = {kind: count for kind, count in stored.items() if kind != "float32"}
    if converted:
        _LOG.info("%s: converted to float32: %s", path, _counted(converted))
    return Checkpoint(
        path=path, sha256=sha256, state=state, stored=stored, classes=_classes(path, metadata)
    )


def load(
    name: str,
    path: Path,
    *,
    family: str = "auto",
    num_classes: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Loaded:
    """The model called ``name`` with the weights of ``path``, and how it came about.

    Args:
        name: A name in ``registry.models()``.
        path: Checkpoint file.
        family: A name in ``ModelSpec.families``, or ``auto`` to recognise it by its keys.
        num_classes: Rows the head must have; None takes what the checkpoint has.
        options: Of the model's builder, on top of the family's.

    Raises:
        InputError: As ``load_model``, and a family that is unknown or cannot be told.
    """
    spec = registry.model(name)
    checkpoint = read_checkpoint(path)
    chosen = _checked_options(spec, options or {})
    head = _head_keys(spec, chosen)
    found = _head_rows(checkpoint.state, head)
    wanted = num_classes or found or spec.num_classes
    model = _skeleton(spec, wanted, chosen)
    expected = model.state_dict()
    state = _with_counters(checkpoint.state, expected)
    _require_same_keys(spec, checkpoint, state, expected)
    if num_classes is not None and found not in {None, num_classes}:
        raise InputError(
            f"{checkpoint.path} has a head of {found} classes, wanted {num_classes}",
            hint=f"use --num-classes {found}, or leave it out",
        )
    _require_same_tensors(spec, checkpoint, state, expected)
    model.load_state_dict(state, strict=True, assign=True)
    return Loaded(
        model=model.eval(),
        family=family,
        options=chosen,
        preprocess=spec.preprocess,
        notes=(),
        classes=checkpoint.classes,
        stored=checkpoint.stored,
    )


def num_classes_of(model: nn.Module) -> int:
    """Rows of the last linear layer."""
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return heads[-1].out_features


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 -- no iterator
            return tensors, dict(stream.metadata() or {})
    except SafetensorError as error:
        raise InputError(
            f"{path} is truncated or damaged: {error}", hint="copy or download it again"
        ) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # torch warns that other pickle protocols may fail; if they do, that is an error below
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise anything
        if isinstance(error, pickle.UnpicklingError) and _REFUSED in str(error).lower():
            raise InputError(
                f"{path} is a pickle with more than tensors in it and is not opened: "
                f"{_first_line(error, _REFUSED)}",
                hint="convert it to safetensors where you trust it: safetensors.torch.save_file",
            ) from error
        raise InputError(
            f"{path} is truncated or not a torch.save file: {_first_line(error)}",
            hint="copy or download it again; a TorchScript archive holds no state dict",
        ) from error
    return _state_of(path, loaded)


def _state_of(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The flat state dict in what ``torch.load`` returned; other layouts are unwrapped here."""
    if isinstance(loaded, Mapping) and loaded:
        strangers = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
        if not strangers:
            return {str(key): value for key, value in loaded.items()}
        got = f"entries that are not tensors: {_some(map(str, strangers))}"
    else:
        got = f"a {type(loaded).__name__}" + (" without entries" if not loaded else "")
    raise InputError(
        f"{path} holds {got}; wanted tensors by name", hint="save model.state_dict() alone"
    )


def _not_a_checkpoint(path: Path, head: bytes) -> InputError:
    for magic, what in _FOREIGN.items():
        if head.lstrip().startswith(magic):
            return InputError(f"{path} is not a checkpoint", hint=f"it is {what}")
    got = f"starts with {head[:8]!r}" if head else "is empty (0 bytes)"
    return InputError(
        f"{path} is not a checkpoint: it {got}",
        hint="wanted safetensors, or a file of torch.save(model.state_dict())",
    )


def _as_float32(path: Path, key: str, tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise InputError(
            f"{path}: tensor '{key}' is sparse or quantized, wanted dense float",
            hint="publish the float weights",
        )
    if not tensor.is_floating_point():
        return tensor.clone()
    if tensor.dtype not in _FLOATS:
        raise InputError(
            f"{path}: tensor '{key}' is {_type_name(tensor)}, wanted float32, float16 or bfloat16",
            hint="publish the float weights",
        )
    # copied: memory mapped from a file has the alignment of the file, which changes kernels' sums
    values = tensor.to(torch.float32, copy=True)
    num_bad = int(values.numel() - torch.isfinite(values).sum())
    if num_bad:
        raise InputError(
            f"{path}: tensor '{key}' has {num_bad} of {values.numel()} values NaN, infinite or "
            f"beyond float32",
            hint="the training diverged or the file is damaged; use another checkpoint",
        )
    return values


def _classes(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Class names that ``edge-inception train`` writes into the metadata."""
    if "classes" not in metadata:
        return ()
    try:
        names = json.loads(metadata["classes"])
    except ValueError:
        names = None
    if not isinstance(names, list):
        _LOG.warning("%s: metadata 'classes' is not a JSON list and is not used", path)
        return ()
    return tuple(str(name) for name in names)


def _checked_options(spec: ModelSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in options.items():
        if key not in spec.options:
            raise registry.unknown(f"option of {spec.name}", key, spec.options)
        default = spec.options[key]
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise InputError(
                f"option {key} of {spec.name} is {value!r}, wanted a {type(default).__name__}",
                hint=f"the default is {default!r}",
            )
    return dict(options)


def _skeleton(spec: ModelSpec, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model without memory for its weights."""
    try:
        with torch.device("meta"):
            model: nn.Module = spec.build(num_classes=num_classes, **options)
    except ValueError as error:
        raise InputError(
            f"cannot build {spec.name} with {dict(options)}: {error}", hint="check model options"
        ) from error
    return model


def _head_keys(spec: ModelSpec, options: Mapping[str, Any]) -> list[str]:
    """Keys whose first axis is the class: those that change shape with ``num_classes``."""
    one, two = (_skeleton(spec, count, options).state_dict() for count in (1, 2))
    return [key for key, tensor in one.items() if tensor.shape != two[key].shape]


def _head_rows(state: Mapping[str, Tensor], head: Iterable[str]) -> int | None:
    """Classes of the checkpoint; None when it has no such head."""
    rows = {state[key].shape[0] for key in head if key in state and state[key].ndim}
    return rows.pop() if len(rows) == 1 else None


def _with_counters(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """State with the batch counters that old checkpoints lack; inference ignores them."""
    missing = (key for key in expected if key.endswith(_COUNTER_SUFFIX) and key not in state)
    return {**state, **{key: torch.tensor(0, dtype=torch.long) for key in missing}}


def _require_same_keys(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> None:
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    if not missing and not extra:
        return
    parts = (
        [f"{len(missing)} of {len(expected)} keys missing ({_some(missing)})"] if missing else []
    )
    if extra:
        parts.append(f"{len(extra)} unexpected ({_some(extra)})")
    raise InputError(
        f"{checkpoint.path} does not fit {spec.name}: {'; '.join(parts)}",
        hint=_which_model(spec, checkpoint.state),
    )


def _which_model(spec: ModelSpec, state: Mapping[str, Tensor]) -> str:
    for other in registry.models().values():
        keys = _skeleton(other, other.num_classes, {}).state_dict().keys()
        if other.name != spec.name and keys - state.keys() == set():
            return f"its keys are those of '{other.name}'; use --model {other.name}"
    return f"wanted timm's keys of {spec.name}, and {_options_hint(spec)}"


def _options_hint(spec: ModelSpec) -> str:
    options = ", ".join(f"{key} (default {value})" for key, value in spec.options.items())
    return f"the model options it was trained with: {options}"


def _require_same_tensors(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> None:
    for key, tensor in expected.items():
        if tensor.is_floating_point() and not state[key].is_floating_point():
            raise InputError(
                f"{checkpoint.path}: tensor '{key}' is {_type_name(state[key])}, wanted float32",
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
        f"another shape ({_some(shapes, '; ')})",
        hint=f"set {_options_hint(spec)}",
    )


def _some(names: Iterable[str], separator: str = ", ") -> str:
    listed = list(names)
    more = f"{separator}and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return separator.join(listed[:_NAMED]) + more


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} tensors of {kind}" for kind, count in sorted(counts.items()))


def _type_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first_line(error: Exception, marker: str = "") -> str:
    """The line of a vendor message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    chosen = next((line for line in lines if marker in line.lower()), "") if marker else ""
    return (chosen or (lines[0] if lines else type(error).__name__))[:200]
