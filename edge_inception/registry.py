"""Plug-ins, which are found by file name and imported when they are used.

In a plug-in folder, each file without a leading underscore is a plug-in. A listing of the files
imports none of them.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_inception.errors import InputError, unknown
from edge_inception.spec import ModelSpec

_PACKAGE = Path(__file__).parent


def plugin_files(folder: str) -> list[str]:
    """Names of the plug-ins in a folder of this package, sorted; imports none of them."""
    modules = pkgutil.iter_modules([str(_PACKAGE / folder)])
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def models() -> dict[str, ModelSpec]:
    """All architectures by name, in file order; imports no torch."""
    specs: dict[str, ModelSpec] = {}
    for file in plugin_files("models"):
        module = importlib.import_module(f"edge_inception.models.{file}")
        specs.update((spec.name, spec) for spec in module.MODELS)
    return specs


def model(name: str) -> ModelSpec:
    """The architecture called ``name``.

    Raises:
        InputError: No such model.
    """
    known = models()
    if name not in known:
        raise unknown("model", name, known)
    return known[name]


def options(spec: ModelSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options ``given`` for a model, after the check of each name and value.

    Raises:
        InputError: An unknown option, a value of another type than the default, a negative or
            infinite number, or a width of 0.
    """
    for key, value in given.items():
        if key not in spec.options:
            raise unknown(f"option of {spec.name}", key, spec.options)
        default = spec.options[key]
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            wanted = _KINDS[type(default)]
        elif isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
            wanted = "a number of at least 0"
        elif key == "width" and value == 0:
            wanted = "a number above 0"
        else:
            continue
        raise InputError(
            f"option {key} of {spec.name} is {json.dumps(value)}, wanted {wanted}",
            hint=f"the default is --option {key}={json.dumps(default)}",
        )
    return dict(given)


_KINDS: Mapping[type, str] = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "a word",
}


def build(spec: ModelSpec, num_classes: int, chosen: Mapping[str, Any]) -> Any:
    """The torch module of ``spec`` with freshly initialised weights.

    Raises:
        InputError: The architecture does not have a choice, or torch cannot hold such sizes.
    """
    return _call(spec, spec.build, num_classes, chosen)


def describe(spec: ModelSpec, num_classes: int, chosen: Mapping[str, Any]) -> Any:
    """The ``Architecture`` of ``spec``: layers and head as records, without torch.

    Raises:
        InputError: The architecture does not have a choice.
    """
    return _call(spec, spec.describe, num_classes, chosen)


def _call(
    spec: ModelSpec, make: Callable[..., Any], num_classes: int, chosen: Mapping[str, Any]
) -> Any:
    try:
        return make(num_classes=num_classes, **chosen)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot build {spec.name} with {dict(chosen)}: {str(error).splitlines()[0]}",
            hint=option_hint(spec),
        ) from error


def option_hint(spec: ModelSpec) -> str:
    """Hint that says how to set the options of a model, with their defaults."""
    defaults = ", ".join(f"{key}={json.dumps(value)}" for key, value in spec.options.items())
    return f"--option KEY=VALUE, by default {defaults}"
