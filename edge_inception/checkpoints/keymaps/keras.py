"""Names that keras.applications gives the tensors of InceptionV3 and InceptionResNetV2.

Keras numbers layers in the order in which they are made. Files of Keras 2 have ``conv2d_1``,
``conv2d_2``, ...; Keras 3 goes on from the session's last number: ``conv2d``, ``conv2d_1``, ... or
``conv2d_94``, ... The tables below are in the order of these numbers, which is not that of
``model.layers``. Dump the weights as npz (before Keras 3 with ``variable.name``, not ``.path``)::

    weights = {variable.path: variable.numpy() for variable in model.weights}
    numpy.savez("weights.npz", **weights)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from edge_inception.checkpoints.keymaps._keymap import KeyMap, Layout, Reading, spelled

_NUMBERED = {
    "conv2d": re.compile(r"conv2d(?:_(\d+))?"),
    "batch_normalization": re.compile(
        r"(?:batch_normalization|conv2d(?=(?:_\d+)?_bn))(?:_(\d+))?(?:_bn)?"
    ),
}


def read(keys: Iterable[str]) -> Reading:
    """Table names of ``keys``: ``layer/variable``, where an auto-numbered layer is ``conv2d:0``.

    The number after the colon is a rank from 0. ``conv2d_3/conv2d_3/kernel:0`` of an H5 file counts
    as ``conv2d_3/kernel``. Where two keys would get the same name, the longer key keeps its own
    name; since no table contains it, the key is then reported as unexpected.
    """
    short: dict[str, str] = {}
    others: dict[str, str] = {}
    for key in sorted(keys, key=len):
        name = "/".join(key.partition(":")[0].split("/")[-2:])
        if name in short:
            others[key] = key
        else:
            short[name] = key
    layers = {name.partition("/")[0] for name in short}
    ranks = {kind: _ranked(kind, layers) for kind in _NUMBERED}
    named = {name: layer for rank in ranks.values() for name, layer in rank.items()}
    renamed = {}
    for name, key in short.items():
        layer, _, variable = name.partition("/")
        renamed[f"{named.get(layer, layer)}/{variable}"] = key
    return Reading(keys=renamed | others)


def _ranked(kind: str, layers: Iterable[str]) -> dict[str, str]:
    """Name of each auto-numbered layer of a kind -> ``kind:0``, ``kind:1``, ... by its number."""
    found = [(int(m[1] or 0), m[0]) for m in map(_NUMBERED[kind].fullmatch, layers) if m]
    return {layer: f"{kind}:{rank}" for rank, (_, layer) in enumerate(sorted(found))}


def _table(
    numbered: Iterable[str], named: Mapping[str, str], plain: Mapping[str, str]
) -> dict[str, str]:
    """Keras's name of each tensor -> ours.

    ``numbered`` are our names of the convolutions that Keras numbers, in the order of the numbers.
    ``named`` maps Keras's names of other convolutions to ours, ``plain`` those of the layers
    without batch norm.
    """
    convs = {f"conv2d:{rank}": unit for rank, unit in enumerate(numbered)}
    norms = {f"batch_normalization:{rank}": unit for rank, unit in enumerate(convs.values())}
    norms |= {f"{theirs}_bn": ours for theirs, ours in named.items()}
    return (
        spelled(convs | dict(named), {"/kernel": ".conv.weight"})
        | spelled(norms, _NORM)
        | spelled(plain, {"/kernel": ".weight", "/bias": ".bias"})
    )


_NORM = {
    "/gamma": ".bn.weight",
    "/beta": ".bn.bias",
    "/moving_mean": ".bn.running_mean",
    "/moving_variance": ".bn.running_var",
}


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}_{number}" for number in range(1, count + 1))


def _inside(blocks: Iterable[str], units: Iterable[str]) -> list[str]:
    inner = tuple(units)
    return [f"{block}.{unit}" for block in blocks for unit in inner]


_V3_A = ("branch1x1", *_numbered("branch5x5", 2), *_numbered("branch3x3dbl", 3), "branch_pool")
_V3_C = ("branch1x1", *_numbered("branch7x7", 3), *_numbered("branch7x7dbl", 5), "branch_pool")
_V3_E = (
    *("branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
    *("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"),
)
_V3 = [
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    *_inside(("Mixed_5b", "Mixed_5c", "Mixed_5d"), _V3_A),
    *_inside(("Mixed_6a",), ("branch3x3", *_numbered("branch3x3dbl", 3))),
    *_inside(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _V3_C),
    *_inside(("Mixed_7a",), (*_numbered("branch3x3", 2), *_numbered("branch7x7x3", 4))),
    *_inside(("Mixed_7b", "Mixed_7c"), _V3_E),
]

_BLOCKS = {"repeat": 10, "repeat_1": 20, "repeat_2": 9}


def _blocks(name: str) -> list[str]:
    return [f"{name}.{index}" for index in range(_BLOCKS[name])]


_ROW = ("branch0", "branch1.0", "branch1.1", "branch1.2")
_WIDE = ("branch0", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch2.2")
_RESNET_V2 = [
    *("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a"),
    *_inside(("mixed_5b",), (*_WIDE, "branch3.1")),
    *_inside(_blocks("repeat"), _WIDE),
    *_inside(("mixed_6a",), _ROW),
    *_inside(_blocks("repeat_1"), _ROW),
    *_inside(("mixed_7a",), ("branch0.0", "branch0.1", *_WIDE[1:])),
    *_inside((*_blocks("repeat_2"), "block8"), _ROW),
]
_RESIDUALS = {
    f"{theirs}_{number}_conv": f"{block}.conv2d"
    for theirs, blocks in (
        ("block35", _blocks("repeat")),
        ("block17", _blocks("repeat_1")),
        ("block8", [*_blocks("repeat_2"), "block8"]),
    )
    for number, block in enumerate(blocks, start=1)
}
_LAYOUTS = {"/kernel": Layout.CHANNELS_LAST}

KEY_MAPS: Mapping[str, KeyMap] = {
    "inception_v3": KeyMap(
        names=_table(_V3, {}, {"predictions": "fc"}),
        read=read,
        layouts=_LAYOUTS,
        has_gamma=False,
    ),
    "inception_resnet_v2": KeyMap(
        names=_table(_RESNET_V2, {"conv_7b": "conv2d_7b"}, _RESIDUALS | {"predictions": "classif"}),
        read=read,
        layouts=_LAYOUTS,
        has_gamma=False,
    ),
}
