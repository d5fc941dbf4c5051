"""Reader of checkpoint files: tensors by name, where all floats are float32 and finite.

Reading never runs code from the file. The formats are safetensors, files of ``torch.save``, read
with ``weights_only=True``, and npz without pickles.
"""

from __future__ import annotations

import json
import logging
import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edge_inception.artifact import file_sha256
from edge_inception.checkpoints.unwrap import unwrap
from edge_inception.errors import InputError

_LOG = logging.getLogger(__name__)
_FLOAT_TYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
_UNPICKLER_REFUSAL = "unsupported"  # in torch's error about objects that are not tensors
_ZIP_MAGIC, _PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
_DUMP_HINT = "dump it to npz as edge_inception/checkpoints/keymaps/"
# First bytes of files that people pass by mistake -> (kind of file, hint).
_OTHER_FORMATS = {
    b"version https://git-lfs": ("a Git LFS pointer", "run `git lfs pull`"),
    b"\x89HDF": ("an HDF5 file of Keras", f"{_DUMP_HINT}keras.py says"),
    b"<": ("a web page or XML", "download it again"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Tensors of a checkpoint by name, where all floats are float32 and finite.

    ``stored_types`` counts float tensors by type in the file, such as ``{"float16": 447}``.
    ``classes`` are the class names in the file's metadata, empty without them. ``notes`` are
    sentences on what was unwrapped or left aside.
    """

    path: Path
    sha256: str
    state: Mapping[str, Tensor]
    stored_types: Mapping[str, int]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Checkpoint:
    """Tensors and metadata of a checkpoint file.

    Raises:
        InputError: The file is missing, truncated, of another format or a pickle with code; it
            holds no tensors by name or several sets of them; or a value is NaN or infinite.
    """
    sha256 = file_sha256(path)
    with path.open("rb") as stream:
        head = stream.read(64)
    metadata: dict[str, str] = {}
    if head[8:9] == b"{":
        loaded, metadata = _read_safetensors(path)
    elif head.startswith(_ZIP_MAGIC) and _is_npz(path):
        loaded = _read_npz(path)
    elif head.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
        loaded = _read_torch(path)
    else:
        raise _not_a_checkpoint(path, head)
    raw, notes = unwrap(path, loaded, lambda value: isinstance(value, Tensor))
    stored = Counter(type_name(tensor) for tensor in raw.values() if tensor.is_floating_point())
    converted = [
        f"{n} tensors of {name}" for name, n in sorted(stored.items()) if name != "float32"
    ]
    if converted:
        notes = (*notes, f"converted to float32: {', '.join(converted)}")
    return Checkpoint(
        path=path,
        sha256=sha256,
        state={key: _to_float32(path, key, tensor) for key, tensor in raw.items()},
        stored_types=stored,
        classes=_class_names(path, metadata),
        notes=notes,
    )


def type_name(tensor: Tensor) -> str:
    """Name of the tensor's element type, such as ``float16``."""
    return str(tensor.dtype).removeprefix("torch.")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 -- no iterator
            return tensors, dict(stream.metadata() or {})
    except SafetensorError as error:
        raise InputError(
            f"{path} is truncated or damaged: {error}", hint="copy or download it again"
        ) from error


def _is_npz(path: Path) -> bool:
    """Whether a zip file holds numpy arrays and nothing else, unlike one of torch.save.

    Raises:
        InputError: The file is a .keras archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return path.suffix == ".npz"  # the reader of npz files raises the error
    if "model.weights.h5" in names:
        raise InputError(
            f"{path} is not a checkpoint but a .keras file", hint=f"{_DUMP_HINT}keras.py says"
        )
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(path: Path) -> dict[str, Tensor]:
    key = ""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            tensors = {}
            for key in arrays.files:
                tensors[key] = torch.from_numpy(np.array(arrays[key]))
            return tensors
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(
            f"{path} is truncated or damaged: {_first_line(error)}",
            hint="copy it or dump it again",
        ) from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: array '{key}' is not one of numbers: {_first_line(error)}",
            hint="dump float arrays only; arrays of Python objects are never opened",
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns that other pickle protocols may fail; a failure is caught below.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise anything
        if isinstance(error, pickle.UnpicklingError) and _UNPICKLER_REFUSAL in str(error).lower():
            raise InputError(
                f"{path} is a pickle with more than tensors in it and is not opened: "
                f"{_first_line(error, _UNPICKLER_REFUSAL)}",
                hint="convert it to safetensors where you trust it: safetensors.torch.save_file",
            ) from error
        raise InputError(
            f"{path} is truncated or not a torch.save file: {_first_line(error)}",
            hint="copy or download it again; a TorchScript archive holds no state dict",
        ) from error


def _not_a_checkpoint(path: Path, head: bytes) -> InputError:
    for magic, (kind, hint) in _OTHER_FORMATS.items():
        if head.lstrip().startswith(magic):
            return InputError(f"{path} is not a checkpoint but {kind}", hint=hint)
    got = f"starts with {head[:8]!r}" if head else "is empty (0 bytes)"
    return InputError(
        f"{path} is not a checkpoint: it {got}",
        hint=f"wanted safetensors, torch.save or npz; of TensorFlow, {_DUMP_HINT}slim.py says",
    )


def _to_float32(path: Path, key: str, tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise InputError(
            f"{path}: tensor '{key}' is sparse or quantized, wanted dense float",
            hint="give the checkpoint with float weights",
        )
    if not tensor.is_floating_point():
        return tensor.clone()
    if tensor.dtype not in _FLOAT_TYPES:
        raise InputError(
            f"{path}: tensor '{key}' is {type_name(tensor)}, wanted float32, float16 or bfloat16",
            hint="give the checkpoint with float weights",
        )
    # A copy, since kernels sum differently where memory mapped from a file is aligned differently.
    values = tensor.to(torch.float32, copy=True)
    num_bad = int(values.numel() - torch.isfinite(values).sum())
    if num_bad:
        raise InputError(
            f"{path}: tensor '{key}' has {num_bad} of {values.numel()} values NaN, infinite or "
            f"beyond float32",
            hint="the training diverged or the file is damaged; use another checkpoint",
        )
    return values


def _class_names(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
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


def _first_line(error: Exception, marker: str = "") -> str:
    """First sentence of the first line of a vendor's message, or of its line with ``marker``."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [line for line in lines if marker in line.lower()]
    return (marked or lines or [type(error).__name__])[0].partition(". ")[0][:200]
