"""A module as wide as one release of TensorRT and no wider, for tests without NVIDIA's library.

It is made from a recorded surface: what that release lacks raises AttributeError when it is read,
called or set, and a call with parameters that it does not take raises TypeError. ``world.calls``
keeps every call and assignment in order. What the module does stands in fake_tensorrt_build.py and
fake_tensorrt_run.py.
"""

from __future__ import annotations

import enum
import functools
import json
import re
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SURFACES = Path(__file__).parent / "surfaces"


@functools.cache
def surface(release: str) -> dict[str, Any]:
    """The recorded surface of ``"10.3"``, ``"rtx"`` and so on."""
    return json.loads((SURFACES / f"{release}.json").read_text())


@dataclass
class World:
    """What a test decides before, and what it finds afterwards.

    ``problem`` is what the builder complains of, ``refusal`` what the runtime does; empty for
    success. ``shape`` and ``element`` are those of the graph's one input; ``kernel`` is what its
    one layer multiplies in, "FP32" or "INT8". ``memory`` holds the bytes behind each address that
    a fake GPU gave out, ``streams`` the work that waits in each.
    ``starts`` False is a driver that the library cannot use.
    """

    shape: tuple[int, ...] = (-1, 3, 4, 4)
    element: str = "FLOAT"
    kernel: str = "FP32"
    starts: bool = True
    parses: bool = True
    problem: str = ""
    refusal: str = ""
    executes: bool = True
    warning: str = ""
    has_fast: bool = True
    num_dla_cores: int = 0
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    memory: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, list[Any]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Names of the calls in order; those of assignments end in ``=``."""
        return [name for name, _ in self.calls]

    def values(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of every call of that name."""
        return [given for found, given in self.calls if found == name]


def tensorrt(release: str, acts: dict[str, type], **facts: Any) -> tuple[Any, World]:
    """The module of one release, and its world.

    Args:
        release: A recorded surface.
        acts: Name of a class in the surface -> class with the methods that do something. Methods
            that the release lacks are left out; recorded ones without an act raise
            NotImplementedError.
        facts: Fields of ``World``.
    """
    recorded, world = surface(release), World(**facts)
    module = types.ModuleType("tensorrt_rtx" if release == "rtx" else "tensorrt")
    module.__version__ = recorded["version"]
    for name in recorded["module"]:
        setattr(module, name, type(name, (), {}))
    for name, values in recorded["enums"].items():
        setattr(module, name.replace(".", "_"), enum.IntEnum(name, values))
    for name, members in recorded["classes"].items():
        made = _bound(world, name, members, acts.get(name, object))
        made._trt, made._world = module, world
        setattr(module, name, made)
    module.ILogger.Severity = module.ILogger_Severity
    del module.ILogger_Severity
    for name, member in (("float32", "FLOAT"), ("float16", "HALF"), ("int8", "INT8")):
        setattr(module, name, module.DataType[member])
    return module, world


def _bound(world: World, kind: str, members: list[str], acts: type) -> type:
    """A class with the recorded members; private parts of its acts come along."""
    space = {
        name: value for name, value in vars(acts).items() if re.match(r"_[^_]|__bytes__", name)
    }
    for text in members:
        word, _, signature = text.partition("(")
        if signature:
            space[word] = _method(world, kind, word, f"({signature}", getattr(acts, word, None))
        elif word.endswith("="):
            space[word[:-1]] = _writable(world, kind, word, space)
        else:
            space[word] = property(space.get(f"_read_{word}", _unread(kind, word)))
    space.setdefault("__init__", _no_constructor)
    made = type(kind, (), space)
    made.__setattr__ = functools.partialmethod(_set, made)
    return made


def make(trt: Any, kind: str, **state: Any) -> Any:
    """An object that only the library can make, such as ``"ICudaEngine"``, with private state."""
    made = object.__new__(getattr(trt, kind))
    for name, value in state.items():
        object.__setattr__(made, f"_{name}", value)
    return made


def _no_constructor(self: Any, *_: Any) -> None:
    raise TypeError(f"{type(self).__name__}: No constructor defined!")  # pybind11's words


def _set(self: Any, made: type, name: str, value: Any) -> None:
    """Objects of a pybind11 class take no new attributes; those of a Python subclass do."""
    is_known = name.startswith("_") or type(self) is not made or hasattr(made, name)
    if not is_known:
        raise AttributeError(f"'{made.__name__}' object has no attribute '{name}'")
    object.__setattr__(self, name, value)


def _unread(kind: str, word: str) -> Any:
    def read(_self: Any) -> Any:
        raise NotImplementedError(f"the fake does not know {kind}.{word}")

    return read


def _writable(world: World, kind: str, word: str, space: dict[str, Any]) -> property:
    key = f"_set_{word[:-1]}"

    def read(self: Any) -> Any:
        return getattr(self, key, None)

    def write(self: Any, value: Any) -> None:
        world.calls.append((f"{kind}.{word}", (value,)))
        object.__setattr__(self, key, value)

    return property(space.get(f"_read_{word[:-1]}", read), write)


def _method(world: World, kind: str, word: str, signature: str, act: Any) -> Any:
    overloads = [
        [name for name in text.split(",") if name] for text in re.findall(r"\(([^)]*)\)", signature)
    ]

    def call(self: Any, *args: Any, **named: Any) -> Any:
        given = _matched(overloads, args, named)
        if given is None:
            raise TypeError(f"{kind}.{word}{signature} called with {args} {named}")
        world.calls.append((f"{kind}.{word}", tuple(given)))
        if act is None and word != "__init__":
            raise NotImplementedError(f"the fake does not act out {kind}.{word}")
        if word == "__init__":
            object.__setattr__(self, "_is_ready", True)
        return act(self, *given) if act is not None else None

    return call


def _matched(
    overloads: list[list[str]], args: tuple[Any, ...], named: dict[str, Any]
) -> list[Any] | None:
    """Arguments in the order of the first signature that takes them; None if none does."""
    for parameters in overloads:
        names = [name.rstrip("=") for name in parameters]
        needed = {name for name in parameters if not name.endswith("=")}
        taken = dict(zip(names, args, strict=False))
        given = taken | named
        fits = len(args) <= len(names) and not set(taken) & set(named)
        if fits and needed <= set(given) <= set(names):
            return [given[name] for name in names if name in given]
    return None
