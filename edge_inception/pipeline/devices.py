"""Targets of a build: those compiled on this machine, and devices that compile for themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from edge_inception.engines import _registry as backends
from edge_inception.errors import BackendMissing, InputError, unknown
from edge_inception.hardware import targets
from edge_inception.hardware.feasibility import Request, tensorrt_versions
from edge_inception.hardware.jetpack import parse_version
from edge_inception.hardware.target import Target
from edge_inception.quant.options import Typing
from edge_inception.recipe.reader import Recipe
from edge_inception.spec import Precision

_MAX_CALIBRATED = 10  # last major version of TensorRT with calibrators
_MIN_STRONG_TYPING = 10  # first major version of TensorRT that we give strongly typed graphs


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A target that compiles for itself, with the TensorRT versions that it may have.

    ``dla_tensorrt`` are the versions that can use the target's DLA, its deep-learning accelerator;
    they are empty if the recipe does not use the DLA.
    """

    target: Target
    tensorrt: tuple[str, ...]
    dla_tensorrt: tuple[str, ...] = ()

    @property
    def typings(self) -> tuple[str, ...]:
        """Typings (ways to write precision into the graph) that TensorRT and the DLA need."""
        takes_strong = [parse_version(v)[0] >= _MIN_STRONG_TYPING for v in self.tensorrt]
        needs = {
            "strong": any(takes_strong) or not takes_strong,
            "weak": self.needs_weak_typing,
            "implicit": bool(self.implicit_tensorrt),
        }
        return tuple(typing for typing, is_needed in needs.items() if is_needed)

    @property
    def is_typed_dla(self) -> bool:
        """Whether the DLA takes a strongly typed graph with Q/DQ, as with TensorRT 11.4.1."""
        return bool(self.dla_tensorrt) and not self.implicit_tensorrt

    @property
    def tensorrt_range(self) -> tuple[str, str] | None:
        """Oldest and newest TensorRT version, without build numbers; None if none is known."""
        versions = sorted(parse_version(version)[:3] for version in self.tensorrt)
        texts = [".".join(map(str, numbers)) for numbers in versions]
        return (texts[0], texts[-1]) if texts else None

    @property
    def dla_core(self) -> int | None:
        """Number of the DLA core to build for; None if the DLA is not used."""
        return 0 if self.dla_tensorrt else None

    @property
    def needs_weak_typing(self) -> bool:
        """Whether a TensorRT version of the target takes no strongly typed graph."""
        return any(parse_version(version)[0] < _MIN_STRONG_TYPING for version in self.tensorrt)

    @property
    def implicit_tensorrt(self) -> str:
        """First version whose DLA takes a calibration cache instead of Q/DQ; empty if none does."""
        return next((v for v in self.dla_tensorrt if parse_version(v)[0] <= _MAX_CALIBRATED), "")


