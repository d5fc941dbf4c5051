"""Images and options that each stage takes from a recipe, for ``build`` and single commands."""

from __future__ import annotations

import dataclasses

from edge_inception import stage
from edge_inception.artifact import EngineFile
from edge_inception.baseline.options import BaselineOptions, OnnxBaselineOptions
from edge_inception.data import imageset
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError
from edge_inception.export.options import ExportOptions, InterfaceOptions
from edge_inception.graph.options import ImportOptions
from edge_inception.hardware.cores import usable_threads
from edge_inception.pipeline.listener import Listener
from edge_inception.recipe.reader import Recipe, Source
from edge_inception.spec import Budget, Gates, Head
from edge_inception.validate.options import EngineEntry, TimedBaseline, ValidateOptions

IMPORTED = "model.imported.onnx"
LABELLED_GATES = Gates(max_drop_pp=2.0, min_sqnr_db=20.0)
UNLABELLED_GATES = Gates(min_agreement=0.98, min_sqnr_db=20.0)
_SQNR_MARGIN_DB = 1.0


def open_image_set(
    source: Source | None, role: str, recipe: Recipe, listener: Listener
) -> ImageSet:
    """The images for ``role``, which is "calibration" or "validation".

    Unusable images are left out if the recipe skips them; otherwise a later stage refuses them.

    Raises:
        InputError: ``source`` is None, the images are missing, or the recipe skips unusable images
            and no image is usable.
    """
    if source is None:
        raise InputError(f"no {role} images", hint=f"set [data] {role}, or pass --{role}")
    labels = recipe.labels if role == "validation" else None
    image_set = imageset.open_set(source.location, split=source.split, labels=labels)
    return without_unusable(image_set, role, listener) if recipe.skip_bad_images else image_set


def without_unusable(image_set: ImageSet, role: str, listener: Listener) -> ImageSet:
    """``image_set`` without its unusable images; the listener gets their number and paths.

    Raises:
        InputError: No image is usable.
    """
    from edge_inception.data import images  # noqa: PLC0415 -- imports Pillow, which few builds need here

    good, bad = images.split_usable(image_set.items)
    if not good:
        raise InputError(
            f"none of the {len(bad)} {role} images in {image_set.name} is usable",
            hint="without --skip-bad-images the first one is named",
        )
    listener.note(f"{role}: left out {len(bad)} unusable of {len(image_set.items)} images")
    for item in bad:
        listener.detail(f"  left out {item.path}")
    return dataclasses.replace(image_set, items=tuple(good), num_left_out=len(bad))


def import_options(recipe: Recipe, classes: tuple[str, ...]) -> ImportOptions:
    """Options of importing an ONNX graph; ``classes`` are names by logit index, maybe empty."""
    return ImportOptions(
        preprocess=recipe.preprocess,
        num_classes=recipe.num_classes,
        classes=classes,
        profile=recipe.profile,
    )


def interface_options(recipe: Recipe) -> InterfaceOptions:
    """Options of the stage ``interface``, for the preprocessing and head of an imported graph."""
    return InterfaceOptions(head=recipe.head, **recipe.fold)


def export_options(recipe: Recipe, classes: tuple[str, ...]) -> ExportOptions:
    """Options of exporting a checkpoint; ``classes`` are names by logit index, maybe empty."""
    return ExportOptions(
        model=recipe.model,
        preprocess={**recipe.preprocess, **recipe.fold},
        model_options=recipe.model_options,
        checkpoint_format=recipe.checkpoint_format,
        num_classes=recipe.num_classes,
        classes=classes,
        profile=recipe.profile,
        head=recipe.head,
    )


def baseline_options(recipe: Recipe) -> BaselineOptions:
    """Options of the baseline of a checkpoint."""
    return BaselineOptions(
        model=recipe.model,
        preprocess=recipe.preprocess,
        model_options=recipe.model_options,
        checkpoint_format=recipe.checkpoint_format,
        num_classes=recipe.num_classes,
        threads=recipe.threads,
    )


def onnx_baseline_options(recipe: Recipe) -> OnnxBaselineOptions:
    """Options of the baseline of an imported graph."""
    return OnnxBaselineOptions(threads=recipe.threads)


