"""What the key maps of all TF-slim networks share: names of tensors, layers and branches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from edge_inception.checkpoints.keymaps._keymap import (
    KeyMap,
    Layout,
    NormalizedKeys,
    expand_tensors,
)

_MOVING_AVERAGE = "/ExponentialMovingAverage"
_OPTIMIZER = re.compile(
    r".*/(Momentum|RMSProp(_1)?|Adam(_1)?|Adagrad|AdagradDA|Adadelta(_1)?|Ftrl(_1)?)"
    r"|global_step|beta[12]_power|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH"
)


def normalize_keys(keys: Iterable[str]) -> NormalizedKeys:
    """Names without ``:0``; optimizer slots are left out, moving averages replace variables."""
    names = {key.partition(":")[0]: key for key in keys}
    weights = {name: key for name, key in names.items() if not _OPTIMIZER.fullmatch(name)}
    averages = {
        name.removesuffix(_MOVING_AVERAGE): key
        for name, key in weights.items()
        if name.endswith(_MOVING_AVERAGE)
    }
    raw = {name: key for name, key in weights.items() if not name.endswith(_MOVING_AVERAGE)}
    notes = []
    if averages:
        notes.append(f"took the moving average of {len(averages)} variables, not their last value")
    if len(weights) < len(names):
        notes.append(f"left out {len(names) - len(weights)} variables of the optimizer")
    return NormalizedKeys(keys=raw | averages, notes=tuple(notes))


NORM_TENSORS = {
    "/BatchNorm/gamma": "weight",
    "/BatchNorm/beta": "bias",
    "/BatchNorm/moving_mean": "running_mean",
    "/BatchNorm/moving_variance": "running_var",
}
_CONV_TENSORS = {
    "/weights": ".conv.weight",
    **{name: f".bn.{ours}" for name, ours in NORM_TENSORS.items()},
}
BIASED_TENSORS = {"/weights": ".weight", "/biases": ".bias"}


def key_map(
    scope: str,
    convs: Mapping[str, str],
    biased: Mapping[str, str],
    tensors: Mapping[str, str] | None = None,
) -> KeyMap:
    """The key map of a network whose variables lie in ``scope``.

    All arguments map TF-slim's names to ours: ``convs`` those of convolutions with batch norm and
    no bias, ``biased`` those of layers with biases, ``tensors`` the whole names of other tensors.
    """
    names = expand_tensors(convs, _CONV_TENSORS) | expand_tensors(biased, BIASED_TENSORS)
    return KeyMap(
        names={f"{scope}/{name}": ours for name, ours in names.items()} | dict(tensors or {}),
        normalize=normalize_keys,
        layouts={
            "/depthwise_weights": Layout.DEPTHWISE,
            "/pointwise_weights": Layout.CHANNELS_LAST,
            "/weights": Layout.CHANNELS_LAST,
        },
        requires_gamma=False,
    )


def branches(*convs: str, first: int = 0) -> dict[str, str]:
    """TF-slim's name -> our name of each convolution in a block.

    Each of ``convs`` has TF-slim's names in one branch, in order and without ``Conv2d_``.
    ``branches("1x1", "0a_1x1 0b_3x3")`` maps ``Branch_0/Conv2d_1x1`` to ``branch0``, then
    ``Branch_1/Conv2d_0a_1x1`` and ``Branch_1/Conv2d_0b_3x3`` to ``branch1.0`` and ``branch1.1``.
    ``pool`` stands for a layer without weights. ``first`` is the number of our first branch.
    """
    return {
        f"Branch_{branch}/Conv2d_{name}": f"branch{branch + first}" + f".{index}" * (" " in chain)
        for branch, chain in enumerate(convs)
        for index, name in enumerate(chain.split())
        if name != "pool"
    }


def auxiliary_convs(conv1x1: str, conv5x5: str, head: str) -> dict[str, str]:
    """TF-slim's names of an auxiliary head's two convolutions -> ours in the module ``head``."""
    return {f"AuxLogits/{conv1x1}": f"{head}.conv0", f"AuxLogits/{conv5x5}": f"{head}.conv1"}


REDUCTION_A = branches("1a_3x3", "0a_1x1 0b_3x3 1a_3x3")
