"""Names that keras.applications gives the tensors of InceptionV3 and InceptionResNetV2.

Keras numbers layers in the order in which they are made. Files of Keras 2 have ``conv2d_1``,
``conv2d_2``, ...; Keras 3 goes on from the session's last number: ``conv2d``, ``conv2d_1``, ... or
``conv2d_94``, ... The tables below are in the order of these numbers, which is not that of
``model.layers``. This code dumps the weights as npz (before Keras 3 ``variable.name`` replaces
``variable.path``)::

    weights = {variable.path: variable.numpy() for variable in model.weights}
    numpy.savez("weights.npz", **weights)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from edge_inception.checkpoints.keymaps._keymap import (
    KeyMap,
    Layout,
    NormalizedKeys,
    expand_tensors,
)

_AUTO_NAMES = {
    "conv2d": re.compile(r"conv2d(?:_(\d+))?"),
    "batch_normalization": re.compile(
        r"(?:batch_normalization|conv2d(?=(?:_\d+)?_bn))(?:_(\d+))?(?:_bn)?"
    ),
}


def normalize_keys(keys: Iterable[str]) -> NormalizedKeys:
    """Table names of ``keys``: ``layer/variable``, where an auto-numbered layer is ``conv2d:0``.

    The number after the colon is the layer's rank from 0. ``conv2d_3/conv2d_3/kernel:0`` of an H5
    file counts as ``conv2d_3/kernel``. If two keys would get the same name, the longer key keeps
    its own name; since no table contains it, the key is then reported as unexpected.
    """
    by_name: dict[str, str] = {}
    duplicates: dict[str, str] = {}
    for key in sorted(keys, key=len):
        name = "/".join(key.partition(":")[0].split("/")[-2:])
        if name in by_name:
            duplicates[key] = key
        else:
            by_name[name] = key
    layers = {name.partition("/")[0] for name in by_name}
    ranked = _rank_layers("conv2d", layers) | _rank_layers("batch_normalization", layers)
    normalized = {}
    for name, key in by_name.items():
        layer, _, variable = name.partition("/")
        normalized[f"{ranked.get(layer, layer)}/{variable}"] = key
    return NormalizedKeys(keys=normalized | duplicates)


def _rank_layers(kind: str, layers: Iterable[str]) -> dict[str, str]:
    """Name of each auto-numbered layer of a kind -> ``kind:0``, ``kind:1``, ... by its number."""
    matches = filter(None, map(_AUTO_NAMES[kind].fullmatch, layers))
    numbered = sorted((int(match[1] or 0), match[0]) for match in matches)
    return {layer: f"{kind}:{rank}" for rank, (_, layer) in enumerate(numbered)}


_NORM_TENSORS = {
    "/gamma": ".bn.weight",
    "/beta": ".bn.bias",
    "/moving_mean": ".bn.running_mean",
    "/moving_variance": ".bn.running_var",
}


def _key_map(
    auto_named: Iterable[str], named: Mapping[str, str], biased: Mapping[str, str]
) -> KeyMap:
    """The key map of a network.

    ``auto_named`` are our paths of the convolutions that Keras numbers, in the order of the
    numbers. ``named`` maps Keras's names of other convolutions with batch norm to ours, ``biased``
    those of layers with a bias.
    """
    convs = {f"conv2d:{rank}": path for rank, path in enumerate(auto_named)}
    norms = {f"batch_normalization:{rank}": path for rank, path in enumerate(convs.values())}
    norms |= {f"{name}_bn": path for name, path in named.items()}
    return KeyMap(
        names=expand_tensors(convs | dict(named), {"/kernel": ".conv.weight"})
        | expand_tensors(norms, _NORM_TENSORS)
        | expand_tensors(biased, {"/kernel": ".weight", "/bias": ".bias"}),
        normalize=normalize_keys,
        layouts={"/kernel": Layout.CHANNELS_LAST},
        requires_gamma=False,
    )


def _convs(branch: str, count: int) -> tuple[str, ...]:
    return tuple(f"{branch}_{number}" for number in range(1, count + 1))


def _in_blocks(blocks: Sequence[str], convs: Sequence[str]) -> list[str]:
    return [f"{block}.{conv}" for block in blocks for conv in convs]


_V3_A = ("branch1x1", *_convs("branch5x5", 2), *_convs("branch3x3dbl", 3), "branch_pool")
_V3_C = ("branch1x1", *_convs("branch7x7", 3), *_convs("branch7x7dbl", 5), "branch_pool")
_V3_E = (
    *("branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
    *("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"),
)
_V3 = [
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    *_in_blocks(("Mixed_5b", "Mixed_5c", "Mixed_5d"), _V3_A),
    *_in_blocks(("Mixed_6a",), ("branch3x3", *_convs("branch3x3dbl", 3))),
    *_in_blocks(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _V3_C),
    *_in_blocks(("Mixed_7a",), (*_convs("branch3x3", 2), *_convs("branch7x7x3", 4))),
    *_in_blocks(("Mixed_7b", "Mixed_7c"), _V3_E),
]

_BLOCK35 = [f"repeat.{index}" for index in range(10)]
_BLOCK17 = [f"repeat_1.{index}" for index in range(20)]
_BLOCK8 = [*(f"repeat_2.{index}" for index in range(9)), "block8"]
_TWO_BRANCHES = ("branch0", "branch1.0", "branch1.1", "branch1.2")
_THREE_BRANCHES = ("branch0", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch2.2")
_RESNET_V2 = [
    *("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a"),
    *_in_blocks(("mixed_5b",), (*_THREE_BRANCHES, "branch3.1")),
    *_in_blocks(_BLOCK35, _THREE_BRANCHES),
    *_in_blocks(("mixed_6a",), _TWO_BRANCHES),
    *_in_blocks(_BLOCK17, _TWO_BRANCHES),
    *_in_blocks(("mixed_7a",), ("branch0.0", "branch0.1", *_THREE_BRANCHES[1:])),
    *_in_blocks(_BLOCK8, _TWO_BRANCHES),
]
_RESNET_V2_BIASED = {
    f"{name}_{number}_conv": f"{path}.conv2d"
    for name, paths in (("block35", _BLOCK35), ("block17", _BLOCK17), ("block8", _BLOCK8))
    for number, path in enumerate(paths, start=1)
} | {"predictions": "classif"}

KEY_MAPS: Mapping[str, KeyMap] = {
    "inception_v3": _key_map(_V3, {}, {"predictions": "fc"}),
    "inception_resnet_v2": _key_map(_RESNET_V2, {"conv_7b": "conv2d_7b"}, _RESNET_V2_BIASED),
}
