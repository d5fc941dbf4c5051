"""What the tables of all TF-slim networks share: the reading of names, the tensors of a unit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from edge_inception.checkpoints.keymaps._keymap import KeyMap, Layout, Reading, spelled

_SHADOW = "/ExponentialMovingAverage"
_TRAINING = re.compile(
    r".*/(Momentum|RMSProp(_1)?|Adam(_1)?|Adagrad|AdagradDA|Adadelta(_1)?|Ftrl(_1)?)"
    r"|global_step|beta[12]_power|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH"
)


def read(keys: Iterable[str]) -> Reading:
    """Names without ``:0``; optimizer slots are left out, moving averages replace variables."""
    names = {key.partition(":")[0]: key for key in keys}
    kept = {name: key for name, key in names.items() if not _TRAINING.fullmatch(name)}
    shadows = {name: key for name, key in kept.items() if name.endswith(_SHADOW)}
    raw = {name: key for name, key in kept.items() if name not in shadows}
    averaged = {name.removesuffix(_SHADOW): key for name, key in shadows.items()}
    notes = []
    if shadows:
        notes.append(f"took the moving average of {len(shadows)} variables, not their last value")
    if len(kept) < len(names):
        notes.append(f"left out {len(names) - len(kept)} variables of the optimizer")
    return Reading(keys=raw | averaged, notes=tuple(notes))


NORM = {
    "/BatchNorm/gamma": "weight",
    "/BatchNorm/beta": "bias",
    "/BatchNorm/moving_mean": "running_mean",
    "/BatchNorm/moving_variance": "running_var",
}
_CONV = {"/weights": ".conv.weight"} | {theirs: f".bn.{ours}" for theirs, ours in NORM.items()}
PLAIN = {"/weights": ".weight", "/biases": ".bias"}


def key_map(
    scope: str,
    convs: Mapping[str, str],
    plain: Mapping[str, str],
    tensors: Mapping[str, str] | None = None,
) -> KeyMap:
    """The key map of a network whose variables lie in ``scope``.

    All arguments map TF-slim's names to ours: ``convs`` those of convolutions with batch norm and
    no bias, ``plain`` those of layers with biases, ``tensors`` the whole names of other tensors.
    """
    inner = spelled(convs, _CONV) | spelled(plain, PLAIN)
    return KeyMap(
        names={f"{scope}/{theirs}": ours for theirs, ours in inner.items()} | dict(tensors or {}),
        read=read,
        layouts={
            "/depthwise_weights": Layout.DEPTHWISE,
            "/pointwise_weights": Layout.CHANNELS_LAST,
            "/weights": Layout.CHANNELS_LAST,
        },
        has_gamma=False,
    )


def auxiliary(first: str, second: str, name: str) -> dict[str, str]:
    return {f"AuxLogits/{first}": f"{name}.conv0", f"AuxLogits/{second}": f"{name}.conv1"}


REDUCTION_A = {
    "Branch_0/Conv2d_1a_3x3": "branch0",
    "Branch_1/Conv2d_0a_1x1": "branch1.0",
    "Branch_1/Conv2d_0b_3x3": "branch1.1",
    "Branch_1/Conv2d_1a_3x3": "branch1.2",
}
