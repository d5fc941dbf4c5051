"""What a build works on: images, preprocessing, gates, targets; and whom it tells."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from edge_inception import imageset, registry, stage, targets
from edge_inception.artifact import EngineFile
from edge_inception.errors import BackendMissing, InputError
from edge_inception.feasibility import Request, tensorrt_versions
from edge_inception.hardware import Target
from edge_inception.images import preprocess_of
from edge_inception.imageset import ImageSet
from edge_inception.inference import head_of
from edge_inception.jetpack import parsed
from edge_inception.recipe import Recipe, Source
from edge_inception.registry import unknown
from edge_inception.spec import Gates, Precision, Progress, no_progress
from edge_inception.validate.options import EngineEntry, Reference, ValidateOptions

IMPORTED = "model.imported.onnx"
LABELLED_GATES = Gates(max_drop_pp=2.0, min_sqnr_db=20.0)
UNLABELLED_GATES = Gates(min_agreement=0.98, min_sqnr_db=20.0)
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


class Listener(Protocol):
    """Where a build says what it does."""

    def note(self, text: str) -> None:
        """A line that people want to see."""

    def detail(self, text: str) -> None:
        """A line for those who asked for more."""

    def working(self, name: str) -> AbstractContextManager[Progress]:
        """Progress of the stage ``name`` while the block runs."""


class Silent:
    """A listener that says nothing."""

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...

    @contextmanager
    def working(self, name: str) -> Iterator[Progress]:
        del name
        yield no_progress


def open_source(source: Source | None, role: str, recipe: Recipe, listener: Listener) -> ImageSet:
    """The images of ``role``; unusable ones are refused later or, if asked for, left out here.

    Raises:
        InputError: Not given, missing, empty, or no image is usable.
    """
    if source is None:
        raise InputError(f"no {role} images", hint=f"set [data] {role}, or pass --{role}")
    labels = recipe.labels if role == "validation" else None
    found = imageset.open_set(source.location, split=source.split, labels=labels)
    return without_bad(found, role, listener) if recipe.skip_bad_images else found


def without_bad(found: ImageSet, role: str, listener: Listener) -> ImageSet:
    """``found`` less the images that cannot be used; says how many, and with --verbose which.

    Raises:
        InputError: No image is usable.
    """
    from edge_inception import images  # noqa: PLC0415 -- Pillow, only when asked for

    good, bad = images.usable(found.items)
    if not good:
        raise InputError(
            f"none of the {len(bad)} {role} images in {found.name} is usable",
            hint="without --skip-bad-images the first one is named",
        )
    listener.note(f"{role}: left out {len(bad)} unusable of {len(found.items)} images")
    for item in bad:
        listener.detail(f"  left out {item.path}")
    return dataclasses.replace(found, items=tuple(good), num_left_out=len(bad))


def validate_options(
    recipe: Recipe, images: ImageSet, engine: EngineFile, listener: Listener
) -> ValidateOptions:
    """Options of validate for this recipe; says which gates are used when it has none."""
    gates = recipe.gates
    if gates == Gates():
        has_labels = images.is_labelled and head_of(engine.details).kind != "embedding"
        gates = LABELLED_GATES if has_labels else UNLABELLED_GATES
        named = ", ".join(f"{k} {v}" for k, v in stage.plain(gates).items() if v is not None)
        listener.note(f"no gate given; using {named}")
    return ValidateOptions(
        model=recipe.model,
        preprocess=preprocess_of(engine.details),
        gates=gates,
        threads=recipe.threads,
        batch=recipe.profile.opt,
        rounds=recipe.latency_rounds,
        calls_per_block=recipe.latency_calls,
        is_best=recipe.is_best,
        baseline=_reference(recipe),
    )


def _reference(recipe: Recipe) -> Reference:
    """PyTorch, or for an imported graph onnxruntime, as a latency worker opens it."""
    if recipe.is_foreign:
        profile = stage.plain(recipe.profile)
        return Reference(
            name="onnxruntime FP32",
            library="onnxruntime",
            factory="edge_inception.onnx_baseline:open_session",
            arguments={"graph": str(recipe.out / IMPORTED), "profile": profile},
        )
    return Reference(
        arguments={
            "checkpoint": str(recipe.checkpoint),
            "model": recipe.model,
            "model_options": dict(recipe.model_options),
            "checkpoint_format": recipe.checkpoint_format,
            "num_classes": recipe.num_classes,
        }
    )


def entry_of(engine: EngineFile) -> EngineEntry:
    """An engine file that is to be judged, by what its sidecar says."""
    details = engine.details
    return EngineEntry(
        engine=engine,
        target=str(details["backend"]),
        precision=str(details["precision"]),
        float_precision=str(details.get("float_precision", "f32")),
        is_subject=True,
    )


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
        available = registry.backend(target.backend).availability()
        if not available.can_compile:
            raise BackendMissing(
                f"target '{name}' cannot be compiled here: {available.why_not}",
                hint=available.remedy,
            )
    if not names:
        raise BackendMissing("no engine library is installed", hint="pip install openvino")
    return names


def require_threads(threads: int) -> int:
    """``threads`` if this process may use so many; with more, engines would run with fewer.

    Raises:
        InputError: Negative, or more than that.
    """
    usable = len(os.sched_getaffinity(0))
    if not 0 <= threads <= usable:
        raise InputError(
            f"{threads} threads asked for, this process may use {usable}",
            hint=f"wanted 1 to {usable}, or 0 for all",
        )
    return threads


def classes(recipe: Recipe) -> tuple[str, ...]:
    """Class names by logit index: the labels file's, else the validation images', else none.

    Raises:
        InputError: The labels file or the images cannot be read.
    """
    if recipe.labels:
        return imageset.read_labels(recipe.labels)
    source = recipe.validation
    return imageset.open_set(source.location, split=source.split).classes if source else ()
