"""What a build refuses before any work."""

from __future__ import annotations

import pytest

from edge_inception.errors import InputError
from edge_inception.pipeline import devices
from edge_inception.recipe.reader import load_recipe

ORIN = {
    "model.name": "inception_v3",
    "model.checkpoint": "a",
    "build.targets": ["orin-nx-16gb"],
    "build.jetpack": "6.2",
    "build.dla": True,
}
BUDGET = {"search.max_drop_pp": 1.0, "gates.max_drop_pp": 1.0}


def test_a_budget_for_groups_in_float_is_refused_with_dla():
    """Known from the flags: nothing is calibrated or searched first, and the hint helps."""
    with pytest.raises(InputError, match="DLA wants all of them in int8") as caught:
        devices.self_compiling_devices(load_recipe(None, {**ORIN, **BUDGET}))
    assert "[gates]" in caught.value.hint


def test_bias_correction_is_refused_with_dla():
    """Asked for in so many words, it would not be done; left to the trial it is left out."""
    with pytest.raises(InputError, match="int8 on DLA does not have") as caught:
        devices.self_compiling_devices(
            load_recipe(None, {**ORIN, "quantize.bias_correction": True})
        )
    assert "--bias-correction" in caught.value.hint
    assert devices.self_compiling_devices(load_recipe(None, ORIN))


@pytest.mark.parametrize(
    "change",
    [
        {"gates.max_drop_pp": 1.0},  # what the hint names: a gate, and nothing is searched
        {**BUDGET, "build.dla": False},
        {**BUDGET, "build.precision": "fp16"},
    ],
)
def test_what_needs_no_group_in_float_is_taken(change):
    """A gate without a search, a budget without DLA, and a precision that has no groups."""
    (device,) = devices.self_compiling_devices(load_recipe(None, {**ORIN, **change}))
    assert bool(device.dla_tensorrt) == change.get("build.dla", True)


@pytest.mark.parametrize(
    ("hosts", "asked", "wanted"),
    [
        (("cpu",), "", "cpu"),
        (("cpu",), "strong", "strong"),
        (("cpu", "rtx"), "", "strong"),  # the CPU then proves the graph that the GPU runs
        (("cpu", "orin-nx-16gb"), "", "strong"),
    ],
)
def test_int8_has_zero_points_where_every_target_is_a_cpu(hosts, asked, wanted):
    recipe = load_recipe(
        None, {"model.onnx": "a", "build.targets": list(hosts), "quantize.typing": asked}
    )
    here = tuple(name for name in hosts if name != "orin-nx-16gb")
    found = devices.int8_typing(recipe, here, devices.self_compiling_devices(recipe))
    assert found.value == wanted


@pytest.mark.parametrize("other", ["rtx", "orin-nx-16gb"])
def test_zero_points_are_refused_for_tensorrt(other):
    recipe = load_recipe(
        None, {"model.onnx": "a", "build.targets": ["cpu", other], "quantize.typing": "cpu"}
    )
    here = ("cpu", "rtx") if other == "rtx" else ("cpu",)
    with pytest.raises(InputError, match=f"target {other} takes none") as caught:
        devices.int8_typing(recipe, here, devices.self_compiling_devices(recipe))
    assert "--target cpu" in caught.value.hint
