"""What a build compiles for: targets of this machine, and devices that compile for themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from edge_inception.engines import _registry as backends
from edge_inception.errors import BackendMissing, InputError, unknown
from edge_inception.hardware import targets
from edge_inception.hardware.feasibility import Request, tensorrt_versions
from edge_inception.hardware.jetpack import parsed
from edge_inception.hardware.target import Target
from edge_inception.recipe.reader import Recipe
from edge_inception.spec import Precision

_NO_CALIBRATORS = 11  # major version of TensorRT that removed them


_STRONGLY_TYPED = 10  # first major version of TensorRT for which graphs are spelled strongly


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A target that compiles for itself, with the TensorRT versions that it may have.

    ``dla_tensorrt`` are those among them that can use its accelerators; empty when not asked for.
    """

    target: Target
    tensorrt: tuple[str, ...]
    dla_tensorrt: tuple[str, ...] = ()

    @property
    def typings(self) -> tuple[str, ...]:
        """Spellings of the graph that its versions need, and its DLA."""
        is_typed = [parsed(version)[0] >= _STRONGLY_TYPED for version in self.tensorrt]
        needs = {
            "strong": any(is_typed) or not is_typed,
            "weak": self.needs_weak,
            "implicit": bool(self.implicit),
        }
        return tuple(typing for typing, is_needed in needs.items() if is_needed)

    @property
    def is_typed_dla(self) -> bool:
        """Whether its DLA takes the strong graph, with Q/DQ pairs that suit it: TensorRT 11.4.1."""
        return bool(self.dla_tensorrt) and not self.implicit

    @property
    def bounds(self) -> tuple[str, str] | None:
        """Oldest and newest version without their build numbers; None where none is known."""
        found = sorted(parsed(version)[:3] for version in self.tensorrt)
        texts = [".".join(map(str, numbers)) for numbers in found]
        return (texts[0], texts[-1]) if texts else None

    @property
    def dla_core(self) -> int | None:
        """The accelerator that a build for DLA starts with."""
        return 0 if self.dla_tensorrt else None

    @property
    def needs_weak(self) -> bool:
        """Whether one of its versions knows no strongly typed graph."""
        return any(parsed(version)[0] < _STRONGLY_TYPED for version in self.tensorrt)

    @property
    def implicit(self) -> str:
        """The version whose DLA wants a graph without Q/DQ and a calibration cache; or none."""
        return next((v for v in self.dla_tensorrt if parsed(v)[0] < _NO_CALIBRATORS), "")


def devices(recipe: Recipe) -> tuple[Device, ...]:
    """Targets that compile for themselves; what they cannot do is refused before any work.

    Raises:
        InputError: Unknown target, an impossible request, JetPack or DLA without such a target, or
            what int8 on DLA does not have: a budget for groups in float, bias correction.
    """
    rows = [targets.target(name) for name in dict.fromkeys(recipe.targets)]
    if recipe.is_best:
        _require_choice(recipe, [row for row in rows if not row.is_compiled_here])
    found = tuple(device(recipe, row.name) for row in rows if not row.is_compiled_here)
    asked = {"jetpack": recipe.jetpack, "tensorrt": recipe.tensorrt, "use-dla": recipe.dla}
    useless = next((flag for flag, value in asked.items() if value and not found), "")
    if useless:
        raise InputError(
            f"--{useless} concerns hardware that compiles for itself, and no target is such",
            hint="--target orin-nx-16gb, or another that `edge-inception targets` lists",
        )
    if recipe.dla and recipe.budget is not None and recipe.precision is Precision.INT8:
        raise InputError(
            "--max-drop, or [search], keeps groups in float, and DLA wants all of them in int8",
            hint="leave one out; max_drop_pp in [gates] of a recipe judges without a search",
        )
    if recipe.dla and recipe.bias_correction and recipe.precision is Precision.INT8:
        raise InputError(
            "bias correction, which int8 on DLA does not have: its tensors share their scales",
            hint="leave out --bias-correction, or --use-dla",
        )
    return found