def self_compiling_devices(recipe: Recipe) -> tuple[Device, ...]:
    """The recipe's targets that compile for themselves.

    Raises:
        InputError: A target is unknown or cannot do what the recipe asks for; JetPack, TensorRT or
            DLA is set without such a target; or int8 on DLA is combined with a budget for groups in
            float or with bias correction.
    """
    rows = [targets.target(name) for name in dict.fromkeys(recipe.targets)]
    if recipe.is_best:
        _require_host_only(recipe, [row for row in rows if not row.is_compiled_here])
    chosen = tuple(device_for(recipe, row.name) for row in rows if not row.is_compiled_here)
    flags = {"jetpack": recipe.jetpack, "tensorrt": recipe.tensorrt, "use-dla": recipe.dla}
    unused = next((flag for flag, value in flags.items() if value and not chosen), "")
    if unused:
        raise InputError(
            f"--{unused} concerns hardware that compiles for itself, and no target is such",
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
    return chosen


def int8_typing(recipe: Recipe, hosts: Sequence[str], chosen: Sequence[Device]) -> Typing:
    """How the int8 graph is written: for CPUs if every target is one, unless the recipe decides.

    Raises:
        InputError: The recipe asks for the typing of CPUs, and a target is none.
    """
    others = [name for name in hosts if targets.target(name).backend != "openvino"]
    others += [device.target.name for device in chosen]
    if recipe.typing == Typing.CPU.value and others:
        raise InputError(
            f"typing cpu has uint8 activations with zero points, and target {others[0]} takes none",
            hint="leave out --typing, or build for --target cpu alone",
        )
    return Typing(recipe.typing or ("strong" if others else "cpu"))


def _require_host_only(recipe: Recipe, elsewhere: Sequence[Target]) -> None:
    """Refuse ``--precision best``, which measures speed on this machine, for other hardware."""
    if elsewhere or recipe.bundle:
        what = f"target {elsewhere[0].name}" if elsewhere else "--bundle"
        raise InputError(
            f"--precision best measures on this machine, {what} is for another",
            hint="build --bundle with --precision fp16 and with int8, then device.py bench both",
        )


def devices_to_bundle(
    recipe: Recipe, chosen: tuple[Device, ...], host_names: tuple[str, ...]
) -> tuple[Device, ...]:
    """The devices to pack bundles for: those of the recipe, else the CPU; none without a bundle.

    Raises:
        InputError: The recipe has neither a device nor the CPU as a target.
    """
    if not recipe.bundle:
        return ()
    if chosen:
        return chosen
    if "cpu" not in host_names:
        raise InputError(
            f"no bundle for {', '.join(host_names)}: its engines cannot be executed here",
            hint="add --target cpu, or a device that `edge-inception targets` lists",
        )
    return (device_for(recipe, "cpu"),)


def device_for(recipe: Recipe, name: str) -> Device:
    """A target with the TensorRT versions that fit the recipe.

    Raises:
        InputError: The target is unknown, or cannot do what the recipe asks for.
    """
    row = targets.target(name)
    profile = recipe.profile
    request = Request(
        precision=recipe.precision,
        jetpack=recipe.jetpack or None,
        tensorrt=recipe.tensorrt or None,
        dla=recipe.dla,
        batch=profile.max,
        is_dynamic=profile.min != profile.max,
        element=recipe.fold.get("element", "float32"),
    )
    # The GPU runs the layers that the DLA does not take, so the versions for the GPU count too.
    versions = _stocked(
        row, tensorrt_versions(row, dataclasses.replace(request, dla=False)), recipe
    )
    dla_versions = _stocked(row, tensorrt_versions(row, request), recipe) if recipe.dla else ()
    if recipe.dla and len(dla_versions) != 1:  # a calibration cache fits one version only
        owners = f"TensorRT {', '.join(dla_versions)} have" if dla_versions else "no JetPack ships"
        raise InputError(
            f"{row.name}: {owners} its DLA, and a build is for one",
            hint=f"--jetpack or --tensorrt; `edge-inception targets {row.name}` lists both",
        )
    return Device(target=row, tensorrt=versions, dla_tensorrt=dla_versions)


def _stocked(row: Target, versions: tuple[str, ...], recipe: Recipe) -> tuple[str, ...]:
    """The ``versions`` that a JetPack ships; all of them if the recipe names a TensorRT version."""
    stock = {release.tensorrt for release in row.releases if release.is_stock}
    return versions if recipe.tensorrt else tuple(v for v in versions if v in stock)


def host_targets(recipe: Recipe) -> tuple[str, ...]:
    """Names of the targets to compile for here: the recipe's, else the defaults.

    If the recipe has a device, the CPU is always among the targets, since it executes the graphs
    that the device will compile.

    Raises:
        InputError: A target or compute capability is unknown.
        BackendMissing: A library is not installed.
    """
    rows = [targets.target(name) for name in dict.fromkeys(recipe.targets)]
    named = tuple(row.name for row in rows if row.is_compiled_here)
    names = named or targets.default_targets()
    if len(named) < len(rows) and "cpu" not in names:
        names = ("cpu", *names)
    for name in names:
        target = targets.target(name)
        known = target.compute_capabilities
        for version in targets.compute_capabilities(target, recipe.compute_capabilities):
            if version not in known:
                raise unknown(f"compute capability of '{name}'", version, known)
        available = backends.backend(target.backend).availability()
        if not available.can_compile:
            raise BackendMissing(
                f"target '{name}' cannot be compiled here: {available.why_not}",
                hint=available.remedy,
            )
    if not names:
        raise BackendMissing("no engine library is installed", hint="pip install openvino")
    return names
