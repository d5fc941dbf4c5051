"""Promises of what all backends share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import sidecars

from edge_inception.artifact import EngineFile, Provenance
from edge_inception.engines import _backend
from edge_inception.errors import CompileFailed, InputError
from edge_inception.spec import ShapeProfile

ORIGIN = Provenance(stage="compile", parents={}, options={}, tools={}, source="")
INPUT_SPEC = _backend.InputSpec(dtype="float32", shape=(3, 2, 2))
ENGINE = EngineFile(
    path=Path("e.blob"), sha256="", provenance=ORIGIN, counts={}, details=sidecars.engine()
)


@pytest.mark.parametrize(
    ("profile", "count", "sizes"),
    [
        ((1, 1, 1), 3, [1, 1, 1]),
        ((4, 4, 4), 4, [4]),
        ((4, 4, 4), 9, [4, 4, 4]),
        ((2, 2, 4), 3, [3]),
        ((2, 2, 4), 1, [2]),
        ((2, 2, 4), 9, [4, 4, 2]),
    ],
)
def test_batches_fit_the_profile(profile, count, sizes):
    """The engine sees only sizes it accepts, and every image keeps its place."""
    seen = []

    def run(batch):
        seen.append(len(batch))
        return batch.reshape(len(batch), -1)[:, :1].copy()

    images = np.arange(count * 12, dtype=np.float32).reshape(count, 3, 2, 2)
    shapes = ShapeProfile(min=profile[0], opt=profile[1], max=profile[2])
    logits = _backend.run_in_batches(run, images, input_spec=INPUT_SPEC, profile=shapes)
    assert seen == sizes
    np.testing.assert_array_equal(logits[:, 0], images[:, 0, 0, 0])


def test_strided_images_reach_the_engine_in_one_piece():
    """A view that skips memory is copied, since engines read raw memory."""
    images = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)[:, :, ::2, ::2]
    assert not images.flags.c_contiguous
    contiguous = []
    _backend.run_in_batches(
        lambda batch: contiguous.append(batch.flags.c_contiguous) or batch[:, :1, 0, 0],
        images,
        input_spec=INPUT_SPEC,
        profile=ShapeProfile(min=2, opt=2, max=2),
    )
    assert contiguous == [True]


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ({"a": "1"}, {"a": "2"}, "a 1, here is 2"),
        ({}, {"a": "2"}, "a not recorded, here is 2"),
        ({"a": "2", "gpu": "Orin"}, {"a": "2"}, "gpu Orin, here is absent"),
    ],
)
def test_each_difference_of_ties_is_refused(there, here, words):
    """A tie that differs, is missing in the sidecar, or is missing here, is named."""
    engine = dataclasses.replace(ENGINE, details=sidecars.engine(tied_to=there))
    with pytest.raises(InputError, match=words):
        _backend.check_tied(engine, here)


def test_equal_ties_are_accepted():
    """The same library on the same machine opens its engine."""
    _backend.check_tied(
        dataclasses.replace(ENGINE, details=sidecars.engine(tied_to={"a": "1"})), {"a": "1"}
    )


@pytest.mark.parametrize("numbers", [(0, 1, 1), (2, 1, 4), (1, 5, 4)])
def test_profile_out_of_order_is_refused(tiny_typed, numbers):
    """Batch sizes must satisfy 1 <= min <= opt <= max."""
    profile = ShapeProfile(min=numbers[0], opt=numbers[1], max=numbers[2])
    with pytest.raises(InputError, match="is not 1 <= min <= opt <= max"):
        _backend.check_profile(tiny_typed(batch=None), None, profile)


def test_int8_that_is_not_executed_is_refused(tiny_typed):
    """An int8 graph without int8 convolutions is a failed compile; float graphs may be."""
    with pytest.raises(CompileFailed, match="in int8"):
        _backend.check_int8(tiny_typed("strong"), 0, library="a library", hint="")
    _backend.check_int8(tiny_typed("strong"), 1, library="a library", hint="")
    _backend.check_int8(tiny_typed("fp32"), 0, library="a library", hint="")


CHOICES = {
    "float_precision": "bf16",
    "compute_capabilities": ("8.9",),
    "workspace_mib": 64,
    "memory_pools": {"dlaSRAM": 1.0},
    "builder_optimization_level": 0,
    "timing_cache": Path("t.cache"),
    "calibration_cache": Path("c.cache"),
    "dla_core": 0,
    "allow_gpu_fallback": True,
    "version_compatible": True,
    "hardware_compatibility": "ampere+",
    "strip_weights": True,
    "refit": True,
    "sparsity": True,
}


def test_every_choice_is_tried_below():
    """A new field of CompileOptions needs a line in the table."""
    names = {choice.name for choice in dataclasses.fields(_backend.CompileOptions)}
    assert names == set(CHOICES) | {"profile"}


@pytest.mark.parametrize(("name", "value"), CHOICES.items())
def test_choice_that_a_backend_cannot_honour_is_refused(name, value):
    """What was chosen and is not honoured is named, zero too; what is honoured passes."""
    options = _backend.CompileOptions(**{name: value})
    with pytest.raises(InputError, match=f"'odd' has no option {name.replace('_', ' ')}, got"):
        _backend.refuse_options("odd", options, ())
    _backend.refuse_options("odd", options, (name,))
    _backend.refuse_options("odd", _backend.CompileOptions(profile=ShapeProfile(max=4)), ())
