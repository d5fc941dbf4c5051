"""The state dict in a file that a training script saved, with notes on what was left aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_inception.errors import InputError, listed

IsTensor = Callable[[Any], bool]

# Keys under which plain PyTorch, timm, Lightning and MMEngine scripts save weights.
_WEIGHT_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model"),
    *("net", "network", "weights"),
)
_AVERAGE_KEYS = (
    *("state_dict_ema", "model_ema_state_dict", "ema_state_dict", "model_ema", "ema"),
    *("shadow", "module"),  # keys inside the value of one of the keys above
)
# Prefixes that DataParallel, Lightning, torch.compile and averaged copies add to every key.
_PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
_AVERAGE_PREFIXES = ("model_ema.", "ema_model.", "ema.")


def unwrap(path: Path, loaded: Any, is_tensor: IsTensor) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Tensors by name without wrappers' prefixes, and notes on what was unwrapped or left aside.

    Where a file has both the last weights and their moving average, the average is taken, since
    published accuracies are measured with averages (arXiv 1602.07261, section 4).

    Args:
        path: Checkpoint, for messages.
        loaded: Content of the file, such as a state dict or a dictionary around it.
        is_tensor: Whether a value is a tensor.

    Raises:
        InputError: The file holds no tensors by name, or has several entries that may be the
            weights.
    """
    state, notes = _open_weights(path, loaded, is_tensor)
    while True:
        state, note = _without_prefix(path, state)
        if not note:
            return state, tuple(notes)
        notes.append(note)


def _open_weights(path: Path, value: Any, is_tensor: IsTensor) -> tuple[dict[str, Any], list[str]]:
    """The state dict at any depth inside ``value``, and a note for each dictionary around it."""
    notes: list[str] = []
    while not (isinstance(value, Mapping) and value and all(map(is_tensor, value.values()))):
        keys = _weight_keys(value, is_tensor) if isinstance(value, Mapping) else []
        if not keys:
            raise _no_state_dict(path, value, is_tensor)
        chosen, note = _choose(path, keys, _AVERAGE_KEYS, "entries")
        others = [str(key) for key in value if key not in keys]
        notes.append(note + (f"; left aside: {listed(others)}" if others else ""))
        value = value[chosen]
    return {str(key): tensor for key, tensor in value.items()}, notes


def _weight_keys(value: Mapping[Any, Any], is_tensor: IsTensor) -> list[str]:
    """Known keys of ``value`` whose entries hold tensors, directly or under another known key."""
    return [
        key
        for key in (*_WEIGHT_KEYS, *_AVERAGE_KEYS)
        if isinstance(inner := value.get(key), Mapping)
        and (any(map(is_tensor, inner.values())) or _weight_keys(inner, is_tensor))
    ]


def _no_state_dict(path: Path, value: Any, is_tensor: IsTensor) -> InputError:
    if isinstance(value, Mapping) and value:
        others = [str(key) for key, item in value.items() if not is_tensor(item)]
        got = f"entries that are not tensors: {listed(others)}"
    else:
        got = f"a {type(value).__name__}" + (" without entries" if value == {} else "")
    return InputError(
        f"{path} holds {got}; wanted tensors by name", hint="save model.state_dict() alone"
    )


def _without_prefix(path: Path, state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state without a wrapper's prefix, and a note; the note is empty if there is no prefix."""
    known = (*_PREFIXES, *_AVERAGE_PREFIXES)
    prefixes = [prefix for prefix in known if any(key.startswith(prefix) for key in state)]
    if not prefixes:
        return dict(state), ""
    chosen, note = _choose(path, prefixes, _AVERAGE_PREFIXES, "prefixes")
    inner = {key[len(chosen) :]: tensor for key, tensor in state.items() if key.startswith(chosen)}
    others = [key for key in state if not key.startswith(tuple(prefixes))]
    if others:
        note += f"; left aside {len(others)} tensors outside it: {listed(others)}"
    return inner, note


def _choose(
    path: Path, names: Sequence[str], average_names: Sequence[str], kind: str
) -> tuple[str, str]:
    """The key or prefix to take the weights from (an average before others), and a note."""
    averages = [name for name in names if name in average_names]
    plain = [name for name in names if name not in average_names]
    for several in (averages, plain):
        if len(several) > 1:
            raise InputError(
                f"{path} has weights under several {kind}: {', '.join(map(repr, several))}",
                hint="save the one that is meant alone",
            )
    if averages and plain:
        note = f"took '{averages[0]}', the moving average of the weights, not '{plain[0]}'"
        return averages[0], note
    (only,) = averages or plain
    return only, f"unwrapped '{only}'"
