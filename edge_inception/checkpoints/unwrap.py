"""The state dict in a file that a training script saved, with notes on what was left aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_inception.errors import InputError, listed

IsTensor = Callable[[Any], bool]

# Keys under which plain PyTorch, timm, Lightning and MMEngine scripts save weights.
_SLOTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
_AVERAGED_SLOTS = (
    *("state_dict_ema", "model_ema_state_dict", "ema_state_dict", "model_ema", "ema"),
    *("shadow", "module"),  # keys inside the value of one of the keys above
)
# Prefixes that DataParallel, Lightning, torch.compile and averaged copies add to every key.
_PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
_AVERAGED_PREFIXES = ("model_ema.", "ema_model.", "ema.")


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
    state, notes = _open_slots(path, loaded, is_tensor)
    while True:
        inner, note = _without_prefix(path, state)
        if not note:
            return inner, tuple(notes)
        state = inner
        notes.append(note)


def _open_slots(path: Path, value: Any, is_tensor: IsTensor) -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    while not _is_state(value, is_tensor):
        slots = _slots(value, is_tensor) if isinstance(value, Mapping) else []
        if not slots:
            raise _no_state(path, value, is_tensor)
        chosen, note = _chosen(path, slots, _AVERAGED_SLOTS, "entries")
        aside = [str(key) for key in value if key not in slots]
        notes.append(note + (f"; left aside: {listed(aside)}" if aside else ""))
        value = value[chosen]
    return {str(key): tensor for key, tensor in value.items()}, notes


def _is_state(value: Any, is_tensor: IsTensor) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(is_tensor, value.values()))


def _slots(value: Mapping[Any, Any], is_tensor: IsTensor) -> list[str]:
    """Known keys of ``value`` whose entries hold tensors, directly or under another known key."""
    return [
        key
        for key in (*_SLOTS, *_AVERAGED_SLOTS)
        if isinstance(inner := value.get(key), Mapping)
        and (any(map(is_tensor, inner.values())) or _slots(inner, is_tensor))
    ]


def _no_state(path: Path, value: Any, is_tensor: IsTensor) -> InputError:
    if isinstance(value, Mapping) and value:
        strangers = [str(key) for key, item in value.items() if not is_tensor(item)]
        got = f"entries that are not tensors: {listed(strangers)}"
    else:
        got = f"a {type(value).__name__}" + (" without entries" if value == {} else "")
    return InputError(
        f"{path} holds {got}; wanted tensors by name", hint="save model.state_dict() alone"
    )


def _without_prefix(path: Path, state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state without a wrapper's prefix, and a note; the note is empty if there is no prefix."""
    known = (*_PREFIXES, *_AVERAGED_PREFIXES)
    prefixes = [prefix for prefix in known if any(key.startswith(prefix) for key in state)]
    if not prefixes:
        return dict(state), ""
    chosen, note = _chosen(path, prefixes, _AVERAGED_PREFIXES, "prefixes")
    inner = {key[len(chosen) :]: tensor for key, tensor in state.items() if key.startswith(chosen)}
    aside = [key for key in state if not key.startswith(tuple(prefixes))]
    if aside:
        note += f"; left aside {len(aside)} tensors outside it: {listed(aside)}"
    return inner, note


def _chosen(
    path: Path, places: Sequence[str], averaged: Sequence[str], what: str
) -> tuple[str, str]:
    """The key or prefix to take the weights from (an average before others), and a note."""
    averages = [name for name in places if name in averaged]
    plain = [name for name in places if name not in averaged]
    for several in (averages, plain):
        if len(several) > 1:
            names = ", ".join(f"'{name}'" for name in several)
            raise InputError(
                f"{path} has weights under several {what}: {names}",
                hint="save the one that is meant alone",
            )
    if averages and plain:
        note = f"took '{averages[0]}', the moving average of the weights, not '{plain[0]}'"
        return averages[0], note
    (only,) = averages or plain
    return only, f"unwrapped '{only}'"