def _require_choice(recipe: Recipe, elsewhere: Sequence[Target]) -> None:
    """Refuse to choose a precision by the speed of another machine than the one it is for."""
    if elsewhere or recipe.bundle:
        what = f"target {elsewhere[0].name}" if elsewhere else "--bundle"
        raise InputError(
            f"--precision best measures on this machine, {what} is for another",
            hint="build --bundle with --precision fp16 and with int8, then device.py bench both",
        )


def bundled(
    recipe: Recipe, found: tuple[Device, ...], host_names: tuple[str, ...]
) -> tuple[Device, ...]:
    """What ``--bundle`` packs for: the devices of the recipe, else the CPU.

    Raises:
        InputError: There is neither.
    """
    if not recipe.bundle:
        return ()
    if found:
        return found
    if "cpu" not in host_names:
        raise InputError(
            f"no bundle for {', '.join(host_names)}: its engines cannot be executed here",
            hint="add --target cpu, or a device that `edge-inception targets` lists",
        )
    return (device(recipe, "cpu"),)


def device(recipe: Recipe, name: str) -> Device:
    """A target as the recipe asks for it.

    Raises:
        InputError: Unknown, or it cannot do what is asked.
    """
    row = targets.target(name)
    profile = recipe.profile
    asked = Request(
        precision=recipe.precision,
        jetpack=recipe.jetpack or None,
        tensorrt=recipe.tensorrt or None,
        dla=recipe.dla,
        batch=profile.max,
        is_dynamic=profile.min != profile.max,
        element=recipe.fold.get("element", "float32"),
    )
    # The DLA runs part of the network at most, and the GPU what is left: its versions count too.
    versions = _shipped(row, tensorrt_versions(row, dataclasses.replace(asked, dla=False)), recipe)
    dla_versions = _shipped(row, tensorrt_versions(row, asked), recipe) if recipe.dla else ()
    if recipe.dla and len(dla_versions) != 1:  # a calibration cache is for one version
        found = f"TensorRT {', '.join(dla_versions)} have" if dla_versions else "no JetPack ships"
        raise InputError(
            f"{row.name}: {found} its DLA, and a build is for one",
            hint=f"--jetpack or --tensorrt; `edge-inception targets {row.name}` lists both",
        )
    return Device(target=row, tensorrt=versions, dla_tensorrt=dla_versions)


def _shipped(row: Target, versions: tuple[str, ...], recipe: Recipe) -> tuple[str, ...]:
    """Without what is only installed on top of a JetPack, unless it was asked for."""
    stock = {release.tensorrt for release in row.releases if release.is_stock}
    return versions if recipe.tensorrt else tuple(v for v in versions if v in stock)


def hosts(recipe: Recipe) -> tuple[str, ...]:
    """Targets that are compiled here: the recipe's, else the defaults; with a device always cpu.

    Raises:
        InputError: Unknown target.
        BackendMissing: A library is not installed.
    """
    rows = [targets.target(name) for name in dict.fromkeys(recipe.targets)]
    named = tuple(row.name for row in rows if row.is_compiled_here)
    names = named or targets.default_targets()
    if len(named) < len(rows) and "cpu" not in names:
        names = ("cpu", *names)  # it executes the graphs that the device will compile
    for name in names:
        target = targets.target(name)
        for asked in targets.compute_capabilities(target, recipe.compute_capabilities):
            if asked not in target.compute_capabilities:
                raise unknown(f"compute capability of '{name}'", asked, target.compute_capabilities)
        available = backends.backend(target.backend).availability()
        if not available.can_compile:
            raise BackendMissing(
                f"target '{name}' cannot be compiled here: {available.why_not}",
                hint=available.remedy,
            )
    if not names:
        raise BackendMissing("no engine library is installed", hint="pip install openvino")
    return names