def gates(recipe: Recipe, images: ImageSet, head: Head) -> Gates:
    """The gates of a build: those of the recipe, or defaults that fit labels and head."""
    if not _are_default(recipe.gates):
        return recipe.gates
    has_labels = images.is_labelled and head.kind != "embedding"
    defaults = LABELLED_GATES if has_labels else UNLABELLED_GATES
    return dataclasses.replace(defaults, min_speedup=recipe.gates.min_speedup)


def _are_default(gates: Gates) -> bool:
    """Whether no gate is set; a ``min_speedup`` of 0 sets none but switches one off."""
    return gates in {Gates(), Gates(min_speedup=0)}


def fallback_budget(wanted: Gates) -> Budget:
    """The budget of the search that keeps groups in float where int8 would miss the gates.

    The search uses the calibration images, the gates other images; the margin of the SQNR allows
    for the difference between the two samples.
    """
    drop_pp = wanted.max_drop_pp
    if drop_pp is None:
        drop_pp = 100.0 * (1.0 - (wanted.min_agreement or 0.0))
    sqnr_db = wanted.min_sqnr_db
    return Budget(
        max_drop_pp=drop_pp, min_sqnr_db=None if sqnr_db is None else sqnr_db + _SQNR_MARGIN_DB
    )


def validate_options(
    recipe: Recipe, images: ImageSet, engine: EngineFile, listener: Listener
) -> ValidateOptions:
    """Options of ``validate``; a recipe without gates gets defaults, which a note names."""
    wanted = gates(recipe, images, engine.details.head)
    if _are_default(recipe.gates):
        named = ", ".join(f"{k} {v}" for k, v in stage.plain(wanted).items() if v is not None)
        listener.note(f"no gate given; using {named}")
    return ValidateOptions(
        model=recipe.model,
        preprocess=engine.details.preprocess,
        gates=wanted,
        threads=recipe.threads,
        batch=recipe.profile.opt,
        rounds=recipe.latency_rounds,
        calls_per_block=recipe.latency_calls,
        engines_compete=recipe.is_best,
        baseline=_timed_baseline(recipe),
    )


def _timed_baseline(recipe: Recipe) -> TimedBaseline:
    """The FP32 baseline to time: PyTorch's, or onnxruntime's for an imported graph."""
    if recipe.is_imported:
        profile = stage.plain(recipe.profile)
        return TimedBaseline(
            name="onnxruntime FP32",
            library="onnxruntime",
            factory="edge_inception.baseline.onnx:open_session",
            arguments={"graph": str(recipe.out / IMPORTED), "profile": profile},
        )
    return TimedBaseline(
        arguments={
            "checkpoint": str(recipe.checkpoint),
            "model": recipe.model,
            "model_options": dict(recipe.model_options),
            "checkpoint_format": recipe.checkpoint_format,
            "num_classes": recipe.num_classes,
        }
    )


def engine_entry(engine: EngineFile) -> EngineEntry:
    """The entry of an engine to judge, filled from its sidecar, the .json file beside it."""
    details = engine.details
    return EngineEntry(
        engine=engine,
        target=details.backend,
        precision=details.precision.value,
        float_precision=details.float_precision,
        is_subject=True,
    )


def require_threads(threads: int | None) -> int:
    """``threads``, after a check that this process may use that many; None and 0 stand for all.

    Raises:
        InputError: ``threads`` is negative, or more than this process may use.
    """
    usable, threads = usable_threads(), threads or 0
    if not 0 <= threads <= usable:
        raise InputError(
            f"{threads} threads asked for, this process may use {usable}",
            hint=f"wanted 1 to {usable}, or 0 for all",
        )
    return threads


def class_names(recipe: Recipe) -> tuple[str, ...]:
    """Class names by logit index, from the labels file, else from the validation images, else none.

    Raises:
        InputError: The labels file or the images cannot be read.
    """
    if recipe.labels:
        return imageset.read_labels(recipe.labels)
    source = recipe.validation
    return imageset.open_set(source.location, split=source.split).classes if source else ()
