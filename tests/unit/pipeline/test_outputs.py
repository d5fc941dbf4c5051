"""What a build left is held to the device that it is packed for."""

from __future__ import annotations

import pytest
from msgspec import structs

from edge_inception import artifact
from edge_inception.artifact import TypedGraph
from edge_inception.errors import InputError
from edge_inception.hardware import targets
from edge_inception.pipeline import inputs, outputs
from edge_inception.recipe.reader import load_recipe
from edge_inception.spec import Preprocess, ShapeProfile


def device(name, *versions):
    return inputs.Device(target=targets.target(name), tensorrt=versions)


def changed(typed, **details):
    return artifact.publish(
        TypedGraph,
        typed.path,
        typed.path.read_bytes(),
        provenance=typed.provenance,
        details=structs.replace(typed.details, **details),
    )


def test_graph_that_every_version_takes(tiny_typed):
    """A small float graph is packed for any device, and for what has no JetPack."""
    typed = tiny_typed("fp16")
    outputs._require_possible(device("agx-xavier-32gb", "8.2.1", "8.5.2"), typed)
    outputs._require_possible(device("cpu"), typed)


def test_pixels_need_a_tensorrt_that_takes_them(tiny_typed):
    """One of the versions that takes no uint8 is enough to refuse; without it nothing is."""
    pixels = Preprocess(input_size=(8, 8), element="uint8")
    typed = changed(tiny_typed("fp16"), preprocess=pixels)
    with pytest.raises(InputError, match=r"TensorRT 8\.4\.1 takes no uint8 input"):
        outputs._require_possible(device("agx-xavier-32gb", "8.4.1", "8.5.2"), typed)
    outputs._require_possible(device("agx-xavier-32gb", "8.5.2"), typed)


def test_batch_that_cannot_fit(tiny_typed):
    """A batch whose largest layer alone is larger than the memory: 4 GiB take no 40 million."""
    typed = changed(
        tiny_typed("fp16", batch=None), profile=ShapeProfile(min=1, opt=1, max=40_000_000)
    )
    with pytest.raises(InputError, match="its memory is 4 GiB") as caught:
        outputs._require_possible(device("nano-4gb", "8.2.1"), typed)
    assert "is the largest that could fit" in caught.value.hint


def test_folded_pixels_narrow_the_versions_of_a_device():
    """A recipe with uint8 inputs leaves out the JetPacks whose TensorRT takes none."""
    overrides = {
        "model.name": "inception_v4",
        "model.checkpoint": "x.pth",
        "build.targets": ["agx-xavier-32gb"],
    }
    for fold, versions in (("none", ("8.2.1", "8.4.1", "8.5.2")), ("uint8", ("8.5.2",))):
        recipe = load_recipe(None, {**overrides, "model.fold_preprocessing": fold})
        assert inputs.device(recipe, "agx-xavier-32gb").tensorrt == versions
