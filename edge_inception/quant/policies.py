"""Placement policies: named rules for the tensors of an int8 graph that carry a Q/DQ pair.

This module does not import onnx. ``place_pairs`` applies a policy to a graph;
tests/benchmarks/placement.py measures all policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from edge_inception.errors import InputError, known_names


class Residual(Enum):
    """The inputs of a residual Add that have a pair: the identity input, both, or neither."""

    IDENTITY = "identity"
    BOTH = "both"
    FLOAT = "float"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A rule for the placement of pairs; convolutions and Gemms read a pair unless they stay float.

    ``pools``: pools read a pair too. ``maxpool_outputs``: the output of a MaxPool has a pair with
    the scale of the input. ``tie_concat``: the inputs of a Concat have pairs with the scale of the
    output. ``float_first`` and ``float_last`` are the numbers of layers with weights that stay
    float at the beginning and the end of the graph; all other readers of their inputs stay float
    too. ``description`` is for users.
    """

    name: str
    description: str
    pools: bool = True
    maxpool_outputs: bool = True
    residual: Residual = Residual.IDENTITY
    tie_concat: bool = False
    float_first: int = 0
    float_last: int = 0


SANDWICH = Policy(
    name="sandwich",
    description="pools run in int8; conv, sum and ReLU of a residual are one kernel",
)
TIED_CONCAT = Policy(
    name="tied-concat",
    description="one scale in and out of a Concat, so that it copies bytes; DLA requires it",
    tie_concat=True,
)
_WEIGHTED_ONLY = Policy(
    name="weighted-only",
    description="only what convolutions and Gemms read, as simple tools do; pools stay float",
    pools=False,
    maxpool_outputs=False,
    residual=Residual.FLOAT,
)
POLICIES = (
    SANDWICH,
    Policy(
        name="pool-inputs",
        description="MaxPool outputs without a pair: for compilers that move DQ across MaxPool",
        maxpool_outputs=False,
    ),
    _WEIGHTED_ONLY,
    replace(
        _WEIGHTED_ONLY,
        name="weighted-last",
        description="weighted-only with the last layer in float",
        float_last=1,
    ),
    replace(
        _WEIGHTED_ONLY,
        name="weighted-ends",
        description="weighted-only with the first two convolutions and the last layer in float",
        float_first=2,
        float_last=1,
    ),
    Policy(
        name="residual-float",
        description="the residual stream keeps its float resolution, for a slower sum",
        residual=Residual.FLOAT,
    ),
    Policy(
        name="residual-both",
        description="both inputs of a residual Add in int8, for engines that fuse no conv and sum",
        residual=Residual.BOTH,
    ),
    TIED_CONCAT,
    Policy(
        name="float-ends",
        description="the first two convolutions and the last layer, the most sensitive, stay float",
        float_first=2,
        float_last=1,
    ),
)
# Kind of target -> its default policy. "gpu" is TensorRT and TensorRT-RTX. Of the policies that
# leave no layer float, SANDWICH moves the fewest bytes in the engines of TensorRT-RTX: 46.8 MB for
# the trained Inception-v4, against 49.5 MB without the pairs on MaxPool outputs and 57.3 MB with
# float pools (tests/benchmarks/results/placement.json). On the CPU no policy was faster beyond
# doubt. Source for "dla", which could not be measured here: "DLA Supported Layers and
# Restrictions", TensorRT docs.
_DEFAULTS: Mapping[str, Policy] = {"cpu": SANDWICH, "gpu": SANDWICH, "dla": TIED_CONCAT}
_BY_NAME: Mapping[str, Policy] = {policy.name: policy for policy in POLICIES}


def policy(name: str) -> Policy:
    """The policy called ``name``; an InputError names the known policies."""
    if name not in _BY_NAME:
        raise InputError(f"no placement named '{name}'", hint=known_names(name, _BY_NAME))
    return _BY_NAME[name]


def default_policy(target_kind: str) -> Policy:
    """The default policy of targets of the kind ``cpu``, ``gpu`` or ``dla``.

    CPU and GPU have the same default, so that the graph that is validated is the graph that ships.
    For DLA the module ``implicit`` also ties the scales of pools and views.
    """
    return _DEFAULTS[target_kind]
